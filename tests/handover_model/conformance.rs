//! The model's process and `Replica`, side by side: random walks through the model, each step done to both. What was
//! searched is then what runs.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hotbook::domain::control::Fence;
use hotbook::domain::machine::SnapshotError;
use hotbook::domain::outbox::Header;
use hotbook::domain::{
    Authority, Digest, Epoch, Input, Machine, Micros, NodeId, Offset, Origin, Outbox, OutputBody, Seq, Symbol,
};
use hotbook::migration::replica::{self, Effect, Replica, Sealed};
use hotbook::migration::snapshot::Snapshot;

use super::actions::{Action, From};
use super::bounds::Record;
use super::rules::Model;
use super::state::{Mode, State};

/// Says one thing per command, which depends on all commands before it.
#[derive(Debug, Clone)]
struct Toy {
    sum: u64,
}

#[derive(Debug, Clone)]
enum ToyCommand {
    Say(u64),
    Fence(Fence, Authority),
}

impl Machine for Toy {
    type Command = ToyCommand;

    fn birth(_: &Input<ToyCommand>, _: &mut Outbox) -> Option<Self> {
        Some(Self { sum: 0 })
    }

    fn apply(&mut self, input: &Input<ToyCommand>, out: &mut Outbox) {
        let ToyCommand::Say(n) = input.command else { panic!("fences are the replica's") };
        self.sum = self.sum.wrapping_mul(31).wrapping_add(n);
        out.begin(input.offset, input.at, input.origin);
        out.emit(&OutputBody::RulesSet { version: self.sum as u32 }, true);
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

fn node(name: u8) -> NodeId {
    NodeId::new(&format!("n{name}")).unwrap()
}

/// The birth is at offset 0 of the log that the replicas read; the model's offset 0 lies behind it.
fn input(offset: u8, record: Record) -> Input<ToyCommand> {
    let offset = u64::from(offset) + 1;
    let command = match record {
        Record::Command { .. } => ToyCommand::Say(offset),
        Record::Fence { epoch, to } => ToyCommand::Fence(
            Fence { epoch: Epoch(epoch.into()), from: node(9), to: node(to) },
            Authority { nonce: offset.into(), valid_until: Micros(u64::MAX) },
        ),
    };
    Input { offset: Offset(offset), at: Micros(offset), origin: Origin::NONE, command }
}

type Queue = VecDeque<(u8, Bytes)>;

/// What stands for one process of the model.
struct Real {
    replica: Replica<Toy>,
    queue: Queue,
    cut: Option<Snapshot<Toy>>,
    /// Epochs whose Sealed came before their fence, as bits: the replica keeps those, the model delivers them again.
    early: u16,
}

/// One walk: the model's state and its doubles.
pub struct Walk<'a> {
    model: &'a Model,
    state: State,
    reals: Vec<Real>,
    ended: [Queue; 2],
    sealed: BTreeMap<u8, Sealed>,
    snapshots: BTreeMap<u8, Snapshot<Toy>>,
    /// The first copy of each seq.
    content: BTreeMap<u8, Bytes>,
    inputs: Vec<Input<ToyCommand>>,
    /// Repeats the walk; printed when the two differ.
    seed: u64,
}

impl<'a> Walk<'a> {
    pub fn new(model: &'a Model, log: u16, seed: u64) -> Self {
        let state = State::born(log, model.bounds.names);
        let birth = Input { offset: Offset(0), at: Micros(0), origin: Origin::NONE, command: ToyCommand::Say(0) };
        let symbol = Symbol::new("TOY").unwrap();
        let mut born = Replica::<Toy>::born(node(0), symbol, node(0), &birth, &mut Vec::new()).unwrap();
        let birth = born.cut(Offset(0)).unwrap();
        let real = |name: &u8| Real {
            replica: Replica::restore(node(*name), birth.clone()),
            queue: Queue::new(),
            cut: None,
            early: 0,
        };
        let records = model.history(&state).records.iter().enumerate();
        Self {
            model,
            state,
            reals: model.bounds.names.iter().map(real).collect(),
            ended: Default::default(),
            sealed: BTreeMap::new(),
            snapshots: BTreeMap::from([(0, birth)]),
            content: BTreeMap::new(),
            inputs: records.map(|(offset, record)| input(offset as u8, *record)).collect(),
            seed,
        }
    }

    /// Goes on with whatever `pick(n)` chooses of n possible steps until there is none, and compares after each.
    pub fn until_the_end(&mut self, mut pick: impl FnMut(usize) -> usize) -> Vec<Action> {
        let mut taken = Vec::new();
        let mut successors = Vec::new();
        loop {
            successors.clear();
            self.model.successors(&self.state, &mut successors);
            if successors.is_empty() {
                return taken;
            }
            let (action, mut next) = successors[pick(successors.len())];
            taken.push(action);
            self.step(action, &mut next);
            self.state = next;
            self.compare(&taken);
        }
    }

