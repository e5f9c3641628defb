//! The log port: the truth of the exchange.
//!
//! Appends are asynchronous, their acknowledgement may lack an offset; a producer session is FIFO and ends as a whole;
//! reads are by (topic, partition, offset) and give durable records only; nothing is atomic across partitions.

pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod renewed;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::domain::{Micros, Offset};

/// The topics of the exchange. `Symbols` is compacted: of each key the newest record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Topic {
    Orders = 0,
    Events = 1,
    /// The catalogue, one partition.
    Symbols = 2,
    /// Keyed `partition:offset` of the offending record; one partition.
    DeadLetters = 3,
    /// These four are what the projector makes of `events`, in JSON; see `wire::derived`.
    Fills = 4,
    Trades = 5,
    Depth = 6,
    OrderStatus = 7,
}

impl Topic {
    pub const ALL: [Self; 8] = [
        Self::Orders,
        Self::Events,
        Self::Symbols,
        Self::DeadLetters,
        Self::Fills,
        Self::Trades,
        Self::Depth,
        Self::OrderStatus,
    ];
    /// The derived topics, in the order of [`Classes::EACH`](crate::domain::Classes::EACH).
    pub const DERIVED: [Self; 4] = [Self::Fills, Self::Trades, Self::Depth, Self::OrderStatus];

    pub fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Events => "events",
            Self::Symbols => "symbols",
            Self::DeadLetters => "orders-dead-letter",
            Self::Fills => "fills",
            Self::Trades => "trades",
            Self::Depth => "depth",
            Self::OrderStatus => "order_status",
        }
    }

    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// Whether it has as many partitions as `orders`; the others have one.
    pub fn is_partitioned(self) -> bool {
        !matches!(self, Self::Symbols | Self::DeadLetters)
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: u32,
}

/// A record to be appended.
#[derive(Debug, Clone)]
pub struct NewRecord {
    pub to: TopicPartition,
    pub key: Bytes,
    /// One opaque header; `orders` records carry their origin in it (`Origin::to_bytes`). May be empty.
    pub header: Bytes,
    pub value: Bytes,
}

/// A durable record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    /// Append time stamped by the log; every reader sees the same. In the embedded log it never falls within a partition.
    /// Kafka's may, when a broker's clock is set back or another broker leads: who needs time that does not go back takes
    /// the highest so far, as a book does.
    pub at: Micros,
    pub key: Bytes,
    pub header: Bytes,
    pub value: Bytes,
}

/// What the log tells about a record once it is durable. Kafka's retried appends are acknowledged without an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub offset: Option<Offset>,
    pub at: Option<Micros>,
}

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Nothing was appended; try later.
    #[error("log's append queue is full")]
    Full,
    /// The record is larger than [`RECORD_BYTES_MAX`]; nothing was appended.
    #[error("record of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    /// The session ended; what was not acknowledged may or may not be there.
    #[error("producer session ended: {why}")]
    SessionEnded { why: String },
    #[error("offset {asked} was trimmed, the log starts at {start}")]
    Trimmed { asked: Offset, start: Offset },
    #[error("no such partition: {topic}/{partition}")]
    NoPartition { topic: &'static str, partition: u32 },
    /// Nothing was appended or read; it may come back by itself.
    #[error("log cannot be reached: {why}")]
    Unavailable { why: String },
    /// It is there, and does not let us in, or we do not trust it: somebody must look at the settings.
    #[error("{}: {why}", objection.code())]
    Refused { objection: Objection, why: String },
    /// The brokers' topics are not as they must be.
    #[error("topics do not fit: {}", faults.join("; "))]
    Topics { faults: Vec<String> },
    #[error("log is read-only here")]
    ReadOnly,
    /// Another process writes this log.
    #[error("log folder {folder} is in use by another process")]
    Locked { folder: String },
    #[error("log is damaged: {what}")]
    Damaged { what: String },
    #[error("log cannot be {doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("log is closed")]
    Closed,
}

