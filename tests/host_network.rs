//! What takes root: nodes in network namespaces of their own, and packets that do not arrive. Traders trade meanwhile; afterwards
//! every order that was acknowledged is there once, and the audit is clean. `make test-host` runs it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hotbook_harness::{Cluster, Network, Process, SETTLES_WITHIN as SOON, Traders, all_are_known, until};
use serde_json::Value;

const SYMBOLS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// How long each step of a move waits to be met.
const STEP_MS: u64 = 200;
/// Between two orders of a trader: each is asked for once more at the end.
const PACE: Duration = Duration::from_millis(50);
/// After the cluster has heard nothing of a node for five windows of a second and was not answered for another, and some.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);

/// Three nodes, each on a host of its own, and traders at n3.
struct Site {
    cluster: Cluster,
    nodes: [Process; 3],
    admin: String,
    trader: String,
    traders: Traders,
}

impl Site {
    async fn start() -> Self {
        Self::start_with("").await
    }

    async fn start_with(settings: &str) -> Self {
        let network = Network::start().unwrap_or_else(|e| panic!("{e}"));
        let cluster = Cluster::of(env!("CARGO_BIN_EXE_hotbook")).settings(settings).network(&network).start();
        let nodes = cluster.start(NODES);
        let asked = nodes[2].served();
        let (admin, trader) = (asked.token("root", &["admin"]).await, asked.token("ann", &["trader"]).await);
        for node in &nodes {
            node.until_sees(&admin, &NODES).await;
        }
        asked.list(&SYMBOLS, &admin).await;
        let traders = Traders::start_paced("c", &nodes[2].url(), &trader, &SYMBOLS, 1, PACE);
        traders.until_more(60, SOON).await;
        Self { cluster, nodes, admin, trader, traders }
    }

    fn network(&self) -> &Network {
        self.cluster.network()
    }

    /// The node that is asked, and that is never cut off from anything but another node.
    fn asked(&self) -> &Process {
        &self.nodes[2]
    }

    async fn homes(&self) -> BTreeMap<String, String> {
        self.asked().until_homes(&self.admin, &SYMBOLS, "").await
    }

