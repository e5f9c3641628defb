//! Who stands by for which book: a shadow on another node, so that its owner's death costs no restore.
//!
//! The owner's process decides, for its own books: in another process if there is one that takes books, on another node of
//! its own otherwise. Other processes are told all that is wanted of them, again and again ([`guests`]), and answer what
//! they follow. Only work is started here. Who owns a book, the log decides; a standby that is missing, late or doubled
//! costs time.

pub mod guests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::cluster::Member;
use super::directory::BookStatus;
use super::fleet::{Fleet, RunningNode};
use super::node::{Forgo, StandBy, Want};
use crate::domain::{NodeId, Symbol};
use crate::migration::sharing::{Housed, assign_standbys, even_out};

/// A node of this process that has not begun to follow by then is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often a node of another process is told what it is to follow: 2,500 books x 10 bytes = 25 KiB.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// The same while books have come whose followers are not known.
const TELL_SOON: Duration = Duration::from_millis(200);
/// What a node of another process said so long ago is not known any more.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// Standbys that are restored at once. When a node dies, thousands may be missing: they would take the time of the books
/// that have to be taken over and of those that trade.
const STARTING_MAX: usize = 64;
/// The same while books of a dead node are taken over.
const STARTING_MAX_MEANWHILE: usize = 2;
/// Standbys that change their node at once because another follows fewer.
const EVENED_MAX: usize = 16;

/// A replica that follows a book, as its node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    pub symbol: Symbol,
    pub node: NodeId,
    /// Records by which it is behind.
    pub lag: u64,
    /// It reads with all others, not by itself to catch up.
    pub is_level: bool,
}

impl Followed {
    pub(super) fn by(status: &BookStatus) -> Self {
        Self { symbol: status.symbol, node: status.node(), lag: status.lag(), is_level: !status.is_detached() }
    }

    /// Whether it is the better one to take the book over.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        (self.is_level, other.lag, other.node) > (other.is_level, self.lag, self.node)
    }
}

/// A node that was asked to follow a book.
#[derive(Debug, Clone, Copy)]
struct Asked {
    node: NodeId,
    at: Instant,
    /// Who stood by before, and does until this one is level.
    before: Option<NodeId>,
}

/// What a node of another process was told and answered.
#[derive(Debug)]
struct Told {
    at: Instant,
    is_under_way: bool,
    /// When it was told what it has answered.
    answered: Option<Instant>,
    follows: BTreeMap<Symbol, Followed>,
}

#[derive(Debug, Default)]
struct State {
    asked: BTreeMap<Symbol, Asked>,
    /// Books that have come here and of which no follower is known yet.
    come: BTreeMap<Symbol, Instant>,
    /// One for each node that ever was.
    told: BTreeMap<NodeId, Told>,
}

/// The standbys of this process's books.
#[derive(Debug, Default)]
pub struct Standbys(Arc<Mutex<State>>);

impl Standbys {
    /// The node of this process that was asked to follow a book.
    pub fn get(&self, symbol: &Symbol) -> Option<NodeId> {
        self.0.lock().asked.get(symbol).map(|asked| asked.node)
    }

    /// Who stands by for a book of this process, on a node of any.
    pub(super) fn follower_of(&self, fleet: &Fleet, symbol: &Symbol) -> Option<Followed> {
        let state = self.0.lock();
        let Asked { node, before, .. } = *state.asked.get(symbol)?;
        let (next, before) =
            (state.follows(fleet, symbol, &node), before.and_then(|b| state.follows(fleet, symbol, &b)));
        next.filter(|f| f.is_level).or(before).or(next)
    }

