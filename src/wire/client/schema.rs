//! What clients send, parsed once into domain words. REST and WebSocket share it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::decimal::{self, BadDecimal};
use super::error::{Code, EdgeError};
use crate::domain::ids::BadName;
use crate::domain::{
    Command, Micros, NewOrder, OrderId, OrderKind, Price, Quantity, Reason, SelfTrade, Side, Symbol, TimeInForce,
    UserId,
};

/// Largest body and largest WebSocket message, fragments put together: 64 KiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Reads one JSON object.
///
/// # Errors
/// `malformed_json`, `unknown_field`, `missing_field`, `invalid_field`.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, EdgeError> {
    // serde would also read an array as a struct, field by field.
    if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(EdgeError::new(Code::MalformedJson).message("a JSON object is expected"));
    }
    serde_json::from_slice(body).map_err(|e| {
        let text = e.to_string();
        let named = text.split('`').nth(1).unwrap_or_default().to_owned();
        match e.classify() {
            Category::Data if text.starts_with("unknown field") => {
                EdgeError::field(Code::UnknownField, &named, format!("there is no field `{named}` here"))
            }
            Category::Data if text.starts_with("missing field") => missing(&named),
            Category::Data => EdgeError::new(Code::InvalidField).message(text),
            _ => EdgeError::new(Code::MalformedJson).message(text),
        }
    })
}

/// A required field that is not there.
pub fn missing(field: &str) -> EdgeError {
    EdgeError::field(Code::MissingField, field, format!("`{field}` is required"))
}

fn invalid(field: &str, what: impl std::fmt::Display) -> EdgeError {
    EdgeError::field(Code::InvalidField, field, format!("`{field}` {what}"))
}

/// The fields of an order, as REST's POST and the WebSocket's ADD carry them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderFields<'a> {
    pub symbol: Option<String>,
    pub side: Option<String>,
    pub order_type: Option<String>,
    #[serde(borrow)]
    pub price: Option<&'a RawValue>,
    #[serde(borrow)]
    pub quantity: Option<&'a RawValue>,
    pub time_in_force: Option<String>,
    pub order_id: Option<String>,
    #[serde(borrow)]
    pub stop_price: Option<&'a RawValue>,
    pub post_only: Option<bool>,
    pub all_or_none: Option<bool>,
    #[serde(borrow)]
    pub display_quantity: Option<&'a RawValue>,
    pub stp: Option<String>,
    pub expire_at: Option<String>,
    /// Taken and not looked at: an order belongs to the token's user.
    #[serde(rename = "user_id")]
    _user_id: Option<IgnoredAny>,
    /// Taken and not looked at: the log stamps the time.
    #[serde(rename = "timestamp")]
    _timestamp: Option<IgnoredAny>,
    #[serde(rename = "action")]
    _action: Option<IgnoredAny>,
    #[serde(rename = "request_id")]
    _request_id: Option<IgnoredAny>,
}

/// The fields of PUT and of the WebSocket's REPLACE and CANCEL.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeFields<'a> {
    pub symbol: Option<String>,
    pub order_id: Option<String>,
    #[serde(borrow)]
    pub price: Option<&'a RawValue>,
    #[serde(borrow)]
    pub quantity: Option<&'a RawValue>,
    /// Allowed since a book view has it; an order's side never changes.
    #[serde(rename = "side")]
    _side: Option<IgnoredAny>,
    #[serde(rename = "user_id")]
    _user_id: Option<IgnoredAny>,
    #[serde(rename = "timestamp")]
    _timestamp: Option<IgnoredAny>,
    #[serde(rename = "action")]
    _action: Option<IgnoredAny>,
    #[serde(rename = "request_id")]
    _request_id: Option<IgnoredAny>,
}

/// A symbol by its text; one that cannot exist is as unknown as one that does not.
///
/// # Errors
/// `missing_field`, `unknown_symbol`.
pub fn symbol(text: Option<&str>) -> Result<Symbol, EdgeError> {
    let text = text.ok_or_else(|| missing("symbol"))?;
    Symbol::new(text).map_err(|_| unknown_symbol(text))
}

/// `unknown_symbol` with the text in question.
pub fn unknown_symbol(text: &str) -> EdgeError {
    EdgeError::new(Code::UnknownSymbol).detail("symbol", text.chars().take(64).collect::<String>())
}

/// An order id by its text.
///
/// # Errors
/// `missing_field`, `invalid_order_id`.
pub fn order_id(text: Option<&str>) -> Result<OrderId, EdgeError> {
    let text = text.ok_or_else(|| missing("order_id"))?;
    OrderId::new(text).map_err(|e: BadName| {
        EdgeError::new(Code::InvalidOrderId).message(format!("the order id {e}")).detail("field", "order_id")
    })
}

