//! The nonces of control records that have not run out: each is good once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::VoidReason;
use crate::domain::{Authority, Micros};

/// Nonces kept per machine: 65,536 / 60 s of validity = 1,092 control records a second, in 65,536 x 2 x about 48 bytes
/// = 6 MiB.
pub const NONCES_MAX: usize = 65_536;
/// Kept free for fences, so that no flood of other control records keeps a machine from being moved: 17 fences a
/// second.
pub const NONCES_FOR_FENCES: usize = 1_024;

/// State of the machine's log: part of snapshot and digest.
#[derive(Debug, Clone, Default)]
pub(super) struct Nonces {
    by_nonce: BTreeMap<u128, Micros>,
    by_expiry: BTreeSet<(Micros, u128)>,
    /// Sum of their hashes.
    sum: u128,
}

impl Nonces {
    /// Takes a record's authority at `clock`, the highest append time so far. Its own append time would not do: were
    /// the log's time to step back, a nonce that was forgotten as run out would be good a second time.
    pub fn spend(&mut self, authority: &Authority, clock: Micros, is_fence: bool) -> Result<(), VoidReason> {
        self.forget_before(clock);
        if clock > authority.valid_until {
            return Err(VoidReason::RanOut);
        }
        if self.by_nonce.contains_key(&authority.nonce) {
            return Err(VoidReason::Repeated);
        }
        let most = if is_fence { NONCES_MAX } else { NONCES_MAX - NONCES_FOR_FENCES };
        if self.by_nonce.len() >= most {
            return Err(VoidReason::TooMany);
        }
        self.insert(authority.valid_until, authority.nonce);
        Ok(())
    }

    fn insert(&mut self, until: Micros, nonce: u128) {
        if self.by_nonce.insert(nonce, until).is_none() {
            self.by_expiry.insert((until, nonce));
            self.sum = self.sum.wrapping_add(hash_of(until, nonce));
        }
    }

    fn forget_before(&mut self, clock: Micros) {
        while let Some(&(until, nonce)) = self.by_expiry.first().filter(|(until, _)| *until < clock) {
            self.by_expiry.remove(&(until, nonce));
            self.by_nonce.remove(&nonce);
            self.sum = self.sum.wrapping_sub(hash_of(until, nonce));
        }
    }

    /// All of them as (valid until, nonce), ascending.
    pub fn to_vec(&self) -> Vec<(Micros, u128)> {
        self.by_expiry.iter().copied().collect()
    }

    pub fn from_vec(nonces: Vec<(Micros, u128)>) -> Self {
        let mut all = Self::default();
        for (until, nonce) in nonces {
            all.insert(until, nonce);
        }
        all
    }

    /// Adds them to a digest.
    pub fn digest_into(&self, h: &mut SipHasher13) {
        h.write_u128(self.sum);
        h.write_usize(self.by_nonce.len());
    }
}

fn hash_of(until: Micros, nonce: u128) -> u128 {
    let mut h = SipHasher13::new_with_keys(0x686f_7462_6f6f_6b31, 0x6e6f_6e63_6573_3031);
    h.write_u64(until.0);
    h.write_u128(nonce);
    h.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(nonce: u128) -> Authority {
        Authority { nonce, valid_until: Micros(10) }
    }

    #[test]
    fn the_store_is_bounded_keeps_room_for_fences_and_empties_with_time() {
        let mut nonces = Nonces::default();
        for n in 0..(NONCES_MAX - NONCES_FOR_FENCES) as u128 {
            nonces.spend(&authority(n), Micros(1), false).unwrap();
        }
        assert_eq!(nonces.spend(&authority(1 << 100), Micros(1), false), Err(VoidReason::TooMany));
        for n in 0..NONCES_FOR_FENCES as u128 {
            nonces.spend(&authority(n | 1 << 64), Micros(1), true).unwrap();
        }
        assert_eq!(nonces.spend(&authority(1 << 100), Micros(1), true), Err(VoidReason::TooMany));
        let later = Authority { nonce: 5, valid_until: Micros(99) };
        assert_eq!(nonces.spend(&later, Micros(10), false), Err(VoidReason::Repeated), "valid in its last microsecond");
        assert_eq!(nonces.spend(&later, Micros(11), false), Ok(()));
        assert_eq!(nonces.to_vec(), [(Micros(99), 5)]);
        assert_eq!(nonces.sum, Nonces::from_vec(nonces.to_vec()).sum);
    }
}
