//! The naive matcher: the rules once more, written to be obvious and slow. It shares only the domain's words with the
//! engine; the tests hold the two against each other, and the auditor will recompute with it.
//!
//! One list of resting orders, searched from the front for whatever is needed; one list of finished ids.

use std::collections::VecDeque;

use crate::domain::command::Listing;
use crate::domain::output::{Cause, CommandKind, Level, OrderType, OrderUpdate, Party, Tif, Trade};
use crate::domain::{
    Command, Instrument, NewOrder, OrderId, OrderKind, OrderStatus, OutputBody, Price, Quantity, Reason, SelfTrade,
    Side, TimeInForce, UserId,
};

/// Finished ids that a book remembers.
const FINISHED_MAX: usize = 65_536;
/// The newest rules version.
const RULES_VERSION: u32 = 1;

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub body: OutputBody,
    pub answer: bool,
}

/// A resting order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resting {
    pub user: UserId,
    pub order_id: OrderId,
    pub side: Side,
    pub price: u64,
    /// Total, as submitted or last replaced.
    pub quantity: u64,
    pub open: u64,
    pub filled: u64,
    pub self_trade: SelfTrade,
    pub post_only: bool,
    pub rank: u64,
}

/// An order on its way in.
struct Taker {
    user: UserId,
    order_id: OrderId,
    side: Side,
    /// Worst price; `None` for MARKET.
    limit: Option<u64>,
    self_trade: SelfTrade,
    open: u64,
    filled: u64,
    spent: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Filled,
    NothingLeft,
    SelfTrade,
    Value,
}

/// One symbol's book.
#[derive(Debug, Clone)]
pub struct Naive {
    instrument: Instrument,
    halted: bool,
    resting: Vec<Resting>,
    finished: VecDeque<(UserId, OrderId)>,
    next_rank: u64,
    said: Vec<Said>,
}

impl Naive {
    /// The book after its LIST, and what it says.
    pub fn birth(listing: &Listing) -> (Self, Vec<Said>) {
        let instrument = listing.instrument.clone();
        let book = Self {
            instrument: instrument.clone(),
            halted: false,
            resting: Vec::new(),
            finished: VecDeque::new(),
            next_rank: 1,
            said: Vec::new(),
        };
        let (owner, rules_version) = (listing.owner, listing.rules_version);
        (book, vec![Said { body: OutputBody::Listed { instrument, owner, rules_version }, answer: true }])
    }

    /// Applies one command and gives all that is said.
    pub fn apply(&mut self, command: &Command) -> Vec<Said> {
        match command {
            Command::Add(order) => self.add(order),
            Command::Cancel { user, order_id } => self.cancel(*user, *order_id),
            Command::Replace { user, order_id, price, quantity } => {
                self.replace(*user, *order_id, price.map(|p| p.0), quantity.map(|q| q.0));
            }
            Command::CancelAll { user, .. } => self.cancel_all(*user),
            Command::List { .. } => self.refuse(CommandKind::List, None, Reason::SymbolExists),
            Command::Halt { .. } if self.halted => self.refuse(CommandKind::Halt, None, Reason::AlreadyHalted),
            Command::Resume { .. } if !self.halted => self.refuse(CommandKind::Resume, None, Reason::NotHalted),
            Command::Halt { .. } => {
                self.halted = true;
                self.say(OutputBody::Halted, true);
            }
            Command::Resume { .. } => {
                self.halted = false;
                self.say(OutputBody::Resumed, true);
            }
            Command::Rules { version, .. } if *version == RULES_VERSION => {
                self.say(OutputBody::RulesSet { version: *version }, true);
            }
            Command::Rules { .. } => self.refuse(CommandKind::Rules, None, Reason::RulesVersionUnknown),
            Command::Session { .. } => self.say(OutputBody::SessionEnded, true),
            Command::Tick { .. } | Command::Fence { .. } => {}
        }
        std::mem::take(&mut self.said)
    }

    /// Resting orders by queue rank.
    pub fn open_orders(&self) -> Vec<Resting> {
        let mut orders = self.resting.clone();
        orders.sort_by_key(|o| o.rank);
        orders
    }

