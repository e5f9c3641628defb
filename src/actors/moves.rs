//! Carries out moves to nodes of this process: runs the pure coordinator of each, and keeps what is to be told of them.
//! The target's process coordinates (docs/adr/0008): of the source it needs a snapshot and, at the end, that it lets go.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::book::{CutError, Saved, TakeOver};
use super::directory::{BookStatus, Takeover};
use super::node::{Follow, LetGo, NodeSupervisor, TakeSnapshot};
use super::owners::Owners;
use super::pause;
use super::peers::{Milestone, Peers, What};
use crate::clock;
use crate::domain::control::Fence;
use crate::domain::{Epoch, Micros, NodeId, Offset, Symbol};
use crate::migration::handover::{
    AbortError, Action, Cause, Coordinator, Deadlines, Event, MoveId, MoveRecord, MoveStatus, Plan, Step,
};
use crate::ports::log::{Log, LogError, NewRecord, Session, Topic, TopicPartition};
use crate::ports::routes::{Route, RouteStatus, Routes, RoutesError};
use crate::wire::{Control, Keyring};

/// How often a shadow's progress is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How often a move is looked at whose fence is on its way: what happens then is told, and a thousand moves are under way
/// when a node dies.
const LOOK_BEHIND: Duration = Duration::from_millis(20);
/// Ended moves that are remembered.
const REMEMBERED_MAX: usize = 1_000;
/// Moves under way in one process.
const RUNNING_MAX: usize = 2_048;
/// Books of dead nodes that are restored and fenced at once. More would only wait for each other, each looking whether
/// it is its turn. One that is followed already waits for nobody.
const RECOVERIES_MAX: usize = 128;
/// A snapshot that is being taken already is waited for so often, each time for [`LOOK`].
const BUSY_LOOKS: u32 = 2_500;

/// Why no move was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error("symbol is not listed")]
    UnknownSymbol,
    #[error("there is no such node")]
    UnknownNode,
    #[error("the node is not alive")]
    NodeDown,
    #[error("the book is there already")]
    AlreadyThere,
    #[error("the book is being moved")]
    AlreadyMoving,
    #[error("the book does not trade yet: try again when it does")]
    NotReady,
    #[error("too many moves are under way")]
    TooMany,
    /// The move may have begun all the same.
    #[error("the target's process does not answer")]
    NoAnswer,
}

impl MoveError {
    const CODES: [(Self, &'static str); 8] = [
        (Self::UnknownSymbol, "unknown_symbol"),
        (Self::UnknownNode, "unknown_node"),
        (Self::NodeDown, "node_down"),
        (Self::AlreadyThere, "already_there"),
        (Self::AlreadyMoving, "already_moving"),
        (Self::NotReady, "not_ready"),
        (Self::TooMany, "too_many"),
        (Self::NoAnswer, "no_answer"),
    ];

    /// As processes tell each other.
    pub fn code(self) -> &'static str {
        Self::CODES.iter().find(|(e, _)| *e == self).map_or("", |(_, code)| code)
    }

    /// One that a newer build made up is [`Self::NoAnswer`].
    pub fn from_code(code: &str) -> Self {
        Self::CODES.iter().find(|(_, c)| *c == code).map_or(Self::NoAnswer, |(e, _)| *e)
    }
}

/// What moves are carried out with.
pub struct MovesParts {
    pub log: Arc<dyn Log>,
    pub session: Arc<dyn Session>,
    pub keyring: Arc<Keyring>,
    pub owners: Arc<Owners>,
    pub peers: Arc<Peers>,
    pub routes: Arc<dyn Routes>,
    /// The thread on which moves are carried out: not a node's, which may die.
    pub arbiter: ArbiterHandle,
    pub deadlines: Deadlines,
    /// Moves are numbered from here on: so that those of several processes differ.
    pub numbered_above: u64,
    /// Development only: how long each step waits before anything is done for it, so that it can be met.
    pub dev_step: Duration,
}

struct Running {
    symbol: Symbol,
    abort: mpsc::Sender<()>,
}

#[derive(Default)]
struct Book {
    last: u64,
    records: BTreeMap<u64, MoveRecord>,
    running: BTreeMap<u64, Running>,
}

