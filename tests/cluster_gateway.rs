//! A process without books beside two that have some: it answers everything that the API has, over HTTP, WebSocket and gRPC, in the
//! same words as one process that does all, and does so again after it was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use hotbook::clock;
use hotbook::wire::rpc::RpcKey;
use hotbook::wire::rpc::v1::order_book_engine_client::OrderBookEngineClient;
use hotbook::wire::rpc::v1::restore_order_book_request::Source;
use hotbook::wire::rpc::v1::{
    GetOrderBookRequest, RemoveOrderBookRequest, RestoreOrderBookRequest, SnapshotOrderBookRequest,
};
use hotbook_harness::{Cluster, SECRET, SETTLES_WITHIN as SOON, Served, Ws, hotbook, request, until};
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const HOTBOOK: &str = env!("CARGO_BIN_EXE_hotbook");
const NODES: [&str; 2] = ["n1", "n2"];
/// A move can be stopped for twice as long.
const STEP_MS: &str = "300";

/// Everything that clients and operators may do, asked of one process. The symbol AAA is listed and nothing is open in it, before
/// and after; each round makes two trades.
struct Tour<'a> {
    served: &'a Served,
    admin: String,
    trader: String,
    round: usize,
    /// `METHOD /path/{parameter}`, all that `/openapi.json` has.
    described: BTreeSet<String>,
    /// The last answer to each of them.
    answers: BTreeMap<String, Value>,
    /// The last message of each kind over WebSocket.
    heard: BTreeMap<String, Value>,
}

impl<'a> Tour<'a> {
    async fn of(served: &'a Served, round: usize) -> Self {
        let (admin, trader) = (served.token("root", &["admin"]).await, served.token("ann", &["trader"]).await);
        let description = served.get("/openapi.json", &trader).await;
        let paths = description["paths"].as_object().unwrap();
        let of_path = |(path, methods): (&String, &Value)| {
            let methods: Vec<String> = methods.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
            methods.into_iter().map(|m| format!("{m} {path}")).collect::<Vec<_>>()
        };
        let described = paths.iter().flat_map(of_path).collect();
        Self { served, admin, trader, round, described, answers: BTreeMap::new(), heard: BTreeMap::new() }
    }

    /// The described address that a request belongs to.
    fn address(&self, method: &str, path: &str) -> String {
        let path = path.split('?').next().unwrap();
        let exact = format!("{method} {path}");
        let fits = |described: &&String| {
            let (theirs, ours) = (described.split('/'), exact.split('/'));
            theirs.clone().count() == ours.clone().count()
                && theirs.zip(ours).all(|(t, o)| t == o || t.starts_with('{'))
        };
        let found = self.described.get(&exact).or_else(|| self.described.iter().find(fits));
        found.unwrap_or_else(|| panic!("{exact} is not in /openapi.json")).clone()
    }

    async fn ask(&mut self, method: &str, path: &str, body: Value, expected: u16) -> Value {
        let address = self.address(method, path);
        let token = if path.starts_with("/admin/") { &self.admin } else { &self.trader };
        let body = (!body.is_null()).then(|| body.to_string());
        let (status, text) = request(&self.served.url, method, path, Some(token), body).await.unwrap();
        assert_eq!(status, expected, "{method} {path}: {text}");
        assert!(!text.is_empty(), "{method} {path} says nothing");
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        self.answers.insert(address, answer.clone());
        answer
    }

    async fn get(&mut self, path: &str) -> Value {
        self.ask("GET", path, Value::Null, 200).await
    }

    /// All of it, draining n2 last.
    async fn all(&mut self) {
        self.service().await;
        self.orders().await;
        self.socket().await;
        self.books().await;
        self.calls().await;
        self.moves().await;
        let asked: BTreeSet<String> = self.answers.keys().cloned().collect();
        assert_eq!(asked, self.described, "what was asked, and what /openapi.json has");
    }

