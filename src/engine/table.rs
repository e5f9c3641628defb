//! A hash table from 32-bit tags to 32-bit references, in buckets of one cache line: a look-up reads one line and has
//! hardly a branch to guess. Who looks up confirms what it finds; several entries may have one tag.
//!
//! A bucket that is full passes entries on to the next, and counts them: a look-up goes on only where something was
//! passed on that may be it, and removing an entry leaves nothing behind.

/// Entries per bucket.
const ENTRIES: usize = 7;
/// The table doubles when buckets hold more than this on average, in halves of an entry: 4 of 7. Fuller ones pass so much on that a
/// look-up often waits for a second line, which nobody fetched ahead.
const LOAD_MAX_HALVES: usize = 8;

/// Lane 7 of `tags` counts the entries that were passed on, lane 7 of `references` has a bit for each, by [`mark_of`]; tag
/// 0 is a free place.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; ENTRIES + 1],
    references: [u32; ENTRIES + 1],
}

const EMPTY: Bucket = Bucket { tags: [0; ENTRIES + 1], references: [0; ENTRIES + 1] };

impl Bucket {
    /// Bit i: entry i has this tag.
    #[inline(always)]
    fn with(&self, tag: u32) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{
                __m128i, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_load_si128, _mm_movemask_ps, _mm_set1_epi32,
            };
            let halves: *const __m128i = self.tags.as_ptr().cast();
            // SAFETY: SSE2 is part of x86-64; both halves lie within `tags`, which begin the bucket and so are aligned.
            let bits = unsafe {
                let wanted = _mm_set1_epi32(tag as i32);
                let of = |half| _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_load_si128(half), wanted)));
                of(halves) | of(halves.add(1)) << 4
            };
            bits as u32 & ((1 << ENTRIES) - 1)
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.with_anywhere(tag)
    }

    /// [`Self::with`] in plain words, which the compiler makes three times as many instructions of.
    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn with_anywhere(&self, tag: u32) -> u32 {
        let mut bits = 0;
        for (i, t) in self.tags.iter().enumerate() {
            bits |= u32::from(*t == tag) << i;
        }
        bits & ((1 << ENTRIES) - 1)
    }

    /// Whether an entry with this tag may have been passed on: seldom yes where none was.
    #[inline]
    fn may_have_passed(&self, tag: u32) -> bool {
        self.references[ENTRIES] & mark_of(tag) != 0
    }

    #[inline]
    fn pass_on(&mut self, tag: u32) {
        self.tags[ENTRIES] += 1;
        self.references[ENTRIES] |= mark_of(tag);
    }

    /// An entry that was passed on is gone.
    #[inline]
    fn take_back(&mut self) {
        self.tags[ENTRIES] -= 1;
        if self.tags[ENTRIES] == 0 {
            self.references[ENTRIES] = 0;
        }
    }
}

/// The table; its number of buckets is a power of two, or 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    buckets: Vec<Bucket>,
    used: usize,
    /// At so many entries it grows before the next.
    full: usize,
}

/// The tag of a hash; never 0.
#[inline]
pub(super) fn tag_of(hash: u64) -> u32 {
    (hash as u32).max(1)
}

/// One bit, from those of a tag that do not choose its home.
#[inline]
fn mark_of(tag: u32) -> u32 {
    1 << (tag >> 27)
}

impl Table {
    #[inline]
    fn home(&self, tag: u32) -> usize {
        tag as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn behind(&self, bucket: usize) -> usize {
        (bucket + 1) & (self.buckets.len() - 1)
    }

    #[inline]
    pub fn prefetch(&self, tag: u32) {
        super::prefetch(self.buckets.get(self.home_or_zero(tag)));
    }

    #[inline]
    fn home_or_zero(&self, tag: u32) -> usize {
        tag as usize & self.buckets.len().wrapping_sub(1)
    }

    /// The first reference in a tag's home: most likely the one.
    #[inline]
    pub fn guess(&self, tag: u32) -> Option<u32> {
        let bucket = self.buckets.get(self.home_or_zero(tag))?;
        let bits = bucket.with(tag);
        (bits != 0).then(|| bucket.references[bits.trailing_zeros() as usize])
    }

    /// The reference with this tag that `is_it` confirms.
    #[inline]
    pub fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut at = self.home(tag);
        loop {
            let bucket = &self.buckets[at];
            let mut bits = bucket.with(tag);
            while bits != 0 {
                let reference = bucket.references[bits.trailing_zeros() as usize];
                if is_it(reference) {
                    return Some(reference);
                }
                bits &= bits - 1;
            }
            if !bucket.may_have_passed(tag) {
                return None;
            }
            at = self.behind(at);
        }
    }

