//! Kafka, Redis and S3, `hotbook` on them, and traders who do not give up.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::process::{Served, call, hotbook, run};
use super::services::{Kafka, KafkaOptions, Redis, S3, free_port};

pub const SECRET: &str = "cluster-test-cluster-secret-0123456789";
const PARTITIONS: u32 = 4;

/// The outside parts with topics made, and a settings file that names them.
pub struct Cluster {
    pub kafka: Kafka,
    pub redis: Redis,
    pub s3: S3,
    folder: tempfile::TempDir,
    http_port: u16,
}

impl Cluster {
    /// One broker, with everything plain.
    pub fn start() -> Self {
        Self::start_with(&KafkaOptions { brokers: 1, ..KafkaOptions::default() }, "")
    }

    /// `settings`: lines of the settings file on top.
    pub fn start_with(kafka: &KafkaOptions, settings: &str) -> Self {
        let (kafka, redis, s3) = std::thread::scope(|scope| {
            let kafka = scope.spawn(|| Kafka::start_with(kafka));
            let redis = scope.spawn(Redis::start);
            (kafka.join().expect("kafka"), redis.join().expect("redis"), S3::start())
        });
        let cluster = Self { kafka, redis, s3, folder: tempfile::tempdir().expect("a folder"), http_port: free_port() };
        std::fs::write(cluster.settings(), format!("{}{settings}", cluster.plain_settings())).expect("written");
        let said = cluster.admin_init_topics();
        assert!(said.0, "{said:?}");
        cluster
    }

    fn plain_settings(&self) -> String {
        let (brokers, bucket) = (self.kafka.addresses(), S3::BUCKET);
        let copies = self.kafka.brokers.len();
        let least = copies.div_ceil(2);
        format!(
            "node_id = \"east\"\ncluster_secret = \"{SECRET}\"\nnodes = 3\npartitions = {PARTITIONS}\n\
             http_port = {}\ngrpc_port = 0\nhttp_workers = 1\nbook_threads_per_node = 1\nsnapshot_every_s = 2\norders_retention_hours = 24\n\
             placement_mode = \"off\"\nkafka_brokers = \"{brokers}\"\nkafka_replication = {copies}\n\
             kafka_min_insync_replicas = {least}\nredis_host = \"127.0.0.1\"\nredis_port = {}\n\
             s3_bucket = \"{bucket}\"\ns3_endpoint = \"http://127.0.0.1:{}\"\naws_region = \"{}\"\n",
            self.http_port,
            self.redis.port,
            self.s3.port,
            S3::REGION,
        )
    }

