//! The book actor: one per symbol and node. Its mailbox is the book's order.
//!
//! Batches come in from the feed, each with a permit that is given back only when the batch's outputs are durable: so
//! the permits bound the mailbox, the outputs in flight, and what the feed may run ahead. Handlers are synchronous. A
//! slow book works in slices, so that the other books of its thread are not kept waiting.

mod pump;
mod shadow;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::directory::{BookStatus, Report, Takeover};
use super::node::{BookDied, Death, NodeContext};
use super::peers::{Following, Milestone, What};
use crate::clock::{self, thread_cpu_ns};
use crate::domain::{Command, Epoch, Input, NodeId, Offset, Seq, Symbol};
use crate::engine::Book;
use crate::migration::replica::{Effect, Mode, Replica, Sealed};
use crate::migration::snapshot::Snapshot;
use crate::ports::log::{LogError, NewRecord, Session, Topic, TopicPartition};
use crate::ports::snapshots::SnapshotKey;
use crate::wire::{self, BadRecord};
use pump::InFlight;
pub use pump::Pump;
pub use shadow::{SHADOW_BYTES_MAX, Trim};

/// Records in one batch: 256 x about 200 bytes = 50 KiB, which fits the second-level cache.
pub const BATCH_RECORDS_MAX: usize = 256;
/// Batches that the feed may have in flight per book: 32 x 256 records x about 500 bytes of outputs = 4 MiB.
pub const BATCHES_IN_FLIGHT_MAX: usize = 32;
/// A book that worked this long lets the others of its thread go first.
const SLICE_NS_MAX: u64 = 1_000_000;
/// How often a holder looks whether the old owner still follows; after [`HOLD_LOOKS`] it no longer waits for it.
const HOLD_LOOK: std::time::Duration = std::time::Duration::from_millis(250);
const HOLD_LOOKS: u32 = 20;

/// Some records of the book, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Deliver {
    pub inputs: Vec<Input<Command>>,
    /// One past the last record of the partition that this batch covers.
    pub through: Offset,
    /// CPU time that the feed spent to decode it.
    pub decode_ns: u64,
    /// When it was put into the mailbox.
    pub sent_at: Instant,
    /// `None` only for the empty batch that moves an idle book's offset.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Deliver {
    /// No records of the book up to there.
    pub fn nothing(through: Offset) -> Self {
        Self { inputs: Vec::new(), through, decode_ns: 0, sent_at: Instant::now(), permit: None }
    }
}

/// Asks for a snapshot; answered once it is visible.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Cut {
    pub done: oneshot::Sender<Result<Saved, CutError>>,
}

/// Makes the book panic, as an engine bug would. For fault tests.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Crash;

/// The old owner's outputs up to the fence are durable.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct SealedIs(pub Sealed);

/// Ends a hold of this epoch without a Sealed (handover rule 8).
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct TakeOver {
    pub epoch: Epoch,
}

/// Ends the actor, to begin with a newer snapshot: records that it has not read are trimmed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Overtaken;

/// Ends the actor: the replica is not needed here any more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Retire;

#[derive(Message)]
#[rtype(result = "()")]
struct Published {
    through: Seq,
    result: Result<(), LogError>,
}

/// A visible snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    pub key: SnapshotKey,
    pub bytes: usize,
    /// How long the book stood still to be copied.
    pub stall_us: u64,
    /// Where a reader of `events` may begin.
    pub events_position: Offset,
}

/// Why there is no snapshot.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CutError {
    #[error("book is not active here")]
    NotActive,
    #[error("a snapshot of this book is being taken already")]
    Busy,
    #[error("snapshot cannot be written: {0}")]
    Store(String),
}

/// How a book begins.
pub struct Start {
    pub from: StartFrom,
    /// Highest seq found in `events` by reading to its end.
    pub known_durable: Seq,
    /// It is restored for the crash path at the fence of this epoch (handover rule 8b).
    pub crash_path: Option<Epoch>,
}

/// What a book begins with.
pub enum StartFrom {
    Snapshot(Box<Snapshot<Book>>),
    /// Its LIST, the first record delivered. `events_from`: an offset of `events` below its first output.
    List {
        events_from: Offset,
    },
}

