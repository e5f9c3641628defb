//! The program as an operator starts it.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::until;
use serde_json::{Value, json};

fn hotbook(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotbook"));
    command.args(arguments);
    // Nothing of the machine's own environment may decide these tests.
    for (name, _) in std::env::vars() {
        if name.starts_with("HOTBOOK_") || ["KAFKA_BROKERS", "REDIS_HOST", "LOG_LEVEL"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied());
    command
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String, String) {
    let Output { status, stdout, stderr } = hotbook(arguments, environment).output().expect("it runs");
    (status.success(), String::from_utf8_lossy(&stdout).into(), String::from_utf8_lossy(&stderr).into())
}

#[test]
fn check_config_shows_effective_values_and_no_secret() {
    let environment = [("HOTBOOK_JWT_SECRET", "swordfish"), ("HOTBOOK_HTTP_PORT", "9999"), ("GRPC_PORT", "5")];
    let (ok, out, err) = run(&["check-config", "--nodes", "3"], &environment);
    assert!(ok, "{err}");
    assert!(out.contains("http_port = 9999") && out.contains("nodes = 3") && out.contains("grpc_port = 5"), "{out}");
    assert!(!out.contains("swordfish"), "{out}");
}

#[test]
fn settings_that_cannot_work_are_refused_with_a_code() {
    for (environment, code) in [
        (("KAFKA_BROKERS", "broker:9092"), "config_cluster_not_supported"),
        (("REDIS_HOST", "redis"), "config_cluster_not_supported"),
        (("HOTBOOK_S3_BUCKET", "bucket"), "config_cluster_not_supported"),
        (("HOTBOOK_HTTP_HOST", "0.0.0.0"), "config_secret_needed"),
        (("HOTBOOK_HTPP_PORT", "1"), "config_invalid"),
    ] {
        for arguments in [["check-config"].as_slice(), ["serve"].as_slice()] {
            let (ok, _, err) = run(arguments, &[environment]);
            assert!(!ok && err.contains(code), "{environment:?}: {err}");
        }
    }
    let (ok, _, err) = run(&["serve", "--config", "/there/is/no/such.toml"], &[]);
    assert!(!ok && err.contains("config_file_missing"), "{err}");
}

#[test]
fn inspecting_what_is_no_snapshot_says_so() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"not a snapshot").expect("written");
    let (ok, _, err) = run(&["snapshot", "inspect", &file.path().to_string_lossy()], &[]);
    assert!(!ok && err.contains("is not valid"), "{err}");
}

