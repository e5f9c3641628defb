//! Kafka, Redis and S3, and `hotbook` on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faulty::Faulty;
use crate::network::{Host, Network};
use crate::places;
use crate::ports::free_port;
use crate::process::{Process, ProcessOptions};
use crate::served::{LogFile, Served, hotbook, run};
use crate::services::{Kafka, KafkaOptions, Redis, S3, Server};
use crate::wait::SOON;

/// The secret that all processes of a cluster share here.
pub const SECRET: &str = "cluster-test-cluster-secret-0123456789";
/// Of `orders` and `events`.
pub const PARTITIONS: u32 = 4;

/// How a cluster is started: [`Cluster::of`].
pub struct ClusterOptions {
    program: PathBuf,
    kafka: KafkaOptions,
    settings: String,
    s3_can_fail: bool,
    network: Option<Network>,
}

impl ClusterOptions {
    /// One broker, or three that replicate.
    #[must_use]
    pub fn brokers(mut self, count: usize) -> Self {
        self.kafka.brokers = count;
        self
    }

    /// Kafka with properties of its own.
    #[must_use]
    pub fn kafka(mut self, options: KafkaOptions) -> Self {
        self.kafka = options;
        self
    }

    /// Lines of the settings file on top (docs/operations.md), of all processes.
    #[must_use]
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self
    }

    /// Puts [`Cluster::s3_way`] before S3, which can refuse and be slow.
    #[must_use]
    pub fn s3_can_fail(mut self) -> Self {
        self.s3_can_fail = true;
        self
    }

    /// On a network of its own: `kafka`, `redis`, `s3` and each process are hosts of it. Not together with
    /// [`Self::s3_can_fail`]: there the network fails.
    #[must_use]
    pub fn network(mut self, network: &Network) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Starts the servers, writes the settings and makes the topics. No process of hotbook runs yet.
    ///
    /// # Panics
    /// When a server does not start: it says what is missing, such as `scripts/services install kafka`.
    pub fn start(mut self) -> Cluster {
        let host = |name: &str| self.network.as_ref().map(|network| network.host(name));
        let (redis, s3) = (host("redis"), host("s3"));
        self.kafka.host = host("kafka");
        assert!(!(self.s3_can_fail && s3.is_some()), "s3_can_fail is for a cluster on loopback");
        let (kafka, redis, s3) = std::thread::scope(|scope| {
            let kafka = scope.spawn(|| Kafka::start_with(&self.kafka));
            let redis = scope.spawn(|| Redis::start_on(redis.as_ref(), &[]));
            (kafka.join(), redis.join(), S3::start_on(s3.as_ref(), &[]))
        });
        // What was said of it is printed already.
        let (kafka, redis) = (kafka.expect("Kafka starts"), redis.expect("Redis starts"));
        let s3_way = self.s3_can_fail.then(|| Faulty::before(s3.port));
        let folder = tempfile::tempdir().expect("a folder");
        let launcher = Launcher { program: self.program, folder: folder.path().to_owned(), network: self.network };
        let cluster = Cluster { kafka, redis, s3, s3_way, folder, launcher, http_port: free_port() };
        std::fs::write(cluster.settings(), format!("{}{}", cluster.plain_settings(), self.settings)).expect("written");
        let said = cluster.admin_init_topics();
        assert!(said.0, "hotbook admin init-topics: {}{}", said.1, said.2);
        cluster
    }
}

/// Where the program, its settings and its logs are.
#[derive(Clone)]
pub(crate) struct Launcher {
    program: PathBuf,
    folder: PathBuf,
    network: Option<Network>,
}

impl Launcher {
    fn settings(&self) -> PathBuf {
        self.folder.join("hotbook.toml")
    }

    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    pub(crate) fn host(&self, name: &str) -> Option<Host> {
        self.network.as_ref().map(|network| network.host(name))
    }

