//! Bytes of the journal: a header per segment, a frame per record.
//!
//! Frame, little endian: `length u32 | crc u32 | group u32 | place u32 | offset u64 | at u64 | key u32 | header u32 |
//! key, header, value`. `length` counts the whole frame; the crc covers everything but itself and starts from a salt of
//! log id and segment number, so that bytes of another log or segment are never taken for a record. `group` is the
//! position at which the group commit of this record begins, `place` is `topic << 24 | partition`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ports::log::{NewRecord, RECORD_BYTES_MAX, Topic, TopicPartition};

/// Bytes of a frame before its key.
pub const FRAME_HEADER_BYTES: usize = 40;
/// Bytes at the start of each segment.
pub const SEGMENT_HEADER_BYTES: usize = 40;
const SEGMENT_MAGIC: &[u8; 8] = b"HOTBOOK1";
const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + RECORD_BYTES_MAX;

/// Partitions of a topic must fit beside its number.
pub const PARTITIONS_MAX: u32 = 1 << 16;

/// Where the crc of every frame of one segment starts from.
pub fn salt(log_id: u64, segment: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log_id.to_le_bytes());
    hasher.update(&segment.to_le_bytes());
    hasher.finalize()
}

/// Bytes that `record` takes in the journal.
pub fn frame_bytes(record: &NewRecord) -> usize {
    FRAME_HEADER_BYTES + payload_bytes(record)
}

/// Bytes that count against [`RECORD_BYTES_MAX`].
pub fn payload_bytes(record: &NewRecord) -> usize {
    record.key.len() + record.header.len() + record.value.len()
}

/// What the log adds to a record.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub offset: u64,
    pub at: u64,
    /// Position in the segment where the record's group begins.
    pub group: u32,
}

/// Appends the frame of one record.
pub fn encode(into: &mut BytesMut, salt: u32, to: TopicPartition, stamp: Stamp, parts: [&[u8]; 3]) {
    let [key, header, value] = parts;
    let from = into.len();
    let length = FRAME_HEADER_BYTES + key.len() + header.len() + value.len();
    into.reserve(length);
    into.put_u32_le(length as u32);
    into.put_u32_le(0);
    into.put_u32_le(stamp.group);
    into.put_u32_le((to.topic as u32) << 24 | to.partition);
    into.put_u64_le(stamp.offset);
    into.put_u64_le(stamp.at);
    into.put_u32_le(key.len() as u32);
    into.put_u32_le(header.len() as u32);
    into.put_slice(key);
    into.put_slice(header);
    into.put_slice(value);
    let crc = checksum(salt, &into[from..]);
    into[from + 4..from + 8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(salt: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// A frame that was found whole; its parts are ranges of the buffer it was found in.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Bytes of the whole frame.
    pub length: usize,
    pub to: TopicPartition,
    pub stamp: Stamp,
    key_bytes: usize,
    header_bytes: usize,
}

impl Frame {
    /// Key, header and value; `buffer[at..]` must be where the frame was found.
    pub fn parts(&self, buffer: &Bytes, at: usize) -> (Bytes, Bytes, Bytes) {
        let key = at + FRAME_HEADER_BYTES;
        let header = key + self.key_bytes;
        let value = header + self.header_bytes;
        (buffer.slice(key..header), buffer.slice(header..value), buffer.slice(value..at + self.length))
    }
}

/// What is at a position of the journal.
#[derive(Debug)]
pub enum Found {
    Frame(Frame),
    /// Nothing was written here: zeros, or the end of the bytes.
    Nothing,
    /// Something that is no whole record.
    Broken,
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Length of the frame that begins with `b`, if that is a possible one.
pub fn length_at(b: &[u8]) -> Option<usize> {
    let length = b.first_chunk::<4>().map(|l| u32::from_le_bytes(*l) as usize)?;
    (FRAME_HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length).then_some(length)
}

/// Looks at the beginning of `b`.
pub fn decode(b: &[u8], salt: u32) -> Found {
    if b.len() < 4 || u32_at(b, 0) == 0 {
        let is_empty = b.iter().take(FRAME_HEADER_BYTES).all(|x| *x == 0);
        return if is_empty { Found::Nothing } else { Found::Broken };
    }
    let Some(length) = length_at(b).filter(|l| *l <= b.len()) else { return Found::Broken };
    let b = &b[..length];
    if checksum(salt, b) != u32_at(b, 4) {
        return Found::Broken;
    }
    let place = u32_at(b, 12);
    let (key_bytes, header_bytes) = (u32_at(b, 32) as usize, u32_at(b, 36) as usize);
    let Some(topic) = Topic::from_number((place >> 24) as u8) else { return Found::Broken };
    if FRAME_HEADER_BYTES + key_bytes + header_bytes > length {
        return Found::Broken;
    }
    Found::Frame(Frame {
        length,
        to: TopicPartition { topic, partition: place & 0xff_ffff },
        stamp: Stamp { offset: u64_at(b, 16), at: u64_at(b, 24), group: u32_at(b, 8) },
        key_bytes,
        header_bytes,
    })
}

/// First bytes of a segment; written together with its first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub log_id: u64,
    pub segment: u64,
    /// Number of the segment before this one, and where its records end.
    pub previous: u64,
    pub previous_end: u32,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut b = [0; SEGMENT_HEADER_BYTES];
        b[..8].copy_from_slice(SEGMENT_MAGIC);
        b[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        b[16..24].copy_from_slice(&self.segment.to_le_bytes());
        b[24..32].copy_from_slice(&self.previous.to_le_bytes());
        b[32..36].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32fast::hash(&b[..36]);
        b[36..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `None` when the bytes are not a whole header of this kind.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let b = b.get(..SEGMENT_HEADER_BYTES)?;
        if &b[..8] != SEGMENT_MAGIC || crc32fast::hash(&b[..36]) != u32_at(b, 36) {
            return None;
        }
        Some(Self {
            log_id: u64_at(b, 8),
            segment: u64_at(b, 16),
            previous: u64_at(b, 24),
            previous_end: u32_at(b, 32),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_flip_and_every_cut_is_noticed() {
        let to = TopicPartition { topic: Topic::Events, partition: 7 };
        let mut b = BytesMut::new();
        encode(&mut b, 5, to, Stamp { offset: 3, at: 4, group: 40 }, [b"key", b"header", b"value"]);
        let whole = b.clone().freeze();
        let Found::Frame(frame) = decode(&whole, 5) else { panic!("not found") };
        assert_eq!((frame.to, frame.stamp.offset, frame.stamp.at), (to, 3, 4));
        assert_eq!(frame.parts(&whole, 0), ("key".into(), "header".into(), "value".into()));
        assert!(matches!(decode(&whole, 6), Found::Broken), "another segment's salt");
        for bit in 0..b.len() * 8 {
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&b, 5), Found::Frame(_)), "flipped bit {bit}");
            b[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..whole.len() {
            assert!(!matches!(decode(&whole[..cut], 5), Found::Frame(_)), "cut at {cut}");
        }
    }
}
