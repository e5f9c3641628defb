//! The network that tests are given: packets arrive or do not as it is told, and nothing of it outlives the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hotbook_harness::{Host, Network};

const PORT: u16 = 4_000;

fn network() -> Network {
    Network::start().unwrap_or_else(|e| panic!("{e}"))
}

/// Answers every byte with itself, on a host.
fn echo(host: &Host) {
    let listener = host.run(|| TcpListener::bind(("0.0.0.0", PORT))).expect("a listener");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
}

fn connect(from: &Host, to: &Host, within: Duration) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((to.address(), PORT));
    from.run(move || TcpStream::connect_timeout(&address, within))
}

fn round_trip(mut stream: &TcpStream) -> std::io::Result<Duration> {
    let (began, mut said) = (Instant::now(), [0]);
    stream.write_all(b"x")?;
    stream.read_exact(&mut said)?;
    Ok(began.elapsed())
}

#[test]
fn packets_arrive_are_late_are_lost_or_never_come_as_the_network_is_told() {
    let network = network();
    let (one, other, third) = (network.host("one"), network.host("other"), network.host("third"));
    [&other, &third].into_iter().for_each(echo);
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(20));
    let stream = connect(&one, &other, long).unwrap();
    stream.set_nodelay(true).unwrap();
    round_trip(&stream).unwrap();

    network.cut("one", "other");
    assert!(connect(&one, &other, short).is_err() && connect(&other, &third, short).is_ok());
    stream.set_read_timeout(Some(short)).unwrap();
    assert!(round_trip(&stream).is_err(), "nothing is heard on a connection that was there");
    network.heal();
    // What was on its way is sent again, and comes.
    stream.set_read_timeout(Some(long)).unwrap();
    (&stream).read_exact(&mut [0]).unwrap();
    network.cut_off("other");
    assert!(connect(&one, &other, short).is_err() && connect(&one, &third, short).is_ok());
    network.heal();

    let delay = Duration::from_millis(30);
    network.worsen(delay, 0);
    let took = round_trip(&stream).unwrap();
    assert!(took >= delay * 2, "{took:?}");
    network.worsen(Duration::ZERO, 200);
    let (_, before) = network.packets();
    for _ in 0..50 {
        round_trip(&stream).unwrap();
    }
    let lost = network.packets().1 - before;
    assert!((5..80).contains(&lost), "{lost} of some 150 packets, of which one in five is lost");
}

#[test]
fn hosts_reach_each_other_and_nothing_else() {
    let network = network();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let ours = listener.local_addr().unwrap();
    let host = network.host("one");
    assert!(host.connect(ours).is_err(), "loopback is its own");
    assert!(host.run(|| TcpStream::connect_timeout(&"192.0.2.1:80".parse().unwrap(), Duration::from_secs(5))).is_err());
    let mut devices = Command::new("cat");
    devices.arg("/proc/net/dev");
    host.enter(&mut devices);
    let (_, seen, _) = hotbook_harness::run(devices);
    assert!(seen.contains("hotbook0:") && seen.lines().count() == 4, "{seen}");
    let here = std::fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!here.contains("hotbook0"), "{here}");
}

/// Which processes are in a network namespace.
fn processes_in(namespace: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    let is_in = |p: &std::path::PathBuf| {
        std::fs::read_link(p.join("ns/net")).is_ok_and(|link| link.to_string_lossy() == namespace)
    };
    processes.filter(is_in).map(|p| p.display().to_string()).collect()
}

/// Set in the child that makes a network and is killed.
const CHILD: &str = "HOTBOOK_TEST_NETWORK_CHILD";

/// Does nothing unless [`a_killed_test_leaves_no_namespace`] starts this binary again.
#[test]
fn child_that_makes_a_network() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let network = network();
    let mut command = Command::new("sh");
    command.args(["-c", "readlink /proc/self/ns/net; exec sleep 600"]).stdout(Stdio::piped());
    network.host("one").enter(&mut command);
    let mut child = hotbook_harness::spawn(command);
    let mut namespace = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut namespace).unwrap();
    println!("\nnamespace {namespace}");
    child.wait().unwrap();
}

#[test]
fn a_killed_test_leaves_no_namespace() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_makes_a_network", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find_map(|l| l.strip_prefix("namespace ").map(str::to_owned));
    let namespace = said.expect("the child names its namespace");
    assert!(!processes_in(&namespace).is_empty(), "{namespace}");
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    while !processes_in(&namespace).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", processes_in(&namespace));
        std::thread::sleep(Duration::from_millis(10));
    }
    // A name elsewhere would be a mount.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&namespace), "{mounts}");
}
