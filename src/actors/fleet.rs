//! The nodes of the process: which take books, which give theirs away, and how one ends. And where the books of dead nodes
//! of the cluster go.

mod homeless;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use actix::prelude::*;

use super::cluster::Members;
use super::decisions::Decisions;
use super::directory::{BookStatus, Directory};
use super::leader;
use super::moves::{MoveError, Moves};
use super::node::{NodeContext, NodeSupervisor};
use super::owners::Owners;
use super::standbys::guests::Guests;
use super::standbys::{Followed, Standbys};
use crate::domain::{NodeId, Symbol};
use crate::migration::handover::{Cause, MoveId};
use crate::ports::routes::NodeStatus;
use homeless::Followers;

/// Why a node cannot be drained or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    #[error("there is no such node")]
    UnknownNode,
    #[error("there is no other node to take its books")]
    LastNode,
    #[error("the node's process does not answer")]
    NoAnswer,
}

/// A node as the administrator sees it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct NodeView {
    pub id: NodeId,
    /// Fraction of its budget in use.
    pub load: f64,
    /// Its budget.
    pub cores: f64,
    pub books: usize,
    /// Records per second of its books together.
    pub rate: f64,
    /// Records that its books are behind, together.
    pub lag: u64,
    /// The longest that a batch waited for one of its books in the last window.
    pub waiting_us: u64,
    /// It looks after the cluster's load.
    pub leads: bool,
    /// `ACTIVE`, `STARTING` while it catches up, `DRAINING` while its books leave and after, `STOPPED` once they have
    /// left a node that was told to end, `DOWN` when it died.
    pub status: &'static str,
}

/// One node of the process.
pub struct RunningNode {
    pub context: Arc<NodeContext>,
    pub supervisor: Addr<NodeSupervisor>,
    /// First its feeds', then those of its books.
    arbiters: parking_lot::Mutex<Vec<Arbiter>>,
    draining: AtomicBool,
    /// It ends as soon as its books have left.
    leaving: AtomicBool,
}

impl RunningNode {
    /// `arbiters`: its threads, which end with it.
    pub fn new(context: Arc<NodeContext>, supervisor: Addr<NodeSupervisor>, arbiters: Vec<Arbiter>) -> Self {
        let (draining, leaving) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { context, supervisor, arbiters: parking_lot::Mutex::new(arbiters), draining, leaving }
    }

    /// Starts an actor on the node's first thread: it ends with the node.
    pub(super) fn start_beside_feeds<A: Actor<Context = Context<A>> + Send>(&self, actor: A) -> Option<Addr<A>> {
        self.arbiters.lock().first().map(|thread| A::start_in_arbiter(&thread.handle(), |_| actor))
    }

    pub(super) fn takes_books(&self) -> bool {
        self.context.is_alive() && !self.draining.load(Ordering::Acquire)
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// What it says of itself while it lives.
    pub(super) fn status(&self) -> NodeStatus {
        match (self.draining.load(Ordering::Acquire), self.context.is_level()) {
            (true, _) => NodeStatus::Draining,
            (false, true) => NodeStatus::Active,
            (false, false) => NodeStatus::Starting,
        }
    }

    fn status_text(&self) -> &'static str {
        match (self.context.is_alive(), self.is_leaving(), self.status()) {
            (false, true, _) => "STOPPED",
            (false, false, _) => "DOWN",
            (true, _, NodeStatus::Draining) => "DRAINING",
            (true, _, NodeStatus::Active) => "ACTIVE",
            (true, _, NodeStatus::Starting) => "STARTING",
        }
    }

    /// Nothing is left to do here: no book is owned, nobody is owed anything.
    fn is_empty(&self) -> bool {
        self.context.book_count() == 0 && self.context.statuses().iter().all(|b| b.is_idle_shadow())
    }

    fn end_threads(&self) {
        for arbiter in self.arbiters.lock().drain(..) {
            arbiter.stop();
        }
    }
}

/// All nodes of the process.
pub struct Fleet {
    nodes: Vec<RunningNode>,
    parts: FleetParts,
    /// `None`: no book has one.
    standbys: Option<Standbys>,
    /// What other processes want followed here.
    guests: Guests,
    /// Who follows books of dead nodes.
    followers: parking_lot::Mutex<Followers>,
    /// Books that another process was asked to take, and when.
    asked: parking_lot::Mutex<HashMap<Symbol, Instant>>,
}

/// What the nodes work with together.
pub struct FleetParts {
    pub directory: Arc<Directory>,
    pub owners: Arc<Owners>,
    pub members: Arc<Members>,
    pub moves: Arc<Moves>,
    pub decisions: Arc<Decisions>,
}

