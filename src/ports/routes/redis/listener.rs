//! Hears the changes of the table, and notices when it was away or emptied.

use std::sync::OnceLock;
use std::time::Duration;

use ::redis::aio::PubSub;
use futures_util::StreamExt;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::super::{CHANGES_MAX, Change};
use super::connection::{Asked, Connection, Repeat};
use super::scripts;
use crate::domain::Symbol;

/// The channel of all changes of rows: `SYMBOL {row}`.
const CHANNEL: &str = "routes";
/// The first and the longest wait before connecting again.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether the subscription lives and the table is the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Listens from the first [`Self::subscribe`] on.
#[derive(Debug)]
pub(super) struct Listener {
    connection: Connection,
    changes: broadcast::Sender<Change>,
    /// Whether the subscription stands.
    is_live: watch::Sender<bool>,
    task: OnceLock<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Listener {
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            changes: broadcast::channel(CHANGES_MAX).0,
            is_live: watch::channel(false).0,
            task: OnceLock::new(),
        }
    }

    /// The changes from now on. Waits for the subscription, but no longer than for an answer: one that comes later
    /// begins with a [`Change::Resync`].
    pub async fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.task.get_or_init(|| {
            let (connection, changes, is_live) = (self.connection.clone(), self.changes.clone(), self.is_live.clone());
            self.connection.runtime().spawn(listen(connection, changes, is_live))
        });
        let mut is_live = self.is_live.subscribe();
        _ = timeout(self.connection.timeout(), is_live.wait_for(|live| *live)).await;
        self.changes.subscribe()
    }
}

async fn listen(connection: Connection, changes: broadcast::Sender<Change>, is_live: watch::Sender<bool>) {
    let mut wait = WAIT_MIN;
    let mut table = None;
    loop {
        match connection.subscribe(CHANNEL).await {
            Ok(pubsub) => {
                info!("listening to the route table");
                wait = WAIT_MIN;
                // Before it is live, so that who waits for that does not hear it. Nobody listening is no error.
                _ = changes.send(Change::Resync);
                is_live.send_replace(true);
                follow(&connection, pubsub, &changes, &mut table).await;
                is_live.send_replace(false);
                warn!("the route table is away: no changes are heard until it is back");
            }
            Err(e) => debug!(error = %e, "the route table is still away"),
        }
        sleep(with_jitter(wait)).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Hands changes on until the subscription breaks.
async fn follow(
    connection: &Connection,
    pubsub: PubSub,
    changes: &broadcast::Sender<Change>,
    table: &mut Option<String>,
) {
    let (mut sink, mut messages) = pubsub.split();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => _ = changes.send(change(message.get_payload_bytes())),
                None => return,
            },
            _ = look.tick() => {
                let ping = timeout(connection.timeout(), sink.ping::<::redis::Value>());
                // Messages are read while the answer is waited for, or the two would wait for each other.
                if !hears_while(ping, &mut messages, changes).await {
                    return;
                }
                notice_new_table(connection, changes, table).await;
            }
        }
    }
}

async fn hears_while(
    ping: impl Future<Output = Result<::redis::RedisResult<::redis::Value>, tokio::time::error::Elapsed>>,
    messages: &mut (impl futures_util::Stream<Item = ::redis::Msg> + Unpin),
    changes: &broadcast::Sender<Change>,
) -> bool {
    tokio::pin!(ping);
    loop {
        tokio::select! {
            answer = &mut ping => return matches!(answer, Ok(Ok(_))),
            message = messages.next() => match message {
                Some(message) => _ = changes.send(change(message.get_payload_bytes())),
                None => return false,
            },
        }
    }
}

fn change(payload: &[u8]) -> Change {
    let read = || {
        let (symbol, row) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
        Some(Change::Row { symbol: Symbol::new(symbol).ok()?, route: serde_json::from_str(row).ok()? })
    };
    // Whoever said that, reading the table again is never wrong.
    read().unwrap_or(Change::Resync)
}

/// A table that was emptied says nothing; but its name is gone with the rest.
async fn notice_new_table(connection: &Connection, changes: &broadcast::Sender<Change>, known: &mut Option<String>) {
    let Ok(name) = getrandom::u64() else { return };
    let mut script = scripts::TABLE_NAME.key("table");
    script.arg(format!("{name:016x}"));
    let Ok(name) = connection.ask::<String>(Asked::Script(script), Repeat::Allowed).await else { return };
    if known.as_ref().is_some_and(|known| *known != name) {
        warn!("the route table was emptied: it is read again and filled again");
        _ = changes.send(Change::Resync);
    }
    *known = Some(name);
}

/// Between half of it and all of it, so that the nodes of a cluster do not come back all at once.
fn with_jitter(wait: Duration) -> Duration {
    let share = getrandom::u32().map_or(1.0, |r| f64::from(r) / f64::from(u32::MAX));
    wait.mul_f64(0.5 + share / 2.0)
}
