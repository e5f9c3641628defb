//! Who owns each book, by the log alone: what the LIST and the FENCE records of every partition say, as the feeds of
//! this process met them. Also of books that no node here has a replica of.
//!
//! A process without nodes has no feeds, and moves no book: it goes by the route table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::recovery::Found;
use crate::domain::control::Fence;
use crate::domain::{Command, Epoch, NodeId, Symbol};
use crate::ports::log::{Log, Record, partition_of};
use crate::ports::routes::Route;
use crate::wire::{self, Keyring};

/// What a control record of ours begins with, behind one byte that counts its fields: MessagePack of `"action": "FENCE"`
/// and of `"action": "LIST"`.
const FENCE: &[u8] = b"\xa6action\xa5FENCE";
const LIST: &[u8] = b"\xa6action\xa4LIST";

/// The owner of a book, and since which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub node: NodeId,
    pub epoch: Epoch,
    pub partition: u32,
}

/// Of all books.
#[derive(Debug, Default)]
pub struct Owners {
    of: RwLock<BTreeMap<Symbol, Owner>>,
    changes: AtomicU64,
}

impl Owners {
    /// What was found at start.
    pub(super) fn found(found: &[Found]) -> Self {
        let owner =
            |f: &Found| (f.entry.symbol, Owner { node: f.owner(), epoch: f.epoch(), partition: f.entry.partition });
        // Nobody owns a symbol that was entered and never listed.
        let of = RwLock::new(found.iter().filter(|f| f.is_listed()).map(owner).collect());
        Self { of, ..Self::default() }
    }

    pub fn get(&self, symbol: &Symbol) -> Option<Owner> {
        self.of.read().get(symbol).copied()
    }

    /// Grows with each change of an owner.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// In order of symbol.
    pub fn all(&self) -> Vec<(Symbol, Owner)> {
        self.of.read().iter().map(|(symbol, owner)| (*symbol, *owner)).collect()
    }

    /// Takes in what a record says, if it says anything of it.
    pub(super) fn read(&self, record: &Record, partition: u32, log: &dyn Log, keyring: &Keyring) {
        match Told::by(record, partition, log, keyring) {
            Some((symbol, Told::Listed(node))) => self.listed(symbol, node, partition),
            Some((symbol, Told::Fenced(fence))) => self.fenced(&symbol, &fence),
            None => {}
        }
    }

    /// Takes in the route table, for a process without feeds. A row of an older epoch changes nothing.
    pub(super) fn learn(&self, rows: &[(Symbol, Route)]) {
        let mut owners = self.of.write();
        for (symbol, row) in rows {
            let told = Owner { node: row.target_instance, epoch: row.epoch, partition: row.partition };
            if owners.get(symbol).is_none_or(|known| told.epoch > known.epoch) {
                owners.insert(*symbol, told);
                self.note_change();
            }
        }
    }

    /// The first LIST record of a symbol says who owns it.
    pub(super) fn listed(&self, symbol: Symbol, node: NodeId, partition: u32) {
        self.of.write().entry(symbol).or_insert(Owner { node, epoch: Epoch(0), partition });
        self.note_change();
    }

    /// A FENCE record (handover rule 2).
    pub(super) fn fenced(&self, symbol: &Symbol, fence: &Fence) {
        if let Some(owner) = self.of.write().get_mut(symbol).filter(|owner| fence.epoch == owner.epoch.next()) {
            (owner.node, owner.epoch) = (fence.to, fence.epoch);
            self.note_change();
        }
    }
}

/// What a record of `orders` tells of a book's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Listed(NodeId),
    Fenced(Fence),
}

