//! Where a machine's outputs are numbered and written down.
//!
//! Outputs are encoded as they are emitted: one copy, and "same bytes" can be compared as bytes. All integers are
//! little endian. One output:
//!
//! ```text
//! u32 length of all of it | u8 kind | u8 flags (1 answer, 2 end) | u8 classes | u8 0
//! u64 seq | u64 offset | u64 at | u64 epoch | u64 origin.gateway | u64 origin.counter
//! u64 prev_seq for each class it belongs to, in the order of Classes::EACH
//! the body of its kind
//! ```

mod reading;

use super::ids::{OrderId, UserId};
use super::instrument::{Admission, Instrument};
use super::numbers::{Epoch, Micros, Offset, Origin, Price, Quantity, Seq, Side};
use super::output::{Level, OrderLine, OrderUpdate, OutputBody, PartyLine, Trade};

pub use reading::{BadOutput, Header};

/// A set of derived topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Classes(pub u8);

impl Classes {
    pub const NONE: Self = Self(0);
    pub const FILLS: Self = Self(1);
    pub const TRADES: Self = Self(2);
    pub const DEPTH: Self = Self(4);
    pub const ORDER_STATUS: Self = Self(8);
    pub const EACH: [Self; 4] = [Self::FILLS, Self::TRADES, Self::DEPTH, Self::ORDER_STATUS];

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Classes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The last seq given out, in all and per class: state of the machine, kept beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Seqs {
    pub last: Seq,
    /// In the order of [`Classes::EACH`].
    pub by_class: [Seq; 4],
}

const FLAG_ANSWER: u8 = 1;
const FLAG_END: u8 = 2;
const HEADER: usize = 56;
/// Room for any output: a listing has at most 56 + 37 + 4 + 2 + 16 x 16 + 41 bytes, a trade 56 + 32 + 17 + 2 x 90 + 20.
const OUTPUT_BYTES_MAX: usize = 448;

const ADMISSION_GATEWAY: u8 = 1;
const KIND_TRADE: u8 = 1;
const KIND_ORDER: u8 = 2;
const KIND_REFUSED: u8 = 3;
const KIND_ALL_CANCELED: u8 = 4;
const KIND_LISTED: u8 = 5;
const KIND_HALTED: u8 = 6;
const KIND_RESUMED: u8 = 7;
const KIND_RULES_SET: u8 = 8;
const KIND_SESSION_ENDED: u8 = 9;

/// What each output of an input repeats, so that it is copied in few pieces.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Cited {
    offset: Offset,
    at: Micros,
    origin: Origin,
}

/// Collects the outputs of one input after another.
///
/// Use: `begin`, any number of `emit`, `end`. `end` marks the last output.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    seqs: Seqs,
    epoch: Epoch,
    /// The first `used` are outputs, behind them is room.
    bytes: Vec<u8>,
    used: usize,
    /// Bytes to make room for at once.
    wanted: usize,
    count: u32,
    of: Cited,
    /// Start of the current input's last output.
    last: Option<usize>,
}

impl Outbox {
    /// An empty one that goes on behind `seqs`.
    pub fn new(seqs: Seqs, epoch: Epoch) -> Self {
        Self { seqs, epoch, ..Self::default() }
    }

