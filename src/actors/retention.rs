//! What may be forgotten: old snapshots, and records of the log that no kept snapshot needs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::book::Saved;
use super::catalogue::Catalogue;
use super::owners::Owners;
use crate::domain::{Offset, Symbol};
use crate::ports::log::{Log, LogError, Topic, TopicPartition};
use crate::ports::snapshots::SnapshotStore;

/// Snapshots kept of each symbol.
const KEPT_PER_SYMBOL: usize = 2;
/// A catalogue entry that has no book at so many looks, half a minute apart, never will: its LIST would have run out. Looks
/// are counted, not time: a process that was stopped for a while has not read what came meanwhile.
const BIRTH_LOOKS: u32 = 6;
/// How finely the age of records is known.
const NOTE_EVERY: Duration = Duration::from_secs(600);

/// Where a kept snapshot begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub orders: Offset,
    pub events: Offset,
}

/// Of some symbols, where the older of two kept snapshots begins to read. Whoever tells it, and however old it is: no
/// snapshot that is kept begins before, for only newer ones are written and the newest are kept.
pub type Oldest = HashMap<Symbol, Kept>;

/// Where each partition ended at some time.
#[derive(Debug)]
struct Note {
    at: Instant,
    orders: Vec<Offset>,
    events: Vec<Offset>,
}

/// Remembers which snapshots are kept and trims what lies below them.
#[derive(Debug)]
pub struct Retention {
    events_for: Duration,
    orders_for: Duration,
    kept: Mutex<HashMap<Symbol, VecDeque<Kept>>>,
    /// Oldest first.
    notes: Mutex<VecDeque<Note>>,
    /// Entries of the catalogue that have no book, and at how many looks.
    unborn: Mutex<HashMap<Symbol, u32>>,
}

impl Retention {
    /// Keeps `events` for so long at least, and `orders` only as long as a snapshot needs them.
    pub fn new(events_for: Duration) -> Self {
        let (kept, notes, unborn) = Default::default();
        Self { events_for, orders_for: Duration::ZERO, kept, notes, unborn }
    }

    /// Keeps `orders` for so long at least: what is still there can be audited.
    #[must_use]
    pub fn with_orders_for(mut self, orders_for: Duration) -> Self {
        self.orders_for = orders_for;
        self
    }

    /// Takes note of a new snapshot and removes those that are no longer kept.
    pub async fn keep(&self, store: &dyn SnapshotStore, saved: &Saved) {
        let symbol = saved.key.symbol;
        let keys = match store.list(symbol).await {
            Ok(keys) => keys,
            Err(e) => return tracing::warn!(%symbol, error = %e, "snapshots cannot be listed"),
        };
        for old in keys.iter().skip(KEPT_PER_SYMBOL) {
            if let Err(e) = store.delete(*old).await {
                tracing::warn!(path = old.path(), error = %e, "old snapshot cannot be removed");
            }
        }
        let mut kept = self.kept.lock();
        let kept = kept.entry(symbol).or_default();
        kept.push_back(Kept { orders: saved.key.offset, events: saved.events_position });
        while kept.len() > KEPT_PER_SYMBOL.min(keys.len().max(1)) {
            kept.pop_front();
        }
    }

    /// Takes note of a snapshot that a book was restored from: one of those that are kept, until two are newer.
    pub fn restored(&self, symbol: Symbol, from: Kept) {
        let mut kept = self.kept.lock();
        let kept = kept.entry(symbol).or_default();
        if kept.back().is_none_or(|newest| newest.orders < from.orders) {
            kept.push_back(from);
        }
        while kept.len() > KEPT_PER_SYMBOL {
            kept.pop_front();
        }
    }

    /// What this process knows: of each symbol that it knows two snapshots of.
    pub fn oldest(&self) -> Oldest {
        let kept = self.kept.lock();
        let known = kept.iter().filter(|(_, of_symbol)| of_symbol.len() >= KEPT_PER_SYMBOL);
        known.filter_map(|(symbol, of_symbol)| Some((*symbol, oldest(of_symbol)?))).collect()
    }

