//! SipHash-1-3 with 128 bits (Aumasson, Bernstein 2012) of a fixed-length message, several messages at once: one round
//! works on all lanes, which the processor's wide registers do for the price of one. Equal to the `siphasher` crate's
//! `sip128::SipHasher13`, which the test holds it against.

/// Whole words of a message; it ends with a word of 2 bytes and its length.
pub(super) const WORDS: usize = 9;
/// Bytes of a message.
#[cfg(test)]
pub(super) const BYTES: usize = WORDS * 8 + 2;
/// Messages at once.
pub(super) const LANES: usize = 16;

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

/// The state at the beginning, to be mixed with the key; 0xee asks for 128 bits.
const SEEDS: [u64; 4] =
    [0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d ^ 0xee, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573];
/// The length of a message, in the highest byte of its last word, which holds nothing else there.
const LENGTH: u64 = (WORDS as u64 * 8 + 2) << 56;

#[inline(always)]
fn hash_lanes<const N: usize>(key: [u64; 2], messages: &Messages<N>) -> [[u64; 2]; N] {
    let mut v = [0, 1, 2, 3].map(|n| [key[n & 1] ^ SEEDS[n]; N]);
    for word in &messages.words {
        xor(&mut v[3], word);
        round(&mut v);
        xor(&mut v[0], word);
    }
    let last: [u64; N] = std::array::from_fn(|n| messages.tails[n] ^ LENGTH);
    xor(&mut v[3], &last);
    round(&mut v);
    xor(&mut v[0], &last);
    xor(&mut v[2], &[0xee; N]);
    let low = finish(&mut v);
    xor(&mut v[1], &[0xdd; N]);
    let high = finish(&mut v);
    std::array::from_fn(|n| [low[n], high[n]])
}

/// Hashes one message.
#[inline]
pub(super) fn hash(key: [u64; 2], message: &Messages<1>) -> [[u64; 2]; 1] {
    hash_lanes(key, message)
}

/// The same in the processor's own words, because the compiler finds its way to them only sometimes.
#[cfg(target_arch = "x86_64")]
mod wide {
    use core::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi64, _mm256_or_si256, _mm256_set1_epi64x, _mm256_slli_epi64, _mm256_srli_epi64,
        _mm256_xor_si256, _mm512_add_epi64, _mm512_rol_epi64, _mm512_set1_epi64, _mm512_xor_si512,
    };

    use super::{LANES, LENGTH, Messages, SEEDS};

    macro_rules! rotate_512 {
        ($v:expr, $left:literal, $right:literal) => {
            _mm512_rol_epi64::<$left>($v)
        };
    }

    macro_rules! rotate_256 {
        ($v:expr, $left:literal, $right:literal) => {
            _mm256_or_si256(_mm256_slli_epi64::<$left>($v), _mm256_srli_epi64::<$right>($v))
        };
    }

    macro_rules! round {
        ($v:ident, $add:ident, $xor:ident, $rotate:ident) => {
            for [v0, v1, v2, v3] in &mut $v {
                (*v0, *v2) = ($add(*v0, *v1), $add(*v2, *v3));
                (*v1, *v3) = ($xor($rotate!(*v1, 13, 51), *v0), $xor($rotate!(*v3, 16, 48), *v2));
                *v0 = $rotate!(*v0, 32, 32);
                (*v2, *v0) = ($add(*v2, *v1), $add(*v0, *v3));
                (*v1, *v3) = ($xor($rotate!(*v1, 17, 47), *v2), $xor($rotate!(*v3, 21, 43), *v0));
                *v2 = $rotate!(*v2, 32, 32);
            }
        };
    }

    macro_rules! hash_with {
        ($name:ident, $features:literal, $vector:ty, $width:literal, $all:ident, $add:ident, $xor:ident, $rotate:ident) => {
            /// Two vectors at a time: each round waits for the one before it, so another chain beside it costs nothing.
            #[target_feature(enable = $features)]
            pub fn $name(key: [u64; 2], messages: &Messages<LANES>) -> [[u64; 2]; LANES] {
                const WIDTH: usize = $width;
                let load = |from: &[u64; LANES], lane: usize| -> $vector {
                    let words: [u64; WIDTH] = *from[lane..].first_chunk().unwrap_or(&[0; WIDTH]);
                    // SAFETY: both are the same number of bytes, and any bytes are a value of either.
                    unsafe { std::mem::transmute::<[u64; WIDTH], $vector>(words) }
                };
                let all = |n: u64| $all(n as i64);
                let mut ids = [[0; 2]; LANES];
                for first in (0..LANES).step_by(2 * WIDTH) {
                    let seeds = [0, 1, 2, 3].map(|n| all(key[n & 1] ^ SEEDS[n]));
                    let mut v = [seeds; 2];
                    for word in &messages.words {
                        let word = [load(word, first), load(word, first + WIDTH)];
                        (v[0][3], v[1][3]) = ($xor(v[0][3], word[0]), $xor(v[1][3], word[1]));
                        round!(v, $add, $xor, $rotate);
                        (v[0][0], v[1][0]) = ($xor(v[0][0], word[0]), $xor(v[1][0], word[1]));
                    }
                    let tails = &messages.tails;
                    let last = [load(tails, first), load(tails, first + WIDTH)].map(|tail| $xor(tail, all(LENGTH)));
                    (v[0][3], v[1][3]) = ($xor(v[0][3], last[0]), $xor(v[1][3], last[1]));
                    round!(v, $add, $xor, $rotate);
                    (v[0][0], v[1][0]) = ($xor(v[0][0], last[0]), $xor(v[1][0], last[1]));
                    for (half, (at, mark)) in [(2, 0xee), (1, 0xdd)].into_iter().enumerate() {
                        (v[0][at], v[1][at]) = ($xor(v[0][at], all(mark)), $xor(v[1][at], all(mark)));
                        for _ in 0..3 {
                            round!(v, $add, $xor, $rotate);
                        }
                        for (chain, v) in v.iter().enumerate() {
                            let folded = $xor($xor(v[0], v[1]), $xor(v[2], v[3]));
                            // SAFETY: as in `load`.
                            let words = unsafe { std::mem::transmute::<$vector, [u64; WIDTH]>(folded) };
                            for (n, word) in words.into_iter().enumerate() {
                                ids[first + chain * WIDTH + n][half] = word;
                            }
                        }
                    }
                }
                ids
            }
        };
    }

    hash_with!(avx512, "avx512f", __m512i, 8, _mm512_set1_epi64, _mm512_add_epi64, _mm512_xor_si512, rotate_512);
    hash_with!(avx2, "avx2", __m256i, 4, _mm256_set1_epi64x, _mm256_add_epi64, _mm256_xor_si256, rotate_256);
}

/// Hashes as many messages as there are lanes. The result is the same on every
/// processor, only the speed is not.
#[inline]
pub(super) fn hash_many(key: [u64; 2], messages: &Messages<LANES>) -> [[u64; 2]; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
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
            assert_eq!(hash(key, &one), [[h1, h2]]);
            expected.push([h1, h2]);
        }
        let plain = hash_lanes(key, &many);
        let mut all = vec![("plain", plain), ("chosen", hash_many(key, &many))];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has what the function needs, it was asked just now.
                all.push(("avx512", unsafe { wide::avx512(key, &many) }));
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                all.push(("avx2", unsafe { wide::avx2(key, &many) }));
            }
        }
        for (lane, expected) in expected.into_iter().enumerate() {
            for (name, ids) in &all {
                assert_eq!(ids[lane], expected, "lane {lane}, {name}");
            }
        }
    }
}
