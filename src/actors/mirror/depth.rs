//! Price levels of both sides.

use std::collections::BTreeMap;

use crate::domain::output::Level;
use crate::domain::{Price, Side};

/// Levels that changed since they were last asked for: (price, quantity now), 0 for one that is gone; best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DepthChanges {
    pub bids: Vec<(Price, u64)>,
    pub asks: Vec<(Price, u64)>,
}

/// Sorted maps: a level changes with every output, and both ends and the whole are read in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Depth {
    bids: BTreeMap<Price, (u64, u32)>,
    asks: BTreeMap<Price, (u64, u32)>,
    touched: Vec<(Side, Price)>,
}

impl Depth {
    fn side(&self, side: Side) -> &BTreeMap<Price, (u64, u32)> {
        match side {
            Side::Buy => &self.bids,
            Side::Sell => &self.asks,
        }
    }

    pub fn set(&mut self, side: Side, level: &Level) {
        let levels = match side {
            Side::Buy => &mut self.bids,
            Side::Sell => &mut self.asks,
        };
        if level.quantity == 0 {
            levels.remove(&level.price);
        } else {
            levels.insert(level.price, (level.quantity, level.orders));
        }
        self.touched.push((side, level.price));
    }

    /// The best `count` levels.
    pub fn best(&self, side: Side, count: usize) -> Vec<Level> {
        let level = |(price, (quantity, orders)): (&Price, &(u64, u32))| Level {
            price: *price,
            quantity: *quantity,
            orders: *orders,
        };
        match side {
            Side::Buy => self.bids.iter().rev().take(count).map(level).collect(),
            Side::Sell => self.asks.iter().take(count).map(level).collect(),
        }
    }

    /// What changed since the last call; `wanted` false only forgets it.
    pub fn take_changes(&mut self, wanted: bool) -> DepthChanges {
        let mut changes = DepthChanges::default();
        if wanted {
            self.touched.sort_unstable();
            self.touched.dedup();
            for (side, price) in &self.touched {
                let quantity = self.side(*side).get(price).map_or(0, |l| l.0);
                match side {
                    Side::Buy => changes.bids.push((*price, quantity)),
                    Side::Sell => changes.asks.push((*price, quantity)),
                }
            }
            changes.bids.reverse();
        }
        self.touched.clear();
        changes
    }
}
