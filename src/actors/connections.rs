//! The connections of a gateway: who they are, what they listen to, and where their outputs go.

mod users;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::gateway::{Channel, ConnectionId, Push, Sink};
use super::mirror::Mirrors;
use super::router::Refusal;
use crate::domain::{Origin, Symbol, UserId};
pub use users::Users;

struct Connection {
    sink: Arc<dyn Sink>,
    commands: AtomicU32,
    listening: Mutex<Listening>,
}

#[derive(Default)]
struct Listening {
    user: Option<UserId>,
    /// Whether it hears of all of its user's orders.
    orders: bool,
    market: HashSet<(Channel, Symbol)>,
    gone: bool,
}

/// All connections. Locks are taken in this order: one connection's `listening`, a symbol's `channels`, its mirror.
pub(super) struct Connections {
    incarnation: u64,
    subscriptions_max: usize,
    next: AtomicU32,
    by_id: RwLock<HashMap<ConnectionId, Arc<Connection>>>,
    /// Connections that listen to all orders of a user.
    watchers: RwLock<HashMap<UserId, Vec<ConnectionId>>>,
    /// How many users are watched: lets the egress skip the look-up.
    watched: AtomicUsize,
    users: Option<Arc<Users>>,
}

impl Connections {
    /// `users`: where it is noted who is connected.
    pub fn new(incarnation: u64, subscriptions_max: usize, users: Option<Arc<Users>>) -> Self {
        Self {
            incarnation,
            subscriptions_max,
            next: AtomicU32::new(1),
            by_id: RwLock::default(),
            watchers: RwLock::default(),
            watched: AtomicUsize::new(0),
            users,
        }
    }

    /// Notes that a connection is no longer `old`'s but `new`'s.
    fn note(&self, old: Option<UserId>, new: Option<UserId>) {
        if let Some(users) = self.users.as_ref().filter(|_| old != new) {
            new.iter().for_each(|user| users.came(*user));
            old.iter().for_each(|user| users.went(user));
        }
    }

    fn get(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.by_id.read().get(&id).cloned()
    }

    pub fn connect(&self, user: Option<UserId>, sink: Arc<dyn Sink>) -> ConnectionId {
        self.note(None, user);
        let listening = Mutex::new(Listening { user, ..Listening::default() });
        let connection = Arc::new(Connection { sink, commands: AtomicU32::new(0), listening });
        let mut by_id = self.by_id.write();
        loop {
            // Ids go round after 2^32 connections: 0 is REST's, and one in use is not given out again.
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            if id != 0 && !by_id.contains_key(&id) {
                by_id.insert(id, connection);
                return id;
            }
        }
    }

    /// Says who the connection is. What it hears of another user's orders ends.
    pub fn authenticate(&self, id: ConnectionId, user: UserId) {
        let Some(connection) = self.get(id) else { return };
        let mut listening = connection.listening.lock();
        if listening.gone {
            return;
        }
        let old = listening.user.replace(user);
        self.note(old, Some(user));
        if listening.orders && old != Some(user) {
            if let Some(old) = old {
                self.unwatch(old, id);
            }
            self.watch(user, id);
        }
    }

    pub fn disconnect(&self, id: ConnectionId, mirrors: &Mirrors) {
        let Some(connection) = self.by_id.write().remove(&id) else { return };
        let mut listening = connection.listening.lock();
        listening.gone = true;
        self.note(listening.user, None);
        if let (true, Some(user)) = (listening.orders, listening.user) {
            self.unwatch(user, id);
        }
        for (channel, symbol) in listening.market.drain() {
            if let Some(cell) = mirrors.cell(&symbol) {
                cell.channels.lock().unsubscribe(channel, id);
            }
        }
    }

    /// The origin of the connection's next command.
    pub fn origin(&self, id: ConnectionId) -> Origin {
        let number = self.get(id).map_or(0, |c| c.commands.fetch_add(1, Ordering::Relaxed));
        Origin { gateway: self.incarnation, counter: u64::from(id) << 32 | u64::from(number) }
    }

    /// The connection that a command came from, if it was one of ours.
    pub fn of_origin(&self, origin: Origin) -> Option<ConnectionId> {
        (origin.gateway == self.incarnation).then_some((origin.counter >> 32) as ConnectionId)
    }

    pub fn subscribe(
        &self,
        id: ConnectionId,
        channel: Channel,
        symbol: Symbol,
        mirrors: &Mirrors,
    ) -> Result<(), Refusal> {
        let connection = self.get(id).ok_or(Refusal::NotConnected)?;
        let mut listening = connection.listening.lock();
        if listening.gone {
            return Err(Refusal::NotConnected);
        }
        if channel == Channel::Orders {
            let user = listening.user.ok_or(Refusal::NotAuthenticated)?;
            if !std::mem::replace(&mut listening.orders, true) {
                self.watch(user, id);
            }
            return Ok(());
        }
        let cell = mirrors.cell(&symbol).ok_or(Refusal::UnknownSymbol)?;
        let is_new = !listening.market.contains(&(channel, symbol));
        if is_new && listening.market.len() >= self.subscriptions_max {
            return Err(Refusal::TooManySubscriptions);
        }
        listening.market.insert((channel, symbol));
        let mut channels = cell.channels.lock();
        let mirror = cell.mirror.read();
        channels.subscribe(channel, id, Arc::clone(&connection.sink), &mirror);
        Ok(())
    }

    pub fn unsubscribe(&self, id: ConnectionId, channel: Channel, symbol: Symbol, mirrors: &Mirrors) {
        let Some(connection) = self.get(id) else { return };
        let mut listening = connection.listening.lock();
        if channel == Channel::Orders {
            if let (true, Some(user)) = (std::mem::replace(&mut listening.orders, false), listening.user) {
                self.unwatch(user, id);
            }
        } else if listening.market.remove(&(channel, symbol))
            && let Some(cell) = mirrors.cell(&symbol)
        {
            cell.channels.lock().unsubscribe(channel, id);
        }
    }

    fn watch(&self, user: UserId, id: ConnectionId) {
        let mut watchers = self.watchers.write();
        watchers.entry(user).or_default().push(id);
        self.watched.store(watchers.len(), Ordering::Release);
    }

    fn unwatch(&self, user: UserId, id: ConnectionId) {
        let mut watchers = self.watchers.write();
        if let Some(ids) = watchers.get_mut(&user) {
            ids.retain(|i| *i != id);
            if ids.is_empty() {
                watchers.remove(&user);
            }
        }
        self.watched.store(watchers.len(), Ordering::Release);
    }

    /// Calls `each` for every connection that listens to all orders of `user`.
    pub fn watchers_of(&self, user: &UserId, mut each: impl FnMut(ConnectionId)) {
        if self.watched.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(ids) = self.watchers.read().get(user) {
            ids.iter().for_each(|id| each(*id));
        }
    }

    /// Hands over a batch; one for a connection that is gone is dropped.
    pub fn push(&self, id: ConnectionId, batch: Vec<Push>) {
        if let Some(connection) = self.get(id) {
            connection.sink.push(batch);
        }
    }
}
