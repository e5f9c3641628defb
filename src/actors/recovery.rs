//! What a node reads before its books can start: newest snapshots, and how far `events` got.

use std::collections::HashMap;

use crate::domain::{NodeId, Offset, Seq, Symbol};
use crate::engine::Book;
use crate::migration::snapshot::{Snapshot, newest_valid};
use crate::ports::log::{Log, LogError, Topic, TopicPartition};
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};
use crate::wire;

use super::catalogue::{Catalogue, Entry};

const READ_RECORDS_MAX: usize = 8_192;

/// One symbol as found at start.
pub struct Found {
    pub entry: Entry,
    pub snapshot: Option<Box<Snapshot<Book>>>,
}

impl Found {
    /// Owner by the newest snapshot, or by the listing.
    pub fn owner(&self) -> NodeId {
        self.snapshot.as_ref().map_or(self.entry.owner, |s| s.owner)
    }

    /// The first record of `orders` that the book needs.
    pub fn orders_from(&self) -> Offset {
        self.snapshot.as_ref().map_or(self.entry.orders_from, |s| s.offset)
    }

    /// Where its outputs above the snapshot's are to be looked for in `events`.
    pub fn events_from(&self) -> Offset {
        self.snapshot.as_ref().map_or(self.entry.events_from, |s| s.events_position)
    }
}

/// Finds a symbol's newest snapshot that can be read; an invalid one is skipped loudly.
///
/// # Errors
/// [`SnapshotStoreError`] when the store itself cannot be read.
pub async fn find(store: &dyn SnapshotStore, entry: Entry) -> Result<Found, SnapshotStoreError> {
    let snapshot = newest_valid::<Book>(store, entry.symbol).await?.map(Box::new);
    Ok(Found { entry, snapshot })
}

/// Finds every symbol of the catalogue.
///
/// # Errors
/// As [`find`].
pub async fn find_all(store: &dyn SnapshotStore, catalogue: &Catalogue) -> Result<Vec<Found>, SnapshotStoreError> {
    let mut found = Vec::new();
    for entry in catalogue.all() {
        found.push(find(store, entry).await?);
    }
    Ok(found)
}

/// Reads one partition of `events` from `from` to its end: the highest seq of each symbol in it. All of a symbol's
/// outputs up to there are durable (HANDOVER facts A and B).
///
/// # Errors
/// [`LogError`].
pub async fn high_water(log: &dyn Log, partition: u32, from: Offset) -> Result<HashMap<Symbol, Seq>, LogError> {
    let of = TopicPartition { topic: Topic::Events, partition };
    let end = log.end_offset(of).await?;
    let mut next = from.max(log.start_offset(of).await?);
    let mut highest = HashMap::new();
    while next < end {
        for record in log.read(of, next, READ_RECORDS_MAX).await? {
            next = record.offset.next();
            match wire::events::decode(&record.value) {
                Ok(events) => {
                    let seq = highest.entry(events.symbol).or_insert(Seq(0));
                    *seq = (*seq).max(events.last());
                }
                Err(e) => {
                    tracing::error!(partition, offset = %record.offset, error = %e, "events record is unreadable")
                }
            }
        }
    }
    Ok(highest)
}
