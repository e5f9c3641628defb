//! Competing coordinators, each with the pure coordinator of a move, and the one who fences when an owner is dead.

use super::counts::Happened;
use super::log::Fenced;
use super::routes::Row;
use super::world::{Event, MS, World};
use crate::domain::control::Fence;
use crate::domain::{Epoch, Micros, NodeId, Offset};
use crate::migration::handover::{self, Action, Cause, Coordinator, Deadlines, MoveId, MoveStatus, Plan, Step};
use crate::migration::replica::Mode;
use crate::ports::routes::RouteStatus;
use crate::wire::Control;

/// Shorter than the real ones, so that each is met.
const DEADLINES: Deadlines = Deadlines {
    transfer_us: 8_000 * MS,
    pause_us: 2_000 * MS,
    routes_us: 4_000 * MS,
    drain_us: 1_000 * MS,
    takeover_us: 10_000 * MS,
    cleanup_us: 1_000 * MS,
};
const TICK: u64 = 100 * MS;
/// A node that has not answered for so long is dead.
const SILENT_MAX: u64 = 2_000 * MS;
/// Moves that one coordinator has under way.
const MOVES_MAX: usize = 4;

/// A move of a coordinator; of an earlier life of it the answers are not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MoveRef {
    pub desk: usize,
    pub id: MoveId,
}

struct Running {
    id: MoveId,
    symbol: usize,
    coordinator: Coordinator,
}

/// One coordinator. When it crashes it forgets its moves; nothing of them is kept (rule 13).
#[derive(Default)]
pub(super) struct Desk {
    moves: Vec<Running>,
    next_id: u64,
}

impl World {
    fn read_route(&mut self, symbol: usize) -> Option<Row> {
        let back = if !self.is_calm && self.rng.routes.chance(50 + self.weather.loss) {
            self.rng.routes.between(1, 3) as usize
        } else {
            0
        };
        let row = self.routes.read(symbol, back)?;
        if self.routes.read(symbol, 0).is_some_and(|now| now.epoch > row.epoch) {
            self.count(Happened::RouteWentBack);
        }
        Some(row)
    }

    fn set_route(&mut self, symbol: usize, row: Row) -> bool {
        let (is_set, name) = (self.routes.set(symbol, row), self.symbol(symbol));
        self.say(|| {
            let Row { node, epoch, status } = row;
            let refused = if is_set { "" } else { " is refused: the table knows better" };
            format!("route of {name}: {node}, epoch {epoch}, {status:?}{refused}")
        });
        is_set
    }

    /// An operator, or the load, wants a book elsewhere.
    pub(super) fn begin_some_move(&mut self) {
        if self.is_calm {
            return;
        }
        let desk = self.rng.moves.index(self.desks.len());
        let symbol = self.rng.moves.index(self.symbols.len());
        let to = self.nodes[self.rng.moves.index(self.nodes.len())];
        if let Some(row) = self.read_route(symbol).filter(|row| row.node != to) {
            self.begin_move(desk, symbol, row, to, Cause::Operator);
        }
        let pause = self.rng.moves.below(2 * self.weather.move_every);
        self.after(pause, Event::BeginMove);
    }

    fn begin_move(&mut self, desk: usize, symbol: usize, row: Row, to: NodeId, cause: Cause) {
        if self.desks[desk].moves.len() >= MOVES_MAX || self.desks[desk].moves.iter().any(|m| m.symbol == symbol) {
            return;
        }
        self.desks[desk].next_id += 1;
        let id = MoveId(self.desks[desk].next_id);
        let (name, now) = (self.symbol(symbol), self.at());
        self.count(Happened::MovesBegun);
        self.say(|| {
            let Row { node, epoch, .. } = row;
            format!("coordinator {} begins move {id} of {name} from {node} to {to}, epoch {epoch}, {cause:?}", desk + 1)
        });
        let plan = Plan { id, symbol: name, from: row.node, to, epoch: row.epoch, cause, detected_at: now };
        let mut actions = Vec::new();
        let coordinator = Coordinator::begin(plan, DEADLINES, now, &mut actions);
        self.desks[desk].moves.push(Running { id, symbol, coordinator });
        self.act(MoveRef { desk, id }, symbol, plan, actions);
    }