    /// A book of a node.
    async fn book_of(&self, node: &str) -> &'static str {
        let homes = self.homes().await;
        SYMBOLS.into_iter().find(|s| homes[*s] == node).unwrap_or_else(|| panic!("{node} has a book: {homes:?}"))
    }

    async fn all_trade(&self) -> Duration {
        self.traders.until_all_trade(&SYMBOLS, SOON).await
    }

    /// By how many fences each book is where it is.
    async fn epochs(&self) -> Vec<u64> {
        self.homes().await;
        let books = self.asked().served().get("/admin/books", &self.admin).await;
        books["books"].as_array().expect("books").iter().map(|b| b["epoch"].as_u64().expect("an epoch")).collect()
    }

    /// A target that was cut off may not have read yet what became of the book meanwhile.
    async fn begin_move(&self, symbol: &str, to: &str) -> u64 {
        let began = Instant::now();
        loop {
            match self.asked().begin_move(&self.admin, symbol, to).await {
                Ok(id) => return id,
                Err(code) => assert!(began.elapsed() < SOON, "{symbol} to {to}: {code}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn moved(&self, symbol: &str, to: &str) -> Value {
        let id = self.begin_move(symbol, to).await;
        self.asked().until_moved(&self.admin, id).await
    }

    /// Everything passes again, and every node sees all others and each book once.
    async fn heal(&self) -> Duration {
        self.network().heal();
        let since = Instant::now();
        for node in &self.nodes {
            node.until_sees(&self.admin, &NODES).await;
            node.until_homes(&self.admin, &SYMBOLS, "").await;
        }
        self.all_trade().await;
        since.elapsed()
    }

    /// The end of a test; `more`: traders of other nodes. Gives the auditor's report.
    async fn judged(self, more: Vec<(usize, Traders)>) -> Value {
        let Self { cluster, mut nodes, trader, traders, .. } = self;
        let mut all = vec![(2, traders.stop().await)];
        for (at, traders) in more {
            all.push((at, traders.stop().await));
        }
        for (at, told) in all {
            println!("{}: {} orders settled: {:?}", NODES[at], told.settled.len(), told.codes);
            all_are_known(&nodes[2].url(), &trader, &told).await;
        }
        for node in &nodes {
            assert_eq!(node.served().metric("hotbook_invariant_violations_total").await, 0.0, "{}", node.name());
        }
        nodes.iter_mut().for_each(Process::terminate);
        let (passed, dropped) = cluster.network().packets();
        println!("{passed} packets passed, {dropped} were dropped");
        cluster.clean_audit(&["--complete"])
    }
}

#[actix_web::test]
async fn the_books_of_an_owner_that_is_cut_off_trade_elsewhere_and_it_loses_nothing() {
    let site = Site::start().await;
    let inside = Traders::start_paced("inside-", &site.nodes[0].url(), &site.trader, &SYMBOLS, 1, PACE);
    inside.until_more(30, SOON).await;
    let its_book = site.book_of("n1").await;

    site.network().cut_off("n1");
    let struck = Instant::now();
    site.asked().until_homes(&site.admin, &SYMBOLS, "n1").await;
    let taken = struck.elapsed();
    site.all_trade().await;
    println!("cut off: its books are taken over after {taken:.1?}, all trade after {:.1?}", struck.elapsed());
    assert!(taken < TAKEN_OVER_WITHIN, "{taken:?}");
    // Whoever is inside with it hears of refusals, and of nothing that nobody else knows.
    let refused = inside.count_of("log_unavailable");
    until("it refuses orders", SOON, async || inside.count_of("log_unavailable") > refused + 10).await;
    let settled = inside.settled();
    site.traders.until_more(60, SOON).await;
    assert_eq!(inside.settled(), settled, "it acknowledges what it cannot write down");

    let back = site.heal().await;
    println!("healed: whole again after {back:.1?}");
    inside.until_all_trade(&SYMBOLS, SOON).await;
    let homes = site.nodes[0].homes(&site.admin).await;
    assert_ne!(homes[its_book], "n1", "it follows: {homes:?}");
    // And it is as good as any.
    let record = site.moved(its_book, "n1").await;
    assert_eq!(record["status"], "COMPLETED", "{record}");
    site.judged(vec![(0, inside)]).await;
}

#[actix_web::test]
async fn two_nodes_that_do_not_hear_each_other_are_not_dead_and_moves_between_them_end_well() {
    let site = Site::start_with(&format!("dev_move_step_ms = {STEP_MS}\n")).await;
    let (of_n1, epochs) = (site.book_of("n1").await, site.epochs().await);
    site.network().cut("n1", "n2");
    let struck = Instant::now();
    let record = site.moved(of_n1, "n2").await;
    println!("cut before a move: {} after {:.1?}: {}", record["status"], struck.elapsed(), record["error"]);
    assert_eq!(record["status"], "ABORTED", "{record}");
    // Longer than a dead node needs to be found dead.
    let long = Duration::from_secs(8).saturating_sub(struck.elapsed());
    tokio::time::sleep(long).await;
    site.asked().until_sees(&site.admin, &NODES).await;
    assert_eq!(site.epochs().await, epochs, "nobody was taken for dead, nothing was fenced");
    println!("all trade after {:.1?}", site.all_trade().await);
    // To a third, which hears both, books move all the same.
    let record = site.moved(of_n1, "n3").await;
    assert_eq!(record["status"], "COMPLETED", "{record}");
    println!("healed: whole again after {:.1?}", site.heal().await);

    // Cut while a move is under way: what was sealed does not arrive.
    let of_n1 = site.book_of("n1").await;
    let id = site.begin_move(of_n1, "n2").await;
    site.asked().until_step(&site.admin, id, "PauseRouting").await;
    site.network().cut("n1", "n2");
    let struck = Instant::now();
    let record = site.asked().until_moved(&site.admin, id).await;
    let trade = site.all_trade().await;
    println!("cut in a move: {} after {:.1?}, all trade {trade:.1?} later", record["status"], struck.elapsed());
    assert_eq!(record["status"], "COMPLETED", "{record}");
    assert_eq!(site.nodes[1].served().metric("hotbook_crash_path_total").await, 1.0, "{record}");
    println!("healed: whole again after {:.1?}", site.heal().await);
    site.judged(Vec::new()).await;
}

#[actix_web::test]
async fn a_node_without_redis_or_s3_trades_on_and_one_without_kafka_gives_its_books_away() {
    let site = Site::start().await;
    let epochs = site.epochs().await;
    let of_n2 = site.book_of("n2").await;
    // Its heartbeat is missing, but it answers.
    site.network().cut("n1", "redis");
    let struck = Instant::now();
    let id = site.begin_move(of_n2, "n1").await;
    let waits = async || site.asked().migration(&site.admin, id).await["code"] == "routes_unavailable";
    until("a move to it waits", SOON, waits).await;
    tokio::time::sleep(Duration::from_secs(8).saturating_sub(struck.elapsed())).await;
    assert_eq!(site.epochs().await, epochs, "nobody was taken for dead, nothing was fenced");
    println!("without Redis: all trade after {:.1?}", site.all_trade().await);
    let back = site.heal().await;
    let record = site.asked().until_moved(&site.admin, id).await;
    println!("healed: whole again after {back:.1?}, the move {}", record["status"]);
    assert_eq!(record["status"], "COMPLETED", "{record}");

    // Nothing can be restored there.
    let epochs = site.epochs().await;
    site.network().cut("n1", "s3");
    let (struck, of_n2) = (Instant::now(), site.book_of("n2").await);
    let record = site.moved(of_n2, "n1").await;
    println!("without S3: a move to it {} after {:.1?}: {}", record["status"], struck.elapsed(), record["error"]);
    assert_eq!(record["status"], "ABORTED", "{record}");
    assert_eq!(site.epochs().await, epochs, "it was stopped before its fence");
    println!("all trade after {:.1?}", site.all_trade().await);
    println!("healed: whole again after {:.1?}", site.heal().await);

    site.network().cut("n1", "kafka");
    let struck = Instant::now();
    site.asked().until_homes(&site.admin, &SYMBOLS, "n1").await;
    site.all_trade().await;
    println!("without Kafka: all trade after {:.1?}", struck.elapsed());
    println!("healed: whole again after {:.1?}", site.heal().await);
    site.judged(Vec::new()).await;
}

#[actix_web::test]
async fn books_move_over_slow_links_that_lose_packets() {
    let site = Site::start().await;
    let (delay, lost) = (Duration::from_millis(5), 10);
    site.network().worsen(delay, lost);
    println!("every link: {delay:?} each way, {lost} of 1000 packets lost");
    for (n, symbol) in SYMBOLS.iter().enumerate() {
        let from = site.homes().await[*symbol].clone();
        let to = NODES.into_iter().filter(|node| *node != from).nth(n % 2).expect("two others");
        let record = site.moved(symbol, to).await;
        println!("{symbol} {from} to {to}: {}, pause {} us", record["status"], record["pause_us"]);
        assert_eq!(record["status"], "COMPLETED", "{record}");
    }
    println!("all trade after {:.1?}", site.all_trade().await);
    println!("whole again after {:.1?}", site.heal().await);
    site.judged(Vec::new()).await;
}
