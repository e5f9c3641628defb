//! One symbol as its records come: `orders` ahead, `events` behind. Memory is bounded by how far `events` lags, the open
//! orders, and the windows below.

use std::collections::VecDeque;

use bytes::Bytes;

use super::diagnose::{Scene, Trades, diagnose, words};
use super::lives::Lives;
use super::replay::{Applied, Expected, Replay};
use super::report::{Kind, MoveSeen, SymbolReport, Violation};
use super::state::book_digest;
use super::{AuditOptions, SnapshotBytes, snapshots};
use crate::domain::outbox::Header;
use crate::domain::{Classes, Micros, Offset, Output, OutputBody, Seq, Symbol};
use crate::migration::pause::PauseMeter;
use crate::ports::log::Record;
use crate::wire;

/// Outputs whose bytes a repeat is held against: 8 bytes each, 2 MiB for a symbol that had so many.
pub const REPEATS_WINDOW: usize = 1 << 18;
/// Outputs that are looked at to tell a lost answer from a late one.
const LATE_MAX: u64 = 4_096;

/// Judges one symbol. Feed `orders` at least up to the highest input offset of an `events` record before that record.
pub struct SymbolAuditor {
    complete: bool,
    /// Whether the beginning of the log is gone.
    trimmed: bool,
    replay: Replay,
    /// Records not replayed yet: they are when an output asks for them.
    inbox: VecDeque<Record>,
    expected: VecDeque<Expected>,
    /// Ascending by offset, those below the replay checked.
    snapshots: VecDeque<SnapshotBytes>,
    /// (seq that follows the snapshot's last, its position, its name): checked when that seq is met.
    positions: Vec<(Seq, Offset, String)>,
    /// Highest last seq of a snapshot, and its name.
    visible: (Seq, String),
    heard: Heard,
    lives: Lives,
    trades: Trades,
    meters: Vec<(usize, PauseMeter)>,
    /// An output that did not come where it belonged.
    missing: Option<Missing>,
    /// Published outputs and the log went apart: what comes now is only held against itself.
    diverged: bool,
    report: SymbolReport,
}

/// How far `events` was read.
#[derive(Default)]
struct Heard {
    /// Judged from the one behind this.
    base: Seq,
    last: Seq,
    /// Hashes of the last outputs, the last of them that of `last`.
    hashes: VecDeque<u64>,
    /// Publication of the last record with something new.
    at: Option<Micros>,
    /// The last record that was answered to its end.
    answered: Option<Offset>,
}

struct Missing {
    expected: Expected,
    instead: Violation,
    looked: u64,
}

fn hash_of(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut h = siphasher::sip::SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x6175_6469_7473_6571);
    h.write(bytes);
    h.finish()
}

impl SymbolAuditor {
    /// Begins with the oldest snapshot if the log was trimmed, with the symbol's LIST otherwise.
    pub fn new(symbol: Symbol, mut snapshots: Vec<SnapshotBytes>, options: &AuditOptions) -> Self {
        snapshots.sort_by_key(|s| s.key);
        let mut auditor = Self {
            complete: options.complete,
            trimmed: options.orders_start > Offset(0) || options.events_start > Offset(0),
            replay: Replay::new(symbol, options.partition, options.keyring.clone()),
            inbox: VecDeque::new(),
            expected: VecDeque::new(),
            snapshots: snapshots.into(),
            positions: Vec::new(),
            visible: (Seq(0), String::new()),
            heard: Heard::default(),
            lives: Lives::default(),
            trades: Trades::default(),
            meters: Vec::new(),
            missing: None,
            diverged: false,
            report: SymbolReport::new(symbol),
        };
        if auditor.trimmed {
            auditor.start_from_snapshot(options.orders_start);
        }
        auditor
    }

    fn start_from_snapshot(&mut self, orders_start: Offset) {
        while let Some(snapshot) = self.snapshots.pop_front() {
            match snapshots::read(&snapshot) {
                // The records behind it are gone: a newer one will do.
                Ok((raw, _)) if raw.header.offset < orders_start => {}
                Ok((raw, state)) => {
                    let header = &raw.header;
                    self.replay.restore(&raw, &state);
                    self.lives = Lives::restore(&state.orders);
                    (self.heard.base, self.heard.last) = (header.seqs.last, header.seqs.last);
                    self.report.from = header.offset;
                    self.report.snapshots += 1;
                    self.promise(header.seqs.last, header.events_position, snapshot.key.path());
                    return;
                }
                Err((kind, text)) => self.violate_at(kind, Some(snapshot.key.offset), text),
            }
        }
    }

