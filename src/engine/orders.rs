//! Orders in memory: a slab of records of two cache lines linked by 32-bit slots. What is needed to find, move and count an
//! order is in the first line; its names reach into the second, which only trades and snapshots read: a command brings the
//! names of its own order with it.

use super::pages::Pages;
use crate::domain::{OrderId, SelfTrade, Side, UserId};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// In a free slot: no hash of a name, but for one in 2^128.
const NO_ID: [u64; 2] = [0; 2];

const FLAG_SELL: u8 = 1;
const FLAG_POST_ONLY: u8 = 2;
const STP_SHIFT: u8 = 2;

/// A resting order.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
pub(super) struct Order {
    /// Keyed hash of (user, order id).
    pub id: [u64; 2],
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
    pub place: u8,
    pub flags: u8,
    pub user: UserId,
    pub order_id: OrderId,
}

const _: () = assert!(size_of::<Order>() == 128);

/// What is known of an order before it rests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh<'a> {
    pub id: [u64; 2],
    pub open: u32,
    pub filled: u32,
    pub quantity: u32,
    pub flags: u8,
    pub user: &'a UserId,
    pub order_id: &'a OrderId,
}

impl Order {
    #[inline]
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

/// All resting orders by slot.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    slab: Pages<Order>,
    /// A few bits of each user, 0 for a free slot: CANCEL_ALL scans 1 byte per order.
    user_tags: Vec<u8>,
    free: Vec<u32>,
    resting: usize,
}

/// A few bits of a user; never 0. Where they are equal, the names tell.
#[inline]
fn tag_of(user: &UserId) -> u8 {
    let text = user.padded();
    let word = |at: usize| u64::from_le_bytes(*text[at..].first_chunk().unwrap_or(&[0; 8]));
    // The first and the last of it: what differs between users is there.
    let mixed = word(0) ^ word(28).rotate_left(29);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
}

impl Orders {
    pub fn len(&self) -> usize {
        self.resting
    }

    /// A copy to be read.
    pub fn freeze(&mut self) -> Self {
        Self { slab: self.slab.freeze(), user_tags: self.user_tags.clone(), free: Vec::new(), resting: self.resting }
    }

    /// Puts an order into a slot; its place in a queue is not known yet.
    #[inline(always)]
    pub fn insert(&mut self, new: &Fresh<'_>) -> u32 {
        self.resting += 1;
        let Some(slot) = self.free.pop() else { return self.grow(new) };
        // Written where it stays, field by field: a copy made first would be read back before it has left the processor's
        // write queue.
        let o = &mut self.slab[slot as usize];
        (o.id, o.open, o.filled, o.quantity, o.flags) = (new.id, new.open, new.filled, new.quantity, new.flags);
        o.user = *new.user;
        o.order_id = *new.order_id;
        self.user_tags[slot as usize] = tag_of(new.user);
        slot
    }

    /// A slot that was never used.
    #[inline(never)]
    fn grow(&mut self, new: &Fresh<'_>) -> u32 {
        let Fresh { id, open, filled, quantity, flags, user, order_id } = *new;
        let (next, prev, block, rank, place) = (NONE, NONE, NONE, 0, 0);
        let (user, order_id) = (*user, *order_id);
        self.user_tags.push(tag_of(&user));
        self.slab.push(Order { id, next, prev, block, open, filled, quantity, rank, place, flags, user, order_id });
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

    /// The order in a slot; for NONE there is none.
    #[inline]
    pub fn there(&self, slot: u32) -> Option<&Order> {
        self.slab.get(slot as usize)
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Order {
        &mut self.slab[slot as usize]
    }

    /// An order without most of its names.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        super::prefetch(self.slab.get(slot as usize));
    }

    #[inline]
    pub fn prefetch_whole(&self, slot: u32) {
        if let Some(order) = self.slab.get(slot as usize) {
            super::prefetch_whole(order);
        }
    }

    /// What tells the next free slot.
    #[inline]
    pub fn prefetch_free_list(&self) {
        super::prefetch(self.free.last());
    }

    /// The slot that the `n`-th next insertion will take, as things are now.
    #[inline]
    pub fn prefetch_free(&self, n: usize) {
        if let Some(slot) = self.free.get(self.free.len().wrapping_sub(n + 1)) {
            self.prefetch_whole(*slot);
        }
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
        let tag = tag_of(user);
        let tagged = self.user_tags.iter().enumerate().filter(|(_, t)| **t == tag).map(|(slot, _)| slot as u32);
        let mut slots: Vec<u32> = tagged.filter(|slot| self.get(*slot).user == *user).collect();
        slots.sort_unstable_by_key(|slot| self.get(*slot).rank);
        slots
    }
}
