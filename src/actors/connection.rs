//! What a WebSocket's session actor, the egress and the registry share about one connection.
//!
//! A session actor whose client does not read is frozen: it is not polled, its timers do not fire, not even its
//! `stopped` runs. So nothing that must happen for such a connection lives in the actor: the outgoing queue and its
//! bounds, the cancel-on-disconnect list, and the time of the last sign of life are here.

use std::collections::{HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use parking_lot::Mutex;

use super::gateway::{ConnectionId, Push, Sink};
use crate::domain::{OrderId, Symbol, UserId};

/// Most messages that wait for one connection: 32,768 x about 256 bytes = 8 MiB.
pub const OUT_MESSAGES_MAX: usize = 32_768;
/// Most bytes that wait for one connection; a depth snapshot of 1,000 levels a side is about 40 KiB.
pub const OUT_BYTES_MAX: usize = 8 << 20;
/// What an own output is counted as before it is written as text.
const OWN_BYTES: usize = 256;
/// Taken out of the queue at once: 1,024 x 256 bytes = 256 KiB in the socket's write buffer.
pub const OUT_BATCH: usize = 1_024;

/// Close codes above 4000 are ours; the others are RFC 6455's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseWith {
    Normal = 1000,
    ProtocolError = 1002,
    BinaryFrame = 1003,
    TooLarge = 1009,
    Restart = 1012,
    SlowConsumer = 4008,
    Idle = 4009,
}

impl CloseWith {
    pub fn text(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::ProtocolError => "protocol_error",
            Self::BinaryFrame => "binary_frame",
            Self::TooLarge => "message_too_large",
            Self::Restart => "restart",
            Self::SlowConsumer => "slow_consumer",
            Self::Idle => "idle",
        }
    }
}

/// Something to be sent.
#[derive(Debug)]
pub enum Item {
    Push(Push),
    Text(ByteString),
    /// A WebSocket ping: a client that lives answers it by itself.
    Ping,
    Close(CloseWith),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Push(Push::Own { .. }) => OWN_BYTES,
            Self::Push(Push::Market(text)) | Self::Text(text) => text.len(),
            Self::Ping | Self::Close(_) => 16,
        }
    }
}

#[derive(Debug)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    waker: Option<Waker>,
    /// No more is taken in: too much was waiting, or the connection is being closed.
    shut: bool,
    overflowed_at: Option<Instant>,
    closing_at: Option<Instant>,
    taken_at: Instant,
}

/// Orders entered on a connection that asked for cancel-on-disconnect.
#[derive(Debug, Default)]
pub struct Entered {
    /// Set by the registry before it cancels: nothing is submitted on this connection after that.
    pub ended: bool,
    pub user: Option<UserId>,
    pub is_on: bool,
    pub orders: HashSet<(Symbol, OrderId)>,
    /// Size at which finished orders are looked for and dropped.
    pub prune_at: usize,
}

/// One WebSocket connection.
pub struct Connection {
    id: OnceLock<ConnectionId>,
    queue: Mutex<Queue>,
    pub entered: Mutex<Entered>,
    /// Milliseconds since `born` at which something last came from the client.
    heard_ms: AtomicU64,
    born: Instant,
    gone: AtomicBool,
    /// A duplicate of the socket's descriptor: shutting it down ends a frozen session too.
    socket: Option<OwnedFd>,
}

/// How a connection is doing, as the registry sees it.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    pub gone: bool,
    pub silent_for: Duration,
    /// How long something has been waiting with nothing taken.
    pub stuck_for: Duration,
    pub overflowed_for: Option<Duration>,
    pub closing_for: Option<Duration>,
}

impl Connection {
    pub fn new(socket: Option<OwnedFd>) -> Self {
        let now = Instant::now();
        let queue = Queue {
            items: VecDeque::new(),
            bytes: 0,
            waker: None,
            shut: false,
            overflowed_at: None,
            closing_at: None,
            taken_at: now,
        };
        Self {
            id: OnceLock::new(),
            queue: Mutex::new(queue),
            entered: Mutex::default(),
            heard_ms: AtomicU64::new(0),
            born: now,
            gone: AtomicBool::new(false),
            socket,
        }
    }

    /// Told once, right after the gateway gave it.
    pub fn set_id(&self, id: ConnectionId) {
        _ = self.id.set(id);
    }