impl Start {
    pub fn new(from: StartFrom, known_durable: Seq) -> Self {
        Self { from, known_durable, crash_path: None }
    }
}

struct PendingCut {
    snapshot: Snapshot<Book>,
    stall_us: u64,
    done: oneshot::Sender<Result<Saved, CutError>>,
}

/// One order book on one node.
pub struct BookActor {
    node: Arc<NodeContext>,
    symbol: Symbol,
    status: Arc<BookStatus>,
    pump: Pump,
    /// The node's producer session when this book started: a book never outlives its session (handover rule 11).
    session: Arc<dyn Session>,
    replica: Option<Replica<Book>>,
    known_durable: Seq,
    crash_path: Option<Epoch>,
    /// What its end will be told as.
    ends_by: Death,
    /// Bytes kept back as counted in the node's sum.
    kept: usize,
    /// End of its partition when it was started: once there, it has caught up.
    level_at: Offset,
    /// The restored snapshot's position in `events`, good for any later snapshot (handover rule 10).
    events_position: Offset,
    queue: VecDeque<Deliver>,
    /// The next slice is on its way.
    resuming: bool,
    effects: Vec<Effect>,
    cut: Option<PendingCut>,
    /// Mode, epoch and owner as last seen, so that a change is noticed.
    seen: (Mode, Epoch, NodeId),
    /// The fence that it holds or last held at, and the commands applied behind it meanwhile.
    hold: Option<(Offset, u64)>,
}

impl BookActor {
    /// `level_at`: the end of its partition now; when the book gets there it has caught up.
    pub fn new(node: Arc<NodeContext>, status: Arc<BookStatus>, pump: Pump, start: Start, level_at: Offset) -> Self {
        let (me, mut effects) = (node.id, Vec::new());
        let Start { from, known_durable, crash_path } = start;
        let (replica, events_position) = match from {
            StartFrom::Snapshot(snapshot) => {
                let events_position = snapshot.events_position;
                let replica = Replica::restore(node.id, *snapshot);
                (Some(first_told(replica, known_durable, crash_path, &mut effects)), events_position)
            }
            StartFrom::List { events_from } => (None, events_from),
        };
        Self {
            crash_path,
            ends_by: Death::Failure,
            kept: 0,
            session: node.session(),
            node,
            symbol: status.symbol,
            status,
            pump,
            replica,
            known_durable,
            level_at,
            events_position,
            queue: VecDeque::new(),
            resuming: false,
            effects,
            cut: None,
            seen: (Mode::Shadow, Epoch(0), me),
            hold: None,
        }
    }

    /// Works through the queue until it is empty or the slice is used up.
    fn work(&mut self, ctx: &mut Context<Self>) {
        let started = thread_cpu_ns();
        while let Some(mut batch) = self.queue.pop_front() {
            let rest = self.split(&mut batch);
            self.apply(batch, ctx);
            if let Some(rest) = rest {
                self.queue.push_front(rest);
            }
            if thread_cpu_ns() - started >= SLICE_NS_MAX && !self.queue.is_empty() {
                self.give_way(ctx);
                return;
            }
        }
    }

    /// Lets the other books of the thread go first. A `notify` would not: actix handles it within the same poll.
    fn give_way(&mut self, ctx: &mut Context<Self>) {
        self.resuming = true;
        let goes_on = tokio::task::yield_now().into_actor(self).map(|(), book, ctx| {
            book.resuming = false;
            book.work(ctx);
        });
        ctx.spawn(goes_on);
    }

    /// Cuts a batch of an artificially slow book so that a slice stays a slice; the permit stays with the rest.
    fn split(&self, batch: &mut Deliver) -> Option<Deliver> {
        let cost_us = self.node.command_cost_us(&self.symbol);
        if cost_us == 0 {
            return None;
        }
        let records = ((SLICE_NS_MAX / 1_000) / cost_us).max(1) as usize;
        if batch.inputs.len() <= records {
            return None;
        }
        let inputs = batch.inputs.split_off(records);
        let through = std::mem::replace(&mut batch.through, inputs[0].offset);
        Some(Deliver { inputs, through, decode_ns: 0, sent_at: batch.sent_at, permit: batch.permit.take() })
    }

