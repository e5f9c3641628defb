//! The rules one by one, in a trader's words (docs/matching.md). What the book says is written as short lines:
//!
//! `trade 10 @ 25000 bob/s (15+10) alice/b (0+10) level 15/1` is maker first, each with what is open + filled;
//! `alice/b ADDED NEW 10: 10+0 joined 10/1 @ 25000 !` is an order's total: open + filled, and `!` marks the answer.

use hotbook::domain::command::Listing;
use hotbook::domain::instrument::TickBand;
use hotbook::domain::output::{Level, OrderUpdate, Party};
use hotbook::domain::{
    Authority, Command, Epoch, Input, Instrument, Machine, Micros, NewOrder, NodeId, Offset, OrderId, OrderKind,
    Origin, Outbox, Output, OutputBody, Price, Quantity, SelfTrade, Seqs, Side, TimeInForce, UserId,
};
use hotbook::engine::{Book, FINISHED_MAX};

const AUTHORITY: Authority = Authority { nonce: 1, valid_until: Micros(u64::MAX) };

/// One symbol's market; each command gives the lines that the book said.
struct Market {
    book: Book,
    out: Outbox,
    records: u64,
}

impl Market {
    fn of(instrument: Instrument) -> Self {
        let mut out = Outbox::new(Seqs::default(), Epoch(0));
        let book = Book::birth(&input(0, list(instrument)), &mut out).unwrap();
        Self { book, out, records: 1 }
    }

    fn plain() -> Self {
        Self::of(Instrument::plain(2, 1, 1))
    }

    fn send(&mut self, command: Command) -> Vec<String> {
        self.out.clear();
        self.book.apply(&input(self.records, command), &mut self.out);
        self.records += 1;
        Output::decode_all(self.out.bytes()).map(|output| line(&output.unwrap())).collect()
    }

    fn add(&mut self, order: NewOrder) -> Vec<String> {
        self.send(Command::Add(order))
    }

    /// Only the answer, for orders that set a scene or whose fate is all that matters.
    fn fate(&mut self, order: NewOrder) -> String {
        self.add(order).pop().unwrap()
    }

    fn cancel(&mut self, name: &str) -> Vec<String> {
        let (user, order_id) = names(name);
        self.send(Command::Cancel { user, order_id })
    }

    fn replace(&mut self, name: &str, price: Option<u64>, quantity: Option<u64>) -> Vec<String> {
        let (user, order_id) = names(name);
        let (price, quantity) = (price.map(Price), quantity.map(Quantity));
        self.send(Command::Replace { user, order_id, price, quantity })
    }

    fn halt(&mut self) -> Vec<String> {
        self.send(Command::Halt { authority: AUTHORITY })
    }

    fn resume(&mut self) -> Vec<String> {
        self.send(Command::Resume { authority: AUTHORITY })
    }

    /// Names of the open orders in the order in which they were queued.
    fn queue(&self) -> Vec<String> {
        self.book.open_orders().iter().map(|o| format!("{}/{} {}", o.user, o.order_id, o.open.0)).collect()
    }
}

fn input(n: u64, command: Command) -> Input<Command> {
    Input { offset: Offset(n), at: Micros(n), origin: Origin { gateway: 1, counter: n }, command }
}

fn list(instrument: Instrument) -> Command {
    let owner = NodeId::new("n1").unwrap();
    Command::List {
        listing: Box::new(Listing { instrument, owner, id_key: 7, rules_version: 1 }),
        authority: AUTHORITY,
    }
}

fn names(name: &str) -> (UserId, OrderId) {
    let (user, order_id) = name.split_once('/').unwrap();
    (UserId::new(user).unwrap(), OrderId::new(order_id).unwrap())
}

fn order(name: &str, side: Side, kind: OrderKind, quantity: u64) -> NewOrder {
    let (user, order_id) = names(name);
    NewOrder {
        order_id,
        user,
        side,
        kind,
        quantity: Quantity(quantity),
        time_in_force: TimeInForce::Gtc,
        self_trade: SelfTrade::default(),
        post_only: false,
        all_or_none: false,
        display_quantity: None,
    }
}

fn buy(name: &str, quantity: u64, price: u64) -> NewOrder {
    order(name, Side::Buy, OrderKind::Limit { price: Price(price) }, quantity)
}

