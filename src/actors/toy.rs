//! A book for tests: limit orders, price and time, written down with the outputs of a real one.

use crate::domain::output::{
    Cause, CommandKind, Level, OrderStatus, OrderType, OrderUpdate, Output, Party, Tif, Trade,
};
use crate::domain::{
    Epoch, Instrument, Micros, NodeId, Offset, OrderId, Origin, Outbox, OutputBody, Price, Quantity, Reason, Seqs,
    Side, Symbol, UserId,
};

use super::mirror::{BookState, OpenOrder};

#[derive(Clone)]
pub struct Toy {
    pub symbol: Symbol,
    pub out: Outbox,
    offset: u64,
    /// In the order of their arrival.
    resting: Vec<OpenOrder>,
    last_trade: Option<(Price, Quantity)>,
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub fn id(name: &str) -> OrderId {
    OrderId::new(name).unwrap()
}

impl Toy {
    /// A listed symbol: its Listed is in the outbox.
    pub fn listed(symbol: &str) -> Self {
        let symbol = Symbol::new(symbol).unwrap();
        let out = Outbox::new(Seqs::default(), Epoch(0));
        let mut toy = Self { symbol, out, offset: 0, resting: Vec::new(), last_trade: None };
        toy.begin(Origin::NONE);
        let owner = NodeId::new("n1").unwrap();
        toy.out.emit(&OutputBody::Listed { instrument: Self::instrument(), owner, rules_version: 1 }, true);
        toy.out.end();
        toy
    }

    pub fn instrument() -> Instrument {
        Instrument { limit_up: Some(Price(20_000)), ..Instrument::plain(2, 5, 1) }
    }

    fn begin(&mut self, origin: Origin) {
        let at = Micros(1_700_000_000_000_000 + self.offset * 1_000);
        self.out.begin(Offset(self.offset), at, origin);
        self.offset += 1;
    }

    pub fn level(&self, side: Side, price: Price) -> Level {
        let at = self.resting.iter().filter(|o| o.side == side && o.price == Some(price));
        let (quantity, orders) = at.fold((0, 0), |(q, n), o| (q + o.open.0, n + 1));
        Level { price, quantity, orders }
    }

    /// All levels of a side, best first.
    pub fn levels(&self, side: Side) -> Vec<Level> {
        let mut prices: Vec<Price> = self.resting.iter().filter(|o| o.side == side).filter_map(|o| o.price).collect();
        prices.sort_unstable();
        prices.dedup();
        if side == Side::Buy {
            prices.reverse();
        }
        prices.into_iter().map(|p| self.level(side, p)).collect()
    }

    pub fn open(&self) -> &[OpenOrder] {
        &self.resting
    }

    pub fn add(&mut self, who: &str, name: &str, side: Side, price: u64, quantity: u64, origin: Origin) {
        self.begin(origin);
        let price = Price(price);
        let mut order = OpenOrder {
            order_id: id(name),
            user: user(who),
            side,
            order_type: OrderType::Limit,
            time_in_force: Tif::Gtc,
            price: Some(price),
            quantity: Quantity(quantity),
            open: Quantity(quantity),
            filled: Quantity(0),
        };
        while order.open.0 > 0 {
            let Some(at) = self.best_against(side, price) else { break };
            let maker = &mut self.resting[at];
            let traded = Quantity(order.open.0.min(maker.open.0));
            for o in [&mut order, &mut *maker] {
                o.open.0 -= traded.0;
                o.filled.0 += traded.0;
            }
            let maker = *maker;
            if maker.open.is_zero() {
                self.resting.remove(at);
            }
            let price = maker.price.unwrap();
            self.last_trade = Some((price, traded));
            let level = self.level(maker.side, price);
            let [taker, maker_party] =
                [&order, &maker].map(|o| Party { order_id: o.order_id, user: o.user, open: o.open, filled: o.filled });
            let maker_side = maker.side;
            let trade = Trade { price, quantity: traded, maker_side, maker: maker_party, taker, level };
            self.out.trade(&trade);
        }
        let mut joined = None;
        if order.open.0 > 0 {
            self.resting.push(order);
            joined = Some(self.level(side, price));
        }
        self.out.order(&update(&order, Cause::Added, None, None, joined), true);
        self.out.end();
    }

    fn best_against(&self, side: Side, limit: Price) -> Option<usize> {
        let theirs = self.resting.iter().enumerate().filter(|(_, o)| o.side != side);
        let crossing = theirs.filter_map(|(i, o)| o.price.filter(|p| side.crosses(limit, *p)).map(|p| (p, i)));
        let best = match side {
            Side::Buy => crossing.min(),
            Side::Sell => crossing.min_by_key(|(p, i)| (std::cmp::Reverse(*p), *i)),
        };
        best.map(|(_, i)| i)
    }

    pub fn cancel(&mut self, who: &str, name: &str, origin: Origin) {
        self.begin(origin);
        match self.resting.iter().position(|o| o.user == user(who) && o.order_id == id(name)) {
            Some(at) => {
                let mut order = self.resting.remove(at);
                order.open = Quantity(0);
                let left = self.level(order.side, order.price.unwrap());
                let reason = Some(Reason::CanceledByUser);
                self.out.order(&update(&order, Cause::Canceled, reason, Some(left), None), true);
            }
            None => {
                let (user, order_id) = (Some(user(who)), Some(id(name)));
                let reason = Reason::UnknownOrder;
                self.out.emit(&OutputBody::Refused { command: CommandKind::Cancel, user, order_id, reason }, true);
            }
        }
        self.out.end();
    }

    /// Outputs since the last call, encoded.
    pub fn take(&mut self) -> Vec<u8> {
        let bytes = self.out.bytes().to_vec();
        self.out.clear();
        bytes
    }

    /// Outputs since the last call.
    pub fn said(&mut self) -> Vec<Output> {
        Output::decode_all(&self.take()).map(Result::unwrap).collect()
    }

    /// What a snapshot would hold.
    pub fn state(&self) -> BookState {
        BookState {
            symbol: self.symbol,
            seq: self.out.seqs().last,
            epoch: Epoch(0),
            instrument: Self::instrument(),
            halted: false,
            bids: self.levels(Side::Buy),
            asks: self.levels(Side::Sell),
            orders: self.resting.clone(),
            last_trade: self.last_trade,
        }
    }
}

fn update(
    o: &OpenOrder,
    cause: Cause,
    reason: Option<Reason>,
    left: Option<Level>,
    joined: Option<Level>,
) -> OrderUpdate {
    let status = match (cause, o.open.0, o.filled.0) {
        (Cause::Canceled, ..) => OrderStatus::Canceled,
        (_, 0, _) => OrderStatus::Filled,
        (_, _, 0) => OrderStatus::New,
        _ => OrderStatus::PartiallyFilled,
    };
    OrderUpdate {
        cause,
        order_id: o.order_id,
        user: o.user,
        side: o.side,
        order_type: o.order_type,
        time_in_force: o.time_in_force,
        price: o.price,
        quantity: o.quantity,
        open: o.open,
        filled: o.filled,
        status,
        reason,
        left,
        joined,
    }
}
