//! What gateways keep in Redis for others: the depth of each book, and where each user is connected. Nothing of ours
//! reads orders or decides anything from it.

use std::time::Duration;

use ::redis::cmd;

use super::connection::{Asked, Connection, Repeat};
use super::{RoutesError, milliseconds, scripts};
use crate::domain::{NodeId, Symbol, UserId};

/// The depth cache and the session registry.
#[derive(Debug, Clone)]
pub struct RedisCache {
    connection: Connection,
}

impl RedisCache {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Writes `orderbook:SYMBOL`, the JSON of a book's depth as of `seq`, unless what is there is as new. Says whether it
    /// was written.
    ///
    /// # Errors
    /// [`RoutesError::Unavailable`].
    pub async fn put_depth(&self, symbol: Symbol, seq: u64, depth: &str) -> Result<bool, RoutesError> {
        let mut script = scripts::PUT_DEPTH.key(format!("orderbook:{symbol}"));
        script.arg(seq).arg(depth);
        self.connection.ask(Asked::Script(script), Repeat::Allowed).await
    }

    /// The depth that was last written.
    ///
    /// # Errors
    /// [`RoutesError::Unavailable`].
    pub async fn depth(&self, symbol: Symbol) -> Result<Option<String>, RoutesError> {
        let get = cmd("GET").arg(format!("orderbook:{symbol}")).clone();
        self.connection.ask(Asked::Command(get), Repeat::Allowed).await
    }

    /// Says that `node` holds a connection of `user`; forgotten after `ttl`, so it is said again and again.
    ///
    /// # Errors
    /// [`RoutesError::Unavailable`].
    pub async fn session_held(&self, user: UserId, node: NodeId, ttl: Duration) -> Result<(), RoutesError> {
        let mut script = scripts::SESSION_HELD.key(format!("session:{user}"));
        script.arg(node.as_str()).arg(milliseconds(ttl));
        self.connection.ask(Asked::Script(script), Repeat::Allowed).await
    }

    /// Says that the last connection of `user` on `node` has ended.
    ///
    /// # Errors
    /// [`RoutesError::Unavailable`].
    pub async fn session_ended(&self, user: UserId, node: NodeId) -> Result<(), RoutesError> {
        let remove = cmd("ZREM").arg(format!("session:{user}")).arg(node.as_str()).clone();
        self.connection.ask(Asked::Command(remove), Repeat::Allowed).await
    }

    /// The nodes that hold connections of `user`, in no order.
    ///
    /// # Errors
    /// [`RoutesError::Unavailable`].
    pub async fn sessions(&self, user: UserId) -> Result<Vec<NodeId>, RoutesError> {
        let script = scripts::SESSIONS.key(format!("session:{user}"));
        let nodes: Vec<String> = self.connection.ask(Asked::Script(script), Repeat::Allowed).await?;
        Ok(nodes.iter().filter_map(|node| NodeId::new(node).ok()).collect())
    }
}
