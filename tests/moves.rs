//! Books that move while they trade, on several nodes in one process. Every run is judged from the log by the auditor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use embedded::*;
use hotbook::actors::exchange::ExchangeConfig;
use hotbook::actors::fleet::DrainError;
use hotbook::actors::moves::MoveError;
use hotbook::domain::{Command, Epoch, Side};
use hotbook::migration::handover::{AbortError, Cause, MoveId, MoveStatus, Step};
use hotbook::ports::routes::RouteStatus;
use judged::*;
use rstest::rstest;

#[path = "common/embedded.rs"]
mod embedded;
#[path = "common/judged.rs"]
mod judged;

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

/// Four books of one node are far behind, and one moves away: the target need not be level with the log before it is fenced
/// in, only with the owner; and once it publishes, nobody waits until the old node has come to the fence.
#[actix_web::test]
async fn a_book_leaves_a_node_that_is_far_behind_and_the_node_lets_go_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC", "DDD"];
    let exchange = start(ExchangeConfig { nodes: 1, book_threads_per_node: 1, ..config(folder.path()) }).await;
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    exchange.shutdown().await;
    drop(exchange);
    let exchange = start(ExchangeConfig {
        nodes: 2,
        book_threads_per_node: 1,
        snapshot_every_s: 3_600,
        dev_command_cost_us: names.map(|name| (symbol(name), 4_000)).into(),
        ..config(folder.path())
    })
    .await;
    assert!(names.iter().all(|n| exchange.directory().get(&symbol(n)).unwrap().node() == node(1)));
    // For each book 2.4 s of work: ten seconds for the node.
    for name in names {
        let add = |n: u64| Command::Add(order(&format!("o{n}"), Side::Buy, 100 - n % 5, 1));
        append_all(&exchange, name, (0..600).map(add)).await;
    }
    let lag = |on: usize, name: &str| exchange.replica(&node(on), &symbol(name)).map(|b| b.lag());
    until("the node is behind", || names.iter().all(|n| lag(1, n).is_some_and(|lag| lag > 400))).await;
    let id = exchange.moves().begin(symbol("AAA"), node(2), Cause::Operator).unwrap();
    until("it is fenced in", || exchange.owners().get(&symbol("AAA")).unwrap().node == node(2)).await;
    let at_fence = lag(2, "AAA");
    let record = ended(&exchange, id).await;
    println!("{at_fence:?} records behind when it was fenced in; then {:?} {:?}", lag(1, "BBB"), record.steps);
    assert_eq!((record.status, record.error.clone()), (MoveStatus::Completed, None), "{record:?}");
    assert_eq!(lag(1, "AAA"), None, "the old replica is gone");
    assert!(lag(1, "BBB") > Some(0), "and did not have to come to the fence first");
    until("all is worked off", || names.iter().all(|n| exchange.directory().get(&symbol(n)).unwrap().lag() == 0)).await;
    for name in names {
        send(&exchange, name, &Command::Add(order("last", Side::Buy, 1, 1))).await;
    }
    judge(&exchange, folder.path(), &names).await;
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

/// The node that owns the book, or the one that it goes to.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Source,
    Target,
}

/// One of the nodes of a move dies, its threads and books with it, at the moment when a step begins, before anything is
/// done for it: the orders go on, each is answered once, and the log's judgement is clean.
#[rstest]
#[actix_web::test]
async fn a_crash_loses_nothing(
    #[values(
        Step::DetectHotSymbol,
        Step::ProvisionNewInstance,
        Step::TransferSnapshot,
        Step::PauseRouting,
        Step::WaitForDrain,
        Step::SwitchRouting,
        Step::ReplayPendingOrders,
        Step::Cleanup
    )]
    at: Step,
    #[values(Victim::Source, Victim::Target)] victim: Victim,
) {
    let folder = tempfile::tempdir().unwrap();
    let exchange = three_nodes(folder.path(), &["AAA"]).await;
    let load = Load::on(&exchange, &["AAA"], 4);
    until("some orders are answered", || load.answered() > 50).await;
    let (fleet, crashed) = (Arc::downgrade(exchange.fleet()), Arc::new(AtomicBool::new(false)));
    let has_crashed = Arc::clone(&crashed);
    exchange.moves().watch_steps(Box::new(move |plan, step| {
        if plan.cause == Cause::Operator && step == at && !has_crashed.swap(true, Ordering::AcqRel) {
            let dies = if matches!(victim, Victim::Source) { plan.from } else { plan.to };
            fleet.upgrade().unwrap().crash(&dies);
        }
    }));
    let id = exchange.moves().begin(symbol("AAA"), node(2), Cause::Operator).unwrap();
    let record = ended(&exchange, id).await;
    assert!(crashed.load(Ordering::Acquire), "the step was not reached: {record:?}");
    let dead = if matches!(victim, Victim::Source) { node(1) } else { node(2) };
    until("the book trades on a living node", || {
        let book = exchange.directory().get(&symbol("AAA")).unwrap();
        book.is_active() && book.node() != dead
    })
    .await;
    let then = load.answered();
    until("orders go on", || load.answered() > then + 20).await;
    load.stop().await;
    let report = &judge(&exchange, folder.path(), &["AAA"]).await[0];
    println!("{victim:?} at {at:?}: {:?}, {} outputs, {} repeats", record.status, report.outputs, report.repeats);
    // Before the fence the move leaves no trace; behind it, it goes forward if there is somebody to go to.
    let may_be: &[MoveStatus] = match (victim, at) {
        (_, Step::DetectHotSymbol | Step::ProvisionNewInstance | Step::TransferSnapshot) => &[MoveStatus::Aborted],
        (Victim::Source, _) => &[MoveStatus::Completed],
        // Whether its fence was handed to the log before the death was seen.
        (Victim::Target, Step::PauseRouting) => &[MoveStatus::Aborted, MoveStatus::Failed],
        // Whether it published before it died; the rest is bookkeeping.
        (Victim::Target, _) => &[MoveStatus::Completed, MoveStatus::Failed],
    };
    assert!(may_be.contains(&record.status), "{record:?}");
    exchange.shutdown().await;
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
