//! Several processes of `hotbook` on one cluster's parts: started, frozen, killed and asked.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::process::Served;
use super::services::free_port;

pub const SOON: Duration = Duration::from_secs(60);

/// A process with one node, or with none.
pub struct Process {
    pub name: String,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    served: Option<Served>,
}

impl Process {
    /// `arguments`: of `serve`, on top.
    pub fn start(cluster: &Cluster, name: &str, arguments: &[&str]) -> Self {
        Self::start_with(cluster, name, arguments, &[])
    }

    /// With more of the environment.
    pub fn start_with(cluster: &Cluster, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut process = Self { name: name.into(), port: free_port(), arguments, environment, served: None };
        process.start_again(cluster);
        process
    }

    pub fn start_again(&mut self, cluster: &Cluster) {
        assert!(self.served.is_none(), "{} runs already", self.name);
        let port = self.port.to_string();
        let mut arguments = vec!["serve", "--http-port", &port];
        if !self.arguments.iter().any(|a| a == "--nodes") {
            arguments.extend(["--nodes", "1"]);
        }
        arguments.extend(self.arguments.iter().map(String::as_str));
        let mut command = cluster.hotbook(&arguments);
        command.env("HOTBOOK_NODE_ID", &self.name);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.served = Some(Served::start(command));
    }

    pub fn served(&self) -> &Served {
        self.served.as_ref().expect("it runs")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.served.take().expect("it runs").kill();
    }

    /// SIGTERM, and a clean end.
    pub fn terminate(&mut self) {
        self.served.take().expect("it runs").terminate();
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.served().pid()).expect("a pid");
        // SAFETY: the process is our child and has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits until it sees exactly these nodes take books.
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
            assert!(began.elapsed() < SOON, "{} sees {seen}, not {nodes:?}", self.name);
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
            assert!(began.elapsed() < SOON, "{homes:?}, none of them may be on {not_on}");
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

    /// Waits until a step of a move that this process carries out has begun.
    pub async fn until_step(&self, admin: &str, id: u64, step: &str) {
        let began = Instant::now();
        loop {
            let record = self.served().get(&format!("/admin/migrations/{id}"), admin).await;
            if record["steps"].as_array().expect("steps").iter().any(|s| s["name"] == step) {
                return;
            }
            assert!(record["status"] == "RUNNING" && began.elapsed() < SOON, "{record}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a move has ended; gives its record.
    pub async fn until_moved(&self, admin: &str, id: u64) -> Value {
        let began = Instant::now();
        loop {
            let record = self.served().get(&format!("/admin/migrations/{id}"), admin).await;
            if record["status"] != "RUNNING" {
                return record;
            }
            assert!(began.elapsed() < SOON, "{record}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
