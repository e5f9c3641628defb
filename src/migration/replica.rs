//! A machine on one node, and its right to publish (docs/handover.md; the numbers in comments are its rules).
//!
//! Pure: records and messages go in, effects come out. Safety rests on three facts: an output is sent only behind all
//! earlier ones (A), nothing of a session lands behind a lost record of it (B), and "durable up to s" is said only when
//! it is so (C).

mod nonces;
mod pending;

use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::snapshot::Snapshot;
use crate::domain::control::Fence;
use crate::domain::{Digest, Epoch, Input, Machine, Micros, NodeId, Offset, Outbox, Seq, Seqs, Symbol};
use nonces::Nonces;
pub use nonces::{NONCES_FOR_FENCES, NONCES_MAX};
use pending::{Chunk, Pending};

/// Sealed messages kept until their fence is applied: a shadow's lag is small when it is fenced in, so one is usual.
/// What finds no room costs the crash path, never an output.
const EARLY_MAX: usize = 16;

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

/// Why a control record had no effect.
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
    /// Invariant MG2 is broken: say so loudly. [`Effect::Restore`] follows if the takeover had not happened yet;
    /// otherwise this replica publishes nothing any more, and somebody must look.
    Alarm { epoch: Epoch, mine: (Seq, Digest), theirs: (Seq, Digest) },
    /// Discard this replica and restore (rule 3).
    Restore,
    /// Discard this replica, which forgot outputs that it would have to publish, and restore for the fence of `epoch`
    /// (rule 8b): see [`Replica::for_crash_path`].
    RestoreByCrashPath { epoch: Epoch, floor: Seq },
}

/// What is known of the output topic. A machine with more topics has one of these for each.
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
    nonces: Nonces,
    owner: NodeId,
    mode: Mode,
    hold: Option<AtFence>,
    /// The last fence whose takeover was completed: a Sealed that comes later is still compared.
    taken: Option<AtFence>,
    /// Rule 8b: until the fence of this epoch, which is to me, nothing of what is replayed is a takeover or a debt.
    silent_until: Option<Epoch>,
    /// Sealed messages that overtook their fence.
    early: Vec<Sealed>,
    /// Two owners disagreed after this one had published: nothing is published any more.
    stopped: bool,
    /// Last seq enqueued or known durable.
    sent: Seq,
    topic: TopicState,
    /// Regenerated outputs above `sent` and above `forgot`.
    pending: Pending,
    /// Outputs up to here were forgotten by the shadow that it was (rule 4).
    forgot: Seq,
    debts: Vec<Debt>,
}

impl<M: Machine> Replica<M> {
    /// Begins with the record that lists the symbol; `None` if that is no valid birth. One that was appended after it
    /// had run out is void, here as anywhere.
    pub fn born(
        me: NodeId,
        symbol: Symbol,
        owner: NodeId,
        input: &Input<M::Command>,
        effects: &mut Vec<Effect>,
    ) -> Option<Self> {
        let mut nonces = Nonces::default();
        if let Some(authority) = M::authority(&input.command)
            && let Err(why) = nonces.spend(authority, input.at, false)
        {
            effects.push(Effect::Void { offset: input.offset, why });
            return None;
        }
        let mut outbox = Outbox::new(Seqs::default(), Epoch(0));
        let machine = M::birth(input, &mut outbox)?;
        let mut replica = Self::new(me, symbol, machine, outbox, owner, input.offset.next());
        replica.clock = input.at;
        replica.nonces = nonces;
        replica.collect(effects);
        Some(replica)
    }

    /// Rule 3. The caller goes on by applying the records from the snapshot's offset.
    pub fn restore(me: NodeId, snapshot: Snapshot<M>) -> Self {
        let outbox = Outbox::new(snapshot.seqs, snapshot.epoch);
        let mut replica = Self::new(me, snapshot.symbol, snapshot.machine, outbox, snapshot.owner, snapshot.offset);
        replica.clock = snapshot.clock;
        replica.nonces = Nonces::from_vec(snapshot.nonces);
        replica.sent = snapshot.seqs.last;
        replica.topic.floor = snapshot.seqs.last; // SN1: it became visible only once that was durable
        replica
    }

    /// Rule 8b: instead of a holder of `epoch`'s fence that dropped outputs. `floor` is the highest of the floors kept
    /// and of what reading `events` to its end gave. The caller goes on by applying the records from the snapshot's
    /// offset; the replica says nothing until it applies that fence, and then everything above the floor.
    pub fn restore_by_crash_path(me: NodeId, snapshot: Snapshot<M>, epoch: Epoch, floor: Seq) -> Self {
        Self::restore(me, snapshot).for_crash_path(epoch, floor)
    }

