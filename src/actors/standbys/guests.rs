//! Standbys that the owners of other processes want here: which are asked for, begun a few at a time, and let go once nobody
//! has wanted them for a while.
//!
//! An owner names all of them about once a second, so nothing has to be remembered to be undone: a word that is lost is said
//! again, and what is not said any more ends by itself. While an owner is dead its books stay followed: they are about to
//! be fenced to whoever follows them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Followed, ask, forgo, is_starting, starting_max};
use crate::actors::fleet::{Fleet, RunningNode};
use crate::domain::{NodeId, Symbol};

/// A book that its owner has not named for so long, though it named others, is followed no longer. A new owner needs a
/// moment to hear who follows it already.
const UNWANTED_MAX: Duration = Duration::from_secs(10);
/// A living owner that has not said anything for so long wants nobody to stand by any more.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// A node that has not begun to follow by then is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// One book that a node here was asked to follow.
#[derive(Debug, Clone, Copy)]
struct Guest {
    /// Its owner by the log as last seen, and since when.
    owner: (Option<NodeId>, Instant),
    unwanted_since: Option<Instant>,
    /// When the node was told last.
    told_at: Option<Instant>,
}

impl Guest {
    fn new(owner: Option<NodeId>, now: Instant) -> Self {
        Self { owner: (owner, now), unwanted_since: None, told_at: None }
    }

    /// What a former owner did not want says nothing of the new one.
    fn see_owner(&mut self, owner: Option<NodeId>, now: Instant) {
        if self.owner.0 != owner {
            (self.owner, self.unwanted_since) = ((owner, now), None);
        }
    }
}

/// What one node was asked to follow. At most every listed book: 64 bytes each.
#[derive(Debug, Default)]
struct OfNode {
    guests: BTreeMap<Symbol, Guest>,
    /// When each owner last said what it wants. One for each node that ever did.
    heard: BTreeMap<NodeId, Instant>,
}

/// What is known of a book's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Here,
    Alive,
    /// Dead, or nobody can tell.
    Lost,
}

impl OfNode {
    /// Takes in all that `owners` want, of books that are known.
    fn hear(
        &mut self,
        owners: &[NodeId],
        symbols: &[Symbol],
        owner_of: impl Fn(&Symbol) -> Option<NodeId>,
        now: Instant,
    ) {
        self.heard.extend(owners.iter().map(|owner| (*owner, now)));
        let wanted: BTreeSet<&Symbol> = symbols.iter().collect();
        for (symbol, guest) in &mut self.guests {
            guest.see_owner(owner_of(symbol), now);
            if wanted.contains(symbol) {
                guest.unwanted_since = None;
            } else if guest.owner.0.is_some_and(|owner| owners.contains(&owner)) {
                guest.unwanted_since.get_or_insert(now);
            }
        }
        for symbol in symbols {
            if let Some(owner) = owner_of(symbol) {
                self.guests.entry(*symbol).or_insert_with(|| Guest::new(Some(owner), now));
            }
        }
    }

    /// Takes out what is to be followed no longer.
    fn take_unwanted(
        &mut self,
        owner_of: impl Fn(&Symbol) -> Option<NodeId>,
        is: impl Fn(&NodeId) -> Where,
        now: Instant,
    ) -> Vec<Symbol> {
        let heard = &self.heard;
        let is_past = |since: Instant, max| now.saturating_duration_since(since) >= max;
        let is_unwanted = |symbol: &Symbol, guest: &mut Guest| {
            guest.see_owner(owner_of(symbol), now);
            let (Some(owner), since) = guest.owner else { return false };
            match is(&owner) {
                // It took the book over, or a neighbour did, which looks for a standby of its own.
                Where::Here => true,
                Where::Lost => false,
                Where::Alive => {
                    let spoke = heard.get(&owner).copied().unwrap_or(since).max(since);
                    guest.unwanted_since.is_some_and(|since| is_past(since, UNWANTED_MAX)) || is_past(spoke, SILENT_MAX)
                }
            }
        };
        self.guests.extract_if(.., is_unwanted).map(|(symbol, _)| symbol).collect()
    }
}

