//! Orders as JSON on the `orders` topic, from producers that are not our gateways. Two shapes, told apart by how the side
//! is said: `is_buy` goes with prices in minor units, `side` with decimals, which only a listed symbol has a meaning for.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::client::decimal;
use super::orders::{self, Wire};
use super::{BadRecord, orders::symbol};
use crate::domain::{Command, Symbol};

/// What both shapes are made of. A name that is not known is an error: it may have been meant to limit an order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    /// ADD, unless it is said.
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow, default)]
    order_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
    is_buy: Option<bool>,
    #[serde(borrow, default)]
    side: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    price: Option<&'a RawValue>,
    #[serde(borrow, default)]
    quantity: Option<&'a RawValue>,
    #[serde(borrow, default)]
    order_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time_in_force: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    stop_price: Option<&'a RawValue>,
    post_only: Option<bool>,
    all_or_none: Option<bool>,
    #[serde(borrow, default)]
    display_quantity: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stp: Option<Cow<'a, str>>,
    /// RFC 3339.
    #[serde(borrow, default)]
    expire_at: Option<Cow<'a, str>>,
    /// Of the producer; the log stamps the time that counts.
    #[serde(rename = "timestamp")]
    _timestamp: Option<IgnoredAny>,
}

/// Whether a record's first byte says JSON: no MessagePack map begins so.
pub fn is_json(value: &[u8]) -> bool {
    value.trim_ascii_start().first() == Some(&b'{')
}

/// Reads ADD, CANCEL or REPLACE. `price_scale`: decimals of the symbol's prices, if it is listed.
///
/// # Errors
/// [`BadRecord`].
pub fn decode(value: &[u8], price_scale: Option<u8>) -> Result<(Symbol, Command), BadRecord> {
    let fields: Fields<'_> = serde_json::from_slice(value)
        .map_err(|e| BadRecord::Malformed { what: e.to_string().chars().take(200).collect() })?;
    let (is_buy, scale) = match (fields.is_buy, fields.side.as_deref()) {
        (Some(_), Some(_)) => return Err(invalid("side", "and is_buy are two shapes of an order")),
        (is_buy, None) => (is_buy, Some(0)),
        (None, Some("BUY")) => (Some(true), price_scale),
        (None, Some("SELL")) => (Some(false), price_scale),
        (None, Some(_)) => return Err(invalid("side", "is not BUY or SELL")),
    };
    let mut wire = Wire { symbol: &fields.symbol, ..Wire::default() };
    let named = symbol(&wire)?;
    let price = |field, raw: Option<&RawValue>| match (raw, scale) {
        (None, _) => Ok(None),
        (Some(_), None) => Err(BadRecord::UnknownSymbol { symbol: named }),
        (Some(raw), Some(scale)) => number(field, raw, scale),
    };
    wire.action = fields.action.as_deref().unwrap_or("ADD");
    (wire.order_id, wire.user_id, wire.is_buy) = (fields.order_id.as_deref(), fields.user_id.as_deref(), is_buy);
    (wire.price, wire.stop_price) = (price("price", fields.price)?, price("stop_price", fields.stop_price)?);
    let quantity = |field, raw: Option<&RawValue>| raw.map_or(Ok(None), |raw| number(field, raw, 0));
    wire.quantity = quantity("quantity", fields.quantity)?;
    wire.display_quantity = quantity("display_quantity", fields.display_quantity)?;
    (wire.order_type, wire.time_in_force) = (fields.order_type.as_deref(), fields.time_in_force.as_deref());
    wire.stp = fields.stp.as_deref();
    (wire.post_only, wire.all_or_none) = (fields.post_only.unwrap_or(false), fields.all_or_none.unwrap_or(false));
    wire.expire_at = fields.expire_at.as_deref().map(microseconds).transpose()?;
    orders::decode(&wire)
}

fn invalid(field: &'static str, what: &str) -> BadRecord {
    BadRecord::Invalid { field, what: what.to_owned() }
}

fn number(field: &'static str, raw: &RawValue, scale: u8) -> Result<Option<u64>, BadRecord> {
    if raw.get() == "null" {
        return Ok(None);
    }
    decimal::parse_json(raw, scale).map(Some).map_err(|e| invalid(field, &e.to_string()))
}

