//! The shell around one replica: what the actors do for it in the real exchange, here over the simulated world.

use super::counts::Happened;
use super::mutation::Mutation;
use super::reader::Reader;
use super::world::{Event, MS, World};
use crate::domain::outbox::Header;
use crate::domain::{Command, Epoch, Input, NodeId, Offset, Seq};
use crate::engine::Book;
use crate::migration::handover;
use crate::migration::replica::{Effect, Mode, Replica, Sealed};
use crate::migration::snapshot::Snapshot;
use crate::wire;

/// One replica of one process; another instance is another replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostId {
    pub process: usize,
    pub symbol: usize,
    pub instance: u64,
}

/// Why a replica is restored.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// Rule 3.
    Anew,
    /// Rule 8b.
    CrashPath { epoch: Epoch, floor: Seq },
}

/// Where a holder stood when it applied a fence: for the mutations, which lie with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtFence {
    pub sealed: Sealed,
}

pub(super) struct Host {
    pub id: HostId,
    /// `None` while it is restored, or before the listing was met.
    pub replica: Option<Replica<Book>>,
    pub is_restoring: bool,
    /// Next record to look at while there is no replica.
    unborn: Offset,
    /// Rule 8b, for a replica that is still to be born.
    crash_path: Option<(Epoch, Seq)>,
    pub reader: Reader,
    /// The restored snapshot's position in `events`.
    pub events_position: Offset,
    /// A careless shell dropped the outputs of its shadow up to here, and the replica does not know.
    dropped: Seq,
    /// Waits for its outputs to be durable; `true`: a careless shell does not wait.
    pub cut: Option<(Snapshot<Book>, bool)>,
    seen: (Mode, Epoch),
    pub at_fence: Option<AtFence>,
}

impl Host {
    fn new(id: HostId) -> Self {
        Self {
            id,
            replica: None,
            is_restoring: true,
            unborn: Offset(0),
            crash_path: None,
            reader: Reader::default(),
            events_position: Offset(0),
            dropped: Seq(0),
            cut: None,
            seen: (Mode::Shadow, Epoch(0)),
            at_fence: None,
        }
    }

    /// Whether it has published all there is, as the owner of `epoch`.
    pub fn serves(&self, epoch: Epoch, end: Offset) -> bool {
        self.replica.as_ref().is_some_and(|r| {
            r.mode() == Mode::Active && r.epoch() == epoch && r.offset() >= end && r.is_durable(r.seq())
        })
    }

    pub fn mode(&self) -> Option<Mode> {
        self.replica.as_ref().map(Replica::mode)
    }
}

impl World {
    /// Starts a replica in a process, if it has none.
    pub(super) fn begin_host(&mut self, process: usize, symbol: usize) {
        if self.processes[process].hosts[symbol].is_none() {
            self.restore_host(process, symbol, How::Anew);
        }
    }

    /// Drops the replica and restores it.
    pub(super) fn restore_host(&mut self, process: usize, symbol: usize, how: How) {
        self.instances += 1;
        let id = HostId { process, symbol, instance: self.instances };
        self.processes[process].hosts[symbol] = Some(Box::new(Host::new(id)));
        let delay = self.rng.restores.delay(60 * MS, 25);
        self.after(delay, Event::Restored { host: id, how });
    }

    /// Takes a host out of the world to work with it, if it is still that one.
    pub(super) fn take_host(&mut self, id: HostId) -> Option<Box<Host>> {
        let place = &mut self.processes[id.process].hosts[id.symbol];
        if place.as_ref().is_some_and(|h| h.id == id) { place.take() } else { None }
    }

    pub(super) fn put_back(&mut self, host: Box<Host>) {
        let id = host.id;
        self.processes[id.process].hosts[id.symbol] = Some(host);
    }

