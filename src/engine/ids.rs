//! One table for live and finished order ids: one lookup tells whether an id was used (OB6), and where its order is.
//!
//! The table knows 32 bits of an id's keyed hash and a reference: a slot of the orders, or a place in the ring of finished
//! ids. A match is confirmed against the whole 128-bit hash there.

use super::digest;
use super::orders::Orders;
use super::pages::Pages;
use super::sip::{self, LANES, Messages};
use super::table::{Table, tag_of};
use crate::domain::{OrderId, UserId};

/// Finished ids that a book remembers.
pub const FINISHED_MAX: usize = 65_536;

const FINISHED: u32 = 1 << 31;

/// Keyed 128-bit hash of (user, order id).
pub(super) type Id = [u64; 2];

/// Makes ids: SipHash-1-3 with the key that came with LIST, of both names padded with zeros and their lengths, which
/// keep ("ab", "c") and ("a", "bc") apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hasher {
    key: u128,
}

impl Hasher {
    pub fn new(key: u128) -> Self {
        Self { key }
    }

    pub fn key(&self) -> u128 {
        self.key
    }

    #[inline]
    fn halves(&self) -> [u64; 2] {
        [self.key as u64, (self.key >> 64) as u64]
    }

    /// The id of an order.
    #[inline]
    pub fn id(&self, user: &UserId, order_id: &OrderId) -> Id {
        let mut one = Messages::<1>::EMPTY;
        one.put(0, user, order_id);
        let [id] = sip::hash(self.halves(), &one);
        id
    }

    /// The ids of [`LANES`] orders, which cost hardly more than one.
    #[inline]
    pub fn ids(&self, messages: &Messages<LANES>) -> [Id; LANES] {
        sip::hash_many(self.halves(), messages)
    }
}

impl<const N: usize> Messages<N> {
    /// Sets one message: both names.
    #[inline(always)]
    pub fn put(&mut self, lane: usize, user: &UserId, order_id: &OrderId) {
        let (user_text, order_text) = (user.padded(), order_id.padded());
        for word in 0..4 {
            self.words[word][lane] = word_at(user_text, word * 8);
            self.words[5 + word][lane] = word_at(order_text, word * 8 + 4);
        }
        let half =
            |text: &[u8; 36], at: usize| u64::from(u32::from_le_bytes(*text[at..].first_chunk().unwrap_or(&[0; 4])));
        self.words[4][lane] = half(user_text, 32) | half(order_text, 0) << 32;
        self.tails[lane] = user.len() as u64 | (order_id.len() as u64) << 8;
    }
}

#[inline(always)]
fn word_at(text: &[u8; 36], at: usize) -> u64 {
    u64::from_le_bytes(*text[at..].first_chunk().unwrap_or(&[0; 8]))
}

/// Where an id was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Live(u32),
    Finished,
}

/// Live and finished ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    /// References of all ids by 32 bits of their hash: a slot, or [`FINISHED`] and a place in the ring.
    table: Table,
    /// Finished ids; place `n % FINISHED_MAX` holds the n-th ending.
    ring: Pages<Id>,
    /// Endings since birth.
    finished: u64,
    /// Sum of [`digest::of_finished`] over the ring.
    sum: u128,
}

impl Ids {
    /// A copy to be read: it tells what is remembered, but finds nothing.
    pub fn freeze(&mut self) -> Self {
        Self { table: Table::default(), ring: self.ring.freeze(), finished: self.finished, sum: self.sum }
    }

    pub fn finished(&self) -> u64 {
        self.finished
    }

    pub fn finished_sum(&self) -> u128 {
        self.sum
    }

    /// Finished ids that are remembered, oldest first.
    pub fn remembered(&self) -> impl Iterator<Item = (u64, Id)> + '_ {
        let first = self.finished - self.ring.len() as u64;
        (first..self.finished).map(|n| (n, self.ring[n as usize % FINISHED_MAX]))
    }

    #[inline]
    pub fn prefetch(&self, id: Id) {
        self.table.prefetch(tag_of(id[0]));
    }

    /// The slot that an id most likely refers to, without confirming it.
    #[inline]
    pub fn guess(&self, id: Id) -> Option<u32> {
        self.table.guess(tag_of(id[0])).filter(|reference| reference & FINISHED == 0)
    }

    #[inline]
    pub fn find(&self, id: Id, orders: &Orders) -> Option<Found> {
        let reference = self.table.find(tag_of(id[0]), |reference| {
            if reference & FINISHED == 0 {
                orders.get(reference).id == id
            } else {
                self.ring[(reference & !FINISHED) as usize] == id
            }
        })?;
        Some(if reference & FINISHED == 0 { Found::Live(reference) } else { Found::Finished })
    }

    /// Enters a live order's id, which is not there.
    #[inline]
    pub fn live(&mut self, id: Id, slot: u32) {
        self.table.insert(tag_of(id[0]), slot);
    }

    /// Makes the id of the live order in `slot` a finished one.
    #[inline]
    pub fn finish_live(&mut self, id: Id, slot: u32) {
        self.table.change(tag_of(id[0]), slot, self.next_reference());
        self.remember(id);
    }

    /// Enters an id that finished without ever resting.
    #[inline]
    pub fn finish_new(&mut self, id: Id) {
        let reference = self.next_reference();
        self.remember(id);
        self.table.insert(tag_of(id[0]), reference);
    }

    /// Reference of the next id that finishes.
    #[inline]
    fn next_reference(&self) -> u32 {
        FINISHED | (self.finished as usize % FINISHED_MAX) as u32
    }

    /// Puts an id into the ring, forgetting the oldest when it is full.
    #[inline]
    fn remember(&mut self, id: Id) {
        let place = self.finished as usize % FINISHED_MAX;
        if self.ring.len() < FINISHED_MAX {
            self.ring.push(id);
        } else {
            let oldest = std::mem::replace(&mut self.ring[place], id);
            // The new id may have an equal entry already; then it is no matter which of the two goes.
            self.table.remove(tag_of(oldest[0]), FINISHED | place as u32);
            self.sum = self.sum.wrapping_sub(digest::of_finished(oldest, self.finished - FINISHED_MAX as u64));
            // The one that is forgotten sixteen endings from now.
            self.prefetch(self.ring[(place + 16) % FINISHED_MAX]);
        }
        self.sum = self.sum.wrapping_add(digest::of_finished(id, self.finished));
        self.finished += 1;
    }

    /// Restores the ring of a snapshot: `ids` oldest first, the last one ending number `finished - 1`. `None` if an id
    /// is twice among them.
    pub fn restore(finished: u64, ids: &[Id], orders: &Orders) -> Option<Self> {
        let mut restored = Self { finished: finished - ids.len() as u64, ..Self::default() };
        if ids.len() == FINISHED_MAX {
            restored.ring = Pages::filled([0; 2], FINISHED_MAX);
        } else if restored.finished != 0 {
            // A ring that is not full has never forgotten anything.
            return None;
        }
        for id in ids {
            if restored.find(*id, orders).is_some() {
                return None;
            }
            let place = restored.finished as usize % FINISHED_MAX;
            if ids.len() == FINISHED_MAX {
                restored.ring[place] = *id;
            } else {
                restored.ring.push(*id);
            }
            restored.sum = restored.sum.wrapping_add(digest::of_finished(*id, restored.finished));
            restored.finished += 1;
            restored.table.insert(tag_of(id[0]), FINISHED | place as u32);
        }
        Some(restored)
    }
}
