//! What the naive matcher says, put into outputs.

use super::{End, Id, NaiveOrder, Taker};
use crate::domain::output::{Cause, CommandKind, Level, OrderType, OrderUpdate, Party, Tif, Trade};
use crate::domain::{NewOrder, OrderKind, OrderStatus, OutputBody, Quantity, Reason, TimeInForce};

/// What becomes of an order that was let in.
pub(super) fn outcome(end: End, taker: &Taker, order: &NewOrder) -> (OrderStatus, Option<Reason>) {
    let canceled = |reason| (OrderStatus::Canceled, Some(reason));
    match end {
        End::Filled => (OrderStatus::Filled, None),
        End::SelfTrade => canceled(Reason::SelfTrade),
        End::TooDear => canceled(Reason::OrderValueAboveMax),
        End::NothingLeft if order.kind == OrderKind::Market => canceled(Reason::NoLiquidity),
        End::NothingLeft if order.time_in_force != TimeInForce::Gtc => canceled(Reason::IocRemainder),
        End::NothingLeft if taker.filled > 0 => (OrderStatus::PartiallyFilled, None),
        End::NothingLeft => (OrderStatus::New, None),
    }
}

pub(super) fn refused(command: CommandKind, (user, order_id): Id, reason: Reason) -> (OutputBody, bool) {
    (OutputBody::Refused { command, user: Some(user), order_id: Some(order_id), reason }, true)
}

pub(super) fn trade_of(maker: &NaiveOrder, taker: &Taker, quantity: u64, level: Level) -> Trade {
    let (user, order_id) = taker.id;
    Trade {
        price: maker.price,
        quantity: Quantity(quantity),
        maker_side: maker.side,
        maker: Party {
            order_id: maker.order_id,
            user: maker.user,
            open: Quantity(maker.open),
            filled: Quantity(maker.filled),
        },
        taker: Party { order_id, user, open: Quantity(taker.open), filled: Quantity(taker.filled) },
        level,
    }
}

/// What is said of an order that goes on resting.
pub(super) fn resting(order: &NaiveOrder, cause: Cause, reason: Option<Reason>) -> OrderUpdate {
    OrderUpdate {
        cause,
        order_id: order.order_id,
        user: order.user,
        side: order.side,
        order_type: OrderType::Limit,
        time_in_force: Tif::Gtc,
        price: Some(order.price),
        quantity: Quantity(order.quantity),
        open: Quantity(order.open),
        filled: Quantity(order.filled),
        status: if order.filled == 0 { OrderStatus::New } else { OrderStatus::PartiallyFilled },
        reason,
        left: None,
        joined: None,
    }
}

/// What is said of an order that ends as CANCELED.
pub(super) fn ended(order: &NaiveOrder, cause: Cause, reason: Reason, left: Level) -> OrderUpdate {
    let update = resting(order, cause, Some(reason));
    OrderUpdate { open: Quantity::ZERO, status: OrderStatus::Canceled, left: Some(left), ..update }
}

/// What is said of an incoming order before anything happened to it.
pub(super) fn arriving(order: &NewOrder) -> OrderUpdate {
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
    OrderUpdate {
        cause: Cause::Added,
        order_id: order.order_id,
        user: order.user,
        side: order.side,
        order_type,
        time_in_force,
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