    /// Sees that each book that is at home on an open node is followed on another.
    pub(super) fn look(&self, fleet: &Fleet) {
        let here: Vec<NodeId> = fleet.open_ids().collect();
        let members = fleet.members().all();
        let elsewhere: Vec<NodeId> = members.iter().filter(|m| m.takes_books()).map(|m| m.node).collect();
        let open = if elsewhere.is_empty() { &here } else { &elsewhere };
        let (owned, moving) = (fleet.owners().all(), fleet.moving());
        let mut state = self.0.lock();
        let state = &mut *state;
        let is_mine = |symbol: &Symbol| {
            let at = owned.binary_search_by_key(symbol, |(symbol, _)| *symbol);
            at.is_ok_and(|at| fleet.get(&owned[at].1.node).is_some())
        };
        for (symbol, asked) in state.asked.extract_if(.., |symbol, _| !is_mine(symbol)) {
            [Some(asked.node), asked.before].iter().flatten().for_each(|node| forgo(fleet, symbol, node));
        }
        state.come.retain(|symbol, _| is_mine(symbol) && !state.asked.contains_key(symbol));
        let at_home = owned.iter().filter(|(symbol, o)| here.contains(&o.node) && !moving.contains(symbol));
        let mut housed: Vec<Housed> = at_home
            .map(|(symbol, owner)| {
                let standby = state.asked.get(symbol).map(|asked| asked.node);
                Housed { symbol: *symbol, partition: owner.partition, owner: owner.node, standby }
            })
            .collect();
        for (symbol, gone) in state.adopt(&mut housed, open) {
            forgo(fleet, symbol, &gone);
        }
        state.wait_for_answers(&mut housed, &elsewhere);
        let starting = state.asked.iter().filter(|(symbol, asked)| is_starting(fleet, symbol, &asked.node)).count();
        // Those of other processes begin no more at once than they can.
        let most = if elsewhere.is_empty() { starting_max(fleet).saturating_sub(starting) } else { usize::MAX };
        let mut assigned = assign_standbys(&housed, open);
        assigned.truncate(most);
        if assigned.is_empty() && !elsewhere.is_empty() {
            assigned = even_out(&housed, open, EVENED_MAX.saturating_sub(state.count_unsettled()));
        }
        for (symbol, node) in assigned {
            state.ask(fleet, symbol, node);
        }
        state.ask_again(fleet);
        state.end_overlaps(fleet);
        for member in members.iter().filter(|m| m.is_alive()) {
            self.tell(state, fleet, member);
        }
    }

    /// Tells a node of another process all that it is to follow, unless it has only just been told.
    fn tell(&self, state: &mut State, fleet: &Fleet, member: &Arc<Member>) {
        let node = member.node;
        let every = if state.come.is_empty() { TELL_EVERY } else { TELL_SOON };
        let is_due = |told: &Told| !told.is_under_way && told.at.elapsed() >= every;
        if !state.told.get(&node).is_none_or(is_due) {
            return;
        }
        let wanted = state.asked.iter().filter(|(_, asked)| asked.node == node || asked.before == Some(node));
        let wanted: Vec<Symbol> = wanted.map(|(symbol, _)| *symbol).collect();
        let living = fleet.all().iter().filter(|n| n.context.is_alive());
        let owners: Vec<NodeId> = living.map(|n| n.context.id).collect();
        let (told, at) = (state.told.entry(node).or_insert_with(Told::nothing), Instant::now());
        (told.at, told.is_under_way) = (at, true);
        let (state, member) = (Arc::clone(&self.0), Arc::clone(member));
        fleet.members().spawn(async move {
            let answer = member.link().stand_by(node, &owners, &wanted).await;
            let mut state = state.lock();
            let Some(told) = state.told.get_mut(&node) else { return };
            told.is_under_way = false;
            match answer {
                Ok(followed) => {
                    told.answered = Some(at);
                    told.follows = followed.into_iter().map(|f| (f.symbol, f)).collect();
                }
                Err(e) => tracing::debug!(%node, error = %e, "is not told what to follow"),
            }
        });
    }
}

impl Told {
    fn nothing() -> Self {
        Self { at: Instant::now(), is_under_way: false, answered: None, follows: BTreeMap::new() }
    }

    fn is_fresh(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < TOLD_MAX)
    }
}

impl State {
    /// What a living node follows of a book, as far as it is known.
    fn follows(&self, fleet: &Fleet, symbol: &Symbol, node: &NodeId) -> Option<Followed> {
        if let Some(node) = fleet.get(node) {
            let status = node.context.status(symbol).filter(|_| node.context.is_alive());
            return status.filter(|status| status.stands_by()).map(|status| Followed::by(&status));
        }
        let told = self.told.get(node).filter(|told| told.is_fresh() && fleet.members().is_alive(node))?;
        told.follows.get(symbol).copied()
    }