    fn say(&mut self, body: OutputBody, answer: bool) {
        self.said.push(Said { body, answer });
    }

    fn refuse(&mut self, command: CommandKind, who: Option<(UserId, OrderId)>, reason: Reason) {
        let (user, order_id) = (who.map(|w| w.0), who.map(|w| w.1));
        self.say(OutputBody::Refused { command, user, order_id, reason }, true);
    }

    fn find(&self, user: UserId, order_id: OrderId) -> Option<usize> {
        self.resting.iter().position(|o| o.user == user && o.order_id == order_id)
    }

    fn finish(&mut self, user: UserId, order_id: OrderId) {
        self.finished.push_back((user, order_id));
        if self.finished.len() > FINISHED_MAX {
            self.finished.pop_front();
        }
    }

    fn level(&self, side: Side, price: u64) -> Level {
        let here = || self.resting.iter().filter(|o| o.side == side && o.price == price);
        Level { price: Price(price), quantity: here().map(|o| o.open).sum(), orders: here().count() as u32 }
    }

    /// The order of a side that trades first.
    fn first(&self, side: Side) -> Option<usize> {
        let priority = |i: &usize| {
            let o = &self.resting[*i];
            let price = if side == Side::Buy { u64::MAX - o.price } else { o.price };
            (price, o.rank)
        };
        (0..self.resting.len()).filter(|i| self.resting[*i].side == side).min_by_key(priority)
    }

    /// All orders of a side, in the order in which they would trade.
    fn in_priority(&self, side: Side) -> Vec<Resting> {
        let mut orders: Vec<_> = self.resting.iter().filter(|o| o.side == side).copied().collect();
        orders.sort_by_key(|o| (if side == Side::Buy { u64::MAX - o.price } else { o.price }, o.rank));
        orders
    }

    fn update(o: &Resting, cause: Cause, status: OrderStatus, reason: Option<Reason>) -> OrderUpdate {
        OrderUpdate {
            cause,
            order_id: o.order_id,
            user: o.user,
            side: o.side,
            order_type: OrderType::Limit,
            time_in_force: Tif::Gtc,
            price: Some(Price(o.price)),
            quantity: Quantity(o.quantity),
            open: Quantity(if status.is_open() { o.open } else { 0 }),
            filled: Quantity(o.filled),
            status,
            reason,
            left: None,
            joined: None,
        }
    }

    /// Ends a resting order and says so.
    fn end(&mut self, at: usize, cause: Cause, reason: Reason, answer: bool) {
        let o = self.resting.remove(at);
        self.finish(o.user, o.order_id);
        let mut update = Self::update(&o, cause, OrderStatus::Canceled, Some(reason));
        update.left = Some(self.level(o.side, o.price));
        self.say(OutputBody::Order(update), answer);
    }

    fn cancel(&mut self, user: UserId, order_id: OrderId) {
        match self.find(user, order_id) {
            Some(at) => self.end(at, Cause::Canceled, Reason::CanceledByUser, true),
            None => self.refuse(CommandKind::Cancel, Some((user, order_id)), Reason::UnknownOrder),
        }
    }

    fn cancel_all(&mut self, user: UserId) {
        let mut count = 0;
        loop {
            let mine = (0..self.resting.len()).filter(|i| self.resting[*i].user == user);
            let Some(at) = mine.min_by_key(|i| self.resting[*i].rank) else { break };
            self.end(at, Cause::Canceled, Reason::CancelAll, false);
            count += 1;
        }
        self.say(OutputBody::AllCanceled { user, count }, true);
    }

