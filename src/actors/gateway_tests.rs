//! The gateway against an embedded log: what is written to `events` reaches mirrors, requests and connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use super::directory::Directory;
use super::gateway::{Channel, Gateway, GatewayLimits, GatewayParts, Push, Role, Sink};
use super::mirror::Start;
use super::router::{Lags, Refusal, Submit};
use super::toy::{Toy, id, user};
use crate::domain::command::NewOrder;
use crate::domain::control::Authority;
use crate::domain::output::Level;
use crate::domain::{
    Command, Micros, NodeId, Offset, OrderKind, OrderStatus, Origin, Output, Price, Quantity, Reason, SelfTrade, Seq,
    Side, Symbol, TimeInForce,
};
use crate::ports::log::embedded::EmbeddedLog;
use crate::ports::log::{Log, NewRecord, Record, Session, SessionOptions, Topic, TopicPartition, partition_of};
use crate::ports::routes::local::LocalRoutes;
use crate::ports::snapshots::{SnapshotKey, SnapshotStore, SnapshotStoreError};
use crate::wire::{self, Keyring, events};

const PARTITIONS: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(20);

/// No snapshots: tests hand the start states over themselves.
struct NoSnapshots;

impl SnapshotStore for NoSnapshots {
    fn put(&self, _: SnapshotKey, _: Bytes) -> BoxFuture<'_, Result<(), SnapshotStoreError>> {
        Box::pin(async { Ok(()) })
    }
    fn get(&self, key: SnapshotKey) -> BoxFuture<'_, Result<Bytes, SnapshotStoreError>> {
        Box::pin(async move { Err(SnapshotStoreError::Missing { path: key.path() }) })
    }
    fn list(&self, _: Symbol) -> BoxFuture<'_, Result<Vec<SnapshotKey>, SnapshotStoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn symbols(&self) -> BoxFuture<'_, Result<Vec<Symbol>, SnapshotStoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn delete(&self, _: SnapshotKey) -> BoxFuture<'_, Result<(), SnapshotStoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept {
    got: Mutex<Vec<Push>>,
    batches: Mutex<usize>,
    news: Notify,
}

impl Sink for Kept {
    fn push(&self, batch: Vec<Push>) {
        assert!(!batch.is_empty());
        *self.batches.lock() += 1;
        self.got.lock().extend(batch);
        self.news.notify_one();
    }
}

impl Kept {
    /// Waits until what was pushed satisfies `done`.
    async fn until(&self, done: impl Fn(&[Push]) -> bool) -> Vec<Push> {
        let wait = async {
            loop {
                let news = self.news.notified();
                {
                    let got = self.got.lock();
                    if done(&got) {
                        return got.clone();
                    }
                }
                news.await;
            }
        };
        let got = tokio::time::timeout(DEADLINE, wait).await;
        got.unwrap_or_else(|_| panic!("not in time, got {:?}", self.got.lock()))
    }

    async fn count(&self, n: usize) -> Vec<Push> {
        self.until(|got| got.len() >= n).await
    }
}

/// (role, seq) of own pushes.
fn own(pushes: &[Push]) -> Vec<(Role, u64)> {
    let own = pushes.iter().filter_map(|p| match p {
        Push::Own { said, role } => Some((*role, said.output.seq.0)),
        Push::Market(_) => None,
    });
    own.collect()
}

/// Market data of one type.
fn market(pushes: &[Push], kind: &str) -> Vec<Value> {
    let market = pushes.iter().filter_map(|p| match p {
        Push::Market(text) => Some(serde_json::from_str::<Value>(text).expect("JSON")),
        Push::Own { .. } => None,
    });
    market.filter(|v| v["type"] == kind).map(|v| v["data"].clone()).collect()
}

struct Bench {
    log: Arc<dyn Log>,
    node: Arc<dyn Session>,
    directory: Arc<Directory>,
}

