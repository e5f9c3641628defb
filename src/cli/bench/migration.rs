//! `bench migration`: the pause of a move under load, over book sizes, beside one durable append of the same run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::json;

use super::chart::{Axis, Line, Scale};
use super::load::{self, WITHIN};
use super::progress;
use crate::actors::exchange::{Exchange, ExchangeConfig};
use crate::domain::{NodeId, Side, Symbol};
use crate::migration::handover::{Cause, MoveRecord, MoveStatus};
use crate::ports::log::{NewRecord, Session, Topic, TopicPartition, partition_of};

const APPENDS: usize = 300;
const PARTITIONS: u32 = 4;

#[derive(Debug, Clone, clap::Args)]
pub struct MigrationArgs {
    /// Book sizes, in resting orders.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    pub orders: Vec<u64>,
    /// Moves per size.
    #[arg(long, default_value_t = 40)]
    pub moves: usize,
    /// Commands per second while the book moves, evenly spaced.
    #[arg(long, default_value_t = 10_000)]
    pub rate: u64,
    /// The log is Kafka there, `host:port,..`: topics of the run's own are made and left. Its time stamps are milliseconds.
    #[cfg(feature = "kafka")]
    #[arg(long)]
    pub brokers: Option<String>,
    /// Where the data folder is made.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Draws the figures as SVG.
    #[arg(long)]
    pub chart: Option<PathBuf>,
}

struct Row {
    orders: u64,
    pauses: Vec<u64>,
    excesses: Vec<u64>,
    stalls: Vec<u64>,
    parked: u64,
    snapshot_bytes: u64,
    append_p50_us: u64,
    /// Writing, reading and restoring a snapshot while nothing trades: what a stop-and-copy would pause for.
    stop_and_copy_us: u64,
}

fn at(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default()
}