fn sell(name: &str, quantity: u64, price: u64) -> NewOrder {
    order(name, Side::Sell, OrderKind::Limit { price: Price(price) }, quantity)
}

fn market_buy(name: &str, quantity: u64) -> NewOrder {
    order(name, Side::Buy, OrderKind::Market, quantity)
}

fn market_sell(name: &str, quantity: u64) -> NewOrder {
    order(name, Side::Sell, OrderKind::Market, quantity)
}

fn ioc(order: NewOrder) -> NewOrder {
    NewOrder { time_in_force: TimeInForce::Ioc, ..order }
}

fn fok(order: NewOrder) -> NewOrder {
    NewOrder { time_in_force: TimeInForce::Fok, ..order }
}

fn post_only(order: NewOrder) -> NewOrder {
    NewOrder { post_only: true, ..order }
}

fn stp(self_trade: SelfTrade, order: NewOrder) -> NewOrder {
    NewOrder { self_trade, ..order }
}

fn line(output: &Output) -> String {
    let text = match &output.body {
        OutputBody::Trade(t) => {
            let party = |p: &Party| format!("{}/{} ({}+{})", p.user, p.order_id, p.open.0, p.filled.0);
            let (maker, taker) = (party(&t.maker), party(&t.taker));
            let (quantity, level) = (t.quantity.0, t.level);
            format!("trade {quantity} @ {} {maker} {taker} level {}/{}", t.price.0, level.quantity, level.orders)
        }
        OutputBody::Order(update) => order_line(update),
        OutputBody::Refused { command, reason, .. } => format!("{command:?} refused {}", reason.code()),
        OutputBody::AllCanceled { user, count } => format!("all {count} of {user} canceled"),
        OutputBody::Listed { .. } => "listed".into(),
        OutputBody::Halted => "halted".into(),
        OutputBody::Resumed => "resumed".into(),
        OutputBody::RulesSet { version } => format!("rules {version}"),
        OutputBody::SessionEnded => "session ended".into(),
    };
    if output.answer { text + " !" } else { text }
}

fn order_line(u: &OrderUpdate) -> String {
    let cause = format!("{:?}", u.cause).to_uppercase();
    let amounts = format!("{}: {}+{}", u.quantity.0, u.open.0, u.filled.0);
    let mut text = format!("{}/{} {cause} {} {amounts}", u.user, u.order_id, u.status.as_str());
    if let Some(reason) = u.reason {
        text += &format!(" {}", reason.code());
    }
    let level = |l: Level| format!("{}/{} @ {}", l.quantity, l.orders, l.price.0);
    if let Some(left) = u.left {
        text += &format!(" left {}", level(left));
    }
    if let Some(joined) = u.joined {
        text += &format!(" joined {}", level(joined));
    }
    text
}

/// The instrument of a stock: ticks grow with the price, lots of ten, limits of the day.
fn stock() -> Instrument {
    let ticks = [(0, 1), (100, 5)].map(|(from, tick)| TickBand { from: Price(from), tick }).to_vec();
    let (limit_up, limit_down) = (Some(Price(150)), Some(Price(50)));
    Instrument { ticks, limit_up, limit_down, ..Instrument::plain(2, 1, 10) }
}

fn with_max_value(max: u64, lot_size: u64) -> Market {
    Market::of(Instrument { max_order_value: Some(max), ..Instrument::plain(2, 1, lot_size) })
}

#[test]
fn a_buy_trades_at_the_best_ask_not_at_its_limit() {
    let mut m = Market::plain();
    m.add(sell("bob/s1", 25, 25_000));
    m.add(sell("bob/s2", 8, 25_050));
    let expected = ["trade 10 @ 25000 bob/s1 (15+10) alice/b (0+10) level 15/1", "alice/b ADDED FILLED 10: 0+10 !"];
    assert_eq!(m.add(buy("alice/b", 10, 25_050)), expected);
    assert_eq!(m.queue(), ["bob/s1 15", "bob/s2 8"]);
}

#[test]
fn the_same_holds_for_a_sell() {
    let mut m = Market::plain();
    m.add(buy("bob/b1", 8, 99));
    m.add(buy("bob/b2", 25, 100));
    let expected = ["trade 10 @ 100 bob/b2 (15+10) alice/s (0+10) level 15/1", "alice/s ADDED FILLED 10: 0+10 !"];
    assert_eq!(m.add(sell("alice/s", 10, 99)), expected);
}

