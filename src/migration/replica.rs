//! A machine on one node, and its right to publish (HANDOVER; the numbers in comments are its rules).
//!
//! Pure: records and messages go in, effects come out. Safety rests on three facts: an output is sent only behind all
//! earlier ones (A), nothing of a session lands behind a lost record of it (B), and "durable up to s" is said only when
//! it is so (C).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::snapshot::Snapshot;
use crate::domain::control::{Authority, Fence};
use crate::domain::outbox::Header;
use crate::domain::{Digest, Epoch, Input, Machine, Micros, NodeId, Offset, Outbox, Seq, Seqs, Symbol};

/// Nonces kept per machine: a thousand control records a second for the minute that they are valid.
pub const NONCES_MAX: usize = 65_536;

/// Whether a replica publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Follows the log and keeps what it would say.
    Shadow,
    /// Owner since the fence of this epoch; waits until the outputs before it are known to be durable.
    Hold(Epoch),
    /// Publishes.
    Active,
}

/// "All outputs up to `seq`, which I owed when the fence of `epoch` at `offset` took the machine from me, are durable."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub epoch: Epoch,
    pub offset: Offset,
    pub seq: Seq,
    pub digest: Digest,
    /// Who waits for it.
    pub to: NodeId,
}

/// Why a control record had no effect (DESIGN 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VoidReason {
    #[error("it was appended after it had run out")]
    RanOut,
    #[error("its nonce was used before")]
    Repeated,
    #[error("too many control records are unexpired")]
    TooMany,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Append these whole outputs to `events`, behind all published before.
    Publish { first: Seq, last: Seq, outputs: Bytes },
    /// Tell the new owner (rule 9).
    Seal(Sealed),
    /// The control record at this offset had no effect; it is a dead letter.
    Void { offset: Offset, why: VoidReason },
    /// Invariant MG2 is broken: say so loudly.
    Alarm { epoch: Epoch, mine: (Seq, Digest), theirs: (Seq, Digest) },
    /// Discard this replica and restore (rule 3).
    Restore,
}

/// A run of whole outputs.
#[derive(Debug, Clone)]
struct Chunk {
    first: Seq,
    last: Seq,
    outputs: Bytes,
}

impl Chunk {
    /// Drops the outputs up to and including `through`; `None` if nothing is left.
    fn above(mut self, through: Seq) -> Option<Self> {
        if self.last <= through {
            return None;
        }
        while self.first <= through {
            let length = header_of(&self.outputs).length;
            self.outputs = self.outputs.slice(length..);
            self.first = self.first.next();
        }
        Some(self)
    }

    /// Splits behind `through`: (up to it, above it).
    fn split(self, through: Seq) -> (Option<Self>, Option<Self>) {
        if self.last <= through {
            return (Some(self), None);
        }
        if self.first > through {
            return (None, Some(self));
        }
        let (mut at, mut seq) = (0, self.first);
        while seq <= through {
            at += header_of(&self.outputs[at..]).length;
            seq = seq.next();
        }
        let head = Self { first: self.first, last: through, outputs: self.outputs.slice(..at) };
        (Some(head), Some(Self { first: seq, last: self.last, outputs: self.outputs.slice(at..) }))
    }
}

fn header_of(outputs: &[u8]) -> Header {
    Header::read(outputs).unwrap_or_else(|_| unreachable!("the outbox writes whole outputs"))
}

/// What is known of the output topic.
#[derive(Debug, Clone, Copy, Default)]
struct TopicState {
    /// Highest seq known durable together with everything before it.
    floor: Seq,
    /// Own publications acknowledged without a gap up to here.
    acked: Seq,
}

/// The state at a fence.
#[derive(Debug, Clone, Copy)]
struct AtFence {
    epoch: Epoch,
    offset: Offset,
    seq: Seq,
    digest: Digest,
}

/// A Sealed that this replica owes (rule 9).
#[derive(Debug, Clone, Copy)]
struct Debt {
    at: AtFence,
    to: NodeId,
    /// Set while it was fenced away as a holder: what it was waiting for (rule 9b).
    drains: Option<AtFence>,
}

