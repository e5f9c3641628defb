//! ADD and REPLACE with a gateway's signature, for symbols that take orders from gateways only (`admission: gateway`).
//!
//! The record is a map like a control record's: `action`, `symbol`, `body` (the plain record, as [`super::orders`] writes it),
//! `key_id`, `nonce` (16 bytes: the gateway's number and that of the order, little endian), `valid_until`, `mac`. The MAC covers
//! all of it and the partition. Its key is made from the cluster's secret for this alone.

use bytes::Bytes;

use super::BadRecord;
use super::control::{Keyring, Parts, Purpose, Verified, verify};
use super::orders::{self, Wire};
use crate::domain::command::{Signed, SignedOrder};
use crate::domain::control::Stamp;
use crate::domain::{Command, Symbol};

impl Keyring {
    /// Writes an order for `symbol` in `partition`, with a gateway's signature.
    pub fn encode_signed(&self, symbol: &Symbol, partition: u32, signed: &Signed) -> Bytes {
        let body = orders::encode(symbol, &signed.order.command());
        let action = match signed.order {
            SignedOrder::Add(_) => "ADD",
            SignedOrder::Replace { .. } => "REPLACE",
        };
        let Stamp { gateway, number, valid_until } = signed.stamp;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&gateway.to_le_bytes());
        nonce[8..].copy_from_slice(&number.to_le_bytes());
        let parts = Parts { action, symbol, partition, body: &body, nonce, valid_until: valid_until.0 };
        self.sign(Purpose::Order, &parts)
    }
}

/// Whether a record that has a MAC says that it is an order.
pub(super) fn is_order(wire: &Wire<'_>) -> bool {
    matches!(wire.action, "ADD" | "REPLACE")
}

/// Checks the MAC and reads the record.
pub(super) fn decode(wire: &Wire<'_>, partition: u32, keyring: &Keyring) -> Result<(Symbol, Command), BadRecord> {
    let Verified { symbol, body, nonce, valid_until } = verify(wire, partition, keyring, Purpose::Order)?;
    let invalid = |what: String| BadRecord::Invalid { field: "body", what };
    let plain: Wire<'_> = rmp_serde::from_slice(body).map_err(|e| invalid(e.to_string()))?;
    let (named, command) = orders::decode(&plain)?;
    let order = match command {
        Command::Add(order) => SignedOrder::Add(order),
        Command::Replace { user, order_id, price, quantity } => {
            SignedOrder::Replace { user, order_id, price, quantity }
        }
        _ => return Err(invalid("is no ADD and no REPLACE".into())),
    };
    if (named, plain.action) != (symbol, wire.action) {
        return Err(invalid("is of another symbol or action".into()));
    }
    let (gateway, number) = nonce.split_at(8);
    let number_of = |half: &[u8]| half.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    let stamp = Stamp { gateway: number_of(gateway), number: number_of(number), valid_until };
    Ok((symbol, Command::Signed(Box::new(Signed { stamp, order }))))
}

#[cfg(test)]
mod tests {
    use super::super::control::VALID_US;
    use super::super::{Control, decode};
    use super::*;
    use crate::domain::{Micros, NewOrder, OrderId, OrderKind, Price, Quantity, SelfTrade, Side, TimeInForce, UserId};

    fn orders() -> [Signed; 2] {
        let (user, order_id) = (UserId::new("alice").unwrap(), OrderId::new("o-1").unwrap());
        let add = SignedOrder::Add(NewOrder {
            order_id,
            user,
            side: Side::Buy,
            kind: OrderKind::Limit { price: Price(25_050) },
            quantity: Quantity(10),
            time_in_force: TimeInForce::Ioc,
            self_trade: SelfTrade::None,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        });
        let replace = SignedOrder::Replace { user, order_id, price: Some(Price(1)), quantity: None };
        let stamp = Stamp { gateway: u64::MAX - 3, number: 1 << 40, valid_until: Micros(VALID_US) };
        [add, replace].map(|order| Signed { stamp, order })
    }

    #[test]
    fn an_order_is_good_only_as_signed() {
        let (ring, symbol) = (Keyring::from_secret(b"secret"), Symbol::new("TSLA").unwrap());
        for signed in orders() {
            let bytes = ring.encode_signed(&symbol, 3, &signed);
            assert_eq!(decode(&bytes, 3, &ring), Ok((symbol, Command::Signed(Box::new(signed)))));
            assert_eq!(decode(&bytes, 4, &ring), Err(BadRecord::Forged));
            assert_eq!(decode(&bytes, 3, &Keyring::from_secret(b"other")), Err(BadRecord::Forged));
            for i in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.to_vec();
                    flipped[i] ^= 1 << bit;
                    // At most it reads as what anyone may write: an order without a signature.
                    let read = decode(&flipped, 3, &ring);
                    let is_signed = matches!(read, Ok((_, Command::Signed(_))));
                    assert!(!is_signed, "bit {bit} of byte {i} of {signed:?} flipped, and it reads {read:?}");
                }
            }
            let mut rotated = Keyring::from_secret(b"new");
            rotated.accept(b"secret");
            assert!(decode(&bytes, 3, &rotated).is_ok(), "an older secret still reads");
        }
    }

    #[test]
    fn one_kind_of_signature_does_not_pass_for_the_other() {
        let (ring, symbol) = (Keyring::from_secret(b"secret"), Symbol::new("TSLA").unwrap());
        let body = orders::encode(&symbol, &orders()[0].order.command());
        for (action, purpose) in [("ADD", Purpose::Control), ("HALT", Purpose::Order)] {
            let parts = Parts { action, symbol: &symbol, partition: 3, body: &body, nonce: [7; 16], valid_until: 1 };
            assert_eq!(decode(&ring.sign(purpose, &parts), 3, &ring), Err(BadRecord::Forged), "{action}");
        }
        let halt = ring.encode(&symbol, 3, Control::Halt, Micros(0));
        assert!(decode(&halt, 3, &ring).is_ok());
        // Signed by us, but not as we would: of another symbol inside, or a CANCEL.
        let other = orders::encode(&Symbol::new("AAPL").unwrap(), &orders()[0].order.command());
        let (user, order_id) = (UserId::new("alice").unwrap(), OrderId::new("o-1").unwrap());
        for body in [other, orders::encode(&symbol, &Command::Cancel { user, order_id })] {
            let parts =
                Parts { action: "ADD", symbol: &symbol, partition: 3, body: &body, nonce: [7; 16], valid_until: 1 };
            let read = decode(&ring.sign(Purpose::Order, &parts), 3, &ring);
            assert!(matches!(read, Err(BadRecord::Invalid { field: "body", .. })), "{read:?}");
        }
    }
}
