//! REST as a client sees it.

mod common;

use common::TestServer;
use futures_util::future::join;
use serde_json::json;

#[actix_web::test]
async fn an_order_trades_and_everyone_sees_it() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let (alice, bob) = (server.trader("alice").await, server.trader("bob").await);

    // The example of docs/matching.md: asks 25 @ 250.00 and 8 @ 250.50.
    assert_eq!(alice.order("TSLA", "SELL", "250.00", 25, "a1").await.0, 201);
    let (status, resting) = alice.order("TSLA", "SELL", "250.50", 8, "a2").await;
    assert_eq!((status, &resting["status"], &resting["remaining_qty"]), (201, &json!("NEW"), &json!(8)));

    let (status, taken) = bob.order("TSLA", "BUY", "250.50", 10, "b1").await;
    assert_eq!(status, 201, "{taken}");
    assert_eq!(taken["status"], "FILLED");
    assert_eq!((&taken["filled_qty"], &taken["remaining_qty"]), (&json!(10), &json!(0)));
    assert_eq!(taken["fills"].as_array().map(Vec::len), Some(1));
    assert_eq!((&taken["fills"][0]["price"], &taken["fills"][0]["quantity"]), (&json!(250.0), &json!(10)));

    // Read your writes: at once, on every read path.
    let (_, book) = server.get("/orderbook/TSLA").await;
    assert!(book["seq"].as_u64() >= taken["seq"].as_u64(), "{book}");
    assert_eq!(book["asks"][0], json!({"price": 250.0, "qty": 15, "orders": 1}));
    assert_eq!(book["bids"], json!([]));
    assert_eq!((&book["last_price"], &book["last_qty"]), (&json!(250.0), &json!(10)));
    let (_, trades) = server.get("/trades/TSLA").await;
    assert_eq!(trades["trades"][0]["trade_id"], taken["fills"][0]["trade_id"]);
    let (_, ticker) = server.get("/ticker/TSLA").await;
    assert_eq!((&ticker["volume"], &ticker["last_price"]), (&json!(10), &json!(250.0)));
    let (status, seen) = alice.get("/orders/a1?symbol=TSLA").await;
    assert_eq!((status, &seen["status"], &seen["filled_qty"]), (200, &json!("PARTIALLY_FILLED"), &json!(10)));
    let (_, open) = alice.get("/orders?symbol=TSLA&status=open").await;
    assert_eq!(open["orders"].as_array().map(Vec::len), Some(2));
}

#[actix_web::test]
async fn a_trader_sees_the_own_fills_and_nobody_elses() {
    let mut server = TestServer::start().await;
    server.list(&["TSLA", "AAPL"]).await;
    let expected = {
        let (alice, bob) = (server.trader("alice").await, server.trader("bob").await);
        alice.order("TSLA", "SELL", "250.00", 25, "a1").await;
        bob.order("TSLA", "BUY", "250.50", 10, "b1").await;
        bob.order("AAPL", "SELL", "99", 5, "b2").await;
        alice.order("AAPL", "BUY", "99.50", 3, "a2").await;
        let (status, mine) = alice.get("/fills").await;
        let fills = mine["fills"].as_array().expect("fills");
        assert_eq!((status, fills.len()), (200, 2), "{mine}");
        let shown = |f: &serde_json::Value| {
            ["order_id", "symbol", "side", "filled_qty", "filled_price", "remaining_qty", "status", "liquidity"]
                .map(|k| f[k].clone())
        };
        let newest = json!(["a2", "AAPL", "BUY", 3, 99.0, 0, "FILLED", "TAKER"]);
        assert_eq!(json!(shown(&fills[0])), newest, "newest first");
        let maker = json!(["a1", "TSLA", "SELL", 10, 250.0, 15, "PARTIALLY_FILLED", "MAKER"]);
        assert_eq!(json!(shown(&fills[1])), maker);
        let (_, trades) = server.get("/trades/TSLA").await;
        assert_eq!(fills[1]["trade_id"], trades["trades"][0]["trade_id"]);
        assert_eq!(fills[1]["timestamp"], trades["trades"][0]["timestamp"]);
        assert_eq!(alice.get("/fills?symbol=TSLA").await.1["fills"], json!([fills[1]]));
        assert_eq!(alice.get("/fills?limit=1").await.1["fills"], json!([fills[0]]));
        assert_eq!(alice.get("/fills?symbol=NOPE").await.1["code"], "unknown_symbol");
        let other = server.trader("carol").await;
        assert_eq!(other.get("/fills").await.1, json!({"fills": []}));
        assert_eq!(server.get("/fills").await.0, 401);
        mine
    };
    server.restart().await;
    assert_eq!(server.trader("alice").await.get("/fills").await.1, expected, "they are there after a restart");
}