impl Bench {
    fn new() -> Self {
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::ephemeral(PARTITIONS).unwrap());
        let node = log.open_session(SessionOptions { name: "node".into(), queue_bytes_max: 64 << 20 }).unwrap();
        Self { log, node, directory: Arc::default() }
    }

    async fn gateway(&self, starts: Vec<Start>) -> Arc<Gateway> {
        self.gateway_with(starts, GatewayLimits::default()).await
    }

    async fn gateway_with(&self, starts: Vec<Start>, limits: GatewayLimits) -> Arc<Gateway> {
        let parts = GatewayParts {
            log: Arc::clone(&self.log),
            snapshots: Arc::new(NoSnapshots),
            lags: Lags::new(&self.directory, &Arc::default(), &Arc::default()),
            keyring: Arc::new(Keyring::from_secret(b"s")),
            routes: Arc::new(LocalRoutes::default()),
            owners: None,
            changed: None,
            users: None,
            limits,
        };
        Gateway::start_from(parts, starts).await.unwrap()
    }

    fn to(topic: Topic, symbol: Symbol) -> TopicPartition {
        let partition = if topic.is_partitioned() { partition_of(symbol.as_bytes(), PARTITIONS) } else { 0 };
        TopicPartition { topic, partition }
    }

    async fn append(&self, topic: Topic, symbol: Symbol, value: Bytes) {
        let key = Bytes::copy_from_slice(symbol.as_bytes());
        let record = NewRecord { to: Self::to(topic, symbol), key, header: Bytes::new(), value };
        self.node.append(record).await.unwrap();
    }

    async fn write(&self, symbol: Symbol, outputs: &[u8]) {
        for value in events::encode(&symbol, outputs).unwrap() {
            self.append(Topic::Events, symbol, value).await;
        }
    }

    async fn publish(&self, toy: &mut Toy) {
        let outputs = toy.take();
        self.write(toy.symbol, &outputs).await;
    }

    async fn events_end(&self, symbol: Symbol) -> Offset {
        self.log.end_offset(Self::to(Topic::Events, symbol)).await.unwrap()
    }
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn seen(gateway: &Gateway, toy: &Toy) {
    let (symbol, seq) = (toy.symbol, toy.out.seqs().last);
    eventually("the mirror's seq", || gateway.mirrors().last_seq(&symbol) >= Some(seq)).await;
}

fn limit(who: &str, name: &str, price: u64, quantity: u64) -> Command {
    Command::Add(NewOrder {
        order_id: id(name),
        user: user(who),
        side: Side::Buy,
        kind: OrderKind::Limit { price: Price(price) },
        quantity: Quantity(quantity),
        time_in_force: TimeInForce::Gtc,
        self_trade: SelfTrade::CancelNewest,
        post_only: false,
        all_or_none: false,
        display_quantity: None,
    })
}

#[actix_rt::test]
async fn a_request_gets_all_outputs_once_and_after_the_mirror_shows_them() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let mut toy = Toy::listed("TSLA");
    toy.add("m", "m1", Side::Sell, 100, 3, Origin::NONE);
    toy.add("m", "m2", Side::Sell, 100, 3, Origin::NONE);
    bench.publish(&mut toy).await;
    let (origin, answer) = gateway.expect_answer();
    let (other, mut unanswered) = gateway.expect_answer();
    assert_ne!(origin, other);
    toy.add("t", "t1", Side::Buy, 100, 6, origin);
    // One input's outputs in two records, the first of them twice.
    let outputs = toy.take();
    let first = Output::decode(&outputs).unwrap().1;
    bench.write(toy.symbol, &outputs[..first]).await;
    bench.write(toy.symbol, &outputs[..first]).await;
    bench.write(toy.symbol, &outputs).await;
    let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap();
    let shown = gateway.mirrors().order(&toy.symbol, &user("t"), &id("t1")).expect("read your writes");
    assert_eq!((shown.status, shown.fills.len()), (OrderStatus::Filled, 2));
    let seqs: Vec<_> = answer.said.iter().map(|s| (s.output.seq.0, s.output.end)).collect();
    assert_eq!(seqs, [(4, false), (5, false), (6, true)]);
    assert!(unanswered.try_recv().is_err());
    gateway.forget_answer(other);
    toy.cancel("t", "t1", other);
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    assert!(unanswered.await.is_err(), "a late answer is dropped");
}

