//! What can happen next, and what must never be seen.

use std::fmt;

use super::bounds::{Mutation, Record};
use super::rules::Model;
use super::state::{BAD, Debt, Mode, NEVER, Nibbles, ORPHANS_MAX, Snapshot, State, Topics, Violation};

/// Whose queue: a process's, or one left by an ended session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Process(usize),
    Ended(usize),
}

/// One step of the world. A process is named by its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Apply(usize),
    /// The first record of a producer's queue becomes durable, and is acknowledged to a process that still lives. (An
    /// acknowledgement that is lost is a crash just after; one that is late is a message that is late.)
    Land {
        from: From,
        topic: usize,
    },
    ReadTopic {
        p: usize,
        topic: usize,
    },
    DeliverSealed {
        p: usize,
        epoch: u8,
        wrong: bool,
    },
    TakeByCrashPath(usize),
    RestoreByCrashPath {
        p: usize,
        from: Snapshot,
    },
    /// What was under way may still land.
    CrashAndRestore {
        p: usize,
        from: Snapshot,
    },
    /// Rule 11: what was under way is lost, at once or because the process crashed.
    LoseSuffixAndRestore {
        p: usize,
        from: Snapshot,
    },
    Cut(usize),
    ShowSnapshot {
        p: usize,
        snapshot: Snapshot,
    },
    DropPending(usize),
    Diverge(usize),
    /// Mutation only.
    GiveUp {
        p: usize,
        topic: usize,
    },
    /// Mutation only.
    ConsumerLearnsEpoch(u8),
}

impl Action {
    /// Whose step it is; nobody's if an ended session's record lands.
    pub fn process(self) -> Option<usize> {
        match self {
            Self::Apply(p) | Self::TakeByCrashPath(p) | Self::Cut(p) | Self::DropPending(p) | Self::Diverge(p) => {
                Some(p)
            }
            Self::ReadTopic { p, .. } | Self::DeliverSealed { p, .. } | Self::GiveUp { p, .. } => Some(p),
            Self::RestoreByCrashPath { p, .. } | Self::ShowSnapshot { p, .. } => Some(p),
            Self::CrashAndRestore { p, .. } | Self::LoseSuffixAndRestore { p, .. } => Some(p),
            Self::Land { from: From::Process(p), .. } => Some(p),
            Self::Land { from: From::Ended(_), .. } | Self::ConsumerLearnsEpoch(_) => None,
        }
    }
}

impl Model {
    /// Every state that is one step away.
    pub fn successors(&self, state: &State, out: &mut Vec<(Action, State)>) {
        let mut add = |action, next: State| {
            if next != *state {
                out.push((action, next));
            }
        };
        for p in 0..self.bounds.names.len() {
            self.progress(state, p, &mut add);
            self.faults(state, p, &mut add);
            self.shadow_faults(state, p, &mut add);
            self.snapshots(state, p, &mut add);
            for topic in 0..self.bounds.topics {
                self.land(state, From::Process(p), topic, &mut add);
            }
        }
        for (n, topic) in (0..ORPHANS_MAX).flat_map(|n| (0..self.bounds.topics).map(move |t| (n, t))) {
            self.land(state, From::Ended(n), topic, &mut add);
        }
        if self.is(Mutation::ConsumerFiltersEpoch) && state.consumer[0] < self.history(state).last_epoch() {
            let mut next = *state;
            next.consumer[0] += 1;
            add(Action::ConsumerLearnsEpoch(next.consumer[0]), next);
        }
    }

    fn progress(&self, state: &State, p: usize, add: &mut impl FnMut(Action, State)) {
        if state.processes[p].mode == Mode::Dead {
            return;
        }
        let mut next = *state;
        if self.apply(&mut next, p) {
            add(Action::Apply(p), next);
        }
        for topic in 0..self.bounds.topics {
            let mut next = *state;
            if self.read_topic(&mut next, p, topic) {
                add(Action::ReadTopic { p, topic }, next);
            }
        }
        for bit in (0..16).filter(|bit| state.sealed & (1 << bit) != 0) {
            let (epoch, wrong) = (bit / 2 + 1, bit % 2 == 1);
            let mut next = *state;
            self.sealed(&mut next, p, epoch, wrong);
            add(Action::DeliverSealed { p, epoch, wrong }, next);
        }
        let mut next = *state;
        if self.take_by_crash_path(&mut next, p) {
            add(Action::TakeByCrashPath(p), next);
        }
    }

