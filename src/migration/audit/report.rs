//! What the auditor says of one symbol.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::domain::{Epoch, Micros, NodeId, Offset, Seq, Symbol};

/// Violations that are told in full; the rest is counted.
const TOLD_MAX: usize = 16;

macro_rules! kinds {
    ($($name:ident $code:literal $text:literal;)*) => {
        /// What was found. The names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $text] $name,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// One sentence for people.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    Gap "gap" "outputs are missing between two that were published";
    LostOrder "lost_order" "a record of the log was never answered, later ones were";
    LostOutput "lost_output" "a record was answered, but one of its outputs was left out";
    Unanswered "unanswered" "the log ends and these records were never answered";
    DoubledFill "doubled_fill" "one fill was published twice under different seqs";
    DoubledOutput "doubled_output" "a record was answered again under a later seq";
    Reordered "reordered" "records were answered in another order than that of the log";
    TimePriority "time_priority" "an order traded before an earlier one at the same price";
    PricePriority "price_priority" "an order traded before one with a better price";
    StaleOwner "stale_owner" "outputs carry an epoch that was over at their record's offset";
    WrongEpoch "wrong_epoch" "outputs carry an epoch that had not begun at their record's offset";
    RefilledOrder "refilled_order" "an order has more open than the log left it";
    GhostOrder "ghost_order" "an order that had ended, or never rested, is in the book";
    RegisteredTwice "registered_twice" "one order is in the book twice, or an id was accepted again";
    SilentMatch "silent_match" "resting quantity went away without an output";
    WrongOutcome "wrong_outcome" "an output says something else than the rules give";
    Unexplained "unexplained_output" "outputs that no record of the log explains";
    RepeatDiffers "repeat_differs" "two outputs with one seq say different things";
    UnreadableEvents "unreadable_events" "a record of events cannot be read";
    Quantity "quantity" "filled, open and canceled do not add up to what was submitted";
    SnapshotUnreadable "snapshot_unreadable" "a snapshot cannot be read, or holds another than its name says";
    SnapshotDigest "snapshot_digest" "a snapshot's digest is not that of its content";
    SnapshotDiffers "snapshot_differs" "a snapshot holds another state than the log gives at its offset";
    SnapshotEarly "snapshot_early" "a snapshot is visible although outputs before it were not published (SN1)";
    SnapshotPosition "snapshot_position" "a reader of events who starts at a snapshot's position meets a gap (rule 10)";
    NoStart "no_start" "the log was trimmed and no snapshot is left to begin with";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

/// One offence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub kind: Kind,
    pub symbol: Symbol,
    /// Seq of the output, if it is about one.
    pub seq: Option<Seq>,
    /// Offset in `orders` of the record that it is about.
    pub offset: Option<Offset>,
    /// Offset in `events` of the record in which it was found.
    pub events_offset: Option<Offset>,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.symbol, self.kind)?;
        if let Some(seq) = self.seq {
            write!(f, " at seq {seq}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", orders offset {offset}")?;
        }
        if let Some(offset) = self.events_offset {
            write!(f, ", events offset {offset}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// A fence that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MoveSeen {
    pub epoch: Epoch,
    /// Owner before, by the log.
    pub from: NodeId,
    pub to: NodeId,
    pub fence_offset: Offset,
    /// Append time of the fence.
    pub at: Micros,
    /// See [`crate::migration::pause::PauseMeter`]; `None` while nothing behind the fence was published.
    pub pause_us: Option<u64>,
}

/// Quantities of all orders that were met, in lots as the log has them (OB1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quantities {
    pub submitted: u128,
    pub filled: u128,
    pub open: u128,
    /// Canceled, expired and rejected.
    pub canceled: u128,
}

/// What was found of one symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SymbolReport {
    pub symbol: Symbol,
    /// First offset of `orders` that was judged.
    pub from: Offset,
    /// Records of `orders` that the book applied, fences left out.
    pub inputs: u64,
    /// Outputs heard, repeats left out.
    pub outputs: u64,
    pub fills: u64,
    /// Outputs that came again with the same bytes.
    pub repeats: u64,
    /// Repeats too old to be compared.
    pub repeats_unchecked: u64,
    /// Outputs that the log gives and nobody has published yet.
    pub pending: u64,
    /// Records that are no command of this symbol, and control records without effect: dead letters.
    pub refused: u64,
    /// Snapshots held against the replay.
    pub snapshots: u64,
    pub moves: Vec<MoveSeen>,
    /// Epoch and owner behind the last record.
    pub epoch: Epoch,
    pub owner: Option<NodeId>,
    /// Digest of price, quantity and queue rank of what rests behind the last record; a book's own must be equal.
    pub book_digest: String,
    pub quantities: Quantities,
    /// The first 16 in the order in which they were found.
    pub violations: Vec<Violation>,
    pub violations_total: u64,
}

impl SymbolReport {
    pub(super) fn new(symbol: Symbol) -> Self {
        Self {
            symbol,
            from: Offset(0),
            inputs: 0,
            outputs: 0,
            fills: 0,
            repeats: 0,
            repeats_unchecked: 0,
            pending: 0,
            refused: 0,
            snapshots: 0,
            moves: Vec::new(),
            epoch: Epoch(0),
            owner: None,
            book_digest: String::new(),
            quantities: Quantities::default(),
            violations: Vec::new(),
            violations_total: 0,
        }
    }

    pub fn is_clean(&self) -> bool {
        self.violations_total == 0
    }

    /// The violations' kinds, in the order in which they were found.
    pub fn kinds(&self) -> Vec<Kind> {
        self.violations.iter().map(|v| v.kind).collect()
    }

    pub(super) fn add(&mut self, violation: Violation) {
        self.violations_total += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(violation);
        }
    }
}