/// Why a log that can be reached is not spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// We do not trust the certificate that it shows, or it does not trust ours.
    Certificate,
    /// It does not know who we say we are.
    Identity,
    /// We have nothing to say who we are with.
    NoToken,
}

impl Objection {
    /// Stable: scripts and runbooks may look for it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Certificate => "kafka_certificate_refused",
            Self::Identity => "kafka_identity_refused",
            Self::NoToken => "kafka_token_missing",
        }
    }
}

/// Largest key + header + value of one record.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Resolves when the record, and everything before it in its session that goes to the same partition, is durable or lost.
#[derive(Debug)]
pub struct Receipt(ReceiptState);

#[derive(Debug)]
enum ReceiptState {
    Waiting(tokio::sync::oneshot::Receiver<Result<Ack, LogError>>),
    Ready(Option<LogError>),
}

impl Receipt {
    /// A receipt and what resolves it.
    pub fn pair() -> (tokio::sync::oneshot::Sender<Result<Ack, LogError>>, Self) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        (tx, Self(ReceiptState::Waiting(rx)))
    }

    /// One that is refused at once.
    pub fn refused(error: LogError) -> Self {
        Self(ReceiptState::Ready(Some(error)))
    }
}

impl Future for Receipt {
    type Output = Result<Ack, LogError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            ReceiptState::Waiting(rx) => Pin::new(rx).poll(cx).map(|r| r.unwrap_or(Err(LogError::Closed))),
            ReceiptState::Ready(error) => Poll::Ready(Err(error.take().unwrap_or(LogError::Closed))),
        }
    }
}

/// One FIFO stream of appends. A record that fails for good ends the session: nothing behind it lands (handover rule 11).
pub trait Session: Send + Sync {
    /// Enqueues one record; never blocks.
    fn append(&self, record: NewRecord) -> Receipt;

    /// Enqueues many in order, under one receipt: that of the last one.
    fn append_all(&self, records: Vec<NewRecord>) -> Receipt;

    /// Ends it as a crash of its process would: of what was not acknowledged a prefix lands, the rest is lost.
    fn abort(&self);

    /// Whether it takes no more records.
    fn has_ended(&self) -> bool;
}

/// How a session is opened.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// For people.
    pub name: String,
    /// Above this many bytes not yet acknowledged, appends are refused with [`LogError::Full`].
    pub queue_bytes_max: usize,
}

/// The log.
pub trait Log: Send + Sync + 'static {
    /// Partitions of `orders` and of `events`.
    fn partitions(&self) -> u32;

    /// # Errors
    /// [`LogError::ReadOnly`], [`LogError::Closed`].
    fn open_session(&self, options: SessionOptions) -> Result<Arc<dyn Session>, LogError>;

    /// Oldest record that is still there (or the end, if there is none).
    fn start_offset(&self, of: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>>;

    /// One past the last durable record.
    fn end_offset(&self, of: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>>;

    /// Waits until there is a durable record at or above `from`, then gives up to `records_max` of them (at least one).
    /// In a compacted topic offsets may have holes. Dropping the future is safe.
    fn read(
        &self,
        of: TopicPartition,
        from: Offset,
        records_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>>;

    /// Lets go of records below `before`; space is given back when a whole segment is free.
    fn trim(&self, of: TopicPartition, before: Offset) -> BoxFuture<'_, Result<(), LogError>>;

    /// Asks whether the log is there. A log of this process always is.
    ///
    /// # Errors
    /// Why nothing was heard of it, within seconds.
    fn answers(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Stops taking appends, makes what was taken durable, ends.
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// The partition of a key: what Java's Kafka client does by default (librdkafka: `murmur2_random`).
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2, 32 bit, seed 0x9747b28c: `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for c in &mut chunks {
        let mut k = u32::from_le_bytes([c[0], c[1], c[2], c[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, b) in rest.iter().enumerate() {
            h ^= u32::from(*b) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_kafkas() {
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, hash) in cases {
            assert_eq!(murmur2(data) as i32, hash, "{}", String::from_utf8_lossy(data));
        }
    }
}
