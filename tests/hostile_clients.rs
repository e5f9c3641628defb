//! Clients that do what no client should: each gets what docs/errors.md and docs/websocket.md say, and nobody else notices.

mod common;

use common::{TestServer, expect_error, soon, until, with_tsla};
use futures_util::future::join;
use futures_util::{SinkExt, StreamExt};
use hotbook::domain::Offset;
use hotbook::ports::log::{Topic, TopicPartition};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// An order's text with a price as it is written.
fn order_at(price: &str) -> String {
    format!(r#"{{"symbol":"TSLA","side":"BUY","price":{price},"quantity":1}}"#)
}

/// Sends orders over REST and over WebSocket: each is refused with the code, the connection lives on, and nothing is in
/// the log.
async fn refused_before_the_log(orders: &[String], status: u16, code: &str) {
    let server = with_tsla().await;
    let alice = server.trader("alice").await;
    let mut ws = server.ws("alice").await;
    for order in orders {
        let (got, answer) = alice.post_text("/orders", order).await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{order}: {answer}");
        assert!(answer["message"].is_string() && answer["details"].is_object(), "{answer}");
        ws.send_text(order.replacen('{', r#"{"action":"ADD","request_id":7,"#, 1)).await;
        let refused = expect_error(&mut ws, code).await;
        if code != "malformed_json" {
            assert_eq!(refused["request_id"], 7, "{order}: {refused}");
        }
    }
    ws.add("TSLA", "BUY", "1", 1, "sound").await;
    assert_eq!(ws.next_of("ORDER_STATUS").await["data"]["status"], "NEW", "the connection lives");
    let (_, book) = server.get("/orderbook/TSLA").await;
    // LIST is seq 1, the one sound order seq 2.
    assert_eq!((&book["seq"], &book["bids"][0]["qty"]), (&json!(2), &json!(1)), "something was appended: {book}");
}

#[actix_web::test]
async fn a_client_that_never_reads_is_cut_off_and_its_orders_are_canceled() {
    let server = TestServer::start_with(|c| {
        c.slow_consumer_s = 1;
        c.heartbeat_s = 1;
    })
    .await;
    server.list(&["TSLA"]).await;
    let token = server.token("alice", &["trader"]).await;
    let mut ws = server.ws_without_token().await;
    ws.auth(&token, true).await;
    ws.add("TSLA", "BUY", "11", 1, "mine").await;
    ws.next_of("ORDER_STATUS").await;
    let (mut sink, source) = ws.stream.split();
    // Each answer is small, so ask for a lot without reading any: the socket's buffers fill, then the queue.
    let flood = async {
        loop {
            let ping = Message::text(format!(r#"{{"action":"PING","request_id":"{}"}}"#, "x".repeat(120)));
            if sink.send(ping).await.is_err() {
                return;
            }
        }
    };
    // The server shuts the socket down though its session actor is frozen; then sending fails.
    soon("the end of the connection", flood).await;
    drop(source);
    until("its order is canceled", || server.get("/orderbook/TSLA"), |(_, book)| book["bids"] == json!([])).await;
    // Others never noticed.
    let bob = server.trader("bob").await;
    assert_eq!(bob.order("TSLA", "BUY", "10", 1, "b").await.0, 201);
}

#[actix_web::test]
async fn frames_that_are_too_large_close_with_1009() {
    let server = with_tsla().await;
    let mut ws = server.ws("alice").await;
    ws.send_text("x".repeat(70 * 1024)).await;
    assert_eq!(ws.close_code().await, Some(1009));
    // Larger than what is read at all: the connection ends, with or without a close frame in time.
    let mut ws = server.ws("alice").await;
    // Its rest is not read, so sending may fail.
    _ = ws.stream.send(Message::text("x".repeat(1 << 20))).await;
    assert!(matches!(ws.close_code().await, Some(1009) | None));
    let mut ws = server.ws("alice").await;
    ws.stream.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(ws.close_code().await, Some(1003));
}

fn part(text: &str, opcode: Data, is_last: bool) -> Message {
    Message::Frame(Frame::message(text.as_bytes().to_vec(), OpCode::Data(opcode), is_last))
}

#[actix_web::test]
async fn fragments_are_put_together_up_to_64_kib() {
    let server = with_tsla().await;
    let mut ws = server.ws("alice").await;
    let text = r#"{"action":"ADD","request_id":1,"symbol":"TSLA","side":"BUY","price":1,"quantity":1,"order_id":"f"}"#;
    ws.stream.send(part(&text[..10], Data::Text, false)).await.unwrap();
    ws.stream.send(part(&text[10..50], Data::Continue, false)).await.unwrap();
    // Control frames may come in between.
    ws.stream.send(Message::Ping(Vec::new().into())).await.unwrap();
    ws.stream.send(part(&text[50..], Data::Continue, true)).await.unwrap();
    assert_eq!(ws.next().await["type"], "ACK");
    assert_eq!(ws.next().await["data"]["order_id"], "f");
    let half = "x".repeat(40 * 1024);
    ws.stream.send(part(&half, Data::Text, false)).await.unwrap();
    ws.stream.send(part(&half, Data::Continue, true)).await.unwrap();
    assert_eq!(ws.close_code().await, Some(1009));
}

#[actix_web::test]
async fn malformed_json_is_refused_before_the_log() {
    let orders = ["{", "{\"symbol\":", "{\"symbol\" \"TSLA\"}", "{]", "{\"symbol\":\u{0}}"].map(str::to_owned);
    refused_before_the_log(&orders, 400, "malformed_json").await;
    refused_before_the_log(&[order_at("NaN"), order_at("Infinity"), order_at("0x10")], 400, "malformed_json").await;
}

#[actix_web::test]
async fn a_price_of_1e309_is_refused_before_the_log() {
    refused_before_the_log(
        &[order_at("1e309"), order_at("\"1e309\""), order_at("9e99999999999")],
        400,
        "invalid_price",
    )
    .await;
}

#[actix_web::test]
async fn a_negative_price_is_refused_before_the_log() {
    refused_before_the_log(&[order_at("-1"), order_at("\"-250.50\""), order_at("-0.01")], 400, "invalid_price").await;
}

#[actix_web::test]
async fn an_over_precise_price_is_refused_and_never_rounded() {
    let orders =
        [order_at("250.505"), order_at("\"1.001\""), order_at("1e-3"), order_at("100.0000000000000000000000001")];
    refused_before_the_log(&orders, 400, "price_too_precise").await;
}

#[actix_web::test]
async fn an_unknown_symbol_is_refused_before_the_log() {
    let orders = ["NOPE", "tsla", "TSLA ", "T/../..", "\u{1f4a9}", ""].map(|s| order_at("1").replace("TSLA", s));
    refused_before_the_log(&orders, 404, "unknown_symbol").await;
}

#[actix_web::test]
async fn another_users_order_is_an_unknown_order() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let (alice, mallory) = (server.trader("alice").await, server.trader("mallory").await);
    assert_eq!(alice.order("TSLA", "BUY", "100", 10, "mine").await.0, 201);
    for (status, answer) in [
        mallory.get("/orders/mine?symbol=TSLA").await,
        mallory.delete("/orders/mine?symbol=TSLA").await,
        mallory.put("/orders/mine?symbol=TSLA", json!({"quantity": 1})).await,
    ] {
        assert_eq!((status, &answer["code"]), (404, &json!("unknown_order")), "{answer}");
    }
    let mut ws = server.ws("mallory").await;
    for mut message in [json!({"action": "CANCEL"}), json!({"action": "REPLACE", "quantity": 1})] {
        message["symbol"] = json!("TSLA");
        message["order_id"] = json!("mine");
        ws.send(message).await;
        assert_eq!(ws.next().await["type"], "ACK", "only the book can know whose it is");
        expect_error(&mut ws, "unknown_order").await;
    }
    assert_eq!(alice.get("/orders/mine?symbol=TSLA").await.1["remaining_qty"], 10, "it is as it was");
    // A user_id in the body is not looked at: the order is the token's.
    let body =
        json!({"symbol": "TSLA", "side": "BUY", "price": 99, "quantity": 1, "order_id": "m", "user_id": "alice"});
    assert_eq!(mallory.post("/orders", body).await.0, 201);
    assert_eq!(alice.get("/orders/m?symbol=TSLA").await.0, 404);
    assert_eq!(mallory.get("/orders/m?symbol=TSLA").await.0, 200);
}

#[actix_web::test]
async fn one_order_id_makes_one_order() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let (alice, bob) = (server.trader("alice").await, server.trader("bob").await);
    assert_eq!(alice.order("TSLA", "BUY", "100", 10, "same").await.0, 201);
    let (status, answer) = alice.order("TSLA", "BUY", "101", 20, "same").await;
    assert_eq!((status, &answer["code"]), (409, &json!("duplicate_order")), "{answer}");
    assert_eq!(bob.order("TSLA", "BUY", "100", 5, "same").await.0, 201, "another user may use the id");
    let mut ws = server.ws("alice").await;
    ws.add("TSLA", "SELL", "102", 30, "same").await;
    assert_eq!(ws.next().await["type"], "ACK");
    expect_error(&mut ws, "duplicate_order").await;
    assert_eq!(alice.delete("/orders/same?symbol=TSLA").await.0, 200);
    assert_eq!(alice.order("TSLA", "BUY", "100", 10, "same").await.0, 409, "a finished id is used up too");
    let (_, book) = server.get("/orderbook/TSLA").await;
    assert_eq!(book["bids"], json!([{"price": 100.0, "qty": 5, "orders": 1}]));
}

#[actix_web::test]
async fn a_hundred_thousand_orders_without_reading_are_in_the_log_or_refused_but_never_half() {
    const N: usize = 100_000;
    let server = TestServer::start_with(|c| c.slow_consumer_s = 2).await;
    server.list(&["TSLA"]).await;
    let ws = server.ws("alice").await;
    let (mut sink, mut source) = ws.stream.split();
    let mut sent = 0;
    for i in 0..N {
        let add = format!(
            r#"{{"action":"ADD","request_id":{i},"symbol":"TSLA","side":"BUY","price":100,"quantity":1,"order_id":"n{i}"}}"#
        );
        // Blocks while the server does not read because we do not: until it cuts us off.
        if soon("room to send, or the end", sink.feed(Message::text(add))).await.is_err() {
            break;
        }
        sent += 1;
    }
    let mut is_cut = sent < N || soon("room to send, or the end", sink.flush()).await.is_err();
    // What it was told before it was cut off, or all of it: now it reads.
    let (mut open, mut refused) = (0u64, 0u64);
    while (open + refused) < sent as u64 {
        let read = async {
            loop {
                match source.next().await {
                    Some(Ok(Message::Text(text))) if !text.contains("HEARTBEAT") => return Some(text),
                    Some(Ok(_)) => {}
                    _ => return None,
                }
            }
        };
        let Some(text) = soon("an answer, or the end", read).await else {
            is_cut = true;
            break;
        };
        let m: Value = serde_json::from_str(text.as_str()).unwrap();
        match m["type"].as_str() {
            Some("ORDER_STATUS") => open += 1,
            Some("ERROR") => {
                assert_eq!(m["data"]["code"], "too_many_in_flight", "{m}");
                refused += 1;
            }
            _ => {}
        }
    }
    println!("{sent} sent, {open} answered, {refused} refused, cut off: {is_cut}");
    assert!(is_cut || open + refused == sent as u64, "a connection that lives tells the outcome of every order");
    // Whatever was said NEW is in the book, and no order is there twice.
    let (_, book) = server.get("/orderbook/TSLA").await;
    let (orders, quantity) = (book["bids"][0]["orders"].as_u64().unwrap(), book["bids"][0]["qty"].as_u64().unwrap());
    assert_eq!(orders, quantity);
    assert!(
        orders >= open && orders + refused <= sent as u64,
        "{orders} in the book, {open} told, {refused} refused, {sent} sent"
    );
}

#[actix_web::test]
async fn a_slow_book_answers_received_and_its_neighbours_do_not_notice() {
    // SLOW takes 50 ms a command; with one partition and one thread, every symbol is its neighbour.
    let server = TestServer::start_with(|c| {
        c.partitions = 1;
        c.book_threads_per_node = 1;
        c.answer_timeout_ms = 1_500;
        c.http_workers = 2;
        c.dev_command_cost_us.insert("SLOW".into(), 50_000);
    })
    .await;
    server.list(&["SLOW", "FAST"]).await;
    let mut ws = server.ws("alice").await;
    for i in 0..100 {
        ws.add("SLOW", "BUY", "100", 1, &format!("s{i}")).await;
    }
    // Each has been received, and a hundred commands lie before the next one: 5 s.
    while ws.next_of("ACK").await["data"]["order_id"] != "s99" {}
    let alice = server.trader("alice").await;
    let behind = alice.order("SLOW", "BUY", "100", 1, "last");
    let neighbour = async {
        let bob = server.trader("bob").await;
        for i in 0..20 {
            let (status, answer) = bob.order("FAST", "BUY", "100", 1, &format!("f{i}")).await;
            assert_eq!(status, 201, "a neighbour waits for the slow book: {answer}");
        }
    };
    let ((status, answer), ()) = join(behind, neighbour).await;
    assert_eq!((status, &answer["status"]), (202, &json!("RECEIVED")), "{answer}");
    let seen =
        until("the order's result", || alice.get("/orders/last?symbol=SLOW"), |(status, _)| *status == 200).await;
    assert_eq!(seen.1["status"], "NEW");
}

#[actix_web::test]
async fn an_add_retried_before_its_answer_makes_one_order() {
    let server = TestServer::start_with(|c| {
        c.dev_command_cost_us.insert("SLOW".into(), 100_000);
    })
    .await;
    server.list(&["SLOW"]).await;
    let mut ws = server.ws("alice").await;
    for request in ["first", "second"] {
        ws.send(json!({
            "action": "ADD", "request_id": request, "symbol": "SLOW", "side": "BUY", "price": 100, "quantity": 1,
            "order_id": "once",
        }))
        .await;
    }
    let mut outcome = Vec::new();
    while outcome.len() < 4 {
        let m = ws.next().await;
        outcome.push((m["type"].clone(), m["request_id"].clone(), m["data"]["code"].clone()));
    }
    let at = |kind: &str, id: &str, code: Value| {
        let wanted = (json!(kind), json!(id), code);
        outcome.iter().position(|o| *o == wanted).unwrap_or_else(|| panic!("no {wanted:?} in {outcome:?}"))
    };
    let null = || Value::Null;
    assert!(at("ACK", "first", null()) < at("ORDER_STATUS", "first", null()));
    assert!(at("ACK", "second", null()) < at("ERROR", "second", json!("duplicate_order")));
    let (_, book) = server.get("/orderbook/SLOW").await;
    assert_eq!(book["bids"][0]["qty"], 1);
}

#[actix_web::test]
async fn two_connections_racing_on_one_order_id_make_one_order() {
    let server = TestServer::start_with(|c| c.http_workers = 2).await;
    server.list(&["TSLA"]).await;
    let (mut a, mut b) = (server.ws("alice").await, server.ws("alice").await);
    for round in 0..20 {
        let id = format!("race-{round}");
        futures_util::future::join(a.add("TSLA", "BUY", "100", 1, &id), b.add("TSLA", "BUY", "100", 1, &id)).await;
        let mut outcomes = Vec::new();
        for ws in [&mut a, &mut b] {
            let mut m = ws.next().await;
            while m["type"] == "ACK" {
                m = ws.next().await;
            }
            outcomes.push(m["data"]["status"].as_str().or(m["data"]["code"].as_str()).unwrap_or("?").to_owned());
        }
        outcomes.sort();
        assert_eq!(outcomes, ["NEW", "duplicate_order"]);
    }
    let (_, book) = server.get("/orderbook/TSLA").await;
    assert_eq!(book["bids"][0]["qty"], 20);
}

#[actix_web::test]
async fn two_lists_of_one_symbol_at_once_make_one_book() {
    let server = TestServer::start_with(|c| c.http_workers = 2).await;
    let admin = server.admin().await;
    for round in 0..5 {
        let symbol = format!("S{round}");
        let list = |lot: u64| admin.post("/admin/instruments", json!({"symbol": symbol, "lot_size": lot}));
        let (a, b) = join(list(1), list(2)).await;
        let mut statuses = [a.0, b.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{a:?} {b:?}");
        let (won, lost) = if a.0 == 201 { (&a, &b) } else { (&b, &a) };
        assert_eq!(lost.1["code"], "symbol_exists");
        let (_, all) = server.get("/instruments").await;
        let shown = all["instruments"].as_array().unwrap().iter().find(|i| i["symbol"] == symbol.as_str()).unwrap();
        assert_eq!(shown["lot_size"], won.1["lot_size"], "the first one's rules hold");
    }
    // Two entries would give two places to begin reading at, and two owners.
    let symbols = TopicPartition { topic: Topic::Symbols, partition: 0 };
    assert_eq!(server.exchange().log().end_offset(symbols).await.unwrap(), Offset(5), "entered once each");
}
