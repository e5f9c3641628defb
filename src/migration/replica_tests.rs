//! The replica under a small simulation: one log, one output topic, three nodes that are fenced, crash, restart, lose
//! what they had not got acknowledged, and whose Sealed messages are late or lost. And, by name, the readings of the
//! handover that lose data.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::replica::{Effect, Mode, Replica, Sealed, VoidReason};
use super::snapshot::{Snapshot, SnapshotHeader};
use crate::domain::control::Fence;
use crate::domain::machine::SnapshotError;
use crate::domain::outbox::Header;
use crate::domain::{
    Authority, Digest, Epoch, Input, Machine, Micros, NodeId, Offset, Origin, Outbox, Output, OutputBody, Seq, Symbol,
};

/// Says `n` things per command and counts them.
#[derive(Debug, Clone, PartialEq)]
struct Toy {
    sum: u64,
}

#[derive(Debug, Clone)]
enum ToyCommand {
    Say(u32),
    Fence(Fence, Authority),
}

impl Machine for Toy {
    type Command = ToyCommand;

    fn birth(input: &Input<ToyCommand>, out: &mut Outbox) -> Option<Self> {
        let mut toy = Self { sum: 0 };
        toy.apply(input, out);
        Some(toy)
    }

    fn apply(&mut self, input: &Input<ToyCommand>, out: &mut Outbox) {
        let ToyCommand::Say(n) = input.command else { panic!("fences are the replica's") };
        out.begin(input.offset, input.at, input.origin);
        for i in 0..n {
            self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(i) + 1);
            out.emit(&OutputBody::RulesSet { version: self.sum as u32 }, i == 0);
        }
        out.end();
    }

    fn authority(command: &ToyCommand) -> Option<&Authority> {
        if let ToyCommand::Fence(_, authority) = command { Some(authority) } else { None }
    }

    fn fence(command: &ToyCommand) -> Option<&Fence> {
        if let ToyCommand::Fence(fence, _) = command { Some(fence) } else { None }
    }

    fn digest(&self) -> Digest {
        Digest(u128::from(self.sum))
    }

    fn rules_version(&self) -> u32 {
        1
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.sum.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let have = bytes.len();
        let bytes = bytes.try_into().map_err(|_| SnapshotError::Truncated { need: 8, have })?;
        Ok(Self { sum: u64::from_le_bytes(bytes) })
    }
}

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn toy() -> Symbol {
    Symbol::new("TOY").unwrap()
}

fn say(offset: u64, n: u32) -> Input<ToyCommand> {
    Input { offset: Offset(offset), at: Micros(offset), origin: Origin::NONE, command: ToyCommand::Say(n) }
}

fn fence(offset: u64, epoch: u64, to: usize) -> Input<ToyCommand> {
    let fence = Fence { epoch: Epoch(epoch), from: node(9), to: node(to) };
    let authority = Authority { nonce: u128::from(offset), valid_until: Micros(u64::MAX) };
    let command = ToyCommand::Fence(fence, authority);
    Input { offset: Offset(offset), at: Micros(offset), origin: Origin::NONE, command }
}

fn born(me: usize) -> (Replica<Toy>, Vec<Effect>) {
    let mut effects = Vec::new();
    let replica = Replica::born(node(me), toy(), node(0), &say(0, 1), &mut effects).unwrap();
    (replica, effects)
}

fn published(effects: &[Effect]) -> Vec<u64> {
    let mut seqs = Vec::new();
    for effect in effects {
        if let Effect::Publish { first, last, outputs } = effect {
            let run: Vec<u64> = Output::decode_all(outputs).map(|o| o.unwrap().seq.0).collect();
            assert_eq!(run, (first.0..=last.0).collect::<Vec<_>>());
            seqs.extend(run);
        }
    }
    seqs
}

fn sealed_of(effects: &[Effect]) -> Option<Sealed> {
    effects.iter().find_map(|e| if let Effect::Seal(s) = e { Some(*s) } else { None })
}

fn apply(replica: &mut Replica<Toy>, inputs: &[Input<ToyCommand>]) -> Vec<Effect> {
    let mut effects = Vec::new();
    replica.apply(inputs, inputs.last().unwrap().offset.next(), &mut effects);
    effects
}

