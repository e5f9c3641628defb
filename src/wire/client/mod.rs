//! What clients and a gateway say to each other: JSON, its exact decimals, and the one error with its table of codes.
//! REST and the WebSocket share it.

pub mod decimal;
pub mod error;
pub mod schema;
pub mod ws_message;
pub mod ws_text;

use crate::domain::{Output, Symbol};

/// An output and what is needed to write it down for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub symbol: Symbol,
    pub price_scale: u8,
    pub output: Output,
}

/// Why an output goes to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It answers a command of this connection.
    Answer,
    /// The taker's side of a trade is this connection's (or its user's) order.
    Taker,
    /// The maker's side is.
    Maker,
    /// An order of this connection or its user changed.
    Update,
}
