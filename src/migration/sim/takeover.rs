//! Sealed messages, holds, the two crash paths, and snapshots: the rest of the shell around a replica.

use super::counts::Happened;
use super::host::{Host, HostId, How};
use super::mutation::Mutation;
use super::store::File;
use super::world::{Event, MS, World};
use crate::domain::{Epoch, NodeId, Offset, Seq};
use crate::migration::handover;
use crate::migration::replica::{Effect, Mode, Replica, Sealed};

/// How often a holder looks whether the old owner still follows, and how many looks it waits for it.
const HOLD_LOOK: u64 = 250 * MS;
const HOLD_LOOKS: u32 = 8;

impl World {
    /// Sends a Sealed to whoever has the new owner's name: late, never, twice, or to everybody.
    pub(super) fn send_sealed(&mut self, from: HostId, sealed: Sealed) {
        self.count(Happened::Seals);
        let (who, symbol) = (self.who(from.process), self.symbol(from.symbol));
        self.say(|| format!("{who} seals {symbol}: epoch {}, seq {}, for {}", sealed.epoch, sealed.seq, sealed.to));
        self.tell(from.symbol, &handover::Event::Sealed { epoch: sealed.epoch });
        let loss = if self.is_calm { 0 } else { self.weather.loss };
        if self.rng.messages.chance(loss) {
            self.count(Happened::SealedLost);
            return;
        }
        let to_all = self.rng.messages.chance(loss / 4);
        if to_all {
            self.count(Happened::SealedMisdelivered);
        }
        let times = if self.rng.messages.chance(loss / 2) {
            self.count(Happened::SealedRepeated);
            2
        } else {
            1
        };
        for process in 0..self.processes.len() {
            if !self.processes[process].is_alive || !(to_all || self.processes[process].name == sealed.to) {
                continue;
            }
            for _ in 0..times {
                let delay = self.rng.messages.delay(10 * MS, 40);
                self.after(delay, Event::Sealed { process, symbol: from.symbol, sealed });
            }
        }
    }

    pub(super) fn sealed(&mut self, process: usize, symbol: usize, sealed: Sealed) {
        let Some(id) = self.processes[process].hosts[symbol].as_ref().map(|h| h.id) else { return };
        let Some(mut host) = self.take_host(id) else { return };
        let heard = self.mutated_sealed(&host, sealed);
        let mut effects = Vec::new();
        if let Some(replica) = &mut host.replica {
            let before = replica.mode();
            replica.sealed(heard, &mut effects);
            if before != Mode::Active && replica.mode() == Mode::Active {
                self.count(Happened::TookBySealed);
                let (who, name) = (self.who(process), self.symbol(symbol));
                self.say(|| format!("{who} takes {name} over: Sealed of epoch {} has come", heard.epoch));
            }
        }
        self.finish(host, effects);
    }

    /// Rule 8: who does not follow is not waited for; who does not seal only so long.
    pub(super) fn hold_look(&mut self, id: HostId, epoch: Epoch, from: NodeId, looks: u32) {
        let is_holding = |h: &Host| h.id == id && h.mode() == Some(Mode::Hold(epoch));
        if !self.processes[id.process].hosts[id.symbol].as_ref().is_some_and(|h| is_holding(h)) {
            return;
        }
        let follows = from != self.name_of(id)
            && self.responsive(&from).is_some_and(|p| self.processes[p].hosts[id.symbol].is_some());
        if looks < HOLD_LOOKS && follows {
            self.after(HOLD_LOOK, Event::HoldLook { host: id, epoch, from, looks: looks + 1 });
        } else {
            self.read_high_water(id, epoch);
            // Until it has worked: the reading may be lost with a restore in between.
            self.after(4 * HOLD_LOOK, Event::HoldLook { host: id, epoch, from, looks: HOLD_LOOKS });
        }
    }

    pub(super) fn take_over_asked(&mut self, process: usize, symbol: usize, epoch: Epoch) {
        let Some(host) = &self.processes[process].hosts[symbol] else { return };
        if host.mode() == Some(Mode::Hold(epoch)) {
            let id = host.id;
            self.read_high_water(id, epoch);
        }
    }

    /// Reads `events` to its end; the answer is old when it comes.
    fn read_high_water(&mut self, id: HostId, epoch: Epoch) {
        let Some(host) = &self.processes[id.process].hosts[id.symbol] else { return };
        let (met, from) = (host.reader.met(), host.reader.position());
        let hw = self.log.high_water(self.symbols[id.symbol].partition, id.symbol, from).max(met);
        let delay = self.rng.holds.delay(30 * MS, 15);
        self.after(delay, Event::HighWater { host: id, epoch, hw });
    }

