//! One record of the `events` log: some consecutive outputs of one symbol.
//!
//! ```text
//! u8 'E' | u8 format 1 | u8 classes of all outputs, or-ed | u8 symbol length | symbol
//! u64 first seq | u32 count | the outputs (see domain::outbox)
//! ```
//! All integers little endian; at most [`RECORD_BYTES_MAX`] bytes, so one input's outputs may span several records.

use bytes::{BufMut, Bytes, BytesMut};

use crate::domain::outbox::{BadOutput, Header};
use crate::domain::{Classes, Seq, Symbol};

/// Largest events record.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;
const FORMAT: u8 = 1;

/// A record, its outputs not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsRecord {
    pub symbol: Symbol,
    pub classes: Classes,
    pub first: Seq,
    pub count: u32,
    /// Whole outputs, one behind the other: `Output::decode_all`.
    pub outputs: Bytes,
}

impl EventsRecord {
    /// The last seq in it.
    pub fn last(&self) -> Seq {
        Seq(self.first.0 + u64::from(self.count) - 1)
    }
}

/// Packs encoded outputs of one symbol into as few records as fit.
///
/// # Errors
/// [`BadOutput`] when `outputs` is not a run of whole outputs.
pub fn encode(symbol: &Symbol, mut outputs: &[u8]) -> Result<Vec<Bytes>, BadOutput> {
    let mut records = Vec::with_capacity(1);
    while !outputs.is_empty() {
        let first = Header::read(outputs)?.seq;
        let (mut length, mut count, mut classes) = (0, 0u32, Classes::NONE);
        while length < outputs.len() {
            let head = Header::read(&outputs[length..])?;
            if count > 0 && length + head.length + 64 > RECORD_BYTES_MAX {
                break;
            }
            length += head.length;
            count += 1;
            classes = classes | head.classes;
        }
        let name = symbol.as_bytes();
        let mut b = BytesMut::with_capacity(length + 16 + name.len());
        b.put_slice(&[b'E', FORMAT, classes.0, name.len() as u8]);
        b.put_slice(name);
        b.put_u64_le(first.0);
        b.put_u32_le(count);
        b.put_slice(&outputs[..length]);
        records.push(b.freeze());
        outputs = &outputs[length..];
    }
    Ok(records)
}

/// Reads the head of a record.
///
/// # Errors
/// [`BadOutput`] when it is damaged or newer.
pub fn decode(value: &Bytes) -> Result<EventsRecord, BadOutput> {
    let [b'E', FORMAT, classes, name_length, ..] = value[..] else { return Err(BadOutput) };
    let at = 4 + usize::from(name_length);
    if value.len() < at + 12 {
        return Err(BadOutput);
    }
    let number = |range: std::ops::Range<usize>| value[range].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let count = number(at + 8..at + 12) as u32;
    if count == 0 {
        return Err(BadOutput);
    }
    Ok(EventsRecord {
        symbol: Symbol::from_bytes(&value[4..at]).map_err(|_| BadOutput)?,
        classes: Classes(classes),
        first: Seq(number(at..at + 8)),
        count,
        outputs: value.slice(at + 12..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Epoch, Micros, Offset, Origin, Outbox, OutputBody, Seqs};

    fn outputs(n: u64) -> Outbox {
        let mut out = Outbox::new(Seqs::default(), Epoch(0));
        for i in 0..n {
            out.begin(Offset(i), Micros(i), Origin::NONE);
            out.emit(&OutputBody::Halted, true);
            out.end();
        }
        out
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let out = outputs(3);
        let symbol = Symbol::new("TSLA").unwrap();
        let records = encode(&symbol, out.bytes()).unwrap();
        assert_eq!(records.len(), 1);
        let r = decode(&records[0]).unwrap();
        assert_eq!((r.symbol, r.first, r.last()), (symbol, Seq(1), Seq(3)));
        assert_eq!(&r.outputs[..], out.bytes());
    }

    #[test]
    fn a_long_run_is_split_below_the_bound() {
        let out = outputs(30_000);
        let records = encode(&Symbol::new("A").unwrap(), out.bytes()).unwrap();
        assert!(records.len() > 1 && records.iter().all(|r| r.len() <= RECORD_BYTES_MAX));
        let mut next = 1;
        for r in &records {
            let r = decode(r).unwrap();
            assert_eq!(r.first.0, next);
            next = r.last().0 + 1;
        }
        assert_eq!(next, 30_001);
    }
}
