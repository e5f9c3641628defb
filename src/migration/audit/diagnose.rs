//! What a wrong output means: the first difference between what the log gives and what was published, named.

use std::collections::VecDeque;

use super::lives::{Ended, Lives};
use super::report::Kind;
use crate::domain::output::{Cause, Level, OrderUpdate, Trade};
use crate::domain::{Offset, OrderStatus, Output, OutputBody, Reason, Side};

/// Trades kept to recognise one that is published again.
const TRADES_MAX: usize = 256;

/// The last trades that were heard.
#[derive(Debug, Default)]
pub struct Trades(VecDeque<(Offset, Trade)>);

impl Trades {
    pub fn heard(&mut self, offset: Offset, trade: &Trade) {
        if self.0.len() == TRADES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((offset, *trade));
    }

    fn has(&self, offset: Offset, t: &Trade) -> bool {
        let is_same = |known: &Trade| {
            (known.maker.order_id, known.maker.user, known.taker.order_id, known.taker.user, known.quantity)
                == (t.maker.order_id, t.maker.user, t.taker.order_id, t.taker.user, t.quantity)
        };
        self.0.iter().any(|(at, known)| *at == offset && is_same(known))
    }
}

/// What is known when an output is wrong: everything up to the one before it.
pub struct Scene<'a> {
    pub lives: &'a Lives,
    pub trades: &'a Trades,
    /// The last record that was answered.
    pub answered: Option<Offset>,
}

/// Names an output of the right record (or of an earlier one, or none) that is not as expected. `None`: it belongs to a
/// later record; what became of the expected one is still to be seen.
pub fn diagnose(scene: &Scene<'_>, expected: Option<&Output>, heard: &Output) -> Option<(Kind, String)> {
    if let OutputBody::Trade(t) = &heard.body
        && scene.trades.has(heard.offset, t)
    {
        return Some((
            Kind::DoubledFill,
            format!("{} and {} fill each other again", t.maker.order_id, t.taker.order_id),
        ));
    }
    let is_answered = scene.answered.is_some_and(|last| heard.offset < last)
        || (scene.answered == Some(heard.offset) && expected.is_none_or(|e| e.offset != heard.offset));
    if is_answered {
        return Some((Kind::DoubledOutput, format!("record {} was answered before", heard.offset)));
    }
    let Some(expected) = expected else {
        return Some((Kind::Unexplained, format!("nothing in the log gives {}", words(&heard.body))));
    };
    if heard.offset > expected.offset {
        return None;
    }
    if heard.offset < expected.offset {
        return Some((Kind::Unexplained, format!("no record of this symbol has offset {}", heard.offset)));
    }
    let (kind, why) = bodies(scene, expected, heard);
    Some((kind, format!("{why}; {} instead of {}", words(&heard.body), words(&expected.body))))
}

fn bodies(scene: &Scene<'_>, expected: &Output, heard: &Output) -> (Kind, String) {
    use OutputBody::{Order, Refused, Trade};
    match (&expected.body, &heard.body) {
        (Trade(e), Trade(h)) if h.taker.filled.0 >= e.taker.filled.0 + h.quantity.0 => lost(e),
        (Trade(e), Order(h)) if h.order_id == e.taker.order_id && h.filled >= e.taker.filled => lost(e),
        (Trade(e), Trade(h)) => trades(scene, e, h),
        (_, Trade(h)) => unexpected_trade(scene, h),
        (Refused { reason: Reason::DuplicateOrder, .. }, Order(h)) if h.cause == Cause::Added => {
            (Kind::RegisteredTwice, format!("{} was accepted a second time", h.order_id))
        }
        (Order(_), Refused { reason: Reason::UnknownOrder, .. }) | (Trade(_), Order(_)) => {
            (Kind::SilentMatch, "a resting order is not there any more".into())
        }
        (Order(e), Order(h)) => updates(scene, e, h),
        _ => (Kind::WrongOutcome, "another outcome".into()),
    }
}

/// What came counts a trade in that was not published.
fn lost(e: &Trade) -> (Kind, String) {
    (Kind::LostOutput, format!("the trade of {} and {} was left out", e.maker.order_id, e.taker.order_id))
}

fn trades(scene: &Scene<'_>, e: &Trade, h: &Trade) -> (Kind, String) {
    let is_same_maker = (e.maker.user, e.maker.order_id) == (h.maker.user, h.maker.order_id);
    if !is_same_maker {
        return other_maker(scene, e, h);
    }
    let (was, should) = (h.maker.open.0 + h.quantity.0, e.maker.open.0 + e.quantity.0);
    let id = h.maker.order_id;
    if was > should || h.maker.filled.0 + e.quantity.0 < e.maker.filled.0 + h.quantity.0 {
        (Kind::RefilledOrder, format!("{id} had {was} open, the log left it {should}"))
    } else if was < should {
        (Kind::SilentMatch, format!("{id} had {was} open, the log left it {should}"))
    } else if let Some(found) = level(scene, h.maker_side, Some(&e.level), Some(&h.level)) {
        found
    } else {
        (Kind::WrongOutcome, "the same orders trade otherwise".into())
    }
}