    fn promise(&mut self, last: Seq, position: Offset, path: String) {
        self.visible = std::mem::take(&mut self.visible).max((last, path.clone()));
        self.positions.push((last.next(), position, path));
    }

    fn violate(&mut self, kind: Kind, seq: Seq, offset: Offset, events: Offset, text: String) {
        let (seq, offset, events_offset) = (Some(seq), Some(offset), Some(events));
        self.report.add(Violation { kind, symbol: self.report.symbol, seq, offset, events_offset, text });
    }

    fn violate_at(&mut self, kind: Kind, offset: Option<Offset>, text: String) {
        self.report.add(Violation { kind, symbol: self.report.symbol, seq: None, offset, events_offset: None, text });
    }

    /// A record of `orders` with this symbol's key.
    pub fn order(&mut self, record: Record) {
        if record.offset >= self.report.from {
            self.inbox.push_back(record);
        }
        // Before its birth nothing is said, so nothing would ask for these.
        while !self.replay.is_born() && self.step() {}
    }

    /// Replays one more record; `false`: there is none.
    fn step(&mut self) -> bool {
        let Some(record) = self.inbox.pop_front() else { return false };
        self.check_snapshots(record.offset);
        for (_, meter) in &mut self.meters {
            meter.command(record.at);
        }
        match self.replay.apply(&record, &mut self.expected) {
            Applied::Refused => self.report.refused += 1,
            Applied::Nothing => {}
            Applied::Command => self.report.inputs += 1,
            Applied::Fenced { fence, from } => {
                self.meters.push((self.report.moves.len(), PauseMeter::new(record.offset, self.heard.at)));
                let (epoch, to, fence_offset) = (fence.epoch, fence.to, record.offset);
                self.report.moves.push(MoveSeen { epoch, from, to, fence_offset, at: record.at, pause_us: None });
            }
        }
        true
    }

    /// Those that lie before the record at `offset`.
    fn check_snapshots(&mut self, offset: Offset) {
        while self.snapshots.front().is_some_and(|s| s.key.offset <= offset) {
            let Some(snapshot) = self.snapshots.pop_front() else { return };
            let checked = snapshots::read(&snapshot).and_then(|(raw, state)| {
                snapshots::compare(&raw, &state, &self.replay)?;
                Ok(raw.header)
            });
            match checked {
                Ok(header) => {
                    self.report.snapshots += 1;
                    self.promise(header.seqs.last, header.events_position, snapshot.key.path());
                }
                Err((kind, text)) => self.violate_at(kind, Some(snapshot.key.offset), text),
            }
        }
    }

    /// A record of `events` with this symbol's key.
    pub fn event(&mut self, record: &Record) {
        let unreadable = |auditor: &mut Self, why: &str| {
            let symbol = auditor.report.symbol;
            let (events_offset, text) = (Some(record.offset), why.to_owned());
            auditor.report.add(Violation {
                kind: Kind::UnreadableEvents,
                symbol,
                seq: None,
                offset: None,
                events_offset,
                text,
            });
        };
        let events = match wire::events::decode(&record.value) {
            Ok(events) if events.symbol == self.report.symbol => events,
            Ok(_) => return unreadable(self, "key and content name different symbols"),
            Err(e) => return unreadable(self, &e.to_string()),
        };
        if self.trimmed && !self.replay.is_born() {
            return;
        }
        let (mut rest, mut seq, mut highest) = (events.outputs.clone(), events.first, None);
        let mut classes = Classes::NONE;
        while !rest.is_empty() {
            let head = match Header::read(&rest) {
                Ok(head) if head.seq == seq => head,
                Ok(_) => return unreadable(self, "its seqs are not dense"),
                Err(e) => return unreadable(self, &e.to_string()),
            };
            classes = classes | head.classes;
            let bytes = rest.split_to(head.length);
            if self.output(&head, &bytes, record.offset) {
                highest = highest.max(Some(head.offset));
            }
            seq = seq.next();
        }
        if (seq, classes) != (events.last().next(), events.classes) {
            unreadable(self, "its head says something else of its outputs than they are");
        }
        if let Some(highest) = highest {
            self.published(highest, record.at);
        }
    }

    fn published(&mut self, highest: Offset, at: Micros) {
        self.heard.at = Some(at);
        let moves = &mut self.report.moves;
        self.meters.retain_mut(|(n, meter)| match meter.published(highest, at) {
            Some(pause) => {
                moves[*n].pause_us = Some(pause);
                false
            }
            None => true,
        });
    }

