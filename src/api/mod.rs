//! The public surface: REST, WebSocket, admin.

pub mod admin;
pub mod decimal;
pub mod edge;
pub mod error;
pub mod grpc;
pub mod market;
pub mod migrations;
pub mod openapi;
pub mod pages;
pub mod rest;
pub mod schema;
pub mod server;
pub mod view;
pub mod ws;
pub mod ws_message;
pub mod ws_text;