    /// Rule 8a or 8b.
    pub(super) fn high_water_read(&mut self, id: HostId, epoch: Epoch, hw: Seq) {
        let Some(mut host) = self.take_host(id) else { return };
        if host.mode() != Some(Mode::Hold(epoch)) {
            self.put_back(host);
            return;
        }
        if self.log.high_water(self.symbols[id.symbol].partition, id.symbol, Offset(0)) > hw {
            self.count(Happened::StaleHighWater);
        }
        let (who, symbol) = (self.who(id.process), self.symbol(id.symbol));
        let has_snapshot = !self.store.files(id.symbol).is_empty();
        if has_snapshot && self.rng.holds.chance(300) {
            self.say(|| {
                format!("{who} takes {symbol} over without a Sealed: restores for epoch {epoch}, hw {hw} (8b)")
            });
            self.restore_host(id.process, id.symbol, How::CrashPath { epoch, floor: hw });
            return;
        }
        let mut effects = Vec::new();
        if let Some(replica) = &mut host.replica {
            replica.take_by_crash_path(hw, &mut effects);
        }
        if host.mode() == Some(Mode::Active) {
            self.count(Happened::TookByCrashPathA);
            self.say(|| format!("{who} takes {symbol} over without a Sealed: hw {hw} (8a)"));
        } else {
            self.say(|| format!("{who} has dropped what it would say of {symbol}, and restores: hw {hw} (8b)"));
        }
        if self.mutation == Some(Mutation::CrashPathOnlyBehindFence) {
            let fence = host.at_fence.map_or(Seq(0), |at| at.sealed.seq);
            effects.retain(|e| !matches!(e, Effect::Publish { last, .. } if *last <= fence));
        }
        self.finish(host, effects);
    }

    /// It is time for a snapshot (rule 10).
    pub(super) fn cut_tick(&mut self, id: HostId) {
        let Some(mut host) = self.take_host(id) else { return };
        let seq = host.replica.as_ref().map_or(Seq(0), Replica::seq);
        if let Some(position) = host.reader.position_for(seq) {
            host.events_position = host.events_position.max(position);
        }
        if self.mutation == Some(Mutation::PositionIsTopicEnd) {
            host.events_position = Offset(self.log.events(self.symbols[id.symbol].partition).len() as u64);
        }
        if host.cut.is_none() {
            let is_careless = self.mutation == Some(Mutation::SnapshotBeforeDurable);
            host.cut = host.replica.as_mut().and_then(|r| r.cut(host.events_position)).map(|cut| (cut, is_careless));
        }
        if host.cut.is_none() && self.mutation == Some(Mutation::SnapshotWhileHolding) {
            host.cut = self.cut_while_holding(&host).map(|cut| (cut, true));
        }
        self.show_cut_if_durable(&mut host);
        self.put_back(host);
        let delay = self.rng.snapshots.between(300, 2_500) * MS;
        self.after(delay, Event::CutTick(id));
    }

    /// A cut is written once every output up to its seq is durable; it may take long, fail, or be damaged.
    pub(super) fn show_cut_if_durable(&mut self, host: &mut Host) {
        let Some(replica) = &host.replica else { return };
        if !host.cut.as_ref().is_some_and(|(cut, is_careless)| *is_careless || replica.is_durable(cut.seqs.last)) {
            return;
        }
        let Some((cut, _)) = host.cut.take() else { return };
        let Ok(mut bytes) = cut.encode() else { return };
        let (s, loss) = (&mut self.rng.snapshots, if self.is_calm { 0 } else { self.weather.loss });
        let (delay, fate) = (s.delay(50 * MS, 10), s.below(1_000));
        let is_whole = fate >= loss;
        if fate < loss / 2 {
            self.count(Happened::SnapshotMissing);
            return;
        }
        if !is_whole {
            let at = s.index(bytes.len());
            if s.chance(500) {
                bytes.truncate(at)
            } else {
                bytes[at] ^= 1 << s.below(8)
            };
        }
        if delay > 500 * MS {
            self.count(Happened::SnapshotSlow);
        }
        let key = (cut.offset, cut.epoch);
        let (who, symbol) = (self.who(host.id.process), self.symbol(host.id.symbol));
        self.say(|| format!("{who} writes a snapshot of {symbol} at {}, seq {}", cut.offset, cut.seqs.last));
        self.after(delay, Event::Upload { symbol: host.id.symbol, file: File { key, bytes: bytes.into(), is_whole } });
    }

    pub(super) fn uploaded(&mut self, symbol: usize, file: File) {
        self.count(Happened::SnapshotsShown);
        self.store.put(symbol, file);
    }
}
