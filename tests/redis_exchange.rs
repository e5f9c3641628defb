//! An exchange in this process, its routes and its cache in a real Redis: what others look up there is true, and what Redis says is
//! heard, also after it was away or emptied.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use embedded::*;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::actors::gateway::{Push, Sink};
use hotbook::domain::{Command, Epoch, NodeId, Side, UserId};
use hotbook::migration::handover::Cause;
use hotbook::ports::Parts;
use hotbook::ports::cache::Cache;
use hotbook::ports::routes::redis::{RedisOptions, RedisRoutes};
use hotbook::ports::routes::{Addresses, Route, RouteStatus, Routes};
use hotbook_harness::services::Redis;
use serde_json::Value;

#[path = "common/embedded.rs"]
mod embedded;

/// Reading all of the table, the safety net, comes as often as this; what is written to the cache though nothing is known to be
/// wrong comes less often.
const READ_EVERY: Duration = Duration::from_secs(10);

/// The depth that others see; `Null` if there is none.
fn depth_of(redis: &Redis, name: &str) -> Value {
    let text = redis.ask(&["GET", &format!("orderbook:{name}")]);
    text.first().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
}

fn nodes_of(redis: &Redis, user: &str) -> Vec<String> {
    redis.ask(&["ZRANGE", &format!("session:{user}"), "0", "-1"])
}

/// Asks Redis until it is so; gives how long that took.
async fn until_so(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    hotbook_harness::until(what, DEADLINE, async || condition()).await
}

fn routes(redis: &Redis) -> RedisRoutes {
    RedisRoutes::open(&RedisOptions::new("127.0.0.1", redis.port)).unwrap()
}

async fn start_on(redis: &Redis, config: ExchangeConfig, folder: &Path) -> Arc<Exchange> {
    let routes = routes(redis);
    let cache = Some(Arc::new(routes.cache()) as Arc<dyn Cache>);
    let parts = Parts { routes: Arc::new(routes), cache, ..Parts::embedded(folder, config.partitions, false).unwrap() };
    let exchange = Exchange::start_on(config, parts).await.unwrap();
    until("ready", || exchange.is_ready()).await;
    exchange
}

fn add(id: &str, side: Side, price: u64, quantity: u64) -> Command {
    Command::Add(order(id, side, price, quantity))
}

/// What others see is what the gateway shows.
fn is_shown(redis: &Redis, exchange: &Exchange, name: &str) -> bool {
    let shown = depth_of(redis, name);
    let Some(depth) = exchange.gateway().mirrors().depth(&symbol(name), 20) else { return false };
    let side = |levels: &[hotbook::domain::output::Level]| -> Vec<(String, u64)> {
        levels.iter().map(|l| (l.price.to_decimal(2), l.quantity)).collect()
    };
    let said = |side: &Value| -> Vec<(String, u64)> {
        let level = |l: &Value| (format!("{:.2}", l["price"].as_f64().unwrap()), l["qty"].as_u64().unwrap());
        side.as_array().unwrap().iter().map(level).collect()
    };
    shown["seq"] == depth.seq.0
        && shown["symbol"] == name
        && said(&shown["bids"]) == side(&depth.bids)
        && said(&shown["asks"]) == side(&depth.asks)
        && shown["last_qty"].as_u64() == depth.last_trade.map(|(_, quantity)| quantity.0)
}

