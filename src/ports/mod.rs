//! What hotbook needs from outside, each behind one trait with its adapters beside it.

pub mod identity;
pub mod log;
pub mod routes;
pub mod snapshots;
