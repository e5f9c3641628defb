//! Where the books of a node go that is dead or gives them all away, and who follows a book as its standby. Pure.
//!
//! A book whose standby lives goes there. The others go where load is least, and where it is about equal to whoever has
//! the fewest, but those of one partition together as far as that leaves the nodes even: who takes a book over reads its
//! partition, and reads it once for all that come.

use std::collections::BTreeMap;

use crate::domain::{NodeId, Symbol};

/// Runs of books that stay together are so short that each node gets about so many.
const RUNS_PER_NODE: usize = 8;

/// Nodes that follow numbers of books within one part of so many are even.
const EVEN_WITHIN: usize = 8;

/// What any book is taken to cost, in cores: an idle one must be restored and followed too.
const BOOK_COSTS: f64 = 0.001;

/// A node that takes books.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    pub books: usize,
    /// Fraction of its budget in use.
    pub load: f64,
    /// Its budget.
    pub cores: f64,
}

impl Room {
    /// Loads within a twentieth are equal: then the number of books counts, and when there are many it counts alone.
    fn fullness(&self) -> (u64, usize) {
        let load = self.load.max(self.books as f64 * BOOK_COSTS / self.cores);
        ((load * 20.0) as u64, self.books)
    }

    fn take(&mut self, book: &Homeless) {
        self.books += 1;
        self.load += book.busy / self.cores;
    }
}

/// A book that has to go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Homeless {
    pub symbol: Symbol,
    pub partition: u32,
    /// What it cost last, in cores.
    pub busy: f64,
    /// Another node that follows it.
    pub standby: Option<NodeId>,
}

/// A book that is at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Housed {
    pub symbol: Symbol,
    pub partition: u32,
    pub owner: NodeId,
    /// Who was asked to follow it.
    pub standby: Option<NodeId>,
}

/// Gives each book a node. `rooms`: the nodes that take books, with what each has; nothing is given if there are none.
/// The order is that in which the moves should begin: those that are ready first, then partition by partition.
pub fn share_out(books: Vec<Homeless>, rooms: &mut BTreeMap<NodeId, Room>) -> Vec<(Symbol, NodeId)> {
    let is_ready = |book: &Homeless| book.standby.is_some_and(|node| rooms.contains_key(&node));
    let (ready, mut rest): (Vec<_>, Vec<_>) = books.into_iter().partition(is_ready);
    let mut shared = Vec::with_capacity(ready.len() + rest.len());
    for book in ready {
        let Some((to, room)) = book.standby.and_then(|node| Some((node, rooms.get_mut(&node)?))) else { continue };
        room.take(&book);
        shared.push((book.symbol, to));
    }
    rest.sort_by_key(|book| (book.partition, book.symbol));
    let run_max = (rest.len() / (rooms.len().max(1) * RUNS_PER_NODE)).max(1);
    for of_partition in rest.chunk_by(|a, b| a.partition == b.partition) {
        for run in of_partition.chunks(run_max) {
            let Some((to, room)) = rooms.iter_mut().min_by_key(|(node, room)| (room.fullness(), **node)) else { break };
            run.iter().for_each(|book| room.take(book));
            shared.extend(run.iter().map(|book| (book.symbol, *to)));
        }
    }
    shared
}

/// Gives each book that has no standby among `open`, or has it where it lives itself, another node to follow it. None of
/// them gets one if there is no other.
pub fn assign_standbys(books: &[Housed], open: &[NodeId]) -> Vec<(Symbol, NodeId)> {
    let is_kept = |book: &Housed| book.standby.is_some_and(|node| node != book.owner && open.contains(&node));
    // As many as a node stands by for already; its load says nothing of what it will have to follow.
    let count = |node: &NodeId| books.iter().filter(|b| is_kept(b) && b.standby == Some(*node)).count();
    let room = |node: &NodeId| (*node, Room { books: count(node), load: 0.0, cores: 1.0 });
    let mut rooms: BTreeMap<NodeId, Room> = open.iter().map(room).collect();
    let mut homeless: BTreeMap<NodeId, Vec<Homeless>> = BTreeMap::new();
    for Housed { symbol, partition, owner, .. } in books.iter().filter(|b| !is_kept(b)) {
        let book = Homeless { symbol: *symbol, partition: *partition, busy: 0.0, standby: None };
        homeless.entry(*owner).or_default().push(book);
    }
    let mut assigned = Vec::new();
    for (owner, books) in homeless {
        let own = rooms.remove_entry(&owner);
        assigned.extend(share_out(books, &mut rooms));
        rooms.extend(own);
    }
    assigned
}

