//! The handover protocol, model-checked: every state within the bounds, breadth first (docs/model.md).
//!
//! `HOTBOOK_MODEL_DEEP=1` searches wider bounds as well (minutes, and some gigabytes).

mod actions;
mod bounds;
mod conformance;
mod history;
mod mutations;
mod rules;
mod search;
mod state;

use std::collections::BTreeMap;

use bounds::{Bounds, Mutation};
use conformance::Walk;
use mutations::{BEYOND, ROWS, Row};
use rstest::rstest;
use rules::Model;
use search::{Found, say, search};
use state::Violation;

const DOCS: &str = include_str!("../../docs/model.md");

const THREE_NODES: Bounds = Bounds { names: &[0, 1, 2], commands: 2, fences: 2, restores: 1, ..Bounds::NONE };
const ONE_NAME_TWICE: Bounds = Bounds { names: &[0, 0, 1], ..THREE_NODES };
const TWO_NODES: Bounds = Bounds { names: &[0, 1], ..THREE_NODES };
const POSITIONS: Bounds = Bounds { cuts: 1, positions: true, ..TWO_NODES };

#[rstest]
// The longest first: the harness starts them in this order.
#[case::positions(POSITIONS, Bounds { commands: 3, fences: 1, ..POSITIONS })]
#[case::positions_one_name_twice(
    Bounds { names: &[0, 0], commands: 3, fences: 0, ..POSITIONS },
    Bounds { names: &[0, 0, 1], commands: 3, fences: 0, ..POSITIONS }
)]
#[case::three_nodes(THREE_NODES, Bounds { commands: 3, ..THREE_NODES })]
#[case::three_nodes_three_fences(Bounds { fences: 3, restores: 0, ..THREE_NODES }, Bounds { fences: 3, ..THREE_NODES })]
#[case::one_name_twice(ONE_NAME_TWICE, Bounds { commands: 3, ..ONE_NAME_TWICE })]
#[case::more_commands(Bounds { commands: 3, ..TWO_NODES }, Bounds { commands: 4, fences: 3, ..TWO_NODES })]
#[case::more_fences(Bounds { fences: 3, ..TWO_NODES }, Bounds { commands: 3, fences: 4, ..TWO_NODES })]
#[case::losing_fences(Bounds { fences: 3, losers: true, ..TWO_NODES }, Bounds { fences: 4, losers: true, ..TWO_NODES })]
#[case::two_topics(Bounds { fences: 1, topics: 2, ..TWO_NODES }, Bounds { topics: 2, ..TWO_NODES })]
#[case::two_topics_back_and_forth(
    Bounds { topics: 2, restores: 0, ..TWO_NODES },
    Bounds { fences: 1, cuts: 1, topics: 2, ..TWO_NODES }
)]
#[case::snapshots(Bounds { restores: 2, cuts: 1, ..TWO_NODES }, Bounds { restores: 2, cuts: 2, ..TWO_NODES })]
#[case::dropped_outputs(Bounds { fences: 3, drops: 1, ..TWO_NODES }, Bounds { fences: 3, drops: 1, cuts: 1, ..TWO_NODES })]
#[case::divergence(
    Bounds { diverges: 1, crash_path_a: false, ..THREE_NODES },
    Bounds { fences: 3, restores: 2, diverges: 1, crash_path_a: false, ..TWO_NODES }
)]
fn the_rules_as_written_lose_nothing(#[case] bounds: Bounds, #[case] deep: Bounds) {
    loses_nothing(bounds);
    if std::env::var_os("HOTBOOK_MODEL_DEEP").is_some() {
        loses_nothing(deep);
    }
}

fn loses_nothing(bounds: Bounds) {
    let model = Model::correct(bounds);
    let found = search(&model);
    if let Some(counterexample) = &found.counterexample {
        panic!("{} within {}\n{}", counterexample.violation, model.bounds, counterexample.story.join("\n"));
    }
    let Found { states, steps, depth, took, .. } = found;
    let line = format!("| {} | {states} | {steps} | {depth} |", model.bounds);
    say(&format!("model: {line} {took:.1?}"));
    assert!(DOCS.contains(&line), "docs/model.md should have: {line}");
}

