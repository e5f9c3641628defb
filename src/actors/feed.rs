//! The feed actor: one per partition of `orders` and node. Reads durable records once, skips other nodes' symbols by
//! key before decoding, and hands each book its records in batches.
//!
//! No neighbour suffers: a book whose permits are used up is *detached*: the feed goes on without it, and
//! the book reads with a cursor of its own until it is level again. A book that is rebuilt after a panic joins in the
//! same way.

mod joining;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::book::{BATCH_RECORDS_MAX, BATCHES_IN_FLIGHT_MAX, BookActor, Deliver, Overtaken, Start, StartFrom};
use super::directory::BookStatus;
use super::node::NodeContext;
use crate::clock::thread_cpu_ns;
use crate::domain::{Command, Input, Offset, Origin, Seq, Symbol};
use crate::ports::log::{LogError, Record, Topic, TopicPartition, partition_of};
use crate::wire::{self, BadRecord};
use joining::{Party, PartyId};

/// Records of one read: 4,096 x about 250 bytes = 1 MiB.
const READ_RECORDS_MAX: usize = 4_096;
/// How long to wait before reading again after the log gave an error.
const RETRY: Duration = Duration::from_millis(200);

/// A book that joins: its actor, and the first record that it needs.
pub struct Joins {
    pub status: Arc<BookStatus>,
    pub book: Addr<BookActor>,
    pub from: Offset,
}

/// Connects books.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Attach {
    pub books: Vec<Joins>,
}

/// Disconnects a book whose replica is not needed here any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Detach {
    pub symbol: Symbol,
}

/// Sends every level book the partition's position, so that idle books can be snapshotted further on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AdvanceIdle;

/// How the feed reaches a book.
struct Link {
    book: Addr<BookActor>,
    status: Arc<BookStatus>,
    permits: Arc<Semaphore>,
    reach: Reach,
}

enum Reach {
    /// Gets its records from the feed.
    Level,
    /// Reads by itself from `cursor` on. `met` = records that the feed skipped and counted already.
    Detached { cursor: Offset, met: u64 },
    /// Is read for with others that are not level yet; `met` as above.
    Joining { party: PartyId, met: u64 },
    /// Its actor is gone; the supervisor will attach a new one.
    Down,
}

/// Records of one book, decoded, in log order.
#[derive(Default)]
struct Run {
    inputs: Vec<Input<Command>>,
    decode_ns: u64,
}

pub struct FeedActor {
    node: Arc<NodeContext>,
    from: TopicPartition,
    next: Offset,
    /// End of the partition when the node started.
    level_at: Offset,
    links: HashMap<Symbol, Link>,
    /// Symbols born on other nodes since this feed started.
    foreign: HashSet<Symbol>,
    /// Kept for its memory: what one read holds for each book.
    runs: HashMap<Symbol, Run>,
    /// Highest seq per symbol found in `events` at start, for books that are still to be born.
    known_durable: HashMap<Symbol, Seq>,
    /// Books that join.
    parties: Vec<Party>,
    last_party: PartyId,
}

impl FeedActor {
    pub fn new(node: Arc<NodeContext>, partition: u32, next: Offset, level_at: Offset) -> Self {
        let from = TopicPartition { topic: Topic::Orders, partition };
        let (links, foreign, runs, known_durable, parties, last_party) = Default::default();
        Self { node, from, next, level_at, links, foreign, runs, known_durable, parties, last_party }
    }

    /// Tells which outputs `events` holds already, so that a book that is born again does not repeat them.
    pub fn with_known_durable(mut self, known: HashMap<Symbol, Seq>) -> Self {
        self.known_durable = known;
        self
    }

    /// Names symbols whose books are on other nodes, so that no LIST met again gives birth to a second one.
    pub fn with_foreign(mut self, symbols: impl IntoIterator<Item = Symbol>) -> Self {
        self.foreign.extend(symbols);
        self
    }

    /// Connects a book before the feed starts; its records below its own offset are skipped by its replica.
    pub fn with_book(mut self, status: Arc<BookStatus>, book: Addr<BookActor>) -> Self {
        self.links.insert(status.symbol, Link::new(book, status, Reach::Level));
        self
    }

