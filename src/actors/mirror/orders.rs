//! Open orders and the most recently finished ones.

use std::collections::{HashMap, VecDeque};

use super::view::{FillView, OrderView};
use super::{FILLS_KEPT_MAX, OpenOrder};
use crate::domain::output::{Cause, OrderStatus, OrderType, OrderUpdate, Output, Party, Tif, Trade};
use crate::domain::{Offset, OrderId, Origin, Price, Quantity, Reason, Seq, Side, Symbol, UserId};

#[derive(Debug, Clone)]
struct Kept {
    side: Side,
    order_type: OrderType,
    time_in_force: Tif,
    price: Option<Price>,
    quantity: Quantity,
    open: Quantity,
    filled: Quantity,
    status: OrderStatus,
    reason: Option<Reason>,
    seq: Seq,
    /// The command that entered it.
    entered: Origin,
    fills: Vec<FillView>,
}

impl Kept {
    fn new(update: &OrderUpdate, seq: Seq, entered: Origin) -> Self {
        Self {
            side: update.side,
            order_type: update.order_type,
            time_in_force: update.time_in_force,
            price: update.price,
            quantity: update.quantity,
            open: update.open,
            filled: update.filled,
            status: update.status,
            reason: update.reason,
            seq,
            entered,
            fills: Vec::new(),
        }
    }

    fn take(&mut self, update: &OrderUpdate) {
        self.price = update.price;
        self.order_type = update.order_type;
        self.quantity = update.quantity;
        self.open = update.open;
        self.filled = update.filled;
        self.status = update.status;
        self.reason = update.reason;
    }

    fn fill(&mut self, party: &Party) {
        self.open = party.open;
        self.filled = party.filled;
        self.status = if party.open.is_zero() { OrderStatus::Filled } else { OrderStatus::PartiallyFilled };
    }

    fn view(&self, symbol: Symbol, price_scale: u8, user: UserId, order_id: OrderId) -> OrderView {
        OrderView {
            symbol,
            price_scale,
            order_id,
            user,
            side: self.side,
            order_type: self.order_type,
            time_in_force: self.time_in_force,
            price: self.price,
            quantity: self.quantity,
            filled: self.filled,
            remaining: self.open,
            status: self.status,
            reason: self.reason,
            fills: self.fills.clone(),
            seq: self.seq,
        }
    }
}

/// Orders of one symbol. Open ones are as many as the book lets rest; finished ones are bounded by the caller.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    /// By user first: "my open orders" is asked for often.
    open: HashMap<UserId, HashMap<OrderId, Kept>>,
    open_count: usize,
    finished: HashMap<(UserId, OrderId), Kept>,
    /// Oldest first. The seq tells an id that was used again (OB6 lets it, much later) from the first use.
    ring: VecDeque<(UserId, OrderId, Seq)>,
    /// Fills of the order that is being entered, until its own update comes.
    entering: Vec<FillView>,
    entering_offset: Option<Offset>,
}

impl Orders {
    pub fn restore(&mut self, orders: Vec<OpenOrder>, seq: Seq) {
        for o in orders {
            let status = if o.filled.is_zero() { OrderStatus::New } else { OrderStatus::PartiallyFilled };
            let kept = Kept {
                side: o.side,
                order_type: o.order_type,
                time_in_force: o.time_in_force,
                price: o.price,
                quantity: o.quantity,
                open: o.open,
                filled: o.filled,
                status,
                reason: None,
                seq,
                entered: Origin::NONE,
                fills: Vec::new(),
            };
            self.put(o.user, o.order_id, kept);
        }
    }

    pub fn open_count(&self) -> usize {
        self.open_count
    }

    pub fn finished_count(&self) -> usize {
        self.ring.len()
    }

    fn put(&mut self, user: UserId, order_id: OrderId, kept: Kept) {
        if self.open.entry(user).or_default().insert(order_id, kept).is_none() {
            self.open_count += 1;
        }
    }

    fn open_mut(&mut self, user: &UserId, order_id: &OrderId) -> Option<&mut Kept> {
        self.open.get_mut(user)?.get_mut(order_id)
    }

    fn remove(&mut self, user: &UserId, order_id: &OrderId) -> Option<Kept> {
        let orders = self.open.get_mut(user)?;
        let kept = orders.remove(order_id)?;
        if orders.is_empty() {
            self.open.remove(user);
        }
        self.open_count -= 1;
        Some(kept)
    }

