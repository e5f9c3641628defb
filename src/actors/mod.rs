//! Actors: thin shells that decode, step the pure state machines, and carry out their effects.

pub mod book;
pub mod cache;
pub mod catalogue;
pub mod cluster;
pub mod connection;
mod connections;
pub mod decisions;
pub mod directory;
pub mod egress;
pub mod exchange;
pub mod feed;
pub mod fleet;
pub mod gateway;
pub mod high_water;
pub mod leader;
pub mod load;
pub mod market_data;
pub mod mirror;
pub mod moves;
pub mod node;
pub mod owners;
pub mod pause;
pub mod peers;
pub mod projector;
pub mod recovery;
pub mod registry;
pub mod retention;
pub mod router;
pub mod session;
pub mod shadows;
pub mod standbys;
pub mod supervisor;
mod waiters;

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod toy;
