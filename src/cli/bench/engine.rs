//! `bench engine`: all rules, outputs and digests on, one core, commands per second of its own CPU time.
//!
//! Commands are decoded and grouped as the feeds group them: the symbols lie in 64 partitions, a read takes at most 4,096
//! records of one partition, and each book gets its own of them in batches of at most 256. Warm-up records are applied
//! and not counted. The header's fills and quantity are checked.
//!
//! The CPU time is that of `apply_batch`: matching, rules, digests and outputs. Decoding and publishing are other threads'
//! work and are not in it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::bail;
use hdrhistogram::Histogram;
use serde_json::json;

use super::{input_of, listing_of, progress};
use crate::actors::book::BATCH_RECORDS_MAX;
use crate::cli::flow;
use crate::cli::flow_file::{self, FlowHeader, FlowRecord};
use crate::clock::thread_cpu_ns;
use crate::domain::{Command, Epoch, Input, Machine, Micros, OrderId, Outbox, Output, OutputBody, Seqs};
use crate::engine::Book;
use crate::migration::naive::NaiveBook;
use crate::ports::log::partition_of;

/// Records decoded ahead of the clock: a feed's batch is in the cache as well when the book gets it.
const READ_RECORDS: usize = 4_096;
/// Partitions of a new log.
const PARTITIONS: u32 = 64;
/// What waits in all partitions when the feeds come round: some milliseconds of a node's full load.
const WAITING_RECORDS: usize = 65_536;
/// Commands whose times are taken one by one.
const TIMED_ONE_BY_ONE: usize = 1_000_000;
/// The naive matcher is measured on the first timed records of the flow: it ends within seconds.
const BASELINE_RECORDS: usize = 50_000;

#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// A, B or C.
    #[arg(default_value = "B")]
    pub kind: String,
    /// A flow file instead.
    #[arg(long)]
    pub flow: Option<PathBuf>,
    /// Timed records.
    #[arg(long, default_value_t = 5_000_000)]
    pub records: u64,
    /// Writes the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// A book and where its outputs go.
struct Desk {
    book: Book,
    out: Outbox,
    inputs: Vec<Input<Command>>,
}

fn desks(symbols: u64) -> Vec<Desk> {
    let desk = |n| {
        let mut out = Outbox::new(Seqs::default(), Epoch(0));
        let book = Book::birth(&listing_of(n), &mut out).unwrap_or_else(|| unreachable!("a plain listing"));
        out.clear();
        Desk { book, out, inputs: Vec::new() }
    };
    (0..symbols).map(desk).collect()
}

/// Applies records as the reads of feeds.
struct Run {
    desks: Vec<Desk>,
    /// Partition of each symbol.
    partition_of: Vec<usize>,
    fills: u64,
    filled: u64,
    /// Of outputs.
    bytes: u64,
    /// Symbols that have records in the current read, in order of appearance.
    busy: Vec<u16>,
    /// If commands are timed one by one.
    times: Option<Histogram<u64>>,
}

impl Run {
    fn new(symbols: u64, partitions: u32) -> Self {
        let place = |n: u64| partition_of(flow_file::symbol_of(n as u16).as_bytes(), partitions) as usize;
        let partition_of = (0..symbols).map(place).collect();
        Self { desks: desks(symbols), partition_of, fills: 0, filled: 0, bytes: 0, busy: Vec::new(), times: None }
    }

    /// Applies what waits in all partitions, one read after another; gives the CPU nanoseconds of applying.
    fn round(&mut self, first: u64, records: &[FlowRecord], order_id_of: fn(u32) -> OrderId) -> u64 {
        let mut waiting: Vec<Vec<(u64, FlowRecord)>> = vec![Vec::new(); PARTITIONS as usize];
        for (n, r) in (first..).zip(records) {
            waiting[self.partition_of[usize::from(r.symbol)]].push((n, *r));
        }
        waiting.iter().flat_map(|w| w.chunks(READ_RECORDS)).map(|read| self.read(read, order_id_of)).sum()
    }

