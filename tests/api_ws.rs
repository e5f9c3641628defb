//! The WebSocket as a client sees it.

mod common;

use common::{TestServer, expect_error, soon, until, with_tsla};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

#[actix_web::test]
async fn an_order_is_received_then_answered_and_its_maker_is_told() {
    let server = with_tsla().await;
    let (mut alice, mut bob) = (server.ws("alice").await, server.ws("bob").await);
    alice.send(json!({"action": "SUBSCRIBE", "channels": ["orders"]})).await;
    alice.next_of("ACK").await;
    alice.add("TSLA", "SELL", "250.00", 25, "a1").await;
    let ack = alice.next().await;
    assert_eq!((&ack["type"], &ack["request_id"]), (&json!("ACK"), &json!("a1")));
    assert_eq!(ack["data"], json!({"order_id": "a1", "symbol": "TSLA", "status": "RECEIVED"}));
    let status = alice.next().await;
    assert_eq!((&status["type"], &status["request_id"]), (&json!("ORDER_STATUS"), &json!("a1")), "{status}");
    assert_eq!((&status["data"]["status"], &status["data"]["remaining_qty"]), (&json!("NEW"), &json!(25)));

    bob.add("TSLA", "BUY", "250.50", 10, "b1").await;
    assert_eq!(bob.next().await["type"], "ACK");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(bob.next().await);
    }
    let fill = seen.iter().find(|m| m["type"] == "FILL").expect("a FILL");
    assert_eq!((&fill["data"]["side"], &fill["data"]["filled_qty"]), (&json!("BUY"), &json!(10)));
    assert_eq!((&fill["data"]["filled_price"], &fill["data"]["status"]), (&json!(250.0), &json!("FILLED")));
    let status = seen.iter().find(|m| m["type"] == "ORDER_STATUS").expect("an ORDER_STATUS");
    assert_eq!((&status["data"]["status"], &status["request_id"]), (&json!("FILLED"), &json!("b1")));

    let maker = alice.next_of("FILL").await;
    assert_eq!((&maker["data"]["order_id"], &maker["data"]["side"]), (&json!("a1"), &json!("SELL")));
    assert_eq!((&maker["data"]["remaining_qty"], &maker["data"]["trade_id"]), (&json!(15), &fill["data"]["trade_id"]));
}

#[actix_web::test]
async fn every_command_is_acknowledged_first_and_answered_once() {
    let server = with_tsla().await;
    let mut ws = server.ws("alice").await;
    const N: usize = 2_000;
    for i in 0..N {
        let side = if i % 2 == 0 { "BUY" } else { "SELL" };
        ws.send(json!({
            "action": "ADD", "request_id": i, "symbol": "TSLA", "side": side, "price": 100, "quantity": 1,
            "order_id": format!("o{i}"), "stp": "none",
        }))
        .await;
    }
    let (mut acked, mut answered) = (vec![false; N], vec![false; N]);
    while answered.iter().any(|a| !a) {
        let message = ws.next().await;
        let number = |id: &Value| id.as_str().and_then(|s| s[1..].parse::<usize>().ok()).expect("an id of ours");
        match message["type"].as_str() {
            Some("ACK") => {
                let i = number(&message["data"]["order_id"]);
                assert!(!acked[i], "acknowledged twice: {message}");
                acked[i] = true;
            }
            Some("ORDER_STATUS") => {
                let i = number(&message["data"]["order_id"]);
                assert!(acked[i], "the outcome came first: {message}");
                if message["request_id"] == i {
                    assert!(!answered[i], "answered twice: {message}");
                    answered[i] = true;
                }
            }
            Some("FILL") => assert!(acked[number(&message["data"]["order_id"])], "the fill came first: {message}"),
            _ => panic!("{message}"),
        }
    }
}

