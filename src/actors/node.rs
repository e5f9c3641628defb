//! A node: its books, their threads, and the supervisor that keeps them running.
//!
//! The supervisor sees a dead book (an engine bug's panic, a lost session) and rebuilds it from snapshot and log; one
//! book's death stops no other. Once a second it takes the snapshots that are due.

mod following;
mod gathering;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot, watch};

use super::book::{BookActor, Crash, Cut, CutError, Pump, Saved, Start, StartFrom};
use super::catalogue::Catalogue;
use super::directory::{BookStatus, Directory};
use super::egress::EventPositions;
use super::feed::{AdvanceIdle, FeedActor};
use super::high_water::HighWaters;
use super::load::Spent;
use super::owners::Owners;
use super::peers::Peers;
use super::recovery::{self, Found};
use super::retention::Retention;
use crate::clock::{self, thread_cpu_ns};
use crate::domain::{Epoch, Micros, NodeId, Offset, Seq, Symbol};
use crate::engine::Book;
use crate::migration::replica::Sealed;
use crate::migration::snapshot::Snapshot;
use crate::ports::log::{Log, NewRecord, Session, SessionOptions, Topic, TopicPartition};
use crate::ports::snapshots::SnapshotStore;
use crate::wire::{BadRecord, Keyring};
pub use following::{Follow, Forgo, LetGo, StandBy, Want};
use gathering::Gatherings;

/// How often snapshots are thought about.
const TICK: Duration = Duration::from_secs(1);
/// How often idle books are told how far their partition has come.
const ADVANCE_EVERY_TICKS: u64 = 10;
/// An idle book is snapshotted again when its partition has moved on by this many records.
const IDLE_GAP_RECORDS: u64 = 200_000;
/// A book that dies more often than this within [`RESTART_WINDOW`] stays down, loudly.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// How often a book that cannot be restored is tried again.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// What all shadows of a node together keep back: beyond it each that grows forgets its outputs.
const SHADOWS_BYTES_MAX: i64 = 256 << 20;

/// A replica on this node: its actor, and what it last said of itself.
type LocalReplica = (Addr<BookActor>, Arc<BookStatus>);

/// What can be set for a node.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    pub snapshot_every: Duration,
    pub snapshot_every_records: u64,
    /// Snapshots begun per second and node.
    pub snapshots_per_second_max: usize,
    /// Cores that count as full load.
    pub cores: f64,
    /// What one shadow keeps back; [`super::book::SHADOW_BYTES_MAX`] but in fault tests.
    pub shadow_bytes_max: usize,
    /// CPU time that each command of a symbol is made to cost. For fault tests.
    pub dev_command_cost_us: HashMap<Symbol, u64>,
}

/// What a node cost in its last window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeLoad {
    /// Fraction of its budget.
    pub load: f64,
    /// When the window ended.
    pub measured_at: Micros,
    /// Per partition, in cores, beside the books.
    pub fetch: Vec<(u32, f64)>,
}

/// What the actors of a node share.
pub struct NodeContext {
    pub id: NodeId,
    /// Position among the nodes of the process.
    pub index: usize,
    pub nodes: usize,
    pub log: Arc<dyn Log>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub directory: Arc<Directory>,
    pub keyring: Arc<Keyring>,
    pub catalogue: Arc<Catalogue>,
    pub owners: Arc<Owners>,
    pub positions: Arc<EventPositions>,
    pub retention: Arc<Retention>,
    pub peers: Arc<Peers>,
    pub settings: NodeSettings,
    /// CPU time that its threads spend.
    pub spent: Spent,
    /// When this life of the node began, in microseconds UTC.
    pub incarnation: u64,
    pub(super) high_waters: HighWaters,
    /// Snapshots that are read and decoded at once.
    finding: Semaphore,
    session: RwLock<Arc<dyn Session>>,
    threads: Vec<(ArbiterHandle, Pump)>,
    next_thread: AtomicUsize,
    books: RwLock<HashMap<Symbol, LocalReplica>>,
    supervisor: OnceLock<Addr<NodeSupervisor>>,
    /// What its replicas sealed last, for a new owner that was not up when it was told. One for each replica.
    sealed: Mutex<HashMap<Symbol, Sealed>>,
    level_feeds: AtomicU64,
    load: RwLock<NodeLoad>,
    /// Bytes that its shadows keep back.
    kept: AtomicI64,
    stopping: AtomicBool,
    dead: AtomicBool,
    /// Set when the node missed records that the log holds no longer.
    overtaken: watch::Sender<bool>,
}

