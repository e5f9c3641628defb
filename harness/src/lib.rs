//! Tests of an exchange as it is deployed: `hotbook` processes on a real Kafka, Redis and S3, clients, faults, and the
//! auditor's judgement of what became of it.
//!
//! It runs the program and speaks to it over HTTP and WebSocket, as anybody would; it knows nothing of what is inside. The
//! servers are those of `scripts/services` of a checkout, on free loopback ports, in folders of their own. Everything that is
//! started here ends when its value is dropped, and when the test process dies, however that comes. What is missing on a machine is
//! said in the panic; what must come is awaited with a deadline, and a test that fails prints the end of every process's log.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use hotbook_harness::{Cluster, SETTLES_WITHIN, Traders, all_are_known};
//!
//! #[tokio::test]
//! async fn the_books_of_a_killed_node_trade_on() {
//!     let symbols = ["AAA", "BBB"];
//!     // HOTBOOK_BIN names the program; a test of this project says env!("CARGO_BIN_EXE_hotbook").
//!     let cluster = Cluster::of(hotbook_harness::program()).brokers(1).settings("snapshot_every_s = 1\n").start();
//!     let [n1, mut n2] = cluster.start(["n1", "n2"]);
//!     let admin = n1.served().token("root", &["admin"]).await;
//!     let trader = n1.served().token("ann", &["trader"]).await;
//!     n1.until_sees(&admin, &["n1", "n2"]).await;
//!     n1.served().list(&symbols, &admin).await;
//!
//!     let traders = Traders::start(&n1.url(), &trader, &symbols, 2);
//!     traders.until_more(100, SETTLES_WITHIN).await;
//!     n2.kill();
//!     n1.until_homes(&admin, &symbols, "n2").await;
//!     let took: Duration = traders.until_all_trade(&symbols, SETTLES_WITHIN).await;
//!     println!("all books trade again {took:?} after they were taken over");
//!
//!     // Every order that was acknowledged is there once, and an independent matcher agrees with every output.
//!     let told = traders.stop().await;
//!     all_are_known(&n1.url(), &trader, &told).await;
//!     cluster.clean_audit(&["--complete"]);
//! }
//! ```
//!
//! | fault | how |
//! |---|---|
//! | `kill -9`, SIGSTOP and SIGCONT, SIGTERM of a process | [`Process::kill`], [`Process::freeze`], [`Process::thaw`], [`Process::terminate`]; [`Process::start_again`] |
//! | a broker that is killed, stopped, hangs | [`services::Server::kill`], [`stop`](services::Server::stop), [`freeze`](services::Server::freeze), [`start`](services::Server::start) of `cluster.kafka.brokers[0]` |
//! | Redis away, flushed, emptied | the same of `cluster.redis.server`; [`services::Redis::flush`], [`services::Redis::lose_data`] |
//! | packets between two hosts that are lost, late or never come | [`Network::cut`], [`Network::cut_off`], [`Network::worsen`], [`Network::heal`]; it takes root ([`NoNetwork`]) |
//! | S3 away, refusing, slow | the same of `cluster.s3.server`; [`Faulty::refuse`], [`Faulty::slow_by`] of `cluster.s3_way` |

mod child;
mod client;
mod cluster;
mod faulty;
mod fills;
mod network;
mod places;
mod ports;
mod process;
mod served;
pub mod services;
mod traders;
mod wait;

pub use child::spawn;
pub use client::{Ws, call, request};
pub use cluster::{Cluster, ClusterOptions, PARTITIONS, SECRET};
pub use faulty::Faulty;
pub use fills::{Fill, Fills, Heard, Listener, OrderKey, fills_agree};
pub use network::{Host, Link, Network, NoNetwork};
pub use places::{program, scripts, services_folder};
pub use ports::free_port;
pub use process::{Process, ProcessOptions};
pub use served::{STARTS_WITHIN, Served, hotbook, run};
pub use traders::{Sent, Told, Traders, all_are_known, are_known};
pub use wait::{SETTLES_WITHIN, SOON, soon, until};