/// Of all nodes here.
#[derive(Debug, Default)]
pub struct Guests(Mutex<BTreeMap<NodeId, OfNode>>);

impl Guests {
    /// A process says which books of `owners`, its nodes, a node here is to follow. What is said of a node that takes no
    /// books is forgotten at the next look.
    pub(in crate::actors) fn hear(&self, fleet: &Fleet, node: NodeId, owners: &[NodeId], symbols: &[Symbol]) {
        let owner_of = |symbol: &Symbol| fleet.owners().get(symbol).map(|owner| owner.node);
        self.0.lock().entry(node).or_default().hear(owners, symbols, owner_of, Instant::now());
    }

    /// Begins what is wanted and lets go of what is not.
    pub(in crate::actors) fn look(&self, fleet: &Fleet) {
        let owner_of = |symbol: &Symbol| fleet.owners().get(symbol).map(|owner| owner.node);
        let is = |owner: &NodeId| match fleet.get(owner) {
            Some(_) => Where::Here,
            None if fleet.members().is_heard(owner) => Where::Alive,
            None => Where::Lost,
        };
        let mut nodes = self.0.lock();
        for (node, of_node) in nodes.iter_mut() {
            let is_open = fleet.get(node).is_some_and(RunningNode::takes_books);
            let goes = match is_open {
                true => of_node.take_unwanted(owner_of, is, Instant::now()),
                false => std::mem::take(&mut of_node.guests).into_keys().collect(),
            };
            goes.into_iter().for_each(|symbol| forgo(fleet, symbol, node));
            begin(fleet, node, &mut of_node.guests);
        }
    }

    /// Books that are followed here because other processes want it.
    pub fn count(&self, fleet: &Fleet) -> usize {
        let follows = |node: &NodeId, symbol: &Symbol| {
            fleet.get(node).and_then(|n| n.context.status(symbol)).is_some_and(|status| status.stands_by())
        };
        let nodes = self.0.lock();
        nodes.iter().map(|(node, of)| of.guests.keys().filter(|symbol| follows(node, symbol)).count()).sum()
    }
}

/// Tells a node to follow what it does not yet, a few at a time.
fn begin(fleet: &Fleet, node: &NodeId, guests: &mut BTreeMap<Symbol, Guest>) {
    let Some(here) = fleet.get(node) else { return };
    let is_due = |guest: &Guest| guest.told_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN);
    let starting = guests.iter().filter(|(symbol, guest)| !is_due(guest) && is_starting(fleet, symbol, node)).count();
    let missing = |symbol: &Symbol| here.context.status(symbol).is_none_or(|status| !status.stands_by());
    let due = guests.iter_mut().filter(|(symbol, guest)| is_due(guest) && missing(symbol));
    for (symbol, guest) in due.take(starting_max(fleet).saturating_sub(starting)) {
        guest.told_at = Some(Instant::now());
        ask(fleet, *symbol, node);
    }
}

impl Fleet {
    /// A node of this process is to follow these books of `owners`, nodes of another one, and no others of theirs; gives those
    /// that it stands by for now.
    pub fn stand_by(&self, node: NodeId, owners: &[NodeId], symbols: &[Symbol]) -> Vec<Followed> {
        self.guests().hear(self, node, owners, symbols);
        let mut followed = self.followed_by(&node, owners);
        followed.retain(|f| self.get(&f.node).and_then(|n| n.context.status(&f.symbol)).is_some_and(|s| s.stands_by()));
        followed
    }

    /// The replicas of books of `owners` that living nodes of this process have.
    pub fn followed(&self, owners: &[NodeId]) -> Vec<Followed> {
        self.all().iter().flat_map(|node| self.followed_by(&node.context.id, owners)).collect()
    }

