//! Orders in memory: a slab of 128-byte records linked by 32-bit slots.

use crate::domain::{OrderId, SelfTrade, Side, UserId};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

const FLAG_SELL: u8 = 1;
const FLAG_POST_ONLY: u8 = 2;
const STP_SHIFT: u8 = 2;

/// A resting order: two neighbouring cache lines of one page, so that reaching it costs one page walk. What matching
/// needs is in the first.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
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
    pub place: u8,
    pub flags: u8,
    pub names: Names,
}

const _: () = assert!(size_of::<Order>() == 128);

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
    slab: Vec<Order>,
    /// A few bits of each user, 0 for a free slot: CANCEL_ALL scans 1 byte per order.
    user_tags: Vec<u8>,
    free: Vec<u32>,
}

/// Never 0.
#[inline]
fn user_tag(user: &UserId) -> u8 {
    let text = user.padded();
    let word = |at: usize| u64::from_le_bytes(*text[at..].first_chunk().unwrap_or(&[0; 8]));
    // Names are at most 36 bytes: five words, the last one overlapping.
    let mixed = word(0) ^ word(8).rotate_left(13) ^ word(16).rotate_left(26) ^ word(24).rotate_left(39);
    ((mixed ^ word(28).rotate_left(51)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
}

impl Orders {
    pub fn len(&self) -> usize {
        self.slab.len() - self.free.len()
    }

    #[inline]
    pub fn insert(&mut self, order: Order) -> u32 {
        let tag = user_tag(&order.names.user);
        match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = order;
                self.user_tags[slot as usize] = tag;
                slot
            }
            None => {
                self.slab.push(order);
                self.user_tags.push(tag);
                (self.slab.len() - 1) as u32
            }
        }
    }

    #[inline]
    pub fn remove(&mut self, slot: u32) {
        self.user_tags[slot as usize] = 0;
        self.free.push(slot);
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
        &self.slab[slot as usize].names
    }

    /// Both lines of an order.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(order) = self.slab.get(slot as usize) {
            super::prefetch(Some(order));
            super::prefetch(Some(&order.names.user));
        }
    }

    /// The line with an order's links, and its user tag.
    #[inline]
    pub fn prefetch_links(&self, slot: u32) {
        super::prefetch(self.slab.get(slot as usize));
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
        let tag = user_tag(user);
        let tagged = self.user_tags.iter().enumerate().filter(|(_, t)| **t == tag).map(|(slot, _)| slot as u32);
        let mut slots: Vec<u32> = tagged.filter(|slot| self.names(*slot).user == *user).collect();
        slots.sort_unstable_by_key(|slot| self.get(*slot).rank);
        slots
    }
}
