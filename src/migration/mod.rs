//! Who owns a machine and how it passes on: pure state machines (HANDOVER).

pub mod naive;
pub mod replica;
pub mod snapshot;

#[cfg(test)]
mod replica_tests;