#[actix_rt::test]
async fn outputs_go_to_the_sender_the_makers_connection_and_the_watchers() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let sinks: Vec<Arc<Kept>> = (0..4).map(|_| Arc::default()).collect();
    let [maker, taker, watcher, stranger] = [0, 1, 2, 3].map(|i| {
        let names = ["m", "t", "m", "s"];
        gateway.connect(Some(user(names[i])), Arc::clone(&sinks[i]) as Arc<dyn Sink>)
    });
    let mut toy = Toy::listed("TSLA");
    gateway.subscribe(watcher, Channel::Orders, toy.symbol).unwrap();
    gateway.subscribe(stranger, Channel::Orders, toy.symbol).unwrap();
    toy.add("m", "m1", Side::Sell, 100, 5, gateway.origin(maker));
    toy.add("t", "t1", Side::Buy, 100, 2, gateway.origin(taker));
    toy.cancel("t", "nothing", gateway.origin(taker));
    toy.cancel("m", "m1", gateway.origin(watcher));
    bench.publish(&mut toy).await;
    // 1 Listed, 2 m1 added, 3 trade, 4 t1 added, 5 refused, 6 m1 canceled.
    assert_eq!(own(&sinks[0].count(3).await), [(Role::Answer, 2), (Role::Maker, 3), (Role::Update, 6)]);
    assert_eq!(own(&sinks[1].count(3).await), [(Role::Taker, 3), (Role::Answer, 4), (Role::Answer, 5)]);
    assert_eq!(own(&sinks[2].count(3).await), [(Role::Update, 2), (Role::Maker, 3), (Role::Answer, 6)]);
    assert!(sinks[3].got.lock().is_empty(), "another user's orders");
    assert_eq!(*sinks[1].batches.lock(), 1, "one push per connection and batch");

    // One who is both sides hears of both; one who is gone hears nothing; a new user has his own orders only.
    gateway.disconnect(maker);
    gateway.authenticate(watcher, user("s"));
    toy.add("t", "t2", Side::Sell, 110, 1, gateway.origin(taker));
    toy.add("t", "t3", Side::Buy, 110, 1, gateway.origin(taker));
    toy.add("m", "m2", Side::Buy, 90, 1, gateway.origin(maker));
    toy.add("s", "s1", Side::Buy, 80, 1, Origin::NONE);
    bench.publish(&mut toy).await;
    // 7 t2 added, 8 trade, 9 t3 added, 10 m2 added, 11 s1 added.
    let expected = [(Role::Answer, 7), (Role::Taker, 8), (Role::Maker, 8), (Role::Answer, 9)];
    assert_eq!(own(&sinks[1].count(7).await)[3..], expected);
    assert_eq!(own(&sinks[2].count(4).await)[3..], [(Role::Update, 11)]);
    assert_eq!(own(&sinks[3].count(1).await), [(Role::Update, 11)]);
    assert_eq!(sinks[0].got.lock().len(), 3);
}