impl Fleet {
    pub fn new(nodes: Vec<RunningNode>, parts: FleetParts) -> Self {
        let (guests, followers, asked) = Default::default();
        Self { nodes, parts, standbys: None, guests, followers, asked }
    }

    /// The nodes of other processes.
    pub fn members(&self) -> &Arc<Members> {
        &self.parts.members
    }

    /// Who owns each book, by the log.
    pub fn owners(&self) -> &Arc<Owners> {
        &self.parts.owners
    }

    /// Has each book followed on so many other nodes: 0 or 1.
    #[must_use]
    pub fn with_standbys(mut self, standbys: usize) -> Self {
        self.standbys = (standbys > 0).then(Standbys::default);
        self
    }

    /// What other processes want followed here.
    pub fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Who stands by for a book that a node of this process owns: a node of any process, as it said last.
    pub fn follower_of(&self, symbol: &Symbol) -> Option<Followed> {
        self.standbys.as_ref()?.follower_of(self, symbol)
    }

    /// The books that nodes of this process own by the log, in order of symbol: each by the replica that stands for it here.
    pub fn books(&self) -> Vec<Arc<BookStatus>> {
        let is_mine =
            |b: &Arc<BookStatus>| self.parts.owners.get(&b.symbol).is_none_or(|owner| self.get(&owner.node).is_some());
        self.parts.directory.all().into_iter().filter(is_mine).collect()
    }

    /// The replica of this process that stands by for a symbol's book, on another node.
    pub fn standby_of(&self, symbol: &Symbol) -> Option<Arc<BookStatus>> {
        let node = self.get(&self.standbys.as_ref()?.get(symbol)?)?;
        node.context.status(symbol).filter(|status| node.context.is_alive() && status.stands_by())
    }

    pub(super) fn moving(&self) -> HashSet<Symbol> {
        self.parts.moves.moving()
    }

    /// Whether books of a dead node are being taken over.
    pub(super) fn is_recovering(&self) -> bool {
        self.parts.moves.under_way().iter().any(|plan| plan.cause == Cause::Recovery)
    }

    pub fn all(&self) -> &[RunningNode] {
        &self.nodes
    }

    pub fn get(&self, id: &NodeId) -> Option<&RunningNode> {
        self.nodes.iter().find(|n| n.context.id == *id)
    }

    /// The node of the process whose replica stands for a symbol's book.
    pub fn node_of(&self, symbol: &Symbol) -> Option<&RunningNode> {
        self.get(&self.parts.directory.get(symbol)?.node())
    }

