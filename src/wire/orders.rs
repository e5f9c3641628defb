//! ADD, CANCEL and REPLACE as MessagePack maps with the field names of the `orders` topic.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::BadRecord;
use crate::domain::ids::BadName;
use crate::domain::{Command, Micros, NewOrder, OrderId, OrderKind, Price, Quantity, SelfTrade, Side};
use crate::domain::{Symbol, TimeInForce, UserId};

/// The record as it lies in the log. Prices in minor units. Control records use the last six fields.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Wire<'a> {
    pub action: &'a str,
    pub symbol: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_buy: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_type: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_in_force: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_price: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub post_only: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub all_or_none: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_quantity: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stp: Option<&'a str>,
    /// Microseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes_option")]
    pub body: Option<&'a [u8]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes_option")]
    pub nonce: Option<&'a [u8]>,
    /// Microseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes_option")]
    pub mac: Option<&'a [u8]>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(b: &bool) -> bool {
    !*b
}

/// Borrowed binary fields, which serde would otherwise write as arrays of numbers.
mod serde_bytes_option {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(v: &Option<&[u8]>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            Some(b) => s.serialize_bytes(b),
            None => s.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<&'de [u8]>, D::Error> {
        Option::<&'de [u8]>::deserialize(d)
    }
}

/// Writes ADD, CANCEL or REPLACE.
///
/// # Panics
/// When given a control command: those are signed and written by [`super::Keyring::encode`].
pub fn encode(symbol: &Symbol, command: &Command) -> Bytes {
    let mut wire = Wire { symbol: symbol.as_str(), ..Wire::default() };
    match command {
        Command::Add(order) => fill_add(&mut wire, order),
        Command::Cancel { user, order_id } => {
            wire.action = "CANCEL";
            (wire.user_id, wire.order_id) = (Some(user.as_str()), Some(order_id.as_str()));
        }
        Command::Replace { user, order_id, price, quantity } => {
            wire.action = "REPLACE";
            (wire.user_id, wire.order_id) = (Some(user.as_str()), Some(order_id.as_str()));
            (wire.price, wire.quantity) = (price.map(|p| p.0), quantity.map(|q| q.0));
        }
        control => unreachable!("control records are signed: {control:?}"),
    }
    // Writing to memory, with only text and numbers inside, cannot fail.
    Bytes::from(rmp_serde::to_vec_named(&wire).unwrap_or_default())
}

fn fill_add<'a>(wire: &mut Wire<'a>, order: &'a NewOrder) {
    wire.action = "ADD";
    wire.order_id = Some(order.order_id.as_str());
    wire.user_id = Some(order.user.as_str());
    wire.is_buy = Some(order.side == Side::Buy);
    wire.quantity = Some(order.quantity.0);
    wire.price = order.kind.limit().map(|p| p.0);
    wire.stop_price = order.kind.stop_price().map(|p| p.0);
    wire.order_type = match order.kind {
        OrderKind::Limit { .. } => None,
        OrderKind::Market => Some("MARKET"),
        OrderKind::Stop { .. } => Some("STOP"),
        OrderKind::StopLimit { .. } => Some("STOP_LIMIT"),
    };
    (wire.time_in_force, wire.expire_at) = match order.time_in_force {
        TimeInForce::Gtc => (None, None),
        TimeInForce::Ioc => (Some("IOC"), None),
        TimeInForce::Fok => (Some("FOK"), None),
        TimeInForce::Day => (Some("DAY"), None),
        TimeInForce::Gtd { expire_at } => (Some("GTD"), Some(expire_at.0)),
    };
    wire.stp = match order.self_trade {
        SelfTrade::CancelNewest => None,
        SelfTrade::CancelOldest => Some("cancel_oldest"),
        SelfTrade::CancelBoth => Some("cancel_both"),
        SelfTrade::Decrement => Some("decrement"),
        SelfTrade::None => Some("none"),
    };
    (wire.post_only, wire.all_or_none) = (order.post_only, order.all_or_none);
    wire.display_quantity = order.display_quantity.map(|q| q.0);
}