    fn check(&self, order: &NewOrder) -> Result<(), Reason> {
        if self.halted {
            return Err(Reason::SymbolHalted);
        }
        let later = matches!(order.kind, OrderKind::Stop { .. } | OrderKind::StopLimit { .. })
            || matches!(order.time_in_force, TimeInForce::Day | TimeInForce::Gtd { .. })
            || order.all_or_none
            || order.display_quantity.is_some();
        if later {
            return Err(Reason::NotSupported);
        }
        if order.post_only && (order.kind == OrderKind::Market || order.time_in_force != TimeInForce::Gtc) {
            return Err(Reason::InvalidCombination);
        }
        self.instrument.check_quantity(order.quantity)?;
        if let OrderKind::Limit { price } = order.kind {
            self.instrument.check_price(price)?;
            self.instrument.check_value(price, order.quantity)?;
            if order.post_only && self.would_trade(order.side, price.0) {
                return Err(Reason::PostOnlyWouldTrade);
            }
        }
        Ok(())
    }

    fn would_trade(&self, side: Side, price: u64) -> bool {
        let first = self.first(side.opposite()).map(|at| self.resting[at].price);
        first.is_some_and(|resting| side.crosses(Price(price), Price(resting)))
    }

    /// Whether the taker may trade at a price.
    fn may_trade(&self, taker: &Taker, price: u64) -> bool {
        match (taker.limit, taker.side) {
            (Some(limit), side) => side.crosses(Price(limit), Price(price)),
            (None, Side::Buy) => self.instrument.limit_up.is_none_or(|up| price <= up.0),
            (None, Side::Sell) => self.instrument.limit_down.is_none_or(|down| price >= down.0),
        }
    }

    /// How much the taker can pay for of `wanted`.
    fn payable(&self, taker: &Taker, wanted: u64, price: u64) -> u64 {
        match (taker.limit, self.instrument.max_order_value) {
            (None, Some(max)) => {
                let affordable = (u128::from(max) - taker.spent) / u128::from(price);
                if affordable >= u128::from(wanted) {
                    wanted
                } else {
                    affordable as u64 / self.instrument.lot_size * self.instrument.lot_size
                }
            }
            _ => wanted,
        }
    }

    fn add(&mut self, order: &NewOrder) {
        let (user, order_id) = (order.user, order.order_id);
        if self.find(user, order_id).is_some() || self.finished.contains(&(user, order_id)) {
            self.refuse(CommandKind::Add, Some((user, order_id)), Reason::DuplicateOrder);
            return;
        }
        if let Err(reason) = self.check(order) {
            self.finish(user, order_id);
            self.answer(order, OrderStatus::Rejected, Some(reason), 0, 0, None);
            return;
        }
        let limit = order.kind.limit().map(|p| p.0);
        let (side, self_trade, open) = (order.side, order.self_trade, order.quantity.0);
        let mut taker = Taker { user, order_id, side, limit, self_trade, open, filled: 0, spent: 0 };
        if order.time_in_force == TimeInForce::Fok && !self.is_fillable(&taker) {
            self.finish(user, order_id);
            self.answer(order, OrderStatus::Canceled, Some(Reason::FokNotFillable), 0, 0, None);
            return;
        }
        let end = self.trade(&mut taker);
        let ended = match end {
            End::Filled => Some((OrderStatus::Filled, None)),
            End::SelfTrade => Some((OrderStatus::Canceled, Some(Reason::SelfTrade))),
            End::Value => Some((OrderStatus::Canceled, Some(Reason::OrderValueAboveMax))),
            End::NothingLeft if limit.is_none() => Some((OrderStatus::Canceled, Some(Reason::NoLiquidity))),
            End::NothingLeft if order.time_in_force != TimeInForce::Gtc => {
                Some((OrderStatus::Canceled, Some(Reason::IocRemainder)))
            }
            End::NothingLeft => None,
        };
        match ended {
            Some((status, reason)) => {
                self.finish(user, order_id);
                self.answer(order, status, reason, 0, taker.filled, None);
            }
            None => {
                let price = limit.unwrap_or_default();
                self.rest(Resting {
                    user,
                    order_id,
                    side,
                    price,
                    quantity: order.quantity.0,
                    open: taker.open,
                    filled: taker.filled,
                    self_trade,
                    post_only: order.post_only,
                    rank: 0,
                });
                let status = if taker.filled == 0 { OrderStatus::New } else { OrderStatus::PartiallyFilled };
                self.answer(order, status, None, taker.open, taker.filled, Some(self.level(side, price)));
            }
        }
    }