#[actix_web::test]
async fn mistakes_are_told_and_the_connection_lives() {
    let server = with_tsla().await;
    let mut ws = server.ws_without_token().await;
    ws.add("TSLA", "BUY", "1", 1, "early").await;
    expect_error(&mut ws, "unauthorized").await;
    ws.auth(&server.token("alice", &["trader"]).await, false).await;
    let add = |price: &str| {
        format!(r#"{{"action":"ADD","request_id":7,"symbol":"TSLA","side":"BUY","price":{price},"quantity":1}}"#)
    };
    for (text, code) in [
        ("{".to_owned(), "malformed_json"),
        ("[]".into(), "malformed_json"),
        ("null".into(), "malformed_json"),
        (add("NaN"), "malformed_json"),
        (add("1e309"), "invalid_price"),
        (add("-1"), "invalid_price"),
        (add("1.001"), "price_too_precise"),
        (r#"{"action":"ADD","symbol":"NOPE","side":"BUY","price":1,"quantity":1}"#.into(), "unknown_symbol"),
        (r#"{"action":"DANCE"}"#.into(), "unknown_action"),
        (r#"{"request_id":1}"#.into(), "missing_field"),
        (r#"{"action":"PING","request_id":{"a":1}}"#.into(), "invalid_field"),
        (r#"{"action":"SUBSCRIBE","channels":["gossip"]}"#.into(), "unknown_channel"),
        (r#"{"action":"CANCEL","symbol":"TSLA","order_id":"x","colour":"red"}"#.into(), "unknown_field"),
    ] {
        ws.send_text(text.clone()).await;
        let message = expect_error(&mut ws, code).await;
        if text.contains("\"request_id\":7") && code != "malformed_json" {
            assert_eq!(message["request_id"], 7, "{message}");
        }
    }
    ws.send(json!({"action": "CANCEL", "request_id": "c", "symbol": "TSLA", "order_id": "nothing"})).await;
    assert_eq!(ws.next().await["type"], "ACK", "the cancel is in the log");
    let refused = expect_error(&mut ws, "unknown_order").await;
    assert_eq!(refused["request_id"], "c");
    ws.send(json!({"action": "PING", "request_id": "p"})).await;
    let pong = ws.next().await;
    assert_eq!((&pong["type"], &pong["request_id"]), (&json!("PONG"), &json!("p")));
}

#[actix_web::test]
async fn depth_is_a_snapshot_and_deltas_without_a_gap() {
    let server = with_tsla().await;
    let alice = server.trader("alice").await;
    alice.order("TSLA", "BUY", "100", 10, "a").await;
    let mut ws = server.ws_without_token().await;
    ws.send(json!({"action": "SUBSCRIBE", "channels": ["depth", "trades", "ticker"], "symbols": ["TSLA"]})).await;
    let snapshot = ws.next_of("DEPTH").await;
    assert_eq!((&snapshot["data"]["kind"], &snapshot["data"]["bids"]), (&json!("snapshot"), &json!([[100.0, 10]])));
    let bob = server.trader("bob").await;
    bob.order("TSLA", "SELL", "100", 4, "b").await;
    let delta = ws.next_of("DEPTH").await;
    assert_eq!(delta["data"]["kind"], "delta");
    assert_eq!(delta["data"]["prev_seq"], snapshot["data"]["seq"], "{delta}");
    assert_eq!(delta["data"]["bids"], json!([[100.0, 6]]));
    let mut ws2 = server.ws_without_token().await;
    ws2.send(json!({"action": "SUBSCRIBE", "channels": ["trades"], "symbols": ["TSLA"]})).await;
    ws2.next_of("ACK").await;
    bob.order("TSLA", "SELL", "100", 1, "b2").await;
    let trade = ws2.next_of("TRADE").await;
    assert_eq!((&trade["data"]["quantity"], &trade["data"]["taker_side"]), (&json!(1), &json!("SELL")));
}

#[actix_web::test]
async fn a_candle_comes_at_once_and_after_every_trade() {
    let server = with_tsla().await;
    let (alice, bob) = (server.trader("alice").await, server.trader("bob").await);
    let trade = async |price: &str, quantity: u64, id: &str| {
        alice.order("TSLA", "SELL", price, quantity, id).await;
        assert_eq!(bob.order("TSLA", "BUY", price, quantity, id).await.1["status"], "FILLED");
    };
    trade("100", 4, "1").await;
    let mut ws = server.ws_without_token().await;
    ws.send(json!({"action": "SUBSCRIBE", "channels": ["candles"], "symbols": ["TSLA"]})).await;
    let now = ws.next_of("CANDLE").await["data"].clone();
    assert_eq!((&now["symbol"], &now["interval"], &now["close"]), (&json!("TSLA"), &json!("1m"), &json!(100.0)));
    trade("101.50", 2, "2").await;
    let then = ws.next_of("CANDLE").await["data"].clone();
    assert_eq!((&then["close"], &then["high"]), (&json!(101.5), &json!(101.5)), "{then}");
    // A minute may have ended in between.
    let volume = if then["start"] == now["start"] { 6 } else { 2 };
    assert_eq!(then["volume"], volume, "{then}");
    assert!(then["seq"].as_u64() > now["seq"].as_u64(), "{then}");
}

#[actix_web::test]
async fn cancel_all_ends_the_users_orders_only() {
    let server = with_tsla().await;
    let bob = server.trader("bob").await;
    bob.order("TSLA", "BUY", "90", 1, "b").await;
    let mut ws = server.ws("alice").await;
    for i in 0..3 {
        ws.add("TSLA", "BUY", "91", 1, &format!("a{i}")).await;
        ws.next_of("ORDER_STATUS").await;
    }
    ws.send(json!({"action": "CANCEL_ALL", "request_id": "x", "symbol": "TSLA"})).await;
    let done = ws.next_of("STATUS").await;
    assert_eq!((&done["request_id"], &done["data"]["count"]), (&json!("x"), &json!(3)), "{done}");
    let (_, book) = server.get("/orderbook/TSLA").await;
    assert_eq!(book["bids"], json!([{"price": 90.0, "qty": 1, "orders": 1}]));
}

#[actix_web::test]
async fn orders_of_a_vanished_connection_are_canceled_if_it_asked_for_that() {
    let server = with_tsla().await;
    let token = server.token("alice", &["trader"]).await;
    let mut keeps = server.ws_with_header(&token).await;
    keeps.add("TSLA", "BUY", "10", 1, "kept").await;
    keeps.next_of("ORDER_STATUS").await;
    keeps.vanish();
    let mut ws = server.ws_without_token().await;
    ws.auth(&token, true).await;
    for i in 0..50 {
        ws.add("TSLA", "BUY", "11", 1, &format!("c{i}")).await;
    }
    // It goes before the answers are read: also what is still on its way must be canceled.
    while ws.next().await["data"]["order_id"] != "c49" {}
    ws.vanish();
    let left = until(
        "the orders are canceled",
        || server.get("/orderbook/TSLA"),
        |(_, book)| book["bids"][0]["price"] != 11.0,
    )
    .await;
    assert_eq!(left.1["bids"], json!([{"price": 10.0, "qty": 1, "orders": 1}]));
}

#[actix_web::test]
async fn a_clean_stop_says_draining_and_closes_with_1012() {
    let mut server = with_tsla().await;
    let mut ws = server.ws("alice").await;
    let stop = server.stop();
    let listen = async {
        let status = ws.next_of("STATUS").await;
        assert_eq!(status["data"]["status"], "DRAINING");
        ws.close_code().await
    };
    let ((), code) = futures_util::future::join(stop, listen).await;
    assert_eq!(code, Some(1012));
}

#[actix_web::test]
async fn resume_shows_open_orders_and_says_when_something_was_missed() {
    let server = with_tsla().await;
    let mut ws = server.ws("alice").await;
    ws.add("TSLA", "BUY", "10", 1, "r").await;
    let seq = ws.next_of("ORDER_STATUS").await["data"]["seq"].as_u64().unwrap();
    ws.vanish();
    let mut ws = server.ws("alice").await;
    ws.send(json!({"action": "RESUME", "request_id": "r1", "last_seq": {"TSLA": seq}})).await;
    assert_eq!(ws.next().await["data"]["order_id"], "r");
    assert_eq!(ws.next().await["data"]["action"], "RESUME", "nothing was missed");
    server.trader("bob").await.order("TSLA", "SELL", "10", 1, "b").await;
    ws.send(json!({"action": "RESUME", "request_id": "r2", "last_seq": {"TSLA": seq}})).await;
    expect_error(&mut ws, "resync_needed").await;
}

#[actix_web::test]
async fn heartbeats_come_and_a_silent_client_is_closed() {
    let server = TestServer::start_with(|c| {
        c.heartbeat_s = 1;
        c.idle_timeout_s = 2;
    })
    .await;
    let mut lively = server.ws_without_token().await;
    // It answers pings because it reads; nothing else is ever sent.
    let mut beats = 0;
    while beats < 4 {
        match soon("a heartbeat", lively.stream.next()).await {
            Some(Ok(Message::Text(text))) => {
                let m: Value = serde_json::from_str(text.as_str()).unwrap();
                assert!(m["type"] == "HEARTBEAT" && m["data"]["timestamp"].is_string(), "{m}");
                beats += 1;
            }
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    let server = TestServer::start_with(|c| c.idle_timeout_s = 1).await;
    let mut silent = server.ws_without_token().await;
    assert_eq!(silent.close_code().await, Some(4009));
}