/// Told of each step of a move when it begins, before anything is done for it.
pub type StepWatch = Box<dyn Fn(&Plan, Step) + Send + Sync>;

/// All moves of the process.
pub struct Moves {
    parts: MovesParts,
    nodes: Mutex<BTreeMap<NodeId, Addr<NodeSupervisor>>>,
    book: Mutex<Book>,
    recovering: Semaphore,
    watch: OnceLock<StepWatch>,
}

impl Moves {
    pub fn new(parts: MovesParts) -> Self {
        let (nodes, watch) = Default::default();
        let book = Mutex::new(Book { last: parts.numbered_above, ..Book::default() });
        Self { parts, nodes, book, recovering: Semaphore::new(RECOVERIES_MAX), watch }
    }

    /// Lets somebody see every step of every move as it begins, on the thread of the moves; once. For fault tests.
    pub fn watch_steps(&self, watch: StepWatch) {
        _ = self.watch.set(watch);
    }

    /// Tells of the steps of a move that have begun since the last time; `told`: how many were told before.
    fn tell_steps(&self, record: &MoveRecord, told: usize) {
        let plan = &record.plan;
        for step in &record.steps[told..] {
            tracing::info!(id = %plan.id, symbol = %plan.symbol, step = step.name.name(), "move");
            if let Some(watch) = self.watch.get() {
                watch(plan, step.name);
            }
        }
    }

    pub(super) fn enter(&self, node: NodeId, supervisor: Addr<NodeSupervisor>) {
        self.nodes.lock().insert(node, supervisor);
    }

    fn node(&self, id: &NodeId) -> Option<Addr<NodeSupervisor>> {
        self.parts.peers.alive(id)?;
        self.nodes.lock().get(id).filter(|n| n.connected()).cloned()
    }

    /// All remembered moves, oldest first.
    pub fn all(&self) -> Vec<MoveRecord> {
        self.book.lock().records.values().cloned().collect()
    }

    pub fn get(&self, id: MoveId) -> Option<MoveRecord> {
        self.book.lock().records.get(&id.0).cloned()
    }

    /// The moves that run.
    pub fn under_way(&self) -> Vec<Plan> {
        let book = self.book.lock();
        book.running.keys().filter_map(|id| book.records.get(id)).map(|r| r.plan).collect()
    }

    /// Whether books can be moved to a node: it is there and answers.
    pub fn reaches(&self, id: &NodeId) -> bool {
        self.node(id).is_some()
    }

    /// The symbols that are moving.
    pub fn moving(&self) -> HashSet<Symbol> {
        self.book.lock().running.values().map(|r| r.symbol).collect()
    }

    /// Stops a move before its fence.
    ///
    /// # Errors
    /// [`AbortError`]; `None` if there is no such move.
    pub fn abort(&self, id: MoveId) -> Option<Result<(), AbortError>> {
        let book = self.book.lock();
        let record = book.records.get(&id.0)?;
        if record.status != MoveStatus::Running {
            return Some(Err(AbortError::Ended));
        }
        if record.steps.last().is_some_and(|s| s.name > Step::PauseRouting) {
            return Some(Err(AbortError::TooLate));
        }
        if let Some(running) = book.running.get(&id.0) {
            // One word is enough; a second finds the first still there.
            _ = running.abort.try_send(());
        }
        Some(Ok(()))
    }