#[test]
fn an_owner_publishes_and_a_shadow_keeps() {
    let (mut owner, effects) = born(0);
    assert_eq!(published(&effects), [1]);
    let (mut shadow, effects) = born(1);
    assert_eq!((published(&effects), shadow.pending_outputs()), (vec![], 1));
    assert_eq!(published(&apply(&mut owner, &[say(1, 2), say(2, 1)])), [2, 3, 4]);
    assert_eq!(published(&apply(&mut shadow, &[say(1, 2), say(2, 1)])), [0u64; 0]);
    assert_eq!(owner.digest(), shadow.digest());
}

#[test]
fn a_planned_move_publishes_every_output_once() {
    let ((mut a, first), (mut b, _)) = (born(0), born(1));
    let mut all = published(&first);
    let log = [say(1, 2), fence(2, 1, 1), say(3, 2)];
    let effects = apply(&mut a, &log);
    all.extend(published(&effects));
    assert_eq!(sealed_of(&effects), None, "nothing is acknowledged yet");
    assert_eq!(published(&apply(&mut b, &log)), [0u64; 0]);
    assert_eq!((a.mode(), b.mode()), (Mode::Shadow, Mode::Hold(Epoch(1))));
    let mut effects = Vec::new();
    a.acked(Seq(2), &mut effects);
    assert_eq!(sealed_of(&effects), None, "an empty queue is not enough: 3 is not durable");
    a.acked(Seq(3), &mut effects);
    let sealed = sealed_of(&effects).unwrap();
    let mut effects = Vec::new();
    b.sealed(sealed, &mut effects);
    all.extend(published(&effects));
    assert_eq!(b.mode(), Mode::Active);
    assert_eq!(all, [1, 2, 3, 4, 5]);
}

/// Reading: "a Sealed of another epoch releases the hold".
#[test]
fn a_sealed_of_an_older_epoch_never_ends_a_hold() {
    let (mut b, _) = born(1);
    apply(&mut b, &[say(1, 2), fence(2, 1, 1), say(3, 1), fence(4, 2, 0), say(5, 1), fence(6, 3, 1)]);
    assert_eq!(b.mode(), Mode::Hold(Epoch(3)));
    let mut effects = Vec::new();
    let old = Sealed { epoch: Epoch(2), offset: Offset(4), seq: Seq(4), digest: Digest(0), to: node(0) };
    b.sealed(old, &mut effects);
    assert_eq!((b.mode(), published(&effects)), (Mode::Hold(Epoch(3)), vec![]));
}

/// Reading: "shadow diverged silently and no digest compared".
#[test]
fn an_unequal_digest_is_an_alarm_and_a_restore() {
    let (mut b, _) = born(1);
    apply(&mut b, &[fence(1, 1, 1)]);
    let mut effects = Vec::new();
    b.sealed(
        Sealed { epoch: Epoch(1), offset: Offset(1), seq: Seq(1), digest: Digest(666), to: node(1) },
        &mut effects,
    );
    assert!(matches!(effects[..], [Effect::Alarm { .. }, Effect::Restore]));
    assert_eq!(b.mode(), Mode::Hold(Epoch(1)));
}

/// Reading: "a holder seals what nobody published" (rule 9b: it drains first).
#[test]
fn a_holder_that_is_fenced_away_drains_before_it_seals() {
    let ((mut a, _), (mut b, _)) = (born(0), born(1));
    let log = [say(1, 1), fence(2, 1, 1), say(3, 2), fence(4, 2, 2)];
    let mut effects = apply(&mut a, &log);
    a.acked(Seq(2), &mut effects);
    let first = sealed_of(&effects).unwrap();
    let effects = apply(&mut b, &log);
    assert_eq!((sealed_of(&effects), b.mode()), (None, Mode::Shadow));
    let mut effects = Vec::new();
    b.sealed(first, &mut effects);
    assert_eq!((published(&effects), sealed_of(&effects)), (vec![3, 4], None));
    b.acked(Seq(4), &mut effects);
    assert_eq!(sealed_of(&effects).unwrap().seq, Seq(4));
}