#[actix_web::test]
async fn an_account_says_that_no_balance_is_kept_and_what_is_at_work() {
    let server = TestServer::start().await;
    server.list(&["TSLA", "AAPL"]).await;
    let alice = server.trader("alice").await;
    let (status, empty) = alice.get("/account").await;
    assert_eq!((status, &empty["open_orders"], &empty["working"]), (200, &json!(0), &json!([])), "{empty}");
    assert_eq!((&empty["user_id"], &empty["balances_kept"]), (&json!("alice"), &json!(false)));
    alice.order("TSLA", "BUY", "250.50", 10, "a1").await;
    alice.order("TSLA", "BUY", "250.25", 3, "a2").await;
    alice.order("TSLA", "SELL", "260", 4, "a3").await;
    alice.order("AAPL", "SELL", "99", 5, "a4").await;
    server.trader("bob").await.order("TSLA", "SELL", "250.50", 6, "b1").await;
    let (_, account) = alice.get("/account").await;
    let working = json!([
        {"symbol": "AAPL", "orders": 1, "buy_qty": 0, "buy_value": 0.0, "sell_qty": 5},
        {"symbol": "TSLA", "orders": 3, "buy_qty": 7, "buy_value": 1752.75, "sell_qty": 4},
    ]);
    assert_eq!((&account["open_orders"], &account["working"]), (&json!(4), &working), "what is open, not what was");
    assert_eq!(server.get("/account").await.0, 401);
}

#[actix_web::test]
async fn candles_are_what_traded() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    assert_eq!(server.get("/candles/TSLA").await.1, json!({"symbol": "TSLA", "interval": "1m", "candles": []}));
    let (alice, bob) = (server.trader("alice").await, server.trader("bob").await);
    for (n, (price, quantity)) in [("250.00", 1), ("252.50", 2), ("249.00", 3), ("251.00", 4)].iter().enumerate() {
        alice.order("TSLA", "SELL", price, *quantity, &format!("a{n}")).await;
        bob.order("TSLA", "BUY", price, *quantity, &format!("b{n}")).await;
    }
    let (status, shown) = server.get("/candles/TSLA?interval=1h").await;
    assert_eq!(status, 200, "{shown}");
    let candles = shown["candles"].as_array().expect("candles");
    let sum = |name: &str| candles.iter().map(|c| c[name].as_u64().unwrap()).sum::<u64>();
    // An hour may have ended in between.
    assert!((1..=2).contains(&candles.len()) && (sum("volume"), sum("trades")) == (10, 4), "{shown}");
    assert_eq!((&candles[0]["open"], &candles.last().unwrap()["close"]), (&json!(250.0), &json!(251.0)));
    let of = |name: &'static str| candles.iter().map(move |c| c[name].as_f64().unwrap());
    assert_eq!((of("high").fold(0.0, f64::max), of("low").fold(f64::MAX, f64::min)), (252.5, 249.0));
    assert!(candles[0]["start"].as_str().unwrap().ends_with(":00:00Z"), "{shown}");
    let (status, refused) = server.get("/candles/TSLA?interval=7m").await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_field")), "{refused}");
    assert_eq!(server.get("/candles/NOPE").await.1["code"], "unknown_symbol");
}

#[actix_web::test]
async fn prices_are_printed_exactly() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let listing = r#"{"symbol":"FINE","price_scale":9,"limit_up":"999999999.999999999"}"#;
    let (status, shown) = admin.post_text("/admin/instruments", listing).await;
    assert_eq!(status, 201, "{shown}");
    let alice = server.trader("alice").await;
    let body = r#"{"symbol":"FINE","side":"BUY","price":123456789.123456789,"quantity":1,"order_id":"x"}"#;
    assert_eq!(alice.post_text("/orders", body).await.0, 201);
    let client = awc::Client::default();
    let text = client.get(server.url("/orderbook/FINE")).send().await.unwrap().body().await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(r#""price":123456789.123456789,"#), "{text}");
}

