//! The egress: reads `events`, brings the mirrors up to date, and only then tells whoever is concerned.
//!
//! [`Egress`] is the actor; what it does with a batch is [`EgressCore`], which knows no actor.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::try_join_all;
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use super::connections::Connections;
use super::gateway::{ConnectionId, GatewayLimits, Push, Role, Said};
use super::market_data::MarketBatch;
use super::mirror::{Applied, Cell, Changed, Mirror, Mirrors, Start};
use super::router::Enter;
use super::waiters::{Complete, Waiters};
use crate::domain::{Epoch, NodeId, Offset, Origin, Output, OutputBody, Seq, Symbol, UserId};
use crate::ports::log::{Log, LogError, Record, Topic, TopicPartition, partition_of};
use crate::ports::routes::{Route, RouteStatus};
use crate::wire::events::{self, EventsRecord};

/// Partitions that are read at once while catching up: 4 x 13 MB of events in memory.
const CATCHING_UP_MAX: usize = 4;
/// How long a partition that cannot be read is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// Entries of the catalogue read at once.
const CATALOGUE_RECORDS_MAX: usize = 4_096;

/// Per symbol the last seq met in `events`, and the offset of the record in which it was first met: the position that
/// a snapshot of that seq, or of any later one, may carry (handover rule 10).
#[derive(Debug, Default)]
pub struct EventPositions {
    by_symbol: RwLock<HashMap<Symbol, (Seq, Offset)>>,
}

impl EventPositions {
    pub fn get(&self, symbol: &Symbol) -> Option<(Seq, Offset)> {
        self.by_symbol.read().get(symbol).copied()
    }

    fn set(&self, symbol: Symbol, seq: Seq, offset: Offset) {
        self.by_symbol.write().insert(symbol, (seq, offset));
    }
}

/// What the egress works on; all shared with the gateway.
pub(super) struct EgressParts {
    pub log: Arc<dyn Log>,
    pub mirrors: Arc<Mirrors>,
    pub connections: Arc<Connections>,
    pub waiters: Arc<Waiters>,
    pub positions: Arc<EventPositions>,
    /// Told of the symbols that are met.
    pub router: Recipient<Enter>,
    /// Where it is noted which books changed, if anybody looks.
    pub changed: Option<Arc<Changed>>,
    pub level: Arc<AtomicBool>,
    pub limits: GatewayLimits,
}

/// What happens after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Read on behind it.
    On,
    /// An output is missing: read again from the start of the partition. Repeats are dropped by seq (handover rule 12).
    Again,
}

struct Partition {
    /// The next record to read.
    next: Offset,
    /// End of the partition as found at start.
    level_at: Offset,
    /// Whether it was reached.
    is_level: bool,
}

impl Partition {
    /// Goes on at `next`; says whether that reached the end as found at start, for the first time.
    fn go_to(&mut self, next: Offset) -> bool {
        self.next = next;
        let is_level = next >= self.level_at;
        is_level && !std::mem::replace(&mut self.is_level, true)
    }
}

/// Outputs on their way to connections and requests, gathered over a batch.
#[derive(Default)]
struct Outgoing {
    pushes: HashMap<ConnectionId, Vec<Push>>,
    answers: Vec<Complete>,
}

/// The egress without its actor.
pub(super) struct EgressCore {
    parts: EgressParts,
    /// The gap that each symbol's partition was read again for, so that it happens once per gap.
    gaps: HashMap<Symbol, Seq>,
    unreadable: u64,
    complained: Option<Instant>,
    targets: Vec<(ConnectionId, Role)>,
}

impl EgressCore {
    fn new(parts: EgressParts) -> Self {
        Self { parts, gaps: HashMap::new(), unreadable: 0, complained: None, targets: Vec::new() }
    }

    /// Takes a batch of one partition in: mirrors, then market data, then answers and pushes.
    fn batch(&mut self, partition: u32, records: &[Record]) -> Next {
        let mut by_symbol: Vec<(Symbol, Vec<(Offset, EventsRecord)>)> = Vec::new();
        let mut place: HashMap<Symbol, usize> = HashMap::new();
        for record in records {
            let Some(events) = self.read_record(partition, record) else { continue };
            let at = *place.entry(events.symbol).or_insert_with(|| {
                by_symbol.push((events.symbol, Vec::new()));
                by_symbol.len() - 1
            });
            by_symbol[at].1.push((record.offset, events));
        }
        let (mut next, mut out) = (Next::On, Outgoing::default());
        for (symbol, records) in &by_symbol {
            if self.symbol(*symbol, partition, records, &mut out) == Next::Again {
                next = Next::Again;
            }
        }
        for answer in out.answers {
            answer.deliver();
        }
        for (id, batch) in out.pushes {
            self.parts.connections.push(id, batch);
        }
        next
    }