    fn apply(&mut self, batch: Deliver, ctx: &mut Context<Self>) {
        let started = thread_cpu_ns();
        self.status.waited(batch.sent_at.elapsed().as_micros() as u64);
        let records = batch.inputs.len() as u64;
        let mut inputs = &batch.inputs[..];
        if self.replica.is_none() {
            inputs = self.be_born(inputs);
        }
        let Some(replica) = &mut self.replica else { return };
        replica.apply(inputs, batch.through, &mut self.effects);
        if let Some(fence) = replica.hold_offset() {
            let behind = inputs.iter().filter(|i| i.offset > fence).count() as u64;
            let before = self.hold.filter(|(held, _)| *held == fence).map_or(0, |(_, parked)| parked);
            self.hold = Some((fence, before + behind));
        }
        if replica.mode() != Mode::Active
            && let Some((met, _)) = self.node.positions.get(&self.symbol)
        {
            replica.topic_read(met, &mut self.effects);
        }
        self.node.burn(&self.symbol, records);
        self.bound_what_is_kept();
        self.run_effects(batch.permit, ctx);
        self.report(records, batch.decode_ns + (thread_cpu_ns() - started));
        self.notice(ctx);
    }

    /// Begins with the LIST; what lay before it was for a symbol that did not exist.
    fn be_born<'a>(&mut self, inputs: &'a [Input<Command>]) -> &'a [Input<Command>] {
        let is_list = |i: &Input<Command>| matches!(i.command, Command::List { .. });
        let begin = inputs.iter().position(is_list).unwrap_or(inputs.len());
        let Some((first, rest)) = inputs[begin..].split_first() else { return &[] };
        let Command::List { listing, .. } = &first.command else { return &[] };
        let (me, owner) = (self.node.id, listing.owner);
        if let Some(born) = Replica::born(me, self.symbol, owner, first, &mut self.effects) {
            self.replica = Some(first_told(born, self.known_durable, self.crash_path, &mut self.effects));
            tracing::info!(symbol = %self.symbol, offset = %first.offset, node = %me, "book born");
        }
        rest
    }

    fn report(&self, records: u64, busy_ns: u64) {
        let Some(replica) = &self.replica else { return };
        self.status.set_kept(replica.pending_bytes() as u64);
        let book = replica.machine();
        let report = Report {
            offset: replica.offset(),
            seq: replica.seq(),
            epoch: replica.epoch(),
            orders: book.resting_orders() as u64,
            state_digest: replica.digest(),
            book_digest: book.book_digest(),
        };
        self.status.report(&report, records, busy_ns);
        self.status.set_ownership(replica.owner(), matches!(replica.mode(), Mode::Hold(_)), replica.owes());
        if replica.mode() == Mode::Active
            && !self.status.is_active()
            && let Some((epoch, fence)) = replica.taken_at()
        {
            let parked = self.hold.filter(|(held, _)| *held == fence).map_or(0, |(_, parked)| parked);
            self.status.set_takeover(Takeover { epoch, fence, parked });
        }
        self.status.set_active(replica.mode() == Mode::Active);
        if !self.status.is_caught_up() && replica.offset() >= self.level_at && replica.is_durable(replica.seq()) {
            self.status.set_caught_up(replica.seq());
        }
    }

    /// Tells of a change of ownership.
    fn notice(&mut self, ctx: &mut Context<Self>) {
        let Some(replica) = &self.replica else { return };
        let now = (replica.mode(), replica.epoch(), replica.owner());
        let was = std::mem::replace(&mut self.seen, now);
        if was == now {
            return;
        }
        let (mode, epoch, owner) = now;
        let tell = |what| self.node.peers.tell(Milestone { symbol: self.symbol, node: self.node.id, what });
        if epoch > was.1 {
            let offset = replica.hold_offset().unwrap_or(Offset(replica.offset().0.saturating_sub(1)));
            tell(What::FenceApplied { epoch, to: owner, offset });
        }
        match mode {
            Mode::Active => {
                if was.0 != Mode::Active && self.status.takeover(epoch).is_some() {
                    self.status.set_moved_at(clock::now());
                }
                self.node.directory.claim(&self.status);
                tell(What::Active { epoch });
            }
            Mode::Hold(epoch) => {
                tracing::debug!(symbol = %self.symbol, node = %self.node.id, %epoch, "holds");
                self.watch_hold(epoch, was.2, 0, ctx);
            }
            Mode::Shadow => {}
        }
    }

    /// Rule 8: an old owner that does not follow is not waited for, one that does not seal only so long. Safe at any
    /// moment; the wait only saves duplicates. One that has sealed already says so again.
    fn watch_hold(&mut self, epoch: Epoch, from: NodeId, looks: u32, ctx: &mut Context<Self>) {
        if self.replica.as_ref().is_none_or(|r| r.mode() != Mode::Hold(epoch)) {
            return;
        }
        if looks >= HOLD_LOOKS || from == self.node.id {
            self.take_over(epoch, ctx);
            return;
        }
        let (peers, symbol) = (Arc::clone(&self.node.peers), self.symbol);
        let asked = async move { peers.ask_follows(from, symbol).await };
        ctx.spawn(asked.into_actor(self).map(move |Following { follows, sealed }, book, ctx| {
            let me = book.node.id;
            if let Some(sealed) = sealed.filter(|sealed| sealed.epoch == epoch && sealed.to == me) {
                // This book, or all of its process, was not up when it came.
                book.node.peers.take_sealed(symbol, from, sealed);
            }
            if follows {
                ctx.run_later(HOLD_LOOK, move |book, ctx| book.watch_hold(epoch, from, looks + 1, ctx));
            } else {
                book.take_over(epoch, ctx);
            }
        }));
    }

    fn take_over(&mut self, epoch: Epoch, ctx: &mut Context<Self>) {
        let (node, partition, symbol) = (Arc::clone(&self.node), self.status.partition, self.symbol);
        let (met, from) = node.positions.get(&symbol).unwrap_or((Seq(0), self.events_position));
        let read = async move { node.high_waters.read(&*node.log, partition, symbol, from).await };
        ctx.spawn(read.into_actor(self).map(move |read, book, ctx| match read {
            Ok(hw) => book.take_by_crash_path(epoch, hw.max(met), ctx),
            Err(e) => {
                tracing::error!(%symbol, error = %e, "events cannot be read for a takeover");
                ctx.run_later(HOLD_LOOK, move |book, ctx| book.take_over(epoch, ctx));
            }
        }));
    }

    fn take_by_crash_path(&mut self, epoch: Epoch, hw: Seq, ctx: &mut Context<Self>) {
        let Some(replica) = self.replica.as_mut().filter(|r| r.mode() == Mode::Hold(epoch)) else { return };
        tracing::warn!(symbol = %self.symbol, node = %self.node.id, %epoch, %hw, "takes over without a Sealed");
        metrics::counter!("hotbook_crash_path_total").increment(1);
        replica.take_by_crash_path(hw, &mut self.effects);
        self.step_done(ctx);
    }

    /// After a message that is no batch.
    fn step_done(&mut self, ctx: &mut Context<Self>) {
        self.run_effects(None, ctx);
        self.report(0, 0);
        self.notice(ctx);
    }

    fn run_effects(&mut self, mut permit: Option<OwnedSemaphorePermit>, ctx: &mut Context<Self>) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                // The permit rides with the last publication of its batch; all but one batch in a million have one.
                Effect::Publish { last, outputs, .. } => self.publish(last, &outputs, permit.take(), ctx),
                Effect::Void { offset, why } => {
                    let bad = BadRecord::Void { why: why.to_string() };
                    self.node.dead_letter(self.status.partition, offset, self.symbol.as_bytes(), &bad);
                }
                Effect::Restore => {
                    tracing::error!(symbol = %self.symbol, "replica must be restored");
                    ctx.stop();
                }
                Effect::RestoreByCrashPath { epoch, .. } => {
                    metrics::counter!("hotbook_crash_path_restores_total").increment(1);
                    tracing::warn!(symbol = %self.symbol, %epoch, "forgot what it would say, is restored to take over");
                    self.ends_by = Death::CrashPath(epoch);
                    ctx.stop();
                }
                Effect::Alarm { epoch, mine, theirs } => {
                    metrics::counter!("hotbook_invariant_violations_total", "id" => "MG2").increment(1);
                    tracing::error!(symbol = %self.symbol, %epoch, ?mine, ?theirs, "two owners disagree at a fence");
                }
                Effect::Seal(sealed) => {
                    self.node.note_sealed(self.symbol, sealed);
                    self.node.peers.seal(self.symbol, self.node.id, sealed);
                }
            }
        }
        self.effects = effects;
    }

    fn publish(&self, last: Seq, outputs: &Bytes, permit: Option<OwnedSemaphorePermit>, ctx: &Context<Self>) {
        let values = wire::events::encode(&self.symbol, outputs)
            .unwrap_or_else(|_| unreachable!("the outbox writes whole outputs"));
        let to = TopicPartition { topic: Topic::Events, partition: self.status.partition };
        let key = Bytes::copy_from_slice(self.symbol.as_bytes());
        let record = |value| NewRecord { to, key: key.clone(), header: Bytes::new(), value };
        let receipt = self.session.append_all(values.into_iter().map(record).collect());
        let in_flight = InFlight { receipt, through: last, book: ctx.address(), permit };
        self.pump.send(to.partition, in_flight);
    }

    /// Rule 10: a cut becomes visible only once every output up to its seq is durable.
    fn show_cut_if_durable(&mut self) {
        let Some(replica) = &self.replica else { return };
        if !self.cut.as_ref().is_some_and(|c| replica.is_durable(c.snapshot.seqs.last)) {
            return;
        }
        if let Some(cut) = self.cut.take() {
            actix::spawn(save(Arc::clone(&self.node), Arc::clone(&self.status), cut));
        }
    }

    fn cut(&mut self, done: oneshot::Sender<Result<Saved, CutError>>) {
        if self.cut.is_some() {
            _ = done.send(Err(CutError::Busy));
            return;
        }
        // What a reader of `events` on this node has met is a position for every seq from there on.
        let met = self.node.positions.get(&self.symbol);
        let seq = self.replica.as_ref().map_or(Seq(0), Replica::seq);
        if let Some((_, position)) = met.filter(|(met, _)| *met <= seq) {
            self.events_position = self.events_position.max(position);
        }
        let (started, cpu_ns) = (Instant::now(), thread_cpu_ns());
        let snapshot = self.replica.as_mut().and_then(|r| r.cut(self.events_position));
        let stall_us = started.elapsed().as_micros() as u64;
        self.status.spent(thread_cpu_ns() - cpu_ns);
        match snapshot {
            None => _ = done.send(Err(CutError::NotActive)),
            Some(snapshot) => self.cut = Some(PendingCut { snapshot, stall_us, done }),
        }
        self.show_cut_if_durable();
    }
}

