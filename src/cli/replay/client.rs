//! The commands over one WebSocket connection, so that their order is kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::summary::{BookEnd, Summary};
use super::{Plan, Step};
use crate::cli::progress;
use crate::domain::{Command, Instrument, NewOrder, OrderId, Symbol, TimeInForce};

/// Without any message for so long, the server is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Sends all steps and collects their answers.
pub async fn run(url: &str, plan: &Plan, window: usize, user: &str) -> anyhow::Result<Summary> {
    let login = json!({"user_id": user, "roles": ["trader", "admin"]});
    let token = post(&format!("{url}/auth/dev-token"), None, &login).await?.1;
    let token = token["token"].as_str().context("the server gives no development token")?.to_owned();
    for (symbol, instrument) in &plan.listings {
        list(url, &token, symbol, instrument).await?;
    }
    let scales: HashMap<Symbol, u8> = plan.listings.iter().map(|(s, i)| (*s, i.price_scale)).collect();
    let mut request = format!("{}/ws", url.replacen("http", "ws", 1)).into_client_request()?;
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse()?);
    let (socket, _) = tokio_tungstenite::connect_async(request).await.context("cannot connect to /ws")?;
    let (mut tx, mut rx) = socket.split();
    let (mut heard, started) = (Heard::new(plan), Instant::now());
    let bar = progress(plan.steps.len() as u64, "commands answered");
    let mut sent = 0;
    while heard.summary.answered < plan.steps.len() as u64 {
        let room = (heard.summary.answered as usize + window).min(plan.steps.len());
        while sent < room {
            let text = message(sent, &plan.steps[sent], &scales);
            tx.feed(Message::text(text)).await?;
            sent += 1;
        }
        tx.flush().await?;
        let next = tokio::time::timeout(SILENCE_MAX, rx.next()).await.context("the server says nothing any more")?;
        match next {
            Some(Ok(Message::Text(text))) => heard.take(plan, &serde_json::from_str(&text)?)?,
            Some(Ok(Message::Close(why))) => bail!("server closed the connection: {why:?}"),
            Some(Ok(_)) => {}
            Some(Err(e)) => return Err(e.into()),
            None => bail!("connection ended"),
        }
        bar.set_position(heard.summary.answered);
    }
    bar.finish_and_clear();
    let mut summary = heard.finish(plan);
    summary.seconds = started.elapsed().as_secs_f64();
    summary.books = ends(url, &token, plan).await?;
    Ok(summary)
}

