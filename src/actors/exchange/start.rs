//! From a configuration and open parts to a running exchange.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::config::{node_ids, node_settings, threads_per_node};
use super::{Exchange, ExchangeConfig};
use crate::actors::book::Pump;
use crate::actors::cache::{Books, CacheParts, CacheWriter};
use crate::actors::catalogue::Catalogue;
use crate::actors::cluster::{Members, MembersParts};
use crate::actors::connections::Users;
use crate::actors::decisions::Decisions;
use crate::actors::directory::Directory;
use crate::actors::fleet::{Fleet, FleetParts, RunningNode};
use crate::actors::gateway::{Gateway, GatewayError, GatewayLimits, GatewayParts};
use crate::actors::leader::LeaderParts;
use crate::actors::mirror::Changed;
use crate::actors::moves::{self, Moves, MovesParts};
use crate::actors::node::{NodeContext, NodeParts, NodeSupervisor};
use crate::actors::owners::Owners;
use crate::actors::peers::Peers;
use crate::actors::projector::{self, ProjectorParts};
use crate::actors::recovery::{self, Found};
use crate::actors::retention::{self, Retention};
use crate::actors::router::Lags;
use crate::actors::supervisor::{Supervisor, SupervisorParts};
use crate::clock::{self, ThreadClock};
use crate::domain::control::Fence;
use crate::domain::ids::BadName;
use crate::domain::{NodeId, Offset, Seq, Symbol};
use crate::migration::handover::Deadlines;
use crate::ports::log::renewed::RenewedSession;
use crate::ports::log::{Log, LogError, Session, SessionOptions, Topic, TopicPartition};
use crate::ports::routes::{Addresses, Holder, Routes};
use crate::ports::snapshots::SnapshotStoreError;
use crate::ports::{Parts, PartsError};
use crate::wire::Keyring;
use crate::wire::rpc::RpcKey;