#[test]
fn at_one_price_the_first_order_trades_first() {
    let mut m = Market::plain();
    m.add(sell("bob/first", 3, 100));
    m.add(sell("carol/second", 3, 100));
    let expected = [
        "trade 3 @ 100 bob/first (0+3) alice/b (1+3) level 3/1",
        "trade 1 @ 100 carol/second (2+1) alice/b (0+4) level 2/1",
        "alice/b ADDED FILLED 4: 0+4 !",
    ];
    assert_eq!(m.add(buy("alice/b", 4, 100)), expected);
}

#[test]
fn what_a_limit_order_cannot_fill_rests() {
    let mut m = Market::plain();
    assert_eq!(m.add(sell("bob/s", 4, 100)), ["bob/s ADDED NEW 4: 4+0 joined 4/1 @ 100 !"]);
    let expected = [
        "trade 4 @ 100 bob/s (0+4) alice/b (6+4) level 0/0",
        "alice/b ADDED PARTIALLY_FILLED 10: 6+4 joined 6/1 @ 101 !",
    ];
    assert_eq!(m.add(buy("alice/b", 10, 101)), expected);
}

#[test]
fn an_ioc_order_never_rests() {
    let mut m = Market::plain();
    m.add(sell("bob/s", 4, 100));
    assert_eq!(m.fate(ioc(buy("alice/b", 10, 100))), "alice/b ADDED CANCELED 10: 0+4 ioc_remainder !");
    assert_eq!(m.fate(ioc(buy("alice/none", 10, 100))), "alice/none ADDED CANCELED 10: 0+0 ioc_remainder !");
    assert!(m.queue().is_empty());
}

#[test]
fn a_fok_order_trades_whole_or_not_at_all() {
    let mut m = Market::plain();
    m.add(sell("bob/s1", 4, 100));
    m.add(sell("bob/s2", 4, 101));
    assert_eq!(m.add(fok(buy("alice/many", 9, 101))), ["alice/many ADDED CANCELED 9: 0+0 fok_not_fillable !"]);
    assert_eq!(m.add(fok(buy("alice/low", 5, 100))), ["alice/low ADDED CANCELED 5: 0+0 fok_not_fillable !"]);
    assert_eq!(m.queue(), ["bob/s1 4", "bob/s2 4"]);
    assert_eq!(m.fate(fok(buy("alice/all", 8, 101))), "alice/all ADDED FILLED 8: 0+8 !");
}

#[test]
fn a_fok_order_counts_own_orders_as_its_stp_says() {
    for (self_trade, fate) in [
        (SelfTrade::CancelNewest, "CANCELED 6: 0+0 fok_not_fillable"),
        (SelfTrade::CancelBoth, "CANCELED 6: 0+0 fok_not_fillable"),
        (SelfTrade::Decrement, "CANCELED 6: 0+0 fok_not_fillable"),
        (SelfTrade::CancelOldest, "FILLED 6: 0+6"),
        (SelfTrade::None, "FILLED 6: 0+6"),
    ] {
        let mut m = Market::plain();
        m.add(sell("bob/s1", 3, 100));
        m.add(sell("alice/own", 2, 101));
        m.add(sell("bob/s2", 3, 102));
        assert_eq!(m.fate(stp(self_trade, fok(buy("alice/b", 6, 102)))), format!("alice/b ADDED {fate} !"));
    }
}

#[test]
fn a_fok_order_filled_before_it_meets_its_own_order_trades() {
    let mut m = Market::plain();
    m.add(sell("bob/s", 3, 100));
    m.add(sell("alice/own", 2, 100));
    assert_eq!(m.fate(fok(buy("alice/b", 3, 100))), "alice/b ADDED FILLED 3: 0+3 !");
    assert_eq!(m.queue(), ["alice/own 2"]);
}

#[test]
fn a_market_order_takes_what_there_is_and_never_rests() {
    let mut m = Market::plain();
    m.add(sell("bob/s1", 2, 100));
    m.add(sell("bob/s2", 2, 9_000));
    assert_eq!(m.fate(market_buy("alice/b", 3)), "alice/b ADDED FILLED 3: 0+3 !");
    assert_eq!(m.fate(market_buy("alice/c", 3)), "alice/c ADDED CANCELED 3: 0+1 no_liquidity !");
    assert_eq!(m.fate(ioc(market_buy("alice/d", 3))), "alice/d ADDED CANCELED 3: 0+0 no_liquidity !");
    assert_eq!(m.fate(fok(market_buy("alice/e", 3))), "alice/e ADDED CANCELED 3: 0+0 fok_not_fillable !");
}

