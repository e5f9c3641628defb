//! CANCEL, REPLACE and CANCEL_ALL.

use super::ids::{Found, Id};
use super::matching::{Stopped, Taker};
use super::{Book, open_status};
use crate::domain::output::{Cause, CommandKind, OrderLine};
use crate::domain::{OrderId, OrderStatus, Outbox, OutputBody, Price, Quantity, Reason, UserId};

/// What a REPLACE asks for, once its gaps are filled from the order.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    price: u64,
    /// New total.
    quantity: u64,
    /// What would be open.
    open: u32,
}

impl Book {
    /// The order with this id. `guess` is the slot in which it most likely is.
    #[inline]
    fn find_live(&self, (id, guess): (Id, u32)) -> Option<u32> {
        if self.orders.is(guess, id) {
            return Some(guess);
        }
        match self.ids.find(id, &self.orders)? {
            Found::Live(slot) => Some(slot),
            Found::Finished => None,
        }
    }

    /// CANCEL. Another user's order is an unknown one: the id is that of (user, order id).
    #[inline]
    pub(super) fn cancel(&mut self, user: &UserId, order_id: &OrderId, id: (Id, u32), out: &mut Outbox) {
        match self.find_live(id) {
            Some(slot) => {
                let line = self.cancel_quietly(slot, Cause::Canceled, Reason::CanceledByUser);
                out.order_line_here(order_id, user, &line, true);
            }
            None => refused(CommandKind::Cancel, *user, *order_id, Reason::UnknownOrder, out),
        }
    }

    pub(super) fn cancel_all(&mut self, user: UserId, out: &mut Outbox) {
        let slots = self.orders.of_user(&user);
        for slot in &slots {
            self.cancel_resting(*slot, Cause::Canceled, Reason::CancelAll, out);
        }
        out.emit(&OutputBody::AllCanceled { user, count: slots.len() as u32 }, true);
    }

    /// REPLACE.
    pub(super) fn replace(
        &mut self,
        user: &UserId,
        order_id: &OrderId,
        id: (Id, u32),
        price: Option<Price>,
        quantity: Option<Quantity>,
        out: &mut Outbox,
    ) {
        let Some(slot) = self.find_live(id) else {
            refused(CommandKind::Replace, *user, *order_id, Reason::UnknownOrder, out);
            return;
        };
        let o = self.orders.get(slot);
        let old_price = self.price_of(o);
        // What is filled, or was canceled by self-trade prevention, is done.
        let done = u64::from(o.quantity - o.open);
        let total = quantity.map_or(u64::from(o.quantity), |q| q.0);
        let wanted = Wanted {
            price: price.map_or(old_price, |p| p.0),
            quantity: total,
            open: u32::try_from(total.saturating_sub(done)).unwrap_or(u32::MAX),
        };
        let keeps_place = wanted.price == old_price && wanted.open <= o.open;
        let line = match self.check_replace(slot, &wanted, done, keeps_place) {
            Err(reason) => return refused(CommandKind::Replace, *user, *order_id, reason, out),
            // The new total is not above what is done: the order ends, its fills kept.
            Ok(()) if total <= done => self.cancel_quietly(slot, Cause::Replaced, Reason::ReplacedBelowFilled),
            Ok(()) if keeps_place => self.reduce(slot, &wanted),
            Ok(()) => self.move_order(slot, &wanted, (order_id, user, id.0), out),
        };
        out.order_line(order_id, user, &line, true);
    }

    fn check_replace(&self, slot: u32, wanted: &Wanted, done: u64, keeps_place: bool) -> Result<(), Reason> {
        let o = self.orders.get(slot);
        let old_price = self.price_of(o);
        if self.halted {
            return Err(Reason::SymbolHalted);
        }
        if wanted.quantity > Quantity::MAX.0 {
            return Err(Reason::InvalidQuantity);
        }
        if wanted.quantity <= done {
            return Ok(());
        }
        if wanted.quantity != u64::from(o.quantity) {
            self.instrument.check_quantity(Quantity(wanted.quantity))?;
        }
        if wanted.price != old_price {
            self.instrument.check_price(Price(wanted.price))?;
        }
        if wanted.price != old_price || wanted.quantity != u64::from(o.quantity) {
            self.instrument.check_value(Price(wanted.price), Quantity(wanted.quantity))?;
        }
        if !keeps_place && o.post_only() && self.would_trade(o.side(), Price(wanted.price)) {
            return Err(Reason::PostOnlyWouldTrade);
        }
        Ok(())
    }

    /// Less (or the same) at the same price: it keeps its place.
    fn reduce(&mut self, slot: u32, wanted: &Wanted) -> OrderLine {
        let (open, filled) = (self.orders.get(slot).open, self.orders.get(slot).filled);
        let left = (wanted.open < open).then(|| {
            self.uncount(slot, wanted.price);
            self.orders.get_mut(slot).quantity = wanted.quantity as u32;
            self.count(slot, wanted.price);
            self.shrink(slot, open - wanted.open, 0)
        });
        let mut line = self.line(slot, Price(wanted.price), Cause::Replaced, open_status(filled), None);
        line.left = left;
        line
    }

    /// Another price or more: to the back of the queue, trading on the way if it crosses.
    fn move_order(
        &mut self,
        slot: u32,
        wanted: &Wanted,
        (order_id, user, id): (&OrderId, &UserId, Id),
        out: &mut Outbox,
    ) -> OrderLine {
        let left = Some(self.leave(slot));
        let o = self.orders.get(slot);
        let mut taker = Taker {
            order_id,
            user,
            side: o.side(),
            limit: Price(wanted.price),
            self_trade: o.self_trade(),
            open: wanted.open,
            filled: o.filled,
            value_left: None,
        };
        let stopped = self.trade(&mut taker, out);
        let moved = self.orders.get_mut(slot);
        moved.quantity = wanted.quantity as u32;
        (moved.open, moved.filled) = (taker.open, taker.filled);
        let (status, reason) = match stopped {
            Stopped::Filled => (OrderStatus::Filled, None),
            Stopped::SelfTrade => (OrderStatus::Canceled, Some(Reason::SelfTrade)),
            Stopped::NothingLeft | Stopped::ValueAboveMax => (open_status(taker.filled), None),
        };
        let mut line = self.line(slot, Price(wanted.price), Cause::Replaced, status, reason);
        line.left = left;
        if status.is_open() {
            line.joined = Some(self.join(slot, taker.side, taker.open, wanted.price));
        } else {
            self.end_taken(slot, id);
        }
        line
    }
}

pub(super) fn refused(command: CommandKind, user: UserId, order_id: OrderId, reason: Reason, out: &mut Outbox) {
    out.emit(&OutputBody::Refused { command, user: Some(user), order_id: Some(order_id), reason }, true);
}
