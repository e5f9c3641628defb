//! The naive matcher: the rules once more, written to be read, not to be fast. It shares nothing with the engine but the
//! words of `domain`, so that tests and the auditor can hold one against the other.
//!
//! Orders stand in plain lists: per side a map from price to the queue at that price. Sums are added up when they are
//! needed. The rules in a trader's words are in docs/matching.md.

mod checks;
mod gateways;
mod state;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::command::Listing;
use crate::domain::output::{Cause, CommandKind, Level};
use crate::domain::{
    Admission, Command, Instrument, Micros, NewOrder, OrderId, OrderKind, OrderStatus, OutputBody, Price, Quantity,
    Reason, SelfTrade, Side, TimeInForce, UserId,
};
use gateways::Gateways;
pub use gateways::{GATEWAYS_MAX, NaiveGateway};
use state::Remembered;
pub use state::{NaiveState, id_hash};
use words::{arriving, ended, outcome, refused, resting, trade_of};

/// Finished ids that are remembered (OB6).
pub const FINISHED_MAX: usize = 65_536;
/// Orders that may rest.
pub const RESTING_MAX: usize = 4_000_000;
/// The newest rules version.
pub const RULES_VERSION: u32 = 2;

/// What is said to one record: the bodies in order, and which one answers it.
pub type Said = Vec<(OutputBody, bool)>;

type Id = (UserId, OrderId);

/// A resting order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NaiveOrder {
    pub order_id: OrderId,
    pub user: UserId,
    pub side: Side,
    pub price: Price,
    /// Total, as submitted or last replaced.
    pub quantity: u64,
    pub open: u64,
    pub filled: u64,
    pub post_only: bool,
    pub self_trade: SelfTrade,
    /// Value of the rest counter when it joined its queue.
    pub rank: u64,
}

/// One symbol's book.
#[derive(Debug, Clone)]
pub struct NaiveBook {
    instrument: Instrument,
    rules_version: u32,
    halted: bool,
    next_rank: u64,
    last_trade: Option<(Price, Quantity)>,
    bids: BTreeMap<Price, Vec<NaiveOrder>>,
    asks: BTreeMap<Price, Vec<NaiveOrder>>,
    /// Where each open order stands.
    places: BTreeMap<Id, (Side, Price)>,
    /// Ids that ended, oldest first.
    finished: VecDeque<Id>,
    is_finished: BTreeSet<Id>,
    /// Those that ended before the snapshot that this book was made from, if it was.
    remembered: Remembered,
    /// Endings since birth.
    endings: u64,
    /// Key of the hashes under which snapshots keep finished ids.
    id_key: u128,
    gateways: Gateways,
}

/// How trading ended for the incoming order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Filled,
    NothingLeft,
    SelfTrade,
    TooDear,
}

/// The incoming order while it trades.
#[derive(Debug, Clone, Copy)]
struct Taker {
    id: Id,
    side: Side,
    /// The worst price it takes.
    limit: Price,
    self_trade: SelfTrade,
    open: u64,
    filled: u64,
    /// What a MARKET order may still spend, if there is a bound.
    budget: Option<u128>,
}

impl NaiveBook {
    /// The book that a LIST record makes, and what it says; `None` if the listing makes no sense.
    pub fn birth(listing: &Listing) -> Option<(Self, Said)> {
        let is_known = (1..=RULES_VERSION).contains(&listing.rules_version);
        if listing.instrument.check().is_err() || !is_known || listing.rules_version < listing.instrument.rules_needed()
        {
            return None;
        }
        let book = Self {
            instrument: listing.instrument.clone(),
            rules_version: listing.rules_version,
            halted: false,
            next_rank: 1,
            last_trade: None,
            bids: BTreeMap::new(),
            asks: BTreeMap::new(),
            places: BTreeMap::new(),
            finished: VecDeque::new(),
            is_finished: BTreeSet::new(),
            remembered: Remembered::default(),
            endings: 0,
            id_key: listing.id_key,
            gateways: Gateways::new(),
        };
        let listed = OutputBody::Listed {
            instrument: listing.instrument.clone(),
            owner: listing.owner,
            rules_version: listing.rules_version,
        };
        Some((book, vec![(listed, true)]))
    }

    pub fn is_halted(&self) -> bool {
        self.halted
    }

    pub fn rules_version(&self) -> u32 {
        self.rules_version
    }

    pub fn last_trade(&self) -> Option<(Price, Quantity)> {
        self.last_trade
    }

    /// Resting orders by queue rank.
    pub fn open_orders(&self) -> Vec<NaiveOrder> {
        let mut orders: Vec<NaiveOrder> = self.bids.values().chain(self.asks.values()).flatten().copied().collect();
        orders.sort_by_key(|o| o.rank);
        orders
    }