/// What a node is made of.
pub struct NodeParts {
    pub id: NodeId,
    pub index: usize,
    pub nodes: usize,
    pub log: Arc<dyn Log>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub directory: Arc<Directory>,
    pub keyring: Arc<Keyring>,
    pub catalogue: Arc<Catalogue>,
    pub owners: Arc<Owners>,
    pub positions: Arc<EventPositions>,
    pub retention: Arc<Retention>,
    pub peers: Arc<Peers>,
    pub settings: NodeSettings,
    /// The threads that its books live on.
    pub threads: Vec<(ArbiterHandle, Pump)>,
}

fn session_options(id: &NodeId) -> SessionOptions {
    // Bounded by the books' permits: refusing an output would break the chain.
    SessionOptions { name: format!("books of {id}"), queue_bytes_max: usize::MAX }
}

impl NodeContext {
    /// # Errors
    /// When the log takes no session.
    pub fn new(parts: NodeParts) -> Result<Self, crate::ports::log::LogError> {
        let session = parts.log.open_session(session_options(&parts.id))?;
        let spent = Spent::new(parts.log.partitions());
        Ok(Self {
            high_waters: HighWaters::new(parts.log.partitions()),
            finding: Semaphore::new(recovery::FINDS_MAX),
            id: parts.id,
            index: parts.index,
            nodes: parts.nodes,
            log: parts.log,
            snapshots: parts.snapshots,
            directory: parts.directory,
            keyring: parts.keyring,
            catalogue: parts.catalogue,
            owners: parts.owners,
            positions: parts.positions,
            retention: parts.retention,
            peers: parts.peers,
            settings: parts.settings,
            spent,
            incarnation: clock::now().0,
            session: RwLock::new(session),
            threads: parts.threads,
            next_thread: AtomicUsize::new(0),
            books: RwLock::default(),
            supervisor: OnceLock::new(),
            sealed: Mutex::default(),
            level_feeds: AtomicU64::new(0),
            load: RwLock::default(),
            kept: AtomicI64::new(0),
            stopping: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            overtaken: watch::Sender::new(false),
        })
    }

    /// The producer session of the books that start now.
    pub fn session(&self) -> Arc<dyn Session> {
        Arc::clone(&self.session.read())
    }

    /// Starts a book on the next thread in turn.
    pub fn start_book(self: &Arc<Self>, status: &Arc<BookStatus>, start: Start, level_at: Offset) -> Addr<BookActor> {
        let (thread, pump) = &self.threads[self.next_thread.fetch_add(1, Ordering::Relaxed) % self.threads.len()];
        let (node, status, pump) = (Arc::clone(self), Arc::clone(status), pump.clone());
        let (symbol, kept) = (status.symbol, Arc::clone(&status));
        if let StartFrom::Snapshot(snapshot) = &start.from {
            status.set_price_scale(snapshot.machine.instrument().price_scale);
        }
        let book = BookActor::start_in_arbiter(thread, move |_| BookActor::new(node, status, pump, start, level_at));
        self.books.write().insert(symbol, (book.clone(), kept));
        book
    }

    pub fn book(&self, symbol: &Symbol) -> Option<Addr<BookActor>> {
        self.books.read().get(symbol).map(|(book, _)| book.clone())
    }

