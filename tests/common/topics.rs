//! The topics of a cluster as another program reads them.

use std::time::{Duration, Instant};

use hotbook::ports::log::kafka::{KafkaLog, KafkaOptions};
use hotbook::ports::log::{Log, Topic, TopicPartition};
use hotbook_harness::{Cluster, Fills, PARTITIONS, SETTLES_WITHIN};
use serde_json::Value;

/// All records of a topic of JSON.
async fn records(log: &KafkaLog, topic: Topic) -> Vec<Value> {
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        let of = TopicPartition { topic, partition };
        let (mut at, end) = (log.start_offset(of).await.unwrap(), log.end_offset(of).await.unwrap());
        while at < end {
            for record in log.read(of, at, 1_000).await.unwrap() {
                at = record.offset.next();
                all.push(serde_json::from_slice(&record.value).unwrap());
            }
        }
    }
    all
}

/// The topic `fills`, as soon as it has every trade that the auditor finds in `events`. Nobody trades any more, and a process
/// runs that fills it.
pub async fn fills(cluster: &Cluster) -> Fills {
    let report = cluster.clean_audit(&[]);
    let of_symbol = |s: &Value| s["fills"].as_u64().unwrap() as usize;
    let wanted: usize = report["symbols"].as_array().unwrap().iter().map(of_symbol).sum();
    let log = KafkaLog::open(KafkaOptions::new(cluster.kafka.addresses())).await.unwrap();
    let began = Instant::now();
    loop {
        let fills = Fills::of_topic(&records(&log, Topic::Fills).await);
        if fills.trades() == wanted {
            return fills;
        }
        assert!(began.elapsed() < SETTLES_WITHIN, "{} of {wanted} trades are in the topic `fills`", fills.trades());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