    fn answer(
        &mut self,
        order: &NewOrder,
        status: OrderStatus,
        reason: Option<Reason>,
        open: u64,
        filled: u64,
        joined: Option<Level>,
    ) {
        let order_type = match order.kind {
            OrderKind::Market => OrderType::Market,
            OrderKind::Limit { .. } => OrderType::Limit,
            OrderKind::Stop { .. } => OrderType::Stop,
            OrderKind::StopLimit { .. } => OrderType::StopLimit,
        };
        let time_in_force = match order.time_in_force {
            TimeInForce::Gtc => Tif::Gtc,
            TimeInForce::Ioc => Tif::Ioc,
            TimeInForce::Fok => Tif::Fok,
            TimeInForce::Day => Tif::Day,
            TimeInForce::Gtd { .. } => Tif::Gtd,
        };
        let update = OrderUpdate {
            cause: Cause::Added,
            order_id: order.order_id,
            user: order.user,
            side: order.side,
            order_type,
            time_in_force,
            price: order.kind.limit(),
            quantity: order.quantity,
            open: Quantity(open),
            filled: Quantity(filled),
            status,
            reason,
            left: None,
            joined,
        };
        self.say(OutputBody::Order(update), true);
    }

    fn rest(&mut self, mut order: Resting) {
        order.rank = self.next_rank;
        self.next_rank += 1;
        self.resting.push(order);
    }

    fn is_fillable(&self, taker: &Taker) -> bool {
        let mut trial = Taker { spent: 0, ..*taker };
        for maker in self.in_priority(taker.side.opposite()) {
            if trial.open == 0 || !self.may_trade(&trial, maker.price) {
                break;
            }
            let own = maker.user == taker.user && taker.self_trade != SelfTrade::None;
            match taker.self_trade {
                SelfTrade::CancelOldest if own => continue,
                _ if own => break,
                _ => {}
            }
            let wanted = trial.open.min(maker.open);
            let traded = self.payable(&trial, wanted, maker.price);
            trial.open -= traded;
            trial.spent += u128::from(maker.price) * u128::from(traded);
            if traded < wanted {
                break;
            }
        }
        trial.open == 0
    }

    fn trade(&mut self, taker: &mut Taker) -> End {
        while taker.open > 0 {
            let Some(at) = self.first(taker.side.opposite()) else { return End::NothingLeft };
            let maker = self.resting[at];
            if !self.may_trade(taker, maker.price) {
                return End::NothingLeft;
            }
            if maker.user == taker.user && taker.self_trade != SelfTrade::None {
                if self.meet_own(at, taker) {
                    return End::SelfTrade;
                }
                continue;
            }
            let quantity = self.payable(taker, taker.open.min(maker.open), maker.price);
            if quantity == 0 {
                return End::Value;
            }
            self.fill(at, taker, quantity);
        }
        End::Filled
    }

    fn fill(&mut self, at: usize, taker: &mut Taker, quantity: u64) {
        self.resting[at].open -= quantity;
        self.resting[at].filled += quantity;
        taker.open -= quantity;
        taker.filled += quantity;
        let maker = self.resting[at];
        taker.spent += u128::from(maker.price) * u128::from(quantity);
        if maker.open == 0 {
            self.resting.remove(at);
            self.finish(maker.user, maker.order_id);
        }
        let party =
            |order_id, user, open, filled| Party { order_id, user, open: Quantity(open), filled: Quantity(filled) };
        let trade = Trade {
            price: Price(maker.price),
            quantity: Quantity(quantity),
            maker_side: maker.side,
            maker: party(maker.order_id, maker.user, maker.open, maker.filled),
            taker: party(taker.order_id, taker.user, taker.open, taker.filled),
            level: self.level(maker.side, maker.price),
        };
        self.say(OutputBody::Trade(trade), false);
    }

