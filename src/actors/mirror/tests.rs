use proptest::prelude::*;

use super::*;
use crate::actors::toy::{Toy, id, user};
use crate::domain::output::OrderStatus;

/// A mirror that saw everything the toy said so far.
fn follow(toy: &mut Toy) -> Mirror {
    let said = toy.said();
    let mut mirror = Mirror::unborn(toy.symbol, &said[0]).unwrap();
    for output in &said {
        assert!(matches!(mirror.apply(output), Applied::Fresh { .. }));
    }
    mirror
}

fn assert_shows(mirror: &Mirror, toy: &Toy) {
    let depth = mirror.depth(usize::MAX);
    assert_eq!((depth.bids, depth.asks), (toy.levels(Side::Buy), toy.levels(Side::Sell)));
    assert_eq!(mirror.open_orders_count(), toy.open().len());
    for o in toy.open() {
        let shown = mirror.order(&o.user, &o.order_id).unwrap();
        assert_eq!((shown.remaining, shown.filled, shown.price), (o.open, o.filled, o.price));
        assert!(shown.status.is_open());
    }
}

#[test]
fn an_order_is_shown_with_its_fills_and_its_end() {
    let mut toy = Toy::listed("TSLA");
    toy.add("m", "m1", Side::Sell, 100, 5, Origin::NONE);
    toy.add("m", "m2", Side::Sell, 105, 8, Origin::NONE);
    toy.add("t", "t1", Side::Buy, 105, 10, Origin::NONE);
    toy.cancel("m", "m2", Origin::NONE);
    let mirror = follow(&mut toy);
    let taker = mirror.order(&user("t"), &id("t1")).unwrap();
    assert_eq!((taker.status, taker.filled, taker.remaining), (OrderStatus::Filled, Quantity(10), Quantity(0)));
    let fills: Vec<_> = taker.fills.iter().map(|f| (f.price.0, f.quantity.0)).collect();
    assert_eq!(fills, [(100, 5), (105, 5)]);
    // Listed 1, m1 2, m2 3, two trades, the answer.
    assert_eq!((taker.seq, taker.fills[0].seq), (Seq(6), Seq(4)));
    assert_eq!(mirror.order(&user("m"), &id("m1")).unwrap().status, OrderStatus::Filled);
    let canceled = mirror.order(&user("m"), &id("m2")).unwrap();
    assert_eq!((canceled.status, canceled.filled), (OrderStatus::Canceled, Quantity(5)));
    assert!(mirror.order(&user("t"), &id("m2")).is_none(), "another user's order");
    assert!(mirror.open_orders(&user("m")).is_empty());
    let ticker = mirror.ticker();
    assert_eq!((ticker.open, ticker.high, ticker.volume, ticker.trades), (Some(Price(100)), Some(Price(105)), 10, 2));
    assert_eq!(mirror.trades(1)[0].trade_id(), "TSLA-5");
    assert_shows(&mirror, &toy);
}

#[test]
fn repeats_are_dropped_and_a_gap_is_told() {
    let mut toy = Toy::listed("TSLA");
    toy.add("a", "1", Side::Buy, 100, 5, Origin::NONE);
    toy.add("a", "2", Side::Buy, 100, 5, Origin::NONE);
    let said = toy.said();
    let mut mirror = Mirror::unborn(toy.symbol, &said[0]).unwrap();
    mirror.apply(&said[0]);
    assert_eq!(mirror.apply(&said[2]), Applied::Gap { expected: Seq(2) });
    mirror.apply(&said[1]);
    assert_eq!(mirror.apply(&said[1]), Applied::Stale);
    mirror.apply(&said[2]);
    assert_shows(&mirror, &toy);
    assert!(Mirror::unborn(toy.symbol, &said[1]).is_none());
}

