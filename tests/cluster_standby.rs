//! Three processes on Kafka, Redis and S3, each book followed in another process than its owner's: who is killed is taken over
//! from by those that follow, with nothing to restore.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hotbook_harness::{Cluster, Process, SETTLES_WITHIN as SOON, Traders, all_are_known};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// A node whose heartbeat is missing for five of these, and that does not answer, is dead.
const WINDOW_MS: u64 = 200;
/// Nobody is found dead before.
const UNDETECTED: Duration = Duration::from_millis(400);
const BOOKS: usize = 24;
/// Of each client: what they sent is asked for again in the end.
const PACE: Duration = Duration::from_millis(150);

/// Where a book is, and where it is followed.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    node: String,
    standby: Option<String>,
}

async fn rows(asked: &Process, admin: &str) -> BTreeMap<String, Row> {
    let books = asked.served().get("/admin/books", admin).await;
    let text = |book: &Value, field: &str| book[field].as_str().map(str::to_owned);
    let row = |b: &Value| {
        let row = Row { node: text(b, "node").expect("a node"), standby: text(b, "standby") };
        assert_eq!(row.standby.is_some(), b["standby_lag"].is_u64(), "{b}");
        (text(b, "symbol").expect("a symbol"), row)
    };
    books["books"].as_array().expect("books").iter().filter(|b| b["active"] == true).map(row).collect()
}

async fn sum(processes: &[&Process], metric: &str) -> f64 {
    let mut sum = 0.0;
    for process in processes {
        sum += process.served().metric(metric).await;
    }
    sum
}

