//! The public surface: REST, WebSocket, admin.

pub mod decimal;
pub mod error;
pub mod schema;
