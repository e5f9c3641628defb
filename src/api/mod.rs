//! The public surface: REST, WebSocket, admin.
