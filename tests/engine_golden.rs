//! Fixed streams of records and what the engine made of them, kept in tests/golden/rules_v1.txt. Two builds that agree
//! here can replay each other's logs; a change of the file is a change of the rules or of a format on disk.

use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::path::PathBuf;

use hotbook::domain::command::Listing;
use hotbook::domain::instrument::TickBand;
use hotbook::domain::{
    Authority, Command, Epoch, Input, Instrument, Machine, Micros, NewOrder, NodeId, Offset, OrderId, OrderKind,
    Origin, Outbox, Price, Quantity, SelfTrade, Seqs, Side, TimeInForce, UserId,
};
use hotbook::engine::Book;
use siphasher::sip128::{Hasher128, SipHasher13};

const AUTHORITY: Authority = Authority { nonce: 1, valid_until: Micros(u64::MAX) };
/// Records of each stream.
const RECORDS: u64 = 20_000;
/// Set to 1 to write the file anew.
const WRITE: &str = "HOTBOOK_WRITE_GOLDEN";

/// SplitMix64: the stream must not change with a crate's version.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn instruments() -> [(&'static str, Instrument); 3] {
    let ticks = [(0, 1), (200, 5)].map(|(from, tick)| TickBand { from: Price(from), tick }).to_vec();
    let (limit_up, limit_down) = (Some(Price(230)), Some(Price(170)));
    let plain = Instrument::plain(2, 1, 1);
    [
        ("plain", plain.clone()),
        ("stock", Instrument { ticks, limit_up, limit_down, ..Instrument::plain(0, 1, 10) }),
        ("max_value", Instrument { max_order_value: Some(12_000), ..plain }),
    ]
}

fn list(instrument: Instrument) -> Command {
    let owner = NodeId::new("n1").unwrap();
    let listing = Box::new(Listing { instrument, owner, id_key: 0x0123_4567_89ab_cdef, rules_version: 1 });
    Command::List { listing, authority: AUTHORITY }
}

/// Ids come from a window that moves on, so that old ones are open, ended or new.
fn order_id(random: &mut Random, n: u64) -> OrderId {
    let number = n / 4 + random.below(200);
    let text =
        if number.is_multiple_of(2) { format!("o{number}") } else { format!("00000000-0000-4000-8000-{number:012x}") };
    OrderId::new(&text).unwrap()
}

fn price(random: &mut Random) -> Price {
    Price(165 + random.below(71))
}

fn quantity(random: &mut Random) -> Quantity {
    Quantity(if random.one_in(8) { random.below(90) } else { 10 * (1 + random.below(8)) })
}

fn add(random: &mut Random, order_id: OrderId, user: UserId) -> Command {
    let kind = match random.below(20) {
        0 => OrderKind::Stop { stop_price: price(random) },
        1..4 => OrderKind::Market,
        _ => OrderKind::Limit { price: price(random) },
    };
    let time_in_force = match random.below(20) {
        0 => TimeInForce::Day,
        1..4 => TimeInForce::Ioc,
        4..7 => TimeInForce::Fok,
        _ => TimeInForce::Gtc,
    };
    let self_trade = match random.below(5) {
        0 => SelfTrade::CancelNewest,
        1 => SelfTrade::CancelOldest,
        2 => SelfTrade::CancelBoth,
        3 => SelfTrade::Decrement,
        _ => SelfTrade::None,
    };
    Command::Add(NewOrder {
        order_id,
        user,
        side: if random.one_in(2) { Side::Buy } else { Side::Sell },
        kind,
        quantity: quantity(random),
        time_in_force,
        self_trade,
        post_only: random.one_in(8),
        all_or_none: random.one_in(60),
        display_quantity: None,
    })
}

fn command(random: &mut Random, n: u64) -> Command {
    let user = UserId::new(&format!("user{}", random.below(4))).unwrap();
    let order_id = order_id(random, n);
    let authority = AUTHORITY;
    match random.below(200) {
        0 => Command::CancelAll { user, authority },
        1 => Command::Halt { authority },
        2..8 => Command::Resume { authority },
        8 => Command::Rules { version: 1, authority },
        9 => Command::Session { authority },
        10 => Command::Tick { authority },
        11..50 => Command::Cancel { user, order_id },
        50..90 => {
            let price = random.one_in(2).then(|| price(random));
            let quantity = random.one_in(2).then(|| quantity(random));
            Command::Replace { user, order_id, price, quantity }
        }
        _ => add(random, order_id, user),
    }
}

fn input(n: u64, command: Command) -> Input<Command> {
    Input { offset: Offset(n * 2), at: Micros(1_000 + n), origin: Origin { gateway: 3, counter: n }, command }
}

/// One line: the stream's name, how many outputs it gave, both digests and a hash of all output bytes.
fn outcome(name: &str, seed: u64, instrument: Instrument) -> String {
    let mut out = Outbox::new(Seqs::default(), Epoch(0));
    let mut book = Book::birth(&input(0, list(instrument)), &mut out).unwrap();
    let mut random = Random(seed);
    for n in 1..=RECORDS {
        book.apply(&input(n, command(&mut random, n)), &mut out);
    }
    let mut hash = SipHasher13::new_with_keys(1, 2);
    hash.write(out.bytes());
    let (outputs, resting) = (out.seqs().last.0, book.resting_orders());
    let (state, orders, bytes) = (book.digest().0, book.book_digest().0, hash.finish128().as_u128());
    format!("{name} outputs={outputs} resting={resting} state={state:032x} book={orders:032x} bytes={bytes:032x}")
}

#[test]
fn the_engine_makes_of_old_streams_what_it_always_made() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules_v1.txt");
    let mut now = String::new();
    for (seed, (name, instrument)) in (1..).zip(instruments()) {
        writeln!(now, "{}", outcome(name, seed, instrument)).unwrap();
    }
    if std::env::var(WRITE).is_ok_and(|v| v == "1") {
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        now,
        kept,
        "the engine now makes something else of the same records. If that is on purpose (a new rules version, digest or \
         format, which old logs and snapshots must survive), write {} anew with {WRITE}=1 and say why in the commit",
        path.display()
    );
}