    /// Rule 8b for a replica that was just restored or born.
    #[must_use]
    pub fn for_crash_path(mut self, epoch: Epoch, floor: Seq) -> Self {
        self.raise_floor(floor);
        if self.epoch() < epoch {
            self.mode = Mode::Shadow;
            self.silent_until = Some(epoch);
        }
        self
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
            nonces: Nonces::default(),
            owner,
            mode,
            hold: None,
            taken: None,
            silent_until: None,
            early: Vec::new(),
            stopped: false,
            sent: Seq(0),
            topic: TopicState::default(),
            pending: Pending::default(),
            forgot: Seq(0),
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
        let fence = M::fence(&input.command);
        if let Err(why) = self.nonces.spend(authority, self.clock, fence.is_some()) {
            effects.push(Effect::Void { offset: input.offset, why });
            return;
        }
        match fence {
            Some(fence) => {
                let fence = *fence;
                self.collect(effects);
                self.fence(&fence, input.offset, effects);
            }
            None => self.machine.apply(input, &mut self.outbox),
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
            _ if self.stopped => {}
            _ if self.silent_until.is_some_and(|until| fence.epoch < until) => {}
            (_, true) if self.silent_until.is_some() => {
                if self.hold_at(at, effects) {
                    self.take_by_crash_path(self.topic.floor, effects);
                }
            }
            (true, true) | (false, false) => {}
            (false, true) => _ = self.hold_at(at, effects),
            // 9: an Active owner owes a Sealed; 9b: a holder first has to drain what it held.
            (true, false) if self.silent_until.is_none() => {
                let drains = self.hold.take();
                self.mode = Mode::Shadow;
                self.debts.push(Debt { at, to: fence.to, drains });
                self.pay(effects);
            }
            (true, false) => {}
        }
        self.silent_until = self.silent_until.filter(|until| fence.epoch < *until);
        self.early.retain(|sealed| sealed.epoch > fence.epoch);
    }

    /// Rule 6; the Sealed may be here already. `false`: it is, and disagrees (rule 7).
    fn hold_at(&mut self, at: AtFence, effects: &mut Vec<Effect>) -> bool {
        self.mode = Mode::Hold(at.epoch);
        self.hold = Some(at);
        let early = self.early.iter().position(|sealed| sealed.epoch == at.epoch);
        if let Some(sealed) = early.map(|n| self.early.swap_remove(n)) {
            self.sealed(sealed, effects);
            return self.mode == Mode::Active;
        }
        true
    }

