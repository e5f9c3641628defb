//! Reading the journal from its segments: at start, and by a follower in another process.

use std::fs::{File, OpenOptions};
use std::io;

use bytes::Bytes;

use super::folder::{Mark, damaged, io_error};
use super::frame::{self, FRAME_HEADER_BYTES, Found, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::partition::{read_up_to, record_of};
use super::shared::Shared;
use crate::ports::log::LogError;

/// Where reading the journal has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub segment: u64,
    /// 0: not even its header is there.
    pub position: u64,
}

/// What is behind the last whole record of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Empty,
    /// Bytes that are no record, and nothing that was written after them.
    Torn,
}

/// What is done about an end that is not as the last writer left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// A reader's: a torn end is ignored.
    No,
    /// A torn end is cut off. One below the durable mark is damage: acknowledged records are gone.
    Torn,
    /// The operator has said to go on without acknowledged records.
    Lost,
}

/// Reads all segments. The end of the last one may be torn.
pub fn scan_all(shared: &Shared, mend: Mend) -> Result<Option<Cursor>, LogError> {
    let numbers = shared.folder.segments()?;
    let mark = shared.folder.read_mark();
    let mut previous: Option<Cursor> = None;
    for (i, number) in numbers.iter().enumerate() {
        let is_last = i + 1 == numbers.len();
        let file = match File::open(shared.folder.segment_path(*number)) {
            Ok(file) => file,
            // A living writer trims.
            Err(e) if e.kind() == io::ErrorKind::NotFound && mend == Mend::No => continue,
            Err(e) => return Err(io_error("opened", e)),
        };
        let bytes = whole(&file)?;
        shared.segments.lock().users.entry(*number).or_default();
        let (end, rest) = scan_segment(shared, *number, &bytes, previous)?;
        if rest == Rest::Torn && !is_last {
            return Err(damaged(format!("segment {number} at {end}: no whole record, and later segments exist")));
        }
        if let Some(mark) = mark.filter(|m| m.segment == *number && m.position > end) {
            lost_below(shared, mark, end, mend)?;
        }
        if rest == Rest::Torn && mend != Mend::No {
            cut(shared, *number, end, bytes.len() as u64)?;
        }
        previous = Some(Cursor { segment: *number, position: end });
    }
    let last = previous.map_or(0, |p| p.segment);
    if let Some(mark) = mark.filter(|m| m.segment > last && m.position > 0) {
        lost_below(shared, mark, 0, mend)?;
    }
    Ok(previous)
}

/// The journal ends at `end` of the mark's segment, below what was acknowledged: the disk lost what it had confirmed, or a
/// file was put back from an older copy.
fn lost_below(shared: &Shared, mark: Mark, end: u64, mend: Mend) -> Result<(), LogError> {
    let (file, durable) = (shared.folder.segment_path(mark.segment), mark.position);
    let what = format!(
        "{} has whole records up to byte {end}, but up to byte {durable} they were acknowledged: {} bytes are lost",
        file.display(),
        durable - end
    );
    match mend {
        Mend::Torn => Err(damaged(format!(
            "{what}. Put the file back from a copy of the disk; or start once with --accept-lost-tail, which goes on \
            without what is lost"
        ))),
        Mend::Lost => {
            tracing::error!(file = %file.display(), position = end, durable, "going on without acknowledged records");
            Ok(())
        }
        Mend::No => {
            tracing::error!(file = %file.display(), position = end, durable, "acknowledged records are lost");
            Ok(())
        }
    }
}

fn whole(file: &File) -> Result<Bytes, LogError> {
    let length = file.metadata().map_err(|e| io_error("opened", e))?.len();
    read_up_to(file, 0, length as usize)
}

/// Reads one segment from its beginning. Returns where its whole records end.
fn scan_segment(
    shared: &Shared,
    number: u64,
    bytes: &Bytes,
    previous: Option<Cursor>,
) -> Result<(u64, Rest), LogError> {
    let Some(header) = SegmentHeader::decode(bytes) else {
        let is_empty = bytes.iter().all(|b| *b == 0);
        check_nothing_later(shared, number, bytes, 0)?;
        return Ok((0, if is_empty { Rest::Empty } else { Rest::Torn }));
    };
    if header.log_id != shared.meta.id || header.segment != number {
        return Err(damaged(format!("segment {number} belongs elsewhere")));
    }
    let ends_elsewhere = |p: &Cursor| p.segment == header.previous && p.position != u64::from(header.previous_end);
    if let Some(p) = previous.filter(ends_elsewhere) {
        let (was, is) = (header.previous_end, p.position);
        return Err(damaged(format!("segment {} ended at {was} and now ends at {is}", p.segment)));
    }
    let end = scan_frames(shared, number, bytes, 0, SEGMENT_HEADER_BYTES)?;
    if bytes[end..].iter().all(|b| *b == 0) {
        return Ok((end as u64, Rest::Empty));
    }
    check_nothing_later(shared, number, bytes, end)?;
    Ok((end as u64, Rest::Torn))
}

