//! Actors: thin shells that decode, step the pure state machines, and carry out their effects.

pub mod book;
pub mod catalogue;
mod connections;
pub mod directory;
pub mod egress;
pub mod exchange;
pub mod feed;
pub mod gateway;
pub mod market_data;
pub mod mirror;
pub mod node;
pub mod recovery;
pub mod retention;
pub mod router;
mod waiters;

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod toy;
