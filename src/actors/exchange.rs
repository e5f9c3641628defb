//! The exchange of one process: a log, a gateway, and some nodes with their books.

mod config;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::book::{CutError, Pump, Saved};
use super::catalogue::{Catalogue, Entry};
use super::decisions::Decisions;
use super::directory::{BookStatus, Directory};
use super::fleet::{Fleet, RunningNode};
use super::gateway::{Gateway, GatewayError, GatewayLimits, GatewayParts};
use super::leader::LeaderParts;
use super::moves::{self, Moves, MovesParts};
use super::node::{CrashBook, NodeContext, NodeParts, NodeSupervisor, TakeSnapshot};
use super::peers::Peers;
use super::projector::{self, ProjectorParts};
use super::recovery::{self, Found};
use super::retention::Retention;
use super::shadows::{self, Restored, ShadowError, Source};
use super::supervisor::{Supervisor, SupervisorParts};
use crate::clock::{self, ThreadClock};
use crate::domain::command::Listing;
use crate::domain::control::Fence;
use crate::domain::ids::BadName;
use crate::domain::{Instrument, NodeId, Offset, OutputBody, Reason, Seq, Symbol};
use crate::engine::RULES_VERSION;
use crate::migration::handover::Deadlines;
use crate::migration::placement::PlacementMode;
use crate::ports::log::{Log, LogError, NewRecord, Session, SessionOptions, Topic, TopicPartition, partition_of};
use crate::ports::routes::{Addresses, Holder, Routes};
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};
use crate::ports::{Parts, PartsError};
use crate::wire::{Control, Keyring};

pub use config::ExchangeConfig;
use config::{node_ids, node_settings, threads_per_node};

/// Unacknowledged bytes of listings and halts: thousands of them.
const ADMIN_QUEUE_BYTES_MAX: usize = 4 << 20;
/// How long an administrator waits for a book's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often dead and draining nodes are looked for.
const LOOK_AFTER_BOOKS: Duration = Duration::from_millis(100);
const TRIM_EVERY: Duration = Duration::from_secs(30);
/// Snapshots written at once while stopping.
const STOP_SNAPSHOTS_MAX: usize = 16;
/// Nodes of one process.
const NODES_MAX: usize = 64;
/// Books whose rules are raised at once.
const FINALIZED_AT_ONCE: usize = 256;

/// Why the exchange cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Parts(#[from] PartsError),
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("snapshots: {0}")]
    Snapshots(#[from] SnapshotStoreError),
    #[error("gateway: {0}")]
    Gateway(#[from] GatewayError),
    /// Possible only after the end of the log was lost: records that take the offsets again would never be applied.
    #[error(
        "snapshot_ahead_of_log: {snapshot} was taken at a record that the log does not have any more. Move it away to go on \
         from the snapshot before it"
    )]
    SnapshotAhead { snapshot: String },
    #[error("nodes must be 1 to {NODES_MAX}")]
    Nodes,
    /// The number is added to it when there are several.
    #[error("a node's name {0}")]
    NodeName(BadName),
    #[error("thread ended while starting")]
    Thread,
}

/// A book restored from such a snapshot would wait for offsets that others take.
async fn refuse_snapshots_ahead(log: &dyn Log, found: &[Found]) -> Result<(), StartError> {
    // Each partition is asked once: asking is a journey when the log is elsewhere.
    let mut ends: HashMap<u32, (Offset, Offset)> = HashMap::new();
    for f in found {
        let (Some(snapshot), partition) = (&f.snapshot, f.entry.partition) else { continue };
        let (orders, events) = match ends.get(&partition) {
            Some(known) => *known,
            None => {
                let end = async |topic| log.end_offset(TopicPartition { topic, partition }).await;
                *ends.entry(partition).insert_entry((end(Topic::Orders).await?, end(Topic::Events).await?)).get()
            }
        };
        if f.orders_from() > orders || f.events_from() > events {
            return Err(StartError::SnapshotAhead { snapshot: snapshot.key().path() });
        }
    }
    Ok(())
}