/// A machine, its ownership, and how far its outputs got.
pub struct Replica<M: Machine> {
    me: NodeId,
    symbol: Symbol,
    machine: M,
    outbox: Outbox,
    offset: Offset,
    clock: Micros,
    nonces: BTreeMap<u128, Micros>,
    nonces_by_expiry: BTreeSet<(Micros, u128)>,
    /// Sum of the nonces' hashes: part of the digest.
    nonces_sum: u128,
    owner: NodeId,
    mode: Mode,
    hold: Option<AtFence>,
    /// Last seq enqueued or known durable.
    sent: Seq,
    topic: TopicState,
    /// Regenerated outputs above `sent`, ascending and dense.
    pending: VecDeque<Chunk>,
    debts: Vec<Debt>,
}

impl<M: Machine> Replica<M> {
    /// Begins with the record that lists the symbol; `None` if that is no valid birth.
    pub fn born(
        me: NodeId,
        symbol: Symbol,
        owner: NodeId,
        input: &Input<M::Command>,
        effects: &mut Vec<Effect>,
    ) -> Option<Self> {
        let mut outbox = Outbox::new(Seqs::default(), Epoch(0));
        let machine = M::birth(input, &mut outbox)?;
        let mut replica = Self::new(me, symbol, machine, outbox, owner, input.offset.next());
        replica.clock = input.at;
        if let Some(authority) = M::authority(&input.command) {
            replica.remember(authority);
        }
        replica.collect(effects);
        Some(replica)
    }

    /// Rule 3. The caller goes on by applying the records from the snapshot's offset.
    pub fn restore(me: NodeId, snapshot: Snapshot<M>) -> Self {
        let outbox = Outbox::new(snapshot.seqs, snapshot.epoch);
        let mut replica = Self::new(me, snapshot.symbol, snapshot.machine, outbox, snapshot.owner, snapshot.offset);
        replica.clock = snapshot.clock;
        for (until, nonce) in snapshot.nonces {
            replica.remember(&Authority { nonce, valid_until: until });
        }
        replica.sent = snapshot.seqs.last;
        replica.topic.floor = snapshot.seqs.last; // SN1: it became visible only once that was durable
        replica
    }

    fn new(me: NodeId, symbol: Symbol, machine: M, outbox: Outbox, owner: NodeId, offset: Offset) -> Self {
        let mode = if owner == me { Mode::Active } else { Mode::Shadow };
        Self {
            me,
            symbol,
            machine,
            outbox,
            offset,
            clock: Micros(0),
            nonces: BTreeMap::new(),
            nonces_by_expiry: BTreeSet::new(),
            nonces_sum: 0,
            owner,
            mode,
            hold: None,
            sent: Seq(0),
            topic: TopicState::default(),
            pending: VecDeque::new(),
            debts: Vec::new(),
        }
    }

    /// Applies records of this machine, ascending by offset; those below its own offset are skipped. Afterwards its
    /// offset is `through`: one past the last record of the partition that was looked at (rule 1).
    pub fn apply(&mut self, inputs: &[Input<M::Command>], through: Offset, effects: &mut Vec<Effect>) {
        let known = inputs.partition_point(|i| i.offset < self.offset);
        let mut rest = &inputs[known..];
        while let Some(first) = rest.first() {
            let run = rest.iter().position(|i| M::authority(&i.command).is_some()).unwrap_or(rest.len());
            if run > 0 {
                self.clock = rest[..run].iter().map(|i| i.at).fold(self.clock, Micros::max);
                self.machine.apply_batch(&rest[..run], &mut self.outbox);
                rest = &rest[run..];
            } else {
                self.control(first, effects);
                rest = &rest[1..];
            }
        }
        self.offset = self.offset.max(through);
        self.collect(effects);
    }

    /// A control record: checked, then either a fence or the machine's.
    fn control(&mut self, input: &Input<M::Command>, effects: &mut Vec<Effect>) {
        self.clock = self.clock.max(input.at);
        let Some(authority) = M::authority(&input.command) else { return };
        if let Err(why) = self.check(authority, input.at) {
            effects.push(Effect::Void { offset: input.offset, why });
            return;
        }
        self.remember(authority);
        match M::fence(&input.command) {
            Some(fence) => {
                let fence = *fence;
                self.collect(effects);
                self.fence(&fence, input.offset, effects);
            }
            None => self.machine.apply(input, &mut self.outbox),
        }
    }

