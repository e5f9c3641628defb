//! The Kafka log against a real broker: the port's contract, and what only it promises.

mod common {
    pub mod log_contract;
}

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use common::log_contract::{Bench, PARTITIONS, all_from, orders, record, session, soon, texts};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hotbook::domain::Offset;
use hotbook::ports::log::kafka::{KafkaLog, KafkaOptions, NewTopics, Outcome, init_topics};
use hotbook::ports::log::{Log, LogError, Topic};
use hotbook_harness::services::Kafka;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// A broker that starts anew, or one of a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// One broker for all tests that do not harm it; each has topics of its own.
static BROKER: LazyLock<Mutex<Kafka>> = LazyLock::new(|| Mutex::new(Kafka::start()));

const NEW: NewTopics = NewTopics { partitions: PARTITIONS, replication: 1, min_insync_replicas: 1 };

/// Options with topics that nobody else has.
fn options(kafka: &Kafka) -> KafkaOptions {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let topic_prefix = format!("t{}-", NEXT.fetch_add(1, Ordering::Relaxed));
    KafkaOptions { topic_prefix, ..KafkaOptions::new(kafka.addresses()) }
}

struct OnBroker {
    options: KafkaOptions,
    has_topics: bool,
}

impl OnBroker {
    fn new() -> Self {
        Self { options: options(&BROKER.lock().unwrap()), has_topics: false }
    }
}

impl Bench for OnBroker {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Log>> {
        Box::pin(async move {
            if !std::mem::replace(&mut self.has_topics, true) {
                init_topics(&self.options, &NEW).await.expect("topics");
            }
            Arc::new(KafkaLog::open(self.options.clone()).await.expect("it opens")) as Arc<dyn Log>
        })
    }
}

mod contract {
    use super::*;
    contract!(OnBroker::new());
}

/// Topics of its own on the shared broker, made.
async fn made() -> KafkaOptions {
    let options = options(&BROKER.lock().unwrap());
    init_topics(&options, &NEW).await.expect("topics");
    options
}

async fn open(options: &KafkaOptions) -> Arc<dyn Log> {
    Arc::new(KafkaLog::open(options.clone()).await.expect("it opens"))
}

fn client(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &options.brokers);
    config
}

fn admin(options: &KafkaOptions) -> AdminClient<DefaultClientContext> {
    client(options).create().unwrap()
}

/// What cannot be compressed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    getrandom::fill(&mut noise).unwrap();
    noise
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn topics_are_made_once_and_never_changed() {
    let options = options(&BROKER.lock().unwrap());
    let missing = KafkaLog::open(options.clone()).await.err().expect("no topics").to_string();
    for topic in Topic::ALL {
        assert!(missing.contains(&format!("{} does not exist", options.topic_name(topic))), "{missing}");
    }
    let first = init_topics(&options, &NEW).await.unwrap();
    assert!(first.len() == Topic::ALL.len() && first.iter().all(|(_, o)| *o == Outcome::Created), "{first:?}");
    let again = init_topics(&options, &NEW).await.unwrap();
    assert!(again.iter().all(|(_, o)| *o == Outcome::Fits), "{again:?}");
    let more = NewTopics { partitions: PARTITIONS + 1, ..NEW };
    let refused = init_topics(&options, &more).await.unwrap_err().to_string();
    assert!(refused.contains("orders has 4 partitions, not 5"), "{refused}");
    assert_eq!(open(&options).await.partitions(), PARTITIONS);
}

#[tokio::test]
async fn all_that_does_not_fit_is_named_at_the_start() {
    let options = options(&BROKER.lock().unwrap());
    let names = Topic::ALL.map(|t| options.topic_name(t));
    let plain = |n: &str, partitions| NewTopic {
        name: n.to_owned().leak(),
        num_partitions: partitions,
        replication: TopicReplication::Fixed(1),
        config: vec![],
    };
    let mut topics = vec![
        plain(&names[0], 4).set("retention.ms", "-1").set("message.timestamp.type", "LogAppendTime"),
        plain(&names[1], 3).set("min.insync.replicas", "2"),
        plain(&names[2], 1).set("cleanup.policy", "delete").set("max.message.bytes", "1000"),
        plain(&names[3], 1).set("unclean.leader.election.enable", "true"),
    ];
    topics.extend(names[4..].iter().map(|name| plain(name, 4)));
    admin(&options).create_topics(&topics, &AdminOptions::new()).await.unwrap();
    let mut said = String::new();
    until("brokers know the topics", async || {
        said = KafkaLog::open(options.clone()).await.err().expect("they do not fit").to_string();
        !said.contains("does not exist")
    })
    .await;
    for fault in [
        "orders: max.message.bytes is 1048588, must be at least 1114112",
        "events has 3 partitions, not 4",
        "events: message.timestamp.type is CreateTime, must be LogAppendTime",
        "events: retention.ms is 604800000, must be -1",
        "events: min.insync.replicas is 2, but a partition has 1 copies",
        "symbols: cleanup.policy is delete, must be compact",
        "symbols: max.message.bytes is 1000, must be at least",
        "orders-dead-letter: unclean.leader.election.enable is true, must be false",
        "fills: message.timestamp.type is CreateTime, must be LogAppendTime",
    ] {
        assert!(said.contains(fault), "{fault} is not in: {said}");
    }
    assert!(!said.contains("fills: retention.ms"), "that is for who runs it to choose: {said}");
    assert!(!said.contains("orders: retention.ms") && !said.contains("orders: message.timestamp"), "{said}");
}