#[actix_rt::test]
async fn a_gateway_goes_on_where_snapshots_are_and_tells_only_what_is_new() {
    let bench = Bench::new();
    let mut toy = Toy::listed("TSLA");
    // A neighbour in the partition that has no snapshot yet: only the catalogue tells that it is there.
    let partition = |name: &String| partition_of(name.as_bytes(), PARTITIONS);
    let name = (0..).map(|i| format!("IDLE{i}")).find(|n| partition(n) == partition(&"TSLA".to_owned())).unwrap();
    let mut idle = Toy::listed(&name);
    bench.append(Topic::Symbols, idle.symbol, Bytes::new()).await;
    bench.publish(&mut idle).await;
    toy.add("m", "m1", Side::Sell, 100, 5, Origin::NONE);
    bench.publish(&mut toy).await;
    toy.add("t", "t1", Side::Buy, 100, 2, Origin::NONE);
    bench.publish(&mut toy).await;
    let (state, events_position) = (toy.state(), Offset(2));
    toy.cancel("m", "m1", Origin::NONE);
    bench.publish(&mut toy).await;
    let owner = NodeId::new("n2").unwrap();
    for history_records in [0, 1_000] {
        let start = Start { state: state.clone(), events_position, owner };
        let limits = GatewayLimits { history_records, ..GatewayLimits::default() };
        let gateway = bench.gateway_with(vec![start], limits).await;
        eventually("level", || gateway.is_level()).await;
        let m1 = gateway.mirrors().order(&toy.symbol, &user("m"), &id("m1")).unwrap();
        assert_eq!((m1.status, m1.filled), (OrderStatus::Canceled, Quantity(2)));
        let t1 = gateway.mirrors().order(&toy.symbol, &user("t"), &id("t1"));
        assert!(t1.is_some_and(|o| o.status == OrderStatus::Filled), "learned from before the snapshot");
        assert_eq!(gateway.mirrors().last_seq(&idle.symbol), Some(Seq(1)));
        let end = bench.events_end(toy.symbol).await;
        let met = gateway.positions().get(&toy.symbol).unwrap();
        assert_eq!(met, (toy.out.seqs().last, Offset(end.0 - 1)));
        let route = async || gateway.routes().get(toy.symbol).await.unwrap();
        let started = std::time::Instant::now();
        // The table is a cache that the egress fills beside its reading.
        while route().await.is_none_or(|r| r.target_instance != owner) {
            assert!(started.elapsed() < std::time::Duration::from_secs(10), "no route to {owner}");
            tokio::task::yield_now().await;
        }
    }
}

#[actix_rt::test]
async fn a_position_is_that_of_the_first_record_with_the_seq() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let mut toy = Toy::listed("TSLA");
    let outputs = toy.take();
    for _ in 0..3 {
        bench.write(toy.symbol, &outputs).await;
    }
    let mut other = Toy::listed("AAPL");
    bench.publish(&mut other).await;
    seen(&gateway, &other).await;
    eventually("three records", || gateway.positions().get(&toy.symbol).is_some()).await;
    assert_eq!(gateway.positions().get(&toy.symbol), Some((Seq(1), Offset(0))));
}

#[actix_rt::test]
async fn what_cannot_be_read_stops_nothing() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let mut toy = Toy::listed("TSLA");
    bench.append(Topic::Events, toy.symbol, Bytes::from_static(b"rubbish")).await;
    let mut cut = events::encode(&toy.symbol, toy.out.bytes()).unwrap()[0].to_vec();
    cut.truncate(cut.len() - 1);
    bench.append(Topic::Events, toy.symbol, cut.into()).await;
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    assert_eq!(gateway.mirrors().instruments().len(), 1);
}

#[actix_rt::test]
async fn a_missing_output_is_looked_for_further_back_and_then_given_up() {
    let bench = Bench::new();
    let mut toy = Toy::listed("TSLA");
    bench.publish(&mut toy).await;
    toy.add("a", "1", Side::Buy, 100, 1, Origin::NONE);
    bench.publish(&mut toy).await;
    let state = toy.state();
    toy.add("a", "2", Side::Buy, 105, 1, Origin::NONE);
    bench.publish(&mut toy).await;
    toy.add("a", "3", Side::Buy, 110, 1, Origin::NONE);
    bench.publish(&mut toy).await;
    // A position that is too new: seq 3 lies before it.
    let owner = NodeId::new("n1").unwrap();
    let start = Start { state, events_position: Offset(3), owner };
    let gateway = bench.gateway_with(vec![start], GatewayLimits { history_records: 0, ..Default::default() }).await;
    seen(&gateway, &toy).await;
    assert_eq!(gateway.mirrors().open_orders(None, &user("a")).len(), 3);
    // Nobody ever wrote this one.
    toy.add("a", "4", Side::Buy, 115, 1, Origin::NONE);
    toy.take();
    toy.add("a", "5", Side::Buy, 120, 1, Origin::NONE);
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    assert_eq!(gateway.mirrors().open_orders(None, &user("a")).len(), 4);
}

