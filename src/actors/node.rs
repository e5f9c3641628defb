//! A node: its books, their threads, and the supervisor that keeps them running.
//!
//! The supervisor sees a dead book (an engine bug's panic, a lost session) and rebuilds it from snapshot and log; one
//! book's death stops no other. Once a second it takes the snapshots that are due.

mod context;
mod following;
mod gathering;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::{Semaphore, oneshot};

use super::book::{Crash, Cut, CutError, Saved, Start, StartFrom};
use super::directory::BookStatus;
use super::feed::{AdvanceIdle, FeedActor};
use super::recovery::{self, Found};
use crate::domain::{Epoch, Offset, Seq, Symbol};
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;
use crate::ports::log::{Topic, TopicPartition};
pub use context::{NodeContext, NodeLoad, NodeParts, NodeSettings};
pub use following::{Follow, Forgo, LetGo, StandBy, Want};
use gathering::Gatherings;

/// How often snapshots are thought about.
const TICK: Duration = Duration::from_secs(1);
/// How often idle books are told how far their partition has come.
const ADVANCE_EVERY_TICKS: u64 = 10;
/// An idle book is snapshotted again when its partition has moved on by this many records.
const IDLE_GAP_RECORDS: u64 = 200_000;
/// A book that dies more often than this within [`RESTART_WINDOW`] stays down, loudly.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// How often a book that cannot be restored is tried again.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// A book's actor ended without being asked to.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct BookDied {
    pub symbol: Symbol,
    pub why: Death,
}

/// Why a book's actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It panicked, or its session was lost.
    Failure,
    /// On purpose, to be restored for the crash path at the fence of this epoch (handover rule 8b).
    CrashPath(Epoch),
    /// It was so slow that records which it had not read are trimmed: a newer snapshot has them.
    Overtaken,
}

/// Makes one book panic. For fault tests.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CrashBook {
    pub symbol: Symbol,
}

/// Takes a snapshot now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeSnapshot {
    pub symbol: Symbol,
    pub done: oneshot::Sender<Result<Saved, CutError>>,
}

/// What was last saved of a book, and how often it died.
struct Watch {
    saved_applied: u64,
    saved_offset: Offset,
    saved_at: Instant,
    deaths: Vec<Instant>,
}

impl Watch {
    fn new() -> Self {
        Self { saved_applied: 0, saved_offset: Offset(0), saved_at: Instant::now(), deaths: Vec::new() }
    }

    fn snapshot_is_due(&self, book: &BookStatus, settings: &NodeSettings) -> bool {
        let changed = book.applied() - self.saved_applied.min(book.applied());
        let idle_gap = book.offset().0.saturating_sub(self.saved_offset.0);
        changed >= settings.snapshot_every_records
            || (changed > 0 && self.saved_at.elapsed() >= settings.snapshot_every)
            || idle_gap >= IDLE_GAP_RECORDS
    }
}

/// Keeps a node's books running.
pub struct NodeSupervisor {
    node: Arc<NodeContext>,
    feeds: Vec<Addr<FeedActor>>,
    /// Books that could not be restored at start.
    refused: Vec<Symbol>,
    watches: HashMap<Symbol, Watch>,
    /// Shadows that a move wants here.
    wanted: HashSet<Symbol>,
    /// Shadows that stand by here.
    standing_by: HashSet<Symbol>,
    /// Shadows that are being prepared to stand by.
    preparing: HashSet<Symbol>,
    /// Idle shadows whose owner is in another process, and for how many ticks.
    lonely: HashMap<Symbol, u32>,
    /// Replicas that are about to begin.
    gatherings: Gatherings,
    /// Snapshots in progress.
    saving: Arc<Semaphore>,
    ticks: u64,
}

/// Snapshots of one node that may be encoded and written at once.
const SAVING_MAX: usize = 4;