    /// Whether the taker stops.
    fn meet_own(&mut self, at: usize, taker: &mut Taker) -> bool {
        match taker.self_trade {
            SelfTrade::CancelNewest => true,
            SelfTrade::CancelOldest => {
                self.end(at, Cause::Canceled, Reason::SelfTrade, false);
                false
            }
            SelfTrade::CancelBoth => {
                self.end(at, Cause::Canceled, Reason::SelfTrade, false);
                true
            }
            SelfTrade::Decrement | SelfTrade::None => {
                let less = taker.open.min(self.resting[at].open);
                taker.open -= less;
                if self.resting[at].open == less {
                    self.end(at, Cause::Canceled, Reason::SelfTrade, false);
                } else {
                    self.resting[at].open -= less;
                    let o = self.resting[at];
                    let status = if o.filled == 0 { OrderStatus::New } else { OrderStatus::PartiallyFilled };
                    let mut update = Self::update(&o, Cause::Reduced, status, Some(Reason::SelfTrade));
                    update.left = Some(self.level(o.side, o.price));
                    self.say(OutputBody::Order(update), false);
                }
                taker.open == 0
            }
        }
    }

    fn replace(&mut self, user: UserId, order_id: OrderId, price: Option<u64>, quantity: Option<u64>) {
        let who = Some((user, order_id));
        let Some(at) = self.find(user, order_id) else {
            return self.refuse(CommandKind::Replace, who, Reason::UnknownOrder);
        };
        let old = self.resting[at];
        let (price, total) = (price.unwrap_or(old.price), quantity.unwrap_or(old.quantity));
        let done = old.quantity - old.open;
        if let Err(reason) = self.check_replace(&old, price, total, done) {
            return self.refuse(CommandKind::Replace, who, reason);
        }
        let open = total.saturating_sub(done);
        if open == 0 {
            return self.end(at, Cause::Replaced, Reason::ReplacedBelowFilled, true);
        }
        let open_status = |filled| if filled == 0 { OrderStatus::New } else { OrderStatus::PartiallyFilled };
        if price == old.price && open <= old.open {
            self.resting[at].quantity = total;
            self.resting[at].open = open;
            let mut update = Self::update(&self.resting[at], Cause::Replaced, open_status(old.filled), None);
            update.left = (open < old.open).then(|| self.level(old.side, old.price));
            return self.say(OutputBody::Order(update), true);
        }
        self.resting.remove(at);
        let left = Some(self.level(old.side, old.price));
        let Resting { side, self_trade, filled, .. } = old;
        let mut taker = Taker { user, order_id, side, limit: Some(price), self_trade, open, filled, spent: 0 };
        let end = self.trade(&mut taker);
        let moved = Resting { price, quantity: total, open: taker.open, filled: taker.filled, ..old };
        let (status, reason) = match end {
            End::Filled => (OrderStatus::Filled, None),
            End::SelfTrade => (OrderStatus::Canceled, Some(Reason::SelfTrade)),
            End::NothingLeft | End::Value => (open_status(taker.filled), None),
        };
        let mut update = Self::update(&moved, Cause::Replaced, status, reason);
        update.left = left;
        if status.is_open() {
            self.rest(moved);
            update.joined = Some(self.level(side, price));
        } else {
            self.finish(user, order_id);
        }
        self.say(OutputBody::Order(update), true);
    }

    fn check_replace(&self, old: &Resting, price: u64, total: u64, done: u64) -> Result<(), Reason> {
        if self.halted {
            return Err(Reason::SymbolHalted);
        }
        if total > Quantity::MAX.0 {
            return Err(Reason::InvalidQuantity);
        }
        if total <= done {
            return Ok(());
        }
        if total != old.quantity {
            self.instrument.check_quantity(Quantity(total))?;
        }
        if price != old.price {
            self.instrument.check_price(Price(price))?;
        }
        if price != old.price || total != old.quantity {
            self.instrument.check_value(Price(price), Quantity(total))?;
        }
        let moves = price != old.price || total - done > old.open;
        if moves && old.post_only && self.would_trade(old.side, price) {
            return Err(Reason::PostOnlyWouldTrade);
        }
        Ok(())
    }
}