#[actix_rt::test]
async fn depth_is_a_snapshot_and_deltas_without_a_gap_while_orders_stream_in() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let mut toy = Toy::listed("TSLA");
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    let symbol = toy.symbol;
    let mut sinks = Vec::new();
    for i in 0..300u64 {
        let side = if i % 3 == 0 { Side::Sell } else { Side::Buy };
        toy.add("u", &format!("o{i}"), side, 100 + i * 7 % 13 * 5, 1 + i % 4, Origin::NONE);
        if i % 5 == 0 {
            toy.cancel("u", &format!("o{}", i / 2), Origin::NONE);
        }
        let outputs = toy.take();
        for value in events::encode(&symbol, &outputs).unwrap() {
            let key = Bytes::copy_from_slice(symbol.as_bytes());
            let record = NewRecord { to: Bench::to(Topic::Events, symbol), key, header: Bytes::new(), value };
            // Not awaited: the egress reads while these are written.
            drop(bench.node.append(record));
        }
        if i % 20 == 7 {
            let sink = Arc::new(Kept::default());
            let connection = gateway.connect(None, Arc::clone(&sink) as Arc<dyn Sink>);
            for channel in [Channel::Depth, Channel::Trades, Channel::Ticker] {
                gateway.subscribe(connection, channel, symbol).unwrap();
            }
            sinks.push(sink);
            tokio::task::yield_now().await;
        }
    }
    let last = toy.out.seqs().last.0;
    let price = |l: &Level| l.price.to_decimal(2).parse::<f64>().unwrap().to_string();
    let mut book = std::collections::BTreeMap::new();
    for (name, side) in [("bids", Side::Buy), ("asks", Side::Sell)] {
        book.extend(toy.levels(side).iter().map(|l| ((name, price(l)), l.quantity)));
    }
    for sink in sinks {
        let is_done = |got: &[Push]| market(got, "DEPTH").last().is_some_and(|d| d["seq"] == last);
        let got = sink.until(is_done).await;
        let depth = market(&got, "DEPTH");
        assert_eq!(depth[0]["kind"], "snapshot");
        let mut mine = std::collections::BTreeMap::new();
        for (i, message) in depth.iter().enumerate() {
            if i > 0 {
                assert_eq!((&message["kind"], &message["prev_seq"]), (&Value::from("delta"), &depth[i - 1]["seq"]));
            }
            for side in ["bids", "asks"] {
                for level in message[side].as_array().unwrap() {
                    // By side: a price may leave one side and join the other within one delta.
                    let place = (side, level[0].as_f64().unwrap().to_string());
                    match level[1].as_u64().unwrap() {
                        0 => _ = mine.remove(&place),
                        quantity => _ = mine.insert(place, quantity),
                    }
                }
            }
        }
        assert_eq!(mine, book);
        let from = depth[0]["seq"].as_u64().unwrap();
        let trades: Vec<_> = market(&got, "TRADE").iter().map(|t| t["seq"].as_u64().unwrap()).collect();
        assert!(trades.is_sorted() && trades.iter().all(|s| *s > from));
        let all = gateway.mirrors().trades(&symbol, 1_000).unwrap();
        assert_eq!(trades.len(), all.iter().filter(|t| t.seq.0 > from).count());
        let ticker = market(&got, "TICKER").pop().unwrap();
        assert_eq!(ticker["trades"], all.len());
    }
}

