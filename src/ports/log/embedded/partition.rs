//! What is known of one partition: where its records are, and the newest of them themselves.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::folder::{Folder, damaged, io_error};
use super::frame::{self, Found};
use crate::domain::{Micros, Offset};
use crate::ports::log::{LogError, Record, TopicPartition};

/// Records given by one read from memory: bounds the time that the writer waits for the partition's lock.
const CACHED_BATCH_RECORDS_MAX: usize = 1_024;
/// Records and bytes given by one read from the disk.
const DISK_BATCH_RECORDS_MAX: usize = 8_192;
const DISK_BATCH_BYTES_MAX: usize = 8 << 20;
/// Neighbours are fetched with one read of at most this size, if no more than a gap of other partitions' records lies
/// between two of them: copying 4 KiB costs about as much as another read.
const DISK_READ_BYTES: usize = 256 << 10;
const DISK_GAP_BYTES: u32 = 4 << 10;
/// Read behind the beginning of the last record of a window, in the hope that it is smaller.
const DISK_TAIL_BYTES: usize = 1 << 10;

/// One partition of one topic.
pub struct Partition {
    pub of: TopicPartition,
    pub inner: Mutex<Inner>,
    /// Wakes those who wait for its next record, and nobody else.
    pub news: Notify,
}

/// Records of one partition in one segment: dense offsets from `first`.
pub struct Chunk {
    pub segment: u64,
    pub first: u64,
    /// Four bytes per record: 4 M records of 250 bytes in a log of 1 GB are 16 MB.
    pub positions: Vec<u32>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.first + self.positions.len() as u64
    }
}

/// The state under the lock.
pub struct Inner {
    pub start: u64,
    /// One past the newest durable record.
    pub end: u64,
    /// Frames below it that are found while opening are of the past.
    pub floor: u64,
    pub chunks: VecDeque<Chunk>,
    /// The newest records, ending with `end - 1`.
    pub cache: VecDeque<Record>,
    pub compacted: Option<Compacted>,
}

/// The compacted topic is small (one record per symbol) and lives in memory.
#[derive(Default)]
pub struct Compacted {
    pub live: BTreeMap<u64, Record>,
    newest: HashMap<Bytes, u64>,
}

impl Compacted {
    pub fn insert(&mut self, record: Record) {
        let offset = record.offset.0;
        if let Some(older) = self.newest.insert(record.key.clone(), offset) {
            self.live.remove(&older);
        }
        self.live.insert(offset, record);
    }

    /// Forgets removed keys for good. Until then the empty record itself tells followers of the removal. The newest
    /// record stays in any case: who reads up to the end must find something there.
    pub fn drop_tombstones(&mut self) {
        let newest = self.live.keys().next_back().copied();
        self.live.retain(|offset, record| !record.value.is_empty() || Some(*offset) == newest);
        let live = &self.live;
        self.newest.retain(|_, offset| live.contains_key(offset));
    }
}

/// What a look at a partition found.
pub enum Looked {
    Records(Vec<Record>),
    /// They are to be fetched from the segment.
    OnDisk {
        segment: u64,
        first: u64,
        positions: Vec<u32>,
    },
    NothingYet,
}

impl Partition {
    pub fn new(of: TopicPartition, start: u64, is_compacted: bool) -> Self {
        let inner = Inner {
            start,
            end: start,
            floor: start,
            chunks: VecDeque::new(),
            cache: VecDeque::new(),
            compacted: is_compacted.then(Compacted::default),
        };
        Self { of, inner: Mutex::new(inner), news: Notify::new() }
    }

    /// Finds records from `from` on without waiting.
    pub fn look(&self, from: Offset, records_max: usize) -> Result<Looked, LogError> {
        let inner = self.inner.lock();
        let wanted = records_max.clamp(1, CACHED_BATCH_RECORDS_MAX);
        if let Some(compacted) = &inner.compacted {
            let records: Vec<_> = compacted.live.range(from.0..).take(wanted).map(|(_, r)| r.clone()).collect();
            return Ok(if records.is_empty() { Looked::NothingYet } else { Looked::Records(records) });
        }
        if from.0 < inner.start {
            return Err(LogError::Trimmed { asked: from, start: Offset(inner.start) });
        }
        if from.0 >= inner.end {
            return Ok(Looked::NothingYet);
        }
        let cached_from = inner.end - inner.cache.len() as u64;
        if from.0 >= cached_from {
            let skip = (from.0 - cached_from) as usize;
            return Ok(Looked::Records(inner.cache.range(skip..).take(wanted).cloned().collect()));
        }
        let chunk = inner.chunks.partition_point(|c| c.end() <= from.0);
        let Some(chunk) = inner.chunks.get(chunk).filter(|c| c.first <= from.0) else {
            return Err(damaged(format!("{:?} has no place for offset {from}", self.of)));
        };
        let skip = (from.0 - chunk.first) as usize;
        let wanted = records_max.clamp(1, DISK_BATCH_RECORDS_MAX);
        let positions = chunk.positions[skip..].iter().take(wanted).copied().collect();
        Ok(Looked::OnDisk { segment: chunk.segment, first: from.0, positions })
    }