    /// Begins to move a book. May be called from any thread.
    ///
    /// # Errors
    /// [`MoveError`]: nothing was begun.
    pub fn begin(self: &Arc<Self>, symbol: Symbol, to: NodeId, cause: Cause) -> Result<MoveId, MoveError> {
        let owner = self.parts.owners.get(&symbol).ok_or(MoveError::UnknownSymbol)?;
        if !self.nodes.lock().contains_key(&to) {
            return Err(MoveError::UnknownNode);
        }
        self.node(&to).ok_or(MoveError::NodeDown)?;
        let from = owner.node;
        let mut book = self.book.lock();
        if book.running.values().any(|r| r.symbol == symbol) {
            return Err(MoveError::AlreadyMoving);
        }
        if from == to {
            return Err(MoveError::AlreadyThere);
        }
        if cause != Cause::Recovery && !self.trades(&from, &symbol) {
            return Err(MoveError::NotReady);
        }
        if book.running.len() >= RUNNING_MAX {
            return Err(MoveError::TooMany);
        }
        book.last += 1;
        let id = MoveId(book.last);
        let plan = Plan { id, symbol, from, to, epoch: owner.epoch, cause, detected_at: clock::now() };
        let (abort, aborted) = mpsc::channel(1);
        book.running.insert(id.0, Running { symbol, abort });
        let (mut actions, deadlines) = (Vec::new(), self.parts.deadlines);
        let coordinator = Coordinator::begin(plan, deadlines, clock::now(), &mut actions);
        book.records.insert(id.0, coordinator.record().clone());
        while book.records.len() > REMEMBERED_MAX + book.running.len() {
            let oldest = book.records.iter().find(|(_, r)| r.status != MoveStatus::Running).map(|(id, _)| *id);
            oldest.map(|id| book.records.remove(&id));
        }
        drop(book);
        tracing::info!(%id, %symbol, %from, %to, ?cause, "move begins");
        let (events, results) = mpsc::unbounded_channel(); // bounded by the actions of one move
        let milestones = self.parts.peers.listen(symbol);
        let (moves, partition, shadow, begun) = (Arc::clone(self), owner.partition, Arc::default(), clock::now());
        let drive = Drive { moves, plan, partition, shadow, events, begun };
        self.parts
            .arbiter
            .spawn_fn(move || _ = actix::spawn(drive.run(coordinator, actions, milestones, results, aborted)));
        Ok(id)
    }

    /// Whether a node publishes for a book: it can be moved from there.
    fn trades(&self, node: &NodeId, symbol: &Symbol) -> bool {
        let peers = &self.parts.peers;
        if peers.is_here(node) {
            return peers.alive(node).and_then(|n| n.status(symbol)).is_some_and(|status| status.is_active());
        }
        peers.members().is_alive(node)
    }

    fn note(&self, record: &MoveRecord) {
        let mut book = self.book.lock();
        let id = record.plan.id.0;
        let waits = |of: &MoveRecord| of.status == MoveStatus::Running && of.code.is_some();
        let (waited, waits) = (book.records.get(&id).is_some_and(waits), waits(record));
        if waits != waited {
            metrics::gauge!("hotbook_moves_waiting").increment(if waits { 1.0 } else { -1.0 });
        }
        if waits && !waited {
            let Plan { symbol, from, to, .. } = record.plan;
            tracing::warn!(id, %symbol, %from, %to, code = record.code, "move waits for the route table");
        }
        if record.status != MoveStatus::Running {
            book.running.remove(&id);
        }
        book.records.insert(id, record.clone());
    }
}

/// One move under way.
struct Drive {
    moves: Arc<Moves>,
    plan: Plan,
    partition: u32,
    shadow: Arc<Mutex<Option<Arc<BookStatus>>>>,
    events: mpsc::UnboundedSender<Event>,
    begun: Micros,
}

