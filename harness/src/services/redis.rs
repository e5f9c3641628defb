//! Redis.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use super::{Server, address, log_says};
use crate::network::Host;
use crate::ports::free_port;

/// A Redis server, empty at first; it keeps what it acknowledged over a restart, at most the last second of a crash lost.
pub struct Redis {
    pub server: Server,
    pub port: u16,
    /// At which it listens.
    pub address: Ipv4Addr,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more of Redis's own options, such as `--requirepass`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_on(None, options)
    }

    /// On a host of a network.
    pub fn start_on(host: Option<&Host>, options: &[&str]) -> Self {
        let port = free_port();
        let mut arguments = vec![format!("--port={port}")];
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let mut server = Server::launch("redis", arguments, host, log_says("Ready to accept connections"));
        server.until_ready();
        Self { server, port, address: address(host) }
    }

    /// Removes all keys of a server that runs.
    pub fn flush(&self) {
        let mut redis = self.server.connect(self.port).expect("redis");
        redis.write_all(b"FLUSHALL\r\n").expect("asked");
        let mut said = [0; 5];
        redis.read_exact(&mut said).expect("an answer");
        assert_eq!(&said, b"+OK\r\n");
    }

    /// Forgets what is on the disk of a server that does not run: the next start is empty.
    pub fn lose_data(&mut self) {
        assert!(self.server.pid().is_none(), "it runs");
        std::fs::remove_dir_all(self.server.folder().join("appendonlydir")).expect("its data");
    }
}
