//! What an exchange on Kafka, Redis and S3 does while one of them is away, and when it comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use hotbook::domain::Offset;
use hotbook::ports::log::kafka::{KafkaLog, KafkaOptions};
use hotbook::ports::log::{Log, Topic, TopicPartition};
use hotbook_harness::{Cluster, SETTLES_WITHIN as SOON, Served, Traders, all_are_known};
use serde_json::{Value, json};

const SYMBOLS: [&str; 3] = ["AAA", "BBB", "CCC"];
const HOTBOOK: &str = env!("CARGO_BIN_EXE_hotbook");

/// A server that trades, its administrator's token and its traders.
async fn trading(cluster: &Cluster) -> (Served, String, String, Traders) {
    let server = cluster.serve();
    let admin = server.token("root", &["admin"]).await;
    let trader = server.token("ann", &["trader"]).await;
    server.list(&SYMBOLS, &admin).await;
    let traders = Traders::start(&cluster.url(), &trader, &SYMBOLS, 4);
    traders.until_more(200, SOON).await;
    (server, admin, trader, traders)
}

/// All that traders sent is there once, and the auditor finds nothing.
async fn judged(cluster: &Cluster, server: Served, trader: &str, traders: Traders) -> Value {
    let told = traders.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);
    all_are_known(&cluster.url(), trader, &told).await;
    server.terminate();
    cluster.clean_audit(&["--complete"])
}

async fn until(what: &str, condition: impl AsyncFnMut() -> bool) -> Duration {
    hotbook_harness::until(what, SOON, condition).await
}

async fn book(server: &Served, admin: &str, symbol: &str) -> Value {
    let books = server.get("/admin/books", admin).await;
    books["books"].as_array().unwrap().iter().find(|b| b["symbol"] == symbol).unwrap().clone()
}

/// Begins to move a book to the next node; gives the move's number.
async fn begin_move(server: &Served, admin: &str, symbol: &str) -> Value {
    let from = book(server, admin, symbol).await["node"].clone();
    let target = (1..=3).map(|n| json!(format!("east-{n}"))).find(|n| *n != from).unwrap();
    let body = json!({"symbol": symbol, "target": target});
    let (status, begun) = server.call("POST", "/admin/migrations", Some(admin), body).await;
    assert_eq!(status, 202, "{begun}");
    begun["id"].clone()
}

/// The record of a move once it has ended.
async fn ended(server: &Served, admin: &str, id: &Value) -> Value {
    let mut record = Value::Null;
    until("the move ends", async || {
        record = server.get(&format!("/admin/migrations/{id}"), admin).await;
        record["status"] != "RUNNING"
    })
    .await;
    record
}

/// Moves a book to the next node; gives the move's record once it has ended.
async fn moved(server: &Served, admin: &str, symbol: &str) -> Value {
    let id = begin_move(server, admin, symbol).await;
    ended(server, admin, &id).await
}

/// Offsets of the snapshots that lie in the bucket.
fn snapshots(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for symbol in std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten() {
        let files = std::fs::read_dir(symbol.path()).into_iter().flatten().flatten();
        names.extend(files.map(|f| format!("{:?}/{:?}", symbol.file_name(), f.file_name())));
    }
    names.sort();
    names
}

#[actix_web::test]
async fn a_broker_that_is_away_costs_refusals_and_no_order() {
    let mut cluster = Cluster::of(HOTBOOK).start();
    let (server, _, trader, traders) = trading(&cluster).await;
    for round in 0..2 {
        let refused = traders.count_of("log_unavailable");
        if round == 0 {
            cluster.kafka.brokers[0].kill()
        } else {
            cluster.kafka.brokers[0].stop()
        }
        let known = until("orders are refused", async || traders.count_of("log_unavailable") > refused + 10).await;
        let (status, ready) = server.call("GET", "/health/live", None, Value::Null).await;
        assert_eq!(status, 200, "{ready}");
        cluster.kafka.brokers[0].start();
        let back = traders.until_all_trade(&SYMBOLS, SOON).await;
        println!("round {round}: refused {known:?} after the broker went, all trade {back:?} after it came");
        traders.until_more(200, SOON).await;
    }
    assert_eq!(server.metric("hotbook_invariant_violations_total").await, 0.0);
    judged(&cluster, server, &trader, traders).await;
}