impl Drive {
    async fn run(
        self,
        mut coordinator: Coordinator,
        mut actions: Vec<Action>,
        mut milestones: mpsc::Receiver<Milestone>,
        mut results: mpsc::UnboundedReceiver<Event>,
        mut aborted: mpsc::Receiver<()>,
    ) {
        let restores = !self.moves.parts.peers.follows(&self.plan.to, &self.plan.symbol);
        let mut turn = match self.plan.cause {
            Cause::Recovery if restores => self.moves.recovering.acquire().await.ok(),
            _ => None,
        };
        let (mut noted, mut told) = (coordinator.record().clone(), 0);
        loop {
            let before = std::mem::replace(&mut told, coordinator.record().steps.len());
            self.moves.tell_steps(coordinator.record(), before);
            if told > before && !self.moves.parts.dev_step.is_zero() {
                self.moves.note(coordinator.record());
                tokio::time::sleep(self.moves.parts.dev_step).await;
            }
            for action in std::mem::take(&mut actions) {
                self.act(action, &coordinator);
            }
            if noted != *coordinator.record() {
                noted.clone_from(coordinator.record());
                self.moves.note(coordinator.record());
            }
            if coordinator.is_over() {
                break;
            }
            if coordinator.is_taken() {
                // What is left is bookkeeping: the next book need not wait for it.
                turn = None;
            }
            let pause = if coordinator.step() <= Step::TransferSnapshot { LOOK } else { LOOK_BEHIND };
            let event = tokio::select! {
                biased;
                result = results.recv() => result,
                Some(milestone) = milestones.recv() => self.heard(&milestone, &coordinator),
                Some(()) = aborted.recv() => Some(Event::Abort),
                () = tokio::time::sleep(pause) => Some(self.look(&coordinator)),
            };
            if let Some(event) = event {
                coordinator.on(event, clock::now(), &mut actions);
            }
        }
        drop(turn);
        if self.plan.cause == Cause::Recovery && coordinator.is_taken() {
            let from = if restores { "snapshot" } else { "standby" };
            metrics::counter!("hotbook_books_recovered_total", "from" => from).increment(1);
        }
        finish(coordinator.record());
    }

    fn heard(&self, milestone: &Milestone, coordinator: &Coordinator) -> Option<Event> {
        let Milestone { node, what, .. } = *milestone;
        let (is_source, is_target) = (node == self.plan.from, node == self.plan.to);
        match what {
            What::FenceApplied { epoch, to, offset } if is_target => Some(Event::FenceApplied { epoch, to, offset }),
            What::Sealed { epoch } if is_source => Some(Event::Sealed { epoch }),
            What::Active { .. } if is_target => self.taken(coordinator),
            _ => None,
        }
    }

    /// What is to be seen without being told: a milestone may have been missed.
    fn look(&self, coordinator: &Coordinator) -> Event {
        let (peers, step) = (&self.moves.parts.peers, coordinator.step());
        if peers.alive(&self.plan.to).is_none() {
            return Event::TargetGone;
        }
        let source_follows = peers.follows(&self.plan.from, &self.plan.symbol);
        let is_before = coordinator.may_abort().is_ok();
        if is_before && self.plan.cause != Cause::Recovery && !source_follows {
            return Event::SnapshotFailed { why: "the source is gone".into() };
        }
        let Some(shadow) = self.shadow.lock().clone() else { return Event::Tick };
        if step <= Step::TransferSnapshot {
            return self.moves.progress(&self.plan, &shadow);
        }
        self.taken(coordinator).unwrap_or(Event::Tick)
    }

    /// What the target's status tells if it publishes and the coordinator has not heard so: the fence first.
    fn taken(&self, coordinator: &Coordinator) -> Option<Event> {
        let epoch = self.plan.epoch.next();
        let target = self.shadow.lock().clone().filter(|s| s.is_active() && s.epoch() >= epoch)?;
        if coordinator.is_taken() {
            return None;
        }
        let takeover = target.takeover(epoch);
        match takeover.filter(|_| coordinator.record().fence.is_none()) {
            Some(Takeover { fence: offset, .. }) => Some(Event::FenceApplied { epoch, to: self.plan.to, offset }),
            // Rebuilt since it took over: nobody can tell any more.
            None => Some(Event::Active { epoch, parked: takeover.map(|t| t.parked) }),
        }
    }

    fn act(&self, action: Action, coordinator: &Coordinator) {
        let (moves, plan, events) = (Arc::clone(&self.moves), self.plan, self.events.clone());
        let shadow = Arc::clone(&self.shadow);
        let (begun, record) = (self.begun, coordinator.record().clone());
        let partition = self.partition;
        actix::spawn(async move {
            let event = match action {
                Action::TakeSnapshot => Some(moves.take_snapshot(&plan).await),
                Action::StartShadow => moves.start_shadow(&plan, &shadow).await,
                Action::MarkRoute => Some(moves.mark_route(&plan, partition).await),
                Action::AppendFence(fence) => moves.append_fence(&plan, partition, fence).await,
                Action::TakeByCrashPath => moves.take_by_crash_path(&plan),
                Action::SwitchRoute => Some(moves.switch_route(&plan, partition).await),
                Action::WatchReplay => Some(moves.watch_replay(&plan, partition, begun, record.fence).await),
                Action::DropSource => moves.let_go(&plan.from, plan.symbol).await,
                Action::DropShadow => moves.let_go(&plan.to, plan.symbol).await,
                Action::UnmarkRoute => moves.unmark_route(&plan, partition).await,
            };
            if let Some(event) = event {
                // The move may have ended.
                _ = events.send(event);
            }
        });
    }
}