    async fn service(&mut self) {
        for path in ["/", "/ops", "/docs", "/openapi.json", "/metrics", "/health/live", "/health/ready"] {
            self.get(path).await;
        }
        let token = self.ask("POST", "/auth/dev-token", json!({"user_id": "bob", "roles": ["trader"]}), 200).await;
        assert!(token["token"].is_string());
    }

    async fn orders(&mut self) {
        let round = self.round;
        let order = |id: &str, side: &str, price: u64| {
            json!({"symbol": "AAA", "side": side, "price": price, "quantity": 5, "stp": "none",
                   "order_id": format!("{id}-{round}")})
        };
        let resting = self.ask("POST", "/orders", order("rests", "SELL", 100), 201).await;
        assert_eq!(resting["status"], "NEW", "{resting}");
        let taker = self.ask("POST", "/orders", order("takes", "BUY", 100), 201).await;
        assert_eq!((&taker["status"], &taker["filled_qty"]), (&json!("FILLED"), &json!(5)), "{taker}");
        self.ask("POST", "/orders", order("leaves", "BUY", 99), 201).await;
        let leaves = format!("/orders/leaves-{round}?symbol=AAA");
        let replaced = self.ask("PUT", &leaves, json!({"price": 98, "quantity": 9}), 200).await;
        assert_eq!((&replaced["status"], &replaced["remaining_qty"]), (&json!("NEW"), &json!(9)), "{replaced}");
        assert_eq!(self.get(&leaves).await["price"], 98.0);
        assert_eq!(self.get(&format!("/orders/rests-{round}?symbol=AAA")).await["status"], "FILLED");
        let open = self.get("/orders?symbol=AAA&status=open").await;
        assert_eq!(open["orders"].as_array().unwrap().len(), 1, "{open}");
        let account = self.get("/account").await;
        assert_eq!((&account["open_orders"], &account["working"][0]["buy_qty"]), (&json!(1), &json!(9)), "{account}");
        let book = self.get("/orderbook/AAA?depth=5").await;
        assert_eq!(book["bids"], json!([{"price": 98.0, "qty": 9, "orders": 1}]), "{book}");
        // Two trades in each round before this one.
        let trades = self.get("/trades/AAA").await;
        assert_eq!(trades["trades"].as_array().unwrap().len(), 2 * round + 1, "{trades}");
        let fills = self.get("/fills?symbol=AAA").await;
        assert_eq!(fills["fills"].as_array().unwrap().len(), 4 * round + 2, "{fills}");
        let ticker = self.get("/ticker/AAA").await;
        assert_eq!((&ticker["last_price"], &ticker["trades"]), (&json!(100.0), &json!(2 * round + 1)), "{ticker}");
        let candles = self.get("/candles/AAA?interval=1h").await;
        let counted: u64 = candles["candles"].as_array().unwrap().iter().map(|c| c["trades"].as_u64().unwrap()).sum();
        assert_eq!(counted as usize, 2 * round + 1, "{candles}");
        let canceled = self.ask("DELETE", &leaves, Value::Null, 200).await;
        assert_eq!(canceled["status"], "CANCELED", "{canceled}");
        assert_eq!(self.get("/orders?symbol=AAA").await["orders"], json!([]));
        let again = self.ask("POST", "/orders", order("takes", "BUY", 100), 409).await;
        assert_eq!(again["code"], "duplicate_order");
        // What is compared is an order, not a refusal.
        self.answers.insert("POST /orders".into(), taker);
    }

    /// Reads until a message of each of these kinds has come.
    async fn hear(&mut self, ws: &mut Ws, kinds: &[&str]) {
        let mut missing: BTreeSet<&str> = kinds.iter().copied().collect();
        while !missing.is_empty() {
            let message = ws.next().await;
            let data = &message["data"];
            let detail = ["kind", "action"].iter().find_map(|field| data[field].as_str());
            let kind = [message["type"].as_str(), detail].into_iter().flatten().collect::<Vec<_>>().join(" ");
            missing.remove(kind.as_str());
            self.heard.insert(kind, message);
        }
    }

