//! The simulated world: its clock, its queue of events, and who is in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::clients::{Clients, Sent};
use super::counts::{Counts, Happened};
use super::host::{Host, HostId, How};
use super::log::SimLog;
use super::moves::{Desk, MoveRef};
use super::mutation::Mutation;
use super::producer::Producer;
use super::random::{Stream, Streams};
use super::routes::RouteTable;
use super::store::{File, Store};
use crate::domain::control::Fence;
use crate::domain::{Epoch, Micros, NodeId, Offset, Seq, Symbol};
use crate::migration::handover;
use crate::migration::replica::Sealed;
use crate::ports::log::partition_of;

/// One millisecond, in microseconds.
pub(super) const MS: u64 = 1_000;
/// Violations that a run keeps.
const VIOLATIONS_MAX: usize = 32;
/// When the run begins: late enough that something can have run out before it.
const BEGIN: u64 = 1_000_000 * MS;
/// Longest a run may go on after the faults have stopped, in microseconds: takeovers, restores and retries take
/// seconds, a few of them may follow each other.
const QUIET_WITHIN: u64 = 300_000 * MS;

/// What can happen next.
#[derive(Debug)]
pub(super) enum Event {
    Follow(HostId),
    Restored { host: HostId, how: How },
    CutTick(HostId),
    HoldLook { host: HostId, epoch: Epoch, from: NodeId, looks: u32 },
    HighWater { host: HostId, epoch: Epoch, hw: Seq },
    Ack { host: HostId, through: Seq },
    Sealed { process: usize, symbol: usize, sealed: Sealed },
    TakeOver { process: usize, symbol: usize, epoch: Epoch },
    Begin { process: usize, symbol: usize },
    Retire { process: usize, symbol: usize },
    SessionFailed { process: usize, session: u64 },
    Land { producer: usize },
    Upload { symbol: usize, file: File },
    Client,
    GatewayLand { gateway: usize },
    Resend(Sent),
    Hears { to: MoveRef, event: handover::Event },
    DeskTick { desk: usize },
    BeginMove,
    FenceArrives { symbol: usize, fence: Fence, signed_at: Micros, from: Option<MoveRef> },
    Fault,
    Start { node: usize },
    Wakes { process: usize },
    Supervise,
    Calm,
}

struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A symbol and where it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub name: Symbol,
    pub partition: usize,
}

/// One life of a node.
pub(super) struct Process {
    pub node: usize,
    pub name: NodeId,
    /// Number of this life among those of its name, from 1.
    pub life: u32,
    pub is_alive: bool,
    pub frozen_until: u64,
    /// By symbol.
    pub hosts: Vec<Option<Box<Host>>>,
    /// By partition: indices of its producers.
    pub producers: Vec<usize>,
    /// Rises when its sessions end and new ones are opened.
    pub session: u64,
}

/// What a run is like: drawn once, so that seeds differ in more than luck.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub nodes: usize,
    pub symbols: usize,
    pub partitions: usize,
    pub commands: u64,
    /// Microseconds until the faults stop.
    pub lasts: u64,
    /// Microseconds between two faults, on average.
    pub fault_every: u64,
    /// Microseconds between two moves begun, on average.
    pub move_every: u64,
    /// Microseconds until records in a producer's queue land.
    pub landing: u64,
    /// Of thousand, whatever can be lost on the way.
    pub loss: u64,
}

impl Weather {
    fn draw(seed: u64) -> Self {
        let mut s = Stream::new(seed, "weather");
        let symbols = s.between(1, 3) as usize;
        Self {
            nodes: s.between(3, 4) as usize,
            symbols,
            partitions: s.between(1, symbols.min(2) as u64) as usize,
            commands: s.between(150, 450),
            lasts: s.between(4_000, 20_000) * MS,
            fault_every: [200, 700, 2_500][s.index(3)] * MS,
            move_every: [300, 1_000, 3_000][s.index(3)] * MS,
            loss: [0, 30, 150][s.index(3)],
            landing: [8, 40, 250][s.index(3)] * MS,
        }
    }
}