impl Moves {
    /// How far a shadow is.
    fn progress(&self, plan: &Plan, shadow: &BookStatus) -> Event {
        let lag = if shadow.is_detached() { u64::MAX } else { shadow.lag() };
        let source_lag = self.parts.peers.lag(&plan.from, &plan.symbol);
        Event::ShadowProgress { lag, source_lag, epoch: shadow.epoch(), orders: shadow.orders() }
    }

    async fn take_snapshot(&self, plan: &Plan) -> Event {
        let failed = |why: String| Event::SnapshotFailed { why };
        for _ in 0..BUSY_LOOKS {
            match self.snapshot(plan.from, plan.symbol).await {
                Some(Ok(saved)) => return Event::SnapshotReady { bytes: saved.bytes as u64, stall_us: saved.stall_us },
                Some(Err(CutError::Busy)) => tokio::time::sleep(LOOK).await,
                Some(Err(e)) => return failed(e.to_string()),
                None => return failed("the source is gone".into()),
            }
        }
        failed("another snapshot of the book does not end".into())
    }

    /// Takes a snapshot of a book that a node of any process owns; `None` if the node is gone.
    pub async fn snapshot(&self, of: NodeId, symbol: Symbol) -> Option<Result<Saved, CutError>> {
        if let Some(member) = self.parts.peers.members().get(&of).filter(|m| m.is_alive()) {
            return Some(member.link().take_snapshot(of, symbol).await);
        }
        let (done, saved) = oneshot::channel();
        self.node(&of)?.send(TakeSnapshot { symbol, done }).await.ok()?;
        saved.await.ok()
    }

    async fn start_shadow(&self, plan: &Plan, shadow: &Mutex<Option<Arc<BookStatus>>>) -> Option<Event> {
        let failed = |why: &str| Some(Event::ShadowFailed { why: why.to_owned() });
        let Some(node) = self.node(&plan.to) else { return failed("the target is gone") };
        let (done, started) = oneshot::channel();
        if node.send(Follow { symbol: plan.symbol, from: None, done }).await.is_err() {
            return failed("the target is gone");
        }
        match started.await {
            Ok(Ok(status)) => {
                let event = self.progress(plan, &status);
                *shadow.lock() = Some(status);
                Some(event)
            }
            Ok(Err(why)) => failed(&why),
            Err(_) => failed("the target is gone"),
        }
    }

    async fn mark_route(&self, plan: &Plan, partition: u32) -> Event {
        let active = route(plan.from, plan.epoch, partition);
        let marked = Route { status: RouteStatus::Migrating, to: Some(plan.to), ..active };
        let routes = &self.parts.routes;
        let result = match routes.learn(plan.symbol, active).await {
            Ok(row) if row.epoch > plan.epoch => Err(RoutesError::Changed { symbol: plan.symbol, have: Some(row) }),
            Ok(row) => routes.swap(plan.symbol, Some(row.version()), marked).await,
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => Event::RouteMarked,
            Err(e @ RoutesError::Unavailable { .. }) => {
                tracing::debug!(symbol = %plan.symbol, error = %e, "route is not marked");
                Event::RoutesAway
            }
            Err(e) => Event::RouteRefused { why: e.to_string() },
        }
    }

    async fn unmark_route(&self, plan: &Plan, partition: u32) -> Option<Event> {
        let marked = Some((plan.epoch, RouteStatus::Migrating));
        match self.parts.routes.swap(plan.symbol, marked, route(plan.from, plan.epoch, partition)).await {
            // Somebody else moved it on: the newer row stands.
            Ok(()) | Err(RoutesError::Changed { .. }) => {}
            Err(e) => tracing::warn!(symbol = %plan.symbol, error = %e, "route not written"),
        }
        None
    }