#[test]
fn cancel_newest_ends_the_order_that_came() {
    let mut m = Market::plain();
    m.add(sell("bob/s", 2, 100));
    m.add(sell("alice/own", 5, 101));
    let expected = ["trade 2 @ 100 bob/s (0+2) alice/b (4+2) level 0/0", "alice/b ADDED CANCELED 6: 0+2 self_trade !"];
    assert_eq!(m.add(stp(SelfTrade::CancelNewest, buy("alice/b", 6, 101))), expected);
    assert_eq!(m.queue(), ["alice/own 5"]);
}

#[test]
fn cancel_oldest_ends_the_resting_order_and_goes_on() {
    let mut m = Market::plain();
    m.add(sell("alice/own", 5, 100));
    m.add(sell("bob/s", 2, 100));
    let expected = [
        "alice/own CANCELED CANCELED 5: 0+0 self_trade left 2/1 @ 100",
        "trade 2 @ 100 bob/s (0+2) alice/b (4+2) level 0/0",
        "alice/b ADDED PARTIALLY_FILLED 6: 4+2 joined 4/1 @ 100 !",
    ];
    assert_eq!(m.add(stp(SelfTrade::CancelOldest, buy("alice/b", 6, 100))), expected);
}

#[test]
fn cancel_both_ends_both() {
    let mut m = Market::plain();
    m.add(sell("alice/own", 5, 100));
    m.add(sell("bob/s", 2, 100));
    let expected =
        ["alice/own CANCELED CANCELED 5: 0+0 self_trade left 2/1 @ 100", "alice/b ADDED CANCELED 6: 0+0 self_trade !"];
    assert_eq!(m.add(stp(SelfTrade::CancelBoth, buy("alice/b", 6, 100))), expected);
    assert_eq!(m.queue(), ["bob/s 2"]);
}

#[test]
fn decrement_takes_the_smaller_quantity_from_both() {
    // The one that came is smaller: it ends, the resting one keeps its place with less.
    let mut m = Market::plain();
    m.add(sell("alice/own", 5, 100));
    m.add(sell("bob/s", 2, 100));
    let expected =
        ["alice/own REDUCED NEW 5: 2+0 self_trade left 4/2 @ 100", "alice/b ADDED CANCELED 3: 0+0 self_trade !"];
    assert_eq!(m.add(stp(SelfTrade::Decrement, buy("alice/b", 3, 100))), expected);
    assert_eq!(m.queue(), ["alice/own 2", "bob/s 2"]);

    // The resting one is smaller: it ends, the one that came goes on with the rest.
    let expected = [
        "alice/own CANCELED CANCELED 5: 0+0 self_trade left 2/1 @ 100",
        "trade 2 @ 100 bob/s (0+2) alice/c (1+2) level 0/0",
        "alice/c ADDED PARTIALLY_FILLED 5: 1+2 joined 1/1 @ 100 !",
    ];
    assert_eq!(m.add(stp(SelfTrade::Decrement, buy("alice/c", 5, 100))), expected);

    // Equal: both end.
    let expected =
        ["alice/c CANCELED CANCELED 5: 0+2 self_trade left 0/0 @ 100", "alice/d ADDED CANCELED 1: 0+0 self_trade !"];
    assert_eq!(m.add(stp(SelfTrade::Decrement, sell("alice/d", 1, 100))), expected);
}

#[test]
fn with_stp_none_a_user_trades_with_himself() {
    let mut m = Market::plain();
    m.add(sell("alice/own", 5, 100));
    let expected = ["trade 3 @ 100 alice/own (2+3) alice/b (0+3) level 2/1", "alice/b ADDED FILLED 3: 0+3 !"];
    assert_eq!(m.add(stp(SelfTrade::None, buy("alice/b", 3, 100))), expected);
}

#[test]
fn the_stp_of_the_incoming_order_counts() {
    let mut m = Market::plain();
    m.add(stp(SelfTrade::None, sell("alice/own", 5, 100)));
    assert_eq!(m.fate(buy("alice/b", 3, 100)), "alice/b ADDED CANCELED 3: 0+0 self_trade !");
}

