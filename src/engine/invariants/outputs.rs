//! The invariants that show in what a book says: OB1, OB5, OB6 and LG1. One checker follows one book from its birth.

use std::collections::BTreeMap;

use crate::domain::output::{Cause, OrderUpdate, Party, Trade};
use crate::domain::{
    Classes, Command, Input, OrderId, OrderStatus, Output, OutputBody, Quantity, Reason, SelfTrade, Seqs, UserId,
};

type Id = (UserId, OrderId);

/// What the outputs said of one open order.
#[derive(Debug, Clone, Copy)]
struct Known {
    quantity: u64,
    open: u64,
    filled: u64,
    /// Taken by self-trade prevention.
    canceled: u64,
    self_trade: SelfTrade,
}

/// Follows a book's outputs and says which rule they break.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    seqs: Seqs,
    open: BTreeMap<Id, Known>,
}

impl Watch {
    /// Checks all outputs that one record gave.
    ///
    /// # Errors
    /// The id of the first rule that is broken, and how.
    pub fn follow(&mut self, input: &Input<Command>, outputs: &[Output]) -> Result<(), String> {
        self.numbering(input, outputs)?;
        let taker = self.enter(&input.command, outputs.last().map(|o| &o.body))?;
        outputs.iter().try_for_each(|output| match &output.body {
            OutputBody::Trade(trade) => self.trade(trade),
            OutputBody::Order(update) if output.answer => self.answer(update),
            OutputBody::Order(update) => self.aside(update, taker),
            _ => Ok(()),
        })
    }

    /// What a command brings in before it trades; gives the id that may trade as a taker.
    fn enter(&mut self, command: &Command, answer: Option<&OutputBody>) -> Result<Option<Id>, String> {
        match (command, answer) {
            (Command::Signed(signed), _) => self.enter(&signed.order.command(), answer),
            (Command::Add(order), Some(OutputBody::Order(_))) => {
                let id = (order.user, order.order_id);
                let quantity = order.quantity.0;
                let self_trade = order.self_trade;
                let known = Known { quantity, open: quantity, filled: 0, canceled: 0, self_trade };
                if self.open.insert(id, known).is_some() {
                    return Err(format!("OB6: {id:?} made a second order while the first lived"));
                }
                Ok(Some(id))
            }
            (Command::Replace { user, order_id, .. }, Some(OutputBody::Order(update))) => {
                let id = (*user, *order_id);
                let known =
                    self.open.get_mut(&id).ok_or_else(|| format!("OB1: {id:?} was replaced but is not open"))?;
                if update.reason != Some(Reason::ReplacedBelowFilled) {
                    let rest = update.quantity.0.checked_sub(known.filled + known.canceled);
                    known.open = rest.ok_or_else(|| format!("OB1: {id:?} was replaced below what is done"))?;
                    known.quantity = update.quantity.0;
                }
                Ok(Some(id))
            }
            _ => Ok(None),
        }
    }

    /// Orders that are open by what was said.
    pub fn open_orders(&self) -> usize {
        self.open.len()
    }

    fn numbering(&mut self, input: &Input<Command>, outputs: &[Output]) -> Result<(), String> {
        let silent = matches!(input.command, Command::Tick { .. } | Command::Fence { .. });
        if outputs.iter().filter(|o| o.answer).count() != usize::from(!silent) {
            return Err(format!("LG1: offset {} has not exactly one answer", input.offset));
        }
        for (n, output) in outputs.iter().enumerate() {
            let is_last = n + 1 == outputs.len();
            if output.seq != self.seqs.last.next() || output.end != is_last || (output.answer && !is_last) {
                return Err(format!("LG1: output {} is out of order or marked wrongly", output.seq));
            }
            if (output.offset, output.at, output.origin) != (input.offset, input.at, input.origin) {
                return Err(format!("LG1: output {} is not of offset {}", output.seq, input.offset));
            }
            self.seqs.last = output.seq;
            for (of_class, class) in Classes::EACH.into_iter().enumerate() {
                if output.classes.has(class) {
                    let previous = std::mem::replace(&mut self.seqs.by_class[of_class], output.seq);
                    if output.prev_seq[of_class] != previous {
                        return Err(format!("LG1: output {} does not follow {previous} in its class", output.seq));
                    }
                }
            }
        }
        Ok(())
    }

