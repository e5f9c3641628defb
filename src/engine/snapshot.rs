//! The book's state as bytes: columns, so that the compression around them has something to find.
//!
//! All numbers are LEB128 variable-length integers unless said otherwise.
//!
//! ```text
//! format 1 | rules version | halted | clock | next rank | last trade price, quantity | id key (16 bytes)
//! instrument (MessagePack, length first) | finished: endings since birth, number remembered, 16 bytes each
//! orders, by rank: number | ranks (differences) | prices (zigzag differences) | quantity | open | filled | flags
//! users: number, texts | user of each order | order ids: 0 and a text, or 1 and the 16 bytes of a UUID
//! state digest (16 bytes)
//! ```
//!
//! Format 2 is that of a book that takes orders from gateways only, and has behind the instrument:
//!
//! ```text
//! gateways: number | id, highest number of an order, end of validity of each, by id
//! ```
//!
//! Reading checks everything: a book that is decoded can only be one that was encoded.

use std::collections::BTreeMap;

use super::ids::{FINISHED_MAX, Ids};
use super::orders::{Fresh, flags_are_valid};
use super::{Book, GATEWAYS_MAX, RESTING_MAX, RULES_VERSION};
use crate::domain::machine::SnapshotError;
use crate::domain::{Admission, Digest, Instrument, Machine, Micros, OrderId, Price, Quantity, Side, UserId};

const FORMAT_OPEN: u64 = 1;
const FORMAT_GATEWAY: u64 = 2;

pub(super) fn encode(book: &Book, b: &mut Vec<u8>) {
    put(b, if book.needs_signature { FORMAT_GATEWAY } else { FORMAT_OPEN });
    put(b, book.rules_version.into());
    put(b, book.halted.into());
    put(b, book.clock.0);
    put(b, book.next_rank);
    let (price, quantity) = book.last_trade.map_or((0, 0), |(p, q)| (p.0, q.0));
    put(b, price);
    put(b, quantity);
    b.extend_from_slice(&book.hasher.key().to_le_bytes());
    put_text(b, &rmp_serde::to_vec(&book.instrument).unwrap_or_default());
    if book.needs_signature {
        put(b, book.stamps.len() as u64);
        for (gateway, number, until) in book.stamps.iter() {
            [gateway, number, until.0].into_iter().for_each(|n| put(b, n));
        }
    }
    put(b, book.ids.finished());
    let remembered: Vec<_> = book.ids.remembered().map(|(_, id)| id).collect();
    put(b, remembered.len() as u64);
    for [low, high] in remembered {
        b.extend_from_slice(&low.to_le_bytes());
        b.extend_from_slice(&high.to_le_bytes());
    }
    put_orders(book, b);
    b.extend_from_slice(&book.digest().0.to_le_bytes());
}

fn put_orders(book: &Book, b: &mut Vec<u8>) {
    let slots = book.orders.by_rank();
    put(b, slots.len() as u64);
    let orders = || slots.iter().map(|slot| book.orders.get(*slot));
    let mut last = 0;
    for o in orders() {
        put(b, o.rank - last);
        last = o.rank;
    }
    let mut last = 0i64;
    for price in orders().map(|o| book.price_of(o)) {
        put_signed(b, (price as i64).wrapping_sub(last));
        last = price as i64;
    }
    orders().for_each(|o| put(b, o.quantity.into()));
    orders().for_each(|o| put(b, o.open.into()));
    orders().for_each(|o| put(b, o.filled.into()));
    orders().for_each(|o| b.push(o.flags));
    let names = orders;
    let mut users: BTreeMap<UserId, u64> = names().map(|n| (n.user, 0)).collect();
    put(b, users.len() as u64);
    for (n, (user, number)) in (0..).zip(&mut users) {
        *number = n;
        put_text(b, user.as_bytes());
    }
    names().for_each(|n| put(b, users[&n.user]));
    names().for_each(|n| put_order_id(b, &n.order_id));
}

fn put(b: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        b.push(n as u8 | 0x80);
        n >>= 7;
    }
    b.push(n as u8);
}

fn put_signed(b: &mut Vec<u8>, n: i64) {
    put(b, ((n << 1) ^ (n >> 63)) as u64);
}

fn put_text(b: &mut Vec<u8>, s: &[u8]) {
    put(b, s.len() as u64);
    b.extend_from_slice(s);
}

/// Where a UUID's text has its dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];

