//! The writer thread: everything that is queued becomes one group, one write, one `fdatasync`.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::folder::{Mark, io_error};
use super::frame::{self, FRAME_HEADER_BYTES, Stamp, frame_bytes};
use super::preparer::Preparer;
use super::queue::{Item, Queue};
use super::scan::{Cursor, header_of};
use super::shared::Shared;
use crate::clock;
use crate::domain::{Micros, Offset};
use crate::ports::log::{Ack, LogError, NewRecord, Record};

/// Bytes of one group at most, so that readers get it in time: 4 MiB / 1 GB/s = 4 ms.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// What a record in memory costs besides its bytes.
const CACHED_RECORD_BYTES: usize = size_of::<Record>() + size_of::<Cached>();

/// Order in which cached records leave.
struct Cached {
    partition: u32,
    bytes: u32,
    offset: u64,
}

/// The segment being written.
struct Active {
    file: File,
    number: u64,
    position: u64,
    previous: Option<Cursor>,
    /// Its space was written before, so that a commit changes no metadata of the file system.
    is_prepared: bool,
}

/// Owner of the journal.
pub struct Writer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    active: Active,
    mark: File,
    /// Next offset of each partition.
    next: Vec<u64>,
    cached: VecDeque<Cached>,
    cached_bytes: usize,
    cache_bytes_max: usize,
    segment_bytes: u64,
    preparer: Option<Preparer>,
    /// Released when the writer ends.
    _lock: File,
}

/// Sizes from the options.
pub struct Sizes {
    pub segment_bytes: u64,
    pub cache_bytes: usize,
    pub prepares_segments: bool,
}

impl Writer {
    /// Opens the last segment, or makes the first one.
    pub fn new(
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        end: Option<Cursor>,
        sizes: &Sizes,
        lock: File,
    ) -> Result<Self, LogError> {
        let mark = shared.folder.open_mark()?;
        let active = open_active(&shared, end).map_err(|e| io_error("opened", e))?;
        shared.segments.lock().users.entry(active.number).or_default();
        shared.segments.lock().active = active.number;
        let next = shared.partitions.iter().map(|p| p.inner.lock().end).collect();
        let preparer = sizes.prepares_segments.then(|| Preparer::start(shared.folder.clone(), sizes.segment_bytes));
        let writer = Self {
            shared,
            queue,
            active,
            mark,
            next,
            cached: VecDeque::new(),
            cached_bytes: 0,
            cache_bytes_max: sizes.cache_bytes,
            segment_bytes: sizes.segment_bytes,
            preparer,
            _lock: lock,
        };
        writer.publish_mark().map_err(|e| io_error("opened", e))?;
        Ok(writer)
    }

    /// Works until the queue is closed and empty, or the disk fails.
    pub fn run(mut self) {
        while let Some(items) = self.queue.take() {
            if self.write(items).is_err() {
                break;
            }
        }
        self.shared.is_closed.store(true, Ordering::Release);
        for partition in &self.shared.partitions {
            partition.news.notify_waiters();
        }
    }

