//! Who traded what with whom, for `GET /fills`: the newest trades of a symbol with their two parties.

use std::collections::VecDeque;

use super::view::OwnFillView;
use crate::domain::output::{Output, Party, Trade};
use crate::domain::{Micros, Price, Quantity, Seq, Side, Symbol, UserId};

#[derive(Debug, Clone)]
struct Kept {
    seq: Seq,
    at: Micros,
    price: Price,
    quantity: Quantity,
    maker_side: Side,
    maker: Party,
    taker: Party,
}

impl Kept {
    fn view(&self, symbol: Symbol, price_scale: u8, is_maker: bool) -> OwnFillView {
        let (party, side) =
            if is_maker { (&self.maker, self.maker_side) } else { (&self.taker, self.maker_side.opposite()) };
        OwnFillView {
            symbol,
            price_scale,
            seq: self.seq,
            order_id: party.order_id,
            side,
            price: self.price,
            quantity: self.quantity,
            remaining: party.open,
            is_maker,
            at: self.at,
        }
    }
}

/// The newest trades of one symbol; how many is said by the caller.
#[derive(Debug, Clone, Default)]
pub(super) struct Fills {
    ring: VecDeque<Kept>,
}

impl Fills {
    pub fn trade(&mut self, output: &Output, t: &Trade, kept_max: usize) {
        while self.ring.len() >= kept_max.max(1) {
            self.ring.pop_front();
        }
        self.ring.push_back(Kept {
            seq: output.seq,
            at: output.at,
            price: t.price,
            quantity: t.quantity,
            maker_side: t.maker_side,
            maker: t.maker,
            taker: t.taker,
        });
    }

    /// Those of `user`, newest first; one who traded with himself has two of one trade.
    pub fn of_user(&self, symbol: Symbol, price_scale: u8, user: &UserId, count: usize) -> Vec<OwnFillView> {
        let of = |kept: &Kept| {
            let sides = [(&kept.taker, false), (&kept.maker, true)];
            sides.map(|(party, is_maker)| (party.user == *user).then(|| kept.view(symbol, price_scale, is_maker)))
        };
        self.ring.iter().rev().flat_map(of).flatten().take(count).collect()
    }
}
