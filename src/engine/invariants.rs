//! The book's invariants (ids of docs/handover.md) as predicates, for tests and debug builds: [`check`] looks at a book at rest,
//! [`outputs::Watch`] at what it says.

pub mod outputs;

use std::collections::BTreeSet;

use super::orders::NONE;
use super::{Book, digest};
use crate::domain::Side;

/// Checks everything that must hold of a book at rest: OB2 (not crossed), OB3 (queues ascend by rank), OB4 (levels are
/// the sums of their orders), the id table, and both digests against a computation from nothing.
///
/// # Errors
/// The id of the first rule that is broken, and how.
pub fn check(book: &Book) -> Result<(), String> {
    let best = |side| book.depth(side, 1).first().map(|l| l.price);
    if let (Some(bid), Some(ask)) = (best(Side::Buy), best(Side::Sell))
        && bid >= ask
    {
        return Err(format!("OB2: bid {bid:?} is not below ask {ask:?}"));
    }
    let mut seen = BTreeSet::new();
    for side in [Side::Buy, Side::Sell] {
        check_side(book, side, &mut seen)?;
    }
    if seen.len() != book.resting_orders() {
        return Err(format!("OB4: {} orders in queues, {} in all", seen.len(), book.resting_orders()));
    }
    check_digests(book)
}

fn check_side(book: &Book, side: Side, seen: &mut BTreeSet<u32>) -> Result<(), String> {
    let levels = book.side(side);
    let mut at = levels.best();
    let mut last_step = None;
    let top = at.map_or(if side == Side::Buy { 0 } else { u64::MAX }, |place| levels.step_of(place));
    if levels.top() != top {
        return Err(format!("OB3: the best level is {top}, not {}", levels.top()));
    }
    while let Some(place) = at {
        let (level, step) = (levels.level(place), levels.step_of(place));
        let worse = |last: u64| if side == Side::Buy { step < last } else { step > last };
        if last_step.is_some_and(|last| !worse(last)) {
            return Err(format!("OB3: level {step} is out of order"));
        }
        last_step = Some(step);
        let (mut slot, mut prev, mut total, mut count, mut rank) = (level.head, NONE, 0u64, 0u32, 0);
        while slot != NONE {
            let o = book.orders.get(slot);
            // The first of a queue does not know that nobody is before it.
            let linked = slot == level.head || o.prev == prev;
            if !linked || o.rank <= rank || o.side() != side || (o.block, o.place) != place || o.open == 0 {
                return Err(format!("OB3: order with rank {} is out of place", o.rank));
            }
            if book.ids.find(o.id, &book.orders) != Some(super::ids::Found::Live(slot)) {
                return Err(format!("OB6: order with rank {} is not found by its id", o.rank));
            }
            total += u64::from(o.open);
            count += 1;
            seen.insert(slot);
            (prev, rank, slot) = (slot, o.rank, o.next);
        }
        if (total, count, prev) != (level.total, level.orders, level.tail) || count == 0 {
            return Err(format!("OB4: level {step} says {} in {}, has {total} in {count}", level.total, level.orders));
        }
        at = levels.after(place);
    }
    Ok(())
}

fn check_digests(book: &Book) -> Result<(), String> {
    let orders = || book.orders.slots().map(|slot| book.orders.get(slot));
    let (order_sum, place_sum) = orders().fold((0u128, 0u128), |sums, o| {
        let (whole, placed) = digest::of_order(o, book.price_of(o));
        (sums.0.wrapping_add(whole), sums.1.wrapping_add(placed))
    });
    let finished = book.ids.remembered();
    let finished_sum = finished.fold(0u128, |sum, (n, id)| sum.wrapping_add(digest::of_finished(id, n)));
    if (order_sum, place_sum, finished_sum) != (book.order_sum, book.place_sum, book.ids.finished_sum()) {
        return Err("SN2: a digest kept up to date differs from one computed anew".into());
    }
    Ok(())
}