    pub fn seqs(&self) -> Seqs {
        self.seqs
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The epoch that outputs carry from now on.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Starts the outputs of one record.
    #[inline]
    pub fn begin(&mut self, offset: Offset, at: Micros, origin: Origin) {
        self.of = Cited { offset, at, origin };
        self.last = None;
    }

    /// Writes one output down and gives its seq.
    #[inline]
    pub fn emit(&mut self, body: &OutputBody, answer: bool) -> Seq {
        match body {
            OutputBody::Trade(t) => self.trade(t),
            OutputBody::Order(o) => self.order(o, answer),
            other => self.rare(other, answer),
        }
    }

    /// Writes a trade down.
    pub fn trade(&mut self, t: &Trade) -> Seq {
        self.trade_line(t.price, t.quantity, t.maker_side, t.level, [t.maker.line(), t.taker.line()])
    }

    /// Writes an order update down.
    pub fn order(&mut self, o: &OrderUpdate, answer: bool) -> Seq {
        self.order_line(&o.order_id, &o.user, &o.line(), answer)
    }

    /// Writes a trade down, its names from where they are. `parties`: maker, taker.
    #[inline]
    pub fn trade_line(
        &mut self,
        price: Price,
        quantity: Quantity,
        maker_side: Side,
        level: Level,
        parties: [PartyLine<'_>; 2],
    ) -> Seq {
        let (start, mut w) = self.header(KIND_TRADE, false, Classes(15), [0, 1, 2, 3]);
        w.u64(price.0);
        w.u64(quantity.0);
        w.u8(maker_side as u8);
        if parties.iter().all(|p| are_long(p.order_id, p.user)) {
            parties.iter().for_each(|p| w.party::<true>(p));
            w.level(&level);
        } else {
            parties.iter().for_each(|p| w.party::<false>(p));
            w.level(&level);
        }
        let length = w.finish();
        self.close(start, length)
    }

    /// Writes an order update down, its names from where they are.
    #[inline(never)]
    pub fn order_line(&mut self, order_id: &OrderId, user: &UserId, o: &OrderLine, answer: bool) -> Seq {
        self.order_line_here(order_id, user, o, answer)
    }

    /// The same for callers that know most of the update beforehand: the compiler then leaves out what they do not need.
    #[inline(always)]
    pub fn order_line_here(&mut self, order_id: &OrderId, user: &UserId, o: &OrderLine, answer: bool) -> Seq {
        if o.left.is_some() || o.joined.is_some() {
            let (start, mut w) = self.header(KIND_ORDER, answer, Classes::DEPTH | Classes::ORDER_STATUS, [2, 3]);
            w.order(order_id, user, o);
            let length = w.finish();
            self.close(start, length)
        } else {
            let (start, mut w) = self.header(KIND_ORDER, answer, Classes::ORDER_STATUS, [3]);
            w.order(order_id, user, o);
            let length = w.finish();
            self.close(start, length)
        }
    }

    fn rare(&mut self, body: &OutputBody, answer: bool) -> Seq {
        let kind = match body {
            OutputBody::Trade(_) => KIND_TRADE,
            OutputBody::Order(_) => KIND_ORDER,
            OutputBody::Refused { .. } => KIND_REFUSED,
            OutputBody::AllCanceled { .. } => KIND_ALL_CANCELED,
            OutputBody::Listed { .. } => KIND_LISTED,
            OutputBody::Halted => KIND_HALTED,
            OutputBody::Resumed => KIND_RESUMED,
            OutputBody::RulesSet { .. } => KIND_RULES_SET,
            OutputBody::SessionEnded => KIND_SESSION_ENDED,
        };
        let (start, mut w) = self.header(kind, answer, Classes::NONE, []);
        match body {
            OutputBody::Refused { command, user, order_id, reason } => {
                w.put([*command as u8, *reason as u8]);
                w.text(user.as_ref().map_or(&[0; UserId::MAX], UserId::padded), user.as_ref().map_or(0, UserId::len));
                let id = order_id.as_ref();
                w.text(id.map_or(&[0; OrderId::MAX], OrderId::padded), id.map_or(0, OrderId::len));
            }
            OutputBody::AllCanceled { user, count } => {
                w.text(user.padded(), user.len());
                w.u32(*count);
            }
            OutputBody::Listed { instrument, owner, rules_version } => {
                w.text(owner.padded(), owner.len());
                w.u32(*rules_version);
                w.instrument(instrument);
            }
            OutputBody::RulesSet { version } => w.u32(*version),
            _ => {}
        }
        let length = w.finish();
        self.close(start, length)
    }

    /// Ends the outputs of one record: marks the last one.
    ///
    /// # Panics
    /// In debug builds, when the record gave no output.
    #[inline]
    pub fn end(&mut self) {
        debug_assert!(self.last.is_some(), "each record gives an answer");
        if let Some(at) = self.last {
            self.bytes[at + 5] |= FLAG_END;
        }
    }

    /// What was written since the last [`Self::clear`]: whole outputs, one behind the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// The room behind them that is there already, for who wants its memory near.
    pub fn room(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// How many outputs [`Self::bytes`] holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Takes what was written out, without a copy; the numbering goes on.
    pub fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(self.used);
        // The next batch will need about as much.
        self.wanted = self.used + OUTPUT_BYTES_MAX;
        self.clear();
        bytes
    }

    /// Forgets the written outputs, keeps the numbering.
    pub fn clear(&mut self) {
        self.used = 0;
        self.count = 0;
        self.last = None;
    }

    /// Writes the fixed part; gives where it begins, and the room behind it. `members` are the places of `classes` in
    /// [`Classes::EACH`].
    #[inline(always)]
    fn header<const N: usize>(
        &mut self,
        kind: u8,
        answer: bool,
        classes: Classes,
        members: [usize; N],
    ) -> (usize, Writer<'_>) {
        let start = self.used;
        if self.bytes.len() - start < OUTPUT_BYTES_MAX {
            self.grow();
        }
        let seq = self.seqs.last.next();
        self.seqs.last = seq;
        self.count += 1;
        self.last = Some(start);
        let mut w = Writer::new(&mut self.bytes[start..]);
        w.put([0, 0, 0, 0, kind, if answer { FLAG_ANSWER } else { 0 }, classes.0, 0]);
        w.u64(seq.0);
        let Cited { offset, at, origin } = self.of;
        [offset.0, at.0, self.epoch.0, origin.gateway, origin.counter].into_iter().for_each(|n| w.u64(n));
        for member in members {
            w.u64(std::mem::replace(&mut self.seqs.by_class[member], seq).0);
        }
        (start, w)
    }

    #[cold]
    fn grow(&mut self) {
        let length = (self.bytes.len() * 2).max(self.wanted).max(self.used + 2 * OUTPUT_BYTES_MAX);
        self.bytes.resize(length, 0);
    }

    #[inline]
    fn close(&mut self, start: usize, length: usize) -> Seq {
        self.used = start + length;
        self.seqs.last
    }
}

/// Whether both names have the length of a UUID, as most have.
#[inline(always)]
fn are_long(order_id: &OrderId, user: &UserId) -> bool {
    order_id.len() == OrderId::MAX && user.len() == UserId::MAX
}

/// Writes one output. The room has a fixed size, so most writes need no check.
struct Writer<'a> {
    room: &'a mut [u8; OUTPUT_BYTES_MAX],
    at: usize,
}

impl<'a> Writer<'a> {
    #[inline(always)]
    fn new(bytes: &'a mut [u8]) -> Self {
        let room = bytes.first_chunk_mut().unwrap_or_else(|| unreachable!("the outbox has made room"));
        Self { room, at: 0 }
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.room[self.at..][..N].copy_from_slice(&bytes);
        self.at = self.at.wrapping_add(N);
    }