/// A replica that was just restored or born, told what is durable; for the crash path it keeps all that is not.
fn first_told(
    mut replica: Replica<Book>,
    known_durable: Seq,
    crash_path: Option<Epoch>,
    effects: &mut Vec<Effect>,
) -> Replica<Book> {
    if let Some(epoch) = crash_path {
        return replica.for_crash_path(epoch, known_durable);
    }
    replica.topic_read(known_durable, effects);
    replica
}

/// Encodes and writes a snapshot, away from the book's thread.
async fn save(node: Arc<NodeContext>, status: Arc<BookStatus>, cut: PendingCut) {
    let (PendingCut { snapshot, stall_us, done }, store) = (cut, Arc::clone(&node.snapshots));
    let (key, events_position) = (snapshot.key(), snapshot.events_position);
    let encode = move || {
        let started = thread_cpu_ns();
        let encoded = snapshot.encode();
        // That thread is not the node's own.
        let spent = thread_cpu_ns() - started;
        status.spent(spent);
        node.spent.elsewhere(spent);
        encoded
    };
    let encoded = tokio::task::spawn_blocking(encode).await;
    let result = match encoded {
        Ok(Ok(content)) => {
            let bytes = content.len();
            match store.put(key, Bytes::from(content)).await {
                // The same offset and epoch hold the same state: it is there, which is all that is wanted.
                Ok(()) | Err(crate::ports::snapshots::SnapshotStoreError::Exists { .. }) => {
                    Ok(Saved { key, bytes, stall_us, events_position })
                }
                Err(e) => Err(CutError::Store(e.to_string())),
            }
        }
        Ok(Err(e)) => Err(CutError::Store(e.to_string())),
        Err(e) => Err(CutError::Store(e.to_string())),
    };
    _ = done.send(result);
}

