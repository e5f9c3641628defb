//! Mirrors against the engine's book: from its outputs alone, and from a snapshot of it, they show the same.

use proptest::prelude::*;

use super::*;
use crate::actors::mirror::start::state_of;
use crate::domain::command::Listing;
use crate::domain::{
    Authority, Command, Input, Machine, NewOrder, NodeId, Offset, OrderKind, Outbox, SelfTrade, Seqs, TimeInForce,
};
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;
use crate::ports::snapshots::SnapshotStore;
use crate::ports::snapshots::folder::FolderSnapshots;

const USERS: [&str; 3] = ["a", "b", "c"];
const AUTHORITY: Authority = Authority { nonce: 1, valid_until: Micros(u64::MAX) };

fn tsla() -> Symbol {
    Symbol::new("TSLA").unwrap()
}

/// A book and what it says.
struct Live {
    book: Book,
    out: Outbox,
    offset: u64,
}

impl Live {
    fn listed() -> Self {
        let owner = NodeId::new("n1").unwrap();
        let instrument = Instrument { limit_up: Some(Price(60)), ..Instrument::plain(2, 1, 1) };
        let listing = Box::new(Listing { instrument, owner, id_key: 7, rules_version: 1 });
        let mut out = Outbox::new(Seqs::default(), Epoch(0));
        let book = Book::birth(&input(0, Command::List { listing, authority: AUTHORITY }), &mut out).unwrap();
        Self { book, out, offset: 1 }
    }

    fn apply(&mut self, command: Command) {
        self.book.apply(&input(self.offset, command), &mut self.out);
        self.offset += 1;
    }

    fn said(&mut self) -> Vec<Output> {
        let said = Output::decode_all(self.out.bytes()).map(Result::unwrap).collect();
        self.out.clear();
        said
    }

    fn snapshot(&self) -> Snapshot<Book> {
        Snapshot {
            symbol: tsla(),
            offset: Offset(self.offset),
            seqs: self.out.seqs(),
            epoch: Epoch(0),
            owner: NodeId::new("n1").unwrap(),
            events_position: Offset(0),
            clock: Micros(self.offset),
            nonces: Vec::new(),
            machine: self.book.clone(),
        }
    }
}

fn input(offset: u64, command: Command) -> Input<Command> {
    Input { offset: Offset(offset), at: Micros(offset), origin: Origin::NONE, command }
}

fn command() -> impl Strategy<Value = Command> {
    let name = || (0..3usize, 0..40u32);
    let key = |(u, n): (usize, u32)| (UserId::new(USERS[u]).unwrap(), OrderId::new(&format!("o{n}")).unwrap());
    let tif = prop_oneof![Just(TimeInForce::Gtc), Just(TimeInForce::Ioc), Just(TimeInForce::Fok)];
    let stp = prop_oneof![
        Just(SelfTrade::CancelNewest),
        Just(SelfTrade::CancelOldest),
        Just(SelfTrade::CancelBoth),
        Just(SelfTrade::Decrement),
        Just(SelfTrade::None)
    ];
    let add = (name(), any::<bool>(), prop::option::weighted(0.9, 45..62u64), 1..9u64, tif, stp, any::<bool>());
    let add = add.prop_map(move |(n, is_buy, price, quantity, time_in_force, self_trade, post_only)| {
        let (user, order_id) = key(n);
        Command::Add(NewOrder {
            order_id,
            user,
            side: if is_buy { Side::Buy } else { Side::Sell },
            kind: price.map_or(OrderKind::Market, |p| OrderKind::Limit { price: Price(p) }),
            quantity: Quantity(quantity),
            time_in_force,
            self_trade,
            post_only,
            all_or_none: false,
            display_quantity: None,
        })
    });
    let cancel = name().prop_map(move |n| {
        let (user, order_id) = key(n);
        Command::Cancel { user, order_id }
    });
    let replace = (name(), prop::option::of(45..62u64), prop::option::of(1..12u64)).prop_map(move |(n, p, q)| {
        let (user, order_id) = key(n);
        Command::Replace { user, order_id, price: p.map(Price), quantity: q.map(Quantity) }
    });
    let rare = (0..3usize, 0..3u8).prop_map(|(u, what)| match what {
        0 => Command::CancelAll { user: UserId::new(USERS[u]).unwrap(), authority: AUTHORITY },
        1 => Command::Halt { authority: AUTHORITY },
        _ => Command::Resume { authority: AUTHORITY },
    });
    prop_oneof![12 => add, 2 => cancel, 3 => replace, 1 => rare]
}

