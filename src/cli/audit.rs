//! `hotbook audit`: reads log and snapshots as a second process, and judges every symbol (docs/audit.md).
//!
//! Each partition is read once; memory holds the books of one partition and what of its `orders` is not answered yet.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use figment::value::{Dict, Value};
use indicatif::ProgressBar;
use serde::Serialize;

use super::parts;
use super::serve::known_secret;
use crate::config;
use crate::domain::{Offset, Symbol};
use crate::migration::audit::{AuditOptions, SnapshotBytes, SymbolAuditor, SymbolReport, Violation, highest_input};
use crate::ports::log::embedded::EmbeddedLog;
use crate::ports::log::{Log, LogError, Record, Topic, TopicPartition, partition_of};
use crate::ports::snapshots::folder::FolderSnapshots;
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};
use crate::wire::Keyring;

/// Records asked for at once: 1,024 of up to 512 KiB, usually under 1 KiB.
const READ_RECORDS_MAX: usize = 1_024;
/// How often a partition is begun anew because it was trimmed meanwhile.
const TRIES_MAX: u32 = 5;

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Data folder of the exchange, which may be running.
    #[arg(long, visible_alias = "dir")]
    data: Option<PathBuf>,
    /// Settings file (TOML) of the exchange; of a cluster, Kafka and S3 are read.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only this symbol.
    #[arg(long)]
    symbol: Option<Symbol>,
    /// Every record must be answered: right after a clean stop, too much beside a running exchange.
    #[arg(long)]
    complete: bool,
    /// The whole report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    violations: u64,
    first: Option<&'a Violation>,
    symbols: &'a [SymbolReport],
}

/// Judges, prints, and fails when something was found.
///
/// # Errors
/// When the data cannot be read, or with the first offence.
pub fn run(args: &AuditArgs) -> Result<()> {
    let mut flags = Dict::new();
    if let Some(data) = &args.data {
        flags.insert("data_dir".into(), Value::from(data.to_string_lossy().into_owned()));
    }
    let config = config::load(args.config.as_deref(), std::env::vars(), flags)?;
    let secret = known_secret(&config)?.context("the cluster's secret is not known: set HOTBOOK_CLUSTER_SECRET")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reports = runtime.block_on(async {
        let (log, snapshots) = parts::open_read_only(&config).await?;
        judge(&*log, &*snapshots, &Keyring::from_secret(&secret), args.symbol, args.complete).await
    })?;
    let violations = reports.iter().map(|r| r.violations_total).sum();
    let first = reports.iter().find_map(|r| r.violations.first());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&Summary { violations, first, symbols: &reports })?);
    } else {
        reports.iter().for_each(print);
    }
    if reports.is_empty() && args.symbol.is_some() {
        bail!("there is no such symbol");
    }
    match first {
        Some(first) => bail!("{violations} violations; the first: {first}"),
        None => Ok(()),
    }
}

/// Judges every symbol of a data folder, or one.
///
/// # Errors
/// When log or snapshots cannot be read.
pub async fn judge_folder(
    data: &Path,
    secret: &[u8],
    only: Option<Symbol>,
    complete: bool,
) -> Result<Vec<SymbolReport>> {
    let log = EmbeddedLog::open_read_only(data).with_context(|| format!("no log in {}", data.display()))?;
    let snapshots = FolderSnapshots::open_read_only(data);
    judge(&log, &snapshots, &Keyring::from_secret(secret), only, complete).await
}

/// Judges every symbol of a log, or one; in order of symbol.
///
/// # Errors
/// When log or snapshots cannot be read.
pub async fn judge(
    log: &dyn Log,
    snapshots: &dyn SnapshotStore,
    keyring: &Keyring,
    only: Option<Symbol>,
    complete: bool,
) -> Result<Vec<SymbolReport>> {
    let partitions = match only {
        Some(symbol) => vec![partition_of(symbol.as_bytes(), log.partitions())],
        None => (0..log.partitions()).collect(),
    };
    let bar = super::progress(0, "records");
    let mut reports = Vec::new();
    for partition in partitions {
        let mut tries = 1..TRIES_MAX;
        reports.extend(loop {
            match judge_partition(log, snapshots, keyring, partition, (only, complete), &bar).await {
                // A running exchange forgot what was about to be read: there are newer snapshots now.
                Err(e) if is_trimmed(&e) && tries.next().is_some() => {}
                judged => break judged?,
            }
        });
    }
    bar.finish_and_clear();
    reports.sort_by_key(|r| r.symbol);
    Ok(reports)
}

fn is_trimmed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<LogError>(), Some(LogError::Trimmed { .. }))
}

