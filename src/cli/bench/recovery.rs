//! `bench recovery`: a node dies with its books; how long until each of them trades again on another.
//!
//! The measure is a client's: an order sent to each book when its node dies, until it is answered. Beside it, in the same
//! run, the time in which nothing but the same snapshots and the same log is read by as many threads as there are cores.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::chart::{Axis, Line, Scale};
use super::load::{self, WITHIN};
use super::progress;
use crate::actors::exchange::{Exchange, ExchangeConfig};
use crate::actors::recovery::high_water;
use crate::clock;
use crate::domain::{Input, Micros, NodeId, Origin, Side, Symbol};
use crate::engine::Book;
use crate::migration::handover::{Cause, MoveRecord, Step};
use crate::migration::replica::Replica;
use crate::migration::snapshot::newest_valid;
use crate::ports::log::{Log, Topic, TopicPartition, partition_of};
use crate::ports::snapshots::folder::FolderSnapshots;
use crate::wire::{self, Keyring};

const SECRET: &[u8] = b"bench";
const NODES: usize = 3;
const READ_RECORDS_MAX: usize = 8_192;
const SNAPSHOTS_AT_ONCE: usize = 16;
/// What PERF asks: every book trades within a second of the detection.
const GOAL_MS: f64 = 1_000.0;

#[derive(Debug, Clone, clap::Args)]
pub struct RecoveryArgs {
    /// Books of the node that dies; the two others have as many each.
    #[arg(long, default_value_t = 1_000)]
    pub books: usize,
    /// Resting orders in each book's snapshot.
    #[arg(long, default_value_t = 100)]
    pub orders: u64,
    /// Records of each book behind its snapshot.
    #[arg(long, default_value_t = 100)]
    pub behind: u64,
    /// Commands per second over all books while the node dies.
    #[arg(long, default_value_t = 3_000)]
    pub rate: u64,
    /// Replicas that follow each book on another node: 0, 1, or both in turn (`0,1`), which is also meant without a value.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_parser = clap::value_parser!(u8).range(0..=1))]
    #[arg(num_args = 0..=1, default_missing_values = ["0", "1"])]
    pub standby: Vec<u8>,
    /// Where the data folders are made.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Draws how many books trade again after which time, as SVG.
    #[arg(long)]
    pub chart: Option<PathBuf>,
}

struct Row {
    standby: u8,
    /// From the death to the first book that a supervisor begins to move.
    detected_ms: f64,
    /// From the detection to each book's answer, ascending.
    trading_ms: Vec<f64>,
    alone_ms: f64,
    /// CPU time of the whole process meanwhile, clients included.
    cpu_ms: f64,
    /// When the books left each step of their moves, from the detection, ascending.
    left_ms: Vec<Vec<f64>>,
}

fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

impl Row {
    fn at(&self, percent: usize) -> f64 {
        at(&self.trading_ms, percent)
    }

    fn ratio(&self) -> f64 {
        self.at(100) / self.alone_ms.max(0.001)
    }
}

fn since_ms(from: Micros, to: Micros) -> f64 {
    to.0.saturating_sub(from.0) as f64 / 1_000.0
}

/// Far from what rests, so that books grow evenly and nothing trades.
async fn trickle(exchange: Arc<Exchange>, symbols: Vec<Symbol>, from: u64, rate: u64, stop: Arc<AtomicBool>) {
    const TICK: Duration = Duration::from_millis(5);
    let Ok(session) = load::session(&exchange) else { return };
    let (partitions, mut tick, begun) = (exchange.log().partitions(), tokio::time::interval(TICK), Instant::now());
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            let symbol = symbols[sent as usize % symbols.len()];
            let n = from + sent / symbols.len() as u64;
            if let Ok(command) = load::order(n, Side::Buy, 500) {
                let partition = partition_of(symbol.as_bytes(), partitions);
                drop(session.append(load::record(&symbol, partition, Bytes::new(), &command)));
            }
            sent += 1;
        }
        tick.tick().await;
    }
}

