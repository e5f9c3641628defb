//! The public surface: REST, WebSocket, admin.

pub mod account;
pub mod admin;
pub mod decisions;
pub mod edge;
pub mod gathered;
pub mod grpc;
pub mod market;
pub mod migrations;
pub mod openapi;
pub mod pages;
pub mod rest;
pub mod server;
pub mod view;
pub mod ws;

use crate::wire::client::{decimal, error, schema};