/// Why a symbol was not listed, halted or resumed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    #[error("instrument is not usable: {0}")]
    Instrument(&'static str),
    #[error("{}", .0.text())]
    Refused(Reason),
    #[error("symbol is not listed")]
    UnknownSymbol,
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("no answer in time; the outcome is not known")]
    OutcomeUnknown,
}

/// Everything of one process, composed.
pub struct Exchange {
    log: Arc<dyn Log>,
    snapshots: Arc<dyn SnapshotStore>,
    admin: Arc<dyn Session>,
    keyring: Arc<Keyring>,
    catalogue: Arc<Catalogue>,
    directory: Arc<Directory>,
    gateway: Arc<Gateway>,
    fleet: Arc<Fleet>,
    /// Held while a symbol is entered into the catalogue.
    listing: tokio::sync::Mutex<()>,
    moves: Arc<Moves>,
    decisions: Arc<Decisions>,
    placement_mode: PlacementMode,
}

impl Exchange {
    /// Opens the data folder, restores every book, and starts the actors. Must be called inside an actix system.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: ExchangeConfig) -> Result<Arc<Self>, StartError> {
        let parts = embedded(&config)?;
        Self::start_on(config, parts).await
    }

    /// As [`Self::start`], with a route table of one's own.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with(config: ExchangeConfig, routes: Arc<dyn Routes>) -> Result<Arc<Self>, StartError> {
        let parts = Parts { routes, ..embedded(&config)? };
        Self::start_on(config, parts).await
    }

    /// As [`Self::start`], on parts that are open, wherever they are: nothing of the configuration that says how a data
    /// folder is opened is looked at.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on(config: ExchangeConfig, parts: Parts) -> Result<Arc<Self>, StartError> {
        if config.nodes == 0 || config.nodes > NODES_MAX {
            return Err(StartError::Nodes);
        }
        let Parts { log, snapshots, routes } = parts;
        let keyring = Arc::new(Keyring::from_secret(&config.cluster_secret));
        let catalogue = Arc::new(Catalogue::read(&*log).await?);
        let directory = Arc::new(Directory::default());
        let mut found = recovery::find_all(&snapshots, &catalogue).await?;
        refuse_snapshots_ahead(&*log, &found).await?;
        let ids = node_ids(&config).map_err(StartError::NodeName)?;
        let options = SessionOptions { name: "administration".into(), queue_bytes_max: ADMIN_QUEUE_BYTES_MAX };
        let admin = log.open_session(options)?;
        recovery::read_fences(&*log, &keyring, &mut found).await?;
        adopt(&*admin, &keyring, &mut found, &ids).await?;
        let gateway = Gateway::start(GatewayParts {
            log: Arc::clone(&log),
            snapshots: Arc::clone(&snapshots),
            directory: Arc::clone(&directory),
            keyring: Arc::clone(&keyring),
            routes,
            limits: GatewayLimits { lag_records_max: config.lag_records_max, ..GatewayLimits::default() },
        })
        .await?;
        if config.projector {
            projector::start(ProjectorParts {
                log: Arc::clone(&log),
                routes: Arc::clone(gateway.routes()),
                mirrors: Arc::clone(gateway.mirrors()),
                holder: Holder { node: ids[0], incarnation: gateway.incarnation() },
            });
        }
        let retention = Arc::new(Retention::new(Duration::from_secs(config.events_retention_hours * 3_600)));
        let known = known_durable(&*log, &found).await?;
        let ends = order_ends(&*log).await?;
        let (mut nodes, peers) = (Vec::new(), Arc::new(Peers::default()));
        for (index, id) in ids.iter().enumerate() {
            // A node that the newest snapshot names may owe the owner a Sealed.
            let (mine, others): (Vec<Found>, Vec<Found>) =
                found.iter().cloned().partition(|f| f.owner() == *id || f.owner_at_snapshot() == *id);
            let (mut threads, mut arbiters, mut clocks) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..threads_per_node(&config) {
                let (arbiter, pump, clock) = book_thread(log.partitions()).await?;
                threads.push((arbiter.handle(), pump));
                arbiters.push(arbiter);
                clocks.push(clock);
            }
            let context = Arc::new(NodeContext::new(NodeParts {
                id: *id,
                index,
                nodes: ids.len(),
                log: Arc::clone(&log),
                snapshots: Arc::clone(&snapshots),
                directory: Arc::clone(&directory),
                keyring: Arc::clone(&keyring),
                catalogue: Arc::clone(&catalogue),
                positions: gateway.positions(),
                retention: Arc::clone(&retention),
                peers: Arc::clone(&peers),
                settings: node_settings(&config),
                threads,
            })?);
            clocks.into_iter().for_each(|clock| context.spent.count_book_thread(clock));
            let arbiter = Arbiter::new();
            peers.enter(&context);
            let supervisor = start_node(&arbiter, &context, mine, others, known.clone(), ends.clone()).await?;
            arbiters.insert(0, arbiter);
            nodes.push(RunningNode::new(context, supervisor, arbiters));
        }
        let moves = Arc::new(Moves::new(MovesParts {
            log: Arc::clone(&log),
            session: Arc::clone(&admin),
            keyring: Arc::clone(&keyring),
            directory: Arc::clone(&directory),
            peers,
            routes: Arc::clone(gateway.routes()),
            arbiter: Arbiter::current(),
            deadlines: Deadlines::default(),
        }));
        for node in &nodes {
            moves.enter(node.context.id, node.supervisor.clone());
        }
        actix::spawn(trim_regularly(retention, Arc::clone(&log), Arc::clone(&catalogue), Arc::clone(&directory)));
        let listing = tokio::sync::Mutex::new(());
        let (decisions, placement_mode) = (Arc::new(Decisions::default()), config.placement_mode);
        let fleet = Fleet::new(nodes, Arc::clone(&directory), Arc::clone(&moves), Arc::clone(&decisions));
        let fleet = Arc::new(fleet.with_standbys(config.standby));
        actix::spawn(look_after_books(Arc::downgrade(&fleet)));
        start_supervisors(
            &fleet,
            LeaderParts {
                routes: Arc::clone(gateway.routes()),
                moves: Arc::clone(&moves),
                decisions: Arc::clone(&decisions),
                mode: placement_mode,
                settings: config.placement,
                window: Duration::from_millis(config.load_window_ms),
            },
        );
        Ok(Arc::new(Self {
            log,
            snapshots,
            admin,
            keyring,
            catalogue,
            directory,
            gateway,
            fleet,
            listing,
            moves,
            decisions,
            placement_mode,
        }))
    }

    /// What the supervisor decided and why, and who leads.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Whether books move by themselves.
    pub fn placement_mode(&self) -> PlacementMode {
        self.placement_mode
    }

    /// Moves of books, under way and ended.
    pub fn moves(&self) -> &Arc<Moves> {
        &self.moves
    }

    /// The nodes of the process.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    pub fn snapshots(&self) -> &Arc<dyn SnapshotStore> {
        &self.snapshots
    }

    /// Lists a symbol on the node with the fewest books; returns once it trades.
    ///
    /// # Errors
    /// [`ControlError`]; `Refused(SymbolExists)` when it is listed already, also when two list it at once.
    pub async fn list(&self, symbol: Symbol, instrument: Instrument) -> Result<(), ControlError> {
        instrument.check().map_err(ControlError::Instrument)?;
        if self.directory.get(&symbol).is_some() {
            return Err(ControlError::Refused(Reason::SymbolExists));
        }
        let entry = self.enter(symbol).await?;
        let mut key = [0u8; 16];
        getrandom::fill(&mut key).map_err(|_| ControlError::Instrument("no randomness for the id key"))?;
        let id_key = u128::from_le_bytes(key);
        let listing = Listing { instrument, owner: entry.owner, id_key, rules_version: 1 };
        self.control(symbol, Control::List(listing)).await
    }

    /// The first to list a symbol decides where its records begin and who owns it.
    async fn enter(&self, symbol: Symbol) -> Result<Entry, ControlError> {
        let _alone = self.listing.lock().await;
        if let Some(entry) = self.catalogue.get(&symbol) {
            return Ok(entry);
        }
        let partition = partition_of(symbol.as_bytes(), self.log.partitions());
        let orders_from = self.log.end_offset(TopicPartition { topic: Topic::Orders, partition }).await?;
        let events_from = self.log.end_offset(TopicPartition { topic: Topic::Events, partition }).await?;
        let owner = self.emptiest_node();
        let entry = Entry { symbol, partition, owner, orders_from, events_from };
        self.catalogue.enter(&*self.admin, entry).await?;
        Ok(entry)
    }

    /// By entries of the catalogue, so that listings under way count as well.
    fn emptiest_node(&self) -> NodeId {
        let entries = self.catalogue.all();
        let owner = |e: &Entry| self.directory.get(&e.symbol).map_or(e.owner, |b| b.owner());
        let books = |id: &NodeId| entries.iter().filter(|e| owner(e) == *id).count();
        self.fleet.open_ids().min_by_key(books).unwrap_or(self.fleet.all()[0].context.id)
    }

    /// Stops trading in a symbol; cancels still pass.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn halt(&self, symbol: Symbol) -> Result<(), ControlError> {
        self.control_listed(symbol, Control::Halt).await
    }

    /// # Errors
    /// [`ControlError`].
    pub async fn resume(&self, symbol: Symbol) -> Result<(), ControlError> {
        self.control_listed(symbol, Control::Resume).await
    }

    /// Raises the rules of every listed book to this version, by a record of its own each; gives how many there are.
    /// Every node must be able to run it: a node that is not would refuse to go on. Once more does no harm.
    ///
    /// # Errors
    /// [`ControlError`]: some books may have it already.
    pub async fn finalize_version(&self, version: u32) -> Result<usize, ControlError> {
        if !(1..=RULES_VERSION).contains(&version) {
            return Err(ControlError::Refused(Reason::RulesVersionUnknown));
        }
        let books = self.directory.all();
        for some in books.chunks(FINALIZED_AT_ONCE) {
            let raise = some.iter().map(|book| self.control(book.symbol, Control::Rules { version }));
            for raised in futures_util::future::join_all(raise).await {
                raised?;
            }
        }
        Ok(books.len())
    }

    async fn control_listed(&self, symbol: Symbol, control: Control) -> Result<(), ControlError> {
        self.directory.get(&symbol).ok_or(ControlError::UnknownSymbol)?;
        self.control(symbol, control).await
    }

    /// Appends a signed record and waits for the book's answer.
    async fn control(&self, symbol: Symbol, control: Control) -> Result<(), ControlError> {
        let partition = partition_of(symbol.as_bytes(), self.log.partitions());
        let (origin, answer) = self.gateway.expect_answer();
        let receipt = self.admin.append(NewRecord {
            to: TopicPartition { topic: Topic::Orders, partition },
            key: Bytes::copy_from_slice(symbol.as_bytes()),
            header: Bytes::copy_from_slice(&origin.to_bytes()),
            value: self.keyring.encode(&symbol, partition, control, clock::now()),
        });
        if let Err(e) = receipt.await {
            self.gateway.forget_answer(origin);
            return Err(e.into());
        }
        let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WITHIN, answer).await else {
            self.gateway.forget_answer(origin);
            return Err(ControlError::OutcomeUnknown);
        };
        match answer.said.iter().find(|s| s.output.answer).map(|s| &s.output.body) {
            Some(OutputBody::Refused { reason, .. }) => Err(ControlError::Refused(*reason)),
            Some(_) => Ok(()),
            None => Err(ControlError::OutcomeUnknown),
        }
    }

    /// Takes a snapshot now; returns once it is visible.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn snapshot(&self, symbol: Symbol) -> Result<Saved, CutError> {
        let node = self.fleet.node_of(&symbol).ok_or(CutError::NotActive)?;
        let (done, saved) = oneshot::channel();
        node.supervisor.send(TakeSnapshot { symbol, done }).await.map_err(|_| CutError::NotActive)?;
        saved.await.unwrap_or(Err(CutError::NotActive))
    }

    /// Starts a shadow of a book. `on`: which node; `None`: the first that neither owns nor follows it.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub async fn restore_shadow(
        &self,
        symbol: Symbol,
        on: Option<NodeId>,
        source: Source,
    ) -> Result<Restored, ShadowError> {
        let node = self.shadow_node(&symbol, on, |context| context.status(&symbol).is_none())?;
        shadows::restore(&node.context, &node.supervisor, symbol, source).await
    }

    /// Removes a shadow of a book; gives the node that it was on. `on`: which node; `None`: the first that has one.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub async fn remove_shadow(&self, symbol: Symbol, on: Option<NodeId>) -> Result<NodeId, ShadowError> {
        let node = self.shadow_node(&symbol, on, |context| context.status(&symbol).is_some())?;
        shadows::remove(&node.context, &node.supervisor, symbol).await?;
        Ok(node.context.id)
    }

    /// The named node; otherwise the one best suited for a shadow, so that the error is of it if there is none.
    fn shadow_node(
        &self,
        symbol: &Symbol,
        named: Option<NodeId>,
        suits: impl Fn(&NodeContext) -> bool,
    ) -> Result<&RunningNode, ShadowError> {
        if let Some(id) = named {
            return self.fleet.get(&id).ok_or(ShadowError::UnknownNode);
        }
        let owner = self.directory.get(symbol).ok_or(ShadowError::UnknownSymbol)?.owner();
        let others = || self.fleet.all().iter().filter(|n| n.context.id != owner && n.context.is_alive());
        let best = others().find(|n| suits(&n.context)).or_else(|| others().next());
        best.or_else(|| self.fleet.all().first()).ok_or(ShadowError::UnknownNode)
    }

    /// What a node of this process last said of its replica of a book.
    pub fn replica(&self, on: &NodeId, symbol: &Symbol) -> Option<Arc<BookStatus>> {
        self.fleet.get(on)?.context.status(symbol)
    }

    /// Makes a book panic as an engine bug would. For fault tests.
    pub async fn crash_book(&self, symbol: Symbol) {
        if let Some(node) = self.fleet.node_of(&symbol) {
            _ = node.supervisor.send(CrashBook { symbol }).await;
        }
    }

    /// Whether every book trades, what the log held at start is published, and the mirrors show it.
    pub fn is_ready(&self) -> bool {
        let mirrors = self.gateway.mirrors();
        let shows = |b: &BookStatus| mirrors.last_seq(&b.symbol) >= Some(b.level_seq());
        self.fleet.all().iter().all(|n| !n.context.is_alive() || n.context.is_level())
            && self.directory.all().iter().all(|b| b.is_active() && b.is_caught_up() && shows(b))
            && self.gateway.is_level()
    }

    /// Snapshots every book that has changed and closes the log. New orders must have stopped.
    pub async fn shutdown(&self) {
        for node in self.fleet.all() {
            node.context.stop();
        }
        let books = self.directory.all();
        for some in books.chunks(STOP_SNAPSHOTS_MAX) {
            let saves = some.iter().map(|book| self.snapshot(book.symbol));
            for (book, result) in some.iter().zip(futures_util::future::join_all(saves).await) {
                if let Err(e) = result {
                    tracing::warn!(symbol = %book.symbol, error = %e, "no snapshot while stopping; the log has it all");
                }
            }
        }
        if let Err(e) = self.log.close().await {
            tracing::error!(error = %e, "log did not close cleanly");
        }
        self.fleet.end();
    }
}