    /// Trims every partition as far as all its symbols allow. `known`: by this process and by others.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn trim(
        &self,
        log: &dyn Log,
        catalogue: &Catalogue,
        owners: &Owners,
        known: &Oldest,
    ) -> Result<(), LogError> {
        let mut by_partition: BTreeMap<u32, Vec<Symbol>> = BTreeMap::new();
        for entry in catalogue.all() {
            if owners.get(&entry.symbol).is_some() || !self.is_stillborn(entry.symbol) {
                by_partition.entry(entry.partition).or_default().push(entry.symbol);
            }
        }
        let mut untrimmed = 0;
        for (partition, symbols) in by_partition {
            let Some(needed) = needed(&symbols, known) else {
                untrimmed += 1;
                continue;
            };
            let old_enough = |age, ends| self.old_enough(age, ends, partition);
            let orders = needed.orders.min(old_enough(self.orders_for, |note| &note.orders));
            log.trim(TopicPartition { topic: Topic::Orders, partition }, orders).await?;
            let events = needed.events.min(old_enough(self.events_for, |note| &note.events));
            log.trim(TopicPartition { topic: Topic::Events, partition }, events).await?;
        }
        metrics::gauge!("hotbook_partitions_untrimmed").set(f64::from(untrimmed));
        Ok(())
    }

    /// Counts one more look at a symbol without a book.
    fn is_stillborn(&self, symbol: Symbol) -> bool {
        let mut unborn = self.unborn.lock();
        let looks = unborn.entry(symbol).or_default();
        *looks = looks.saturating_add(1);
        *looks > BIRTH_LOOKS
    }

    /// Notes where the partitions end now, and forgets notes that are older than anybody asks for.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn note_ends(&self, log: &dyn Log) -> Result<(), LogError> {
        let (mut orders, mut events) = (Vec::new(), Vec::new());
        for partition in 0..log.partitions() {
            orders.push(log.end_offset(TopicPartition { topic: Topic::Orders, partition }).await?);
            events.push(log.end_offset(TopicPartition { topic: Topic::Events, partition }).await?);
        }
        let mut notes = self.notes.lock();
        if notes.back().is_none_or(|note| note.at.elapsed() >= NOTE_EVERY) {
            notes.push_back(Note { at: Instant::now(), orders, events });
        }
        let oldest_asked = self.events_for.max(self.orders_for);
        while notes.get(1).is_some_and(|note| note.at.elapsed() >= oldest_asked) {
            notes.pop_front();
        }
        Ok(())
    }

    /// Where a partition ended when what lies below became so old; 0 if nothing is.
    fn old_enough(&self, age: Duration, ends: fn(&Note) -> &Vec<Offset>, partition: u32) -> Offset {
        if age.is_zero() {
            return Offset(u64::MAX);
        }
        let notes = self.notes.lock();
        let note = notes.iter().rev().find(|note| note.at.elapsed() >= age);
        note.and_then(|note| ends(note).get(partition as usize)).copied().unwrap_or(Offset(0))
    }
}

/// The oldest offsets that any kept snapshot of a partition needs; `None` while that is not known of every symbol.
fn needed(symbols: &[Symbol], known: &Oldest) -> Option<Kept> {
    let all: Option<Vec<Kept>> = symbols.iter().map(|symbol| known.get(symbol).copied()).collect();
    oldest(&all?)
}

fn oldest<'a>(all: impl IntoIterator<Item = &'a Kept>) -> Option<Kept> {
    let both = |a: Kept, b: Kept| Kept { orders: a.orders.min(b.orders), events: a.events.min(b.events) };
    all.into_iter().copied().reduce(both)
}