/// Unacknowledged bytes of listings and halts: thousands of them.
const ADMIN_QUEUE_BYTES_MAX: usize = 4 << 20;
/// How often dead and draining nodes are looked for.
const LOOK_AFTER_BOOKS: Duration = Duration::from_millis(100);
const TRIM_EVERY: Duration = Duration::from_secs(30);
/// Nodes of one process.
const NODES_MAX: usize = 64;

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
        let is_cluster = config.cluster.is_some();
        if (config.nodes == 0 && !is_cluster) || config.nodes > NODES_MAX {
            return Err(StartError::Nodes);
        }
        let Parts { log, snapshots, routes, cache } = parts;
        // Before anything is read: what is appended from now on, the feeds meet.
        let ends = order_ends(&*log).await?;
        let keyring = Arc::new(Keyring::from_secret(&config.cluster_secret));
        let catalogue = Arc::new(Catalogue::read(&*log).await?);
        let directory = Arc::new(Directory::default());
        let mut found = recovery::find_all(&snapshots, &catalogue).await?;
        refuse_snapshots_ahead(&*log, &found).await?;
        let ids = node_ids(&config).map_err(StartError::NodeName)?;
        let options = SessionOptions { name: "administration".into(), queue_bytes_max: ADMIN_QUEUE_BYTES_MAX };
        let admin: Arc<dyn Session> = Arc::new(RenewedSession::open(Arc::clone(&log), options)?);
        recovery::read_owners(&*log, &keyring, &mut found).await?;
        if is_cluster {
            actix::spawn(Arc::clone(&catalogue).follow(Arc::clone(&log)));
        } else {
            adopt(&*admin, &keyring, &mut found, &ids).await?;
        }
        let owners = Arc::new(Owners::found(&found));
        let members = members(&config, &ids, &routes, &log);
        let users = cache.is_some().then(Arc::<Users>::default);
        let changed = (cache.is_some() && !ids.is_empty()).then(Arc::<Changed>::default);
        let gateway = Gateway::start(GatewayParts {
            log: Arc::clone(&log),
            snapshots: Arc::clone(&snapshots),
            lags: Lags::new(&directory, &owners, &members),
            keyring: Arc::clone(&keyring),
            routes,
            owners: ids.is_empty().then(|| Arc::clone(&owners)),
            changed: changed.clone(),
            users: users.clone(),
            limits: GatewayLimits { lag_records_max: config.lag_records_max, ..GatewayLimits::default() },
        })
        .await?;
        if config.projector {
            projector::start(ProjectorParts {
                log: Arc::clone(&log),
                routes: Arc::clone(gateway.routes()),
                mirrors: Arc::clone(gateway.mirrors()),
                holder: Holder { node: process_id(&config, &ids), incarnation: gateway.incarnation() },
            });
        }
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        let retention = Retention::new(hours(config.events_retention_hours));
        let retention = Arc::new(retention.with_orders_for(hours(config.orders_retention_hours)));
        found.iter().for_each(|f| f.note_kept(&retention));
        let known = known_durable(&*log, found.iter().filter(|f| ids.iter().any(|id| f.concerns(id)))).await?;
        let orders: Vec<_> = order_starts(&*log).await?.into_iter().zip(ends).map(|(start, end)| start..end).collect();
        let (mut nodes, peers) = (Vec::new(), Arc::new(Peers::new(Arc::clone(&members))));
        for (index, id) in ids.iter().enumerate() {
            let (mine, others): (Vec<Found>, Vec<Found>) = found.iter().cloned().partition(|f| f.concerns(id));
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
                owners: Arc::clone(&owners),
                positions: gateway.positions(),
                retention: Arc::clone(&retention),
                peers: Arc::clone(&peers),
                settings: node_settings(&config),
                threads,
            })?);
            clocks.into_iter().for_each(|clock| context.spent.count_book_thread(clock));
            let arbiter = Arbiter::new();
            peers.enter(&context);
            let supervisor = start_node(&arbiter, &context, mine, others, known.clone(), orders.clone()).await?;
            arbiters.insert(0, arbiter);
            nodes.push(RunningNode::new(context, supervisor, arbiters));
        }
        let moves = Arc::new(Moves::new(MovesParts {
            log: Arc::clone(&log),
            session: Arc::clone(&admin),
            keyring: Arc::clone(&keyring),
            owners: Arc::clone(&owners),
            peers: Arc::clone(&peers),
            routes: Arc::clone(gateway.routes()),
            arbiter: Arbiter::current(),
            deadlines: Deadlines::default(),
            numbered_above: if is_cluster { clock::now().0 } else { 0 },
            dev_step: Duration::from_millis(config.dev_move_step_ms),
        }));
        for node in &nodes {
            moves.enter(node.context.id, node.supervisor.clone());
        }
        gateway.keep_rows_of(nodes.iter().map(|node| Arc::clone(&node.context)).collect()).await;
        let cache = cache.zip(users).map(|(cache, users)| {
            let books = changed.map(|changed| Books { changed, owners: Arc::clone(&owners), here: ids.clone() });
            let (routes, gateway) = (Arc::clone(gateway.routes()), Arc::downgrade(&gateway));
            let process = process_id(&config, &ids);
            CacheWriter::new(CacheParts { cache, routes, gateway, books, users, process }).start()
        });
        let listing = tokio::sync::Mutex::new(());
        let (decisions, placement_mode) = (Arc::new(Decisions::default()), config.placement_mode);
        let parts = FleetParts {
            directory: Arc::clone(&directory),
            owners: Arc::clone(&owners),
            members,
            moves: Arc::clone(&moves),
            decisions: Arc::clone(&decisions),
        };
        let fleet = Arc::new(Fleet::new(nodes, parts).with_standbys(config.standby));
        actix::spawn(look_after_books(Arc::downgrade(&fleet)));
        actix::spawn(trim_regularly(Arc::clone(&retention), Arc::clone(&log), Arc::downgrade(&fleet)));
        let leading = LeaderParts {
            routes: Arc::clone(gateway.routes()),
            moves: Arc::clone(&moves),
            decisions: Arc::clone(&decisions),
            mode: placement_mode,
            settings: config.placement,
            window: Duration::from_millis(config.load_window_ms),
        };
        start_supervisors(&fleet, leading, &config.cluster.unwrap_or_default());
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
            peers,
            retention,
            cache,
        }))
    }
}

