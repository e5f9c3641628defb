//! Another program on the same topics: Python's Kafka client puts orders in both JSON shapes and reads the fills; what it
//! puts in the wrong place, what is broken and what is forged becomes a dead letter and stops nothing.

use std::path::Path;

use hotbook_harness::{Cluster, run, scripts};
use serde_json::{Value, json};

/// What the client found; it fails with what is not as it must be.
async fn client(cluster: &Cluster, verb: &str) -> Value {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = std::process::Command::new(scripts().join("services"));
    command.args(["run", "python"]).arg(project.join("tests/clients/kafka_client.py"));
    command.args([&cluster.kafka.addresses(), "4", verb]);
    let ran = tokio::task::spawn_blocking(|| run(command)).await.expect("no panic");
    assert!(ran.0, "{verb}: {}{}", ran.1, ran.2);
    println!("{verb}: {}", ran.1.trim());
    serde_json::from_str(&ran.1).expect("a line of JSON")
}

#[actix_web::test]
async fn orders_of_another_client_trade_and_what_is_wrong_with_them_stops_nothing() {
    let cluster = Cluster::of(env!("CARGO_BIN_EXE_hotbook")).start();
    let server = cluster.serve();
    let admin = server.token("root", &["admin"]).await;
    server.list(&["AAA", "BBB", "CCC"], &admin).await;
    let of_client = client(&cluster, "trade").await;
    assert_eq!(of_client["fills"], 300);

    let misplaced = client(&cluster, "misplaced").await;
    let count = |field: &str| misplaced[field].as_u64().unwrap();
    assert!(count("dead_letters") > 0 && count("dead_letters") / 2 + count("fills") == 60, "{misplaced}");

    // A signed HALT for the client to play again.
    for verb in ["halt", "resume"] {
        let (status, said) = server.call("POST", &format!("/admin/books/AAA/{verb}"), Some(&admin), json!({})).await;
        assert_eq!(status, 200, "{said}");
    }
    let poisoned = client(&cluster, "poison").await;
    assert!(poisoned["dead_letters"].as_object().unwrap().len() >= 10, "{poisoned}");
    let (_, book) = server.call("GET", "/instruments", None, Value::Null).await;
    let status =
        book["instruments"].as_array().unwrap().iter().find(|i| i["symbol"] == "AAA").unwrap()["status"].clone();
    assert_eq!(status, "TRADING", "a HALT played again halts nothing");

    // Where only gateways may trade, nothing that the client writes meets the order that rests there.
    let listing = json!({"symbol": "GATE", "admission": "gateway"});
    assert_eq!(server.call("POST", "/admin/instruments", Some(&admin), listing).await.0, 201);
    let trader = server.token("seller", &["trader"]).await;
    let order = async |side: &str, id: &str| {
        let order = json!({"symbol": "GATE", "side": side, "price": 100, "quantity": 1, "order_id": id, "stp": "none"});
        server.call("POST", "/orders", Some(&trader), order).await.1
    };
    assert_eq!(order("SELL", "held").await["status"], "NEW");
    assert_eq!(client(&cluster, "outside").await["dead_letters"], 2);
    let bought = order("BUY", "taker").await;
    assert_eq!((&bought["status"], &bought["fills"][0]["price"]), (&json!("FILLED"), &json!(100.0)), "{bought}");

    // A new life reads all of it again, and an auditor of its own agrees.
    server.kill();
    let server = cluster.serve();
    server.terminate();
    let report = cluster.clean_audit(&["--complete"]);
    let fills: u64 = report["symbols"].as_array().unwrap().iter().map(|s| s["fills"].as_u64().unwrap()).sum();
    assert_eq!(fills, 300 + count("fills") + poisoned["fills"].as_u64().unwrap() + 1);
}