    /// All levels of a side, best first.
    pub fn depth(&self, side: Side) -> Vec<Level> {
        let mut levels: Vec<Level> = self.queues(side).keys().map(|price| self.level(side, *price)).collect();
        if side == Side::Buy {
            levels.reverse();
        }
        levels
    }

    /// Applies one record. `clock`: the highest append time of a record that the book was given, this one's included.
    pub fn apply(&mut self, command: &Command, clock: Micros) -> Said {
        match (self.instrument.admission, command) {
            (Admission::Gateway, Command::Add(NewOrder { user, order_id, .. })) => {
                vec![refused(CommandKind::Add, (*user, *order_id), Reason::GatewayOnly)]
            }
            (Admission::Gateway, Command::Replace { user, order_id, .. }) => {
                vec![refused(CommandKind::Replace, (*user, *order_id), Reason::GatewayOnly)]
            }
            (Admission::Gateway, Command::Signed(signed)) if !gateways::is_good(&mut self.gateways, signed, clock) => {
                let (kind, id) = gateways::names(signed);
                vec![refused(kind, id, Reason::SignatureVoid)]
            }
            (_, Command::Signed(signed)) => self.admitted(&signed.order.command()),
            (_, command) => self.admitted(command),
        }
    }

    /// Applies a record that the book takes from whom it comes.
    fn admitted(&mut self, command: &Command) -> Said {
        let mut said = Said::new();
        let refused = |command, reason| (OutputBody::Refused { command, user: None, order_id: None, reason }, true);
        match command {
            Command::Add(order) => self.add(order, &mut said),
            Command::Cancel { user, order_id } => self.cancel((*user, *order_id), &mut said),
            Command::Replace { user, order_id, price, quantity } => {
                self.replace((*user, *order_id), *price, *quantity, &mut said);
            }
            Command::CancelAll { user, .. } => self.cancel_all(*user, &mut said),
            Command::List { .. } => said.push(refused(CommandKind::List, Reason::SymbolExists)),
            Command::Halt { .. } if self.halted => said.push(refused(CommandKind::Halt, Reason::AlreadyHalted)),
            Command::Halt { .. } => {
                self.halted = true;
                said.push((OutputBody::Halted, true));
            }
            Command::Resume { .. } if !self.halted => said.push(refused(CommandKind::Resume, Reason::NotHalted)),
            Command::Resume { .. } => {
                self.halted = false;
                said.push((OutputBody::Resumed, true));
            }
            Command::Rules { version, .. } if (1..=RULES_VERSION).contains(version) => {
                // Never below what the instrument needs.
                self.rules_version = (*version).max(self.instrument.rules_needed());
                said.push((OutputBody::RulesSet { version: self.rules_version }, true));
            }
            Command::Rules { .. } => said.push(refused(CommandKind::Rules, Reason::RulesVersionUnknown)),
            Command::Session { .. } => said.push((OutputBody::SessionEnded, true)),
            Command::Tick { .. } | Command::Fence { .. } | Command::Signed(_) => {}
        }
        said
    }

    fn queues(&self, side: Side) -> &BTreeMap<Price, Vec<NaiveOrder>> {
        if side == Side::Buy { &self.bids } else { &self.asks }
    }

    fn queues_mut(&mut self, side: Side) -> &mut BTreeMap<Price, Vec<NaiveOrder>> {
        if side == Side::Buy { &mut self.bids } else { &mut self.asks }
    }

    fn level(&self, side: Side, price: Price) -> Level {
        let queue = self.queues(side).get(&price).map_or(&[][..], Vec::as_slice);
        Level { price, quantity: queue.iter().map(|o| o.open).sum(), orders: queue.len() as u32 }
    }

    fn best_price(&self, side: Side) -> Option<Price> {
        let queues = self.queues(side);
        let best = if side == Side::Buy { queues.keys().next_back() } else { queues.keys().next() };
        best.copied()
    }

    fn finish(&mut self, id: Id) {
        let is_full = self.finished.len() + self.remembered.len() == FINISHED_MAX;
        if is_full
            && !self.remembered.forget_oldest()
            && let Some(oldest) = self.finished.pop_front()
        {
            self.is_finished.remove(&oldest);
        }
        self.endings += 1;
        self.finished.push_back(id);
        self.is_finished.insert(id);
    }

    fn find(&self, id: Id) -> Option<NaiveOrder> {
        let (side, price) = self.places.get(&id)?;
        self.queues(*side).get(price)?.iter().find(|o| (o.user, o.order_id) == id).copied()
    }

    /// Puts an order at the end of its price's queue; gives the level afterwards.
    fn join(&mut self, mut order: NaiveOrder) -> Level {
        order.rank = self.next_rank;
        self.next_rank += 1;
        self.places.insert((order.user, order.order_id), (order.side, order.price));
        self.queues_mut(order.side).entry(order.price).or_default().push(order);
        self.level(order.side, order.price)
    }

