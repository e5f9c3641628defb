//! A server in this process on a port of its own, and clients that speak to it over real sockets.

#![allow(dead_code)] // each test file uses its part

use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbook::actors::exchange::Exchange;
use hotbook::cli::serve::Running;
use hotbook::config::Config;
#[allow(unused_imports)] // each test file uses its part
pub use hotbook_harness::{SOON, Ws, soon};
use serde_json::{Value, json};

/// A server in a folder of its own.
pub struct TestServer {
    running: Option<Running>,
    pub config: Config,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config {
            http_port: 0,
            grpc_port: 0,
            http_workers: 1,
            partitions: 4,
            book_threads_per_node: 1,
            data_dir: folder.path().join("data"),
            ..Config::default()
        };
        change(&mut config);
        let running = Running::start(&config).await.expect("the server starts");
        let port = running.server.address.port();
        let server = Self { running: Some(running), config, port, folder };
        server.until_ready().await;
        server
    }

    async fn until_ready(&self) {
        tokio::time::timeout(SOON, self.running().until_ready()).await.expect("ready in time");
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("the server runs")
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.running().exchange
    }

    /// Goes down cleanly and comes up again with the same data, on another port.
    pub async fn restart(&mut self) {
        self.stop().await;
        let running = Running::start(&self.config).await.expect("the server starts again");
        self.port = running.server.address.port();
        self.running = Some(running);
        self.until_ready().await;
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// A development token.
    pub async fn token(&self, user: &str, roles: &[&str]) -> String {
        let body = json!({"user_id": user, "roles": roles});
        let (status, answer) = self.call("POST", "/auth/dev-token", None, Some(body.to_string())).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// A trader over REST.
    pub async fn trader(&self, user: &str) -> Rest<'_> {
        Rest { server: self, token: self.token(user, &["trader"]).await }
    }

    pub async fn admin(&self) -> Rest<'_> {
        Rest { server: self, token: self.token("root", &["admin"]).await }
    }

    /// Lists symbols with default rules.
    pub async fn list(&self, symbols: &[&str]) {
        let admin = self.admin().await;
        for symbol in symbols {
            let (status, answer) = admin.post("/admin/instruments", json!({"symbol": symbol})).await;
            assert_eq!(status, 201, "{answer}");
        }
    }

    /// One request on a connection of its own; the body's JSON, or its text as a string.
    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<String>) -> (u16, Value) {
        let answer = hotbook_harness::request(&self.url(""), method, path, token, body).await;
        let (status, text) = answer.unwrap_or_else(|e| panic!("{path}: {e}"));
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None, None).await
    }

    /// A WebSocket of `user`, who is a trader.
    pub async fn ws(&self, user: &str) -> Ws {
        let mut ws = self.ws_without_token().await;
        ws.auth(&self.token(user, &["trader"]).await, false).await;
        ws
    }

    pub async fn ws_without_token(&self) -> Ws {
        Ws::connect(&self.url("")).await
    }

    /// A WebSocket whose token came with the upgrade.
    pub async fn ws_with_header(&self, token: &str) -> Ws {
        Ws::connect_as(&self.url(""), token).await
    }
}

/// REST with a token.
pub struct Rest<'a> {
    pub server: &'a TestServer,
    pub token: String,
}

impl Rest<'_> {
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.server.call("POST", path, Some(&self.token), Some(body.to_string())).await
    }

    /// A body that `json!` could not hold, like `1e309`.
    pub async fn post_text(&self, path: &str, body: &str) -> (u16, Value) {
        self.server.call("POST", path, Some(&self.token), Some(body.to_owned())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.server.call("PUT", path, Some(&self.token), Some(body.to_string())).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.server.call("GET", path, Some(&self.token), None).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.server.call("DELETE", path, Some(&self.token), None).await
    }

    /// A LIMIT GTC order.
    pub async fn order(&self, symbol: &str, side: &str, price: &str, quantity: u64, id: &str) -> (u16, Value) {
        let body = json!({"symbol": symbol, "side": side, "price": price, "quantity": quantity, "order_id": id});
        self.post("/orders", body).await
    }
}

/// Asks until the answer is as wanted; the last answer is shown when the deadline passes.
pub async fn until<T: std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: last answer {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A server with one symbol.
pub async fn with_tsla() -> TestServer {
    let server = TestServer::start().await;
    server.list(&["TSLA"]).await;
    server
}

/// ERROR with a code.
pub async fn expect_error(ws: &mut Ws, code: &str) -> Value {
    let message = ws.next().await;
    assert_eq!((&message["type"], &message["data"]["code"]), (&json!("ERROR"), &json!(code)), "{message}");
    message
}