#[test]
fn a_post_only_order_never_takes() {
    let mut m = Market::plain();
    m.add(sell("bob/s", 5, 100));
    let refused = "alice/b ADDED REJECTED 3: 0+0 post_only_would_trade !";
    assert_eq!(m.add(post_only(buy("alice/b", 3, 100))), [refused]);
    assert_eq!(m.fate(post_only(buy("alice/c", 3, 99))), "alice/c ADDED NEW 3: 3+0 joined 3/1 @ 99 !");
    // An own order on the other side stands in the way as well.
    let refused = "bob/d ADDED REJECTED 3: 0+0 post_only_would_trade !";
    assert_eq!(m.add(post_only(stp(SelfTrade::CancelOldest, buy("bob/d", 3, 100)))), [refused]);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let mut m = Market::plain();
    for (n, order) in [market_buy("a/0", 1), ioc(buy("a/1", 1, 100)), fok(buy("a/2", 1, 100))].into_iter().enumerate() {
        assert_eq!(m.fate(post_only(order)), format!("a/{n} ADDED REJECTED 1: 0+0 invalid_combination !"));
    }
}

#[test]
fn kinds_of_a_later_rules_version_are_refused() {
    let mut m = Market::plain();
    let (stop_price, price) = (Price(100), Price(100));
    let limit = |name| buy(name, 1, 100);
    let orders = [
        order("a/0", Side::Buy, OrderKind::Stop { stop_price }, 1),
        order("a/1", Side::Buy, OrderKind::StopLimit { stop_price, price }, 1),
        NewOrder { time_in_force: TimeInForce::Day, ..limit("a/2") },
        NewOrder { time_in_force: TimeInForce::Gtd { expire_at: Micros(9) }, ..limit("a/3") },
        NewOrder { all_or_none: true, ..limit("a/4") },
        NewOrder { display_quantity: Some(Quantity(1)), ..limit("a/5") },
    ];
    for (n, order) in orders.into_iter().enumerate() {
        assert_eq!(m.fate(order), format!("a/{n} ADDED REJECTED 1: 0+0 not_supported !"));
    }
}

#[test]
fn prices_and_quantities_follow_the_instrument() {
    let mut m = Market::of(stock());
    for (n, (quantity, price, reason)) in [
        (0, 100, "invalid_quantity"),
        (1_000_000_010, 100, "invalid_quantity"),
        (15, 100, "quantity_not_on_lot"),
        (10, 0, "invalid_price"),
        (10, 155, "price_above_limit"),
        (10, 49, "price_below_limit"),
        (10, 102, "price_not_on_tick"),
        // The quantity is looked at before the price.
        (15, 0, "quantity_not_on_lot"),
    ]
    .into_iter()
    .enumerate()
    {
        let expected = format!("a/{n} ADDED REJECTED {quantity}: 0+0 {reason} !");
        assert_eq!(m.fate(buy(&format!("a/{n}"), quantity, price)), expected);
    }
    assert_eq!(m.fate(buy("a/up", 10, 99)), "a/up ADDED NEW 10: 10+0 joined 10/1 @ 99 !");
    assert_eq!(m.fate(sell("a/limit", 10, 150)), "a/limit ADDED NEW 10: 10+0 joined 10/1 @ 150 !");
    assert_eq!(m.fate(buy("a/down", 10, 50)), "a/down ADDED NEW 10: 10+0 joined 10/1 @ 50 !");
}

#[test]
fn the_limits_are_prices_at_which_market_orders_trade() {
    let mut m = Market::of(stock());
    m.add(sell("bob/up", 10, 150));
    m.add(buy("bob/down", 10, 50));
    assert_eq!(m.fate(market_buy("alice/b", 20)), "alice/b ADDED CANCELED 20: 0+10 no_liquidity !");
    assert_eq!(m.fate(market_sell("alice/s", 10)), "alice/s ADDED FILLED 10: 0+10 !");
}

#[test]
fn an_order_stays_within_the_largest_value() {
    let mut m = with_max_value(1_000, 1);
    assert_eq!(m.fate(buy("a/most", 10, 100)), "a/most ADDED NEW 10: 10+0 joined 10/1 @ 100 !");
    assert_eq!(m.fate(buy("a/more", 11, 100)), "a/more ADDED REJECTED 11: 0+0 order_value_above_max !");
    let refused = ["Replace refused order_value_above_max !"];
    assert_eq!(m.replace("a/most", None, Some(11)), refused);
    assert_eq!(m.replace("a/most", Some(101), None), refused);
}

