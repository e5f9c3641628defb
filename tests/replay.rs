//! `replay` and `flow` as a user runs them: over WebSocket against a running server, and in process; both must agree.

mod common;

use std::path::Path;
use std::process::Command;

use common::TestServer;
use serde_json::Value;

fn hotbook(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_hotbook")).args(args).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "hotbook {args:?}\n{out}\n{err}");
}

/// The summary of a replay, without how long it took.
fn replay(file: &str, format: &str, to: &[&str], json: &Path) -> Value {
    let mut args = vec!["replay", file, "--format", format, "--json", json.to_str().unwrap()];
    args.extend(to);
    hotbook(&args);
    let mut summary: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    summary["seconds"].take();
    // The server prints prices as numbers, so 100.50 comes back as 100.5.
    for book in summary["books"].as_array_mut().unwrap() {
        for side in ["best_bid", "best_ask"] {
            let price = book[side][0].as_str().and_then(|p| p.parse::<f64>().ok());
            if let Some(price) = price {
                book[side][0] = price.into();
            }
        }
    }
    summary
}

async fn agrees(file: String, format: &'static str) -> Value {
    let mut server = TestServer::start().await;
    let url = server.url("");
    let run = move || {
        let folder = tempfile::tempdir().unwrap();
        let over = replay(&file, format, &["--url", &url], &folder.path().join("over.json"));
        let inside = replay(&file, format, &["--in-process"], &folder.path().join("inside.json"));
        (over, inside)
    };
    let (over, inside) = actix_web::rt::task::spawn_blocking(run).await.unwrap();
    assert_eq!(over, inside);
    server.stop().await;
    over
}

#[actix_web::test]
async fn synthetic_flow_gives_the_expected_fills_and_the_same_book() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.flow").to_str().unwrap().to_owned();
    hotbook(&["flow", "A", "5000", &file]);
    let summary = agrees(file, "flow").await;
    assert_eq!(summary["answered"], 5_000);
    assert!(summary["fills"].as_u64().unwrap() > 1_000);
}

#[actix_web::test]
async fn recorded_flow_hits_the_orders_that_it_hit_in_reality() {
    // Two asks and a bid; a bid from before is partly cancelled; a buyer takes both asks.
    const ROWS: &str = "34200.1,1,11,100,5853300,-1\n34200.2,1,12,50,5853400,-1\n34200.3,1,13,10,5853000,1\n\
        34200.4,2,7,5,5852900,1\n34200.5,4,11,100,5853300,-1\n34200.5,4,12,20,5853400,-1\n34200.6,5,0,9,5853300,1\n\
        34200.7,3,13,10,5853000,1\n34200.8,4,7,30,5852900,1\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("day.csv");
    std::fs::write(&file, ROWS).unwrap();
    let summary = agrees(file.to_str().unwrap().to_owned(), "lobster").await;
    assert_eq!((&summary["executions"], &summary["executions_same"]), (&3.into(), &3.into()));
    assert_eq!((&summary["fills"], &summary["filled_quantity"]), (&3.into(), &150.into()));
}
