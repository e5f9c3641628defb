//! What a gateway shows of the books, without asking a book: built from outputs alone.
//!
//! [`Mirror`] is pure: outputs in, views out. [`Mirrors`] is the shared read side of all symbols.

mod depth;
mod fills;
mod orders;
mod shared;
mod start;
mod ticker;
mod view;

#[cfg(test)]
mod book_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

pub use depth::DepthChanges;
pub(super) use shared::Cell;
pub use shared::{Changed, Mirrors};
pub(super) use start::{Start, read_starts};
pub use view::{
    CandleView, DepthView, FillView, InstrumentView, OrderView, OwnFillView, TickerView, TradeView, trade_id,
};

use crate::domain::output::{Level, OrderType, Output, OutputBody, Tif, Trade};
use crate::domain::{Epoch, Instrument, Micros, OrderId, Origin, Price, Quantity, Seq, Side, Symbol, UserId};
use depth::Depth;
use fills::Fills;
use orders::Orders;
use ticker::Ticker;

/// Levels a side that are shown of a book when nobody says how many.
pub const DEPTH_DEFAULT: usize = 20;
/// Trades kept per symbol: 1,000 x 72 bytes = 72 KB.
pub const TRADES_MAX: usize = 1_000;
/// Fills kept per order: 256 x 24 bytes = 6 KB. An order that swept more levels shows its first ones.
pub const FILLS_KEPT_MAX: usize = 256;
/// Finished orders kept by the whole gateway, shared out evenly among its symbols: 200,000 x about 400 bytes = 80 MB; and as
/// many trades with their parties: 200,000 x 232 bytes = 46 MB.
pub const FINISHED_MAX: usize = 200_000;
/// Finished orders, and trades with their parties, of one symbol, however few symbols there are.
pub const FINISHED_PER_SYMBOL_MAX: usize = 10_000;

/// A resting order as a snapshot has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOrder {
    pub order_id: OrderId,
    pub user: UserId,
    pub side: Side,
    pub order_type: OrderType,
    pub time_in_force: Tif,
    pub price: Option<Price>,
    pub quantity: Quantity,
    pub open: Quantity,
    pub filled: Quantity,
}

/// State of a book at one seq: what a mirror can start from.
#[derive(Debug, Clone)]
pub struct BookState {
    pub symbol: Symbol,
    pub seq: Seq,
    pub epoch: Epoch,
    pub instrument: Instrument,
    pub halted: bool,
    pub bids: Vec<Level>,
    pub asks: Vec<Level>,
    pub orders: Vec<OpenOrder>,
    pub last_trade: Option<(Price, Quantity)>,
}

/// What became of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was new. `first` entered the maker of a trade, or the order that an update is about; `second` entered the
    /// taker of a trade, if that had rested before. `Origin::NONE` where that is not known.
    Fresh { first: Origin, second: Origin },
    /// Its seq was seen before.
    Stale,
    /// `expected` is missing: the output was not applied.
    Gap { expected: Seq },
}

/// One symbol as its outputs tell it.
#[derive(Debug, Clone)]
pub struct Mirror {
    symbol: Symbol,
    instrument: Arc<Instrument>,
    seq: Seq,
    epoch: Epoch,
    at: Micros,
    halted: bool,
    depth: Depth,
    orders: Orders,
    trades: VecDeque<TradeView>,
    fills: Fills,
    ticker: Ticker,
    last_trade: Option<(Price, Quantity)>,
    finished_max: usize,
    /// Orders as told by outputs below the snapshot that the mirror started from, until the first one above it.
    history: Option<Box<History>>,
}

#[derive(Debug, Clone, Default)]
struct History {
    learned: Seq,
    orders: Orders,
}

impl Mirror {
    /// One that awaits `output`, the first of its symbol; `None` if that is not a Listed with seq 1.
    pub fn unborn(symbol: Symbol, output: &Output) -> Option<Self> {
        let OutputBody::Listed { instrument, .. } = &output.body else { return None };
        if output.seq != Seq(1) {
            return None;
        }
        let state = BookState {
            symbol,
            seq: Seq(0),
            epoch: output.epoch,
            instrument: instrument.clone(),
            halted: false,
            bids: Vec::new(),
            asks: Vec::new(),
            orders: Vec::new(),
            last_trade: None,
        };
        let mut mirror = Self::restored(state);
        mirror.history = None;
        Some(mirror)
    }

    /// One that goes on behind a snapshot.
    pub fn restored(state: BookState) -> Self {
        let mut depth = Depth::default();
        for (side, levels) in [(Side::Buy, &state.bids), (Side::Sell, &state.asks)] {
            levels.iter().for_each(|level| depth.set(side, level));
        }
        depth.take_changes(false);
        let mut orders = Orders::default();
        orders.restore(state.orders, state.seq);
        Self {
            symbol: state.symbol,
            instrument: Arc::new(state.instrument),
            seq: state.seq,
            epoch: state.epoch,
            at: Micros(0),
            halted: state.halted,
            depth,
            orders,
            trades: VecDeque::new(),
            fills: Fills::default(),
            ticker: Ticker::default(),
            last_trade: state.last_trade,
            finished_max: FINISHED_PER_SYMBOL_MAX,
            history: Some(Box::default()),
        }
    }

    /// Whether outputs up to `seq` can tell it anything.
    pub fn wants(&self, seq: Seq) -> bool {
        seq > self.seq || self.history.as_ref().is_some_and(|h| seq > h.learned)
    }

