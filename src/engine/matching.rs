//! An order that arrives: its checks, the trades it makes, and what becomes of the rest.

use super::ids::Id;
use super::orders::{Fresh, NONE, flags};
use super::{Book, RESTING_MAX, open_status};
use crate::domain::output::{Cause, CommandKind, OrderLine, OrderType, PartyLine, Tif};
use crate::domain::{
    NewOrder, OrderId, OrderKind, OrderStatus, Outbox, OutputBody, Price, Quantity, Reason, SelfTrade, Side,
    TimeInForce, UserId,
};

/// An order while it trades.
pub(super) struct Taker<'a> {
    pub order_id: &'a OrderId,
    pub user: &'a UserId,
    pub side: Side,
    /// Trades at this price or better; a MARKET order's is the instrument's limit.
    pub limit: Price,
    pub self_trade: SelfTrade,
    pub open: u32,
    pub filled: u32,
    /// What a MARKET order may still spend.
    pub value_left: Option<u128>,
}

/// Why a taker stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    Filled,
    /// No resting order at its price or better is left.
    NothingLeft,
    SelfTrade,
    ValueAboveMax,
}

impl Book {
    /// ADD.
    #[inline]
    pub(super) fn add(&mut self, order: &NewOrder, id: Id, out: &mut Outbox) {
        if self.ids.find(id, &self.orders).is_some() {
            let (user, order_id) = (Some(order.user), Some(order.order_id));
            let reason = Reason::DuplicateOrder;
            out.emit(&OutputBody::Refused { command: CommandKind::Add, user, order_id, reason }, true);
            return;
        }
        if !self.is_plainly_good(order)
            && let Err(reason) = self.check(order)
        {
            self.refuse(order, id, OrderStatus::Rejected, reason, out);
            return;
        }
        let mut taker = self.taker(order);
        if order.time_in_force == TimeInForce::Fok && !self.is_fillable(&taker) {
            self.refuse(order, id, OrderStatus::Canceled, Reason::FokNotFillable, out);
            return;
        }
        let stopped = match self.would_trade(taker.side, taker.limit) {
            true => self.trade(&mut taker, out),
            false => Stopped::NothingLeft,
        };
        self.settle(order, id, &taker, stopped, out);
    }

    /// Whether [`Self::check`] would let an order in, for the most common kind: an ordinary limit order for an instrument
    /// with one tick size and no highest order value. `false` says nothing.
    #[inline(always)]
    fn is_plainly_good(&self, order: &NewOrder) -> bool {
        let (plain, quantity) = (&self.plain, order.quantity.0);
        let OrderKind::Limit { price: Price(price) } = order.kind else { return false };
        let is_ordinary = order.time_in_force == TimeInForce::Gtc
            && !(self.halted | order.post_only | order.all_or_none)
            && order.display_quantity.is_none();
        let is_inside = price >= plain.low && price <= plain.high && quantity != 0 && quantity <= Quantity::MAX.0;
        // A division takes long, and most steps are 1.
        let is_on = |n: u64, step: u64| step == 1 || n.is_multiple_of(step);
        is_ordinary
            && is_inside
            && is_on(price, self.unit)
            && is_on(quantity, self.instrument.lot_size)
            && self.orders.len() < RESTING_MAX
    }

    #[inline(never)]
    fn check(&self, order: &NewOrder) -> Result<(), Reason> {
        if self.halted {
            return Err(Reason::SymbolHalted);
        }
        let (kind, tif) = (&order.kind, &order.time_in_force);
        if matches!(kind, OrderKind::Stop { .. } | OrderKind::StopLimit { .. })
            || matches!(tif, TimeInForce::Day | TimeInForce::Gtd { .. })
            || order.all_or_none
            || order.display_quantity.is_some()
        {
            return Err(Reason::NotSupported);
        }
        if order.post_only && (matches!(kind, OrderKind::Market) || *tif != TimeInForce::Gtc) {
            return Err(Reason::InvalidCombination);
        }
        self.instrument.check_quantity(order.quantity)?;
        let Some(price) = kind.limit() else { return Ok(()) };
        self.instrument.check_price(price)?;
        self.instrument.check_value(price, order.quantity)?;
        if *tif == TimeInForce::Gtc && self.orders.len() >= RESTING_MAX {
            return Err(Reason::BookFull);
        }
        if order.post_only && self.would_trade(order.side, price) {
            return Err(Reason::PostOnlyWouldTrade);
        }
        Ok(())
    }