    fn read_record(&mut self, partition: u32, record: &Record) -> Option<EventsRecord> {
        let read = events::decode(&record.value).ok();
        let read = read.filter(|r| partition_of(r.symbol.as_bytes(), self.parts.log.partitions()) == partition);
        if read.is_none() {
            self.complain(partition, record.offset);
        }
        read
    }

    /// Counts what cannot be read, and says so at most once a second.
    fn complain(&mut self, partition: u32, offset: Offset) {
        self.unreadable += 1;
        metrics::counter!("hotbook_events_unreadable_total").increment(1);
        if self.complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.complained = Some(Instant::now());
            tracing::error!(partition, %offset, total = self.unreadable, "events record cannot be read, skipped");
        }
    }

    /// Takes the records of one symbol in, under the lock that keeps subscribers out until the batch is told.
    fn symbol(
        &mut self,
        symbol: Symbol,
        partition: u32,
        records: &[(Offset, EventsRecord)],
        out: &mut Outgoing,
    ) -> Next {
        let cell = match self.parts.mirrors.cell(&symbol) {
            Some(cell) => cell,
            None => match self.born(symbol, partition, records) {
                Ok(cell) => cell,
                Err(next) => return next,
            },
        };
        let finished_max = self.parts.mirrors.finished_max();
        let mut channels = cell.channels.lock();
        let mut market = MarketBatch { before: cell.mirror.read().seq(), trades: Vec::new(), has_traded: false };
        let wants_trades = channels.wants_trades();
        let mut next = Next::On;
        for (offset, record) in records {
            let mut mirror = cell.mirror.write();
            mirror.set_finished_max(finished_max);
            let before = mirror.seq();
            next = self.record(&mut mirror, partition, *offset, record, wants_trades.then_some(&mut market), out);
            if mirror.seq() > before {
                market.has_traded |= record.classes.has(crate::domain::Classes::TRADES);
                self.parts.positions.set(symbol, mirror.seq(), *offset);
            }
            if next == Next::Again {
                break;
            }
        }
        let mut mirror = cell.mirror.write();
        metrics::counter!("hotbook_gateway_outputs_total").increment(mirror.seq().0 - market.before.0);
        channels.publish(&market, &mut mirror);
        if mirror.seq() > market.before
            && let Some(changed) = &self.parts.changed
        {
            changed.note(&cell);
        }
        next
    }

    /// A symbol that was not known: its first output must be here, or further back.
    fn born(&mut self, symbol: Symbol, partition: u32, records: &[(Offset, EventsRecord)]) -> Result<Arc<Cell>, Next> {
        let Some((offset, record)) = records.first() else { return Err(Next::On) };
        let first = Output::decode_all(&record.outputs).next().and_then(Result::ok);
        let Some((mirror, output)) = first.and_then(|o| Some((Mirror::unborn(symbol, &o)?, o))) else {
            return Err(self.missing(symbol, partition, *offset, Seq(1)));
        };
        if let OutputBody::Listed { owner, .. } = &output.body {
            tracing::debug!(%symbol, partition, %owner, "symbol listed");
            enter(&self.parts.router, vec![route(symbol, partition, *owner, output.epoch)]);
        }
        Ok(self.parts.mirrors.enter(mirror))
    }

    /// An output is not where it should be. The partition is read again once; if it is not there either, it is lost.
    fn missing(&mut self, symbol: Symbol, partition: u32, offset: Offset, expected: Seq) -> Next {
        if self.gaps.insert(symbol, expected) == Some(expected) {
            return Next::On;
        }
        metrics::counter!("hotbook_invariant_violations_total", "id" => "LG1").increment(1);
        tracing::error!(%symbol, partition, %offset, %expected, "gap in events, reading the partition again");
        Next::Again
    }

    /// Takes one record in.
    fn record(
        &mut self,
        mirror: &mut Mirror,
        partition: u32,
        offset: Offset,
        record: &EventsRecord,
        mut market: Option<&mut MarketBatch>,
        out: &mut Outgoing,
    ) -> Next {
        if !mirror.wants(record.last()) {
            return Next::On;
        }
        for output in Output::decode_all(&record.outputs) {
            let Ok(output) = output else {
                self.complain(partition, offset);
                return Next::On;
            };
            let mut applied = mirror.apply(&output);
            if let Applied::Gap { expected } = applied {
                if self.missing(mirror.symbol(), partition, offset, expected) == Next::Again {
                    return Next::Again;
                }
                tracing::error!(symbol = %mirror.symbol(), %expected, met = %output.seq, "outputs are lost, going on");
                mirror.skip_to(Seq(output.seq.0 - 1));
                applied = mirror.apply(&output);
            }
            let Applied::Fresh { first, second } = applied else { continue };
            if let (Some(market), OutputBody::Trade(_)) = (market.as_deref_mut(), &output.body) {
                market.trades.extend(mirror.newest_trade());
            }
            self.route(mirror.symbol(), mirror.price_scale(), output, (first, second), out);
        }
        Next::On
    }

    /// Finds who is concerned: the command's sender, those who entered the orders, the users' other connections.
    fn route(
        &mut self,
        symbol: Symbol,
        price_scale: u8,
        output: Output,
        entered: (Origin, Origin),
        out: &mut Outgoing,
    ) {
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        let connections = &self.parts.connections;
        let sender = connections.of_origin(output.origin);
        let mut add = |id: Option<ConnectionId>, role: Role, user: Option<&UserId>| {
            let mut add_one = |id: ConnectionId| {
                // A trade has two sides, which may be one connection's; everything else is told once.
                let is_told = |(i, r): &(ConnectionId, Role)| *i == id && (role != Role::Maker || *r == role);
                if id != 0 && !targets.iter().any(is_told) {
                    targets.push((id, role));
                }
            };
            id.map(&mut add_one);
            if let Some(user) = user {
                connections.watchers_of(user, &mut add_one);
            }
        };
        match &output.body {
            OutputBody::Trade(t) => {
                add(sender, Role::Taker, None);
                add(connections.of_origin(entered.1), Role::Taker, Some(&t.taker.user));
                add(connections.of_origin(entered.0), Role::Maker, Some(&t.maker.user));
            }
            OutputBody::Order(u) => {
                add(sender, if output.answer { Role::Answer } else { Role::Update }, None);
                add(connections.of_origin(entered.0), Role::Update, Some(&u.user));
            }
            _ if output.answer => add(sender, Role::Answer, None),
            _ => {}
        }
        if sender == Some(0) || !targets.is_empty() {
            let counter = output.origin.counter;
            let said = Arc::new(Said { symbol, price_scale, output });
            if sender == Some(0) {
                out.answers.extend(self.parts.waiters.collect(counter as u32, Arc::clone(&said)));
            }
            for (id, role) in &targets {
                let push = Push::Own { said: Arc::clone(&said), role: *role };
                out.pushes.entry(*id).or_default().push(push);
            }
        }
        self.targets = targets;
    }
}

