//! `bench actor`: the engine's flow through the book actor's mailbox, in batches, on one thread.
//!
//! Everything of the real path but decoding and the disk: permits, mailbox, replica, outputs packed into `events`
//! records, acknowledgements through the pump. The log is one that acknowledges at once and keeps nothing. The rate is
//! per CPU second of the book's thread; the baseline is the bare engine in the same run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::flow_inputs;
use crate::actors::book::{BATCHES_IN_FLIGHT_MAX, BookActor, Deliver, Pump, Start, StartFrom};
use crate::actors::catalogue::Catalogue;
use crate::actors::directory::Directory;
use crate::actors::egress::EventPositions;
use crate::actors::node::{NodeContext, NodeParts, NodeSettings};
use crate::actors::retention::Retention;
use crate::clock::thread_cpu_ns;
use crate::domain::{Command, Epoch, Input, Machine, NodeId, Offset, Outbox, Seq, Seqs, Symbol};
use crate::engine::Book;
use crate::ports::log::{Ack, Log, LogError, NewRecord, Receipt, Record, Session, SessionOptions, TopicPartition};
use crate::ports::snapshots::folder::FolderSnapshots;
use crate::wire::Keyring;

#[derive(Debug, Clone, clap::Args)]
pub struct ActorArgs {
    /// A, B or C.
    #[arg(default_value = "B")]
    pub flow: String,
    /// Timed records.
    #[arg(long, default_value_t = 2_000_000)]
    pub records: u64,
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Acknowledges at once, keeps nothing.
struct NullLog;

impl Session for NullLog {
    fn append(&self, _: NewRecord) -> Receipt {
        let (tx, receipt) = Receipt::pair();
        _ = tx.send(Ok(Ack { offset: None, at: None }));
        receipt
    }

    fn append_all(&self, records: Vec<NewRecord>) -> Receipt {
        std::hint::black_box(&records);
        self.append(NewRecord {
            to: super::ORDERS_0,
            key: bytes::Bytes::new(),
            header: bytes::Bytes::new(),
            value: bytes::Bytes::new(),
        })
    }

    fn abort(&self) {}

    fn has_ended(&self) -> bool {
        false
    }
}

impl Log for NullLog {
    fn partitions(&self) -> u32 {
        1
    }

    fn open_session(&self, _: SessionOptions) -> Result<Arc<dyn Session>, LogError> {
        Ok(Arc::new(Self))
    }

    fn start_offset(&self, _: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(async { Ok(Offset(0)) })
    }

    fn end_offset(&self, _: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(async { Ok(Offset(0)) })
    }

    fn read(&self, _: TopicPartition, _: Offset, _: usize) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        Box::pin(std::future::pending())
    }

    fn trim(&self, _: TopicPartition, _: Offset) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { Ok(()) })
    }
}

fn node(threads: Vec<(ArbiterHandle, Pump)>, folder: &std::path::Path) -> anyhow::Result<Arc<NodeContext>> {
    let settings = NodeSettings {
        snapshot_every: Duration::from_secs(3_600),
        snapshot_every_records: u64::MAX,
        snapshots_per_second_max: 0,
        cores: 1.0,
        shadow_bytes_max: crate::actors::book::SHADOW_BYTES_MAX,
        dev_command_cost_us: HashMap::new(),
    };
    Ok(Arc::new(NodeContext::new(NodeParts {
        id: NodeId::new("n1")?,
        index: 0,
        nodes: 1,
        log: Arc::new(NullLog),
        snapshots: Arc::new(FolderSnapshots::open(folder)?),
        directory: Arc::new(Directory::default()),
        keyring: Arc::new(Keyring::from_secret(b"bench")),
        catalogue: Arc::new(Catalogue::default()),
        owners: Arc::default(),
        positions: Arc::new(EventPositions::default()),
        peers: Arc::default(),
        retention: Arc::new(Retention::new(Duration::from_secs(3_600))),
        settings,
        threads,
    })?))
}