#[actix_rt::test]
async fn market_data_is_written_exactly() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let mut toy = Toy::listed("TSLA");
    toy.add("m", "m1", Side::Sell, 10_050, 5, Origin::NONE);
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    let sink = Arc::new(Kept::default());
    let connection = gateway.connect(None, Arc::clone(&sink) as Arc<dyn Sink>);
    for channel in [Channel::Depth, Channel::Trades, Channel::Ticker] {
        gateway.subscribe(connection, channel, toy.symbol).unwrap();
    }
    toy.add("t", "t1", Side::Buy, 10_050, 2, Origin::NONE);
    bench.publish(&mut toy).await;
    let got = sink.count(5).await;
    let texts: Vec<String> =
        got.iter().map(|p| if let Push::Market(t) = p { t.to_string() } else { String::new() }).collect();
    assert_eq!(
        texts,
        [
            r#"{"type":"DEPTH","data":{"symbol":"TSLA","kind":"snapshot","seq":2,"prev_seq":2,"bids":[],"asks":[[100.50,5]]}}"#,
            r#"{"type":"TICKER","data":{"symbol":"TSLA","last_price":null,"open":null,"high":null,"low":null,"last_qty":0,"volume":0,"trades":0,"seq":2,"timestamp":"2023-11-14T22:13:20.001Z"}}"#,
            r#"{"type":"DEPTH","data":{"symbol":"TSLA","kind":"delta","seq":4,"prev_seq":2,"bids":[],"asks":[[100.50,3]]}}"#,
            r#"{"type":"TRADE","data":{"trade_id":"TSLA-3","symbol":"TSLA","price":100.50,"quantity":2,"taker_side":"BUY","seq":3,"timestamp":"2023-11-14T22:13:20.002Z"}}"#,
            r#"{"type":"TICKER","data":{"symbol":"TSLA","last_price":100.50,"open":100.50,"high":100.50,"low":100.50,"last_qty":2,"volume":2,"trades":1,"seq":4,"timestamp":"2023-11-14T22:13:20.002Z"}}"#,
        ]
    );
    gateway.unsubscribe(connection, Channel::Depth, toy.symbol);
    gateway.unsubscribe(connection, Channel::Trades, toy.symbol);
    toy.add("t", "t2", Side::Buy, 10_050, 1, Origin::NONE);
    bench.publish(&mut toy).await;
    assert_eq!(market(&sink.count(6).await[5..], "TICKER").len(), 1);
}

#[actix_rt::test]
async fn subscriptions_are_bounded_and_refused_where_they_make_no_sense() {
    let bench = Bench::new();
    let limits = GatewayLimits { subscriptions_per_connection_max: 1, ..GatewayLimits::default() };
    let gateway = bench.gateway_with(Vec::new(), limits).await;
    let mut toy = Toy::listed("TSLA");
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    let connection = gateway.connect(None, Arc::new(Kept::default()));
    let subscribe = |channel, symbol: &str| gateway.subscribe(connection, channel, Symbol::new(symbol).unwrap());
    assert_eq!(subscribe(Channel::Depth, "NONE"), Err(Refusal::UnknownSymbol));
    assert_eq!(subscribe(Channel::Orders, "TSLA"), Err(Refusal::NotAuthenticated));
    assert_eq!(subscribe(Channel::Depth, "TSLA"), Ok(()));
    assert_eq!(subscribe(Channel::Depth, "TSLA"), Ok(()), "again: another snapshot, no other place");
    assert_eq!(subscribe(Channel::Trades, "TSLA"), Err(Refusal::TooManySubscriptions));
    gateway.unsubscribe(connection, Channel::Depth, toy.symbol);
    assert_eq!(subscribe(Channel::Trades, "TSLA"), Ok(()));
    gateway.disconnect(connection);
    assert_eq!(subscribe(Channel::Trades, "TSLA"), Err(Refusal::NotConnected));
}

