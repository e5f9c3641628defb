//! What the actors of a node share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

use super::{BookDied, NodeSupervisor};
use crate::actors::book::{BookActor, Pump, Start, StartFrom};
use crate::actors::catalogue::Catalogue;
use crate::actors::directory::{BookStatus, Directory};
use crate::actors::egress::EventPositions;
use crate::actors::high_water::HighWaters;
use crate::actors::load::Spent;
use crate::actors::owners::Owners;
use crate::actors::peers::Peers;
use crate::actors::recovery;
use crate::actors::retention::Retention;
use crate::clock::{self, thread_cpu_ns};
use crate::domain::{Micros, NodeId, Offset, Symbol};
use crate::migration::replica::Sealed;
use crate::ports::log::{Log, NewRecord, Session, SessionOptions, Topic, TopicPartition};
use crate::ports::snapshots::SnapshotStore;
use crate::wire::{BadRecord, Keyring};

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
    pub(in crate::actors) high_waters: HighWaters,
    /// Snapshots that are read and decoded at once.
    pub(super) finding: Semaphore,
    session: RwLock<Arc<dyn Session>>,
    threads: Vec<(ArbiterHandle, Pump)>,
    next_thread: AtomicUsize,
    pub(super) books: RwLock<HashMap<Symbol, LocalReplica>>,
    pub(super) supervisor: OnceLock<Addr<NodeSupervisor>>,
    /// What its replicas sealed last, for a new owner that was not up when it was told. One for each replica.
    pub(super) sealed: Mutex<HashMap<Symbol, Sealed>>,
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
    pub(in crate::actors) fn sealed(&self, symbol: &Symbol) -> Option<Sealed> {
        self.sealed.lock().get(symbol).copied()
    }

    pub(in crate::actors) fn note_sealed(&self, symbol: Symbol, sealed: Sealed) {
        self.sealed.lock().insert(symbol, sealed);
    }

    /// Whether the log gives a book to another node by a fence that the replica here has not come to yet.
    pub(super) fn is_taken_away(&self, replica: &BookStatus) -> bool {
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
    pub(in crate::actors) fn die_overtaken(&self, partition: u32, next: Offset, start: Offset) {
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
    pub(in crate::actors) fn keeps(&self, before: &mut usize, now: usize) -> bool {
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

    pub(in crate::actors) fn set_load(&self, load: NodeLoad) {
        *self.load.write() = load;
    }

    /// Books that it owns, as far as its replicas have read.
    pub fn book_count(&self) -> usize {
        self.books.read().values().filter(|(_, status)| status.owner() == self.id).count()
    }

    pub(in crate::actors) fn report_death(&self, died: BookDied) {
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
    pub(in crate::actors) fn report_session_loss(&self, lost: &Arc<dyn Session>) {
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
