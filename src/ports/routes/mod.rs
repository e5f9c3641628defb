//! The routes port: which instance has a symbol's book, which nodes are there and how busy they are, and who leads.
//!
//! A cache of what the log and the nodes say: losing it loses nothing, and an answer of it may be old. Nobody owns a
//! book, and no record is refused, because of what is in here; the log's FENCE records decide that.

pub mod local;
#[cfg(feature = "redis")]
pub mod redis;

use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

use crate::domain::{Epoch, NodeId, Symbol};

/// Changes that a listener may be behind before it is told to read everything again: 4,096 x about 100 bytes.
pub const CHANGES_MAX: usize = 4_096;

/// Whether the book is being moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RouteStatus {
    Active,
    Migrating,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Route {
    pub target_instance: NodeId,
    pub status: RouteStatus,
    pub epoch: Epoch,
    pub partition: u32,
    /// While it is being moved: to where.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<NodeId>,
}

impl Route {
    /// What a compare-and-set compares.
    pub fn version(&self) -> (Epoch, RouteStatus) {
        (self.epoch, self.status)
    }
}

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Row {
        symbol: Symbol,
        route: Route,
    },
    /// Some changes were missed (the listener was slow, or the table was away): read all of it again.
    Resync,
}

/// The changes of the table from the moment when the listener began, in the order in which each row changed.
#[derive(Debug)]
pub struct Changes(broadcast::Receiver<Change>);

impl Changes {
    /// `from`: a channel of [`CHANGES_MAX`].
    pub fn new(from: broadcast::Receiver<Change>) -> Self {
        Self(from)
    }

    /// Waits for the next; `None` when the table is gone for good.
    pub async fn next(&mut self) -> Option<Change> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// One after the other, as [`Self::next`] gives them.
    pub fn into_stream(self) -> impl Stream<Item = Change> + Send + 'static {
        futures_util::stream::unfold(self, |mut changes| async move { Some((changes.next().await?, changes)) })
    }
}

/// Where a node is reached; `None` for a node that has no such door of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    /// `host:port` of its HTTP gateway.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub http: Option<String>,
    /// `host:port` at which other nodes reach it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<String>,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeStatus {
    /// It has not caught up with the log yet.
    Starting,
    Active,
    /// Its books leave, and it takes none.
    Draining,
}

/// What one book costs its node, over the last window.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BookLoad {
    pub symbol: Symbol,
    pub partition: u32,
    /// Records per second.
    pub rate: f64,
    /// CPU time spent for it, in cores.
    pub busy: f64,
    /// Records that its node has met in the log and the book has not applied yet.
    pub lag: u64,
    /// The longest that a batch of the window waited in its mailbox, in microseconds.
    pub waiting_us: u64,
    /// Resting orders.
    pub orders: u64,
    /// When it took over here from another node, in microseconds UTC.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moved_at: Option<u64>,
}

/// What a partition of `orders` costs a node beside its books: fetching it, and skipping what is not its own.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PartitionLoad {
    pub partition: u32,
    /// CPU time, in cores.
    pub fetch: f64,
}

/// A book that is being moved to the node that says so.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Arriving {
    pub symbol: Symbol,
    pub from: NodeId,
}

/// What a node says of itself, again and again.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Heartbeat {
    pub node: NodeId,
    /// When this life of the node began, in microseconds UTC: of two lives with one name the later is the node.
    pub incarnation: u64,
    pub addresses: Addresses,
    pub status: NodeStatus,
    /// When the window of the figures below ended, in microseconds UTC: the same window may be said twice.
    pub measured_at: u64,
    /// CPU time of its feed, book and publish threads, as a fraction of `cores`.
    pub load: f64,
    /// Its budget, in cores.
    pub cores: f64,
    /// Books that it owns.
    pub books: u64,
    /// Those of its books that cost most, costliest first; at most [`Heartbeat::HOTTEST_MAX`].
    pub hottest: Vec<BookLoad>,
    /// The partitions whose fetching costs something.
    pub partitions: Vec<PartitionLoad>,
    /// It cannot reach the log: whoever can has its books taken over.
    #[serde(default)]
    pub log_lost: bool,
    /// Books that are being moved to it; at most [`Heartbeat::ARRIVING_MAX`].
    #[serde(default)]
    pub arriving: Vec<Arriving>,
}

