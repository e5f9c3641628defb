//! Processes of their own on Kafka, Redis and S3: books move between them, leave one that goes down, and are taken over from
//! one that was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hotbook::ports::log::kafka::{KafkaLog, KafkaOptions};
use hotbook::ports::log::{Log, Topic, TopicPartition};
use hotbook_harness::{
    Cluster, Listener, Process, SETTLES_WITHIN as SOON, Traders, all_are_known, fills_agree, free_port, run, scripts,
};
use serde_json::{Value, json};

#[path = "common/topics.rs"]
mod topics;

const HOTBOOK: &str = env!("CARGO_BIN_EXE_hotbook");
const SYMBOLS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[actix_web::test]
async fn books_move_between_processes_leave_one_that_ends_and_outlive_one_that_is_killed() {
    let cluster = Cluster::of(HOTBOOK).start();
    let mut processes = cluster.start(NODES);
    let admin = processes[0].served().token("root", &["admin"]).await;
    let trader = processes[0].served().token("ann", &["trader"]).await;
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }
    processes[1].served().list(&SYMBOLS, &admin).await;
    let homes = processes[2].homes(&admin).await;
    for node in NODES {
        assert_eq!(homes.values().filter(|home| *home == node).count(), 2, "{homes:?}");
    }
    let first = Traders::start(&processes[0].url(), &trader, &SYMBOLS, 2);
    let second = Traders::start_as("second-", &processes[1].url(), &trader, &SYMBOLS, 2);
    first.until_more(300, SOON).await;

    // By anybody's word, from anywhere to anywhere.
    for (n, symbol) in SYMBOLS.iter().cycle().take(18).enumerate() {
        let asked = &processes[n % 3];
        let from = asked.homes(&admin).await[*symbol].clone();
        let to = NODES.into_iter().filter(|node| *node != from).nth(n % 2).unwrap();
        let id = asked.begin_move(&admin, symbol, to).await.unwrap();
        let record = processes[(n + 1) % 3].until_moved(&admin, id).await;
        assert_eq!(record["status"], "COMPLETED", "{record}");
        assert_eq!(asked.homes(&admin).await[*symbol], to);
        println!("{symbol} {from} to {to}: pause {} us, parked {}", record["pause_us"], record["parked"]);
    }
    let listed = processes[0].served().get("/admin/migrations", &admin).await;
    assert_eq!(listed["migrations"].as_array().unwrap().len(), 18, "{listed}");
    assert_eq!(processes[0].begin_move(&admin, "AAA", "n9").await, Err("unknown_node".into()));
    let home = processes[0].homes(&admin).await["AAA"].clone();
    for process in &processes {
        assert_eq!(process.begin_move(&admin, "AAA", &home).await, Err("already_there".into()));
    }
    cluster.clean_audit(&[]);

    // One goes down: its books leave first.
    processes[2].terminate();
    let homes = processes[0].homes(&admin).await;
    assert!(homes.len() == SYMBOLS.len() && homes.values().all(|home| home != "n3"), "{homes:?}");
    first.until_all_trade(&SYMBOLS, SOON).await;
    processes[2].start_again();
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }

    // One is killed: the others take its books.
    for symbol in ["AAA", "BBB", "CCC"] {
        if let Ok(id) = processes[0].begin_move(&admin, symbol, "n3").await {
            processes[0].until_moved(&admin, id).await;
        }
    }
    processes[2].kill();
    let killed = Instant::now();
    let homes = processes[1].until_homes(&admin, &SYMBOLS, "n3").await;
    println!("taken over {:?} after the kill: {homes:?}", killed.elapsed());
    let trade = first.until_all_trade(&SYMBOLS, SOON).await;
    println!("all books trade {trade:?} later");
    processes[2].start_again();
    second.until_all_trade(&SYMBOLS, SOON).await;

    for (process, told) in [(&processes[0], first.stop().await), (&processes[1], second.stop().await)] {
        println!("{} orders settled: {:?}", told.settled.len(), told.codes);
        assert!(told.settled.len() > 500);
        all_are_known(&process.url(), &trader, &told).await;
    }
    // Whoever owned a book last has written it, and nobody who owned it before writes over that.
    cluster.until_redis_shows(processes[2].served(), &SYMBOLS).await;
    for process in &mut processes {
        process.terminate();
    }
    cluster.clean_audit(&["--complete"]);
}

