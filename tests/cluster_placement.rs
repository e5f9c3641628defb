//! Three processes on Kafka, Redis and S3, of which one has too much to do: its books move to the others by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hotbook_harness::{Cluster, Process, SETTLES_WITHIN as SOON, Traders, all_are_known};

const SYMBOLS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// CPU time of one command.
const COST_US: u64 = 4_000;
/// What a node has, so that three of them and all that they stand on fit a machine of two cores.
const NODE_CORES: f64 = 0.5;
/// Three clients of a book, eleven orders a second each at most: 13 % of a core, and six books are 160 % of a node.
const CLIENTS: usize = 3;
const PACE: Duration = Duration::from_millis(90);
/// A node above it gives books away.
const HOT: f64 = 0.85;
/// How long nothing may happen any more.
const CALM: Duration = Duration::from_secs(4);

/// The load of each node.
async fn loads(asked: &Process, admin: &str) -> BTreeMap<String, f64> {
    let nodes = asked.served().get("/admin/nodes", admin).await;
    let nodes = nodes["nodes"].as_array().expect("nodes").iter();
    nodes.map(|n| (n["id"].as_str().expect("a name").to_owned(), n["load"].as_f64().expect("a load"))).collect()
}

#[actix_web::test]
async fn one_of_three_processes_has_too_much_to_do_and_its_books_spread_by_themselves() {
    let costs: String = SYMBOLS.iter().map(|s| format!("{s} = {COST_US}\n")).collect();
    let settings = format!("node_cores = {NODE_CORES}\nplacement_cooldown_s = 5\n[dev_command_cost_us]\n{costs}");
    let cluster = Cluster::of(env!("CARGO_BIN_EXE_hotbook")).settings(&settings).start();
    let start = |name: &str| cluster.process(name).environment(&[("HOTBOOK_PLACEMENT_MODE", "auto")]).start();
    let first = start("n1");
    let admin = first.served().token("root", &["admin"]).await;
    let trader = first.served().token("ann", &["trader"]).await;
    // Whoever comes later has no books yet.
    first.served().list(&SYMBOLS, &admin).await;
    let mut processes = [first, start("n2"), start("n3")];
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }
    assert!(processes[1].homes(&admin).await.values().all(|home| home == "n1"));

    let traders = Traders::start_paced("c", &processes[1].url(), &trader, &SYMBOLS, CLIENTS, PACE);
    let began = Instant::now();
    let mut before = loads(&processes[2], &admin).await;
    while before["n1"] <= HOT {
        assert!(began.elapsed() < SOON, "{before:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        before = loads(&processes[2], &admin).await;
    }
    let mut calm_since = Instant::now();
    let (after, homes) = loop {
        let (now, homes) = (loads(&processes[2], &admin).await, processes[2].homes(&admin).await);
        let at: BTreeSet<&String> = homes.values().collect();
        let is_even = at.len() == 3 && homes.len() == SYMBOLS.len() && now.values().all(|l| (0.1..HOT).contains(l));
        if !is_even {
            calm_since = Instant::now();
        } else if calm_since.elapsed() >= CALM {
            break (now, homes);
        }
        assert!(began.elapsed() < SOON, "{now:?}, {homes:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("load {before:.2?} -> {after:.2?} within {:.1?}: {homes:?}", began.elapsed() - CALM);
    let told = traders.stop().await;
    println!("{} orders settled: {:?}", told.settled.len(), told.codes);

    let moves = processes[2].served().get("/admin/migrations", &admin).await;
    let moves = moves["migrations"].as_array().expect("moves");
    for m in moves {
        println!(
            "  {} {} -> {}: {}, pause {} us, {} parked",
            m["symbol"], m["from"], m["to"], m["status"], m["pause_us"], m["parked"]
        );
        let steps = m["steps"].as_array().expect("steps").iter();
        println!("    {}", steps.map(|s| format!("{} {} us", s["name"], s["took_us"])).collect::<Vec<_>>().join(", "));
        assert_eq!(m["cause"], "LOAD", "nobody else moves books here: {m}");
    }
    let completed = moves.iter().filter(|m| m["status"] == "COMPLETED").count();
    assert!((2..=8).contains(&completed), "{moves:?}");
    let decided = processes[2].served().get("/admin/decisions", &admin).await;
    let decided = decided["decisions"].as_array().expect("decisions");
    for m in moves {
        assert!(decided.iter().any(|d| d["migration_id"] == m["id"]), "each move has its reason: {m}");
    }
    all_are_known(&processes[0].url(), &trader, &told).await;
    processes.iter_mut().for_each(Process::terminate);
    let report = cluster.clean_audit(&["--complete"]);
    let fences: usize =
        report["symbols"].as_array().unwrap().iter().map(|s| s["moves"].as_array().unwrap().len()).sum();
    assert!(fences >= completed, "{report}");
}