    fn finish(&mut self, user: UserId, order_id: OrderId, kept: Kept, finished_max: usize) {
        self.ring.push_back((user, order_id, kept.seq));
        self.finished.insert((user, order_id), kept);
        while self.ring.len() > finished_max {
            if let Some((user, order_id, seq)) = self.ring.pop_front()
                && self.finished.get(&(user, order_id)).is_some_and(|k| k.seq == seq)
            {
                self.finished.remove(&(user, order_id));
            }
        }
    }

    /// Takes a trade in; gives the origins of the commands that entered the maker and (if it rests) the taker.
    pub fn trade(&mut self, output: &Output, t: &Trade, finished_max: usize) -> (Origin, Origin) {
        if self.entering_offset != Some(output.offset) {
            self.entering_offset = Some(output.offset);
            self.entering.clear();
        }
        if self.entering.len() < FILLS_KEPT_MAX {
            self.entering.push(FillView { seq: output.seq, price: t.price, quantity: t.quantity });
        }
        let mut maker = Origin::NONE;
        if let Some(kept) = self.open_mut(&t.maker.user, &t.maker.order_id) {
            kept.fill(&t.maker);
            maker = kept.entered;
            if t.maker.open.is_zero()
                && let Some(kept) = self.remove(&t.maker.user, &t.maker.order_id)
            {
                self.finish(t.maker.user, t.maker.order_id, kept, finished_max);
            }
        }
        // Only a replaced order is known already when it takes; its own update, which follows, ends it if need be.
        let mut taker = Origin::NONE;
        if let Some(kept) = self.open_mut(&t.taker.user, &t.taker.order_id) {
            kept.fill(&t.taker);
            taker = kept.entered;
        }
        (maker, taker)
    }

    /// Takes an order update in; gives the origin of the command that entered the order.
    pub fn update(&mut self, output: &Output, u: &OrderUpdate, finished_max: usize) -> Origin {
        let is_entry = matches!(u.cause, Cause::Added | Cause::Replaced);
        let fills = match self.entering_offset {
            Some(offset) if is_entry && offset == output.offset => std::mem::take(&mut self.entering),
            _ => Vec::new(),
        };
        let mut kept = match self.remove(&u.user, &u.order_id) {
            Some(mut kept) => {
                kept.take(u);
                kept
            }
            None if u.cause == Cause::Added => Kept::new(u, output.seq, output.origin),
            None => Kept::new(u, output.seq, Origin::NONE),
        };
        if is_entry {
            kept.seq = output.seq;
            let room = FILLS_KEPT_MAX.saturating_sub(kept.fills.len());
            kept.fills.extend(fills.into_iter().take(room));
        }
        let entered = kept.entered;
        if u.status.is_open() {
            self.put(u.user, u.order_id, kept);
        } else {
            self.finish(u.user, u.order_id, kept, finished_max);
        }
        entered
    }

    /// Takes over what older outputs told: finished orders, and how open ones were entered.
    pub fn learn(&mut self, mut history: Self, finished_max: usize) {
        for (user, orders) in &mut self.open {
            let Some(known) = history.open.get_mut(user) else { continue };
            for (id, kept) in orders {
                if let Some(older) = known.remove(id) {
                    (kept.seq, kept.fills) = (older.seq, older.fills);
                }
            }
        }
        for (user, order_id, seq) in std::mem::take(&mut history.ring) {
            match history.finished.remove(&(user, order_id)) {
                Some(kept) if kept.seq == seq => self.finish(user, order_id, kept, finished_max),
                Some(newer) => {
                    history.finished.insert((user, order_id), newer);
                }
                None => {}
            }
        }
    }

    pub fn find(&self, symbol: Symbol, scale: u8, user: &UserId, order_id: &OrderId) -> Option<OrderView> {
        let open = self.open.get(user).and_then(|orders| orders.get(order_id));
        let kept = open.or_else(|| self.finished.get(&(*user, *order_id)))?;
        Some(kept.view(symbol, scale, *user, *order_id))
    }

    /// Open ones of `user`, in the order of their answers.
    pub fn of_user(&self, symbol: Symbol, scale: u8, user: &UserId) -> Vec<OrderView> {
        let Some(orders) = self.open.get(user) else { return Vec::new() };
        let mut views: Vec<_> = orders.iter().map(|(id, kept)| kept.view(symbol, scale, *user, *id)).collect();
        views.sort_unstable_by_key(|o| (o.seq, o.order_id));
        views
    }
}
