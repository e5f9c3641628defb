//! The nodes of the process: which take books, which give theirs away, and how one ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::*;

use super::decisions::Decisions;
use super::directory::{BookStatus, Directory};
use super::leader;
use super::moves::Moves;
use super::node::{NodeContext, NodeSupervisor};
use super::standbys::Standbys;
use crate::domain::{NodeId, Symbol};
use crate::migration::handover::Cause;
use crate::migration::sharing::{Homeless, Room, share_out};
use crate::ports::routes::NodeStatus;

/// Why a node cannot be drained or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    #[error("there is no such node")]
    UnknownNode,
    #[error("there is no other node to take its books")]
    LastNode,
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
    directory: Arc<Directory>,
    moves: Arc<Moves>,
    decisions: Arc<Decisions>,
    /// `None`: no book has one.
    standbys: Option<Standbys>,
}

impl Fleet {
    pub fn new(
        nodes: Vec<RunningNode>,
        directory: Arc<Directory>,
        moves: Arc<Moves>,
        decisions: Arc<Decisions>,
    ) -> Self {
        Self { nodes, directory, moves, decisions, standbys: None }
    }

    /// Has each book followed on so many other nodes: 0 or 1.
    #[must_use]
    pub fn with_standbys(mut self, standbys: usize) -> Self {
        self.standbys = (standbys > 0).then(Standbys::default);
        self
    }

    /// The replica that stands by for a symbol's book, on another node.
    pub fn standby_of(&self, symbol: &Symbol) -> Option<Arc<BookStatus>> {
        let node = self.get(&self.standbys.as_ref()?.get(symbol)?)?;
        node.context.status(symbol).filter(|status| node.context.is_alive() && status.stands_by())
    }

    pub(super) fn moving(&self) -> HashSet<Symbol> {
        self.moves.moving()
    }

    /// Whether books of a dead node are being taken over.
    pub(super) fn is_recovering(&self) -> bool {
        self.moves.under_way().iter().any(|plan| plan.cause == Cause::Recovery)
    }

    pub fn all(&self) -> &[RunningNode] {
        &self.nodes
    }

    pub fn get(&self, id: &NodeId) -> Option<&RunningNode> {
        self.nodes.iter().find(|n| n.context.id == *id)
    }

    /// The node of the process whose replica stands for a symbol's book.
    pub fn node_of(&self, symbol: &Symbol) -> Option<&RunningNode> {
        self.get(&self.directory.get(symbol)?.node())
    }

    /// The nodes that take books.
    pub fn open_ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().filter(|n| n.takes_books()).map(|n| n.context.id)
    }

    pub fn views(&self) -> Vec<NodeView> {
        let (all, leader) = (self.directory.all(), self.decisions.leader());
        let view = |n: &RunningNode| {
            let books = || all.iter().filter(|b| b.node() == n.context.id);
            NodeView {
                id: n.context.id,
                load: if n.context.is_alive() { n.context.load().load } else { 0.0 },
                cores: n.context.settings.cores,
                books: books().count(),
                rate: books().map(|b| b.rate()).fold(0.0, |all, rate| all + rate),
                lag: books().map(|b| b.lag()).sum(),
                waiting_us: books().map(|b| b.waiting_us()).max().unwrap_or(0),
                leads: leader == Some(n.context.id) && n.context.is_alive(),
                status: n.status_text(),
            }
        };
        self.nodes.iter().map(view).collect()
    }

    /// Moves all books of a node to the others, and gives it none from now on. Returns at once with the number of
    /// books that are still to leave.
    ///
    /// # Errors
    /// [`DrainError`].
    pub fn drain(&self, id: &NodeId) -> Result<usize, DrainError> {
        let node = self.get(id).ok_or(DrainError::UnknownNode)?;
        if !self.open_ids().any(|other| other != *id) {
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

    /// One look at every book: those of dead and draining nodes are moved to their standbys, or to the least loaded others,
    /// of dead ones by the leader's process. Ends the nodes that only waited for that.
    pub(super) fn look_after_books(&self) {
        for node in self.nodes.iter().filter(|n| n.is_leaving() && n.context.is_alive() && n.is_empty()) {
            tracing::info!(node = %node.context.id, "node has given its books away and ends");
            node.context.end();
            node.end_threads();
        }
        let books = self.directory.all();
        self.look_after_homeless(&books);
        if let Some(standbys) = &self.standbys {
            standbys.look(self, &books);
        }
    }

    fn look_after_homeless(&self, books: &[Arc<BookStatus>]) {
        let leads = leader::is_led_from_here(&self.decisions, |id| self.get(id).is_some());
        let leaving: HashMap<NodeId, Cause> = self
            .nodes
            .iter()
            .filter(|n| !n.takes_books())
            .map(|n| (n.context.id, if n.context.is_alive() { Cause::Drain } else { Cause::Recovery }))
            .filter(|(_, cause)| leads || *cause == Cause::Drain)
            .collect();
        if leaving.is_empty() {
            return;
        }
        let moving = self.moves.moving();
        let room = |n: &RunningNode| {
            let books = books.iter().filter(|b| b.owner() == n.context.id).count();
            (n.context.id, Room { books, load: n.context.load().load, cores: n.context.settings.cores })
        };
        let mut rooms = self.nodes.iter().filter(|n| n.takes_books()).map(room).collect();
        let homeless = books.iter().filter(|b| leaving.contains_key(&b.owner()) && !moving.contains(&b.symbol));
        let causes: HashMap<Symbol, Cause> = homeless.clone().map(|b| (b.symbol, leaving[&b.owner()])).collect();
        let homeless = homeless.map(|b| {
            let standby = self.standby_of(&b.symbol).map(|standby| standby.node());
            Homeless { symbol: b.symbol, partition: b.partition, busy: b.busy(), standby }
        });
        for (symbol, to) in share_out(homeless.collect(), &mut rooms) {
            // Refused if it cannot be moved just now: looked at again.
            _ = self.moves.begin(symbol, to, causes[&symbol]);
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