    fn read(&mut self, records: &[(u64, FlowRecord)], order_id_of: fn(u32) -> OrderId) -> u64 {
        self.busy.clear();
        for (n, r) in records {
            let desk = &mut self.desks[usize::from(r.symbol)];
            if desk.inputs.is_empty() {
                self.busy.push(r.symbol);
            }
            desk.inputs.push(input_of(*n, r, order_id_of));
        }
        let started = thread_cpu_ns();
        for symbol in &self.busy {
            let desk = &mut self.desks[usize::from(*symbol)];
            for batch in desk.inputs.chunks(BATCH_RECORDS_MAX) {
                match &mut self.times {
                    None => desk.book.apply_batch(batch, &mut desk.out),
                    Some(times) => apply_timed(&mut desk.book, batch, &mut desk.out, times),
                }
            }
        }
        let spent = thread_cpu_ns() - started;
        for symbol in &self.busy {
            let desk = &mut self.desks[usize::from(*symbol)];
            desk.inputs.clear();
            self.bytes += desk.out.bytes().len() as u64;
            self.fills += count_fills(&desk.out, &mut self.filled);
            desk.out.clear();
        }
        spent
    }

    /// CPU nanoseconds of the timed records.
    fn all(&mut self, header: &FlowHeader, records: &[FlowRecord], order_id_of: fn(u32) -> OrderId) -> u64 {
        let bar = progress(records.len() as u64, "records applied");
        let (warm_up, timed) = records.split_at(header.warm_up as usize);
        let mut n = header.symbols;
        let mut spent = 0;
        for (part, counts) in [(warm_up, false), (timed, true)] {
            for round in part.chunks(WAITING_RECORDS) {
                let ns = self.round(n, round, order_id_of);
                spent += if counts { ns } else { 0 };
                n += round.len() as u64;
                bar.inc(round.len() as u64);
            }
        }
        bar.finish_and_clear();
        spent
    }
}

/// Takes the time from the end of each command to the end of the next, or from the batch's start: its share of the
/// hashing and fetching ahead is in it, and reading the clock, which takes some 30 ns.
fn apply_timed(book: &mut Book, batch: &[Input<Command>], out: &mut Outbox, times: &mut Histogram<u64>) {
    let mut last = Instant::now();
    book.apply_each(batch, out, |_| {
        let now = Instant::now();
        times.saturating_record((now - last).as_nanos() as u64);
        last = now;
    });
}

/// Walks over the encoded outputs; only trades are decoded.
fn count_fills(out: &Outbox, filled: &mut u64) -> u64 {
    let mut fills = 0;
    let mut rest = out.bytes();
    while let Ok(head) = crate::domain::outbox::Header::read(rest) {
        if head.classes.has(crate::domain::Classes::FILLS)
            && let Ok((Output { body: OutputBody::Trade(t), .. }, _)) = Output::decode(rest)
        {
            fills += 1;
            *filled += t.quantity.0;
        }
        rest = &rest[head.length..];
    }
    fills
}

/// 99th percentile of the nanoseconds of a command within its batch.
fn p99_ns(header: &FlowHeader, records: &[FlowRecord]) -> anyhow::Result<u64> {
    let (warm_up, timed) = records.split_at(header.warm_up as usize);
    let mut run = Run::new(header.symbols, PARTITIONS);
    let warm = FlowHeader { warm_up: 0, ..*header };
    run.all(&warm, warm_up, flow_file::order_id_of);
    run.times = Some(Histogram::new(3)?);
    run.all(&warm, &timed[..timed.len().min(TIMED_ONE_BY_ONE)], flow_file::order_id_of);
    Ok(run.times.map_or(0, |times| times.value_at_quantile(0.99)))
}

