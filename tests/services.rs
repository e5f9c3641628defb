//! The servers that other tests rely on: they start, restart with their data, and leave nothing behind.

mod common {
    pub mod services;
}

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::services::{Kafka, KafkaOptions};

/// Whether there is such a process, and not just its exit status.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn three_brokers_are_one_cluster_and_a_killed_one_comes_back() {
    let mut kafka = Kafka::start_with(&KafkaOptions { brokers: 3, ..KafkaOptions::default() });
    assert_eq!(kafka.addresses().split(',').count(), 3);
    let listens = |kafka: &Kafka| std::net::TcpStream::connect(("127.0.0.1", kafka.ports[0])).is_ok();
    assert!(listens(&kafka));
    kafka.brokers[0].kill();
    assert!(!listens(&kafka));
    kafka.brokers[0].start();
    assert!(listens(&kafka));
    let pids: Vec<_> = kafka.brokers.iter().map(|b| b.pid().unwrap()).collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    drop(kafka);
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "a dropped server is gone");
}

/// Set in the child that starts a server and is killed.
const CHILD: &str = "HOTBOOK_TEST_SERVICES_CHILD";

/// Does nothing unless [`a_killed_test_leaves_no_server`] starts this binary again.
#[test]
fn child_that_starts_a_server() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    // On a thread that ends before the server does, as one test of several that share a server.
    let kafka = std::thread::spawn(Kafka::start).join().unwrap();
    // The harness has begun a line of its own.
    println!("\nserver {}", kafka.brokers[0].pid().unwrap());
    std::thread::park();
}

#[test]
fn a_killed_test_leaves_no_server() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_starts_a_server", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|l| l.strip_prefix("server ").map(|p| p.parse::<u32>().unwrap()));
    let pid = pid.expect("the child says its server's pid");
    assert!(is_alive(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    until("the server dies with its test", || !is_alive(pid));
}