#[test]
fn a_market_order_spends_no_more_than_the_largest_value() {
    let mut m = with_max_value(1_000, 3);
    m.add(sell("bob/s1", 3, 100));
    m.add(sell("bob/s2", 9, 101));
    // 300 are spent; the other 700 pay for 6.9 at 101, that is two lots of three.
    let expected = [
        "trade 3 @ 100 bob/s1 (0+3) alice/b (9+3) level 0/0",
        "trade 6 @ 101 bob/s2 (3+6) alice/b (3+9) level 3/1",
        "alice/b ADDED CANCELED 12: 0+9 order_value_above_max !",
    ];
    assert_eq!(m.add(market_buy("alice/b", 12)), expected);
    m.add(sell("bob/s3", 9, 101));
    assert_eq!(m.fate(fok(market_buy("alice/c", 12))), "alice/c ADDED CANCELED 12: 0+0 fok_not_fillable !");
    assert_eq!(m.fate(fok(market_buy("alice/d", 9))), "alice/d ADDED FILLED 9: 0+9 !");
}

#[test]
fn an_order_id_makes_one_order() {
    let mut m = Market::plain();
    let duplicate = ["Add refused duplicate_order !"];
    m.add(buy("alice/x", 5, 100));
    assert_eq!(m.add(buy("alice/x", 5, 100)), duplicate);
    assert_eq!(m.queue(), ["alice/x 5"]);
    // Another user may use the same id.
    assert_eq!(m.fate(buy("bob/x", 5, 100)), "bob/x ADDED NEW 5: 5+0 joined 10/2 @ 100 !");
    m.cancel("alice/x");
    assert_eq!(m.add(buy("alice/x", 5, 100)), duplicate);
    // A refused order has used up its id, and a filled one.
    m.add(buy("alice/bad", 0, 100));
    assert_eq!(m.add(buy("alice/bad", 5, 100)), duplicate);
    m.add(sell("alice/s", 5, 100));
    assert_eq!(m.add(buy("bob/x", 5, 100)), duplicate);
    // A repeat is a repeat even while trading is halted.
    m.halt();
    assert_eq!(m.add(buy("alice/s", 5, 100)), duplicate);
}

#[test]
fn an_id_is_remembered_for_65536_endings() {
    assert_eq!(FINISHED_MAX, 65_536);
    let mut m = Market::plain();
    let refused = |m: &mut Market, n: usize| m.fate(buy(&format!("a/{n}"), 0, 100));
    for n in 0..FINISHED_MAX {
        refused(&mut m, n);
    }
    assert_eq!(refused(&mut m, 0), "Add refused duplicate_order !");
    refused(&mut m, FINISHED_MAX);
    assert_eq!(refused(&mut m, 1), "Add refused duplicate_order !");
    assert_eq!(refused(&mut m, 0), "a/0 ADDED REJECTED 0: 0+0 invalid_quantity !");
}

#[test]
fn a_cancel_takes_an_own_open_order_out() {
    let mut m = Market::plain();
    m.add(buy("alice/b", 5, 100));
    m.add(buy("bob/b", 2, 100));
    m.add(sell("carol/s", 1, 100));
    assert_eq!(m.cancel("bob/none"), ["Cancel refused unknown_order !"]);
    let canceled = ["alice/b CANCELED CANCELED 5: 0+1 canceled_by_user left 2/1 @ 100 !"];
    assert_eq!(m.cancel("alice/b"), canceled);
    assert_eq!(m.cancel("alice/b"), ["Cancel refused unknown_order !"]);
}

#[test]
fn nobody_touches_another_users_order() {
    let mut m = Market::plain();
    m.add(buy("alice/b", 5, 100));
    assert_eq!(m.cancel("bob/b"), ["Cancel refused unknown_order !"]);
    assert_eq!(m.replace("bob/b", None, Some(1)), ["Replace refused unknown_order !"]);
    assert_eq!(m.queue(), ["alice/b 5"]);
}