    /// Writes items in groups. An error ends all sessions; what is not yet durable is resolved with it.
    fn write(&mut self, mut items: VecDeque<Item>) -> Result<(), LogError> {
        while !items.is_empty() {
            let taken = self.group_of(&items);
            let group: Vec<Item> = items.drain(..taken).collect();
            match self.commit(&group) {
                Ok(acks) => {
                    for (item, ack) in group.into_iter().zip(acks) {
                        item.resolve(Ok(ack));
                    }
                }
                Err(e) => {
                    let error = io_error("written", e);
                    tracing::error!(%error, "the journal cannot be written; all sessions end");
                    // Before anybody hears of it: what is appended after that is refused.
                    self.queue.fail(&error);
                    for item in group.into_iter().chain(items) {
                        item.resolve(Err(error.clone()));
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Number of items that go into the next group: at least one.
    fn group_of(&self, items: &VecDeque<Item>) -> usize {
        let max = GROUP_BYTES_MAX.min(self.segment_bytes as usize);
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.bytes;
            bytes <= max
        };
        items.iter().take_while(fits).count().max(1)
    }

    /// Makes a group durable and visible. Returns what each item is told.
    fn commit(&mut self, group: &[Item]) -> io::Result<Vec<Ack>> {
        let bytes: usize = group.iter().map(|i| i.bytes).sum();
        self.make_room(bytes as u64)?;
        let at = clock::now().0.max(self.shared.last_at.load(Ordering::Relaxed));
        let (buffer, acks, placed) = self.encode(group, bytes, at);
        let started = Instant::now();
        self.active.file.write_all_at(&buffer, self.active.position)?;
        self.active.file.sync_data()?;
        metrics::histogram!("hotbook_log_fsync_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("hotbook_log_group_records").record(placed.len() as f64);
        metrics::counter!("hotbook_log_bytes_total").increment(buffer.len() as u64);
        let base = self.active.position;
        self.active.position += buffer.len() as u64;
        self.shared.last_at.store(at, Ordering::Relaxed);
        self.publish_mark()?;
        if let Some(preparer) = &self.preparer {
            preparer.committed(self.active.position);
        }
        self.publish(group, &buffer, base, at, &placed);
        Ok(acks)
    }

    /// Bytes of the group, what to tell each item, and per record its partition, offset and place in the bytes.
    fn encode(&mut self, group: &[Item], bytes: usize, at: u64) -> (Bytes, Vec<Ack>, Vec<Placed>) {
        let mut buffer = BytesMut::with_capacity(bytes + frame::SEGMENT_HEADER_BYTES);
        if self.active.position == 0 {
            let header = header_of(self.shared.meta.id, self.active.number, self.active.previous);
            buffer.extend_from_slice(&header.encode());
        }
        let salt = frame::salt(self.shared.meta.id, self.active.number);
        let mut acks = Vec::with_capacity(group.len());
        let mut placed = Vec::with_capacity(group.len());
        for item in group {
            let mut ack = Ack { offset: None, at: None };
            for record in item.records.as_slice() {
                // Checked when it was enqueued.
                let Ok(partition) = self.shared.index_of(record.to) else { continue };
                let offset = self.next[partition];
                self.next[partition] += 1;
                placed.push(Placed { partition, offset, position: buffer.len() });
                let stamp = Stamp { offset, at, group: self.active.position as u32 };
                frame::encode(&mut buffer, salt, record.to, stamp, [&record.key, &record.header, &record.value]);
                ack = Ack { offset: Some(Offset(offset)), at: Some(Micros(at)) };
            }
            acks.push(ack);
        }
        (buffer.freeze(), acks, placed)
    }

    /// Shows durable records to readers and wakes those that wait for them.
    fn publish(&mut self, group: &[Item], buffer: &Bytes, base: u64, at: u64, placed: &[Placed]) {
        let mut touched: Vec<usize> = Vec::new();
        let records = group.iter().flat_map(|i| i.records.as_slice());
        for (place, new) in placed.iter().zip(records) {
            let record = record_in(buffer, place, new, at);
            let bytes = frame_bytes(new) + CACHED_RECORD_BYTES;
            let partition = &self.shared.partitions[place.partition];
            let mut inner = partition.inner.lock();
            if inner.place(self.active.number, (base + place.position as u64) as u32, place.offset) {
                *self.shared.segments.lock().users.entry(self.active.number).or_default() += 1;
            }
            match &mut inner.compacted {
                Some(compacted) => compacted.insert(own(record)),
                None => {
                    inner.cache.push_back(record);
                    self.cached_bytes += bytes;
                    let (partition, bytes) = (place.partition as u32, bytes as u32);
                    self.cached.push_back(Cached { partition, bytes, offset: place.offset });
                }
            }
            drop(inner);
            if !touched.contains(&place.partition) {
                touched.push(place.partition);
            }
        }
        for index in touched {
            self.shared.partitions[index].news.notify_waiters();
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max {
            let Some(oldest) = self.cached.pop_front() else { break };
            self.cached_bytes -= oldest.bytes as usize;
            let mut inner = self.shared.partitions[oldest.partition as usize].inner.lock();
            // It may have been trimmed.
            if inner.cache.front().is_some_and(|r| r.offset.0 == oldest.offset) {
                inner.cache.pop_front();
            }
        }
    }

    fn publish_mark(&self) -> io::Result<()> {
        Mark { segment: self.active.number, position: self.active.position }.publish(&self.mark)
    }

    /// Goes to the next segment if this one is full, or if one with prepared space is ready and this one has none.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let is_full = self.active.position > 0 && self.active.position + bytes > self.segment_bytes;
        let is_ready = self.preparer.as_ref().is_some_and(Preparer::is_ready);
        let is_better = is_ready && !self.active.is_prepared && self.active.position > 0;
        if !is_full && !is_better {
            return Ok(());
        }
        let number = self.active.number + 1;
        let prepared = if is_ready { self.preparer.take().and_then(Preparer::finish) } else { None };
        let is_prepared = prepared.is_some();
        let path = self.shared.folder.segment_path(number);
        let file = match prepared {
            Some(file) => {
                fs::rename(self.shared.folder.prepared_path(), &path)?;
                file
            }
            None => OpenOptions::new().create_new(true).write(true).open(&path)?,
        };
        self.shared.folder.sync()?;
        let previous = Some(Cursor { segment: self.active.number, position: self.active.position });
        self.active = Active { file, number, position: 0, previous, is_prepared };
        {
            let mut segments = self.shared.segments.lock();
            segments.users.entry(number).or_default();
            segments.active = number;
        }
        if is_ready {
            self.preparer = Some(Preparer::start(self.shared.folder.clone(), self.segment_bytes));
        }
        Ok(())
    }
}

/// Where a record of a group lies.
struct Placed {
    partition: usize,
    offset: u64,
    /// Within the group's bytes.
    position: usize,
}

/// The record as a slice of the group's bytes: one allocation per group, which lives until its last record is evicted.
fn record_in(buffer: &Bytes, place: &Placed, new: &NewRecord, at: u64) -> Record {
    let key = place.position + FRAME_HEADER_BYTES;
    let header = key + new.key.len();
    let value = header + new.header.len();
    Record {
        offset: Offset(place.offset),
        at: Micros(at),
        key: buffer.slice(key..header),
        header: buffer.slice(header..value),
        value: buffer.slice(value..value + new.value.len()),
    }
}

/// A copy that does not hold its group in memory: compacted records live long.
fn own(record: Record) -> Record {
    let copy = |b: &Bytes| Bytes::copy_from_slice(b);
    Record { key: copy(&record.key), header: copy(&record.header), value: copy(&record.value), ..record }
}

fn open_active(shared: &Shared, end: Option<Cursor>) -> io::Result<Active> {
    let (number, position) = end.map_or((1, 0), |c| (c.segment, c.position));
    let path = shared.folder.segment_path(number);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    shared.folder.sync()?;
    let is_prepared = file.metadata()?.len() > position;
    Ok(Active { file, number, position, previous: None, is_prepared })
}
