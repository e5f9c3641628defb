//! One consumer of the client library: it can read each partition from one place, so a second reader of a partition
//! needs a second lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::context::Context;

/// How long a broker may take to say where a partition begins and ends, or a reader to go elsewhere.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a lane's thread looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(100);
/// How soon the ends of a partition are asked for again that has no leader just now.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A consumer and the thread that hears what concerns all of it.
pub struct Lane {
    consumer: Arc<BaseConsumer<Context>>,
}

impl Lane {
    /// `tend` is called about ten times a second.
    ///
    /// # Errors
    /// When the client library refuses the settings.
    pub fn open(
        config: &ClientConfig,
        context: Context,
        is_closed: Arc<AtomicBool>,
        tend: impl Fn() + Send + 'static,
    ) -> KafkaResult<Self> {
        let name = context.name().to_owned();
        let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
        let consumer = Arc::new(consumer);
        let of_thread = Arc::clone(&consumer);
        std::thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || {
                while !is_closed.load(Ordering::Acquire) {
                    // Partitions have queues of their own: what comes here concerns the whole client.
                    if let Some(Err(error)) = of_thread.poll(LOOK) {
                        tracing::debug!(lane = name, %error, "reader of the log");
                    }
                    tend();
                }
            })
            .map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
        Ok(Self { consumer })
    }

    /// Oldest offset of a partition, and one past its newest. Blocks; while the partition changes its leader, until it has
    /// one, but no longer than [`ANSWER_WITHIN`].
    pub fn watermarks(&self, topic: &str, partition: u32) -> KafkaResult<(u64, u64)> {
        let began = Instant::now();
        loop {
            match self.consumer.fetch_watermarks(topic, partition as i32, ANSWER_WITHIN) {
                Ok((low, high)) => return Ok((low.max(0) as u64, high.max(0) as u64)),
                Err(KafkaError::MetadataFetch(code)) if is_passing(code) && began.elapsed() < ANSWER_WITHIN => {
                    std::thread::sleep(ASK_AGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins to read a partition. Blocks shortly.
    pub fn start(&self, topic: &str, partition: u32, offset: u64) -> KafkaResult<PartitionQueue<Context>> {
        // Before anything is fetched for it: the queue's forwarding then stays as we set it.
        let Some(queue) = self.consumer.split_partition_queue(topic, partition as i32) else {
            return Err(KafkaError::Subscription(format!("no queue for {topic}/{partition}")));
        };
        self.consumer.incremental_assign(&list(topic, partition, Some(offset))?)?;
        self.wake(topic, partition);
        Ok(queue)
    }

    /// The library's thread that speaks to a broker looks what it is to fetch when it has something else to do, or once
    /// a second. A lane that fetched nothing before would so begin half a second late: any question wakes it.
    fn wake(&self, topic: &str, partition: u32) {
        _ = self.consumer.fetch_watermarks(topic, partition as i32, ANSWER_WITHIN);
    }

    /// Goes on elsewhere in a partition that is being read; what was fetched before is never seen again. Blocks shortly.
    pub fn seek(&self, topic: &str, partition: u32, offset: u64) -> KafkaResult<()> {
        self.consumer.seek(topic, partition as i32, rdkafka::Offset::Offset(offset as i64), ANSWER_WITHIN)?;
        self.wake(topic, partition);
        Ok(())
    }

    /// Stops reading a partition.
    pub fn stop(&self, topic: &str, partition: u32) -> KafkaResult<()> {
        self.consumer.incremental_unassign(&list(topic, partition, None)?)
    }
}

/// Whether it is the answer of a moment: the client let go of the connection that it asked on and has others, or the
/// partition's new leader is being chosen or does not know yet what its followers have.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::DestroyBroker
            | Code::OffsetNotAvailable
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
    )
}

fn list(topic: &str, partition: u32, offset: Option<u64>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    match offset {
        Some(offset) => {
            list.add_partition_offset(topic, partition as i32, rdkafka::Offset::Offset(offset as i64))?;
        }
        None => _ = list.add_partition(topic, partition as i32),
    }
    Ok(list)
}