    /// Takes an order out of its queue; gives the level afterwards.
    fn leave(&mut self, order: &NaiveOrder) -> Level {
        self.places.remove(&(order.user, order.order_id));
        let queues = self.queues_mut(order.side);
        if let Some(queue) = queues.get_mut(&order.price) {
            queue.retain(|o| o.rank != order.rank);
            if queue.is_empty() {
                queues.remove(&order.price);
            }
        }
        self.level(order.side, order.price)
    }

    /// Writes an order's new amounts where it stands; gives the level afterwards.
    fn amend(&mut self, order: &NaiveOrder) -> Level {
        if let Some(queue) = self.queues_mut(order.side).get_mut(&order.price) {
            for o in queue.iter_mut().filter(|o| o.rank == order.rank) {
                *o = *order;
            }
        }
        self.level(order.side, order.price)
    }

    fn add(&mut self, order: &NewOrder, said: &mut Said) {
        let id = (order.user, order.order_id);
        if self.places.contains_key(&id) || self.is_finished.contains(&id) || self.remembered.has(self.id_key, &id) {
            said.push(refused(CommandKind::Add, id, Reason::DuplicateOrder));
            return;
        }
        let mut answer = arriving(order);
        let mut taker = self.taker(order);
        if let Err(reason) = self.check(order) {
            (answer.status, answer.reason) = (OrderStatus::Rejected, Some(reason));
        } else if order.time_in_force == TimeInForce::Fok && !self.fills_whole(&taker) {
            (answer.status, answer.reason) = (OrderStatus::Canceled, Some(Reason::FokNotFillable));
        } else {
            let end = self.trade(&mut taker, said);
            answer.filled = Quantity(taker.filled);
            (answer.status, answer.reason) = outcome(end, &taker, order);
        }
        if answer.status.is_open() {
            answer.open = Quantity(taker.open);
            answer.joined = Some(self.join(NaiveOrder {
                order_id: order.order_id,
                user: order.user,
                side: order.side,
                price: taker.limit,
                quantity: order.quantity.0,
                open: taker.open,
                filled: taker.filled,
                post_only: order.post_only,
                self_trade: order.self_trade,
                rank: 0,
            }));
        } else {
            self.finish(id);
        }
        said.push((OutputBody::Order(answer), true));
    }

    fn crosses(&self, side: Side, price: Price) -> bool {
        self.best_price(side.opposite()).is_some_and(|best| side.crosses(price, best))
    }

    fn taker(&self, order: &NewOrder) -> Taker {
        let bound = match order.side {
            Side::Buy => self.instrument.limit_up.unwrap_or(Price::MAX),
            Side::Sell => self.instrument.limit_down.unwrap_or(Price(0)),
        };
        Taker {
            id: (order.user, order.order_id),
            side: order.side,
            limit: order.kind.limit().unwrap_or(bound),
            self_trade: order.self_trade,
            open: order.quantity.0,
            filled: 0,
            budget: self.instrument.max_order_value.filter(|_| order.kind == OrderKind::Market).map(u128::from),
        }
    }

    /// A fill-or-kill order is tried on a copy of the book.
    fn fills_whole(&self, taker: &Taker) -> bool {
        let (mut copy, mut taker) = (self.clone(), *taker);
        let wanted = taker.open;
        copy.trade(&mut taker, &mut Said::new());
        taker.filled == wanted
    }

    fn trade(&mut self, taker: &mut Taker, said: &mut Said) -> End {
        let against = taker.side.opposite();
        while taker.open > 0 {
            let best = self.best_price(against).filter(|best| taker.side.crosses(taker.limit, *best));
            let Some(price) = best else { return End::NothingLeft };
            let mut maker = self.queues(against)[&price][0];
            if maker.user == taker.id.0 && taker.self_trade != SelfTrade::None {
                if self.meet_own(maker, taker, said) {
                    return End::SelfTrade;
                }
                continue;
            }
            let mut quantity = taker.open.min(maker.open);
            if let Some(budget) = &mut taker.budget {
                let affordable = u64::try_from(*budget / u128::from(price.0)).unwrap_or(u64::MAX);
                if affordable < quantity {
                    quantity = affordable / self.instrument.lot_size * self.instrument.lot_size;
                }
                *budget -= price.value_of(Quantity(quantity));
            }
            if quantity == 0 {
                return End::TooDear;
            }
            taker.open -= quantity;
            taker.filled += quantity;
            maker.open -= quantity;
            maker.filled += quantity;
            let level = if maker.open == 0 { self.end(&maker) } else { self.amend(&maker) };
            self.last_trade = Some((price, Quantity(quantity)));
            said.push((OutputBody::Trade(trade_of(&maker, taker, quantity, level)), false));
        }
        End::Filled
    }

