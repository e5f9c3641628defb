//! What a book says. One enum, one binary form, used by the `events` log, the mirrors and the auditor.

use super::ids::{NodeId, OrderId, UserId};
use super::instrument::Instrument;
use super::numbers::{Epoch, Micros, Offset, Origin, Price, Quantity, Seq, Side};
use super::outbox::Classes;
use super::reason::Reason;

/// How an order is doing, in the words that clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OrderStatus {
    New = 1,
    PartiallyFilled = 2,
    Filled = 3,
    Canceled = 4,
    Rejected = 5,
    Expired = 6,
}

impl OrderStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::PartiallyFilled => "PARTIALLY_FILLED",
            Self::Filled => "FILLED",
            Self::Canceled => "CANCELED",
            Self::Rejected => "REJECTED",
            Self::Expired => "EXPIRED",
        }
    }

    /// Whether the order can still trade.
    pub fn is_open(self) -> bool {
        matches!(self, Self::New | Self::PartiallyFilled)
    }

    pub fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::New,
            2 => Self::PartiallyFilled,
            3 => Self::Filled,
            4 => Self::Canceled,
            5 => Self::Rejected,
            6 => Self::Expired,
            _ => return None,
        })
    }
}

/// `order_type` as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OrderType {
    Market = 1,
    Limit = 2,
    Stop = 3,
    StopLimit = 4,
}

impl OrderType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Market => "MARKET",
            Self::Limit => "LIMIT",
            Self::Stop => "STOP",
            Self::StopLimit => "STOP_LIMIT",
        }
    }

    pub fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Market,
            2 => Self::Limit,
            3 => Self::Stop,
            4 => Self::StopLimit,
            _ => return None,
        })
    }
}

/// `time_in_force` as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tif {
    Gtc = 1,
    Ioc = 2,
    Fok = 3,
    Day = 4,
    Gtd = 5,
}

impl Tif {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gtc => "GTC",
            Self::Ioc => "IOC",
            Self::Fok => "FOK",
            Self::Day => "DAY",
            Self::Gtd => "GTD",
        }
    }

    pub fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Gtc,
            2 => Self::Ioc,
            3 => Self::Fok,
            4 => Self::Day,
            5 => Self::Gtd,
            _ => return None,
        })
    }
}

/// A price level after an output: what is left there; `quantity` 0 means the level is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub price: Price,
    pub quantity: u64,
    pub orders: u32,
}

/// One party of a trade, after the trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    pub order_id: OrderId,
    pub user: UserId,
    /// Still open.
    pub open: Quantity,
    /// Filled since entry.
    pub filled: Quantity,
}

impl Party {
    pub fn line(&self) -> PartyLine<'_> {
        let Self { order_id, user, open, filled } = self;
        PartyLine { order_id, user, open: *open, filled: *filled }
    }
}

/// A [`Party`] whose names stay where they are.
#[derive(Debug, Clone, Copy)]
pub struct PartyLine<'a> {
    pub order_id: &'a OrderId,
    pub user: &'a UserId,
    pub open: Quantity,
    pub filled: Quantity,
}

/// Two orders traded, at the maker's price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trade {
    pub price: Price,
    pub quantity: Quantity,
    pub maker_side: Side,
    pub maker: Party,
    pub taker: Party,
    /// The maker's level afterwards (its price is the trade's).
    pub level: Level,
}

impl Trade {
    pub fn taker_side(&self) -> Side {
        self.maker_side.opposite()
    }

    /// (buyer, seller).
    pub fn buyer_seller(&self) -> (&Party, &Party) {
        match self.maker_side {
            Side::Buy => (&self.maker, &self.taker),
            Side::Sell => (&self.taker, &self.maker),
        }
    }
}

/// What made an order update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The answer to an ADD, refused ones too.
    Added = 1,
    /// The answer to a CANCEL; or an order ended by CANCEL_ALL or self-trade prevention.
    Canceled = 2,
    /// The answer to a REPLACE that was carried out.
    Replaced = 3,
    /// Self-trade prevention `decrement` took some of a resting order.
    Reduced = 4,
    Expired = 5,
    /// A stop became active.
    Triggered = 6,
}

