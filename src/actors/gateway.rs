//! The gateway: everything between the logs and the edge. Works alike with or without an engine in the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use bytestring::ByteString;
use tokio::sync::oneshot;

use super::connections::{Connections, Users};
use super::egress::{Egress, EgressParts, EventPositions};
use super::mirror::{Changed, Mirrors, Start, read_starts};
use super::node::NodeContext;
use super::owners::Owners;
use super::router::{CoreParts, Lags, Mend, Refusal, Router, RouterCore};
use super::waiters::Waiters;
use crate::domain::{Origin, Symbol, UserId};
use crate::ports::log::{Log, LogError};
use crate::ports::routes::Routes;
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};
use crate::wire::Keyring;
pub use crate::wire::client::{Role, Said};

/// Number of a connection within its gateway; 0 stands for REST.
pub type ConnectionId = u32;

/// What a connection can listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    Depth,
    Trades,
    Ticker,
    /// Candles of a minute.
    Candles,
    /// All of the user's own orders, whichever way they were sent; the symbol is ignored.
    Orders,
}

/// Something for a connection.
#[derive(Debug, Clone)]
pub enum Push {
    Own {
        said: Arc<Said>,
        role: Role,
    },
    /// Ready JSON text.
    Market(ByteString),
}

/// Where a connection's outputs go.
pub trait Sink: Send + Sync {
    /// Takes a batch. Never blocks and never calls the gateway back: locks of it are held. The bound, and what happens
    /// at it, are its owner's.
    fn push(&self, batch: Vec<Push>);
}

/// All outputs of one command, first to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub said: Vec<Arc<Said>>,
}

/// Bounds of a gateway.
#[derive(Debug, Clone, Copy)]
pub struct GatewayLimits {
    /// A book further behind than this takes no new orders.
    pub lag_records_max: u64,
    /// Orders not yet durable: 64 MiB is about 400,000 of them.
    pub queue_bytes_max: usize,
    /// Market data subscriptions of one connection: 16,384 x 48 bytes = 768 KiB.
    pub subscriptions_per_connection_max: usize,
    /// REST requests that wait for an answer: as many as a server has sockets.
    pub answers_waiting_max: usize,
    /// Events read at once per partition: 256 x at most 512 KiB, usually 256 x 50 KiB = 13 MB.
    pub read_records_max: usize,
    /// Events read before the oldest snapshot's position, so that finished orders, trades and the ticker of before a
    /// restart are there again.
    pub history_records: u64,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            lag_records_max: 50_000,
            queue_bytes_max: 64 << 20,
            subscriptions_per_connection_max: 16_384,
            answers_waiting_max: 65_536,
            read_records_max: 256,
            history_records: 2_000,
        }
    }
}

