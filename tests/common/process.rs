//! `hotbook` as a process of its own, with nothing of the machine's environment.
#![allow(dead_code)] // each test file uses its part

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A machine of two cores starts three nodes, and everything else beside them.
pub const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// The program with these arguments, and of the environment only this.
pub fn hotbook(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotbook"));
    command.args(arguments);
    for (name, _) in std::env::vars() {
        let decides = ["KAFKA_BROKERS", "REDIS_HOST", "REDIS_PORT", "GRPC_PORT", "LOG_LEVEL"].contains(&name.as_str());
        if decides || name.starts_with("HOTBOOK_") || name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied());
    command
}

/// Runs it to its end: whether it succeeded, what it printed, what it complained of.
pub fn run(mut command: Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    (status.success(), String::from_utf8_lossy(&stdout).into(), String::from_utf8_lossy(&stderr).into())
}

/// A server process; killed when the test fails.
pub struct Served {
    child: Child,
    pub url: String,
}

impl Served {
    /// Starts `serve` and waits for its banner, which it prints once it is ready.
    ///
    /// # Panics
    /// When it ends before.
    pub fn start(mut serve: Command) -> Self {
        let mut child = serve.stdout(Stdio::piped()).spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let line = out.lines().map_while(Result::ok).find(|l| l.contains("is trading at"));
        let Some(line) = line else { panic!("it does not start: {:?}", child.wait()) };
        let url = line.rsplit(' ').next().expect("an address").to_owned();
        Self { child, url }
    }

    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
        call(&self.url, method, path, token, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str, token: &str) -> Value {
        let (status, answer) = self.call("GET", path, Some(token), Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The sum of a metric over all its labels; 0 if nothing was counted.
    pub async fn metric(&self, name: &str) -> f64 {
        let client = awc::Client::default();
        let mut answer = client.get(format!("{}/metrics", self.url)).send().await.expect("metrics");
        let body = answer.body().limit(4 << 20).await.expect("all of it");
        let text = String::from_utf8_lossy(&body).into_owned();
        let is_it = |l: &&str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        text.lines().filter(is_it).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub async fn token(&self, user: &str, roles: &[&str]) -> String {
        let (status, answer) =
            self.call("POST", "/auth/dev-token", None, json!({"user_id": user, "roles": roles})).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// Lists symbols with default rules.
    pub async fn list(&self, symbols: &[&str], admin: &str) {
        for symbol in symbols {
            let body = json!({"symbol": symbol});
            let (status, answer) = self.call("POST", "/admin/instruments", Some(admin), body).await;
            assert_eq!(status, 201, "{answer}");
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(self) {
        drop(self);
    }

    /// SIGTERM, and a clean end.
    pub fn terminate(mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: the process is our child and has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(began.elapsed() < STARTS_WITHIN, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Gone already unless it is killed or the test failed.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// Why there is no answer.
pub async fn call(
    url: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Value,
) -> Result<(u16, Value), String> {
    let method = awc::http::Method::from_bytes(method.as_bytes()).expect("a method");
    let client = awc::Client::builder().timeout(Duration::from_secs(20)).finish();
    let mut request = client.request(method, format!("{url}{path}"));
    if let Some(token) = token {
        request = request.insert_header(("Authorization", format!("Bearer {token}")));
    }
    let mut response = request.send_json(&body).await.map_err(|e| e.to_string())?;
    let bytes = response.body().limit(64 << 20).await.map_err(|e| e.to_string())?;
    Ok((response.status().as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}
