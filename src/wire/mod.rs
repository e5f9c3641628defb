//! What crosses a process boundary: order records, control records, events records, what clients send and are told.

pub mod client;
pub mod control;
pub mod derived;
pub mod events;
pub mod json;
pub mod orders;
pub mod rpc;
mod signed;

use crate::domain::{Command, Micros, Symbol};
pub use control::{Control, Keyring};

/// Why a record of the `orders` log cannot be used. Such a record becomes a dead letter and stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("record is not of a known shape: {what}")]
    Malformed { what: String },
    #[error("action {action:?} is not known")]
    UnknownAction { action: String },
    #[error("field {field} is missing")]
    Missing { field: &'static str },
    #[error("field {field} is not usable: {what}")]
    Invalid { field: &'static str, what: String },
    #[error("signature is wrong or its key is not known")]
    Forged,
    #[error("key names {key}, body names {body}")]
    KeyMismatch { key: String, body: Symbol },
    #[error("symbol {symbol} belongs into partition {right}")]
    WrongPartition { symbol: Symbol, right: u32 },
    #[error("symbol {symbol} is not listed")]
    UnknownSymbol { symbol: Symbol },
    #[error("control record is void: {why}")]
    Void { why: String },
}

impl BadRecord {
    /// The stable code kept with the dead letter.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::UnknownAction { .. } => "unknown_action",
            Self::Missing { .. } => "missing_field",
            Self::Invalid { .. } => "invalid_field",
            Self::Forged => "forged",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::WrongPartition { .. } => "wrong_partition",
            Self::UnknownSymbol { .. } => "unknown_symbol",
            Self::Void { .. } => "void",
        }
    }
}

/// Reads one record of the `orders` log as found in `partition`; JSON with decimals is not understood.
///
/// # Errors
/// [`BadRecord`].
pub fn decode(value: &[u8], partition: u32, keyring: &Keyring) -> Result<(Symbol, Command), BadRecord> {
    decode_for(value, partition, keyring, None)
}

/// Reads one record of the `orders` log as found in `partition`. `price_scale`: decimals of the prices of the symbol, once
/// its LIST has been met; the same for every reader, since it never changes.
///
/// # Errors
/// [`BadRecord`].
pub fn decode_for(
    value: &[u8],
    partition: u32,
    keyring: &Keyring,
    price_scale: Option<u8>,
) -> Result<(Symbol, Command), BadRecord> {
    if json::is_json(value) {
        return json::decode(value, price_scale);
    }
    let wire: orders::Wire<'_> =
        rmp_serde::from_slice(value).map_err(|e| BadRecord::Malformed { what: e.to_string() })?;
    match wire.mac {
        Some(_) if signed::is_order(&wire) => signed::decode(&wire, partition, keyring),
        Some(_) => control::decode(&wire, partition, keyring),
        None => orders::decode(&wire),
    }
}