#[actix_web::test]
async fn a_broker_that_hangs_costs_no_order_either() {
    let cluster = Cluster::of(HOTBOOK).start();
    let (server, _, trader, traders) = trading(&cluster).await;
    cluster.kafka.brokers[0].freeze();
    until("orders are refused", async || traders.count_of("log_unavailable") > 10).await;
    cluster.kafka.brokers[0].thaw();
    let back = traders.until_all_trade(&SYMBOLS, SOON).await;
    println!("all trade {back:?} after the broker went on");
    judged(&cluster, server, &trader, traders).await;
}

#[actix_web::test]
async fn trading_goes_on_without_redis_and_an_emptied_one_is_told_all_again() {
    let mut cluster = Cluster::of(HOTBOOK).start();
    let (server, admin, trader, traders) = trading(&cluster).await;
    cluster.redis.server.kill();
    let began = Instant::now();
    traders.until_more(300, SOON).await;
    let took = began.elapsed();
    assert!(traders.count_of("log_unavailable") == 0, "nobody is refused for want of Redis");
    println!("300 orders without Redis in {took:?}");
    // No leader is known, so nothing moves by itself and nobody is taken for dead; what an operator wishes waits.
    let epochs =
        |books: Value| books["books"].as_array().unwrap().iter().map(|b| b["epoch"].clone()).collect::<Vec<_>>();
    assert_eq!(epochs(server.get("/admin/books", &admin).await), vec![json!(0); 3]);
    let (id, stopped) = (begin_move(&server, &admin, "AAA").await, begin_move(&server, &admin, "CCC").await);
    let show = async |id: &Value| server.get(&format!("/admin/migrations/{id}"), &admin).await;
    for id in [&id, &stopped] {
        until("the move waits", async || show(id).await["code"] == "routes_unavailable").await;
    }
    assert_eq!(server.metric("hotbook_moves_waiting").await, 2.0);
    let (status, said) =
        server.call("DELETE", &format!("/admin/migrations/{stopped}"), Some(&admin), Value::Null).await;
    assert_eq!(status, 202, "one that waits can be stopped: {said}");
    until("it has stopped", async || show(&stopped).await["status"] == "ABORTED").await;
    traders.until_more(200, SOON).await;
    let waits = show(&id).await;
    assert_eq!((&waits["status"], &waits["code"]), (&json!("RUNNING"), &json!("routes_unavailable")), "{waits}");
    assert_eq!(epochs(server.get("/admin/books", &admin).await), vec![json!(0); 3], "nothing was fenced");

    cluster.redis.lose_data();
    cluster.redis.server.start();
    let back = Instant::now();
    let record = ended(&server, &admin, &id).await;
    println!("the move that waited has ended {:?} after Redis was back", back.elapsed());
    assert_eq!((&record["status"], &record["code"]), (&json!("COMPLETED"), &Value::Null), "{record}");
    assert_eq!(server.metric("hotbook_moves_waiting").await, 0.0);
    let target = book(&server, &admin, "AAA").await["node"].clone();
    let told = until("the table is told all again", async || {
        let (_, answer) = server.call("GET", "/admin/routes", Some(&admin), Value::Null).await;
        let rows = answer["routes"].as_array().cloned().unwrap_or_default();
        rows.len() == 3
            && rows.iter().any(|r| r["symbol"] == "AAA" && r["target_instance"] == target && r["epoch"] == 1)
    })
    .await;
    println!("the emptied table is true again after {told:?}");
    let again = moved(&server, &admin, "BBB").await;
    assert_eq!(again["status"], "COMPLETED", "{again}");
    let report = judged(&cluster, server, &trader, traders).await;
    let moves: usize = report["symbols"].as_array().unwrap().iter().map(|s| s["moves"].as_array().unwrap().len()).sum();
    assert_eq!(moves, 2, "no takeover began: {report}");
}

