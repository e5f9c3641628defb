//! The order book: a pure machine. Price, then time.
//!
//! Start reading at [`Book::apply`](crate::domain::Machine::apply) (`machine.rs`), then `matching.rs`. The rules in a
//! trader's words are in docs/matching.md.

mod amend;
mod digest;
mod ids;
pub mod invariants;
mod levels;
mod machine;
mod matching;
mod orders;
mod pages;
mod sip;
mod snapshot;
mod stamps;
mod table;

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128, SipHasher13};

pub use ids::FINISHED_MAX;
use ids::{Hasher, Ids};
use levels::{At, Levels};
use orders::{NONE, Order, Orders};
pub use stamps::GATEWAYS_MAX;
use stamps::Stamps;

use crate::domain::output::{Cause, Level, OrderLine, OrderType, Tif};
use crate::domain::{
    Admission, Digest, Instrument, Micros, OrderId, OrderStatus, Outbox, Price, Quantity, Reason, Side, UserId,
};

/// The newest rules version that this build knows: 1 is the first, 2 knows [`Admission::Gateway`].
pub const RULES_VERSION: u32 = 2;
/// Orders that may rest in one book: 4 million x about 150 bytes = 600 MB. It is a rule: every replica must refuse the same
/// order. Only this library's own unit tests have a smaller one, so that a full book costs them nothing.
pub const RESTING_MAX: usize = if cfg!(test) { 4_096 } else { 4_000_000 };

/// A resting order as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOrder {
    pub order_id: OrderId,
    pub user: UserId,
    pub side: Side,
    pub order_type: OrderType,
    pub time_in_force: Tif,
    pub price: Option<Price>,
    /// Total, as submitted or last replaced.
    pub quantity: Quantity,
    pub open: Quantity,
    pub filled: Quantity,
}

/// The prices that an order may have if nothing but a range and the book's `unit` says so: from `low` to `high`. There are
/// none if the instrument has rules beyond that.
#[derive(Debug, Clone, Copy)]
struct Plain {
    low: u64,
    high: u64,
}

impl Plain {
    fn of(i: &Instrument) -> Self {
        if i.ticks.len() != 1 || i.max_order_value.is_some() {
            return Self { low: 1, high: 0 };
        }
        Self { low: i.limit_down.map_or(1, |p| p.0), high: i.limit_up.unwrap_or(Price::MAX).0 }
    }
}

/// One symbol's order book.
#[derive(Debug, Clone)]
pub struct Book {
    instrument: Instrument,
    /// Smallest price step: every valid price is a multiple of it.
    unit: u64,
    plain: Plain,
    hasher: Hasher,
    rules_version: u32,
    halted: bool,
    /// Whether ADD and REPLACE need a gateway's signature.
    needs_signature: bool,
    /// Empty unless it does.
    stamps: Stamps,
    clock: Micros,
    /// Given to the next order that joins a queue.
    next_rank: u64,
    last_trade: Option<(Price, Quantity)>,
    orders: Orders,
    ids: Ids,
    bids: Levels,
    asks: Levels,
    /// Sum of the first of [`digest::of_order`] over resting orders.
    order_sum: u128,
    /// Sum of the second of [`digest::of_order`] over resting orders.
    place_sum: u128,
}