    /// The snapshot is there, or none is.
    pub(super) fn restored(&mut self, id: HostId, how: How) {
        let Some(mut host) = self.take_host(id) else { return };
        let hidden = usize::from(!self.is_calm && self.rng.restores.chance(60));
        if hidden > 0 && !self.store.files(id.symbol).is_empty() {
            self.count(Happened::SnapshotMissing);
        }
        let (snapshot, damaged) = self.store.newest_valid(id.symbol, hidden);
        self.counts.add(Happened::SnapshotCorrupt, damaged);
        let (me, who, symbol) = (self.processes[id.process].name, self.who(id.process), self.symbol(id.symbol));
        let mut effects = Vec::new();
        host.is_restoring = false;
        if let Some(snapshot) = snapshot {
            self.say(|| {
                let (s, e) = (snapshot.seqs.last, snapshot.epoch);
                let why = match how {
                    How::Anew => "",
                    How::CrashPath { .. } => ", for the crash path",
                };
                format!("{who} restores {symbol} at {} (seq {s}, epoch {e}){why}", snapshot.offset)
            });
            host.events_position = snapshot.events_position;
            host.reader = Reader::behind(snapshot.seqs.last, snapshot.events_position);
            host.replica = Some(match how {
                How::Anew => Replica::restore(me, snapshot),
                How::CrashPath { epoch, floor } => {
                    self.count(Happened::TookByCrashPathB);
                    Replica::restore_by_crash_path(me, snapshot, epoch, floor)
                }
            });
        } else {
            if let How::CrashPath { epoch, floor } = how {
                self.count(Happened::TookByCrashPathB);
                host.crash_path = Some((epoch, floor));
            }
            self.count(Happened::RestoredFromBirth);
            self.say(|| format!("{who} finds no snapshot of {symbol} and replays from its listing"));
        }
        if let Some(replica) = &mut host.replica {
            host.seen = (replica.mode(), replica.epoch());
            if self.rng.restores.chance(500) {
                let hw = self.log.high_water(self.symbols[id.symbol].partition, id.symbol, host.events_position);
                replica.topic_read(hw, &mut effects);
            }
            if self.mutation == Some(Mutation::LastSentPersisted)
                && let Some((sent, _)) = self.remembered.get(&(self.processes[id.process].node, id.symbol))
            {
                replica.topic_read(*sent, &mut effects);
            }
        }
        self.finish(host, effects);
        self.after(1, Event::Follow(id));
        let delay = self.rng.snapshots.between(100, 2_500) * MS;
        self.after(delay, Event::CutTick(id));
    }

    /// Reads on in `orders`, and in `events`.
    pub(super) fn follow(&mut self, id: HostId) {
        let Some(mut host) = self.take_host(id) else { return };
        let partition = self.symbols[id.symbol].partition;
        let from = host.replica.as_ref().map_or(host.unborn, Replica::offset);
        let end = self.log.orders(partition).len() as u64;
        let seen = if self.is_calm { end } else { end.saturating_sub(self.rng.followers.below(3)) };
        let through = (from.0 + self.rng.followers.between(1, 40)).min(seen).max(from.0);
        let records = &self.log.orders(partition)[from.0 as usize..through as usize];
        let inputs: Vec<Input<Command>> =
            records.iter().filter(|o| o.symbol == id.symbol).map(|o| o.input.clone()).collect();
        let mut effects = Vec::new();
        let rest = self.be_born(&mut host, &inputs, &mut effects);
        host.unborn = Offset(through);
        if host.replica.is_some() {
            self.apply(&mut host, rest, Offset(through), &mut effects);
        }
        let steps = self.rng.readers.below(30) as usize;
        if let Err(what) = host.reader.read_on(self.log.events(partition), id.symbol, steps) {
            let who = self.who(id.process);
            self.violate(format!(
                "{}: {who} reads events from a snapshot's position and {what}",
                self.symbol(id.symbol)
            ));
        }
        let met = host.reader.met();
        if let Some(replica) = host.replica.as_mut().filter(|r| r.mode() != Mode::Active) {
            replica.topic_read(met, &mut effects);
        }
        self.maybe_drop_outputs(&mut host);
        self.finish(host, effects);
        let usual = if through < end { 10 * MS } else { 40 * MS };
        let delay = self.rng.followers.delay(usual, 150);
        self.after(delay, Event::Follow(id));
    }