impl NodeSupervisor {
    /// Starts the node on the calling arbiter: restores its books, starts its feeds.
    ///
    /// `known_durable` has, per partition, the highest seq of each symbol found in `events`; `orders` what each partition of
    /// `orders` holds. A book whose newest snapshot begins before that cannot be restored: it is tried again from time to
    /// time, and keeps no other from starting.
    pub fn start_node(
        node: &Arc<NodeContext>,
        found: Vec<Found>,
        foreign: &HashMap<u32, Vec<Symbol>>,
        known_durable: &HashMap<u32, HashMap<Symbol, Seq>>,
        orders: &[Range<Offset>],
    ) -> Addr<Self> {
        let mut by_partition: HashMap<u32, Vec<Found>> = HashMap::new();
        for f in found {
            by_partition.entry(f.entry.partition).or_default().push(f);
        }
        let (mut feeds, mut refused) = (Vec::new(), Vec::new());
        for (partition, held) in (0..).zip(orders) {
            let mine = by_partition.remove(&partition).unwrap_or_default();
            let is_too_old = |f: &Found| f.snapshot.is_some() && f.orders_from() < held.start;
            let (old, mine): (Vec<_>, Vec<_>) = mine.into_iter().partition(is_too_old);
            let old = old.iter().map(|f| f.entry.symbol);
            let known = known_durable.get(&partition).cloned().unwrap_or_default();
            // Records of a book that may yet begin are no dead letters.
            let elsewhere = foreign.get(&partition).into_iter().flatten().copied().chain(old.clone()).collect();
            refused.extend(old);
            feeds.push(start_feed(node, partition, held, mine, known, elsewhere));
        }
        let supervisor = Self {
            node: Arc::clone(node),
            feeds,
            refused,
            watches: HashMap::new(),
            wanted: HashSet::new(),
            standing_by: HashSet::new(),
            preparing: HashSet::new(),
            lonely: HashMap::new(),
            gatherings: Gatherings::new(),
            saving: Arc::new(Semaphore::new(SAVING_MAX)),
            ticks: 0,
        };
        let addr = supervisor.start();
        _ = node.supervisor.set(addr.clone());
        addr
    }

    fn my_books(&self) -> Vec<Arc<BookStatus>> {
        self.node.statuses()
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.ticks += 1;
        let books = self.my_books();
        self.take_due_snapshots(&books, ctx);
        self.sweep(&books);
        self.trim_shadows(&books);
        if self.ticks.is_multiple_of(ADVANCE_EVERY_TICKS) {
            for feed in &self.feeds {
                _ = feed.try_send(AdvanceIdle);
            }
        }
    }

    fn snapshot_is_due(&mut self, book: &BookStatus) -> bool {
        self.watches.entry(book.symbol).or_insert_with(Watch::new).snapshot_is_due(book, &self.node.settings)
    }

    fn take_due_snapshots(&mut self, books: &[Arc<BookStatus>], ctx: &mut Context<Self>) {
        let wanted = self.node.settings.snapshots_per_second_max;
        let due = books.iter().filter(|b| b.is_active() && self.snapshot_is_due(b)).take(wanted);
        let due: Vec<_> = due.map(|b| b.symbol).collect();
        for symbol in due {
            let (done, saved) = oneshot::channel();
            self.begin_snapshot(symbol, done, ctx);
            ctx.spawn(saved.into_actor(self).map(move |result, _, _| {
                if let Ok(Err(e)) = result {
                    tracing::warn!(%symbol, error = %e, "snapshot was not taken");
                }
            }));
        }
    }

    fn begin_snapshot(
        &mut self,
        symbol: Symbol,
        done: oneshot::Sender<Result<Saved, CutError>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(status) = self.node.status(&symbol) else {
            _ = done.send(Err(CutError::NotActive));
            return;
        };
        let Some(book) = self.node.book(&symbol) else {
            _ = done.send(Err(CutError::NotActive));
            return;
        };
        let watch = self.watches.entry(symbol).or_insert_with(Watch::new);
        (watch.saved_applied, watch.saved_at, watch.saved_offset) = (status.applied(), Instant::now(), status.offset());
        let (saving, store, retention) =
            (Arc::clone(&self.saving), Arc::clone(&self.node.snapshots), Arc::clone(&self.node.retention));
        let work = async move {
            let _turn = saving.acquire_owned().await;
            let (cut, saved) = oneshot::channel();
            let result = match book.send(Cut { done: cut }).await {
                Ok(()) => saved.await.unwrap_or(Err(CutError::NotActive)),
                Err(_) => Err(CutError::NotActive),
            };
            if let Ok(saved) = &result {
                tracing::debug!(%symbol, offset = %saved.key.offset, bytes = saved.bytes, "snapshot saved");
                retention.keep(&*store, saved).await;
            }
            _ = done.send(result);
        };
        ctx.spawn(work.into_actor(self));
    }

    /// Builds a dead book anew.
    fn rebuild(&mut self, BookDied { symbol, why }: BookDied, ctx: &mut Context<Self>) {
        let Some(status) = self.node.status(&symbol) else { return };
        let crash_path = if let Death::CrashPath(epoch) = why { Some(epoch) } else { None };
        self.prepare_for(symbol, None, ctx, move |supervisor, prepared, ctx| match prepared {
            Ok(_) if status.is_retired() => {}
            Ok(prepared) => supervisor.reattach(&status, prepared, crash_path, ctx),
            Err(e) => {
                tracing::error!(%symbol, error = %e, "book cannot be rebuilt yet");
                ctx.run_later(TICK, move |supervisor, ctx| supervisor.rebuild(BookDied { symbol, why }, ctx));
            }
        });
    }