    pub fn id(&self) -> ConnectionId {
        self.id.get().copied().unwrap_or(0)
    }

    /// Enqueues for the client; beyond the bounds the connection is marked as too slow and takes nothing more.
    pub fn send(&self, items: impl IntoIterator<Item = Item>) {
        let mut queue = self.queue.lock();
        for item in items {
            if queue.shut {
                break;
            }
            let bytes = item.bytes();
            if queue.items.len() >= OUT_MESSAGES_MAX || queue.bytes + bytes > OUT_BYTES_MAX {
                // What waits is of no use any more: the client must resync anyway.
                queue.items.clear();
                queue.bytes = 0;
                queue.overflowed_at = Some(Instant::now());
                queue.items.push_back(Item::Close(CloseWith::SlowConsumer));
                queue.shut = true;
                break;
            }
            if queue.items.is_empty() {
                queue.taken_at = Instant::now();
            }
            queue.bytes += bytes;
            queue.items.push_back(item);
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Closes behind what is waiting.
    pub fn close(&self, with: CloseWith) {
        self.send([Item::Close(with)]);
        self.queue.lock().shut = true;
    }

    /// Gives up to [`OUT_BATCH`] items to the session.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<Item>> {
        let mut queue = self.queue.lock();
        if queue.items.is_empty() {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = queue.items.len().min(OUT_BATCH);
        let batch: Vec<Item> = queue.items.drain(..n).collect();
        queue.bytes -= batch.iter().map(Item::bytes).sum::<usize>().min(queue.bytes);
        queue.taken_at = Instant::now();
        Poll::Ready(batch)
    }

    /// The session has written a close frame.
    pub fn is_closing(&self) {
        let mut queue = self.queue.lock();
        queue.shut = true;
        queue.closing_at.get_or_insert_with(Instant::now);
    }

    /// Something came from the client.
    pub fn heard(&self) {
        self.heard_ms.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The session actor was dropped: the socket is closed.
    pub fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub fn health(&self) -> Health {
        let queue = self.queue.lock();
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        Health {
            gone: self.gone.load(Ordering::Acquire),
            silent_for: self.born.elapsed().saturating_sub(heard),
            stuck_for: if queue.items.is_empty() { Duration::ZERO } else { queue.taken_at.elapsed() },
            overflowed_for: queue.overflowed_at.map(|t| t.elapsed()),
            closing_for: queue.closing_at.map(|t| t.elapsed()),
        }
    }

    /// Ends the connection whether or not its client reads: the session's next read or write fails.
    pub fn shut_down_socket(&self) {
        if let Some(socket) = &self.socket
            && let Err(e) = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Both)
        {
            tracing::debug!(connection = self.id(), error = %e, "socket was closed already");
        }
    }
}

impl Sink for Connection {
    fn push(&self, batch: Vec<Push>) {
        self.send(batch.into_iter().map(Item::Push));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: usize) -> Item {
        Item::Text(ByteString::from("x".repeat(n)))
    }

    fn take(connection: &Connection) -> Vec<Item> {
        match connection.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(items) => items,
            Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn what_is_sent_is_taken_in_order_and_in_batches() {
        let c = Connection::new(None);
        c.send((0..OUT_BATCH + 1).map(text));
        let first = take(&c);
        assert_eq!(first.len(), OUT_BATCH);
        assert!(matches!(&first[7], Item::Text(t) if t.len() == 7));
        assert_eq!(take(&c).len(), 1);
        assert!(take(&c).is_empty());
    }

    #[test]
    fn too_many_messages_or_bytes_mark_it_as_too_slow() {
        for (items, size) in [(OUT_MESSAGES_MAX + 1, 1), (9, 1 << 20)] {
            let c = Connection::new(None);
            c.send((0..items).map(|_| text(size)));
            assert!(c.health().overflowed_for.is_some(), "{items} x {size}");
            assert!(matches!(take(&c)[..], [Item::Close(CloseWith::SlowConsumer)]));
            c.send([text(1)]);
            assert!(take(&c).is_empty(), "nothing is taken in any more");
        }
        let c = Connection::new(None);
        c.send((0..OUT_MESSAGES_MAX).map(|_| text(1)));
        assert!(c.health().overflowed_for.is_none(), "the bound itself is allowed");
    }
}