fn put_order_id(b: &mut Vec<u8>, id: &OrderId) {
    match uuid_bytes(id.as_bytes()) {
        Some(bytes) => {
            b.push(1);
            b.extend_from_slice(&bytes);
        }
        None => {
            b.push(0);
            put_text(b, id.as_bytes());
        }
    }
}

/// The 16 bytes of a lower-case UUID text.
fn uuid_bytes(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || DASHES.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let digits = text.iter().enumerate().filter(|(at, _)| !DASHES.contains(at)).map(|(_, c)| *c);
    let mut bytes = [0; 16];
    for (n, c) in digits.enumerate() {
        let value = match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => return None,
        };
        bytes[n / 2] = bytes[n / 2] << 4 | value;
    }
    Some(bytes)
}

fn uuid_text(bytes: &[u8]) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut digits = bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    for (at, c) in text.iter_mut().enumerate() {
        if !DASHES.contains(&at) {
            *c = digits.next().unwrap_or(b'0');
        }
    }
    text
}

fn damaged(what: &str) -> SnapshotError {
    SnapshotError::Damaged { what: what.into() }
}

struct Reader<'a> {
    bytes: &'a [u8],
    whole: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], SnapshotError> {
        if self.bytes.len() < n {
            return Err(SnapshotError::Truncated { need: self.whole - self.bytes.len() + n, have: self.whole });
        }
        let (head, tail) = self.bytes.split_at(n);
        self.bytes = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64, SnapshotError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte == 0 && shift > 0 {
                // The same number could have been written shorter: nothing of ours did that.
                break;
            }
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(damaged("number is not written in its shortest form"))
    }

    fn small(&mut self, what: &str) -> Result<u32, SnapshotError> {
        u32::try_from(self.number()?).map_err(|_| damaged(what))
    }

    fn signed(&mut self) -> Result<i64, SnapshotError> {
        let n = self.number()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// A count of things of at least `size` bytes each: bounded by what is there, before anything is allocated.
    fn count(&mut self, size: usize, max: usize) -> Result<usize, SnapshotError> {
        let n = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if n > max {
            return Err(damaged("count is too large"));
        }
        if n.saturating_mul(size) > self.bytes.len() {
            return Err(SnapshotError::Truncated { need: self.whole + n * size, have: self.whole });
        }
        Ok(n)
    }

    fn text(&mut self) -> Result<&'a [u8], SnapshotError> {
        let n = self.count(1, 1 << 20)?;
        self.take(n)
    }

    fn u128(&mut self) -> Result<u128, SnapshotError> {
        let bytes = self.take(16)?;
        Ok(u128::from_le_bytes(bytes.try_into().map_err(|_| damaged("number"))?))
    }

    fn column<T>(
        &mut self,
        n: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<Vec<T>, SnapshotError> {
        (0..n).map(|_| read(self)).collect()
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Book, SnapshotError> {
    let mut r = Reader { bytes, whole: bytes.len() };
    let format = r.number()?;
    if format > FORMAT_GATEWAY {
        return Err(SnapshotError::Newer { found: format.min(u32::MAX.into()) as u32, known: FORMAT_GATEWAY as u32 });
    }
    if format == 0 {
        return Err(damaged("format"));
    }
    let rules = r.small("rules version")?;
    if rules == 0 || rules > RULES_VERSION {
        return Err(SnapshotError::RulesUnknown { found: rules });
    }
    let halted = match r.number()? {
        0 => false,
        1 => true,
        _ => return Err(damaged("halted")),
    };
    let (clock, next_rank) = (Micros(r.number()?), r.number()?);
    let (last_price, last_quantity) = (Price(r.number()?), Quantity(r.number()?));
    if (last_price.0 == 0) != last_quantity.is_zero() {
        return Err(damaged("last trade"));
    }
    let key = r.u128()?;
    let instrument: Instrument = rmp_serde::from_slice(r.text()?).map_err(|_| damaged("instrument"))?;
    instrument.check().map_err(damaged)?;
    if rules < instrument.rules_needed() || (format == FORMAT_GATEWAY) != (instrument.admission == Admission::Gateway) {
        return Err(damaged("format and instrument disagree"));
    }
    let mut book = Book::new(instrument, key, rules);
    if book.needs_signature {
        read_stamps(&mut r, &mut book)?;
    }
    (book.halted, book.clock, book.next_rank) = (halted, clock, next_rank);
    book.last_trade = (last_price.0 != 0).then_some((last_price, last_quantity));
    let (finished, remembered) = read_finished(&mut r)?;
    book.ids = Ids::restore(finished, &remembered, &book.orders).ok_or_else(|| damaged("finished ids"))?;
    read_orders(&mut r, &mut book)?;
    let (stated, computed) = (Digest(r.u128()?), book.digest());
    if !r.bytes.is_empty() {
        return Err(damaged("bytes behind the end"));
    }
    if stated != computed {
        return Err(SnapshotError::Digest { stated, computed });
    }
    Ok(book)
}

fn read_stamps(r: &mut Reader<'_>, book: &mut Book) -> Result<(), SnapshotError> {
    for _ in 0..r.count(3, GATEWAYS_MAX)? {
        let (gateway, number, until) = (r.number()?, r.number()?, Micros(r.number()?));
        if !book.stamps.restore(gateway, number, until) {
            return Err(damaged("order of gateways"));
        }
    }
    Ok(())
}

fn read_finished(r: &mut Reader<'_>) -> Result<(u64, Vec<[u64; 2]>), SnapshotError> {
    let finished = r.number()?;
    let count = r.count(16, FINISHED_MAX)?;
    if finished < count as u64 || finished > u64::MAX / 2 {
        return Err(damaged("number of finished ids"));
    }
    let ids = r.column(count, |r| r.u128().map(|n| [n as u64, (n >> 64) as u64]))?;
    Ok((finished, ids))
}

fn read_orders(r: &mut Reader<'_>, book: &mut Book) -> Result<(), SnapshotError> {
    let n = r.count(1, RESTING_MAX)?;
    let mut rank = 0u64;
    let ranks = r.column(n, |r| {
        let step = r.number()?;
        rank = rank.checked_add(step).filter(|_| step > 0).ok_or_else(|| damaged("queue rank"))?;
        Ok(rank)
    })?;
    let mut price = 0i64;
    let prices = r.column(n, |r| {
        price = price.wrapping_add(r.signed()?);
        Ok(price as u64)
    })?;
    let quantities = r.column(n, |r| r.small("quantity"))?;
    let opens = r.column(n, |r| r.small("open quantity"))?;
    let filled = r.column(n, |r| r.small("filled quantity"))?;
    let flags = r.take(n)?;
    let users = r.count(2, n)?;
    let users = r.column(users, |r| UserId::from_bytes(r.text()?).map_err(|_| damaged("user")))?;
    let user_of = r.column(n, |r| r.small("user number"))?;
    let next_rank = book.next_rank;
    for i in 0..n {
        let user = *users.get(user_of[i] as usize).ok_or_else(|| damaged("user number"))?;
        let order_id = read_order_id(r)?;
        let order = Fresh {
            id: book.hasher.id(&user, &order_id),
            open: opens[i],
            filled: filled[i],
            quantity: quantities[i],
            flags: flags[i],
            user: &user,
            order_id: &order_id,
        };
        check(book, &order, prices[i])?;
        if ranks[i] >= next_rank {
            return Err(damaged("order's rank"));
        }
        book.next_rank = ranks[i];
        let slot = book.orders.insert(&order);
        book.ids.live(order.id, slot);
        let side = book.orders.get(slot).side();
        book.join(slot, side, opens[i], prices[i]);
    }
    book.next_rank = next_rank;
    let crossed = match (book.bids.best(), book.asks.best()) {
        (Some(bid), Some(ask)) => book.level_view(Side::Buy, bid).price >= book.level_view(Side::Sell, ask).price,
        _ => false,
    };
    if crossed { Err(damaged("book is crossed")) } else { Ok(()) }
}

fn check(book: &Book, o: &Fresh<'_>, price: u64) -> Result<(), SnapshotError> {
    let amounts = u64::from(o.open) + u64::from(o.filled) <= u64::from(o.quantity);
    if o.open == 0 || !amounts || u64::from(o.quantity) > Quantity::MAX.0 {
        return Err(damaged("order's quantities"));
    }
    if price == 0 || price > Price::MAX.0 || !price.is_multiple_of(book.unit) {
        return Err(damaged("order's price"));
    }
    if !flags_are_valid(o.flags) {
        return Err(damaged("order's flags"));
    }
    if book.ids.find(o.id, &book.orders).is_some() {
        return Err(damaged("order id is there twice"));
    }
    Ok(())
}

fn read_order_id(r: &mut Reader<'_>) -> Result<OrderId, SnapshotError> {
    let id = match r.take(1)?[0] {
        0 => OrderId::from_bytes(r.text()?),
        1 => OrderId::from_bytes(&uuid_text(r.take(16)?)),
        _ => return Err(damaged("order id")),
    };
    id.map_err(|_| damaged("order id"))
}
