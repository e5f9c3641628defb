//! Reads by (partition, offset) over consumers that can only go forward.
//!
//! A partition is read by up to [`LANES`] streams, each with a position and a window of what it has just had. A reader
//! is served from a window, from the stream that is about to come by, or by sending a stream to its place. So readers
//! that go together (the feeds of two nodes, or a shadow once it has caught up) share one stream, a detached book or an
//! audit gets one of its own for as long as it reads, and none holds up another. Whoever waits also drains: there is no
//! thread between the library's queues and the readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::Notify;

use super::context::Context;
use super::lane::Lane;
use super::options::KafkaOptions;
use super::places::Places;
use super::stream::Stream;
use crate::domain::Offset;
use crate::ports::log::{LogError, Record, TopicPartition};

/// Places from which one partition can be read at once: the tail, a detached book, an audit, one to spare.
pub const LANES: usize = 4;
/// Most of the time nothing comes, and a broker that waits longer for it costs less; a seek waits as long, though. So the
/// lane that follows the tail waits long, those that catch up wait shortly.
const FETCH_WAIT_MS: [u32; LANES] = [50, 5, 5, 5];
/// A stream that nobody reads is closed after this time.
const IDLE_AFTER: [Duration; LANES] =
    [Duration::from_secs(60), Duration::from_secs(2), Duration::from_secs(2), Duration::from_secs(2)];
/// A stream so few records before a reader's place comes by sooner than another gets there.
const AHEAD_RECORDS_MAX: u64 = 4_096;
/// The stream that follows the tail is given up to another reader only after this time.
const IDLE_TAIL_AFTER: Duration = Duration::from_secs(5);
/// How long brokers that do not answer are left alone.
const AWAY: Duration = Duration::from_millis(200);
/// A waiting reader shows this often that it is still there.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// All readers of a log.
pub struct Readers {
    kafka: KafkaOptions,
    places: Arc<Places>,
    partitions: Vec<Partition>,
    /// Opened when first needed; all but the first seldom are.
    lanes: Mutex<[Option<Arc<Lane>>; LANES]>,
    is_closed: Arc<AtomicBool>,
}

struct Partition {
    /// By lane.
    slots: Mutex<[Slot; LANES]>,
    /// Records came, a stream was sent, or the log was closed.
    news: Arc<Notify>,
}

/// What a lane does in a partition.
#[derive(Default)]
struct Slot {
    stream: Option<Stream>,
    /// It is being sent to a place, or stopped.
    is_busy: bool,
}

enum Looked {
    Records(Vec<Record>),
    Wait,
    /// This lane is to be sent to the reader's place; its slot is busy until then.
    Send {
        lane: usize,
    },
}

/// Why a lane did not get where it was sent.
enum SendError {
    /// Brokers do not answer just now.
    Away,
    Log(LogError),
}

impl From<LogError> for SendError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<KafkaError> for SendError {
    fn from(error: KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(
                Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::BrokerNotAvailable
                | Code::BrokerDestroy
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::RequestTimedOut
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::ReplicaNotAvailable
                | Code::NetworkException
                | Code::UnknownLeaderEpoch
                | Code::FencedLeaderEpoch
                | Code::OffsetNotAvailable,
            ) => Self::Away,
            _ => Self::Log(unavailable(error)),
        }
    }
}

impl Readers {
    pub fn new(kafka: KafkaOptions, places: Arc<Places>, is_closed: Arc<AtomicBool>) -> Arc<Self> {
        let partition = || Partition { slots: Mutex::default(), news: Arc::default() };
        let partitions = (0..places.len()).map(|_| partition()).collect();
        Arc::new(Self { kafka, places, partitions, lanes: Mutex::default(), is_closed })
    }

    /// Lets nobody wait any more; the caller has set the flag.
    pub fn close(&self) {
        for partition in &self.partitions {
            // Streams hold their consumer: without them the lane's thread is the last to let go of it.
            partition.slots.lock().iter_mut().for_each(|slot| slot.stream = None);
            partition.news.notify_waiters();
        }
        *self.lanes.lock() = Default::default();
    }

