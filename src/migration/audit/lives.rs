//! What became of each order, by the outputs heard so far: the ledger (OB1), and what a wrong output is explained with.

use std::collections::{HashMap, VecDeque};

use super::report::Quantities;
use crate::domain::output::{Cause, OrderUpdate, Party, Trade};
use crate::domain::{OrderId, Output, OutputBody, Price, Seq, Side, UserId};
use crate::migration::naive::{FINISHED_MAX, NaiveOrder};

pub type Id = (UserId, OrderId);

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Filled,
    /// Canceled, expired, rejected.
    Otherwise,
}

/// One order.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub side: Side,
    pub price: Option<Price>,
    pub quantity: u64,
    pub open: u64,
    pub filled: u64,
    /// Whether it ever stood in a queue.
    pub rested: bool,
    /// The output with which it joined its queue.
    pub joined: Seq,
    pub ended: Option<(Seq, Ended)>,
}

/// Open orders and the last endings, as many as a book remembers.
#[derive(Debug, Default)]
pub struct Lives {
    all: HashMap<Id, Life>,
    /// Oldest first.
    ended: VecDeque<(Id, Seq)>,
    /// The incoming order of the current input and what it has filled.
    taker: Option<(Id, u64)>,
    /// Of orders that ended.
    done: Quantities,
    /// Filled quantity that the starting snapshot's orders had already.
    filled_before: u128,
    /// Quantity of all trades, once each.
    traded: u128,
}

impl Lives {
    /// Begins with the orders of a snapshot.
    pub fn restore(orders: &[NaiveOrder]) -> Self {
        let life = |o: &NaiveOrder| Life {
            side: o.side,
            price: Some(o.price),
            quantity: o.quantity,
            open: o.open,
            filled: o.filled,
            rested: true,
            joined: Seq(0),
            ended: None,
        };
        let filled_before = orders.iter().map(|o| u128::from(o.filled)).sum();
        let all = orders.iter().map(|o| ((o.user, o.order_id), life(o))).collect();
        Self { all, filled_before, ..Self::default() }
    }

    pub fn get(&self, user: UserId, order_id: OrderId) -> Option<&Life> {
        self.all.get(&(user, order_id))
    }

    /// Whether the current input has traded.
    pub fn is_trading(&self) -> bool {
        self.taker.is_some()
    }

    /// An order that ended with this much unfilled, at this price.
    pub fn ended_with(&self, side: Side, price: Price, left: u64) -> Option<OrderId> {
        let is_it = |l: &Life| {
            (l.side, l.price) == (side, Some(price)) && l.quantity - l.filled == left && l.ended.is_some() && left > 0
        };
        let found = self.ended.iter().rev().find(|(id, _)| self.all.get(id).is_some_and(is_it));
        found.map(|((_, order_id), _)| *order_id)
    }

    /// An order that rests at this price with this much open.
    pub fn resting_with(&self, side: Side, price: Price, open: u64) -> Option<OrderId> {
        let is_it = |l: &Life| l.ended.is_none() && (l.side, l.price, l.open) == (side, Some(price), open);
        self.all.iter().filter(|(_, l)| is_it(l)).map(|((_, order_id), _)| *order_id).min()
    }

    /// Takes up an output.
    ///
    /// # Errors
    /// What does not add up.
    pub fn heard(&mut self, output: &Output) -> Result<(), String> {
        let result = match &output.body {
            OutputBody::Trade(t) => self.trade(t, output.seq),
            OutputBody::Order(u) => self.update(u, output.seq),
            _ => Ok(()),
        };
        if output.end {
            self.taker = None;
        }
        result
    }

