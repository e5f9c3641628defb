//! The nodes of the process as they know each other: who is there, the Sealed messages between them, and what a
//! coordinator hears of a move.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use tokio::sync::broadcast;

use super::node::NodeContext;
use crate::domain::{Epoch, NodeId, Offset, Symbol};
use crate::migration::replica::Sealed;

/// Milestones a slow listener may be behind; it then misses some and looks at the book's status instead.
const MILESTONES_MAX: usize = 4_096;

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
    FenceApplied { epoch: Epoch, to: NodeId, offset: Offset },
    Sealed { epoch: Epoch },
    Active { epoch: Epoch, parked: u64 },
}

/// The nodes of one process.
pub struct Peers {
    nodes: RwLock<BTreeMap<NodeId, Weak<NodeContext>>>,
    milestones: broadcast::Sender<Milestone>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { nodes: RwLock::default(), milestones: broadcast::channel(MILESTONES_MAX).0 }
    }
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
        // Nobody listening is no error.
        _ = self.milestones.send(milestone);
    }

    pub fn listen(&self) -> broadcast::Receiver<Milestone> {
        self.milestones.subscribe()
    }
}