    /// As [`Log::read`](crate::ports::log::Log::read).
    pub async fn read(self: &Arc<Self>, of: TopicPartition, from: Offset, max: usize) -> Result<Vec<Record>, LogError> {
        let index = self.places.index_of(of)?;
        let partition = &self.partitions[index];
        loop {
            // Registered before looking, so that no wake-up is missed.
            let mut news = std::pin::pin!(partition.news.notified());
            news.as_mut().enable();
            if self.is_closed.load(Ordering::Acquire) {
                return Err(LogError::Closed);
            }
            match self.look(index, from.0, max)? {
                Looked::Records(records) => return Ok(records),
                Looked::Wait => _ = tokio::time::timeout(SHOW_EVERY, news).await,
                Looked::Send { lane } => match self.send(index, lane, from.0).await {
                    // A reader waits for brokers as it waits for records.
                    Err(SendError::Away) => tokio::time::sleep(AWAY).await,
                    Err(SendError::Log(error)) => return Err(error),
                    Ok(()) => {}
                },
            }
        }
    }

    fn look(&self, index: usize, from: u64, max: usize) -> Result<Looked, LogError> {
        let place = self.places.at(index);
        if from < place.start() && !place.is_compacted() {
            return Err(LogError::Trimmed { asked: Offset(from), start: Offset(place.start()) });
        }
        let mut slots = self.partitions[index].slots.lock();
        let nearest = slots.iter_mut().filter(|s| s.is_near(from)).max_by_key(|s| s.position().min(from));
        let Some(slot) = nearest else { return Ok(choose(&mut slots)) };
        let Some(stream) = &mut slot.stream else { return Ok(Looked::Wait) };
        let records = stream.take(place, from, max);
        if !records.is_empty() {
            return Ok(Looked::Records(records));
        }
        match stream.trouble.take() {
            None => Ok(Looked::Wait),
            Some(error) => {
                stream.is_broken = true;
                if is_out_of_range(&error) {
                    // Sent anew, it will tell whether that was trimmed.
                    return Ok(choose(&mut slots));
                }
                Err(LogError::Unavailable { why: error.to_string() })
            }
        }
    }

    async fn send(self: &Arc<Self>, index: usize, lane: usize, from: u64) -> Result<(), SendError> {
        let this = Arc::clone(self);
        // Runs to its end even if nobody waits for it any more, so the slot never stays busy.
        let sent = tokio::task::spawn_blocking(move || {
            let result = this.send_now(index, lane, from);
            this.partitions[index].slots.lock()[lane].is_busy = false;
            this.partitions[index].news.notify_waiters();
            result
        });
        sent.await.unwrap_or(Err(SendError::Log(LogError::Closed)))
    }

    fn send_now(self: &Arc<Self>, index: usize, lane: usize, from: u64) -> Result<(), SendError> {
        let place = self.places.at(index);
        let (topic, partition) = (self.places.name(place.of.topic), place.of.partition);
        let consumer = self.lane(lane)?;
        let (low, high) = consumer.watermarks(topic, partition)?;
        place.starts_at(low);
        if from < low && !place.is_compacted() {
            return Err(SendError::Log(LogError::Trimmed { asked: Offset(from), start: Offset(low) }));
        }
        if from > high.saturating_add(AHEAD_RECORDS_MAX) {
            // Somebody has been there, so the brokers have lost records that they had acknowledged.
            let why = format!("{topic}/{partition} ends at {high}, but a reader has come to {from}");
            return Err(SendError::Log(LogError::Unavailable { why }));
        }
        // A place beyond the end is none to the brokers.
        let position = from.clamp(low, high.max(low));
        let old = self.partitions[index].slots.lock()[lane].stream.take();
        let stream = match old {
            Some(mut stream) if !stream.is_broken && consumer.seek(topic, partition, position).is_ok() => {
                stream.go_to(position);
                stream
            }
            old => {
                if old.is_some() {
                    drop(old);
                    consumer.stop(topic, partition)?;
                }
                let queue = consumer.start(topic, partition, position)?;
                Stream::new(queue, position, Arc::clone(&self.partitions[index].news))
            }
        };
        if !self.is_closed.load(Ordering::Acquire) {
            self.partitions[index].slots.lock()[lane].stream = Some(stream);
        }
        Ok(())
    }