/// Reading: "crash path publishes only what this node owned, or only since the last fence".
#[test]
fn the_crash_path_publishes_what_anybody_owned() {
    let (mut b, _) = born(1);
    apply(&mut b, &[say(1, 2), fence(2, 1, 2), say(3, 1), fence(4, 2, 1), say(5, 1)]);
    let mut effects = Vec::new();
    b.take_by_crash_path(Seq(2), &mut effects);
    assert_eq!((published(&effects), b.mode()), (vec![3, 4, 5], Mode::Active));
}

/// Reading: "a fence seen again in replay counts as a takeover already done" (rule 6).
#[test]
fn a_fence_met_again_after_a_restart_holds_again() {
    let (mut a, _) = born(0);
    let snapshot = a.cut(Offset(0)).unwrap();
    let mut again = Replica::restore(node(1), snapshot);
    let effects = apply(&mut again, &[say(1, 1), fence(2, 1, 1), say(3, 1)]);
    assert_eq!((again.mode(), published(&effects)), (Mode::Hold(Epoch(1)), vec![]));
}

/// Reading: "snapshot while holding" (rule 10).
#[test]
fn only_an_active_owner_is_cut() {
    let (mut b, _) = born(1);
    assert!(b.cut(Offset(0)).is_none());
    apply(&mut b, &[fence(1, 1, 1)]);
    assert!(b.cut(Offset(0)).is_none());
}

#[test]
fn a_stale_or_early_fence_changes_nothing() {
    let (mut a, _) = born(0);
    apply(&mut a, &[fence(1, 2, 1), fence(2, 0, 1)]);
    assert_eq!((a.mode(), a.epoch(), a.owner()), (Mode::Active, Epoch(0), node(0)));
    apply(&mut a, &[fence(3, 1, 0)]);
    assert_eq!((a.mode(), a.epoch()), (Mode::Active, Epoch(1)));
}

#[test]
fn a_control_record_is_good_once_and_in_time() {
    let (mut a, _) = born(0);
    let again = Input { offset: Offset(2), ..fence(1, 2, 0) };
    let effects = apply(&mut a, &[fence(1, 1, 0), again]);
    assert_eq!(effects, [Effect::Void { offset: Offset(2), why: VoidReason::Repeated }]);
    let mut late = fence(3, 2, 0);
    if let ToyCommand::Fence(_, authority) = &mut late.command {
        authority.valid_until = Micros(2);
    }
    assert_eq!(apply(&mut a, &[late]), [Effect::Void { offset: Offset(3), why: VoidReason::RanOut }]);
    assert_eq!(a.epoch(), Epoch(1));
}

#[test]
fn a_restart_does_not_repeat_what_events_holds() {
    let (mut a, _) = born(0);
    let snapshot = a.cut(Offset(0)).unwrap();
    apply(&mut a, &[say(1, 3), say(2, 2)]);
    let mut again = Replica::restore(node(0), snapshot);
    again.topic_read(Seq(3), &mut Vec::new());
    assert_eq!(published(&apply(&mut again, &[say(1, 3), say(2, 2)])), [4, 5, 6]);
    assert_eq!(again.digest(), a.digest());
}

#[test]
fn a_snapshot_survives_its_file_and_damage_is_refused() {
    let (mut a, _) = born(0);
    apply(&mut a, &[say(1, 3), fence(2, 1, 0)]);
    let snapshot = a.cut(Offset(5)).unwrap();
    let file = snapshot.encode().unwrap();
    let read = Snapshot::<Toy>::decode(&file).unwrap();
    assert_eq!(Replica::restore(node(0), read).digest(), a.digest());
    let header = SnapshotHeader::decode(&file).unwrap();
    assert_eq!((header.offset, header.seqs.last, header.events_position), (Offset(3), Seq(4), Offset(5)));
    for n in 0..file.len() {
        assert!(Snapshot::<Toy>::decode(&file[..n]).is_err(), "cut at {n} and accepted");
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[n] ^= 1 << bit;
            if let Ok(read) = Snapshot::<Toy>::decode(&flipped) {
                // A flag of the compressed frame that says nothing about its content.
                assert_eq!(Replica::restore(node(0), read).digest(), a.digest(), "byte {n} bit {bit}");
            }
        }
    }
}

