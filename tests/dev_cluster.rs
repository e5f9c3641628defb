//! `deploy/dev/cluster` as somebody uses it who sees it for the first time: it starts, trades where it says, and leaves nothing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use hotbook_harness::{call, hotbook, services_folder, soon};
use serde_json::{Value, json};

const NODES: usize = 2;

/// The script with folders of its own: what the tests have fetched is used, nobody's servers are touched.
struct Dev {
    folder: tempfile::TempDir,
}

impl Dev {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let services = folder.path().join("services");
        std::fs::create_dir(&services).unwrap();
        for entry in std::fs::read_dir(services_folder()).expect("scripts/services install kafka redis s3").flatten() {
            let name = entry.file_name();
            if !["run", "tests", "install.lock"].iter().any(|own| name == *own) {
                std::os::unix::fs::symlink(entry.path(), services.join(name)).unwrap();
            }
        }
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/cluster");
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let environment = [
            ("HOTBOOK_BIN", env!("CARGO_BIN_EXE_hotbook")),
            ("HOTBOOK_DEV_DIR", &path("dev")),
            ("HOTBOOK_SERVICES_DIR", &path("services")),
        ];
        hotbook(&script, arguments, &environment)
    }

    /// Whether it succeeded, what it printed, what it complained of.
    fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("it runs");
        (status.success(), String::from_utf8_lossy(&stdout).into(), String::from_utf8_lossy(&stderr).into())
    }

    /// Processes that were started with something of this folder.
    fn processes(&self) -> Vec<String> {
        let is_number = |name: &std::ffi::OsStr| name.to_str().is_some_and(|n| n.parse::<u32>().is_ok());
        let entries = std::fs::read_dir("/proc").unwrap().flatten().filter(|e| is_number(&e.file_name()));
        let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        let lines = lines.map(|l| String::from_utf8_lossy(&l).replace('\0', " "));
        lines.filter(|l| l.contains(self.folder.path().to_str().unwrap())).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Nothing runs any more unless the test failed.
        _ = self.command(&["stop"]).output();
    }
}

/// Of lines such as `n1: http://127.0.0.1:8080  (operators: /ops)  process 17, log ..`: address and process of each node.
fn nodes(said: &str) -> Vec<(String, u32)> {
    let of_line = |line: &str| {
        let (url, rest) = line.strip_prefix('n')?.split_once(": ")?.1.split_once("  (operators: /ops)  process ")?;
        Some((url.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    };
    said.lines().filter_map(of_line).collect()
}

async fn done(url: &str, method: &str, path: &str, token: &str, body: Value) -> Value {
    let (status, answer) = call(url, method, path, Some(token), body).await.expect("an answer");
    assert!((200..300).contains(&status), "{method} {url}{path}: {answer}");
    answer
}

#[actix_web::test]
async fn the_cluster_of_developers_starts_trades_where_it_says_and_leaves_nothing() {
    // Somebody has the usual port, as on many a developer's machine; on this one perhaps already.
    let taken = TcpListener::bind("127.0.0.1:8080");
    let dev = Dev::new();
    let (started, said, complained) = dev.run(&["start", &NODES.to_string()]);
    assert!(started, "{said}{complained}");
    let at = nodes(&said);
    assert_eq!(at.len(), NODES, "{said}");
    assert!(at.iter().all(|(url, _)| !url.ends_with(":8080")), "{said}");
    drop(taken);
    let token = said.lines().last().expect("the operator's token").trim().to_owned();
    for (url, _) in &at {
        for path in ["/health/ready", "/", "/ops"] {
            let (status, text) = hotbook_harness::request(url, "GET", path, None, None).await.expect("an answer");
            assert_eq!(status, 200, "{url}{path}: {text}");
        }
    }
    let [(first, _), (second, process)] = &at[..] else { panic!("{said}") };
    done(first, "POST", "/admin/instruments", &token, json!({"symbol": "ACME"})).await;
    let login = json!({"user_id": "alice", "roles": ["trader"]});
    let trader = done(second, "POST", "/auth/dev-token", &token, login).await["token"].as_str().unwrap().to_owned();
    for symbol in ["TSLA", "ACME"] {
        let order = json!({"symbol": symbol, "side": "BUY", "price": 10, "quantity": 3, "order_id": "first"});
        assert_eq!(done(first, "POST", "/orders", &trader, order).await["status"], "NEW");
        // The other node hears of it a moment later.
        let is_there = async {
            loop {
                let book =
                    call(second, "GET", &format!("/orderbook/{symbol}"), None, Value::Null).await.expect("an answer").1;
                if book["bids"][0]["qty"] == 3 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        soon("order at the other node", is_there).await;
    }

    let (again, _, complained) = dev.run(&["start"]);
    assert!(!again && complained.contains("runs already"), "{complained}");
    let (ok, said, _) = dev.run(&["status"]);
    assert!(ok && nodes(&said) == at, "{said}");
    for part in ["kafka-1", "redis-1", "s3-1"] {
        assert!(said.contains(&format!("{part}: process")), "{part}: {said}");
    }
    // One that has died is told from one that runs, and hinders no stop.
    // SAFETY: kill takes any pid; this one was just seen to run.
    assert_eq!(unsafe { libc::kill(libc::pid_t::try_from(*process).unwrap(), libc::SIGKILL) }, 0);
    let is_seen = async {
        while !dev.run(&["status"]).1.contains("n2: stopped") {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    soon("n2 is seen to be dead", is_seen).await;

    let (stopped, said, complained) = dev.run(&["stop"]);
    assert!(stopped, "{said}{complained}");
    assert_eq!(dev.processes(), Vec::<String>::new());
    for (url, _) in &at {
        assert!(call(url, "GET", "/health/live", None, Value::Null).await.is_err(), "{url} answers");
    }
    let (ok, said, _) = dev.run(&["status"]);
    assert!(
        ok && nodes(&said).is_empty() && said.contains("n1: stopped") && said.contains("kafka-1: stopped"),
        "{said}"
    );
    let (again, said, complained) = dev.run(&["stop"]);
    assert!(again, "there is nothing to stop: {said}{complained}");
}

#[test]
fn what_it_does_not_understand_is_said() {
    let dev = Dev::new();
    for (arguments, what) in [(&["start", "many"][..], "no number from 1 to 9"), (&["begin"], "no such verb")] {
        let (ok, _, said) = dev.run(arguments);
        assert!(!ok && said.contains(what), "{arguments:?}: {said}");
    }
    let (ok, said, _) = dev.run(&["help"]);
    assert!(ok && said.contains("deploy/dev/cluster stop"), "{said}");
}
