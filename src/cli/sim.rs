//! `sim`: seeds of the simulator, one after the other or on several threads, and a closing table.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use anyhow::{Result, bail};

use super::sim_placement as placement;
use crate::migration::placement::sim::Pattern;
use crate::migration::sim::{Counts, Happened, Mutation, Options, command_for, run as run_seed};

/// Failures that are told; the others are counted.
const TOLD_MAX: u64 = 10;

#[derive(Debug, Clone, clap::Args)]
pub struct SimArgs {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    pub seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Only this one.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    pub seed: Option<u64>,
    /// Tells what happened, line by line. Needs --seed.
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Threads; by default one per core.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Puts a wrong reading of the handover into the nodes: the run should then fail.
    #[arg(long, value_enum)]
    pub mutation: Option<Mutation>,
    /// Simulates the placement of books instead: how the policy that moves them by itself settles under load that
    /// changes. One pattern, or all.
    #[arg(long, value_enum, num_args = 0..=1, conflicts_with = "mutation")]
    pub placement: Option<Option<Pattern>>,
}

/// What a thread says of a seed.
struct Verdict {
    seed: u64,
    counts: Counts,
    violations: Vec<String>,
}

/// Runs the seeds and prints the table.
///
/// # Errors
/// When a seed shows a violation.
pub fn run(args: &SimArgs) -> Result<()> {
    if let Some(pattern) = args.placement {
        return match (args.trace, args.seed) {
            (true, Some(seed)) => placement::tell(pattern.unwrap_or(Pattern::Step), seed),
            (_, Some(seed)) => placement::run(pattern, seed, 1),
            _ => placement::run(pattern, args.from, args.seeds),
        };
    }
    if args.trace {
        return tell(args);
    }
    let (from, seeds) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).clamp(1, 64);
    let started = std::time::Instant::now();
    let (next, (tx, verdicts)) = (AtomicU64::new(from), mpsc::channel());
    let (all, failed) = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (tx, next) = (tx.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(seeds) || tx.send(judge(seed, args.mutation)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tx);
        collect(&verdicts, seeds, args.mutation)
    });
    print_table(&all);
    println!("{seeds} seeds from {from} in {:.1} s on {threads} threads", started.elapsed().as_secs_f64());
    if failed > 0 {
        bail!("{failed} of {seeds} seeds show a violation");
    }
    println!("no violation");
    Ok(())
}

/// One seed; a panic of a state machine is a violation too.
fn judge(seed: u64, mutation: Option<Mutation>) -> Verdict {
    match catch_unwind(AssertUnwindSafe(|| run_seed(seed, Options { mutation, trace: false }))) {
        Ok(outcome) => Verdict { seed, counts: outcome.counts, violations: outcome.violations },
        Err(_) => Verdict { seed, counts: Counts::default(), violations: vec!["panic".to_owned()] },
    }
}

fn collect(verdicts: &mpsc::Receiver<Verdict>, seeds: u64, mutation: Option<Mutation>) -> (Counts, u64) {
    let is_terminal = std::io::stderr().is_terminal();
    let bar = super::progress(seeds, "seeds");
    let (mut all, mut failed) = (Counts::default(), 0);
    for (done, verdict) in (1u64..).zip(verdicts.iter()) {
        all.merge(&verdict.counts);
        bar.inc(1);
        if !is_terminal && done.is_multiple_of((seeds / 10).max(1)) {
            eprintln!("{done} of {seeds} seeds, {failed} with a violation");
        }
        let Some(first) = verdict.violations.first() else { continue };
        failed += 1;
        if failed <= TOLD_MAX {
            let text = format!("seed {}: {first}\n  repeat: {}", verdict.seed, command_for(verdict.seed, mutation));
            bar.suspend(|| println!("{text}"));
        }
    }
    bar.finish_and_clear();
    (all, failed)
}

fn print_table(all: &Counts) {
    for (title, is_fault) in [("what went wrong", true), ("what came of it", false)] {
        println!("{title}");
        for what in Happened::ALL.into_iter().filter(|w| w.is_fault() == is_fault) {
            println!("  {:>12}  {}", all.get(what), what.words());
        }
    }
}

/// The story of one seed.
fn tell(args: &SimArgs) -> Result<()> {
    let seed = args.seed.unwrap_or_default();
    let outcome = run_seed(seed, Options { mutation: args.mutation, trace: true });
    let mut out = std::io::stdout().lock();
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    if let Some(first) = outcome.violations.first() {
        bail!("seed {seed}: {first}");
    }
    writeln!(out, "seed {seed}: no violation")?;
    Ok(())
}
