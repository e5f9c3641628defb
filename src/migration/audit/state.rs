//! A book's state as a snapshot holds it, read and digested without the engine: format and digest are written down here
//! a second time, so that one mistake in the engine's cannot hide in both.
//!
//! Numbers are LEB128 unless said otherwise:
//! ```text
//! format 1 | rules version | halted | clock | next rank | last trade price, quantity | id key (16 bytes)
//! instrument (MessagePack, length first) | finished: endings since birth, number remembered, 16 bytes each
//! orders, by rank: number | ranks (differences) | prices (zigzag differences) | quantity | open | filled | flags
//! users: number, texts | user of each order | order ids: 0 and a text, or 1 and the 16 bytes of a UUID
//! state digest (16 bytes)
//! ```
//! Format 2, of a book that takes orders from gateways only, has `gateways: number | id, highest number, until of each` behind
//! the instrument.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::domain::{Admission, Digest, Instrument, Micros, OrderId, Price, Quantity, SelfTrade, Side, UserId};
use crate::migration::naive::{NaiveGateway, NaiveOrder, NaiveState, id_hash};

const FORMAT: u64 = 1;
const FORMAT_WITH_GATEWAYS: u64 = 2;
const FLAG_SELL: u8 = 1;
const FLAG_POST_ONLY: u8 = 2;
const SELF_TRADES: [SelfTrade; 5] =
    [SelfTrade::CancelNewest, SelfTrade::CancelOldest, SelfTrade::CancelBoth, SelfTrade::Decrement, SelfTrade::None];

/// Reads the machine's bytes of a snapshot; gives the state and the digest that it states.
///
/// # Errors
/// What cannot be read.
pub fn decode(bytes: &[u8]) -> Result<(NaiveState, Digest), String> {
    let mut r = Reader(bytes);
    let format = r.number()?;
    if format != FORMAT && format != FORMAT_WITH_GATEWAYS {
        return Err(format!("state has format {format}, the auditor reads {FORMAT} and {FORMAT_WITH_GATEWAYS}"));
    }
    let rules_version = r.small()?;
    let halted = r.number()? != 0;
    let clock = Micros(r.number()?);
    let next_rank = r.number()?;
    let (price, quantity) = (Price(r.number()?), Quantity(r.number()?));
    let id_key = r.u128()?;
    let instrument: Instrument = rmp_serde::from_slice(r.text()?).map_err(|e| format!("instrument: {e}"))?;
    if (instrument.admission == Admission::Gateway) != (format == FORMAT_WITH_GATEWAYS) {
        return Err(format!("state has format {format}, its instrument another"));
    }
    let gateways = if format == FORMAT_WITH_GATEWAYS { r.gateways()? } else { Vec::new() };
    let endings = r.number()?;
    let count = r.count()?;
    let finished = (0..count).map(|_| r.u128()).collect::<Result<Vec<_>, _>>()?;
    let orders = r.orders()?;
    let stated = Digest(r.u128()?);
    if !r.0.is_empty() {
        return Err("there are bytes behind the end".into());
    }
    let last_trade = (price.0 != 0).then_some((price, quantity));
    let state = NaiveState {
        rules_version,
        halted,
        clock,
        next_rank,
        last_trade,
        id_key,
        instrument,
        endings,
        finished,
        orders,
        gateways,
    };
    Ok((state, stated))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        if self.0.len() < n {
            return Err("state is truncated".into());
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err("a number has more than 64 bits".into())
    }

    fn small(&mut self) -> Result<u32, String> {
        u32::try_from(self.number()?).map_err(|_| "a number has more than 32 bits".into())
    }

    /// A count of things of at least one byte each.
    fn count(&mut self) -> Result<usize, String> {
        let n = self.number()?;
        if n > self.0.len() as u64 {
            return Err("a count is larger than what is there".into());
        }
        Ok(n as usize)
    }

    fn gateways(&mut self) -> Result<Vec<NaiveGateway>, String> {
        let count = self.count()?;
        let gateways: Vec<_> = (0..count)
            .map(|_| {
                let (id, highest_number) = (self.number()?, self.number()?);
                Ok(NaiveGateway { id, highest_number, until: Micros(self.number()?) })
            })
            .collect::<Result<_, String>>()?;
        if gateways.is_sorted_by(|a, b| a.id < b.id) { Ok(gateways) } else { Err("gateways are out of order".into()) }
    }

    fn u128(&mut self) -> Result<u128, String> {
        Ok(self.take(16)?.iter().rev().fold(0, |n, b| n << 8 | u128::from(*b)))
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let n = self.count()?;
        self.take(n)
    }

    fn column(&mut self, n: usize) -> Result<Vec<u64>, String> {
        (0..n).map(|_| self.number()).collect()
    }

    fn orders(&mut self) -> Result<Vec<NaiveOrder>, String> {
        let n = self.count()?;
        let (ranks, prices) = (self.column(n)?, self.column(n)?);
        let (quantities, opens, filled) = (self.column(n)?, self.column(n)?, self.column(n)?);
        let flags = self.take(n)?;
        let users = self.count()?;
        let users = (0..users)
            .map(|_| UserId::from_bytes(self.text()?).map_err(|e| format!("user {e}")))
            .collect::<Result<Vec<_>, _>>()?;
        let user_of = self.column(n)?;
        let (mut rank, mut price) = (0u64, 0i64);
        let mut orders = Vec::with_capacity(n);
        for i in 0..n {
            rank = rank.wrapping_add(ranks[i]);
            price = price.wrapping_add((prices[i] >> 1) as i64 ^ -((prices[i] & 1) as i64));
            let user = usize::try_from(user_of[i]).ok().and_then(|u| users.get(u)).ok_or("a user's number")?;
            orders.push(NaiveOrder {
                order_id: self.order_id()?,
                user: *user,
                side: if flags[i] & FLAG_SELL == 0 { Side::Buy } else { Side::Sell },
                price: Price(price as u64),
                quantity: quantities[i],
                open: opens[i],
                filled: filled[i],
                post_only: flags[i] & FLAG_POST_ONLY != 0,
                self_trade: *SELF_TRADES.get(usize::from(flags[i] >> 2)).ok_or("an order's flags")?,
                rank,
            });
        }
        Ok(orders)
    }

    fn order_id(&mut self) -> Result<OrderId, String> {
        let text = match self.take(1)?[0] {
            0 => self.text()?.to_vec(),
            _ => {
                let digits = hex::encode(self.take(16)?);
                let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
                parts.join("-").into_bytes()
            }
        };
        OrderId::from_bytes(&text).map_err(|e| format!("order id {e}"))
    }
}