fn microseconds(text: &str) -> Result<u64, BadRecord> {
    let at: jiff::Timestamp = text.parse().map_err(|_| invalid("expire_at", "is no RFC 3339 time"))?;
    u64::try_from(at.as_microsecond()).map_err(|_| invalid("expire_at", "lies before 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Micros, NewOrder, OrderKind, Price, Quantity, SelfTrade, Side, TimeInForce};

    fn add(text: &str, scale: Option<u8>) -> Result<NewOrder, BadRecord> {
        assert!(is_json(text.as_bytes()));
        match decode(text.as_bytes(), scale)? {
            (symbol, Command::Add(order)) => {
                assert_eq!(symbol.as_str(), "TSLA");
                Ok(order)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_shapes_say_the_same() {
        let minor = r#"{"action":"ADD","symbol":"TSLA","order_id":"o","user_id":"u","is_buy":true,"price":25050,"quantity":10}"#;
        let decimal = r#" {"symbol":"TSLA","order_id":"o","user_id":"u","side":"BUY","order_type":"LIMIT","price":250.50,
            "quantity":"10","timestamp":"2026-01-01T00:00:00Z"}"#;
        let (minor, decimal) = (add(minor, None).unwrap(), add(decimal, Some(2)).unwrap());
        assert_eq!(minor, decimal);
        assert_eq!((minor.side, minor.kind), (Side::Buy, OrderKind::Limit { price: Price(25050) }));
    }

    #[test]
    fn every_option_is_read() {
        let text = r#"{"action":"ADD","symbol":"TSLA","order_id":"o\u002f1","user_id":"u","side":"SELL","price":"1.5",
            "quantity":7,"order_type":"STOP_LIMIT","stop_price":2,"time_in_force":"GTD","expire_at":"1970-01-01T00:00:01Z",
            "post_only":true,"all_or_none":true,"display_quantity":3,"stp":"none"}"#;
        let order = add(text, Some(1)).unwrap();
        assert_eq!(order.order_id.as_str(), "o/1");
        assert_eq!(order.kind, OrderKind::StopLimit { stop_price: Price(20), price: Price(15) });
        assert_eq!(order.time_in_force, TimeInForce::Gtd { expire_at: Micros(1_000_000) });
        assert_eq!((order.quantity, order.display_quantity), (Quantity(7), Some(Quantity(3))));
        assert!(order.post_only && order.all_or_none && order.self_trade == SelfTrade::None);
    }

    #[test]
    fn cancel_and_replace_need_no_side() {
        let of = |text: &str| decode(text.as_bytes(), Some(2)).unwrap().1;
        let head = r#""symbol":"TSLA","order_id":"o","user_id":"u""#;
        assert!(matches!(of(&format!(r#"{{"action":"CANCEL",{head}}}"#)), Command::Cancel { .. }));
        let Command::Replace { price, quantity, .. } = of(&format!(r#"{{"action":"REPLACE",{head},"price":25000}}"#))
        else {
            panic!()
        };
        assert_eq!((price, quantity), (Some(Price(25000)), None));
        let text = format!(r#"{{"action":"REPLACE",{head},"side":"BUY","price":250.00,"quantity":null}}"#);
        let Command::Replace { price, quantity, .. } = of(&text) else { panic!() };
        assert_eq!((price, quantity), (Some(Price(25000)), None));
    }

    #[test]
    fn nothing_is_guessed() {
        let head = r#""symbol":"TSLA","order_id":"o","user_id":"u","quantity":1"#;
        for (rest, code) in [
            (r#""is_buy":true,"side":"BUY","price":1"#, "invalid_field"),
            (r#""is_buy":true,"price":1.5"#, "invalid_field"),
            (r#""side":"BUY","price":1.001"#, "invalid_field"),
            (r#""side":"buy","price":1"#, "invalid_field"),
            (r#""side":"BUY","price":"NaN""#, "invalid_field"),
            (r#""side":"BUY","price":1e400"#, "invalid_field"),
            (r#""price":1"#, "missing_field"),
            (r#""is_buy":true"#, "missing_field"),
            (r#""is_buy":true,"price":1,"time_in_forse":"IOC""#, "malformed"),
            (r#""is_buy":true,"price":1,"time_in_force":"ICO""#, "invalid_field"),
            (r#""is_buy":"yes","price":1"#, "malformed"),
            (r#""is_buy":true,"price":1,"action":"HALT""#, "unknown_action"),
            (r#""is_buy":true,"price":1,"mac":"AAAA""#, "malformed"),
            (r#""is_buy":true,"price":1,"expire_at":"tomorrow""#, "invalid_field"),
        ] {
            let refused = decode(format!("{{{head},{rest}}}").as_bytes(), Some(2)).unwrap_err();
            assert_eq!(refused.code(), code, "{rest}: {refused}");
        }
        let unlisted = format!("{{{head},\"side\":\"BUY\",\"price\":1}}");
        assert!(matches!(decode(unlisted.as_bytes(), None), Err(BadRecord::UnknownSymbol { .. })));
        for text in ["{", "{}", "{\"symbol\":7}", "{\"symbol\":\"TSLA\"} {}"] {
            assert!(decode(text.as_bytes(), Some(2)).is_err(), "{text}");
        }
    }
}
