//! The route table of one process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{CHANGES_MAX, Change, Changes, Heartbeat, Holder, Lease, Route, RouteStatus, Routes, RoutesError};
use crate::clock;
use crate::domain::{Epoch, NodeId, Symbol};

/// Maps behind a lock; gone with the process, and filled again from the log.
#[derive(Debug)]
pub struct LocalRoutes {
    table: Mutex<Table>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Symbol, Route>,
    beats: BTreeMap<NodeId, (Heartbeat, Instant)>,
    leases: BTreeMap<String, Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// `None` once it was given back; the token is kept, so that the next is higher.
    holder: Option<Holder>,
    token: u64,
    until: Instant,
}

impl Held {
    fn lease(&self, now: Instant) -> Option<Lease> {
        let holder = self.holder.filter(|_| now < self.until)?;
        Some(Lease { holder, token: self.token, expires_in: self.until - now })
    }
}

impl Default for LocalRoutes {
    fn default() -> Self {
        Self { table: Mutex::default(), changes: broadcast::channel(CHANGES_MAX).0 }
    }
}

impl LocalRoutes {
    /// Forgets everything, as an emptied server would. For fault tests.
    pub fn clear(&self) {
        let mut table = self.table.lock();
        *table = Table::default();
        _ = self.changes.send(Change::Resync);
    }

    /// Writes a row whatever is there, as a restored backup would. For fault tests.
    pub fn overwrite(&self, symbol: Symbol, route: Route) {
        self.table.lock().rows.insert(symbol, route);
    }

    fn learn_now(&self, symbol: Symbol, route: Route) -> Route {
        let mut table = self.table.lock();
        match table.rows.get(&symbol) {
            Some(have) if have.epoch >= route.epoch => *have,
            _ => self.write(&mut table, symbol, route),
        }
    }

    fn swap_now(
        &self,
        symbol: Symbol,
        expected: Option<(Epoch, RouteStatus)>,
        route: Route,
    ) -> Result<(), RoutesError> {
        if let Some((have, _)) = expected.filter(|(epoch, _)| *epoch > route.epoch) {
            return Err(RoutesError::Older { symbol, have, offered: route.epoch });
        }
        let mut table = self.table.lock();
        let have = table.rows.get(&symbol).copied();
        if have.map(|r| r.version()) != expected {
            return Err(RoutesError::Changed { symbol, have });
        }
        self.write(&mut table, symbol, route);
        Ok(())
    }

    fn write(&self, table: &mut Table, symbol: Symbol, route: Route) -> Route {
        table.rows.insert(symbol, route);
        // Said under the lock, so that a row's changes are heard in their order. Nobody listening is no error.
        _ = self.changes.send(Change::Row { symbol, route });
        route
    }

    fn beat_now(&self, beat: Heartbeat, ttl: Duration) {
        let now = Instant::now();
        let mut table = self.table.lock();
        let newer = |(b, until): &(Heartbeat, Instant)| b.incarnation > beat.incarnation && now < *until;
        if !table.beats.get(&beat.node).is_some_and(newer) {
            table.beats.insert(beat.node, (beat, now + ttl));
        }
    }

    fn acquire_now(&self, name: &str, holder: Holder, ttl: Duration) -> Lease {
        let now = Instant::now();
        let mut table = self.table.lock();
        let have = table.leases.get(name).copied();
        match have.and_then(|h| h.lease(now)) {
            Some(lease) if lease.holder != holder => lease,
            held => {
                let next = clock::now().0.max(have.map_or(0, |h| h.token + 1));
                let token = held.map_or(next, |lease| lease.token);
                table.leases.insert(name.to_owned(), Held { holder: Some(holder), token, until: now + ttl });
                Lease { holder, token, expires_in: ttl }
            }
        }
    }

    fn renew_now(&self, name: &str, lease: Lease, ttl: Duration) -> Result<Lease, RoutesError> {
        let now = Instant::now();
        let mut table = self.table.lock();
        let lost = || RoutesError::LeaseLost { name: name.to_owned() };
        let held = table.leases.get_mut(name).ok_or_else(lost)?;
        let stands = held.lease(now).is_some_and(|l| (l.holder, l.token) == (lease.holder, lease.token));
        if !stands {
            return Err(lost());
        }
        held.until = now + ttl;
        Ok(Lease { expires_in: ttl, ..lease })
    }

    fn release_now(&self, name: &str, lease: Lease) {
        if let Some(held) = self.table.lock().leases.get_mut(name)
            && (held.holder, held.token) == (Some(lease.holder), lease.token)
        {
            held.holder = None;
        }
    }
}

impl Routes for LocalRoutes {
    fn get(&self, symbol: Symbol) -> BoxFuture<'_, Result<Option<Route>, RoutesError>> {
        ready(Ok(self.table.lock().rows.get(&symbol).copied())).boxed()
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<(Symbol, Route)>, RoutesError>> {
        ready(Ok(self.table.lock().rows.iter().map(|(s, r)| (*s, *r)).collect())).boxed()
    }

    fn learn(&self, symbol: Symbol, route: Route) -> BoxFuture<'_, Result<Route, RoutesError>> {
        ready(Ok(self.learn_now(symbol, route))).boxed()
    }

    fn swap(
        &self,
        symbol: Symbol,
        expected: Option<(Epoch, RouteStatus)>,
        route: Route,
    ) -> BoxFuture<'_, Result<(), RoutesError>> {
        ready(self.swap_now(symbol, expected, route)).boxed()
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, RoutesError>> {
        ready(Ok(Changes::new(self.changes.subscribe()))).boxed()
    }

    fn beat(&self, beat: Heartbeat, ttl: Duration) -> BoxFuture<'_, Result<(), RoutesError>> {
        self.beat_now(beat, ttl);
        ready(Ok(())).boxed()
    }

    fn beats(&self) -> BoxFuture<'_, Result<Vec<Heartbeat>, RoutesError>> {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.beats.retain(|_, (_, until)| now < *until);
        ready(Ok(table.beats.values().map(|(beat, _)| beat.clone()).collect())).boxed()
    }

    fn acquire(&self, name: &str, holder: Holder, ttl: Duration) -> BoxFuture<'_, Result<Lease, RoutesError>> {
        ready(Ok(self.acquire_now(name, holder, ttl))).boxed()
    }

    fn renew(&self, name: &str, lease: Lease, ttl: Duration) -> BoxFuture<'_, Result<Lease, RoutesError>> {
        ready(self.renew_now(name, lease, ttl)).boxed()
    }

    fn release(&self, name: &str, lease: Lease) -> BoxFuture<'_, Result<(), RoutesError>> {
        self.release_now(name, lease);
        ready(Ok(())).boxed()
    }

    fn lease(&self, name: &str) -> BoxFuture<'_, Result<Option<Lease>, RoutesError>> {
        let now = Instant::now();
        ready(Ok(self.table.lock().leases.get(name).and_then(|held| held.lease(now)))).boxed()
    }
}