impl Told {
    /// Reads a record, if it is a valid LIST or FENCE. Most records are orders, and are not decoded for this.
    pub(super) fn by(record: &Record, partition: u32, log: &dyn Log, keyring: &Keyring) -> Option<(Symbol, Self)> {
        let begins = record.value.get(1..).unwrap_or_default();
        if !begins.starts_with(FENCE) && !begins.starts_with(LIST) {
            return None;
        }
        let (symbol, command) = wire::decode(&record.value, partition, keyring).ok()?;
        if record.key != symbol.as_bytes() || partition_of(symbol.as_bytes(), log.partitions()) != partition {
            return None;
        }
        let (told, authority) = match command {
            Command::Fence { fence, authority } => (Self::Fenced(*fence), authority),
            Command::List { listing, authority } if listing.instrument.check().is_ok() => {
                (Self::Listed(listing.owner), authority)
            }
            _ => return None,
        };
        (record.at <= authority.valid_until).then_some((symbol, told))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::command::Listing;
    use crate::domain::{Instrument, Micros, Offset};
    use crate::ports::log::embedded::EmbeddedLog;
    use crate::ports::routes::RouteStatus;
    use crate::wire::Control;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn the_first_listing_stands_and_only_the_next_fence_takes_effect() {
        let (owners, symbol) = (Owners::default(), Symbol::new("A").unwrap());
        let fence = |epoch, to| Fence { epoch: Epoch(epoch), from: node("n1"), to: node(to) };
        owners.fenced(&symbol, &fence(1, "n9"));
        assert_eq!(owners.get(&symbol), None, "of a symbol that is not known");
        owners.listed(symbol, node("n1"), 3);
        owners.listed(symbol, node("n2"), 3);
        for (epoch, to) in [(2, "n9"), (1, "n2"), (1, "n9"), (0, "n9"), (2, "n3")] {
            owners.fenced(&symbol, &fence(epoch, to));
        }
        assert_eq!(owners.get(&symbol), Some(Owner { node: node("n3"), epoch: Epoch(2), partition: 3 }));
    }

    #[test]
    fn rows_of_the_table_are_learned_unless_they_are_older() {
        let (owners, symbol) = (Owners::default(), Symbol::new("A").unwrap());
        for (epoch, name, owner) in [(2, "n2", "n2"), (1, "n1", "n2"), (3, "n3", "n3")] {
            let (status, to) = (RouteStatus::Active, None);
            let row = Route { target_instance: node(name), status, epoch: Epoch(epoch), partition: 3, to };
            owners.learn(&[(symbol, row)]);
            assert_eq!(owners.get(&symbol).unwrap().node, node(owner));
        }
    }

    #[test]
    fn listings_and_fences_are_known_by_their_first_bytes_and_nothing_else_is() {
        let (log, keyring) = (EmbeddedLog::ephemeral(1).unwrap(), Keyring::from_secret(b"secret"));
        let symbol = Symbol::new("A").unwrap();
        let (instrument, owner) = (Instrument::plain(2, 1, 1), node("n1"));
        let listing = Listing { instrument, owner, id_key: 1, rules_version: 1 };
        let fence = Fence { epoch: Epoch(1), from: node("n1"), to: node("n2") };
        let read = |control: Control, at: u64, keyring: &Keyring| {
            let value = Keyring::from_secret(b"secret").encode(&symbol, 0, control, Micros(1));
            let (key, header) = (Bytes::from_static(b"A"), Bytes::new());
            let record = Record { offset: Offset(0), at: Micros(at), key, header, value };
            Told::by(&record, 0, &log, keyring)
        };
        let list = || Control::List(listing.clone());
        assert_eq!(read(list(), 2, &keyring), Some((symbol, Told::Listed(owner))));
        assert_eq!(read(Control::Fence(fence), 2, &keyring), Some((symbol, Told::Fenced(fence))));
        assert_eq!(read(Control::Fence(fence), u64::MAX, &keyring), None, "appended after it ran out");
        assert_eq!(read(list(), 2, &Keyring::from_secret(b"another")), None, "forged");
        for other in [Control::Halt, Control::Resume, Control::Rules { version: 1 }, Control::Tick] {
            assert_eq!(read(other, 2, &keyring), None);
        }
    }
}