    pub fn start_offset(&self) -> Offset {
        let inner = self.inner.lock();
        match &inner.compacted {
            Some(compacted) => Offset(compacted.live.keys().next().copied().unwrap_or(inner.end)),
            None => Offset(inner.start),
        }
    }

    pub fn end_offset(&self) -> Offset {
        Offset(self.inner.lock().end)
    }
}

impl Inner {
    /// Notes where a record is. Returns whether it is the partition's first one in this segment.
    pub fn place(&mut self, segment: u64, position: u32, offset: u64) -> bool {
        self.end = offset + 1;
        if let Some(chunk) = self.chunks.back_mut().filter(|c| c.segment == segment) {
            chunk.positions.push(position);
            return false;
        }
        self.chunks.push_back(Chunk { segment, first: offset, positions: vec![position] });
        true
    }

    /// Moves the logical start. Returns the segments in which it has nothing any more.
    pub fn trim(&mut self, start: u64) -> Vec<u64> {
        self.start = start;
        let mut left = Vec::new();
        while self.chunks.front().is_some_and(|c| c.end() <= start) {
            left.extend(self.chunks.pop_front().map(|c| c.segment));
        }
        while self.cache.front().is_some_and(|r| r.offset.0 < start) {
            self.cache.pop_front();
        }
        left
    }
}

/// Fetches records of one partition from one segment. `None` when the segment is gone.
///
/// Other partitions' records lie between them: what is read passes through a buffer of the thread, and only what was
/// asked for is kept, in one piece.
pub fn fetch(
    folder: &Folder,
    log_id: u64,
    of: TopicPartition,
    segment: u64,
    first: u64,
    positions: &[u32],
) -> Result<Option<Vec<Record>>, LogError> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let file = match File::open(folder.segment_path(segment)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", e)),
    };
    let salt = frame::salt(log_id, segment);
    BUFFER.with_borrow_mut(|buffer| {
        let mut window = Window { file: &file, buffer, at: 0, bytes: 0 };
        let (mut kept, mut frames) = (BytesMut::new(), Vec::with_capacity(positions.len()));
        for (i, position) in positions.iter().enumerate() {
            if kept.len() > DISK_BATCH_BYTES_MAX {
                break;
            }
            let found = window.frame(&positions[i..])?;
            let Found::Frame(frame) = frame::decode(found, salt) else {
                return Err(damaged(format!("segment {segment} at {position}: record of {of:?} cannot be read")));
            };
            if frame.to != of || frame.stamp.offset != first + i as u64 {
                return Err(damaged(format!("segment {segment} at {position} holds another record than it did")));
            }
            frames.push((frame, kept.len()));
            kept.extend_from_slice(&found[..frame.length]);
        }
        let kept = kept.freeze();
        Ok(Some(frames.iter().map(|(frame, at)| record_of(frame, &kept, *at)).collect()))
    })
}

pub fn record_of(frame: &frame::Frame, buffer: &Bytes, at: usize) -> Record {
    let (key, header, value) = frame.parts(buffer, at);
    Record { offset: Offset(frame.stamp.offset), at: Micros(frame.stamp.at), key, header, value }
}

/// A piece of a segment: `bytes` of it, from `at` on.
struct Window<'a> {
    file: &'a File,
    buffer: &'a mut Vec<u8>,
    at: usize,
    bytes: usize,
}

impl Window<'_> {
    /// What lies at the first of `positions`, a whole frame if there is one. Reads it if the window does not hold it, with
    /// as many of the others as lie close.
    fn frame(&mut self, positions: &[u32]) -> Result<&[u8], LogError> {
        let Some(first) = positions.first().map(|p| *p as usize) else { return Ok(&[]) };
        if !self.holds_frame(first) {
            let is_close =
                |pair: &&[u32]| pair[1] - pair[0] <= DISK_GAP_BYTES && pair[1] as usize - first < DISK_READ_BYTES;
            let close = positions.windows(2).take_while(is_close).count();
            self.read(first, positions[close] as usize - first + DISK_TAIL_BYTES)?;
            if let Some(length) = frame::length_at(self.from(first)).filter(|length| *length > self.bytes) {
                self.read(first, length)?;
            }
        }
        Ok(self.from(first))
    }

    fn from(&self, position: usize) -> &[u8] {
        self.buffer[..self.bytes].get(position.wrapping_sub(self.at)..).unwrap_or_default()
    }

    fn holds_frame(&self, position: usize) -> bool {
        let rest = self.from(position);
        frame::length_at(rest).is_some_and(|length| length <= rest.len())
    }

    fn read(&mut self, position: usize, bytes: usize) -> Result<(), LogError> {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        self.at = position;
        self.bytes = read_at(self.file, position as u64, &mut self.buffer[..bytes])?;
        Ok(())
    }
}

/// Reads `bytes` bytes, or as many as there are before the file ends.
pub fn read_up_to(file: &File, position: u64, bytes: usize) -> Result<Bytes, LogError> {
    let mut buffer = BytesMut::zeroed(bytes);
    let filled = read_at(file, position, &mut buffer)?;
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

/// Reads until the buffer is full or the file ends; gives how much it read.
fn read_at(file: &File, position: u64, buffer: &mut [u8]) -> Result<usize, LogError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io_error("read", e)),
        }
    }
    Ok(filled)
}