/// The new owner dies before anybody could note that it took over. Anew, it has to hear once more that all before the fence
/// is said: from the old owner, which said so long ago.
#[actix_web::test]
async fn an_owner_that_starts_anew_right_behind_its_fence_is_told_again_that_it_may_go_on() {
    let cluster = Cluster::of(HOTBOOK).start();
    // Time enough to kill it in each step.
    let steps = [("HOTBOOK_DEV_MOVE_STEP_MS", "400")];
    let first = cluster.process("n1").start();
    let admin = first.served().token("root", &["admin"]).await;
    let trader = first.served().token("ann", &["trader"]).await;
    first.served().list(&["AAA"], &admin).await;
    let mut processes = [first, cluster.process("n2").environment(&steps).start()];
    for process in &processes {
        process.until_sees(&admin, &["n1", "n2"]).await;
    }
    let traders = Traders::start(&processes[0].url(), &trader, &["AAA"], 2);
    traders.until_more(50, SOON).await;
    let id = processes[1].begin_move(&admin, "AAA", "n2").await.unwrap();
    processes[1].until_step(&admin, id, "SwitchRouting").await;
    processes[1].kill();
    let killed = Instant::now();
    processes[1].start_again();
    // It does not count as ready before.
    println!("trades again {:?} after the kill", killed.elapsed());
    traders.until_all_trade(&["AAA"], SOON).await;
    processes[0].until_homes(&admin, &["AAA"], "n1").await;
    assert_eq!(processes[1].served().metric("hotbook_crash_path_total").await, 0.0, "it waited in vain for a Sealed");
    let told = traders.stop().await;
    all_are_known(&processes[0].url(), &trader, &told).await;
    processes.iter_mut().for_each(Process::terminate);
    cluster.clean_audit(&["--complete"]);
}

/// Fifty symbols under load, and fifty moves by an administrator's word. What the clients were told of fills, trade by trade, is what
/// the topic `fills` says, and what the auditor finds.
#[actix_web::test]
async fn fifty_books_move_between_three_processes() {
    let cluster = Cluster::of(HOTBOOK).start();
    let mut processes = cluster.start(NODES);
    let admin = processes[0].served().token("root", &["admin"]).await;
    let trader = processes[0].served().token("ann", &["trader"]).await;
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }
    let names: Vec<String> = (0..50).map(|n| format!("S{n:02}")).collect();
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    processes[0].served().list(&symbols, &admin).await;
    processes[0].until_homes(&admin, &symbols, "").await;
    // At another door than the one at which they trade.
    let listener = Listener::start(&processes[1].url(), &trader).await;
    let all = Traders::start(&processes[0].url(), &trader, &symbols, 1);
    all.until_all_trade(&symbols, SOON).await;

    let mut pauses = Vec::new();
    for (n, symbol) in symbols.iter().enumerate() {
        let from = processes[n % 3].homes(&admin).await[*symbol].clone();
        let to = NODES.into_iter().filter(|node| *node != from).nth(n % 2).unwrap();
        let id = processes[n % 3].begin_move(&admin, symbol, to).await.unwrap();
        let record = processes[n % 3].until_moved(&admin, id).await;
        assert_eq!(record["status"], "COMPLETED", "{record}");
        pauses.extend(record["pause_us"].as_u64());
    }
    pauses.sort_unstable();
    println!(
        "{} moves whose pause is known: p50 {} us, p90 {} us, most {} us",
        pauses.len(),
        pauses[pauses.len() / 2],
        pauses[pauses.len() * 9 / 10],
        pauses[pauses.len() - 1]
    );
    all.until_all_trade(&symbols, SOON).await;
    let told = all.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);
    all_are_known(&processes[2].url(), &trader, &told).await;

    let record = topics::fills(&cluster).await;
    listener.until_heard(record.trades()).await;
    let heard = listener.stop();
    assert_eq!(heard.lost, 0);
    assert!(heard.fills == record, "what was pushed to the clients is not what the topic says");
    assert!(record.trades() > symbols.len(), "the flow trades");
    fills_agree(&processes[2].url(), &trader, &told, &record).await;
    processes.iter_mut().for_each(Process::terminate);
    let report = cluster.clean_audit(&["--complete"]);
    for of_symbol in report["symbols"].as_array().unwrap() {
        let symbol = of_symbol["symbol"].as_str().unwrap();
        let orders = told.sent.iter().filter(|((s, _), _)| s == symbol);
        let (sent, filled) =
            orders.fold((0, 0), |(sent, filled), (order, o)| (sent + o.quantity, filled + record.of_order(order).0));
        let quantities = &of_symbol["quantities"];
        assert_eq!(
            (quantities["submitted"].as_u64(), quantities["filled"].as_u64()),
            (Some(sent), Some(filled)),
            "{symbol}"
        );
    }
    let fences: usize =
        report["symbols"].as_array().unwrap().iter().map(|s| s["moves"].as_array().unwrap().len()).sum();
    assert!(fences >= symbols.len(), "{report}");
}