    async fn socket(&mut self) {
        let mut ws = Ws::connect(&self.served.url).await;
        let (token, round) = (self.trader.clone(), self.round);
        let order = |id: &str, side: &str, price: u64, quantity: u64| {
            json!({"action": "ADD", "symbol": "AAA", "side": side, "price": price, "quantity": quantity, "stp": "none",
                   "order_id": format!("{id}-{round}")})
        };
        let of =
            |action: &str, id: &str| json!({"action": action, "symbol": "AAA", "order_id": format!("{id}-{round}")});
        let mut replace = of("REPLACE", "ws-rests");
        replace["price"] = json!(102);
        let subscribe = |action: &str| {
            let channels = ["depth", "trades", "ticker", "candles", "orders"];
            json!({"action": action, "channels": channels, "symbols": ["AAA"]})
        };
        let traded = ["ACK", "ORDER_STATUS", "FILL", "TRADE", "DEPTH delta", "TICKER", "CANDLE"];
        let said = [
            (json!({"action": "AUTH", "token": token, "cancel_on_disconnect": true}), &["ACK AUTH"][..]),
            (subscribe("SUBSCRIBE"), &["ACK SUBSCRIBE", "DEPTH snapshot", "TICKER", "CANDLE"]),
            (order("ws-rests", "SELL", 101, 3), &["ACK", "ORDER_STATUS", "DEPTH delta"]),
            (order("ws-takes", "BUY", 101, 2), &traded),
            (replace, &["ACK", "ORDER_STATUS", "DEPTH delta"]),
            (of("CANCEL", "ws-rests"), &["ACK", "ORDER_STATUS", "DEPTH delta"]),
            (order("ws-all", "BUY", 97, 1), &["ACK", "ORDER_STATUS", "DEPTH delta"]),
            (json!({"action": "CANCEL_ALL", "symbol": "AAA"}), &["ACK", "ORDER_STATUS", "STATUS"]),
            (json!({"action": "RESUME", "last_seq": {"AAA": 1}}), &["ERROR", "ACK RESUME"]),
            (subscribe("UNSUBSCRIBE"), &["ACK UNSUBSCRIBE"]),
            (json!({"action": "PING"}), &["PONG"]),
        ];
        let actions: BTreeSet<String> = said.iter().map(|(m, _)| m["action"].as_str().unwrap().to_owned()).collect();
        assert_eq!(actions, documented_actions(), "what is sent, and what docs/websocket.md has");
        for (message, answered) in said {
            ws.send(message).await;
            self.hear(&mut ws, answered).await;
        }
        assert_eq!(self.heard["STATUS"]["data"]["count"], 1, "{}", self.heard["STATUS"]);
        assert_eq!(self.heard["ORDER_STATUS"]["data"]["status"], "CANCELED", "{}", self.heard["ORDER_STATUS"]);
        assert_eq!(self.heard["TRADE"]["data"]["price"], 101.0, "{}", self.heard["TRADE"]);
        // It goes without a word, and its order with it.
        ws.send(order("ws-vanishes", "BUY", 97, 1)).await;
        self.hear(&mut ws, &["ORDER_STATUS"]).await;
        ws.vanish();
        let (path, began) = (format!("/orders/ws-vanishes-{round}?symbol=AAA"), Instant::now());
        while self.get(&path).await["status"] != "CANCELED" {
            assert!(began.elapsed() < SOON, "cancel on disconnect");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.answers.insert("GET /ws".into(), Value::Null);
    }

    async fn books(&mut self) {
        let listed = json!({"symbol": format!("NEW{}", self.round), "tick_size": "0.05"});
        let listed = self.ask("POST", "/admin/instruments", listed, 201).await;
        assert_eq!(listed["status"], "TRADING", "{listed}");
        let instruments = self.get("/instruments").await;
        assert_eq!(instruments["instruments"].as_array().unwrap().len(), 2 + self.round, "{instruments}");
        self.ask("POST", "/admin/books/AAA/halt", Value::Null, 200).await;
        assert_eq!(self.get("/instruments").await["instruments"][0]["status"], "HALTED");
        self.ask("POST", "/admin/books/AAA/resume", Value::Null, 200).await;
        let saved = self.ask("POST", "/admin/books/AAA/snapshot", Value::Null, 200).await;
        assert!(saved["key"].as_str().unwrap().starts_with("snapshots/AAA/"), "{saved}");
        let raised = self.ask("POST", "/admin/finalize-version", json!({}), 200).await;
        assert_eq!(raised["books"], 2 + self.round, "{raised}");
        let nodes = self.get("/admin/nodes").await;
        let ids: Vec<&str> = nodes["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap()).collect();
        assert_eq!(ids, NODES, "{nodes}");
        let routes = self.get("/admin/routes").await;
        assert_eq!(routes["routes"].as_array().unwrap().len(), 2 + self.round, "{routes}");
        self.get("/admin/decisions?limit=5").await;
    }

    /// Where the book AAA is, and the other node.
    async fn home(&mut self) -> (String, String) {
        let books = self.get("/admin/books").await;
        let home = books["books"][0]["node"].as_str().unwrap().to_owned();
        let other = NODES.into_iter().find(|n| *n != home).unwrap();
        (home, other.to_owned())
    }

    async fn until_ended(&mut self, id: &Value) -> Value {
        let began = Instant::now();
        loop {
            let record = self.get(&format!("/admin/migrations/{id}")).await;
            if record["status"] != "RUNNING" {
                return record;
            }
            assert!(began.elapsed() < SOON, "{record}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// By the word of a process that may have no node.
    async fn moves(&mut self) {
        let (home, other) = self.home().await;
        let to = |target: &str| json!({"symbol": "AAA", "target": target});
        let before = self.get("/admin/migrations").await["migrations"].as_array().unwrap().len();
        let begun = self.ask("POST", "/admin/migrations", to(&other), 202).await;
        self.ask("DELETE", &format!("/admin/migrations/{}", begun["id"]), Value::Null, 202).await;
        assert_eq!(self.until_ended(&begun["id"]).await["status"], "ABORTED");
        assert_eq!(self.home().await.0, home);
        for (target, status, code) in [("g1", 404, "unknown_node"), (home.as_str(), 409, "already_there")] {
            assert_eq!(self.ask("POST", "/admin/migrations", to(target), status).await["code"], code);
        }
        let begun = self.ask("POST", "/admin/migrations", to(&other), 202).await;
        let record = self.until_ended(&begun["id"]).await;
        assert_eq!(record["status"], "COMPLETED", "{record}");
        assert_eq!(self.home().await.0, other);
        let all = self.get("/admin/migrations?limit=100").await;
        assert_eq!(all["migrations"].as_array().unwrap().len(), before + 2, "{all}");

        self.ask("POST", "/admin/nodes/n2/drain", Value::Null, 202).await;
        let began = Instant::now();
        loop {
            let books = self.get("/admin/books").await;
            let books = books["books"].as_array().unwrap();
            if books.len() == 2 + self.round && books.iter().all(|b| b["node"] == "n1" && b["active"] == true) {
                break;
            }
            assert!(began.elapsed() < SOON, "{books:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (status, said) = request(
            &self.served.url,
            "POST",
            "/orders",
            Some(&self.trader),
            Some(
                json!({"symbol": "AAA", "side": "BUY", "price": 1, "quantity": 1, "time_in_force": "IOC"}).to_string(),
            ),
        )
        .await
        .unwrap();
        assert_eq!(status, 201, "{said}");
    }

    /// gRPC, as any program speaks it.
    async fn calls(&mut self) {
        let channel = channel(self.served).await;
        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest { service: String::new() }).await;
        let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
        assert_eq!(health.unwrap().into_inner().status(), serving);
        let mut engine = OrderBookEngineClient::new(channel);
        let book = engine.get_order_book(signed(GetOrderBookRequest { symbol: "AAA".into(), depth: 0 })).await;
        let (book, over_rest) = (book.unwrap().into_inner(), self.get("/orderbook/AAA").await);
        assert_eq!((book.seq, book.node), (over_rest["seq"].as_u64().unwrap(), self.home().await.0));
        assert_eq!((book.last_price.as_str(), book.last_quantity), ("101.00", 2));
        let unknown = GetOrderBookRequest { symbol: "NONE".into(), depth: 0 };
        assert_eq!(engine.get_order_book(signed(unknown)).await.unwrap_err().code(), Code::NotFound);
    }
}

/// The first column of the first table of docs/websocket.md.
fn documented_actions() -> BTreeSet<String> {
    let page = include_str!("../docs/websocket.md");
    let rows = page.lines().skip_while(|l| !l.starts_with("| action")).skip(2).take_while(|l| l.starts_with('|'));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(','));
    names.map(|name| name.trim().trim_matches('`').to_owned()).collect()
}

/// To where its banner says that gRPC is.
async fn channel(served: &Served) -> Channel {
    let log = served.log();
    let at = log.lines().rev().find_map(|line| line.trim().strip_prefix("grpc ")).expect("a banner").trim().to_owned();
    Channel::from_shared(format!("http://{at}")).unwrap().timeout(SOON).connect().await.expect("it listens")
}

/// With a token of the cluster's secret.
fn signed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = RpcKey::from_secret(SECRET.as_bytes()).token(clock::now());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// What is told of some moves and books only.
const OPTIONAL: [&str; 3] = ["error", "code", "moved_at"];

/// Where two answers differ in what they are made of; `null` is like anything.
fn differs(at: &str, one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Object(one), Value::Object(other)) => {
            let names = |of: &serde_json::Map<String, Value>| -> Vec<String> {
                of.keys().filter(|name| !OPTIONAL.contains(&name.as_str())).cloned().collect()
            };
            let (ours, theirs) = (names(one), names(other));
            if ours != theirs {
                return Some(format!("{at}: {ours:?} and {theirs:?}"));
            }
            one.iter()
                .find_map(|(key, value)| differs(&format!("{at}.{key}"), value, other.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.first().zip(other.first()).and_then(|(one, other)| differs(&format!("{at}[]"), one, other))
        }
        (one, other) if std::mem::discriminant(one) == std::mem::discriminant(other) => None,
        (one, other) => Some(format!("{at}: {one} and {other}")),
    }
}

fn assert_alike(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) {
    assert!(one.keys().eq(other.keys()), "{:?} and {:?}", one.keys(), other.keys());
    let different: Vec<String> = one.iter().filter_map(|(name, value)| differs(name, value, &other[name])).collect();
    assert!(different.is_empty(), "{different:#?}");
}

/// Of one process that does all, in a folder of its own.
async fn all_in_one() -> [BTreeMap<String, Value>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = ["serve", "--nodes", "2", "--http-port", "0", "--data", &data.to_string_lossy()];
    let environment = [
        ("LOG_LEVEL", "warn"),
        ("HOTBOOK_DEV_MOVE_STEP_MS", STEP_MS),
        ("HOTBOOK_PLACEMENT_MODE", "off"),
        ("HOTBOOK_CLUSTER_SECRET", SECRET),
    ];
    let served = Served::start(hotbook(Path::new(HOTBOOK), &arguments, &environment));
    let admin = served.token("root", &["admin"]).await;
    served.list(&["AAA"], &admin).await;
    let mut tour = Tour::of(&served, 0).await;
    tour.all().await;
    [tour.answers, tour.heard]
}

#[actix_web::test]
async fn a_gateway_beside_engines_answers_everything_also_after_it_was_killed() {
    let [answers, heard] = all_in_one().await;
    let cluster = Cluster::of(HOTBOOK).settings(&format!("dev_move_step_ms = {STEP_MS}\n")).start();
    let mut engines = NODES.map(|name| cluster.process(name).arguments(&["--role", "engine"]).start());
    let mut gateway = cluster.process("g1").arguments(&["--role", "gateway"]).start();
    let admin = gateway.served().token("root", &["admin"]).await;
    gateway.until_sees(&admin, &NODES).await;
    gateway.served().list(&["AAA"], &admin).await;

    for round in 0..2 {
        let mut tour = Tour::of(gateway.served(), round).await;
        tour.all().await;
        assert_alike(&answers, &tour.answers);
        assert_alike(&heard, &tour.heard);
        cluster.until_redis_shows(gateway.served(), &["AAA"]).await;
        // Connections are the gateway's, not the engines'.
        let eve = gateway.served().token("eve", &["trader"]).await;
        let connected = Ws::connect_as(&gateway.url(), &eve).await;
        let nodes = || cluster.redis.ask(&["ZRANGE", "session:eve", "0", "-1"]);
        until("the gateway says who is connected", SOON, async || nodes() == ["g1"]).await;
        connected.vanish();
        until("and who is not any more", SOON, async || nodes().is_empty()).await;
        // What was drained takes books again once it starts anew.
        engines[1].terminate();
        engines[1].start_again();
        gateway.until_sees(&admin, &NODES).await;
        if round == 0 {
            gateway.kill();
            gateway.start_again();
            gateway.until_sees(&admin, &NODES).await;
        }
    }
    let trader = gateway.served().token("ann", &["trader"]).await;
    for engine in &engines {
        // Nobody trades at an engine's door, and whoever keeps it running is answered.
        for (method, path) in [("POST", "/orders"), ("GET", "/orderbook/AAA"), ("GET", "/ws"), ("GET", "/fills")] {
            let (status, said) = engine.served().call(method, path, Some(&trader), Value::Null).await;
            assert_eq!(status, 404, "{method} {path}: {said}");
        }
        for path in ["/health/live", "/health/ready", "/metrics", "/ops"] {
            let (status, said) = engine.served().call("GET", path, None, Value::Null).await;
            assert_eq!(status, 200, "{path}: {said}");
        }
        let (status, _) = engine.served().call("GET", "/", None, Value::Null).await;
        assert_eq!(status, 307, "there is no page to trade on, but one for operators");
        assert!(!engine.served().token("root", &["admin"]).await.is_empty());
    }
    shadows(gateway.served(), engines[1].served()).await;
    gateway.terminate();
    engines.iter_mut().for_each(hotbook_harness::Process::terminate);
    cluster.clean_audit(&["--complete"]);
}

/// A snapshot taken at the gateway, whose node has the book, is restored as a shadow on the engine that does not have it.
async fn shadows(gateway: &Served, other: &Served) {
    let mut at_gateway = OrderBookEngineClient::new(channel(gateway).await);
    let mut at_other = OrderBookEngineClient::new(channel(other).await);
    let ask = SnapshotOrderBookRequest { symbol: "AAA".into(), include_data: true };
    let taken = at_gateway.snapshot_order_book(signed(ask)).await.expect("a snapshot").into_inner();
    assert_eq!(taken.bytes, taken.data.len() as u64);
    let restore = || RestoreOrderBookRequest {
        symbol: "AAA".into(),
        node: String::new(),
        source: Some(Source::Key(taken.key.clone())),
    };
    let remove = || RemoveOrderBookRequest { symbol: "AAA".into(), node: String::new() };
    let nowhere = at_gateway.restore_order_book(signed(restore())).await.unwrap_err();
    assert_eq!(nowhere.code(), Code::NotFound, "it has no node: {nowhere}");
    // It may have begun with one, in case it owes its successor a Sealed.
    _ = at_other.remove_order_book(signed(remove())).await;
    let shadow = at_other.restore_order_book(signed(restore())).await.expect("a shadow").into_inner();
    assert_eq!((shadow.node.as_str(), &shadow.state_digest), ("n2", &taken.state_digest));
    assert_eq!(at_gateway.remove_order_book(signed(remove())).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(at_other.remove_order_book(signed(remove())).await.unwrap().into_inner().node, "n2");
}