/// The messenger is quicker than the log: a Sealed waits for its fence, and no crash path is needed.
#[test]
fn a_sealed_that_overtakes_its_fence_is_kept() {
    let ((mut a, _), (mut b, _)) = (born(0), born(1));
    let log = [say(1, 2), fence(2, 1, 1), say(3, 2)];
    let mut effects = apply(&mut a, &log);
    a.acked(Seq(3), &mut effects);
    let sealed = sealed_of(&effects).unwrap();
    let mut effects = Vec::new();
    b.sealed(sealed, &mut effects);
    b.sealed(sealed, &mut effects);
    assert_eq!((published(&effects), b.mode()), (vec![], Mode::Shadow));
    assert_eq!((published(&apply(&mut b, &log)), b.mode()), (vec![4, 5], Mode::Active));
}

/// An early Sealed is still compared at its fence (rule 7).
#[test]
fn an_early_sealed_with_another_digest_is_an_alarm() {
    let (mut b, _) = born(1);
    b.sealed(
        Sealed { epoch: Epoch(1), offset: Offset(1), seq: Seq(1), digest: Digest(666), to: node(1) },
        &mut Vec::new(),
    );
    let effects = apply(&mut b, &[fence(1, 1, 1), say(2, 1)]);
    assert!(matches!(effects[..], [Effect::Alarm { .. }, Effect::Restore]), "{effects:?}");
    assert_eq!(b.mode(), Mode::Hold(Epoch(1)));
}

/// "A Sealed after the switch is harmless, unless its digest differs: then alarm and stop."
#[test]
fn a_late_sealed_with_another_digest_stops_the_replica() {
    let ((mut a, _), (mut b, _)) = (born(0), born(1));
    let log = [say(1, 1), fence(2, 1, 1)];
    let mut effects = apply(&mut a, &log);
    a.acked(Seq(2), &mut effects);
    let right = sealed_of(&effects).unwrap();
    apply(&mut b, &log);
    let mut effects = Vec::new();
    b.take_by_crash_path(Seq(1), &mut effects);
    b.sealed(right, &mut effects);
    assert_eq!((published(&effects), b.mode()), (vec![2], Mode::Active), "the same digest changes nothing");
    let mut effects = Vec::new();
    b.sealed(Sealed { digest: Digest(666), ..right }, &mut effects);
    assert!(matches!(effects[..], [Effect::Alarm { .. }]), "{effects:?}");
    let after = apply(&mut b, &[say(3, 1), fence(4, 2, 0), fence(5, 3, 1), say(6, 1)]);
    b.take_by_crash_path(Seq(2), &mut effects);
    assert_eq!((after, effects.len(), b.mode()), (vec![], 1, Mode::Shadow));
}

/// Rule 8b: restored instead of a shadow that dropped its outputs; nothing is said before the fence it is for.
#[test]
fn the_crash_path_by_restore_is_silent_until_its_fence() {
    let (mut a, _) = born(0);
    let snapshot = a.cut(Offset(0)).unwrap();
    let mut b = Replica::restore_by_crash_path(node(1), snapshot.clone(), Epoch(3), Seq(2));
    let log = [say(1, 2), fence(2, 1, 1), say(3, 1), fence(4, 2, 2), say(5, 1), fence(6, 3, 1), say(7, 1)];
    let effects = apply(&mut b, &log[..5]);
    assert_eq!((effects, b.mode()), (vec![], Mode::Shadow), "older fences of mine neither hold nor owe");
    assert_eq!((published(&apply(&mut b, &log[5..])), b.mode()), (vec![3, 4, 5, 6], Mode::Active));
    let mut late = Replica::restore_by_crash_path(node(0), snapshot, Epoch(0), Seq(3));
    assert_eq!(late.mode(), Mode::Active, "the snapshot's epoch is high enough: rule 3 decides");
    assert_eq!(published(&apply(&mut late, &[say(1, 2), say(2, 1)])), [4]);
}

