//! What clients are told of fills, to be held against the record of somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Ws, call};
use crate::traders::Told;
use crate::wait::SETTLES_WITHIN;

/// How long a listener waits before it asks again for a connection that was refused.
const AGAIN: Duration = Duration::from_millis(50);

/// A symbol, and the id of an order in it.
pub type OrderKey = (String, String);

/// What one trade took of one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    pub quantity: u64,
    /// In hundredths, as a symbol has that is listed with default rules.
    pub price: u64,
}

impl Fill {
    /// `price`: a JSON number with two decimals.
    pub(crate) fn new(quantity: &Value, price: &Value) -> Self {
        Self { quantity: quantity.as_u64().expect("a quantity"), price: hundredths(price) }
    }
}

fn hundredths(price: &Value) -> u64 {
    (price.as_f64().expect("a price") * 100.0).round() as u64
}

/// Fills by order and trade. What is told twice is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fills(BTreeMap<OrderKey, BTreeMap<String, Fill>>);

impl Fills {
    /// Of the records of the topic `fills` (docs/kafka.md), which name a buyer and a seller each.
    ///
    /// # Panics
    /// As [`Self::add`].
    pub fn of_topic<'a>(records: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut fills = Self::default();
        for record in records {
            let (symbol, trade) = (text(record, "symbol"), text(record, "trade_id"));
            for side in ["buyer", "seller"] {
                let order = (symbol.clone(), text(&record[side], "order_id"));
                fills.add(order, &trade, Fill::new(&record["quantity"], &record["price"]));
            }
        }
        fills
    }

    /// # Panics
    /// When the same trade was told before, and otherwise.
    pub fn add(&mut self, order: OrderKey, trade: &str, fill: Fill) {
        let of_order = self.0.entry(order).or_default();
        let said = *of_order.entry(trade.to_owned()).or_insert(fill);
        assert_eq!(said, fill, "{trade} is told in two ways");
    }

    pub fn extend(&mut self, other: Self) {
        for (order, fills) in other.0 {
            fills.into_iter().for_each(|(trade, fill)| self.add(order.clone(), &trade, fill));
        }
    }

    pub fn orders(&self) -> impl Iterator<Item = &OrderKey> {
        self.0.keys()
    }

    /// How many trades there are, each of two orders.
    pub fn trades(&self) -> usize {
        self.0.values().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>().len()
    }

    /// How much of an order was taken, and for how many hundredths in all.
    pub fn of_order(&self, order: &OrderKey) -> (u64, u64) {
        let fills = self.0.get(order).into_iter().flat_map(BTreeMap::values);
        fills.fold((0, 0), |(quantity, value), f| (quantity + f.quantity, value + f.quantity * f.price))
    }

    /// Each of these fills is also in `record`, word for word.
    ///
    /// # Panics
    /// With the first that is not.
    pub fn all_in(&self, record: &Self) {
        for (order, fills) in &self.0 {
            for (trade, fill) in fills {
                let there = record.0.get(order).and_then(|of_order| of_order.get(trade));
                assert_eq!(there, Some(fill), "{order:?} was told of {trade}, and the record has this");
            }
        }
    }
}

fn text(of: &Value, field: &str) -> String {
    of[field].as_str().unwrap_or_else(|| panic!("no {field} in {of}")).to_owned()
}

/// What was pushed to a user.
#[derive(Debug, Default)]
pub struct Heard {
    pub fills: Fills,
    /// How often the connection was lost. What was said until it was there again is not in `fills`.
    pub lost: u64,
}

/// A user's WebSocket that hears of every fill of theirs, whoever sent the order; connects again when it is cut.
pub struct Listener {
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Returns once it is subscribed.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn start(url: &str, token: &str) -> Self {
        let ws = subscribed(url, token).await.expect("a subscription to orders");
        let heard = Arc::<Mutex<Heard>>::default();
        let task = tokio::spawn(listen(ws, url.to_owned(), token.to_owned(), Arc::clone(&heard)));
        Self { heard, task }
    }