#[test]
fn finished_orders_are_bounded_and_the_oldest_go_first() {
    let mut toy = Toy::listed("TSLA");
    let mut mirror = follow(&mut toy);
    mirror.set_finished_max(3);
    for i in 0..5 {
        toy.add("a", &format!("o{i}"), Side::Buy, 100, 1, Origin::NONE);
        toy.cancel("a", &format!("o{i}"), Origin::NONE);
    }
    toy.said().iter().for_each(|o| _ = mirror.apply(o));
    let known: Vec<_> = (0..5).filter(|i| mirror.order(&user("a"), &id(&format!("o{i}"))).is_some()).collect();
    assert_eq!((known, mirror.finished_orders_count()), (vec![2, 3, 4], 3));
}

#[test]
fn a_restored_mirror_learns_what_is_older_and_changes_nothing_by_it() {
    let mut toy = Toy::listed("TSLA");
    toy.add("m", "m1", Side::Sell, 100, 5, Origin::NONE);
    toy.add("t", "t1", Side::Buy, 100, 7, Origin::NONE);
    let old = toy.said();
    let mut mirror = Mirror::restored(toy.state());
    assert_shows(&mirror, &toy);
    assert!(mirror.order(&user("m"), &id("m1")).is_none());
    // Twice: a restart of the reader.
    for output in old.iter().chain(&old) {
        assert_eq!(mirror.apply(output), Applied::Stale);
    }
    mirror.settle();
    assert_shows(&mirror, &toy);
    assert_eq!(mirror.order(&user("m"), &id("m1")).unwrap().status, OrderStatus::Filled);
    let open = mirror.order(&user("t"), &id("t1")).unwrap();
    assert_eq!((open.fills.len(), open.seq), (1, Seq(4)));
    assert_eq!((mirror.trades(9).len(), mirror.ticker().volume), (1, 5));
    toy.cancel("t", "t1", Origin::NONE);
    toy.said().iter().for_each(|o| assert!(matches!(mirror.apply(o), Applied::Fresh { .. })));
    assert_shows(&mirror, &toy);
}

/// What a client does with DEPTH messages.
#[derive(Default)]
struct Client(std::collections::BTreeMap<(Side, Price), u64>);

impl Client {
    fn take(&mut self, changes: &DepthChanges) {
        for (side, levels) in [(Side::Buy, &changes.bids), (Side::Sell, &changes.asks)] {
            for (price, quantity) in levels {
                match quantity {
                    0 => _ = self.0.remove(&(side, *price)),
                    q => _ = self.0.insert((side, *price), *q),
                }
            }
        }
    }
}

proptest! {
    /// MD1: a depth snapshot and the deltas behind it are the book, wherever one starts and however it is batched.
    #[test]
    fn depth_snapshot_and_deltas_are_the_book(
        flow in prop::collection::vec((0..3u8, any::<bool>(), 1..12u64, 1..9u64), 1..120),
        from in 0..120usize,
        batch in 1..7usize,
    ) {
        let mut toy = Toy::listed("TSLA");
        let mut mirror = follow(&mut toy);
        let mut client: Option<Client> = None;
        for (i, (what, is_buy, price, quantity)) in flow.into_iter().enumerate() {
            match toy.open().get(price as usize).copied() {
                Some(o) if what == 0 => toy.cancel(o.user.as_str(), o.order_id.as_str(), Origin::NONE),
                _ => {
                    let side = if is_buy { Side::Buy } else { Side::Sell };
                    toy.add("u", &format!("o{i}"), side, price * 5, quantity, Origin::NONE);
                }
            }
            if i % batch != 0 {
                continue;
            }
            toy.said().iter().for_each(|o| _ = mirror.apply(o));
            assert_shows(&mirror, &toy);
            let changes = mirror.take_depth_changes(true);
            if let Some(client) = &mut client {
                client.take(&changes);
                let all = [Side::Buy, Side::Sell].into_iter().flat_map(|side| {
                    toy.levels(side).into_iter().map(move |l| ((side, l.price), l.quantity))
                });
                prop_assert_eq!(&client.0, &all.collect());
            } else if i >= from {
                let depth = mirror.depth(usize::MAX);
                let pairs = |levels: Vec<Level>| levels.into_iter().map(|l| (l.price, l.quantity)).collect();
                let mut new = Client::default();
                new.take(&DepthChanges { bids: pairs(depth.bids), asks: pairs(depth.asks) });
                client = Some(new);
            }
        }
    }
}