/// Rule 4: what a shadow forgot it cannot say; that it must be restored for it, it says itself.
#[test]
fn a_shadow_that_forgot_its_outputs_takes_the_crash_path_only_by_restore() {
    let ((mut a, _), (mut b, _)) = (born(0), born(1));
    let snapshot = a.cut(Offset(0)).unwrap();
    let log = [say(1, 2), fence(2, 1, 1), say(3, 1)];
    apply(&mut b, &log[..1]);
    assert!(b.pending_bytes() > 0 && b.forget_outputs());
    assert_eq!((b.pending_bytes(), b.pending_outputs()), (0, 0));
    apply(&mut b, &log[1..]);
    assert!(!b.forget_outputs(), "a holder does not");
    assert_eq!(b.pending_outputs(), 1);
    let mut effects = Vec::new();
    b.take_by_crash_path(Seq(2), &mut effects);
    assert_eq!(effects, [Effect::RestoreByCrashPath { epoch: Epoch(1), floor: Seq(2) }]);
    assert_eq!(b.mode(), Mode::Hold(Epoch(1)), "nothing was said");
    let mut restored = Replica::restore(node(1), snapshot).for_crash_path(Epoch(1), Seq(2));
    apply(&mut restored, &log[..1]);
    assert!(!restored.forget_outputs(), "it needs them at its fence");
    assert_eq!(published(&apply(&mut restored, &log[1..])), [3, 4]);
}

/// What was forgotten and is durable is not missed: by reading, or by the Sealed of a planned move.
#[test]
fn forgotten_outputs_that_are_durable_are_not_missed() {
    let log = [say(1, 2), fence(2, 1, 1), say(3, 1)];
    let forgetful = || {
        let (mut b, _) = born(1);
        apply(&mut b, &log[..1]);
        b.forget_outputs();
        apply(&mut b, &log[1..]);
        b
    };
    let (mut read, mut effects) = (forgetful(), Vec::new());
    read.take_by_crash_path(Seq(3), &mut effects);
    assert_eq!(published(&effects), [4]);
    let (mut a, _) = born(0);
    let mut owed = apply(&mut a, &log);
    a.acked(Seq(3), &mut owed);
    let (mut told, mut effects) = (forgetful(), Vec::new());
    told.sealed(sealed_of(&owed).unwrap(), &mut effects);
    assert_eq!((published(&effects), told.mode()), (vec![4], Mode::Active));
}

/// Rule 9a: a holder that was fenced away and forgot what it held drains nothing.
#[test]
fn a_holder_fenced_away_that_forgot_drains_nothing() {
    let ((mut a, _), (mut b, _)) = (born(0), born(1));
    let log = [say(1, 1), fence(2, 1, 1), say(3, 2), fence(4, 2, 2)];
    let mut owed = apply(&mut a, &log);
    a.acked(Seq(2), &mut owed);
    apply(&mut b, &log);
    assert!(b.forget_outputs() && b.owes());
    let mut effects = Vec::new();
    b.sealed(sealed_of(&owed).unwrap(), &mut effects);
    assert_eq!((effects, b.owes()), (vec![], true), "it neither drains nor seals");
}

/// Rule 7 binds the crash path by restore too: what is here already is compared.
#[test]
fn an_early_sealed_that_disagrees_stops_the_crash_path_by_restore() {
    let (mut a, _) = born(0);
    let mut b = Replica::restore_by_crash_path(node(1), a.cut(Offset(0)).unwrap(), Epoch(1), Seq(0));
    let sealed = Sealed { epoch: Epoch(1), offset: Offset(2), seq: Seq(2), digest: Digest(666), to: node(1) };
    b.sealed(sealed, &mut Vec::new());
    let effects = apply(&mut b, &[say(1, 1), fence(2, 1, 1), say(3, 1)]);
    assert!(matches!(effects[..], [Effect::Alarm { .. }, Effect::Restore]), "{effects:?}");
}

/// Rule 9: what is owed is durability, whoever brought it about.
#[test]
fn a_holder_fenced_away_seals_what_another_made_durable() {
    let (mut b, _) = born(1);
    apply(&mut b, &[say(1, 1), fence(2, 1, 1), say(3, 2), fence(4, 2, 2)]);
    let mut effects = Vec::new();
    b.topic_read(Seq(3), &mut effects);
    assert_eq!(sealed_of(&effects), None);
    b.topic_read(Seq(4), &mut effects);
    assert_eq!(sealed_of(&effects).map(|s| (s.epoch, s.seq)), Some((Epoch(2), Seq(4))));
}

