//! The catalogue of symbols: which exist, and from where their records must be read when there is no snapshot yet.
//!
//! An entry is written *before* the LIST record, so no symbol can be born without one; an entry whose LIST never came
//! is harmless. The first entry of a symbol stands: two listings at once must not disagree about where to begin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::domain::{NodeId, Offset, Symbol};
use crate::ports::log::{Log, LogError, NewRecord, Session, Topic, TopicPartition};

const READ_RECORDS_MAX: usize = 4_096;
/// How long to wait before reading again after the log gave an error.
const RETRY: Duration = Duration::from_secs(1);

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
    /// All records before this one are in `entries`.
    next: Mutex<Offset>,
}

impl Catalogue {
    /// Reads the whole topic.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    pub async fn read(log: &dyn Log) -> Result<Self, LogError> {
        let catalogue = Self::default();
        *catalogue.next.lock() = log.start_offset(SYMBOLS).await?;
        catalogue.catch_up(log).await?;
        Ok(catalogue)
    }

    /// Takes in what the topic holds by now.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read.
    pub async fn catch_up(&self, log: &dyn Log) -> Result<(), LogError> {
        let end = log.end_offset(SYMBOLS).await?;
        while *self.next.lock() < end {
            self.read_some(log).await?;
        }
        Ok(())
    }

    /// Takes in what other processes enter, for as long as the log can be read.
    pub async fn follow(self: Arc<Self>, log: Arc<dyn Log>) {
        loop {
            match self.read_some(&*log).await {
                Ok(()) => {}
                Err(LogError::Closed) => return,
                Err(e) => {
                    tracing::warn!(error = %e, "the catalogue of symbols cannot be read");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Several may read at once: the same records then, in the same order.
    async fn read_some(&self, log: &dyn Log) -> Result<(), LogError> {
        let from = *self.next.lock();
        let records = log.read(SYMBOLS, from, READ_RECORDS_MAX).await?;
        let Some(last) = records.last() else { return Ok(()) };
        let next = last.offset.next();
        for record in records {
            match rmp_serde::from_slice::<Entry>(&record.value) {
                Ok(entry) => _ = self.entries.write().entry(entry.symbol).or_insert(entry),
                Err(e) => tracing::error!(offset = %record.offset, error = %e, "catalogue entry is unreadable"),
            }
        }
        let mut known = self.next.lock();
        *known = next.max(*known);
        Ok(())
    }

    pub fn get(&self, symbol: &Symbol) -> Option<Entry> {
        self.entries.read().get(symbol).copied()
    }

    pub fn all(&self) -> Vec<Entry> {
        self.entries.read().values().copied().collect()
    }

    /// Enters a symbol durably; gives the entry that stands: another process's, if that was first.
    ///
    /// # Errors
    /// [`LogError`] when it is not known to be durable.
    pub async fn enter(&self, log: &dyn Log, session: &dyn Session, entry: Entry) -> Result<Entry, LogError> {
        session.append(record(&entry)).await?;
        self.catch_up(log).await?;
        let standing = self.get(&entry.symbol).unwrap_or(entry);
        if standing != entry {
            // The topic keeps the newest record of each symbol, in the long run: that must be the one that stands.
            session.append(record(&standing)).await?;
        }
        Ok(standing)
    }
}

fn record(entry: &Entry) -> NewRecord {
    let value = Bytes::from(rmp_serde::to_vec_named(entry).unwrap_or_default());
    NewRecord { to: SYMBOLS, key: Bytes::copy_from_slice(entry.symbol.as_bytes()), header: Bytes::new(), value }
}