/// A trade with another resting order than the one whose turn it was.
fn other_maker(scene: &Scene<'_>, e: &Trade, h: &Trade) -> (Kind, String) {
    let Some(life) = scene.lives.get(h.maker.user, h.maker.order_id) else {
        return (Kind::GhostOrder, format!("{} never rested", h.maker.order_id));
    };
    if life.ended.is_some() || !life.rested {
        return unexpected_trade(scene, h);
    }
    if e.price != h.price {
        return (Kind::PricePriority, format!("{} at {} was first", e.maker.order_id, e.price.0));
    }
    // Were the passed-over order still there, the level would hold it.
    let with_it = (e.level.quantity + e.quantity.0).saturating_sub(h.quantity.0);
    if h.level.quantity < with_it {
        return (Kind::SilentMatch, format!("{} is not there any more", e.maker.order_id));
    }
    (Kind::TimePriority, format!("{} came before {}", e.maker.order_id, h.maker.order_id))
}

/// A trade where there should be none, or with an order that has ended.
fn unexpected_trade(scene: &Scene<'_>, h: &Trade) -> (Kind, String) {
    let id = h.maker.order_id;
    let Some(life) = scene.lives.get(h.maker.user, id) else {
        return (Kind::GhostOrder, format!("{id} never rested"));
    };
    match life.ended {
        Some((_, Ended::Filled)) if life.rested => {
            (Kind::RegisteredTwice, format!("{id} was filled whole and trades once more"))
        }
        Some((seq, _)) => (Kind::GhostOrder, format!("{id} had ended with seq {seq}")),
        None => (Kind::WrongOutcome, format!("{id} trades although the rules do not let it")),
    }
}

fn updates(scene: &Scene<'_>, e: &OrderUpdate, h: &OrderUpdate) -> (Kind, String) {
    let id = h.order_id;
    if (e.user, e.order_id) != (h.user, h.order_id) {
        return (Kind::WrongOutcome, "about another order".into());
    }
    if h.status.is_open() && !e.status.is_open() {
        return (Kind::GhostOrder, format!("{id} rests although it ended ({:?})", e.status));
    }
    if e.cause != Cause::Added && e.filled != h.filled {
        let kind = if h.filled < e.filled { Kind::RefilledOrder } else { Kind::SilentMatch };
        return (kind, format!("{id} has {} filled, the log gives {}", h.filled.0, e.filled.0));
    }
    let found = level(scene, h.side, e.joined.as_ref(), h.joined.as_ref())
        .or_else(|| level(scene, h.side, e.left.as_ref(), h.left.as_ref()));
    found.unwrap_or_else(|| match (e.status, h.status) {
        (e, OrderStatus::Filled) if e.is_open() => (Kind::Unexplained, format!("{id} was filled without a trade")),
        _ => (Kind::WrongOutcome, format!("{id} is told otherwise")),
    })
}

/// What a level with another total than expected tells.
fn level(scene: &Scene<'_>, side: Side, e: Option<&Level>, h: Option<&Level>) -> Option<(Kind, String)> {
    let (e, h) = (e?, h?);
    if e == h || e.price != h.price {
        return None;
    }
    let at = format!(
        "the level {} holds {} in {} orders instead of {} in {}",
        h.price.0, h.quantity, h.orders, e.quantity, e.orders
    );
    let extra = h.quantity.saturating_sub(e.quantity);
    if h.orders > e.orders {
        return Some(match extra_order(scene, side, e, extra) {
            Some((kind, who)) => (kind, format!("{at}: {who}")),
            None => (Kind::GhostOrder, at),
        });
    }
    if h.quantity > e.quantity {
        return Some((Kind::RefilledOrder, at));
    }
    Some((Kind::SilentMatch, at))
}

/// Which order an extra one of this quantity is likely to be.
fn extra_order(scene: &Scene<'_>, side: Side, e: &Level, extra: u64) -> Option<(Kind, String)> {
    if let Some(id) = scene.lives.resting_with(side, e.price, extra) {
        return Some((Kind::RegisteredTwice, format!("{id} counts twice")));
    }
    let id = scene.lives.ended_with(side, e.price, extra)?;
    Some((Kind::GhostOrder, format!("{id} had ended with {extra} unfilled")))
}

/// A body in a few words.
pub fn words(body: &OutputBody) -> String {
    match body {
        OutputBody::Trade(t) => format!(
            "a trade of {} at {} between {} ({} open) and {}",
            t.quantity.0, t.price.0, t.maker.order_id, t.maker.open.0, t.taker.order_id
        ),
        OutputBody::Order(u) => {
            let reason = u.reason.map_or(String::new(), |r| format!(", {}", r.code()));
            format!("{} {} ({} open, {} filled{reason})", u.order_id, u.status.as_str(), u.open.0, u.filled.0)
        }
        OutputBody::Refused { command, reason, .. } => format!("{command:?} refused as {}", reason.code()),
        other => format!("{other:?}"),
    }
}
