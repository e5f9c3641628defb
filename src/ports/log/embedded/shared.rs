//! What writer, readers and trimming have in common.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::folder::{Folder, Meta, Starts, damaged, io_error};
use super::frame::{self, Found, Frame, Stamp};
use super::partition::{Compacted, Looked, Partition, fetch, record_of};
use crate::domain::Offset;
use crate::ports::log::{LogError, Record, Topic, TopicPartition};

const SYMBOLS: TopicPartition = TopicPartition { topic: Topic::Symbols, partition: 0 };

/// Segments that are there and in how many partitions each still has records.
#[derive(Default)]
pub struct Segments {
    pub users: BTreeMap<u64, u32>,
    /// The one being written; never removed.
    pub active: u64,
}

/// Everything under one log folder.
pub struct Shared {
    pub folder: Folder,
    pub meta: Meta,
    pub partitions: Vec<Partition>,
    pub segments: Mutex<Segments>,
    /// Held while starts and segment files change.
    trimming: Mutex<()>,
    /// Newest time stamp given.
    pub last_at: AtomicU64,
    /// Set once nothing new will come: who waits is told so.
    pub is_closed: AtomicBool,
}

impl Shared {
    /// Reads the logical starts and the compacted records; the journal itself is not looked at.
    pub fn load(folder: Folder, meta: Meta) -> Result<Arc<Self>, LogError> {
        let starts = folder.read_starts()?;
        let mut partitions = Vec::new();
        for topic in Topic::ALL {
            let count = if topic.is_partitioned() { meta.partitions } else { 1 };
            for partition in 0..count {
                let start = starts.starts.get(partitions.len()).copied().unwrap_or(0);
                let of = TopicPartition { topic, partition };
                partitions.push(Partition::new(of, start, topic == Topic::Symbols));
            }
        }
        let shared = Self {
            folder,
            meta,
            partitions,
            segments: Mutex::default(),
            trimming: Mutex::new(()),
            last_at: AtomicU64::new(starts.last_at),
            is_closed: AtomicBool::new(false),
        };
        shared.load_compacted()?;
        Ok(Arc::new(shared))
    }

    /// Place of a partition in [`Self::partitions`].
    pub fn index_of(&self, of: TopicPartition) -> Result<usize, LogError> {
        let count = if of.topic.is_partitioned() { self.meta.partitions } else { 1 };
        if of.partition >= count {
            return Err(LogError::NoPartition { topic: of.topic.name(), partition: of.partition });
        }
        let n = self.meta.partitions as usize;
        Ok(match of.topic {
            Topic::Orders => of.partition as usize,
            Topic::Events => n + of.partition as usize,
            Topic::Symbols => 2 * n,
            Topic::DeadLetters => 2 * n + 1,
            Topic::Fills | Topic::Trades | Topic::Depth | Topic::OrderStatus => {
                2 * n + 2 + (of.topic as usize - Topic::Fills as usize) * n + of.partition as usize
            }
        })
    }

    pub fn partition(&self, of: TopicPartition) -> Result<&Partition, LogError> {
        Ok(&self.partitions[self.index_of(of)?])
    }

    /// Takes up a frame that was found in the journal.
    pub fn found(
        &self,
        segment: u64,
        position: u32,
        frame: &Frame,
        record: impl FnOnce() -> Record,
    ) -> Result<(), LogError> {
        let index = self.index_of(frame.to).map_err(|e| damaged(format!("segment {segment} at {position}: {e}")))?;
        let offset = frame.stamp.offset;
        self.last_at.fetch_max(frame.stamp.at, Ordering::Relaxed);
        let mut inner = self.partitions[index].inner.lock();
        if offset < inner.floor {
            return Ok(());
        }
        if offset != inner.end {
            let (of, end) = (self.partitions[index].of, inner.end);
            return Err(damaged(format!(
                "segment {segment} at {position}: {of:?} goes on with {offset}, not with {end}"
            )));
        }
        let is_first = inner.place(segment, position, offset);
        if let Some(compacted) = &mut inner.compacted {
            compacted.insert(record());
        }
        drop(inner);
        if is_first {
            *self.segments.lock().users.entry(segment).or_default() += 1;
        }
        Ok(())
    }

    /// Reads without waiting; empty when there is nothing yet. May read from the disk.
    pub fn read_now(&self, of: TopicPartition, from: Offset, looked: Looked) -> Result<Vec<Record>, LogError> {
        let mut looked = looked;
        loop {
            match looked {
                Looked::Records(records) => return Ok(records),
                Looked::NothingYet => return Ok(Vec::new()),
                Looked::OnDisk { segment, first, positions } => {
                    if let Some(records) = fetch(&self.folder, self.meta.id, of, segment, first, &positions)? {
                        return Ok(records);
                    }
                    // Trimmed since it was looked up, or lost.
                    looked = self.partition(of)?.look(from, positions.len())?;
                    if matches!(looked, Looked::OnDisk { segment: again, .. } if again == segment) {
                        return Err(damaged(format!("segment {segment} is missing")));
                    }
                }
            }
        }
    }