/// A time as RFC 3339 text, in UTC.
pub fn rfc3339(at: Micros) -> String {
    let at = i64::try_from(at.0).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    at.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        assert_eq!(rfc3339(Micros(1_700_000_000_000_001)), "2023-11-14T22:13:20.000001Z");
    }
    use crate::domain::command::Listing;
    use crate::domain::{Epoch, Instrument, Micros, NewOrder, NodeId, OrderId, OrderKind, Price, Quantity, SelfTrade};
    use crate::domain::{Side, TimeInForce, UserId, control::Fence};

    fn tsla() -> Symbol {
        Symbol::new("TSLA").unwrap()
    }

    fn order() -> NewOrder {
        NewOrder {
            order_id: OrderId::new("c0ffee00-0000-4000-8000-000000000001").unwrap(),
            user: UserId::new("alice").unwrap(),
            side: Side::Sell,
            kind: OrderKind::Limit { price: Price(25050) },
            quantity: Quantity(10),
            time_in_force: TimeInForce::Gtc,
            self_trade: SelfTrade::CancelNewest,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        }
    }

    #[test]
    fn every_order_command_survives_its_bytes() {
        let ring = Keyring::from_secret(b"s");
        let kinds = [
            OrderKind::Market,
            OrderKind::Limit { price: Price(1) },
            OrderKind::Stop { stop_price: Price(2) },
            OrderKind::StopLimit { stop_price: Price(2), price: Price(3) },
        ];
        let tifs = [
            TimeInForce::Gtc,
            TimeInForce::Ioc,
            TimeInForce::Fok,
            TimeInForce::Day,
            TimeInForce::Gtd { expire_at: Micros(9) },
        ];
        let stps = [
            SelfTrade::CancelNewest,
            SelfTrade::CancelOldest,
            SelfTrade::CancelBoth,
            SelfTrade::Decrement,
            SelfTrade::None,
        ];
        let mut commands = Vec::new();
        for kind in kinds {
            for time_in_force in tifs {
                for self_trade in stps {
                    let post_only = self_trade == SelfTrade::None;
                    let display_quantity = post_only.then_some(Quantity(5));
                    let order = order();
                    commands.push(Command::Add(NewOrder {
                        kind,
                        time_in_force,
                        self_trade,
                        post_only,
                        display_quantity,
                        ..order
                    }));
                }
            }
        }
        let (user, order_id) = (order().user, order().order_id);
        commands.push(Command::Cancel { user, order_id });
        commands.push(Command::Replace { user, order_id, price: Some(Price(5)), quantity: None });
        commands.push(Command::Replace { user, order_id, price: None, quantity: Some(Quantity(5)) });
        for command in commands {
            assert_eq!(decode(&orders::encode(&tsla(), &command), 3, &ring), Ok((tsla(), command)));
        }
    }

    #[test]
    fn control_records_are_good_only_as_signed() {
        let ring = Keyring::from_secret(b"secret");
        let node = NodeId::new("n1").unwrap();
        let listing =
            Listing { instrument: Instrument::plain(2, 1, 1), owner: node, id_key: u128::MAX - 7, rules_version: 1 };
        let fence = Fence { epoch: Epoch(4), from: node, to: NodeId::new("n2").unwrap() };
        let user = UserId::new("alice").unwrap();
        let controls = [
            Control::List(listing),
            Control::Halt,
            Control::Resume,
            Control::CancelAll { user },
            Control::Rules { version: 1 },
            Control::Session,
            Control::Tick,
            Control::Fence(fence),
        ];
        for control in controls {
            let bytes = ring.encode(&tsla(), 3, control.clone(), Micros(1_000));
            let (symbol, command) = decode(&bytes, 3, &ring).unwrap();
            assert_eq!(symbol, tsla());
            assert_eq!(command.authority().unwrap().valid_until, Micros(1_000 + control::VALID_US));
            // Another partition, another secret, any flipped bit: refused (or no longer readable), never accepted.
            assert_eq!(decode(&bytes, 4, &ring), Err(BadRecord::Forged));
            assert_eq!(decode(&bytes, 3, &Keyring::from_secret(b"other")), Err(BadRecord::Forged));
            for i in 0..bytes.len() {
                let mut flipped = bytes.to_vec();
                flipped[i] ^= 1;
                assert!(decode(&flipped, 3, &ring).is_err(), "byte {i} of {control:?} flipped and accepted");
            }
        }
    }

    #[test]
    fn an_older_secret_still_reads() {
        let old = Keyring::from_secret(b"old");
        let mut ring = Keyring::from_secret(b"new");
        ring.accept(b"old");
        assert!(decode(&old.encode(&tsla(), 0, Control::Halt, Micros(0)), 0, &ring).is_ok());
    }

    #[test]
    fn rubbish_is_refused() {
        let ring = Keyring::from_secret(b"s");
        for rubbish in [&b""[..], b"\xc1", b"{\"action\":\"ADD\"}", b"[1]", &[0x93, 1, 2, 3]] {
            assert!(matches!(decode(rubbish, 0, &ring), Err(BadRecord::Malformed { .. })));
        }
        let bytes = rmp_serde::to_vec_named(&orders::Wire { action: "HALT", symbol: "TSLA", ..Default::default() });
        assert_eq!(decode(&bytes.unwrap(), 0, &ring), Err(BadRecord::Missing { field: "user_id" }));
    }
}
