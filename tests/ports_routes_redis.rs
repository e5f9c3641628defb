//! The routes in a real Redis keep the port's contract, and stand what happens to a server.

mod common {
    pub mod routes_contract;
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::routes_contract::{Bench, beat, holder, migrating, node, route, soon, symbol};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use hotbook::domain::{Seq, UserId};
use hotbook::ports::cache::{Cache, Depth};
use hotbook::ports::routes::redis::{RedisOptions, RedisRoutes, RedisTls};
use hotbook::ports::routes::{Change, Changes, LEADER, Routes, RoutesError};
use hotbook_harness::services::{Certificates, Redis};

const LONG: Duration = Duration::from_secs(60);

/// Two ways to speak to a server.
trait Asked {
    fn options(&self) -> RedisOptions;
    fn routes(&self) -> RedisRoutes;
    /// What a person types into redis-cli.
    async fn says(&self, words: &[&str]) -> redis::Value;
}

impl Asked for Redis {
    fn options(&self) -> RedisOptions {
        RedisOptions::new("127.0.0.1", self.port)
    }

    fn routes(&self) -> RedisRoutes {
        RedisRoutes::open(&self.options()).unwrap()
    }

    async fn says(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
    }
}

fn text(value: redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

impl Bench for Redis {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Routes>> {
        let routes: Arc<dyn Routes> = Arc::new(self.routes());
        ready(routes).boxed()
    }

    fn wipe(&mut self) -> BoxFuture<'_, ()> {
        async { _ = self.says(&["FLUSHALL"]).await }.boxed()
    }
}

routes_contract!(Redis::start());

/// The call fails, and not after its bound.
async fn is_unavailable<T: std::fmt::Debug>(call: impl Future<Output = Result<T, RoutesError>>) -> String {
    let started = Instant::now();
    let result = soon(call).await;
    let took = started.elapsed();
    // Twice the timeout is promised; the rest is a busy machine.
    assert!(took < Duration::from_secs(8), "{took:?}");
    match result {
        Err(RoutesError::Unavailable { why }) => why,
        other => panic!("{other:?}"),
    }
}

/// Reads until it is told to read again.
/// The next row; to be told to read everything again is always allowed before it.
async fn next_row(changes: &mut Changes) -> Change {
    loop {
        match soon(changes.next()).await.expect("a change") {
            Change::Resync => {}
            row @ Change::Row { .. } => return row,
        }
    }
}

async fn until_resync(changes: &mut Changes) {
    while soon(changes.next()).await.expect("a change") != Change::Resync {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_is_filled_again() {
    let mut redis = Redis::start();
    let routes = redis.routes();
    let of = symbol("TSLA");
    let mut changes = soon(routes.watch()).await.unwrap();
    soon(routes.learn(of, route("n2", 9))).await.unwrap();
    soon(routes.beat(beat("n1", 5, 0.1), LONG)).await.unwrap();
    let held = soon(routes.acquire(LEADER, holder("n1", 5), LONG)).await.unwrap();
    assert_eq!(soon(changes.next()).await, Some(Change::Row { symbol: of, route: route("n2", 9) }));

    redis.server.kill();
    is_unavailable(routes.get(of)).await;
    is_unavailable(routes.all()).await;
    is_unavailable(routes.learn(of, route("n2", 9))).await;
    is_unavailable(routes.swap(of, Some(route("n2", 9).version()), migrating("n2", 9, "n1"))).await;
    is_unavailable(routes.beat(beat("n1", 5, 0.1), LONG)).await;
    is_unavailable(routes.beats()).await;
    is_unavailable(routes.acquire(LEADER, holder("n1", 5), LONG)).await;
    is_unavailable(routes.renew(LEADER, held, LONG)).await;
    let mut late = soon(routes.watch()).await.expect("it hears once there is something to hear");

    redis.lose_data();
    redis.server.start();
    assert_eq!(soon(routes.get(of)).await.unwrap(), None, "the first call after it is back is answered");
    until_resync(&mut changes).await;
    until_resync(&mut late).await;
    assert_eq!(soon(routes.beats()).await.unwrap(), []);
    assert!(matches!(soon(routes.renew(LEADER, held, LONG)).await, Err(RoutesError::LeaseLost { .. })));
    let taken = soon(routes.acquire(LEADER, holder("n2", 6), LONG)).await.unwrap();
    assert!(taken.token > held.token, "{taken:?} after {held:?}");
    soon(routes.learn(of, route("n2", 9))).await.unwrap();
    soon(routes.beat(beat("n1", 5, 0.1), LONG)).await.unwrap();
    assert_eq!(next_row(&mut changes).await, Change::Row { symbol: of, route: route("n2", 9) });
    assert_eq!(soon(routes.beats()).await.unwrap(), [beat("n1", 5, 0.1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_well_has_lost_nothing() {
    let mut redis = Redis::start();
    let routes = redis.routes();
    let of = symbol("TSLA");
    let held = soon(routes.acquire(LEADER, holder("n1", 5), LONG)).await.unwrap();
    soon(routes.learn(of, route("n2", 9))).await.unwrap();
    redis.server.stop();
    redis.server.start();
    assert_eq!(soon(routes.learn(of, route("n1", 8))).await.unwrap(), route("n2", 9), "an epoch never goes back");
    assert_eq!(soon(routes.renew(LEADER, held, LONG)).await.unwrap().token, held.token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nobody_up() {
    let redis = Redis::start();
    let routes = redis.routes();
    let of = symbol("TSLA");
    let mut changes = soon(routes.watch()).await.unwrap();
    soon(routes.learn(of, route("n1", 1))).await.unwrap();
    redis.server.freeze();
    for _ in 0..2 {
        is_unavailable(routes.get(of)).await;
    }
    is_unavailable(routes.swap(of, Some(route("n1", 1).version()), route("n2", 2))).await;
    redis.server.thaw();
    let row = soon(routes.get(of)).await.unwrap().unwrap();
    assert!([route("n1", 1), route("n2", 2)].contains(&row), "a swap without an answer was done or not: {row:?}");
    // Whatever it heard before, it hears what is said now.
    soon(routes.learn(of, route("n3", 3))).await.unwrap();
    while soon(changes.next()).await != Some(Change::Row { symbol: of, route: route("n3", 3) }) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_hear_that_the_table_was_emptied_under_them() {
    let mut redis = Redis::start();
    let routes = redis.routes();
    let mut changes = soon(routes.watch()).await.unwrap();
    // The table has got its name.
    let named = async {
        while redis.says(&["EXISTS", "table"]).await != redis::Value::Int(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(named).await;
    redis.wipe().await;
    assert_eq!(soon(changes.next()).await, Some(Change::Resync));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_others_are_as_if_they_were_not_there() {
    let redis = Redis::start();
    let routes = redis.routes();
    let mut changes = soon(routes.watch()).await.unwrap();
    for (key, value) in [("route:TSLA", "{\"epoch\":7}"), ("route:AAPL", "nonsense"), ("route:no symbol", "{}")] {
        redis.says(&["SET", key, value]).await;
    }
    redis.says(&["SET", "node:n1", "[]"]).await;
    redis.says(&["SADD", "nodes", "n1"]).await;
    assert_eq!(soon(routes.get(symbol("TSLA"))).await.unwrap(), None);
    assert_eq!(soon(routes.all()).await.unwrap(), []);
    assert_eq!(soon(routes.beats()).await.unwrap(), []);
    soon(routes.beat(beat("n1", 5, 0.1), LONG)).await.unwrap();
    assert_eq!(soon(routes.beats()).await.unwrap(), [beat("n1", 5, 0.1)]);
    assert_eq!(soon(routes.learn(symbol("TSLA"), route("n1", 1))).await.unwrap(), route("n1", 1));
    soon(routes.swap(symbol("AAPL"), None, route("n1", 1))).await.unwrap();
    assert_eq!(soon(routes.all()).await.unwrap().len(), 2);
    redis.says(&["PUBLISH", "routes", "what is this"]).await;
    until_resync(&mut changes).await;
}

/// What an operator sees with `redis-cli get`, and other programs read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_have_the_documented_keys_and_fields() {
    let redis = Redis::start();
    let routes = redis.routes();
    soon(routes.learn(symbol("TSLA"), migrating("n1", 4, "n2"))).await.unwrap();
    soon(routes.beat(beat("n1", 5, 0.5), LONG)).await.unwrap();
    assert_eq!(
        text(redis.says(&["GET", "route:TSLA"]).await),
        r#"{"target_instance":"n1","status":"MIGRATING","epoch":4,"partition":3,"to":"n2"}"#
    );
    assert!(text(redis.says(&["GET", "node:n1"]).await).starts_with(r#"{"node":"n1","incarnation":5,"#));
    let redis::Value::Int(left) = redis.says(&["PTTL", "node:n1"]).await else { panic!() };
    assert!(left > 0 && left <= 60_000, "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_are_all_read() {
    let redis = Redis::start();
    let routes = redis.routes();
    let mut expected = Vec::new();
    for n in 0..3_000u64 {
        let of = symbol(&format!("S{n:05}"));
        soon(routes.learn(of, route("n1", n))).await.unwrap();
        expected.push((of, route("n1", n)));
    }
    assert!(soon(routes.all()).await.unwrap() == expected);
}

/// A node's actors have runtimes of their own that end before the process does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_outlives_the_runtime_that_first_used_it() {
    let redis = Redis::start();
    let routes = redis.routes();
    let there = routes.clone();
    let learnt = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut changes = runtime.block_on(there.watch()).unwrap();
        runtime.block_on(there.learn(symbol("TSLA"), route("n1", 1))).unwrap();
        runtime.block_on(changes.next()).unwrap()
    });
    assert_eq!(learnt.await.unwrap(), Change::Row { symbol: symbol("TSLA"), route: route("n1", 1) });
    let mut changes = soon(routes.watch()).await.unwrap();
    let swap = routes.swap(symbol("TSLA"), Some(route("n1", 1).version()), route("n2", 2));
    soon(swap).await.expect("without a new connection");
    assert_eq!(soon(changes.next()).await, Some(Change::Row { symbol: symbol("TSLA"), route: route("n2", 2) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_and_the_right_one_is_taken_later() {
    let redis = Redis::start_with(&["--requirepass", "first"]);
    let with = |password: Option<&str>| RedisOptions { password: password.map(Into::into), ..redis.options() };
    let routes = RedisRoutes::open(&with(Some("second"))).unwrap();
    let why = is_unavailable(routes.get(symbol("TSLA"))).await;
    assert!(why.contains("assword") && !why.contains("second"), "{why}");
    let why = is_unavailable(RedisRoutes::open(&with(None)).unwrap().get(symbol("TSLA"))).await;
    assert!(why.contains("uthentication"), "{why}");
    let debug = format!("{:?} {routes:?}", with(Some("second")));
    assert!(!debug.contains("second"), "{debug}");

    let client = redis::Client::open(format!("redis://:first@127.0.0.1:{}", redis.port)).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let change = redis::cmd("CONFIG").arg(&["SET", "requirepass", "second"]).clone();
    change.exec_async(&mut admin).await.unwrap();
    assert_eq!(soon(routes.get(symbol("TSLA"))).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_and_a_certificate_of_somebody_else_is_refused() {
    let ours = Certificates::make();
    let (certificate, key, ca) = (ours.path("server.pem"), ours.path("server.key"), ours.path("ca.pem"));
    let tls_port = hotbook_harness::free_port();
    let tls = format!("{tls_port}");
    let redis = Redis::start_with(&[
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "secret",
    ]);
    let with = |ca_pem| RedisOptions {
        port: tls_port,
        password: Some("secret".into()),
        tls: Some(RedisTls { ca_pem }),
        ..redis.options()
    };
    let routes = RedisRoutes::open(&with(Some(ours.ca_pem()))).unwrap();
    let mut changes = soon(routes.watch()).await.unwrap();
    soon(routes.learn(symbol("TSLA"), route("n1", 1))).await.unwrap();
    assert_eq!(soon(changes.next()).await, Some(Change::Row { symbol: symbol("TSLA"), route: route("n1", 1) }));

    for other in [Some(Certificates::make().ca_pem()), None] {
        let why = is_unavailable(RedisRoutes::open(&with(other)).unwrap().get(symbol("TSLA"))).await;
        assert!(why.contains("certificate"), "{why}");
    }
    let nonsense = RedisRoutes::open(&with(Some(b"no certificate".to_vec())));
    assert!(matches!(nonsense, Err(RoutesError::Unavailable { .. })), "{nonsense:?}");
    let plain = RedisOptions { tls: None, ..with(None) };
    is_unavailable(RedisRoutes::open(&plain).unwrap().get(symbol("TSLA"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_depth_cache_never_goes_back() {
    let redis = Redis::start();
    let cache = redis.routes().cache();
    let depth = |name: &str, seq: u64, qty: u64| {
        let json = format!(
            r#"{{"symbol":"{name}","asks":[],"bids":[{{"price":250.00,"qty":{qty}}}],"last_qty":null,"seq":{seq}}}"#
        );
        Depth { symbol: symbol(name), seq: Seq(seq), json }
    };
    let put = async |depths: &[Depth]| soon(cache.put_depths(depths)).await.unwrap();
    let held = async |name: &str| text(redis.says(&["GET", &format!("orderbook:{name}")]).await);
    assert_eq!(put(&[depth("TSLA", 5, 1)]).await, 1);
    assert_eq!(put(&[depth("TSLA", 4, 2)]).await, 0);
    assert_eq!(put(&[depth("TSLA", 5, 3)]).await, 0);
    assert_eq!(held("TSLA").await, depth("TSLA", 5, 1).json, "as it was written, digit for digit");
    assert_eq!(put(&[depth("TSLA", 3, 9), depth("AAPL", 1, 4), depth("TSLA", 10, 4)]).await, 2, "each by itself");
    assert_eq!((held("TSLA").await, held("AAPL").await), (depth("TSLA", 10, 4).json, depth("AAPL", 1, 4).json));
    assert_eq!(put(&[depth("TSLA", (1 << 53) - 1, 4)]).await, 1);
    assert_eq!(put(&[]).await, 0);
    for nonsense in [&["SET", "orderbook:TSLA", "nonsense"][..], &["RPUSH", "orderbook:TSLA", "a list"]] {
        redis.says(&["DEL", "orderbook:TSLA"]).await;
        redis.says(nonsense).await;
        assert_eq!(put(&[depth("TSLA", 1, 5)]).await, 1, "{nonsense:?}");
        assert_eq!(held("TSLA").await, depth("TSLA", 1, 5).json);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_nodes_are_known_until_they_say_no_more() {
    let redis = Redis::start();
    let cache = redis.routes().cache();
    let [alice, bob] = ["alice", "bob"].map(|name| UserId::new(name).unwrap());
    // As the documentation has it: those that are not forgotten.
    let sessions = async |user: &str| -> Vec<String> {
        let redis::Value::Array(time) = redis.says(&["TIME"]).await else { panic!() };
        let seconds: u64 = text(time[0].clone()).parse().unwrap();
        let (key, now) = (format!("session:{user}"), (seconds * 1_000).to_string());
        let redis::Value::Array(nodes) = redis.says(&["ZRANGE", &key, &now, "+inf", "BYSCORE"]).await else { panic!() };
        nodes.into_iter().map(text).collect()
    };
    assert_eq!(sessions("alice").await, [""; 0]);
    soon(cache.sessions_held(&[alice, bob], node("n1"), LONG)).await.unwrap();
    soon(cache.sessions_held(&[alice], node("n2"), LONG * 2)).await.unwrap();
    assert_eq!((sessions("alice").await, sessions("bob").await), (vec!["n1".into(), "n2".into()], vec!["n1".into()]));
    soon(cache.sessions_ended(&[alice, bob], node("n1"))).await.unwrap();
    assert_eq!((sessions("alice").await, sessions("bob").await), (vec!["n2".to_owned()], vec![]));
    soon(cache.sessions_held(&[alice], node("n3"), Duration::from_millis(50))).await.unwrap();
    let gone = async {
        while sessions("alice").await != ["n2"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(gone).await;
    let redis::Value::Int(left) = redis.says(&["PTTL", "session:alice"]).await else { panic!() };
    assert!(left > 60_000 && left <= 120_000, "the longest of them keeps the key: {left}");
    redis.says(&["SET", "session:bob", "nonsense"]).await;
    soon(cache.sessions_ended(&[bob], node("n1"))).await.unwrap();
    soon(cache.sessions_held(&[bob], node("n1"), Duration::from_millis(50))).await.unwrap();
    let forgotten = async {
        while redis.says(&["EXISTS", "session:bob"]).await != redis::Value::Int(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(forgotten).await;
}
