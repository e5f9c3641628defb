//! Incremental digests: a sum of one strong mix per item, so that adding, changing and removing an item costs the same
//! whatever else the book holds. Sums do not depend on the order of items, so each item carries what orders it: an
//! order its queue rank, a finished id its place in the sequence of endings.
//!
//! The mixing is the multiply-and-fold of wyhash (Wang Yi); the inputs of an order include its keyed id hash.

use super::orders::Order;

const K: [u64; 8] = [
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0xd899_65cc_7537_4cc3,
    0xeb44_acca_b455_d165,
    0x9c6e_6877_736c_46e3,
    0xc2b2_ae3d_27d4_eb4f,
    0x9ddf_ea08_eb38_2d69,
];

#[inline]
fn mum(a: u64, b: u64) -> u64 {
    let p = u128::from(a).wrapping_mul(u128::from(b));
    (p as u64) ^ (p >> 64) as u64
}

#[inline]
fn wide(a: u64, b: u64) -> u128 {
    // Both halves of the product carry information; odd factors keep either from vanishing.
    u128::from(a | 1).wrapping_mul(u128::from(b | 1)) ^ (u128::from(mum(a, b ^ K[7])) << 64)
}

/// Of a resting order at `price`: first of all that matters of it, then of only price, side, open quantity and queue
/// rank, which is equal for two runs of one flow.
#[inline]
pub(super) fn of_order(o: &Order, price: u64) -> (u128, u128) {
    let side = u64::from(o.flags & 1);
    let place = mum((price << 1 | side) ^ K[2], o.rank ^ K[3]);
    let id = mum(o.id[0] ^ K[0], o.id[1] ^ K[1]);
    let amounts = u64::from(o.open) << 32 | u64::from(o.filled);
    let rest = u64::from(o.quantity) << 16 | u64::from(o.flags);
    let whole = wide(id ^ place.rotate_left(29), mum(amounts ^ K[4], rest ^ K[5]) ^ place);
    (whole, wide(place, u64::from(o.open) ^ K[6]))
}

/// A finished id and its place in the sequence of endings.
#[inline]
pub(super) fn of_finished(id: [u64; 2], number: u64) -> u128 {
    wide(mum(id[0] ^ K[5], number ^ K[6]), id[1] ^ K[1])
}
