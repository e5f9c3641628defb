//! Books whose node is dead or gives them all away: to whom they go, and how those are asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Fleet, FleetParts, RunningNode};
use crate::actors::leader;
use crate::actors::owners::Owner;
use crate::actors::standbys::Followed;
use crate::domain::{NodeId, Symbol};
use crate::migration::handover::Cause;
use crate::migration::sharing::{Homeless, Room, share_out};

/// A node of another process that was asked to take a book is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// What was said of a dead node's books is asked for again after this time, if some still have no home.
const FOLLOWERS_MAX: Duration = Duration::from_secs(1);

/// Who follows the books of dead nodes, as all living processes told once those were found dead.
#[derive(Debug, Default)]
pub(super) struct Followers {
    of: HashSet<NodeId>,
    at: Option<Instant>,
    best: HashMap<Symbol, Followed>,
}

impl Followers {
    /// One that is behind may have too much to do: the book is as well restored where there is most room.
    fn of_dead(of: HashSet<NodeId>, followed: Vec<Followed>) -> Self {
        let mut best: HashMap<Symbol, Followed> = HashMap::new();
        for told in followed.into_iter().filter(|told| told.is_level) {
            let known = best.entry(told.symbol).or_insert(told);
            if told.is_better_than(known) {
                *known = told;
            }
        }
        Self { of, at: Some(Instant::now()), best }
    }

    fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < FOLLOWERS_MAX)
    }
}

impl Fleet {
    /// If nodes have died whose books are looked after here, asks all processes which of those they follow. A process without
    /// others knows that without asking.
    pub(in crate::actors) async fn learn_followers(&self) {
        let members = &self.parts.members;
        if !members.is_cluster() {
            return;
        }
        let owned = self.parts.owners.all();
        let leaving = self.leaving(&owned);
        let dead = leaving.iter().filter(|(_, cause)| **cause == Cause::Recovery).map(|(node, _)| *node);
        let dead: HashSet<NodeId> = dead.collect();
        {
            let known = self.followers.lock();
            let is_known = known.is_fresh() && dead.is_subset(&known.of);
            let (moving, asked) = (self.moving(), self.asked.lock());
            let is_asked = |symbol: &Symbol| asked.get(symbol).is_some_and(|at| at.elapsed() < ASK_AGAIN);
            let waits = |(symbol, owner): &(Symbol, Owner)| {
                dead.contains(&owner.node) && !moving.contains(symbol) && !is_asked(symbol)
            };
            if is_known || !owned.iter().any(waits) {
                return;
            }
        }
        let owners: Vec<NodeId> = dead.iter().copied().collect();
        let mut followed = members.followed(&owners).await;
        followed.extend(self.followed(&owners));
        let level = followed.iter().filter(|f| f.is_level).count();
        tracing::info!(?owners, followed = followed.len(), level, "books of dead nodes that are followed");
        *self.followers.lock() = Followers::of_dead(dead, followed);
    }

    pub(super) fn look_after_homeless(&self) {
        let FleetParts { directory, owners, moves, .. } = &self.parts;
        let owned = owners.all();
        let leaving = self.leaving(&owned);
        if leaving.is_empty() {
            return;
        }
        let (moving, followers) = (moves.moving(), self.followers.lock());
        // Those of a node that has only just been found dead wait until it is known who follows them.
        let is_known = |node: &NodeId| !self.parts.members.is_cluster() || followers.of.contains(node);
        let goes = |node: &NodeId| leaving.get(node).is_some_and(|cause| *cause != Cause::Recovery || is_known(node));
        let mut asked = self.asked.lock();
        asked.retain(|_, at| at.elapsed() < ASK_AGAIN);
        let homeless = owned
            .iter()
            .filter(|(symbol, owner)| goes(&owner.node) && !moving.contains(symbol) && !asked.contains_key(symbol));
        let causes: HashMap<Symbol, Cause> = homeless.clone().map(|(s, owner)| (*s, leaving[&owner.node])).collect();
        let homeless = homeless.map(|(symbol, owner)| {
            let told = followers.best.get(symbol).copied().filter(|_| causes[symbol] == Cause::Recovery);
            let standby = told.or_else(|| self.follower_of(symbol).filter(|standby| standby.is_level));
            let standby = standby.map(|standby| standby.node);
            let busy = directory.get(symbol).map_or(0.0, |book| book.busy());
            Homeless { symbol: *symbol, partition: owner.partition, busy, standby }
        });
        let mut elsewhere: BTreeMap<(NodeId, Cause), Vec<Symbol>> = BTreeMap::new();
        for (symbol, to) in share_out(homeless.collect(), &mut self.rooms(&owned)) {
            if self.get(&to).is_some() {
                // Refused if it cannot be moved just now: looked at again.
                _ = moves.begin(symbol, to, causes[&symbol]);
            } else {
                asked.insert(symbol, Instant::now());
                elsewhere.entry((to, causes[&symbol])).or_default().push(symbol);
            }
        }
        for ((to, cause), symbols) in elsewhere {
            self.ask_to_take(to, symbols, cause);
        }
    }