    /// Rule 4: takes the outputs written since the last time.
    fn collect(&mut self, effects: &mut Vec<Effect>) {
        let count = u64::from(self.outbox.count());
        if count == 0 {
            return;
        }
        let last = self.seq();
        let outputs = Bytes::from(self.outbox.take());
        if self.stopped {
            return;
        }
        let chunk = Chunk { first: Seq(last.0 - count + 1), last, outputs };
        if self.mode == Mode::Active {
            self.enqueue(chunk, effects);
        } else if let Some(chunk) = chunk.above(self.topic.floor) {
            self.pending.push(chunk);
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
        self.taken = self.hold.take();
        for chunk in self.pending.take() {
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
        self.pending.trim(self.topic.floor);
    }

    /// Rule 7, and 9b for a holder that was fenced away.
    pub fn sealed(&mut self, sealed: Sealed, effects: &mut Vec<Effect>) {
        let is_of = |at: &AtFence| at.epoch == sealed.epoch;
        if let Some(hold) = self.hold.filter(is_of) {
            if !agrees(&hold, &sealed, effects) {
                effects.push(Effect::Restore);
                return;
            }
            self.learn(sealed.seq);
            self.become_active(effects);
        } else if let Some(n) = self.debts.iter().position(|d| d.drains.as_ref().is_some_and(is_of)) {
            let debt = self.debts[n];
            if !debt.drains.is_some_and(|hold| agrees(&hold, &sealed, effects)) {
                effects.push(Effect::Restore);
                return;
            }
            self.learn(sealed.seq);
            self.drain(debt.at.seq, effects);
            self.debts[n].drains = None;
        } else if let Some(taken) = self.taken.filter(is_of) {
            // The crash path was quicker, and had nothing to compare with.
            if !agrees(&taken, &sealed, effects) {
                self.stop();
                return;
            }
            self.learn(sealed.seq);
        } else {
            // Of another epoch: a true claim all the same (C), and never the end of a hold.
            self.learn(sealed.seq);
            self.keep_early(sealed);
        }
        self.pay(effects);
    }

    /// Everything up to `seq` is durable, as its publisher says.
    fn learn(&mut self, seq: Seq) {
        self.sent = self.sent.max(seq);
        self.raise_floor(seq);
    }

    /// The messenger may overtake the log: a Sealed of a fence that is still to be applied waits for it.
    fn keep_early(&mut self, sealed: Sealed) {
        if sealed.epoch <= self.epoch() || self.early.contains(&sealed) {
            return;
        }
        if self.early.len() == EARLY_MAX {
            self.early.remove(0);
        }
        self.early.push(sealed);
    }

    /// Publishes nothing any more, now or later: what two owners said differs, and more of it makes it worse.
    fn stop(&mut self) {
        self.stopped = true;
        self.mode = Mode::Shadow;
        (self.hold, self.silent_until) = (None, None);
        self.pending.take();
        self.debts.clear();
    }

    /// 9b: enqueues the held outputs up to `through`; what lies behind is the next owner's and stays pending.
    fn drain(&mut self, through: Seq, effects: &mut Vec<Effect>) {
        for chunk in self.pending.take() {
            let (head, tail) = chunk.split(through);
            if let Some(head) = head {
                self.enqueue(head, effects);
            }
            tail.into_iter().for_each(|tail| self.pending.push(tail));
        }
    }

    /// Rule 4: forgets the outputs that it keeps back, whose memory is wanted elsewhere. Only a shadow may; `false` for any
    /// other, and for one that replays for the crash path because it needs them.
    ///
    /// It can still be moved to by a Sealed, which says that they are durable. By the crash path it can take over only if
    /// `events` turns out to hold them; otherwise it has to be restored.
    pub fn forget_outputs(&mut self) -> bool {
        let may = self.mode == Mode::Shadow && self.silent_until.is_none();
        if may && self.pending.bytes() > 0 {
            self.forgot = self.seq();
            self.pending.take();
            // 9a: what it can no longer drain it does not drain.
            self.debts.iter_mut().for_each(|debt| debt.drains = None);
        }
        may
    }

    /// Rule 8a, if it kept its outputs; 8b if not. `hw`: the highest seq found by reading `events` to its end.
    pub fn take_by_crash_path(&mut self, hw: Seq, effects: &mut Vec<Effect>) {
        let Mode::Hold(epoch) = self.mode else { return };
        self.raise_floor(hw);
        if self.forgot > self.sent.max(self.topic.floor) {
            effects.push(Effect::RestoreByCrashPath { epoch, floor: self.topic.floor });
            return;
        }
        self.become_active(effects);
        self.pay(effects);
    }

    /// Rule 9's test: not "my queue is empty", but "everything up to here is durable".
    pub fn is_durable(&self, seq: Seq) -> bool {
        self.topic.floor.max(self.topic.acked) >= seq
    }

    fn pay(&mut self, effects: &mut Vec<Effect>) {
        let durable = self.topic.floor.max(self.topic.acked);
        self.debts.retain(|debt| {
            let AtFence { epoch, offset, seq, digest } = debt.at;
            // Also of a holder that still waits: whoever made it durable, it is.
            let due = durable >= seq;
            if due {
                effects.push(Effect::Seal(Sealed { epoch, offset, seq, digest, to: debt.to }));
            }
            !due
        });
    }

    /// Rule 10: a copy at the applied offset, by an Active owner only. The caller shows it once [`Self::is_durable`]
    /// holds for its seq. Its machine is frozen: it can be encoded, not go on.
    pub fn cut(&mut self, events_position: Offset) -> Option<Snapshot<M>> {
        (self.mode == Mode::Active).then(|| Snapshot {
            symbol: self.symbol,
            offset: self.offset,
            seqs: self.outbox.seqs(),
            epoch: self.epoch(),
            owner: self.owner,
            events_position,
            clock: self.clock,
            nonces: self.nonces.to_vec(),
            machine: self.machine.freeze(),
        })
    }

    /// Whether a snapshot holds exactly this state: for whoever was given one and has replayed the log up to it.
    pub fn is_state_of(&self, given: &Snapshot<M>) -> bool {
        (self.symbol, self.offset, self.outbox.seqs(), self.epoch(), self.owner, self.clock)
            == (given.symbol, given.offset, given.seqs, given.epoch, given.owner, given.clock)
            && self.nonces.to_vec() == given.nonces
            && self.machine.digest() == given.machine.digest()
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

    /// Where the fence lies that this replica holds at.
    pub fn hold_offset(&self) -> Option<Offset> {
        self.hold.filter(|_| matches!(self.mode, Mode::Hold(_))).map(|hold| hold.offset)
    }

    /// The fence at which this life of the replica took the machine over: epoch and offset.
    pub fn taken_at(&self) -> Option<(Epoch, Offset)> {
        self.taken.map(|at| (at.epoch, at.offset))
    }

    /// Whether a Sealed is owed (rule 9).
    pub fn owes(&self) -> bool {
        !self.debts.is_empty()
    }

    /// Outputs kept back, for figures.
    pub fn pending_outputs(&self) -> u64 {
        self.pending.outputs()
    }

    /// Bytes of them.
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Digest of all that can influence the future: the machine, who owns it, the epoch, the clock, the nonces.
    pub fn digest(&self) -> Digest {
        let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x7265_706c_6963_6131);
        h.write_u128(self.machine.digest().0);
        h.write(self.owner.as_bytes());
        h.write_u64(self.epoch().0);
        h.write_u64(self.clock.0);
        self.nonces.digest_into(&mut h);
        Digest(h.finish128().as_u128())
    }
}

/// MG2: seq and digest at the fence, and the fence itself, are the same for both.
fn agrees(mine: &AtFence, sealed: &Sealed, effects: &mut Vec<Effect>) -> bool {
    if (mine.offset, mine.seq, mine.digest) == (sealed.offset, sealed.seq, sealed.digest) {
        return true;
    }
    let (mine, theirs) = ((mine.seq, mine.digest), (sealed.seq, sealed.digest));
    effects.push(Effect::Alarm { epoch: sealed.epoch, mine, theirs });
    false
}