/// A server process; killed when the test fails.
struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    fn start(data: &Path, more: &[&str]) -> Self {
        let data = data.to_string_lossy().into_owned();
        let mut arguments = vec!["serve", "--http-port", "0", "--data", &data];
        arguments.extend_from_slice(more);
        let mut child =
            hotbook(&arguments, &[("LOG_LEVEL", "warn")]).stdout(Stdio::piped()).spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        // Printed once it is ready.
        let line = out.lines().map_while(Result::ok).find(|l| l.contains("is trading at")).expect("the banner");
        let url = line.rsplit(' ').next().expect("an address").to_owned();
        Self { child, url }
    }

    async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
        let method = awc::http::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = awc::Client::default().request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.insert_header(("Authorization", format!("Bearer {token}")));
        }
        let mut response = request.send_json(&body).await.expect("an answer");
        let bytes = response.body().await.expect("a body");
        (response.status().as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// SIGTERM, and a clean end.
    fn terminate(mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: the process is our child and has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Gone already unless the test failed.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[actix_web::test]
async fn sigterm_snapshots_and_a_restart_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Serving::start(folder.path(), &["--nodes", "2"]);
    let body = json!({"user_id": "alice", "roles": ["trader", "admin"]});
    let (_, answer) = server.call("POST", "/auth/dev-token", None, body).await;
    let token = answer["token"].as_str().expect("a token").to_owned();
    for symbol in ["AAA", "BBB"] {
        let (status, answer) = server.call("POST", "/admin/instruments", Some(&token), json!({"symbol": symbol})).await;
        assert_eq!(status, 201, "{answer}");
    }
    let order = json!({"symbol": "AAA", "side": "BUY", "price": 5, "quantity": 3, "order_id": "kept"});
    assert_eq!(server.call("POST", "/orders", Some(&token), order).await.0, 201);
    let (_, nodes) = server.call("GET", "/admin/nodes", Some(&token), Value::Null).await;
    assert_eq!(nodes["nodes"].as_array().map(|n| n.iter().all(|n| n["books"] == 1)), Some(true), "{nodes}");
    server.terminate();

    let snapshots = folder.path().join("snapshots").join("AAA");
    let file = std::fs::read_dir(snapshots).expect("snapshots").next().expect("one").expect("readable").path();
    let (ok, out, err) = run(&["snapshot", "inspect", &file.to_string_lossy()], &[]);
    assert!(ok && out.contains("AAA") && out.contains("digest"), "{out}{err}");

    // The book of n2 is taken over by n1.
    let server = Serving::start(folder.path(), &[]);
    let (_, nodes) = server.call("GET", "/admin/nodes", Some(&token), Value::Null).await;
    assert_eq!(nodes["nodes"].as_array().map(|n| n.iter().map(|n| n["books"].clone()).collect()), Some(vec![json!(2)]));
    server.terminate();

    let server = Serving::start(folder.path(), &["--nodes", "2"]);
    let moving = json!({"symbol": "AAA", "target": "n2"});
    let (status, begun) = server.call("POST", "/admin/migrations", Some(&token), moving.clone()).await;
    assert_eq!(status, 202, "{begun}");
    let path = format!("/admin/migrations/{}", begun["id"]);
    let ended = until(
        "the move completes",
        || server.call("GET", &path, Some(&token), Value::Null),
        |(_, m)| m["status"] == "COMPLETED",
    )
    .await;
    assert_eq!(ended.1["steps"].as_array().map(Vec::len), Some(8), "{}", ended.1);
    assert!(ended.1["pause_us"].is_u64() && ended.1["parked"].is_u64(), "{}", ended.1);
    let (status, refused) = server.call("POST", "/admin/migrations", Some(&token), moving).await;
    assert_eq!((status, &refused["code"]), (409, &json!("already_there")));
    let (status, refused) = server.call("DELETE", &path, Some(&token), Value::Null).await;
    assert_eq!((status, &refused["code"]), (409, &json!("too_late_to_abort")));
    let url = server.url.clone();
    let (ok, out, err) = run(&["admin", "migrate", "AAA", "n1", "--url", &url], &[]);
    assert!(ok && out.contains("COMPLETED") && out.contains("WaitForDrain"), "{out}{err}");
    let (ok, _, err) = run(&["admin", "migrate", "AAA", "n1", "--url", &url], &[]);
    assert!(!ok && err.contains("already_there"), "{err}");
    let (ok, out, err) = run(&["admin", "books", "--url", &url], &[]);
    assert!(ok && out.contains("AAA") && out.contains("n1"), "{out}{err}");
    let (ok, _, err) = run(&["admin", "migrate", "AAA", "n2", "--url", &url], &[]);
    assert!(ok, "{err}");
    let nowhere = json!({"symbol": "AAA", "target": "n9"});
    let (status, refused) = server.call("POST", "/admin/migrations", Some(&token), nowhere).await;
    assert_eq!((status, &refused["code"]), (404, &json!("unknown_node")));
    let (_, table) = server.call("GET", "/admin/routes", Some(&token), Value::Null).await;
    assert_eq!(
        (&table["routes"][0]["target_instance"], &table["routes"][0]["status"]),
        (&json!("n2"), &json!("ACTIVE"))
    );
    // The token holds: the cluster's secret was kept.
    let seen = until(
        "the order is there",
        || server.call("GET", "/orders/kept?symbol=AAA", Some(&token), Value::Null),
        |(status, _)| *status == 200,
    )
    .await;
    assert_eq!((&seen.1["status"], &seen.1["remaining_qty"]), (&json!("NEW"), &json!(3)));
    server.terminate();
}

#[actix_web::test]
async fn the_demo_trades() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Serving::start(folder.path(), &["--demo"]);
    for symbol in ["TSLA", "005930"] {
        let path = format!("/trades/{symbol}");
        until(
            "trades",
            || server.call("GET", &path, None, Value::Null),
            |(_, seen)| seen["trades"].as_array().is_some_and(|t| t.len() >= 3),
        )
        .await;
        let (_, book) = server.call("GET", &format!("/orderbook/{symbol}"), None, Value::Null).await;
        let has_levels = |side: &str| book[side].as_array().is_some_and(|l| !l.is_empty());
        assert!(has_levels("bids") && has_levels("asks"), "{book}");
    }
    server.terminate();
}