/// One order to each book; when each is answered.
async fn probe(exchange: &Exchange, symbols: &[Symbol], n: u64) -> anyhow::Result<Vec<Micros>> {
    let (session, partitions) = (load::session(exchange)?, exchange.log().partitions());
    let (mut records, answers) = (Vec::new(), FuturesUnordered::new());
    for symbol in symbols {
        let (origin, answer) = exchange.gateway().expect_answer();
        let (partition, header) = (partition_of(symbol.as_bytes(), partitions), origin.to_bytes());
        let command = load::order(n, Side::Buy, 400)?;
        records.push(load::record(symbol, partition, Bytes::copy_from_slice(&header), &command));
        answers.push(async move { answer.await.map(|_| clock::now()) });
    }
    session.append_all(records).await?;
    let all = tokio::time::timeout(WITHIN, answers.try_collect());
    Ok(all.await.context("a book does not trade again")??)
}

/// Reads the same snapshots and the same log, with nothing around it.
async fn rebuild_alone(
    log: Arc<dyn Log>,
    store: FolderSnapshots,
    partition: u32,
    symbols: Vec<Symbol>,
) -> anyhow::Result<()> {
    let (keyring, me) = (Keyring::from_secret(SECRET), NodeId::new("alone")?);
    let mut replicas = BTreeMap::new();
    for symbol in symbols {
        let snapshot = newest_valid::<Book>(&store, symbol).await?.context("every book has a snapshot")?;
        replicas.insert(symbol, (snapshot.events_position, Replica::restore(me, snapshot)));
    }
    let events_from = replicas.values().map(|(position, _)| *position).min().context("some symbols")?;
    let known = high_water(&*log, partition, events_from).await?;
    let mut effects = Vec::new();
    for (symbol, (_, replica)) in &mut replicas {
        replica.topic_read(known.get(symbol).copied().unwrap_or_default(), &mut effects);
    }
    let of = TopicPartition { topic: Topic::Orders, partition };
    let end = log.end_offset(of).await?;
    let mut next = replicas.values().map(|(_, r)| r.offset()).min().unwrap_or(end);
    while next < end {
        let mut runs: BTreeMap<Symbol, Vec<Input<_>>> = BTreeMap::new();
        for record in log.read(of, next, READ_RECORDS_MAX).await? {
            next = record.offset.next();
            let Ok(symbol) = Symbol::from_bytes(&record.key) else { continue };
            if !replicas.contains_key(&symbol) {
                continue;
            }
            let (_, command) = wire::decode(&record.value, partition, &keyring)?;
            let origin = Origin::from_bytes(&record.header);
            runs.entry(symbol).or_default().push(Input { offset: record.offset, at: record.at, origin, command });
        }
        for (symbol, inputs) in runs {
            if let Some((_, replica)) = replicas.get_mut(&symbol) {
                replica.apply(&inputs, next, &mut effects);
            }
        }
    }
    Ok(())
}

async fn alone_ms(exchange: &Exchange, args_dir: &std::path::Path, symbols: &[Symbol]) -> anyhow::Result<f64> {
    let mut by_partition: BTreeMap<u32, Vec<Symbol>> = BTreeMap::new();
    for symbol in symbols {
        let partition = partition_of(symbol.as_bytes(), exchange.log().partitions());
        by_partition.entry(partition).or_default().push(*symbol);
    }
    let (log, store) = (Arc::clone(exchange.log()), FolderSnapshots::open_read_only(args_dir));
    let rebuilding = tokio::task::spawn_blocking(move || {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let started = Instant::now();
        pool.block_on(async {
            let rebuilt: FuturesUnordered<_> = by_partition
                .into_iter()
                .map(|(p, symbols)| tokio::spawn(rebuild_alone(Arc::clone(&log), store.clone(), p, symbols)))
                .collect();
            rebuilt.map(|done| done?).try_collect::<()>().await
        })?;
        anyhow::Ok(started.elapsed())
    });
    Ok(rebuilding.await??.as_secs_f64() * 1_000.0)
}

