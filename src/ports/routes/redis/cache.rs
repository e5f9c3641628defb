//! What others look up in Redis: the depth of each book (`orderbook:SYMBOL`), and where each user is connected
//! (`session:USER`).

use std::time::Duration;

use ::redis::{FromRedisValue, ScriptInvocation};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::connection::{Asked, Connection, Repeat};
use super::{milliseconds, scripts};
use crate::domain::{NodeId, UserId};
use crate::ports::cache::{Cache, CacheUnavailable, Depth};

/// The depth cache and the session registry.
#[derive(Debug, Clone)]
pub struct RedisCache {
    connection: Connection,
}

impl RedisCache {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    async fn ask<T: FromRedisValue>(&self, script: ScriptInvocation<'static>) -> Result<T, CacheUnavailable> {
        let answer = self.connection.ask(Asked::Script(script), Repeat::Allowed).await;
        answer.map_err(|e| CacheUnavailable { why: e.to_string() })
    }
}

fn session_key(user: &UserId) -> String {
    format!("session:{user}")
}

impl Cache for RedisCache {
    fn put_depths<'a>(&'a self, depths: &'a [Depth]) -> BoxFuture<'a, Result<u64, CacheUnavailable>> {
        let mut script = scripts::PUT_DEPTHS.prepare_invoke();
        for depth in depths {
            script.key(format!("orderbook:{}", depth.symbol)).arg(depth.seq.0).arg(&depth.json);
        }
        self.ask(script).boxed()
    }

    /// `session:USER` is a sorted set of nodes, scored by when each is forgotten, in milliseconds UTC.
    fn sessions_held<'a>(
        &'a self,
        users: &'a [UserId],
        node: NodeId,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), CacheUnavailable>> {
        let mut script = scripts::SESSIONS_HELD.prepare_invoke();
        users.iter().for_each(|user| _ = script.key(session_key(user)));
        script.arg(node.as_str()).arg(milliseconds(ttl));
        self.ask(script).boxed()
    }

    fn sessions_ended<'a>(&'a self, users: &'a [UserId], node: NodeId) -> BoxFuture<'a, Result<(), CacheUnavailable>> {
        let mut script = scripts::SESSIONS_ENDED.prepare_invoke();
        users.iter().for_each(|user| _ = script.key(session_key(user)));
        script.arg(node.as_str());
        self.ask(script).boxed()
    }
}