    fn check(&mut self, authority: &Authority, at: Micros) -> Result<(), VoidReason> {
        while let Some(oldest) = self.nonces_by_expiry.first().copied().filter(|(until, _)| *until < self.clock) {
            self.nonces_by_expiry.remove(&oldest);
            self.nonces.remove(&oldest.1);
            self.nonces_sum = self.nonces_sum.wrapping_sub(nonce_hash(&oldest));
        }
        if at > authority.valid_until {
            return Err(VoidReason::RanOut);
        }
        if self.nonces.contains_key(&authority.nonce) {
            return Err(VoidReason::Repeated);
        }
        if self.nonces.len() >= NONCES_MAX {
            return Err(VoidReason::TooMany);
        }
        Ok(())
    }

    fn remember(&mut self, authority: &Authority) {
        let entry = (authority.valid_until, authority.nonce);
        if self.nonces.insert(authority.nonce, authority.valid_until).is_none() {
            self.nonces_by_expiry.insert(entry);
            self.nonces_sum = self.nonces_sum.wrapping_add(nonce_hash(&entry));
        }
    }

    /// Rules 2, 6 and 9.
    fn fence(&mut self, fence: &Fence, offset: Offset, effects: &mut Vec<Effect>) {
        if fence.epoch != self.epoch().next() {
            return;
        }
        let was_mine = self.owner == self.me;
        self.outbox.set_epoch(fence.epoch);
        self.owner = fence.to;
        let at = AtFence { epoch: fence.epoch, offset, seq: self.seq(), digest: self.digest() };
        match (was_mine, fence.to == self.me) {
            (true, true) | (false, false) => {}
            (false, true) => {
                self.mode = Mode::Hold(fence.epoch);
                self.hold = Some(at);
            }
            (true, false) => {
                // 9: an Active owner owes a Sealed; 9b: a holder first has to drain what it held.
                let drains = self.hold.take();
                self.mode = Mode::Shadow;
                self.debts.push(Debt { at, to: fence.to, drains });
                self.pay(effects);
            }
        }
    }

    /// Rule 4: takes the outputs written since the last time.
    fn collect(&mut self, effects: &mut Vec<Effect>) {
        let count = u64::from(self.outbox.count());
        if count == 0 {
            return;
        }
        let last = self.seq();
        let outputs = Bytes::from(self.outbox.take());
        let chunk = Chunk { first: Seq(last.0 - count + 1), last, outputs };
        if self.mode == Mode::Active {
            self.enqueue(chunk, effects);
        } else if let Some(chunk) = chunk.above(self.topic.floor) {
            self.pending.push_back(chunk);
        }
    }

    /// Rule 5: in order from `sent + 1`, leaving out nothing but what is known durable.
    fn enqueue(&mut self, chunk: Chunk, effects: &mut Vec<Effect>) {
        if let Some(Chunk { first, last, outputs }) = chunk.above(self.sent.max(self.topic.floor)) {
            self.sent = last;
            effects.push(Effect::Publish { first, last, outputs });
        }
    }

    fn become_active(&mut self, effects: &mut Vec<Effect>) {
        self.mode = Mode::Active;
        self.hold = None;
        for chunk in std::mem::take(&mut self.pending) {
            self.enqueue(chunk, effects);
        }
    }

    /// Own publications up to `through` are durable, without a gap.
    pub fn acked(&mut self, through: Seq, effects: &mut Vec<Effect>) {
        self.topic.acked = self.topic.acked.max(through);
        self.pay(effects);
    }

    /// `events` was read to its end and `hw` is this machine's highest seq there: a floor by facts A and B.
    pub fn topic_read(&mut self, hw: Seq, effects: &mut Vec<Effect>) {
        self.raise_floor(hw);
        self.pay(effects);
    }

    fn raise_floor(&mut self, seq: Seq) {
        self.topic.floor = self.topic.floor.max(seq);
        // 4: trimmed only as far as known durable.
        while self.pending.front().is_some_and(|c| c.last <= self.topic.floor) {
            self.pending.pop_front();
        }
    }