fn route(symbol: Symbol, partition: u32, owner: NodeId, epoch: Epoch) -> (Symbol, Route) {
    (symbol, Route { target_instance: owner, status: RouteStatus::Active, epoch, partition, to: None })
}

fn enter(router: &Recipient<Enter>, rows: Vec<(Symbol, Route)>) {
    if let Err(e) = router.try_send(Enter(rows)) {
        tracing::debug!(error = %e, "the router is told of no more symbols now");
    }
}

/// The actor: one reader per partition, all on one arbiter. It needs no mailbox, so nothing can pile up in one.
pub(super) struct Egress {
    core: EgressCore,
    partitions: Vec<Partition>,
    /// Partitions that have not reached the end as found at start.
    behind: usize,
    catching_up: Arc<Semaphore>,
}

impl Egress {
    /// Puts the mirrors where the snapshots are, and finds from where each partition has to be read.
    pub async fn restore(parts: EgressParts, starts: Vec<Start>) -> Result<Self, LogError> {
        let log = Arc::clone(&parts.log);
        let symbols = catalogue(&*log).await?;
        let started: HashMap<Symbol, Offset> = starts.iter().map(|s| (s.state.symbol, s.events_position)).collect();
        let mut from: HashMap<u32, Option<Offset>> = HashMap::new();
        for symbol in symbols.iter().chain(started.keys()) {
            // `None` sorts below every offset: one symbol without a snapshot and all of the partition is read.
            let position = started.get(symbol).copied();
            let partition = partition_of(symbol.as_bytes(), log.partitions());
            from.entry(partition).and_modify(|p| *p = (*p).min(position)).or_insert(position);
        }
        let mut rows = Vec::with_capacity(starts.len());
        for start in starts {
            let symbol = start.state.symbol;
            let partition = partition_of(symbol.as_bytes(), log.partitions());
            rows.push(route(symbol, partition, start.owner, start.state.epoch));
            parts.positions.set(symbol, start.state.seq, start.events_position);
            parts.mirrors.enter(Mirror::restored(start.state));
        }
        enter(&parts.router, rows);
        let history = parts.limits.history_records;
        let partitions = try_join_all((0..log.partitions()).map(|partition| {
            let from = from.get(&partition).copied().flatten();
            find_partition(&*log, partition, from, history)
        }));
        let partitions = partitions.await?;
        Ok(Self {
            core: EgressCore::new(parts),
            behind: partitions.len(),
            partitions,
            catching_up: Arc::new(Semaphore::new(CATCHING_UP_MAX)),
        })
    }