/// Pairs that trade with each other, one command after another on a fixed schedule, until told to stop. A thread of its own:
/// timers of an event loop have a grain of a millisecond, and a move would fall between two bursts.
fn trade(session: &dyn Session, symbol: Symbol, from: u64, rate: u64, stop: &AtomicBool) {
    let partition = partition_of(symbol.as_bytes(), PARTITIONS);
    let started = Instant::now();
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let side = if n % 2 == 0 { Side::Sell } else { Side::Buy };
        if let Ok(command) = load::order(from + n, side, 5_000) {
            drop(session.append(load::record(&symbol, partition, Bytes::new(), &command)));
        }
        let due = Duration::from_nanos((n + 1) * 1_000_000_000 / rate.max(1));
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

async fn move_to(exchange: &Arc<Exchange>, symbol: Symbol, to: NodeId) -> anyhow::Result<MoveRecord> {
    let id = exchange.moves().begin(symbol, to, Cause::Operator)?;
    let started = Instant::now();
    loop {
        let record = exchange.moves().get(id).context("the move is remembered")?;
        match record.status {
            MoveStatus::Completed => return Ok(record),
            MoveStatus::Running if started.elapsed() < WITHIN => tokio::time::sleep(Duration::from_millis(2)).await,
            status => bail!("move {id}: {status:?}, {:?}", record.error),
        }
    }
}

/// On Kafka if brokers are named, else on the embedded parts.
async fn start(args: &MigrationArgs, config: ExchangeConfig) -> anyhow::Result<Arc<Exchange>> {
    #[cfg(feature = "kafka")]
    if let Some(brokers) = &args.brokers {
        let topics = super::on_kafka::make_topics(brokers, "moves", PARTITIONS, 1).await?;
        let parts = super::on_kafka::parts(topics, &config.data_dir).await?;
        return Ok(Exchange::start_on(config, parts).await?);
    }
    _ = args;
    Ok(Exchange::start(config).await?)
}

async fn measure(args: &MigrationArgs, orders: u64) -> anyhow::Result<Row> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::Builder::new().prefix("hotbook-bench-").tempdir_in(dir)?;
    let config = ExchangeConfig {
        data_dir: folder.path().to_owned(),
        nodes: 2,
        partitions: PARTITIONS,
        cluster_secret: b"bench".to_vec(),
        snapshot_every_s: 3_600,
        snapshot_every_records: u64::MAX,
        ..ExchangeConfig::default()
    };
    let exchange = start(args, config).await?;
    let symbol = Symbol::new("HOT")?;
    load::list(&exchange, &[symbol]).await?;
    let session = load::session(&exchange)?;
    load::rest(&exchange, &*session, &[symbol], 0, orders).await?;
    let letters = TopicPartition { topic: Topic::DeadLetters, partition: 0 };
    let mut appends = Vec::new();
    for _ in 0..APPENDS {
        let started = Instant::now();
        let (key, value) = (Bytes::from_static(b"bench"), Bytes::from_static(&[0; 200]));
        session.append(NewRecord { to: letters, key, header: Bytes::new(), value }).await?;
        appends.push(started.elapsed().as_micros() as u64);
    }
    appends.sort_unstable();
    let started = Instant::now();
    exchange.snapshot(symbol).await?;
    let store = crate::ports::snapshots::folder::FolderSnapshots::open(folder.path())?;
    let read = crate::migration::snapshot::newest_valid::<crate::engine::Book>(&store, symbol);
    read.await?.context("the snapshot is there")?;
    let stop_and_copy_us = started.elapsed().as_micros() as u64;
    let stop = Arc::new(AtomicBool::new(false));
    let (of_thread, stopped, rate) = (Arc::clone(&session), Arc::clone(&stop), args.rate);
    let loading = std::thread::spawn(move || trade(&*of_thread, symbol, orders, rate, &stopped));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let nodes = [NodeId::new("n2")?, NodeId::new("n1")?];
    let empty = Vec::new;
    let mut row = Row {
        orders,
        pauses: empty(),
        excesses: empty(),
        stalls: empty(),
        parked: 0,
        snapshot_bytes: 0,
        append_p50_us: at(&appends, 50),
        stop_and_copy_us,
    };
    let bar = progress(args.moves as u64, "moves");
    for n in 0..args.moves {
        let record = move_to(&exchange, symbol, nodes[n % 2]).await?;
        // What nobody could tell is not a pause of nothing.
        if let Some(pause) = record.pause_us {
            row.pauses.push(pause);
            row.excesses.push(pause.saturating_sub(record.baseline_gap_us.unwrap_or_default()));
        }
        row.stalls.push(record.snapshot_stall_us);
        row.parked += record.parked.unwrap_or_default();
        row.snapshot_bytes = record.snapshot_bytes;
        bar.inc(1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bar.finish_and_clear();
    stop.store(true, Ordering::Release);
    tokio::task::spawn_blocking(move || loading.join()).await?.ok().context("the load went on to its end")?;
    for list in [&mut row.pauses, &mut row.excesses, &mut row.stalls] {
        list.sort_unstable();
    }
    exchange.shutdown().await;
    Ok(row)
}

fn chart(rows: &[Row]) -> String {
    let line = |name, figure: fn(&Row) -> u64| Line {
        name,
        points: rows.iter().map(|r| (r.orders as f64, figure(r) as f64)).collect(),
    };
    let lines = [
        line("stop and copy", |r| r.stop_and_copy_us),
        line("longest pause", |r| at(&r.pauses, 100)),
        line("median pause", |r| at(&r.pauses, 50)),
        line("longest copy of the book", |r| at(&r.stalls, 100)),
    ];
    let axis = |name| Axis { name, scale: Scale::Powers };
    super::chart::svg("A book that moves under load", axis("resting orders"), axis("microseconds"), &lines)
}

/// Measures and prints.
///
/// # Errors
/// When a move does not complete.
pub fn run(args: &MigrationArgs) -> anyhow::Result<()> {
    println!("{} moves per size, {} commands/s while they move; all times in us", args.moves, args.rate);
    println!(
        "{:>9} {:>9} {:>9} {:>9} {:>10} {:>8} {:>7} {:>10} {:>10} {:>12}",
        "orders",
        "pause p50",
        "pause max",
        "p50/append",
        "excess p99",
        "append",
        "parked",
        "stall max",
        "snapshot B",
        "stop+copy"
    );
    let mut all = Vec::new();
    let mut rows = Vec::new();
    for orders in &args.orders {
        let row = actix::System::new().block_on(measure(args, *orders))?;
        let ratio = at(&row.pauses, 50) as f64 / row.append_p50_us.max(1) as f64;
        println!(
            "{:>9} {:>9} {:>9} {:>10.2} {:>10} {:>8} {:>7} {:>10} {:>10} {:>12}",
            row.orders,
            at(&row.pauses, 50),
            at(&row.pauses, 100),
            ratio,
            at(&row.excesses, 99),
            row.append_p50_us,
            row.parked,
            at(&row.stalls, 100),
            row.snapshot_bytes,
            row.stop_and_copy_us
        );
        all.push(
            json!({"orders": row.orders, "pause_p50_us": at(&row.pauses, 50), "pause_max_us": at(&row.pauses, 100),
            "ratio_to_append": ratio, "excess_p99_us": at(&row.excesses, 99), "append_p50_us": row.append_p50_us,
            "parked": row.parked, "snapshot_stall_max_us": at(&row.stalls, 100), "snapshot_bytes": row.snapshot_bytes,
            "stop_and_copy_us": row.stop_and_copy_us}),
        );
        rows.push(row);
    }
    if let Some(file) = &args.chart {
        std::fs::write(file, chart(&rows))?;
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}