    fn step(&mut self, action: Action, next: &mut State) {
        let mut effects = Vec::new();
        match action {
            Action::Apply(p) => {
                let (from, to) = (self.state.processes[p].offset, next.processes[p].offset);
                let inputs = &self.inputs[usize::from(from)..usize::from(to)];
                self.reals[p].replica.apply(inputs, Offset(u64::from(to) + 1), &mut effects);
                self.early(p, next);
            }
            Action::Land { from, .. } => self.land(from, &mut effects),
            Action::ReadTopic { p, .. } => {
                self.reals[p].replica.topic_read(Seq(next.processes[p].floor[0].into()), &mut effects);
            }
            Action::DeliverSealed { p, epoch, .. } => {
                let real = &mut self.reals[p];
                if u64::from(epoch) > real.replica.epoch().0 {
                    real.early |= 1 << epoch;
                }
                real.replica.sealed(self.sealed[&epoch], &mut effects);
            }
            // The topic was read before, or was not: a stale hw is allowed.
            Action::TakeByCrashPath(p) => self.reals[p].replica.take_by_crash_path(Seq(0), &mut effects),
            Action::RestoreByCrashPath { p, from } => {
                let process = &self.state.processes[p];
                let Mode::Hold(epoch) = process.mode else { panic!("only a holder takes the crash path") };
                let (epoch, floor) = (Epoch(epoch.into()), Seq(process.floor[0].into()));
                let snapshot = self.snapshots[&from.offset].clone();
                let replica = Replica::restore_by_crash_path(node(process.name), snapshot, epoch, floor);
                let queue = std::mem::take(&mut self.reals[p].queue);
                self.reals[p] = Real { replica, queue, cut: None, early: 0 };
            }
            Action::CrashAndRestore { p, from } => {
                let slot = self.ended.iter_mut().find(|q| q.is_empty()).unwrap();
                *slot = std::mem::take(&mut self.reals[p].queue);
                self.restore(p, from.offset);
            }
            Action::LoseSuffixAndRestore { p, from } => self.restore(p, from.offset),
            Action::Cut(p) => self.reals[p].cut = self.reals[p].replica.cut(Offset(0)),
            Action::ShowSnapshot { p, snapshot } => {
                let cut = self.reals[p].cut.take().unwrap();
                assert!(self.reals[p].replica.is_durable(cut.seqs.last), "rule 9's test");
                self.snapshots.entry(snapshot.offset).or_insert(cut);
            }
            Action::DropPending(p) => assert!(self.reals[p].replica.forget_outputs(), "rule 4 lets it"),
            Action::Diverge(_) | Action::GiveUp { .. } | Action::ConsumerLearnsEpoch(_) => {
                panic!("not within the bounds: {action:?}")
            }
        }
        if let Some(p) = action.process() {
            self.run(p, effects);
        }
    }

    /// The replica took a Sealed that it had kept until this fence; so does the model.
    fn early(&mut self, p: usize, next: &mut State) {
        let real = &mut self.reals[p];
        if let Mode::Hold(epoch) = next.processes[p].mode
            && real.early & (1 << epoch) != 0
        {
            self.model.sealed(next, p, epoch, false);
        }
        real.early &= u16::MAX << (real.replica.epoch().0 + 1);
    }

    fn land(&mut self, from: From, effects: &mut Vec<Effect>) {
        let queue = match from {
            From::Process(p) => &mut self.reals[p].queue,
            From::Ended(n) => &mut self.ended[n],
        };
        let (seq, bytes) = queue.pop_front().unwrap();
        assert_eq!(*self.content.entry(seq).or_insert_with(|| bytes.clone()), bytes, "one seq, one content");
        if let From::Process(p) = from {
            self.reals[p].replica.acked(Seq(seq.into()), effects);
        }
    }

    fn restore(&mut self, p: usize, offset: u8) {
        let name = node(self.state.processes[p].name);
        let replica = Replica::restore(name, self.snapshots[&offset].clone());
        self.reals[p] = Real { replica, queue: Queue::new(), cut: None, early: 0 };
    }

    fn run(&mut self, p: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish { first, last, mut outputs } => {
                    for seq in first.0..=last.0 {
                        let length = Header::read(&outputs).unwrap().length;
                        self.reals[p].queue.push_back((seq as u8, outputs.split_to(length)));
                    }
                }
                Effect::Seal(sealed) => {
                    let known = *self.sealed.entry(sealed.epoch.0 as u8).or_insert(sealed);
                    assert_eq!(known, sealed, "whoever seals an epoch says the same");
                }
                other => panic!("nothing diverges here: {other:?}"),
            }
        }
    }

    fn compare(&self, taken: &[Action]) {
        let story = || format!("seed {}, {:?}\n{taken:#?}", self.seed, self.model.history(&self.state).records);
        for (p, real) in self.reals.iter().enumerate() {
            let (process, replica) = (&self.state.processes[p], &real.replica);
            let at = self.model.history(&self.state).at(process.offset);
            let mode = match process.mode {
                Mode::Hold(epoch) => replica::Mode::Hold(Epoch(epoch.into())),
                Mode::Active => replica::Mode::Active,
                Mode::Shadow | Mode::Dead => replica::Mode::Shadow,
            };
            assert_eq!(replica.mode(), mode, "mode of {p}: {}", story());
            let expected = (u64::from(process.offset) + 1, u64::from(at.seq), u64::from(at.epoch), node(at.owner));
            let found = (replica.offset().0, replica.seq().0, replica.epoch().0, replica.owner());
            assert_eq!(found, expected, "offset, seq, epoch, owner of {p}: {}", story());
            let queue: Vec<u8> = process.queue[0].seqs_from(0).map(|(_, seq)| seq).collect();
            assert!(
                process.mode != Mode::Active || replica.pending_outputs() == 0,
                "an owner keeps nothing: {}",
                story()
            );
            assert_eq!(real.queue.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), queue, "queue of {p}: {}", story());
            for seq in 0..=at.seq {
                let durable = self.model.is_durable(&self.state, p, seq);
                assert_eq!(replica.is_durable(Seq(seq.into())), durable, "{seq} durable for {p}: {}", story());
            }
        }
        let sealed = self.sealed.keys().fold(0, |bits, epoch| bits | 1 << (2 * (epoch - 1)));
        assert_eq!(sealed, self.state.sealed, "Sealed messages: {}", story());
    }
}
