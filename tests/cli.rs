//! The program as an operator starts it.

mod common;

use std::path::Path;
use std::process::Command;

use common::until;
use hotbook_harness::Served;
use serde_json::{Value, json};

fn hotbook(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    hotbook_harness::hotbook(Path::new(env!("CARGO_BIN_EXE_hotbook")), arguments, environment)
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String, String) {
    hotbook_harness::run(hotbook(arguments, environment))
}

fn serve(data: &Path, more: &[&str]) -> Served {
    let data = data.to_string_lossy();
    let arguments = [&["serve", "--http-port", "0", "--data", &data], more].concat();
    Served::start(hotbook(&arguments, &[("LOG_LEVEL", "warn")]))
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
        (("KAFKA_BROKERS", "broker:9092"), "config_cluster_half_set"),
        (("REDIS_HOST", "redis"), "config_cluster_half_set"),
        (("HOTBOOK_S3_BUCKET", "bucket"), "config_cluster_half_set"),
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
#[cfg(not(any(feature = "kafka", feature = "redis", feature = "s3")))]
fn a_cluster_is_refused_by_a_build_that_cannot_be_in_one() {
    let environment = [("KAFKA_BROKERS", "b:9092"), ("REDIS_HOST", "r"), ("HOTBOOK_S3_BUCKET", "s")];
    for arguments in [["check-config"].as_slice(), &["serve"], &["audit"], &["admin", "init-topics"]] {
        let (ok, _, err) = run(arguments, &environment);
        assert!(!ok && err.contains("config_feature_missing") && err.contains("--features cluster"), "{err}");
    }
}

#[test]
fn inspecting_what_is_no_snapshot_says_so() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"not a snapshot").expect("written");
    let (ok, _, err) = run(&["snapshot", "inspect", &file.path().to_string_lossy()], &[]);
    assert!(!ok && err.contains("is not valid"), "{err}");
}

#[actix_web::test]
async fn sigterm_snapshots_and_a_restart_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path(), &["--nodes", "2"]);
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
    let server = serve(folder.path(), &[]);
    let (_, nodes) = server.call("GET", "/admin/nodes", Some(&token), Value::Null).await;
    assert_eq!(nodes["nodes"].as_array().map(|n| n.iter().map(|n| n["books"].clone()).collect()), Some(vec![json!(2)]));
    server.terminate();

    let server = serve(folder.path(), &["--nodes", "2"]);
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
    let server = serve(folder.path(), &["--demo"]);
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

/// The whole of `bench moves`, small: it fails by itself if an order is not answered exactly once, the audit is not clean, or
/// a move does not complete.
#[test]
fn the_hottest_book_moves_back_and_forth_under_load_and_every_order_is_answered_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, json) = (folder.path().to_string_lossy().into_owned(), folder.path().join("figures.json"));
    let size = ["--moves", "4", "--symbols", "5", "--resting", "50", "--rate", "300", "--clients", "2"];
    let files = ["--dir", &dir, "--json", &json.to_string_lossy()];
    let (ok, out, err) = run(&[["bench", "moves"].as_slice(), &size, &files].concat(), &[]);
    assert!(ok, "{out}{err}");
    let figures: Value = serde_json::from_slice(&std::fs::read(&json).expect("figures")).expect("JSON");
    let (run, orders) = (&figures[0], &figures[0]["orders"]);
    assert_eq!(
        (&run["hottest"], &run["moves"], &run["moves_audited"]),
        (&json!("S000"), &json!(4), &json!(4)),
        "{run}"
    );
    assert!(orders["sent"].as_u64().is_some_and(|sent| sent > 300), "{orders}");
    assert_eq!(orders["answered_once"], orders["sent"], "{orders}");
    assert!(orders["filled_once"].as_u64().is_some_and(|filled| filled > 200), "{orders}");
    assert!(run["pause_p50_us"].is_u64() && out.contains("clean") && !out.contains("NOT CLEAN"), "{out}");
}
