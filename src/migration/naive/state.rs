//! The naive book's state as plain data, so that it can be made from a snapshot and held against one.

use std::collections::{BTreeSet, VecDeque};

use siphasher::sip128::{Hash128, SipHasher13};

use super::{Id, NaiveBook, NaiveGateway, NaiveOrder};
use crate::domain::{Instrument, Micros, OrderId, Price, Quantity, UserId};

/// All of a book that can influence its future.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NaiveState {
    pub rules_version: u32,
    pub halted: bool,
    /// Highest append time of a record that the book applied: the replay's, the book itself has no clock.
    pub clock: Micros,
    pub next_rank: u64,
    pub last_trade: Option<(Price, Quantity)>,
    /// Key of the order id hashes.
    pub id_key: u128,
    pub instrument: Instrument,
    /// Endings since birth.
    pub endings: u64,
    /// Keyed hashes of the remembered finished ids, oldest first.
    pub finished: Vec<u128>,
    /// By queue rank.
    pub orders: Vec<NaiveOrder>,
    /// By id; none unless the instrument takes orders from gateways only.
    pub gateways: Vec<NaiveGateway>,
}

/// Finished ids of which only the hash is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered {
    oldest_first: VecDeque<u128>,
    all: BTreeSet<u128>,
}

impl Remembered {
    pub fn len(&self) -> usize {
        self.oldest_first.len()
    }

    pub fn has(&self, key: u128, id: &Id) -> bool {
        !self.all.is_empty() && self.all.contains(&id_hash(key, &id.0, &id.1))
    }

    /// Whether there was one.
    pub fn forget_oldest(&mut self) -> bool {
        let oldest = self.oldest_first.pop_front();
        oldest.is_some_and(|oldest| self.all.remove(&oldest))
    }
}

/// The keyed hash that stands for (user, order id) in snapshots: SipHash-1-3 over both texts, each padded with zeros
/// to its longest, and both lengths.
pub fn id_hash(key: u128, user: &UserId, order_id: &OrderId) -> u128 {
    let mut text = user.padded().to_vec();
    text.extend_from_slice(order_id.padded());
    text.extend([user.len() as u8, order_id.len() as u8]);
    let Hash128 { h1, h2 } = SipHasher13::new_with_keys(key as u64, (key >> 64) as u64).hash(&text);
    u128::from(h1) | u128::from(h2) << 64
}

impl NaiveBook {
    /// Its state, with the clock of whoever feeds it.
    pub fn state(&self, clock: Micros) -> NaiveState {
        let since = self.finished.iter().map(|(user, order_id)| id_hash(self.id_key, user, order_id));
        NaiveState {
            rules_version: self.rules_version,
            halted: self.halted,
            clock,
            next_rank: self.next_rank,
            last_trade: self.last_trade,
            id_key: self.id_key,
            instrument: self.instrument.clone(),
            endings: self.endings,
            finished: self.remembered.oldest_first.iter().copied().chain(since).collect(),
            orders: self.open_orders(),
            gateways: self.gateways.clone(),
        }
    }

    /// Decimals of its prices.
    pub fn price_scale(&self) -> u8 {
        self.instrument.price_scale
    }

    /// The book that has this state.
    pub fn from_state(state: &NaiveState) -> Self {
        let mut book = Self {
            instrument: state.instrument.clone(),
            rules_version: state.rules_version,
            halted: state.halted,
            next_rank: state.next_rank,
            last_trade: state.last_trade,
            bids: Default::default(),
            asks: Default::default(),
            places: Default::default(),
            finished: VecDeque::new(),
            is_finished: BTreeSet::new(),
            remembered: Remembered {
                oldest_first: state.finished.iter().copied().collect(),
                all: state.finished.iter().copied().collect(),
            },
            endings: state.endings,
            id_key: state.id_key,
            gateways: state.gateways.clone(),
        };
        for order in &state.orders {
            book.places.insert((order.user, order.order_id), (order.side, order.price));
            book.queues_mut(order.side).entry(order.price).or_default().push(*order);
        }
        book
    }
}