    /// One output; whether it is new.
    fn output(&mut self, head: &Header, bytes: &Bytes, at: Offset) -> bool {
        if head.seq <= self.heard.base {
            return false;
        }
        if head.seq <= self.heard.last {
            self.repeat(head, bytes, at);
            return false;
        }
        if head.seq > self.heard.last.next() {
            self.gap(head, at);
        }
        self.heard(head.seq, bytes);
        self.report.outputs += 1;
        if self.diverged {
            self.follow(head);
            self.check_positions(head.seq, at);
            return true;
        }
        while self.expected.is_empty() && self.step() {}
        self.check_positions(head.seq, at);
        match self.expected.pop_front() {
            Some(e) if e.bytes == *bytes => self.accept(head, bytes, at),
            expected => self.wrong(expected, head, bytes, at),
        }
        true
    }

    fn heard(&mut self, seq: Seq, bytes: &[u8]) {
        if self.heard.hashes.len() == REPEATS_WINDOW {
            self.heard.hashes.pop_front();
        }
        self.heard.hashes.push_back(hash_of(bytes));
        self.heard.last = seq;
    }

    fn repeat(&mut self, head: &Header, bytes: &Bytes, at: Offset) {
        let back = (self.heard.last.0 - head.seq.0) as usize;
        let known = self.heard.hashes.len().checked_sub(back + 1).map(|n| self.heard.hashes[n]);
        match known {
            None => self.report.repeats_unchecked += 1,
            Some(known) if known == hash_of(bytes) => self.report.repeats += 1,
            Some(_) => {
                let Some(output) = self.decoded(bytes, at) else { return };
                let owner = self.wrong_owner(&output);
                let (kind, why) = owner.unwrap_or((Kind::RepeatDiffers, "this seq said something else before".into()));
                self.violate(kind, head.seq, head.offset, at, format!("{why}; now {}", words(&output.body)));
            }
        }
    }

    fn decoded(&mut self, bytes: &Bytes, at: Offset) -> Option<Output> {
        let output = Output::decode(bytes).ok().map(|(output, _)| output);
        if output.is_none() {
            let (symbol, text) = (self.report.symbol, "an output cannot be read".to_owned());
            let (kind, events_offset) = (Kind::UnreadableEvents, Some(at));
            self.report.add(Violation { kind, symbol, seq: None, offset: None, events_offset, text });
        }
        output
    }

    /// MG1: an epoch other than that of the record.
    fn wrong_owner(&self, output: &Output) -> Option<(Kind, String)> {
        let right = self.replay.epoch_at(output.offset);
        let kind = match output.epoch.cmp(&right) {
            std::cmp::Ordering::Less => Kind::StaleOwner,
            std::cmp::Ordering::Greater => Kind::WrongEpoch,
            std::cmp::Ordering::Equal => return None,
        };
        Some((kind, format!("written in epoch {}, the record belongs to epoch {right}", output.epoch)))
    }

    /// Outputs are missing; what comes behind them is judged all the same.
    fn gap(&mut self, head: &Header, at: Offset) {
        let first = self.heard.last.next();
        let text = format!("seqs {first} to {} were never published before", head.seq.0 - 1);
        self.violate(Kind::Gap, first, head.offset, at, text);
        while self.heard.last.next() < head.seq {
            while !self.diverged && self.expected.is_empty() && self.step() {}
            let skipped = self.expected.pop_front();
            if let Some(skipped) = &skipped {
                self.learn(&skipped.bytes);
            }
            self.diverged |= skipped.is_none();
            let bytes = skipped.map_or_else(Bytes::new, |e| e.bytes);
            self.heard(self.heard.last.next(), &bytes);
        }
    }

    /// Rule 10: a reader at a snapshot's position meets the seq behind its last one.
    fn check_positions(&mut self, seq: Seq, at: Offset) {
        let due = self.positions.extract_if(.., |(next, ..)| *next <= seq).collect::<Vec<_>>();
        for (next, position, path) in due.into_iter().filter(|(_, position, _)| *position > at) {
            let text = format!("{path}: its position in events is {position}");
            self.violate(Kind::SnapshotPosition, next, Offset(0), at, text);
        }
    }

    fn accept(&mut self, head: &Header, bytes: &Bytes, at: Offset) {
        if let Some(why) = self.learn(bytes) {
            self.violate(Kind::Quantity, head.seq, head.offset, at, why);
        }
    }

