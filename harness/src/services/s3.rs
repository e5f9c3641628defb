//! S3, served from a folder.

use std::net::TcpStream;
use std::path::PathBuf;

use super::Server;
use crate::ports::free_port;

/// An S3 server with one empty bucket.
pub struct S3 {
    pub server: Server,
    pub port: u16,
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
        let port = free_port();
        let mut arguments = vec![format!("--port={port}")];
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let mut server = Server::launch("s3", arguments, move |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
        server.until_ready();
        Self { server, port }
    }

    /// Where the objects of the bucket lie as files.
    pub fn files(&self) -> PathBuf {
        self.server.folder().join("data").join(Self::BUCKET)
    }
}
