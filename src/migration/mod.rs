//! Who owns a machine and how it passes on: pure state machines (docs/handover.md).

pub mod audit;
pub mod handover;
pub mod naive;
pub mod pause;
pub mod placement;
pub mod replica;
pub mod sharing;
pub mod sim;
pub mod snapshot;

#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod replica_tests;
