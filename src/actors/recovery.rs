//! What a node reads before its books can start: newest snapshots, and how far `events` got.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};

use crate::domain::control::Fence;
use crate::domain::{Epoch, NodeId, Offset, Seq, Symbol};
use crate::engine::Book;
use crate::migration::snapshot::{Snapshot, newest_valid};
use crate::ports::log::{Log, LogError, Topic, TopicPartition};
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};
use crate::wire;

use super::catalogue::{Catalogue, Entry};
use super::owners::Told;
use super::retention::{Kept, Retention};

const READ_RECORDS_MAX: usize = 8_192;
/// Snapshots that are read and decoded at once: each holds a thread, and a large book twice.
pub(super) const FINDS_MAX: usize = 8;

/// One symbol as found at start.
#[derive(Clone)]
pub struct Found {
    pub entry: Entry,
    pub snapshot: Option<Box<Snapshot<Book>>>,
    /// Owner and epoch by the log: what the fences behind the snapshot say.
    pub owned: Option<(NodeId, Epoch)>,
    /// Its LIST was met; known without that if there is a snapshot.
    pub was_listed: bool,
}

impl Found {
    /// Owner by the log; before it was asked, by the newest snapshot or the listing.
    pub fn owner(&self) -> NodeId {
        self.owned.map_or_else(|| self.owner_at_snapshot(), |(owner, _)| owner)
    }

    /// Whether a node has to restore it: it owns the book, or its newest snapshot names it, so that it may owe the owner a
    /// Sealed.
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.owner() == *node || self.owner_at_snapshot() == *node
    }

    /// Owner by the newest snapshot, or by the listing: it may owe a Sealed.
    pub fn owner_at_snapshot(&self) -> NodeId {
        self.snapshot.as_ref().map_or(self.entry.owner, |s| s.owner)
    }

    /// Epoch by the log.
    pub fn epoch(&self) -> Epoch {
        let at_snapshot = self.snapshot.as_ref().map_or(Epoch(0), |s| s.epoch);
        self.owned.map_or(at_snapshot, |(_, epoch)| epoch)
    }

    /// Takes a fence of the log into account (handover rule 2).
    fn fenced(&mut self, fence: &Fence) {
        if fence.epoch == self.epoch().next() {
            self.owned = Some((fence.to, fence.epoch));
        }
    }

    /// Whether there is such a book: a symbol may have been entered and never listed.
    pub fn is_listed(&self) -> bool {
        self.was_listed || self.snapshot.is_some()
    }

    /// The first record of `orders` that the book needs.
    pub fn orders_from(&self) -> Offset {
        self.snapshot.as_ref().map_or(self.entry.orders_from, |s| s.offset)
    }

    /// Its snapshot is one of those that are kept.
    pub(super) fn note_kept(&self, retention: &Retention) {
        if let Some(snapshot) = &self.snapshot {
            let kept = Kept { orders: snapshot.offset, events: snapshot.events_position };
            retention.restored(self.entry.symbol, kept);
        }
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
pub async fn find(store: &Arc<dyn SnapshotStore>, entry: Entry) -> Result<Found, SnapshotStoreError> {
    let (store, here) = (Arc::clone(store), tokio::runtime::Handle::current());
    // Decoding a large book takes long: not on a thread that feeds others.
    let found = move || here.block_on(newest_valid::<Book>(&*store, entry.symbol));
    let found = tokio::task::spawn_blocking(found).await;
    let snapshot = found.unwrap_or_else(|e| {
        Err(SnapshotStoreError::Io { doing: "decoded".into(), source: Arc::new(std::io::Error::other(e)) })
    })?;
    Ok(Found { entry, snapshot: snapshot.map(Box::new), owned: None, was_listed: false })
}

/// Finds every symbol of the catalogue.
///
/// # Errors
/// As [`find`].
pub async fn find_all(store: &Arc<dyn SnapshotStore>, catalogue: &Catalogue) -> Result<Vec<Found>, SnapshotStoreError> {
    let all = catalogue.all().into_iter().map(|entry| find(store, entry));
    futures_util::stream::iter(all).buffered(FINDS_MAX).try_collect().await
}

/// Reads the listings and fences behind the snapshots of all symbols: who owns each by the log.
///
/// # Errors
/// [`LogError`].
pub async fn read_owners(log: &dyn Log, keyring: &wire::Keyring, found: &mut [Found]) -> Result<(), LogError> {
    let mut by_partition: HashMap<u32, HashMap<Symbol, &mut Found>> = HashMap::new();
    for f in found {
        by_partition.entry(f.entry.partition).or_default().insert(f.entry.symbol, f);
    }
    for (partition, mut symbols) in by_partition {
        let of = TopicPartition { topic: Topic::Orders, partition };
        let (end, start) = (log.end_offset(of).await?, log.start_offset(of).await?);
        let mut next = symbols.values().map(|f| f.orders_from()).min().unwrap_or(end).max(start);
        while next < end {
            for record in log.read(of, next, READ_RECORDS_MAX).await? {
                next = record.offset.next();
                let Some((symbol, told)) = Told::by(&record, partition, log, keyring) else { continue };
                let Some(f) = symbols.get_mut(&symbol).filter(|f| record.offset >= f.orders_from()) else { continue };
                match told {
                    Told::Listed(_) => f.was_listed = true,
                    Told::Fenced(fence) => f.fenced(&fence),
                }
            }
        }
    }
    Ok(())
}

/// Reads one partition of `events` from `from` to its end: the highest seq of each symbol in it. All of a symbol's
/// outputs up to there are durable (handover facts A and B).
///
/// # Errors
/// [`LogError`].
pub async fn high_water(log: &dyn Log, partition: u32, from: Offset) -> Result<HashMap<Symbol, Seq>, LogError> {
    let mut highest = HashMap::new();
    scan_events(log, partition, from, None, &mut highest).await?;
    Ok(highest)
}

/// Enters the highest seq of each symbol in `events` from `from` until `until`, or until the end as it is now; gives
/// where it ended.
///
/// # Errors
/// [`LogError`].
pub(super) async fn scan_events(
    log: &dyn Log,
    partition: u32,
    from: Offset,
    until: Option<Offset>,
    highest: &mut HashMap<Symbol, Seq>,
) -> Result<Offset, LogError> {
    let of = TopicPartition { topic: Topic::Events, partition };
    let end = match until {
        Some(until) => until,
        None => log.end_offset(of).await?,
    };
    let mut next = from.max(log.start_offset(of).await?);
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
    Ok(next)
}
