//! The servers that other tests rely on: they start, restart with their data, and leave nothing behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hotbook_harness::services::{Kafka, KafkaOptions};

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

/// All programs of this machine but one, seen by somebody who may not install packages.
fn machine_without(program: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name() != program && entry.file_name() != "id" {
                // Whichever comes first on the PATH is the one.
                _ = std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name()));
            }
        }
    }
    let id = folder.path().join("id");
    std::fs::write(&id, "#!/bin/sh\necho 1000\n").unwrap();
    std::fs::set_permissions(id, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn a_machine_that_lacks_what_kafka_needs_is_told_what_to_install() {
    let nowhere = tempfile::tempdir().unwrap();
    for (without, library_path, needed, package) in [
        ("javac", None, "javac is needed", "openjdk-17-jdk-headless"),
        ("nothing", Some(nowhere.path()), "the library openssl, to build against, is needed", "libssl-dev"),
    ] {
        let (machine, home) = (machine_without(without), tempfile::tempdir().unwrap());
        let mut install = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        install.args(["install", "kafka"]).env("PATH", machine.path()).env("HOTBOOK_SERVICES_DIR", home.path());
        install.env_remove("OPENSSL_DIR").env_remove("PKG_CONFIG_PATH");
        install.envs(library_path.map(|path| ("PKG_CONFIG_LIBDIR", path)));
        let output = install.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(needed) && said.contains(package), "{without}: {said}");
        // Nothing was fetched before.
        assert!(!home.path().join("kafka-4.4.0/pom.xml").exists(), "{said}");
    }
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
