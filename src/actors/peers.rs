//! The nodes as they know each other: who is there, the Sealed messages between them, and what a coordinator hears of a
//! move.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::cluster::Members;
use super::node::NodeContext;
use crate::domain::{Epoch, NodeId, Offset, Symbol};
use crate::migration::replica::Sealed;

/// Milestones a slow listener may be behind; it then misses some and looks at the book's status instead. A move has
/// three for each fence of its book: 64 x 56 bytes = 4 KiB.
const MILESTONES_MAX: usize = 64;

/// Something that happened to a replica.
#[derive(Debug, Clone, Copy)]
pub struct Milestone {
    pub symbol: Symbol,
    pub node: NodeId,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum What {
    FenceApplied {
        epoch: Epoch,
        to: NodeId,
        offset: Offset,
    },
    Sealed {
        epoch: Epoch,
    },
    /// How it came to that is in its [status](super::directory::BookStatus::takeover).
    Active {
        epoch: Epoch,
    },
}

/// What a node says of its replica of a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Following {
    /// It has one.
    pub follows: bool,
    /// What that sealed last.
    pub sealed: Option<Sealed>,
}

/// The nodes of this process, and through [`Members`] those of the others.
#[derive(Default)]
pub struct Peers {
    members: Arc<Members>,
    nodes: RwLock<BTreeMap<NodeId, Weak<NodeContext>>>,
    /// By symbol: when a node dies a thousand moves are under way, and each hears of its own book only.
    listeners: Mutex<HashMap<Symbol, Vec<mpsc::Sender<Milestone>>>>,
}

impl Peers {
    pub fn new(members: Arc<Members>) -> Self {
        Self { members, ..Self::default() }
    }

    /// The nodes of other processes.
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    pub(super) fn enter(&self, node: &Arc<NodeContext>) {
        self.nodes.write().insert(node.id, Arc::downgrade(node));
    }

    /// Whether a node is one of this process, dead or alive.
    pub fn is_here(&self, id: &NodeId) -> bool {
        self.nodes.read().contains_key(id)
    }

    /// A node of this process that is alive.
    pub fn alive(&self, id: &NodeId) -> Option<Arc<NodeContext>> {
        self.nodes.read().get(id).and_then(Weak::upgrade).filter(|n| n.is_alive())
    }

    /// Whether a node has a replica of the symbol: then it follows the log, and will seal if it owes it. Of a node of
    /// another process it is only known whether that lives.
    pub fn follows(&self, id: &NodeId, symbol: &Symbol) -> bool {
        if self.is_here(id) {
            return self.alive(id).is_some_and(|node| node.book(symbol).is_some());
        }
        self.members.is_alive(id)
    }

    /// The same, but another process is asked; with what the replica sealed last, which may have been lost on its way.
    pub async fn ask_follows(&self, id: NodeId, symbol: Symbol) -> Following {
        match self.members.get(&id).filter(|_| !self.is_here(&id)) {
            Some(member) if member.is_alive() => {
                // Nothing is lost by believing that it does not.
                member.link().follows(id, symbol).await.unwrap_or_default()
            }
            Some(_) => Following::default(),
            None => {
                let sealed = self.alive(&id).and_then(|node| node.sealed(&symbol));
                Following { follows: self.follows(&id, &symbol), sealed }
            }
        }
    }

    /// Records by which a book is behind on a node of any process; of another one, as that said last.
    pub fn lag(&self, id: &NodeId, symbol: &Symbol) -> u64 {
        match self.is_here(id) {
            true => self.alive(id).and_then(|node| node.status(symbol)).map_or(0, |status| status.lag()),
            false => self.members.lag(id, symbol),
        }
    }

    /// Hands a Sealed to the node that waits for it. One that does not arrive costs the crash path, never an output.
    pub(super) fn seal(&self, symbol: Symbol, from: NodeId, sealed: Sealed) {
        if self.is_here(&sealed.to) {
            self.take_sealed(symbol, from, sealed);
        } else {
            self.members.seal(symbol, from, sealed);
        }
    }

    /// A Sealed for a node of this process.
    pub fn take_sealed(&self, symbol: Symbol, from: NodeId, sealed: Sealed) {
        self.tell(Milestone { symbol, node: from, what: What::Sealed { epoch: sealed.epoch } });
        if let Some(book) = self.alive(&sealed.to).and_then(|node| node.book(&symbol)) {
            // One per fence.
            #[allow(clippy::disallowed_methods)]
            book.do_send(super::book::SealedIs(sealed));
        }
    }

    pub(super) fn tell(&self, milestone: Milestone) {
        let mut listeners = self.listeners.lock();
        let Some(of_symbol) = listeners.get_mut(&milestone.symbol) else { return };
        of_symbol.retain(|listener| match listener.try_send(milestone) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        if of_symbol.is_empty() {
            listeners.remove(&milestone.symbol);
        }
    }

    /// What happens to a symbol's replicas from now on.
    pub fn listen(&self, symbol: Symbol) -> mpsc::Receiver<Milestone> {
        let (heard, milestones) = mpsc::channel(MILESTONES_MAX);
        let mut listeners = self.listeners.lock();
        let of_symbol = listeners.entry(symbol).or_default();
        // Those of moves that have ended.
        of_symbol.retain(|listener| !listener.is_closed());
        of_symbol.push(heard);
        milestones
    }
}
