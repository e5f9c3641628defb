//! `sim --placement`: the placement policy over many seeds of each pattern of load.

use anyhow::{Result, bail};

use crate::migration::placement::Settings;
use crate::migration::placement::sim::{Bounds, Outcome, Pattern, run as run_seed};

/// Failures that are told; the others are counted.
const TOLD_MAX: usize = 10;

/// What all seeds of a pattern showed.
#[derive(Default)]
struct Sum {
    moves: usize,
    changes: usize,
    aborted: usize,
    returns: usize,
    late_moves: usize,
    per_change_max: usize,
    settle_max: u64,
    failed: usize,
}

impl Sum {
    fn add(&mut self, o: &Outcome) {
        self.moves += o.moves;
        self.changes += o.changes;
        self.aborted += o.aborted;
        self.returns += o.returns;
        self.late_moves += o.late_moves;
        self.per_change_max = self.per_change_max.max(o.moves_per_change_max);
        self.settle_max = self.settle_max.max(o.windows_to_settle_max);
        self.failed += usize::from(!o.violations.is_empty());
    }
}

fn name(pattern: Pattern) -> String {
    format!("{pattern:?}").to_lowercase()
}

/// Runs the seeds of every pattern, or of one, and prints the table.
///
/// # Errors
/// When a seed does not settle within its bounds.
pub fn run(pattern: Option<Pattern>, from: u64, seeds: u64) -> Result<()> {
    println!(
        " pattern   seeds  changes    moves  aborted  returns  moves/change  most (bound)  windows to settle (bound)"
    );
    let mut failed = 0;
    for pattern in Pattern::ALL.into_iter().filter(|p| pattern.is_none_or(|only| only == *p)) {
        let (mut sum, bounds, bar) = (Sum::default(), Bounds::of(pattern), super::progress(seeds, "seeds"));
        for seed in from..from.saturating_add(seeds) {
            let outcome = run_seed(seed, pattern, Settings::default(), false);
            sum.add(&outcome);
            bar.inc(1);
            if let Some(first) = outcome.violations.first().filter(|_| sum.failed <= TOLD_MAX) {
                let name = name(pattern);
                bar.suspend(|| {
                    println!("seed {seed}: {first}\n  repeat: hotbook sim --placement {name} --seed {seed} --trace");
                });
            }
        }
        bar.finish_and_clear();
        failed += sum.failed;
        println!(
            "{:>8} {seeds:>7} {:>8} {:>8} {:>8} {:>8} {:>13.2} {:>7} ({:>4}) {:>19} ({:>3})",
            name(pattern),
            sum.changes,
            sum.moves,
            sum.aborted,
            sum.returns,
            sum.moves as f64 / sum.changes.max(1) as f64,
            sum.per_change_max,
            bounds.moves_per_change,
            sum.settle_max,
            bounds.windows_to_settle,
        );
    }
    if failed > 0 {
        bail!("{failed} runs do not settle within their bounds");
    }
    println!("every run settled within its bounds");
    Ok(())
}

/// The story of one seed.
///
/// # Errors
/// When it does not settle within its bounds.
pub fn tell(pattern: Pattern, seed: u64) -> Result<()> {
    let outcome = run_seed(seed, pattern, Settings::default(), true);
    println!("{} nodes, {} books, period {}", outcome.nodes, outcome.books, outcome.period);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    match outcome.violations.first() {
        Some(first) => bail!("seed {seed}: {first}"),
        None => println!("seed {seed}: {} moves for {} changes, settled", outcome.moves, outcome.changes),
    }
    Ok(())
}