    fn be_born<'a>(
        &mut self,
        host: &mut Host,
        inputs: &'a [Input<Command>],
        e: &mut Vec<Effect>,
    ) -> &'a [Input<Command>] {
        if host.replica.is_some() {
            return inputs;
        }
        let id = host.id;
        let (me, symbol) = (self.processes[id.process].name, self.symbol(id.symbol));
        let begin = inputs.iter().position(|i| matches!(i.command, Command::List { .. })).unwrap_or(inputs.len());
        let Some((first, rest)) = inputs[begin..].split_first() else { return &[] };
        let Command::List { listing, .. } = &first.command else { return &[] };
        host.replica = Replica::born(me, symbol, listing.owner, first, e).map(|born| match host.crash_path {
            Some((epoch, floor)) => born.for_crash_path(epoch, floor),
            None => born,
        });
        if self.mutation == Some(Mutation::LastSentPersisted)
            && let Some(replica) = &mut host.replica
            && let Some((sent, _)) = self.remembered.get(&(self.processes[id.process].node, id.symbol))
        {
            replica.topic_read(*sent, e);
        }
        rest
    }

    fn apply(&mut self, host: &mut Host, inputs: &[Input<Command>], through: Offset, effects: &mut Vec<Effect>) {
        if self.mutation.is_some() {
            return self.apply_mutated(host, inputs, through, effects);
        }
        if let Some(replica) = &mut host.replica {
            replica.apply(inputs, through, effects);
        }
    }

    /// A shadow that has little memory drops what it would have said (rule 4).
    fn maybe_drop_outputs(&mut self, host: &mut Host) {
        let Some(replica) = &mut host.replica else { return };
        let may = replica.mode() == Mode::Shadow && !replica.owes();
        if !may || replica.pending_outputs() == 0 || !self.rng.holds.chance(self.weather.loss / 10 + 3) {
            return;
        }
        let seq = replica.seq();
        if self.mutation == Some(Mutation::DroppedTakesCrashPath) {
            host.dropped = host.dropped.max(seq);
        } else if !replica.forget_outputs() {
            return; // it replays for the crash path, and needs them
        }
        self.count(Happened::OutputsDropped);
        let (who, symbol) = (self.who(host.id.process), self.symbol(host.id.symbol));
        self.say(|| format!("{who} drops the outputs of its shadow of {symbol} up to {seq}"));
    }

    /// Carries out effects, notices changes, puts the host back.
    pub(super) fn finish(&mut self, mut host: Box<Host>, effects: Vec<Effect>) {
        let mut must_restore = None;
        for effect in effects {
            match effect {
                Effect::Publish { outputs, .. } => self.publish(&host, &outputs),
                Effect::Seal(sealed) => self.send_sealed(host.id, sealed),
                Effect::Void { .. } => {}
                Effect::Alarm { epoch, mine, theirs } => {
                    let (who, symbol) = (self.who(host.id.process), self.symbol(host.id.symbol));
                    let (mine, theirs) = (mine.0, theirs.0);
                    self.violate(format!(
                        "{symbol}: MG2, {who} at the fence of epoch {epoch} has seq {mine}, the Sealed {theirs}"
                    ));
                }
                Effect::Restore => must_restore = Some(How::Anew),
                Effect::RestoreByCrashPath { epoch, floor } => must_restore = Some(How::CrashPath { epoch, floor }),
            }
        }
        self.notice(&mut host);
        self.show_cut_if_durable(&mut host);
        let id = host.id;
        self.put_back(host);
        if let Some(how) = must_restore {
            self.restore_host(id.process, id.symbol, how);
        }
    }

    /// What a careless shell dropped cannot be sent. The rest goes out in records of some outputs each.
    fn publish(&mut self, host: &Host, outputs: &[u8]) {
        let mut at = 0;
        let (mut start, mut room) = (0, self.rng.producers.between(1, 12));
        let (mut last, epoch) = (Seq(0), host.replica.as_ref().map_or(Epoch(0), Replica::epoch));
        let mut records = Vec::new();
        while let Ok(head) = Header::read(&outputs[at..]) {
            if head.seq <= host.dropped {
                at += head.length;
                start = at;
                continue;
            }
            if room == 0 {
                records.push((last, start..at));
                (start, room) = (at, self.rng.producers.between(1, 12));
            }
            (last, room) = (head.seq, room - 1);
            at += head.length;
            if at == outputs.len() {
                break;
            }
        }
        if at > start {
            records.push((last, start..at));
        }
        for (last, range) in records {
            let values = wire::events::encode(&self.symbol(host.id.symbol), &outputs[range]);
            for value in values.unwrap_or_else(|_| unreachable!("the outbox writes whole outputs")) {
                self.produce(host.id, epoch, last, value);
            }
            if self.mutation == Some(Mutation::LastSentPersisted) {
                let node = self.processes[host.id.process].node;
                self.remembered.insert((node, host.id.symbol), (last, Epoch(0)));
            }
        }
    }

    fn notice(&mut self, host: &mut Host) {
        let Some(replica) = &host.replica else { return };
        let (id, owner) = (host.id, replica.owner());
        let now = (replica.mode(), replica.epoch());
        let was = std::mem::replace(&mut host.seen, now);
        if was == now {
            return;
        }
        let (who, symbol, offset) = (self.who(id.process), self.symbol(id.symbol), replica.offset());
        let fence = replica.hold_offset().unwrap_or(Offset(offset.0.saturating_sub(1)));
        self.say(|| {
            let does = match now.0 {
                Mode::Shadow => "follows",
                Mode::Hold(_) => "holds",
                Mode::Active => "publishes",
            };
            format!("{who} {does} {symbol}: {owner} owns it, epoch {}, record {offset}", now.1)
        });
        if now.1 > was.1 {
            self.tell(id.symbol, &handover::Event::FenceApplied { epoch: now.1, to: owner, offset: fence });
        }
        if matches!(was.0, Mode::Hold(_)) && now.0 == Mode::Shadow && replica.owes() {
            self.count(Happened::DrainedAsHolder);
        }
        match now.0 {
            Mode::Active => {
                if self.mutation == Some(Mutation::ReplayedFenceIsDone) {
                    let node = self.processes[id.process].node;
                    let known = self.remembered.entry((node, id.symbol)).or_default();
                    known.1 = known.1.max(now.1);
                }
                self.tell(id.symbol, &handover::Event::Active { epoch: now.1, parked: None });
            }
            Mode::Hold(epoch) => {
                let from = self.routes.read(id.symbol, 0).map_or(owner, |row| row.node);
                self.after(50 * MS, Event::HoldLook { host: id, epoch, from, looks: 0 });
            }
            Mode::Shadow => {}
        }
    }

    pub(super) fn acked(&mut self, id: HostId, through: Seq) {
        let Some(mut host) = self.take_host(id) else { return };
        let mut effects = Vec::new();
        if let Some(replica) = &mut host.replica {
            replica.acked(through, &mut effects);
        }
        self.finish(host, effects);
    }

    /// The node does not need the replica any more, says a coordinator.
    pub(super) fn retire(&mut self, process: usize, symbol: usize) {
        let me = self.processes[process].name;
        let place = &mut self.processes[process].hosts[symbol];
        let may = place
            .as_ref()
            .and_then(|h| h.replica.as_ref())
            .is_some_and(|r| r.mode() == Mode::Shadow && r.owner() != me && !r.owes());
        if may {
            *place = None;
        }
    }

    pub(super) fn name_of(&self, id: HostId) -> NodeId {
        self.processes[id.process].name
    }
}
