//! One partition being read from one place on: the records that came, the newest of them kept for whoever is close.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rdkafka::Timestamp;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::sync::Notify;

use super::context::Context;
use super::places::Place;
use super::session::HEADER;
use crate::domain::{Micros, Offset};
use crate::ports::log::Record;

/// Records kept behind a stream's position, so that readers who go about the same way share it: two nodes of a process
/// follow each partition of `orders`. 128 partitions x 512 KiB = 64 MiB at most.
const WINDOW_BYTES_MAX: usize = 512 << 10;
/// What a record costs in memory beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// Records taken from the library at once: bounds how long the partition's lock is held.
const DRAIN_RECORDS_MAX: usize = 1_024;
/// What is sent somewhere is left alone for so long, so that two readers do not snatch a lane from each other for ever.
const FRESH: Duration = Duration::from_secs(2);

/// Where one reader of a partition is.
pub struct Stream {
    queue: PartitionQueue<Context>,
    /// The next record to come is at or above it.
    pub position: u64,
    window: VecDeque<Record>,
    window_bytes: usize,
    /// When somebody last read from it.
    pub used: Instant,
    sent: Instant,
    /// What the library last said against it.
    pub trouble: Option<KafkaError>,
    /// It has to be started anew.
    pub is_broken: bool,
}

impl Stream {
    /// Wakes `news` whenever records come.
    pub fn new(mut queue: PartitionQueue<Context>, position: u64, news: Arc<Notify>) -> Self {
        queue.set_nonempty_callback(move || news.notify_waiters());
        let (window, now) = (VecDeque::new(), Instant::now());
        Self { queue, position, window, window_bytes: 0, used: now, sent: now, trouble: None, is_broken: false }
    }

    /// Goes on at another place; the caller has told the library.
    pub fn go_to(&mut self, position: u64) {
        self.window.clear();
        self.window_bytes = 0;
        self.position = position;
        (self.used, self.sent) = (Instant::now(), Instant::now());
    }

    /// Whether it was sent somewhere just now and has brought nothing yet.
    pub fn is_fresh(&self) -> bool {
        self.window.is_empty() && self.sent.elapsed() < FRESH
    }

    /// Gives records from `from` on, taking from the library what has come; none if there are none yet.
    pub fn take(&mut self, place: &Place, from: u64, records_max: usize) -> Vec<Record> {
        self.used = Instant::now();
        let mut may_be_more = self.trouble.is_none();
        while self.position <= from && may_be_more {
            may_be_more = self.drain(place, records_max);
        }
        let skip = self.window.partition_point(|r| r.offset.0 < from);
        let records = self.window.range(skip..).take(records_max.max(1)).cloned().collect();
        self.shrink();
        records
    }

    /// First offset that can be had from memory.
    pub fn window_start(&self) -> u64 {
        self.window.front().map_or(self.position, |r| r.offset.0)
    }

    /// Takes what has come. Returns whether there may be more.
    fn drain(&mut self, place: &Place, records_max: usize) -> bool {
        let wanted = records_max.clamp(1, DRAIN_RECORDS_MAX);
        let mut batch = Batch::default();
        let may_be_more = loop {
            if batch.lengths.len() == wanted {
                break true;
            }
            match self.queue.poll(Duration::ZERO) {
                None => break false,
                Some(Ok(message)) => batch.take(&message),
                Some(Err(error)) => {
                    self.trouble = Some(error);
                    break false;
                }
            }
        };
        self.keep(batch, place);
        may_be_more
    }

    fn keep(&mut self, batch: Batch, place: &Place) {
        for record in batch.into_records() {
            // Seeking drops what was fetched for another place; this is the second lock on that door.
            if record.offset.0 < self.position {
                continue;
            }
            self.position = record.offset.0 + 1;
            place.met(self.position);
            self.window_bytes += bytes_of(&record);
            self.window.push_back(record);
        }
    }

    /// Forgets the oldest records above the bound; a reader has had its share by now, for one batch may be larger.
    fn shrink(&mut self) {
        while self.window_bytes > WINDOW_BYTES_MAX
            && let Some(oldest) = self.window.pop_front()
        {
            self.window_bytes -= bytes_of(&oldest);
        }
    }
}

fn bytes_of(record: &Record) -> usize {
    record.key.len() + record.header.len() + record.value.len() + RECORD_OVERHEAD_BYTES
}

/// Records copied from the library's memory into one buffer: one allocation for all of them.
#[derive(Default)]
struct Batch {
    bytes: BytesMut,
    lengths: Vec<Lengths>,
}

struct Lengths {
    offset: Offset,
    at: Micros,
    key: usize,
    header: usize,
    value: usize,
}

impl Batch {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let key = message.key().unwrap_or_default();
        let value = message.payload().unwrap_or_default();
        let header = message
            .headers()
            .and_then(|headers| headers.iter().find(|h| h.key == HEADER))
            .and_then(|h| h.value)
            .unwrap_or_default();
        for part in [key, header, value] {
            self.bytes.extend_from_slice(part);
        }
        let ms = match message.timestamp() {
            Timestamp::LogAppendTime(ms) | Timestamp::CreateTime(ms) => ms,
            Timestamp::NotAvailable => 0,
        };
        self.lengths.push(Lengths {
            offset: Offset(message.offset() as u64),
            // The log's own stamp, as it is: two readers must see the same one, so nothing is mended here.
            at: Micros(u64::try_from(ms).unwrap_or_default().saturating_mul(1_000)),
            key: key.len(),
            header: header.len(),
            value: value.len(),
        });
    }

    fn into_records(self) -> impl Iterator<Item = Record> {
        let mut bytes = self.bytes.freeze();
        self.lengths.into_iter().map(move |l| Record {
            offset: l.offset,
            at: l.at,
            key: bytes.split_to(l.key),
            header: bytes.split_to(l.header),
            value: bytes.split_to(l.value),
        })
    }
}
