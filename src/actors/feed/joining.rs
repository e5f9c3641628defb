//! Books that join a partition's feed: those that begin at about the same place are read for together.
//!
//! When a node dies, all its books of a partition come to another node at once. Each with a cursor of its own would read
//! the partition once per book; together they read it about once. A book that cannot keep up leaves the others and goes
//! on with a cursor of its own, so that nobody waits for it.

use std::collections::HashMap;

use actix::prelude::*;

use super::{FeedActor, Link, READ_RECORDS_MAX, RETRY, Reach};
use crate::domain::{Offset, Symbol};
use crate::ports::log::{LogError, Record};

/// A book does not wait for others that are so many records behind it: some reads.
const APART_MAX: u64 = 4 * READ_RECORDS_MAX as u64;

/// Number of a party, never given out twice.
pub(super) type PartyId = u64;

/// Some books on their way to be level.
#[derive(Debug)]
pub(super) struct Party {
    id: PartyId,
    /// The next record that it looks at; what lies before, its books have or do not need.
    next: Offset,
    symbols: Vec<Symbol>,
}

impl FeedActor {
    /// Lets a book join: with others that are not further than it is, nor far behind, or with whoever comes after it.
    pub(super) fn join(&mut self, mut link: Link, from: Offset, ctx: &mut Context<Self>) {
        let symbol = link.status.symbol;
        let is_near = |p: &&mut Party| p.next <= from && from.0 - p.next.0 <= APART_MAX;
        let nearest = self.parties.iter_mut().filter(is_near).max_by_key(|p| p.next);
        let (party, is_new) = match nearest {
            Some(party) => {
                party.symbols.push(symbol);
                (party.id, false)
            }
            None => {
                self.last_party += 1;
                self.parties.push(Party { id: self.last_party, next: from, symbols: vec![symbol] });
                (self.last_party, true)
            }
        };
        link.reach = Reach::Joining { party, met: 0 };
        self.links.insert(symbol, link);
        if is_new {
            self.run_party(party, ctx);
        }
    }

    /// One step of a party: reads, hands on, until it is level with the feed.
    fn run_party(&mut self, id: PartyId, ctx: &mut Context<Self>) {
        let Some(at) = self.parties.iter().position(|p| p.id == id) else { return };
        let next = self.parties[at].next;
        if next >= self.next || self.parties[at].symbols.is_empty() {
            let party = self.parties.swap_remove(at);
            party.symbols.iter().for_each(|symbol| self.is_level(symbol, id));
            return;
        }
        let (log, of) = (std::sync::Arc::clone(&self.node.log), self.from);
        let wanted = READ_RECORDS_MAX.min((self.next.0 - next.0) as usize);
        let read = async move { log.read(of, next, wanted).await };
        ctx.spawn(read.into_actor(self).map(move |result, feed, ctx| feed.on_party(id, result, ctx)));
    }

    fn on_party(&mut self, id: PartyId, result: Result<Vec<Record>, LogError>, ctx: &mut Context<Self>) {
        match result {
            Ok(records) => {
                self.node.spent.read(self.from.partition, records.len() as u64);
                self.take_for_party(id, &records, ctx);
                self.run_party(id, ctx);
            }
            Err(LogError::Closed) => {}
            Err(LogError::Trimmed { start, .. }) => self.end_party(id, start),
            Err(e) => {
                tracing::error!(partition = self.from.partition, error = %e, "cannot read orders for books that join");
                ctx.run_later(RETRY, move |feed, ctx| feed.run_party(id, ctx));
            }
        }
    }

    /// What a party would read next is trimmed: its books begin anew with newer snapshots.
    fn end_party(&mut self, id: PartyId, start: Offset) {
        let Some(at) = self.parties.iter().position(|p| p.id == id) else { return };
        for symbol in self.parties.swap_remove(at).symbols {
            if self.links.get(&symbol).is_some_and(|link| link.is_of(id)) {
                self.restart_overtaken(&symbol, start);
            }
        }
    }

    fn take_for_party(&mut self, id: PartyId, records: &[Record], ctx: &mut Context<Self>) {
        let Some(last) = records.last() else { return };
        let through = last.offset.next().min(self.next);
        let of_party = records.iter().filter(|r| r.offset < through).filter_map(|record| {
            let symbol = Symbol::from_bytes(&record.key).ok()?;
            self.links.get(&symbol)?.is_of(id).then_some((symbol, record))
        });
        let mut runs = HashMap::new();
        self.decode_runs(&of_party.collect::<Vec<_>>(), &mut runs);
        for (symbol, run) in runs {
            self.hand_on(&symbol, run, through, ctx);
        }
        let links = &self.links;
        if let Some(party) = self.parties.iter_mut().find(|p| p.id == id) {
            party.next = through;
            // Some were replaced, let go, or left behind.
            party.symbols.retain(|symbol| links.get(symbol).is_some_and(|link| link.is_of(id)));
        }
    }

    /// From here on a book gets its records from the feed.
    fn is_level(&mut self, symbol: &Symbol, party: PartyId) {
        let next = self.next;
        if let Some(link) = self.links.get_mut(symbol)
            && let Reach::Joining { party: of, met } = link.reach
            && of == party
        {
            link.become_level(next, met);
        }
    }
}

impl Link {
    fn is_of(&self, party: PartyId) -> bool {
        matches!(self.reach, Reach::Joining { party: of, .. } if of == party)
    }
}
