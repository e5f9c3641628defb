//! The pages in a real browser, on an exchange of three nodes that trades.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::cell::Cell;
use std::rc::Rc;

use browser::Browser;
use common::TestServer;
use hotbook::migration::placement::PlacementMode;
use serde_json::json;

const BOOKS: [&str; 6] = ["AAA", "BBB", "CCC", "DDD", "EEE", "HOT"];

/// Three nodes that have a tenth of a core each, one of them with a book that takes more: it is advised to give books away.
async fn three_nodes() -> TestServer {
    let server = TestServer::start_with(|config| {
        config.nodes = 3;
        config.load_window_ms = 200;
        config.node_cores = 0.1;
        config.placement_mode = PlacementMode::Advise;
        config.dev_command_cost_us = [("HOT".to_owned(), 2_000), ("AAA".to_owned(), 100)].into();
    });
    let server = server.await;
    server.list(&BOOKS).await;
    server
}

/// Somebody who trades in every book until told to stop.
struct Load(Rc<Cell<bool>>);

impl Load {
    async fn start(server: &TestServer) -> Self {
        let stop = Rc::new(Cell::new(false));
        let (mut ws, stopped) = (server.ws("robot").await, Rc::clone(&stop));
        actix_web::rt::spawn(async move {
            for n in 0.. {
                if stopped.get() {
                    break;
                }
                let (symbol, side) =
                    (BOOKS[n % BOOKS.len()], if (n / BOOKS.len()).is_multiple_of(2) { "SELL" } else { "BUY" });
                let id = format!("robot-{n}");
                ws.send(json!({"action": "ADD", "request_id": n, "symbol": symbol, "side": side, "price": "100.00",
                               "quantity": 1, "order_id": id, "stp": "none"}))
                    .await;
                while ws.next_of("ORDER_STATUS").await["request_id"] != n {}
            }
        });
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// JavaScript: the row of a book on the operator's page.
fn row(symbol: &str) -> String {
    format!("[...document.querySelectorAll('article.node tbody tr')].find(r => r.dataset.key === '{symbol}')")
}

/// JavaScript: the node whose card has the row of a book.
fn node_of(symbol: &str) -> String {
    format!("{}?.closest('article').getAttribute('aria-label').replace('Node ', '')", row(symbol))
}

#[actix_web::test]
async fn an_operator_moves_a_book_and_sees_it_arrive() {
    let server = three_nodes().await;
    let load = Load::start(&server).await;
    let browser = Browser::start().await;
    browser.go(&server.url("/ops")).await;
    browser.click("#use-development").await;

    browser.until("three nodes", "document.querySelectorAll('article.node').length === 3").await;
    let all = "document.querySelectorAll('article.node tbody tr').length";
    browser.until("every book", &format!("{all} === {}", BOOKS.len())).await;
    browser
        .until("the load of a node", "[...document.querySelectorAll('.load b')].some(b => /[1-9]/.test(b.textContent))")
        .await;
    browser.until("the rate of a book", &format!("/[1-9]/.test({}.children[2].textContent)", row("AAA"))).await;
    browser.until("that it is live", "document.querySelector('#live').textContent === 'live'").await;

    let from = browser.script(&format!("return {}", node_of("AAA"))).await;
    let to = if from == "n3" { "n2" } else { "n3" };
    browser.click("button[aria-label='Move AAA']").await;
    browser.click(&format!("#targets input[value='{to}']")).await;
    assert_eq!(
        browser.script("return document.querySelector('#move-dialog .confirm').textContent").await,
        format!("Move AAA to {to}")
    );
    browser.click("#move-dialog .confirm").await;

    let moved = "document.querySelector('#move-1 .badge')?.textContent.includes('COMPLETED')";
    browser.until("the move completes", moved).await;
    let steps =
        browser.script("return [...document.querySelectorAll('#move-1 .steps tbody tr')].map(r => r.innerText)").await;
    let steps: Vec<&str> = steps.as_array().expect("rows").iter().filter_map(|s| s.as_str()).collect();
    assert!(steps.len() == 8 && steps.iter().all(|s| s.contains("done")), "{steps:?}");
    assert!(steps[0].contains("DetectHotSymbol") && steps[7].contains("Cleanup"), "{steps:?}");
    let drawn = "document.querySelectorAll('#move-1 .drawing rect[class^=step]').length >= 4";
    browser.until("the timeline is drawn", drawn).await;
    browser
        .until("the pause is told", "/pause [0-9]/.test(document.querySelector('#move-1 .numbers').textContent)")
        .await;
    browser.until("the book is on the other node", &format!("{} === '{to}'", node_of("AAA"))).await;
    let (_, routes) = server.admin().await.get("/admin/routes").await;
    let route =
        routes["routes"].as_array().expect("routes").iter().find(|r| r["symbol"] == "AAA").expect("its route").clone();
    assert_eq!(route["target_instance"], to, "what the page shows is so");

    let decided = "[...document.querySelectorAll('#decisions tbody tr')].some(r => /ADVISE.* is at [0-9]+ %: /s.test(r.innerText))";
    browser.until("what the supervisor advises, and why", decided).await;
    browser
        .until("who decided", "/leader n[1-3], mode advise/.test(document.querySelector('#decisions-who').innerText)")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    println!("seen: {}", browser.screenshot("ops").await.display());
    drop(load);
}

#[actix_web::test]
async fn a_trader_places_an_order_and_sees_it_filled() {
    let server = three_nodes().await;
    let bob = server.trader("bob").await;
    for (n, price) in ["101.00", "101.50", "102.00"].iter().enumerate() {
        assert_eq!(bob.order("AAA", "SELL", price, 7, &format!("ask-{n}")).await.0, 201);
    }
    let browser = Browser::start().await;
    browser.go(&server.url("/#AAA")).await;
    let asks = "document.querySelectorAll('#asks tr').length === 3";
    browser.until("the depth", asks).await;
    browser.fill("#user-id", "alice").await;
    browser.click("#use-development").await;
    browser.fill("#price", "100.25").await;
    browser.fill("#quantity", "5").await;
    assert_eq!(browser.script("return document.querySelector('#send').textContent").await, "Buy 5 AAA at 100.25");
    browser.click("#send").await;

    browser.until("its answer", "document.querySelector('#result').textContent.startsWith('NEW')").await;
    browser.until("the open order", "document.querySelector('#open tbody tr')?.innerText.includes('100.25')").await;
    browser.until("its level", "document.querySelector('#bids tr')?.innerText.includes('100.25')").await;
    let alice = server.trader("alice").await;
    let (_, open) = alice.get("/orders?status=open").await;
    assert_eq!((&open["orders"][0]["side"], &open["orders"][0]["remaining_qty"]), (&json!("BUY"), &json!(5)), "{open}");

    assert_eq!(bob.order("AAA", "SELL", "100.25", 2, "taker").await.0, 201);
    browser.until("the fill", "document.querySelector('#said').innerText.includes('2 filled at 100.25, 3 open')").await;
    browser.until("the trade", "document.querySelector('#trades tr')?.innerText.includes('100.25')").await;
    // A market order takes the best price there is.
    browser.script("document.querySelector('#type').value = 'MARKET'; document.querySelector('#order').dispatchEvent(new Event('input'))").await;
    browser.click("#send").await;
    browser.until("the market order", "document.querySelector('#result').textContent === 'FILLED: 5 at 101.00'").await;
    browser.until("what is left", "document.querySelector('#asks tr:last-child').innerText.includes('2')").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    println!("seen: {}", browser.screenshot("trade").await.display());
}
