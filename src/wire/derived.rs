//! The derived topics, `fills`, `trades`, `depth` and `order_status`: JSON for whoever wants it, one record for each
//! output and each class that it belongs to. Keyed by symbol; `seq` and the class's `prev_seq` let a reader see a gap
//! and drop a repeat. They are a view of `events`: nothing in the exchange reads them but who writes them.
//!
//! Each record's header is 16 bytes: u64 seq, u64 offset of the `events` record, both little endian. It tells the
//! projector where to go on.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::rfc3339;
use crate::domain::output::{Level, OrderUpdate, Output, OutputBody, Party, Trade};
use crate::domain::{Classes, Offset, OrderId, Price, Seq, Side, Symbol, UserId};

/// Where a derived record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub seq: Seq,
    /// Of the record of `events`.
    pub events: Offset,
}

impl Source {
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.events.0.to_le_bytes());
        bytes
    }

    /// `None` for a header that nobody of us wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let half = |at: usize| bytes[at..].first_chunk().map(|b| u64::from_le_bytes(*b));
        Some(Self { seq: Seq(half(0)?), events: Offset(half(8)?) })
    }
}

/// What every derived record says of the output behind it.
#[derive(Serialize)]
struct Behind {
    seq: Seq,
    /// Seq of the class's output before this one.
    prev_seq: Seq,
    epoch: u64,
    /// Of the command in `orders`.
    offset: Offset,
    timestamp: String,
}

#[derive(Serialize)]
struct Who<'a> {
    order_id: &'a OrderId,
    user_id: &'a UserId,
}

#[derive(Serialize)]
struct Fill<'a> {
    trade_id: String,
    symbol: &'a Symbol,
    price: Box<RawValue>,
    quantity: u64,
    buyer: Who<'a>,
    seller: Who<'a>,
    #[serde(flatten)]
    behind: Behind,
}

#[derive(Serialize)]
struct PublicTrade<'a> {
    trade_id: String,
    symbol: &'a Symbol,
    price: Box<RawValue>,
    quantity: u64,
    taker_side: Side,
    #[serde(flatten)]
    behind: Behind,
}

/// `[price, quantity]`; quantity 0 means that the level is gone.
type DepthLevel = (Box<RawValue>, u64);

#[derive(Serialize)]
struct Depth<'a> {
    symbol: &'a Symbol,
    bids: Vec<DepthLevel>,
    asks: Vec<DepthLevel>,
    #[serde(flatten)]
    behind: Behind,
}

#[derive(Serialize)]
struct OrderState<'a> {
    order_id: &'a OrderId,
    user_id: &'a UserId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    filled_qty: u64,
    remaining_qty: u64,
}

#[derive(Serialize)]
struct OrderStates<'a> {
    symbol: &'a Symbol,
    /// One, or the maker and the taker of a trade.
    orders: Vec<OrderState<'a>>,
    #[serde(flatten)]
    behind: Behind,
}

/// The record of one class, a place in [`Classes::EACH`], that an output gives; `None` if it is not of that class.
///
/// `price_scale`: of the symbol's instrument, for exact decimals.
///
/// # Panics
/// Never: names are ASCII and every value has a JSON form.
pub fn encode(symbol: &Symbol, price_scale: u8, output: &Output, class: usize) -> Option<Bytes> {
    if !output.classes.has(Classes::EACH[class]) {
        return None;
    }
    let behind = Behind {
        seq: output.seq,
        prev_seq: output.prev_seq[class],
        epoch: output.epoch.0,
        offset: output.offset,
        timestamp: rfc3339(output.at),
    };
    let json = match (&output.body, Classes::EACH[class]) {
        (OutputBody::Trade(t), Classes::FILLS) => to_json(&fill(symbol, price_scale, t, behind)),
        (OutputBody::Trade(t), Classes::TRADES) => to_json(&PublicTrade {
            trade_id: format!("{symbol}-{}", behind.seq),
            symbol,
            price: decimal(t.price, price_scale),
            quantity: t.quantity.0,
            taker_side: t.taker_side(),
            behind,
        }),
        (OutputBody::Trade(t), Classes::DEPTH) => {
            to_json(&depth(symbol, price_scale, t.maker_side, &[Some(t.level)], behind))
        }
        (OutputBody::Trade(t), _) => {
            to_json(&OrderStates { symbol, orders: vec![party(&t.maker), party(&t.taker)], behind })
        }
        (OutputBody::Order(u), Classes::DEPTH) => {
            to_json(&depth(symbol, price_scale, u.side, &[u.left, u.joined], behind))
        }
        (OutputBody::Order(u), _) => to_json(&OrderStates { symbol, orders: vec![state(u)], behind }),
        _ => return None,
    };
    Some(json)
}

fn to_json(of: &impl Serialize) -> Bytes {
    serde_json::to_vec(of).map_or_else(|e| unreachable!("derived records have a JSON form: {e}"), Bytes::from)
}

fn fill<'a>(symbol: &'a Symbol, price_scale: u8, t: &'a Trade, behind: Behind) -> Fill<'a> {
    let (buyer, seller) = t.buyer_seller();
    let who = |p: &'a Party| Who { order_id: &p.order_id, user_id: &p.user };
    Fill {
        trade_id: format!("{symbol}-{}", behind.seq),
        symbol,
        price: decimal(t.price, price_scale),
        quantity: t.quantity.0,
        buyer: who(buyer),
        seller: who(seller),
        behind,
    }
}

