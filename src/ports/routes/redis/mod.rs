//! The route table in Redis: `route:SYMBOL`, `node:ID`, `lease:NAME` (and, for others, `orderbook:SYMBOL` and
//! `session:USER`, see [`cache`]).
//!
//! Whatever must not be torn is one script: compare-and-set, heartbeats, leases, and a change with its announcement.
//! Redis away: every call fails within a bound and the next one connects anew. Redis emptied: listeners are told to read
//! again, and whoever knows something writes it anew.

pub mod cache;
mod connection;
mod listener;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, cmd};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::warn;

use self::connection::{Asked, Connection, Repeat, unavailable};
use self::listener::Listener;
use super::{Changes, Heartbeat, Holder, Lease, Route, RouteStatus, Routes, RoutesError};
use crate::domain::{Epoch, Symbol};

pub use self::connection::{RedisOptions, RedisTls};

/// Keys looked at per step of a scan.
const SCAN_COUNT: usize = 1_000;

/// The table in one Redis server (or the primary of a replicated one; not Redis Cluster).
#[derive(Debug, Clone)]
pub struct RedisRoutes {
    connection: Connection,
    listener: Arc<Listener>,
}

impl RedisRoutes {
    /// Makes a way to the table. Redis need not be there yet. Connections live in the runtime that calls this.
    ///
    /// # Errors
    /// [`RoutesError::Unavailable`] if the options make no sense, such as a certificate that is none.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn open(options: &RedisOptions) -> Result<Self, RoutesError> {
        let connection = Connection::open(options)?;
        let listener = Arc::new(Listener::new(connection.clone()));
        Ok(Self { connection, listener })
    }

    /// The cache in the same Redis, over the same connection.
    pub fn cache(&self) -> cache::RedisCache {
        cache::RedisCache::new(self.connection.clone())
    }

    /// Values of the keys that match, without those that were gone when they were read.
    async fn scan(&self, pattern: &str) -> Result<Vec<(String, String)>, RoutesError> {
        let mut found = Vec::new();
        let mut cursor = 0u64;
        loop {
            let step = cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT).clone();
            let (next, keys): (u64, Vec<String>) = self.ask(step).await?;
            if !keys.is_empty() {
                let values: Vec<Option<String>> = self.ask(cmd("MGET").arg(&keys).clone()).await?;
                found.extend(keys.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?))));
            }
            if next == 0 {
                return Ok(found);
            }
            cursor = next;
        }
    }

    async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, RoutesError> {
        self.connection.ask(Asked::Command(command), Repeat::Allowed).await
    }

    async fn all_now(&self) -> Result<Vec<(Symbol, Route)>, RoutesError> {
        let mut rows: Vec<_> = self
            .scan("route:*")
            .await?
            .iter()
            .filter_map(|(key, value)| {
                let symbol = Symbol::new(key.strip_prefix("route:")?).ok()?;
                Some((symbol, readable(key, value)?))
            })
            .collect();
        rows.sort_unstable_by_key(|(symbol, _)| *symbol);
        // A scan may meet a key twice.
        rows.dedup_by_key(|(symbol, _)| *symbol);
        Ok(rows)
    }

    async fn learn_now(&self, symbol: Symbol, route: Route) -> Result<Route, RoutesError> {
        let mut script = scripts::LEARN.key(route_key(symbol));
        script.arg(symbol.as_str()).arg(json(&route)).arg(route.epoch.0);
        let row: String = self.connection.ask(Asked::Script(script), Repeat::Allowed).await?;
        serde_json::from_str(&row).map_err(unavailable)
    }

    async fn swap_now(
        &self,
        symbol: Symbol,
        expected: Option<(Epoch, RouteStatus)>,
        route: Route,
    ) -> Result<(), RoutesError> {
        if let Some((have, _)) = expected.filter(|(epoch, _)| *epoch > route.epoch) {
            return Err(RoutesError::Older { symbol, have, offered: route.epoch });
        }
        let (epoch, status) = match expected {
            Some((epoch, status)) => (epoch.0.to_string(), status_text(status)),
            None => (String::new(), ""),
        };
        let mut script = scripts::SWAP.key(route_key(symbol));
        script.arg(symbol.as_str()).arg(json(&route)).arg(epoch).arg(status);
        // Not repeated: what was lost may have been the answer, and the second try would then say that somebody else won.
        let (written, have): (bool, Option<String>) = self.connection.ask(Asked::Script(script), Repeat::Never).await?;
        if written {
            return Ok(());
        }
        let have = have.and_then(|text| readable(&route_key(symbol), &text));
        Err(RoutesError::Changed { symbol, have })
    }

    async fn beats_now(&self) -> Result<Vec<Heartbeat>, RoutesError> {
        let script = scripts::BEATS.key("nodes");
        let texts: Vec<String> = self.connection.ask(Asked::Script(script), Repeat::Allowed).await?;
        let mut beats: Vec<Heartbeat> = texts.iter().filter_map(|text| readable("node:*", text)).collect();
        beats.sort_unstable_by_key(|beat| beat.node);
        Ok(beats)
    }

    /// Runs a script that answers a lease as it stands.
    async fn lease_now(
        &self,
        mut script: ::redis::ScriptInvocation<'static>,
        name: &str,
        arguments: &[String],
    ) -> Result<Option<Lease>, RoutesError> {
        script.key(format!("lease:{name}"));
        for argument in arguments {
            script.arg(argument);
        }
        let lease: Option<(String, u64, u64)> = self.connection.ask(Asked::Script(script), Repeat::Allowed).await?;
        lease
            .map(|(holder, token, expires_ms)| {
                let holder = serde_json::from_str(&holder).map_err(unavailable)?;
                Ok(Lease { holder, token, expires_in: Duration::from_millis(expires_ms) })
            })
            .transpose()
    }
}

