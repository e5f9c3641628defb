//! What can be asked of a book. Parsed once at the edge: inside there is no text and no optional price.

use super::control::{Authority, Fence, Stamp};
use super::ids::{NodeId, OrderId, UserId};
use super::instrument::Instrument;
use super::numbers::{Micros, Offset, Origin, Price, Quantity, Side};

/// How an order is priced. Stops come with a later rules version; until then the book refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    Market,
    Limit { price: Price },
    Stop { stop_price: Price },
    StopLimit { stop_price: Price, price: Price },
}

impl OrderKind {
    pub fn limit(&self) -> Option<Price> {
        match self {
            Self::Limit { price } | Self::StopLimit { price, .. } => Some(*price),
            Self::Market | Self::Stop { .. } => None,
        }
    }

    pub fn stop_price(&self) -> Option<Price> {
        match self {
            Self::Stop { stop_price } | Self::StopLimit { stop_price, .. } => Some(*stop_price),
            Self::Market | Self::Limit { .. } => None,
        }
    }
}

/// How long an order lives. DAY and GTD come with a later rules version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeInForce {
    Gtc,
    Ioc,
    Fok,
    Day,
    Gtd { expire_at: Micros },
}

/// What happens when an order meets one of the same user (OB5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelfTrade {
    /// The incoming order's rest is canceled.
    #[default]
    CancelNewest,
    /// The resting order is canceled, the incoming one goes on.
    CancelOldest,
    CancelBoth,
    /// Both lose the smaller open quantity, which counts as canceled; whatever reaches zero ends.
    Decrement,
    /// They trade.
    None,
}

/// An order as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)] // names first: see Command
pub struct NewOrder {
    pub user: UserId,
    pub order_id: OrderId,
    pub side: Side,
    pub self_trade: SelfTrade,
    pub post_only: bool,
    pub all_or_none: bool,
    pub kind: OrderKind,
    pub quantity: Quantity,
    pub time_in_force: TimeInForce,
    /// Iceberg: how much of it the book shows.
    pub display_quantity: Option<Quantity>,
}

/// The birth of a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub instrument: Instrument,
    /// First owner, at epoch 0.
    pub owner: NodeId,
    /// Key of the order id hashes.
    pub id_key: u128,
    pub rules_version: u32,
}

/// What a gateway signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedOrder {
    Add(NewOrder),
    Replace { user: UserId, order_id: OrderId, price: Option<Price>, quantity: Option<Quantity> },
}

impl SignedOrder {
    /// The same without a signature.
    pub fn command(&self) -> Command {
        match *self {
            Self::Add(order) => Command::Add(order),
            Self::Replace { user, order_id, price, quantity } => Command::Replace { user, order_id, price, quantity },
        }
    }
}

/// An ADD or REPLACE with a gateway's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    pub stamp: Stamp,
    pub order: SignedOrder,
}

/// One record of the `orders` log, decoded. Its layout is fixed so that the names of ADD, CANCEL and REPLACE lie at one place:
/// who wants them need not ask first which of the three it is, which nobody can foretell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, u8)]
pub enum Command {
    Add(NewOrder),
    Cancel { user: UserId, order_id: OrderId },
    Replace { user: UserId, order_id: OrderId, price: Option<Price>, quantity: Option<Quantity> },
    CancelAll { user: UserId, authority: Authority },
    List { listing: Box<Listing>, authority: Authority },
    Halt { authority: Authority },
    Resume { authority: Authority },
    Rules { version: u32, authority: Authority },
    Session { authority: Authority },
    Tick { authority: Authority },
    Fence { fence: Box<Fence>, authority: Authority },
    Signed(Box<Signed>),
}

impl Command {
    /// The authority of a control record; `None` for what any trader may send.
    pub fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Add(_) | Self::Cancel { .. } | Self::Replace { .. } | Self::Signed(_) => None,
            Self::CancelAll { authority, .. }
            | Self::List { authority, .. }
            | Self::Halt { authority }
            | Self::Resume { authority }
            | Self::Rules { authority, .. }
            | Self::Session { authority }
            | Self::Tick { authority }
            | Self::Fence { authority, .. } => Some(authority),
        }
    }
}

/// A command with what the log says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input<C> {
    pub offset: Offset,
    pub at: Micros,
    pub origin: Origin,
    pub command: C,
}
