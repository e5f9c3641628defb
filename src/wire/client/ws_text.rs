//! What the server says on a WebSocket, written as JSON text.

use std::fmt::Write;

use bytestring::ByteString;

use super::error::EdgeError;
use super::{Role, Said, decimal};
use crate::domain::output::{OrderUpdate, Party, Trade};
use crate::domain::{Micros, OrderId, OrderStatus, OutputBody, Quantity, Seq, Side, Symbol};
use crate::wire::rfc3339;

/// The client's `request_id`, as the JSON text that it sent.
pub type RequestId = Option<Box<str>>;

/// How an order stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub order_id: OrderId,
    pub symbol: Symbol,
    pub status: OrderStatus,
    pub filled: Quantity,
    pub remaining: Quantity,
    /// Seq of the output that answered its ADD or last REPLACE.
    pub seq: Seq,
}

/// Writes a JSON string.
pub fn string(s: &str, into: &mut String) {
    if s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        into.push('"');
        into.push_str(s);
        into.push('"');
    } else {
        into.push_str(&serde_json::Value::from(s).to_string());
    }
}

/// Starts `{"type":..,"request_id":..,"data":{`; [`end`] closes it.
fn begin(kind: &str, request_id: Option<&str>) -> String {
    let mut text = String::with_capacity(256);
    // Writing to memory cannot fail, here and below.
    _ = write!(text, r#"{{"type":"{kind}","#);
    if let Some(id) = request_id {
        _ = write!(text, r#""request_id":{id},"#);
    }
    text.push_str(r#""data":{"#);
    text
}

fn end(mut text: String) -> ByteString {
    text.push_str("}}");
    ByteString::from(text)
}

fn order_and_symbol(order_id: Option<&OrderId>, symbol: &Symbol, text: &mut String) {
    if let Some(order_id) = order_id {
        text.push_str(r#""order_id":"#);
        string(order_id.as_str(), text);
        text.push(',');
    }
    _ = write!(text, r#""symbol":"{symbol}","#);
}

/// The command is durable.
pub fn received(request_id: Option<&str>, order_id: Option<&OrderId>, symbol: &Symbol) -> ByteString {
    let mut text = begin("ACK", request_id);
    order_and_symbol(order_id, symbol, &mut text);
    text.push_str(r#""status":"RECEIVED""#);
    end(text)
}

/// AUTH, SUBSCRIBE, UNSUBSCRIBE and RESUME were carried out; `more` is JSON members.
pub fn done(request_id: Option<&str>, action: &str, more: &str) -> ByteString {
    let mut text = begin("ACK", request_id);
    _ = write!(text, r#""action":"{action}","status":"OK"{}{more}"#, if more.is_empty() { "" } else { "," });
    end(text)
}

/// A refusal.
pub fn error(request_id: Option<&str>, error: &EdgeError) -> ByteString {
    let mut text = begin("ERROR", request_id);
    _ = write!(text, r#""code":"{}","message":"#, error.code);
    string(&error.message, &mut text);
    _ = write!(text, r#","request_id":{},"details":"#, request_id.unwrap_or("null"));
    text.push_str(&serde_json::to_string(&error.details).unwrap_or_else(|_| "{}".into()));
    end(text)
}

/// Answer to PING.
pub fn pong(request_id: Option<&str>) -> ByteString {
    end(begin("PONG", request_id))
}

pub fn heartbeat(now: Micros) -> ByteString {
    let mut text = begin("HEARTBEAT", None);
    _ = write!(text, r#""timestamp":"{}""#, rfc3339(now));
    end(text)
}

/// The server is going down; a close with 1012 follows.
pub fn draining() -> ByteString {
    let mut text = begin("STATUS", None);
    text.push_str(r#""status":"DRAINING""#);
    end(text)
}

/// One of the user's own outputs; `None` for what is not shown to traders.
pub fn own(said: &Said, role: &Role, request_id: Option<&str>) -> Option<ByteString> {
    match &said.output.body {
        OutputBody::Trade(trade) => Some(fill(said, trade, role, request_id)),
        OutputBody::Order(update) => Some(order_status(said, update, request_id)),
        OutputBody::Refused { order_id, reason, .. } => {
            let mut e = EdgeError::from(*reason).detail("symbol", said.symbol.as_str());
            e = e.detail("seq", said.output.seq.0);
            if let Some(id) = order_id {
                e = e.detail("order_id", id.as_str());
            }
            Some(error(request_id, &e))
        }
        OutputBody::AllCanceled { count, .. } => {
            let mut text = begin("STATUS", request_id);
            let (symbol, seq) = (said.symbol, said.output.seq);
            _ = write!(text, r#""status":"ALL_CANCELED","symbol":"{symbol}","count":{count},"seq":{seq}"#);
            Some(end(text))
        }
        _ => None,
    }
}

fn order_status(said: &Said, update: &OrderUpdate, request_id: Option<&str>) -> ByteString {
    let mut text = begin("ORDER_STATUS", request_id);
    order_and_symbol(Some(&update.order_id), &said.symbol, &mut text);
    _ = write!(text, r#""status":"{}","#, update.status.as_str());
    if let Some(reason) = update.reason {
        _ = write!(text, r#""reason":"{}","#, reason.code());
    }
    let (filled, open, seq) = (update.filled.0, update.open.0, said.output.seq);
    _ = write!(text, r#""filled_qty":{filled},"remaining_qty":{open},"seq":{seq}"#);
    end(text)
}

/// How an order stands, as RESUME tells it.
pub fn standing(order: &Standing) -> ByteString {
    let mut text = begin("ORDER_STATUS", None);
    order_and_symbol(Some(&order.order_id), &order.symbol, &mut text);
    let (status, filled, open, seq) = (order.status.as_str(), order.filled.0, order.remaining.0, order.seq);
    _ = write!(text, r#""status":"{status}","filled_qty":{filled},"remaining_qty":{open},"seq":{seq}"#);
    end(text)
}

fn fill(said: &Said, trade: &Trade, role: &Role, request_id: Option<&str>) -> ByteString {
    let (party, side): (&Party, Side) = match role {
        Role::Maker => (&trade.maker, trade.maker_side),
        _ => (&trade.taker, trade.taker_side()),
    };
    let mut text = begin("FILL", request_id);
    order_and_symbol(Some(&party.order_id), &said.symbol, &mut text);
    _ = write!(text, r#""side":"{}","filled_qty":{},"filled_price":"#, side.as_str(), trade.quantity.0);
    decimal::write(trade.price.0, said.price_scale, &mut text);
    let status = if party.open.is_zero() { "FILLED" } else { "PARTIALLY_FILLED" };
    let (symbol, seq) = (said.symbol, said.output.seq);
    _ = write!(
        text,
        r#","remaining_qty":{},"status":"{status}","trade_id":"{symbol}-{seq}","seq":{seq}"#,
        party.open.0
    );
    end(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::error::Code;

    fn json(text: &ByteString) -> serde_json::Value {
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[test]
    fn every_message_is_json_whatever_the_names_hold() {
        let id = OrderId::new(r#"a"b\c"#).unwrap();
        let ack = json(&received(Some("7"), Some(&id), &Symbol::new("TSLA").unwrap()));
        assert_eq!(ack["data"]["order_id"], r#"a"b\c"#);
        assert_eq!((&ack["request_id"], &ack["data"]["status"]), (&7.into(), &"RECEIVED".into()));
        let e = json(&error(None, &EdgeError::new(Code::InvalidField).message("say \"x\"\n").detail("field", "x")));
        assert_eq!((&e["data"]["code"], &e["data"]["details"]["field"]), (&"invalid_field".into(), &"x".into()));
        assert!(e.get("request_id").is_none());
        for text in [pong(Some("\"a\"")), heartbeat(Micros(1)), draining(), done(None, "AUTH", r#""user_id":"a""#)] {
            json(&text);
        }
    }
}