fn route_key(symbol: Symbol) -> String {
    format!("route:{symbol}")
}

fn status_text(status: RouteStatus) -> &'static str {
    match status {
        RouteStatus::Active => "ACTIVE",
        RouteStatus::Migrating => "MIGRATING",
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // Plain structures of numbers and text: nothing in them can fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads what is in the table; what somebody else put there is as if it were not there.
fn readable<T: serde::de::DeserializeOwned>(key: &str, text: &str) -> Option<T> {
    serde_json::from_str(text).inspect_err(|e| warn!(key, error = %e, "Redis holds a value that is not ours")).ok()
}

/// Redis counts in milliseconds, and 0 would mean: gone at once.
fn milliseconds(ttl: Duration) -> String {
    ttl.as_millis().max(1).to_string()
}

impl Routes for RedisRoutes {
    fn get(&self, symbol: Symbol) -> BoxFuture<'_, Result<Option<Route>, RoutesError>> {
        async move {
            let key = route_key(symbol);
            let text: Option<String> = self.ask(cmd("GET").arg(&key).clone()).await?;
            Ok(text.and_then(|text| readable(&key, &text)))
        }
        .boxed()
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<(Symbol, Route)>, RoutesError>> {
        self.all_now().boxed()
    }

    fn learn(&self, symbol: Symbol, route: Route) -> BoxFuture<'_, Result<Route, RoutesError>> {
        self.learn_now(symbol, route).boxed()
    }

    fn swap(
        &self,
        symbol: Symbol,
        expected: Option<(Epoch, RouteStatus)>,
        route: Route,
    ) -> BoxFuture<'_, Result<(), RoutesError>> {
        self.swap_now(symbol, expected, route).boxed()
    }

    /// Never fails: while Redis is away the listener hears nothing, and [`super::Change::Resync`] once it is back.
    fn watch(&self) -> BoxFuture<'_, Result<Changes, RoutesError>> {
        async { Ok(Changes::new(self.listener.subscribe().await)) }.boxed()
    }

    fn beat(&self, beat: Heartbeat, ttl: Duration) -> BoxFuture<'_, Result<(), RoutesError>> {
        async move {
            let mut script = scripts::BEAT.key(format!("node:{}", beat.node));
            script.key("nodes").arg(beat.node.as_str()).arg(json(&beat)).arg(beat.incarnation).arg(milliseconds(ttl));
            self.connection.ask(Asked::Script(script), Repeat::Allowed).await
        }
        .boxed()
    }

    fn beats(&self) -> BoxFuture<'_, Result<Vec<Heartbeat>, RoutesError>> {
        self.beats_now().boxed()
    }

    fn acquire(&self, name: &str, holder: Holder, ttl: Duration) -> BoxFuture<'_, Result<Lease, RoutesError>> {
        let name = name.to_owned();
        async move {
            let arguments = [json(&holder), milliseconds(ttl)];
            let lease = self.lease_now(scripts::ACQUIRE.prepare_invoke(), &name, &arguments).await?;
            lease.ok_or(RoutesError::LeaseLost { name })
        }
        .boxed()
    }

    fn renew(&self, name: &str, lease: Lease, ttl: Duration) -> BoxFuture<'_, Result<Lease, RoutesError>> {
        let name = name.to_owned();
        async move {
            let arguments = [json(&lease.holder), lease.token.to_string(), milliseconds(ttl)];
            let lease = self.lease_now(scripts::RENEW.prepare_invoke(), &name, &arguments).await?;
            lease.ok_or(RoutesError::LeaseLost { name })
        }
        .boxed()
    }

    fn release(&self, name: &str, lease: Lease) -> BoxFuture<'_, Result<(), RoutesError>> {
        let name = name.to_owned();
        async move {
            let arguments = [json(&lease.holder), lease.token.to_string()];
            self.lease_now(scripts::RELEASE.prepare_invoke(), &name, &arguments).await.map(|_| ())
        }
        .boxed()
    }

    fn lease(&self, name: &str) -> BoxFuture<'_, Result<Option<Lease>, RoutesError>> {
        let name = name.to_owned();
        async move { self.lease_now(scripts::LEASE.prepare_invoke(), &name, &[]).await }.boxed()
    }
}