/// Takes up the whole records of `bytes`, which lie at `base` in the segment. Returns where they end within `bytes`.
fn scan_frames(shared: &Shared, number: u64, bytes: &Bytes, base: u64, from: usize) -> Result<usize, LogError> {
    let salt = frame::salt(shared.meta.id, number);
    let mut at = from;
    while let Found::Frame(frame) = frame::decode(&bytes[at..], salt) {
        // Positions fit in u32: see `SEGMENT_BYTES_MAX`.
        let position = (base + at as u64) as u32;
        // Only compacted records are kept; a copy, so that they do not hold the whole segment in memory.
        let keep = || record_of(&frame, &Bytes::copy_from_slice(&bytes[at..at + frame.length]), 0);
        shared.found(number, position, &frame, keep)?;
        at += frame.length;
    }
    Ok(at)
}

/// A group is written only after the one before it is durable. So a whole record of a later group behind a broken one
/// means that the broken one was durable: that is damage, not a torn write.
fn check_nothing_later(shared: &Shared, number: u64, bytes: &Bytes, broken: usize) -> Result<(), LogError> {
    let salt = frame::salt(shared.meta.id, number);
    let mut at = broken + 1;
    while at + FRAME_HEADER_BYTES <= bytes.len() {
        // Cheap looks first: a possible length, and a group that begins after the broken bytes and not after here.
        let group = u32::from_le_bytes([bytes[at + 8], bytes[at + 9], bytes[at + 10], bytes[at + 11]]) as usize;
        let is_possible = group > broken && group <= at && frame::length_at(&bytes[at..]).is_some();
        if let Some(Found::Frame(frame)) = is_possible.then(|| frame::decode(&bytes[at..], salt)) {
            let to = frame.to;
            return Err(damaged(format!(
                "segment {number} at {broken}: broken, and at {at} there is a later record of {to:?}"
            )));
        }
        at += 1;
    }
    Ok(())
}

fn cut(shared: &Shared, number: u64, end: u64, length: u64) -> Result<(), LogError> {
    tracing::warn!(segment = number, position = end, bytes = length - end, "torn end of the journal is cut off");
    let file =
        OpenOptions::new().write(true).open(shared.folder.segment_path(number)).map_err(|e| io_error("repaired", e))?;
    file.set_len(end).and_then(|()| file.sync_all()).map_err(|e| io_error("repaired", e))
}

/// Follows the journal of a living writer up to its durable mark. Returns whether there was anything new.
pub fn follow(shared: &Shared, cursor: &mut Option<Cursor>) -> Result<bool, LogError> {
    let Some(mark) = shared.folder.read_mark() else { return Ok(false) };
    let mut is_new = false;
    loop {
        let at = match *cursor {
            Some(at) => at,
            None => match shared.folder.segments()?.first() {
                Some(first) => {
                    // The writer moves starts before it removes segments, so they are read after the list.
                    shared.reload_starts()?;
                    Cursor { segment: *first, position: 0 }
                }
                None => return Ok(is_new),
            },
        };
        if at.segment > mark.segment || (at.segment == mark.segment && at.position >= mark.position) {
            return Ok(is_new);
        }
        let end = match File::open(shared.folder.segment_path(at.segment)) {
            Ok(file) => follow_segment(shared, &file, at, mark)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                shared.reload_starts()?;
                None
            }
            Err(e) => return Err(io_error("read", e)),
        };
        is_new |= end.is_some_and(|end| end > at.position);
        let position = end.unwrap_or(at.position);
        *cursor = Some(Cursor { segment: at.segment, position });
        if at.segment < mark.segment {
            let next = shared.folder.segments()?.into_iter().find(|n| *n > at.segment).unwrap_or(mark.segment);
            if next > at.segment + 1 {
                shared.reload_starts()?;
            }
            *cursor = Some(Cursor { segment: next, position: 0 });
        } else if position < mark.position {
            return Err(damaged(format!(
                "segment {} at {position}: no whole record below the durable mark",
                at.segment
            )));
        }
    }
}

fn follow_segment(shared: &Shared, file: &File, at: Cursor, mark: Mark) -> Result<Option<u64>, LogError> {
    let length = file.metadata().map_err(|e| io_error("read", e))?.len();
    let until = if at.segment == mark.segment { mark.position.min(length) } else { length };
    let from = at.position.max(SEGMENT_HEADER_BYTES as u64);
    if until <= from {
        return Ok(None);
    }
    shared.segments.lock().users.entry(at.segment).or_default();
    let bytes = read_up_to(file, from, (until - from) as usize)?;
    Ok(Some(from + scan_frames(shared, at.segment, &bytes, from, 0)? as u64))
}

/// The header of a segment, to be written with its first group.
pub fn header_of(log_id: u64, segment: u64, previous: Option<Cursor>) -> SegmentHeader {
    let (previous, end) = previous.map_or((0, 0), |p| (p.segment, p.position));
    SegmentHeader { log_id, segment, previous, previous_end: end as u32 }
}
