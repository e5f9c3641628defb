//! What a book that takes orders from gateways only remembers of them: per gateway the highest number that it signed an
//! order with, until all that it signed so far has run out. So a copy of a signed order is good for nothing.

use std::collections::BTreeMap;
use std::hash::Hasher;

use siphasher::sip128::SipHasher13;

use crate::domain::control::Stamp;
use crate::domain::{Micros, Reason};

/// Starts of gateways within the validity of a signature; only who knows the cluster's secret can make one. What comes
/// beyond is refused: 4,096 x about 64 bytes = 256 KiB.
pub const GATEWAYS_MAX: usize = 4_096;

/// (highest number, end of the longest validity) by gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps(BTreeMap<u64, (u64, Micros)>);

impl Stamps {
    /// Uses a stamp up, at the book's clock.
    ///
    /// # Errors
    /// [`Reason::SignatureVoid`]: it has run out, or is not above all that this gateway's orders had before.
    pub fn spend(&mut self, stamp: &Stamp, clock: Micros) -> Result<(), Reason> {
        // The clock never goes back: what is forgotten here stays refused.
        self.0.retain(|_, (_, until)| *until >= clock);
        let known = self.0.get(&stamp.gateway).copied();
        let is_new = known.is_none_or(|(highest, _)| stamp.number > highest);
        let has_room = known.is_some() || self.0.len() < GATEWAYS_MAX;
        if clock > stamp.valid_until || !is_new || !has_room {
            return Err(Reason::SignatureVoid);
        }
        let until = known.map_or(stamp.valid_until, |(_, until)| until.max(stamp.valid_until));
        self.0.insert(stamp.gateway, (stamp.number, until));
        Ok(())
    }

    /// All of them as (gateway, number, until), ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, Micros)> + '_ {
        self.0.iter().map(|(gateway, (number, until))| (*gateway, *number, *until))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts back what [`Self::iter`] gave; `false` if it is not above the gateway before.
    pub fn restore(&mut self, gateway: u64, number: u64, until: Micros) -> bool {
        let ascends = self.0.last_key_value().is_none_or(|(last, _)| *last < gateway);
        self.0.insert(gateway, (number, until));
        ascends
    }

    /// Adds them to a digest.
    pub fn digest_into(&self, h: &mut SipHasher13) {
        h.write_usize(self.len());
        for (gateway, number, until) in self.iter() {
            h.write_u64(gateway);
            h.write_u64(number);
            h.write_u64(until.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(gateway: u64, number: u64, until: u64) -> Stamp {
        Stamp { gateway, number, valid_until: Micros(until) }
    }

    #[test]
    fn a_stamp_is_good_once_and_in_time() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.spend(&stamp(1, 5, 100), Micros(10)), Ok(()));
        assert_eq!(stamps.spend(&stamp(1, 5, 100), Micros(10)), Err(Reason::SignatureVoid), "again");
        assert_eq!(stamps.spend(&stamp(1, 4, 100), Micros(10)), Err(Reason::SignatureVoid), "an older one");
        assert_eq!(stamps.spend(&stamp(2, 4, 100), Micros(10)), Ok(()), "gateways count for themselves");
        assert_eq!(stamps.spend(&stamp(1, 9, 100), Micros(100)), Ok(()), "good in its last microsecond");
        assert_eq!(stamps.spend(&stamp(1, 10, 100), Micros(101)), Err(Reason::SignatureVoid), "run out");
    }

    #[test]
    fn a_gateway_is_remembered_for_as_long_as_anything_of_it_is_good() {
        let mut stamps = Stamps::default();
        stamps.spend(&stamp(1, 5, 100), Micros(10)).unwrap();
        // Its own clock went back: what it signed before is good for longer than what it signs now.
        stamps.spend(&stamp(1, 6, 50), Micros(10)).unwrap();
        assert_eq!(stamps.spend(&stamp(1, 5, 100), Micros(60)), Err(Reason::SignatureVoid));
        stamps.spend(&stamp(2, 1, 300), Micros(101)).unwrap();
        assert_eq!(stamps.iter().collect::<Vec<_>>(), [(2, 1, Micros(300))]);
    }

    #[test]
    fn the_store_is_bounded_and_empties_with_time() {
        let mut stamps = Stamps::default();
        (0..GATEWAYS_MAX as u64).for_each(|g| stamps.spend(&stamp(g, 1, 100), Micros(1)).unwrap());
        assert_eq!(stamps.spend(&stamp(u64::MAX, 1, 100), Micros(1)), Err(Reason::SignatureVoid));
        assert_eq!(stamps.spend(&stamp(7, 2, 100), Micros(1)), Ok(()), "known ones go on");
        assert_eq!(stamps.spend(&stamp(u64::MAX, 1, 200), Micros(101)), Ok(()));
        assert_eq!(stamps.len(), 1);
    }
}
