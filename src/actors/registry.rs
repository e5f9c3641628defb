//! The session registry: an actor on a thread of its own that watches every connection from outside.
//!
//! Heartbeats, the slow-consumer policy and cancel-on-disconnect are here because a session whose client does not read
//! is frozen. The registry can always end a connection: it shuts its socket down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};

use super::connection::{CloseWith, Connection, Item};
use super::gateway::Gateway;
use super::router::{RouterCore, Submit};
use super::session::has_ended;
use crate::clock;
use crate::domain::{Command, OrderId, Symbol, UserId};
use crate::wire::client::ws_text;

/// How often connections are looked at: 10,000 of them are a millisecond's work.
const TICK: Duration = Duration::from_millis(100);
/// How long a client has to take a close frame before its socket is shut down.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Cancels of one ended connection under way at once.
const CANCELS_AT_ONCE: usize = 256;
/// How long the cancels of an ended connection are tried while the log takes nothing.
const CANCELS_FOR: Duration = Duration::from_secs(60);
const CANCEL_RETRY: Duration = Duration::from_millis(100);
/// Registrations that may wait; the upgrade of a connection waits for its turn.
const MAILBOX: usize = 1_024;

/// When a connection is given up.
#[derive(Debug, Clone, Copy)]
pub struct RegistryLimits {
    pub heartbeat: Duration,
    /// Nothing came for so long.
    pub idle: Duration,
    /// Nothing was taken for so long though something waits.
    pub slow: Duration,
}

/// The actor.
pub struct Registry {
    gateway: Arc<Gateway>,
    router: Arc<RouterCore>,
    limits: RegistryLimits,
    connections: Vec<Arc<Connection>>,
    beat_at: Instant,
    draining: bool,
}

/// A new connection.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Register(pub Arc<Connection>);

/// Announces the end to every connection and closes them; gives the number that are still there.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Drain;

impl Registry {
    pub fn new(gateway: Arc<Gateway>, router: Arc<RouterCore>, limits: RegistryLimits) -> Self {
        Self { gateway, router, limits, connections: Vec::new(), beat_at: Instant::now(), draining: false }
    }

    fn tick(&mut self) {
        let beat = self.beat_at.elapsed() >= self.limits.heartbeat;
        if beat {
            self.beat_at = Instant::now();
        }
        let text = ws_text::heartbeat(clock::now());
        let connections = std::mem::take(&mut self.connections);
        for connection in connections {
            if connection.health().gone {
                self.end(&connection);
                continue;
            }
            self.judge(&connection);
            if beat {
                connection.send([Item::Text(text.clone()), Item::Ping]);
            }
            self.connections.push(connection);
        }
    }

    fn judge(&self, connection: &Connection) {
        let health = connection.health();
        if health.silent_for > self.limits.idle {
            connection.close(CloseWith::Idle);
        }
        let overdue = |d: Option<Duration>| d.is_some_and(|d| d > CLOSE_GRACE);
        let why = if overdue(health.overflowed_for) {
            "too much is waiting for it"
        } else if health.stuck_for > self.limits.slow {
            "it takes nothing"
        } else if overdue(health.closing_for) {
            "it does not close"
        } else {
            return;
        };
        if health.closing_for.is_none() {
            metrics::counter!("hotbook_ws_slow_consumers_total").increment(1);
        }
        tracing::debug!(connection = connection.id(), why, "connection is shut down");
        connection.shut_down_socket();
    }

    /// After this nothing is submitted for the connection but the cancels that it asked for.
    fn end(&self, connection: &Connection) {
        let mut entered = connection.entered.lock();
        entered.ended = true;
        let orders = std::mem::take(&mut entered.orders);
        // It is there for clients that vanish; when the gateway goes, orders stay.
        let user = entered.user.filter(|_| entered.is_on && !self.draining);
        drop(entered);
        let id = connection.id();
        match user {
            Some(user) if !orders.is_empty() => {
                let (gateway, router) = (Arc::clone(&self.gateway), Arc::clone(&self.router));
                actix::spawn(async move {
                    cancel_all(&gateway, &router, id, user, orders.into_iter().collect()).await;
                    gateway.disconnect(id);
                });
            }
            _ => self.gateway.disconnect(id),
        }
    }
}

/// Cancels what is still open of `orders`; what has ended meanwhile is answered `unknown_order`, which touches nothing.
async fn cancel_all(
    gateway: &Gateway,
    router: &RouterCore,
    connection: u32,
    user: UserId,
    orders: Vec<(Symbol, OrderId)>,
) {
    let until = Instant::now() + CANCELS_FOR;
    let mut left: Vec<_> = orders.into_iter().filter(|(s, id)| !has_ended(gateway.mirrors(), s, &user, id)).collect();
    tracing::info!(connection, %user, orders = left.len(), "connection ended, canceling what it entered");
    while !left.is_empty() && Instant::now() < until {
        let mut failed = Vec::new();
        for some in left.chunks(CANCELS_AT_ONCE) {
            let submitted: Vec<_> = some
                .iter()
                .map(|(symbol, order_id)| {
                    let command = Command::Cancel { user, order_id: *order_id };
                    router.submit(Submit { symbol: *symbol, command, origin: gateway.origin(connection) })
                })
                .collect();
            for (order, receipt) in some.iter().zip(submitted) {
                let done = match receipt {
                    Ok(receipt) => receipt.await.is_ok(),
                    Err(_) => false,
                };
                if !done {
                    failed.push(*order);
                }
            }
        }
        left = failed;
        if !left.is_empty() {
            tokio::time::sleep(CANCEL_RETRY).await;
        }
    }
    if !left.is_empty() {
        tracing::error!(connection, %user, orders = left.len(), "cancel on disconnect gave up: the log took nothing");
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(TICK, |registry, _| registry.tick());
    }
}

impl Handler<Register> for Registry {
    type Result = bool;

    fn handle(&mut self, Register(connection): Register, _: &mut Self::Context) -> bool {
        if !self.draining {
            self.connections.push(connection);
        }
        !self.draining
    }
}

impl Handler<Drain> for Registry {
    type Result = usize;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> usize {
        if !self.draining {
            self.draining = true;
            for connection in &self.connections {
                connection.send([Item::Text(ws_text::draining())]);
                connection.close(CloseWith::Restart);
            }
        }
        self.connections.iter().filter(|c| !c.health().gone).count()
    }
}

/// Ends the actor; its thread may be stopped then.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopRegistry;

impl Handler<StopRegistry> for Registry {
    type Result = ();

    fn handle(&mut self, _: StopRegistry, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
