//! hotbook: an exchange whose order books move between machines while they trade.
//!
//! Read `ARCHITECTURE.md` first. Dependencies point one way:
//! `domain` <- `engine` <- `migration` <- `actors` <- `api` <- `cli`, with `ports` and `wire` beside the actors.

pub mod actors;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod engine;
pub mod migration;
pub mod ports;
pub mod wire;