    fn trade(&mut self, trade: &Trade) -> Result<(), String> {
        let taker = (trade.taker.user, trade.taker.order_id);
        let self_trade = self.open.get(&taker).map(|known| known.self_trade);
        if trade.maker.user == trade.taker.user && self_trade != Some(SelfTrade::None) {
            return Err(format!("OB5: {taker:?} traded with an order of the same user"));
        }
        self.party(&trade.maker, trade.quantity)?;
        self.party(&trade.taker, trade.quantity)?;
        if trade.maker.open.is_zero() {
            self.open.remove(&(trade.maker.user, trade.maker.order_id));
        }
        Ok(())
    }

    fn party(&mut self, party: &Party, traded: Quantity) -> Result<(), String> {
        let id = (party.user, party.order_id);
        let known = self.open.get_mut(&id).ok_or_else(|| format!("OB1: {id:?} traded without being open"))?;
        known.filled += traded.0;
        known.open = known.open.checked_sub(traded.0).ok_or_else(|| format!("OB1: {id:?} traded more than it had"))?;
        if (known.open, known.filled) != (party.open.0, party.filled.0) || traded.is_zero() {
            return Err(format!("OB1: {id:?} has {known:?} but its trade says {party:?}"));
        }
        Ok(())
    }

    /// The state after the command, of the order that it named.
    fn answer(&mut self, update: &OrderUpdate) -> Result<(), String> {
        let id = (update.user, update.order_id);
        let known = *self.open.get(&id).ok_or_else(|| format!("OB1: {id:?} was answered but is not open"))?;
        let amounts = (update.quantity.0, update.filled.0) == (known.quantity, known.filled)
            && known.open + known.filled + known.canceled == known.quantity;
        let fits = match update.status {
            OrderStatus::New => known.open == update.open.0 && known.open > 0 && known.filled == 0,
            OrderStatus::PartiallyFilled => known.open == update.open.0 && known.open > 0 && known.filled > 0,
            OrderStatus::Filled => update.open.is_zero() && known.open == 0 && known.filled > 0,
            OrderStatus::Rejected => update.open.is_zero() && known.filled == 0 && update.reason.is_some(),
            OrderStatus::Canceled | OrderStatus::Expired => update.open.is_zero() && update.reason.is_some(),
        };
        if !amounts || !fits {
            return Err(format!("OB1: {id:?} has {known:?} but {update:?} is said"));
        }
        if !update.status.is_open() {
            self.open.remove(&id);
        }
        Ok(())
    }

    /// An order that ended or shrank by another's command.
    fn aside(&mut self, update: &OrderUpdate, taker: Option<Id>) -> Result<(), String> {
        let id = (update.user, update.order_id);
        let known = self.open.get_mut(&id).ok_or_else(|| format!("OB1: {id:?} changed without being open"))?;
        let less = known.open.checked_sub(update.open.0).ok_or_else(|| format!("OB1: {id:?} grew"))?;
        known.open -= less;
        known.canceled += less;
        if (update.quantity.0, update.filled.0) != (known.quantity, known.filled) || less == 0 {
            return Err(format!("OB1: {id:?} has {known:?} but {update:?} is said"));
        }
        if update.status.is_open() != (known.open > 0) || update.status.is_open() != (update.cause == Cause::Reduced) {
            return Err(format!("OB1: {id:?} has {known:?} but {update:?} is said"));
        }
        if known.open == 0 {
            self.open.remove(&id);
        }
        // `decrement` takes as much from the order that came.
        let decrementing = taker.filter(|_| update.reason == Some(Reason::SelfTrade));
        if let Some(known) = decrementing.and_then(|id| self.open.get_mut(&id))
            && known.self_trade == SelfTrade::Decrement
        {
            known.open = known.open.checked_sub(less).ok_or_else(|| format!("OB1: {taker:?} lost more than it had"))?;
            known.canceled += less;
        }
        Ok(())
    }
}