#[actix_web::test]
async fn trading_goes_on_without_s3_moves_do_not_and_snapshots_catch_up() {
    let mut cluster = Cluster::of(HOTBOOK).start();
    let (server, admin, trader, traders) = trading(&cluster).await;
    let files = cluster.s3.files();
    until("snapshots are there", async || snapshots(&files).len() >= 3).await;
    cluster.s3.server.kill();
    let before = snapshots(&files);
    traders.until_more(300, SOON).await;
    let aborted = moved(&server, &admin, "AAA").await;
    assert_eq!(aborted["status"], "ABORTED", "{aborted}");
    println!("a move without S3: {}", aborted["error"]);
    assert_eq!(book(&server, &admin, "AAA").await["epoch"], 0, "it was stopped before its fence");
    traders.until_more(100, SOON).await;

    cluster.s3.server.start();
    let caught_up = until("every book has a newer snapshot", async || {
        let now = snapshots(&files);
        SYMBOLS.iter().all(|s| now.iter().any(|f| f.contains(&format!("\"{s}\"")) && !before.contains(f)))
    })
    .await;
    println!("snapshots caught up {caught_up:?} after S3 was back");
    let record = moved(&server, &admin, "AAA").await;
    assert_eq!(record["status"], "COMPLETED", "{record}");
    // What was cut without S3 is not missing: a new life starts from what is there.
    traders.until_more(100, SOON).await;
    server.kill();
    let server = cluster.serve();
    judged(&cluster, server, &trader, traders).await;
}

/// Among what it missed may be fences: what it takes for its own may be another's, and only a new start can tell.
#[actix_web::test]
async fn a_process_that_was_away_until_what_it_missed_is_trimmed_ends_and_joins_anew() {
    const NODES: [&str; 3] = ["n1", "n2", "n3"];
    let symbols: Vec<String> = (0..12).map(|n| format!("S{n:02}")).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let cluster = Cluster::of(HOTBOOK).start();
    let mut processes = cluster.start(NODES);
    let admin = processes[0].served().token("root", &["admin"]).await;
    let trader = processes[0].served().token("ann", &["trader"]).await;
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }
    processes[0].served().list(&symbols, &admin).await;
    let gone = processes.iter().position(|p| p.name() == "n3").unwrap();
    processes[gone].freeze();
    processes[0].until_homes(&admin, &symbols, "n3").await;
    let traders = Traders::start(&processes[0].url(), &trader, &symbols, 4);
    traders.until_all_trade(&symbols, SOON).await;
    traders.until_more(1_000, SOON).await;
    let told = traders.stop().await;
    println!("{} orders settled while n3 was frozen: {:?}", told.settled.len(), told.codes);
    all_are_known(&processes[0].url(), &trader, &told).await;

    // What the newest snapshots do not need goes, and so what n3 would read next.
    let mut needed = std::collections::BTreeMap::new();
    for symbol in &symbols {
        let path = format!("/admin/books/{symbol}/snapshot");
        let (status, saved) = processes[0].served().call("POST", &path, Some(&admin), Value::Null).await;
        assert_eq!(status, 200, "{saved}");
        let books = processes[0].served().get("/admin/books", &admin).await;
        let books = books["books"].as_array().unwrap();
        let partition = books.iter().find(|b| b["symbol"] == *symbol).unwrap()["partition"].as_u64().unwrap();
        let at = needed.entry(partition as u32).or_insert(u64::MAX);
        *at = saved["offset"].as_u64().unwrap().min(*at);
    }
    let log = KafkaLog::open(KafkaOptions::new(cluster.kafka.addresses())).await.unwrap();
    for (partition, at) in &needed {
        let of = TopicPartition { topic: Topic::Orders, partition: *partition };
        log.trim(of, Offset(*at)).await.unwrap();
    }
    println!("the log begins at {needed:?}");
    processes[gone].thaw();
    let ended = until("n3 ends", async || !processes[gone].is_running()).await;
    let said = std::fs::read_to_string(processes[gone].log_path()).unwrap();
    assert!(said.contains("log_overtaken"), "{said}");
    println!("n3 ended {ended:?} after it went on");

    processes[gone].start_again();
    processes[0].until_sees(&admin, &NODES).await;
    let id = processes[0].begin_move(&admin, symbols[0], "n3").await.unwrap();
    assert_eq!(processes[0].until_moved(&admin, id).await["status"], "COMPLETED");
    let traders = Traders::start_as("again", &processes[gone].url(), &trader, &symbols, 2);
    traders.until_all_trade(&symbols, SOON).await;
    let told = traders.stop().await;
    all_are_known(&processes[gone].url(), &trader, &told).await;
    for process in &mut processes {
        process.terminate();
    }
    cluster.clean_audit(&["--complete"]);
}
