//! What came of a replay.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::bail;
use serde::Serialize;

use super::{Plan, Step};
use crate::domain::{Command, OrderId};

/// The book of one symbol at the end.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct BookEnd {
    pub symbol: String,
    pub orders: u64,
    pub book_digest: String,
    /// Price and quantity, as text.
    pub best_bid: Option<(String, u64)>,
    pub best_ask: Option<(String, u64)>,
}

/// Figures of a whole run.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    pub commands: u64,
    pub answered: u64,
    pub adds: u64,
    pub replaces: u64,
    pub cancels: u64,
    pub fills: u64,
    pub filled_quantity: u64,
    /// Refusals by code.
    pub refused: BTreeMap<String, u64>,
    /// Executions in the recording, and those of them that hit the same resting order here.
    pub executions: u64,
    pub executions_same: u64,
    pub seconds: f64,
    pub books: Vec<BookEnd>,
}

impl Summary {
    pub fn of(plan: &Plan) -> Self {
        let mut summary = Self { commands: plan.steps.len() as u64, ..Self::default() };
        for step in &plan.steps {
            match step.command {
                Command::Add(_) => summary.adds += 1,
                Command::Replace { .. } => summary.replaces += 1,
                _ => summary.cancels += 1,
            }
        }
        summary
    }

    /// Compares the makers that a step hit here with those of the recording, each execution once.
    pub fn compare(&mut self, step: &Step, makers: &[OrderId]) {
        let mut hit: HashMap<&OrderId, u64> = HashMap::new();
        for maker in makers {
            *hit.entry(maker).or_default() += 1;
        }
        self.executions += step.hits.len() as u64;
        for id in &step.hits {
            if let Some(left) = hit.get_mut(id).filter(|left| **left > 0) {
                *left -= 1;
                self.executions_same += 1;
            }
        }
    }

    /// Whether all that must be so is so.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self, plan: &Plan) -> anyhow::Result<()> {
        if self.answered != self.commands {
            bail!("{} of {} commands were answered", self.answered, self.commands);
        }
        if let Some(expected) = plan.expected
            && (self.fills, self.filled_quantity) != expected
        {
            bail!("fills and quantity {:?}, the flow expects {expected:?}", (self.fills, self.filled_quantity));
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, answered, adds, replaces, cancels, .. } = self;
        writeln!(
            f,
            "commands     {commands}: {adds} adds, {replaces} replaces, {cancels} cancels; {answered} answered"
        )?;
        writeln!(f, "fills        {}, quantity {}", self.fills, self.filled_quantity)?;
        for (code, n) in &self.refused {
            writeln!(f, "refused      {n} {code}")?;
        }
        if self.executions > 0 {
            let (same, all) = (self.executions_same, self.executions);
            writeln!(f, "executions   {same} of {all} hit the same resting order as in reality")?;
        }
        for book in self.books.iter().take(5) {
            let side = |best: &Option<(String, u64)>| best.as_ref().map_or("-".into(), |(p, q)| format!("{q} @ {p}"));
            let (bid, ask) = (side(&book.best_bid), side(&book.best_ask));
            writeln!(
                f,
                "{:<12} bid {bid}, ask {ask}, {} orders, book digest {}",
                book.symbol, book.orders, book.book_digest
            )?;
        }
        if self.books.len() > 5 {
            writeln!(f, "             and {} more books", self.books.len() - 5)?;
        }
        write!(f, "took         {:.1} s, {:.0} commands/s", self.seconds, *commands as f64 / self.seconds)
    }
}