async fn post(url: &str, token: Option<&str>, body: &Value) -> anyhow::Result<(u16, Value)> {
    let mut request = awc::Client::builder().timeout(SILENCE_MAX).finish().post(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let mut answer = request.send_json(body).await.map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
    Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
}

async fn get(url: &str, token: &str) -> anyhow::Result<Value> {
    let request = awc::Client::builder().timeout(SILENCE_MAX).finish().get(url).bearer_auth(token);
    let mut answer = request.send().await.map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
    Ok(answer.json::<Value>().limit(64 << 20).await?)
}

async fn list(url: &str, token: &str, symbol: &Symbol, instrument: &Instrument) -> anyhow::Result<()> {
    let tick = crate::domain::Price(instrument.ticks[0].tick).to_decimal(instrument.price_scale);
    let body = json!({"symbol": symbol, "price_scale": instrument.price_scale, "tick_size": tick, "lot_size": 1});
    match post(&format!("{url}/admin/instruments"), Some(token), &body).await? {
        (201, _) => Ok(()),
        (409, answer) if answer["code"] == "symbol_exists" => Ok(()),
        (status, answer) => bail!("{symbol} cannot be listed: {status} {answer}"),
    }
}

fn message(n: usize, step: &Step, scales: &HashMap<Symbol, u8>) -> String {
    let scale = scales.get(&step.symbol).copied().unwrap_or(0);
    let symbol = &step.symbol;
    match &step.command {
        Command::Add(order) => add(n, symbol, scale, order),
        Command::Cancel { order_id, .. } => {
            json!({"action": "CANCEL", "request_id": n, "symbol": symbol, "order_id": order_id}).to_string()
        }
        Command::Replace { order_id, price, quantity, .. } => {
            let mut m = json!({"action": "REPLACE", "request_id": n, "symbol": symbol, "order_id": order_id});
            if let Some(price) = price {
                m["price"] = price.to_decimal(scale).into();
            }
            if let Some(quantity) = quantity {
                m["quantity"] = quantity.0.into();
            }
            m.to_string()
        }
        other => unreachable!("a recording has no {other:?}"),
    }
}

fn add(n: usize, symbol: &Symbol, scale: u8, order: &NewOrder) -> String {
    let tif = if order.time_in_force == TimeInForce::Ioc { "IOC" } else { "GTC" };
    let price = order.kind.limit().map(|p| p.to_decimal(scale));
    json!({"action": "ADD", "request_id": n, "symbol": symbol, "side": order.side.as_str(), "order_type": "LIMIT",
           "price": price, "quantity": order.quantity.0, "time_in_force": tif, "order_id": order.order_id, "stp": "none"})
    .to_string()
}

/// What the server said so far.
struct Heard {
    summary: Summary,
    /// By trade id: the orders whose FILLs came.
    trades: HashMap<String, Vec<OrderId>>,
    /// Of each recorded execution's order: its trades, in order.
    trades_of: HashMap<OrderId, Vec<String>>,
    answered: Vec<bool>,
}

impl Heard {
    fn new(plan: &Plan) -> Self {
        let (trades, trades_of) = Default::default();
        Self { summary: Summary::of(plan), trades, trades_of, answered: vec![false; plan.steps.len()] }
    }

    fn take(&mut self, plan: &Plan, message: &Value) -> anyhow::Result<()> {
        let data = &message["data"];
        match message["type"].as_str() {
            Some("FILL") => return self.fill(data),
            Some("ERROR") => {
                let code = data["code"].as_str().unwrap_or("?").to_owned();
                *self.summary.refused.entry(code).or_default() += 1;
            }
            Some("ORDER_STATUS") => {}
            _ => return Ok(()),
        }
        let Some(n) = message["request_id"].as_u64().map(|n| n as usize) else { return Ok(()) };
        let Some(done) = self.answered.get_mut(n) else { bail!("answer to {n} of {}", plan.steps.len()) };
        if std::mem::replace(done, true) {
            bail!("command {n} was answered twice");
        }
        self.summary.answered += 1;
        Ok(())
    }

    /// Both parties are ours, so each trade comes twice.
    fn fill(&mut self, data: &Value) -> anyhow::Result<()> {
        let trade_id = data["trade_id"].as_str().context("FILL without a trade_id")?;
        let order_id = OrderId::new(data["order_id"].as_str().context("FILL without an order_id")?)?;
        let parties = self.trades.entry(trade_id.to_owned()).or_default();
        if parties.is_empty() {
            self.summary.fills += 1;
            self.summary.filled_quantity += data["filled_qty"].as_u64().context("FILL without a quantity")?;
        }
        parties.push(order_id);
        if parties.len() > 2 {
            bail!("trade {trade_id} came to more than two parties");
        }
        self.trades_of.entry(order_id).or_default().push(trade_id.to_owned());
        Ok(())
    }

    fn finish(mut self, plan: &Plan) -> Summary {
        for step in plan.steps.iter().filter(|s| !s.hits.is_empty()) {
            let Command::Add(order) = &step.command else { continue };
            let trades = self.trades_of.get(&order.order_id).cloned().unwrap_or_default();
            let makers = trades.iter().flat_map(|t| &self.trades[t]).filter(|id| **id != order.order_id);
            let makers: Vec<OrderId> = makers.copied().collect();
            self.summary.compare(step, &makers);
        }
        self.summary
    }
}

async fn ends(url: &str, token: &str, plan: &Plan) -> anyhow::Result<Vec<BookEnd>> {
    let books = get(&format!("{url}/admin/books"), token).await?;
    let mut ends = Vec::new();
    for (symbol, _) in &plan.listings {
        let listed = books["books"].as_array().context("no books")?;
        let book = listed.iter().find(|b| b["symbol"] == symbol.as_str()).context("book is missing")?;
        let depth = get(&format!("{url}/orderbook/{symbol}?depth=1"), token).await?;
        let best = |side: &str| {
            let level = &depth[side][0];
            Some((level["price"].as_number()?.to_string(), level["qty"].as_u64()?))
        };
        ends.push(BookEnd {
            symbol: symbol.to_string(),
            orders: book["orders"].as_u64().unwrap_or(0),
            book_digest: book["book_digest"].as_str().unwrap_or("?").into(),
            best_bid: best("bids"),
            best_ask: best("asks"),
        });
    }
    Ok(ends)
}
