//! Redis.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

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
        assert_eq!(self.ask(&["FLUSHALL"]), ["OK"]);
    }

    /// Asks a server that runs, as a person does with redis-cli; gives what it answers, none for nil and one for each of a list.
    ///
    /// # Panics
    /// With what it says when that is an error.
    pub fn ask(&self, words: &[&str]) -> Vec<String> {
        let mut redis = BufReader::new(self.server.connect(self.port).expect("redis"));
        let texts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        redis.get_mut().write_all(format!("*{}\r\n{texts}", words.len()).as_bytes()).expect("asked");
        let mut said = Vec::new();
        read_answer(&mut redis, &mut said);
        said
    }

    /// Forgets what is on the disk of a server that does not run: the next start is empty.
    pub fn lose_data(&mut self) {
        assert!(self.server.pid().is_none(), "it runs");
        std::fs::remove_dir_all(self.server.folder().join("appendonlydir")).expect("its data");
    }
}

/// Reads one answer of Redis's protocol (RESP 2).
fn read_answer(redis: &mut BufReader<TcpStream>, said: &mut Vec<String>) {
    let mut line = String::new();
    redis.read_line(&mut line).expect("an answer");
    let (kind, rest) = line.trim_end().split_at_checked(1).expect("an answer");
    let count = || rest.parse::<i64>().expect("a number");
    match kind {
        "+" | ":" => said.push(rest.to_owned()),
        // -1 is nil.
        "$" if count() >= 0 => {
            let mut text = vec![0; count() as usize + 2];
            redis.read_exact(&mut text).expect("all of it");
            text.truncate(count() as usize);
            said.push(String::from_utf8(text).expect("text"));
        }
        "$" => {}
        "*" => (0..count()).for_each(|_| read_answer(redis, said)),
        _ => panic!("Redis says {rest}"),
    }
}