    #[inline(always)]
    fn u8(&mut self, n: u8) {
        self.put([n]);
    }

    #[inline(always)]
    fn u32(&mut self, n: u32) {
        self.put(n.to_le_bytes());
    }

    #[inline(always)]
    fn u64(&mut self, n: u64) {
        self.put(n.to_le_bytes());
    }

    /// Puts the length in front; gives it.
    #[inline(always)]
    fn finish(self) -> usize {
        self.room[..4].copy_from_slice(&(self.at as u32).to_le_bytes());
        self.at
    }

    /// The two names of an order. If they are known to be [`are_long`], everything behind them has a fixed place, which
    /// saves half of the instructions.
    #[inline(always)]
    fn names<const LONG: bool>(&mut self, order_id: &OrderId, user: &UserId) {
        self.text(order_id.padded(), if LONG { OrderId::MAX } else { order_id.len() });
        self.text(user.padded(), if LONG { UserId::MAX } else { user.len() });
    }

    #[inline(always)]
    fn party<const LONG: bool>(&mut self, party: &PartyLine<'_>) {
        self.names::<LONG>(party.order_id, party.user);
        self.u64(party.open.0);
        self.u64(party.filled.0);
    }

    /// Length and text: all of its room is copied, which takes the same few instructions for each, and what comes next
    /// is written over its end.
    #[inline(always)]
    fn text<const N: usize>(&mut self, padded: &[u8; N], length: usize) {
        self.u8(length as u8);
        self.room[self.at..][..N].copy_from_slice(padded);
        self.at = self.at.wrapping_add(length);
    }

    #[inline(always)]
    fn order(&mut self, order_id: &OrderId, user: &UserId, o: &OrderLine) {
        let present = u8::from(o.price.is_some()) | u8::from(o.left.is_some()) << 1 | u8::from(o.joined.is_some()) << 2;
        self.put([
            o.cause as u8,
            o.side as u8,
            o.order_type as u8,
            o.time_in_force as u8,
            o.status as u8,
            o.reason.map_or(0, |r| r as u8),
            present,
            0,
        ]);
        self.u64(o.quantity.0);
        self.u64(o.open.0);
        self.u64(o.filled.0);
        if are_long(order_id, user) {
            self.names::<true>(order_id, user);
            self.rest_of_order(o);
        } else {
            self.names::<false>(order_id, user);
            self.rest_of_order(o);
        }
    }

    #[inline(always)]
    fn rest_of_order(&mut self, o: &OrderLine) {
        if let Some(price) = o.price {
            self.u64(price.0);
        }
        if let Some(level) = &o.left {
            self.level(level);
        }
        if let Some(level) = &o.joined {
            self.level(level);
        }
    }

    #[inline(always)]
    fn level(&mut self, l: &Level) {
        self.u64(l.price.0);
        self.u64(l.quantity);
        self.u32(l.orders);
    }

