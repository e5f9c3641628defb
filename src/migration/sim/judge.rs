//! The auditor judges a run, from nothing but the log and the snapshots.

use super::counts::Happened;
use super::mutation::Mutation;
use super::world::World;
use crate::domain::Epoch;
use crate::migration::audit::{AuditOptions, SnapshotBytes, judge};
use crate::ports::log::Record;
use crate::ports::snapshots::SnapshotKey;

impl World {
    /// Puts what the auditor finds before what was seen on the way.
    pub(super) fn judge(&mut self) {
        let seen_on_the_way = std::mem::take(&mut self.violations);
        for symbol in 0..self.symbols.len() {
            let listed = self.symbols[symbol];
            let orders: Vec<Record> = self.log.orders(listed.partition).iter().map(|o| o.record.clone()).collect();
            let events = self.heard(symbol);
            let snapshot = |f: &super::store::File| SnapshotBytes {
                key: SnapshotKey { symbol: listed.name, offset: f.key.0, epoch: f.key.1 },
                bytes: f.bytes.clone(),
            };
            let snapshots: Vec<SnapshotBytes> = self.store.shown_whole(symbol).iter().map(snapshot).collect();
            let options = AuditOptions::new(self.log.keyring.clone(), listed.partition as u32);
            let report = judge(listed.name, &orders, &events, &snapshots, &options);
            self.counts.add(Happened::Outputs, report.outputs);
            self.counts.add(Happened::Repeats, report.repeats);
            for violation in &report.violations {
                self.violate(format!("audit: {violation}"));
            }
            let fences = self.log.truth(symbol).map_or(0, |truth| truth.epoch.0);
            if report.moves.len() as u64 != fences {
                let (name, seen) = (listed.name, report.moves.len());
                self.violate(format!("audit: {name}: it saw {seen} moves, the log has {fences}"));
            }
        }
        self.violations.extend(seen_on_the_way);
    }

    /// The records of a symbol in `events`, as a consumer takes them.
    fn heard(&self, symbol: usize) -> Vec<Record> {
        let drops_older = self.mutation == Some(Mutation::ConsumerDropsOlderEpochs);
        let (mut heard, mut newest) = (Vec::new(), Epoch(0));
        for said in self.log.events(self.symbols[symbol].partition).iter().filter(|e| e.symbol == symbol) {
            if !drops_older || said.publisher >= newest {
                heard.push(said.record.clone());
            }
            newest = newest.max(said.publisher);
        }
        heard
    }
}
