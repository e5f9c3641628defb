//! Where the last record of a partition is.
//!
//! The end that brokers tell counts what is no record: the markers with which another producer's transaction ends, and
//! what compaction has removed. Who reads up to such an end would wait for a record that never was. So unless the record
//! before the end has been met already, it is looked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;

use super::context::Context;
use super::lane::{ANSWER_WITHIN, Lane};
use super::options::KafkaOptions;

const FETCH_WAIT_MS: u32 = 5;
const POLL: Duration = Duration::from_millis(100);

/// Whose turn it is at a partition.
type Turn = Arc<Mutex<()>>;

/// One consumer that looks into many partitions at once, each by one caller at a time.
pub struct Probe {
    kafka: KafkaOptions,
    is_closed: Arc<AtomicBool>,
    lane: Mutex<Option<Arc<Lane>>>,
    /// Held while somebody looks into the partition.
    looking: Mutex<HashMap<(String, u32), Turn>>,
}

impl Probe {
    pub fn new(kafka: KafkaOptions, is_closed: Arc<AtomicBool>) -> Self {
        Self { kafka, is_closed, lane: Mutex::default(), looking: Mutex::default() }
    }

    /// One past the last record in `low..high`, or `low`. Blocks.
    pub fn end(&self, topic: &str, partition: u32, low: u64, high: u64) -> KafkaResult<u64> {
        let lane = self.lane()?;
        let looking = Arc::clone(self.looking.lock().entry((topic.to_owned(), partition)).or_default());
        let _alone = looking.lock();
        let mut from = high.saturating_sub(1).max(low);
        let queue = lane.start(topic, partition, from)?;
        let (mut back, mut found) = (1, last_from(&queue, high));
        while let Ok(None) = found
            && from > low
        {
            back *= 4;
            from = high.saturating_sub(back).max(low);
            found = lane.seek(topic, partition, from).and_then(|()| last_from(&queue, high));
        }
        drop(queue);
        lane.stop(topic, partition)?;
        found.map(|end| end.unwrap_or(low))
    }

    fn lane(&self) -> KafkaResult<Arc<Lane>> {
        let mut lane = self.lane.lock();
        if let Some(lane) = &*lane {
            return Ok(Arc::clone(lane));
        }
        let context = Context::new("ends of partitions", &self.kafka);
        let mut config = self.kafka.reader(FETCH_WAIT_MS);
        // One batch is always given, however small this is.
        config.set("enable.partition.eof", "true").set("fetch.message.max.bytes", "4096");
        let opened = Lane::open(&config, context, Arc::clone(&self.is_closed), || {})?;
        Ok(Arc::clone(lane.insert(Arc::new(opened))))
    }
}

/// One past the last record that is still to come, if there is one.
fn last_from(queue: &PartitionQueue<Context>, high: u64) -> KafkaResult<Option<u64>> {
    let (began, mut end) = (Instant::now(), None);
    loop {
        match queue.poll(POLL) {
            Some(Ok(message)) => {
                let next = message.offset() as u64 + 1;
                end = Some(next);
                if next >= high {
                    return Ok(end);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(end),
            // A client without a connection says so again and again, until it has one.
            Some(Err(_)) | None if began.elapsed() < ANSWER_WITHIN => {}
            Some(Err(error)) => return Err(error),
            None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
        }
    }
}