    /// The status of its replica of a symbol.
    pub fn status(&self, symbol: &Symbol) -> Option<Arc<BookStatus>> {
        self.books.read().get(symbol).map(|(_, status)| Arc::clone(status))
    }

    /// The statuses of all its replicas.
    pub fn statuses(&self) -> Vec<Arc<BookStatus>> {
        self.books.read().values().map(|(_, status)| Arc::clone(status)).collect()
    }

    /// What its replica of a symbol sealed last.
    pub(super) fn sealed(&self, symbol: &Symbol) -> Option<Sealed> {
        self.sealed.lock().get(symbol).copied()
    }

    pub(super) fn note_sealed(&self, symbol: Symbol, sealed: Sealed) {
        self.sealed.lock().insert(symbol, sealed);
    }

    /// Whether the log gives a book to another node by a fence that the replica here has not come to yet.
    fn is_taken_away(&self, replica: &BookStatus) -> bool {
        let owner = self.owners.get(&replica.symbol);
        owner.is_some_and(|owner| owner.node != self.id && owner.epoch > replica.epoch())
    }

    /// Ends like a machine that loses power: of what its session has not got acknowledged a prefix lands.
    pub fn die(&self) {
        self.stop();
        self.dead.store(true, Ordering::Release);
        self.session().abort();
    }

    /// Ends in order: it owns nothing and owes nothing.
    pub fn end(&self) {
        self.stop();
        self.dead.store(true, Ordering::Release);
    }

