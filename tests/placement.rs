//! Books that move by themselves: a node with too much to do gives some away, while they trade.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use embedded::*;
use futures_util::future::join_all;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::actors::moves::Moves;
use hotbook::cli::audit;
use hotbook::domain::{Command, NodeId, Side};
use hotbook::migration::handover::{Cause, MoveRecord, MoveStatus};
use hotbook::migration::placement::{Kind, PlacementMode, Reason, Settings};
use hotbook::ports::snapshots::folder::FolderSnapshots;
use hotbook::wire::Keyring;

#[path = "common/embedded.rs"]
mod embedded;

/// CPU time of one command.
const COST_US: u64 = 1_000;
/// A fifth of a core is all that a node has, so that three of them are too much for no machine.
const NODE_CORES: f64 = 0.2;
/// Orders per second and book: 5 % of a core, a quarter of a node.
const RATE: u64 = 50;
const WINDOW_MS: u64 = 200;

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn settings() -> Settings {
    Settings { cooldown_us: 5_000_000, ..Settings::default() }
}

/// Three nodes; the first has all of these books, as if the others had just been started.
async fn crowded(folder: &Path, names: &[&str], mode: PlacementMode) -> Arc<Exchange> {
    let base = ExchangeConfig { book_threads_per_node: 1, ..config(folder) };
    let first = start(ExchangeConfig { nodes: 1, ..base.clone() }).await;
    for name in names {
        first.list(symbol(name), plain()).await.unwrap();
    }
    first.shutdown().await;
    drop(first);
    let costs: HashMap<_, _> = names.iter().map(|name| (symbol(name), COST_US)).collect();
    let exchange = start(ExchangeConfig {
        nodes: 3,
        load_window_ms: WINDOW_MS,
        node_cores: NODE_CORES,
        placement_mode: mode,
        placement: settings(),
        dev_command_cost_us: costs,
        ..base
    })
    .await;
    assert!(exchange.directory().all().iter().all(|b| b.node() == node(1)));
    exchange
}

/// Sends orders at a fixed rate per book, whether or not they are answered, until it is stopped.
struct OpenLoad {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    senders: Vec<actix_web::rt::task::JoinHandle<u64>>,
}

impl OpenLoad {
    fn on(exchange: &Arc<Exchange>, names: &[&str], run: &str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = |name: &&str| {
            let (exchange, of, run) = (Arc::clone(exchange), (*name).to_owned(), run.to_owned());
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            actix_web::rt::spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_millis(1_000 / RATE));
                let mut orders = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    tick.tick().await;
                    let n = orders.len() as u64;
                    let side = if n.is_multiple_of(2) { Side::Buy } else { Side::Sell };
                    let add = Command::Add(order(&format!("{run}-{n}"), side, 100 + n * 7 % 5, 1 + n % 4));
                    let (exchange, of, answered) = (Arc::clone(&exchange), of.clone(), Arc::clone(&answered));
                    orders.push(actix_web::rt::spawn(async move {
                        send(&exchange, &of, &add).await;
                        answered.fetch_add(1, Ordering::AcqRel);
                    }));
                }
                let sent = orders.len() as u64;
                join_all(orders).await.into_iter().for_each(|o| o.unwrap());
                sent
            })
        };
        let senders = names.iter().map(sender).collect();
        Self { stop, answered, senders }
    }

    /// Every order that was sent is answered; how many there were.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let sent = join_all(self.senders).await.into_iter().map(|s| s.unwrap()).sum();
        assert_eq!(self.answered.load(Ordering::Acquire), sent);
        sent
    }
}

fn loads(exchange: &Exchange) -> BTreeMap<NodeId, f64> {
    exchange.fleet().views().into_iter().map(|n| (n.id, n.load)).collect()
}

async fn judge(exchange: &Exchange, folder: &Path, names: &[&str]) {
    let snapshots = FolderSnapshots::open_read_only(folder);
    let keyring = Keyring::from_secret(b"test");
    let all = audit::judge(&**exchange.log(), &snapshots, &keyring, None, true).await.unwrap();
    assert_eq!(all.len(), names.len());
    for report in all {
        assert_eq!(report.violations, [], "{}", report.symbol);
    }
}

fn by_load(moves: &Moves) -> Vec<MoveRecord> {
    let all = moves.all();
    assert!(all.iter().all(|m| m.plan.cause == Cause::Load), "nobody else moves books here");
    all
}