#[tokio::test]
async fn nobody_there_is_an_error_that_says_so() {
    let options = KafkaOptions::new("127.0.0.1:1");
    let said = KafkaLog::open(options).await.err().expect("nobody");
    assert!(matches!(said, LogError::Unavailable { .. }), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_loses_nothing_and_all_goes_on_by_itself() {
    let mut kafka = Kafka::start();
    let options = options(&kafka);
    init_topics(&options, &NEW).await.unwrap();
    let log = open(&options).await;
    let session = session(&log);
    let reader = {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut values = Vec::new();
            while values.last().is_none_or(|v| v != "last") {
                let records = log.read(orders(0), Offset(values.len() as u64), 1_000).await.expect("it waits");
                values.extend(texts(&records));
            }
            values
        })
    };
    let mut taken = Vec::new();
    for i in 0..500 {
        taken.push((i, session.append(record(orders(0), format!("{i}")))));
        if i == 250 {
            kafka.brokers[0].kill();
        }
    }
    // Once it is clear that nobody answers, more is refused, and what is refused is not there later.
    let mut next = 500;
    until("appends are refused", async || {
        let mut receipt = session.append(record(orders(0), format!("{next}")));
        let refused = matches!((&mut receipt).now_or_never(), Some(Err(LogError::Unavailable { .. })));
        if !refused {
            taken.push((next, receipt));
        }
        next += 1;
        refused
    })
    .await;
    kafka.brokers[0].start();
    for (i, receipt) in &mut taken {
        tokio::time::timeout(DEADLINE, receipt).await.expect("in time").unwrap_or_else(|e| panic!("{i}: {e}"));
    }
    soon(session.append(record(orders(0), "last"))).await.unwrap();
    let read = tokio::time::timeout(DEADLINE, reader).await.expect("in time").unwrap();
    let expected = taken.iter().map(|(i, _)| i.to_string()).chain(["last".to_owned()]);
    assert!(read.iter().eq(expected.collect::<Vec<_>>().iter()), "exactly what was taken, once, in order");
}

#[tokio::test]
async fn a_record_that_the_broker_refuses_ends_the_session_and_nothing_behind_it_lands() {
    let options = made().await;
    let log = open(&options).await;
    let session = session(&log);
    soon(session.append(record(orders(1), "first"))).await.unwrap();
    let name = options.topic_name(Topic::Orders);
    let resource = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", "1000");
    admin(&options).alter_configs([&resource], &AdminOptions::new()).await.unwrap();
    let refused = session.append(record(orders(1), noise(3_000)));
    let behind: Vec<_> = (0..100).map(|i| session.append(record(orders(i % 2), format!("{i}")))).collect();
    let error = soon(refused).await.unwrap_err();
    assert!(matches!(error, LogError::SessionEnded { .. }), "{error}");
    for (i, receipt) in behind.into_iter().enumerate() {
        // In another partition it may have been durable by then; behind the refused one it cannot be.
        let result = soon(receipt).await;
        assert!(i % 2 == 0 || matches!(result, Err(LogError::SessionEnded { .. })), "{i}: {result:?}");
    }
    assert!(matches!(soon(session.append(record(orders(0), "late"))).await, Err(LogError::SessionEnded { .. })));
    assert_eq!(texts(&all_from(&log, orders(1), 0).await), ["first"]);
    let next = common::log_contract::session(&log);
    soon(next.append(record(orders(1), "second"))).await.expect("a new session goes on");
    assert_eq!(texts(&all_from(&log, orders(1), 0).await), ["first", "second"]);
}

