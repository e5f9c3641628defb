//! The nodes of other processes: who is there, and how they are spoken to.
//!
//! Nothing that is said here changes who owns a book: the FENCE records of its log alone do (handover rule 1). What is lost,
//! late or doubled costs time, never an order.

mod link;
mod members;
mod sight;

pub use link::{Begun, Link, LinkError, Read, followed_response, read_seal, seal_request};
pub use members::{Member, Members, MembersParts};