fn price(field: &str, raw: &RawValue, scale: u8) -> Result<Price, EdgeError> {
    match decimal::parse_json(raw, scale) {
        Ok(0) => {
            Err(EdgeError::from(Reason::InvalidPrice).message(format!("`{field}` is zero")).detail("field", field))
        }
        Ok(p) if p > Price::MAX.0 => Err(bad_price(field, BadDecimal::TooLarge, raw)),
        Ok(p) => Ok(Price(p)),
        Err(e) => Err(bad_price(field, e, raw)),
    }
}

fn bad_price(field: &str, e: BadDecimal, raw: &RawValue) -> EdgeError {
    let error = match e {
        BadDecimal::TooPrecise { scale } => EdgeError::new(Code::PriceTooPrecise).detail("price_scale", scale),
        _ => EdgeError::from(Reason::InvalidPrice),
    };
    let given: String = raw.get().chars().take(64).collect();
    error.message(format!("`{field}` {e}")).detail("field", field).detail("given", given)
}

fn quantity(field: &str, raw: &RawValue) -> Result<Quantity, EdgeError> {
    let what = match decimal::parse_json(raw, 0) {
        Ok(0) => "is zero".to_owned(),
        Ok(q) if q <= Quantity::MAX.0 => return Ok(Quantity(q)),
        Ok(_) => BadDecimal::TooLarge.to_string(),
        Err(BadDecimal::TooPrecise { .. }) => "is not a whole number".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(EdgeError::from(Reason::InvalidQuantity).message(format!("`{field}` {what}")).detail("field", field))
}

fn combination(text: &str) -> EdgeError {
    EdgeError::from(Reason::InvalidCombination).message(text)
}

impl OrderFields<'_> {
    /// The order in domain words; `price_scale` is the symbol's. An absent id is made up.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn to_order(&self, user: UserId, price_scale: u8) -> Result<NewOrder, EdgeError> {
        let side = match self.side.as_deref().ok_or_else(|| missing("side"))? {
            "BUY" => Side::Buy,
            "SELL" => Side::Sell,
            _ => return Err(invalid("side", "must be BUY or SELL")),
        };
        let raw_quantity = self.quantity.ok_or_else(|| missing("quantity"))?;
        Ok(NewOrder {
            order_id: match &self.order_id {
                Some(id) => order_id(Some(id))?,
                None => random_order_id(),
            },
            user,
            side,
            kind: self.kind(price_scale)?,
            quantity: quantity("quantity", raw_quantity)?,
            time_in_force: self.time_in_force()?,
            self_trade: self.self_trade()?,
            post_only: self.post_only.unwrap_or(false),
            all_or_none: self.all_or_none.unwrap_or(false),
            display_quantity: self.display_quantity.map(|q| quantity("display_quantity", q)).transpose()?,
        })
    }

    fn kind(&self, scale: u8) -> Result<OrderKind, EdgeError> {
        let need = |field: &str, raw: Option<&RawValue>| price(field, raw.ok_or_else(|| missing(field))?, scale);
        let kind = match self.order_type.as_deref().unwrap_or("LIMIT") {
            "LIMIT" => OrderKind::Limit { price: need("price", self.price)? },
            "MARKET" => OrderKind::Market,
            "STOP" => OrderKind::Stop { stop_price: need("stop_price", self.stop_price)? },
            "STOP_LIMIT" => OrderKind::StopLimit {
                stop_price: need("stop_price", self.stop_price)?,
                price: need("price", self.price)?,
            },
            _ => return Err(invalid("order_type", "must be LIMIT, MARKET, STOP or STOP_LIMIT")),
        };
        if kind.limit().is_none() && self.price.is_some() {
            return Err(combination("a MARKET or STOP order has no price"));
        }
        if kind.stop_price().is_none() && self.stop_price.is_some() {
            return Err(combination("only STOP and STOP_LIMIT orders have a stop_price"));
        }
        Ok(kind)
    }

    fn time_in_force(&self) -> Result<TimeInForce, EdgeError> {
        let tif = match self.time_in_force.as_deref().unwrap_or("GTC") {
            "GTC" => TimeInForce::Gtc,
            "IOC" => TimeInForce::Ioc,
            "FOK" => TimeInForce::Fok,
            "DAY" => TimeInForce::Day,
            "GTD" => {
                let text = self.expire_at.as_deref().ok_or_else(|| missing("expire_at"))?;
                let at: jiff::Timestamp = text.parse().map_err(|_| invalid("expire_at", "must be an RFC 3339 time"))?;
                let micros = u64::try_from(at.as_microsecond()).map_err(|_| invalid("expire_at", "is before 1970"))?;
                return Ok(TimeInForce::Gtd { expire_at: Micros(micros) });
            }
            _ => return Err(invalid("time_in_force", "must be GTC, IOC, FOK, DAY or GTD")),
        };
        match self.expire_at {
            Some(_) => Err(combination("only GTD orders have expire_at")),
            None => Ok(tif),
        }
    }

    fn self_trade(&self) -> Result<SelfTrade, EdgeError> {
        Ok(match self.stp.as_deref().unwrap_or("cancel_newest") {
            "cancel_newest" => SelfTrade::CancelNewest,
            "cancel_oldest" => SelfTrade::CancelOldest,
            "cancel_both" => SelfTrade::CancelBoth,
            "decrement" => SelfTrade::Decrement,
            "none" => SelfTrade::None,
            _ => return Err(invalid("stp", "must be cancel_newest, cancel_oldest, cancel_both, decrement or none")),
        })
    }
}