#[actix_web::test]
async fn the_depth_of_every_book_is_there_for_others_and_comes_back_with_redis() {
    let (mut redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let config = ExchangeConfig { nodes: 2, partitions: 4, ..config(folder.path()) };
    let exchange = start_on(&redis, config, folder.path()).await;
    let names = ["AAA", "BBB", "CCC"];
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    until_so("a book without orders", || depth_of(&redis, "CCC")["seq"] == 1).await;
    for n in 0..25 {
        send(&exchange, "AAA", &add(&format!("b{n}"), Side::Buy, 10_001 + n, 1 + n)).await;
    }
    send(&exchange, "AAA", &add("s", Side::Sell, 10_025, 3)).await;
    let took = until_so("the depth", || is_shown(&redis, &exchange, "AAA")).await;
    println!("the depth is there {took:?} after the last answer");
    let text = redis.ask(&["GET", "orderbook:AAA"]).remove(0);
    let begins = r#"{"symbol":"AAA","asks":[],"bids":[{"price":100.25,"qty":22},{"price":100.24,"qty":24},"#;
    assert!(text.starts_with(begins) && text.contains(r#","last_price":100.25,"last_qty":3,"seq":"#), "{text}");
    assert_eq!(text.matches("price\":").count(), 20 + 1, "as many levels as are shown unasked: {text}");

    // Nothing trades meanwhile.
    redis.flush();
    let back = until_so("all books again", || names.iter().all(|name| is_shown(&redis, &exchange, name))).await;
    println!("all books are there again {back:?} after Redis was emptied");
    assert!(back < READ_EVERY, "{back:?}");

    // Whoever takes a book over writes it, though nothing happens in it.
    let book = exchange.directory().get(&symbol("AAA")).unwrap();
    let to = exchange.fleet().open_ids().find(|id| *id != book.node()).unwrap();
    redis.ask(&["DEL", "orderbook:AAA"]);
    exchange.moves().begin(symbol("AAA"), to, Cause::Operator).unwrap();
    let taken = until_so("the book that was moved", || is_shown(&redis, &exchange, "AAA")).await;
    assert!(taken < READ_EVERY, "{taken:?}");

    // It answers nobody, and every call to it takes its whole time.
    redis.server.freeze();
    let began = Instant::now();
    for n in 0..50 {
        let side = if n % 2 == 0 { Side::Buy } else { Side::Sell };
        send(&exchange, "BBB", &add(&format!("o{n}"), side, 100 + n % 3, 1 + n % 5)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "orders do not wait for Redis: {:?}", began.elapsed());
    redis.server.kill();
    redis.lose_data();
    redis.server.start();
    until_so("what traded while Redis was away", || is_shown(&redis, &exchange, "BBB")).await;
    until_so("what did not", || is_shown(&redis, &exchange, "AAA")).await;

    // The last change is not lost by going down right behind it.
    let last = send(&exchange, "CCC", &add("last", Side::Buy, 777, 7)).await;
    exchange.shutdown().await;
    let shown = depth_of(&redis, "CCC");
    assert_eq!(shown["seq"].as_u64(), last.said.last().map(|said| said.output.seq.0), "{shown}");
}

/// Hears nothing.
struct Unread;

impl Sink for Unread {
    fn push(&self, _: Vec<Push>) {}
}

#[actix_web::test]
async fn where_a_user_is_connected_is_there_for_others_until_the_last_connection_ends() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let config = ExchangeConfig { node_id: Some(NodeId::new("east").unwrap()), partitions: 4, ..config(folder.path()) };
    let exchange = start_on(&redis, config, folder.path()).await;
    let gateway = exchange.gateway();
    let user = |name: &str| UserId::new(name).unwrap();
    let are = |name: &str, nodes: &[&str]| nodes_of(&redis, name) == nodes;
    let ann = [gateway.connect(Some(user("ann")), Arc::new(Unread)), gateway.connect(None, Arc::new(Unread))];
    until_so("who came", || are("ann", &["east"])).await;
    let left: u64 = redis.ask(&["PTTL", "session:ann"])[0].parse().unwrap();
    assert!(left > 50_000 && left <= 60_000, "{left}");
    // Who says later who they are.
    gateway.authenticate(ann[1], user("ann"));
    let bob = gateway.connect(None, Arc::new(Unread));
    gateway.authenticate(bob, user("bob"));
    until_so("who said so", || are("bob", &["east"])).await;

    redis.flush();
    let back = until_so("all again", || are("ann", &["east"]) && are("bob", &["east"])).await;
    assert!(back < READ_EVERY, "{back:?}");

    gateway.disconnect(ann[0]);
    gateway.disconnect(bob);
    until_so("who went", || are("bob", &[])).await;
    assert!(are("ann", &["east"]), "one connection is left");
    gateway.disconnect(ann[1]);
    gateway.authenticate(ann[1], user("ann"));
    until_so("the last one went", || are("ann", &[])).await;

    let eve = gateway.connect(Some(user("eve")), Arc::new(Unread));
    until_so("one more", || are("eve", &["east"])).await;
    exchange.shutdown().await;
    assert!(are("eve", &[]), "a process that goes down says so");
    gateway.disconnect(eve);
}

/// A change that were only found by reading all rows again and again would take seconds.
#[actix_web::test]
async fn a_process_without_nodes_hears_of_a_move_at_once() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let config = ExchangeConfig {
        nodes: 0,
        node_id: Some(NodeId::new("g1").unwrap()),
        partitions: 4,
        cluster: Some(Addresses::default()),
        ..config(folder.path())
    };
    let (table, of) = (routes(&redis), symbol("AAA"));
    let row = |node: &str, epoch: u64| Route {
        target_instance: NodeId::new(node).unwrap(),
        status: RouteStatus::Active,
        epoch: Epoch(epoch),
        partition: 3,
        to: None,
    };
    table.learn(of, row("n1", 0)).await.unwrap();
    let exchange = start_on(&redis, config, folder.path()).await;
    let owner = |name: &str| exchange.owners().get(&symbol(name)).map(|o| (o.node.to_string(), o.epoch.0));
    until("what the table held before", || owner("AAA") == Some(("n1".into(), 0))).await;

    let began = Instant::now();
    for epoch in 1..=30 {
        let (from, to) = if epoch % 2 == 1 { ("n1", "n2") } else { ("n2", "n1") };
        table.swap(of, Some(row(from, epoch - 1).version()), row(to, epoch)).await.unwrap();
        until("a move", || owner("AAA") == Some((to.into(), epoch))).await;
    }
    println!("30 moves were heard in {:?}", began.elapsed());
    assert!(began.elapsed() < READ_EVERY / 2, "{:?}", began.elapsed());

    // Nobody announces this.
    let code = "redis.call('FLUSHALL') redis.call('SET', KEYS[1], ARGV[1])";
    let text = r#"{"target_instance":"n7","status":"ACTIVE","epoch":3,"partition":1}"#;
    let emptied = Instant::now();
    redis.ask(&["EVAL", code, "1", "route:BBB", text]);
    until("what an emptied table holds", || owner("BBB") == Some(("n7".into(), 3))).await;
    println!("what nobody announced was found {:?} after Redis was emptied", emptied.elapsed());
    exchange.shutdown().await;
}