    /// Takes up a right output; gives what does not add up.
    fn learn(&mut self, bytes: &Bytes) -> Option<String> {
        let (output, _) = Output::decode(bytes).ok()?;
        let sound = self.lives.heard(&output);
        if let OutputBody::Trade(t) = &output.body {
            self.trades.heard(output.offset, t);
            self.report.fills += 1;
        }
        if output.end {
            self.heard.answered = Some(output.offset);
        }
        sound.err()
    }

    fn wrong(&mut self, expected: Option<Expected>, head: &Header, bytes: &Bytes, at: Offset) {
        let Some(output) = self.decoded(bytes, at) else {
            self.diverged = true;
            return;
        };
        if let Some((kind, why)) = self.wrong_owner(&output) {
            self.violate(kind, head.seq, head.offset, at, why);
            // Consumers took it; whether its owner's own copy comes later, the log goes on from there.
            expected.iter().for_each(|e| _ = self.learn(&e.bytes));
            return;
        }
        let should = expected.as_ref().and_then(|e| Output::decode(&e.bytes).ok()).map(|(output, _)| output);
        let scene = Scene { lives: &self.lives, trades: &self.trades, answered: self.heard.answered };
        let named = diagnose(&scene, should.as_ref(), &output);
        self.diverged = true;
        match (named, expected) {
            (Some((kind, why)), _) => self.violate(kind, head.seq, head.offset, at, why),
            (None, Some(expected)) => {
                let text = format!("record {} is passed over, {} comes first", expected.offset, head.offset);
                let (symbol, seq, offset) = (self.report.symbol, Some(expected.seq), Some(expected.offset));
                let kind = if self.is_begun(&expected) { Kind::LostOutput } else { Kind::LostOrder };
                let instead = Violation { kind, symbol, seq, offset, events_offset: Some(at), text };
                self.missing = Some(Missing { expected, instead, looked: 0 });
            }
            (None, None) => {}
        }
    }

    /// Whether outputs of its record were heard already.
    fn is_begun(&self, expected: &Expected) -> bool {
        self.heard.answered.is_some_and(|last| last < expected.offset) && self.lives.is_trading()
    }

    /// After the ways parted: was the missing answer late, or lost?
    fn follow(&mut self, head: &Header) {
        while self.inbox.front().is_some_and(|r| r.offset <= head.offset) {
            self.step();
        }
        self.expected.clear();
        let Some(missing) = &mut self.missing else { return };
        missing.looked += 1;
        let is_late = head.offset == missing.expected.offset;
        if (is_late || missing.looked == LATE_MAX)
            && let Some(mut found) = self.missing.take()
        {
            if is_late {
                found.instead.kind = Kind::Reordered;
                found.instead.text += &format!(" and is answered late, with seq {}", head.seq);
            }
            self.report.add(found.instead);
        }
    }

    /// The log ends here.
    pub fn finish(mut self) -> SymbolReport {
        while self.step() {
            if self.diverged {
                self.expected.clear();
            }
        }
        self.check_snapshots(Offset(u64::MAX));
        if self.trimmed && !self.replay.is_born() && self.report.refused > 0 {
            self.violate_at(
                Kind::NoStart,
                None,
                "no snapshot that can be read goes back to where the log begins".into(),
            );
        }
        if let Some(missing) = self.missing.take() {
            self.report.add(missing.instead);
        }
        if !self.diverged {
            self.report.pending = self.expected.len() as u64;
            if let Some(first) = self.expected.front().filter(|_| self.complete) {
                let (kind, symbol, seq, offset) =
                    (Kind::Unanswered, self.report.symbol, Some(first.seq), Some(first.offset));
                let text = format!("{} outputs were never published", self.expected.len());
                self.report.add(Violation { kind, symbol, seq, offset, events_offset: None, text });
            }
            let (quantities, sound) = self.lives.quantities();
            self.report.quantities = quantities;
            if let Err(why) = sound {
                self.violate_at(Kind::Quantity, None, why);
            }
        }
        let (seq, path) = std::mem::take(&mut self.visible);
        if seq > self.heard.last {
            let text = format!("{path}: its outputs go to {seq}, published are {}", self.heard.last);
            self.violate_at(Kind::SnapshotEarly, None, text);
        }
        (self.report.epoch, self.report.owner) = (self.replay.epoch(), self.replay.owner());
        let resting = self.replay.state().map_or_else(Vec::new, |s| s.orders);
        self.report.book_digest = book_digest(&resting).to_string();
        self.report
    }
}
