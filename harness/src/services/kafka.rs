//! Kafka.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::{Server, address, log_says};
use crate::network::Host;
use crate::ports::free_port;

/// How a Kafka cluster is started.
#[derive(Clone)]
pub struct KafkaOptions {
    /// One (the default), or three that replicate with `min.insync.replicas=2`.
    pub brokers: usize,
    /// Lines of `server.properties` on top; `{port}` and `{controller}` stand for the broker's ports.
    pub properties: Vec<String>,
    /// More for the class path, such as a folder of compiled classes.
    pub classpath: Option<PathBuf>,
    /// Where its brokers run, if not on loopback; they are one host.
    pub host: Option<Host>,
}

impl Default for KafkaOptions {
    /// One broker.
    fn default() -> Self {
        Self { brokers: 1, properties: Vec::new(), classpath: None, host: None }
    }
}

/// A Kafka cluster.
pub struct Kafka {
    pub brokers: Vec<Server>,
    pub ports: Vec<u16>,
    address: Ipv4Addr,
}

impl Kafka {
    /// One broker.
    pub fn start() -> Self {
        Self::start_with(&KafkaOptions::default())
    }

    /// All brokers of a cluster, ready.
    pub fn start_with(options: &KafkaOptions) -> Self {
        let ports: Vec<(u16, u16)> = (0..options.brokers).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<_> = (1..).zip(&ports).map(|(n, (_, c))| format!("{n}@127.0.0.1:{c}")).collect();
        let mut brokers: Vec<_> = (1..)
            .zip(&ports)
            .map(|(n, &(port, controller))| {
                let mut arguments = vec![
                    format!("--port={port}"),
                    format!("--controller-port={controller}"),
                    format!("--node={n}"),
                    format!("--voters={}", voters.join(",")),
                ];
                for property in &options.properties {
                    let line = property.replace("{port}", &port.to_string());
                    arguments.push(format!("--property={}", line.replace("{controller}", &controller.to_string())));
                }
                arguments.extend(options.classpath.as_ref().map(|p| format!("--classpath={}", p.display())));
                Server::launch("kafka", arguments, options.host.as_ref(), log_says("Kafka Server started"))
            })
            .collect();
        brokers.iter_mut().for_each(Server::until_ready);
        Self { brokers, ports: ports.iter().map(|(port, _)| *port).collect(), address: address(options.host.as_ref()) }
    }

    /// For `bootstrap.servers`.
    pub fn addresses(&self) -> String {
        self.ports.iter().map(|port| format!("{}:{port}", self.address)).collect::<Vec<_>>().join(",")
    }
}