    pub fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::Acquire)
    }

    /// It was away for so long that records of `orders` which it has not read are trimmed. Fences may be among them: what it
    /// takes for its own may be another's, and nothing but a new start can tell. So it dies, and its process should end.
    pub(super) fn is_overtaken(&self, partition: u32, next: Offset, start: Offset) {
        tracing::error!(
            code = "log_overtaken", node = %self.id, partition, %next, %start,
            "node missed records of orders that are trimmed, and cannot go on; it has to be started anew"
        );
        self.die();
        self.overtaken.send_replace(true);
    }

    /// Waits until the node cannot go on because it missed records.
    pub async fn until_overtaken(&self) {
        // The sender lives as long as the node.
        _ = self.overtaken.subscribe().wait_for(|overtaken| *overtaken).await;
    }

    /// Whether the symbol's book is on another node.
    pub fn is_foreign(&self, symbol: &Symbol) -> bool {
        self.directory.get(symbol).is_some_and(|book| book.node() != self.id)
            || self.owners.get(symbol).is_some_and(|owner| owner.node != self.id)
    }

    /// Takes note that a shadow keeps `now` bytes back instead of `before`; whether that is within the bounds.
    pub(super) fn keeps(&self, before: &mut usize, now: usize) -> bool {
        let change = now as i64 - std::mem::replace(before, now) as i64;
        let all = self.kept.fetch_add(change, Ordering::AcqRel) + change;
        now <= self.settings.shadow_bytes_max && (now == 0 || all <= SHADOWS_BYTES_MAX)
    }

    /// Whether this node writes the dead letters of a partition that concern no book.
    pub fn keeps_dead_letters_of(&self, partition: u32) -> bool {
        partition as usize % self.nodes == self.index
    }

    /// Puts a record that cannot be used aside. Never stops anything.
    pub fn dead_letter(&self, partition: u32, offset: Offset, key: &[u8], bad: &BadRecord) {
        metrics::counter!("hotbook_dead_letters_total", "code" => bad.code()).increment(1);
        tracing::debug!(partition, %offset, code = bad.code(), why = %bad, "dead letter");
        let letter = serde_json::json!({
            "partition": partition,
            "offset": offset.0,
            "key": String::from_utf8_lossy(key),
            "code": bad.code(),
            "reason": bad.to_string(),
        });
        let record = NewRecord {
            to: TopicPartition { topic: Topic::DeadLetters, partition: 0 },
            key: Bytes::from(format!("{partition}:{offset}")),
            header: Bytes::new(),
            value: Bytes::from(letter.to_string()),
        };
        drop(self.session().append(record));
    }

    /// Artificial CPU cost of a command; 0 but in fault tests.
    pub fn command_cost_us(&self, symbol: &Symbol) -> u64 {
        self.settings.dev_command_cost_us.get(symbol).copied().unwrap_or(0)
    }

    /// Uses up the artificial cost of some commands.
    pub fn burn(&self, symbol: &Symbol, commands: u64) {
        let cost_ns = self.command_cost_us(symbol) * 1_000 * commands;
        if cost_ns > 0 {
            let started = thread_cpu_ns();
            while thread_cpu_ns() - started < cost_ns {
                std::hint::spin_loop();
            }
        }
    }

    pub fn feed_is_level(&self, partition: u32) {
        tracing::trace!(node = %self.id, partition, "feed is level");
        self.level_feeds.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether all feeds have handed on what the log held at start.
    pub fn is_level(&self) -> bool {
        self.level_feeds.load(Ordering::Acquire) >= u64::from(self.log.partitions())
    }

    /// What the last window cost.
    pub fn load(&self) -> NodeLoad {
        self.load.read().clone()
    }

    pub(super) fn set_load(&self, load: NodeLoad) {
        *self.load.write() = load;
    }

    /// Books that it owns, as far as its replicas have read.
    pub fn book_count(&self) -> usize {
        self.books.read().values().filter(|(_, status)| status.owner() == self.id).count()
    }

    pub(super) fn report_death(&self, died: BookDied) {
        if !self.stopping.load(Ordering::Acquire)
            && let Some(supervisor) = self.supervisor.get()
        {
            // At most one per book and life.
            #[allow(clippy::disallowed_methods)]
            supervisor.do_send(died);
        }
    }

    /// Opens a new producer session instead of `lost`, unless that has been done: all books of a session find out, each when
    /// it publishes next.
    pub(super) fn report_session_loss(&self, lost: &Arc<dyn Session>) {
        let mut session = self.session.write();
        if !std::ptr::addr_eq(Arc::as_ptr(&session), Arc::as_ptr(lost)) {
            return;
        }
        session.abort();
        match self.log.open_session(session_options(&self.id)) {
            Ok(new) => *session = new,
            Err(e) => tracing::error!(node = %self.id, error = %e, "log takes no new session"),
        }
    }

    /// No book that ends from now on is rebuilt.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

/// A book's actor ended without being asked to.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct BookDied {
    pub symbol: Symbol,
    pub why: Death,
}

/// Why a book's actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It panicked, or its session was lost.
    Failure,
    /// On purpose, to be restored for the crash path at the fence of this epoch (handover rule 8b).
    CrashPath(Epoch),
    /// It was so slow that records which it had not read are trimmed: a newer snapshot has them.
    Overtaken,
}

/// Makes one book panic. For fault tests.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CrashBook {
    pub symbol: Symbol,
}

/// Takes a snapshot now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeSnapshot {
    pub symbol: Symbol,
    pub done: oneshot::Sender<Result<Saved, CutError>>,
}

/// What was last saved of a book, and how often it died.
struct Watch {
    saved_applied: u64,
    saved_offset: Offset,
    saved_at: Instant,
    deaths: Vec<Instant>,
}

impl Watch {
    fn new() -> Self {
        Self { saved_applied: 0, saved_offset: Offset(0), saved_at: Instant::now(), deaths: Vec::new() }
    }

    fn snapshot_is_due(&self, book: &BookStatus, settings: &NodeSettings) -> bool {
        let changed = book.applied() - self.saved_applied.min(book.applied());
        let idle_gap = book.offset().0.saturating_sub(self.saved_offset.0);
        changed >= settings.snapshot_every_records
            || (changed > 0 && self.saved_at.elapsed() >= settings.snapshot_every)
            || idle_gap >= IDLE_GAP_RECORDS
    }
}

