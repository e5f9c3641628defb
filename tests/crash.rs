//! `kill -9` while orders stream in over WebSocket, again and again on one data folder.
//!
//! After each restart, judged by the auditor from the log, and from what the clients were told: every acknowledged order is
//! there exactly once, no fill is lost or doubled, and what clients heard is what the exchange says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use hotbook::cli::audit;
use hotbook::domain::{Command, OrderId, Output, OutputBody, UserId};
use hotbook::ports::log::embedded::EmbeddedLog;
use hotbook::ports::log::{Log, Record, Topic, TopicPartition, partition_of};
use hotbook::wire::{self, Keyring};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const ROUNDS: u64 = 20;
const SECRET: &str = "crash-test-cluster-secret-0123456789";
const SYMBOLS: [&str; 2] = ["KILLA", "KILLB"];
const USERS: [&str; 3] = ["ann", "bob", "cyd"];
const IN_FLIGHT_MAX: usize = 64;
const DEADLINE: Duration = Duration::from_secs(30);

struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Process::new(env!("CARGO_BIN_EXE_hotbook"))
            .args(["serve", "--data"])
            .arg(data)
            .env("HOTBOOK_HTTP_PORT", port.to_string())
            .env("HOTBOOK_CLUSTER_SECRET", SECRET)
            .env("LOG_LEVEL", "warn")
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }

    async fn ready(&mut self) {
        let started = Instant::now();
        loop {
            if let Ok(r) = awc::Client::default().get(format!("{}/health/ready", self.url)).send().await
                && r.status().is_success()
            {
                return;
            }
            assert!(self.process.try_wait().unwrap().is_none(), "server ended by itself");
            assert!(started.elapsed() < DEADLINE, "server is not ready after {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL.
    fn kill(self) {
        drop(self);
    }

    async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let mut request = awc::Client::default().post(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let mut answer = request.send_json(body).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str, token: &str) -> Value {
        let request = awc::Client::default().get(format!("{}{path}", self.url)).bearer_auth(token);
        request.send().await.unwrap().json::<Value>().limit(64 << 20).await.unwrap()
    }

    async fn token(&self, user: &str, roles: &[&str]) -> String {
        let (status, answer) = self.post("/auth/dev-token", None, &json!({"user_id": user, "roles": roles})).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }
}

/// A failed test leaves no server behind.
impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// What one user sent and heard, over all rounds.
#[derive(Default)]
struct Told {
    acked: Vec<(String, String)>,
    statuses: Vec<Value>,
    fills: Vec<Value>,
}

/// A small deterministic stream of numbers, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn next_command(dice: &mut Dice, user: &str, round: u64, n: u64) -> Value {
    let symbol = SYMBOLS[dice.below(2) as usize];
    if n > 10 && dice.below(5) == 0 {
        let victim = format!("{user}-{round}-{}", dice.below(n));
        return json!({"action": "CANCEL", "request_id": format!("c{n}"), "symbol": symbol, "order_id": victim});
    }
    let side = if dice.below(2) == 0 { "BUY" } else { "SELL" };
    let price = format!("100.{:02}", dice.below(20));
    let time_in_force = if dice.below(6) == 0 { "IOC" } else { "GTC" };
    json!({"action": "ADD", "request_id": format!("a{n}"), "symbol": symbol, "side": side, "order_type": "LIMIT",
           "price": price, "quantity": 1 + dice.below(50), "time_in_force": time_in_force, "stp": "none",
           "order_id": format!("{user}-{round}-{n}")})
}

/// Streams commands until the connection dies.
async fn trade(url: String, token: String, user: &'static str, round: u64, told: Arc<Mutex<Told>>) {
    let mut request = format!("{}/ws", url.replace("http", "ws")).into_client_request().unwrap();
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    let Ok((socket, _)) = tokio_tungstenite::connect_async(request).await else { return };
    let (mut tx, mut rx) = socket.split();
    let mut dice = Dice(round * 31 + u64::from(user.as_bytes()[0]));
    let (mut n, mut in_flight) = (0u64, 0usize);
    loop {
        while in_flight < IN_FLIGHT_MAX {
            let command = next_command(&mut dice, user, round, n);
            if tx.send(Message::text(command.to_string())).await.is_err() {
                return;
            }
            n += 1;
            in_flight += 1;
        }
        let Some(Ok(message)) = rx.next().await else { return };
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        let data = message["data"].clone();
        let mut told = told.lock().unwrap();
        match message["type"].as_str().unwrap() {
            "ACK" => {
                if message["request_id"].as_str().is_some_and(|r| r.starts_with('a')) {
                    let text = |k: &str| data[k].as_str().unwrap().to_owned();
                    told.acked.push((text("symbol"), text("order_id")));
                }
                in_flight = in_flight.saturating_sub(1);
            }
            "ORDER_STATUS" => told.statuses.push(data),
            "FILL" => told.fills.push(data),
            _ => {}
        }
    }
}

/// How often each (user, order id) was added.
type Adds = HashMap<(String, String), usize>;

/// All records of a symbol in one topic, read as a second process would.
async fn read_all(log: &dyn Log, topic: Topic, symbol: &str) -> Vec<Record> {
    let of = TopicPartition { topic, partition: partition_of(symbol.as_bytes(), log.partitions()) };
    let end = log.end_offset(of).await.unwrap();
    let (mut next, mut records) = (log.start_offset(of).await.unwrap(), Vec::new());
    while next < end {
        let some = log.read(of, next, 10_000).await.unwrap();
        next = some.last().unwrap().offset.next();
        records.extend(some.into_iter().filter(|r| r.key == symbol.as_bytes()));
    }
    records
}

async fn adds(log: &dyn Log, symbol: &str) -> Adds {
    let ring = Keyring::from_secret(SECRET.as_bytes());
    let partition = partition_of(symbol.as_bytes(), log.partitions());
    let mut adds = Adds::new();
    for r in read_all(log, Topic::Orders, symbol).await {
        if let (_, Command::Add(order)) = wire::decode(&r.value, partition, &ring).unwrap() {
            *adds.entry((order.user.to_string(), order.order_id.to_string())).or_insert(0) += 1;
        }
    }
    adds
}

/// The outputs that `events` holds, repeats left out: the auditor has compared them.
async fn published(log: &dyn Log, symbol: &str) -> Vec<Output> {
    let mut outputs: Vec<Output> = Vec::new();
    for r in read_all(log, Topic::Events, symbol).await {
        for output in Output::decode_all(&wire::events::decode(&r.value).unwrap().outputs).map(Result::unwrap) {
            if output.seq.0 as usize > outputs.len() {
                outputs.push(output);
            }
        }
    }
    outputs
}

/// What is open of one user by the outputs: (order id, open quantity).
fn open_orders(outputs: &[Output], user: &str) -> Vec<(String, u64)> {
    let mut open = BTreeMap::new();
    let mut set = |of: &UserId, id: &OrderId, left: u64| {
        if of.as_str() == user {
            open.insert(id.to_string(), left);
        }
    };
    for output in outputs {
        match &output.body {
            OutputBody::Order(o) => set(&o.user, &o.order_id, o.open.0),
            OutputBody::Trade(t) => set(&t.maker.user, &t.maker.order_id, t.maker.open.0),
            _ => {}
        }
    }
    open.into_iter().filter(|(_, left)| *left > 0).collect()
}

fn judge_client(user: &str, told: &Told, symbol: &str, outputs: &[Output], adds: &Adds) {
    for (_, order_id) in told.acked.iter().filter(|(s, _)| s == symbol) {
        let times = adds.get(&(user.to_owned(), order_id.clone())).copied().unwrap_or(0);
        assert_eq!(times, 1, "{symbol}: acknowledged order {order_id} is {times} times in the log");
    }
    let at = |data: &Value| &outputs[data["seq"].as_u64().unwrap() as usize - 1].body;
    for data in told.statuses.iter().filter(|d| d["symbol"] == symbol) {
        let OutputBody::Order(o) = at(data) else { panic!("{data} is no order update in the log") };
        assert_eq!(data["order_id"], o.order_id.as_str());
        assert_eq!(data["status"], o.status.as_str(), "{data}");
        assert_eq!((&data["filled_qty"], &data["remaining_qty"]), (&json!(o.filled.0), &json!(o.open.0)), "{data}");
    }
    for data in told.fills.iter().filter(|d| d["symbol"] == symbol) {
        let OutputBody::Trade(t) = at(data) else { panic!("{data} is no trade in the log") };
        let parties = [&t.maker, &t.taker];
        let party = parties.iter().find(|p| data["order_id"] == p.order_id.as_str()).unwrap();
        assert_eq!(data["filled_qty"], json!(t.quantity.0), "{data}");
        assert_eq!(data["filled_price"].as_f64(), t.price.to_decimal(2).parse().ok(), "{data}");
        assert_eq!(data["remaining_qty"], json!(party.open.0), "{data}");
    }
}

/// What one connection heard of its orders' trades: each once, in order, and none left out up to the last one.
fn judge_fills(user: &str, round: u64, told: &Told, symbol: &str, outputs: &[Output]) {
    let prefix = format!("{user}-{round}-");
    let is_mine = |id: &str| id.starts_with(&prefix);
    let of_round = |d: &&Value| d["symbol"] == symbol && d["order_id"].as_str().is_some_and(is_mine);
    let heard: Vec<(u64, String)> = told
        .fills
        .iter()
        .filter(of_round)
        .map(|d| (d["seq"].as_u64().unwrap(), d["order_id"].as_str().unwrap().to_owned()))
        .collect();
    let mut expected = Vec::new();
    for output in outputs {
        let OutputBody::Trade(t) = &output.body else { continue };
        let mine = [&t.taker, &t.maker].into_iter().filter(|p| is_mine(p.order_id.as_str()));
        expected.extend(mine.map(|p| (output.seq.0, p.order_id.to_string())));
    }
    let mut sorted = heard.clone();
    sorted.sort();
    expected.sort();
    expected.truncate(heard.len());
    assert!(heard.is_sorted_by_key(|h| h.0), "{symbol}: {user} heard fills out of order");
    assert_eq!(sorted, expected, "{symbol}: fills that {user} heard in round {round}");
}

/// (fills, repeats) in the log, once everything was found as it must be.
async fn judge(data: &Path, server: &Server, told: &HashMap<&'static str, Arc<Mutex<Told>>>, round: u64) -> (u64, u64) {
    // The server is ready: what the log held is answered, and nobody sends anything.
    let reports = audit::judge_folder(data, SECRET.as_bytes(), None, true).await.unwrap();
    assert_eq!(reports.iter().map(|r| r.symbol.to_string()).collect::<Vec<_>>(), SYMBOLS);
    let log = EmbeddedLog::open_read_only(data).unwrap();
    for (report, symbol) in reports.iter().zip(SYMBOLS) {
        assert_eq!(report.violations, [], "{symbol}");
        let (adds, outputs) = (adds(&log, symbol).await, published(&log, symbol).await);
        for user in USERS {
            judge_client(user, &told[user].lock().unwrap(), symbol, &outputs, &adds);
            judge_fills(user, round, &told[user].lock().unwrap(), symbol, &outputs);
            let token = server.token(user, &["trader"]).await;
            let answer = server.get(&format!("/orders?symbol={symbol}&status=open"), &token).await;
            let listed = answer["orders"].as_array().unwrap();
            let of_user =
                |v: &Value| (v["order_id"].as_str().unwrap().to_owned(), v["remaining_qty"].as_u64().unwrap());
            let mut listed: Vec<_> = listed.iter().map(of_user).collect();
            listed.sort();
            assert_eq!(listed, open_orders(&outputs, user), "{symbol}: open orders of {user}");
        }
    }
    (reports.iter().map(|r| r.fills).sum(), reports.iter().map(|r| r.repeats).sum())
}

#[actix_web::test]
async fn kill_minus_nine_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let told: HashMap<_, _> = USERS.map(|u| (u, Arc::new(Mutex::new(Told::default())))).into();
    let mut server = Server::start(folder.path());
    server.ready().await;
    let admin = server.token("root", &["admin"]).await;
    for symbol in SYMBOLS {
        let (status, answer) = server.post("/admin/instruments", Some(&admin), &json!({"symbol": symbol})).await;
        assert_eq!(status, 201, "{answer}");
    }
    let mut dice = Dice(7);
    for round in 0..ROUNDS {
        let mut clients = Vec::new();
        for user in USERS {
            let token = server.token(user, &["trader"]).await;
            clients.push(actix_web::rt::spawn(trade(server.url.clone(), token, user, round, told[user].clone())));
        }
        let so_far = || told.values().map(|t| t.lock().unwrap().acked.len()).sum::<usize>();
        let (before, wanted, started) = (so_far(), 300 + dice.below(700) as usize, Instant::now());
        while so_far() < before + wanted {
            assert!(started.elapsed() < DEADLINE, "only {} orders acknowledged", so_far() - before);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        for client in clients {
            client.await.unwrap();
        }
        server = Server::start(folder.path());
        server.ready().await;
        let (trades, repeats) = judge(folder.path(), &server, &told, round).await;
        println!("round {round}: {} acknowledged, {trades} trades, {repeats} repeats in events", so_far());
        assert!(trades > 0);
    }
    server.kill();
}
