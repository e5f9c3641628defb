//! What goes wrong with processes, gateways, coordinators, the table and the store.

use super::counts::Happened;
use super::host::How;
use super::world::{Event, MS, Process, World};

impl World {
    /// One life of a node begins: with the books it owns by the log, and perhaps some to follow.
    pub(super) fn start(&mut self, node: usize) {
        let name = self.nodes[node];
        let lives = self.processes.iter().filter(|p| p.node == node).count() as u32;
        if lives > 0 {
            self.count(Happened::ProcessRestarted);
        }
        if self.processes.iter().any(|p| p.node == node && p.is_alive) {
            self.count(Happened::TwoLivesOfOneName);
        }
        let process = self.processes.len();
        self.processes.push(Process {
            node,
            name,
            life: lives + 1,
            is_alive: true,
            frozen_until: 0,
            hosts: (0..self.symbols.len()).map(|_| None).collect(),
            producers: Vec::new(),
            session: 0,
        });
        let who = self.who(process);
        self.say(|| format!("{who} starts"));
        self.open_sessions(process);
        for symbol in 0..self.symbols.len() {
            let owns = self.log.truth(symbol).is_some_and(|t| t.owner == name);
            if owns || self.rng.restores.chance(300) {
                self.begin_host(process, symbol);
            }
        }
    }

    pub(super) fn some_fault(&mut self) {
        if self.is_calm {
            return;
        }
        match self.rng.crashes.below(100) {
            0..22 => self.crash(),
            22..32 => self.book_panics(),
            32..58 => self.freeze(),
            58..63 => self.start_twin(),
            63..72 => self.coordinator_crashes(),
            72..84 => self.stray_fence(),
            84..88 => {
                self.count(Happened::RouteTableLost);
                self.say(|| "the route table is lost and rebuilt from the log".to_owned());
                self.routes.rebuild(&self.log);
            }
            88..91 => self.control_is_repeated(),
            91..95 => self.prune(),
            _ => self.gateway_crashes(),
        }
        let pause = self.rng.crashes.below(2 * self.weather.fault_every);
        self.after(pause, Event::Fault);
    }

    fn some_process(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.processes.len()).filter(|p| self.processes[*p].is_alive).collect();
        (!alive.is_empty()).then(|| alive[self.rng.crashes.index(alive.len())])
    }

    fn crash(&mut self) {
        let Some(process) = self.some_process() else { return };
        self.count(Happened::ProcessCrashed);
        let who = self.who(process);
        self.say(|| format!("{who} crashes"));
        self.end_session(process, None);
        let p = &mut self.processes[process];
        p.is_alive = false;
        p.hosts.iter_mut().for_each(|h| *h = None);
        let node = p.node;
        if self.rng.crashes.chance(800) {
            let delay = self.rng.crashes.between(10, 6_000) * MS;
            self.after(delay, Event::Start { node });
        }
    }

    /// A book's replica is lost and restored; the producer session of its process goes on.
    fn book_panics(&mut self) {
        let Some(process) = self.some_process() else { return };
        let symbol = self.rng.crashes.index(self.symbols.len());
        if self.processes[process].hosts[symbol].is_some() {
            self.count(Happened::BookPanicked);
            let (who, name) = (self.who(process), self.symbol(symbol));
            self.say(|| format!("{who} loses its replica of {name} and restores it"));
            self.restore_host(process, symbol, How::Anew);
        }
    }

    fn freeze(&mut self) {
        let Some(process) = self.some_process() else { return };
        if !self.is_responsive(process) {
            return;
        }
        self.count(Happened::ProcessFroze);
        let for_us = self.rng.crashes.between(100, 8_000) * MS;
        let until = self.now + for_us;
        self.processes[process].frozen_until = until;
        let who = self.who(process);
        self.say(|| format!("{who} freezes for {} ms", for_us / MS));
        self.stall_producers(process, until);
        self.schedule(until, Event::Wakes { process });
        if self.rng.crashes.chance(250) {
            let (node, delay) = (self.processes[process].node, self.rng.crashes.between(10, 3_000) * MS);
            self.after(delay, Event::Start { node });
        }
    }

    /// It goes on as if nothing had happened.
    pub(super) fn wakes(&mut self, process: usize) {
        let who = self.who(process);
        for symbol in 0..self.symbols.len() {
            if self.is_zombie(process, symbol) {
                self.count(Happened::ZombieWoke);
                let name = self.symbol(symbol);
                self.say(|| format!("{who} wakes up and thinks that {name} is still its own"));
            }
        }
    }

    /// Somebody starts a node that is there already.
    fn start_twin(&mut self) {
        let node = self.rng.crashes.index(self.nodes.len());
        if self.processes.iter().filter(|p| p.node == node && p.is_alive).count() < 2 {
            self.start(node);
        }
    }

    fn prune(&mut self) {
        let symbol = self.rng.snapshots.index(self.symbols.len());
        let keep = self.rng.snapshots.index(3);
        let gone = self.store.prune(symbol, keep);
        self.counts.add(Happened::SnapshotPruned, gone);
    }
}
