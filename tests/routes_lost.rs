//! The route table is a cache: emptied or set back while orders flow, it is told again from the log, and costs no order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use embedded::*;
use futures_util::FutureExt;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::cli::audit;
use hotbook::domain::{Command, Epoch, NodeId, Side, Symbol};
use hotbook::migration::handover::{Cause, MoveStatus};
use hotbook::ports::routes::local::LocalRoutes;
use hotbook::ports::routes::{LEADER, Route, RouteStatus, Routes};
use hotbook::ports::snapshots::folder::FolderSnapshots;
use hotbook::wire::Keyring;

#[path = "common/embedded.rs"]
mod embedded;

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("the local table answers at once")
}

fn row(routes: &LocalRoutes, of: Symbol) -> Option<Route> {
    now(routes.get(of)).unwrap()
}

fn is_true(exchange: &Exchange, routes: &LocalRoutes, of: Symbol) -> bool {
    let book = exchange.directory().get(&of).unwrap();
    let known = (book.node(), book.epoch(), book.partition, RouteStatus::Active);
    row(routes, of).is_some_and(|r| (r.target_instance, r.epoch, r.partition, r.status) == known)
}

#[actix_web::test]
async fn a_lost_or_stale_route_table_is_told_again_and_costs_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let routes = Arc::new(LocalRoutes::default());
    let config = ExchangeConfig { nodes: 3, load_window_ms: 100, ..config(folder.path()) };
    let exchange = Exchange::start_with(config, Arc::clone(&routes) as Arc<dyn Routes>).await.unwrap();
    until("ready", || exchange.is_ready()).await;
    let names = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"];
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let client = |name: &'static str| {
        let (exchange, stop, answered) = (Arc::clone(&exchange), Arc::clone(&stop), Arc::clone(&answered));
        actix_web::rt::spawn(async move {
            let mut sent = 0u64;
            while !stop.load(Ordering::Acquire) {
                let side = if sent.is_multiple_of(2) { Side::Buy } else { Side::Sell };
                send(&exchange, name, &Command::Add(order(&format!("o{sent}"), side, 100 + sent % 3, 1))).await;
                sent += 1;
                answered.fetch_add(1, Ordering::AcqRel);
            }
            sent
        })
    };
    let clients = names.map(client);
    let old = {
        let before = row(&routes, symbol("AAA")).unwrap();
        let id = exchange.moves().begin(symbol("AAA"), node(2), Cause::Operator).unwrap();
        until("the move ends", || exchange.moves().get(id).unwrap().status == MoveStatus::Completed).await;
        before
    };
    let all_true = || names.iter().all(|name| is_true(&exchange, &routes, symbol(name)));
    until("the table is true", all_true).await;

    let then = answered.load(Ordering::Acquire);
    routes.clear();
    assert_eq!(now(routes.all()).unwrap(), []);
    until("all rows are there again", all_true).await;
    until("all nodes are known again", || now(routes.beats()).unwrap().len() == 3).await;
    until("somebody leads again", || now(routes.lease(LEADER)).unwrap().is_some()).await;

    // Set back to before the move, as from a backup.
    assert_eq!(old.epoch, Epoch(0));
    routes.overwrite(symbol("AAA"), old);
    until("the old row is put right", all_true).await;

    // A table that was emptied in the middle of a move does not stop it.
    let id = exchange.moves().begin(symbol("BBB"), node(1), Cause::Operator).unwrap();
    routes.clear();
    until("the move ends", || exchange.moves().get(id).unwrap().status != MoveStatus::Running).await;
    assert_eq!(exchange.moves().get(id).unwrap().status, MoveStatus::Completed);
    until("all rows are there again", all_true).await;

    until("orders went on", || answered.load(Ordering::Acquire) > then + 100).await;
    stop.store(true, Ordering::Release);
    let mut sent = 0;
    for client in clients {
        sent += client.await.unwrap();
    }
    assert_eq!(answered.load(Ordering::Acquire), sent);
    let keyring = Keyring::from_secret(b"test");
    let snapshots = FolderSnapshots::open_read_only(folder.path());
    for report in audit::judge(&**exchange.log(), &snapshots, &keyring, None, true).await.unwrap() {
        assert_eq!(report.violations, [], "{}", report.symbol);
    }
    exchange.shutdown().await;
}