    async fn switch_route(&self, plan: &Plan, partition: u32) -> Event {
        match self.parts.routes.learn(plan.symbol, route(plan.to, plan.epoch.next(), partition)).await {
            Ok(_) => Event::RouteSwitched,
            Err(e) => Event::RouteRefused { why: e.to_string() },
        }
    }

    async fn append_fence(&self, plan: &Plan, partition: u32, fence: Fence) -> Option<Event> {
        match append_fence(&*self.parts.session, &self.parts.keyring, plan.symbol, partition, fence).await {
            Ok(()) => Some(Event::FenceAppended),
            Err(e @ (LogError::Full | LogError::TooLarge { .. } | LogError::Unavailable { .. })) => {
                Some(Event::FenceFailed { why: e.to_string() })
            }
            Err(e) => {
                tracing::error!(symbol = %plan.symbol, error = %e, "whether the fence was appended, the log will tell");
                None
            }
        }
    }

    fn take_by_crash_path(&self, plan: &Plan) -> Option<Event> {
        let book = self.parts.peers.alive(&plan.to).and_then(|n| n.book(&plan.symbol))?;
        // One per deadline of a move.
        #[allow(clippy::disallowed_methods)]
        book.do_send(TakeOver { epoch: plan.epoch.next() });
        None
    }

    async fn watch_replay(&self, plan: &Plan, partition: u32, begun: Micros, fence: Option<Offset>) -> Event {
        let measured = match fence {
            Some(fence) => pause::measure(&*self.parts.log, plan.symbol, partition, fence, begun).await,
            None => Ok(pause::Pause::default()),
        };
        // What was not measured is not told.
        let pause = measured.unwrap_or_else(|e| {
            tracing::warn!(symbol = %plan.symbol, error = %e, "pause cannot be measured");
            pause::Pause::default()
        });
        Event::Replayed { pause_us: pause.pause_us, baseline_gap_us: pause.baseline_gap_us }
    }

    /// Has a node of any process let go of a replica; returns when that is gone, or not to be had.
    pub async fn let_replica_go(&self, node: &NodeId, symbol: Symbol) {
        if let Some(member) = self.parts.peers.members().get(node).filter(|m| m.is_alive()) {
            if let Err(e) = member.link().let_go(*node, symbol).await {
                tracing::warn!(%symbol, %node, error = %e, "replica is not let go");
            }
        } else if let Some(node) = self.node(node) {
            let (done, gone) = oneshot::channel();
            if node.send(LetGo { symbol, done }).await.is_ok() {
                _ = gone.await;
            }
        }
    }

    async fn let_go(&self, node: &NodeId, symbol: Symbol) -> Option<Event> {
        self.let_replica_go(node, symbol).await;
        Some(Event::Cleaned)
    }
}

fn route(of: NodeId, epoch: Epoch, partition: u32) -> Route {
    Route { target_instance: of, status: RouteStatus::Active, epoch, partition, to: None }
}

/// Appends a signed fence; returns once it is durable.
///
/// # Errors
/// [`LogError`]; only `Full` and `TooLarge` say that it is certainly not there.
pub async fn append_fence(
    session: &dyn Session,
    keyring: &Keyring,
    symbol: Symbol,
    partition: u32,
    fence: Fence,
) -> Result<(), LogError> {
    let receipt = session.append(NewRecord {
        to: TopicPartition { topic: Topic::Orders, partition },
        key: Bytes::copy_from_slice(symbol.as_bytes()),
        header: Bytes::new(),
        value: keyring.encode(&symbol, partition, Control::Fence(fence), clock::now()),
    });
    receipt.await.map(|_| ())
}