    /// Waits until it has heard of so many trades.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_heard(&self, trades: usize) {
        let began = Instant::now();
        loop {
            let now = self.heard.lock().expect("no panic").fills.trades();
            if now >= trades {
                return;
            }
            assert!(!self.task.is_finished(), "the listener has failed; see above");
            assert!(began.elapsed() < SETTLES_WITHIN, "{now} of {trades} trades were pushed");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// # Panics
    /// When it was told of one trade in two ways.
    pub fn stop(self) -> Heard {
        assert!(!self.task.is_finished(), "the listener has failed; see above");
        self.task.abort();
        std::mem::take(&mut *self.heard.lock().expect("no panic"))
    }
}

async fn subscribed(url: &str, token: &str) -> Result<Ws, String> {
    let mut ws = Ws::try_connect_as(url, token).await?;
    let wish = json!({"action": "SUBSCRIBE", "request_id": "fills", "channels": ["orders"]});
    ws.stream.send(Message::text(wish.to_string())).await.map_err(|e| e.to_string())?;
    loop {
        let message = ws.stream.next().await.ok_or("closed")?.map_err(|e| e.to_string())?;
        let Message::Text(text) = message else { continue };
        let said: Value = serde_json::from_str(text.as_str()).map_err(|e| e.to_string())?;
        match said["type"].as_str() {
            Some("ACK") => return Ok(ws),
            Some("ERROR") => return Err(said.to_string()),
            _ => {}
        }
    }
}

async fn listen(mut ws: Ws, url: String, token: String, heard: Arc<Mutex<Heard>>) {
    loop {
        while let Some(Ok(message)) = ws.stream.next().await {
            let Message::Text(message) = message else { continue };
            let said: Value = serde_json::from_str(message.as_str()).expect("JSON");
            if said["type"] == "FILL" {
                let fill = &said["data"];
                let order = (text(fill, "symbol"), text(fill, "order_id"));
                let taken = Fill::new(&fill["filled_qty"], &fill["filled_price"]);
                heard.lock().expect("no panic").fills.add(order, &text(fill, "trade_id"), taken);
            }
        }
        heard.lock().expect("no panic").lost += 1;
        ws = loop {
            match subscribed(&url, &token).await {
                Ok(ws) => break ws,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
    }
}

/// Holds what traders know against a record of all fills, such as the topic `fills`. Nobody else may have traded.
///
/// - Each fill that they were told of is in it, word for word.
/// - Of each order that they sent it has taken what is not open any more, at its price or a better one.
/// - There is nothing else in it.
///
/// `url` and `token`: where and as whom they traded; it is asked for what is open.
///
/// # Panics
/// With what differs.
pub async fn fills_agree(url: &str, token: &str, told: &Told, record: &Fills) {
    told.fills.all_in(record);
    if let Some(stranger) = record.orders().find(|order| !told.sent.contains_key(*order)) {
        panic!("{stranger:?} is filled, and nobody sent it");
    }
    let symbols: BTreeSet<&String> = told.sent.keys().map(|(symbol, _)| symbol).collect();
    let mut open = BTreeMap::new();
    for symbol in symbols {
        let answer = call(url, "GET", &format!("/orders?symbol={symbol}&status=open"), Some(token), Value::Null).await;
        let (status, answer) = answer.expect("an answer");
        assert_eq!(status, 200, "{answer}");
        for order in answer["orders"].as_array().expect("orders") {
            let remaining = order["remaining_qty"].as_u64().expect("a quantity");
            open.insert((symbol.clone(), text(order, "order_id")), remaining);
        }
    }
    for (order, sent) in &told.sent {
        let (quantity, value) = record.of_order(order);
        let remaining = open.remove(order).unwrap_or_default();
        assert_eq!(quantity + remaining, sent.quantity, "{order:?}: {quantity} taken, {remaining} open");
        let at_most = quantity * sent.price;
        let is_within = if sent.is_buy { value <= at_most } else { value >= at_most };
        assert!(is_within, "{order:?}: {quantity} for {value}, its price is {}", sent.price);
    }
    assert!(open.is_empty(), "orders are open that nobody sent: {open:?}");
}
