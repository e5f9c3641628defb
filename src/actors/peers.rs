//! The nodes of the process as they know each other: who is there, the Sealed messages between them, and what a
//! coordinator hears of a move.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

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

/// The nodes of one process.
#[derive(Default)]
pub struct Peers {
    nodes: RwLock<BTreeMap<NodeId, Weak<NodeContext>>>,
    /// By symbol: when a node dies a thousand moves are under way, and each hears of its own book only.
    listeners: Mutex<HashMap<Symbol, Vec<mpsc::Sender<Milestone>>>>,
}

impl Peers {
    pub(super) fn enter(&self, node: &Arc<NodeContext>) {
        self.nodes.write().insert(node.id, Arc::downgrade(node));
    }

    /// A node that is there and alive.
    pub fn alive(&self, id: &NodeId) -> Option<Arc<NodeContext>> {
        self.nodes.read().get(id).and_then(Weak::upgrade).filter(|n| n.is_alive())
    }

    /// Whether a node has a replica of the symbol: then it follows the log, and will seal if it owes it.
    pub fn follows(&self, id: &NodeId, symbol: &Symbol) -> bool {
        self.alive(id).is_some_and(|node| node.book(symbol).is_some())
    }

    /// Hands a Sealed to the node that waits for it. One that does not arrive costs the crash path, never an output.
    pub(super) fn seal(&self, symbol: Symbol, from: NodeId, sealed: Sealed) {
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