    /// Everybody who moves this book hears of it, or not.
    pub(super) fn tell(&mut self, symbol: usize, event: &handover::Event) {
        for desk in 0..self.desks.len() {
            let ids: Vec<MoveId> = self.desks[desk].moves.iter().filter(|m| m.symbol == symbol).map(|m| m.id).collect();
            for id in ids {
                self.reply(MoveRef { desk, id }, event.clone());
            }
        }
    }

    fn reply(&mut self, to: MoveRef, event: handover::Event) {
        if self.is_calm || !self.rng.moves.chance(self.weather.loss) {
            let delay = self.rng.moves.delay(10 * MS, 50);
            self.after(delay, Event::Hears { to, event });
        }
    }

    pub(super) fn hears(&mut self, to: MoveRef, event: handover::Event) {
        let now = self.at();
        let Some(running) = self.desks[to.desk].moves.iter_mut().find(|m| m.id == to.id) else { return };
        let mut actions = Vec::new();
        running.coordinator.on(event, now, &mut actions);
        let (symbol, plan, is_over) =
            (running.symbol, running.coordinator.record().plan, running.coordinator.is_over());
        if is_over {
            let record = running.coordinator.record();
            let (status, error) = (record.status, record.error.clone().unwrap_or_default());
            self.desks[to.desk].moves.retain(|m| m.id != to.id);
            self.count(match status {
                MoveStatus::Completed => Happened::MovesCompleted,
                MoveStatus::Aborted => Happened::MovesAborted,
                MoveStatus::Failed | MoveStatus::Running => Happened::MovesFailed,
            });
            self.say(|| format!("coordinator {}: move {} {status:?} {error}", to.desk + 1, to.id));
        }
        self.act(to, symbol, plan, actions);
    }

    /// Time passes for a coordinator; it looks how its shadows get on, and who has fallen silent.
    pub(super) fn desk_tick(&mut self, desk: usize) {
        let ids: Vec<MoveId> = self.desks[desk].moves.iter().map(|m| m.id).collect();
        for id in ids {
            let to = MoveRef { desk, id };
            for event in self.looks(to) {
                self.hears(to, event);
            }
        }
        self.after(TICK, Event::DeskTick { desk });
    }

    fn looks(&mut self, to: MoveRef) -> Vec<handover::Event> {
        let mut events = vec![handover::Event::Tick];
        let Some(running) = self.desks[to.desk].moves.iter().find(|m| m.id == to.id) else { return events };
        let (symbol, plan, step) = (running.symbol, running.coordinator.record().plan, running.coordinator.step());
        let silent =
            |node: &NodeId| self.silent_since[self.node_index(node)].is_some_and(|since| self.now - since > SILENT_MAX);
        if silent(&plan.to) {
            events.push(handover::Event::TargetGone);
        } else if silent(&plan.from) {
            events.push(handover::Event::SourceSilent);
        }
        let target = self.responsive(&plan.to).and_then(|p| self.processes[p].hosts[symbol].as_ref());
        if step == Step::TransferSnapshot
            && let Some(replica) = target.and_then(|h| h.replica.as_ref())
        {
            let end = self.log.orders(self.symbols[symbol].partition).len() as u64;
            let lag = end - replica.offset().0;
            // The real bound on the lag is as long as a whole run here.
            let lag = if lag > 5 { lag + handover::LAG_SMALL } else { lag };
            let source = self.responsive(&plan.from).and_then(|p| self.processes[p].hosts[symbol].as_ref());
            let source_lag = source.and_then(|h| h.replica.as_ref()).map_or(0, |r| end - r.offset().0);
            let orders = replica.machine().resting_orders() as u64;
            events.push(handover::Event::ShadowProgress { lag, source_lag, epoch: replica.epoch(), orders });
        }
        if self.rng.moves.chance(2) {
            events.push(handover::Event::Abort);
        }
        events
    }