pub(super) struct World {
    pub weather: Weather,
    pub mutation: Option<Mutation>,
    pub now: u64,
    queue: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    pub rng: Streams,
    pub log: SimLog,
    pub store: Store,
    pub routes: RouteTable,
    pub symbols: Vec<Listed>,
    pub nodes: Vec<NodeId>,
    pub processes: Vec<Process>,
    pub producers: Vec<Producer>,
    pub instances: u64,
    pub clients: Clients,
    pub desks: Vec<Desk>,
    /// Since when nobody of this node has answered, by node.
    pub silent_since: Vec<Option<u64>>,
    pub is_calm: bool,
    is_quiet: bool,
    pub counts: Counts,
    /// For mutations only: what a node must not remember, by node and symbol.
    pub remembered: BTreeMap<(usize, usize), (Seq, Epoch)>,
    pub violations: Vec<String>,
    trace: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, mutation: Option<Mutation>, with_trace: bool) -> Self {
        let weather = Weather::draw(seed);
        let name = |n: usize| NodeId::new(&format!("n{}", n + 1)).unwrap_or_else(|_| unreachable!("a good name"));
        let listed = |n: usize| {
            let symbol = Symbol::new(["TSLA", "AAPL", "NVDA"][n]).unwrap_or_else(|_| unreachable!("a good name"));
            let partition = partition_of(symbol.as_bytes(), weather.partitions as u32) as usize;
            Listed { name: symbol, partition }
        };
        Self {
            weather,
            mutation,
            now: BEGIN,
            queue: BinaryHeap::new(),
            scheduled: 0,
            rng: Streams::new(seed),
            log: SimLog::new(weather.partitions, weather.symbols),
            store: Store::new(weather.symbols),
            routes: RouteTable::new(weather.symbols),
            symbols: (0..weather.symbols).map(listed).collect(),
            nodes: (0..weather.nodes).map(name).collect(),
            processes: Vec::new(),
            producers: Vec::new(),
            instances: 0,
            clients: Clients::default(),
            desks: vec![Desk::default(), Desk::default()],
            silent_since: vec![None; weather.nodes],
            is_calm: false,
            is_quiet: false,
            counts: Counts::default(),
            remembered: BTreeMap::new(),
            violations: Vec::new(),
            trace: with_trace.then(Vec::new),
        }
    }

    /// Runs until quiet.
    pub fn run(&mut self) {
        let w = self.weather;
        self.say(|| {
            format!("{} nodes, {} symbols in {} partitions, {} commands", w.nodes, w.symbols, w.partitions, w.commands)
        });
        self.list_symbols();
        for node in 0..w.nodes {
            self.start(node);
        }
        self.after(1, Event::Client);
        self.after(self.weather.fault_every, Event::Fault);
        self.after(self.weather.move_every, Event::BeginMove);
        self.after(MS, Event::Supervise);
        for desk in 0..self.desks.len() {
            self.after(MS, Event::DeskTick { desk });
        }
        self.after(w.lasts, Event::Calm);
        let end = BEGIN + w.lasts + QUIET_WITHIN;
        while let Some(Reverse(due)) = self.queue.pop() {
            self.now = due.at;
            if due.at > end {
                let why = self.why_not_quiet().unwrap_or_default();
                self.violate(format!("liveness: {} s after the faults stopped, {why}", QUIET_WITHIN / 1_000 / MS));
                return;
            }
            self.dispatch(due.event);
            if self.is_quiet {
                self.say(|| "all is quiet".to_owned());
                return;
            }
        }
    }

    pub fn at(&self) -> Micros {
        Micros(self.now)
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.schedule(self.now + delay, event);
    }

    pub fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Due { at, order: self.scheduled, event }));
    }

    pub fn count(&mut self, what: Happened) {
        self.counts.add(what, 1);
    }

    /// Tells the story, if somebody listens.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let t = self.now - BEGIN;
            trace.push(format!("{:>4}.{:03} {}", t / (1_000 * MS), t / MS % 1_000, line()));
        }
    }

    pub fn violate(&mut self, what: String) {
        self.say(|| format!("VIOLATION {what}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// A process in words: `n2`, its second life `n2'`.
    pub fn who(&self, process: usize) -> String {
        let p = &self.processes[process];
        format!("{}{}", p.name, "'".repeat(p.life as usize - 1))
    }

    pub fn symbol(&self, symbol: usize) -> Symbol {
        self.symbols[symbol].name
    }

    pub fn is_responsive(&self, process: usize) -> bool {
        let p = &self.processes[process];
        p.is_alive && p.frozen_until <= self.now
    }

    /// The youngest process of a node that answers.
    pub fn responsive(&self, node: &NodeId) -> Option<usize> {
        (0..self.processes.len()).rev().find(|p| self.processes[*p].name == *node && self.is_responsive(*p))
    }

    pub fn node_index(&self, node: &NodeId) -> usize {
        self.nodes.iter().position(|n| n == node).unwrap_or_default()
    }

    /// Whom an event is for, if that is a process.
    fn process_of(event: &Event) -> Option<usize> {
        match event {
            Event::Follow(host) | Event::CutTick(host) => Some(host.process),
            Event::Restored { host, .. }
            | Event::HoldLook { host, .. }
            | Event::HighWater { host, .. }
            | Event::Ack { host, .. } => Some(host.process),
            Event::Sealed { process, .. }
            | Event::TakeOver { process, .. }
            | Event::Begin { process, .. }
            | Event::Retire { process, .. }
            | Event::Wakes { process }
            | Event::SessionFailed { process, .. } => Some(*process),
            _ => None,
        }
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(process) = Self::process_of(&event) {
            let p = &self.processes[process];
            if !p.is_alive {
                return;
            }
            if p.frozen_until > self.now {
                // It finds all of this when it wakes, in the order in which it came.
                self.schedule(p.frozen_until, event);
                return;
            }
        }
        match event {
            Event::Follow(host) => self.follow(host),
            Event::Restored { host, how } => self.restored(host, how),
            Event::CutTick(host) => self.cut_tick(host),
            Event::HoldLook { host, epoch, from, looks } => self.hold_look(host, epoch, from, looks),
            Event::HighWater { host, epoch, hw } => self.high_water_read(host, epoch, hw),
            Event::Ack { host, through } => self.acked(host, through),
            Event::Sealed { process, symbol, sealed } => self.sealed(process, symbol, sealed),
            Event::TakeOver { process, symbol, epoch } => self.take_over_asked(process, symbol, epoch),
            Event::Begin { process, symbol } => self.begin_host(process, symbol),
            Event::Retire { process, symbol } => self.retire(process, symbol),
            Event::SessionFailed { process, session } => self.session_failed(process, session),
            Event::Land { producer } => self.land(producer),
            Event::Upload { symbol, file } => self.uploaded(symbol, file),
            Event::Client => self.client_acts(),
            Event::GatewayLand { gateway } => self.gateway_lands(gateway),
            Event::Resend(sent) => self.resend(sent),
            Event::Hears { to, event } => self.hears(to, event),
            Event::DeskTick { desk } => self.desk_tick(desk),
            Event::BeginMove => self.begin_some_move(),
            Event::FenceArrives { symbol, fence, signed_at, from } => {
                self.fence_arrives(symbol, fence, signed_at, from);
            }
            Event::Fault => self.some_fault(),
            Event::Start { node } => self.start(node),
            Event::Wakes { process } => self.wakes(process),
            Event::Supervise => self.supervise(),
            Event::Calm => self.calm(),
        }
    }

    /// The faults stop. Who is frozen wakes, whose restart was planned starts; the dead stay dead.
    fn calm(&mut self) {
        self.is_calm = true;
        self.say(|| "the faults stop".to_owned());
        for p in 0..self.processes.len() {
            self.processes[p].frozen_until = self.processes[p].frozen_until.min(self.now + 3_000 * MS);
        }
        if self.processes.iter().all(|p| !p.is_alive) {
            self.start(0);
        }
    }

    /// Whether there is nothing left to do; called now and then once the faults have stopped.
    pub fn look_whether_quiet(&mut self) {
        self.is_quiet = self.is_calm && self.why_not_quiet().is_none();
    }

    fn why_not_quiet(&self) -> Option<String> {
        if !self.clients.are_done(self.weather.commands) {
            return Some("clients still send".to_owned());
        }
        if self.producers.iter().any(|p| !p.is_empty()) {
            return Some("a producer still has records".to_owned());
        }
        for (s, listed) in self.symbols.iter().enumerate() {
            let end = Offset(self.log.orders(listed.partition).len() as u64);
            let Some(truth) = self.log.truth(s) else { continue };
            let is_served = |p: &Process| {
                p.is_alive && p.name == truth.owner && p.hosts[s].as_ref().is_some_and(|h| h.serves(truth.epoch, end))
            };
            if !self.processes.iter().any(is_served) {
                return Some(format!(
                    "nobody has published all of {} (owner {}, epoch {})",
                    listed.name, truth.owner, truth.epoch
                ));
            }
        }
        None
    }
}
