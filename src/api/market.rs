//! What everyone may see, and a user's own orders: read from the mirrors, never from a book.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::edge::Shared;
use super::error::{Code, EdgeError};
use super::rest::Outcome;
use super::schema;
use super::view::{self, OrderView};
use crate::actors::mirror::DEPTH_DEFAULT;
use crate::domain::output::Level;
use crate::domain::{Admission, Instrument, Reason, Symbol};
use crate::wire::rfc3339;

/// Levels a side, however many are asked for.
const DEPTH_MAX: usize = 1_000;
/// Trades without `limit`, and the most there are.
const TRADES_DEFAULT: usize = 100;
const TRADES_MAX: usize = 1_000;
/// Candles without `limit`, and the most there are: 24 h of minutes.
const CANDLES_DEFAULT: usize = 100;
const CANDLES_MAX: usize = 1_440;

/// Registers the addresses.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/orderbook/{symbol}").get(orderbook))
        .service(web::resource("/trades/{symbol}").get(trades))
        .service(web::resource("/ticker/{symbol}").get(ticker))
        .service(web::resource("/candles/{symbol}").get(candles))
        .service(web::resource("/instruments").get(instruments));
}

#[derive(Deserialize)]
struct Amount {
    depth: Option<usize>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct LevelView {
    price: Box<RawValue>,
    qty: u64,
    orders: u32,
}

fn levels(side: &[Level], scale: u8) -> Vec<LevelView> {
    side.iter().map(|l| LevelView { price: view::price(l.price, scale), qty: l.quantity, orders: l.orders }).collect()
}

#[derive(Serialize)]
struct BookView {
    symbol: Symbol,
    seq: u64,
    bids: Vec<LevelView>,
    asks: Vec<LevelView>,
    last_price: Option<Box<RawValue>>,
    last_qty: Option<u64>,
}

async fn orderbook(edge: Shared, path: web::Path<String>, query: web::Query<Amount>) -> Outcome {
    let (symbol, _) = edge.listed(Some(&path))?;
    let depth = query.depth.unwrap_or(DEPTH_DEFAULT).min(DEPTH_MAX);
    let book = edge.gateway.mirrors().depth(&symbol, depth).ok_or_else(|| schema::unknown_symbol(symbol.as_str()))?;
    let scale = book.price_scale;
    Ok(HttpResponse::Ok().json(BookView {
        symbol,
        seq: book.seq.0,
        bids: levels(&book.bids, scale),
        asks: levels(&book.asks, scale),
        last_price: book.last_trade.map(|(p, _)| view::price(p, scale)),
        last_qty: book.last_trade.map(|(_, q)| q.0),
    }))
}

#[derive(Serialize)]
struct TradeOut {
    trade_id: String,
    symbol: Symbol,
    price: Box<RawValue>,
    quantity: u64,
    taker_side: &'static str,
    seq: u64,
    timestamp: String,
}

/// Newest first.
async fn trades(edge: Shared, path: web::Path<String>, query: web::Query<Amount>) -> Outcome {
    let (symbol, _) = edge.listed(Some(&path))?;
    let limit = query.limit.unwrap_or(TRADES_DEFAULT).min(TRADES_MAX);
    let trades: Vec<TradeOut> = edge
        .gateway
        .mirrors()
        .trades(&symbol, limit)
        .unwrap_or_default()
        .iter()
        .map(|t| TradeOut {
            trade_id: t.trade_id(),
            symbol,
            price: view::price(t.price, t.price_scale),
            quantity: t.quantity.0,
            taker_side: t.taker_side.as_str(),
            seq: t.seq.0,
            timestamp: rfc3339(t.at),
        })
        .collect();
    #[derive(Serialize)]
    struct Trades {
        symbol: Symbol,
        trades: Vec<TradeOut>,
    }
    Ok(HttpResponse::Ok().json(Trades { symbol, trades }))
}

#[derive(Serialize)]
struct TickerOut {
    symbol: Symbol,
    last_price: Option<Box<RawValue>>,
    last_qty: Option<u64>,
    open: Option<Box<RawValue>>,
    high: Option<Box<RawValue>>,
    low: Option<Box<RawValue>>,
    volume: u64,
    trades: u64,
    seq: u64,
    timestamp: String,
}

async fn ticker(edge: Shared, path: web::Path<String>) -> Outcome {
    let (symbol, _) = edge.listed(Some(&path))?;
    let t = edge.gateway.mirrors().ticker(&symbol).ok_or_else(|| schema::unknown_symbol(symbol.as_str()))?;
    let price = |p| view::price(p, t.price_scale);
    Ok(HttpResponse::Ok().json(TickerOut {
        symbol,
        last_price: t.last.map(|(p, _)| price(p)),
        last_qty: t.last.map(|(_, q)| q.0),
        open: t.open.map(price),
        high: t.high.map(price),
        low: t.low.map(price),
        volume: t.volume,
        trades: t.trades,
        seq: t.seq.0,
        timestamp: rfc3339(t.at),
    }))
}

/// Spans that candles can have, in minutes.
const INTERVALS: [(&str, u64); 5] = [("1m", 1), ("5m", 5), ("15m", 15), ("30m", 30), ("1h", 60)];

#[derive(Deserialize)]
struct CandleQuery {
    interval: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct CandleOut {
    start: String,
    open: Box<RawValue>,
    high: Box<RawValue>,
    low: Box<RawValue>,
    close: Box<RawValue>,
    volume: u64,
    trades: u64,
}

#[derive(Serialize)]
struct Candles {
    symbol: Symbol,
    interval: &'static str,
    candles: Vec<CandleOut>,
}

/// Oldest first.
async fn candles(edge: Shared, path: web::Path<String>, query: web::Query<CandleQuery>) -> Outcome {
    let (symbol, instrument) = edge.listed(Some(&path))?;
    let wanted = query.interval.as_deref().unwrap_or("1m");
    let Some((interval, minutes)) = INTERVALS.into_iter().find(|(name, _)| *name == wanted) else {
        let what = format!("`interval` must be one of {}", INTERVALS.map(|(name, _)| name).join(", "));
        return Err(EdgeError::field(Code::InvalidField, "interval", what));
    };
    let limit = query.limit.unwrap_or(CANDLES_DEFAULT).min(CANDLES_MAX);
    let found = edge.gateway.mirrors().candles(&symbol, minutes, limit).unwrap_or_default();
    let price = |p| view::price(p, instrument.price_scale);
    let candles = found.iter().map(|c| CandleOut {
        start: rfc3339(c.start),
        open: price(c.open),
        high: price(c.high),
        low: price(c.low),
        close: price(c.close),
        volume: c.volume,
        trades: c.trades,
    });
    Ok(HttpResponse::Ok().json(Candles { symbol, interval, candles: candles.collect() }))
}

#[derive(Serialize)]
struct TickOut {
    from: Box<RawValue>,
    tick_size: Box<RawValue>,
}

/// An instrument as `/instruments` and POST `/admin/instruments` show it.
#[derive(Serialize)]
pub struct InstrumentOut {
    symbol: Symbol,
    price_scale: u8,
    tick_size: Box<RawValue>,
    ticks: Vec<TickOut>,
    lot_size: u64,
    reference_price: Option<Box<RawValue>>,
    limit_up: Option<Box<RawValue>>,
    limit_down: Option<Box<RawValue>>,
    max_order_value: Option<Box<RawValue>>,
    admission: Admission,
    status: &'static str,
}

/// An instrument's rules; `tick_size` is the one at the reference price.
pub fn instrument_view(symbol: Symbol, i: &Instrument, halted: bool) -> InstrumentOut {
    let price = |p| view::price(p, i.price_scale);
    let number = |n| super::decimal::to_json(n, i.price_scale);
    let at = i.reference_price.unwrap_or(crate::domain::Price(0));
    InstrumentOut {
        symbol,
        price_scale: i.price_scale,
        tick_size: number(i.tick_at(at)),
        ticks: i.ticks.iter().map(|b| TickOut { from: price(b.from), tick_size: number(b.tick) }).collect(),
        lot_size: i.lot_size,
        reference_price: i.reference_price.map(price),
        limit_up: i.limit_up.map(price),
        limit_down: i.limit_down.map(price),
        max_order_value: i.max_order_value.map(number),
        admission: i.admission,
        status: if halted { "HALTED" } else { "TRADING" },
    }
}

async fn instruments(edge: Shared) -> Outcome {
    let all = edge.gateway.mirrors().instruments();
    let instruments: Vec<_> = all.iter().map(|i| instrument_view(i.symbol, &i.instrument, i.halted)).collect();
    #[derive(Serialize)]
    struct Instruments {
        instruments: Vec<InstrumentOut>,
    }
    Ok(HttpResponse::Ok().json(Instruments { instruments }))
}

/// `?symbol=` and others of /orders.
#[derive(Debug, Deserialize)]
pub struct OrderQuery {
    pub symbol: Option<String>,
    pub status: Option<String>,
}

/// `GET /orders/{id}?symbol=`: open orders, and the most recent finished ones.
pub async fn order(
    edge: Shared,
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<OrderQuery>,
) -> Outcome {
    let caller = edge.trader(&request)?;
    let (symbol, _) = edge.listed(query.symbol.as_deref())?;
    let order_id = schema::order_id(Some(&path))?;
    let found = edge.gateway.mirrors().order(&symbol, &caller.user, &order_id);
    let order = found.ok_or_else(|| {
        EdgeError::from(Reason::UnknownOrder).detail("symbol", symbol.as_str()).detail("order_id", order_id.as_str())
    })?;
    Ok(HttpResponse::Ok().json(OrderView::from(order)))
}

/// `GET /orders?symbol=&status=open`.
pub async fn open_orders(edge: Shared, request: HttpRequest, query: web::Query<OrderQuery>) -> Outcome {
    let caller = edge.trader(&request)?;
    if query.status.as_deref().unwrap_or("open") != "open" {
        let what = "only `status=open` can be asked for";
        return Err(EdgeError::field(Code::InvalidField, "status", what));
    }
    let symbol = match query.symbol.as_deref() {
        Some(text) => Some(edge.listed(Some(text))?.0),
        None => None,
    };
    let orders = edge.gateway.mirrors().open_orders(symbol.as_ref(), &caller.user);
    #[derive(Serialize)]
    struct Orders {
        orders: Vec<OrderView>,
    }
    Ok(HttpResponse::Ok().json(Orders { orders: orders.into_iter().map(OrderView::from).collect() }))
}