/// What a gateway is made of.
pub struct GatewayParts {
    pub log: Arc<dyn Log>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub lags: Lags,
    pub keyring: Arc<Keyring>,
    pub routes: Arc<dyn Routes>,
    /// Told what the route table says, in a process without nodes.
    pub owners: Option<Arc<Owners>>,
    /// Where it is noted which books changed, if anybody looks.
    pub changed: Option<Arc<Changed>>,
    /// Where it is noted who is connected, if anybody looks.
    pub users: Option<Arc<Users>>,
    pub limits: GatewayLimits,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("snapshots: {0}")]
    Snapshots(#[from] SnapshotStoreError),
    #[error("the machine gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// See the module. All methods may be called from any thread.
pub struct Gateway {
    incarnation: u64,
    mirrors: Arc<Mirrors>,
    connections: Arc<Connections>,
    waiters: Arc<Waiters>,
    router: Arc<RouterCore>,
    positions: Arc<EventPositions>,
    routes: Arc<dyn Routes>,
    table: Addr<Router>,
    level: Arc<AtomicBool>,
    /// Of the egress and the router; stopped with the gateway.
    arbiter: ArbiterHandle,
}

impl Gateway {
    /// Restores the mirrors from the newest valid snapshots and starts the egress, which reads `events` from there on, and the
    /// router on an arbiter of their own. Must be called inside an actix system.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn start(parts: GatewayParts) -> Result<Arc<Self>, GatewayError> {
        let starts = read_starts(&*parts.snapshots).await?;
        Self::start_from(parts, starts).await
    }

    pub(super) async fn start_from(parts: GatewayParts, starts: Vec<Start>) -> Result<Arc<Self>, GatewayError> {
        let GatewayParts { log, lags, keyring, routes, owners, changed, users, limits, .. } = parts;
        let incarnation = random_incarnation()?;
        let mirrors = Arc::new(Mirrors::default());
        let connections = Arc::new(Connections::new(incarnation, limits.subscriptions_per_connection_max, users));
        let waiters = Arc::new(Waiters::new(limits.answers_waiting_max));
        let positions = Arc::new(EventPositions::default());
        let level = Arc::new(AtomicBool::new(false));
        let arbiter = Arbiter::new();
        let table = Router::new(Arc::clone(&routes), owners);
        let table = Router::start_in_arbiter(&arbiter.handle(), |_| table);
        let egress = EgressParts {
            log: Arc::clone(&log),
            mirrors: Arc::clone(&mirrors),
            connections: Arc::clone(&connections),
            waiters: Arc::clone(&waiters),
            positions: Arc::clone(&positions),
            router: table.clone().recipient(),
            changed,
            level: Arc::clone(&level),
            limits,
        };
        let egress = Egress::restore(egress, starts).await?;
        Egress::start_in_arbiter(&arbiter.handle(), |_| egress);
        let router = RouterCore::new(CoreParts {
            log,
            mirrors: Arc::clone(&mirrors),
            lags,
            keyring,
            incarnation,
            lag_records_max: limits.lag_records_max,
            queue_bytes_max: limits.queue_bytes_max,
        })?;
        let (router, arbiter) = (Arc::new(router), arbiter.handle());
        let gateway =
            Self { incarnation, mirrors, connections, waiters, router, positions, routes, table, level, arbiter };
        Ok(Arc::new(gateway))
    }

    /// Drawn at random at each start, never 0: tells this gateway's commands from all others in the log.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Enters a connection.
    pub fn connect(&self, user: Option<UserId>, sink: Arc<dyn Sink>) -> ConnectionId {
        self.connections.connect(user, sink)
    }

    /// Says whose connection it is.
    pub fn authenticate(&self, id: ConnectionId, user: UserId) {
        self.connections.authenticate(id, user);
    }

    /// Ends all subscriptions; what is still said of its orders goes nowhere.
    pub fn disconnect(&self, id: ConnectionId) {
        self.connections.disconnect(id, &self.mirrors);
    }

    /// The origin of the connection's next command: the upper half of its counter is the connection, so that answers
    /// are routed without a map.
    pub fn origin(&self, id: ConnectionId) -> Origin {
        self.connections.origin(id)
    }

    /// Starts a channel: where it stands now is pushed first, then every change, without a gap.
    ///
    /// # Errors
    /// [`Refusal::UnknownSymbol`], [`Refusal::TooManySubscriptions`], [`Refusal::NotAuthenticated`] for
    /// [`Channel::Orders`] without a user, [`Refusal::NotConnected`].
    pub fn subscribe(&self, id: ConnectionId, channel: Channel, symbol: Symbol) -> Result<(), Refusal> {
        self.connections.subscribe(id, channel, symbol, &self.mirrors)
    }

    pub fn unsubscribe(&self, id: ConnectionId, channel: Channel, symbol: Symbol) {
        self.connections.unsubscribe(id, channel, symbol, &self.mirrors);
    }

    /// An origin for one REST command, and where all outputs of that command will come, once the mirrors show them.
    /// The receiver is closed at once when [`GatewayLimits::answers_waiting_max`] requests wait already; it is closed
    /// too when the answer was forgotten.
    pub fn expect_answer(&self) -> (Origin, oneshot::Receiver<Answer>) {
        let (number, answer) = self.waiters.expect();
        (Origin { gateway: self.incarnation, counter: u64::from(number) }, answer)
    }

    /// Stops waiting for an answer; should it come later, it is dropped.
    pub fn forget_answer(&self, origin: Origin) {
        if self.connections.of_origin(origin) == Some(0) {
            self.waiters.forget(origin.counter as u32);
        }
    }

    pub fn mirrors(&self) -> &Arc<Mirrors> {
        &self.mirrors
    }

    /// Whether everything that `events` held at start is in the mirrors.
    pub fn is_level(&self) -> bool {
        self.level.load(Ordering::Acquire)
    }

    /// The router's core: what commands pass.
    pub fn router(&self) -> Arc<RouterCore> {
        Arc::clone(&self.router)
    }

    /// Where in `events` each symbol's last seq was first met.
    pub fn positions(&self) -> Arc<EventPositions> {
        Arc::clone(&self.positions)
    }

    pub fn routes(&self) -> &Arc<dyn Routes> {
        &self.routes
    }

    /// Has the rows of these nodes' books in the route table kept true.
    pub(super) async fn keep_rows_of(&self, nodes: Vec<Arc<NodeContext>>) {
        // Fails only once the gateway has stopped.
        _ = self.table.send(Mend(nodes)).await;
    }

    /// Ends the egress. Nothing is delivered any more.
    pub fn stop(&self) {
        self.arbiter.stop();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}

fn random_incarnation() -> Result<u64, GatewayError> {
    loop {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(GatewayError::Random)?;
        match u64::from_le_bytes(bytes) {
            // 0 marks a record that no gateway wrote.
            0 => {}
            incarnation => return Ok(incarnation),
        }
    }
}