    fn read_on(&self, ctx: &mut Context<Self>) {
        let (log, of, next) = (Arc::clone(&self.node.log), self.from, self.next);
        let read = async move { log.read(of, next, READ_RECORDS_MAX).await };
        ctx.spawn(read.into_actor(self).map(|result, feed, ctx| feed.on_read(result, ctx)));
    }

    fn on_read(&mut self, result: Result<Vec<Record>, LogError>, ctx: &mut Context<Self>) {
        match result {
            Ok(records) => {
                self.take(&records, ctx);
                self.read_on(ctx);
            }
            Err(LogError::Closed) => tracing::debug!(partition = self.from.partition, "log closed, feed ends"),
            Err(LogError::Trimmed { start, .. }) => self.node.die_overtaken(self.from.partition, self.next, start),
            Err(e) => {
                tracing::error!(partition = self.from.partition, offset = %self.next, error = %e, "cannot read orders");
                ctx.run_later(RETRY, |feed, ctx| feed.read_on(ctx));
            }
        }
    }

    /// Sorts a read's records by book and hands them on.
    fn take(&mut self, records: &[Record], ctx: &mut Context<Self>) {
        let Some(last) = records.last() else { return };
        self.node.spent.read(self.from.partition, records.len() as u64);
        let level = records.iter().filter_map(|record| Some((self.sort(record, ctx)?, record))).collect::<Vec<_>>();
        let through = last.offset.next();
        self.next = through;
        let mut runs = std::mem::take(&mut self.runs);
        self.decode_runs(&level, &mut runs);
        for (symbol, run) in runs.drain() {
            self.hand_on(&symbol, run, through, ctx);
        }
        self.runs = runs;
        if self.next >= self.level_at {
            self.become_level();
        }
    }

    /// Everything that the partition held at start has been handed on.
    fn become_level(&mut self) {
        if self.level_at != Offset(u64::MAX) {
            self.level_at = Offset(u64::MAX);
            self.node.feed_is_level(self.from.partition);
            self.advance_idle();
        }
    }

    /// Gives the symbol whose book is to have the record now.
    fn sort(&mut self, record: &Record, ctx: &mut Context<Self>) -> Option<Symbol> {
        self.node.owners.read(record, self.from.partition, &*self.node.log, &self.node.keyring);
        let Ok(symbol) = Symbol::from_bytes(&record.key) else {
            self.refuse(record);
            return None;
        };
        match self.links.get_mut(&symbol) {
            Some(Link { reach: Reach::Level, .. }) => return Some(symbol),
            Some(Link { reach: Reach::Detached { met, .. } | Reach::Joining { met, .. }, status, .. }) => {
                *met += 1;
                status.met(1);
            }
            Some(Link { reach: Reach::Down, .. }) => {}
            None => self.sort_unlinked(record, symbol, ctx),
        }
        None
    }

    /// Decodes records, and tells each book's run its share of the time: a thread's clock costs as much as a record, so
    /// it is read once for all of them.
    fn decode_runs(&self, records: &[(Symbol, &Record)], runs: &mut HashMap<Symbol, Run>) {
        let started = thread_cpu_ns();
        for (symbol, record) in records {
            if let Some(input) = self.decode_or_refuse(record, symbol) {
                runs.entry(*symbol).or_default().inputs.push(input);
            }
        }
        let each_ns = (thread_cpu_ns() - started) / (records.len() as u64).max(1);
        for run in runs.values_mut() {
            run.decode_ns = each_ns * run.inputs.len() as u64;
        }
    }

    /// `None`: it is a dead letter.
    fn decode_or_refuse(&self, record: &Record, symbol: &Symbol) -> Option<Input<Command>> {
        let decoded = self.decode(record, symbol);
        decoded.map_err(|bad| self.node.dead_letter(self.from.partition, record.offset, &record.key, &bad)).ok()
    }

