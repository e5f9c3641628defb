//! One table for live and finished order ids: one lookup tells whether an id was used (OB6), and where its order is.
//!
//! An entry is 8 bytes: 32 bits of the id's keyed hash (the lowest of them are its home in the table) and a reference:
//! a slot of the orders, or a place in the ring of finished ids. A match is confirmed against the whole 128-bit hash
//! there. Open addressing with linear probing; removal shifts back, so there are no tombstones.

use siphasher::sip128::{Hash128, SipHasher13};

use super::digest;
use super::orders::Orders;
use crate::domain::{OrderId, UserId};

/// Finished ids that a book remembers.
pub const FINISHED_MAX: usize = 65_536;

const FINISHED: u32 = 1 << 31;
const FIRST_CAPACITY: usize = 16;

/// Keyed 128-bit hash of (user, order id).
pub(super) type Id = [u64; 2];

/// Makes ids: SipHash-1-3 with the key that came with LIST.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hasher {
    key: u128,
    sip: SipHasher13,
}

impl Hasher {
    pub fn new(key: u128) -> Self {
        Self { key, sip: SipHasher13::new_with_keys(key as u64, (key >> 64) as u64) }
    }

    pub fn key(&self) -> u128 {
        self.key
    }

    /// The id of an order: lengths in front keep ("ab", "c") and ("a", "bc") apart, and the zeros behind names make all
    /// texts equally long, so that hashing takes the same steps for each.
    #[inline]
    pub fn id(&self, user: &UserId, order_id: &OrderId) -> Id {
        let mut text = [0u8; 2 + UserId::MAX + OrderId::MAX];
        (text[0], text[1]) = (user.len() as u8, order_id.len() as u8);
        text[2..2 + UserId::MAX].copy_from_slice(user.padded());
        text[2 + UserId::MAX..].copy_from_slice(order_id.padded());
        let Hash128 { h1, h2 } = self.sip.hash(&text);
        [h1, h2]
    }
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
    /// tag << 32 | reference + 1; 0 = empty. Length is a power of two, or 0.
    table: Vec<u64>,
    used: usize,
    /// Finished ids; place `n % FINISHED_MAX` holds the n-th ending.
    ring: Vec<Id>,
    /// Endings since birth.
    finished: u64,
    /// Sum of [`digest::of_finished`] over the ring.
    sum: u128,
}

#[inline]
fn tag_of(id: Id) -> u32 {
    id[0] as u32
}

#[inline]
fn entry(id: Id, reference: u32) -> u64 {
    (u64::from(tag_of(id)) << 32) | (u64::from(reference) + 1)
}

#[inline]
fn reference_of(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

impl Ids {
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
    fn mask(&self) -> usize {
        self.table.len() - 1
    }

    #[inline]
    pub fn prefetch(&self, id: Id) {
        if !self.table.is_empty() {
            super::prefetch(self.table.get(tag_of(id) as usize & self.mask()));
        }
    }

    /// The slot that an id most likely refers to, without confirming it: looks no further than one cache line.
    #[inline]
    pub fn guess(&self, id: Id) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let home = tag_of(id) as usize & self.mask();
        let line = &self.table[home..(home | 7).min(self.mask()) + 1];
        let found = line.iter().find(|found| (**found >> 32) as u32 == tag_of(id))?;
        Some(reference_of(*found)).filter(|reference| reference & FINISHED == 0)
    }

    #[inline]
    fn is_same(&self, reference: u32, id: Id, orders: &Orders) -> bool {
        if reference & FINISHED == 0 {
            orders.get(reference).id == id
        } else {
            self.ring[(reference & !FINISHED) as usize] == id
        }
    }

    /// Position of an id in the table.
    #[inline]
    fn position(&self, id: Id, orders: &Orders) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let mut at = tag_of(id) as usize & self.mask();
        loop {
            let found = self.table[at];
            if found == 0 {
                return None;
            }
            if (found >> 32) as u32 == tag_of(id) && self.is_same(reference_of(found), id, orders) {
                return Some(at);
            }
            at = (at + 1) & self.mask();
        }
    }

    #[inline]
    pub fn find(&self, id: Id, orders: &Orders) -> Option<Found> {
        let reference = reference_of(self.table[self.position(id, orders)?]);
        Some(if reference & FINISHED == 0 { Found::Live(reference) } else { Found::Finished })
    }

    /// Enters an id that is not there.
    #[inline]
    fn enter(&mut self, id: Id, reference: u32) {
        if (self.used + 1) * 4 > self.table.len() * 3 {
            self.grow();
        }
        self.used += 1;
        self.place(entry(id, reference));
    }

    #[inline]
    fn place(&mut self, entry: u64) {
        let mut at = (entry >> 32) as usize & self.mask();
        while self.table[at] != 0 {
            at = (at + 1) & self.mask();
        }
        self.table[at] = entry;
    }

    fn grow(&mut self) {
        let capacity = (self.table.len() * 2).max(FIRST_CAPACITY);
        let old = std::mem::replace(&mut self.table, vec![0; capacity]);
        for entry in old.into_iter().filter(|e| *e != 0) {
            self.place(entry);
        }
    }

    fn remove_at(&mut self, mut hole: usize) {
        let mask = self.mask();
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let moved = self.table[at];
            if moved == 0 {
                break;
            }
            let home = (moved >> 32) as usize & mask;
            // It may move back only if its home is not between the hole and where it stands.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.table[hole] = moved;
                hole = at;
            }
        }
        self.table[hole] = 0;
        self.used -= 1;
    }

    /// Enters a live order's id, which is not there.
    #[inline]
    pub fn live(&mut self, id: Id, slot: u32) {
        self.enter(id, slot);
    }

    /// Makes the id of the live order in `slot` a finished one.
    #[inline]
    pub fn finish_live(&mut self, id: Id, slot: u32) {
        let at = self.place_of(entry(id, slot));
        self.table[at] = entry(id, self.next_reference());
        self.remember(id);
    }

    /// Enters an id that finished without ever resting.
    #[inline]
    pub fn finish_new(&mut self, id: Id) {
        let reference = self.next_reference();
        self.remember(id);
        self.enter(id, reference);
    }

    /// Where an entry that is in the table stands.
    #[inline]
    fn place_of(&self, entry: u64) -> usize {
        let mut at = (entry >> 32) as usize & self.mask();
        while self.table[at] != entry {
            debug_assert!(self.table[at] != 0, "the entry is in the table");
            at = (at + 1) & self.mask();
        }
        at
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
            let oldest = self.ring[place];
            // The new id may have the same entry already; then it is no matter which of the two goes.
            let at = self.place_of(entry(oldest, FINISHED | place as u32));
            self.remove_at(at);
            self.sum = self.sum.wrapping_sub(digest::of_finished(oldest, self.finished - FINISHED_MAX as u64));
            self.ring[place] = id;
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
            restored.ring = vec![[0; 2]; FINISHED_MAX];
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
            restored.enter(*id, FINISHED | place as u32);
        }
        Some(restored)
    }
}