/// Adds what another process knows: of a symbol that both know, the newer is as true.
pub fn learn(known: &mut Oldest, told: Oldest) {
    for (symbol, kept) in told {
        let newest = known.entry(symbol).or_insert(kept);
        if newest.orders < kept.orders {
            *newest = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::catalogue::Entry;
    use super::*;
    use crate::domain::{Epoch, NodeId};
    use crate::ports::log::embedded::EmbeddedLog;
    use crate::ports::log::{NewRecord, Session, SessionOptions};
    use crate::ports::snapshots::SnapshotKey;
    use crate::ports::snapshots::folder::FolderSnapshots;

    const ORDERS: TopicPartition = TopicPartition { topic: Topic::Orders, partition: 0 };

    fn record(to: TopicPartition) -> NewRecord {
        NewRecord { to, key: Bytes::from_static(b"A"), header: Bytes::new(), value: Bytes::from_static(b"x") }
    }

    async fn save(retention: &Retention, store: &FolderSnapshots, symbol: &str, offset: u64) {
        let symbol = Symbol::new(symbol).unwrap();
        let key = SnapshotKey { symbol, offset: Offset(offset), epoch: Epoch(0) };
        store.put(key, Bytes::from_static(b"state")).await.unwrap();
        retention.keep(store, &Saved { key, bytes: 5, stall_us: 0, events_position: Offset(offset) }).await;
    }

    #[tokio::test]
    async fn only_what_no_kept_snapshot_of_any_symbol_needs_is_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderSnapshots::open(folder.path()).unwrap();
        let log = EmbeddedLog::ephemeral(1).unwrap();
        let session = log.open_session(SessionOptions { name: "t".into(), queue_bytes_max: 1 << 20 }).unwrap();
        session.append_all((0..100).map(|_| record(ORDERS)).collect()).await.unwrap();
        let (catalogue, owners) = (Catalogue::default(), Owners::default());
        for name in ["A", "B"] {
            let (symbol, owner) = (Symbol::new(name).unwrap(), NodeId::new("n1").unwrap());
            let zero = Offset(0);
            let entry = Entry { symbol, partition: 0, owner, orders_from: zero, events_from: zero };
            catalogue.enter(&log, &*session as &dyn Session, entry).await.unwrap();
        }
        let retention = Retention::new(Duration::from_secs(3_600));
        let trims = async |retention: &Retention| {
            retention.note_ends(&log).await.unwrap();
            retention.trim(&log, &catalogue, &owners, &retention.oldest()).await.unwrap();
            log.start_offset(ORDERS).await.unwrap()
        };
        let trimmed = async || trims(&retention).await;
        for offset in [10, 40, 70] {
            save(&retention, &store, "A", offset).await;
        }
        assert_eq!(trimmed().await, Offset(0), "B has no snapshot yet");
        save(&retention, &store, "B", 20).await;
        assert_eq!(trimmed().await, Offset(0), "B has only one");
        save(&retention, &store, "B", 90).await;
        assert_eq!(trimmed().await, Offset(20), "the older of B's");
        save(&retention, &store, "B", 95).await;
        assert_eq!(trimmed().await, Offset(40), "the older of A's");
        assert_eq!(store.list(Symbol::new("A").unwrap()).await.unwrap().len(), 2);

        let long = Retention::new(Duration::from_secs(3_600)).with_orders_for(Duration::from_secs(3_600));
        *long.kept.lock() = retention.kept.lock().clone();
        save(&long, &store, "A", 97).await;
        assert_eq!(trims(&long).await, Offset(40), "nothing is an hour old");
        save(&retention, &store, "A", 98).await;
        assert_eq!(trimmed().await, Offset(70), "the older of A's");
    }

    #[tokio::test]
    async fn what_is_kept_of_books_elsewhere_is_learned_and_a_restored_snapshot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderSnapshots::open(folder.path()).unwrap();
        let [a, b] = ["A", "B"].map(|name| Symbol::new(name).unwrap());
        let at = |n| Kept { orders: Offset(n), events: Offset(n) };
        let (here, there) = (Retention::new(Duration::ZERO), Retention::new(Duration::ZERO));
        for offset in [10, 40] {
            save(&here, &store, "A", offset).await;
        }
        save(&there, &store, "B", 20).await;
        let known = |of: &[&Retention]| {
            let mut known = Oldest::default();
            of.iter().for_each(|retention| learn(&mut known, retention.oldest()));
            known
        };
        assert_eq!(needed(&[a, b], &known(&[&here, &there])), None, "of B only one is known");
        save(&there, &store, "B", 30).await;
        assert_eq!(needed(&[a, b], &known(&[&here])), None);
        assert_eq!(needed(&[a, b], &known(&[&here, &there])), Some(at(10)));

        // A moves: restored there from the newest, and saved there once.
        there.restored(a, at(40));
        assert_eq!(needed(&[a], &known(&[&there, &here])), Some(at(10)));
        save(&there, &store, "A", 70).await;
        assert_eq!(
            needed(&[a], &known(&[&there, &here])),
            Some(at(40)),
            "what the old owner knows is old, and no harm"
        );
        assert_eq!(needed(&[a], &known(&[&here, &there])), Some(at(40)));
        assert_eq!(needed(&[a, b], &known(&[&here, &there])), Some(at(20)));
        there.restored(a, at(40));
        assert_eq!(there.oldest()[&a], at(40), "older than what it knows");
    }
}
