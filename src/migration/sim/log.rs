//! The log in memory: `orders` and `events`, each in some partitions. What is appended is durable.

use bytes::Bytes;

use crate::domain::control::Fence;
use crate::domain::{Command, Epoch, Input, Micros, NodeId, Offset, Origin, Seq, Symbol};
use crate::ports::log::Record;
use crate::wire::{self, Keyring};

/// A record of `orders`, decoded once for all who read it.
pub(super) struct Order {
    pub record: Record,
    /// Index of its symbol.
    pub symbol: usize,
    pub input: Input<Command>,
}

/// A record of `events`.
pub(super) struct Said {
    pub record: Record,
    pub symbol: usize,
    /// Epoch of the replica that published it; the bytes do not tell.
    pub publisher: Epoch,
    pub first: Seq,
    pub last: Seq,
}

/// Who owns a symbol's book by the log. Known to nobody inside the simulated world but by reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ownership {
    pub owner: NodeId,
    pub epoch: Epoch,
}

/// What an append to `orders` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fenced {
    No,
    Effective,
    Void,
}

pub(super) struct SimLog {
    pub keyring: Keyring,
    orders: Vec<Vec<Order>>,
    events: Vec<Vec<Said>>,
    truth: Vec<Option<Ownership>>,
    nonces: std::collections::BTreeSet<u128>,
}

impl SimLog {
    pub fn new(partitions: usize, symbols: usize) -> Self {
        Self {
            keyring: Keyring::from_secret(b"simulated cluster"),
            orders: (0..partitions).map(|_| Vec::new()).collect(),
            events: (0..partitions).map(|_| Vec::new()).collect(),
            truth: vec![None; symbols],
            nonces: std::collections::BTreeSet::new(),
        }
    }

    /// Appends to `orders`. The value goes over its wire form, as it would.
    pub fn append_order(
        &mut self,
        partition: usize,
        symbol: usize,
        value: Bytes,
        origin: Origin,
        at: Micros,
    ) -> Fenced {
        let (name, command) = wire::decode(&value, partition as u32, &self.keyring)
            .unwrap_or_else(|e| unreachable!("the simulator writes good records: {e}"));
        let offset = Offset(self.orders[partition].len() as u64);
        let header = if origin == Origin::NONE { Bytes::new() } else { Bytes::copy_from_slice(&origin.to_bytes()) };
        let fenced = self.note_owner(symbol, &command, at);
        let record = Record { offset, at, key: key_of(&name), header, value };
        self.orders[partition].push(Order { record, symbol, input: Input { offset, at, origin, command } });
        fenced
    }

    fn note_owner(&mut self, symbol: usize, command: &Command, at: Micros) -> Fenced {
        let is_fence = matches!(command, Command::Fence { .. });
        let good = command.authority().is_none_or(|a| at <= a.valid_until && self.nonces.insert(a.nonce));
        match command {
            Command::List { listing, .. } if good && self.truth[symbol].is_none() => {
                self.truth[symbol] = Some(Ownership { owner: listing.owner, epoch: Epoch(0) });
                Fenced::No
            }
            Command::Fence { fence, .. } if good => match &mut self.truth[symbol] {
                Some(truth) if fence.epoch == truth.epoch.next() => {
                    let Fence { epoch, to, .. } = **fence;
                    *truth = Ownership { owner: to, epoch };
                    Fenced::Effective
                }
                _ => Fenced::Void,
            },
            _ if is_fence => Fenced::Void,
            _ => Fenced::No,
        }
    }

    /// Appends to `events`.
    pub fn append_event(
        &mut self,
        partition: usize,
        symbol: usize,
        value: Bytes,
        publisher: Epoch,
        at: Micros,
    ) -> (Offset, Seq, Seq) {
        let events = wire::events::decode(&value).unwrap_or_else(|_| unreachable!("the simulator writes good events"));
        let offset = Offset(self.events[partition].len() as u64);
        let (first, last) = (events.first, events.last());
        let record = Record { offset, at, key: key_of(&events.symbol), header: Bytes::new(), value };
        self.events[partition].push(Said { record, symbol, publisher, first, last });
        (offset, first, last)
    }

    pub fn orders(&self, partition: usize) -> &[Order] {
        &self.orders[partition]
    }

    pub fn events(&self, partition: usize) -> &[Said] {
        &self.events[partition]
    }

    pub fn truth(&self, symbol: usize) -> Option<Ownership> {
        self.truth[symbol]
    }

    /// Highest seq of a symbol in `events` from `from` on (the handover's hw).
    pub fn high_water(&self, partition: usize, symbol: usize, from: Offset) -> Seq {
        let from = (from.0 as usize).min(self.events[partition].len());
        self.events[partition][from..].iter().filter(|e| e.symbol == symbol).map(|e| e.last).max().unwrap_or_default()
    }
}

fn key_of(symbol: &Symbol) -> Bytes {
    Bytes::copy_from_slice(symbol.as_bytes())
}