#[actix_web::test]
async fn one_of_three_nodes_has_too_much_to_do_and_its_books_spread_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
    let exchange = crowded(folder.path(), &names, PlacementMode::Auto).await;
    let load = OpenLoad::on(&exchange, &names, "r");
    until("the first node is hot", || loads(&exchange)[&node(1)] > 0.85).await;
    let before = loads(&exchange);
    // Two books a node are half of what it has; none is hot any more, all have something to do.
    let mut calm_since = 0;
    until("load is even", || {
        let now = loads(&exchange);
        let is_even = now.values().all(|l| (0.2..0.85).contains(l)) && exchange.moves().under_way().is_empty();
        calm_since = if is_even { calm_since + 1 } else { 0 };
        calm_since > 200
    })
    .await;
    let after = loads(&exchange);
    let sent = load.stop().await;
    let moves = by_load(exchange.moves());
    println!("{sent} orders; load {before:?} -> {after:?} by {} moves", moves.len());
    for m in &moves {
        println!(
            "  {} {} -> {}: {:?}, pause {:?} us, {:?} parked",
            m.plan.symbol, m.plan.from, m.plan.to, m.status, m.pause_us, m.parked
        );
    }
    assert!(moves.iter().filter(|m| m.status == MoveStatus::Completed).count() >= 2, "{moves:?}");
    assert!(moves.len() <= 8, "{} moves for six books", moves.len());
    let decided = exchange.decisions().newest(1_000);
    for m in &moves {
        let of = |d: &&hotbook::actors::decisions::Decided| d.move_id == Some(m.plan.id);
        let why = decided.iter().find(of).expect("each move has its reason");
        assert_eq!(
            (why.decision.kind, why.decision.symbol, why.decision.to),
            (Kind::Move, Some(m.plan.symbol), Some(m.plan.to))
        );
        assert_eq!(why.nodes.len(), 3);
    }
    assert_eq!(decided.iter().find(|d| d.move_id.is_some()).unwrap().decision.reason, Reason::NodeHot);
    judge(&exchange, folder.path(), &names).await;
    exchange.shutdown().await;
}

#[actix_web::test]
async fn in_advise_mode_it_is_said_and_not_done_and_a_dead_leader_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
    let exchange = crowded(folder.path(), &names, PlacementMode::Advise).await;
    until("somebody leads", || exchange.decisions().leader().is_some()).await;
    let first = exchange.decisions().leader().unwrap();
    assert!(exchange.fleet().views().iter().all(|n| n.leads == (n.id == first)));
    let load = OpenLoad::on(&exchange, &names, "r");
    let advised = |by| {
        let all = exchange.decisions().newest(1_000);
        all.into_iter().any(|d| d.decision.kind == Kind::Advise && by == d.by && d.decision.from == Some(node(1)))
    };
    until("a move is advised", || advised(first)).await;
    assert_eq!(by_load(exchange.moves()), []);
    load.stop().await;

    exchange.fleet().crash(&first);
    until("another node leads", || exchange.decisions().leader().is_some_and(|l| l != first)).await;
    let books = || exchange.directory().all();
    until("books of the dead trade elsewhere", || books().iter().all(|b| b.is_active() && b.node() != first)).await;
    for name in names {
        send(&exchange, name, &Command::Add(order("afterwards", Side::Buy, 1, 1))).await;
    }
    judge(&exchange, folder.path(), &names).await;
    exchange.shutdown().await;
}

#[actix_web::test]
async fn the_books_of_a_dead_node_go_to_the_least_loaded_other() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
    let exchange = start(ExchangeConfig {
        nodes: 3,
        book_threads_per_node: 1,
        load_window_ms: WINDOW_MS,
        node_cores: NODE_CORES,
        dev_command_cost_us: [(symbol("BBB"), COST_US), (symbol("EEE"), COST_US)].into(),
        ..config(folder.path())
    })
    .await;
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    let at = |name: &str| exchange.directory().get(&symbol(name)).unwrap().node();
    assert_eq!(["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"].map(at), [1, 2, 3, 1, 2, 3].map(node));
    // All have two books, but those of the second node work.
    let load = OpenLoad::on(&exchange, &["BBB", "EEE"], "r");
    until("the second node is loaded", || loads(&exchange)[&node(2)] > 0.3 && loads(&exchange)[&node(3)] < 0.2).await;
    exchange.fleet().crash(&node(1));
    let books = || exchange.directory().all();
    until("all books trade", || books().iter().all(|b| b.is_active() && b.node() != node(1))).await;
    assert_eq!((at("AAA"), at("DDD")), (node(3), node(3)));
    load.stop().await;
    judge(&exchange, folder.path(), &names).await;
    exchange.shutdown().await;
}
