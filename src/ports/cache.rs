//! The cache port: what is kept outside for others to look up without asking a gateway, the depth of each book and where each user
//! is connected. Nothing of ours reads it, and losing it loses nothing.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::domain::{NodeId, Seq, Symbol, UserId};

/// The cache does not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cache cannot be reached: {why}")]
pub struct CacheUnavailable {
    pub why: String,
}

/// The depth of a book after the output `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    pub symbol: Symbol,
    pub seq: Seq,
    /// A JSON object whose last member is `"seq"`: adapters tell an older one by it.
    pub json: String,
}

/// The cache. Every method may be called from any thread, and fails within a bound.
pub trait Cache: Send + Sync + 'static {
    /// Writes the depth of each book, unless what is there is as new. Gives how many were written.
    fn put_depths<'a>(&'a self, depths: &'a [Depth]) -> BoxFuture<'a, Result<u64, CacheUnavailable>>;

    /// Says that `node` holds connections of these users; forgotten after `ttl`, so it is said again and again.
    fn sessions_held<'a>(
        &'a self,
        users: &'a [UserId],
        node: NodeId,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), CacheUnavailable>>;

    /// Says that the last connection of each of these users on `node` has ended.
    fn sessions_ended<'a>(&'a self, users: &'a [UserId], node: NodeId) -> BoxFuture<'a, Result<(), CacheUnavailable>>;
}
