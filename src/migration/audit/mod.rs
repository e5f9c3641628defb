//! The auditor: recomputes from `orders` with the naive matcher what must have been said, and holds `events` and the
//! snapshots against it (docs/audit.md).
//!
//! *Owns* the judgement of one symbol, from its LIST or the oldest snapshot on. *Never* uses the engine: it shares with it
//! the words of `domain` and the form of records. *Start reading at* [`SymbolAuditor`]; what a difference means is named
//! in `diagnose`.

mod diagnose;
mod lives;
mod replay;
mod report;
mod snapshots;
mod state;
mod symbol;

use bytes::Bytes;

pub use report::{Kind, MoveSeen, Quantities, SymbolReport, Violation};
pub use state::{book_digest, decode as decode_state, state_digest};
pub use symbol::{REPEATS_WINDOW, SymbolAuditor};

use crate::domain::outbox::Header;
use crate::domain::{Offset, Symbol};
use crate::ports::log::Record;
use crate::ports::snapshots::SnapshotKey;
use crate::wire::{self, Keyring};

/// What is known besides the records.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// Checks the control records.
    pub keyring: Keyring,
    /// The symbol's partition: control records are signed for it.
    pub partition: u32,
    /// Where the partition of `orders` begins. Above 0 the audit begins with the oldest snapshot.
    pub orders_start: Offset,
    /// The same of `events`.
    pub events_start: Offset,
    /// Whether all outputs of these records must be there: `false` beside a running exchange.
    pub complete: bool,
}

impl AuditOptions {
    /// For a whole log that nobody writes any more.
    pub fn new(keyring: Keyring, partition: u32) -> Self {
        Self { keyring, partition, orders_start: Offset(0), events_start: Offset(0), complete: true }
    }
}

/// A snapshot as it is kept.
#[derive(Debug, Clone)]
pub struct SnapshotBytes {
    pub key: SnapshotKey,
    pub bytes: Bytes,
}

/// The highest input that a record of `events` answers: feed [`SymbolAuditor::order`] so far before it. `None` if it
/// cannot be read.
pub fn highest_input(record: &Record) -> Option<Offset> {
    let mut rest = &wire::events::decode(&record.value).ok()?.outputs[..];
    let mut highest = None;
    while !rest.is_empty() {
        let head = Header::read(rest).ok()?;
        highest = highest.max(Some(head.offset));
        rest = &rest[head.length..];
    }
    highest
}

/// Judges one symbol from its partition's records; those of other symbols are passed over.
pub fn judge(
    symbol: Symbol,
    orders: &[Record],
    events: &[Record],
    snapshots: &[SnapshotBytes],
    options: &AuditOptions,
) -> SymbolReport {
    let mut auditor = SymbolAuditor::new(symbol, snapshots.to_vec(), options);
    let is_mine = |r: &&Record| r.key == symbol.as_bytes();
    let mut orders = orders.iter().filter(is_mine).peekable();
    for event in events.iter().filter(is_mine) {
        let highest = highest_input(event);
        while let Some(order) = orders.next_if(|o| Some(o.offset) <= highest) {
            auditor.order(order.clone());
        }
        auditor.event(event);
    }
    orders.for_each(|order| auditor.order(order.clone()));
    auditor.finish()
}
