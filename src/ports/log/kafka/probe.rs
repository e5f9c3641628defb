//! Where the last record of a partition is.
//!
//! The end that brokers tell counts what is no record: the markers with which another producer's transaction ends, and
//! what compaction has removed. Who reads up to such an end would wait for a record that never was. So unless the record
//! before the end has been met already, it is looked for.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;

use super::context::Context;
use super::lane::ANSWER_WITHIN;
use super::options::KafkaOptions;

const FETCH_WAIT_MS: u32 = 5;
const POLL: Duration = Duration::from_millis(100);

/// One consumer that looks at one place after another.
#[derive(Default)]
pub struct Probe {
    consumer: Mutex<Option<BaseConsumer<Context>>>,
}

impl Probe {
    /// One past the last record in `low..high`, or `low`. Blocks.
    pub fn end(&self, kafka: &KafkaOptions, topic: &str, partition: u32, low: u64, high: u64) -> KafkaResult<u64> {
        let mut consumer = self.consumer.lock();
        if consumer.is_none() {
            let mut config = kafka.reader(FETCH_WAIT_MS);
            // One batch is always given, however small this is.
            config.set("enable.partition.eof", "true").set("fetch.message.max.bytes", "4096");
            let context = Context { name: "end of a partition".to_owned() };
            *consumer = Some(config.create_with_context(context)?);
        }
        let Some(consumer) = consumer.as_ref() else { return Ok(high) };
        let mut back = 1;
        loop {
            let from = high.saturating_sub(back).max(low);
            let end = last_from(consumer, topic, partition, from, high)?;
            if let Some(end) = end {
                return Ok(end);
            }
            if from == low {
                return Ok(low);
            }
            back *= 4;
        }
    }
}

/// One past the last record at or above `from`, if there is one.
fn last_from(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partition: u32,
    from: u64,
    high: u64,
) -> KafkaResult<Option<u64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition as i32, rdkafka::Offset::Offset(from as i64))?;
    consumer.assign(&list)?;
    let (began, mut end) = (Instant::now(), None);
    let result = loop {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                let next = message.offset() as u64 + 1;
                end = Some(next);
                if next >= high {
                    break Ok(end);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break Ok(end),
            // A client without a connection says so again and again, until it has one.
            Some(Err(_)) | None if began.elapsed() < ANSWER_WITHIN => {}
            Some(Err(error)) => break Err(error),
            None => break Err(KafkaError::MessageConsumption(rdkafka::error::RDKafkaErrorCode::OperationTimedOut)),
        }
    };
    consumer.unassign()?;
    result
}
