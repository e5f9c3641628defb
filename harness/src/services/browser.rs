//! What drives a browser.

use super::{Server, log_says};
use crate::ports::free_port;

/// The driver of Chromium; browsers that it has started end with it.
pub struct Driver {
    pub server: Server,
    pub port: u16,
}

impl Driver {
    pub fn start() -> Self {
        let port = free_port();
        let ready = log_says("was started successfully");
        let mut server = Server::launch("browser", vec![format!("--port={port}")], None, ready);
        server.until_ready();
        Self { server, port }
    }
}