    /// A symbol that has no book here: born now, another node's, or not known at all.
    fn sort_unlinked(&mut self, record: &Record, symbol: Symbol, ctx: &mut Context<Self>) {
        // In another symbol's partition it is nobody's, wherever its book is.
        let is_here = partition_of(symbol.as_bytes(), self.node.log.partitions()) == self.from.partition;
        if is_here && (self.foreign.contains(&symbol) || self.node.is_foreign(&symbol)) {
            return;
        }
        match self.decode(record, &symbol) {
            Ok(input) => match self.birth_of(&input) {
                Birth::Here => self.give_birth(symbol, input, ctx),
                Birth::Elsewhere => _ = self.foreign.insert(symbol),
                Birth::Refused(why) => self.refuse_as(record, &BadRecord::Void { why: why.to_string() }),
                Birth::None => self.refuse_as(record, &BadRecord::UnknownSymbol { symbol }),
            },
            Err(bad) => self.refuse_as(record, &bad),
        }
    }

    fn birth_of(&self, input: &Input<Command>) -> Birth {
        let Command::List { listing, authority } = &input.command else { return Birth::None };
        if input.at > authority.valid_until {
            return Birth::Refused("appended after it ran out");
        }
        if let Err(why) = listing.instrument.check() {
            return Birth::Refused(why);
        }
        if listing.owner == self.node.id { Birth::Here } else { Birth::Elsewhere }
    }

    fn give_birth(&mut self, symbol: Symbol, list: Input<Command>, ctx: &mut Context<Self>) {
        let partition = self.from.partition;
        let known_durable = self.known_durable.get(&symbol).copied().unwrap_or_default();
        let events_from = self.node.catalogue.get(&symbol).map_or(Offset(0), |e| e.events_from);
        let status = self.node.directory.enter(symbol, partition, self.node.id);
        if let Command::List { listing, .. } = &list.command {
            status.set_price_scale(listing.instrument.price_scale);
        }
        let level_at = if self.level_at == Offset(u64::MAX) { list.offset.next() } else { self.level_at };
        let start = Start::new(StartFrom::List { events_from }, known_durable);
        let book = self.node.start_book(&status, start, level_at);
        self.links.insert(symbol, Link::new(book, status, Reach::Level));
        let run = Run { inputs: vec![list], decode_ns: 0 };
        let through = run.inputs[0].offset.next();
        self.hand_on(&symbol, run, through, ctx);
    }

    fn decode(&self, record: &Record, key: &Symbol) -> Result<Input<Command>, BadRecord> {
        let partition = self.from.partition;
        let status = || self.links.get(key).map(|link| &link.status);
        // Only JSON has to be told, and only a LIST tells.
        let scale = if wire::json::is_json(&record.value) { status().and_then(|s| s.price_scale()) } else { None };
        let decoded = wire::decode_for(&record.value, partition, &self.node.keyring, scale);
        let symbol = match &decoded {
            Ok((symbol, _)) | Err(BadRecord::UnknownSymbol { symbol }) => *symbol,
            Err(bad) => return Err(bad.clone()),
        };
        if symbol != *key {
            return Err(BadRecord::KeyMismatch { key: key.to_string(), body: symbol });
        }
        let right = partition_of(symbol.as_bytes(), self.node.log.partitions());
        if right != partition {
            return Err(BadRecord::WrongPartition { symbol, right });
        }
        let (_, command) = decoded?;
        if let (Command::List { listing, authority }, Some(status)) = (&command, status())
            && record.at <= authority.valid_until
            && listing.instrument.check().is_ok()
        {
            status.set_price_scale(listing.instrument.price_scale);
        }
        let origin = Origin::from_bytes(&record.header);
        Ok(Input { offset: record.offset, at: record.at, origin, command })
    }

    /// A record whose key is no symbol.
    fn refuse(&self, record: &Record) {
        let bad = match wire::decode(&record.value, self.from.partition, &self.node.keyring) {
            Ok((body, _)) => BadRecord::KeyMismatch { key: String::from_utf8_lossy(&record.key).into_owned(), body },
            Err(bad) => bad,
        };
        self.refuse_as(record, &bad);
    }

    /// Every node of the partition sees such a record; one of them writes the dead letter.
    fn refuse_as(&self, record: &Record, bad: &BadRecord) {
        if self.node.keeps_dead_letters_of(self.from.partition) {
            self.node.dead_letter(self.from.partition, record.offset, &record.key, bad);
        }
    }

