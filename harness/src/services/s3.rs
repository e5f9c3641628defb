//! S3, served from a folder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::{Server, address, connect};
use crate::network::Host;
use crate::ports::free_port;

/// An S3 server with one empty bucket.
pub struct S3 {
    pub server: Server,
    pub port: u16,
    /// At which it listens.
    pub address: Ipv4Addr,
}

impl S3 {
    pub const BUCKET: &str = "hotbook";
    pub const REGION: &str = "us-east-1";
    pub const ACCESS_KEY: &str = "hotbook-tests";
    pub const SECRET_KEY: &str = "hotbook-tests-secret";

    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more of versitygw's own options, such as `--cert`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_on(None, options)
    }

    /// On a host of a network.
    pub fn start_on(host: Option<&Host>, options: &[&str]) -> Self {
        let port = free_port();
        let mut arguments = vec![format!("--port={port}")];
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let asks = host.cloned();
        let is_ready = move |_: &Path| connect(asks.as_ref(), port).is_ok();
        let mut server = Server::launch("s3", arguments, host, is_ready);
        server.until_ready();
        Self { server, port, address: address(host) }
    }

    /// Where the objects of the bucket lie as files.
    pub fn files(&self) -> PathBuf {
        self.server.folder().join("data").join(Self::BUCKET)
    }
}
