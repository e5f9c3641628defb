//! Books that move while they trade, on several nodes in one process. Every run is judged from the log by the auditor.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use embedded::*;
use futures_util::future::join_all;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::actors::fleet::DrainError;
use hotbook::actors::moves::MoveError;
use hotbook::cli::audit;
use hotbook::domain::{Command, Epoch, NodeId, Side};
use hotbook::migration::audit::SymbolReport;
use hotbook::migration::handover::{AbortError, Cause, MoveId, MoveRecord, MoveStatus, Step};
use hotbook::ports::routes::RouteStatus;
use hotbook::ports::snapshots::folder::FolderSnapshots;
use hotbook::wire::Keyring;

#[path = "common/embedded.rs"]
mod embedded;

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

/// The auditor's judgement of these symbols, and whether the live books are those of the log.
async fn judge(exchange: &Exchange, folder: &Path, names: &[&str]) -> Vec<SymbolReport> {
    let snapshots = FolderSnapshots::open_read_only(folder);
    let keyring = Keyring::from_secret(b"test");
    let all = audit::judge(&**exchange.log(), &snapshots, &keyring, None, true).await.unwrap();
    let of = |name: &&str| {
        let of = symbol(name);
        let report = all.iter().find(|r| r.symbol == of).unwrap();
        assert_eq!(report.violations, [], "{name}");
        let book = exchange.directory().get(&of).unwrap();
        assert_eq!(
            (book.book_digest().to_string(), book.epoch()),
            (report.book_digest.clone(), report.epoch),
            "{name}"
        );
        report.clone()
    };
    names.iter().map(of).collect()
}

async fn ended(exchange: &Exchange, id: MoveId) -> MoveRecord {
    let running = || exchange.moves().get(id).unwrap().status == MoveStatus::Running;
    until("the move ends", || !running()).await;
    exchange.moves().get(id).unwrap()
}

async fn moved(exchange: &Exchange, of: &str, to: NodeId) -> MoveRecord {
    let id = exchange.moves().begin(symbol(of), to, Cause::Operator).unwrap();
    let record = ended(exchange, id).await;
    assert_eq!(record.status, MoveStatus::Completed, "{record:?}");
    assert_eq!(record.error, None);
    record
}

/// Clients that send orders, each the next when the last is answered, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<actix_web::rt::task::JoinHandle<()>>,
}

impl Load {
    fn on(exchange: &Arc<Exchange>, symbols: &[&str], clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |(symbol, client): (&&str, usize)| {
            let (exchange, of, stop) = (Arc::clone(exchange), (*symbol).to_owned(), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            actix_web::rt::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let side = if (n + client) % 2 == 0 { Side::Buy } else { Side::Sell };
                    let add = order(&format!("c{client}-{n}"), side, 100 + (n * 7 % 5) as u64, 1 + n as u64 % 4);
                    send(&exchange, &of, &Command::Add(add)).await;
                    answered.fetch_add(1, Ordering::AcqRel);
                }
            })
        };
        let clients = symbols.iter().flat_map(|s| (0..clients).map(move |c| (s, c))).map(client).collect();
        Self { stop, answered, clients }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// Every order that was sent is answered.
    async fn stop(self) {
        self.stop.store(true, Ordering::Release);
        join_all(self.clients).await.into_iter().for_each(|c| c.unwrap());
    }
}

async fn three_nodes(folder: &std::path::Path, symbols: &[&str]) -> Arc<Exchange> {
    let exchange = start(ExchangeConfig { nodes: 3, ..config(folder) }).await;
    for name in symbols {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    exchange
}

#[actix_web::test]
async fn the_hottest_of_twenty_books_moves_a_hundred_times_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..19).map(|n| format!("S{n:02}")).chain(["AAA".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let exchange = three_nodes(folder.path(), &names).await;
    let (hot, others) = (Load::on(&exchange, &["AAA"], 8), Load::on(&exchange, &names[..19], 1));
    let (mut pauses, mut parked) = (Vec::new(), 0);
    for _ in 0..100 {
        let at = exchange.directory().get(&symbol("AAA")).unwrap().node();
        let to = (1..=3).map(node).filter(|to| *to != at).nth(pauses.len() % 2).unwrap();
        let record = moved(&exchange, "AAA", to).await;
        assert_eq!(record.steps.iter().map(|s| s.name).collect::<Vec<_>>(), Step::ALL);
        assert_eq!(exchange.directory().get(&symbol("AAA")).unwrap().node(), to);
        pauses.push(record.pause_us.unwrap());
        parked += record.parked.unwrap();
    }
    hot.stop().await;
    others.stop().await;
    pauses.sort_unstable();
    println!("100 moves: pause p50 {} us, max {} us, {parked} commands parked", pauses[50], pauses[99]);
    let reports = judge(&exchange, folder.path(), &names).await;
    for r in &reports {
        println!("{}: {} outputs, {} repeats", r.symbol, r.outputs, r.repeats);
    }
    assert_eq!(reports[19].moves.len(), 100);
    let route = exchange.gateway().routes().get(symbol("AAA")).await.unwrap().unwrap();
    let book = exchange.directory().get(&symbol("AAA")).unwrap();
    assert_eq!((route.status, route.epoch, route.target_instance), (RouteStatus::Active, book.epoch(), book.node()));
    assert_eq!(book.epoch(), Epoch(100));
    exchange.shutdown().await;
    drop(exchange);
    // Written with three nodes, started with one, then with two.
    for nodes in [1, 2] {
        let exchange = start(ExchangeConfig { nodes, ..config(folder.path()) }).await;
        send(&exchange, "AAA", &Command::Add(order(&format!("with-{nodes}"), Side::Buy, 1, 1))).await;
        judge(&exchange, folder.path(), &["AAA"]).await;
        exchange.shutdown().await;
    }
}

#[actix_web::test]
async fn what_cannot_be_moved_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = three_nodes(folder.path(), &["AAA"]).await;
    let begin = |of: &str, to| exchange.moves().begin(symbol(of), to, Cause::Operator);
    assert_eq!(begin("NONE", node(2)), Err(MoveError::UnknownSymbol));
    assert_eq!(begin("AAA", node(9)), Err(MoveError::UnknownNode));
    assert_eq!(begin("AAA", node(1)), Err(MoveError::AlreadyThere));
    let id = begin("AAA", node(2)).unwrap();
    assert_eq!(begin("AAA", node(3)), Err(MoveError::AlreadyMoving));
    assert_eq!(exchange.moves().abort(MoveId(99)), None);
    assert_eq!(ended(&exchange, id).await.status, MoveStatus::Completed);
    assert_eq!(exchange.moves().abort(id), Some(Err(AbortError::Ended)));
    assert_eq!(exchange.fleet().drain(&node(9)), Err(DrainError::UnknownNode));
    exchange.shutdown().await;
}

