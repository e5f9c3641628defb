//! `hotbook audit` as an operator runs it: beside a running exchange, on a folder at rest, and on one that was tampered with.

use std::path::Path;
use std::process::Command as Process;

use bytes::Bytes;
use embedded::*;
use hotbook::actors::exchange::ExchangeConfig;
use hotbook::domain::outbox::Header;
use hotbook::domain::{Command, NodeId, Offset, Side};
use hotbook::migration::handover::{Cause, MoveStatus};
use hotbook::ports::log::embedded::{EmbeddedLog, EmbeddedLogOptions};
use hotbook::ports::log::{Log, NewRecord, SessionOptions, Topic, TopicPartition, partition_of};
use hotbook::wire;
use serde_json::Value;

#[path = "common/embedded.rs"]
mod embedded;

const SECRET: &str = "audit-test-cluster-secret-0123456789";

/// (exit status, stdout, stderr)
fn audit(data: &Path, more: &[&str]) -> (i32, String, String) {
    let output = Process::new(env!("CARGO_BIN_EXE_hotbook"))
        .args(["audit", "--data"])
        .arg(data)
        .args(more)
        .env("HOTBOOK_CLUSTER_SECRET", SECRET)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn with_secret(folder: &Path) -> ExchangeConfig {
    ExchangeConfig { nodes: 2, partitions: 4, cluster_secret: SECRET.as_bytes().to_vec(), ..config(folder) }
}

/// Two books, one of them moved, beside which the audit runs; then a clean stop.
async fn traded(folder: &Path) {
    let exchange = start(with_secret(folder)).await;
    for name in ["AAA", "BBB"] {
        exchange.list(symbol(name), plain()).await.unwrap();
        for n in 0..30 {
            let side = if n % 2 == 0 { Side::Buy } else { Side::Sell };
            send(&exchange, name, &Command::Add(order(&format!("o{n}"), side, 100 + n % 3, 1 + n % 4))).await;
        }
    }
    exchange.snapshot(symbol("BBB")).await.unwrap();
    let at = exchange.directory().get(&symbol("AAA")).unwrap().node();
    let to = ["n1", "n2"].map(|n| NodeId::new(n).unwrap()).into_iter().find(|n| *n != at).unwrap();
    let id = exchange.moves().begin(symbol("AAA"), to, Cause::Operator).unwrap();
    until("the move ends", || exchange.moves().get(id).unwrap().status == MoveStatus::Completed).await;
    send(&exchange, "AAA", &Command::Add(order("after", Side::Buy, 100, 1))).await;
    let (status, out, err) = audit(folder, &[]);
    assert_eq!(status, 0, "{out}{err}");
    exchange.shutdown().await;
}

/// What a zombie could do: the first output of a symbol again, with one byte of its origin changed.
async fn write_differently(folder: &Path, name: &str) {
    let log = EmbeddedLog::open(&EmbeddedLogOptions::new(folder, 4)).unwrap();
    let of = TopicPartition { topic: Topic::Events, partition: partition_of(name.as_bytes(), 4) };
    let records = log.read(of, Offset(0), 1_000).await.unwrap();
    let first = records.iter().find(|r| r.key == name.as_bytes()).unwrap();
    let outputs = wire::events::decode(&first.value).unwrap().outputs;
    let mut one = outputs[..Header::read(&outputs).unwrap().length].to_vec();
    one[40] ^= 1;
    let value = wire::events::encode(&symbol(name), &one).unwrap().remove(0);
    let session = log.open_session(SessionOptions { name: "zombie".into(), queue_bytes_max: 1 << 20 }).unwrap();
    session.append(NewRecord { to: of, key: first.key.clone(), header: Bytes::new(), value }).await.unwrap();
    log.close().await.unwrap();
}

#[actix_web::test]
async fn the_exit_status_tells_and_the_first_offence_is_named() {
    let folder = tempfile::tempdir().unwrap();
    traded(folder.path()).await;
    let (status, out, err) = audit(folder.path(), &["--complete", "--json"]);
    assert_eq!(status, 0, "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["violations"], &report["first"]), (&0.into(), &Value::Null));
    let books = report["symbols"].as_array().unwrap();
    assert_eq!(books.iter().map(|b| b["symbol"].as_str().unwrap()).collect::<Vec<_>>(), ["AAA", "BBB"]);
    assert_eq!((&books[0]["inputs"], &books[0]["moves"][0]["epoch"]), (&32.into(), &1.into()));
    assert!(books[0]["moves"][0]["pause_us"].is_u64() && books[1]["snapshots"].as_u64() >= Some(1), "{report}");

    write_differently(folder.path(), "BBB").await;
    let (status, out, err) = audit(folder.path(), &[]);
    assert_eq!(status, 1, "{out}{err}");
    assert!(err.contains("the first: BBB repeat_differs at seq 1, orders offset"), "{err}");
    assert!(
        out.contains("AAA              clean: 32 inputs") && out.contains("BBB              1 VIOLATIONS"),
        "{out}"
    );
    // One symbol alone, and one that is not there.
    assert_eq!(audit(folder.path(), &["--symbol", "AAA"]).0, 0);
    assert_eq!(audit(folder.path(), &["--symbol", "ZZZ"]).0, 1);
    let (status, _, err) = audit(&folder.path().join("nowhere"), &[]);
    assert!(status == 1 && err.contains("no log"), "{err}");
}