/// Reads what the router appended.
async fn appended(bench: &Bench, symbol: Symbol) -> Vec<Record> {
    bench.log.read(Bench::to(Topic::Orders, symbol), Offset(0), 100).await.unwrap()
}

#[actix_rt::test]
async fn the_router_appends_what_is_sound_and_refuses_the_rest_before_the_log() {
    let bench = Bench::new();
    let gateway = bench.gateway(Vec::new()).await;
    let mut toy = Toy::listed("TSLA");
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    let (router, origin, symbol) = (gateway.router(), gateway.origin(7), toy.symbol);
    let submit = |symbol, command| router.submit(Submit { symbol, command, origin });
    let refused = |symbol, command| submit(symbol, command).err();
    assert_eq!(refused(Symbol::new("NONE").unwrap(), limit("a", "1", 100, 1)), Some(Refusal::UnknownSymbol));
    let invalid = |r| Some(Refusal::Invalid(r));
    assert_eq!(refused(symbol, limit("a", "1", 101, 1)), invalid(Reason::PriceNotOnTick));
    assert_eq!(refused(symbol, limit("a", "1", 20_005, 1)), invalid(Reason::PriceAboveLimit));
    assert_eq!(refused(symbol, limit("a", "1", 100, 0)), invalid(Reason::InvalidQuantity));
    let (user, order_id) = (user("a"), id("1"));
    let replace = |price, quantity| Command::Replace { user, order_id, price, quantity };
    assert_eq!(refused(symbol, replace(Some(Price(101)), None)), invalid(Reason::PriceNotOnTick));
    let authority = Authority { nonce: 0, valid_until: Micros(0) };
    assert_eq!(refused(symbol, Command::Halt { authority }), Some(Refusal::Forbidden));
    for command in [limit("a", "1", 100, 1), replace(Some(Price(105)), None), Command::Cancel { user, order_id }] {
        submit(symbol, command).unwrap().await.unwrap();
    }
    submit(symbol, Command::CancelAll { user, authority }).unwrap().await.unwrap();
    let records = appended(&bench, symbol).await;
    let to = Bench::to(Topic::Orders, symbol);
    let keyring = Keyring::from_secret(b"s");
    let read = |r: &Record| wire::decode(&r.value, to.partition, &keyring).unwrap();
    assert_eq!(read(&records[0]), (symbol, limit("a", "1", 100, 1)));
    assert!(matches!(read(&records[3]).1, Command::CancelAll { authority, .. } if authority.valid_until > Micros(0)));
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|r| Origin::from_bytes(&r.header) == origin && r.key == symbol.as_bytes()));
}

#[actix_rt::test]
async fn a_book_that_is_behind_takes_cancels_only() {
    let bench = Bench::new();
    let gateway = bench.gateway_with(Vec::new(), GatewayLimits { lag_records_max: 10, ..Default::default() }).await;
    let mut toy = Toy::listed("TSLA");
    bench.publish(&mut toy).await;
    seen(&gateway, &toy).await;
    let symbol = toy.symbol;
    let book = bench.directory.enter(symbol, 0, NodeId::new("n1").unwrap());
    let router = gateway.router();
    let submit = |command| router.submit(Submit { symbol, command, origin: Origin::NONE }).err();
    book.met(10);
    assert_eq!(submit(limit("a", "1", 100, 1)), None);
    book.met(1);
    let (user, order_id) = (user("a"), id("1"));
    assert_eq!(submit(limit("a", "2", 100, 1)), Some(Refusal::Overloaded));
    let replace = Command::Replace { user, order_id, price: None, quantity: Some(Quantity(3)) };
    assert_eq!(submit(replace), Some(Refusal::Overloaded));
    assert_eq!(submit(Command::Cancel { user, order_id }), None);
}