    /// Tries to begin a book that could not be restored at start: a newer snapshot may be there.
    fn begin_refused(&mut self, symbol: Symbol, ctx: &mut Context<Self>) {
        if self.node.status(&symbol).is_some() {
            return;
        }
        self.prepare_for(symbol, None, ctx, move |supervisor, prepared, ctx| match prepared {
            _ if supervisor.node.status(&symbol).is_some() => {}
            Ok(prepared) => {
                let status = supervisor.node.directory.enter(symbol, prepared.0.entry.partition, supervisor.node.id);
                supervisor.reattach(&status, prepared, None, ctx);
            }
            Err(e) => {
                tracing::error!(%symbol, node = %supervisor.node.id, error = %e, "book is not started");
                ctx.run_later(REFUSED_RETRY, move |supervisor, ctx| supervisor.begin_refused(symbol, ctx));
            }
        });
    }

    /// Counts a death; `false` if there were too many.
    fn may_restart(&mut self, symbol: Symbol, status: &Arc<BookStatus>) -> bool {
        let watch = self.watches.entry(symbol).or_insert_with(Watch::new);
        watch.deaths.retain(|at| at.elapsed() < RESTART_WINDOW);
        watch.deaths.push(Instant::now());
        if watch.deaths.len() > RESTARTS_MAX {
            tracing::error!(%symbol, node = %self.node.id, "book dies again and again and stays down");
            return false;
        }
        tracing::error!(%symbol, node = %self.node.id, "book died and is rebuilt from snapshot and log");
        status.count_restart();
        metrics::counter!("hotbook_book_restarts_total").increment(1);
        true
    }
}

async fn prepare(
    node: &NodeContext,
    symbol: Symbol,
    given: Option<Box<Snapshot<Book>>>,
) -> anyhow::Result<(Found, Seq)> {
    let entry = node.catalogue.get(&symbol).ok_or_else(|| anyhow::anyhow!("symbol is not in the catalogue"))?;
    // Closed never.
    let _turn = node.finding.acquire().await;
    let found = match given {
        Some(snapshot) => Found { entry, snapshot: Some(snapshot), owned: None, was_listed: true },
        None => {
            let found = recovery::find(&node.snapshots, entry).await?;
            found.note_kept(&node.retention);
            found
        }
    };
    let orders = TopicPartition { topic: Topic::Orders, partition: entry.partition };
    let (from, start) = (found.orders_from(), node.log.start_offset(orders).await?);
    if from < start {
        anyhow::bail!("its newest snapshot needs orders from {from} on, and the log begins at {start}");
    }
    let known = node.high_waters.read(&*node.log, entry.partition, symbol, found.events_from()).await?;
    Ok((found, known))
}

fn start_feed(
    node: &Arc<NodeContext>,
    partition: u32,
    held: &Range<Offset>,
    mine: Vec<Found>,
    known: HashMap<Symbol, Seq>,
    elsewhere: Vec<Symbol>,
) -> Addr<FeedActor> {
    let Range { start, end } = *held;
    // What has no snapshot and lies below was never listed, or it would not be trimmed.
    let from = mine.iter().map(Found::orders_from).min().unwrap_or(end).max(start);
    let mut feed = FeedActor::new(Arc::clone(node), partition, from, end).with_foreign(elsewhere);
    for f in mine {
        let symbol = f.entry.symbol;
        let known_durable = known.get(&symbol).copied().unwrap_or_default();
        let events_from = f.events_from();
        let start = match f.snapshot {
            Some(snapshot) => StartFrom::Snapshot(snapshot),
            // Its first owner is another node: a LIST met here would not be answered.
            None if f.owned.is_some() && f.entry.owner != node.id => StartFrom::List { events_from },
            // One that has no snapshot yet is born when the feed meets its LIST.
            None => continue,
        };
        let status = node.directory.enter(symbol, partition, node.id);
        let book = node.start_book(&status, Start::new(start, known_durable), end);
        feed = feed.with_book(status, book);
    }
    feed.with_known_durable(known).start()
}

impl Actor for NodeSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, Self::tick);
        for symbol in std::mem::take(&mut self.refused) {
            self.begin_refused(symbol, ctx);
        }
    }
}

impl Handler<BookDied> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, died: BookDied, ctx: &mut Self::Context) {
        let Some(status) = self.node.status(&died.symbol) else { return };
        // Until it has caught up again, and for good if it stays down: nobody is to count on it.
        status.set_detached(true);
        if died.why != Death::Failure || self.may_restart(died.symbol, &status) {
            self.rebuild(died, ctx);
        }
    }
}

impl Handler<CrashBook> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, crash: CrashBook, _: &mut Self::Context) {
        if let Some(book) = self.node.book(&crash.symbol) {
            _ = book.try_send(Crash);
        }
    }
}

impl Handler<TakeSnapshot> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, take: TakeSnapshot, ctx: &mut Self::Context) {
        self.begin_snapshot(take.symbol, take.done, ctx);
    }
}
