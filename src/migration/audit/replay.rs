//! What the log says must have been said: the naive matcher behind the checks of control records and the
//! fences (handover rule 2).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::domain::control::Fence;
use crate::domain::outbox::Header;
use crate::domain::{Authority, Command, Epoch, Micros, NodeId, Offset, Origin, Outbox, Seq, Seqs, Symbol};
use crate::migration::naive::{NaiveBook, NaiveState, Said};
use crate::migration::replica::{NONCES_FOR_FENCES, NONCES_MAX};
use crate::migration::snapshot::RawSnapshot;
use crate::ports::log::Record;
use crate::wire::{self, Keyring};

/// One output that must be published.
#[derive(Debug, Clone)]
pub struct Expected {
    pub seq: Seq,
    /// The record that causes it.
    pub offset: Offset,
    pub bytes: Bytes,
}

/// What a record did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Before the symbol's birth, not readable, or void.
    Refused,
    /// A fence without effect.
    Nothing,
    /// The fence took effect; this was the owner before.
    Fenced {
        fence: Fence,
        from: NodeId,
    },
    Command,
}

/// One symbol's log, replayed.
pub struct Replay {
    symbol: Symbol,
    partition: u32,
    keyring: Keyring,
    book: Option<NaiveBook>,
    outbox: Outbox,
    owner: Option<NodeId>,
    /// Highest append time met.
    clock: Micros,
    /// The same over what the book itself applied.
    book_clock: Micros,
    nonces: BTreeMap<u128, Micros>,
    by_expiry: BTreeSet<(Micros, u128)>,
    /// Where each epoch begins: behind this offset.
    epochs: Vec<(Offset, Epoch)>,
}

impl Replay {
    pub fn new(symbol: Symbol, partition: u32, keyring: Keyring) -> Self {
        Self {
            symbol,
            partition,
            keyring,
            book: None,
            outbox: Outbox::new(Seqs::default(), Epoch(0)),
            owner: None,
            clock: Micros(0),
            book_clock: Micros(0),
            nonces: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            epochs: vec![(Offset(0), Epoch(0))],
        }
    }

    /// Goes on from a snapshot.
    pub fn restore(&mut self, snapshot: &RawSnapshot, state: &NaiveState) {
        let header = &snapshot.header;
        self.book = Some(NaiveBook::from_state(state));
        self.outbox = Outbox::new(header.seqs, header.epoch);
        self.owner = Some(header.owner);
        (self.clock, self.book_clock) = (snapshot.clock, state.clock);
        self.nonces = snapshot.nonces.iter().map(|(until, nonce)| (*nonce, *until)).collect();
        self.by_expiry = snapshot.nonces.iter().copied().collect();
        self.epochs = vec![(Offset(0), header.epoch)];
    }

    pub fn is_born(&self) -> bool {
        self.book.is_some()
    }

    pub fn state(&self) -> Option<NaiveState> {
        self.book.as_ref().map(|b| b.state(self.book_clock))
    }

    pub fn seqs(&self) -> Seqs {
        self.outbox.seqs()
    }

    pub fn epoch(&self) -> Epoch {
        self.outbox.epoch()
    }

    pub fn owner(&self) -> Option<NodeId> {
        self.owner
    }

    /// Nonces and clock as a snapshot has them.
    pub fn authority_state(&self) -> (Micros, Vec<(Micros, u128)>) {
        (self.clock, self.by_expiry.iter().copied().collect())
    }

    /// The epoch that owned a record: MG1.
    pub fn epoch_at(&self, offset: Offset) -> Epoch {
        let begun = self.epochs.iter().rev().find(|(fence, _)| *fence < offset);
        begun.map_or(self.epochs[0].1, |(_, epoch)| *epoch)
    }

    /// Applies one record of the symbol's key; what must be said goes to `expected`.
    pub fn apply(&mut self, record: &Record, expected: &mut VecDeque<Expected>) -> Applied {
        let scale = self.book.as_ref().map(NaiveBook::price_scale);
        let command = match wire::decode_for(&record.value, self.partition, &self.keyring, scale) {
            Ok((symbol, command)) if symbol == self.symbol => command,
            _ => return Applied::Refused,
        };
        if self.book.is_none() {
            return self.birth(record, &command, expected);
        }
        if let Some(authority) = command.authority() {
            self.clock = self.clock.max(record.at);
            let is_fence = matches!(command, Command::Fence { .. });
            if !self.spend(authority, is_fence) {
                return Applied::Refused;
            }
        }
        if let Command::Fence { fence, .. } = &command {
            return self.fence(fence, record.offset);
        }
        self.clock = self.clock.max(record.at);
        self.book_clock = self.book_clock.max(record.at);
        let clock = self.book_clock;
        let said = self.book.as_mut().map_or_else(Said::new, |book| book.apply(&command, clock));
        self.write(record, &said, expected);
        Applied::Command
    }

    fn birth(&mut self, record: &Record, command: &Command, expected: &mut VecDeque<Expected>) -> Applied {
        let Command::List { listing, authority } = command else { return Applied::Refused };
        if record.at > authority.valid_until {
            return Applied::Refused;
        }
        let Some((book, said)) = NaiveBook::birth(listing) else { return Applied::Refused };
        (self.clock, self.book_clock) = (record.at, record.at);
        self.spend(authority, false);
        (self.book, self.owner) = (Some(book), Some(listing.owner));
        self.write(record, &said, expected);
        Applied::Command
    }

    /// Whether a control record is good: in time, and for the first time.
    fn spend(&mut self, authority: &Authority, is_fence: bool) -> bool {
        while let Some(&(until, nonce)) = self.by_expiry.first().filter(|(until, _)| *until < self.clock) {
            self.by_expiry.remove(&(until, nonce));
            self.nonces.remove(&nonce);
        }
        let most = if is_fence { NONCES_MAX } else { NONCES_MAX - NONCES_FOR_FENCES };
        let is_known = self.nonces.contains_key(&authority.nonce);
        if self.clock > authority.valid_until || is_known || self.nonces.len() >= most {
            return false;
        }
        self.nonces.insert(authority.nonce, authority.valid_until);
        self.by_expiry.insert((authority.valid_until, authority.nonce));
        true
    }

    /// Rule 2.
    fn fence(&mut self, fence: &Fence, offset: Offset) -> Applied {
        if fence.epoch != self.epoch().next() {
            return Applied::Nothing;
        }
        self.outbox.set_epoch(fence.epoch);
        self.epochs.push((offset, fence.epoch));
        let from = self.owner.replace(fence.to).unwrap_or(fence.to);
        Applied::Fenced { fence: *fence, from }
    }

    fn write(&mut self, record: &Record, said: &Said, expected: &mut VecDeque<Expected>) {
        self.outbox.begin(record.offset, record.at, Origin::from_bytes(&record.header));
        for (body, answer) in said {
            self.outbox.emit(body, *answer);
        }
        if said.is_empty() {
            return;
        }
        self.outbox.end();
        let mut rest = Bytes::from(self.outbox.take());
        while let Ok(head) = Header::read(&rest) {
            let bytes = rest.split_to(head.length);
            expected.push_back(Expected { seq: head.seq, offset: head.offset, bytes });
        }
    }
}