async fn judge_partition(
    log: &dyn Log,
    store: &dyn SnapshotStore,
    keyring: &Keyring,
    partition: u32,
    (only, complete): (Option<Symbol>, bool),
    bar: &ProgressBar,
) -> Result<Vec<SymbolReport>> {
    let is_wanted = |symbol: &Symbol| only.is_none_or(|only| only == *symbol);
    // Read before the ends: what they claim is in the log by now. Then `events`, whose inputs are in `orders` by now.
    let mut snapshots = snapshots_of(store, partition, log.partitions(), is_wanted).await?;
    let mut events = Stream::open(log, Topic::Events, partition).await?;
    let mut orders = Stream::open(log, Topic::Orders, partition).await?;
    bar.inc_length(events.len() + orders.len());
    let options = AuditOptions {
        orders_start: orders.start,
        events_start: events.start,
        complete,
        ..AuditOptions::new(keyring.clone(), partition)
    };
    let mut auditors: BTreeMap<Symbol, SymbolAuditor> = BTreeMap::new();
    let mut found = |symbol: Symbol| {
        let of_symbol = snapshots.remove(&symbol).unwrap_or_default();
        SymbolAuditor::new(symbol, of_symbol, &options)
    };
    let symbol_of = |record: &Record| Symbol::from_bytes(&record.key).ok().filter(is_wanted);
    while let Some(event) = events.next().await? {
        bar.inc(1);
        let Some(symbol) = symbol_of(&event) else { continue };
        if let Some(highest) = highest_input(&event) {
            while let Some(order) = orders.next_through(highest).await? {
                bar.inc(1);
                if let Some(symbol) = symbol_of(&order) {
                    auditors.entry(symbol).or_insert_with(|| found(symbol)).order(order);
                }
            }
        }
        auditors.entry(symbol).or_insert_with(|| found(symbol)).event(&event);
    }
    while let Some(order) = orders.next().await? {
        bar.inc(1);
        if let Some(symbol) = symbol_of(&order) {
            auditors.entry(symbol).or_insert_with(|| found(symbol)).order(order);
        }
    }
    for (symbol, of_symbol) in snapshots {
        auditors.insert(symbol, SymbolAuditor::new(symbol, of_symbol, &options));
    }
    let reports = auditors.into_values().map(SymbolAuditor::finish);
    // A key that was never listed is no book: its records are dead letters.
    Ok(reports.filter(|r| r.inputs + r.outputs + r.snapshots + r.violations_total > 0).collect())
}

/// The kept snapshots of a partition's symbols.
async fn snapshots_of(
    store: &dyn SnapshotStore,
    partition: u32,
    partitions: u32,
    is_wanted: impl Fn(&Symbol) -> bool,
) -> Result<BTreeMap<Symbol, Vec<SnapshotBytes>>> {
    let mut all = BTreeMap::new();
    let symbols = store.symbols().await?.into_iter();
    for symbol in symbols.filter(|s| partition_of(s.as_bytes(), partitions) == partition && is_wanted(s)) {
        let mut kept = Vec::new();
        for key in store.list(symbol).await? {
            match store.get(key).await {
                Ok(bytes) => kept.push(SnapshotBytes { key, bytes }),
                // Pruned between listing and reading.
                Err(SnapshotStoreError::Missing { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        all.insert(symbol, kept);
    }
    Ok(all)
}

/// One partition of one topic, from where it begins to where it ended when it was opened.
struct Stream<'a> {
    log: &'a dyn Log,
    of: TopicPartition,
    start: Offset,
    next: Offset,
    end: Offset,
    read: VecDeque<Record>,
}

impl<'a> Stream<'a> {
    async fn open(log: &'a dyn Log, topic: Topic, partition: u32) -> Result<Self> {
        let of = TopicPartition { topic, partition };
        let end = log.end_offset(of).await?;
        let start = log.start_offset(of).await?;
        Ok(Self { log, of, start, next: start, end, read: VecDeque::new() })
    }

    fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Reads on if nothing is left of what was read.
    async fn fill(&mut self) -> Result<()> {
        if self.read.is_empty() && self.next < self.end {
            let wanted = READ_RECORDS_MAX.min((self.end.0 - self.next.0) as usize);
            let records = self.log.read(self.of, self.next, wanted).await?;
            self.read.extend(records);
            if let Some(last) = self.read.back() {
                self.next = last.offset.next();
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Record>> {
        self.next_through(Offset(u64::MAX)).await
    }

    /// The next record, if it lies at or below `highest`.
    async fn next_through(&mut self, highest: Offset) -> Result<Option<Record>> {
        self.fill().await?;
        let is_due = self.read.front().is_some_and(|r| r.offset <= highest);
        Ok(if is_due { self.read.pop_front() } else { None })
    }
}

fn print(r: &SymbolReport) {
    let verdict = if r.is_clean() { "clean".to_owned() } else { format!("{} VIOLATIONS", r.violations_total) };
    println!(
        "{:<16} {verdict}: {} inputs from offset {}, {} outputs, {} fills, {} repeats, {} pending, {} refused, \
        {} snapshots, {} moves",
        r.symbol.as_str(),
        r.inputs,
        r.from,
        r.outputs,
        r.fills,
        r.repeats,
        r.pending,
        r.refused,
        r.snapshots,
        r.moves.len()
    );
    for m in &r.moves {
        let pause = m.pause_us.map_or("nothing behind it yet".to_owned(), |us| format!("pause {us} us"));
        println!("  epoch {}: {} to {} at offset {}, {pause}", m.epoch, m.from, m.to, m.fence_offset);
    }
    if r.repeats_unchecked > 0 {
        println!("  {} repeats were too old to be compared", r.repeats_unchecked);
    }
    for violation in &r.violations {
        println!("  {violation}");
    }
}