    /// Moves the logical start of one partition and removes the segments that nobody needs.
    pub fn trim(&self, of: TopicPartition, before: Offset) -> Result<(), LogError> {
        let index = self.index_of(of)?;
        let _guard = self.trimming.lock();
        let mut starts = Starts { starts: Vec::new(), last_at: self.last_at.load(Ordering::Relaxed) };
        starts.starts = self.partitions.iter().map(|p| p.inner.lock().start).collect();
        if of.topic != Topic::Symbols {
            let end = self.partitions[index].inner.lock().end;
            let start = before.0.min(end).max(starts.starts[index]);
            if start == starts.starts[index] {
                return Ok(());
            }
            starts.starts[index] = start;
            self.folder.write_starts(&starts).map_err(|e| io_error("trimmed", e))?;
            let left = self.partitions[index].inner.lock().trim(start);
            self.leave(&left);
        }
        self.remove_free_segments()
    }

    fn leave(&self, left: &[u64]) {
        let mut segments = self.segments.lock();
        for segment in left {
            if let Some(users) = segments.users.get_mut(segment) {
                *users = users.saturating_sub(1);
            }
        }
    }

    /// Removes segments without live records. Those that only compacted records hold are freed by copying these.
    pub fn remove_free_segments(&self) -> Result<(), LogError> {
        let symbols = self.partition(SYMBOLS)?;
        let held: Vec<u64> = symbols.inner.lock().chunks.iter().map(|c| c.segment).collect();
        let is_pinned = {
            let segments = self.segments.lock();
            held.iter().any(|s| *s != segments.active && segments.users.get(s) == Some(&1))
        };
        if is_pinned {
            self.write_compacted(symbols)?;
        }
        let free: Vec<u64> = {
            let segments = self.segments.lock();
            let free = segments.users.iter().filter(|(s, users)| **users == 0 && **s != segments.active);
            free.map(|(s, _)| *s).collect()
        };
        for segment in &free {
            match fs::remove_file(self.folder.segment_path(*segment)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("trimmed", e)),
                _ => self.segments.lock().users.remove(segment),
            };
        }
        if !free.is_empty() {
            self.folder.sync().map_err(|e| io_error("trimmed", e))?;
        }
        Ok(())
    }

    /// Copies the live records of the compacted topic beside the journal, offsets kept, so that it pins no segment.
    fn write_compacted(&self, symbols: &Partition) -> Result<(), LogError> {
        let mut content = BytesMut::new();
        let end = {
            let mut inner = symbols.inner.lock();
            let end = inner.end;
            content.extend_from_slice(&end.to_le_bytes());
            if let Some(compacted) = &mut inner.compacted {
                compacted.drop_tombstones();
                for r in compacted.live.values() {
                    let stamp = Stamp { offset: r.offset.0, at: r.at.0, group: 0 };
                    frame::encode(&mut content, 0, symbols.of, stamp, [&r.key, &r.header, &r.value]);
                }
            }
            end
        };
        self.folder.replace_checked("symbols", &content).map_err(|e| io_error("compacted", e))?;
        let active = self.segments.lock().active;
        let mut left = Vec::new();
        symbols.inner.lock().chunks.retain(|chunk| {
            let is_copied = chunk.first + chunk.positions.len() as u64 <= end && chunk.segment != active;
            if is_copied {
                left.push(chunk.segment);
            }
            !is_copied
        });
        self.leave(&left);
        Ok(())
    }

    /// Takes over the starts that a writer in another process has moved.
    pub fn reload_starts(&self) -> Result<(), LogError> {
        let starts = self.folder.read_starts()?;
        for (partition, start) in self.partitions.iter().zip(starts.starts) {
            let mut inner = partition.inner.lock();
            if start <= inner.start {
                continue;
            }
            let left = inner.trim(start);
            if inner.end < start {
                (inner.end, inner.floor) = (start, start);
            }
            drop(inner);
            self.leave(&left);
        }
        let copied_until = self.partition(SYMBOLS)?.inner.lock().end;
        self.load_compacted_above(copied_until)
    }

    fn load_compacted(&self) -> Result<(), LogError> {
        self.load_compacted_above(0)
    }

    fn load_compacted_above(&self, known: u64) -> Result<(), LogError> {
        let Some(content) = self.folder.read_checked("symbols")? else { return Ok(()) };
        let content = Bytes::from(content);
        let Some(end) = content.first_chunk::<8>().map(|e| u64::from_le_bytes(*e)) else {
            return Err(damaged("file symbols is cut"));
        };
        if end <= known {
            return Ok(());
        }
        // The file holds all that was live at `end`: what it does not name was removed.
        let mut compacted = Compacted::default();
        let mut at = 8;
        while at < content.len() {
            let Found::Frame(frame) = frame::decode(&content[at..], 0) else {
                return Err(damaged(format!("file symbols at {at}")));
            };
            compacted.insert(record_of(&frame, &content, at));
            at += frame.length;
        }
        let mut inner = self.partition(SYMBOLS)?.inner.lock();
        (inner.end, inner.floor, inner.compacted) = (end, end, Some(compacted));
        Ok(())
    }
}