    fn act(&mut self, me: MoveRef, symbol: usize, plan: Plan, actions: Vec<Action>) {
        let epoch = plan.epoch.next();
        for action in actions {
            match action {
                Action::TakeSnapshot => self.answer_about_snapshot(me, symbol),
                Action::StartShadow => self.ask(&plan.to, |process| Event::Begin { process, symbol }),
                Action::MarkRoute => {
                    let row = Row { node: plan.from, epoch: plan.epoch, status: RouteStatus::Migrating };
                    let event = if self.set_route(symbol, row) {
                        handover::Event::RouteMarked
                    } else {
                        handover::Event::RouteRefused { why: "the table knows a newer epoch".to_owned() }
                    };
                    self.reply(me, event);
                }
                Action::AppendFence(fence) => self.send_fence(symbol, fence, Some(me)),
                Action::TakeByCrashPath => self.ask(&plan.to, |process| Event::TakeOver { process, symbol, epoch }),
                Action::SwitchRoute => {
                    let event = if self.set_route(symbol, Row { node: plan.to, epoch, status: RouteStatus::Active }) {
                        handover::Event::RouteSwitched
                    } else {
                        handover::Event::RouteRefused { why: "the table knows a newer epoch".to_owned() }
                    };
                    self.reply(me, event);
                }
                Action::UnmarkRoute => {
                    let row = Row { node: plan.from, epoch: plan.epoch, status: RouteStatus::Active };
                    self.set_route(symbol, row);
                }
                Action::WatchReplay => {
                    self.reply(me, handover::Event::Replayed { pause_us: None, baseline_gap_us: None });
                }
                Action::DropSource => {
                    self.ask(&plan.from, |process| Event::Retire { process, symbol });
                    self.reply(me, handover::Event::Cleaned);
                }
                Action::DropShadow => self.ask(&plan.to, |process| Event::Retire { process, symbol }),
            }
        }
    }

    fn answer_about_snapshot(&mut self, me: MoveRef, symbol: usize) {
        let event = if self.store.files(symbol).is_empty() && self.rng.moves.chance(300) {
            handover::Event::SnapshotFailed { why: "the source did not write one".to_owned() }
        } else {
            handover::Event::SnapshotReady { bytes: 0, stall_us: 0 }
        };
        self.reply(me, event);
    }

    /// Asks the process that answers to a name; the question may be lost.
    fn ask(&mut self, node: &NodeId, question: impl FnOnce(usize) -> Event) {
        let Some(process) = self.responsive(node) else { return };
        if self.is_calm || !self.rng.messages.chance(self.weather.loss) {
            let delay = self.rng.messages.delay(10 * MS, 50);
            self.after(delay, question(process));
        }
    }

    /// A FENCE on its way to the log: late, or lost with or without anybody knowing.
    pub(super) fn send_fence(&mut self, symbol: usize, fence: Fence, from: Option<MoveRef>) {
        let signed_at = self.at();
        if !self.is_calm && self.rng.fences.chance(self.weather.loss) {
            self.count(Happened::FenceLost);
            if let Some(me) = from.filter(|_| self.rng.fences.chance(500)) {
                self.reply(me, handover::Event::FenceFailed { why: "the log refused it".to_owned() });
            }
            return;
        }
        let delay = self.rng.fences.delay(20 * MS, 20);
        if delay > 500 * MS {
            self.count(Happened::FenceLate);
        }
        self.after(delay, Event::FenceArrives { symbol, fence, signed_at, from });
    }