    /// Reads the next batch of a partition; comes back here when it is done.
    fn read(&mut self, partition: u32, wait: Duration, ctx: &mut Context<Self>) {
        let at = &self.partitions[partition as usize];
        let (from, is_behind) = (at.next, !at.is_level);
        let log = Arc::clone(&self.core.parts.log);
        let records_max = self.core.parts.limits.read_records_max;
        let slots = is_behind.then(|| Arc::clone(&self.catching_up));
        let read = async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let slot = match slots {
                Some(slots) => slots.acquire_owned().await.ok(),
                None => None,
            };
            (log.read(events_of(partition), from, records_max).await, slot)
        };
        let done = read.into_actor(self).map(move |(result, slot), actor, ctx| {
            let wait = actor.take(partition, result);
            drop(slot);
            match wait {
                Some(wait) => actor.read(partition, wait, ctx),
                None => ctx.stop(),
            }
        });
        ctx.spawn(done);
    }

    /// Takes what was read; gives how long to wait before reading on, `None` to end.
    fn take(&mut self, partition: u32, result: Result<Vec<Record>, LogError>) -> Option<Duration> {
        match result {
            Ok(records) => {
                let next = self.core.batch(partition, &records);
                let read = records.last().map_or(self.partitions[partition as usize].next, |r| r.offset.next());
                self.go_to(partition, if next == Next::Again { Offset(0) } else { read });
                Some(Duration::ZERO)
            }
            Err(LogError::Trimmed { start, .. }) => {
                self.go_to(partition, start);
                Some(Duration::ZERO)
            }
            Err(LogError::Closed) => None,
            Err(e) => {
                tracing::error!(partition, error = %e, "events cannot be read, trying again");
                Some(RETRY)
            }
        }
    }

    fn go_to(&mut self, partition: u32, next: Offset) {
        if !self.partitions[partition as usize].go_to(next) {
            return;
        }
        self.behind -= 1;
        if self.behind == 0 {
            for cell in self.core.parts.mirrors.cells() {
                cell.mirror.write().settle();
            }
            self.core.parts.level.store(true, Ordering::Release);
            tracing::info!(symbols = self.core.parts.mirrors.len(), "mirrors are level with events");
        }
    }
}

impl Actor for Egress {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for partition in 0..self.partitions.len() {
            let partition = partition as u32;
            self.go_to(partition, self.partitions[partition as usize].next);
            self.read(partition, Duration::ZERO, ctx);
        }
    }
}

fn events_of(partition: u32) -> TopicPartition {
    TopicPartition { topic: Topic::Events, partition }
}

/// Symbols that the catalogue names, by the keys of its records.
async fn catalogue(log: &dyn Log) -> Result<BTreeSet<Symbol>, LogError> {
    let of = TopicPartition { topic: Topic::Symbols, partition: 0 };
    let end = log.end_offset(of).await?;
    let mut next = log.start_offset(of).await?;
    let mut symbols = BTreeSet::new();
    while next < end {
        for record in log.read(of, next, CATALOGUE_RECORDS_MAX).await? {
            next = record.offset.next();
            symbols.extend(Symbol::from_bytes(&record.key));
        }
    }
    Ok(symbols)
}

/// From where a partition is read: `from` and a little history before it, or all of it.
async fn find_partition(
    log: &dyn Log,
    partition: u32,
    from: Option<Offset>,
    history: u64,
) -> Result<Partition, LogError> {
    let of = events_of(partition);
    let (start, end) = (log.start_offset(of).await?, log.end_offset(of).await?);
    let next = from.map_or(start, |from| start.max(Offset(from.0.saturating_sub(history))));
    Ok(Partition { next, level_at: end, is_level: false })
}