    /// Sends a run in batches; detaches the book when it has no permit left.
    fn hand_on(&mut self, symbol: &Symbol, run: Run, through: Offset, ctx: &mut Context<Self>) {
        let Some(link) = self.links.get_mut(symbol) else { return };
        let mut decode_ns = run.decode_ns;
        self.node.spent.decoded(decode_ns);
        let mut inputs = run.inputs;
        let ahead = link.met_of_run(inputs.len() as u64);
        while !inputs.is_empty() {
            let rest = if inputs.len() > BATCH_RECORDS_MAX { inputs.split_off(BATCH_RECORDS_MAX) } else { Vec::new() };
            let upto = rest.first().map_or(through, |next| next.offset);
            let first = inputs[0].offset;
            let Ok(permit) = Arc::clone(&link.permits).try_acquire_owned() else {
                link.reach = Reach::Detached { cursor: first, met: (inputs.len() + rest.len()) as u64 + ahead };
                link.status.set_detached(true);
                metrics::counter!("hotbook_books_fallen_behind_total").increment(1);
                tracing::debug!(%symbol, offset = %first, "book fell behind and reads by itself");
                self.run_cursor(*symbol, ctx);
                return;
            };
            let batch = Deliver { inputs, through: upto, decode_ns, sent_at: Instant::now(), permit: Some(permit) };
            if !link.send(batch) {
                return;
            }
            decode_ns = 0;
            inputs = rest;
        }
    }

    /// One step of a detached book: reads, waits for permits, hands on, until it is level with the feed.
    fn run_cursor(&mut self, symbol: Symbol, ctx: &mut Context<Self>) {
        let Some(link) = self.links.get_mut(&symbol) else { return };
        let Reach::Detached { cursor, met } = link.reach else { return };
        if cursor >= self.next {
            link.become_level(self.next, met);
            return;
        }
        let (log, of, permits) = (Arc::clone(&self.node.log), self.from, Arc::clone(&link.permits));
        let wanted = READ_RECORDS_MAX.min((self.next.0 - cursor.0) as usize);
        let step = async move {
            let records = log.read(of, cursor, wanted).await?;
            let mine = records.iter().filter(|r| r.key == symbol.as_bytes()).count();
            let mut held = Vec::new();
            for _ in 0..mine.div_ceil(BATCH_RECORDS_MAX).min(BATCHES_IN_FLIGHT_MAX) {
                held.extend(Arc::clone(&permits).acquire_owned().await.ok());
            }
            Ok((records, held))
        };
        let book = link.book.clone();
        ctx.spawn(step.into_actor(self).map(move |result, feed, ctx| feed.on_cursor(symbol, &book, result, ctx)));
    }

    fn on_cursor(
        &mut self,
        symbol: Symbol,
        book: &Addr<BookActor>,
        result: Result<(Vec<Record>, Vec<OwnedSemaphorePermit>), LogError>,
        ctx: &mut Context<Self>,
    ) {
        // A book that was replaced meanwhile has a cursor of its own.
        if self.links.get(&symbol).is_none_or(|link| link.book != *book) {
            return;
        }
        match result {
            Ok((records, permits)) => {
                self.node.spent.read(self.from.partition, records.len() as u64);
                self.hand_on_detached(symbol, &records, permits);
                self.run_cursor(symbol, ctx);
            }
            Err(LogError::Closed) => {}
            Err(LogError::Trimmed { start, .. }) => self.restart_overtaken(&symbol, start),
            Err(e) => {
                tracing::error!(%symbol, error = %e, "cannot read orders for a detached book");
                ctx.run_later(RETRY, move |feed, ctx| feed.run_cursor(symbol, ctx));
            }
        }
    }

    /// A book was so slow that what it would read next is trimmed: it begins anew with a newer snapshot.
    pub(super) fn restart_overtaken(&mut self, symbol: &Symbol, start: Offset) {
        let Some(link) = self.links.get_mut(symbol) else { return };
        tracing::warn!(%symbol, node = %self.node.id, %start, "book was overtaken by trimming and begins anew");
        link.reach = Reach::Down;
        // One per life of the actor.
        #[allow(clippy::disallowed_methods)]
        link.book.do_send(Overtaken);
    }

