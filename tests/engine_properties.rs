//! The engine against the naive matcher, over random streams of records with all kinds and flags together: same outputs,
//! same orders, and every invariant after each record.

use hotbook::domain::command::{Listing, Signed, SignedOrder};
use hotbook::domain::control::Stamp;
use hotbook::domain::instrument::TickBand;
use hotbook::domain::{
    Admission, Authority, Command, Epoch, Input, Instrument, Machine, Micros, NewOrder, NodeId, Offset, OrderId,
    OrderKind, Origin, Outbox, Output, OutputBody, Price, Quantity, SelfTrade, Seqs, Side, TimeInForce, UserId,
};
use hotbook::engine::invariants::{self, outputs::Watch};
use hotbook::engine::{Book, FINISHED_MAX};
use hotbook::migration::naive::{self, NaiveBook};
use proptest::prelude::*;

/// Few of each, so that everything meets everything.
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const IDS: u8 = 12;
const PRICES: std::ops::Range<u64> = 96..106;

fn authority() -> Authority {
    Authority { nonce: 1, valid_until: Micros(u64::MAX) }
}

fn user() -> impl Strategy<Value = UserId> {
    (0..USERS.len()).prop_map(|n| UserId::new(USERS[n]).unwrap())
}

fn order_id() -> impl Strategy<Value = OrderId> {
    // Short names, and ones that look like a UUID: snapshots write those differently.
    (0..IDS).prop_map(|n| {
        let text = if n % 2 == 0 { format!("o{n}") } else { format!("00000000-0000-4000-8000-0000000000{n:02x}") };
        OrderId::new(&text).unwrap()
    })
}

fn price() -> impl Strategy<Value = Price> {
    let far = prop::sample::select(vec![0, 1, 7, 64, 6_400, 1_000_000, 1_000_000_000_000_000, Price::MAX.0 + 1]);
    prop_oneof![16 => PRICES.prop_map(Price), 1 => far.prop_map(Price)]
}

fn quantity() -> impl Strategy<Value = Quantity> {
    let odd = prop::sample::select(vec![0, 1_000, Quantity::MAX.0, Quantity::MAX.0 + 1, u64::MAX]);
    prop_oneof![20 => (1..15u64).prop_map(Quantity), 1 => odd.prop_map(Quantity)]
}

fn kind() -> impl Strategy<Value = OrderKind> {
    prop_oneof![
        20 => price().prop_map(|price| OrderKind::Limit { price }),
        4 => Just(OrderKind::Market),
        1 => price().prop_map(|stop_price| OrderKind::Stop { stop_price }),
        1 => (price(), price()).prop_map(|(stop_price, price)| OrderKind::StopLimit { stop_price, price }),
    ]
}

fn time_in_force() -> impl Strategy<Value = TimeInForce> {
    prop_oneof![
        14 => Just(TimeInForce::Gtc),
        3 => Just(TimeInForce::Ioc),
        3 => Just(TimeInForce::Fok),
        1 => Just(TimeInForce::Day),
        1 => Just(TimeInForce::Gtd { expire_at: Micros(5) }),
    ]
}

fn self_trade() -> impl Strategy<Value = SelfTrade> {
    use SelfTrade::{CancelBoth, CancelNewest, CancelOldest, Decrement, None};
    prop::sample::select(vec![CancelNewest, CancelOldest, CancelBoth, Decrement, None])
}

