//! The routes port: which instance has a symbol's book. A cache of what the log decides: losing it loses nothing.

pub mod local;

use futures_util::future::BoxFuture;

use crate::domain::{Epoch, NodeId, Symbol};

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

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RoutesError {
    /// The table has a newer epoch (RT1).
    #[error("route of {symbol} is at epoch {have}, {offered} is older")]
    Older { symbol: Symbol, have: Epoch, offered: Epoch },
    #[error("route table cannot be reached: {why}")]
    Unavailable { why: String },
}

/// The table.
pub trait Routes: Send + Sync + 'static {
    fn get(&self, symbol: Symbol) -> BoxFuture<'_, Result<Option<Route>, RoutesError>>;

    /// Writes a row unless the table has a newer epoch: an epoch never goes back (RT1). The same epoch may be written
    /// again, with another status.
    fn set(&self, symbol: Symbol, route: Route) -> BoxFuture<'_, Result<(), RoutesError>>;

    /// All, in order of symbol.
    fn all(&self) -> BoxFuture<'_, Result<Vec<(Symbol, Route)>, RoutesError>>;
}