/// Keeps a node's books running.
pub struct NodeSupervisor {
    node: Arc<NodeContext>,
    feeds: Vec<Addr<FeedActor>>,
    /// Books that could not be restored at start.
    refused: Vec<Symbol>,
    watches: HashMap<Symbol, Watch>,
    /// Shadows that a move wants here.
    wanted: HashSet<Symbol>,
    /// Shadows that stand by here.
    standing_by: HashSet<Symbol>,
    /// Shadows that are being prepared to stand by.
    preparing: HashSet<Symbol>,
    /// Idle shadows whose owner is in another process, and for how many ticks.
    lonely: HashMap<Symbol, u32>,
    /// Replicas that are about to begin.
    gatherings: Gatherings,
    /// Snapshots in progress.
    saving: Arc<Semaphore>,
    ticks: u64,
}

/// Snapshots of one node that may be encoded and written at once.
const SAVING_MAX: usize = 4;

impl NodeSupervisor {
    /// Starts the node on the calling arbiter: restores its books, starts its feeds.
    ///
    /// `known_durable` has, per partition, the highest seq of each symbol found in `events`; `orders` what each partition of
    /// `orders` holds. A book whose newest snapshot begins before that cannot be restored: it is tried again from time to
    /// time, and keeps no other from starting.
    pub fn start_node(
        node: &Arc<NodeContext>,
        found: Vec<Found>,
        foreign: &HashMap<u32, Vec<Symbol>>,
        known_durable: &HashMap<u32, HashMap<Symbol, Seq>>,
        orders: &[Range<Offset>],
    ) -> Addr<Self> {
        let mut by_partition: HashMap<u32, Vec<Found>> = HashMap::new();
        for f in found {
            by_partition.entry(f.entry.partition).or_default().push(f);
        }
        let (mut feeds, mut refused) = (Vec::new(), Vec::new());
        for (partition, held) in (0..).zip(orders) {
            let mine = by_partition.remove(&partition).unwrap_or_default();
            let is_too_old = |f: &Found| f.snapshot.is_some() && f.orders_from() < held.start;
            let (old, mine): (Vec<_>, Vec<_>) = mine.into_iter().partition(is_too_old);
            let old = old.iter().map(|f| f.entry.symbol);
            let known = known_durable.get(&partition).cloned().unwrap_or_default();
            // Records of a book that may yet begin are no dead letters.
            let elsewhere = foreign.get(&partition).into_iter().flatten().copied().chain(old.clone()).collect();
            refused.extend(old);
            feeds.push(start_feed(node, partition, held, mine, known, elsewhere));
        }
        let supervisor = Self {
            node: Arc::clone(node),
            feeds,
            refused,
            watches: HashMap::new(),
            wanted: HashSet::new(),
            standing_by: HashSet::new(),
            preparing: HashSet::new(),
            lonely: HashMap::new(),
            gatherings: Gatherings::new(),
            saving: Arc::new(Semaphore::new(SAVING_MAX)),
            ticks: 0,
        };
        let addr = supervisor.start();
        _ = node.supervisor.set(addr.clone());
        addr
    }

    fn my_books(&self) -> Vec<Arc<BookStatus>> {
        self.node.statuses()
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.ticks += 1;
        let books = self.my_books();
        self.take_due_snapshots(&books, ctx);
        self.sweep(&books);
        self.trim_shadows(&books);
        if self.ticks.is_multiple_of(ADVANCE_EVERY_TICKS) {
            for feed in &self.feeds {
                _ = feed.try_send(AdvanceIdle);
            }
        }
    }

    fn snapshot_is_due(&mut self, book: &BookStatus) -> bool {
        self.watches.entry(book.symbol).or_insert_with(Watch::new).snapshot_is_due(book, &self.node.settings)
    }