    fn trade(&mut self, t: &Trade, seq: Seq) -> Result<(), String> {
        self.traded += u128::from(t.quantity.0);
        let id = (t.taker.user, t.taker.order_id);
        let so_far = self.taker.filter(|(of, _)| *of == id).map_or(0, |(_, filled)| filled) + t.quantity.0;
        self.taker = Some((id, so_far));
        let before = self.all.get(&id).filter(|l| l.ended.is_none()).map_or(0, |l| l.filled);
        adds_up("taker", &t.taker, before + so_far, None)?;
        let id = (t.maker.user, t.maker.order_id);
        let Some(life) = self.all.get_mut(&id) else { return Err(format!("maker {} is not known", t.maker.order_id)) };
        life.filled += t.quantity.0;
        life.open = life.open.saturating_sub(t.quantity.0);
        adds_up("maker", &t.maker, life.filled, Some(life.open))?;
        if life.open == 0 {
            self.end(id, seq, Ended::Filled);
        }
        Ok(())
    }

    fn update(&mut self, u: &OrderUpdate, seq: Seq) -> Result<(), String> {
        let id = (u.user, u.order_id);
        let traded = self.taker.filter(|(of, _)| *of == id).map_or(0, |(_, filled)| filled);
        let is_new = u.cause == Cause::Added;
        let before = self.all.get(&id).filter(|_| !is_new).map_or(0, |l| l.filled);
        let is_sound = u.filled.0 == before + traded && u.open.0 + u.filled.0 <= u.quantity.0;
        let life = self.all.entry(id).or_insert(Life {
            side: u.side,
            price: u.price,
            quantity: u.quantity.0,
            open: 0,
            filled: 0,
            rested: false,
            joined: seq,
            ended: None,
        });
        if is_new {
            (life.side, life.rested, life.ended) = (u.side, false, None);
        }
        (life.price, life.quantity, life.open, life.filled) = (u.price, u.quantity.0, u.open.0, u.filled.0);
        if u.joined.is_some() {
            (life.rested, life.joined) = (true, seq);
        }
        if !u.status.is_open() {
            let how = if u.filled == u.quantity { Ended::Filled } else { Ended::Otherwise };
            self.end(id, seq, how);
        }
        if is_sound {
            return Ok(());
        }
        let (quantity, open, filled) = (u.quantity.0, u.open.0, u.filled.0);
        Err(format!(
            "order {}: quantity {quantity}, open {open}, filled {filled}, its trades come to {}",
            u.order_id,
            before + traded
        ))
    }

    fn end(&mut self, id: Id, seq: Seq, how: Ended) {
        let Some(life) = self.all.get_mut(&id) else { return };
        life.ended = Some((seq, how));
        self.done.submitted += u128::from(life.quantity);
        self.done.filled += u128::from(life.filled);
        self.done.canceled += u128::from(life.quantity.saturating_sub(life.filled));
        self.ended.push_back((id, seq));
        if self.ended.len() > FINISHED_MAX
            && let Some((oldest, at)) = self.ended.pop_front()
            && self.all.get(&oldest).and_then(|l| l.ended).is_some_and(|(ended, _)| ended == at)
        {
            self.all.remove(&oldest);
        }
    }

    /// All orders together.
    ///
    /// # Errors
    /// What does not add up.
    pub fn quantities(&self) -> (Quantities, Result<(), String>) {
        let mut q = self.done;
        for life in self.all.values().filter(|l| l.ended.is_none()) {
            q.submitted += u128::from(life.quantity);
            q.filled += u128::from(life.filled);
            q.open += u128::from(life.open);
            q.canceled += u128::from(life.quantity.saturating_sub(life.open + life.filled));
        }
        let (both_sides, sum) = (2 * self.traded + self.filled_before, q.filled + q.open + q.canceled);
        let sound = if q.filled != both_sides {
            Err(format!("orders filled {}, trades say {both_sides}", q.filled))
        } else if q.submitted != sum {
            Err(format!("{} submitted, {sum} filled, open or canceled", q.submitted))
        } else {
            Ok(())
        };
        (q, sound)
    }
}

fn adds_up(who: &str, party: &Party, filled: u64, open: Option<u64>) -> Result<(), String> {
    if party.filled.0 == filled && open.is_none_or(|open| open == party.open.0) {
        return Ok(());
    }
    let open = open.map_or(String::new(), |open| format!(" and leave {open} open"));
    Err(format!(
        "{who} {}: filled {}, open {}; its trades come to {filled}{open}",
        party.order_id, party.filled.0, party.open.0
    ))
}
