//! Actors: thin shells that decode, step the pure state machines, and carry out their effects.

mod connections;
pub mod directory;
pub mod egress;
pub mod gateway;
pub mod market_data;
pub mod mirror;
pub mod router;
mod waiters;

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod toy;
