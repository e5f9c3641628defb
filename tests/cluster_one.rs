//! One process with three nodes on Kafka, Redis and S3: as an operator sets it up, and as traders see it over moves, a
//! crash and a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use hotbook_harness::services::{Certificates, Kafka, Redis, S3};
use hotbook_harness::{
    Cluster, SECRET, SETTLES_WITHIN as SOON, Served, Traders, Ws, all_are_known, free_port, hotbook, run, until,
};
use serde_json::{Value, json};

const SYMBOLS: [&str; 3] = ["AAA", "BBB", "CCC"];
const HOTBOOK: &str = env!("CARGO_BIN_EXE_hotbook");

/// Moves a book and waits until it is there.
async fn moved(server: &Served, admin: &str, symbol: &str, target: &str) -> Value {
    let body = json!({"symbol": symbol, "target": target});
    let (status, begun) = server.call("POST", "/admin/migrations", Some(admin), body).await;
    assert_eq!(status, 202, "{begun}");
    let began = Instant::now();
    loop {
        let record = server.get(&format!("/admin/migrations/{}", begun["id"]), admin).await;
        if record["status"] != "RUNNING" {
            assert_eq!(record["status"], "COMPLETED", "{record}");
            return record;
        }
        assert!(began.elapsed() < SOON, "{record}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn node_of(server: &Served, admin: &str, symbol: &str) -> String {
    let books = server.get("/admin/books", admin).await;
    let book = books["books"].as_array().unwrap().iter().find(|b| b["symbol"] == symbol).unwrap();
    book["node"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn it_trades_moves_books_and_survives_kill_minus_nine() {
    let cluster = Cluster::of(HOTBOOK).start();
    let mut server = cluster.serve();
    let admin = server.token("root", &["admin"]).await;
    let trader = server.token("ann", &["trader"]).await;
    server.list(&SYMBOLS, &admin).await;
    let traders = Traders::start(&cluster.url(), &trader, &SYMBOLS, 4);
    traders.until_more(300, SOON).await;

    for round in 0..4 {
        for symbol in SYMBOLS {
            let from = node_of(&server, &admin, symbol).await;
            let target = (1..=3).map(|n| format!("east-{n}")).find(|n| *n != from).unwrap();
            let record = moved(&server, &admin, symbol, &target).await;
            println!("round {round}: {symbol} {from} to {target}, pause {} us", record["pause_us"]);
            assert_eq!(node_of(&server, &admin, symbol).await, target);
        }
        traders.until_more(100, SOON).await;
        cluster.clean_audit(&[]);
        let killed = Instant::now();
        server.kill();
        server = cluster.serve();
        let ready = killed.elapsed();
        let trade = traders.until_all_trade(&SYMBOLS, SOON).await;
        println!("round {round}: ready {ready:?} after the kill, every symbol trades {trade:?} later");
    }

    let told = traders.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);
    assert!(told.settled.len() > 1_000);
    all_are_known(&cluster.url(), &trader, &told).await;
    server.terminate();
    let report = cluster.clean_audit(&["--complete"]);
    let of =
        |field: &str| report["symbols"].as_array().unwrap().iter().map(|s| s[field].as_u64().unwrap()).sum::<u64>();
    assert!(of("fills") > 300 && of("pending") == 0, "{report}");
    assert!(report["symbols"].as_array().unwrap().iter().all(|s| s["moves"].as_array().unwrap().len() == 4));
    assert!(of("snapshots") >= 3, "they are in S3: {report}");
    assert!(!cluster.folder().join("hotbook-data").exists(), "nothing of it is kept on this machine");

    // As after any stop, and what others see in Redis.
    let server = cluster.serve();
    let (status, book) = server.call("GET", "/orderbook/AAA", None, Value::Null).await;
    assert!(status == 200 && book["seq"].as_u64() > Some(100), "{book}");
    let routes = server.get("/admin/routes", &admin).await;
    assert_eq!(routes["routes"].as_array().unwrap().len(), 3, "{routes}");
    let ann = Ws::connect_as(&cluster.url(), &trader).await;
    let mut bob = Ws::connect(&cluster.url()).await;
    bob.auth(&server.token("bob", &["trader"]).await, false).await;
    let nodes_of = |user: &&str| cluster.redis.ask(&["ZRANGE", &format!("session:{user}"), "0", "-1"]);
    let are_connected = |users: &[&str]| users.iter().all(|user| nodes_of(user) == ["east-1"]);
    until("who is connected", SOON, async || are_connected(&["ann", "bob"])).await;
    cluster.until_redis_shows(&server, &SYMBOLS).await;
    // The first comes when load was measured once.
    let heartbeats = || cluster.redis.ask(&["GET", "node:east-2"]);
    until("a heartbeat", SOON, async || !heartbeats().is_empty()).await;
    let heartbeat: Value = serde_json::from_str(&heartbeats()[0]).unwrap();
    assert_eq!(heartbeat["addresses"]["http"], cluster.url().trim_start_matches("http://"), "{heartbeat}");

    // Nothing trades, and nobody comes or goes.
    cluster.redis.flush();
    let back = cluster.until_redis_shows(&server, &SYMBOLS).await;
    until("who is connected, again", SOON, async || are_connected(&["ann", "bob"])).await;
    println!("depth is there again {back:?} after Redis was emptied");
    ann.vanish();
    until("who has gone", SOON, async || !are_connected(&["ann"]) && are_connected(&["bob"])).await;
    server.terminate();
    assert!(!are_connected(&["bob"]), "who goes down says so");
}

#[test]
fn topics_are_made_by_the_operator_and_checked_at_every_start() {
    let cluster = Cluster::of(HOTBOOK).start();
    let (ok, out, err) = cluster.admin_init_topics();
    assert!(ok && out.contains("orders: is there and fits"), "{out}{err}");
    let (ok, _, err) = run(cluster.hotbook(&["admin", "init-topics", "--partitions", "5"]));
    assert!(!ok && err.contains("orders has 4 partitions, not 5"), "{err}");

    let other = |command: &[&str]| {
        let mut command = cluster.hotbook(command);
        command.env("HOTBOOK_KAFKA_TOPIC_PREFIX", "other-");
        run(command)
    };
    let (ok, _, err) = other(&["serve"]);
    assert!(!ok && err.contains("other-orders does not exist") && err.contains("hotbook admin init-topics"), "{err}");
    let (ok, out, err) = other(&["admin", "init-topics", "--partitions", "2"]);
    assert!(ok && out.contains("other-orders: created") && out.contains("other-order_status: created"), "{out}{err}");
    let (ok, _, err) = other(&["audit"]);
    assert!(ok, "{err}");
    let (ok, _, err) = other(&["admin", "init-topics", "--replication", "3", "--min-insync-replicas", "1"]);
    assert!(!ok, "{err}");
}

#[test]
fn settings_are_shown_and_what_is_missing_is_named() {
    let cluster = Cluster::of(HOTBOOK).start();
    let (ok, out, err) = run(cluster.hotbook(&["check-config"]));
    assert!(
        ok && out.contains("kafka_security = \"plaintext\"") && out.contains("s3_bucket = \"hotbook\""),
        "{out}{err}"
    );
    assert!(!out.contains(SECRET), "{out}");
    for (missing, code) in [
        ("HOTBOOK_REDIS_HOST", "config_cluster_half_set"),
        ("HOTBOOK_NODE_ID", "config_node_id_needed"),
        ("HOTBOOK_CLUSTER_SECRET", "config_cluster_secret_needed"),
    ] {
        let key = missing.trim_start_matches("HOTBOOK_").to_lowercase();
        let text = std::fs::read_to_string(cluster.settings()).unwrap();
        let less: String =
            text.lines().filter(|l| !l.starts_with(&format!("{key} "))).map(|l| format!("{l}\n")).collect();
        let file = cluster.folder().join("less.toml");
        std::fs::write(&file, less).unwrap();
        let (ok, _, err) = run(hotbook(Path::new(HOTBOOK), &["serve", "--config", &file.to_string_lossy()], &[]));
        assert!(!ok && err.contains(code), "{missing}: {err}");
    }
    // Who may not write snapshots does not begin to trade.
    let mut command = cluster.hotbook(&["serve"]);
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let (ok, _, err) = run(command);
    assert!(!ok && err.contains("snapshots in S3") && err.contains("403"), "{err}");
}

/// Servers of one's own, and what of the environment says where they are: there is no settings file.
struct Deployment {
    _kafka: Kafka,
    _redis: Redis,
    s3: S3,
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Deployment {
    fn start(redis_options: &[&str], s3_options: &[&str]) -> Self {
        let (kafka, redis, s3) = (Kafka::start(), Redis::start_with(redis_options), S3::start_with(s3_options));
        let environment = [
            ("KAFKA_BROKERS", kafka.addresses()),
            ("REDIS_HOST", "127.0.0.1".into()),
            ("REDIS_PORT", redis.port.to_string()),
            ("AWS_REGION", S3::REGION.into()),
            ("GRPC_PORT", free_port().to_string()),
            ("LOG_LEVEL", "info".into()),
            ("HOTBOOK_S3_BUCKET", S3::BUCKET.into()),
            ("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", s3.port)),
            ("AWS_ACCESS_KEY_ID", S3::ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", S3::SECRET_KEY.into()),
            ("HOTBOOK_NODE_ID", "east".into()),
            ("HOTBOOK_CLUSTER_SECRET", SECRET.into()),
        ];
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { _kafka: kafka, _redis: redis, s3, folder: tempfile::tempdir().unwrap(), environment }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn hotbook(&self, arguments: &[&str]) -> std::process::Command {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut command = hotbook(Path::new(HOTBOOK), arguments, &environment);
        command.current_dir(self.folder.path());
        command
    }

    /// There is one broker here.
    fn init_topics(&self) {
        let (ok, out, err) =
            run(self.hotbook(&["admin", "init-topics", "--replication", "1", "--min-insync-replicas", "1"]));
        assert!(ok, "{out}{err}");
    }

    fn serve(&self) -> Served {
        Served::start(self.hotbook(&["serve", "--http-port", "0"]))
    }
}

/// Lists a symbol and trades in it, takes a snapshot; gives an administrator's token.
async fn trades(server: &Served, symbol: &str) -> String {
    let admin = server.token("root", &["admin"]).await;
    let trader = server.token("ann", &["trader"]).await;
    server.list(&[symbol], &admin).await;
    for (side, status) in [("SELL", "NEW"), ("BUY", "FILLED")] {
        let order = json!({"symbol": symbol, "side": side, "price": 100, "quantity": 2, "stp": "none"});
        let (_, answer) = server.call("POST", "/orders", Some(&trader), order).await;
        assert_eq!(answer["status"], status, "{answer}");
    }
    let path = format!("/admin/books/{symbol}/snapshot");
    let (status, saved) = server.call("POST", &path, Some(&admin), Value::Null).await;
    assert_eq!(status, 200, "{saved}");
    admin
}

#[actix_web::test]
async fn the_environment_is_all_that_a_process_needs() {
    let deployment = Deployment::start(&[], &[]);
    deployment.init_topics();
    let server = deployment.serve();
    let grpc = deployment.environment.iter().find(|(name, _)| name == "GRPC_PORT").unwrap();
    assert!(server.log().contains(&format!("127.0.0.1:{}", grpc.1)), "{}", server.log());
    let admin = trades(&server, "AAA").await;
    let routes = server.get("/admin/routes", &admin).await;
    assert_eq!(routes["routes"][0]["target_instance"], "east", "{routes}");
    assert!(deployment.s3.files().join("snapshots/AAA").is_dir(), "snapshots are in S3");
    assert!(!deployment.folder.path().join("hotbook-data").exists(), "nothing of it is kept on this machine");
    server.kill();
    let server = deployment.serve();
    let (_, ticker) = server.call("GET", "/ticker/AAA", None, Value::Null).await;
    assert_eq!(ticker["last_price"].as_f64(), Some(100.0), "{ticker}");
    server.terminate();
    let (ok, out, err) = run(deployment.hotbook(&["audit", "--complete"]));
    assert!(ok && out.contains("AAA") && out.contains("1 fills"), "{out}{err}");
}

#[actix_web::test]
async fn redis_and_s3_are_spoken_to_over_tls_and_a_certificate_of_somebody_else_is_named() {
    let (ours, others) = (Certificates::make(), Certificates::make());
    let path = |name| ours.path(name);
    let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let tls_port = free_port().to_string();
    let redis =
        ["--tls-port", &tls_port, "--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let redis = [&redis[..], &["--tls-auth-clients", "no", "--requirepass", "secret"]].concat();
    let mut deployment = Deployment::start(&redis, &["--cert", &certificate, "--key", &key]);
    let endpoint = format!("https://127.0.0.1:{}", deployment.s3.port);
    for (name, value) in [
        ("REDIS_PORT", tls_port.as_str()),
        ("HOTBOOK_REDIS_TLS", "true"),
        ("HOTBOOK_REDIS_CA_FILE", &ca),
        ("HOTBOOK_REDIS_PASSWORD", "secret"),
        ("AWS_ENDPOINT_URL_S3", &endpoint),
        ("HOTBOOK_S3_CA_FILE", &ca),
    ] {
        deployment.set(name, value);
    }
    deployment.init_topics();
    let server = deployment.serve();
    let admin = trades(&server, "AAA").await;
    assert!(deployment.s3.files().join("snapshots/AAA").is_dir());
    until("the route is in Redis", SOON, async || {
        let (_, table) = server.call("GET", "/admin/routes", Some(&admin), Value::Null).await;
        table["routes"][0]["target_instance"] == "east"
    })
    .await;
    server.terminate();

    // Without S3 it does not start; without Redis it trades, and says what is wrong.
    deployment.set("HOTBOOK_S3_CA_FILE", &others.path("ca.pem"));
    let (ok, _, err) = run(deployment.hotbook(&["serve", "--http-port", "0"]));
    assert!(!ok && err.contains("snapshots in S3") && err.to_lowercase().contains("certificate"), "{err}");
    deployment.set("HOTBOOK_S3_CA_FILE", &ca);
    deployment.set("HOTBOOK_REDIS_CA_FILE", &others.path("ca.pem"));
    let server = deployment.serve();
    let is_said =
        |line: &str| ["WARN", "route table cannot be reached", "certificate"].iter().all(|w| line.contains(w));
    until("it says what is wrong with Redis", SOON, async || server.log().lines().any(is_said)).await;
    server.kill();
    deployment.set("HOTBOOK_REDIS_CA_FILE", &deployment.folder.path().join("none.pem").to_string_lossy());
    let (ok, _, err) = run(deployment.hotbook(&["serve", "--http-port", "0"]));
    assert!(!ok && err.contains("cannot read the certificates") && err.contains("none.pem"), "{err}");
}
