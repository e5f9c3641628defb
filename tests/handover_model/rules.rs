//! The replica's side of the rules: what a process does with a record, a message or a reading.

use super::bounds::{Bounds, Mutation, Record};
use super::history::{History, histories};
use super::state::{BAD, Debt, Mode, NEVER, Nibbles, Process, Snapshot, State, TOPICS_MAX};

/// The rules, the bounds, and how the rules are misread if they are.
pub struct Model {
    pub bounds: Bounds,
    pub mutation: Option<Mutation>,
    pub logs: Vec<History>,
    /// Also checks what replicas claim and believe (fact C, MG1), not only what consumers see.
    pub checks_claims: bool,
}

impl Model {
    /// The rules as written, held to everything.
    pub fn correct(bounds: Bounds) -> Self {
        let logs = histories(&bounds);
        Self { bounds, mutation: None, logs, checks_claims: true }
    }

    /// A misreading, which is followed until a consumer is harmed.
    pub fn misread(bounds: Bounds, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), checks_claims: false, ..Self::correct(bounds) }
    }

    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub fn history(&self, state: &State) -> &History {
        &self.logs[usize::from(state.log)]
    }

    pub fn seq(&self, state: &State, p: usize) -> u8 {
        self.history(state).at(state.processes[p].offset).seq
    }

    /// Rule 5, and what of it rule 8 misread leaves out: enqueues what is above `sent` and the topics' floors.
    fn enqueue(&self, state: &mut State, p: usize, through: u8, keep: impl Fn(u8) -> bool) {
        let history = self.history(state);
        let process = &mut state.processes[p];
        for seq in process.sent + 1..=through {
            if seq <= process.dropped || !keep(seq) {
                continue; // by correct rules only what is durable
            }
            let diverged = process.diverged_at != NEVER && process.diverged_at < offset_behind(history, seq);
            let bad = if diverged { BAD } else { 0 };
            for t in (0..self.bounds.topics).filter(|t| history.is_in(seq, *t) && seq > process.floor[*t]) {
                process.queue[t].push(seq | bad);
            }
        }
        process.sent = process.sent.max(through);
        if self.is(Mutation::LastSentPersisted) {
            let name = usize::from(process.name);
            state.last_sent[name] = state.last_sent[name].max(process.sent);
        }
    }

    fn become_active(&self, state: &mut State, p: usize, keep: impl Fn(u8) -> bool) {
        let through = self.seq(state, p);
        state.processes[p].mode = Mode::Active;
        self.enqueue(state, p, through, keep);
    }

    /// Rules 1, 4, 5 and, at a fence, 2. An Active replica applies one record. Another goes on to the next fence at once
    /// and applies that: what it does with commands nobody sees, and it commutes with what others do. False if there is
    /// nothing to apply.
    pub fn apply(&self, state: &mut State, p: usize) -> bool {
        let history = self.history(state);
        let process = &mut state.processes[p];
        if process.mode == Mode::Active
            && let Some(Record::Command { .. }) = history.record(process.offset)
        {
            process.offset += 1;
            let through = history.at(process.offset).seq;
            self.enqueue(state, p, through, |_| true);
            return true;
        }
        let mut at = process.offset;
        while matches!(history.record(at), Some(Record::Command { .. })) {
            at += 1;
        }
        let Some(Record::Fence { epoch, to }) = history.record(at) else { return false };
        process.offset = at + 1;
        if epoch == history.at(at).epoch + 1 {
            let was_mine = history.at(at).owner == process.name;
            self.fence(state, p, at, (was_mine, to == state.processes[p].name));
        } else if self.is(Mutation::LosingFenceWins) && to == process.name {
            process.mode = Mode::Hold(epoch);
        }
        true
    }

    /// Rules 6 and 9, and 8b at the end of a silent replay. `mine`: (before, after) the fence at `offset`.
    fn fence(&self, state: &mut State, p: usize, offset: u8, mine: (bool, bool)) {
        let history = self.history(state);
        let epoch = history.at(offset + 1).epoch;
        let seen = &mut state.seen[usize::from(state.processes[p].name)];
        let is_replayed = offset < *seen && self.is(Mutation::ReplayedFenceIsDone);
        if self.is(Mutation::ReplayedFenceIsDone) {
            *seen = offset.max(*seen) + 1;
        }
        let process = &mut state.processes[p];
        if process.silent_until > 0 {
            if epoch == process.silent_until {
                process.silent_until = 0;
                self.become_active(state, p, |_| true);
            }
            return;
        }
        match mine {
            (true, true) | (false, false) => {}
            (false, true) if is_replayed => {
                process.mode = Mode::Active;
                process.sent = process.sent.max(history.at(offset).seq);
            }
            (false, true) => process.mode = Mode::Hold(epoch),
            (true, false) => {
                process.debts[usize::from(epoch) - 1] = match process.mode {
                    Mode::Hold(waits_for) => Debt::Drains(waits_for),
                    _ => Debt::Owed,
                };
                process.mode = Mode::Shadow;
                self.pay(state, p);
            }
        }
    }

    /// Rule 9's test.
    pub fn is_durable(&self, state: &State, p: usize, seq: u8) -> bool {
        let (history, process) = (self.history(state), &state.processes[p]);
        let known = |t: usize| process.floor[t].max(process.acked[t]);
        let any = (0..TOPICS_MAX).map(known).max().unwrap_or(0);
        let known = |t| if self.is(Mutation::HighestAck) { any } else { known(t) };
        (0..self.bounds.topics).all(|t| known(t) >= history.last_in(seq, t))
    }

    /// Sends each Sealed that has become due.
    pub fn pay(&self, state: &mut State, p: usize) {
        for epoch in 1..=self.history(state).last_epoch() {
            let process = &state.processes[p];
            let n = usize::from(epoch) - 1;
            let due = if self.is(Mutation::SealWhenQueueIsEmpty) {
                process.is_queue_empty()
            } else {
                self.is_durable(state, p, self.history(state).seq_at_fence(epoch))
            };
            if process.debts[n] != Debt::None && due {
                let wrong = process.diverged_at <= self.history(state).fence_of(epoch);
                state.sealed |= 1 << (2 * n + usize::from(wrong));
                state.processes[p].debts[n] = Debt::None;
            }
        }
    }

    /// Everything up to `seq` is durable, as its publisher says.
    fn learn(&self, state: &mut State, p: usize, seq: u8) {
        let history = self.history(state);
        let process = &mut state.processes[p];
        process.sent = process.sent.max(seq);
        for t in 0..self.bounds.topics {
            process.floor[t] = process.floor[t].max(history.last_in(seq, t));
        }
    }

    /// Rule 7, and 9b for a holder that was fenced away. `wrong`: with the digest of a diverged replica.
    pub fn sealed(&self, state: &mut State, p: usize, epoch: u8, wrong: bool) {
        let history = self.history(state);
        let process = &state.processes[p];
        let seq = history.seq_at_fence(epoch);
        let agrees = wrong == (process.diverged_at <= history.fence_of(epoch)) || self.is(Mutation::NoDigest);
        let drains = process.debts.iter().position(|d| *d == Debt::Drains(epoch));
        match (process.mode, drains) {
            (Mode::Hold(e), _) if e == epoch && !agrees => return self.discard(state, p),
            (Mode::Hold(e), _) if e == epoch => {
                self.learn(state, p, seq);
                self.become_active(state, p, |_| true);
            }
            (Mode::Hold(e), _) if self.is(Mutation::AnySealedReleases) => {
                self.learn(state, p, history.seq_at_fence(e));
                self.become_active(state, p, |_| true);
            }
            (_, Some(_)) if !agrees => return self.discard(state, p),
            (_, Some(n)) => {
                self.learn(state, p, seq);
                self.enqueue(state, p, history.seq_at_fence(n as u8 + 1), |_| true);
                state.processes[p].debts[n] = Debt::Owed;
            }
            _ => self.learn(state, p, seq),
        }
        self.pay(state, p);
    }

    /// MG2 is broken: nothing of this replica counts any more; its queue may still land.
    fn discard(&self, state: &mut State, p: usize) {
        let process = &mut state.processes[p];
        process.mode = Mode::Dead;
        process.debts = Default::default();
        process.cut = 0;
        process.diverged_at = NEVER;
    }

    /// Rule 8a. False if it is not allowed.
    pub fn take_by_crash_path(&self, state: &mut State, p: usize) -> bool {
        let history = self.history(state);
        let process = &state.processes[p];
        let Mode::Hold(epoch) = process.mode else { return false };
        let is_lost = |s: u8| (0..self.bounds.topics).any(|t| history.is_in(s, t) && s > process.floor[t]);
        let dropped_more = (process.sent + 1..=process.dropped).any(is_lost);
        if !self.bounds.crash_path_a || dropped_more && !self.is(Mutation::CrashPathAfterDrop) {
            return false;
        }
        let (name, since) = (process.name, history.seq_at_fence(epoch));
        let keep = |s| match self.mutation {
            Some(Mutation::CrashPathOwnOnly) => history.owner_of(s) == name,
            Some(Mutation::CrashPathSinceFence) => s > since,
            _ => true,
        };
        self.become_active(state, p, keep);
        self.pay(state, p);
        true
    }

    /// Rule 3, in a new process or in place of a discarded replica.
    fn restored(&self, state: &State, name: u8, snapshot: Snapshot) -> Process {
        let history = self.history(state);
        let at = history.at(snapshot.offset);
        let mut process = State::born(state.log, &[name]).processes[0];
        process.offset = snapshot.offset;
        process.mode = if at.owner == name { Mode::Active } else { Mode::Shadow };
        process.sent = at.seq;
        for t in 0..self.bounds.topics {
            process.floor[t] = history.last_in(at.seq, t);
            if self.bounds.positions {
                process.start[t] = snapshot.positions[t];
                process.start_seq[t] = process.floor[t];
            }
        }
        process
    }

    /// The process is gone, or its session ended (rule 11), and its name starts again from this snapshot. What was in
    /// its queue is lost, or may still land. False if the model has no room for one more late queue.
    pub fn restore(&self, state: &mut State, p: usize, snapshot: Snapshot, is_lost: bool) -> bool {
        let Process { name, queue, .. } = state.processes[p];
        if !is_lost && !state.orphan(queue) {
            return false;
        }
        state.processes[p] = self.restored(state, name, snapshot);
        if self.is(Mutation::LastSentPersisted) {
            let process = &mut state.processes[p];
            process.sent = process.sent.max(state.last_sent[usize::from(name)]);
        }
        true
    }

    /// Rule 8b: a holder restores in place and keeps its session and its floors.
    pub fn restore_by_crash_path(&self, state: &mut State, p: usize, snapshot: Snapshot) -> bool {
        let old = state.processes[p];
        let Mode::Hold(epoch) = old.mode else { return false };
        let mut new = self.restored(state, old.name, snapshot);
        for t in 0..TOPICS_MAX {
            new.floor[t] = new.floor[t].max(old.floor[t]);
        }
        new.queue = old.queue;
        if self.history(state).at(snapshot.offset).epoch < epoch {
            new.mode = Mode::Shadow;
            new.silent_until = epoch;
        }
        state.processes[p] = new;
        true
    }

    /// Reads a topic to its end, from the position where this process's reader started: raises the floor.
    pub fn read_topic(&self, state: &mut State, p: usize, t: usize) -> bool {
        let hw = |t: usize| self.high_water(state, &state.processes[p], t);
        let hw = if self.is(Mutation::OneHighWater) { hw(0).max(hw(1)) } else { hw(t) };
        let end = state.topics[t].len();
        let process = &mut state.processes[p];
        if process.mode == Mode::Dead || hw <= process.floor[t] {
            return false;
        }
        process.floor[t] = hw;
        if self.bounds.positions {
            process.read_end[t] = end;
        }
        self.pay(state, p);
        true
    }

    /// Rule 12: the maximum seen.
    pub fn high_water(&self, state: &State, process: &Process, t: usize) -> u8 {
        let topic: Nibbles = state.topics[t];
        if self.is(Mutation::HighWaterFiltersEpoch) {
            let history = self.history(state);
            let now = history.at(process.offset).epoch;
            let seen = topic.seqs_from(process.start[t]).map(|(_, seq)| seq);
            return seen.filter(|s| history.epoch_of(*s) >= now).max().unwrap_or(0);
        }
        topic.highest_from(process.start[t])
    }

    /// Rule 9's test for a snapshot, or what rule 10 misread makes of it.
    pub fn may_show(&self, state: &State, p: usize) -> bool {
        let (history, process) = (self.history(state), &state.processes[p]);
        let seq = history.at(process.cut).seq;
        match self.mutation {
            Some(Mutation::SnapshotInHold) => process.is_queue_empty(),
            Some(Mutation::SnapshotWaitsSinceFence) => {
                seq == history.seq_at_takeover(process.cut) || self.is_durable(state, p, seq)
            }
            _ => self.is_durable(state, p, seq),
        }
    }
}

/// Offset behind the command of an output.
fn offset_behind(history: &History, seq: u8) -> u8 {
    (1..=history.records.len() as u8).find(|o| history.at(*o).seq == seq).unwrap_or(0)
}
