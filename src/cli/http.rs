//! What the commands ask a running exchange over HTTP.

use std::time::Duration;

use anyhow::{Context as _, bail};
use awc::http::Method;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A server, and who asks it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    url: String,
    token: String,
}

impl Server {
    pub(super) fn new(url: &str, token: String) -> Self {
        Self { url: url.to_owned(), token }
    }

    /// Asks as `user`, with a development token.
    ///
    /// # Errors
    /// When the server gives none.
    pub(super) async fn developing(url: &str, user: &str, roles: &[&str]) -> anyhow::Result<Self> {
        let server = Self::new(url, String::new());
        let body = json!({"user_id": user, "roles": roles});
        let answer = server.post("/auth/dev-token", body).await;
        let answer = answer.context("the server gives no development token")?;
        Ok(Self::new(url, answer["token"].as_str().context("the server gives no token")?.to_owned()))
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// The body of the answer.
    ///
    /// # Errors
    /// The server's code and message, or why it cannot be reached.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.url);
        let client = awc::Client::builder().timeout(WITHIN).finish();
        let mut request = client.request(method, &url);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let sent = match body {
            Some(body) => request.send_json(&body).await,
            None => request.send().await,
        };
        let mut answer = sent.map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
        let said = answer.json::<Value>().limit(ANSWER_BYTES_MAX).await.unwrap_or_default();
        if answer.status().is_success() {
            return Ok(said);
        }
        let text = |field: &str| said[field].as_str().unwrap_or("?").to_owned();
        bail!("{}: {} ({})", text("code"), text("message"), answer.status())
    }

    /// A move's record once it has ended; `every`: how often it is looked at.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn until_ended(&self, id: u64, every: Duration) -> anyhow::Result<Value> {
        loop {
            let record = self.get(&format!("/admin/migrations/{id}")).await?;
            if record["status"] != "RUNNING" {
                return Ok(record);
            }
            tokio::time::sleep(every).await;
        }
    }
}