/// Gives standbys of the nodes that follow most to those that follow fewest, such as one that has just come: as long as the
/// one follows over an eighth more than the other, and at most `most` of them. Each book has a standby that lives.
pub fn even_out(books: &[Housed], open: &[NodeId], most: usize) -> Vec<(Symbol, NodeId)> {
    let mut follows: BTreeMap<NodeId, Vec<&Housed>> = open.iter().map(|node| (*node, Vec::new())).collect();
    for book in books {
        if let Some(by_node) = book.standby.and_then(|node| follows.get_mut(&node)) {
            by_node.push(book);
        }
    }
    let mut given = Vec::new();
    while given.len() < most {
        let count = |(node, books): (&NodeId, &Vec<_>)| (books.len(), *node);
        let Some(((least, few), (largest, many))) =
            follows.iter().map(count).min().zip(follows.iter().map(count).max())
        else {
            break;
        };
        if largest <= least + 1 + largest / EVEN_WITHIN {
            break;
        }
        let may_go = |book: &&Housed| book.owner != few;
        let Some(book) = follows.get_mut(&many).and_then(|all| Some(all.remove(all.iter().rposition(may_go)?))) else {
            break;
        };
        given.push((book.symbol, few));
        follows.entry(few).or_default().push(book);
    }
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId::new(&format!("n{n}")).unwrap()
    }

    fn homeless(n: usize, partition: u32, standby: Option<usize>) -> Homeless {
        let symbol = Symbol::new(&format!("S{n:04}")).unwrap();
        Homeless { symbol, partition, busy: 0.0, standby: standby.map(node) }
    }

    fn idle(books: usize) -> Room {
        Room { books, load: 0.0, cores: 1.0 }
    }

    #[test]
    fn books_go_where_load_is_least_and_where_it_is_equal_where_books_are_fewest() {
        let loaded = |load, books| Room { load, ..idle(books) };
        let mut rooms =
            BTreeMap::from([(node(1), loaded(0.61, 2)), (node(2), loaded(0.12, 30)), (node(3), loaded(0.11, 31))]);
        let busy = [0.3, 0.0, 0.0, 0.3, 0.3];
        let books = busy.iter().enumerate().map(|(n, busy)| Homeless { busy: *busy, ..homeless(n, n as u32, None) });
        let to: Vec<_> = share_out(books.collect(), &mut rooms).iter().map(|(_, to)| *to).collect();
        assert_eq!(to, [2, 3, 3, 3, 2].map(node));
    }

    #[test]
    fn a_partitions_books_stay_together() {
        let books = (0..960).map(|n| homeless(n, n as u32 % 64, None)).collect();
        let shared = share_out(books, &mut BTreeMap::from([(node(1), idle(1_000)), (node(2), idle(1_000))]));
        let partition = |s: &Symbol| s.to_string()[1..].parse::<usize>().unwrap() % 64;
        let of_partition = |p| shared.iter().filter(move |(s, _)| partition(s) == p).map(|(_, to)| *to);
        assert!((0..64).all(|p| of_partition(p).all(|to| Some(to) == of_partition(p).next())));
        assert_eq!(shared.iter().filter(|(_, to)| *to == node(1)).count(), 480);
    }

    #[test]
    fn a_book_goes_to_its_standby_if_that_takes_books() {
        let books = vec![homeless(1, 0, Some(3)), homeless(2, 0, Some(9)), homeless(3, 0, None)];
        let mut rooms = BTreeMap::from([(node(2), idle(1)), (node(3), idle(0))]);
        let shared = share_out(books, &mut rooms);
        let to: Vec<_> = shared.iter().map(|(symbol, to)| (symbol.to_string(), *to)).collect();
        assert_eq!(to, [("S0001".into(), node(3)), ("S0002".into(), node(2)), ("S0003".into(), node(3))]);
        assert!(share_out(vec![homeless(1, 0, Some(3))], &mut BTreeMap::new()).is_empty());
    }

    #[test]
    fn only_books_without_a_good_standby_get_another() {
        let housed = |n, owner, standby: Option<usize>| {
            let Homeless { symbol, partition, standby, .. } = homeless(n, 0, standby);
            Housed { symbol, partition, owner: node(owner), standby }
        };
        // The first is well, the second's is dead, the third has moved to its own, the fourth is new.
        let books = [housed(1, 1, Some(2)), housed(2, 1, Some(9)), housed(3, 3, Some(3)), housed(4, 2, None)];
        let open = [node(1), node(2), node(3)];
        let assigned: Vec<_> = assign_standbys(&books, &open).iter().map(|(s, to)| (s.to_string(), *to)).collect();
        assert_eq!(assigned, [("S0002".into(), node(3)), ("S0004".into(), node(1)), ("S0003".into(), node(1))]);
        assert!(assign_standbys(&[housed(1, 1, None)], &[node(1)]).is_empty(), "there is nobody else");
    }

    #[test]
    fn a_node_that_comes_later_gets_its_share_of_standbys_and_then_nothing_moves() {
        let housed = |n, standby| Housed { symbol: homeless(n, 0, None).symbol, partition: 0, owner: node(1), standby };
        let mut books: Vec<_> = (0..40).map(|n| housed(n, Some(node(2)))).collect();
        let open = [node(2), node(3)];
        let mut rounds = 0;
        loop {
            let given = even_out(&books, &open, 4);
            assert!(given.len() <= 4 && given.iter().all(|(_, to)| *to == node(3)), "{given:?}");
            if given.is_empty() {
                break;
            }
            for (symbol, to) in given {
                books.iter_mut().filter(|b| b.symbol == symbol).for_each(|b| b.standby = Some(to));
            }
            rounds += 1;
        }
        let with_third = books.iter().filter(|b| b.standby == Some(node(3))).count();
        assert_eq!((with_third, rounds), (19, 5), "of 40 it follows nearly half");
        assert_eq!(even_out(&[housed(1, Some(node(2)))], &open, 4), [], "one book has one standby");
        let all_its_own = [housed(1, Some(node(2))), housed(2, Some(node(2)))];
        assert_eq!(even_out(&all_its_own, &[node(1), node(2)], 4), [], "nobody follows a book of its own");
        assert_eq!(even_out(&all_its_own, &[], 4), []);
    }

    proptest! {
        /// Each book once, and no node gets more than one run more than what would make all even.
        #[test]
        fn everything_is_shared_out_evenly(
            partitions in prop::collection::vec(0u32..8, 0..300),
            have in prop::collection::vec(0usize..50, 1..5),
        ) {
            let books: Vec<_> = partitions.iter().enumerate().map(|(n, p)| homeless(n, *p, None)).collect();
            let mut rooms: BTreeMap<_, _> = have.iter().enumerate().map(|(n, count)| (node(n), idle(*count))).collect();
            let shared = share_out(books.clone(), &mut rooms);
            let mut symbols: Vec<_> = shared.iter().map(|(symbol, _)| *symbol).collect();
            symbols.sort_unstable();
            prop_assert_eq!(symbols, books.iter().map(|b| b.symbol).collect::<Vec<_>>());
            let run_max = (books.len() / (have.len() * RUNS_PER_NODE)).max(1);
            for (n, before) in have.iter().enumerate() {
                let got = shared.iter().filter(|(_, to)| *to == node(n)).count();
                prop_assert_eq!(rooms[&node(n)].books, before + got);
                let least = rooms.values().map(|r| r.books).min().unwrap_or_default();
                prop_assert!(got == 0 || rooms[&node(n)].books <= least + run_max, "n{} got {} to {:?}", n, got, rooms);
            }
        }

        /// Whatever died or moved: afterwards every book has a standby that is open and not its owner, and nothing more is
        /// to be done.
        #[test]
        fn every_book_gets_a_standby_elsewhere(
            at in prop::collection::vec((0usize..4, prop::option::of(0usize..6), 0u32..8), 0..200),
        ) {
            let open: Vec<_> = (0..4).map(node).collect();
            let mut books: Vec<_> = at.iter().enumerate().map(|(n, (owner, standby, partition))| {
                let Homeless { symbol, partition, standby, .. } = homeless(n, *partition, *standby);
                Housed { symbol, partition, owner: node(*owner), standby }
            }).collect();
            for (symbol, to) in assign_standbys(&books, &open) {
                books.iter_mut().filter(|b| b.symbol == symbol).for_each(|b| b.standby = Some(to));
            }
            for book in &books {
                prop_assert!(book.standby.is_some_and(|s| s != book.owner && open.contains(&s)), "{book:?}");
            }
            prop_assert_eq!(assign_standbys(&books, &open), []);
        }
    }
}