const K: [u64; 8] = [
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0xd899_65cc_7537_4cc3,
    0xeb44_acca_b455_d165,
    0x9c6e_6877_736c_46e3,
    0xc2b2_ae3d_27d4_eb4f,
    0x9ddf_ea08_eb38_2d69,
];

fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a).wrapping_mul(u128::from(b));
    (p as u64) ^ (p >> 64) as u64
}

fn wide(a: u64, b: u64) -> u128 {
    u128::from(a | 1).wrapping_mul(u128::from(b | 1)) ^ (u128::from(fold(a, b ^ K[7])) << 64)
}

fn flags_of(o: &NaiveOrder) -> u8 {
    let self_trade = SELF_TRADES.iter().position(|s| *s == o.self_trade).unwrap_or_default() as u8;
    u8::from(o.side == Side::Sell) | if o.post_only { FLAG_POST_ONLY } else { 0 } | self_trade << 2
}

fn order_digest(key: u128, o: &NaiveOrder) -> u128 {
    let hash = id_hash(key, &o.user, &o.order_id);
    let id = fold(hash as u64 ^ K[0], (hash >> 64) as u64 ^ K[1]);
    let place = place_of(o);
    let amounts = o.open << 32 | o.filled;
    let rest = o.quantity << 16 | u64::from(flags_of(o));
    wide(id ^ place.rotate_left(29), fold(amounts ^ K[4], rest ^ K[5]) ^ place)
}

fn place_of(o: &NaiveOrder) -> u64 {
    let side = u64::from(o.side == Side::Sell);
    fold((o.price.0 << 1 | side) ^ K[2], o.rank ^ K[3])
}

fn place_digest(o: &NaiveOrder) -> u128 {
    wide(place_of(o), o.open ^ K[6])
}

fn finished_digest(hash: u128, number: u64) -> u128 {
    wide(fold(hash as u64 ^ K[5], number ^ K[6]), (hash >> 64) as u64 ^ K[1])
}

fn sum(items: impl Iterator<Item = u128>) -> u128 {
    items.fold(0, u128::wrapping_add)
}

/// Digest of price, quantity and queue rank of every resting order: `Book::book_digest` in other words.
pub fn book_digest(orders: &[NaiveOrder]) -> Digest {
    let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x626f_6f6b_6469_6731);
    h.write_u128(sum(orders.iter().map(place_digest)));
    h.write_usize(orders.len());
    Digest(h.finish128().as_u128())
}

/// Digest of all that can influence the future.
pub fn state_digest(s: &NaiveState) -> Digest {
    let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x7374_6174_6564_6731);
    h.write_u128(sum(s.orders.iter().map(|o| order_digest(s.id_key, o))));
    h.write_usize(s.orders.len());
    let first = s.endings.wrapping_sub(s.finished.len() as u64);
    h.write_u128(sum((first..).zip(&s.finished).map(|(n, hash)| finished_digest(*hash, n))));
    h.write_u64(s.endings);
    h.write_u128(s.id_key);
    h.write_u64(s.clock.0);
    h.write_u64(s.next_rank);
    h.write_u32(s.rules_version);
    h.write_u8(u8::from(s.halted));
    let (price, quantity) = s.last_trade.map_or((0, 0), |(p, q)| (p.0, q.0));
    h.write_u64(price);
    h.write_u64(quantity);
    let i = &s.instrument;
    h.write_u8(i.price_scale);
    for band in &i.ticks {
        h.write_u64(band.from.0);
        h.write_u64(band.tick);
    }
    h.write_u64(i.lot_size);
    for price in [i.reference_price, i.limit_up, i.limit_down] {
        h.write_u64(price.map_or(0, |p| p.0));
    }
    h.write_u64(i.max_order_value.unwrap_or(0));
    if i.admission == Admission::Gateway {
        h.write_u8(1);
        h.write_usize(s.gateways.len());
        for g in &s.gateways {
            [g.id, g.highest_number, g.until.0].into_iter().for_each(|n| h.write_u64(n));
        }
    }
    Digest(h.finish128().as_u128())
}