    /// Whether an order at `price` would meet a resting one.
    #[inline]
    pub(super) fn would_trade(&self, side: Side, price: Price) -> bool {
        let against = self.side(side.opposite());
        !against.is_empty() && side.crosses(price, Price(against.top() * self.unit))
    }

    #[inline]
    fn taker<'a>(&self, order: &'a NewOrder) -> Taker<'a> {
        let (limit, value_left) = match order.kind.limit() {
            Some(price) => (price, None),
            None => (self.market_limit(order.side), self.instrument.max_order_value.map(u128::from)),
        };
        Taker {
            order_id: &order.order_id,
            user: &order.user,
            side: order.side,
            limit,
            self_trade: order.self_trade,
            open: order.quantity.0 as u32,
            filled: 0,
            value_left,
        }
    }

    /// MARKET orders stay inside the price limits.
    fn market_limit(&self, side: Side) -> Price {
        match side {
            Side::Buy => self.instrument.limit_up.unwrap_or(Price::MAX),
            Side::Sell => self.instrument.limit_down.unwrap_or(Price(0)),
        }
    }

    /// How much of `open` a MARKET order can pay at `price`, in whole lots.
    fn payable(&self, open: u32, price: u64, value_left: Option<u128>) -> u32 {
        let Some(left) = value_left else { return open };
        let affordable = left / u128::from(price);
        if affordable >= u128::from(open) {
            return open;
        }
        let lots = affordable as u64 / self.instrument.lot_size * self.instrument.lot_size;
        lots as u32
    }

    /// Whether the whole order could trade at once, with what its `stp` makes of the user's own orders.
    fn is_fillable(&self, taker: &Taker<'_>) -> bool {
        let against = taker.side.opposite();
        let levels = self.side(against);
        let (mut need, mut value_left) = (taker.open, taker.value_left);
        let mut at = levels.best();
        while let Some(level_at) = at {
            let price = levels.step_of(level_at) * self.unit;
            if !taker.side.crosses(taker.limit, Price(price)) {
                return false;
            }
            let mut slot = levels.level(level_at).head;
            while slot != NONE {
                let maker = self.orders.get(slot);
                let own = self.is_own(slot, taker);
                if own && taker.self_trade != SelfTrade::CancelOldest {
                    return false;
                }
                if !own {
                    let wanted = need.min(maker.open);
                    let traded = self.payable(wanted, price, value_left);
                    if traded < wanted {
                        return false;
                    }
                    need -= traded;
                    value_left = value_left.map(|v| v - u128::from(price) * u128::from(traded));
                    if need == 0 {
                        return true;
                    }
                }
                slot = maker.next;
            }
            at = levels.after(level_at);
        }
        false
    }

    /// Whether self-trade prevention keeps the taker from the order in a slot.
    #[inline]
    fn is_own(&self, slot: u32, taker: &Taker<'_>) -> bool {
        taker.self_trade != SelfTrade::None && self.orders.get(slot).user == *taker.user
    }

    /// Trades against the other side until the taker is filled or stops.
    #[inline]
    pub(super) fn trade(&mut self, taker: &mut Taker<'_>, out: &mut Outbox) -> Stopped {
        let against = taker.side.opposite();
        while taker.open > 0 {
            let levels = self.side(against);
            let Some(at) = levels.best() else { return Stopped::NothingLeft };
            let price = levels.top() * self.unit;
            if !taker.side.crosses(taker.limit, Price(price)) {
                return Stopped::NothingLeft;
            }
            let slot = levels.level(at).head;
            let maker = self.orders.get(slot);
            if self.is_own(slot, taker) {
                if self.meet_own(slot, taker, out) {
                    return Stopped::SelfTrade;
                }
                continue;
            }
            let quantity = self.payable(taker.open.min(maker.open), price, taker.value_left);
            if quantity == 0 {
                return Stopped::ValueAboveMax;
            }
            self.fill(slot, price, quantity, taker, out);
        }
        Stopped::Filled
    }

    #[inline]
    fn fill(&mut self, slot: u32, price: u64, quantity: u32, taker: &mut Taker<'_>, out: &mut Outbox) {
        taker.open -= quantity;
        taker.filled += quantity;
        if let Some(left) = &mut taker.value_left {
            *left -= u128::from(price) * u128::from(quantity);
        }
        let maker = self.orders.get(slot);
        let (maker_side, maker_open, maker_filled) = (maker.side(), maker.open - quantity, maker.filled + quantity);
        let level = if maker_open == 0 {
            self.announce_next(slot);
            self.end_resting(slot)
        } else {
            self.shrink(slot, quantity, quantity)
        };
        let (price, quantity) = (Price(price), Quantity(quantity.into()));
        self.last_trade = Some((price, quantity));
        // If it ended, its slot is free, but nothing has taken it yet.
        let maker = self.orders.get(slot);
        let party = |order_id, user, open: u32, filled: u32| {
            let (open, filled) = (Quantity(open.into()), Quantity(filled.into()));
            PartyLine { order_id, user, open, filled }
        };
        let parties = [
            party(&maker.order_id, &maker.user, maker_open, maker_filled),
            party(taker.order_id, taker.user, taker.open, taker.filled),
        ];
        out.trade_line(price, quantity, maker_side, level, parties);
    }

    /// The order behind a maker that ends may be the next maker: brings its id's entry closer, and the one behind it.
    #[inline]
    fn announce_next(&self, slot: u32) {
        let next = self.orders.get(slot).next;
        if next != NONE {
            let next = self.orders.get(next);
            self.ids.prefetch(next.id);
            if next.next != NONE {
                self.orders.prefetch_whole(next.next);
            }
        }
    }

    /// Self-trade prevention (OB5); whether the taker stops.
    fn meet_own(&mut self, slot: u32, taker: &mut Taker<'_>, out: &mut Outbox) -> bool {
        match taker.self_trade {
            SelfTrade::CancelNewest => true,
            SelfTrade::CancelOldest => {
                self.cancel_resting(slot, Cause::Canceled, Reason::SelfTrade, out);
                false
            }
            SelfTrade::CancelBoth => {
                self.cancel_resting(slot, Cause::Canceled, Reason::SelfTrade, out);
                true
            }
            SelfTrade::Decrement => {
                let less = taker.open.min(self.orders.get(slot).open);
                taker.open -= less;
                if self.orders.get(slot).open == less {
                    self.cancel_resting(slot, Cause::Canceled, Reason::SelfTrade, out);
                } else {
                    let left = self.shrink(slot, less, 0);
                    let status = open_status(self.orders.get(slot).filled);
                    let mut line = self.line(slot, left.price, Cause::Reduced, status, Some(Reason::SelfTrade));
                    line.left = Some(left);
                    let o = self.orders.get(slot);
                    out.order_line(&o.order_id, &o.user, &line, false);
                }
                taker.open == 0
            }
            SelfTrade::None => false,
        }
    }

    /// The answer to an ADD that was let in.
    #[inline]
    fn settle(&mut self, order: &NewOrder, id: Id, taker: &Taker<'_>, stopped: Stopped, out: &mut Outbox) {
        let mut line = incoming(order);
        line.filled = Quantity(taker.filled.into());
        let ended = match (stopped, order.kind, order.time_in_force) {
            (Stopped::Filled, ..) => Some((OrderStatus::Filled, None)),
            (Stopped::SelfTrade, ..) => Some((OrderStatus::Canceled, Some(Reason::SelfTrade))),
            (Stopped::ValueAboveMax, ..) => Some((OrderStatus::Canceled, Some(Reason::OrderValueAboveMax))),
            (_, OrderKind::Market, _) => Some((OrderStatus::Canceled, Some(Reason::NoLiquidity))),
            (.., TimeInForce::Ioc | TimeInForce::Fok) => Some((OrderStatus::Canceled, Some(Reason::IocRemainder))),
            _ => None,
        };
        match ended {
            Some((status, reason)) => {
                (line.status, line.reason) = (status, reason);
                self.ids.finish_new(id);
                out.order_line(&order.order_id, &order.user, &line, true);
            }
            None => {
                line.status = open_status(taker.filled);
                line.open = Quantity(taker.open.into());
                let slot = self.orders.insert(&Fresh {
                    id,
                    open: taker.open,
                    filled: taker.filled,
                    quantity: order.quantity.0 as u32,
                    flags: flags(order.side, order.post_only, order.self_trade),
                    user: &order.user,
                    order_id: &order.order_id,
                });
                self.ids.live(id, slot);
                line.joined = Some(self.join(slot, order.side, taker.open, taker.limit.0));
                out.order_line_here(&order.order_id, &order.user, &line, true);
            }
        }
    }

    /// An ADD that ends without having traded; its id is used up.
    fn refuse(&mut self, order: &NewOrder, id: Id, status: OrderStatus, reason: Reason, out: &mut Outbox) {
        let line = OrderLine { status, reason: Some(reason), ..incoming(order) };
        self.ids.finish_new(id);
        out.order_line(&order.order_id, &order.user, &line, true);
    }
}