    /// A lane's consumer; made when first asked for.
    fn lane(self: &Arc<Self>, number: usize) -> Result<Arc<Lane>, LogError> {
        let mut lanes = self.lanes.lock();
        if self.is_closed.load(Ordering::Acquire) {
            return Err(LogError::Closed);
        }
        if let Some(lane) = &lanes[number] {
            return Ok(Arc::clone(lane));
        }
        let readers = Arc::downgrade(self);
        let tend = move || {
            if let Some(readers) = readers.upgrade() {
                readers.stop_idle(number);
            }
        };
        let is_closed = Arc::clone(&self.is_closed);
        let config = self.kafka.reader(FETCH_WAIT_MS[number]);
        let context = Context::new(&format!("reader {number}"), &self.kafka);
        let lane = Lane::open(&config, context, is_closed, tend).map_err(unavailable)?;
        Ok(Arc::clone(lanes[number].insert(Arc::new(lane))))
    }

    /// Stops what nobody has read for a while: it would go on fetching.
    fn stop_idle(&self, lane: usize) {
        let Some(consumer) = self.lanes.lock()[lane].clone() else { return };
        for (index, partition) in self.partitions.iter().enumerate() {
            {
                let slot = &mut partition.slots.lock()[lane];
                let is_idle = slot.stream.as_ref().is_some_and(|s| s.used.elapsed() > IDLE_AFTER[lane]);
                if slot.is_busy || !is_idle {
                    continue;
                }
                slot.is_busy = true;
                slot.stream = None;
            }
            let of = self.places.at(index).of;
            if let Err(error) = consumer.stop(self.places.name(of.topic), of.partition) {
                tracing::debug!(lane, ?of, %error, "idle reader cannot be stopped");
            }
            partition.slots.lock()[lane].is_busy = false;
            partition.news.notify_waiters();
        }
    }

    /// Where a partition begins and ends. Blocks.
    pub fn watermarks(self: &Arc<Self>, index: usize) -> Result<(u64, u64), LogError> {
        let of = self.places.at(index).of;
        let (low, high) = self.lane(0)?.watermarks(self.places.name(of.topic), of.partition).map_err(unavailable)?;
        self.places.at(index).starts_at(low);
        Ok((low, high))
    }
}

impl Slot {
    fn position(&self) -> u64 {
        self.stream.as_ref().map_or(0, |s| s.position)
    }

    /// Whether its stream has what lies at `from`, or will come by there.
    fn is_near(&self, from: u64) -> bool {
        !self.is_busy
            && self.stream.as_ref().is_some_and(|s| {
                !s.is_broken && s.window_start() <= from && from <= s.position.saturating_add(AHEAD_RECORDS_MAX)
            })
    }

    /// How long nobody has read from it; `None` while it must not be taken away.
    fn idle(&self, lane: usize) -> Option<Duration> {
        let stream = self.stream.as_ref()?;
        let idle = stream.used.elapsed();
        // The tail is what most readers follow, and a stream that was just sent somewhere is to bring something first.
        let is_wanted = if lane == 0 { idle < IDLE_TAIL_AFTER } else { stream.is_fresh() };
        (stream.is_broken || !is_wanted).then_some(idle)
    }
}

/// Finds a lane to be sent to a place where none is: a free one, or the one that was longest without a reader.
fn choose(slots: &mut [Slot; LANES]) -> Looked {
    if slots.iter().any(|s| s.is_busy) {
        return Looked::Wait;
    }
    let broken = slots.iter().position(|s| s.stream.as_ref().is_some_and(|s| s.is_broken));
    let free = slots.iter().position(|s| s.stream.is_none());
    let idle = || (0..LANES).filter_map(|n| slots[n].idle(n).map(|idle| (idle, n))).max().map(|(_, n)| n);
    match broken.or(free).or_else(idle) {
        Some(lane) => {
            slots[lane].is_busy = true;
            Looked::Send { lane }
        }
        None => Looked::Wait,
    }
}

fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
    matches!(error, KafkaError::MessageConsumption(AutoOffsetReset | OffsetOutOfRange))
}

pub fn unavailable(error: KafkaError) -> LogError {
    LogError::Unavailable { why: error.to_string() }
}