#[actix_web::test]
async fn an_aborted_move_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = three_nodes(folder.path(), &["AAA"]).await;
    let load = Load::on(&exchange, &["AAA"], 4);
    let mut aborted = 0;
    for _ in 0..10 {
        let id = exchange.moves().begin(symbol("AAA"), node(2), Cause::Operator).unwrap();
        exchange.moves().abort(id).unwrap().unwrap();
        let record = ended(&exchange, id).await;
        if record.status == MoveStatus::Aborted {
            aborted += 1;
            let book = exchange.directory().get(&symbol("AAA")).unwrap();
            assert_eq!((book.node(), book.epoch()), (node(1), Epoch(0)));
        } else {
            break;
        }
    }
    assert!(aborted > 0, "no move was stopped in time");
    load.stop().await;
    judge(&exchange, folder.path(), &["AAA"]).await;
    exchange.shutdown().await;
}

#[actix_web::test]
async fn a_dead_nodes_books_trade_again_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
    let exchange = three_nodes(folder.path(), &names).await;
    let load = Load::on(&exchange, &names, 3);
    until("some orders are answered", || load.answered() > 500).await;
    exchange.fleet().crash(&node(1));
    let active = |name: &str| {
        let book = exchange.directory().get(&symbol(name)).unwrap();
        book.node() != node(1) && book.is_active()
    };
    until("every book trades elsewhere", || names.iter().all(|n| active(n))).await;
    let then = load.answered();
    until("orders go on", || load.answered() > then + 500).await;
    load.stop().await;
    judge(&exchange, folder.path(), &names).await;
    assert_eq!(exchange.fleet().views()[0].status, "DOWN");
    assert_eq!(exchange.moves().begin(symbol("AAA"), node(1), Cause::Operator), Err(MoveError::NodeDown));
    exchange.shutdown().await;
}

/// A crash of either side at each step of a move: the orders go on, and the log's judgement is clean.
#[actix_web::test]
async fn a_crash_at_any_step_of_a_move_loses_nothing() {
    for victim in [1, 2] {
        for step in Step::ALL {
            let folder = tempfile::tempdir().unwrap();
            let exchange = three_nodes(folder.path(), &["AAA"]).await;
            let load = Load::on(&exchange, &["AAA"], 4);
            until("some orders are answered", || load.answered() > 50).await;
            let id = exchange.moves().begin(symbol("AAA"), node(2), Cause::Operator).unwrap();
            let at = || exchange.moves().get(id).unwrap().steps.last().unwrap().name;
            while at() < step && exchange.moves().get(id).unwrap().status == MoveStatus::Running {
                tokio::task::yield_now().await;
            }
            let met = at();
            exchange.fleet().crash(&node(victim));
            until("the book trades on a living node", || {
                let book = exchange.directory().get(&symbol("AAA")).unwrap();
                book.is_active() && book.node() != node(victim)
            })
            .await;
            let then = load.answered();
            until("orders go on", || load.answered() > then + 20).await;
            load.stop().await;
            let report = &judge(&exchange, folder.path(), &["AAA"]).await[0];
            println!(
                "n{victim} crashed at {met:?} (wanted {step:?}): {:?}, {} outputs, {} repeats",
                exchange.moves().get(id).unwrap().status,
                report.outputs,
                report.repeats
            );
            exchange.shutdown().await;
        }
    }
}

#[actix_web::test]
async fn a_drained_node_gives_its_books_away_and_gets_no_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
    let exchange = three_nodes(folder.path(), &names).await;
    let load = Load::on(&exchange, &names, 2);
    assert_eq!(exchange.fleet().drain(&node(1)), Ok(2));
    until("the node is empty", || exchange.fleet().views()[0].books == 0).await;
    exchange.list(symbol("GGG"), plain()).await.unwrap();
    assert_eq!(exchange.fleet().views().iter().map(|n| n.books).sum::<usize>(), 7);
    assert_eq!(exchange.fleet().views()[0].books, 0);
    load.stop().await;
    judge(&exchange, folder.path(), &names).await;
    assert_eq!(exchange.fleet().views()[0].status, "DRAINING");
    tokio::time::sleep(Duration::ZERO).await;
    exchange.shutdown().await;
}