impl ChangeFields<'_> {
    /// A REPLACE of `order_id`.
    ///
    /// # Errors
    /// `missing_field` when it changes nothing; whatever is wrong with the values.
    pub fn to_replace(&self, user: UserId, order_id: OrderId, price_scale: u8) -> Result<Command, EdgeError> {
        if self.price.is_none() && self.quantity.is_none() {
            return Err(missing("quantity").message("a replace needs `price` or `quantity`"));
        }
        Ok(Command::Replace {
            user,
            order_id,
            price: self.price.map(|p| price("price", p, price_scale)).transpose()?,
            quantity: self.quantity.map(|q| quantity("quantity", q)).transpose()?,
        })
    }
}

/// A random UUID (version 4), for orders that come without an id.
pub fn random_order_id() -> OrderId {
    let mut b = random_bytes::<16>();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(b);
    let text = format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]);
    OrderId::new(&text).expect("a UUID is a valid order id")
}

/// Bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness: nothing of the edge can work then.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut b = [0u8; N];
    getrandom::fill(&mut b).expect("the operating system gives random bytes");
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: &str) -> Result<NewOrder, EdgeError> {
        read::<OrderFields>(body.as_bytes())?.to_order(UserId::new("alice").unwrap(), 2)
    }

    fn code(body: &str) -> &'static str {
        order(body).unwrap_err().code
    }

    #[test]
    fn the_documented_example_is_read() {
        let o = order(
            r#"{"symbol":"TSLA","side":"BUY","order_type":"LIMIT","price":250.50,"quantity":10,"time_in_force":"GTC"}"#,
        )
        .unwrap();
        assert_eq!((o.side, o.kind, o.quantity), (Side::Buy, OrderKind::Limit { price: Price(25_050) }, Quantity(10)));
        assert_eq!(o.order_id.as_str().len(), 36);
        let o = order(r#"{"symbol":"T","side":"SELL","price":"1e2","quantity":"10.0","order_id":"a","user_id":"bob"}"#);
        let o = o.unwrap();
        assert_eq!((o.kind, o.quantity), (OrderKind::Limit { price: Price(10_000) }, Quantity(10)));
        assert_eq!(o.user.as_str(), "alice", "the body's user_id is not looked at");
    }

    #[test]
    fn each_mistake_has_its_code() {
        let with = |price: &str, quantity: &str| {
            format!(r#"{{"symbol":"T","side":"BUY","price":{price},"quantity":{quantity}}}"#)
        };
        for (price, quantity, expected) in [
            ("-1", "1", "invalid_price"),
            ("0", "1", "invalid_price"),
            ("1e309", "1", "invalid_price"),
            ("\"NaN\"", "1", "invalid_price"),
            ("true", "1", "invalid_price"),
            ("NaN", "1", "malformed_json"),
            ("1.005", "1", "price_too_precise"),
            ("1", "0", "invalid_quantity"),
            ("1", "10.5", "invalid_quantity"),
            ("1", "-10", "invalid_quantity"),
            ("1", "1000000001", "invalid_quantity"),
            ("null", "1", "missing_field"),
            ("1", "null", "missing_field"),
        ] {
            assert_eq!(code(&with(price, quantity)), expected, "price {price}, quantity {quantity}");
        }
        assert_eq!(code("[1]"), "malformed_json");
        assert_eq!(code("{"), "malformed_json");
        assert_eq!(code(r#"{"sybmol":"T"}"#), "unknown_field");
        assert_eq!(code(r#"{"symbol":5}"#), "invalid_field");
        assert_eq!(code(r#"{"symbol":"T","side":"buy","quantity":1}"#), "invalid_field");
        let market = r#"{"symbol":"T","side":"BUY","order_type":"MARKET","price":1,"quantity":1}"#;
        assert_eq!(code(market), "invalid_combination");
        assert_eq!(code(r#"{"symbol":"T","side":"BUY","price":1,"quantity":1,"order_id":"a b"}"#), "invalid_order_id");
    }

    #[test]
    fn made_up_ids_differ() {
        assert_ne!(random_order_id(), random_order_id());
    }
}