impl Heartbeat {
    /// 256 x about 120 bytes of JSON = 30 KiB per node and beat.
    pub const HOTTEST_MAX: usize = 256;
    /// The placement policy moves a few at a time; when a node died, it is not asked.
    pub const ARRIVING_MAX: usize = 64;
}

/// One life of one node, as the holder of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    pub node: NodeId,
    pub incarnation: u64,
}

/// A lease as it stands.
///
/// The table measures its time. A holder counts `expires_in` from before it asked, and so stops in time whatever the
/// answer's way took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub holder: Holder,
    /// Grows each time that the lease is taken anew, also over a loss of the table: the table's clock in microseconds
    /// UTC, or one more than the last if that is higher. Below 2^53.
    pub token: u64,
    pub expires_in: Duration,
}

/// Who looks after the cluster's load.
pub const LEADER: &str = "leader";

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RoutesError {
    /// An epoch never goes back (RT1).
    #[error("route of {symbol} is at epoch {have}, {offered} is older")]
    Older { symbol: Symbol, have: Epoch, offered: Epoch },
    /// The row is not what the writer thought.
    #[error("route of {symbol} was changed meanwhile")]
    Changed { symbol: Symbol, have: Option<Route> },
    /// Somebody else has the lease, or nobody.
    #[error("lease {name} is lost")]
    LeaseLost { name: String },
    #[error("route table cannot be reached: {why}")]
    Unavailable { why: String },
}

/// The table. Every method may be called from any thread.
pub trait Routes: Send + Sync + 'static {
    fn get(&self, symbol: Symbol) -> BoxFuture<'_, Result<Option<Route>, RoutesError>>;

    /// All, in order of symbol.
    fn all(&self) -> BoxFuture<'_, Result<Vec<(Symbol, Route)>, RoutesError>>;

    /// Tells the table what the log says: writes the row if there is none, or an older epoch's. A row of the same epoch
    /// stays, for it may say more (MIGRATING), and so does a newer one (RT1). Gives the row that stands afterwards.
    fn learn(&self, symbol: Symbol, route: Route) -> BoxFuture<'_, Result<Route, RoutesError>>;

    /// Compare-and-set: writes `route` if the row's [version](Route::version) is `expected` (`None`: if there is no
    /// row), and leaves it alone otherwise.
    ///
    /// # Errors
    /// [`RoutesError::Older`] if `route` has an older epoch than `expected`: nothing is looked at.
    /// [`RoutesError::Changed`] with the row as it is.
    fn swap(
        &self,
        symbol: Symbol,
        expected: Option<(Epoch, RouteStatus)>,
        route: Route,
    ) -> BoxFuture<'_, Result<(), RoutesError>>;

    /// Listens to changes of rows: every write that begins after this has returned is heard, or a
    /// [`Change::Resync`] in its place. A write that changes nothing may be heard or not.
    fn watch(&self) -> BoxFuture<'_, Result<Changes, RoutesError>>;

    /// Says that a node is there; forgotten after `ttl`. An older incarnation's is ignored while a newer one's stands.
    fn beat(&self, beat: Heartbeat, ttl: Duration) -> BoxFuture<'_, Result<(), RoutesError>>;

    /// The newest heartbeat of every node that is not forgotten, in order of node.
    fn beats(&self) -> BoxFuture<'_, Result<Vec<Heartbeat>, RoutesError>>;

    /// Takes a lease that nobody has, or prolongs one's own (same node, same incarnation: the token stays). Gives the
    /// lease as it stands: it is the caller's if the holder is.
    fn acquire(&self, name: &str, holder: Holder, ttl: Duration) -> BoxFuture<'_, Result<Lease, RoutesError>>;

    /// Prolongs a lease that one still has.
    ///
    /// # Errors
    /// [`RoutesError::LeaseLost`] if it ran out, was lost, or is another's: whoever held it must stop.
    fn renew(&self, name: &str, lease: Lease, ttl: Duration) -> BoxFuture<'_, Result<Lease, RoutesError>>;

    /// Gives a lease back, so that the next need not wait for its end. One that is not held any more stays as it is.
    fn release(&self, name: &str, lease: Lease) -> BoxFuture<'_, Result<(), RoutesError>>;

    /// A lease as it stands; `None` if nobody has it.
    fn lease(&self, name: &str) -> BoxFuture<'_, Result<Option<Lease>, RoutesError>>;
}