/// Looks after the books for as long as the exchange is there.
async fn look_after_books(fleet: Weak<Fleet>) {
    while let Some(fleet) = fleet.upgrade() {
        fleet.look_after_books();
        drop(fleet);
        tokio::time::sleep(LOOK_AFTER_BOOKS).await;
    }
}

/// One beside the feeds of each node.
fn start_supervisors(fleet: &Arc<Fleet>, leading: LeaderParts) {
    let leading = Arc::new(leading);
    for node in fleet.all() {
        node.start_beside_feeds(Supervisor::new(SupervisorParts {
            node: Arc::clone(&node.context),
            fleet: Arc::downgrade(fleet),
            routes: Arc::clone(&leading.routes),
            addresses: Addresses::default(),
            window: leading.window,
            leading: Arc::clone(&leading),
        }));
    }
}

fn embedded(config: &ExchangeConfig) -> Result<Parts, PartsError> {
    Parts::embedded(&config.data_dir, config.partitions, config.accept_lost_tail)
}

/// Fences the books of nodes that are not in this process to those that are, in turn.
async fn adopt(session: &dyn Session, keyring: &Keyring, found: &mut [Found], ids: &[NodeId]) -> Result<(), LogError> {
    let mut owned: HashMap<NodeId, usize> = ids.iter().map(|id| (*id, 0)).collect();
    for f in found.iter() {
        owned.entry(f.owner()).and_modify(|n| *n += 1);
    }
    let count_of = |owned: &HashMap<NodeId, usize>, id: &NodeId| owned.get(id).copied().unwrap_or_default();
    for f in found.iter_mut().filter(|f| !ids.contains(&f.owner())) {
        let Some(to) = ids.iter().min_by_key(|id| (count_of(&owned, id), **id)).copied() else { continue };
        *owned.entry(to).or_default() += 1;
        let (symbol, from) = (f.entry.symbol, f.owner());
        let fence = Fence { epoch: f.epoch().next(), from, to };
        moves::append_fence(session, keyring, symbol, f.entry.partition, fence).await?;
        tracing::info!(%symbol, %from, %to, "book of a node that is not here is taken over");
        f.owned = Some((to, fence.epoch));
    }
    Ok(())
}