    fn take_due_snapshots(&mut self, books: &[Arc<BookStatus>], ctx: &mut Context<Self>) {
        let wanted = self.node.settings.snapshots_per_second_max;
        let due = books.iter().filter(|b| b.is_active() && self.snapshot_is_due(b)).take(wanted);
        let due: Vec<_> = due.map(|b| b.symbol).collect();
        for symbol in due {
            let (done, saved) = oneshot::channel();
            self.begin_snapshot(symbol, done, ctx);
            ctx.spawn(saved.into_actor(self).map(move |result, _, _| {
                if let Ok(Err(e)) = result {
                    tracing::warn!(%symbol, error = %e, "snapshot was not taken");
                }
            }));
        }
    }

    fn begin_snapshot(
        &mut self,
        symbol: Symbol,
        done: oneshot::Sender<Result<Saved, CutError>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(status) = self.node.status(&symbol) else {
            _ = done.send(Err(CutError::NotActive));
            return;
        };
        let Some(book) = self.node.book(&symbol) else {
            _ = done.send(Err(CutError::NotActive));
            return;
        };
        let watch = self.watches.entry(symbol).or_insert_with(Watch::new);
        (watch.saved_applied, watch.saved_at, watch.saved_offset) = (status.applied(), Instant::now(), status.offset());
        let (saving, store, retention) =
            (Arc::clone(&self.saving), Arc::clone(&self.node.snapshots), Arc::clone(&self.node.retention));
        let work = async move {
            let _turn = saving.acquire_owned().await;
            let (cut, saved) = oneshot::channel();
            let result = match book.send(Cut { done: cut }).await {
                Ok(()) => saved.await.unwrap_or(Err(CutError::NotActive)),
                Err(_) => Err(CutError::NotActive),
            };
            if let Ok(saved) = &result {
                tracing::debug!(%symbol, offset = %saved.key.offset, bytes = saved.bytes, "snapshot saved");
                retention.keep(&*store, saved).await;
            }
            _ = done.send(result);
        };
        ctx.spawn(work.into_actor(self));
    }

    /// Builds a dead book anew.
    fn rebuild(&mut self, BookDied { symbol, why }: BookDied, ctx: &mut Context<Self>) {
        let Some(status) = self.node.status(&symbol) else { return };
        let crash_path = if let Death::CrashPath(epoch) = why { Some(epoch) } else { None };
        self.prepare_for(symbol, None, ctx, move |supervisor, prepared, ctx| match prepared {
            Ok(_) if status.is_retired() => {}
            Ok(prepared) => supervisor.reattach(&status, prepared, crash_path, ctx),
            Err(e) => {
                tracing::error!(%symbol, error = %e, "book cannot be rebuilt yet");
                ctx.run_later(TICK, move |supervisor, ctx| supervisor.rebuild(BookDied { symbol, why }, ctx));
            }
        });
    }

    /// Tries to begin a book that could not be restored at start: a newer snapshot may be there.
    fn begin_refused(&mut self, symbol: Symbol, ctx: &mut Context<Self>) {
        if self.node.status(&symbol).is_some() {
            return;
        }
        self.prepare_for(symbol, None, ctx, move |supervisor, prepared, ctx| match prepared {
            _ if supervisor.node.status(&symbol).is_some() => {}
            Ok(prepared) => {
                let status = supervisor.node.directory.enter(symbol, prepared.0.entry.partition, supervisor.node.id);
                supervisor.reattach(&status, prepared, None, ctx);
            }
            Err(e) => {
                tracing::error!(%symbol, node = %supervisor.node.id, error = %e, "book is not started");
                ctx.run_later(REFUSED_RETRY, move |supervisor, ctx| supervisor.begin_refused(symbol, ctx));
            }
        });
    }

