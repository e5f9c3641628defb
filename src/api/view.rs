//! What REST says about orders and markets.

use serde::Serialize;
use serde_json::value::RawValue;

use super::decimal;
use super::error::EdgeError;
use crate::actors::gateway::{Answer, Said};
use crate::actors::mirror;
use crate::domain::output::OrderUpdate;
use crate::domain::{OutputBody, Price, Symbol};

/// An order: POST's body, and GET's.
#[derive(Debug, Serialize)]
pub struct OrderView {
    pub order_id: String,
    pub symbol: Symbol,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    pub filled_qty: u64,
    pub remaining_qty: u64,
    pub fills: Vec<FillView>,
    pub seq: u64,
    pub side: &'static str,
    pub order_type: &'static str,
    pub time_in_force: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Box<RawValue>>,
    pub quantity: u64,
}

/// One fill of an order.
#[derive(Debug, Serialize)]
pub struct FillView {
    pub trade_id: String,
    pub price: Box<RawValue>,
    pub quantity: u64,
}

/// A price as a JSON number.
pub fn price(price: Price, scale: u8) -> Box<RawValue> {
    decimal::to_json(price.0, scale)
}

/// An order as an update shows it.
pub fn order(symbol: Symbol, scale: u8, update: &OrderUpdate, seq: u64, fills: Vec<FillView>) -> OrderView {
    OrderView {
        order_id: update.order_id.to_string(),
        symbol,
        status: update.status.as_str(),
        reason: update.reason.map(|r| r.code()),
        filled_qty: update.filled.0,
        remaining_qty: update.open.0,
        fills,
        seq,
        side: update.side.as_str(),
        order_type: update.order_type.as_str(),
        time_in_force: update.time_in_force.as_str(),
        price: update.price.map(|p| price(p, scale)),
        quantity: update.quantity.0,
    }
}

impl From<mirror::OrderView> for OrderView {
    fn from(o: mirror::OrderView) -> Self {
        let fill = |f: &mirror::FillView| FillView {
            trade_id: mirror::trade_id(&o.symbol, f.seq),
            price: price(f.price, o.price_scale),
            quantity: f.quantity.0,
        };
        Self {
            order_id: o.order_id.to_string(),
            symbol: o.symbol,
            status: o.status.as_str(),
            reason: o.reason.map(|r| r.code()),
            filled_qty: o.filled.0,
            remaining_qty: o.remaining.0,
            fills: o.fills.iter().map(fill).collect(),
            seq: o.seq.0,
            side: o.side.as_str(),
            order_type: o.order_type.as_str(),
            time_in_force: o.time_in_force.as_str(),
            price: o.price.map(|p| price(p, o.price_scale)),
            quantity: o.quantity.0,
        }
    }
}

/// What a command's answer says: the order, or why the command was refused.
///
/// # Errors
/// The refusal's reason.
pub fn answer(answer: &Answer) -> Result<OrderView, EdgeError> {
    let said = answer.said.iter().find(|s| s.output.answer);
    let said = said.ok_or_else(|| EdgeError::from_code("internal").message("the answer is empty"))?;
    match &said.output.body {
        OutputBody::Order(update) => {
            let fills = answer.said.iter().filter_map(|s| fill_of(s, update)).collect();
            Ok(order(said.symbol, said.price_scale, update, said.output.seq.0, fills))
        }
        OutputBody::Refused { order_id, reason, .. } => {
            let mut e = EdgeError::from(*reason).detail("symbol", said.symbol.as_str());
            if let Some(id) = order_id {
                e = e.detail("order_id", id.as_str());
            }
            Err(e.detail("seq", said.output.seq.0))
        }
        other => {
            Err(EdgeError::from_code("internal").message(format!("this output answers no order command: {other:?}")))
        }
    }
}

fn fill_of(said: &Said, update: &OrderUpdate) -> Option<FillView> {
    match &said.output.body {
        OutputBody::Trade(t) if t.taker.order_id == update.order_id && t.taker.user == update.user => Some(FillView {
            trade_id: format!("{}-{}", said.symbol, said.output.seq),
            price: price(t.price, said.price_scale),
            quantity: t.quantity.0,
        }),
        _ => None,
    }
}