#[tokio::test]
async fn what_other_producers_put_there_is_read_however_it_is_packed() {
    let options = made().await;
    let log = open(&options).await;
    let name = options.topic_name(Topic::Orders);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let producer: BaseProducer = client(&options).set("compression.type", codec).create().unwrap();
        for i in 0..50 {
            let value = format!("{codec}-{i}-{}", "x".repeat(200));
            let headers = OwnedHeaders::new().insert(Header { key: "foreign", value: Some("header") });
            let record = BaseRecord::<str, str>::to(&name).partition(2).payload(&value).headers(headers);
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
    }
    let records = all_from(&log, orders(2), 0).await;
    assert_eq!(records.len(), codecs.len() * 50);
    for (i, r) in records.iter().enumerate() {
        let expected = format!("{}-{}-", codecs[i / 50], i % 50);
        assert!(r.value.starts_with(expected.as_bytes()) && r.key.is_empty() && r.header.is_empty(), "{i}: {r:?}");
    }
}

#[tokio::test]
async fn markers_of_foreign_transactions_are_no_records_to_wait_for() {
    let options = made().await;
    let log = open(&options).await;
    let name = options.topic_name(Topic::Orders);
    for (round, commits) in [true, false, true, false].into_iter().enumerate() {
        let producer: BaseProducer =
            client(&options).set("transactional.id", format!("{name}{round}")).create().unwrap();
        producer.init_transactions(DEADLINE).unwrap();
        producer.begin_transaction().unwrap();
        for _ in 0..3 {
            let record = BaseRecord::<str, str>::to(&name).partition(3).payload("of a transaction");
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
        if commits {
            producer.commit_transaction(DEADLINE).unwrap()
        } else {
            producer.abort_transaction(DEADLINE).unwrap()
        }
        // Three records and a marker per transaction; a new process has met none of them.
        let expected = Offset(round as u64 * 4 + 3);
        for log in [&log, &open(&options).await] {
            until("the marker is there", async || soon(log.end_offset(orders(3))).await.unwrap() == expected).await;
            assert_eq!(all_from(log, orders(3), 0).await.len(), (round + 1) * 3);
        }
    }
    // Markers and nothing else.
    soon(log.trim(orders(3), Offset(15))).await.unwrap();
    let log = open(&options).await;
    assert_eq!(soon(log.end_offset(orders(3))).await.unwrap(), soon(log.start_offset(orders(3))).await.unwrap());
    soon(session(&log).append(record(orders(3), "on"))).await.unwrap();
    assert_eq!(texts(&all_from(&log, orders(3), 15).await), ["on"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_far_apart_each_get_everything() {
    const RECORDS: u64 = 30_000;
    let options = made().await;
    let log = open(&options).await;
    let writer = session(&log);
    let tail = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { follow(&log, 0, 1_000).await })
    };
    let many = |from: u64| (from..from + 1_000).map(|i| record(orders(0), format!("{i:>200}"))).collect();
    for from in (0..RECORDS).step_by(1_000) {
        soon(writer.append_all(many(from))).await.unwrap();
    }
    // More readers at once than one partition has lanes for, and some of them in steps of one.
    let readers: Vec<_> = (0..8u64)
        .map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { follow(&log, n * 3_000, if n == 7 { 1 } else { 700 }).await })
        })
        .collect();
    for (n, reader) in readers.into_iter().enumerate() {
        assert_eq!(tokio::time::timeout(DEADLINE, reader).await.expect("in time").unwrap(), RECORDS - n as u64 * 3_000);
    }
    assert_eq!(tokio::time::timeout(DEADLINE, tail).await.expect("in time").unwrap(), RECORDS);

    async fn follow(log: &Arc<dyn Log>, from: u64, records_max: usize) -> u64 {
        let mut next = from;
        while next < RECORDS {
            let records = log.read(orders(0), Offset(next), records_max).await.unwrap();
            assert!(records.len() <= records_max);
            for r in records {
                assert_eq!((r.offset.0, String::from_utf8_lossy(&r.value).trim()), (next, next.to_string().as_str()));
                next += 1;
            }
        }
        next - from
    }
}

#[tokio::test]
async fn what_another_process_trims_is_told_to_a_reader() {
    let options = made().await;
    let (log, other) = (open(&options).await, open(&options).await);
    let writer = session(&log);
    // More than is fetched ahead, and it does not become small.
    soon(writer.append_all((0..100).map(|_| record(orders(0), noise(100_000))).collect())).await.unwrap();
    assert_eq!(soon(log.read(orders(0), Offset(0), 1)).await.unwrap().len(), 1);
    soon(other.trim(orders(0), Offset(90))).await.unwrap();
    let mut next = 1;
    let told = loop {
        match soon(log.read(orders(0), Offset(next), 1)).await {
            // Fetched before it was trimmed.
            Ok(records) => next = records[0].offset.0 + 1,
            Err(error) => break error,
        }
        assert!(next < 90, "nothing was said");
    };
    assert!(matches!(told, LogError::Trimmed { start: Offset(90), .. }), "{told}");
    assert_eq!(all_from(&log, orders(0), 90).await.len(), 10);
}