/// Commands per CPU second of the naive matcher over the flow's first timed records, behind the same warm-up.
fn naive_rate(header: &FlowHeader, records: &[FlowRecord]) -> f64 {
    let Command::List { listing, .. } = listing_of(0).command else { unreachable!("a listing") };
    let born = || NaiveBook::birth(&listing).unwrap_or_else(|| unreachable!("a plain listing")).0;
    let mut books: Vec<NaiveBook> = (0..header.symbols).map(|_| born()).collect();
    let (warm_up, timed) = records.split_at(header.warm_up as usize);
    let mut spent = 0;
    for part in [warm_up, &timed[..timed.len().min(BASELINE_RECORDS)]] {
        let command = |r: &FlowRecord| (usize::from(r.symbol), flow_file::command_of(r, flow_file::order_id_of));
        let commands: Vec<_> = part.iter().map(command).collect();
        let started = thread_cpu_ns();
        for (symbol, command) in &commands {
            std::hint::black_box(books[*symbol].apply(command, Micros(0)));
        }
        spent = thread_cpu_ns() - started;
    }
    timed.len().min(BASELINE_RECORDS) as f64 / (spent as f64 / 1e9)
}

/// Measures and prints.
///
/// # Errors
/// When the flow cannot be had, or the engine's fills are not those that its header expects.
pub fn run(args: &EngineArgs) -> anyhow::Result<()> {
    let (name, (header, records)) = match &args.flow {
        Some(path) => (path.display().to_string(), flow_file::read(path)?),
        None => {
            let bar = progress(args.records, "records made");
            let made = flow::generate(&args.kind, args.records, &|n| {
                if n % 4_096 == 0 {
                    bar.set_position(n);
                }
            })?;
            bar.finish_and_clear();
            (args.kind.clone(), made)
        }
    };
    let timed = header.records - header.warm_up;
    let mut run = Run::new(header.symbols, PARTITIONS);
    let spent = run.all(&header, &records, flow_file::order_id_of);
    let left: u64 = run.desks.iter().map(|d| d.book.resting_orders() as u64).sum();
    let expected = (header.fills, header.filled_quantity, header.orders_left);
    if (run.fills, run.filled, left) != expected {
        bail!("fills, quantity, orders left: {:?}, the flow expects {expected:?}", (run.fills, run.filled, left));
    }
    let (fills, filled, bytes) = (run.fills, run.filled, run.bytes / header.records);
    drop(run);
    let numeric = Run::new(header.symbols, PARTITIONS).all(&header, &records, flow_file::numeric_order_id_of);
    let rate = |ns: u64| timed as f64 / (ns as f64 / 1e9);
    let (p99, baseline) = (p99_ns(&header, &records)?, naive_rate(&header, &records));
    println!("flow {name}: {timed} timed commands, {fills} fills, quantity {filled}, as expected");
    println!("engine            {:>8.2} M commands per CPU second, 36-character ids", rate(spent) / 1e6);
    println!("  short ids       {:>8.2} M commands per CPU second", rate(numeric) / 1e6);
    println!("  one command     {p99:>8} ns p99 within its batch");
    println!("  outputs         {bytes:>8} bytes per command, {:.2} GB/s", bytes as f64 * rate(spent) / 1e9);
    if header.symbols > 1 {
        let together = Run::new(header.symbols, 1).all(&header, &records, flow_file::order_id_of);
        println!("  one partition   {:>8.2} M commands per CPU second, all symbols in one", rate(together) / 1e6);
    }
    println!(
        "naive matcher     {:>8.3} M commands per CPU second, first {BASELINE_RECORDS} timed records",
        baseline / 1e6
    );
    println!("ratio             {:>8.1}", rate(spent) / baseline);
    if let Some(file) = &args.json {
        let all = json!({
            "flow": name, "commands": timed, "fills": fills, "filled_qty": filled,
            "commands_per_s": rate(spent), "cpu_s": spent as f64 / 1e9, "p99_ns": p99,
            "baseline_commands_per_s": baseline, "ratio": rate(spent) / baseline,
            "numeric_ids_commands_per_s": rate(numeric),
        });
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}
