//! What a trader has done and has at work: fills and the account.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::decimal;
use super::edge::Shared;
use super::rest::Outcome;
use super::view;
use crate::actors::mirror::{OrderView, OwnFillView, trade_id};
use crate::domain::{Side, Symbol, UserId};
use crate::wire::rfc3339;

/// Fills without `limit`, and the most there are.
const FILLS_DEFAULT: usize = 100;
const FILLS_MAX: usize = 1_000;

/// Registers the addresses.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/fills").get(fills)).service(web::resource("/account").get(account));
}

#[derive(Deserialize)]
struct FillQuery {
    symbol: Option<String>,
    limit: Option<usize>,
}

/// As the WebSocket's FILL, with its time and which side of the trade the order was.
#[derive(Serialize)]
struct FillOut {
    trade_id: String,
    order_id: String,
    symbol: Symbol,
    side: &'static str,
    filled_qty: u64,
    filled_price: Box<RawValue>,
    remaining_qty: u64,
    status: &'static str,
    liquidity: &'static str,
    seq: u64,
    timestamp: String,
}

impl From<&OwnFillView> for FillOut {
    fn from(f: &OwnFillView) -> Self {
        Self {
            trade_id: trade_id(&f.symbol, f.seq),
            order_id: f.order_id.to_string(),
            symbol: f.symbol,
            side: f.side.as_str(),
            filled_qty: f.quantity.0,
            filled_price: view::price(f.price, f.price_scale),
            remaining_qty: f.remaining.0,
            status: if f.remaining.is_zero() { "FILLED" } else { "PARTIALLY_FILLED" },
            liquidity: if f.is_maker { "MAKER" } else { "TAKER" },
            seq: f.seq.0,
            timestamp: rfc3339(f.at),
        }
    }
}

/// `GET /fills?symbol=&limit=`: the caller's newest fills, newest first.
async fn fills(edge: Shared, request: HttpRequest, query: web::Query<FillQuery>) -> Outcome {
    let caller = edge.trader(&request)?;
    let symbol = match query.symbol.as_deref() {
        Some(text) => Some(edge.listed(Some(text))?.0),
        None => None,
    };
    let limit = query.limit.unwrap_or(FILLS_DEFAULT).min(FILLS_MAX);
    let fills = edge.gateway.mirrors().fills(symbol.as_ref(), &caller.user, limit);
    #[derive(Serialize)]
    struct Fills {
        fills: Vec<FillOut>,
    }
    Ok(HttpResponse::Ok().json(Fills { fills: fills.iter().map(FillOut::from).collect() }))
}

/// What the open orders of one symbol would buy and sell.
#[derive(Serialize)]
struct Working {
    symbol: Symbol,
    orders: u64,
    buy_qty: u64,
    /// Price times open quantity of the buy orders.
    buy_value: Box<RawValue>,
    sell_qty: u64,
}

#[derive(Serialize)]
struct AccountOut {
    user_id: UserId,
    /// Whether the exchange knows what the user owns, and refuses orders that are not covered.
    balances_kept: bool,
    message: &'static str,
    open_orders: usize,
    working: Vec<Working>,
}

/// `GET /account`: no balance is kept yet, and it says so; what the open orders would take is known.
async fn account(edge: Shared, request: HttpRequest) -> Outcome {
    let caller = edge.trader(&request)?;
    let orders = edge.gateway.mirrors().open_orders(None, &caller.user);
    Ok(HttpResponse::Ok().json(AccountOut {
        user_id: caller.user,
        balances_kept: false,
        message: "balances are not kept yet: every order is admitted, whatever its user owns",
        open_orders: orders.len(),
        working: working(&orders),
    }))
}

fn working(orders: &[OrderView]) -> Vec<Working> {
    let mut by_symbol: BTreeMap<Symbol, Vec<&OrderView>> = BTreeMap::new();
    for order in orders {
        by_symbol.entry(order.symbol).or_default().push(order);
    }
    let quantity =
        |orders: &[&OrderView], side| -> u64 { orders.iter().filter(|o| o.side == side).map(|o| o.remaining.0).sum() };
    let of_symbol = |(symbol, orders): (Symbol, Vec<&OrderView>)| {
        let value = |o: &&OrderView| o.price.map_or(0, |p| u128::from(p.0) * u128::from(o.remaining.0));
        let buys = orders.iter().filter(|o| o.side == Side::Buy);
        Working {
            symbol,
            orders: orders.len() as u64,
            buy_qty: quantity(&orders, Side::Buy),
            buy_value: decimal::sum_to_json(buys.map(value).sum(), orders[0].price_scale),
            sell_qty: quantity(&orders, Side::Sell),
        }
    };
    by_symbol.into_iter().map(of_symbol).collect()
}