    /// A book that has come here, or whose owner started anew, may be followed already: by whom its former owner asked. Gives
    /// who was asked here instead, and need not follow any more.
    fn adopt(&mut self, housed: &mut [Housed], open: &[NodeId]) -> Vec<(Symbol, NodeId)> {
        let mut gone = Vec::new();
        for book in housed.iter_mut().filter(|b| b.standby.is_none_or(|node| !open.contains(&node) || node == b.owner))
        {
            let follows = self.told.iter().filter(|(node, told)| open.contains(node) && told.is_fresh());
            let follows = follows.filter_map(|(_, told)| told.follows.get(&book.symbol));
            let best = follows.copied().reduce(|a, b| if b.is_better_than(&a) { b } else { a });
            if let Some(Followed { node, .. }) = best {
                let old = self.asked.insert(book.symbol, Asked { node, at: Instant::now(), before: None });
                let old = old.into_iter().flat_map(|asked| [Some(asked.node), asked.before]).flatten();
                gone.extend(old.filter(|old| *old != node).map(|old| (book.symbol, old)));
                book.standby = Some(node);
            }
        }
        gone
    }

    /// Takes out those books that have only just come: one of `elsewhere` may follow them, and will say so.
    fn wait_for_answers(&mut self, housed: &mut Vec<Housed>, elsewhere: &[NodeId]) {
        housed.retain(|book| {
            if book.standby.is_some() || elsewhere.is_empty() {
                return true;
            }
            let since = *self.come.entry(book.symbol).or_insert_with(Instant::now);
            let has_answered =
                |node| self.told.get(node).is_some_and(|told| told.answered.is_some_and(|at| at > since));
            since.elapsed() >= TOLD_MAX || elsewhere.iter().all(has_answered)
        });
    }

    /// Standbys in other processes that are not level yet, or that replace another.
    fn count_unsettled(&self) -> usize {
        let is_level = |symbol, asked: &Asked| {
            let told = self.told.get(&asked.node).filter(|told| told.is_fresh());
            told.and_then(|told| told.follows.get(symbol)).is_some_and(|followed| followed.is_level)
        };
        self.asked.iter().filter(|(symbol, asked)| asked.before.is_some() || !is_level(symbol, asked)).count()
    }

    fn ask(&mut self, fleet: &Fleet, symbol: Symbol, node: NodeId) {
        let before = self.asked.get(&symbol).map(|asked| [Some(asked.node), asked.before]);
        let before: Vec<NodeId> = before.into_iter().flatten().flatten().filter(|b| *b != node).collect();
        let owner = fleet.owners().get(&symbol).map(|owner| owner.node);
        // One that has taken the book over follows it no longer.
        let follows = |b: &&NodeId| Some(**b) != owner && self.follows(fleet, &symbol, b).is_some();
        let stays = before.iter().find(follows).copied();
        for gone in before.iter().filter(|gone| Some(**gone) != stays) {
            forgo(fleet, symbol, gone);
        }
        self.asked.insert(symbol, Asked { node, at: Instant::now(), before: stays });
        ask(fleet, symbol, &node);
    }

    /// Nodes of this process; others are told all the time.
    fn ask_again(&mut self, fleet: &Fleet) {
        for (symbol, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.at.elapsed() > ASK_AGAIN) {
            asked.at = Instant::now();
            if fleet.get(&asked.node).is_some_and(|n| n.context.is_alive() && n.context.status(symbol).is_none()) {
                ask(fleet, *symbol, &asked.node);
            }
        }
    }

    /// Whoever stood by before need not any more once the next is level.
    fn end_overlaps(&mut self, fleet: &Fleet) {
        let overlaps = self.asked.iter().filter_map(|(symbol, asked)| Some((*symbol, asked.node, asked.before?)));
        let is_over = |(symbol, node, before): &(Symbol, NodeId, NodeId)| {
            let next = self.follows(fleet, symbol, node);
            next.is_some_and(|f| f.is_level) || self.follows(fleet, symbol, before).is_none()
        };
        let over: Vec<_> = overlaps.filter(is_over).collect();
        for (symbol, _, before) in over {
            forgo(fleet, symbol, &before);
            self.asked.entry(symbol).and_modify(|asked| asked.before = None);
        }
    }
}

fn starting_max(fleet: &Fleet) -> usize {
    if fleet.is_recovering() { STARTING_MAX_MEANWHILE } else { STARTING_MAX }
}

/// Whether a node of this process was asked and does not stand by yet, level with the log.
fn is_starting(fleet: &Fleet, symbol: &Symbol, node: &NodeId) -> bool {
    let node = fleet.get(node).filter(|n| n.context.is_alive());
    node.is_some_and(|n| n.context.status(symbol).is_none_or(|status| status.is_detached()))
}