/// Every partition has books of several processes, so that none of them knows all that is needed of it.
#[actix_web::test]
async fn the_log_is_trimmed_although_the_books_of_each_partition_are_on_several_processes() {
    let cluster = Cluster::of(HOTBOOK).start();
    let keeps = [("HOTBOOK_ORDERS_RETENTION_HOURS", "0"), ("HOTBOOK_EVENTS_RETENTION_HOURS", "0")];
    let mut processes = NODES.map(|name| cluster.process(name).environment(&keeps).start());
    let admin = processes[0].served().token("root", &["admin"]).await;
    let trader = processes[0].served().token("ann", &["trader"]).await;
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }
    let names: Vec<String> = (0..12).map(|n| format!("S{n:02}")).collect();
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    processes[1].served().list(&symbols, &admin).await;
    let books = processes[0].served().get("/admin/books", &admin).await;
    let mut on: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for book in books["books"].as_array().unwrap() {
        let node = book["node"].as_str().unwrap().to_owned();
        on.entry(book["partition"].as_u64().unwrap()).or_default().insert(node);
    }
    assert!(on.len() == 4 && on.values().all(|nodes| nodes.len() > 1), "{on:?}");

    let log = KafkaLog::open(KafkaOptions::new(cluster.kafka.addresses())).await.unwrap();
    let starts = async || {
        let mut starts = Vec::new();
        for topic in [Topic::Orders, Topic::Events] {
            for partition in 0..4 {
                starts.push(log.start_offset(TopicPartition { topic, partition }).await.unwrap().0);
            }
        }
        starts
    };
    assert_eq!(starts().await, [0; 8]);
    let pace = Duration::from_millis(60);
    let traders = Traders::start_paced("c", &processes[0].url(), &trader, &symbols, 1, pace);
    let began = Instant::now();
    let until_above = async |below: Vec<u64>| loop {
        let now = starts().await;
        if now.iter().zip(&below).all(|(now, below)| now > below) {
            return now;
        }
        assert!(began.elapsed() < SOON * 3, "{now:?}, all should be above {below:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let first = until_above(vec![0; 8]).await;
    println!("after {:?} the log begins at {first:?}", began.elapsed());
    cluster.clean_audit(&[]);
    // Where a book came from is not asked for: its new owner knows what it began with.
    for symbol in &symbols[..4] {
        let from = processes[0].homes(&admin).await[*symbol].clone();
        let to = NODES.into_iter().find(|node| *node != from).unwrap();
        let id = processes[0].begin_move(&admin, symbol, to).await.unwrap();
        assert_eq!(processes[0].until_moved(&admin, id).await["status"], "COMPLETED");
    }
    let second = until_above(first).await;
    println!("after {:?} the log begins at {second:?}", began.elapsed());
    cluster.clean_audit(&[]);
    // Who is killed finds what it needs.
    processes[2].kill();
    processes[2].start_again();
    traders.until_all_trade(&symbols, SOON).await;
    let told = traders.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);
    all_are_known(&processes[1].url(), &trader, &told).await;
    processes.iter_mut().for_each(Process::terminate);
    cluster.clean_audit(&[]);
}

/// Made from `proto/` by Python's tools: names the services, copies a book, restores the copy and removes it.
#[actix_web::test]
async fn a_generated_client_copies_and_restores_a_book() {
    let cluster = Cluster::of(HOTBOOK).start();
    let port = free_port().to_string();
    let mut process = cluster.process("n1").arguments(&["--grpc-port", &port, "--nodes", "2"]).start();
    let admin = process.served().token("root", &["admin"]).await;
    let trader = process.served().token("ann", &["trader"]).await;
    process.served().list(&["AAA"], &admin).await;
    let order = json!({"symbol": "AAA", "side": "BUY", "price": "10.50", "quantity": 7});
    let (status, said) = process.served().call("POST", "/orders", Some(&trader), order).await;
    assert_eq!(status, 201, "{said}");

    let (ok, token, err) = run(cluster.hotbook(&["admin", "grpc-token"]));
    assert!(ok, "{err}");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut client = Command::new(scripts().join("services"));
    client.args(["run", "python"]).arg(project.join("tests/clients/grpc_client.py"));
    client.arg(format!("127.0.0.1:{port}")).arg(project.join("proto")).args(["AAA", token.trim()]);
    let (ok, out, err) = tokio::task::spawn_blocking(|| run(client)).await.expect("no panic");
    assert!(ok, "{out}{err}");
    let found: Value = serde_json::from_str(&out).expect("a line of JSON");
    assert_eq!(found["bids"], json!([["10.50", 7]]), "{found}");
    assert!(found["services"].as_array().unwrap().contains(&json!("hotbook.v1.NodePeer")), "{found}");
    process.terminate();
}