#[test]
fn cancel_all_goes_in_the_order_of_queueing() {
    let mut m = Market::plain();
    m.add(buy("alice/1", 5, 100));
    m.add(buy("bob/1", 5, 100));
    m.add(sell("alice/2", 4, 110));
    m.add(buy("alice/3", 3, 90));
    m.replace("alice/1", None, Some(6));
    let user = UserId::new("alice").unwrap();
    let expected = [
        "alice/2 CANCELED CANCELED 4: 0+0 cancel_all left 0/0 @ 110",
        "alice/3 CANCELED CANCELED 3: 0+0 cancel_all left 0/0 @ 90",
        "alice/1 CANCELED CANCELED 6: 0+0 cancel_all left 5/1 @ 100",
        "all 3 of alice canceled !",
    ];
    assert_eq!(m.send(Command::CancelAll { user, authority: AUTHORITY }), expected);
    assert_eq!(m.send(Command::CancelAll { user, authority: AUTHORITY }), ["all 0 of alice canceled !"]);
    assert_eq!(m.queue(), ["bob/1 5"]);
}

/// Two buys at one price, the first of them 10 of which 4 are filled.
fn two_buys() -> Market {
    let mut m = Market::plain();
    m.add(buy("alice/x", 10, 100));
    m.add(buy("bob/y", 5, 100));
    m.add(sell("carol/s", 4, 100));
    m
}

#[test]
fn less_quantity_at_the_same_price_keeps_the_place() {
    let mut m = two_buys();
    let expected = ["alice/x REPLACED PARTIALLY_FILLED 6: 2+4 left 7/2 @ 100 !"];
    assert_eq!(m.replace("alice/x", Some(100), Some(6)), expected);
    assert_eq!(m.queue(), ["alice/x 2", "bob/y 5"]);
}

#[test]
fn more_quantity_or_another_price_goes_to_the_back() {
    let mut m = two_buys();
    let expected = ["alice/x REPLACED PARTIALLY_FILLED 11: 7+4 left 5/1 @ 100 joined 12/2 @ 100 !"];
    assert_eq!(m.replace("alice/x", None, Some(11)), expected);
    assert_eq!(m.queue(), ["bob/y 5", "alice/x 7"]);
    let expected = ["bob/y REPLACED NEW 5: 5+0 left 7/1 @ 100 joined 5/1 @ 101 !"];
    assert_eq!(m.replace("bob/y", Some(101), None), expected);
    let expected = ["bob/y REPLACED NEW 3: 3+0 left 0/0 @ 101 joined 10/2 @ 100 !"];
    assert_eq!(m.replace("bob/y", Some(100), Some(3)), expected);
    assert_eq!(m.queue(), ["alice/x 7", "bob/y 3"]);
}

#[test]
fn the_same_values_change_nothing() {
    let mut m = two_buys();
    let same = ["alice/x REPLACED PARTIALLY_FILLED 10: 6+4 !"];
    assert_eq!(m.replace("alice/x", None, None), same);
    assert_eq!(m.replace("alice/x", Some(100), Some(10)), same);
    assert_eq!(m.queue(), ["alice/x 6", "bob/y 5"]);
}

#[test]
fn a_total_at_or_below_what_is_filled_ends_the_order() {
    for total in [4, 3, 0] {
        let mut m = two_buys();
        let expected = ["alice/x REPLACED CANCELED 10: 0+4 replaced_below_filled left 5/1 @ 100 !"];
        assert_eq!(m.replace("alice/x", Some(90), Some(total)), expected);
        assert_eq!(m.add(buy("alice/x", 1, 100)), ["Add refused duplicate_order !"]);
    }
}

#[test]
fn what_decrement_took_is_not_to_be_had_again() {
    let mut m = Market::plain();
    m.add(sell("alice/own", 10, 100));
    m.add(stp(SelfTrade::Decrement, buy("alice/b", 3, 100)));
    assert_eq!(m.replace("alice/own", None, Some(9)), ["alice/own REPLACED NEW 9: 6+0 left 6/1 @ 100 !"]);
    let ended = ["alice/own REPLACED CANCELED 9: 0+0 replaced_below_filled left 0/0 @ 100 !"];
    assert_eq!(m.replace("alice/own", None, Some(3)), ended);
}