#[test]
fn each_reading_that_loses_data_is_caught() {
    let missing: Vec<String> = ROWS.iter().chain(BEYOND).map(caught).filter(|line| !DOCS.contains(line)).collect();
    assert!(missing.is_empty(), "docs/model.md should have:\n{}", missing.join("\n"));
}

/// Tells the story; returns the row's line of docs/model.md.
fn caught(row: &Row) -> String {
    let found = search(&Model::misread(row.bounds.clone(), row.mutation));
    let Some(counterexample) = found.counterexample else {
        panic!("not caught: {} within {}", row.reading, row.bounds)
    };
    let length = counterexample.story.len();
    let line = format!("| {} | {} | {} | {length} |", row.reading, row.bounds, counterexample.violation);
    say(&format!("model: caught {line}"));
    println!("{}", counterexample.story.join("\n"));
    line
}

/// A misreading makes somebody claim or believe what is not so, before it harms anybody: each check of fact C and MG1 can
/// fail.
#[rstest]
#[case::seal(Mutation::SealWhenQueueIsEmpty, TWO_NODES, Violation::FalseClaim("Sealed"))]
#[case::floor(Mutation::OneHighWater, Bounds { topics: 2, ..TWO_NODES }, Violation::FalseClaim("floor"))]
#[case::snapshot(Mutation::SnapshotInHold, Bounds { cuts: 1, ..TWO_NODES }, Violation::FalseClaim("snapshot"))]
#[case::high_water(
    Mutation::PositionFromEnd,
    Bounds { names: &[0, 0], fences: 0, ..POSITIONS },
    Violation::FalseClaim("hw scanned from the snapshot's position")
)]
#[case::owner(Mutation::LosingFenceWins, Bounds { losers: true, ..TWO_NODES }, Violation::TwoOwners)]
fn a_false_claim_is_seen(#[case] mutation: Mutation, #[case] bounds: Bounds, #[case] expected: Violation) {
    let found = search(&Model { checks_claims: true, ..Model::misread(bounds, mutation) });
    assert_eq!(found.counterexample.map(|c| c.violation), Some(expected));
}

/// The correct rules in the bounds of each row: what was caught is the mutation, not the bounds.
#[test]
fn nothing_is_caught_where_nothing_is_mutated() {
    for row in ROWS.iter().chain(BEYOND) {
        let found = search(&Model::correct(row.bounds.clone()));
        assert!(found.counterexample.is_none(), "{} within {}", row.reading, row.bounds);
    }
}

/// The second half of the row "consumers, or the reader of hw, drop records of older epochs": whatever part of a topic is
/// looked at, a record found there says that all before it are durable (facts A and B), so it is a stale hw.
#[test]
fn a_high_water_mark_that_leaves_out_old_epochs_is_only_stale() {
    let bounds = Bounds { cuts: 1, ..TWO_NODES };
    let found = search(&Model::misread(bounds, Mutation::HighWaterFiltersEpoch));
    assert!(found.counterexample.is_none());
}

/// Longer logs than any search has, three processes, restores and snapshots.
#[rstest]
#[case::three_nodes(&[0, 1, 2])]
#[case::one_name_twice(&[0, 0, 1])]
fn the_replica_does_what_the_model_does(#[case] names: &'static [u8]) {
    const WALKS: u64 = 10_000;
    let bounds = Bounds { names, commands: 4, fences: 4, losers: true, restores: 3, cuts: 2, drops: 2, ..Bounds::NONE };
    let model = Model::correct(bounds);
    let mut counts = BTreeMap::<String, u64>::new();
    for seed in 1..=WALKS {
        let mut random = Random(seed);
        let log = random.below(model.logs.len()) as u16;
        for action in Walk::new(&model, log, seed).until_the_end(|n| random.below(n)) {
            let name = format!("{action:?}");
            *counts.entry(name.split(['(', ' ']).next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    say(&format!("model: {WALKS} walks beside the replica, {names:?}: {counts:?}"));
    assert_eq!(counts.len(), 11, "every kind of step was taken");
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}
