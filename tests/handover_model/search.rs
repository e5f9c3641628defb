//! Breadth first through every state within the bounds.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Write;
use std::time::{Duration, Instant};

use super::actions::Action;
use super::rules::Model;
use super::state::{State, Violation};

const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What a search found.
pub struct Found {
    pub states: usize,
    pub steps: u64,
    pub depth: usize,
    pub took: Duration,
    pub counterexample: Option<Counterexample>,
}

/// The shortest way to a violation: the log, then the actions.
pub struct Counterexample {
    pub violation: Violation,
    pub story: Vec<String>,
}

/// Fingerprints are hashed already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0 << 8 | u64::from(*b));
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// Fingerprint of each state met, and of the one it was first reached from.
type Met = HashMap<u64, u64, BuildHasherDefault<Identity>>;

/// Searches until a violation or the end.
pub fn search(model: &Model) -> Found {
    let started = Instant::now();
    let mut met = Met::default();
    let mut found = Found { states: 0, steps: 0, depth: 0, took: Duration::ZERO, counterexample: None };
    let mut level: Vec<State> = (0..model.logs.len()).map(|log| State::born(log as u16, model.bounds.names)).collect();
    level.iter().for_each(|s| _ = met.insert(s.fingerprint(), 0));
    let (mut successors, mut told) = (Vec::new(), started);
    'levels: while !level.is_empty() {
        let mut next_level = Vec::new();
        for state in &level {
            let from = state.fingerprint();
            successors.clear();
            model.successors(state, &mut successors);
            found.steps += successors.len() as u64;
            for (_, next) in &successors {
                let std::collections::hash_map::Entry::Vacant(entry) = met.entry(next.fingerprint()) else { continue };
                entry.insert(from);
                if let Some(violation) = violation(model, next) {
                    found.counterexample = Some(Counterexample { violation, story: story(model, &met, next) });
                    break 'levels;
                }
                next_level.push(*next);
            }
        }
        found.depth += 1;
        level = next_level;
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let (depth, states) = (found.depth, met.len());
            say(&format!("  depth {depth}: {states} states, {} in the next level", level.len()));
        }
    }
    found.states = met.len();
    found.took = started.elapsed();
    found
}

fn violation(model: &Model, state: &State) -> Option<Violation> {
    state.violation.or_else(|| if model.checks_claims { model.check_claims(state) } else { None })
}

/// Walks back to the start by fingerprints, and forth again by steps.
fn story(model: &Model, met: &Met, last: &State) -> Vec<String> {
    let mut way = vec![last.fingerprint()];
    while let Some(before) = way.last().and_then(|f| met.get(f)).filter(|before| **before != 0) {
        way.push(*before);
    }
    let mut state = State::born(last.log, model.bounds.names);
    let mut story: Vec<String> = model.history(last).records.iter().map(ToString::to_string).collect();
    let mut successors: Vec<(Action, State)> = Vec::new();
    for fingerprint in way.iter().rev().skip(1) {
        successors.clear();
        model.successors(&state, &mut successors);
        let (action, next) = successors.iter().find(|(_, s)| s.fingerprint() == *fingerprint).unwrap_or_else(|| {
            unreachable!("the step was found before");
        });
        story.push(model.tell(&state, *action));
        state = *next;
    }
    story
}

/// Writes a line that the test harness does not capture: the counts are to be seen in every run.
pub fn say(line: &str) {
    _ = writeln!(std::io::stderr().lock(), "{line}");
}
