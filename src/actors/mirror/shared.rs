//! The read side of all mirrors: the egress writes, any handler reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::view::{CandleView, DepthView, InstrumentView, OrderView, OwnFillView, TickerView, TradeView};
use super::{FINISHED_MAX, FINISHED_PER_SYMBOL_MAX, Mirror};
use crate::actors::market_data::Channels;
use crate::domain::{Instrument, OrderId, Seq, Symbol, UserId};

/// One symbol: its mirror, and who listens to it. Whoever needs both locks takes `channels` first.
pub struct Cell {
    pub mirror: RwLock<Mirror>,
    /// Held by the egress for the whole of a batch: a snapshot is only ever taken between two batches.
    pub channels: Mutex<Channels>,
    /// It waits among the [`Changed`].
    is_noted: AtomicBool,
}

/// Symbols whose mirrors changed since they were last taken, in the order in which they did. Each is there once: there are
/// never more than there are symbols.
#[derive(Default)]
pub struct Changed(Mutex<VecDeque<Arc<Cell>>>);

impl Changed {
    /// Called after the mirror was written.
    pub(in crate::actors) fn note(&self, cell: &Arc<Cell>) {
        if !cell.is_noted.swap(true, Ordering::AcqRel) {
            self.0.lock().push_back(Arc::clone(cell));
        }
    }

    /// Takes up to `count` out, to be read after this: a change that comes meanwhile is noted again.
    pub(in crate::actors) fn take(&self, count: usize) -> Vec<Arc<Cell>> {
        let mut changed = self.0.lock();
        let count = changed.len().min(count);
        let taken: Vec<_> = changed.drain(..count).collect();
        taken.iter().for_each(|cell| cell.is_noted.store(false, Ordering::Release));
        taken
    }
}

/// All symbols that a gateway knows. Handlers copy out under a short read lock of one symbol.
#[derive(Default)]
pub struct Mirrors {
    cells: RwLock<BTreeMap<Symbol, Arc<Cell>>>,
}

impl Mirrors {
    pub(in crate::actors) fn cell(&self, symbol: &Symbol) -> Option<Arc<Cell>> {
        self.cells.read().get(symbol).cloned()
    }

    /// Enters a symbol; one that is there already stays as it is.
    pub(in crate::actors) fn enter(&self, mirror: Mirror) -> Arc<Cell> {
        let symbol = mirror.symbol();
        let cell = Cell { mirror: RwLock::new(mirror), channels: Mutex::default(), is_noted: AtomicBool::new(false) };
        Arc::clone(self.cells.write().entry(symbol).or_insert_with(|| Arc::new(cell)))
    }

    pub(in crate::actors) fn cells(&self) -> Vec<Arc<Cell>> {
        self.cells.read().values().cloned().collect()
    }

    /// How many finished orders each symbol may keep: the gateway's bound shared out evenly.
    pub(in crate::actors) fn finished_max(&self) -> usize {
        let symbols = self.cells.read().len().max(1);
        (FINISHED_MAX / symbols).clamp(1, FINISHED_PER_SYMBOL_MAX)
    }

    fn with<T>(&self, symbol: &Symbol, look: impl FnOnce(&Mirror) -> T) -> Option<T> {
        let cell = self.cell(symbol)?;
        let mirror = cell.mirror.read();
        Some(look(&mirror))
    }

    /// Symbols known.
    pub fn len(&self) -> usize {
        self.cells.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The best `levels` of both sides; `None` for an unknown symbol, here and below.
    pub fn depth(&self, symbol: &Symbol, levels: usize) -> Option<DepthView> {
        self.with(symbol, |m| m.depth(levels))
    }

    /// An order of `user`, open or among the last finished ones.
    pub fn order(&self, symbol: &Symbol, user: &UserId, order_id: &OrderId) -> Option<OrderView> {
        self.with(symbol, |m| m.order(user, order_id)).flatten()
    }

    /// Open orders of `user` in one symbol or in all, by symbol, then in the order of their answers.
    pub fn open_orders(&self, symbol: Option<&Symbol>, user: &UserId) -> Vec<OrderView> {
        match symbol {
            Some(symbol) => self.with(symbol, |m| m.open_orders(user)).unwrap_or_default(),
            None => self.cells().iter().flat_map(|c| c.mirror.read().open_orders(user)).collect(),
        }
    }

    /// The last `count` trades, newest first; at most [`super::TRADES_MAX`] are kept.
    pub fn trades(&self, symbol: &Symbol, count: usize) -> Option<Vec<TradeView>> {
        self.with(symbol, |m| m.trades(count))
    }

    /// The newest fills of `user` in one symbol or in all, newest first; at most as many trades are kept as finished
    /// orders.
    pub fn fills(&self, symbol: Option<&Symbol>, user: &UserId, count: usize) -> Vec<OwnFillView> {
        let Some(symbol) = symbol else {
            let mut all: Vec<_> = self.cells().iter().flat_map(|c| c.mirror.read().fills(user, count)).collect();
            // Stable: the order within a symbol is its seq's.
            all.sort_by_key(|f| std::cmp::Reverse(f.at));
            all.truncate(count);
            return all;
        };
        self.with(symbol, |m| m.fills(user, count)).unwrap_or_default()
    }

    /// The newest `count` candles of so many minutes each, oldest first; they reach back 24 h.
    pub fn candles(&self, symbol: &Symbol, minutes: u64, count: usize) -> Option<Vec<CandleView>> {
        self.with(symbol, |m| m.candles(minutes, count))
    }

    pub fn ticker(&self, symbol: &Symbol) -> Option<TickerView> {
        self.with(symbol, Mirror::ticker)
    }

    /// All instruments, in order of symbol.
    pub fn instruments(&self) -> Vec<InstrumentView> {
        self.cells().iter().map(|c| c.mirror.read().instrument()).collect()
    }

    pub fn instrument(&self, symbol: &Symbol) -> Option<Arc<Instrument>> {
        self.with(symbol, |m| m.instrument().instrument)
    }

    /// The last output that the mirror includes.
    pub fn last_seq(&self, symbol: &Symbol) -> Option<Seq> {
        self.with(symbol, Mirror::seq)
    }
}
