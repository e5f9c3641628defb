//! What hotbook needs from outside, each behind one trait with its adapters beside it.

pub mod cache;
pub mod identity;
pub mod log;
mod parts;
pub mod routes;
pub mod snapshots;

pub use parts::{Parts, PartsError};