fn depth<'a>(symbol: &'a Symbol, price_scale: u8, side: Side, levels: &[Option<Level>], behind: Behind) -> Depth<'a> {
    // A replaced order may leave and join one level: what it is afterwards counts.
    let mut changed: Vec<Level> = Vec::with_capacity(2);
    for level in levels.iter().flatten() {
        changed.retain(|l| l.price != level.price);
        changed.push(*level);
    }
    let changed = changed.iter().map(|l| (decimal(l.price, price_scale), l.quantity)).collect();
    let (bids, asks) = match side {
        Side::Buy => (changed, Vec::new()),
        Side::Sell => (Vec::new(), changed),
    };
    Depth { symbol, bids, asks, behind }
}

fn party(p: &Party) -> OrderState<'_> {
    OrderState {
        order_id: &p.order_id,
        user_id: &p.user,
        status: if p.open.is_zero() { "FILLED" } else { "PARTIALLY_FILLED" },
        reason: None,
        filled_qty: p.filled.0,
        remaining_qty: p.open.0,
    }
}

fn state(u: &OrderUpdate) -> OrderState<'_> {
    OrderState {
        order_id: &u.order_id,
        user_id: &u.user,
        status: u.status.as_str(),
        reason: u.reason.map(|r| r.code()),
        filled_qty: u.filled.0,
        remaining_qty: u.open.0,
    }
}

fn decimal(price: Price, scale: u8) -> Box<RawValue> {
    let text = price.to_decimal(scale);
    RawValue::from_string(text).unwrap_or_else(|e| unreachable!("a decimal is JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::output::{Cause, OrderType, Tif};
    use crate::domain::{Epoch, Micros, OrderStatus, Origin, Quantity};

    fn output(body: OutputBody) -> Output {
        Output {
            seq: Seq(9),
            offset: Offset(4),
            at: Micros(1_700_000_000_000_001),
            epoch: Epoch(2),
            origin: Origin::NONE,
            answer: false,
            end: true,
            classes: body.classes(),
            prev_seq: [Seq(1), Seq(2), Seq(3), Seq(8)],
            body,
        }
    }

    fn said(output: &Output, class: usize) -> serde_json::Value {
        let symbol = Symbol::new("TSLA").unwrap();
        let bytes = encode(&symbol, 2, output, class).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("25000"), "prices are decimals");
        serde_json::from_slice(&bytes).unwrap()
    }

    fn trade() -> Output {
        let party = |id: &str, user: &str, open, filled| Party {
            order_id: OrderId::new(id).unwrap(),
            user: UserId::new(user).unwrap(),
            open: Quantity(open),
            filled: Quantity(filled),
        };
        output(OutputBody::Trade(Trade {
            price: Price(25_000),
            quantity: Quantity(10),
            maker_side: Side::Sell,
            maker: party("m", "bob", 15, 10),
            taker: party("t", "ann", 0, 10),
            level: Level { price: Price(25_000), quantity: 15, orders: 1 },
        }))
    }

    #[test]
    fn a_trade_is_told_in_all_four() {
        let fill = said(&trade(), 0);
        let expected = json!({
            "trade_id": "TSLA-9", "symbol": "TSLA", "price": 250.0, "quantity": 10,
            "buyer": {"order_id": "t", "user_id": "ann"}, "seller": {"order_id": "m", "user_id": "bob"},
            "seq": 9, "prev_seq": 1, "epoch": 2, "offset": 4, "timestamp": "2023-11-14T22:13:20.000001Z",
        });
        assert_eq!(fill, expected);
        let public = said(&trade(), 1);
        assert_eq!((&public["taker_side"], &public["prev_seq"]), (&"BUY".into(), &2.into()));
        assert!(public.get("buyer").is_none(), "everybody may read trades");
        let depth = said(&trade(), 2);
        assert_eq!((&depth["asks"], &depth["bids"]), (&json!([[250.0, 15]]), &json!([])));
        let orders = said(&trade(), 3);
        assert_eq!(orders["orders"][0]["status"], "PARTIALLY_FILLED");
        assert_eq!((&orders["orders"][1]["status"], &orders["prev_seq"]), (&"FILLED".into(), &8.into()));
    }

    #[test]
    fn an_order_that_never_rested_gives_no_depth() {
        let update = OrderUpdate {
            cause: Cause::Added,
            order_id: OrderId::new("x").unwrap(),
            user: UserId::new("ann").unwrap(),
            side: Side::Buy,
            order_type: OrderType::Limit,
            time_in_force: Tif::Ioc,
            price: Some(Price(25_000)),
            quantity: Quantity(1),
            open: Quantity(0),
            filled: Quantity(0),
            status: OrderStatus::Canceled,
            reason: Some(crate::domain::Reason::IocRemainder),
            left: None,
            joined: None,
        };
        let output = output(OutputBody::Order(update));
        assert_eq!(encode(&Symbol::new("TSLA").unwrap(), 2, &output, 2), None);
        let status = said(&output, 3);
        assert_eq!(status["orders"][0]["status"], "CANCELED");
        assert_eq!(status["orders"][0]["reason"], crate::domain::Reason::IocRemainder.code());
    }

    #[test]
    fn a_source_survives_its_bytes() {
        let source = Source { seq: Seq(7), events: Offset(u64::MAX) };
        assert_eq!(Source::from_bytes(&source.to_bytes()), Some(source));
        assert_eq!(Source::from_bytes(b"short"), None);
    }
}