#[actix_web::test]
async fn what_is_wrong_with_an_order_is_said_before_the_log() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let alice = server.trader("alice").await;
    let with = |price: &str, quantity: &str| {
        format!(r#"{{"symbol":"TSLA","side":"BUY","price":{price},"quantity":{quantity}}}"#)
    };
    let cases = [
        (with("1e309", "1"), 400, "invalid_price"),
        (with("\"1e309\"", "1"), 400, "invalid_price"),
        (with("-250.5", "1"), 400, "invalid_price"),
        (with("0", "1"), 400, "invalid_price"),
        (with("250.505", "1"), 400, "price_too_precise"),
        (with("\"abc\"", "1"), 400, "invalid_price"),
        (with("NaN", "1"), 400, "malformed_json"),
        (with("250", "10.5"), 400, "invalid_quantity"),
        (with("250", "0"), 400, "invalid_quantity"),
        (with("250", "1e309"), 400, "invalid_quantity"),
        ("{\"symbol\":".into(), 400, "malformed_json"),
        ("not json".into(), 400, "malformed_json"),
        (r#"{"symbol":"NOPE","side":"BUY","price":1,"quantity":1}"#.into(), 404, "unknown_symbol"),
        (r#"{"symbol":"nö","side":"BUY","price":1,"quantity":1}"#.into(), 404, "unknown_symbol"),
        (r#"{"symbol":"TSLA","side":"BUY","price":1,"quantity":1,"colour":"red"}"#.into(), 400, "unknown_field"),
        (r#"{"symbol":"TSLA","side":"BUY","quantity":1}"#.into(), 400, "missing_field"),
        (
            format!(r#"{{"symbol":"TSLA","side":"BUY","price":1,"quantity":1,"order_id":"{}"}}"#, "x".repeat(37)),
            400,
            "invalid_order_id",
        ),
        (format!(r#"{{"symbol":"{}"}}"#, "A".repeat(70_000)), 413, "payload_too_large"),
    ];
    for (body, status, code) in cases {
        let shown: String = body.chars().take(80).collect();
        let (got, answer) = alice.post_text("/orders", &body).await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert!(answer["message"].is_string() && answer["details"].is_object(), "{answer}");
        assert!(answer["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");
    }
    let (_, book) = server.get("/orderbook/TSLA").await;
    assert_eq!(book["bids"], json!([]), "nothing was appended");
}

#[actix_web::test]
async fn an_order_that_the_rules_forbid_is_refused_with_the_reason() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let rules = json!({"symbol": "KRX", "price_scale": 0, "tick_size": 50, "lot_size": 10, "limit_up": 1300, "limit_down": 700});
    assert_eq!(admin.post("/admin/instruments", rules).await.0, 201);
    let alice = server.trader("alice").await;
    for (price, quantity, code) in [
        ("1350", 10, "price_above_limit"),
        ("650", 10, "price_below_limit"),
        ("1010", 10, "price_not_on_tick"),
        ("1000", 15, "quantity_not_on_lot"),
    ] {
        let (status, answer) = alice.order("KRX", "BUY", price, quantity, "x").await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{answer}");
    }
    // What only the book can know is no error: it is REJECTED with its reason.
    assert_eq!(alice.order("KRX", "SELL", "1000", 10, "ask").await.0, 201);
    let bob = server.trader("bob").await;
    let post_only = json!({"symbol": "KRX", "side": "BUY", "price": 1000, "quantity": 10, "post_only": true});
    let (status, answer) = bob.post("/orders", post_only).await;
    assert_eq!(
        (status, &answer["status"], &answer["reason"]),
        (201, &json!("REJECTED"), &json!("post_only_would_trade"))
    );
    let fok = json!({"symbol": "KRX", "side": "BUY", "price": 1000, "quantity": 20, "time_in_force": "FOK"});
    let (status, answer) = bob.post("/orders", fok).await;
    assert_eq!((status, &answer["reason"]), (201, &json!("fok_not_fillable")), "{answer}");
}

#[actix_web::test]
async fn two_requests_racing_on_one_order_id_make_one_order() {
    let server = TestServer::start_with(|c| c.http_workers = 2).await;
    server.list(&["TSLA"]).await;
    let alice = server.trader("alice").await;
    for round in 0..20 {
        let id = format!("race-{round}");
        let (a, b) = join(alice.order("TSLA", "BUY", "100", 1, &id), alice.order("TSLA", "BUY", "100", 1, &id)).await;
        let mut codes = [a.0, b.0];
        codes.sort_unstable();
        assert_eq!(codes, [201, 409], "{a:?} {b:?}");
    }
    let (_, book) = server.get("/orderbook/TSLA").await;
    assert_eq!(book["bids"][0]["qty"], 20);
}

#[actix_web::test]
async fn replace_and_cancel_answer_with_the_order() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let alice = server.trader("alice").await;
    alice.order("TSLA", "BUY", "100", 10, "o").await;
    let (status, answer) = alice.put("/orders/o?symbol=TSLA", json!({"price": "100.50", "quantity": 12})).await;
    assert_eq!((status, &answer["price"], &answer["remaining_qty"]), (200, &json!(100.5), &json!(12)), "{answer}");
    let (status, answer) = alice.put("/orders/o?symbol=TSLA", json!({})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("missing_field")), "{answer}");
    let (status, answer) = alice.delete("/orders/o?symbol=TSLA").await;
    assert_eq!((status, &answer["status"], &answer["remaining_qty"]), (200, &json!("CANCELED"), &json!(0)), "{answer}");
    let (status, answer) = alice.delete("/orders/o?symbol=TSLA").await;
    assert_eq!((status, &answer["code"]), (404, &json!("unknown_order")), "{answer}");
}

#[actix_web::test]
async fn roles_and_tokens_are_checked() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let alice = server.trader("alice").await;
    let (status, answer) = alice.get("/admin/nodes").await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{answer}");
    let admin = server.admin().await;
    assert_eq!(admin.order("TSLA", "BUY", "1", 1, "x").await.0, 403);
    assert_eq!(admin.get("/admin/nodes").await.1["nodes"][0]["id"], "n1");
    for token in [None, Some("nonsense")] {
        let (status, answer) = server.call("GET", "/orders", token, None).await;
        assert_eq!((status, &answer["code"]), (401, &json!("unauthorized")), "{answer}");
    }
    let (status, answer) = server.get("/nowhere").await;
    assert_eq!((status, &answer["code"]), (404, &json!("not_found")), "{answer}");
    let (status, answer) = server.call("PATCH", "/orders", None, None).await;
    assert_eq!((status, &answer["code"]), (405, &json!("method_not_allowed")), "{answer}");
}

#[actix_web::test]
async fn a_configured_secret_ends_development_tokens() {
    let server = TestServer::start_with(|c| c.jwt_secret = Some("a secret of the operator".into())).await;
    let (status, answer) = server.call("POST", "/auth/dev-token", None, Some(r#"{"user_id":"a"}"#.into())).await;
    assert_eq!((status, &answer["code"]), (403, &json!("dev_tokens_off")), "{answer}");
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of the operator");
    let sign = |exp: u64| {
        let claims = json!({"sub": "alice", "roles": ["trader"], "exp": exp});
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
    };
    let (status, orders) = server.call("GET", "/orders", Some(&sign(u64::MAX / 2)), None).await;
    assert_eq!((status, &orders["orders"]), (200, &json!([])), "{orders}");
    let (status, answer) = server.call("GET", "/orders", Some(&sign(1_000_000_000)), None).await;
    assert_eq!((status, &answer["code"]), (401, &json!("token_expired")), "{answer}");
}

#[actix_web::test]
async fn operators_see_who_stands_by_for_a_book() {
    let server = TestServer::start_with(|config| (config.nodes, config.standby) = (2, 1)).await;
    server.list(&["TSLA"]).await;
    let admin = server.admin().await;
    let started = std::time::Instant::now();
    loop {
        let book = &admin.get("/admin/books").await.1["books"][0];
        let metrics = server.get("/metrics").await.1.as_str().unwrap().to_owned();
        if book["standby"] == "n2" && book["standby_lag"] == 0 && metrics.contains("hotbook_standbys_level 1\n") {
            assert!(metrics.contains("hotbook_standbys 1\n"), "{metrics}");
            break;
        }
        assert!(started.elapsed() < common::SOON, "{book}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[actix_web::test]
async fn halt_resume_and_snapshot() {
    let mut server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    {
        let (alice, admin) = (server.trader("alice").await, server.admin().await);
        assert_eq!(alice.order("TSLA", "BUY", "100", 10, "a").await.0, 201);
        assert_eq!(admin.post("/admin/books/TSLA/halt", json!({})).await.0, 200);
        assert_eq!(admin.post("/admin/books/TSLA/halt", json!({})).await.1["code"], "already_halted");
        let (status, answer) = alice.order("TSLA", "BUY", "100", 10, "b").await;
        assert_eq!(
            (status, &answer["status"], &answer["reason"]),
            (201, &json!("REJECTED"), &json!("symbol_halted")),
            "{answer}"
        );
        assert_eq!(admin.post("/admin/books/TSLA/resume", json!({})).await.0, 200);
        let (status, saved) = admin.post("/admin/books/TSLA/snapshot", json!({})).await;
        assert_eq!(status, 200, "{saved}");
        assert_eq!(admin.post("/admin/books/NOPE/halt", json!({})).await.0, 404);
    }
    let before = server.get("/orderbook/TSLA").await;
    server.restart().await;
    assert_eq!(server.get("/orderbook/TSLA").await, before, "all is there after a clean restart");
}

#[actix_web::test]
async fn the_description_names_only_what_is_there() {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    let (_, api) = server.get("/openapi.json").await;
    let paths = api["paths"].as_object().expect("paths");
    assert!(paths.len() >= 21, "{}", paths.len());
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let (status, answer) = server
                .call(&method.to_uppercase(), &path.replace("{symbol}", "TSLA").replace("{id}", "x"), None, None)
                .await;
            assert!(status != 405 && answer["code"] != "not_found", "{method} {path}: {status} {answer}");
        }
    }
    let (_, metrics) = server.get("/metrics").await;
    assert!(metrics.as_str().is_some_and(|m| m.contains("hotbook_books ")), "{metrics}");
}

#[actix_web::test]
async fn pages_and_their_parts_come_from_this_server_under_a_strict_policy() {
    let server = TestServer::start().await;
    let get = async |path: &str| awc::Client::new().get(server.url(path)).send().await.expect("an answer");
    for page in ["/", "/ops", "/docs"] {
        let mut answer = get(page).await;
        let policy = answer.headers().get("content-security-policy").expect("a policy").to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let text = String::from_utf8(answer.body().await.unwrap().to_vec()).unwrap();
        assert!(!text.contains("http://") && !text.contains("https://"), "{page} must work offline");
        let parts: Vec<&str> = text.split('"').filter(|t| t.starts_with("/assets/")).collect();
        assert!(parts.len() >= 4, "{page}: {parts:?}");
        for part in parts {
            assert_eq!(get(part).await.status(), 200, "{page} needs {part}");
        }
    }
    for nothing in
        ["/assets/none.js", "/assets/mod.rs", "/assets/..%2fmod.rs", "/assets/..%2f..%2f..%2f..%2fCargo.toml"]
    {
        assert_eq!(get(nothing).await.status(), 404, "{nothing}");
    }
}

#[actix_web::test]
async fn the_newest_moves_can_be_asked_for_alone() {
    let server = TestServer::start_with(|c| c.nodes = 2).await;
    server.list(&["TSLA"]).await;
    let admin = server.admin().await;
    for target in ["n2", "n1", "n2"] {
        let (status, begun) = admin.post("/admin/migrations", json!({"symbol": "TSLA", "target": target})).await;
        assert_eq!(status, 202, "{begun}");
        let path = format!("/admin/migrations/{}", begun["id"]);
        common::until("the move's end", || admin.get(&path), |(_, m)| m["status"] == "COMPLETED").await;
    }
    let ids = async |path: &str| {
        let (_, said) = admin.get(path).await;
        said["migrations"].as_array().unwrap().iter().map(|m| m["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids("/admin/migrations").await, [1, 2, 3]);
    assert_eq!(ids("/admin/migrations?limit=2").await, [2, 3]);
    assert_eq!(ids("/admin/migrations?limit=9").await, [1, 2, 3]);
}