fn add() -> impl Strategy<Value = Command> {
    let flags = (prop::bool::weighted(0.12), prop::bool::weighted(0.02), prop::bool::weighted(0.02));
    let who = (order_id(), user(), any::<bool>());
    (who, kind(), quantity(), time_in_force(), self_trade(), flags).prop_map(
        |((order_id, user, buy), kind, quantity, time_in_force, self_trade, (post_only, all_or_none, iceberg))| {
            let side = if buy { Side::Buy } else { Side::Sell };
            let display_quantity = iceberg.then_some(Quantity(1));
            Command::Add(NewOrder {
                order_id,
                user,
                side,
                kind,
                quantity,
                time_in_force,
                self_trade,
                post_only,
                all_or_none,
                display_quantity,
            })
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let replace = (user(), order_id(), prop::option::of(price()), prop::option::of(quantity()));
    let authority = authority();
    prop_oneof![
        40 => add(),
        8 => (user(), order_id()).prop_map(|(user, order_id)| Command::Cancel { user, order_id }),
        20 => replace
            .prop_map(|(user, order_id, price, quantity)| Command::Replace { user, order_id, price, quantity }),
        1 => user().prop_map(move |user| Command::CancelAll { user, authority }),
        1 => Just(Command::Halt { authority }),
        3 => Just(Command::Resume { authority }),
        1 => instrument().prop_map(move |i| list(i, 9)),
        1 => (0..4u32).prop_map(move |version| Command::Rules { version, authority }),
        1 => Just(Command::Session { authority }),
        1 => Just(Command::Tick { authority }),
    ]
}

fn instrument() -> impl Strategy<Value = Instrument> {
    let limits = prop_oneof![Just((None, None)), Just((Some(Price(104)), Some(Price(97))))];
    let ticks = prop::sample::select(vec![vec![(0, 1)], vec![(0, 1), (100, 2)], vec![(0, 4), (98, 2)]]);
    let max_value = prop::option::of(400..2_000u64);
    let admission = prop::sample::select(vec![Admission::Open, Admission::Open, Admission::Gateway]);
    (ticks, prop::sample::select(vec![1u64, 1, 1, 3]), limits, max_value, admission).prop_map(
        |(ticks, lot, (limit_up, limit_down), max_order_value, admission)| {
            let ticks = ticks.into_iter().map(|(from, tick)| TickBand { from: Price(from), tick }).collect();
            Instrument { ticks, limit_up, limit_down, max_order_value, admission, ..Instrument::plain(2, 1, lot) }
        },
    )
}

fn list(instrument: Instrument, id_key: u128) -> Command {
    let owner = NodeId::new("n1").unwrap();
    let rules_version = instrument.rules_needed();
    Command::List { listing: Box::new(Listing { instrument, owner, id_key, rules_version }), authority: authority() }
}

/// Signs most of the orders if the book wants it, and a few if not: some with a number that was there before, some too late.
fn sign(commands: &mut [Command], admission: Admission, dice: &[u8]) {
    for (n, command) in commands.iter_mut().enumerate() {
        let dice = dice[n % dice.len()];
        let order = match *command {
            Command::Add(order) => SignedOrder::Add(order),
            Command::Replace { user, order_id, price, quantity } => {
                SignedOrder::Replace { user, order_id, price, quantity }
            }
            _ => continue,
        };
        if dice.is_multiple_of(8) == (admission == Admission::Open) {
            let number = n as u64 + 4 - if dice % 8 == 1 { 3 } else { 0 };
            let valid_until = Micros(1_000 + n as u64 * 10 + u64::from(dice) * 2);
            let stamp = Stamp { gateway: 1 + u64::from(dice / 8 % 2), number, valid_until };
            *command = Command::Signed(Box::new(Signed { stamp, order }));
        }
    }
}

/// Gives the commands offsets with gaps (the records of other symbols), and times that may go back.
fn log(commands: Vec<Command>, times: &[u8]) -> Vec<Input<Command>> {
    let at = |n: usize| 1_000 + n as u64 * 10 + u64::from(times[n % times.len()]);
    let input = |(n, command)| {
        let (offset, origin) = (Offset(n as u64 * 3), Origin { gateway: 5, counter: n as u64 });
        Input { offset, at: Micros(at(n)), origin, command }
    };
    commands.into_iter().enumerate().map(input).collect()
}

/// How far apart neighbouring prices are: levels side by side, in blocks of their own, and beyond any window.
const SPREADS: [u64; 8] = [1, 1, 1, 70, 70_000, 150_000, 310_000, 1_000_000_000_000];

fn spread_out(command: &mut Command, spread: u64) {
    let far = |p: Price| Price(p.0.saturating_mul(spread));
    match command {
        Command::Add(NewOrder { kind: OrderKind::Limit { price }, .. }) => *price = far(*price),
        Command::Replace { price: Some(price), .. } => *price = far(*price),
        _ => {}
    }
}

fn records() -> impl Strategy<Value = Vec<Input<Command>>> {
    let commands = prop::collection::vec(command(), 1..160);
    let spread = prop::sample::select(SPREADS.to_vec());
    (instrument(), any::<u128>(), commands, prop::collection::vec(any::<u8>(), 1..9), spread).prop_map(
        |(mut instrument, id_key, mut commands, times, spread)| {
            if spread > 1 {
                let admission = instrument.admission;
                instrument = Instrument { admission, ..Instrument::plain(2, 1, instrument.lot_size) };
                commands.iter_mut().for_each(|c| spread_out(c, spread));
            }
            sign(&mut commands, instrument.admission, &times);
            commands.insert(0, list(instrument, id_key));
            log(commands, &times)
        },
    )
}

fn outbox() -> Outbox {
    Outbox::new(Seqs::default(), Epoch(0))
}

fn decoded(bytes: &[u8]) -> Vec<Output> {
    Output::decode_all(bytes).map(Result::unwrap).collect()
}

fn said(outputs: &[Output]) -> Vec<(OutputBody, bool)> {
    outputs.iter().map(|o| (o.body.clone(), o.answer)).collect()
}

fn through_a_snapshot(book: &Book) -> Book {
    let mut bytes = Vec::new();
    book.encode(&mut bytes);
    Book::decode(&bytes).unwrap()
}

/// What others may see of a book is what the naive matcher has.
fn same_book(book: &Book, naive: &NaiveBook) -> Result<(), TestCaseError> {
    let (orders, expected) = (book.open_orders(), naive.open_orders());
    prop_assert_eq!(orders.len(), expected.len());
    for (order, expected) in orders.iter().zip(&expected) {
        prop_assert_eq!((order.user, order.order_id), (expected.user, expected.order_id));
        prop_assert_eq!((order.side, order.price), (expected.side, Some(expected.price)));
        prop_assert_eq!(
            (order.quantity.0, order.open.0, order.filled.0),
            (expected.quantity, expected.open, expected.filled)
        );
    }
    for side in [Side::Buy, Side::Sell] {
        prop_assert_eq!(book.depth(side, usize::MAX), naive.depth(side));
    }
    prop_assert_eq!(book.last_trade(), naive.last_trade());
    prop_assert_eq!(book.is_halted(), naive.is_halted());
    prop_assert_eq!(book.rules_version(), naive.rules_version());
    Ok(())
}

fn birth(input: &Input<Command>, out: &mut Outbox) -> (Book, NaiveBook, naive::Said) {
    let Command::List { listing, .. } = &input.command else { panic!("the first record lists the symbol") };
    let (naive, said) = NaiveBook::birth(listing).unwrap();
    (Book::birth(input, out).unwrap(), naive, said)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// OB1 to OB6, LG1 and equal outputs after each record.
    #[test]
    fn the_engine_says_what_the_naive_matcher_says(records in records()) {
        let mut out = outbox();
        let (mut book, mut naive, expected) = birth(&records[0], &mut out);
        let mut watch = Watch::default();
        let outputs = decoded(out.bytes());
        prop_assert_eq!(said(&outputs), expected);
        watch.follow(&records[0], &outputs).map_err(TestCaseError::fail)?;
        let mut clock = records[0].at;
        for input in &records[1..] {
            clock = clock.max(input.at);
            out.clear();
            book.apply(input, &mut out);
            let outputs = decoded(out.bytes());
            prop_assert_eq!(said(&outputs), naive.apply(&input.command, clock), "offset {}", input.offset);
            watch.follow(input, &outputs).map_err(TestCaseError::fail)?;
            invariants::check(&book).map_err(TestCaseError::fail)?;
            prop_assert_eq!(watch.open_orders(), book.resting_orders());
            same_book(&book, &naive)?;
        }
    }

    /// LG1: the same bytes whatever the batching. SN2: the same bytes and digests through snapshots at any points.
    #[test]
    fn batches_and_snapshots_change_nothing(
        records in records(), sizes in prop::collection::vec(1usize..40, 1..20)
    ) {
        let (mut one, mut many, mut through) = (outbox(), outbox(), outbox());
        let (mut single, _, _) = birth(&records[0], &mut one);
        let (mut batched, _, _) = birth(&records[0], &mut many);
        let (mut restored, _, _) = birth(&records[0], &mut through);
        let (mut rest, mut sizes) = (&records[1..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            rest = behind;
            for input in batch {
                single.apply(input, &mut one);
            }
            batched.apply_batch(batch, &mut many);
            restored = through_a_snapshot(&restored);
            restored.apply_batch(batch, &mut through);
            prop_assert_eq!(one.bytes(), many.bytes());
            prop_assert_eq!(one.bytes(), through.bytes());
            for book in [&batched, &restored, &single.clone()] {
                prop_assert_eq!(book.digest(), single.digest());
                prop_assert_eq!(book.book_digest(), single.book_digest());
            }
        }
        prop_assert_eq!(one.seqs(), through.seqs());
    }

    /// SN2 after each record, and no snapshot is the other's.
    #[test]
    fn a_snapshot_after_each_record_is_the_book(records in records()) {
        let mut out = outbox();
        let (mut book, _, _) = birth(&records[0], &mut out);
        for input in &records[1..] {
            book.apply(input, &mut out);
            let copy = through_a_snapshot(&book);
            prop_assert_eq!(copy.digest(), book.digest());
            prop_assert_eq!(copy.book_digest(), book.book_digest());
            prop_assert_eq!(copy.open_orders(), book.open_orders());
            invariants::check(&copy).map_err(TestCaseError::fail)?;
        }
    }

    /// A snapshot is cut at one record and written while the book goes on: neither may feel the other.
    #[test]
    fn a_frozen_copy_stays_while_the_book_goes_on(
        records in records(), sizes in prop::collection::vec(1usize..40, 1..20)
    ) {
        let encoded = |book: &Book| {
            let mut bytes = Vec::new();
            book.encode(&mut bytes);
            bytes
        };
        let (mut one, mut many) = (outbox(), outbox());
        let (mut plain, _, _) = birth(&records[0], &mut one);
        let (mut cut, _, _) = birth(&records[0], &mut many);
        let (mut rest, mut sizes, mut frozen) = (&records[1..], sizes.iter().cycle(), Vec::new());
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            rest = behind;
            // One copy is let go of before the book changes again, as one that is written quickly; the other is kept.
            drop(cut.freeze());
            frozen.push((cut.freeze(), encoded(&plain)));
            plain.apply_batch(batch, &mut one);
            cut.apply_batch(batch, &mut many);
            prop_assert_eq!(one.bytes(), many.bytes());
            invariants::check(&cut).map_err(TestCaseError::fail)?;
        }
        for (copy, expected) in frozen {
            prop_assert_eq!(encoded(&copy), expected);
        }
    }

    /// A damaged snapshot is refused, never a panic, never another book.
    #[test]
    fn a_damaged_snapshot_is_refused(records in records(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut out = outbox();
        let (mut book, _, _) = birth(&records[0], &mut out);
        book.apply_batch(&records[1..], &mut out);
        let mut bytes = Vec::new();
        book.encode(&mut bytes);
        let at = at.index(bytes.len());
        prop_assert!(Book::decode(&bytes[..at]).is_err(), "cut at {} of {}", at, bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Book::decode(&bytes).is_err(), "bit {} of byte {} flipped", bit, at);
    }
}

#[test]
fn the_naive_matcher_has_the_engine_s_bounds() {
    assert_eq!(naive::FINISHED_MAX, FINISHED_MAX);
    assert_eq!(naive::RESTING_MAX, hotbook::engine::RESTING_MAX);
    assert_eq!(naive::RULES_VERSION, hotbook::engine::RULES_VERSION);
    assert_eq!(naive::GATEWAYS_MAX, hotbook::engine::GATEWAYS_MAX);
}

/// OB6 across its window: an id is remembered for exactly 65,536 further endings, through snapshots too.
#[test]
fn an_id_is_free_again_after_65536_endings() {
    let order = |n: usize, tif| {
        Command::Add(NewOrder {
            order_id: OrderId::new(&format!("x{n}")).unwrap(),
            user: UserId::new("alice").unwrap(),
            side: Side::Buy,
            kind: OrderKind::Limit { price: Price(100) },
            quantity: Quantity(1),
            time_in_force: tif,
            self_trade: SelfTrade::default(),
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        })
    };
    let mut commands = vec![list(Instrument::plain(2, 1, 1), 77)];
    commands.extend((0..FINISHED_MAX + 40).map(|n| order(n, TimeInForce::Ioc)));
    let live = FINISHED_MAX + 50;
    commands.push(order(live, TimeInForce::Gtc));
    // The first forty are forgotten, the forty-first is the oldest that is known.
    commands.extend([order(40, TimeInForce::Ioc), order(39, TimeInForce::Ioc), order(0, TimeInForce::Ioc)]);
    commands.extend([order(40, TimeInForce::Ioc), order(live, TimeInForce::Gtc), order(41, TimeInForce::Ioc)]);
    let records = log(commands, &[0]);
    let mut out = outbox();
    let (mut book, mut naive, _) = birth(&records[0], &mut out);
    let mut clock = records[0].at;
    for input in &records[1..] {
        clock = clock.max(input.at);
        if input.offset.0 % 60_000 == 0 {
            book = through_a_snapshot(&book);
        }
        out.clear();
        book.apply(input, &mut out);
        assert_eq!(said(&decoded(out.bytes())), naive.apply(&input.command, clock), "offset {}", input.offset);
    }
    invariants::check(&through_a_snapshot(&book)).unwrap();
}

/// Prices far apart are just prices: sixty books' worth of outliers, against the naive matcher.
#[test]
fn far_prices_keep_their_order() {
    let mut commands = vec![list(Instrument::plain(2, 1, 1), 3)];
    let mut price = 1u64;
    for n in 0..240usize {
        price = price.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let near_or_far = [500_000 + price % 90_000, 1 + price % Price::MAX.0, 1 + price % 600_000][n % 3];
        let side = if price >> 60 & 1 == 0 { Side::Buy } else { Side::Sell };
        commands.push(Command::Add(NewOrder {
            order_id: OrderId::new(&format!("f{n}")).unwrap(),
            user: UserId::new(USERS[n % 2]).unwrap(),
            side,
            kind: OrderKind::Limit { price: Price(near_or_far) },
            quantity: Quantity(1 + n as u64 % 5),
            time_in_force: TimeInForce::Gtc,
            self_trade: SelfTrade::None,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        }));
    }
    let records = log(commands, &[0]);
    let mut out = outbox();
    let (mut book, mut naive, _) = birth(&records[0], &mut out);
    let mut clock = records[0].at;
    for input in &records[1..] {
        clock = clock.max(input.at);
        out.clear();
        book.apply(input, &mut out);
        assert_eq!(said(&decoded(out.bytes())), naive.apply(&input.command, clock), "offset {}", input.offset);
        invariants::check(&book).unwrap();
        same_book(&book, &naive).unwrap();
    }
}
