//! A headless Chromium, spoken to in the WebDriver protocol (https://www.w3.org/TR/webdriver2/) through the chromedriver that
//! `scripts/services` starts. It ends with its value, and with the test process however that ends.
#![allow(dead_code)] // each test file uses its part

use std::path::PathBuf;
use std::time::Duration;

use awc::http::Method;
use base64::Engine as _;
use serde_json::{Value, json};

use hotbook_harness::services::Driver;

/// A browser on a busy machine of two cores needs seconds for what takes it milliseconds elsewhere.
pub const SOON: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// The key under which the protocol names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One browser with one page.
pub struct Browser {
    driver: Driver,
    session: String,
}

impl Browser {
    pub async fn start() -> Self {
        let driver = Driver::start();
        let mut browser = Self { driver, session: String::new() };
        // It runs as whoever runs the tests, in containers as root, for which its sandbox is not made; over a pipe it ends when
        // its driver does.
        let arguments = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--window-size=1280,1500"];
        let chromium = json!({"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
                              "goog:chromeOptions": {"args": arguments}});
        let begun = browser.call(Method::POST, "/session", json!({"capabilities": {"alwaysMatch": chromium}})).await;
        browser.session = format!("/session/{}", begun["sessionId"].as_str().expect("a session"));
        browser
    }

    /// # Panics
    /// With what the driver says, if it is not done.
    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("http://127.0.0.1:{}{}{path}", self.driver.port, self.session);
        let request = awc::Client::builder().timeout(SOON).finish().request(method.clone(), &url);
        let sent = if method == Method::GET { request.send().await } else { request.send_json(&body).await };
        let mut answer = sent.unwrap_or_else(|e| panic!("{url}: {e}\n{}", self.driver.server.log()));
        let mut said: Value = answer.json().limit(64 << 20).await.expect("JSON");
        assert!(answer.status().is_success(), "{path} {body}: {}", said["value"]["message"]);
        said["value"].take()
    }

    pub async fn go(&self, url: &str) {
        self.call(Method::POST, "/url", json!({"url": url})).await;
    }

    /// What a piece of JavaScript returns.
    pub async fn script(&self, body: &str) -> Value {
        self.call(Method::POST, "/execute/sync", json!({"script": body, "args": []})).await
    }

    /// Waits until an expression of JavaScript is true; gives its value.
    ///
    /// # Panics
    /// With what the page says, if that is not soon.
    pub async fn until(&self, what: &str, expression: &str) -> Value {
        let look = async {
            loop {
                let value = self.script(&format!("return ({expression})")).await;
                if !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                    return value;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(SOON, look).await {
            Ok(value) => value,
            Err(_) => {
                let page = self.script("return document.body.innerText").await;
                panic!(
                    "not within {SOON:?}: {what}; the page ({}):\n{}",
                    self.screenshot("failed").await.display(),
                    page.as_str().unwrap_or("?")
                );
            }
        }
    }

    async fn element(&self, css: &str) -> String {
        let found = self.call(Method::POST, "/element", json!({"using": "css selector", "value": css})).await;
        format!("/element/{}", found[ELEMENT].as_str().expect("an element"))
    }

    /// Clicks as a user does: what is hidden, covered or disabled cannot be.
    pub async fn click(&self, css: &str) {
        let element = self.element(css).await;
        self.call(Method::POST, &format!("{element}/click"), json!({})).await;
    }

    /// Types into a field, in place of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.call(Method::POST, &format!("{element}/clear"), json!({})).await;
        self.call(Method::POST, &format!("{element}/value"), json!({"text": text})).await;
    }

    /// What the page's scripts and requests complained of.
    pub async fn complaints(&self) -> Vec<String> {
        let said = self.call(Method::POST, "/se/log", json!({"type": "browser"})).await;
        let entries = said.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|e| e["level"] == "SEVERE")
            .filter_map(|e| Some(e["message"].as_str()?.to_owned()))
            .collect()
    }

    /// Saves what is to be seen, for somebody's eyes.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let image = self.call(Method::GET, "/screenshot", Value::Null).await;
        let image =
            base64::engine::general_purpose::STANDARD.decode(image.as_str().expect("an image")).expect("base64");
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        std::fs::write(&path, image).expect("written");
        path
    }
}
