//! Traders who do not give up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::call;
use crate::wait::SETTLES_WITHIN;

/// Orders sent once more at a time by [`all_are_known`].
const ASKED_AT_ONCE: usize = 16;

/// What traders were told.
#[derive(Default)]
pub struct Told {
    /// Orders that are known to be in the log: symbol and id.
    pub settled: Vec<(String, String)>,
    /// How often each code, status or silence was the answer.
    pub codes: BTreeMap<String, u64>,
    /// When an order of a symbol was last answered.
    pub answered_at: BTreeMap<String, Instant>,
}

/// Clients with one order at a time, which each sends until it knows what became of it.
pub struct Traders {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    clients: Vec<JoinHandle<()>>,
}

impl Traders {
    pub fn start(url: &str, token: &str, symbols: &[&str], clients: usize) -> Self {
        Self::start_as("c", url, token, symbols, clients)
    }

    /// `name`: what their order ids begin with.
    pub fn start_as(name: &str, url: &str, token: &str, symbols: &[&str], clients: usize) -> Self {
        Self::start_paced(name, url, token, symbols, clients, Duration::ZERO)
    }

    /// Each client begins an order no sooner than `pace` after its last.
    pub fn start_paced(name: &str, url: &str, token: &str, symbols: &[&str], clients: usize, pace: Duration) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let client = |(symbol, client): (&&str, usize)| {
            let (url, token, symbol) = (url.to_owned(), token.to_owned(), (*symbol).to_owned());
            let (stop, told, name) = (Arc::clone(&stop), Arc::clone(&told), name.to_owned());
            tokio::spawn(async move {
                let mut next = Instant::now();
                for n in 0.. {
                    tokio::time::sleep_until(next.into()).await;
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    next = Instant::now() + pace;
                    let side = if (n + client) % 2 == 0 { "BUY" } else { "SELL" };
                    let body = json!({"symbol": symbol, "side": side, "price": 100 + n * 7 % 5, "quantity": 1 + n % 4,
                                      "stp": "none", "order_id": format!("{name}{client}-{n}")});
                    settle(&url, &token, &body, &told).await;
                }
            })
        };
        let clients = symbols.iter().flat_map(|s| (0..clients).map(move |c| (s, c))).map(client).collect();
        Self { stop, told, clients }
    }

    pub fn settled(&self) -> usize {
        self.told.lock().expect("no panic").settled.len()
    }

    /// How often an answer was given.
    pub fn count_of(&self, code: &str) -> u64 {
        self.told.lock().expect("no panic").codes.get(code).copied().unwrap_or_default()
    }

    /// Waits until so many more orders are settled.
    pub async fn until_more(&self, more: usize, within: Duration) {
        let (wanted, began) = (self.settled() + more, Instant::now());
        while self.settled() < wanted {
            let codes = self.told.lock().expect("no panic").codes.clone();
            assert!(began.elapsed() < within, "{more} orders took longer than {within:?}: {codes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until an order of every symbol was answered after this moment; gives how long that took.
    pub async fn until_all_trade(&self, symbols: &[&str], within: Duration) -> Duration {
        let since = Instant::now();
        loop {
            let trades =
                |s: &&str| self.told.lock().expect("no panic").answered_at.get(*s).is_some_and(|at| *at > since);
            if symbols.iter().all(trades) {
                return since.elapsed();
            }
            assert!(since.elapsed() < within, "not every symbol trades within {within:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every order that was sent is settled.
    pub async fn stop(self) -> Told {
        self.stop.store(true, Ordering::Release);
        let ended = tokio::time::timeout(SETTLES_WITHIN, join_all(self.clients)).await;
        ended.expect("all orders are settled in time").into_iter().for_each(|client| client.expect("no panic"));
        std::mem::take(&mut *self.told.lock().expect("no panic"))
    }
}

/// Sends an order again and again until it is known to be in the log; its id makes that harmless.
async fn settle(url: &str, token: &str, body: &Value, told: &Mutex<Told>) {
    loop {
        let answer = call(url, "POST", "/orders", Some(token), body.clone()).await;
        let (code, is_there) = match &answer {
            Ok((201, _)) => ("201", true),
            Ok((202, _)) => ("202", true),
            Ok((_, error)) => {
                let code = error["code"].as_str().unwrap_or("?");
                (code, code == "duplicate_order")
            }
            Err(_) => ("silence", false),
        };
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        {
            let mut told = told.lock().expect("no panic");
            *told.codes.entry(code.to_owned()).or_default() += 1;
            if is_there {
                told.settled.push((text("symbol"), text("order_id")));
                told.answered_at.insert(text("symbol"), Instant::now());
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends every order once more: each is known, so it was kept, and kept once.
pub async fn all_are_known(url: &str, token: &str, told: &Told) {
    let again = told.settled.iter().map(|(symbol, id)| async move {
        let body = json!({"symbol": symbol, "side": "BUY", "price": 1, "quantity": 1, "order_id": id});
        let (status, answer) = call(url, "POST", "/orders", Some(token), body).await.expect("an answer");
        assert_eq!((status, &answer["code"]), (409, &json!("duplicate_order")), "{symbol} {id}: {answer}");
    });
    futures_util::stream::iter(again).buffer_unordered(ASKED_AT_ONCE).collect::<()>().await;
}
