//! SipHash-1-3 with 128 bits (Aumasson, Bernstein 2012) of a fixed-length message, several messages at once: one round
//! works on all lanes, which the processor's wide registers do for the price of one. Equal to the `siphasher` crate's
//! `sip128::SipHasher13`, which the test holds it against.

/// Whole words of a message; it ends with a word of 2 bytes and its length.
pub(super) const WORDS: usize = 9;
/// Bytes of a message.
#[cfg(test)]
pub(super) const BYTES: usize = WORDS * 8 + 2;
/// Messages at once.
pub(super) const LANES: usize = 8;

/// Words of `N` messages, and the last word of each: two bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Messages<const N: usize> {
    pub words: [[u64; N]; WORDS],
    pub tails: [u64; N],
}

impl<const N: usize> Messages<N> {
    pub const EMPTY: Self = Self { words: [[0; N]; WORDS], tails: [0; N] };
}

#[inline(always)]
fn add<const N: usize>(a: &mut [u64; N], b: &[u64; N]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a = a.wrapping_add(*b);
    }
}

#[inline(always)]
fn xor<const N: usize>(a: &mut [u64; N], b: &[u64; N]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= *b;
    }
}

#[inline(always)]
fn rotate<const N: usize>(a: &mut [u64; N], by: u32) {
    for a in a.iter_mut() {
        *a = a.rotate_left(by);
    }
}

#[inline(always)]
fn round<const N: usize>([v0, v1, v2, v3]: &mut [[u64; N]; 4]) {
    add(v0, v1);
    add(v2, v3);
    rotate(v1, 13);
    rotate(v3, 16);
    xor(v1, v0);
    xor(v3, v2);
    rotate(v0, 32);
    add(v2, v1);
    add(v0, v3);
    rotate(v1, 17);
    rotate(v3, 21);
    xor(v1, v2);
    xor(v3, v0);
    rotate(v2, 32);
}

#[inline(always)]
fn finish<const N: usize>(v: &mut [[u64; N]; 4]) -> [u64; N] {
    for _ in 0..3 {
        round(v);
    }
    std::array::from_fn(|n| v[0][n] ^ v[1][n] ^ v[2][n] ^ v[3][n])
}

#[inline(always)]
fn hash_lanes<const N: usize>(key: [u64; 2], messages: &Messages<N>) -> [[u64; N]; 2] {
    let mut v = [
        [key[0] ^ 0x736f_6d65_7073_6575; N],
        [key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee; N],
        [key[0] ^ 0x6c79_6765_6e65_7261; N],
        [key[1] ^ 0x7465_6462_7974_6573; N],
    ];
    for word in &messages.words {
        xor(&mut v[3], word);
        round(&mut v);
        xor(&mut v[0], word);
    }
    let last: [u64; N] = std::array::from_fn(|n| messages.tails[n] | ((WORDS as u64 * 8 + 2) << 56));
    xor(&mut v[3], &last);
    round(&mut v);
    xor(&mut v[0], &last);
    xor(&mut v[2], &[0xee; N]);
    let low = finish(&mut v);
    xor(&mut v[1], &[0xdd; N]);
    [low, finish(&mut v)]
}

/// Hashes one message.
#[inline]
pub(super) fn hash(key: [u64; 2], message: &Messages<1>) -> [u64; 2] {
    let [low, high] = hash_lanes(key, message);
    [low[0], high[0]]
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{LANES, Messages, hash_lanes};

    #[target_feature(enable = "avx512f,avx512vl")]
    pub fn avx512(key: [u64; 2], messages: &Messages<LANES>) -> [[u64; LANES]; 2] {
        hash_lanes(key, messages)
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(key: [u64; 2], messages: &Messages<LANES>) -> [[u64; LANES]; 2] {
        hash_lanes(key, messages)
    }
}

/// Hashes as many messages as there are lanes: the low halves, then the high halves. The result is the same on every
/// processor, only the speed is not.
#[inline]
pub(super) fn hash_many(key: [u64; 2], messages: &Messages<LANES>) -> [[u64; LANES]; 2] {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has what the function needs, it was asked just now.
            return unsafe { wide::avx512(key, messages) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { wide::avx2(key, messages) };
        }
    }
    hash_lanes(key, messages)
}

#[cfg(test)]
mod tests {
    use siphasher::sip128::{Hash128, SipHasher13};

    use super::*;

    #[test]
    fn every_lane_gives_what_the_siphasher_crate_gives() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let reference = SipHasher13::new_with_keys(key[0], key[1]);
        let mut many = Messages::<LANES>::EMPTY;
        let mut expected = Vec::new();
        for lane in 0..LANES {
            let text: Vec<u8> = (0..BYTES).map(|n| (n * 7 + lane * 31) as u8).collect();
            let mut one = Messages::<1>::EMPTY;
            for word in 0..WORDS {
                let value = u64::from_le_bytes(text[word * 8..word * 8 + 8].try_into().unwrap());
                many.words[word][lane] = value;
                one.words[word][0] = value;
            }
            let tail = u64::from(text[BYTES - 2]) | u64::from(text[BYTES - 1]) << 8;
            many.tails[lane] = tail;
            one.tails[0] = tail;
            let Hash128 { h1, h2 } = reference.hash(&text);
            assert_eq!(hash(key, &one), [h1, h2]);
            expected.push([h1, h2]);
        }
        let plain = hash_lanes(key, &many);
        let wide = hash_many(key, &many);
        for (lane, expected) in expected.into_iter().enumerate() {
            assert_eq!([plain[0][lane], plain[1][lane]], expected);
            assert_eq!([wide[0][lane], wide[1][lane]], expected);
        }
    }
}
