//! Who stands by for which book: a shadow on another node, so that its owner's death costs no restore.
//!
//! Only work is started here. Who owns a book, the log decides; a standby that is missing, late or doubled costs time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::directory::BookStatus;
use super::fleet::Fleet;
use super::node::{Forgo, StandBy, Want};
use crate::domain::{NodeId, Symbol};
use crate::migration::sharing::{Housed, assign_standbys};

/// A node that has not begun to follow by then is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Standbys that are restored at once. When a node dies, thousands may be missing: they would take the time of the books
/// that have to be taken over and of those that trade.
const STARTING_MAX: usize = 64;
/// The same while books of a dead node are taken over.
const STARTING_MAX_MEANWHILE: usize = 2;

/// A node that was asked to follow a book.
#[derive(Debug, Clone, Copy)]
struct Asked {
    node: NodeId,
    at: Instant,
}

/// The standbys of all books; empty if there should be none.
#[derive(Debug, Default)]
pub struct Standbys(Mutex<BTreeMap<Symbol, Asked>>);

impl Standbys {
    /// The node that was asked to follow a book.
    pub fn get(&self, symbol: &Symbol) -> Option<NodeId> {
        self.0.lock().get(symbol).map(|asked| asked.node)
    }

    /// Sees that each book that is at home on an open node is followed on another.
    pub(super) fn look(&self, fleet: &Fleet, books: &[Arc<BookStatus>]) {
        let open: Vec<NodeId> = fleet.open_ids().collect();
        let (moving, mut asked) = (fleet.moving(), self.0.lock());
        asked.retain(|symbol, _| books.binary_search_by_key(symbol, |book| book.symbol).is_ok());
        let at_home = books.iter().filter(|b| open.contains(&b.owner()) && !moving.contains(&b.symbol));
        let housed: Vec<Housed> = at_home
            .map(|b| {
                let standby = asked.get(&b.symbol).map(|asked| asked.node);
                Housed { symbol: b.symbol, partition: b.partition, owner: b.owner(), standby }
            })
            .collect();
        let starting = asked.iter().filter(|(symbol, asked)| is_starting(fleet, symbol, &asked.node)).count();
        let most = if fleet.is_recovering() { STARTING_MAX_MEANWHILE } else { STARTING_MAX };
        for (symbol, node) in assign_standbys(&housed, &open).into_iter().take(most.saturating_sub(starting)) {
            if let Some(before) = asked.insert(symbol, Asked { node, at: Instant::now() }) {
                forgo(fleet, symbol, &before.node);
            }
            ask(fleet, symbol, &node);
        }
        for (symbol, asked) in asked.iter_mut().filter(|(_, asked)| asked.at.elapsed() > ASK_AGAIN) {
            asked.at = Instant::now();
            if fleet.get(&asked.node).is_some_and(|n| n.context.is_alive() && n.context.status(symbol).is_none()) {
                ask(fleet, *symbol, &asked.node);
            }
        }
    }
}

/// Whether a node was asked and does not stand by yet, level with the log.
fn is_starting(fleet: &Fleet, symbol: &Symbol, node: &NodeId) -> bool {
    let node = fleet.get(node).filter(|n| n.context.is_alive());
    node.is_some_and(|n| n.context.status(symbol).is_none_or(|status| status.is_detached()))
}

fn ask(fleet: &Fleet, symbol: Symbol, node: &NodeId) {
    let Some(node) = fleet.get(node) else { return };
    tracing::debug!(%symbol, node = %node.context.id, "is asked to stand by");
    // Nobody waits: what came of it is seen in its status.
    let (done, _) = oneshot::channel();
    // One per book and assignment.
    #[allow(clippy::disallowed_methods)]
    node.supervisor.do_send(StandBy { symbol, done });
}

fn forgo(fleet: &Fleet, symbol: Symbol, node: &NodeId) {
    if let Some(node) = fleet.get(node).filter(|n| n.context.is_alive()) {
        // One per book and assignment.
        #[allow(clippy::disallowed_methods)]
        node.supervisor.do_send(Forgo { symbol, want: Want::Standby });
    }
}
