//! Several processes of `hotbook` on one cluster's parts: started, frozen, killed and asked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Launcher;
use crate::faulty::Faulty;
use crate::network::Host;
use crate::ports::free_port;
use crate::served::{LogFile, Served};
use crate::wait::SETTLES_WITHIN;

/// How a process is started: [`crate::Cluster::process`].
pub struct ProcessOptions {
    name: String,
    launcher: Launcher,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl ProcessOptions {
    pub(crate) fn new(name: &str, launcher: Launcher) -> Self {
        Self { name: name.to_owned(), launcher, arguments: Vec::new(), environment: Vec::new() }
    }

    /// More arguments of `serve`; it has one node unless they say otherwise (`--nodes 2`, `--role gateway`).
    #[must_use]
    pub fn arguments(mut self, more: &[&str]) -> Self {
        self.arguments.extend(more.iter().map(|a| (*a).to_owned()));
        self
    }

    /// More of the environment, such as a setting of this process alone: `("HOTBOOK_DEV_MOVE_STEP_MS", "150")`.
    #[must_use]
    pub fn environment(mut self, more: &[(&str, &str)]) -> Self {
        self.environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// With the end of its log, when it does not start.
    pub fn start(self) -> Process {
        let (port, host) = (free_port(), self.launcher.host(&self.name));
        // It takes development tokens, and so only clients on its own loopback.
        let door = host.clone().map(|host| {
            let connect = move || host.connect((Ipv4Addr::LOCALHOST, port));
            Faulty::at(port, Arc::new(connect))
        });
        let mut process = Process { port, options: self, host, _door: door, served: None };
        process.start_again();
        process
    }
}

/// A process of a cluster, whether it runs or not: its name is that of its node, and it keeps its port over its lives.
pub struct Process {
    port: u16,
    options: ProcessOptions,
    /// Where it runs, if not on this machine's own network.
    host: Option<Host>,
    /// The same port here, from which its clients are brought to it: no fault of the network is between.
    _door: Option<Faulty>,
    served: Option<Served>,
}

impl Process {
    /// Starts it after [`Self::kill`] or [`Self::terminate`], as it was started first.
    ///
    /// # Panics
    /// As [`ProcessOptions::start`].
    pub fn start_again(&mut self) {
        let ProcessOptions { name, launcher, arguments, environment } = &self.options;
        assert!(self.served.is_none(), "{name} runs already");
        let port = self.port.to_string();
        let mut all = vec!["serve", "--http-port", &port];
        if !arguments.iter().any(|a| a == "--nodes") {
            all.extend(["--nodes", "1"]);
        }
        all.extend(arguments.iter().map(String::as_str));
        let mut command = launcher.hotbook(&all, self.host.as_ref());
        command.env("HOTBOOK_NODE_ID", name);
        command.envs(self.host.as_ref().map(|host| ("HOTBOOK_GRPC_HOST", host.address().to_string())));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        self.served = Some(Served::start_with(command, LogFile::at(&self.log_path())));
    }

    /// More of the environment from its next start on.
    pub fn set_environment(&mut self, more: &[(&str, &str)]) {
        self.options.environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The process that runs now.
    ///
    /// # Panics
    /// When it does not run.
    pub fn served(&self) -> &Served {
        self.served.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name()))
    }

    /// Whether it runs; one that has ended by itself may be started again.
    pub fn is_running(&mut self) -> bool {
        let is_running = self.served.as_mut().is_some_and(Served::is_running);
        if !is_running {
            self.served = None;
        }
        is_running
    }

    /// Where it listens, whether it runs or not.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where its log is, over all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.options.launcher.log_of(self.name())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.taken().kill();
    }

    /// SIGTERM, and a clean end: its books leave it first.
    pub fn terminate(&mut self) {
        self.taken().terminate();
    }

    fn taken(&mut self) -> Served {
        self.served.take().unwrap_or_else(|| panic!("{} does not run", self.options.name))
    }

    /// SIGSTOP, as a machine that hangs.
    pub fn freeze(&self) {
        self.served().freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.served().thaw();
    }

    /// Waits until it sees exactly these nodes take books.
    ///
    /// # Panics
    /// With what it sees, when that takes too long; so do all that wait here, and the failed test prints every log's end.
    pub async fn until_sees(&self, admin: &str, nodes: &[&str]) {
        let began = Instant::now();
        loop {
            let seen = self.served().get("/admin/nodes", admin).await;
            let all = seen["nodes"].as_array().expect("nodes");
            let active: Vec<&str> =
                all.iter().filter(|n| n["status"] == "ACTIVE").filter_map(|n| n["id"].as_str()).collect();
            if active == nodes {
                return;
            }
            assert!(began.elapsed() < SETTLES_WITHIN, "{} sees {seen}, not {nodes:?}", self.name());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where each book is, as all processes together tell.
    pub async fn homes(&self, admin: &str) -> BTreeMap<String, String> {
        let books = self.served().get("/admin/books", admin).await;
        let text = |book: &Value, field: &str| book[field].as_str().expect("text").to_owned();
        let books = books["books"].as_array().expect("books").iter();
        books.filter(|b| b["active"] == true).map(|b| (text(b, "symbol"), text(b, "node"))).collect()
    }

    /// Waits until all these books trade, none of them on a node that is named; gives where they are.
    pub async fn until_homes(&self, admin: &str, symbols: &[&str], not_on: &str) -> BTreeMap<String, String> {
        let began = Instant::now();
        loop {
            let homes = self.homes(admin).await;
            if homes.len() == symbols.len() && homes.values().all(|node| node != not_on) {
                return homes;
            }
            assert!(began.elapsed() < SETTLES_WITHIN, "{homes:?}, none of them may be on {not_on}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Begins to move a book; gives the move's number.
    ///
    /// # Errors
    /// The code of the refusal.
    pub async fn begin_move(&self, admin: &str, symbol: &str, target: &str) -> Result<u64, String> {
        let body = json!({"symbol": symbol, "target": target});
        let (status, begun) = self.served().call("POST", "/admin/migrations", Some(admin), body).await;
        match status {
            202 => Ok(begun["id"].as_u64().expect("a number")),
            _ => Err(begun["code"].as_str().unwrap_or("?").to_owned()),
        }
    }

    /// The record of a move (docs/moves.md).
    pub async fn migration(&self, admin: &str, id: u64) -> Value {
        self.served().get(&format!("/admin/migrations/{id}"), admin).await
    }

    /// Waits until a step of a move has begun.
    pub async fn until_step(&self, admin: &str, id: u64, step: &str) {
        let began = Instant::now();
        loop {
            let record = self.migration(admin, id).await;
            if record["steps"].as_array().expect("steps").iter().any(|s| s["name"] == step) {
                return;
            }
            assert!(record["status"] == "RUNNING" && began.elapsed() < SETTLES_WITHIN, "{record}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a move has ended; gives its record.
    pub async fn until_moved(&self, admin: &str, id: u64) -> Value {
        let began = Instant::now();
        loop {
            let record = self.migration(admin, id).await;
            if record["status"] != "RUNNING" {
                return record;
            }
            assert!(began.elapsed() < SETTLES_WITHIN, "{record}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