    fn instrument(&mut self, i: &Instrument) {
        self.u8(i.price_scale);
        self.u8(i.ticks.len() as u8);
        for band in &i.ticks {
            self.u64(band.from.0);
            self.u64(band.tick);
        }
        self.u64(i.lot_size);
        // 0 stands for "none": none of these may be 0.
        self.u64(i.reference_price.map_or(0, |p| p.0));
        self.u64(i.limit_up.map_or(0, |p| p.0));
        self.u64(i.limit_down.map_or(0, |p| p.0));
        self.u64(i.max_order_value.unwrap_or(0));
        // Nothing for "open": that is how it was before there was anything else.
        if i.admission == Admission::Gateway {
            self.u8(ADMISSION_GATEWAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::NodeId;
    use crate::domain::output::{Cause, CommandKind, OrderStatus, OrderType, Output, Party, Tif};
    use crate::domain::reason::Reason;

    fn party(id: &str) -> Party {
        Party {
            order_id: OrderId::new(id).unwrap(),
            user: UserId::new("u").unwrap(),
            open: Quantity(3),
            filled: Quantity(4),
        }
    }

    fn samples() -> Vec<OutputBody> {
        let level = Level { price: Price(10), quantity: 70, orders: 2 };
        let order = OrderUpdate {
            cause: Cause::Added,
            order_id: OrderId::new("o-1").unwrap(),
            user: UserId::new("alice").unwrap(),
            side: Side::Sell,
            order_type: OrderType::Limit,
            time_in_force: Tif::Gtc,
            price: Some(Price(10)),
            quantity: Quantity(70),
            open: Quantity(70),
            filled: Quantity(0),
            status: OrderStatus::New,
            reason: None,
            left: None,
            joined: Some(level),
        };
        let mut instrument = Instrument::plain(2, 5, 10);
        instrument.limit_up = Some(Price(500));
        let closed = Instrument { admission: Admission::Gateway, ..instrument.clone() };
        vec![
            OutputBody::Listed { instrument: closed, owner: NodeId::new("n1").unwrap(), rules_version: 2 },
            OutputBody::Listed { instrument, owner: NodeId::new("n1").unwrap(), rules_version: 1 },
            OutputBody::Order(order),
            OutputBody::Order(OrderUpdate { price: None, joined: None, reason: Some(Reason::NoLiquidity), ..order }),
            OutputBody::Trade(Trade {
                price: Price(10),
                quantity: Quantity(5),
                maker_side: Side::Sell,
                maker: party("m"),
                taker: party("t"),
                level,
            }),
            OutputBody::Refused {
                command: CommandKind::Cancel,
                user: Some(UserId::new("u").unwrap()),
                order_id: None,
                reason: Reason::UnknownOrder,
            },
            OutputBody::AllCanceled { user: UserId::new("u").unwrap(), count: 2 },
            OutputBody::Halted,
            OutputBody::Resumed,
            OutputBody::RulesSet { version: 2 },
            OutputBody::SessionEnded,
        ]
    }

    fn written() -> (Outbox, Vec<OutputBody>) {
        let mut out = Outbox::new(Seqs::default(), Epoch(3));
        let bodies = samples();
        for (i, body) in bodies.iter().enumerate() {
            out.begin(Offset(i as u64), Micros(9), Origin { gateway: 1, counter: i as u64 });
            out.emit(body, true);
            out.end();
        }
        (out, bodies)
    }

    #[test]
    fn every_kind_survives_its_bytes_and_seqs_are_dense() {
        let (out, bodies) = written();
        let read: Vec<Output> = Output::decode_all(out.bytes()).map(Result::unwrap).collect();
        assert_eq!(read.iter().map(|o| o.seq.0).collect::<Vec<_>>(), (1..=bodies.len() as u64).collect::<Vec<_>>());
        assert!(read.iter().all(|o| o.end && o.epoch == Epoch(3) && o.classes == o.body.classes()));
        assert_eq!(read.into_iter().map(|o| o.body).collect::<Vec<_>>(), bodies);
    }

    #[test]
    fn prev_seq_chains_each_class() {
        let (out, _) = written();
        let mut last = [Seq(0); 4];
        for o in Output::decode_all(out.bytes()).map(Result::unwrap) {
            for (i, class) in Classes::EACH.into_iter().enumerate() {
                if o.classes.has(class) && o.body.classes().has(class) {
                    assert_eq!(o.prev_seq[i], last[i]);
                    last[i] = o.seq;
                }
            }
        }
        assert_eq!(last, out.seqs().by_class);
    }

    #[test]
    fn a_cut_output_is_refused_at_every_length() {
        let (out, _) = written();
        let first = Header::read(out.bytes()).unwrap().length;
        for n in 0..first {
            assert!(Output::decode(&out.bytes()[..n]).is_err(), "{n} of {first} bytes were accepted");
        }
    }
}