    fn hand_on_detached(&mut self, symbol: Symbol, records: &[Record], permits: Vec<OwnedSemaphorePermit>) {
        let started = thread_cpu_ns();
        let mut inputs = Vec::new();
        for record in records.iter().filter(|r| r.key == symbol.as_bytes() && r.offset < self.next) {
            inputs.extend(self.decode_or_refuse(record, &symbol));
        }
        let Some(last) = records.last() else { return };
        let through = last.offset.next().min(self.next);
        let Some(link) = self.links.get_mut(&symbol) else { return };
        let Reach::Detached { cursor, met } = &mut link.reach else { return };
        *cursor = through;
        let counted = (*met).min(inputs.len() as u64);
        *met -= counted;
        link.status.met(inputs.len() as u64 - counted);
        let mut decode_ns = thread_cpu_ns() - started;
        self.node.spent.decoded(decode_ns);
        for permit in permits {
            let rest = if inputs.len() > BATCH_RECORDS_MAX { inputs.split_off(BATCH_RECORDS_MAX) } else { Vec::new() };
            let upto = rest.first().map_or(through, |next| next.offset);
            let sent_at = Instant::now();
            if !link.send(Deliver { inputs, through: upto, decode_ns, sent_at, permit: Some(permit) }) {
                return;
            }
            decode_ns = 0;
            inputs = rest;
        }
    }

    fn advance_idle(&mut self) {
        let through = self.next;
        for link in self.links.values_mut() {
            // Behind what was handed on before, in the same mailbox: so the position is true also for a busy book.
            if matches!(link.reach, Reach::Level) && link.status.offset() < through {
                link.send(Deliver::nothing(through));
            }
        }
    }
}

/// What a record of an unknown symbol means.
enum Birth {
    Here,
    Elsewhere,
    Refused(&'static str),
    None,
}

impl Link {
    fn new(book: Addr<BookActor>, status: Arc<BookStatus>, reach: Reach) -> Self {
        Self { book, status, permits: Arc::new(Semaphore::new(BATCHES_IN_FLIGHT_MAX)), reach }
    }

    /// Counts a run's records as met, but for those that the feed counted when it passed them; gives how many more of
    /// those there are behind this run.
    fn met_of_run(&mut self, records: u64) -> u64 {
        let mut counted = 0;
        if let Reach::Joining { met, .. } = &mut self.reach {
            counted = records.min(*met);
            *met -= counted;
        }
        self.status.met(records - counted);
        if let Reach::Joining { met, .. } = &self.reach { *met } else { 0 }
    }

    /// From here on the book gets its records from the feed. `met`: counted by the feed when it passed them, and not
    /// handed on since: dead letters.
    fn become_level(&mut self, next: Offset, met: u64) {
        self.reach = Reach::Level;
        self.status.met_in_vain(met);
        self.status.set_detached(false);
        tracing::debug!(symbol = %self.status.symbol, offset = %next, "book is level");
        self.send(Deliver::nothing(next));
    }

    /// Whether the book's actor is still there.
    fn send(&mut self, batch: Deliver) -> bool {
        if !self.book.connected() {
            self.reach = Reach::Down;
            return false;
        }
        // Bounded by the permit that rides in the batch, which the mailbox's own capacity would not do.
        #[allow(clippy::disallowed_methods)]
        self.book.do_send(batch);
        true
    }
}

impl Actor for FeedActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.next >= self.level_at {
            self.become_level();
        }
        self.read_on(ctx);
    }
}

impl Handler<Attach> for FeedActor {
    type Result = ();

    fn handle(&mut self, Attach { mut books }: Attach, ctx: &mut Self::Context) {
        // Whoever needs the oldest record leads.
        books.sort_by_key(|joins| joins.from);
        for Joins { status, book, from } in books {
            status.forget_lag();
            status.set_detached(true);
            self.foreign.remove(&status.symbol);
            self.join(Link::new(book, status, Reach::Down), from, ctx);
        }
    }
}

impl Handler<Detach> for FeedActor {
    type Result = ();

    fn handle(&mut self, Detach { symbol }: Detach, _: &mut Self::Context) {
        self.links.remove(&symbol);
        self.runs.remove(&symbol);
        self.foreign.insert(symbol);
    }
}

impl Handler<AdvanceIdle> for FeedActor {
    type Result = ();

    fn handle(&mut self, _: AdvanceIdle, _: &mut Self::Context) {
        self.advance_idle();
    }
}