/// Reads what [`encode`] wrote, or another producer.
///
/// # Errors
/// [`BadRecord`].
pub fn decode(wire: &Wire<'_>) -> Result<(Symbol, Command), BadRecord> {
    let symbol = symbol(wire)?;
    let user = name("user_id", wire.user_id, UserId::new)?;
    let order_id = name("order_id", wire.order_id, OrderId::new)?;
    let command = match wire.action {
        "ADD" => Command::Add(decode_add(wire, user, order_id)?),
        "CANCEL" => Command::Cancel { user, order_id },
        "REPLACE" => {
            Command::Replace { user, order_id, price: wire.price.map(Price), quantity: wire.quantity.map(Quantity) }
        }
        other => return Err(BadRecord::UnknownAction { action: other.chars().take(32).collect() }),
    };
    Ok((symbol, command))
}

/// The symbol that a record names.
pub(super) fn symbol(wire: &Wire<'_>) -> Result<Symbol, BadRecord> {
    Symbol::new(wire.symbol).map_err(|e| BadRecord::Invalid { field: "symbol", what: e.to_string() })
}

fn name<T>(field: &'static str, s: Option<&str>, new: fn(&str) -> Result<T, BadName>) -> Result<T, BadRecord> {
    let s = s.ok_or(BadRecord::Missing { field })?;
    new(s).map_err(|e| BadRecord::Invalid { field, what: e.to_string() })
}

fn decode_add(wire: &Wire<'_>, user: UserId, order_id: OrderId) -> Result<NewOrder, BadRecord> {
    let invalid = |field, what: &str| BadRecord::Invalid { field, what: what.chars().take(32).collect() };
    let price = || wire.price.map(Price).ok_or(BadRecord::Missing { field: "price" });
    let stop_price = || wire.stop_price.map(Price).ok_or(BadRecord::Missing { field: "stop_price" });
    let kind = match wire.order_type.unwrap_or("LIMIT") {
        "LIMIT" => OrderKind::Limit { price: price()? },
        "MARKET" => OrderKind::Market,
        "STOP" => OrderKind::Stop { stop_price: stop_price()? },
        "STOP_LIMIT" => OrderKind::StopLimit { stop_price: stop_price()?, price: price()? },
        other => return Err(invalid("order_type", other)),
    };
    let time_in_force = match wire.time_in_force.unwrap_or("GTC") {
        "GTC" => TimeInForce::Gtc,
        "IOC" => TimeInForce::Ioc,
        "FOK" => TimeInForce::Fok,
        "DAY" => TimeInForce::Day,
        "GTD" => {
            TimeInForce::Gtd { expire_at: wire.expire_at.map(Micros).ok_or(BadRecord::Missing { field: "expire_at" })? }
        }
        other => return Err(invalid("time_in_force", other)),
    };
    let self_trade = match wire.stp.unwrap_or("cancel_newest") {
        "cancel_newest" => SelfTrade::CancelNewest,
        "cancel_oldest" => SelfTrade::CancelOldest,
        "cancel_both" => SelfTrade::CancelBoth,
        "decrement" => SelfTrade::Decrement,
        "none" => SelfTrade::None,
        other => return Err(invalid("stp", other)),
    };
    Ok(NewOrder {
        order_id,
        user,
        side: if wire.is_buy.ok_or(BadRecord::Missing { field: "is_buy" })? { Side::Buy } else { Side::Sell },
        kind,
        quantity: Quantity(wire.quantity.ok_or(BadRecord::Missing { field: "quantity" })?),
        time_in_force,
        self_trade,
        post_only: wire.post_only,
        all_or_none: wire.all_or_none,
        display_quantity: wire.display_quantity.map(Quantity),
    })
}