    /// Takes one output in. Those of a symbol must come in the order of the `events` log; repeats are harmless.
    pub fn apply(&mut self, output: &Output) -> Applied {
        if output.seq <= self.seq {
            self.learn(output);
            return Applied::Stale;
        }
        if output.seq != self.seq.next() {
            return Applied::Gap { expected: self.seq.next() };
        }
        self.settle();
        self.seq = output.seq;
        self.epoch = output.epoch;
        self.at = output.at;
        let (mut first, mut second) = (Origin::NONE, Origin::NONE);
        match &output.body {
            OutputBody::Trade(t) => {
                self.depth.set(t.maker_side, &t.level);
                self.show_trade(output, t);
                (first, second) = self.orders.trade(output, t, self.finished_max);
            }
            OutputBody::Order(u) => {
                for level in [&u.left, &u.joined].into_iter().flatten() {
                    self.depth.set(u.side, level);
                }
                first = self.orders.update(output, u, self.finished_max);
            }
            OutputBody::Halted => self.halted = true,
            OutputBody::Resumed => self.halted = false,
            OutputBody::Refused { .. }
            | OutputBody::AllCanceled { .. }
            | OutputBody::Listed { .. }
            | OutputBody::RulesSet { .. }
            | OutputBody::SessionEnded => {}
        }
        Applied::Fresh { first, second }
    }

    fn show_trade(&mut self, output: &Output, t: &Trade) {
        self.last_trade = Some((t.price, t.quantity));
        self.ticker.trade(output.at, t.price, t.quantity);
        self.fills.trade(output, t, self.finished_max);
        if self.trades.len() == TRADES_MAX {
            self.trades.pop_front();
        }
        self.trades.push_back(TradeView {
            symbol: self.symbol,
            price_scale: self.instrument.price_scale,
            seq: output.seq,
            price: t.price,
            quantity: t.quantity,
            taker_side: t.taker_side(),
            at: output.at,
        });
    }

    /// An output that the snapshot includes already still tells of trades and of orders that have ended.
    fn learn(&mut self, output: &Output) {
        let finished_max = self.finished_max;
        let last_trade = self.last_trade;
        let Some(history) = self.history.as_mut().filter(|h| h.learned < output.seq) else { return };
        history.learned = output.seq;
        self.at = output.at;
        match &output.body {
            OutputBody::Trade(t) => {
                history.orders.trade(output, t, finished_max);
                self.show_trade(output, t);
                self.last_trade = last_trade.or(self.last_trade);
            }
            OutputBody::Order(u) => _ = history.orders.update(output, u, finished_max),
            _ => {}
        }
    }

    /// Says that everything below the start state was read: what was learned from it becomes visible.
    pub fn settle(&mut self) {
        if let Some(history) = self.history.take() {
            self.orders.learn(history.orders, self.finished_max);
        }
    }

    /// Gives up on outputs that are lost, so that the symbol goes on: the next expected one is the one after `seq`.
    pub fn skip_to(&mut self, seq: Seq) {
        self.seq = self.seq.max(seq);
    }

    /// How many finished orders, and trades with their parties, it may keep from now on.
    pub fn set_finished_max(&mut self, finished_max: usize) {
        self.finished_max = finished_max;
    }

    pub fn symbol(&self) -> Symbol {
        self.symbol
    }

    pub fn price_scale(&self) -> u8 {
        self.instrument.price_scale
    }

    /// The last output that it includes.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    pub fn open_orders_count(&self) -> usize {
        self.orders.open_count()
    }

    pub fn finished_orders_count(&self) -> usize {
        self.orders.finished_count()
    }

    /// The best `levels` of both sides.
    pub fn depth(&self, levels: usize) -> DepthView {
        DepthView {
            symbol: self.symbol,
            price_scale: self.price_scale(),
            seq: self.seq,
            bids: self.depth.best(Side::Buy, levels),
            asks: self.depth.best(Side::Sell, levels),
            last_trade: self.last_trade,
        }
    }

    /// Levels that changed since the last call; `wanted` false only forgets them.
    pub fn take_depth_changes(&mut self, wanted: bool) -> DepthChanges {
        self.depth.take_changes(wanted)
    }

    /// An order of `user`, open or among the last finished ones.
    pub fn order(&self, user: &UserId, order_id: &OrderId) -> Option<OrderView> {
        self.orders.find(self.symbol, self.price_scale(), user, order_id)
    }

    /// Open orders of `user`, in the order of their answers.
    pub fn open_orders(&self, user: &UserId) -> Vec<OrderView> {
        self.orders.of_user(self.symbol, self.price_scale(), user)
    }

    /// The last `count` trades, newest first.
    pub fn trades(&self, count: usize) -> Vec<TradeView> {
        self.trades.iter().rev().take(count).copied().collect()
    }

    /// The newest fills of `user`, newest first.
    pub fn fills(&self, user: &UserId, count: usize) -> Vec<OwnFillView> {
        self.fills.of_user(self.symbol, self.price_scale(), user, count)
    }

    /// The newest `count` candles of so many minutes each, oldest first; none for a time without a trade.
    pub fn candles(&self, minutes: u64, count: usize) -> Vec<CandleView> {
        self.ticker.candles(minutes, count)
    }

    pub fn newest_trade(&self) -> Option<&TradeView> {
        self.trades.back()
    }

    pub fn ticker(&self) -> TickerView {
        let (prices, volume, trades) = self.ticker.day_at(self.at);
        TickerView {
            symbol: self.symbol,
            price_scale: self.price_scale(),
            seq: self.seq,
            open: prices.map(|p| p.0),
            high: prices.map(|p| p.1),
            low: prices.map(|p| p.2),
            last: self.last_trade,
            volume,
            trades,
            at: self.at,
        }
    }

    pub fn instrument(&self) -> InstrumentView {
        InstrumentView {
            symbol: self.symbol,
            instrument: Arc::clone(&self.instrument),
            halted: self.halted,
            epoch: self.epoch,
            seq: self.seq,
        }
    }
}