    fn faults(&self, state: &State, p: usize, add: &mut impl FnMut(Action, State)) {
        let process = &state.processes[p];
        if state.restores < self.bounds.restores {
            for from in state.visible() {
                let mut next = *state;
                next.restores += 1;
                let (mut crash, mut lose, mut crash_path) = (next, next, next);
                if !process.is_queue_empty() && self.restore(&mut crash, p, from, false) {
                    add(Action::CrashAndRestore { p, from }, crash);
                }
                self.restore(&mut lose, p, from, true);
                add(Action::LoseSuffixAndRestore { p, from }, lose);
                if self.restore_by_crash_path(&mut crash_path, p, from) {
                    add(Action::RestoreByCrashPath { p, from }, crash_path);
                }
            }
        }
        for topic in (0..self.bounds.topics).filter(|_| self.is(Mutation::GiveUpOneRecord)) {
            let mut next = *state;
            if next.processes[p].queue[topic].pop().is_some() {
                add(Action::GiveUp { p, topic }, next);
            }
        }
    }

    /// What a replica that does not publish may do to itself.
    fn shadow_faults(&self, state: &State, p: usize, add: &mut impl FnMut(Action, State)) {
        let process = &state.processes[p];
        let is_replay = process.silent_until > 0; // it replays because it needs its outputs, and is no shadow
        let seq = self.seq(state, p);
        let may_drop =
            process.mode == Mode::Shadow && (!is_replay || self.is(Mutation::DropInReplay)) && process.dropped < seq;
        if may_drop && state.drops < self.bounds.drops {
            let mut next = *state;
            next.drops += 1;
            let dropped = &mut next.processes[p];
            dropped.dropped = seq;
            // What it can no longer drain it does not seal (9a), unless it turns out durable anyway.
            dropped.debts = dropped.debts.map(Debt::without_drain);
            add(Action::DropPending(p), next);
        }
        // Behind its fence it would be an owner that diverges.
        let may_diverge = match process.mode {
            Mode::Shadow => !is_replay,
            Mode::Hold(_) => self.is(Mutation::DivergeInHold),
            _ => false,
        };
        if may_diverge && state.diverges < self.bounds.diverges && process.diverged_at == NEVER {
            let mut next = *state;
            next.diverges += 1;
            next.processes[p].diverged_at = process.offset;
            add(Action::Diverge(p), next);
        }
    }

    fn snapshots(&self, state: &State, p: usize, add: &mut impl FnMut(Action, State)) {
        let process = &state.processes[p];
        let may_cut = match process.mode {
            Mode::Active => true,
            Mode::Hold(_) => self.is(Mutation::SnapshotInHold),
            _ => false,
        };
        if may_cut && state.cuts < self.bounds.cuts && process.cut == 0 && process.offset > 0 {
            let mut next = *state;
            next.cuts += 1;
            next.processes[p].cut = process.offset;
            if self.is(Mutation::PositionFromEnd) {
                next.processes[p].wrong_position = state.topics.map(Nibbles::len);
            }
            add(Action::Cut(p), next);
        }
        if process.cut > 0 && self.may_show(state, p) {
            for positions in self.positions(state, p) {
                let mut next = *state;
                next.processes[p].cut = 0;
                let snapshot = Snapshot { offset: process.cut, positions };
                next.show(snapshot);
                self.check_readers(&mut next);
                add(Action::ShowSnapshot { p, snapshot }, next);
            }
        }
    }

