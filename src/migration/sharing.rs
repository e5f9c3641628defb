//! Where the books of a node go that is dead or gives them all away. Pure.
//!
//! A book whose standby lives goes there. The others go to whoever has the fewest, but those of one partition together as
//! far as that leaves the nodes even: who takes a book over reads its partition, and reads it once for all that come.

use std::collections::BTreeMap;

use super::handover::Cause;
use crate::domain::{NodeId, Symbol};

/// Runs of books that stay together are so short that each node gets about so many.
const RUNS_PER_NODE: usize = 8;

/// A book that has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Homeless {
    pub symbol: Symbol,
    pub partition: u32,
    /// Another node that follows it.
    pub standby: Option<NodeId>,
    pub cause: Cause,
}

/// Gives each book a node. `counts`: the nodes that take books, with how many each has; nothing is given if there are
/// none. The order is that in which the moves should begin: those that are ready first, then partition by partition.
pub fn share_out(books: Vec<Homeless>, counts: &mut BTreeMap<NodeId, usize>) -> Vec<(Homeless, NodeId)> {
    let is_ready = |book: &Homeless| book.standby.is_some_and(|node| counts.contains_key(&node));
    let (ready, mut rest): (Vec<_>, Vec<_>) = books.into_iter().partition(is_ready);
    let mut shared = Vec::with_capacity(ready.len() + rest.len());
    for book in ready {
        let Some((to, count)) = book.standby.and_then(|node| counts.get_key_value(&node)) else { continue };
        shared.push((book, *to));
        let (to, count) = (*to, *count + 1);
        counts.insert(to, count);
    }
    rest.sort_by_key(|book| (book.partition, book.symbol));
    let run_max = (rest.len() / (counts.len().max(1) * RUNS_PER_NODE)).max(1);
    for of_partition in rest.chunk_by(|a, b| a.partition == b.partition) {
        for run in of_partition.chunks(run_max) {
            let Some((to, count)) = counts.iter_mut().min_by_key(|(node, count)| (**count, **node)) else { break };
            *count += run.len();
            shared.extend(run.iter().map(|book| (*book, *to)));
        }
    }
    shared
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
        Homeless { symbol, partition, standby: standby.map(node), cause: Cause::Recovery }
    }

    #[test]
    fn a_partitions_books_stay_together() {
        let books = (0..960).map(|n| homeless(n, n as u32 % 64, None)).collect();
        let shared = share_out(books, &mut BTreeMap::from([(node(1), 1_000), (node(2), 1_000)]));
        let of_partition = |p| shared.iter().filter(move |(b, _)| b.partition == p).map(|(_, to)| *to);
        assert!((0..64).all(|p| of_partition(p).all(|to| Some(to) == of_partition(p).next())));
        assert_eq!(shared.iter().filter(|(_, to)| *to == node(1)).count(), 480);
    }

    #[test]
    fn a_book_goes_to_its_standby_if_that_takes_books() {
        let books = vec![homeless(1, 0, Some(3)), homeless(2, 0, Some(9)), homeless(3, 0, None)];
        let mut counts = BTreeMap::from([(node(2), 1), (node(3), 0)]);
        let shared = share_out(books, &mut counts);
        let to: Vec<_> = shared.iter().map(|(b, to)| (b.symbol.to_string(), *to)).collect();
        assert_eq!(to, [("S0001".into(), node(3)), ("S0002".into(), node(2)), ("S0003".into(), node(3))]);
        assert!(share_out(vec![homeless(1, 0, Some(3))], &mut BTreeMap::new()).is_empty());
    }

    proptest! {
        /// Each book once, and no node gets more than one run more than what would make all even.
        #[test]
        fn everything_is_shared_out_evenly(
            partitions in prop::collection::vec(0u32..8, 0..300),
            have in prop::collection::vec(0usize..50, 1..5),
        ) {
            let books: Vec<_> = partitions.iter().enumerate().map(|(n, p)| homeless(n, *p, None)).collect();
            let mut counts: BTreeMap<_, _> = have.iter().enumerate().map(|(n, count)| (node(n), *count)).collect();
            let shared = share_out(books.clone(), &mut counts);
            let mut symbols: Vec<_> = shared.iter().map(|(b, _)| b.symbol).collect();
            symbols.sort_unstable();
            prop_assert_eq!(symbols, books.iter().map(|b| b.symbol).collect::<Vec<_>>());
            let run_max = (books.len() / (have.len() * RUNS_PER_NODE)).max(1);
            for (n, before) in have.iter().enumerate() {
                let got = shared.iter().filter(|(_, to)| *to == node(n)).count();
                prop_assert_eq!(counts[&node(n)], before + got);
                let least = counts.values().min().copied().unwrap_or_default();
                prop_assert!(got == 0 || counts[&node(n)] <= least + run_max, "n{} got {} to {:?}", n, got, counts);
            }
        }
    }
}
