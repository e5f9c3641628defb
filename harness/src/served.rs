//! `hotbook` as a process of its own, with nothing of the machine's environment.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::child::{signal, spawn};
use crate::client::{call, request};

/// A machine of two cores starts three nodes, and everything else beside them.
pub const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// What a failed test shows of each process.
const LOG_LINES_SHOWN: usize = 40;
const READY_LINE: &str = "is trading at ";

/// The program with these arguments, and of the environment only this: what decides anything for hotbook is taken away.
pub fn hotbook(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
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

/// A process that serves. It is killed when this is dropped and when the test process ends; a test that fails prints the end
/// of its log.
pub struct Served {
    child: Child,
    log: LogFile,
    pub url: String,
}

/// What a process prints, over all its lives. It can be read even when its folder is gone.
pub(crate) struct LogFile(File);

impl LogFile {
    pub(crate) fn at(path: &Path) -> Self {
        let opened = OpenOptions::new().read(true).create(true).append(true).open(path);
        Self(opened.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn handle(&self) -> File {
        self.0.try_clone().expect("a handle")
    }

    fn bytes(&self) -> usize {
        self.0.metadata().map_or(0, |m| m.len() as usize)
    }

    fn text(&self) -> String {
        let mut text = vec![0; self.bytes()];
        let n = self.0.read_at(&mut text, 0).unwrap_or(0);
        String::from_utf8_lossy(&text[..n]).into_owned()
    }

    fn end(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Served {
    /// Starts a `serve` (see [`hotbook`]) and waits for its banner, which it prints once it is ready.
    ///
    /// # Panics
    /// With the end of its log, when it ends before or is not ready within [`STARTS_WITHIN`].
    pub fn start(serve: Command) -> Self {
        Self::start_with(serve, LogFile(tempfile::tempfile().expect("a file")))
    }

    pub(crate) fn start_with(mut serve: Command, log: LogFile) -> Self {
        let said_before = log.bytes();
        serve.stdin(Stdio::null()).stdout(log.handle()).stderr(log.handle());
        let mut served = Self { child: spawn(serve), log, url: String::new() };
        let began = Instant::now();
        loop {
            let said = served.log();
            let banner = said.get(said_before..).and_then(|said| said.split_once(READY_LINE));
            if let Some((url, _)) = banner.and_then(|(_, rest)| rest.split_once('\n')) {
                url.trim().clone_into(&mut served.url);
                return served;
            }
            let ended = served.child.try_wait().expect("its state");
            let late = began.elapsed() > STARTS_WITHIN;
            assert!(ended.is_none() && !late, "hotbook does not start within {STARTS_WITHIN:?} ({ended:?})");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All that it has printed; a [`crate::Process`] that was started again has also what it printed before.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// One request; a body of `null` is none.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
        let answer = call(&self.url, method, path, token, body).await;
        answer.unwrap_or_else(|e| panic!("{method} {}{path}: {e}", self.url))
    }

    /// A GET that succeeds.
    ///
    /// # Panics
    /// With the answer, when it does not.
    pub async fn get(&self, path: &str, token: &str) -> Value {
        let (status, answer) = self.call("GET", path, Some(token), Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The sum of a metric over all its labels; 0 if nothing was counted.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = request(&self.url, "GET", "/metrics", None, None).await.expect("metrics");
        let is_it = |l: &&str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        text.lines().filter(is_it).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A development token; roles are `trader` and `admin`.
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

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&self) {
        signal(&self.child, libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(&self.child, libc::SIGCONT);
    }

    /// `kill -9`.
    pub fn kill(self) {
        drop(self);
    }

    /// SIGTERM, and a clean end.
    ///
    /// # Panics
    /// When it does not end, or with a failure.
    pub fn terminate(mut self) {
        signal(&self.child, libc::SIGTERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(began.elapsed() < STARTS_WITHIN, "it does not end within {STARTS_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Gone already unless it is killed or the test failed.
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the end of what hotbook at '{}' printed:\n{}\n", self.url, self.log.end());
        }
    }
}