/// What is said of an arriving order before anything happened to it.
#[inline]
fn incoming(order: &NewOrder) -> OrderLine {
    OrderLine {
        cause: Cause::Added,
        side: order.side,
        order_type: match order.kind {
            OrderKind::Market => OrderType::Market,
            OrderKind::Limit { .. } => OrderType::Limit,
            OrderKind::Stop { .. } => OrderType::Stop,
            OrderKind::StopLimit { .. } => OrderType::StopLimit,
        },
        time_in_force: match order.time_in_force {
            TimeInForce::Gtc => Tif::Gtc,
            TimeInForce::Ioc => Tif::Ioc,
            TimeInForce::Fok => Tif::Fok,
            TimeInForce::Day => Tif::Day,
            TimeInForce::Gtd { .. } => Tif::Gtd,
        },
        price: order.kind.limit(),
        quantity: order.quantity,
        open: Quantity::ZERO,
        filled: Quantity::ZERO,
        status: OrderStatus::Rejected,
        reason: None,
        left: None,
        joined: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::Listing;
    use crate::domain::{
        Authority, Command, Epoch, Input, Instrument, Machine, Micros, NodeId, Offset, OrderId, Origin, Output, Seqs,
        UserId,
    };

    fn input(n: u64, command: Command) -> Input<Command> {
        Input { offset: Offset(n), at: Micros(n), origin: Origin::NONE, command }
    }

    fn order(n: u64, side: Side, price: u64, time_in_force: TimeInForce) -> Command {
        Command::Add(NewOrder {
            order_id: OrderId::new(&format!("o{n}")).unwrap(),
            user: UserId::new(if side == Side::Buy { "bob" } else { "ann" }).unwrap(),
            side,
            kind: OrderKind::Limit { price: Price(price) },
            quantity: Quantity(1),
            time_in_force,
            self_trade: SelfTrade::None,
            post_only: false,
            all_or_none: false,
            display_quantity: None,
        })
    }

    #[test]
    fn a_full_book_takes_no_order_that_could_rest_until_one_leaves() {
        let mut out = Outbox::new(Seqs::default(), Epoch(0));
        let owner = NodeId::new("n1").unwrap();
        let listing = Listing { instrument: Instrument::plain(2, 1, 1), owner, id_key: 1, rules_version: 1 };
        let authority = Authority { nonce: 1, valid_until: Micros(u64::MAX) };
        let list = Command::List { listing: Box::new(listing), authority };
        let mut book = Book::birth(&input(0, list), &mut out).unwrap();
        let mut n = 0;
        let mut fate = |side, price, tif| {
            n += 1;
            out.clear();
            book.apply(&input(n, order(n, side, price, tif)), &mut out);
            match Output::decode_all(out.bytes()).last().unwrap().unwrap().body {
                OutputBody::Order(o) => (o.status, o.reason, book.resting_orders()),
                other => panic!("{other:?}"),
            }
        };
        for rest in 1..=RESTING_MAX {
            assert_eq!(fate(Side::Sell, 100 + rest as u64 % 50, TimeInForce::Gtc), (OrderStatus::New, None, rest));
        }
        let full = (OrderStatus::Rejected, Some(Reason::BookFull), RESTING_MAX);
        assert_eq!(fate(Side::Sell, 200, TimeInForce::Gtc), full);
        assert_eq!(fate(Side::Buy, 200, TimeInForce::Gtc), full, "it might rest");
        assert_eq!(fate(Side::Buy, 200, TimeInForce::Ioc), (OrderStatus::Filled, None, RESTING_MAX - 1));
        assert_eq!(fate(Side::Buy, 50, TimeInForce::Gtc), (OrderStatus::New, None, RESTING_MAX), "there is room again");
    }
}