/// Whoever else there is, if this process is one of several.
fn members(config: &ExchangeConfig, here: &[NodeId], routes: &Arc<dyn Routes>, log: &Arc<dyn Log>) -> Arc<Members> {
    if config.cluster.is_none() {
        return Arc::default();
    }
    Members::start(MembersParts {
        here: here.to_vec(),
        routes: Arc::clone(routes),
        log: Arc::clone(log),
        key: RpcKey::from_secret(&config.cluster_secret),
        thread: Arbiter::new().handle(),
        window: Duration::from_millis(config.load_window_ms),
    })
}

/// Whom the process holds leases and connections as: its first node, or its name if it has none.
fn process_id(config: &ExchangeConfig, ids: &[NodeId]) -> NodeId {
    let name = || NodeId::new("gateway").unwrap_or_else(|_| unreachable!("a good name"));
    ids.first().copied().or(config.node_id).unwrap_or_else(name)
}

/// Looks after the books for as long as the exchange is there.
async fn look_after_books(fleet: Weak<Fleet>) {
    while let Some(fleet) = fleet.upgrade() {
        fleet.learn_followers().await;
        fleet.look_after_books();
        drop(fleet);
        tokio::time::sleep(LOOK_AFTER_BOOKS).await;
    }
}

/// One beside the feeds of each node.
fn start_supervisors(fleet: &Arc<Fleet>, leading: LeaderParts, addresses: &Addresses) {
    let leading = Arc::new(leading);
    for node in fleet.all() {
        node.start_beside_feeds(Supervisor::new(SupervisorParts {
            node: Arc::clone(&node.context),
            fleet: Arc::downgrade(fleet),
            routes: Arc::clone(&leading.routes),
            addresses: addresses.clone(),
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
    orders: Vec<Range<Offset>>,
) -> Result<Addr<NodeSupervisor>, StartError> {
    let (tx, rx) = oneshot::channel();
    let node = Arc::clone(node);
    let mut foreign: HashMap<u32, Vec<Symbol>> = HashMap::new();
    for f in others {
        foreign.entry(f.entry.partition).or_default().push(f.entry.symbol);
    }
    arbiter.spawn_fn(move || {
        node.spent.count_feed_thread(ThreadClock::of_this_thread());
        _ = tx.send(NodeSupervisor::start_node(&node, found, &foreign, &known, &orders));
    });
    rx.await.map_err(|_| StartError::Thread)
}

/// Per partition, how far `events` got for each symbol: so a restart repeats nothing that is durable.
async fn known_durable(
    log: &dyn Log,
    found: impl Iterator<Item = &Found>,
) -> Result<HashMap<u32, HashMap<Symbol, Seq>>, LogError> {
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

async fn order_starts(log: &dyn Log) -> Result<Vec<Offset>, LogError> {
    let mut starts = Vec::new();
    for partition in 0..log.partitions() {
        starts.push(log.start_offset(TopicPartition { topic: Topic::Orders, partition }).await?);
    }
    Ok(starts)
}

async fn order_ends(log: &dyn Log) -> Result<Vec<Offset>, LogError> {
    let mut ends = Vec::new();
    for partition in 0..log.partitions() {
        ends.push(log.end_offset(TopicPartition { topic: Topic::Orders, partition }).await?);
    }
    Ok(ends)
}

/// Trims the log for as long as the exchange is there. In a cluster one process does it, or each while nobody leads:
/// twice does no harm.
async fn trim_regularly(retention: Arc<Retention>, log: Arc<dyn Log>, fleet: Weak<Fleet>) {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        let Some(fleet) = fleet.upgrade() else { return };
        let trimmed = match retention.note_ends(&*log).await {
            Ok(()) if fleet.trims() => trim(&retention, &*log, &fleet).await,
            noted => noted,
        };
        match trimmed {
            Ok(()) => {}
            Err(LogError::Closed) => return,
            Err(e) => tracing::warn!(error = %e, "log cannot be trimmed"),
        }
    }
}

async fn trim(retention: &Retention, log: &dyn Log, fleet: &Fleet) -> Result<(), LogError> {
    let mut known = retention.oldest();
    for told in fleet.members().kept().await {
        retention::learn(&mut known, told);
    }
    // Read now: a symbol that is listed later begins behind all that is known of the others.
    let catalogue = Catalogue::read(log).await?;
    retention.trim(log, &catalogue, fleet.owners(), &known).await
}