fn finish(record: &MoveRecord) {
    let Plan { id, symbol, from, to, .. } = record.plan;
    let status = match record.status {
        MoveStatus::Completed => "completed",
        MoveStatus::Aborted => "aborted",
        MoveStatus::Failed | MoveStatus::Running => "failed",
    };
    metrics::counter!("hotbook_moves_total", "status" => status).increment(1);
    for step in &record.steps {
        let took = step.took_us.unwrap_or_default() as f64 / 1e6;
        metrics::histogram!("hotbook_move_step_seconds", "step" => step.name.name()).record(took);
    }
    let (pause_us, parked) = (record.pause_us, record.parked);
    match &record.error {
        None => tracing::info!(%id, %symbol, %from, %to, ?pause_us, ?parked, "move completed"),
        Some(error) => tracing::warn!(%id, %symbol, %from, %to, status, error, "move ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::directory::{Directory, Report};
    use crate::domain::{Digest, Seq};
    use crate::ports::log::SessionOptions;
    use crate::ports::log::embedded::EmbeddedLog;
    use crate::ports::routes::local::LocalRoutes;

    fn drive(plan: Plan, directory: &Directory) -> Drive {
        let log = Arc::new(EmbeddedLog::ephemeral(1).unwrap());
        let session = log.open_session(SessionOptions { name: "test".into(), queue_bytes_max: 1 }).unwrap();
        let moves = Arc::new(Moves::new(MovesParts {
            log,
            session,
            keyring: Arc::new(Keyring::from_secret(b"test")),
            owners: Arc::default(),
            peers: Arc::default(),
            routes: Arc::new(LocalRoutes::default()),
            arbiter: Arbiter::current(),
            deadlines: Deadlines::default(),
            numbered_above: 0,
            dev_step: Duration::ZERO,
        }));
        let target = directory.enter(plan.symbol, 0, plan.to);
        let shadow = Arc::new(Mutex::new(Some(target)));
        Drive { moves, plan, partition: 0, shadow, events: mpsc::unbounded_channel().0, begun: Micros(0) }
    }

    #[actix_rt::test]
    async fn a_takeover_whose_milestones_were_missed_is_told_with_its_true_figures() {
        let (from, to) = (NodeId::new("n1").unwrap(), NodeId::new("n2").unwrap());
        let (id, symbol, cause) = (MoveId(1), Symbol::new("A").unwrap(), Cause::Load);
        let plan = Plan { id, symbol, from, to, epoch: Epoch(4), cause, detected_at: Micros(0) };
        let directory = Directory::default();
        let drive = drive(plan, &directory);
        let mut actions = Vec::new();
        let mut coordinator = Coordinator::begin(plan, Deadlines::default(), Micros(0), &mut actions);
        for event in [
            Event::SnapshotReady { bytes: 1, stall_us: 0 },
            Event::ShadowProgress { lag: 0, source_lag: 0, epoch: Epoch(4), orders: 1 },
            Event::RouteMarked,
            Event::FenceAppended,
        ] {
            coordinator.on(event, Micros(1), &mut actions);
        }
        assert_eq!((coordinator.step(), drive.taken(&coordinator)), (Step::WaitForDrain, None));

        let target = drive.shadow.lock().clone().unwrap();
        let (offset, seq, d) = (Offset(12), Seq(9), Digest(1));
        let report = Report { offset, seq, epoch: Epoch(5), orders: 2, state_digest: d, book_digest: d };
        target.report(&report, 4, 0);
        target.set_takeover(Takeover { epoch: Epoch(5), fence: Offset(8), parked: 3 });
        target.set_active(true);
        let fence = Event::FenceApplied { epoch: Epoch(5), to, offset: Offset(8) };
        assert_eq!(drive.taken(&coordinator), Some(fence.clone()));
        coordinator.on(fence, Micros(2), &mut actions);
        let active = Event::Active { epoch: Epoch(5), parked: Some(3) };
        assert_eq!(drive.taken(&coordinator), Some(active.clone()));
        coordinator.on(active, Micros(3), &mut actions);
        assert_eq!((coordinator.record().parked, coordinator.record().fence), (Some(3), Some(Offset(8))));
        assert_eq!(drive.taken(&coordinator), None, "told once: deadlines go on");

        target.set_takeover(Takeover { epoch: Epoch(6), fence: Offset(20), parked: 0 });
        assert_eq!(target.takeover(Epoch(5)), None, "of another move");
    }
}