impl Actor for BookActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // At most the permits' batches, some acknowledgements and a snapshot request can be under way.
        ctx.set_mailbox_capacity(BATCHES_IN_FLIGHT_MAX * 2);
        self.status.begin();
        self.step_done(ctx);
    }
}

impl Drop for BookActor {
    /// A panic or a lost session ends the actor; the node's supervisor builds it anew from snapshot and log.
    fn drop(&mut self) {
        self.status.set_active(false);
        self.node.keeps(&mut self.kept, 0);
        if !self.status.is_retired() {
            self.node.report_death(BookDied { symbol: self.symbol, why: self.ends_by });
        }
    }
}

impl Handler<Deliver> for BookActor {
    type Result = ();

    fn handle(&mut self, batch: Deliver, ctx: &mut Self::Context) {
        self.queue.push_back(batch);
        if !self.resuming {
            self.work(ctx);
        }
    }
}

impl Handler<Published> for BookActor {
    type Result = ();

    fn handle(&mut self, published: Published, ctx: &mut Self::Context) {
        match published.result {
            Ok(()) => {
                let started = thread_cpu_ns();
                if let Some(replica) = &mut self.replica {
                    replica.acked(published.through, &mut self.effects);
                }
                let has_sealed = !self.effects.is_empty();
                self.run_effects(None, ctx);
                self.show_cut_if_durable();
                if has_sealed || !self.status.is_caught_up() {
                    self.report(0, 0);
                }
                self.status.spent(thread_cpu_ns() - started);
            }
            // handover rule 11: the session is over, and this replica with it.
            Err(e) => {
                tracing::error!(symbol = %self.symbol, error = %e, "outputs could not be published");
                self.node.report_session_loss(&self.session);
                ctx.stop();
            }
        }
    }
}