    /// The nodes of the process that take books.
    pub fn open_ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|n| n.takes_books()).map(|n| n.context.id)
    }

    pub fn views(&self) -> Vec<NodeView> {
        let (all, leader) = (self.books(), self.parts.decisions.leader());
        let owned = self.parts.owners.all();
        let view = |n: &RunningNode| {
            let books = || all.iter().filter(|b| b.node() == n.context.id);
            NodeView {
                id: n.context.id,
                load: if n.context.is_alive() { n.context.load().load } else { 0.0 },
                cores: n.context.settings.cores,
                books: owned.iter().filter(|(_, owner)| owner.node == n.context.id).count(),
                rate: books().map(|b| b.rate()).fold(0.0, |all, rate| all + rate),
                lag: books().map(|b| b.lag()).sum(),
                waiting_us: books().map(|b| b.waiting_us()).max().unwrap_or(0),
                leads: leader == Some(n.context.id) && n.context.is_alive(),
                status: n.status_text(),
            }
        };
        self.nodes.iter().map(view).collect()
    }

    /// Nodes of other processes that are dead, as they were when they were last heard of.
    pub fn dead_members(&self) -> Vec<NodeView> {
        let owned = self.parts.owners.all();
        let dead = self.parts.members.all().into_iter().filter(|m| !m.is_alive());
        let view = |m: Arc<super::cluster::Member>| NodeView {
            id: m.node,
            load: 0.0,
            cores: m.room().cores,
            books: owned.iter().filter(|(_, owner)| owner.node == m.node).count(),
            rate: 0.0,
            lag: 0,
            waiting_us: 0,
            leads: false,
            status: "DOWN",
        };
        dead.map(view).collect()
    }

    /// Moves all books of a node to the others, and gives it none from now on. Returns at once with the number of
    /// books that are still to leave.
    ///
    /// # Errors
    /// [`DrainError`].
    pub fn drain(&self, id: &NodeId) -> Result<usize, DrainError> {
        let node = self.get(id).ok_or(DrainError::UnknownNode)?;
        let is_last = !self.open_ids().any(|other| other != *id);
        if is_last && !self.parts.members.takes_books() {
            return Err(DrainError::LastNode);
        }
        node.draining.store(true, Ordering::Release);
        self.look_after_books();
        Ok(node.context.book_count())
    }

    /// Drains a node, and ends it once its last book has left. Returns at once with the number of books that are
    /// still to leave.
    ///
    /// # Errors
    /// [`DrainError`].
    pub fn stop(&self, id: &NodeId) -> Result<usize, DrainError> {
        let books = self.drain(id)?;
        if let Some(node) = self.get(id) {
            node.leaving.store(true, Ordering::Release);
        }
        Ok(books)
    }

    /// Has a node of this process give its books to other processes; whether there is one that takes them.
    pub(super) fn leave(&self, id: &NodeId) -> bool {
        let Some(node) = self.get(id).filter(|_| self.parts.members.takes_books()) else { return false };
        node.draining.store(true, Ordering::Release);
        true
    }

    /// Whether the nodes of the process own nothing and owe nobody anything.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.iter().filter(|n| n.context.is_alive()).all(RunningNode::is_empty)
    }

    pub(super) fn has_no_replicas(&self) -> bool {
        self.nodes.iter().filter(|n| n.context.is_alive()).all(|n| n.context.statuses().is_empty())
    }

    /// One look at every book: those of dead and draining nodes are moved to their standbys, or to the least loaded others,
    /// of dead ones by the leader's process. Ends the nodes that only waited for that.
    pub(super) fn look_after_books(&self) {
        for node in self.nodes.iter().filter(|n| n.is_leaving() && n.context.is_alive() && n.is_empty()) {
            tracing::info!(node = %node.context.id, "node has given its books away and ends");
            node.context.end();
            node.end_threads();
        }
        self.look_after_homeless();
        self.guests.look(self);
        if let Some(standbys) = self.standbys.as_ref().filter(|_| !self.nodes.is_empty()) {
            standbys.look(self);
        }
    }

    /// Whether this process trims the log: it has nodes, so that it knows which symbols are listed, and leads, or nobody does.
    pub(super) fn trims(&self) -> bool {
        !self.nodes.is_empty() && leader::is_led_from_here(&self.parts.decisions, |id| self.get(id).is_some())
    }

    /// The node of the cluster that takes books and has the fewest.
    pub fn emptiest(&self, owner_of_entries: impl Fn(&NodeId) -> usize) -> Option<NodeId> {
        let others = self.parts.members.all();
        let others = others.iter().filter(|m| m.takes_books()).map(|m| m.node);
        self.open_ids().chain(others).min_by_key(|id| (owner_of_entries(id), *id))
    }

    /// Begins to move a book to a node of any process.
    ///
    /// # Errors
    /// [`MoveError`].
    pub async fn move_book(&self, symbol: Symbol, to: NodeId, cause: Cause) -> Result<MoveId, MoveError> {
        match self.parts.members.get(&to) {
            Some(member) if self.get(&to).is_none() => {
                if !member.is_alive() {
                    return Err(MoveError::NodeDown);
                }
                let begun = member.link().begin_moves(to, &[symbol], cause).await;
                let begun = begun.inspect_err(|e| tracing::warn!(%symbol, node = %to, error = %e, "move not begun"));
                begun.ok().and_then(|all| all.into_iter().next()).unwrap_or(Err(MoveError::NoAnswer))
            }
            None if self.get(&to).is_none() => Err(MoveError::UnknownNode),
            _ => self.parts.moves.begin(symbol, to, cause),
        }
    }

    /// [Drains](Self::drain) a node of any process.
    ///
    /// # Errors
    /// [`DrainError`].
    pub async fn drain_any(&self, id: &NodeId) -> Result<usize, DrainError> {
        match self.parts.members.get(id) {
            Some(member) if self.get(id).is_none() => member.link().drain(*id).await.map_err(|e| {
                tracing::warn!(node = %id, error = %e, "node cannot be drained");
                if e.status.code() == tonic::Code::FailedPrecondition {
                    DrainError::LastNode
                } else {
                    DrainError::NoAnswer
                }
            }),
            _ => self.drain(id),
        }
    }

    /// Ends a node as a loss of power would: its threads and books are gone, and of what it had sent to the log and
    /// not got acknowledged a prefix lands. For fault tests.
    pub fn crash(&self, id: &NodeId) {
        if let Some(node) = self.get(id) {
            tracing::warn!(node = %id, "node crashes on demand");
            node.context.die();
            node.end_threads();
        }
    }

    /// Ends all threads: the process goes down.
    pub(super) fn end(&self) {
        self.nodes.iter().for_each(RunningNode::end_threads);
    }
}
