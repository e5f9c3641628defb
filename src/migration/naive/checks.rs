//! What is refused before it touches the book.

use super::{NaiveBook, NaiveOrder, RESTING_MAX};
use crate::domain::{NewOrder, OrderKind, Quantity, Reason, TimeInForce};

impl NaiveBook {
    pub(super) fn check(&self, order: &NewOrder) -> Result<(), Reason> {
        if self.halted {
            return Err(Reason::SymbolHalted);
        }
        let is_stop = order.kind.stop_price().is_some();
        let expires = matches!(order.time_in_force, TimeInForce::Day | TimeInForce::Gtd { .. });
        if is_stop || expires || order.all_or_none || order.display_quantity.is_some() {
            return Err(Reason::NotSupported);
        }
        if order.post_only && (order.kind == OrderKind::Market || order.time_in_force != TimeInForce::Gtc) {
            return Err(Reason::InvalidCombination);
        }
        self.instrument.check_quantity(order.quantity)?;
        let Some(price) = order.kind.limit() else { return Ok(()) };
        self.instrument.check_price(price)?;
        self.instrument.check_value(price, order.quantity)?;
        if order.time_in_force == TimeInForce::Gtc && self.places.len() >= RESTING_MAX {
            return Err(Reason::BookFull);
        }
        if order.post_only && self.crosses(order.side, price) {
            return Err(Reason::PostOnlyWouldTrade);
        }
        Ok(())
    }

    pub(super) fn check_replace(
        &self,
        order: &NaiveOrder,
        wanted: &NaiveOrder,
        keeps_place: bool,
    ) -> Result<(), Reason> {
        if self.halted {
            return Err(Reason::SymbolHalted);
        }
        if wanted.quantity > Quantity::MAX.0 {
            return Err(Reason::InvalidQuantity);
        }
        if wanted.open == 0 {
            return Ok(());
        }
        if wanted.quantity != order.quantity {
            self.instrument.check_quantity(Quantity(wanted.quantity))?;
        }
        if wanted.price != order.price {
            self.instrument.check_price(wanted.price)?;
        }
        if (wanted.price, wanted.quantity) != (order.price, order.quantity) {
            self.instrument.check_value(wanted.price, Quantity(wanted.quantity))?;
        }
        if !keeps_place && order.post_only && self.crosses(order.side, wanted.price) {
            return Err(Reason::PostOnlyWouldTrade);
        }
        Ok(())
    }
}
