//! Exchanges of several nodes under load, judged from their log by the auditor.
#![allow(dead_code)] // not every test needs all of it

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::cli::audit;
use hotbook::domain::{Command, NodeId, Side};
use hotbook::migration::audit::SymbolReport;
use hotbook::migration::handover::{Cause, MoveId, MoveRecord, MoveStatus};
use hotbook::ports::snapshots::folder::FolderSnapshots;
use hotbook::wire::Keyring;

use super::embedded::*;

pub fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

/// The auditor's judgement of these symbols, and whether the live books are those of the log.
pub async fn judge(exchange: &Exchange, folder: &Path, names: &[&str]) -> Vec<SymbolReport> {
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

pub async fn ended(exchange: &Exchange, id: MoveId) -> MoveRecord {
    let running = || exchange.moves().get(id).unwrap().status == MoveStatus::Running;
    until("the move ends", || !running()).await;
    exchange.moves().get(id).unwrap()
}

pub async fn moved(exchange: &Exchange, of: &str, to: NodeId) -> MoveRecord {
    let id = exchange.moves().begin(symbol(of), to, Cause::Operator).unwrap();
    let record = ended(exchange, id).await;
    assert_eq!(record.status, MoveStatus::Completed, "{record:?}");
    assert_eq!(record.error, None);
    record
}

/// Clients that send orders, each the next when the last is answered, until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<actix_web::rt::task::JoinHandle<()>>,
}

impl Load {
    pub fn on(exchange: &Arc<Exchange>, symbols: &[&str], clients: usize) -> Self {
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

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// Every order that was sent is answered.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Release);
        join_all(self.clients).await.into_iter().for_each(|c| c.unwrap());
    }
}

pub async fn three_nodes(folder: &std::path::Path, symbols: &[&str]) -> Arc<Exchange> {
    let exchange = start(ExchangeConfig { nodes: 3, ..config(folder) }).await;
    for name in symbols {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    exchange
}