    /// Counts a death; `false` if there were too many.
    fn may_restart(&mut self, symbol: Symbol, status: &Arc<BookStatus>) -> bool {
        let watch = self.watches.entry(symbol).or_insert_with(Watch::new);
        watch.deaths.retain(|at| at.elapsed() < RESTART_WINDOW);
        watch.deaths.push(Instant::now());
        if watch.deaths.len() > RESTARTS_MAX {
            tracing::error!(%symbol, node = %self.node.id, "book dies again and again and stays down");
            return false;
        }
        tracing::error!(%symbol, node = %self.node.id, "book died and is rebuilt from snapshot and log");
        status.count_restart();
        metrics::counter!("hotbook_book_restarts_total").increment(1);
        true
    }
}

async fn prepare(
    node: &NodeContext,
    symbol: Symbol,
    given: Option<Box<Snapshot<Book>>>,
) -> anyhow::Result<(Found, Seq)> {
    let entry = node.catalogue.get(&symbol).ok_or_else(|| anyhow::anyhow!("symbol is not in the catalogue"))?;
    // Closed never.
    let _turn = node.finding.acquire().await;
    let found = match given {
        Some(snapshot) => Found { entry, snapshot: Some(snapshot), owned: None, was_listed: true },
        None => {
            let found = recovery::find(&node.snapshots, entry).await?;
            found.note_kept(&node.retention);
            found
        }
    };
    let orders = TopicPartition { topic: Topic::Orders, partition: entry.partition };
    let (from, start) = (found.orders_from(), node.log.start_offset(orders).await?);
    if from < start {
        anyhow::bail!("its newest snapshot needs orders from {from} on, and the log begins at {start}");
    }
    let known = node.high_waters.read(&*node.log, entry.partition, symbol, found.events_from()).await?;
    Ok((found, known))
}

fn start_feed(
    node: &Arc<NodeContext>,
    partition: u32,
    held: &Range<Offset>,
    mine: Vec<Found>,
    known: HashMap<Symbol, Seq>,
    elsewhere: Vec<Symbol>,
) -> Addr<FeedActor> {
    let Range { start, end } = *held;
    // What has no snapshot and lies below was never listed, or it would not be trimmed.
    let from = mine.iter().map(Found::orders_from).min().unwrap_or(end).max(start);
    let mut feed = FeedActor::new(Arc::clone(node), partition, from, end).with_foreign(elsewhere);
    for f in mine {
        let symbol = f.entry.symbol;
        let known_durable = known.get(&symbol).copied().unwrap_or_default();
        let events_from = f.events_from();
        let start = match f.snapshot {
            Some(snapshot) => StartFrom::Snapshot(snapshot),
            // Its first owner is another node: a LIST met here would not be answered.
            None if f.owned.is_some() && f.entry.owner != node.id => StartFrom::List { events_from },
            // One that has no snapshot yet is born when the feed meets its LIST.
            None => continue,
        };
        let status = node.directory.enter(symbol, partition, node.id);
        let book = node.start_book(&status, Start::new(start, known_durable), end);
        feed = feed.with_book(status, book);
    }
    feed.with_known_durable(known).start()
}

impl Actor for NodeSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, Self::tick);
        for symbol in std::mem::take(&mut self.refused) {
            self.begin_refused(symbol, ctx);
        }
    }
}

impl Handler<BookDied> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, died: BookDied, ctx: &mut Self::Context) {
        let Some(status) = self.node.status(&died.symbol) else { return };
        // Until it has caught up again, and for good if it stays down: nobody is to count on it.
        status.set_detached(true);
        if died.why != Death::Failure || self.may_restart(died.symbol, &status) {
            self.rebuild(died, ctx);
        }
    }
}

impl Handler<CrashBook> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, crash: CrashBook, _: &mut Self::Context) {
        if let Some(book) = self.node.book(&crash.symbol) {
            _ = book.try_send(Crash);
        }
    }
}

impl Handler<TakeSnapshot> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, take: TakeSnapshot, ctx: &mut Self::Context) {
        self.begin_snapshot(take.symbol, take.done, ctx);
    }
}