    /// Rule 7, and 9b for a holder that was fenced away.
    pub fn sealed(&mut self, sealed: Sealed, effects: &mut Vec<Effect>) {
        if let Some(hold) = self.hold.filter(|h| h.epoch == sealed.epoch) {
            if !self.agrees(&hold, &sealed, effects) {
                return;
            }
            self.sent = self.sent.max(sealed.seq);
            self.raise_floor(sealed.seq);
            self.become_active(effects);
        } else if let Some(n) = self.debts.iter().position(|d| d.drains.is_some_and(|h| h.epoch == sealed.epoch)) {
            let debt = self.debts[n];
            if !debt.drains.is_some_and(|hold| self.agrees(&hold, &sealed, effects)) {
                return;
            }
            self.sent = self.sent.max(sealed.seq);
            self.raise_floor(sealed.seq);
            self.drain(debt.at.seq, effects);
            self.debts[n].drains = None;
        } else {
            // Of an older epoch, or late: a true claim all the same (C), and never the end of a hold.
            self.sent = self.sent.max(sealed.seq);
            self.raise_floor(sealed.seq);
        }
        self.pay(effects);
    }

    /// MG2.
    fn agrees(&self, mine: &AtFence, sealed: &Sealed, effects: &mut Vec<Effect>) -> bool {
        if (mine.seq, mine.digest) == (sealed.seq, sealed.digest) {
            return true;
        }
        let (mine, theirs) = ((mine.seq, mine.digest), (sealed.seq, sealed.digest));
        effects.push(Effect::Alarm { epoch: sealed.epoch, mine, theirs });
        effects.push(Effect::Restore);
        false
    }

    /// 9b: enqueues the held outputs up to `through`; what lies behind is the next owner's and stays pending.
    fn drain(&mut self, through: Seq, effects: &mut Vec<Effect>) {
        for chunk in std::mem::take(&mut self.pending) {
            let (head, tail) = chunk.split(through);
            if let Some(head) = head {
                self.enqueue(head, effects);
            }
            self.pending.extend(tail);
        }
    }

    /// Rule 8a: for a replica that kept its outputs. `hw`: the highest seq found by reading `events` to its end.
    pub fn take_by_crash_path(&mut self, hw: Seq, effects: &mut Vec<Effect>) {
        if matches!(self.mode, Mode::Hold(_)) {
            self.raise_floor(hw);
            self.become_active(effects);
            self.pay(effects);
        }
    }

    /// Rule 9's test: not "my queue is empty", but "everything up to here is durable".
    pub fn is_durable(&self, seq: Seq) -> bool {
        self.topic.floor.max(self.topic.acked) >= seq
    }

    fn pay(&mut self, effects: &mut Vec<Effect>) {
        let durable = self.topic.floor.max(self.topic.acked);
        self.debts.retain(|debt| {
            let AtFence { epoch, offset, seq, digest } = debt.at;
            let due = debt.drains.is_none() && durable >= seq;
            if due {
                effects.push(Effect::Seal(Sealed { epoch, offset, seq, digest, to: debt.to }));
            }
            !due
        });
    }

    /// Rule 10: a copy at the applied offset, by an Active owner only. The caller shows it once [`Self::is_durable`]
    /// holds for its seq.
    pub fn cut(&self, events_position: Offset) -> Option<Snapshot<M>> {
        (self.mode == Mode::Active).then(|| Snapshot {
            symbol: self.symbol,
            offset: self.offset,
            seqs: self.outbox.seqs(),
            epoch: self.epoch(),
            owner: self.owner,
            events_position,
            clock: self.clock,
            nonces: self.nonces_by_expiry.iter().copied().collect(),
            machine: self.machine.clone(),
        })
    }

    /// The next record that it will look at.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Last output given.
    pub fn seq(&self) -> Seq {
        self.outbox.seqs().last
    }

    pub fn epoch(&self) -> Epoch {
        self.outbox.epoch()
    }

    pub fn owner(&self) -> NodeId {
        self.owner
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Outputs kept back, for figures.
    pub fn pending_outputs(&self) -> u64 {
        self.pending.iter().map(|c| c.last.0 - c.first.0 + 1).sum()
    }

    /// Digest of all that can influence the future: the machine, who owns it, the epoch, the clock, the nonces.
    pub fn digest(&self) -> Digest {
        let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x7265_706c_6963_6131);
        h.write_u128(self.machine.digest().0);
        h.write(self.owner.as_bytes());
        h.write_u64(self.epoch().0);
        h.write_u64(self.clock.0);
        h.write_u128(self.nonces_sum);
        h.write_usize(self.nonces.len());
        Digest(h.finish128().as_u128())
    }
}

fn nonce_hash((until, nonce): &(Micros, u128)) -> u128 {
    let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x6e6f_6e63_6573_3031);
    h.write_u64(until.0);
    h.write_u128(*nonce);
    h.finish128().as_u128()
}
