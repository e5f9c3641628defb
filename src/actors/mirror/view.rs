//! What a mirror shows: copies, taken under its lock, that a handler may format at leisure.

use std::sync::Arc;

use crate::domain::output::{Level, OrderStatus, OrderType, Tif};
use crate::domain::{Epoch, Instrument, Micros, OrderId, Price, Quantity, Reason, Seq, Side, Symbol, UserId};

/// One fill that an order had while it entered the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillView {
    /// Seq of the trade: its id is [`trade_id`] of it.
    pub seq: Seq,
    pub price: Price,
    pub quantity: Quantity,
}

/// An order, open or finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderView {
    pub symbol: Symbol,
    pub price_scale: u8,
    pub order_id: OrderId,
    pub user: UserId,
    pub side: Side,
    pub order_type: OrderType,
    pub time_in_force: Tif,
    /// `None` for MARKET and STOP.
    pub price: Option<Price>,
    /// Total, as submitted or last replaced.
    pub quantity: Quantity,
    pub filled: Quantity,
    /// Still open; 0 once the order has ended.
    pub remaining: Quantity,
    pub status: OrderStatus,
    pub reason: Option<Reason>,
    /// Those on entry (and on the entry that a REPLACE made), oldest first; at most [`super::FILLS_KEPT_MAX`].
    pub fills: Vec<FillView>,
    /// Seq of the output that answered its ADD or last REPLACE.
    pub seq: Seq,
}

/// A fill of one of the user's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnFillView {
    pub symbol: Symbol,
    pub price_scale: u8,
    pub seq: Seq,
    pub order_id: OrderId,
    pub side: Side,
    pub price: Price,
    pub quantity: Quantity,
    /// Open after it.
    pub remaining: Quantity,
    /// Whether the order rested.
    pub is_maker: bool,
    pub at: Micros,
}

/// What traded in one span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandleView {
    pub start: Micros,
    pub open: Price,
    pub high: Price,
    pub low: Price,
    pub close: Price,
    pub volume: u64,
    pub trades: u64,
}

/// Both sides of a book, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepthView {
    pub symbol: Symbol,
    pub price_scale: u8,
    /// The last output that it includes.
    pub seq: Seq,
    pub bids: Vec<Level>,
    pub asks: Vec<Level>,
    pub last_trade: Option<(Price, Quantity)>,
}

/// A trade as the public sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TradeView {
    pub symbol: Symbol,
    pub price_scale: u8,
    pub seq: Seq,
    pub price: Price,
    pub quantity: Quantity,
    pub taker_side: Side,
    pub at: Micros,
}

impl TradeView {
    pub fn trade_id(&self) -> String {
        trade_id(&self.symbol, self.seq)
    }
}

/// The last 24 hours in numbers. The prices are `None` when nothing traded in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickerView {
    pub symbol: Symbol,
    pub price_scale: u8,
    pub seq: Seq,
    pub open: Option<Price>,
    pub high: Option<Price>,
    pub low: Option<Price>,
    /// The last trade ever, however old.
    pub last: Option<(Price, Quantity)>,
    pub volume: u64,
    pub trades: u64,
    /// Log time of the last output; the 24 hours end here.
    pub at: Micros,
}

/// An instrument and how it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstrumentView {
    pub symbol: Symbol,
    pub instrument: Arc<Instrument>,
    pub halted: bool,
    pub epoch: Epoch,
    pub seq: Seq,
}

/// `SYMBOL-seq`.
pub fn trade_id(symbol: &Symbol, seq: Seq) -> String {
    format!("{symbol}-{seq}")
}
