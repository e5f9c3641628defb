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
use crate::fills::{Fill, Fills, OrderKey};
use crate::wait::SETTLES_WITHIN;

/// Orders sent once more at a time by [`are_known`].
const ASKED_AT_ONCE: usize = 16;
/// Codes of a server that takes nothing just now (docs/errors.md).
const REFUSED: [&str; 2] = ["overloaded", "log_unavailable"];

/// An order as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub is_buy: bool,
    /// In hundredths.
    pub price: u64,
    pub quantity: u64,
}

/// What traders were told.
#[derive(Default)]
pub struct Told {
    /// Orders that are known to be in the log: symbol and id, in the order in which that was known.
    pub settled: Vec<OrderKey>,
    /// What they were.
    pub sent: BTreeMap<OrderKey, Sent>,
    /// What the answers said of fills: those that an order met when it came. A [`crate::Listener`] hears of all.
    pub fills: Fills,
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

    /// The orders that were settled behind the first so many.
    pub fn settled_behind(&self, first: usize) -> Vec<OrderKey> {
        self.told.lock().expect("no panic").settled[first..].to_vec()
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

impl Told {
    /// An order is settled; `fills`: of the answer to it, if there was one.
    fn note(&mut self, body: &Value, fills: &Value) {
        let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| body[field].as_u64().expect("a number");
        let order = (text(body, "symbol"), text(body, "order_id"));
        for fill in fills.as_array().into_iter().flatten() {
            self.fills.add(order.clone(), &text(fill, "trade_id"), Fill::new(&fill["quantity"], &fill["price"]));
        }
        let sent = Sent { is_buy: body["side"] == "BUY", price: 100 * number("price"), quantity: number("quantity") };
        self.sent.insert(order.clone(), sent);
        self.answered_at.insert(order.0.clone(), Instant::now());
        self.settled.push(order);
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
        {
            let mut told = told.lock().expect("no panic");
            *told.codes.entry(code.to_owned()).or_default() += 1;
            if is_there {
                told.note(body, answer.as_ref().map_or(&Value::Null, |(_, answer)| &answer["fills"]));
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends every order once more: each is known, so it was kept, and kept once.
pub async fn all_are_known(url: &str, token: &str, told: &Told) {
    are_known(url, token, &told.settled).await;
}

/// [`all_are_known`] of some of the orders, such as [`Traders::settled_behind`] those that were asked for before.
///
/// # Panics
/// With the first that is not known.
pub async fn are_known(url: &str, token: &str, orders: &[OrderKey]) {
    let again = orders.iter().map(|(symbol, id)| is_known(url, token, symbol, id));
    futures_util::stream::iter(again).buffer_unordered(ASKED_AT_ONCE).collect::<()>().await;
}

async fn is_known(url: &str, token: &str, symbol: &str, id: &str) {
    let body = json!({"symbol": symbol, "side": "BUY", "price": 1, "quantity": 1, "order_id": id});
    let began = Instant::now();
    loop {
        let (status, answer) = call(url, "POST", "/orders", Some(token), body.clone()).await.expect("an answer");
        let code = answer["code"].as_str().unwrap_or_default();
        // Refused before the log: that says nothing of the order, and leaves nothing behind.
        let is_refused = REFUSED.contains(&code) && began.elapsed() < SETTLES_WITHIN;
        if !is_refused {
            assert_eq!((status, code), (409, "duplicate_order"), "{symbol} {id}: {answer}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