async fn snapshot_all(exchange: &Arc<Exchange>, symbols: &[Symbol]) -> anyhow::Result<()> {
    let bar = progress(symbols.len() as u64, "snapshots");
    let saves = symbols.iter().map(|symbol| async {
        let saved = exchange.snapshot(*symbol).await;
        bar.inc(1);
        saved
    });
    let mut saves = futures_util::stream::iter(saves).buffer_unordered(SNAPSHOTS_AT_ONCE);
    while let Some(saved) = saves.next().await {
        saved?;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn all_followed(exchange: &Exchange, symbols: &[Symbol]) -> anyhow::Result<()> {
    let (bar, started) = (progress(symbols.len() as u64, "books followed"), Instant::now());
    loop {
        let is_level = |s: &&Symbol| exchange.fleet().standby_of(s).is_some_and(|s| !s.is_detached() && s.lag() == 0);
        let level = symbols.iter().filter(is_level).count();
        bar.set_position(level as u64);
        if level == symbols.len() {
            bar.finish_and_clear();
            return Ok(());
        }
        if started.elapsed() > WITHIN {
            bail!("{level} of {} books are followed after {WITHIN:?}", symbols.len());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn measure(args: &RecoveryArgs, standby: u8) -> anyhow::Result<Row> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::Builder::new().prefix("hotbook-bench-").tempdir_in(dir)?;
    let config = ExchangeConfig {
        data_dir: folder.path().to_owned(),
        nodes: NODES,
        cluster_secret: SECRET.to_vec(),
        snapshot_every_s: 3_600,
        snapshot_every_records: u64::MAX,
        standby: standby.into(),
        ..ExchangeConfig::default()
    };
    let exchange = Exchange::start(config).await?;
    let symbols: Vec<Symbol> =
        (0..args.books * NODES).map(|n| Symbol::new(&format!("S{n:05}"))).collect::<Result<_, _>>()?;
    load::list(&exchange, &symbols).await?;
    let session = load::session(&exchange)?;
    load::rest(&exchange, &*session, &symbols, 0, args.orders).await?;
    snapshot_all(&exchange, &symbols).await?;
    load::rest(&exchange, &*session, &symbols, args.orders, args.behind).await?;
    if standby > 0 {
        all_followed(&exchange, &symbols).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (from, rate) = (args.orders + args.behind, args.rate);
    let trickling = actix::spawn(trickle(Arc::clone(&exchange), symbols.clone(), from, rate, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let victim = NodeId::new("n1")?;
    let of = |s: &&Symbol| exchange.directory().get(s).is_some_and(|b| b.node() == victim);
    let lost: Vec<Symbol> = symbols.iter().filter(of).copied().collect();
    if lost.len() != args.books {
        bail!("{} books on {victim}, not {}", lost.len(), args.books);
    }
    let (died, cpu) = (clock::now(), clock::process_cpu_ns());
    exchange.fleet().crash(&victim);
    let answered = probe(&exchange, &lost, u64::from(u32::MAX)).await?;
    let cpu_ms = (clock::process_cpu_ns() - cpu) as f64 / 1e6;
    stop.store(true, Ordering::Release);
    trickling.await?;
    let moves: Vec<_> = exchange.moves().all().into_iter().filter(|m| m.plan.cause == Cause::Recovery).collect();
    let begun = moves.iter().map(|m| m.plan.detected_at).min();
    let detected = begun.context("the books were recovered by moves")?;
    let left_ms = Step::ALL.iter().map(|step| left_ms(*step, detected, &moves)).collect();
    let mut trading_ms: Vec<f64> = answered.iter().map(|at| since_ms(detected, *at)).collect();
    trading_ms.sort_by(f64::total_cmp);
    let alone_ms = alone_ms(&exchange, folder.path(), &lost).await?;
    exchange.shutdown().await;
    Ok(Row { standby, detected_ms: since_ms(died, detected), trading_ms, alone_ms, cpu_ms, left_ms })
}

fn left_ms(step: Step, detected: Micros, moves: &[MoveRecord]) -> Vec<f64> {
    let left = |m: &MoveRecord| {
        let of = m.steps.iter().find(|s| s.name == step)?;
        Some(since_ms(detected, Micros(of.started_at.0 + of.took_us?)))
    };
    let mut left_ms: Vec<f64> = moves.iter().filter_map(left).collect();
    left_ms.sort_by(f64::total_cmp);
    left_ms
}

/// When the books left each step, all rows beside each other.
fn print_phases(rows: &[Row]) {
    println!("\nwhen the books left each step, ms from the detection (first, p50, last)");
    let cells = |of: &dyn Fn(&Row) -> String| rows.iter().map(of).collect::<Vec<_>>().join("   ");
    println!("{:>22} {}", "", cells(&|row| format!("{:>29}", format!("standby {}", row.standby))));
    for (n, step) in Step::ALL.iter().enumerate() {
        let times = |row: &Row| {
            let left = &row.left_ms[n];
            format!("{:>9.1} {:>9.1} {:>9.1}", at(left, 0), at(left, 50), at(left, 100))
        };
        println!("{:>22} {}", step.name(), cells(&times));
    }
    println!("{:>22} {}", "CPU ms meanwhile", cells(&|row| format!("{:>29.0}", row.cpu_ms)));
}

fn chart(rows: &[Row]) -> String {
    let names = ["without a standby", "with a standby"];
    let line = |row: &Row| {
        let trading = (1..).zip(&row.trading_ms).map(|(n, ms): (u32, _)| (*ms, f64::from(n)));
        Line { name: names[usize::from(row.standby.min(1))], points: trading.collect() }
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    let x = Axis { name: "milliseconds from the detection", scale: Scale::Even };
    let y = Axis { name: "books that trade again", scale: Scale::Even };
    super::chart::svg("A node dies with its books", x, y, &lines)
}

fn json_of(row: &Row) -> Value {
    json!({"standby": row.standby, "books": row.trading_ms.len(), "detected_ms": row.detected_ms,
           "first_ms": row.at(0), "p50_ms": row.at(50), "last_ms": row.at(100), "baseline_ms": row.alone_ms,
           "ratio": row.ratio(), "goal_ms": GOAL_MS, "is_met": row.at(100) <= GOAL_MS})
}

/// Measures and prints.
///
/// # Errors
/// When a book does not trade again.
pub fn run(args: &RecoveryArgs) -> anyhow::Result<()> {
    println!(
        "one of {NODES} nodes dies with {} books: {} orders in each snapshot, {} records behind it, {} commands/s",
        args.books, args.orders, args.behind, args.rate
    );
    println!("detection from the death, the rest from the detection; read alone = the same snapshots and log");
    println!(
        "{:>7} {:>12} {:>9} {:>9} {:>9} {:>13} {:>6}  goal",
        "standby", "detection ms", "first ms", "p50 ms", "last ms", "read alone ms", "ratio"
    );
    let mut rows = Vec::new();
    for standby in &args.standby {
        let row = actix::System::new().block_on(measure(args, *standby))?;
        println!(
            "{:>7} {:>12.1} {:>9.1} {:>9.1} {:>9.1} {:>13.1} {:>6.2}  {}",
            row.standby,
            row.detected_ms,
            row.at(0),
            row.at(50),
            row.at(100),
            row.alone_ms,
            row.ratio(),
            if row.at(100) <= GOAL_MS { "met" } else { "NOT met" }
        );
        rows.push(row);
    }
    print_phases(&rows);
    if let Some(file) = &args.chart {
        std::fs::write(file, chart(&rows))?;
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows.iter().map(json_of).collect::<Vec<_>>())?)?;
    }
    Ok(())
}
