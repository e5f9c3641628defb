//! Control records: what only the cluster itself may append, and how an old one is kept from being played again.

use super::ids::NodeId;
use super::numbers::{Epoch, Micros};

/// What makes a control record good once: checked by the replica before the machine sees the record.
/// The MAC itself was verified when the record was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    /// Drawn at random by the issuer; a second record with the same nonce is void.
    pub nonce: u128,
    /// A record that the log stamped later than this is void.
    pub valid_until: Micros,
}

/// What a gateway signs an order with, for a book that takes orders from gateways only. Checked by the book; the MAC itself
/// was verified when the record was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Drawn at random at each start of a gateway.
    pub gateway: u64,
    /// Grows with each order that this gateway signs for a partition, in the order in which it appends them: one that is
    /// not above all before it was played again.
    pub number: u64,
    /// An order that the log stamped later than this is refused.
    pub valid_until: Micros,
}

/// Passes a machine from one node to another (handover rule 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Takes effect only if it is the replica's epoch + 1.
    pub epoch: Epoch,
    /// For people only.
    pub from: NodeId,
    pub to: NodeId,
}
