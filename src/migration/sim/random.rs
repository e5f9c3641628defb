//! Random numbers, a stream for each concern: what one concern draws does not shift what another one gets, so that a
//! new fault leaves the old seeds as they were.

/// xoshiro256++ (Blackman and Vigna 2019), seeded by SplitMix64 from the run's seed and the concern's name.
#[derive(Debug, Clone)]
pub(in crate::migration) struct Stream([u64; 4]);

impl Stream {
    pub fn new(seed: u64, concern: &str) -> Self {
        // FNV-1a of the name: stable, unlike the standard library's hashes.
        let name = concern
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let mut state = seed ^ name;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        }))
    }

    pub fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// 0 to `n` - 1; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// A delay: mostly within `usual`, one in `rarely` up to a hundred times as long.
    pub fn delay(&mut self, usual: u64, rarely: u64) -> u64 {
        let most = if self.below(rarely) == 0 { usual * 100 } else { usual };
        1 + self.below(most)
    }
}

/// The streams of one run.
#[derive(Debug)]
pub(super) struct Streams {
    pub clients: Stream,
    pub gateways: Stream,
    pub followers: Stream,
    pub readers: Stream,
    pub producers: Stream,
    pub acks: Stream,
    pub messages: Stream,
    pub restores: Stream,
    pub snapshots: Stream,
    pub holds: Stream,
    pub routes: Stream,
    pub moves: Stream,
    pub fences: Stream,
    pub crashes: Stream,
    pub controls: Stream,
    pub mutation: Stream,
}

impl Streams {
    pub fn new(seed: u64) -> Self {
        let stream = |concern| Stream::new(seed, concern);
        Self {
            clients: stream("clients"),
            gateways: stream("gateways"),
            followers: stream("followers"),
            readers: stream("readers"),
            producers: stream("producers"),
            acks: stream("acks"),
            messages: stream("messages"),
            restores: stream("restores"),
            snapshots: stream("snapshots"),
            holds: stream("holds"),
            routes: stream("routes"),
            moves: stream("moves"),
            fences: stream("fences"),
            crashes: stream("crashes"),
            controls: stream("controls"),
            mutation: stream("mutation"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_name_only() {
        let draw = |seed, name| {
            let mut s = Stream::new(seed, name);
            [s.next(), s.next(), s.next()]
        };
        assert_eq!(draw(7, "acks"), draw(7, "acks"));
        assert_ne!(draw(7, "acks"), draw(8, "acks"));
        assert_ne!(draw(7, "acks"), draw(7, "holds"));
    }

    #[test]
    fn bounds_are_kept_and_reached() {
        let mut s = Stream::new(1, "bounds");
        let drawn: std::collections::BTreeSet<u64> = (0..1_000).map(|_| s.between(3, 6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(s.below(0), 0);
    }
}
