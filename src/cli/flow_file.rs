//! Flow files: recorded order flow in 16 bytes a record, with what it must give in the header.
//!
//! ```text
//! header 64 bytes: "LOBFLOW1" | u64 records | warm-up records | symbols | highest id | fills | filled quantity | orders left
//! record 16 bytes: u32 id | u32 price (ticks) | u32 quantity | u16 symbol | u8 op | u8 side
//! ```
//! Little endian. op 0 limit GTC add, 1 cancel, 2 re-price (keeps the open quantity, loses priority); side 0 buy, 1 sell.
//! Fills and quantity are those of all records, warm-up included.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::domain::{
    Command, NewOrder, OrderId, OrderKind, Price, Quantity, SelfTrade, Side, Symbol, TimeInForce, UserId,
};

const MAGIC: &[u8; 8] = b"LOBFLOW1";
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 16;
/// Users on each side.
const USERS: u32 = 500;

/// What a flow file says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowHeader {
    /// Warm-up included.
    pub records: u64,
    pub warm_up: u64,
    pub symbols: u64,
    pub max_id: u64,
    pub fills: u64,
    pub filled_quantity: u64,
    pub orders_left: u64,
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowOp {
    Add,
    Cancel,
    Reprice,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRecord {
    pub id: u32,
    /// In ticks.
    pub price: u32,
    pub quantity: u32,
    /// Numbered from 0.
    pub symbol: u16,
    pub op: FlowOp,
    pub side: Side,
}

/// Reads a whole file.
///
/// # Errors
/// When it cannot be read or is no flow file.
pub fn read(path: &Path) -> anyhow::Result<(FlowHeader, Vec<FlowRecord>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    decode(&bytes).with_context(|| format!("{} is no flow file", path.display()))
}

/// Reads a file's bytes.
///
/// # Errors
/// When they are not whole or not known.
pub fn decode(bytes: &[u8]) -> anyhow::Result<(FlowHeader, Vec<FlowRecord>)> {
    let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else { bail!("shorter than its header") };
    if &head[..8] != MAGIC {
        bail!("it does not begin with LOBFLOW1");
    }
    let number = |n: usize| u64::from_le_bytes(head[8 * n..8 * n + 8].try_into().unwrap_or_default());
    let header = FlowHeader {
        records: number(1),
        warm_up: number(2),
        symbols: number(3),
        max_id: number(4),
        fills: number(5),
        filled_quantity: number(6),
        orders_left: number(7),
    };
    if body.len() as u64 != header.records * RECORD_BYTES as u64 {
        bail!("{} records announced, {} bytes there", header.records, body.len());
    }
    let records = body.chunks_exact(RECORD_BYTES).map(record).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((header, records))
}

fn record(b: &[u8]) -> anyhow::Result<FlowRecord> {
    let number = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
    Ok(FlowRecord {
        id: number(0),
        price: number(4),
        quantity: number(8),
        symbol: u16::from_le_bytes([b[12], b[13]]),
        op: match b[14] {
            0 => FlowOp::Add,
            1 => FlowOp::Cancel,
            2 => FlowOp::Reprice,
            other => bail!("op {other} is not known"),
        },
        side: match b[15] {
            0 => Side::Buy,
            1 => Side::Sell,
            other => bail!("side {other} is not known"),
        },
    })
}

/// Writes a file's bytes.
pub fn encode(header: &FlowHeader, records: &[FlowRecord]) -> Vec<u8> {
    let mut b = Vec::with_capacity(HEADER_BYTES + records.len() * RECORD_BYTES);
    b.extend_from_slice(MAGIC);
    let h = header;
    for n in [h.records, h.warm_up, h.symbols, h.max_id, h.fills, h.filled_quantity, h.orders_left] {
        b.extend_from_slice(&n.to_le_bytes());
    }
    for r in records {
        for n in [r.id, r.price, r.quantity] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        b.extend_from_slice(&r.symbol.to_le_bytes());
        b.push(match r.op {
            FlowOp::Add => 0,
            FlowOp::Cancel => 1,
            FlowOp::Reprice => 2,
        });
        b.push(r.side as u8);
    }
    b
}

/// `S0000` and so on.
pub fn symbol_of(n: u16) -> Symbol {
    Symbol::new(&format!("S{n:04}")).unwrap_or_else(|_| unreachable!("a letter and digits"))
}

/// A 36-character id that looks as random as a client's UUID and is the same for the same number.
pub fn order_id_of(id: u32) -> OrderId {
    let mut z = u64::from(id).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // The number itself is kept in the last digits, so no two can be equal.
    let text = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:04x}{id:08x}",
        z as u32,
        (z >> 32) as u16,
        (z >> 48) & 0xfff,
        (z >> 20) & 0xfff,
        (z >> 40) as u16
    );
    OrderId::new(&text).unwrap_or_else(|_| unreachable!("36 hexadecimal digits and dashes"))
}

/// The short form of an id.
pub fn numeric_order_id_of(id: u32) -> OrderId {
    OrderId::new(&id.to_string()).unwrap_or_else(|_| unreachable!("digits"))
}

/// The user of an order: buyers and sellers are different people, so self-trade prevention is checked and never fires.
pub fn user_of(side: Side, id: u32) -> UserId {
    let n = id % USERS;
    let digit = if side == Side::Buy { 'b' } else { 'e' };
    UserId::new(&format!("{digit}{n:07x}-5eed-4000-8000-00000000{n:04x}"))
        .unwrap_or_else(|_| unreachable!("36 hexadecimal digits and dashes"))
}

/// The command that a record stands for.
pub fn command_of(r: &FlowRecord, order_id_of: fn(u32) -> OrderId) -> Command {
    let (user, order_id, price) = (user_of(r.side, r.id), order_id_of(r.id), Price(r.price.into()));
    match r.op {
        FlowOp::Cancel => Command::Cancel { user, order_id },
        FlowOp::Reprice => Command::Replace { user, order_id, price: Some(price), quantity: None },
        FlowOp::Add => Command::Add(NewOrder {
            order_id,
            user,
            side: r.side,
            kind: OrderKind::Limit { price },
            quantity: Quantity(r.quantity.into()),
            time_in_force: TimeInForce::Gtc,
            self_trade: SelfTrade::CancelNewest,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_survives_its_bytes_and_a_cut_one_is_refused() {
        let record = FlowRecord { id: 7, price: 100, quantity: 5, symbol: 3, op: FlowOp::Reprice, side: Side::Sell };
        let header = FlowHeader { records: 1, symbols: 4, max_id: 7, ..FlowHeader::default() };
        let bytes = encode(&header, &[record]);
        assert_eq!(decode(&bytes).unwrap(), (header, vec![record]));
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err());
        }
    }

    #[test]
    fn names_have_the_length_of_a_uuid_and_differ() {
        let ids: std::collections::BTreeSet<_> = (0..10_000).map(order_id_of).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.as_str().len() == 36));
        assert_eq!(user_of(Side::Buy, 1).as_str().len(), 36);
        assert_ne!(user_of(Side::Buy, 1), user_of(Side::Sell, 1));
    }
}