impl Handler<SealedIs> for BookActor {
    type Result = ();

    fn handle(&mut self, SealedIs(sealed): SealedIs, ctx: &mut Self::Context) {
        if let Some(replica) = &mut self.replica {
            replica.sealed(sealed, &mut self.effects);
            self.step_done(ctx);
        }
    }
}

impl Handler<TakeOver> for BookActor {
    type Result = ();

    fn handle(&mut self, take: TakeOver, ctx: &mut Self::Context) {
        self.take_over(take.epoch, ctx);
    }
}

impl Handler<Overtaken> for BookActor {
    type Result = ();

    fn handle(&mut self, _: Overtaken, ctx: &mut Self::Context) {
        self.ends_by = Death::Overtaken;
        ctx.stop();
    }
}

impl Handler<Retire> for BookActor {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        self.status.retire();
        ctx.stop();
    }
}

impl Handler<Cut> for BookActor {
    type Result = ();

    fn handle(&mut self, cut: Cut, _: &mut Self::Context) {
        self.cut(cut.done);
    }
}

impl Handler<Crash> for BookActor {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("book {} crashes on demand", self.symbol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::log::{Ack, Receipt};

    #[actix_rt::test]
    async fn a_partition_that_stands_still_delays_no_other() {
        let pump = Pump::start(2);
        let book = Context::<BookActor>::new().address();
        let permits = Arc::new(tokio::sync::Semaphore::new(2));
        let (stalled, receipt) = Receipt::pair();
        let send = |partition, receipt| {
            let permit = Arc::clone(&permits).try_acquire_owned().ok();
            pump.send(partition, InFlight { receipt, through: Seq(1), book: book.clone(), permit });
        };
        send(0, receipt);
        let (published, receipt) = Receipt::pair();
        send(1, receipt);
        published.send(Ok(Ack { offset: None, at: None })).unwrap();
        // A permit comes back when its publication is through.
        let came_back = tokio::time::timeout(std::time::Duration::from_secs(10), permits.acquire()).await;
        assert!(came_back.is_ok(), "partition 1 waits for partition 0");
        drop(stalled);
    }
}