    pub(super) fn fence_arrives(&mut self, symbol: usize, fence: Fence, signed_at: Micros, from: Option<MoveRef>) {
        let fenced = self.append_control(symbol, Control::Fence(fence), signed_at);
        let offset = Offset(self.log.orders(self.symbols[symbol].partition).len() as u64 - 1);
        let (name, Fence { epoch, to, .. }) = (self.symbol(symbol), fence);
        if fenced == Fenced::Effective {
            self.count(Happened::Fences);
            self.say(|| format!("FENCE at {offset}: {name} belongs to {to}, epoch {epoch}"));
        } else {
            self.count(Happened::FenceVoid);
            self.say(|| format!("FENCE at {offset} for {name} to {to}, epoch {epoch}, has no effect"));
        }
        if let Some(me) = from {
            self.reply(me, handover::Event::FenceAppended);
        }
    }

    /// Looks after books whose owner is dead, or has no replica (rule 13: somebody goes on fencing).
    pub(super) fn supervise(&mut self) {
        for node in 0..self.nodes.len() {
            let answers = self.responsive(&self.nodes[node]).is_some();
            let silent = &mut self.silent_since[node];
            *silent = if answers { None } else { silent.or(Some(self.now)) };
        }
        for symbol in 0..self.symbols.len() {
            let Some(truth) = self.log.truth(symbol) else { continue };
            let silent = self.silent_since[self.node_index(&truth.owner)];
            let is_suspected = !self.is_calm && self.rng.moves.chance(2);
            if is_suspected || silent.is_some_and(|since| self.now - since > SILENT_MAX) {
                if silent.is_none() {
                    self.count(Happened::FalseSuspicion);
                }
                self.recover(symbol, truth.owner, truth.epoch);
            } else if let Some(process) = self.responsive(&truth.owner)
                && self.processes[process].hosts[symbol].is_none()
            {
                self.after(MS, Event::Begin { process, symbol });
            }
        }
        self.look_whether_quiet();
        self.after(250 * MS, Event::Supervise);
    }

    fn recover(&mut self, symbol: usize, owner: NodeId, epoch: Epoch) {
        let others: Vec<NodeId> =
            self.nodes.iter().copied().filter(|n| *n != owner && self.responsive(n).is_some()).collect();
        if others.is_empty() {
            return;
        }
        let to = others[self.rng.moves.index(others.len())];
        let desk = self.rng.moves.index(self.desks.len());
        self.count(Happened::Recoveries);
        self.begin_move(desk, symbol, Row { node: owner, epoch, status: RouteStatus::Active }, to, Cause::Recovery);
    }

    /// A coordinator dies and its successor knows nothing.
    pub(super) fn coordinator_crashes(&mut self) {
        let desk = self.rng.crashes.index(self.desks.len());
        self.count(Happened::CoordinatorCrashed);
        let n = self.desks[desk].moves.len();
        self.say(|| format!("coordinator {} dies with {n} moves", desk + 1));
        self.desks[desk].moves.clear();
    }

    /// A FENCE that no plan wanted: of a coordinator that went mad, or of a message from long ago.
    pub(super) fn stray_fence(&mut self) {
        let symbol = self.rng.fences.index(self.symbols.len());
        let Some(truth) = self.log.truth(symbol) else { return };
        let epoch = Epoch((truth.epoch.0 + self.rng.fences.below(4)).saturating_sub(1));
        let from = self.nodes[self.rng.fences.index(self.nodes.len())];
        let to = self.nodes[self.rng.fences.index(self.nodes.len())];
        self.count(Happened::StrayFence);
        self.send_fence(symbol, Fence { epoch, from, to }, None);
    }

    /// Whether a process takes itself for the owner of a book that is another's by the log.
    pub(super) fn is_zombie(&self, process: usize, symbol: usize) -> bool {
        let mode = self.processes[process].hosts[symbol].as_ref().and_then(|h| h.mode());
        mode == Some(Mode::Active) && self.log.truth(symbol).is_some_and(|t| t.owner != self.processes[process].name)
    }
}
