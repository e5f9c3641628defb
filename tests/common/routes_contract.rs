//! What every adapter of the routes port must do. An adapter's test file makes a [`Bench`] and calls
//! [`routes_contract!`].

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use hotbook::domain::{Epoch, NodeId, Symbol};
use hotbook::ports::routes::{
    Addresses, Arriving, BookLoad, CHANGES_MAX, Change, Changes, Heartbeat, Holder, Lease, NodeStatus, PartitionLoad,
    Route, RouteStatus, Routes, RoutesError,
};

/// Whatever is awaited here takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);
/// So short that its end can be waited for.
const SHORT: Duration = Duration::from_millis(300);
/// Not over before the test is, but less than long.
const MIDDLE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(60);

/// One table, empty at first.
pub trait Bench: Send {
    /// A way to it; every one sees the same table.
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Routes>>;

    /// Everything in it is lost.
    fn wipe(&mut self) -> BoxFuture<'_, ()>;
}

pub fn symbol(name: &str) -> Symbol {
    Symbol::new(name).unwrap()
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub fn route(of: &str, epoch: u64) -> Route {
    Route { target_instance: node(of), status: RouteStatus::Active, epoch: Epoch(epoch), partition: 3, to: None }
}

pub fn migrating(of: &str, epoch: u64, to: &str) -> Route {
    Route { status: RouteStatus::Migrating, to: Some(node(to)), ..route(of, epoch) }
}

pub fn holder(name: &str, incarnation: u64) -> Holder {
    Holder { node: node(name), incarnation }
}

/// With numbers that a text in between must not round.
pub fn beat(name: &str, incarnation: u64, load: f64) -> Heartbeat {
    let book = BookLoad {
        symbol: symbol("TSLA"),
        partition: 3,
        rate: 1_234.5,
        busy: 0.25,
        lag: 7,
        waiting_us: 12,
        orders: 1_000,
        moved_at: Some(1_700_000_000_000_009),
    };
    Heartbeat {
        node: node(name),
        incarnation,
        addresses: Addresses { http: Some("127.0.0.1:8080".into()), peer: None },
        status: NodeStatus::Active,
        measured_at: 1_700_000_000_000_007,
        load,
        cores: 1.5,
        books: 17,
        log_lost: true,
        hottest: vec![book],
        partitions: vec![PartitionLoad { partition: 3, fetch: 0.125 }],
        arriving: vec![Arriving { symbol: Symbol::new("COMES").unwrap(), from: NodeId::new("n9").unwrap() }],
    }
}

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// Asks again and again until the answer is as wanted.
async fn until<T, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    mut wanted: impl FnMut(&T) -> bool,
) -> T {
    let started = Instant::now();
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn next(changes: &mut Changes) -> Change {
    soon(changes.next()).await.expect("a change")
}

pub async fn what_was_written_is_read_on_every_way(bench: &mut dyn Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    assert_eq!(soon(one.get(symbol("TSLA"))).await.unwrap(), None);
    assert_eq!(soon(one.all()).await.unwrap(), []);
    assert_eq!(soon(one.learn(symbol("TSLA"), route("n1", 0))).await.unwrap(), route("n1", 0));
    assert_eq!(soon(two.learn(symbol("AAPL"), route("n2", 4))).await.unwrap(), route("n2", 4));
    assert_eq!(soon(two.get(symbol("TSLA"))).await.unwrap(), Some(route("n1", 0)));
    let all = vec![(symbol("AAPL"), route("n2", 4)), (symbol("TSLA"), route("n1", 0))];
    assert_eq!(soon(one.all()).await.unwrap(), all);
}

pub async fn what_the_log_says_is_learnt_unless_the_table_knows_as_much(bench: &mut dyn Bench) {
    let routes = bench.open().await;
    let learn = |r| routes.learn(symbol("TSLA"), r);
    assert_eq!(soon(learn(route("n1", 1))).await.unwrap(), route("n1", 1));
    let mark = migrating("n1", 1, "n2");
    soon(routes.swap(symbol("TSLA"), Some(route("n1", 1).version()), mark)).await.unwrap();
    assert_eq!(soon(learn(route("n1", 1))).await.unwrap(), mark, "the mark is not wiped away");
    assert_eq!(soon(learn(route("n2", 2))).await.unwrap(), route("n2", 2));
    assert_eq!(soon(learn(route("n1", 1))).await.unwrap(), route("n2", 2), "an epoch never goes back");
    assert_eq!(soon(routes.get(symbol("TSLA"))).await.unwrap(), Some(route("n2", 2)));
}

pub async fn a_row_is_swapped_only_as_expected(bench: &mut dyn Bench) {
    let routes = bench.open().await;
    let of = symbol("TSLA");
    let swap = |expected: Option<Route>, r| routes.swap(of, expected.map(|e| e.version()), r);
    let (first, marked, second) = (route("n1", 7), migrating("n1", 7, "n2"), route("n2", 8));
    let changed = |result, as_is: Option<Route>| match result {
        Err(RoutesError::Changed { symbol, have }) => assert_eq!((symbol, have), (of, as_is)),
        other => panic!("{other:?}"),
    };
    changed(soon(swap(Some(first), marked)).await, None);
    soon(swap(None, first)).await.unwrap();
    changed(soon(swap(None, first)).await, Some(first));
    changed(soon(swap(Some(marked), second)).await, Some(first));
    soon(swap(Some(first), marked)).await.unwrap();
    changed(soon(swap(Some(first), second)).await, Some(marked));
    let back = soon(swap(Some(marked), route("n3", 6))).await;
    assert!(matches!(back, Err(RoutesError::Older { have: Epoch(7), offered: Epoch(6), .. })), "{back:?}");
    soon(swap(Some(marked), first)).await.expect("a mark can be taken back");
    soon(swap(Some(first), marked)).await.unwrap();
    soon(swap(Some(marked), second)).await.unwrap();
    changed(soon(swap(Some(first), marked)).await, Some(second));
    assert_eq!(soon(routes.get(of)).await.unwrap(), Some(second));
}

pub async fn of_many_who_swap_at_once_one_wins(bench: &mut dyn Bench) {
    let mut ways = Vec::new();
    for _ in 0..4 {
        ways.push(bench.open().await);
    }
    let of = symbol("TSLA");
    soon(ways[0].learn(of, route("n0", 0))).await.unwrap();
    for epoch in 0..20 {
        let contender = |(n, way): (usize, &Arc<dyn Routes>)| {
            let (way, expected) = (Arc::clone(way), Some((Epoch(epoch), RouteStatus::Active)));
            tokio::spawn(async move { way.swap(of, expected, route(&format!("n{n}"), epoch + 1)).await.is_ok() })
        };
        let won = join_all(ways.iter().enumerate().map(contender)).await;
        let winners: Vec<_> = (0..4).filter(|n| *won[*n].as_ref().unwrap()).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let row = soon(ways[0].get(of)).await.unwrap().unwrap();
        assert_eq!(row, route(&format!("n{}", winners[0]), epoch + 1));
    }
}

pub async fn changes_are_heard_in_order_by_every_listener(bench: &mut dyn Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let of = symbol("TSLA");
    soon(one.learn(of, route("n1", 1))).await.unwrap();
    let (mut here, mut there) = (soon(one.watch()).await.unwrap(), soon(two.watch()).await.unwrap());
    let marked = migrating("n1", 1, "n2");
    soon(one.swap(of, Some(route("n1", 1).version()), marked)).await.unwrap();
    soon(one.swap(of, Some(marked.version()), route("n2", 2))).await.unwrap();
    soon(two.learn(symbol("AAPL"), route("n3", 0))).await.unwrap();
    for listener in [&mut here, &mut there] {
        let heard = [next(listener).await, next(listener).await, next(listener).await];
        let row = |symbol, route| Change::Row { symbol, route };
        assert_eq!(heard, [row(of, marked), row(of, route("n2", 2)), row(symbol("AAPL"), route("n3", 0))]);
    }
}

pub async fn a_slow_listener_is_told_to_read_again_and_holds_nobody_up(bench: &mut dyn Bench) {
    let routes = bench.open().await;
    let mut changes = soon(routes.watch()).await.unwrap();
    let last = CHANGES_MAX as u64 + 500;
    for epoch in 0..=last {
        soon(routes.learn(symbol("TSLA"), route("n1", epoch))).await.unwrap();
    }
    let (mut resyncs, mut rows) = (0, 0);
    loop {
        match next(&mut changes).await {
            Change::Resync => resyncs += 1,
            Change::Row { route, .. } => {
                rows += 1;
                if route.epoch == Epoch(last) {
                    break;
                }
            }
        }
    }
    // What a listener has not heard yet when reading begins comes on top of what is kept.
    assert!(resyncs > 0 && rows <= last, "{resyncs} resyncs, {rows} rows of {}", last + 1);
}

pub async fn a_node_is_there_as_long_as_its_heart_beats(bench: &mut dyn Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    assert_eq!(soon(one.beats()).await.unwrap(), []);
    soon(one.beat(beat("n2", 5, 0.1), LONG)).await.unwrap();
    soon(one.beat(beat("n1", 5, 0.1), LONG)).await.unwrap();
    soon(one.beat(beat("n2", 5, 1.0 / 3.0), LONG)).await.unwrap();
    let expected = vec![beat("n1", 5, 0.1), beat("n2", 5, 1.0 / 3.0)];
    assert_eq!(soon(two.beats()).await.unwrap(), expected);
    soon(one.beat(beat("n2", 5, 0.2), SHORT)).await.unwrap();
    let left = until("n2 is forgotten", || two.beats(), |b| b.as_ref().unwrap().len() == 1).await.unwrap();
    assert_eq!(left, [beat("n1", 5, 0.1)]);
}

pub async fn an_earlier_life_of_a_node_is_not_listened_to(bench: &mut dyn Bench) {
    let routes = bench.open().await;
    // Microseconds since 1970: more digits than 32 bits have.
    let (old, new) = (1_700_000_000_000_001, 1_700_000_000_000_002);
    soon(routes.beat(beat("n1", new, 0.2), LONG)).await.unwrap();
    soon(routes.beat(beat("n1", old, 0.9), LONG)).await.unwrap();
    assert_eq!(soon(routes.beats()).await.unwrap(), [beat("n1", new, 0.2)]);
    soon(routes.beat(beat("n1", new, 0.3), SHORT)).await.unwrap();
    until("the new life is over", || routes.beats(), |b| b.as_ref().unwrap().is_empty()).await.unwrap();
    soon(routes.beat(beat("n1", old, 0.9), LONG)).await.unwrap();
    assert_eq!(soon(routes.beats()).await.unwrap(), [beat("n1", old, 0.9)]);
}

pub async fn a_lease_has_one_holder_until_it_runs_out(bench: &mut dyn Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let (first, second) = (holder("n1", 10), holder("n2", 20));
    assert_eq!(soon(one.lease("leader")).await.unwrap(), None);
    let held = soon(one.acquire("leader", first, MIDDLE)).await.unwrap();
    assert!(held.holder == first && held.expires_in <= MIDDLE, "{held:?}");
    let longer = soon(one.acquire("leader", first, LONG)).await.unwrap();
    assert_eq!((longer.holder, longer.token), (first, held.token), "one's own is prolonged");
    assert!(longer.expires_in > MIDDLE && longer.expires_in <= LONG, "{longer:?}");
    let refused = soon(two.acquire("leader", second, LONG)).await.unwrap();
    assert_eq!((refused.holder, refused.token), (first, held.token));
    let reborn = soon(two.acquire("leader", holder("n1", 11), LONG)).await.unwrap();
    assert_eq!(reborn.holder, first, "another life of the node is another holder");
    let other = soon(two.acquire("projector:3", second, LONG)).await.unwrap();
    assert_eq!(other.holder, second, "each name is a lease of its own");
    soon(one.renew("leader", longer, SHORT)).await.unwrap();
    let taken =
        until("the lease runs out", || two.acquire("leader", second, LONG), |l| l.as_ref().unwrap().holder == second);
    let taken = taken.await.unwrap();
    assert!(taken.token > held.token && taken.token < 1 << 53, "{taken:?} after {held:?}");
    let seen = soon(one.lease("leader")).await.unwrap().unwrap();
    assert_eq!((seen.holder, seen.token), (second, taken.token));
}

fn is_lost(result: &Result<Lease, RoutesError>) -> bool {
    matches!(result, Err(RoutesError::LeaseLost { name }) if name == "leader")
}

pub async fn who_lost_a_lease_hears_it_and_cannot_give_it_back(bench: &mut dyn Bench) {
    let (one, two) = (bench.open().await, bench.open().await);
    let (first, second) = (holder("n1", 10), holder("n2", 20));
    let held = soon(one.acquire("leader", first, LONG)).await.unwrap();
    let renewed = soon(one.renew("leader", held, LONG)).await.unwrap();
    assert_eq!((renewed.holder, renewed.token), (first, held.token));
    soon(one.release("leader", held)).await.unwrap();
    assert_eq!(soon(two.lease("leader")).await.unwrap(), None);
    assert!(is_lost(&soon(one.renew("leader", held, LONG)).await));
    let taken = soon(two.acquire("leader", second, LONG)).await.unwrap();
    assert!(taken.holder == second && taken.token > held.token, "{taken:?} after {held:?}");
    assert!(is_lost(&soon(one.renew("leader", held, LONG)).await));
    soon(one.release("leader", held)).await.unwrap();
    assert_eq!(soon(one.lease("leader")).await.unwrap().unwrap().holder, second, "only its holder gives it back");
    // Taken again by the same holder it is another lease: what was done under the first is over.
    soon(two.release("leader", taken)).await.unwrap();
    let again = soon(one.acquire("leader", first, LONG)).await.unwrap();
    assert!(again.token > taken.token);
    assert!(is_lost(&soon(one.renew("leader", held, LONG)).await));
}

pub async fn of_many_who_want_a_lease_one_gets_it(bench: &mut dyn Bench) {
    let mut ways = Vec::new();
    for _ in 0..4 {
        ways.push(bench.open().await);
    }
    let contender = |(n, way): (usize, &Arc<dyn Routes>)| {
        let (way, me) = (Arc::clone(way), holder(&format!("n{n}"), 1));
        tokio::spawn(async move { way.acquire("leader", me, LONG).await.unwrap() })
    };
    let leases = join_all(ways.iter().enumerate().map(contender)).await;
    let leases: Vec<_> = leases.into_iter().map(|l| l.unwrap()).map(|l| (l.holder, l.token)).collect();
    assert!(leases.iter().all(|l| *l == leases[0]), "{leases:?}");
}

pub async fn an_emptied_table_is_filled_again_and_tokens_go_on(bench: &mut dyn Bench) {
    let routes = bench.open().await;
    let of = symbol("TSLA");
    soon(routes.learn(of, route("n2", 9))).await.unwrap();
    soon(routes.beat(beat("n1", 5, 0.1), LONG)).await.unwrap();
    let held = soon(routes.acquire("leader", holder("n1", 10), LONG)).await.unwrap();
    bench.wipe().await;
    assert_eq!(soon(routes.get(of)).await.unwrap(), None);
    assert_eq!(soon(routes.all()).await.unwrap(), []);
    assert_eq!(soon(routes.beats()).await.unwrap(), []);
    assert!(is_lost(&soon(routes.renew("leader", held, LONG)).await));
    let taken = soon(routes.acquire("leader", holder("n2", 20), LONG)).await.unwrap();
    assert!(taken.token > held.token, "{taken:?} after {held:?}");
    let mut changes = soon(routes.watch()).await.unwrap();
    assert_eq!(soon(routes.learn(of, route("n1", 3))).await.unwrap(), route("n1", 3));
    assert_eq!(next(&mut changes).await, Change::Row { symbol: of, route: route("n1", 3) });
}

/// Makes one test per rule for the adapter whose bench `$bench` makes.
#[macro_export]
macro_rules! routes_contract {
    ($bench:expr; $($rule:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            common::routes_contract::$rule(&mut $bench).await;
        })*
    };
    ($bench:expr) => {
        routes_contract!($bench;
            what_was_written_is_read_on_every_way,
            what_the_log_says_is_learnt_unless_the_table_knows_as_much,
            a_row_is_swapped_only_as_expected,
            of_many_who_swap_at_once_one_wins,
            changes_are_heard_in_order_by_every_listener,
            a_slow_listener_is_told_to_read_again_and_holds_nobody_up,
            a_node_is_there_as_long_as_its_heart_beats,
            an_earlier_life_of_a_node_is_not_listened_to,
            a_lease_has_one_holder_until_it_runs_out,
            who_lost_a_lease_hears_it_and_cannot_give_it_back,
            of_many_who_want_a_lease_one_gets_it,
            an_emptied_table_is_filled_again_and_tokens_go_on,
        );
    };
}