/// Has a node of this process follow a book; no other can be asked like that.
fn ask(fleet: &Fleet, symbol: Symbol, node: &NodeId) {
    let Some(node) = fleet.get(node) else { return };
    tracing::debug!(%symbol, node = %node.context.id, "is asked to stand by");
    // Nobody waits: what came of it is seen in its status.
    let (done, _) = oneshot::channel();
    // One per book and assignment.
    #[allow(clippy::disallowed_methods)]
    node.supervisor.do_send(StandBy { symbol, done });
}

/// The opposite; a node of another process is told what is wanted, and so what is not.
fn forgo(fleet: &Fleet, symbol: Symbol, node: &NodeId) {
    if let Some(RunningNode { supervisor, .. }) = fleet.get(node).filter(|n| n.context.is_alive()) {
        // One per book and assignment.
        #[allow(clippy::disallowed_methods)]
        supervisor.do_send(Forgo { symbol, want: Want::Standby });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId::new(&format!("n{n}")).unwrap()
    }

    fn symbol() -> Symbol {
        Symbol::new("A").unwrap()
    }

    fn housed() -> Vec<Housed> {
        vec![Housed { symbol: symbol(), partition: 0, owner: node(1), standby: None }]
    }

    fn followed(by: usize, lag: u64, is_level: bool) -> Followed {
        Followed { symbol: symbol(), node: node(by), lag, is_level }
    }

    /// As if it had answered what it was told at that moment.
    fn says(state: &mut State, follows: &[Followed], node: NodeId, at: Instant) {
        let follows = follows.iter().map(|f| (f.symbol, *f)).collect();
        state.told.insert(node, Told { answered: Some(at), follows, ..Told::nothing() });
    }

    #[test]
    fn the_better_follower_is_level_then_less_behind() {
        let best = followed(3, 1, true);
        for other in [followed(2, 0, false), followed(2, 2, true), followed(4, 1, true)] {
            assert!(best.is_better_than(&other) && !other.is_better_than(&best), "{other:?}");
        }
        assert!(!best.is_better_than(&best));
    }

    #[test]
    fn a_book_that_comes_waits_for_who_follows_it_already_and_keeps_that_one() {
        let (mut state, elsewhere) = (State::default(), [node(2), node(3)]);
        let old = Instant::now();
        says(&mut state, &[], node(2), old);
        says(&mut state, &[], node(3), old);
        let look = |state: &mut State| {
            let mut books = housed();
            state.adopt(&mut books, &elsewhere);
            state.wait_for_answers(&mut books, &elsewhere);
            books
        };
        assert_eq!(look(&mut state), [], "what was said before says nothing");
        let since = state.come[&symbol()];
        says(&mut state, &[], node(2), since + Duration::from_millis(1));
        assert_eq!(look(&mut state), [], "one has not answered");
        says(&mut state, &[followed(3, 0, true)], node(3), since + Duration::from_millis(1));
        assert_eq!(look(&mut state)[0].standby, Some(node(3)));
        assert_eq!(state.asked[&symbol()].node, node(3));
    }

    #[test]
    fn a_book_that_nobody_follows_waits_no_longer_than_for_the_answers() {
        let (mut state, elsewhere) = (State::default(), [node(2)]);
        let mut books = housed();
        state.wait_for_answers(&mut books, &[]);
        assert_eq!(books.len(), 1, "there is nobody to ask");
        state.wait_for_answers(&mut books, &elsewhere);
        assert_eq!(books, []);
        let since = state.come[&symbol()];
        says(&mut state, &[], node(2), since + Duration::from_millis(1));
        books = housed();
        state.wait_for_answers(&mut books, &elsewhere);
        assert_eq!(books, housed());
        // Nor for one that never answers.
        let (mut state, long_ago) = (State::default(), Instant::now().checked_sub(TOLD_MAX).unwrap());
        state.come.insert(symbol(), long_ago);
        state.wait_for_answers(&mut books, &elsewhere);
        assert_eq!(books, housed());
    }

    #[test]
    fn a_follower_that_takes_no_books_is_not_kept() {
        let mut state = State::default();
        says(&mut state, &[followed(2, 0, true)], node(2), Instant::now());
        let mut books = housed();
        state.adopt(&mut books, &[node(3)]);
        assert_eq!((books[0].standby, state.asked.len()), (None, 0));
    }
}
