//! The nodes of other processes, as their heartbeats and direct probes tell.
//!
//! A node is dead when its heartbeat is missing and a direct probe fails: an emptied route table must not look like a
//! dead cluster. While the table cannot be read nobody is found dead. One that cannot reach the log while we can
//! ([`Sight`]) counts as dead as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;
use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};

use super::link::{Link, LinkError};
use super::sight::Sight;
use crate::actors::retention::Oldest;
use crate::actors::standbys::Followed;
use crate::domain::{NodeId, Symbol};
use crate::migration::replica::Sealed;
use crate::migration::sharing::Room;
use crate::ports::log::Log;
use crate::ports::routes::{Heartbeat, NodeStatus, Routes};
use crate::wire::rpc::RpcKey;

/// A node that was never heard of is dead once the table could be read for so long: a living one says that it is there
/// every window.
const STRANGER_WINDOWS: u32 = 5;
/// A Sealed that could not be handed over is tried again so often, each time after [`SEAL_RETRY`]: until then its target
/// has taken the crash path.
const SEAL_TRIES: u32 = 10;
const SEAL_RETRY: Duration = Duration::from_millis(200);

/// A node of another process.
pub struct Member {
    pub node: NodeId,
    beat: RwLock<Heartbeat>,
    alive: AtomicBool,
    link: Link,
}