async fn book_thread(partitions: u32) -> Result<(Arbiter, Pump, Option<ThreadClock>), StartError> {
    let arbiter = Arbiter::new();
    let (tx, rx) = oneshot::channel();
    arbiter.spawn_fn(move || _ = tx.send((Pump::start(partitions), ThreadClock::of_this_thread())));
    let (pump, clock) = rx.await.map_err(|_| StartError::Thread)?;
    Ok((arbiter, pump, clock))
}

async fn start_node(
    arbiter: &Arbiter,
    node: &Arc<NodeContext>,
    found: Vec<Found>,
    others: Vec<Found>,
    known: HashMap<u32, HashMap<Symbol, Seq>>,
    ends: Vec<Offset>,
) -> Result<Addr<NodeSupervisor>, StartError> {
    let (tx, rx) = oneshot::channel();
    let node = Arc::clone(node);
    let mut foreign: HashMap<u32, Vec<Symbol>> = HashMap::new();
    for f in others {
        foreign.entry(f.entry.partition).or_default().push(f.entry.symbol);
    }
    arbiter.spawn_fn(move || {
        node.spent.count_feed_thread(ThreadClock::of_this_thread());
        _ = tx.send(NodeSupervisor::start_node(&node, found, &foreign, &known, &ends));
    });
    rx.await.map_err(|_| StartError::Thread)
}