    pub(crate) fn hotbook(&self, arguments: &[&str], host: Option<&Host>) -> Command {
        let environment =
            [("AWS_ACCESS_KEY_ID", S3::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", S3::SECRET_KEY), ("LOG_LEVEL", "warn")];
        let mut command = hotbook(&self.program, arguments, &environment);
        command.arg("--config").arg(self.settings()).current_dir(&self.folder);
        if let Some(host) = host {
            host.enter(&mut command);
        }
        command
    }
}

/// The outside parts with topics made, and a settings file that names them. All of it is gone when this is dropped.
pub struct Cluster {
    pub kafka: Kafka,
    pub redis: Redis,
    pub s3: S3,
    /// The way to S3, if it was asked for ([`ClusterOptions::s3_can_fail`]).
    pub s3_way: Option<Faulty>,
    folder: tempfile::TempDir,
    launcher: Launcher,
    http_port: u16,
}

impl Cluster {
    /// Of this program, built with the feature `cluster`: `env!("CARGO_BIN_EXE_hotbook")`, or
    /// [`crate::program`]. One broker, unless more is said.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn of(program: impl AsRef<Path>) -> ClusterOptions {
        let program = places::checked(program.as_ref());
        ClusterOptions {
            program,
            kafka: KafkaOptions::default(),
            settings: String::new(),
            s3_can_fail: false,
            network: None,
        }
    }

    fn plain_settings(&self) -> String {
        let (brokers, bucket) = (self.kafka.addresses(), S3::BUCKET);
        let copies = self.kafka.brokers.len();
        let least = copies.div_ceil(2);
        format!(
            "node_id = \"east\"\ncluster_secret = \"{SECRET}\"\nnodes = 3\npartitions = {PARTITIONS}\n\
             http_port = {}\ngrpc_port = 0\nhttp_workers = 1\nbook_threads_per_node = 1\nsnapshot_every_s = 2\norders_retention_hours = 24\n\
             placement_mode = \"off\"\nkafka_brokers = \"{brokers}\"\nkafka_replication = {copies}\n\
             kafka_min_insync_replicas = {least}\nredis_host = \"{}\"\nredis_port = {}\n\
             s3_bucket = \"{bucket}\"\ns3_endpoint = \"http://{}:{}\"\naws_region = \"{}\"\n",
            self.http_port,
            self.redis.address,
            self.redis.port,
            self.s3.address,
            self.s3_way.as_ref().map_or(self.s3.port, |way| way.port),
            S3::REGION,
        )
    }

    /// The network that it was started on.
    ///
    /// # Panics
    /// When it is on loopback.
    pub fn network(&self) -> &Network {
        self.launcher.network.as_ref().expect("it was started with a network")
    }

    /// The settings file.
    pub fn settings(&self) -> PathBuf {
        self.launcher.settings()
    }

    /// Where processes run, and keep their logs and settings.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program with these arguments and the settings file.
    pub fn hotbook(&self, arguments: &[&str]) -> Command {
        self.launcher.hotbook(arguments, self.launcher.host("operator").as_ref())
    }

    /// A process of its own with one node, to be started.
    pub fn process(&self, name: &str) -> ProcessOptions {
        ProcessOptions::new(name, self.launcher.clone())
    }

    /// A process for each name, one after the other, with a node each.
    pub fn start<const N: usize>(&self, names: [&str; N]) -> [Process; N] {
        names.map(|name| self.process(name).start())
    }

    /// One process with three nodes: `east-1` to `east-3`. On loopback only.
    pub fn serve(&self) -> Served {
        assert!(self.launcher.network.is_none(), "on a network there are only processes of their own");
        Served::start_with(self.hotbook(&["serve"]), LogFile::at(&self.launcher.log_of("east")))
    }

    /// Where [`Self::serve`] listens, also when it is started anew.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// Whether it succeeded, what it printed, what it complained of.
    pub fn admin_init_topics(&self) -> (bool, String, String) {
        run(self.hotbook(&["admin", "init-topics"]))
    }

    /// The auditor's report of all symbols (docs/audit.md), from Kafka and S3, also while processes run. `more`: arguments such
    /// as `--complete`.
    ///
    /// # Panics
    /// When there is none.
    pub fn audit(&self, more: &[&str]) -> Value {
        let (_, out, err) = run(self.hotbook(&[&["audit", "--json"], more].concat()));
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("the auditor makes no report: {e}: {out}{err}"))
    }

    /// [`Self::audit`], which finds nothing.
    ///
    /// # Panics
    /// With the report, when it does.
    pub fn clean_audit(&self, more: &[&str]) -> Value {
        let report = self.audit(more);
        assert_eq!(report["violations"], 0, "{report:#}");
        report
    }

    /// Waits until others see the depth of these books in Redis (`orderbook:SYMBOL`) as a process tells it; gives how long that
    /// took.
    ///
    /// # Panics
    /// With both, when they stay different.
    pub async fn until_redis_shows(&self, served: &Served, symbols: &[&str]) -> Duration {
        let began = Instant::now();
        for symbol in symbols {
            loop {
                let (_, mut told) = served.call("GET", &format!("/orderbook/{symbol}"), None, Value::Null).await;
                for side in ["bids", "asks"] {
                    let levels = told[side].as_array_mut().into_iter().flatten();
                    levels.filter_map(Value::as_object_mut).for_each(|level| _ = level.remove("orders"));
                }
                let seen = self.redis.ask(&["GET", &format!("orderbook:{symbol}")]);
                let seen = seen.first().map_or(Value::Null, |text| serde_json::from_str(text).expect("JSON"));
                if seen == told {
                    break;
                }
                assert!(began.elapsed() < SOON, "Redis has {seen}, not {told}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        began.elapsed()
    }

    /// Copies the logs of all servers and processes into a folder, which is made.
    pub fn save_logs(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        let brokers = (1..).zip(&self.kafka.brokers).map(|(n, broker)| (format!("kafka-{n}"), broker));
        let others: [(String, &Server); 2] = [("redis".into(), &self.redis.server), ("s3".into(), &self.s3.server)];
        for (name, server) in brokers.chain(others) {
            std::fs::write(folder.join(format!("{name}.log")), server.log()).expect("written");
        }
        for file in std::fs::read_dir(self.folder()).expect("the folder").flatten() {
            if file.path().extension().is_some_and(|e| e == "log") {
                std::fs::copy(file.path(), folder.join(file.file_name())).expect("copied");
            }
        }
    }
}