    /// The settings file.
    pub fn settings(&self) -> PathBuf {
        self.folder.path().join("hotbook.toml")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program with these arguments and the settings file.
    pub fn hotbook(&self, arguments: &[&str]) -> Command {
        let environment =
            [("AWS_ACCESS_KEY_ID", S3::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", S3::SECRET_KEY), ("LOG_LEVEL", "warn")];
        let mut command = hotbook(arguments, &environment);
        command.arg("--config").arg(self.settings()).current_dir(self.folder.path());
        command
    }

    pub fn serve(&self) -> Served {
        Served::start(self.hotbook(&["serve"]))
    }

    pub fn admin_init_topics(&self) -> (bool, String, String) {
        run(self.hotbook(&["admin", "init-topics"]))
    }

    /// The auditor's report of all symbols, which is clean.
    pub fn clean_audit(&self, more: &[&str]) -> Value {
        let (ok, out, err) = run(self.hotbook(&[&["audit", "--json"], more].concat()));
        assert!(ok, "{out}\n{err}");
        let report: Value = serde_json::from_str(&out).expect("a report");
        assert_eq!(report["violations"], 0, "{out}");
        report
    }

    /// Where the server listens, also when it is started anew.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }
}

/// What traders were told.
#[derive(Default)]
pub struct Told {
    /// Orders that are known to be in the log: symbol and id.
    pub settled: Vec<(String, String)>,
    /// How often each code, status or silence was the answer.
    pub codes: BTreeMap<String, u64>,
    /// When an order of a symbol was last answered.
    pub answered_at: BTreeMap<String, Instant>,
}

/// Clients with one order at a time, which each sends until it knows what became of it.
pub struct Traders {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    clients: Vec<actix_web::rt::task::JoinHandle<()>>,
}

impl Traders {
    pub fn start(url: &str, token: &str, symbols: &[&str], clients: usize) -> Self {
        Self::start_as("c", url, token, symbols, clients)
    }

    /// `name`: what their order ids begin with.
    pub fn start_as(name: &str, url: &str, token: &str, symbols: &[&str], clients: usize) -> Self {
        Self::start_paced(name, url, token, symbols, clients, Duration::ZERO)
    }

    /// Each client begins an order no sooner than `pace` after its last.
    pub fn start_paced(name: &str, url: &str, token: &str, symbols: &[&str], clients: usize, pace: Duration) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let client = |(symbol, client): (&&str, usize)| {
            let (url, token, symbol) = (url.to_owned(), token.to_owned(), (*symbol).to_owned());
            let (stop, told, name) = (Arc::clone(&stop), Arc::clone(&told), name.to_owned());
            actix_web::rt::spawn(async move {
                let mut next = Instant::now();
                for n in 0.. {
                    tokio::time::sleep_until(next.into()).await;
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    next = Instant::now() + pace;
                    let side = if (n + client) % 2 == 0 { "BUY" } else { "SELL" };
                    let body = json!({"symbol": symbol, "side": side, "price": 100 + n * 7 % 5, "quantity": 1 + n % 4,
                                      "stp": "none", "order_id": format!("{name}{client}-{n}")});
                    settle(&url, &token, &body, &told).await;
                }
            })
        };
        let clients = symbols.iter().flat_map(|s| (0..clients).map(move |c| (s, c))).map(client).collect();
        Self { stop, told, clients }
    }

    pub fn settled(&self) -> usize {
        self.told.lock().expect("no panic").settled.len()
    }

    /// How often an answer was given.
    pub fn count_of(&self, code: &str) -> u64 {
        self.told.lock().expect("no panic").codes.get(code).copied().unwrap_or_default()
    }

    /// Waits until so many more orders are settled.
    pub async fn until_more(&self, more: usize, within: Duration) {
        let (wanted, began) = (self.settled() + more, Instant::now());
        while self.settled() < wanted {
            let codes = self.told.lock().expect("no panic").codes.clone();
            assert!(began.elapsed() < within, "{more} orders took longer than {within:?}: {codes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until an order of every symbol was answered after this moment; gives how long that took.
    pub async fn until_all_trade(&self, symbols: &[&str], within: Duration) -> Duration {
        let since = Instant::now();
        loop {
            let trades =
                |s: &&str| self.told.lock().expect("no panic").answered_at.get(*s).is_some_and(|at| *at > since);
            if symbols.iter().all(trades) {
                return since.elapsed();
            }
            assert!(since.elapsed() < within, "not every symbol trades within {within:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every order that was sent is settled.
    pub async fn stop(self) -> Told {
        self.stop.store(true, Ordering::Release);
        let ended = tokio::time::timeout(Duration::from_secs(60), join_all(self.clients)).await;
        ended.expect("all orders are settled in time").into_iter().for_each(|client| client.expect("no panic"));
        std::mem::take(&mut *self.told.lock().expect("no panic"))
    }
}

/// Sends an order again and again until it is known to be in the log; its id makes that harmless.
async fn settle(url: &str, token: &str, body: &Value, told: &Mutex<Told>) {
    loop {
        let answer = call(url, "POST", "/orders", Some(token), body.clone()).await;
        let (code, is_there) = match &answer {
            Ok((201, _)) => ("201", true),
            Ok((202, _)) => ("202", true),
            Ok((_, error)) => {
                let code = error["code"].as_str().unwrap_or("?");
                (code, code == "duplicate_order")
            }
            Err(_) => ("silence", false),
        };
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        {
            let mut told = told.lock().expect("no panic");
            *told.codes.entry(code.to_owned()).or_default() += 1;
            if is_there {
                told.settled.push((text("symbol"), text("order_id")));
                told.answered_at.insert(text("symbol"), Instant::now());
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends every order once more: each is known, so it was kept, and kept once.
pub async fn all_are_known(url: &str, token: &str, told: &Told) {
    for (symbol, id) in &told.settled {
        let body = json!({"symbol": symbol, "side": "BUY", "price": 1, "quantity": 1, "order_id": id});
        let (status, answer) = call(url, "POST", "/orders", Some(token), body).await.expect("an answer");
        assert_eq!((status, &answer["code"]), (409, &json!("duplicate_order")), "{symbol} {id}: {answer}");
    }
}