    /// The nodes whose books must go: those of the process that give them away or died, and those of the cluster that died,
    /// if this process looks after the dead.
    fn leaving(&self, owned: &[(Symbol, Owner)]) -> HashMap<NodeId, Cause> {
        let leads = leader::is_led_from_here(&self.parts.decisions, |id| self.get(id).is_some());
        let mine = self.nodes.iter().filter(|n| !n.takes_books());
        let mine = mine.map(|n| (n.context.id, if n.context.is_alive() { Cause::Drain } else { Cause::Recovery }));
        let mut leaving: HashMap<NodeId, Cause> = mine.filter(|(_, cause)| leads || *cause == Cause::Drain).collect();
        if leads && self.parts.members.is_cluster() {
            let others: HashSet<NodeId> =
                owned.iter().map(|(_, owner)| owner.node).filter(|id| self.get(id).is_none()).collect();
            let dead = others.into_iter().filter(|id| self.parts.members.is_dead(id));
            leaving.extend(dead.map(|id| (id, Cause::Recovery)));
        }
        leaving
    }

    /// The nodes of the cluster that take books, with what each has.
    fn rooms(&self, owned: &[(Symbol, Owner)]) -> BTreeMap<NodeId, Room> {
        let room = |n: &RunningNode| {
            let books = owned.iter().filter(|(_, owner)| owner.node == n.context.id).count();
            (n.context.id, Room { books, load: n.context.load().load, cores: n.context.settings.cores })
        };
        let others = self.parts.members.all();
        let others = others.iter().filter(|m| m.takes_books()).map(|m| (m.node, m.room()));
        self.nodes.iter().filter(|n| n.takes_books()).map(room).chain(others).collect()
    }

    fn ask_to_take(&self, to: NodeId, symbols: Vec<Symbol>, cause: Cause) {
        let Some(member) = self.parts.members.get(&to) else { return };
        self.parts.members.spawn(async move {
            match member.link().begin_moves(to, &symbols, cause).await {
                Ok(begun) => {
                    let refused = begun.iter().filter(|b| b.is_err()).count();
                    tracing::info!(node = %to, ?cause, books = symbols.len(), refused, "node was asked to take books");
                }
                Err(e) => tracing::warn!(node = %to, error = %e, "node cannot be asked to take books"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_known_if_it_is_level() {
        let (symbol, node) = (Symbol::new("A").unwrap(), |name| NodeId::new(name).unwrap());
        let told = |name, is_level| Followed { symbol, node: node(name), lag: 0, is_level };
        for all in [vec![told("n2", false), told("n3", true)], vec![told("n3", true), told("n2", false)]] {
            let known = Followers::of_dead(HashSet::from([node("n1")]), all);
            assert!(known.is_fresh() && known.best[&symbol].node == node("n3"));
        }
        let behind = Followers::of_dead(HashSet::from([node("n1")]), vec![told("n2", false)]);
        assert!(behind.best.is_empty());
        assert!(!Followers::default().is_fresh());
    }
}