impl Member {
    /// The last heartbeat that was heard of it.
    pub fn beat(&self) -> Heartbeat {
        self.beat.read().clone()
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Whether it takes books.
    pub fn takes_books(&self) -> bool {
        self.is_alive() && self.beat.read().status == NodeStatus::Active
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    pub fn room(&self) -> Room {
        let beat = self.beat.read();
        Room { books: beat.books as usize, load: beat.load, cores: beat.cores }
    }
}

/// What is needed to look after them.
pub struct MembersParts {
    /// The nodes of this process.
    pub here: Vec<NodeId>,
    pub routes: Arc<dyn Routes>,
    pub log: Arc<dyn Log>,
    /// Signs calls.
    pub key: RpcKey,
    /// Carries the connections; lives as long as the process.
    pub thread: ArbiterHandle,
    /// How often heartbeats are read.
    pub window: Duration,
}

/// All of them.
#[derive(Default)]
pub struct Members {
    /// `None`: this process is alone.
    parts: Option<MembersParts>,
    /// `None`: this process is alone.
    sight: Option<Arc<Sight>>,
    seen: RwLock<BTreeMap<NodeId, Arc<Member>>>,
    /// Since when the table can be read.
    readable_since: Mutex<Option<Instant>>,
}

impl Members {
    /// Begins to look after them.
    pub fn start(parts: MembersParts) -> Arc<Self> {
        let (seen, readable_since) = Default::default();
        let thread = parts.thread.clone();
        let sight = Arc::new(Sight::new(parts.window));
        thread.spawn(Arc::clone(&sight).watch(Arc::clone(&parts.log)));
        let members = Arc::new(Self { parts: Some(parts), sight: Some(sight), seen, readable_since });
        let watched = Arc::clone(&members);
        thread.spawn(async move { watched.watch().await });
        members
    }

    /// Whether this process cannot reach the log. One that is alone has nobody to tell.
    pub fn log_is_lost(&self) -> bool {
        self.sight.as_ref().is_some_and(|sight| sight.is_lost())
    }

    fn log_is_in_sight(&self) -> bool {
        self.sight.as_ref().is_some_and(|sight| sight.is_clear())
    }

    /// Whether there may be others.
    pub fn is_cluster(&self) -> bool {
        self.parts.is_some()
    }

    pub fn get(&self, node: &NodeId) -> Option<Arc<Member>> {
        self.seen.read().get(node).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Member>> {
        self.seen.read().values().cloned().collect()
    }

    /// One living node of each other process.
    pub fn processes(&self) -> Vec<Arc<Member>> {
        let mut addresses = BTreeSet::new();
        let mut all = self.all();
        all.retain(|m| m.is_alive() && addresses.insert(m.link.address().to_owned()));
        all
    }

    pub fn is_alive(&self, node: &NodeId) -> bool {
        self.seen.read().get(node).is_some_and(|m| m.is_alive())
    }

    /// Whether a node is of another process, dead or alive.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.is_cluster() && self.seen.read().contains_key(node)
    }

    /// Whether a node was alive just now: not one that is only not found dead because the table is away.
    pub fn is_heard(&self, node: &NodeId) -> bool {
        self.is_alive(node) && self.readable_since.lock().is_some()
    }

    /// Whether any of them takes books.
    pub fn takes_books(&self) -> bool {
        self.seen.read().values().any(|m| m.takes_books())
    }

    /// Whether a node that is not of this process is certainly of no other either.
    pub fn is_dead(&self, node: &NodeId) -> bool {
        let Some(parts) = &self.parts else { return false };
        match self.seen.read().get(node) {
            Some(member) => !member.is_alive(),
            None => {
                let since = *self.readable_since.lock();
                since.is_some_and(|since| since.elapsed() >= parts.window * STRANGER_WINDOWS)
            }
        }
    }

    /// Records by which a book on another node is behind, as that said last.
    pub fn lag(&self, node: &NodeId, symbol: &Symbol) -> u64 {
        let seen = self.seen.read();
        let Some(member) = seen.get(node) else { return 0 };
        member.beat.read().hottest.iter().find(|b| b.symbol == *symbol).map_or(0, |b| b.lag)
    }

    /// Hands a Sealed to another process, from any thread. One that does not arrive costs the crash path, never an output.
    pub(in crate::actors) fn seal(&self, symbol: Symbol, from: NodeId, sealed: Sealed) {
        let (Some(parts), Some(member)) = (&self.parts, self.get(&sealed.to)) else { return };
        parts.thread.spawn(async move {
            for _ in 0..SEAL_TRIES {
                match member.link.seal(symbol, from, &sealed).await {
                    Ok(()) => return,
                    Err(e) => tracing::warn!(%symbol, to = %sealed.to, error = %e, "a Sealed does not arrive"),
                }
                tokio::time::sleep(SEAL_RETRY).await;
            }
        });
    }

    /// What each other process knows of the snapshots that are kept. One that does not answer is left out: what only it knows
    /// is not trimmed.
    pub(in crate::actors) async fn kept(&self) -> Vec<Oldest> {
        let asked = self.processes().into_iter().map(|member| async move {
            let told = member.link.kept().await;
            told.inspect_err(|e| tracing::warn!(node = %member.node, error = %e, "process does not tell what is kept"))
                .ok()
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Which books of some nodes the other processes follow. One that does not answer at once is left out.
    pub(in crate::actors) async fn followed(&self, owners: &[NodeId]) -> Vec<Followed> {
        let asked = self.processes().into_iter().map(|member| async move {
            let told = member.link.followed(owners).await;
            told.inspect_err(
                |e| tracing::warn!(node = %member.node, error = %e, "process does not tell what it follows"),
            )
            .unwrap_or_default()
        });
        join_all(asked).await.concat()
    }

    /// Runs something on the thread of the connections.
    pub(in crate::actors) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(parts) = &self.parts {
            parts.thread.spawn(work);
        }
    }

    async fn watch(&self) {
        let Some(parts) = &self.parts else { return };
        let mut says = true;
        loop {
            match parts.routes.beats().await {
                Ok(beats) => {
                    says = true;
                    self.readable_since.lock().get_or_insert_with(Instant::now);
                    self.heard(parts, beats).await;
                }
                Err(e) => {
                    *self.readable_since.lock() = None;
                    if std::mem::take(&mut says) {
                        tracing::warn!(error = %e, "heartbeats cannot be read: nobody is found dead meanwhile");
                    }
                }
            }
            tokio::time::sleep(parts.window).await;
        }
    }

    async fn heard(&self, parts: &MembersParts, beats: Vec<Heartbeat>) {
        let mut silent = self.seen.read().clone();
        for beat in beats.into_iter().filter(|b| !parts.here.contains(&b.node)) {
            silent.remove(&beat.node);
            self.take_note(parts, beat);
        }
        let probes = silent.values().map(|member| async move {
            let answer = member.link.probe(member.node).await.inspect_err(|e| complain(member, e));
            let is_alive = answer.is_ok_and(|answer| !(answer.log_lost && self.log_is_in_sight()));
            if member.alive.swap(is_alive, Ordering::AcqRel) && !is_alive {
                match member.beat.read().status {
                    NodeStatus::Draining => tracing::info!(node = %member.node, "node has gone, as it said it would"),
                    _ => tracing::error!(node = %member.node, "node is dead: no heartbeat, and no answer or no log"),
                }
            }
        });
        join_all(probes).await;
    }

    fn take_note(&self, parts: &MembersParts, beat: Heartbeat) {
        let Some(address) = beat.addresses.peer.clone() else { return };
        let is_there = !(beat.log_lost && self.log_is_in_sight());
        let known = self.get(&beat.node).filter(|m| m.link.address() == address);
        if let Some(member) = known {
            match (member.alive.swap(is_there, Ordering::AcqRel), is_there) {
                (false, true) => tracing::info!(node = %member.node, "node is there again"),
                (true, false) => tracing::error!(node = %member.node, "node is dead: it cannot reach the log"),
                _ => {}
            }
            *member.beat.write() = beat;
            return;
        }
        match Link::new(&address, parts.key.clone()) {
            Ok(link) => {
                tracing::info!(node = %beat.node, %address, "node of another process");
                let node = beat.node;
                let member = Member { node, beat: RwLock::new(beat), alive: AtomicBool::new(is_there), link };
                self.seen.write().insert(node, Arc::new(member));
            }
            Err(e) => tracing::error!(node = %beat.node, %address, error = %e, "node cannot be spoken to"),
        }
    }
}

fn complain(member: &Member, error: &LinkError) {
    if member.is_alive() {
        tracing::warn!(node = %member.node, %error, "node does not answer, and its heartbeat is missing");
    }
}
