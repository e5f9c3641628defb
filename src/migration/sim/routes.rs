//! The route table: a cache of what the log says, with all it ever said, for reads that go back in time.

use super::log::{Ownership, SimLog};
use crate::domain::{Epoch, NodeId};
use crate::ports::routes::RouteStatus;

#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub node: NodeId,
    pub epoch: Epoch,
    pub status: RouteStatus,
}

pub(super) struct RouteTable(Vec<Vec<Row>>);

impl RouteTable {
    pub fn new(symbols: usize) -> Self {
        Self(vec![Vec::new(); symbols])
    }

    /// The row now, or `back` changes ago.
    pub fn read(&self, symbol: usize, back: usize) -> Option<Row> {
        let rows = &self.0[symbol];
        rows.len().checked_sub(1).map(|last| rows[last.saturating_sub(back)])
    }

    /// Compare-and-set: an epoch never goes back (RT1).
    pub fn set(&mut self, symbol: usize, row: Row) -> bool {
        if self.read(symbol, 0).is_some_and(|now| now.epoch > row.epoch) {
            return false;
        }
        self.0[symbol].push(row);
        true
    }

    /// All rows are gone; the log gives them anew.
    pub fn rebuild(&mut self, log: &SimLog) {
        for (symbol, rows) in self.0.iter_mut().enumerate() {
            rows.clear();
            if let Some(Ownership { owner: node, epoch }) = log.truth(symbol) {
                rows.push(Row { node, epoch, status: RouteStatus::Active });
            }
        }
    }
}