fn shows(mirror: &Mirror, live: &Live) -> Result<(), TestCaseError> {
    let levels = live.book.resting_orders();
    let depth = mirror.depth(usize::MAX);
    prop_assert_eq!(depth.bids, live.book.depth(Side::Buy, levels));
    prop_assert_eq!(depth.asks, live.book.depth(Side::Sell, levels));
    prop_assert_eq!(depth.last_trade, live.book.last_trade());
    prop_assert_eq!(mirror.seq(), live.out.seqs().last);
    prop_assert_eq!(mirror.instrument().halted, live.book.is_halted());
    let open = live.book.open_orders();
    prop_assert_eq!(mirror.open_orders_count(), open.len());
    for o in open {
        let shown = mirror.order(&o.user, &o.order_id);
        let shown = shown.map(|s| (s.side, s.price, s.quantity, s.remaining, s.filled, s.status.is_open()));
        prop_assert_eq!(shown, Some((o.side, o.price, o.quantity, o.open, o.filled, true)));
    }
    Ok(())
}

proptest! {
    /// MD1, for everything that a book can be asked: outputs alone give the book, and so does a snapshot with what
    /// follows it, whatever is read a second time.
    #[test]
    fn a_mirror_is_the_book(commands in prop::collection::vec(command(), 1..150), cut in 0..150usize) {
        let mut live = Live::listed();
        let mut all = live.said();
        let mut mirror = Mirror::unborn(tsla(), &all[0]).unwrap();
        mirror.apply(&all[0]);
        let mut restored: Option<Mirror> = None;
        for (i, command) in commands.into_iter().enumerate() {
            live.apply(command);
            let said = live.said();
            for m in [Some(&mut mirror), restored.as_mut()].into_iter().flatten() {
                for output in &said {
                    let is_fresh = matches!(m.apply(output), Applied::Fresh { .. });
                    prop_assert!(is_fresh);
                }
                shows(m, &live)?;
            }
            all.extend(said);
            if i == cut {
                let mut m = Mirror::restored(state_of(&live.snapshot()));
                shows(&m, &live)?;
                all.iter().for_each(|o| assert_eq!(m.apply(o), Applied::Stale));
                m.settle();
                shows(&m, &live)?;
                prop_assert_eq!(m.finished_orders_count(), mirror.finished_orders_count());
                prop_assert_eq!(m.trades(usize::MAX), mirror.trades(usize::MAX));
                restored = Some(m);
            }
        }
    }
}

#[actix_rt::test]
async fn mirrors_start_from_the_newest_snapshot_of_each_symbol() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderSnapshots::open(folder.path()).unwrap();
    let mut live = Live::listed();
    let (user, side) = (UserId::new("a").unwrap(), Side::Buy);
    for n in 1..=2u64 {
        live.apply(Command::Add(NewOrder {
            order_id: OrderId::new(&format!("o{n}")).unwrap(),
            user,
            side,
            kind: OrderKind::Limit { price: Price(50) },
            quantity: Quantity(n),
            time_in_force: TimeInForce::Gtc,
            self_trade: SelfTrade::None,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        }));
        let snapshot = Snapshot { events_position: Offset(n * 10), ..live.snapshot() };
        store.put(snapshot.key(), snapshot.encode().unwrap().into()).await.unwrap();
    }
    let starts = read_starts(&store).await.unwrap();
    assert_eq!(starts.len(), 1);
    assert_eq!((starts[0].events_position, starts[0].state.seq), (Offset(20), live.out.seqs().last));
    let mirror = Mirror::restored(starts[0].state.clone());
    assert_eq!(mirror.open_orders(&user).len(), 2);
    assert_eq!(mirror.depth(1).bids, [Level { price: Price(50), quantity: 3, orders: 2 }]);
}