    /// Takes an order out for good.
    fn end(&mut self, order: &NaiveOrder) -> Level {
        let level = self.leave(order);
        self.finish((order.user, order.order_id));
        level
    }

    /// Self-trade prevention; whether the incoming order stops.
    fn meet_own(&mut self, mut maker: NaiveOrder, taker: &mut Taker, said: &mut Said) -> bool {
        let (cancel_maker, stop) = match taker.self_trade {
            SelfTrade::CancelNewest => (false, true),
            SelfTrade::CancelOldest => (true, false),
            SelfTrade::CancelBoth => (true, true),
            SelfTrade::Decrement => {
                let less = taker.open.min(maker.open);
                taker.open -= less;
                maker.open -= less;
                if maker.open > 0 {
                    let left = self.amend(&maker);
                    let mut update = resting(&maker, Cause::Reduced, Some(Reason::SelfTrade));
                    update.left = Some(left);
                    said.push((OutputBody::Order(update), false));
                }
                (maker.open == 0, taker.open == 0)
            }
            SelfTrade::None => (false, false),
        };
        if cancel_maker {
            let left = self.end(&maker);
            said.push((OutputBody::Order(ended(&maker, Cause::Canceled, Reason::SelfTrade, left)), false));
        }
        stop
    }

    fn cancel(&mut self, id: Id, said: &mut Said) {
        let Some(order) = self.find(id) else {
            said.push(refused(CommandKind::Cancel, id, Reason::UnknownOrder));
            return;
        };
        let left = self.end(&order);
        said.push((OutputBody::Order(ended(&order, Cause::Canceled, Reason::CanceledByUser, left)), true));
    }

    fn cancel_all(&mut self, user: UserId, said: &mut Said) {
        let own: Vec<NaiveOrder> = self.open_orders().into_iter().filter(|o| o.user == user).collect();
        for order in &own {
            let left = self.end(order);
            said.push((OutputBody::Order(ended(order, Cause::Canceled, Reason::CancelAll, left)), false));
        }
        said.push((OutputBody::AllCanceled { user, count: own.len() as u32 }, true));
    }

    fn replace(&mut self, id: Id, price: Option<Price>, quantity: Option<Quantity>, said: &mut Said) {
        let Some(order) = self.find(id) else {
            said.push(refused(CommandKind::Replace, id, Reason::UnknownOrder));
            return;
        };
        // Filled, or canceled by self-trade prevention: not to be had again.
        let done = order.quantity - order.open;
        let wanted = NaiveOrder {
            price: price.unwrap_or(order.price),
            quantity: quantity.map_or(order.quantity, |q| q.0),
            open: quantity.map_or(order.quantity, |q| q.0).saturating_sub(done),
            ..order
        };
        let keeps_place = wanted.price == order.price && wanted.quantity <= order.quantity;
        if let Err(reason) = self.check_replace(&order, &wanted, keeps_place) {
            said.push(refused(CommandKind::Replace, id, reason));
        } else if wanted.open == 0 {
            let left = self.end(&order);
            said.push((OutputBody::Order(ended(&order, Cause::Replaced, Reason::ReplacedBelowFilled, left)), true));
        } else if keeps_place {
            let level = self.amend(&wanted);
            let mut update = resting(&wanted, Cause::Replaced, None);
            update.left = (wanted.quantity < order.quantity).then_some(level);
            said.push((OutputBody::Order(update), true));
        } else {
            self.move_to(&order, wanted, said);
        }
    }

    /// Leaves the queue, trades if it crosses, and joins the new queue with what is left.
    fn move_to(&mut self, order: &NaiveOrder, mut wanted: NaiveOrder, said: &mut Said) {
        let left = self.leave(order);
        let mut taker = Taker {
            id: (order.user, order.order_id),
            side: order.side,
            limit: wanted.price,
            self_trade: order.self_trade,
            open: wanted.open,
            filled: order.filled,
            budget: None,
        };
        let end = self.trade(&mut taker, said);
        (wanted.open, wanted.filled) = (taker.open, taker.filled);
        let mut update = match end {
            End::NothingLeft | End::TooDear => resting(&wanted, Cause::Replaced, None),
            End::Filled | End::SelfTrade => {
                self.finish(taker.id);
                let mut update = ended(&wanted, Cause::Replaced, Reason::SelfTrade, left);
                if end == End::Filled {
                    (update.status, update.reason) = (OrderStatus::Filled, None);
                }
                update
            }
        };
        update.left = Some(left);
        if update.status.is_open() {
            update.joined = Some(self.join(wanted));
        }
        said.push((OutputBody::Order(update), true));
    }
}