impl Cause {
    pub fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Added,
            2 => Self::Canceled,
            3 => Self::Replaced,
            4 => Self::Reduced,
            5 => Self::Expired,
            6 => Self::Triggered,
            _ => return None,
        })
    }
}

/// An order's state after an output. `quantity` = `open` + `filled` + what was canceled or rejected (OB1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderUpdate {
    pub cause: Cause,
    pub order_id: OrderId,
    pub user: UserId,
    pub side: Side,
    pub order_type: OrderType,
    pub time_in_force: Tif,
    /// The limit; `None` for MARKET and STOP.
    pub price: Option<Price>,
    /// Total, as submitted or last replaced.
    pub quantity: Quantity,
    /// Still open; 0 once the order has ended.
    pub open: Quantity,
    pub filled: Quantity,
    pub status: OrderStatus,
    pub reason: Option<Reason>,
    /// The level that it left or shrank in, if it rested before this output.
    pub left: Option<Level>,
    /// The level in which it rests now, if it joined one with this output.
    pub joined: Option<Level>,
}

/// An [`OrderUpdate`] without the order's names.
#[derive(Debug, Clone, Copy)]
pub struct OrderLine {
    pub cause: Cause,
    pub side: Side,
    pub order_type: OrderType,
    pub time_in_force: Tif,
    pub price: Option<Price>,
    pub quantity: Quantity,
    pub open: Quantity,
    pub filled: Quantity,
    pub status: OrderStatus,
    pub reason: Option<Reason>,
    pub left: Option<Level>,
    pub joined: Option<Level>,
}

impl OrderUpdate {
    pub fn line(&self) -> OrderLine {
        let Self {
            cause,
            side,
            order_type,
            time_in_force,
            price,
            quantity,
            open,
            filled,
            status,
            reason,
            left,
            joined,
            ..
        } = *self;
        OrderLine {
            cause,
            side,
            order_type,
            time_in_force,
            price,
            quantity,
            open,
            filled,
            status,
            reason,
            left,
            joined,
        }
    }
}

/// Which command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandKind {
    Add = 1,
    Cancel = 2,
    Replace = 3,
    CancelAll = 4,
    List = 5,
    Halt = 6,
    Resume = 7,
    Rules = 8,
    Session = 9,
    Tick = 10,
}

impl CommandKind {
    pub fn from_number(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Add,
            2 => Self::Cancel,
            3 => Self::Replace,
            4 => Self::CancelAll,
            5 => Self::List,
            6 => Self::Halt,
            7 => Self::Resume,
            8 => Self::Rules,
            9 => Self::Session,
            10 => Self::Tick,
            _ => return None,
        })
    }
}

/// One output. The header is the same for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub seq: Seq,
    /// Offset of the record that caused it.
    pub offset: Offset,
    /// When the log took that record.
    pub at: Micros,
    pub epoch: Epoch,
    pub origin: Origin,
    /// Whether this answers the record (exactly one output per record does).
    pub answer: bool,
    /// Whether it is the record's last.
    pub end: bool,
    pub classes: Classes,
    /// Seq of the class's output before this one, for each class it belongs to; in the order of [`Classes::EACH`].
    pub prev_seq: [Seq; 4],
    pub body: OutputBody,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputBody {
    Trade(Trade),
    Order(OrderUpdate),
    /// The command was refused and touched nothing: `duplicate_order`, `unknown_order`, a refused REPLACE, ...
    Refused {
        command: CommandKind,
        user: Option<UserId>,
        order_id: Option<OrderId>,
        reason: Reason,
    },
    /// The answer to CANCEL_ALL, after one update per order.
    AllCanceled {
        user: UserId,
        count: u32,
    },
    Listed {
        instrument: Instrument,
        owner: NodeId,
        rules_version: u32,
    },
    Halted,
    Resumed,
    RulesSet {
        version: u32,
    },
    SessionEnded,
}

impl OutputBody {
    /// Classes (derived topics) that such an output belongs to.
    pub fn classes(&self) -> Classes {
        match self {
            Self::Trade(_) => Classes::FILLS | Classes::TRADES | Classes::DEPTH | Classes::ORDER_STATUS,
            Self::Order(o) if o.left.is_some() || o.joined.is_some() => Classes::DEPTH | Classes::ORDER_STATUS,
            Self::Order(_) => Classes::ORDER_STATUS,
            _ => Classes::NONE,
        }
    }
}