/// A nonce that was forgotten as run out must not be good again because the log's time stepped back.
#[test]
fn a_clock_that_steps_back_revives_no_control_record() {
    let (mut a, _) = born(0);
    let timed = |offset, at, epoch, until| {
        let mut input = fence(offset, epoch, 0);
        input.at = Micros(at);
        if let ToyCommand::Fence(_, authority) = &mut input.command {
            authority.valid_until = Micros(until);
        }
        input
    };
    apply(&mut a, &[timed(1, 10, 1, 20), timed(2, 50, 2, 60)]);
    let mut again = timed(3, 15, 3, 20);
    if let ToyCommand::Fence(_, authority) = &mut again.command {
        authority.nonce = 1;
    }
    assert_eq!(apply(&mut a, &[again]), [Effect::Void { offset: Offset(3), why: VoidReason::RanOut }]);
    assert_eq!(a.epoch(), Epoch(2));
}

/// One process: a replica and what it has sent and not yet got acknowledged.
struct Process {
    replica: Replica<Toy>,
    queue: VecDeque<(Seq, Bytes)>,
    mail: VecDeque<Sealed>,
    cut: Option<Snapshot<Toy>>,
}

struct World {
    log: Vec<Input<ToyCommand>>,
    topic: Vec<(Seq, Bytes)>,
    snapshots: Vec<Snapshot<Toy>>,
    processes: Vec<Process>,
    epoch: u64,
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { log: vec![say(0, 1)], topic: Vec::new(), snapshots: Vec::new(), processes: Vec::new(), epoch: 0 };
        for me in 0..3 {
            let (replica, effects) = born(me);
            world.processes.push(Process { replica, queue: VecDeque::new(), mail: VecDeque::new(), cut: None });
            world.run(me, effects);
        }
        world
    }

    fn run(&mut self, me: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish { last, outputs, .. } => self.processes[me].queue.push_back((last, outputs)),
                Effect::Seal(sealed) => {
                    let to = (0..3).find(|n| node(*n) == sealed.to).unwrap();
                    self.processes[to].mail.push_back(sealed);
                }
                Effect::RestoreByCrashPath { epoch, floor } => {
                    let (replica, effects) = self.restored(me);
                    self.processes[me].replica = replica.for_crash_path(epoch, floor);
                    self.processes[me].cut = None;
                    self.run(me, effects);
                }
                other => panic!("node {me}: {other:?}"),
            }
        }
    }

    fn restored(&self, me: usize) -> (Replica<Toy>, Vec<Effect>) {
        match self.snapshots.iter().max_by_key(|s| s.offset).cloned() {
            Some(snapshot) => (Replica::restore(node(me), snapshot), Vec::new()),
            None => born(me),
        }
    }

    fn read(&mut self, me: usize, count: usize) {
        let from = self.processes[me].replica.offset().0 as usize;
        let to = (from + count).min(self.log.len());
        if from < to {
            let effects = apply(&mut self.processes[me].replica, &self.log[from..to]);
            self.run(me, effects);
        }
    }

    /// The oldest publication lands and is acknowledged.
    fn land(&mut self, me: usize) {
        if let Some((last, outputs)) = self.processes[me].queue.pop_front() {
            self.topic.push((last, outputs));
            let mut effects = Vec::new();
            self.processes[me].replica.acked(last, &mut effects);
            self.run(me, effects);
            self.show(me);
        }
    }

    fn show(&mut self, me: usize) {
        let p = &mut self.processes[me];
        if p.cut.as_ref().is_some_and(|c| p.replica.is_durable(c.seqs.last)) {
            self.snapshots.extend(p.cut.take());
        }
    }

    fn hw(&self) -> Seq {
        self.topic.iter().map(|(last, _)| *last).max().unwrap_or_default()
    }

    /// The process dies: of its queue a prefix lands, the rest is lost; it starts again from a snapshot.
    fn crash(&mut self, me: usize, landed: usize) {
        let queue = std::mem::take(&mut self.processes[me].queue);
        self.topic.extend(queue.into_iter().take(landed));
        self.processes[me].mail.clear();
        self.processes[me].cut = None;
        let (replica, effects) = self.restored(me);
        self.processes[me].replica = replica;
        self.run(me, effects);
    }

    fn step(&mut self, what: u8, me: usize, n: usize) {
        let at = self.log.len() as u64;
        match what {
            0..=2 => self.log.push(say(at, 1 + n as u32 % 3)),
            3..=5 => self.read(me, 1 + n),
            6..=8 => self.land(me),
            9 => {
                self.epoch += 1;
                self.log.push(fence(at, self.epoch, n % 3));
            }
            10 => self.crash(me, n),
            11 => {
                if let Some(sealed) = self.processes[me].mail.pop_front() {
                    let mut effects = Vec::new();
                    self.processes[me].replica.sealed(sealed, &mut effects);
                    self.run(me, effects);
                }
            }
            12 => drop(self.processes[me].mail.pop_front()),
            13 => {
                let (hw, mut effects) = (self.hw(), Vec::new());
                self.processes[me].replica.take_by_crash_path(hw, &mut effects);
                self.run(me, effects);
            }
            14 => _ = self.processes[me].replica.forget_outputs(),
            _ => {
                if self.processes[me].cut.is_none() {
                    self.processes[me].cut = self.processes[me].replica.cut(Offset(0));
                    self.show(me);
                }
            }
        }
    }

    /// Everyone reads on, everything lands, whoever holds takes the crash path.
    fn settle(&mut self) {
        for _ in 0..3 {
            for me in 0..3 {
                self.read(me, usize::MAX / 2);
                while !self.processes[me].queue.is_empty() {
                    self.land(me);
                }
            }
            for me in 0..3 {
                self.step(13, me, 0);
            }
        }
        // The owner by the log may be an Active one whose earlier life's outputs were lost with its queue: it restarted
        // and published them again while reading.
        for me in 0..3 {
            while !self.processes[me].queue.is_empty() {
                self.land(me);
            }
        }
    }

    /// What a reader that goes by `seq` alone hears.
    fn heard(&self) -> Vec<Bytes> {
        let mut heard = Vec::new();
        for (_, run) in &self.topic {
            let mut rest = run.clone();
            while !rest.is_empty() {
                let head = Header::read(&rest).unwrap();
                let one = rest.split_to(head.length);
                let last = heard.len() as u64;
                assert!(head.seq.0 <= last + 1, "gap: {} after {last}", head.seq);
                match heard.get(head.seq.0 as usize - 1) {
                    Some(known) => assert_eq!(known, &one, "two outputs with seq {}", head.seq),
                    None => heard.push(one),
                }
            }
        }
        heard
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    /// Facts A, B and C: whatever happens, a reader by seq hears every output once, and what a plain replay says.
    #[test]
    fn nothing_is_lost_doubled_or_changed(steps in prop::collection::vec((0u8..16, 0usize..3, 0usize..4), 1..120)) {
        let mut world = World::new();
        for (what, me, n) in steps {
            world.step(what, me, n);
            world.heard();
        }
        world.settle();
        let (mut plain, _) = born(2);
        plain.apply(&world.log[1..], Offset(world.log.len() as u64), &mut Vec::new());
        let heard = world.heard();
        prop_assert_eq!(heard.len() as u64, plain.seq().0);
        let mut replay = Outbox::new(Default::default(), Epoch(0));
        let mut machine = Toy::birth(&world.log[0], &mut replay).unwrap();
        let mut epoch = 0;
        for input in &world.log[1..] {
            match &input.command {
                ToyCommand::Say(_) => machine.apply(input, &mut replay),
                ToyCommand::Fence(fence, _) if fence.epoch.0 == epoch + 1 => {
                    epoch += 1;
                    replay.set_epoch(Epoch(epoch));
                }
                ToyCommand::Fence(..) => {}
            }
        }
        prop_assert_eq!(heard.concat(), replay.bytes());
        for p in &world.processes {
            prop_assert_eq!(p.replica.digest(), plain.digest());
        }
    }
}
