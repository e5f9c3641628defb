//! The catalogue of symbols: which exist, and from where their records must be read when there is no snapshot yet.
//!
//! An entry is written *before* the LIST record, so no symbol can be born without one; an entry whose LIST never came
//! is harmless. The first entry of a symbol stands: two listings at once must not disagree about where to begin.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::domain::{NodeId, Offset, Symbol};
use crate::ports::log::{Log, LogError, NewRecord, Session, Topic, TopicPartition};

const READ_RECORDS_MAX: usize = 4_096;

/// The `symbols` topic.
pub const SYMBOLS: TopicPartition = TopicPartition { topic: Topic::Symbols, partition: 0 };

/// One symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub symbol: Symbol,
    pub partition: u32,
    /// First owner, as the LIST record names it.
    pub owner: NodeId,
    /// Its LIST lies at or behind this offset of `orders`.
    pub orders_from: Offset,
    /// Its first output lies at or behind this offset of `events`.
    pub events_from: Offset,
}

/// All symbols that may exist.
#[derive(Debug, Default)]
pub struct Catalogue {
    entries: RwLock<BTreeMap<Symbol, Entry>>,
}

impl Catalogue {
    /// Reads the whole topic.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    pub async fn read(log: &dyn Log) -> Result<Self, LogError> {
        let catalogue = Self::default();
        let end = log.end_offset(SYMBOLS).await?;
        let mut next = log.start_offset(SYMBOLS).await?;
        while next < end {
            for record in log.read(SYMBOLS, next, READ_RECORDS_MAX).await? {
                next = record.offset.next();
                match rmp_serde::from_slice::<Entry>(&record.value) {
                    Ok(entry) => _ = catalogue.entries.write().entry(entry.symbol).or_insert(entry),
                    Err(e) => tracing::error!(offset = %record.offset, error = %e, "catalogue entry is unreadable"),
                }
            }
        }
        Ok(catalogue)
    }

    pub fn get(&self, symbol: &Symbol) -> Option<Entry> {
        self.entries.read().get(symbol).copied()
    }

    pub fn all(&self) -> Vec<Entry> {
        self.entries.read().values().copied().collect()
    }

    /// Enters a symbol durably. The caller holds the listing lock, so that nobody enters it at the same time.
    ///
    /// # Errors
    /// [`LogError`] when it is not known to be durable.
    pub async fn enter(&self, session: &dyn Session, entry: Entry) -> Result<(), LogError> {
        let value = Bytes::from(rmp_serde::to_vec_named(&entry).unwrap_or_default());
        let key = Bytes::copy_from_slice(entry.symbol.as_bytes());
        session.append(NewRecord { to: SYMBOLS, key, header: Bytes::new(), value }).await?;
        self.entries.write().insert(entry.symbol, entry);
        Ok(())
    }
}
