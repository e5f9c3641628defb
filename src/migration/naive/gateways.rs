//! Which signatures of gateways are still good: each once, in the order of their numbers, and in time.

use super::Id;
use crate::domain::Micros;
use crate::domain::command::{Signed, SignedOrder};
use crate::domain::output::CommandKind;

/// Gateways that are remembered.
pub const GATEWAYS_MAX: usize = 4_096;

/// What is known of one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NaiveGateway {
    pub id: u64,
    /// Of its orders so far.
    pub highest_number: u64,
    /// Until when any of its orders so far is good.
    pub until: Micros,
}

/// In order of id.
pub(super) type Gateways = Vec<NaiveGateway>;

/// Whether an order's signature is good now; it is not a second time.
pub(super) fn is_good(gateways: &mut Gateways, signed: &Signed, clock: Micros) -> bool {
    let stamp = signed.stamp;
    // Of a gateway whose orders have all run out there is nothing left to be played again.
    gateways.retain(|g| clock <= g.until);
    if stamp.valid_until < clock {
        return false;
    }
    if let Some(known) = gateways.iter_mut().find(|g| g.id == stamp.gateway) {
        if stamp.number <= known.highest_number {
            return false;
        }
        known.highest_number = stamp.number;
        if known.until < stamp.valid_until {
            known.until = stamp.valid_until;
        }
        return true;
    }
    if gateways.len() == GATEWAYS_MAX {
        return false;
    }
    gateways.push(NaiveGateway { id: stamp.gateway, highest_number: stamp.number, until: stamp.valid_until });
    gateways.sort_by_key(|g| g.id);
    true
}

pub(super) fn names(signed: &Signed) -> (CommandKind, Id) {
    match signed.order {
        SignedOrder::Add(order) => (CommandKind::Add, (order.user, order.order_id)),
        SignedOrder::Replace { user, order_id, .. } => (CommandKind::Replace, (user, order_id)),
    }
}