/// Waits until each book is followed by a node of another process, level with the log.
async fn until_followed(asked: &[&Process], admin: &str, books: usize) -> BTreeMap<String, Row> {
    let began = Instant::now();
    loop {
        let rows = rows(asked[0], admin).await;
        let is_followed = |row: &Row| row.standby.as_ref().is_some_and(|standby| *standby != row.node);
        let level = sum(asked, "hotbook_standbys_level").await;
        if rows.len() == books && rows.values().all(is_followed) && level as usize == books {
            return rows;
        }
        assert!(began.elapsed() < SOON, "{level} are level, {rows:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same, and nobody follows a book that need not.
async fn until_settled(asked: &[&Process], admin: &str, books: usize) -> BTreeMap<String, Row> {
    let began = Instant::now();
    loop {
        let rows = until_followed(asked, admin, books).await;
        let followed = sum(asked, "hotbook_books_followed").await;
        if followed as usize == books {
            return rows;
        }
        assert!(began.elapsed() < SOON, "{followed} are followed, {rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many books were taken over from dead nodes: by those that followed them, and from snapshots.
async fn recovered(asked: &[&Process]) -> (usize, usize) {
    let counted = async |from| sum(asked, &format!("hotbook_books_recovered_total{{from=\"{from}\"}}")).await as usize;
    (counted("standby").await, counted("snapshot").await)
}

/// Waits until so many were taken over since it was as `before`; gives how.
async fn until_recovered(asked: &[&Process], before: (usize, usize), books: usize) -> (usize, usize) {
    let began = Instant::now();
    loop {
        let now = recovered(asked).await;
        let since = (now.0 - before.0, now.1 - before.1);
        if since.0 + since.1 >= books {
            return since;
        }
        assert!(began.elapsed() < SOON, "{since:?} of {books}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn start(cluster: &Cluster, standby: &str) -> [Process; 3] {
    let window = WINDOW_MS.to_string();
    let environment = [("HOTBOOK_STANDBY", standby), ("HOTBOOK_LOAD_WINDOW_MS", &window)];
    NODES.map(|name| cluster.process(name).environment(&environment).start())
}

/// Kills the third process; gives the time until orders for all its books were answered again.
async fn kill_third(processes: &mut [Process; 3], traders: &Traders, lost: &[&str]) -> Duration {
    processes[2].kill();
    let killed = Instant::now();
    // What was on its way is answered meanwhile.
    tokio::time::sleep(UNDETECTED).await;
    traders.until_all_trade(lost, SOON).await;
    killed.elapsed()
}

/// How long each book of the third process took from the moment when its node was found dead until its new owner published, in milliseconds.
async fn took_over_ms(asked: &Process, admin: &str) -> Vec<u64> {
    let moves = asked.served().get("/admin/migrations", admin).await;
    let moves = moves["migrations"].as_array().expect("moves").iter();
    let recoveries = moves.filter(|m| m["from"] == "n3" && m["cause"] == "RECOVERY" && m["status"] == "COMPLETED");
    let until_active = |record: &Value| {
        let steps = record["steps"].as_array().expect("steps").iter();
        let before = steps.take_while(|step| step["name"] != "SwitchRouting");
        before.map(|step| step["took_us"].as_u64().expect("it has ended")).sum::<u64>() / 1_000
    };
    let mut took: Vec<u64> = recoveries.map(until_active).collect();
    took.sort_unstable();
    took
}

fn names() -> Vec<String> {
    (0..BOOKS).map(|n| format!("S{n:02}")).collect()
}

#[actix_web::test]
async fn a_killed_processs_books_go_to_those_that_follow_them_in_other_processes() {
    let cluster = Cluster::of(env!("CARGO_BIN_EXE_hotbook")).start();
    let mut processes = start(&cluster, "1");
    let admin = processes[0].served().token("root", &["admin"]).await;
    let trader = processes[0].served().token("ann", &["trader"]).await;
    for process in &processes {
        process.until_sees(&admin, &NODES).await;
    }
    let names = names();
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    processes[0].served().list(&symbols, &admin).await;
    let all: Vec<&Process> = processes.iter().collect();
    let began = Instant::now();
    let before = until_followed(&all, &admin, BOOKS).await;
    println!("{BOOKS} books are followed {:?} after they were listed", began.elapsed());
    for node in NODES {
        let follows = before.values().filter(|row| row.standby.as_deref() == Some(node)).count();
        assert!((4..=12).contains(&follows), "{node} follows {follows}: {before:?}");
    }
    let start_as = |name, at: &Process| Traders::start_paced(name, &at.url(), &trader, &symbols, 1, PACE);
    let (first, second) = (start_as("first-", &processes[0]), start_as("second-", &processes[1]));
    first.until_more(300, SOON).await;

    // To where it is followed, and to the node that has nothing of it: then whoever follows it goes on.
    for (n, symbol) in symbols[..4].iter().enumerate() {
        let Row { node, standby } = rows(&processes[0], &admin).await[*symbol].clone();
        let standby = standby.expect("it is followed");
        let third = NODES.into_iter().find(|name| *name != node && *name != standby).unwrap().to_owned();
        let to = if n % 2 == 0 { &standby } else { &third };
        let id = processes[n % 3].begin_move(&admin, symbol, to).await.unwrap();
        let record = processes[n % 3].until_moved(&admin, id).await;
        assert_eq!(record["status"], "COMPLETED", "{record}");
        let whither = if n % 2 == 0 { "its standby" } else { "another" };
        println!("{symbol} to {whither}: pause {} us, parked {}", record["pause_us"], record["parked"]);
        let after = until_followed(&processes.iter().collect::<Vec<_>>(), &admin, BOOKS).await[*symbol].clone();
        assert_eq!(after.node, *to);
        assert!(
            n % 2 == 0 || after.standby.as_ref() == Some(&standby),
            "{symbol}: {after:?}, not followed by {standby}"
        );
    }

    let before = until_settled(&processes.iter().collect::<Vec<_>>(), &admin, BOOKS).await;
    let lost: Vec<&str> = symbols.iter().copied().filter(|symbol| before[*symbol].node == "n3").collect();
    assert!(lost.len() >= BOOKS / 6, "{before:?}");
    let survivors = &["n1", "n2"];
    let took = kill_third(&mut processes, &first, &lost).await;
    println!("{} books, all followed: orders for all are answered {took:?} after the kill", lost.len());
    let homes = processes[1].until_homes(&admin, &symbols, "n3").await;
    for symbol in &lost {
        assert_eq!(Some(&homes[*symbol]), before[*symbol].standby.as_ref(), "{symbol} is not where it was followed");
    }
    let living: Vec<&Process> = processes[..2].iter().collect();
    assert_eq!(until_recovered(&living, (0, 0), lost.len()).await, (lost.len(), 0), "none is restored");
    assert_eq!(sum(&living, "hotbook_crash_path_restores_total").await, 0.0);
    let again = until_followed(&living, &admin, BOOKS).await;
    assert!(again.values().all(|row| survivors.contains(&row.standby.as_deref().unwrap())), "{again:?}");

    // Whoever comes back follows its share.
    processes[2].start_again();
    let all: Vec<&Process> = processes.iter().collect();
    let began = Instant::now();
    loop {
        let rows = until_settled(&all, &admin, BOOKS).await;
        let share = rows.values().filter(|row| row.standby.as_deref() == Some("n3")).count();
        if share >= BOOKS / 3 {
            println!("{:?} after its start it follows {share} of {BOOKS} books", began.elapsed());
            break;
        }
        assert!(began.elapsed() < SOON, "it follows {share}: {rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    second.until_all_trade(&symbols, SOON).await;
    for (process, told) in [(&processes[0], first.stop().await), (&processes[1], second.stop().await)] {
        println!("{} orders settled: {:?}", told.settled.len(), told.codes);
        assert!(told.settled.len() > 500);
        all_are_known(&process.url(), &trader, &told).await;
    }
    assert_eq!(sum(&all, "hotbook_invariant_violations_total").await, 0.0);
    processes.iter_mut().for_each(Process::terminate);
    cluster.clean_audit(&["--complete"]);
}

/// The same kill of the same books, once restored and once followed.
#[actix_web::test]
async fn a_kill_without_standbys_and_with_them() {
    let cluster = Cluster::of(env!("CARGO_BIN_EXE_hotbook")).start();
    let names = names();
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    for standby in ["0", "1"] {
        let mut processes = start(&cluster, standby);
        let admin = processes[0].served().token("root", &["admin"]).await;
        let trader = processes[0].served().token("ann", &["trader"]).await;
        for process in &processes {
            process.until_sees(&admin, &NODES).await;
        }
        if standby == "0" {
            processes[0].served().list(&symbols, &admin).await;
            assert!(rows(&processes[1], &admin).await.values().all(|row| row.standby.is_none()));
        }
        // The same in both rounds.
        let (lost, others) = symbols.split_at(BOOKS / 3);
        let homes = processes[0].until_homes(&admin, &symbols, "").await;
        let come = lost.iter().filter(|symbol| homes[**symbol] != "n3").map(|symbol| (symbol, "n3"));
        let go = others.iter().filter(|symbol| homes[**symbol] == "n3").map(|symbol| (symbol, "n1"));
        for (symbol, to) in come.chain(go) {
            let id = processes[0].begin_move(&admin, symbol, to).await.unwrap();
            assert_eq!(processes[0].until_moved(&admin, id).await["status"], "COMPLETED");
        }
        let traders = Traders::start_as(&format!("with{standby}-"), &processes[0].url(), &trader, &symbols, 2);
        traders.until_more(2_000, SOON).await;
        if standby == "1" {
            until_followed(&processes.iter().collect::<Vec<_>>(), &admin, BOOKS).await;
        }
        // A start finds books of nodes that are not there yet.
        let before = recovered(&processes[..2].iter().collect::<Vec<_>>()).await;
        let took = kill_third(&mut processes, &traders, lost).await;
        let living: Vec<&Process> = processes[..2].iter().collect();
        let (followed, restored) = until_recovered(&living, before, lost.len()).await;
        let books_ms = took_over_ms(&processes[0], &admin).await;
        assert_eq!(books_ms.len(), lost.len());
        println!(
            "standby {standby}: {} books, orders for all are answered {took:?} after the kill; from the detection to the new \
             owner's word p50 {} ms, last {} ms",
            lost.len(),
            books_ms[books_ms.len() / 2],
            books_ms[books_ms.len() - 1],
        );
        assert_eq!((followed, restored), if standby == "0" { (0, lost.len()) } else { (lost.len(), 0) });
        let told = traders.stop().await;
        all_are_known(&processes[1].url(), &trader, &told).await;
        processes[..2].iter_mut().for_each(Process::terminate);
    }
    cluster.clean_audit(&["--complete"]);
}