/// Asks the processor to fetch what will be used soon; says nothing else.
#[inline]
fn prefetch<T>(target: Option<&T>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(target) = target {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees; the address is that of a live reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(target).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}

/// Asks for all cache lines of something.
#[inline]
fn prefetch_whole<T>(target: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>()).step_by(64) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as in `prefetch`; the address lies within the referenced value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(target).cast::<i8>().add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Book {
    fn new(instrument: Instrument, id_key: u128, rules_version: u32) -> Self {
        let unit = instrument.ticks.iter().fold(0, |unit, band| gcd(unit, band.tick));
        Self {
            plain: Plain::of(&instrument),
            needs_signature: instrument.admission == Admission::Gateway,
            stamps: Stamps::default(),
            instrument,
            unit,
            hasher: Hasher::new(id_key),
            rules_version,
            halted: false,
            clock: Micros(0),
            next_rank: 1,
            last_trade: None,
            orders: Orders::default(),
            ids: Ids::default(),
            bids: Levels::new(Side::Buy),
            asks: Levels::new(Side::Sell),
            order_sum: 0,
            place_sum: 0,
        }
    }

    /// A copy that shares its memory with this book until this one changes it; to be encoded and digested, not to go on.
    fn frozen(&mut self) -> Self {
        Self {
            instrument: self.instrument.clone(),
            stamps: self.stamps.clone(),
            orders: self.orders.freeze(),
            ids: self.ids.freeze(),
            bids: self.bids.freeze(),
            asks: self.asks.freeze(),
            ..*self
        }
    }

    pub fn instrument(&self) -> &Instrument {
        &self.instrument
    }

    pub fn is_halted(&self) -> bool {
        self.halted
    }

    pub fn resting_orders(&self) -> usize {
        self.orders.len()
    }

    /// Price and quantity of the last trade.
    pub fn last_trade(&self) -> Option<(Price, Quantity)> {
        self.last_trade
    }

    /// Digest of only price, side, open quantity and queue rank: equal for two runs of one flow.
    pub fn book_digest(&self) -> Digest {
        let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x626f_6f6b_6469_6731);
        h.write_u128(self.place_sum);
        h.write_usize(self.orders.len());
        Digest(h.finish128().as_u128())
    }

    fn state_digest(&self) -> Digest {
        let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x7374_6174_6564_6731);
        h.write_u128(self.order_sum);
        h.write_usize(self.orders.len());
        h.write_u128(self.ids.finished_sum());
        h.write_u64(self.ids.finished());
        h.write_u128(self.hasher.key());
        h.write_u64(self.clock.0);
        h.write_u64(self.next_rank);
        h.write_u32(self.rules_version);
        h.write_u8(u8::from(self.halted));
        let (price, quantity) = self.last_trade.map_or((0, 0), |(p, q)| (p.0, q.0));
        h.write_u64(price);
        h.write_u64(quantity);
        let i = &self.instrument;
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
        // Nothing for others: their digests are what they were before there was anything else.
        if self.needs_signature {
            h.write_u8(1);
            self.stamps.digest_into(&mut h);
        }
        Digest(h.finish128().as_u128())
    }

    /// Resting orders by queue rank.
    pub fn open_orders(&self) -> Vec<OpenOrder> {
        self.orders.by_rank().into_iter().map(|slot| self.open_order(slot)).collect()
    }

    fn open_order(&self, slot: u32) -> OpenOrder {
        let o = self.orders.get(slot);
        OpenOrder {
            order_id: o.order_id,
            user: o.user,
            side: o.side(),
            order_type: OrderType::Limit,
            time_in_force: Tif::Gtc,
            price: Some(Price(self.price_of(o))),
            quantity: Quantity(o.quantity.into()),
            open: Quantity(o.open.into()),
            filled: Quantity(o.filled.into()),
        }
    }

    /// The best `levels` levels of a side, best first.
    pub fn depth(&self, side: Side, levels: usize) -> Vec<Level> {
        let of = self.side(side);
        let places = std::iter::successors(of.best(), |at| of.after(*at));
        places.take(levels).map(|at| self.level_view(side, at)).collect()
    }

    #[inline]
    fn side(&self, side: Side) -> &Levels {
        match side {
            Side::Buy => &self.bids,
            Side::Sell => &self.asks,
        }
    }

    #[inline]
    fn side_mut(&mut self, side: Side) -> &mut Levels {
        match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        }
    }

    #[inline]
    fn level_view(&self, side: Side, at: At) -> Level {
        let of = self.side(side);
        let level = of.level(at);
        Level { price: Price(of.step_of(at) * self.unit), quantity: level.total, orders: level.orders }
    }

    /// Number of the price step of a price.
    #[inline]
    fn step(&self, price: u64) -> u64 {
        // A division takes long, and most instruments have a step of 1.
        if self.unit == 1 { price } else { price / self.unit }
    }

    /// The price at which an order rests.
    #[inline]
    fn price_of(&self, order: &Order) -> u64 {
        self.side(order.side()).step_of((order.block, order.place)) * self.unit
    }

    /// Puts an order at the end of a price's queue, with a new rank; gives the level afterwards.
    #[inline(always)]
    fn join(&mut self, slot: u32, side: Side, open: u32, price: u64) -> Level {
        let rank = self.next_rank;
        self.next_rank += 1;
        let step = self.step(price);
        let (at, level) = self.side_mut(side).open(step);
        let prev = std::mem::replace(&mut level.tail, slot);
        if prev == NONE {
            level.head = slot;
        }
        level.orders += 1;
        level.total += u64::from(open);
        let view = Level { price: Price(price), quantity: level.total, orders: level.orders };
        if prev != NONE {
            self.orders.get_mut(prev).next = slot;
        }
        let o = self.orders.get_mut(slot);
        (o.rank, o.block, o.place, o.prev, o.next) = (rank, at.0, at.1, prev, NONE);
        let (whole, placed) = digest::of_order(o, price);
        self.order_sum = self.order_sum.wrapping_add(whole);
        self.place_sum = self.place_sum.wrapping_add(placed);
        view
    }

    /// Takes an order out of its queue; gives the level afterwards. The slot stays.
    #[inline]
    fn leave(&mut self, slot: u32) -> Level {
        let o = self.orders.get(slot);
        let (at, side, open, prev, next) = ((o.block, o.place), o.side(), o.open, o.prev, o.next);
        let price = self.price_of(o);
        let (whole, placed) = digest::of_order(o, price);
        self.order_sum = self.order_sum.wrapping_sub(whole);
        self.place_sum = self.place_sum.wrapping_sub(placed);
        let levels = self.side_mut(side);
        let level = levels.level_mut(at);
        let (is_first, is_last) = (level.head == slot, level.tail == slot);
        if is_first {
            level.head = next;
        }
        if is_last {
            level.tail = if is_first { NONE } else { prev };
        }
        level.orders -= 1;
        level.total -= u64::from(open);
        let view = Level { price: Price(price), quantity: level.total, orders: level.orders };
        if view.orders == 0 {
            levels.close(at);
        }
        if !is_first {
            self.orders.get_mut(prev).next = next;
            if !is_last {
                self.orders.get_mut(next).prev = prev;
            }
        }
        view
    }

    /// Takes `less` from an order's open quantity, `filled` of it by a trade; it keeps its place. Gives the level
    /// afterwards.
    #[inline]
    fn shrink(&mut self, slot: u32, less: u32, filled: u32) -> Level {
        let price = self.price_of(self.orders.get(slot));
        let o = self.orders.get_mut(slot);
        let before = digest::of_order(o, price);
        o.open -= less;
        o.filled += filled;
        let after = digest::of_order(o, price);
        let (at, side) = ((o.block, o.place), o.side());
        self.order_sum = self.order_sum.wrapping_sub(before.0).wrapping_add(after.0);
        self.place_sum = self.place_sum.wrapping_sub(before.1).wrapping_add(after.1);
        let level = self.side_mut(side).level_mut(at);
        level.total -= u64::from(less);
        Level { price: Price(price), quantity: level.total, orders: level.orders }
    }

    #[inline]
    fn count(&mut self, slot: u32, price: u64) {
        let (whole, placed) = digest::of_order(self.orders.get(slot), price);
        self.order_sum = self.order_sum.wrapping_add(whole);
        self.place_sum = self.place_sum.wrapping_add(placed);
    }

    #[inline]
    fn uncount(&mut self, slot: u32, price: u64) {
        let (whole, placed) = digest::of_order(self.orders.get(slot), price);
        self.order_sum = self.order_sum.wrapping_sub(whole);
        self.place_sum = self.place_sum.wrapping_sub(placed);
    }

    /// Ends a resting order: out of its queue, its id finished, its slot free. Gives the level afterwards.
    #[inline]
    fn end_resting(&mut self, slot: u32) -> Level {
        let id = self.orders.get(slot).id;
        let level = self.leave(slot);
        self.end_taken(slot, id);
        level
    }

    /// Ends an order that is in no queue any more.
    #[inline]
    fn end_taken(&mut self, slot: u32, id: ids::Id) {
        self.ids.finish_live(id, slot);
        self.orders.remove(slot);
    }

    /// What is said of the order in a slot, which may just have become free; `open` and `status` as they are after the
    /// output.
    #[inline(always)]
    fn line(&self, slot: u32, price: Price, cause: Cause, status: OrderStatus, reason: Option<Reason>) -> OrderLine {
        let o = self.orders.get(slot);
        OrderLine {
            cause,
            side: o.side(),
            order_type: OrderType::Limit,
            time_in_force: Tif::Gtc,
            price: Some(price),
            quantity: Quantity(o.quantity.into()),
            open: if status.is_open() { Quantity(o.open.into()) } else { Quantity::ZERO },
            filled: Quantity(o.filled.into()),
            status,
            reason,
            left: None,
            joined: None,
        }
    }

    /// Cancels a resting order; gives what is to be said of it.
    #[inline(always)]
    fn cancel_quietly(&mut self, slot: u32, cause: Cause, reason: Reason) -> OrderLine {
        let mut line = self.line(slot, Price(0), cause, OrderStatus::Canceled, Some(reason));
        let left = self.end_resting(slot);
        (line.price, line.left) = (Some(left.price), Some(left));
        line
    }

    /// Cancels a resting order that the command does not name, and says so.
    fn cancel_resting(&mut self, slot: u32, cause: Cause, reason: Reason, out: &mut Outbox) {
        let line = self.cancel_quietly(slot, cause, reason);
        let o = self.orders.get(slot);
        out.order_line(&o.order_id, &o.user, &line, false);
    }
}

/// NEW or PARTIALLY_FILLED.
fn open_status(filled: u32) -> OrderStatus {
    if filled == 0 { OrderStatus::New } else { OrderStatus::PartiallyFilled }
}
