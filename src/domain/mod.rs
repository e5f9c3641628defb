//! The words of the exchange: newtypes, instruments, commands and outputs. Depends on no other part of hotbook.

pub mod command;
pub mod control;
pub mod ids;
pub mod instrument;
pub mod machine;
pub mod numbers;
pub mod outbox;
pub mod output;
pub mod reason;

pub use command::{Command, Input, NewOrder, OrderKind, SelfTrade, TimeInForce};
pub use control::Authority;
pub use ids::{NodeId, OrderId, Symbol, UserId};
pub use instrument::{Admission, Instrument};
pub use machine::Machine;
pub use numbers::{Digest, Epoch, Micros, Offset, Origin, Price, Quantity, Seq, Side};
pub use outbox::{Classes, Outbox, Seqs};
pub use output::{OrderStatus, Output, OutputBody};
pub use reason::Reason;