#[test]
fn a_replaced_order_that_crosses_trades_as_a_taker() {
    let mut m = two_buys();
    m.add(sell("carol/t", 2, 105));
    let expected = [
        "trade 2 @ 105 carol/t (0+2) alice/x (4+6) level 0/0",
        "alice/x REPLACED PARTIALLY_FILLED 10: 4+6 left 5/1 @ 100 joined 4/1 @ 106 !",
    ];
    assert_eq!(m.replace("alice/x", Some(106), None), expected);
    m.add(sell("carol/u", 9, 107));
    let expected =
        ["trade 4 @ 107 carol/u (5+4) alice/x (0+10) level 5/1", "alice/x REPLACED FILLED 10: 0+10 left 0/0 @ 106 !"];
    assert_eq!(m.replace("alice/x", Some(107), None), expected);
}

#[test]
fn a_replaced_order_keeps_its_stp() {
    let mut m = Market::plain();
    m.add(sell("alice/own", 5, 105));
    m.add(stp(SelfTrade::CancelNewest, buy("alice/x", 10, 100)));
    let expected = ["alice/x REPLACED CANCELED 10: 0+0 self_trade left 0/0 @ 100 !"];
    assert_eq!(m.replace("alice/x", Some(105), None), expected);
    m.add(stp(SelfTrade::CancelOldest, buy("alice/z", 10, 100)));
    let expected = [
        "alice/own CANCELED CANCELED 5: 0+0 self_trade left 0/0 @ 105",
        "alice/z REPLACED NEW 10: 10+0 left 0/0 @ 100 joined 10/1 @ 105 !",
    ];
    assert_eq!(m.replace("alice/z", Some(105), None), expected);
}

#[test]
fn a_replaced_order_stays_post_only() {
    let mut m = Market::plain();
    m.add(sell("bob/s", 5, 105));
    m.add(post_only(buy("alice/x", 10, 100)));
    assert_eq!(m.replace("alice/x", Some(105), None), ["Replace refused post_only_would_trade !"]);
    let moved = ["alice/x REPLACED NEW 10: 10+0 left 0/0 @ 100 joined 10/1 @ 104 !"];
    assert_eq!(m.replace("alice/x", Some(104), None), moved);
}

#[test]
fn a_refused_replace_leaves_the_order_as_it_was() {
    let mut m = Market::of(stock());
    m.add(buy("alice/x", 20, 100));
    for (price, quantity, reason) in [
        (None, Some(1_000_000_010), "invalid_quantity"),
        (None, Some(15), "quantity_not_on_lot"),
        (Some(0), None, "invalid_price"),
        (Some(102), None, "price_not_on_tick"),
        (Some(155), None, "price_above_limit"),
        (Some(49), None, "price_below_limit"),
    ] {
        assert_eq!(m.replace("alice/x", price, quantity), [format!("Replace refused {reason} !")]);
        assert_eq!(m.queue(), ["alice/x 20"]);
    }
}

#[test]
fn a_halt_lets_only_cancels_pass() {
    let mut m = Market::plain();
    m.add(buy("alice/b", 5, 100));
    assert_eq!(m.resume(), ["Resume refused not_halted !"]);
    assert_eq!(m.halt(), ["halted !"]);
    assert_eq!(m.halt(), ["Halt refused already_halted !"]);
    // A halt is the first thing that is looked at.
    assert_eq!(m.add(sell("bob/s", 0, 100)), ["bob/s ADDED REJECTED 0: 0+0 symbol_halted !"]);
    assert_eq!(m.replace("alice/b", None, Some(1)), ["Replace refused symbol_halted !"]);
    assert_eq!(m.replace("alice/none", None, Some(1)), ["Replace refused unknown_order !"]);
    assert_eq!(m.cancel("alice/b"), ["alice/b CANCELED CANCELED 5: 0+0 canceled_by_user left 0/0 @ 100 !"]);
    assert_eq!(m.resume(), ["resumed !"]);
    assert_eq!(m.fate(buy("alice/c", 1, 100)), "alice/c ADDED NEW 1: 1+0 joined 1/1 @ 100 !");
}

#[test]
fn control_records_are_answered_once() {
    let mut m = Market::plain();
    let authority = AUTHORITY;
    assert_eq!(m.send(list(stock())), ["List refused symbol_exists !"]);
    assert_eq!(m.send(Command::Rules { version: 1, authority }), ["rules 1 !"]);
    assert_eq!(m.send(Command::Rules { version: 3, authority }), ["Rules refused rules_version_unknown !"]);
    assert_eq!(m.send(Command::Session { authority }), ["session ended !"]);
    assert!(m.send(Command::Tick { authority }).is_empty());
}