    /// Enters a reference.
    #[inline]
    pub fn insert(&mut self, tag: u32, reference: u32) {
        if self.used == self.full {
            self.grow();
        }
        self.used += 1;
        self.place(tag, reference);
    }

    #[inline]
    fn place(&mut self, tag: u32, reference: u32) {
        let mut at = self.home(tag);
        loop {
            let bucket = &mut self.buckets[at];
            let free = bucket.with(0);
            if free != 0 {
                let entry = free.trailing_zeros() as usize;
                (bucket.tags[entry], bucket.references[entry]) = (tag, reference);
                return;
            }
            bucket.pass_on(tag);
            at = self.behind(at);
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let buckets = (self.buckets.len() * 2).max(1);
        self.full = buckets * LOAD_MAX_HALVES / 2;
        let old = std::mem::replace(&mut self.buckets, vec![EMPTY; buckets]);
        for bucket in &old {
            for entry in 0..ENTRIES {
                if bucket.tags[entry] != 0 {
                    self.place(bucket.tags[entry], bucket.references[entry]);
                }
            }
        }
    }

    /// Bucket and place of an entry that is there.
    #[inline]
    fn place_of(&self, tag: u32, reference: u32) -> (usize, usize) {
        let mut at = self.home(tag);
        loop {
            let bucket = &self.buckets[at];
            let mut bits = bucket.with(tag);
            while bits != 0 {
                let entry = bits.trailing_zeros() as usize;
                if bucket.references[entry] == reference {
                    return (at, entry);
                }
                bits &= bits - 1;
            }
            debug_assert!(bucket.may_have_passed(tag), "the entry is in the table");
            at = self.behind(at);
        }
    }

    /// Gives an entry that is there another reference.
    #[inline]
    pub fn change(&mut self, tag: u32, from: u32, to: u32) {
        let (bucket, entry) = self.place_of(tag, from);
        self.buckets[bucket].references[entry] = to;
    }

    /// Removes an entry that is there.
    #[inline]
    pub fn remove(&mut self, tag: u32, reference: u32) {
        let (bucket, entry) = self.place_of(tag, reference);
        self.buckets[bucket].tags[entry] = 0;
        self.used -= 1;
        let mut at = self.home(tag);
        while at != bucket {
            self.buckets[at].take_back();
            at = self.behind(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Few tags with equal homes, so that buckets fill up and pass entries on.
    #[test]
    fn it_keeps_what_a_set_keeps() {
        let (mut table, mut set, mut x) = (Table::default(), BTreeSet::new(), 7u64);
        for n in 0..60_000u32 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let tag = tag_of((x >> 33) % 5 + ((x >> 40) % 97) * 1_024);
            match set.iter().find(|(t, _)| *t == tag).copied() {
                Some((_, reference)) if x >> 63 == 0 => {
                    table.remove(tag, reference);
                    set.remove(&(tag, reference));
                }
                Some((_, reference)) if x >> 62 == 2 => {
                    table.change(tag, reference, n);
                    set.remove(&(tag, reference));
                    set.insert((tag, n));
                }
                _ => {
                    table.insert(tag, n);
                    set.insert((tag, n));
                }
            }
            let bucket = &table.buckets[table.home(tag)];
            assert_eq!(bucket.with(tag), bucket.with_anywhere(tag));
            assert_eq!(table.used, set.len());
            for reference in set.iter().filter(|(t, _)| *t == tag).map(|(_, r)| *r) {
                assert_eq!(table.find(tag, |r| r == reference), Some(reference));
            }
            assert_eq!(table.find(tag, |r| r == u32::MAX), None);
        }
        assert!(set.len() > 100, "the test filled its buckets");
    }
}
