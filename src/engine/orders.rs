//! Orders in memory: a slab of 64-byte records linked by 32-bit slots, and beside it their names, which only trades and
//! snapshots read: a command brings the names of its own order with it.

use super::pages::Pages;
use crate::domain::{OrderId, SelfTrade, Side, UserId};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// In a free slot: no hash of a name, but for one in 2^128.
const NO_ID: [u64; 2] = [0; 2];

const FLAG_SELL: u8 = 1;
const FLAG_POST_ONLY: u8 = 2;
const STP_SHIFT: u8 = 2;

/// A resting order: one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Order {
    pub next: u32,
    /// Not kept up to date for the first of a queue.
    pub prev: u32,
    /// Block of its price level: with `place` it gives the price.
    pub block: u32,
    /// Quantities fit in 32 bits: `Quantity::MAX` is 10^9.
    pub open: u32,
    pub filled: u32,
    pub quantity: u32,
    /// Value of the rest counter when it joined its queue.
    pub rank: u64,
    /// Keyed hash of (user, order id).
    pub id: [u64; 2],
    /// [`user_mark`] of its user.
    pub user: u64,
    pub place: u8,
    pub flags: u8,
}

const _: () = assert!(size_of::<Order>() == 64);

const EMPTY: Order = Order {
    next: NONE,
    prev: NONE,
    block: NONE,
    open: 0,
    filled: 0,
    quantity: 0,
    rank: 0,
    id: NO_ID,
    user: 0,
    place: 0,
    flags: 0,
};

impl Order {
    pub fn side(&self) -> Side {
        if self.flags & FLAG_SELL == 0 { Side::Buy } else { Side::Sell }
    }

    pub fn post_only(&self) -> bool {
        self.flags & FLAG_POST_ONLY != 0
    }

    pub fn self_trade(&self) -> SelfTrade {
        match self.flags >> STP_SHIFT {
            0 => SelfTrade::CancelNewest,
            1 => SelfTrade::CancelOldest,
            2 => SelfTrade::CancelBoth,
            3 => SelfTrade::Decrement,
            _ => SelfTrade::None,
        }
    }
}

/// Packs what does not change while an order rests.
pub(super) fn flags(side: Side, post_only: bool, self_trade: SelfTrade) -> u8 {
    let stp = match self_trade {
        SelfTrade::CancelNewest => 0,
        SelfTrade::CancelOldest => 1,
        SelfTrade::CancelBoth => 2,
        SelfTrade::Decrement => 3,
        SelfTrade::None => 4,
    };
    u8::from(side == Side::Sell) | if post_only { FLAG_POST_ONLY } else { 0 } | stp << STP_SHIFT
}

/// Whether [`flags`] could have given this.
pub(super) fn flags_are_valid(flags: u8) -> bool {
    flags >> STP_SHIFT <= 4
}

/// The names of an order, for its outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub order_id: OrderId,
    pub user: UserId,
}

/// All resting orders by slot.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    slab: Pages<Order>,
    /// By slot.
    names: Pages<Names>,
    /// A few bits of each user, 0 for a free slot: CANCEL_ALL scans 1 byte per order.
    user_tags: Vec<u8>,
    free: Vec<u32>,
    resting: usize,
}

/// Differs for different users, but for rare pairs: where it is equal, the names tell.
#[inline]
pub(super) fn user_mark(user: &UserId) -> u64 {
    let text = user.padded();
    let word = |at: usize| u64::from_le_bytes(*text[at..].first_chunk().unwrap_or(&[0; 8]));
    // Names are at most 36 bytes: five words, the last one overlapping.
    let mixed = word(0) ^ word(8).rotate_left(13) ^ word(16).rotate_left(26) ^ word(24).rotate_left(39);
    (mixed ^ word(28).rotate_left(51)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A few bits of a mark; never 0.
#[inline]
fn tag_of(mark: u64) -> u8 {
    (mark >> 56) as u8 | 1
}

impl Orders {
    pub fn len(&self) -> usize {
        self.resting
    }

    /// A copy to be read.
    pub fn freeze(&mut self) -> Self {
        Self {
            slab: self.slab.freeze(),
            names: self.names.freeze(),
            user_tags: self.user_tags.clone(),
            free: Vec::new(),
            resting: self.resting,
        }
    }

    #[inline(always)]
    pub fn insert(&mut self, order: Order, order_id: &OrderId, user: &UserId) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.grow(order_id, user),
        };
        // Written where it stays, field by field: a copy made first would be read back before it has left the processor's
        // write queue.
        let o = &mut self.slab[slot as usize];
        (o.open, o.filled, o.quantity) = (order.open, order.filled, order.quantity);
        (o.rank, o.id, o.user, o.flags) = (order.rank, order.id, order.user, order.flags);
        let names = &mut self.names[slot as usize];
        names.order_id = *order_id;
        names.user = *user;
        self.user_tags[slot as usize] = tag_of(order.user);
        self.resting += 1;
        slot
    }

    /// A slot that was never used.
    fn grow(&mut self, order_id: &OrderId, user: &UserId) -> u32 {
        self.slab.push(EMPTY);
        self.names.push(Names { order_id: *order_id, user: *user });
        self.user_tags.push(0);
        (self.slab.len() - 1) as u32
    }

    /// Frees a slot. What was in it can still be read, but for its id, which finds it no more.
    #[inline]
    pub fn remove(&mut self, slot: u32) {
        self.slab[slot as usize].id = NO_ID;
        self.user_tags[slot as usize] = 0;
        self.resting -= 1;
        self.free.push(slot);
    }

    /// Whether the order in a slot is the one with this id.
    #[inline]
    pub fn is(&self, slot: u32, id: [u64; 2]) -> bool {
        self.slab.get(slot as usize).is_some_and(|o| o.id == id) && id != NO_ID
    }

    #[inline]
    pub fn get(&self, slot: u32) -> &Order {
        &self.slab[slot as usize]
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Order {
        &mut self.slab[slot as usize]
    }

    #[inline]
    pub fn names(&self, slot: u32) -> &Names {
        &self.names[slot as usize]
    }

    /// An order without its names.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        super::prefetch(self.slab.get(slot as usize));
    }

    #[inline]
    pub fn prefetch_names(&self, slot: u32) {
        if let Some(names) = self.names.get(slot as usize) {
            super::prefetch_whole(names);
        }
    }

    #[inline]
    pub fn prefetch_tag(&self, slot: u32) {
        super::prefetch(self.user_tags.get(slot as usize));
    }

    /// The slot that the `n`-th next insertion will take, as things are now.
    #[inline]
    pub fn free_slot(&self, n: usize) -> Option<u32> {
        self.free.len().checked_sub(n + 1).map(|at| self.free[at])
    }

    /// Slots in use, in no particular order.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.user_tags.iter().enumerate().filter(|(_, tag)| **tag != 0).map(|(slot, _)| slot as u32)
    }

    /// Slots in use, by queue rank.
    pub fn by_rank(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.slots().collect();
        slots.sort_unstable_by_key(|slot| self.get(*slot).rank);
        slots
    }

    /// Slots of one user's orders, by queue rank.
    pub fn of_user(&self, user: &UserId) -> Vec<u32> {
        let tag = tag_of(user_mark(user));
        let tagged = self.user_tags.iter().enumerate().filter(|(_, t)| **t == tag).map(|(slot, _)| slot as u32);
        let mut slots: Vec<u32> = tagged.filter(|slot| self.names(*slot).user == *user).collect();
        slots.sort_unstable_by_key(|slot| self.get(*slot).rank);
        slots
    }
}