/// Sends batches as a feed would, waiting for permits; gives the CPU nanoseconds of the book's thread.
async fn through_the_mailbox(batches: Vec<(Symbol, Vec<Input<Command>>)>, warm: usize) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    let arbiter = Arbiter::new();
    let (tx, rx) = oneshot::channel();
    arbiter.spawn_fn(move || _ = tx.send(Pump::start(1)));
    let node = node(vec![(arbiter.handle(), rx.await?)], folder.path())?;
    let mut books: HashMap<Symbol, (Addr<BookActor>, Arc<Semaphore>)> = HashMap::new();
    let mut started = 0;
    for (n, (symbol, inputs)) in batches.into_iter().enumerate() {
        if n == warm {
            drain(&books).await?;
            started = cpu_of(&arbiter).await?;
        }
        let (book, permits) = books.entry(symbol).or_insert_with(|| {
            let status = node.directory.enter(symbol, 0, node.id);
            let born = Start::new(StartFrom::List { events_from: Offset(0) }, Seq(0));
            (node.start_book(&status, born, Offset(0)), Arc::new(Semaphore::new(BATCHES_IN_FLIGHT_MAX)))
        });
        let permit = Some(Arc::clone(permits).acquire_owned().await?);
        let through = inputs.last().map_or(Offset(0), |i| i.offset.next());
        #[allow(clippy::disallowed_methods)] // bounded by the permit
        book.do_send(Deliver { inputs, through, decode_ns: 0, sent_at: std::time::Instant::now(), permit });
    }
    drain(&books).await?;
    let spent = cpu_of(&arbiter).await? - started;
    node.stop();
    arbiter.stop();
    Ok(spent)
}

async fn drain(books: &HashMap<Symbol, (Addr<BookActor>, Arc<Semaphore>)>) -> anyhow::Result<()> {
    for (_, permits) in books.values() {
        drop(permits.acquire_many(BATCHES_IN_FLIGHT_MAX as u32).await?);
    }
    Ok(())
}

async fn cpu_of(arbiter: &Arbiter) -> anyhow::Result<u64> {
    let (tx, rx) = oneshot::channel();
    arbiter.spawn_fn(move || _ = tx.send(thread_cpu_ns()));
    Ok(rx.await?)
}

/// The same batches straight into the engine; CPU nanoseconds.
fn straight(batches: &[(Symbol, Vec<Input<Command>>)], warm: usize) -> u64 {
    let mut books: HashMap<Symbol, (Option<Book>, Outbox)> = HashMap::new();
    let mut started = thread_cpu_ns();
    for (n, (symbol, inputs)) in batches.iter().enumerate() {
        if n == warm {
            started = thread_cpu_ns();
        }
        let (book, out) = books.entry(*symbol).or_insert_with(|| (None, Outbox::new(Seqs::default(), Epoch(0))));
        match book {
            None => *book = inputs.first().and_then(|list| Book::birth(list, out)),
            Some(book) => book.apply_batch(inputs, out),
        }
        out.clear();
    }
    thread_cpu_ns() - started
}

/// Groups records as a feed does: runs of one symbol within a window of `size` records.
fn batches(inputs: &[(Symbol, Input<Command>)], size: usize) -> Vec<(Symbol, Vec<Input<Command>>)> {
    let mut batches: Vec<(Symbol, Vec<Input<Command>>)> = Vec::new();
    let mut open: HashMap<Symbol, usize> = HashMap::new();
    for (n, (symbol, input)) in inputs.iter().enumerate() {
        // A window holds about `size` records of each of the busiest symbols.
        if n % (size * 8) == 0 {
            open.clear();
        }
        match open.get(symbol).copied().filter(|at| batches[*at].1.len() < size) {
            Some(at) => batches[at].1.push(input.clone()),
            None => {
                open.insert(*symbol, batches.len());
                batches.push((*symbol, vec![input.clone()]));
            }
        }
    }
    batches
}

/// Measures and prints.
///
/// # Errors
/// When a book does not answer.
pub fn run(args: ActorArgs) -> anyhow::Result<()> {
    let (listings, warm_up, timed) = flow_inputs(&args.flow, args.records)?;
    let mut rows = Vec::new();
    println!("flow {}, {} timed records; commands per CPU second of the book's thread", args.flow, timed.len());
    for size in [1usize, 64, 256] {
        let mut all: Vec<_> = listings.iter().map(|(s, list)| (*s, vec![list.clone()])).collect();
        all.extend(batches(&warm_up, size));
        let warm = all.len();
        all.extend(batches(&timed, size));
        let bare_ns = straight(&all, warm);
        let spent_ns = System::new().block_on(through_the_mailbox(all, warm))?;
        let rate = |ns: u64| timed.len() as f64 / (ns as f64 / 1e9);
        let ratio = bare_ns as f64 / spent_ns as f64;
        println!(
            "batches of {size:>3}: {:>6.2} M/s through the mailbox, {:>6.2} M/s bare, ratio {ratio:.2}",
            rate(spent_ns) / 1e6,
            rate(bare_ns) / 1e6
        );
        rows.push(json!({"batch": size, "commands_per_s": rate(spent_ns), "baseline_commands_per_s": rate(bare_ns),
                         "ratio": ratio}));
    }
    if let Some(file) = &args.json {
        let all = json!({"flow": args.flow, "commands": timed.len(), "batches": rows});
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}