/// Per partition, how far `events` got for each symbol: so a restart repeats nothing that is durable.
async fn known_durable(log: &dyn Log, found: &[Found]) -> Result<HashMap<u32, HashMap<Symbol, Seq>>, LogError> {
    let mut from: HashMap<u32, Offset> = HashMap::new();
    for f in found {
        let at = from.entry(f.entry.partition).or_insert(f.events_from());
        *at = (*at).min(f.events_from());
    }
    let mut known = HashMap::new();
    for (partition, from) in from {
        known.insert(partition, recovery::high_water(log, partition, from).await?);
    }
    Ok(known)
}

async fn order_ends(log: &dyn Log) -> Result<Vec<Offset>, LogError> {
    let mut ends = Vec::new();
    for partition in 0..log.partitions() {
        ends.push(log.end_offset(TopicPartition { topic: Topic::Orders, partition }).await?);
    }
    Ok(ends)
}

async fn trim_regularly(
    retention: Arc<Retention>,
    log: Arc<dyn Log>,
    catalogue: Arc<Catalogue>,
    directory: Arc<Directory>,
) {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        match retention.trim(&*log, &catalogue, &directory).await {
            Ok(()) => {}
            Err(LogError::Closed) => return,
            Err(e) => tracing::warn!(error = %e, "log cannot be trimmed"),
        }
    }
}