    /// Rule 10: positions that a snapshot may be shown with.
    fn positions(&self, state: &State, p: usize) -> Vec<[u8; 2]> {
        let process = &state.processes[p];
        if !self.bounds.positions {
            return vec![[0; 2]];
        }
        assert!(self.bounds.topics == 1, "positions are modelled for one topic");
        let history = self.history(state);
        let seq = history.last_in(history.at(process.cut).seq, 0);
        let mut found = match self.mutation {
            Some(Mutation::PositionFromEnd) => vec![process.wrong_position[0]],
            Some(Mutation::PositionFromAck) if process.acked[0] == seq => vec![process.wrong_position[0]],
            Some(Mutation::PositionFromAck) => Vec::new(),
            _ => self.positions_met(state, p, seq),
        };
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|position| [position, 0]).collect()
    }

    /// The restored snapshot's position; the first record of any seq above that snapshot's, up to `seq`, as a
    /// de-duplicating reader met it that started there; the end of the topic as read when a floor was set.
    fn positions_met(&self, state: &State, p: usize, seq: u8) -> Vec<u8> {
        let process = &state.processes[p];
        let mut found = vec![process.start[0]];
        let mut known = process.start_seq[0];
        for (position, met) in state.topics[0].seqs_from(process.start[0]) {
            if met > known && met <= seq {
                known = met;
                found.push(position);
            }
        }
        if process.read_end[0] > 0 && process.floor[0] <= seq {
            found.push(process.read_end[0]);
        }
        found
    }

    fn land(&self, state: &State, from: From, topic: usize, add: &mut impl FnMut(Action, State)) {
        let mut next = *state;
        let queue: &mut Topics = match from {
            From::Process(p) => &mut next.processes[p].queue,
            From::Ended(n) => &mut next.orphans[n],
        };
        let Some(value) = queue[topic].pop() else { return };
        let seq = value & !BAD;
        let position = next.topics[topic].len();
        let is_first = next.topics[topic].seqs_from(0).all(|(_, s)| s != seq);
        if is_first || self.bounds.positions {
            if position == Nibbles::MAX {
                return;
            }
            next.topics[topic].push(value);
        }
        if let From::Process(p) = from
            && next.processes[p].mode != Mode::Dead
        {
            let process = &mut next.processes[p];
            process.acked[topic] = process.acked[topic].max(seq);
            if self.is(Mutation::PositionFromAck) {
                process.wrong_position[topic] = position;
            }
            self.pay(&mut next, p);
        }
        self.check_landed(&mut next, topic, value, is_first);
        add(Action::Land { from, topic }, next);
    }

    fn check_landed(&self, state: &mut State, topic: usize, value: u8, is_first: bool) {
        let (history, seq) = (self.history(state), value & !BAD);
        let previous = history.prev_in(seq, topic);
        let topic_u8 = topic as u8;
        if value & BAD != 0 {
            state.violation = Some(Violation::WrongContent { topic: topic_u8, seq });
        } else if self.is(Mutation::ConsumerFiltersEpoch) {
            let [epoch, known] = state.consumer;
            if history.epoch_of(seq) >= epoch && seq > known {
                state.consumer[1] = seq;
                if previous > known {
                    state.violation = Some(Violation::Gap { topic: topic_u8, seq });
                }
            }
        } else if is_first && previous > 0 && state.topics[topic].seqs_from(0).all(|(_, s)| s != previous) {
            state.violation = Some(Violation::Gap { topic: topic_u8, seq });
        } else if self.bounds.positions {
            self.check_readers(state);
        }
    }

    /// Rules 10 and 12: a reader that knows a snapshot's seq and starts at its position, or that starts at the first
    /// record of any seq and knows that seq, meets no gap.
    fn check_readers(&self, state: &mut State) {
        let history = self.history(state);
        if !self.bounds.positions {
            return;
        }
        for topic in 0..self.bounds.topics {
            let records = state.topics[topic];
            let shown = state.visible().map(|s| (s.positions[topic], history.last_in(history.at(s.offset).seq, topic)));
            let firsts =
                records.seqs_from(0).filter(|(i, seq)| records.seqs_from(0).all(|(j, s)| s != *seq || j >= *i));
            for (position, start) in shown.chain(firsts) {
                let mut known = start;
                for (_, seq) in records.seqs_from(position) {
                    if seq > known && history.prev_in(seq, topic) > known {
                        let topic = topic as u8;
                        state.violation = Some(Violation::GapForReader { topic, position, known: start, seq });
                        return;
                    }
                    known = known.max(seq);
                }
            }
        }
    }

    /// Fact C for everything that anybody claims or believes, and MG1. (An acknowledged record is in the topic; that all
    /// before it are is what consumers are checked for.)
    pub fn check_claims(&self, state: &State) -> Option<Violation> {
        let history = self.history(state);
        for t in 0..self.bounds.topics {
            let hw = state.topics[t].highest_from(0);
            let holds = |seq: u8| history.last_in(seq, t) <= hw;
            for process in &state.processes[..self.bounds.names.len()] {
                if process.floor[t] > hw {
                    return Some(Violation::FalseClaim("floor"));
                }
                if self.bounds.positions && process.start_seq[t].max(self.high_water(state, process, t)) != hw {
                    return Some(Violation::FalseClaim("hw scanned from the snapshot's position"));
                }
            }
            let epochs = (1..=history.last_epoch()).filter(|e| state.sealed & (3 << (2 * (e - 1))) != 0);
            if !epochs.map(|e| history.seq_at_fence(e)).all(holds) {
                return Some(Violation::FalseClaim("Sealed"));
            }
            if !state.visible().map(|s| history.at(s.offset).seq).all(holds) {
                return Some(Violation::FalseClaim("snapshot"));
            }
        }
        for process in &state.processes[..self.bounds.names.len()] {
            let owns = history.at(process.offset).owner == process.name;
            let agrees = match process.mode {
                Mode::Dead => true,
                Mode::Shadow => !owns || process.silent_until > 0,
                Mode::Active | Mode::Hold(_) => owns,
            };
            if !agrees {
                return Some(Violation::TwoOwners);
            }
        }
        None
    }

    /// The step as a line of a story.
    pub fn tell(&self, before: &State, action: Action) -> String {
        let who = |p: usize| format!("n{}.{p}", before.processes[p].name);
        match action {
            Action::Apply(p) => {
                let offset = before.processes[p].offset;
                format!("Apply from offset {offset} on {}", who(p))
            }
            Action::Land { from: From::Process(p), topic } => {
                format!("Land seq {} of {} in topic {topic}", before.processes[p].queue[topic].get(0) & !BAD, who(p))
            }
            Action::Land { from: From::Ended(n), topic } => {
                format!("Land seq {} of an ended session in topic {topic}", before.orphans[n][topic].get(0) & !BAD)
            }
            Action::ReadTopic { p, topic } => format!("ReadTopic {topic} on {}", who(p)),
            Action::DeliverSealed { p, epoch, wrong } => {
                format!("DeliverSealed of epoch {epoch} to {}{}", who(p), if wrong { ", digest diverged" } else { "" })
            }
            Action::TakeByCrashPath(p) => format!("TakeByCrashPath on {}", who(p)),
            Action::RestoreByCrashPath { p, from } => format!("RestoreByCrashPath on {} from {from}", who(p)),
            Action::CrashAndRestore { p, from } => format!("Crash, Restore of {} from {from}", who(p)),
            Action::LoseSuffixAndRestore { p, from } => format!("LoseSuffix, Restore of {} from {from}", who(p)),
            Action::Cut(p) => format!("Cut at offset {} on {}", before.processes[p].offset, who(p)),
            Action::ShowSnapshot { p, snapshot } => format!("ShowSnapshot of {}: {snapshot}", who(p)),
            Action::DropPending(p) => format!("DropPending on {}", who(p)),
            Action::Diverge(p) => format!("Diverge on {}", who(p)),
            Action::GiveUp { p, topic } => format!("GiveUp the first record of {} in topic {topic}", who(p)),
            Action::ConsumerLearnsEpoch(epoch) => format!("ConsumerLearnsEpoch {epoch}"),
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot at offset {}, position {}", self.offset, self.positions[0])
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { topics } => write!(f, "Append a command with an output for topics {topics:#04b}"),
            Self::Fence { epoch, to } => write!(f, "Fence, epoch {epoch}, to n{to}"),
        }
    }
}
