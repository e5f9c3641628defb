//! The simulator: the same pure state machines as the real exchange, in a world where everything goes wrong that the
//! handover claims to survive (docs/sim.md).
//!
//! One thread, virtual time, and all randomness from the seed: a run is repeated exactly by its number. A world is some
//! nodes with their processes, a log in memory, producers with lost suffixes, slow and damaged snapshots, a route table
//! that goes back in time, clients that send again, and coordinators that compete. After a while the faults stop; then
//! all must become quiet, and the log is judged.

mod clients;
mod counts;
mod faults;
mod host;
mod judge;
mod log;
mod moves;
mod mutated;
mod mutation;
mod producer;
pub(super) mod random;
mod reader;
mod routes;
mod store;
mod takeover;
mod world;

pub use counts::{Counts, Happened};
pub use mutation::Mutation;
use world::World;

/// How a run is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A wrong reading of the handover put into the shell, to see that it is caught.
    pub mutation: Option<Mutation>,
    /// Keeps the story.
    pub trace: bool,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    pub counts: Counts,
    /// Empty if all is well.
    pub violations: Vec<String>,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed, options.mutation, options.trace);
    world.run();
    world.judge();
    Outcome {
        seed,
        counts: world.counts.clone(),
        violations: std::mem::take(&mut world.violations),
        trace: world.take_trace(),
    }
}

/// The command that repeats a run and tells its story.
pub fn command_for(seed: u64, mutation: Option<Mutation>) -> String {
    let mutation = mutation.map_or_else(String::new, |m| format!(" --mutation {}", m.name()));
    format!("hotbook sim --seed {seed} --trace{mutation}")
}