    fn followed_by(&self, node: &NodeId, owners: &[NodeId]) -> Vec<Followed> {
        let Some(node) = self.get(node).filter(|n| n.context.is_alive()) else { return Vec::new() };
        let is_theirs = |symbol: &Symbol| self.owners().get(symbol).is_some_and(|owner| owners.contains(&owner.node));
        let replicas = node.context.statuses().into_iter().filter(|s| !s.is_active() && is_theirs(&s.symbol));
        replicas.map(|status| Followed::by(&status)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId::new(&format!("n{n}")).unwrap()
    }

    fn symbol(name: &str) -> Symbol {
        Symbol::new(name).unwrap()
    }

    /// Nobody owns `X`, n1 all others.
    fn of_first(symbol: &Symbol) -> Option<NodeId> {
        (symbol.as_str() != "X").then(|| node(1))
    }

    fn after(seconds: u64) -> Instant {
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BEGAN.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    fn asked(names: &[&str]) -> OfNode {
        let mut of_node = OfNode::default();
        let symbols: Vec<_> = names.iter().map(|name| symbol(name)).collect();
        of_node.hear(&[node(1)], &symbols, of_first, after(0));
        of_node
    }

    #[test]
    fn what_an_owner_names_no_more_goes_after_a_while_and_what_it_names_stays() {
        let mut of_node = asked(&["A", "B", "X"]);
        assert_eq!(of_node.guests.len(), 2, "nobody follows what is not listed");
        let mut goes = |at, names: &[&str]| {
            let symbols: Vec<_> = names.iter().map(|name| symbol(name)).collect();
            of_node.hear(&[node(1)], &symbols, of_first, after(at));
            of_node.take_unwanted(of_first, |_| Where::Alive, after(at))
        };
        assert_eq!(goes(1, &["A"]), []);
        assert_eq!(goes(9, &["A", "B"]), [], "named again in time");
        assert_eq!(goes(10, &["A"]), []);
        assert_eq!(goes(19, &["A"]), []);
        assert_eq!(goes(20, &["A"]), [symbol("B")]);
        assert_eq!(goes(90, &["A"]), []);
    }

    #[test]
    fn what_somebody_else_does_not_name_stays() {
        let mut of_node = asked(&["A"]);
        for at in 1..60 {
            of_node.hear(&[node(2)], &[], of_first, after(at));
            assert_eq!(of_node.take_unwanted(of_first, |_| Where::Alive, after(at)), []);
        }
        assert_eq!(of_node.take_unwanted(of_first, |_| Where::Alive, after(60)), [symbol("A")], "its owner is silent");
    }

    #[test]
    fn a_dead_owners_books_stay_followed_until_one_of_this_process_has_them() {
        let mut of_node = asked(&["A"]);
        assert_eq!(of_node.take_unwanted(of_first, |_| Where::Lost, after(1_000)), []);
        let second = |_: &Symbol| Some(node(2));
        let is = |owner: &NodeId| if *owner == node(1) { Where::Lost } else { Where::Here };
        assert_eq!(of_node.take_unwanted(second, is, after(1_001)), [symbol("A")]);
    }

    #[test]
    fn a_new_owner_has_time_to_say_what_it_wants() {
        let mut of_node = asked(&["A", "B"]);
        of_node.hear(&[node(1)], &[], of_first, after(5));
        let second = |_: &Symbol| Some(node(2));
        assert_eq!(of_node.take_unwanted(second, |_| Where::Alive, after(70)), [], "it has only just become the owner");
        of_node.hear(&[node(2)], &[symbol("A")], second, after(71));
        assert_eq!(of_node.take_unwanted(second, |_| Where::Alive, after(80)), []);
        assert_eq!(of_node.take_unwanted(second, |_| Where::Alive, after(81)), [symbol("B")]);
        assert_eq!(of_node.take_unwanted(second, |_| Where::Alive, after(131)), [symbol("A")], "it fell silent");
    }
}
