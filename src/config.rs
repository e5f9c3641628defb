//! Settings in layers: defaults, file, environment, flags.

mod cluster;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use serde::{Deserialize, Serialize};

use crate::migration::placement::PlacementMode;

pub use cluster::{KafkaCompression, KafkaSecurity, Role};

/// Where gRPC listens unless it is told otherwise.
pub const GRPC_PORT: u16 = 50_051;

/// All settings. Unknown keys are refused.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http_host: String,
    pub http_port: u16,
    /// Anything but loopback needs a cluster secret.
    pub grpc_host: String,
    /// 0 takes a free one.
    pub grpc_port: u16,
    /// HTTP worker threads; 0 = one per core.
    pub http_workers: usize,
    pub data_dir: PathBuf,
    pub nodes: usize,
    /// In a cluster: what this process does.
    pub role: Role,
    /// In a cluster: `host:port` at which other processes reach its gRPC; unless it is said, `grpc_host` and `grpc_port`.
    pub peer_address: Option<String>,
    /// Partitions of `orders`; fixed when the data folder, or the topics of a cluster, are made.
    pub partitions: u32,
    /// Threads for the books of each node; 0 = one per core, divided among the nodes.
    pub book_threads_per_node: usize,
    /// Starts although acknowledged records are gone from the end of the log, without them.
    pub accept_lost_tail: bool,
    pub demo: bool,
    /// As `RUST_LOG`: `info`, `debug`, `hotbook=debug,info`.
    pub log_level: String,
    pub log_json: bool,
    /// How long REST waits for an order's result before it answers RECEIVED.
    pub answer_timeout_ms: u64,
    pub heartbeat_s: u64,
    /// A WebSocket connection from which nothing came for so long is closed.
    pub idle_timeout_s: u64,
    /// A WebSocket connection that has taken nothing of what waits for it for so long is closed.
    pub slow_consumer_s: u64,
    pub snapshot_every_s: u64,
    pub snapshot_every_records: u64,
    /// How long orders stay in the log although no snapshot needs them.
    pub orders_retention_hours: u64,
    /// The same for what books said.
    pub events_retention_hours: u64,
    /// Replicas that follow each book on other nodes, to take it over at once when its own dies: 0 or 1.
    pub standby: usize,
    /// Writes the JSON topics `fills`, `trades`, `depth` and `order_status` beside `events`; unless it is said: in a cluster.
    pub projector: Option<bool>,
    /// Above so many records behind, a symbol takes no new orders.
    pub lag_records_max: u64,
    /// How long load is measured before it counts; the supervisor looks as often.
    pub load_window_ms: u64,
    /// What counts as full load of a node, in cores; 0 = all cores, divided among the nodes, and 1 at least.
    pub node_cores: f64,
    /// `auto`: books move by themselves. `advise`: it is only said what would be done. `off`: nobody looks.
    pub placement_mode: PlacementMode,
    /// Above this load a node gives books away, until it is below `placement_leave_below`.
    pub placement_move_above: f64,
    pub placement_leave_below: f64,
    /// No node is given a book that would make its load higher than this.
    pub placement_target_max: f64,
    /// After a move a book stays for so long.
    pub placement_cooldown_s: u64,
    /// Moves under way at once.
    pub placement_moves_max: usize,
    /// A node that has been idle is drained while more nodes than this are there; 0 = never.
    pub placement_nodes_min: usize,
    /// Development only: CPU time that each command of a symbol costs on top, in microseconds.
    pub dev_command_cost_us: BTreeMap<String, u64>,
    /// Development only: how long each step of a move waits before anything is done for it.
    pub dev_move_step_ms: u64,
    pub jwt_secret: Option<String>,
    pub cluster_secret: Option<String>,
    /// Name of this process's node; of several: what their names begin with. Without one they are n1 to nN.
    pub node_id: Option<String>,
    /// `host:port,host:port`. With this, `redis_host` and `s3_bucket` the log is Kafka, the routes are in Redis, the
    /// snapshots in S3: all three or none.
    pub kafka_brokers: Option<String>,
    pub kafka_security: KafkaSecurity,
    /// Who signs the brokers' certificates, in PEM; without one, whoever the machine trusts.
    pub kafka_ca_file: Option<PathBuf>,
    /// What we show to brokers that ask for a certificate, in PEM.
    pub kafka_certificate_file: Option<PathBuf>,
    pub kafka_key_file: Option<PathBuf>,
    /// For MSK: a token is renewed when four fifths of this are over. It is good for 900 s at most.
    pub kafka_token_lifetime_s: u64,
    /// Stands before the name of every topic.
    pub kafka_topic_prefix: String,
    pub kafka_compression: KafkaCompression,
    /// How long a batch of a producer waits for more records, in milliseconds; at most 100. 0 is quickest.
    pub kafka_linger_ms: u32,
    /// For `admin init-topics`: copies of each partition, and how many must have a record before it is durable.
    pub kafka_replication: u32,
    pub kafka_min_insync_replicas: u32,
    pub redis_host: Option<String>,
    pub redis_port: u16,
    pub redis_username: Option<String>,
    pub redis_password: Option<String>,
    pub redis_tls: bool,
    /// Who signs Redis's certificate, in PEM; without one, whoever the machine trusts.
    pub redis_ca_file: Option<PathBuf>,
    pub aws_region: Option<String>,
    pub s3_bucket: Option<String>,
    /// Of a store that is not AWS.
    pub s3_endpoint: Option<String>,
    /// Stands before the name of every object.
    pub s3_prefix: String,
    /// Who signs the store's certificate, in PEM, beside those whom the machine trusts.
    pub s3_ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http_host: "127.0.0.1".into(),
            http_port: 8080,
            grpc_host: "127.0.0.1".into(),
            grpc_port: GRPC_PORT,
            http_workers: 0,
            data_dir: "./hotbook-data".into(),
            nodes: 1,
            role: Role::Both,
            peer_address: None,
            partitions: 64,
            book_threads_per_node: 0,
            accept_lost_tail: false,
            demo: false,
            log_level: "info".into(),
            log_json: false,
            answer_timeout_ms: 5_000,
            heartbeat_s: 10,
            idle_timeout_s: 60,
            slow_consumer_s: 10,
            snapshot_every_s: 10,
            snapshot_every_records: 100_000,
            orders_retention_hours: 0,
            events_retention_hours: 24,
            standby: 0,
            projector: None,
            lag_records_max: 100_000,
            load_window_ms: 1_000,
            node_cores: 0.0,
            placement_mode: PlacementMode::Auto,
            placement_move_above: 0.85,
            placement_leave_below: 0.70,
            placement_target_max: 0.70,
            placement_cooldown_s: 60,
            placement_moves_max: 4,
            placement_nodes_min: 0,
            dev_command_cost_us: BTreeMap::new(),
            dev_move_step_ms: 0,
            jwt_secret: None,
            cluster_secret: None,
            node_id: None,
            kafka_brokers: None,
            kafka_security: KafkaSecurity::default(),
            kafka_ca_file: None,
            kafka_certificate_file: None,
            kafka_key_file: None,
            kafka_token_lifetime_s: 900,
            kafka_topic_prefix: String::new(),
            kafka_compression: KafkaCompression::default(),
            kafka_linger_ms: 0,
            kafka_replication: 3,
            kafka_min_insync_replicas: 2,
            redis_host: None,
            redis_port: 6_379,
            redis_username: None,
            redis_password: None,
            redis_tls: false,
            redis_ca_file: None,
            aws_region: None,
            s3_bucket: None,
            s3_endpoint: None,
            s3_prefix: String::new(),
            s3_ca_file: None,
        }
    }
}

/// Why the settings were refused; each has a stable code.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config_invalid: {0}")]
    Invalid(#[from] Box<figment::Error>),
    #[error("config_file_missing: there is no file {}", path.display())]
    FileMissing { path: PathBuf },
    #[error("config_value_invalid: {key} {what}")]
    Value { key: &'static str, what: String },
    #[error(
        "config_cluster_half_set: {} set, but not {}: log, routes and snapshots are outside the process together or not at \
         all",
        set.join(" and "), missing.join(" and ")
    )]
    ClusterHalfSet { set: Vec<&'static str>, missing: Vec<&'static str> },
    #[error(
        "config_feature_missing: {key} is set, but this build has no {feature}. Build it with `--features cluster`"
    )]
    FeatureMissing { key: &'static str, feature: &'static str },
    #[error("config_node_id_needed: the node of a cluster has a name of its own. Set HOTBOOK_NODE_ID or node_id")]
    NodeIdNeeded,
    #[error(
        "config_cluster_secret_needed: all nodes of a cluster sign with one secret. Set HOTBOOK_CLUSTER_SECRET or \
         cluster_secret"
    )]
    SharedSecretNeeded,
    #[error(
        "config_secret_needed: http_host {host} is not a loopback address, and without a JWT secret \
         (HOTBOOK_JWT_SECRET or jwt_secret) anyone could trade for anyone. Set one, or bind 127.0.0.1"
    )]
    SecretNeeded { host: String },
    #[error(
        "config_cluster_secret_needed: grpc_host {host} is not a loopback address, and without a cluster secret \
         (HOTBOOK_CLUSTER_SECRET or cluster_secret) anyone could copy the books. Set one, or bind 127.0.0.1"
    )]
    ClusterSecretNeeded { host: String },
}

impl From<figment::Error> for ConfigError {
    fn from(e: figment::Error) -> Self {
        Self::Invalid(Box::new(e))
    }
}

/// Variables by the names that other services use as well, so that one environment serves them all; by our key.
const SHARED_ENVIRONMENT: [(&str, &str); 7] = [
    ("KAFKA_BROKERS", "kafka_brokers"),
    ("REDIS_HOST", "redis_host"),
    ("REDIS_PORT", "redis_port"),
    ("AWS_REGION", "aws_region"),
    // As the AWS SDK calls it.
    ("AWS_ENDPOINT_URL_S3", "s3_endpoint"),
    ("GRPC_PORT", "grpc_port"),
    ("LOG_LEVEL", "log_level"),
];

/// Keys whose values are text even if they look like numbers.
const TEXT_KEYS: &[&str] = &[
    "http_host",
    "grpc_host",
    "peer_address",
    "data_dir",
    "log_level",
    "jwt_secret",
    "cluster_secret",
    "node_id",
    "kafka_brokers",
    "kafka_ca_file",
    "kafka_certificate_file",
    "kafka_key_file",
    "kafka_topic_prefix",
    "redis_host",
    "redis_username",
    "redis_password",
    "redis_ca_file",
    "aws_region",
    "s3_bucket",
    "s3_endpoint",
    "s3_prefix",
    "s3_ca_file",
];

/// Puts the layers together: defaults < file < environment < flags.
///
/// # Errors
/// [`ConfigError`], naming the key and where it came from.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: Dict,
) -> Result<Config, ConfigError> {
    let mut defaults = Config::default();
    // Whoever asks for any free port for one door does not care about the other's.
    if flags.get("http_port") == Some(&Value::from(0u16)) {
        defaults.grpc_port = 0;
    }
    let mut figment = Figment::from(Serialized::defaults(defaults));
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::FileMissing { path: path.to_owned() });
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let config: Config = figment
        .merge(Serialized::globals(environment_layer(environment)))
        .merge(Serialized::globals(flags))
        .extract()?;
    config.check()?;
    Ok(config)
}

fn environment_layer(environment: impl Iterator<Item = (String, String)>) -> Dict {
    let mut layer = Dict::new();
    for (name, text) in environment {
        let shared = SHARED_ENVIRONMENT.iter().find(|(n, _)| *n == name).map(|(_, key)| (*key).to_owned());
        let Some(key) = shared.or_else(|| name.strip_prefix("HOTBOOK_").map(str::to_ascii_lowercase)) else {
            continue;
        };
        // An empty variable is an unset one, as with the AWS SDK.
        if text.is_empty() {
            continue;
        }
        let is_text = TEXT_KEYS.contains(&key.as_str());
        let value = if is_text { Value::from(text) } else { text.parse().unwrap_or(Value::from(text)) };
        layer.insert(key, value);
    }
    layer
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        self.check_cluster()?;
        let positive = [
            ("nodes", self.nodes as u64),
            ("partitions", u64::from(self.partitions)),
            ("answer_timeout_ms", self.answer_timeout_ms),
            ("heartbeat_s", self.heartbeat_s),
            ("idle_timeout_s", self.idle_timeout_s),
            ("slow_consumer_s", self.slow_consumer_s),
            ("snapshot_every_s", self.snapshot_every_s),
            ("snapshot_every_records", self.snapshot_every_records),
            ("lag_records_max", self.lag_records_max),
            ("placement_cooldown_s", self.placement_cooldown_s),
            ("placement_moves_max", self.placement_moves_max as u64),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(ConfigError::Value { key, what: "must be above 0".into() });
            }
        }
        if self.standby > 1 {
            return Err(ConfigError::Value { key: "standby", what: "must be 0 or 1".into() });
        }
        if self.standby >= self.nodes && !self.is_cluster() {
            return Err(ConfigError::Value {
                key: "standby",
                what: "needs a second node: nodes is 1, and this is no cluster".into(),
            });
        }
        if let Some(symbol) = self.dev_command_cost_us.keys().find(|s| crate::domain::Symbol::new(s).is_err()) {
            return Err(ConfigError::Value {
                key: "dev_command_cost_us",
                what: format!("names `{symbol}`, no symbol"),
            });
        }
        self.check_placement()?;
        if self.jwt_secret.is_none() && !is_loopback(&self.http_host) {
            return Err(ConfigError::SecretNeeded { host: self.http_host.clone() });
        }
        if self.cluster_secret.is_none() && !is_loopback(&self.grpc_host) {
            return Err(ConfigError::ClusterSecretNeeded { host: self.grpc_host.clone() });
        }
        Ok(())
    }

    fn check_placement(&self) -> Result<(), ConfigError> {
        let refused = |key, what: String| Err(ConfigError::Value { key, what });
        if !(50..=60_000).contains(&self.load_window_ms) {
            return refused("load_window_ms", "must be 50 to 60000".into());
        }
        if !(0.0..=1_024.0).contains(&self.node_cores) {
            return refused("node_cores", "must be 0 to 1024".into());
        }
        for (key, load) in [
            ("placement_move_above", self.placement_move_above),
            ("placement_leave_below", self.placement_leave_below),
            ("placement_target_max", self.placement_target_max),
        ] {
            if !(load > 0.0 && load <= 1.0) {
                return refused(key, "is a load: above 0 and at most 1".into());
            }
        }
        // Otherwise a book could go back and forth between two nodes.
        for (key, load) in
            [("placement_leave_below", self.placement_leave_below), ("placement_target_max", self.placement_target_max)]
        {
            if load >= self.placement_move_above {
                return refused(key, format!("must be below placement_move_above ({})", self.placement_move_above));
            }
        }
        Ok(())
    }

    /// The effective values as TOML, secrets masked.
    pub fn masked(&self) -> String {
        let mut shown = self.clone();
        let secrets = [&mut shown.jwt_secret, &mut shown.cluster_secret, &mut shown.redis_password];
        for secret in secrets.into_iter().flatten() {
            *secret = "********".into();
        }
        toml::to_string(&shown).unwrap_or_default()
    }
}

/// Whether only this machine can reach what listens there.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn layers_lie_on_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hotbook.toml");
        std::fs::write(&file, "http_port = 1\nnodes = 2\nanswer_timeout_ms = 7\n[dev_command_cost_us]\nTSLA = 9\n")
            .unwrap();
        let env = environment(&[("HOTBOOK_HTTP_PORT", "3"), ("HOTBOOK_NODES", "4"), ("LOG_LEVEL", "debug")]);
        let c = load(Some(&file), env, Dict::from([("nodes".into(), Value::from(5))])).unwrap();
        assert_eq!((c.http_port, c.nodes, c.answer_timeout_ms), (3, 5, 7));
        assert_eq!((c.log_level.as_str(), c.dev_command_cost_us["TSLA"]), ("debug", 9));
    }

    #[test]
    fn any_free_port_for_http_means_any_for_grpc_too_unless_it_is_named() {
        let any = || Dict::from([("http_port".into(), Value::from(0u16))]);
        assert_eq!(load(None, environment(&[]), any()).unwrap().grpc_port, 0);
        assert_eq!(load(None, environment(&[("GRPC_PORT", "7")]), any()).unwrap().grpc_port, 7);
        assert_eq!(load(None, environment(&[]), Dict::new()).unwrap().grpc_port, GRPC_PORT);
    }

    #[test]
    fn a_standby_needs_a_second_node() {
        let with = |standby, nodes| {
            load(None, environment(&[("HOTBOOK_STANDBY", standby), ("HOTBOOK_NODES", nodes)]), Dict::new())
        };
        assert_eq!(with("1", "2").unwrap().standby, 1);
        for (standby, nodes) in [("1", "1"), ("2", "3")] {
            let refused = with(standby, nodes).unwrap_err();
            assert!(matches!(refused, ConfigError::Value { key: "standby", .. }), "{refused}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_in_every_layer() {
        let e = load(None, environment(&[("HOTBOOK_HTP_PORT", "1")]), Dict::new()).unwrap_err();
        assert!(e.to_string().contains("htp_port"), "{e}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hotbook.toml");
        std::fs::write(&file, "port = 1\n").unwrap();
        assert!(load(Some(&file), environment(&[]), Dict::new()).unwrap_err().to_string().contains("port"));
    }

    #[test]
    fn secrets_are_text_and_masked() {
        let env = environment(&[("HOTBOOK_JWT_SECRET", "12345"), ("HOTBOOK_HTTP_HOST", "0.0.0.0")]);
        let c = load(None, env, Dict::new()).unwrap();
        assert_eq!(c.jwt_secret.as_deref(), Some("12345"));
        assert!(!c.masked().contains("12345") && c.masked().contains("********"));
    }

    #[test]
    fn unsafe_or_unsupported_settings_have_a_code() {
        let code = |pairs: &[(&str, &str)]| {
            let e = load(None, environment(pairs), Dict::new()).unwrap_err().to_string();
            e.split(':').next().unwrap().to_owned()
        };
        assert_eq!(code(&[("HOTBOOK_HTTP_HOST", "0.0.0.0")]), "config_secret_needed");
        assert_eq!(code(&[("HOTBOOK_GRPC_HOST", "0.0.0.0")]), "config_cluster_secret_needed");
        assert_eq!(code(&[("HOTBOOK_NODES", "0")]), "config_value_invalid");
        assert_eq!(code(&[("HOTBOOK_NODES", "many")]), "config_invalid");
        assert_eq!(code(&[("HOTBOOK_PLACEMENT_MODE", "sometimes")]), "config_invalid");
        assert_eq!(code(&[("HOTBOOK_PLACEMENT_MOVE_ABOVE", "85")]), "config_value_invalid");
        assert_eq!(code(&[("HOTBOOK_PLACEMENT_TARGET_MAX", "0.9")]), "config_value_invalid");
        assert_eq!(code(&[("HOTBOOK_PLACEMENT_COOLDOWN_S", "0")]), "config_value_invalid");
        assert_eq!(code(&[("HOTBOOK_LOAD_WINDOW_MS", "1")]), "config_value_invalid");
    }

    #[test]
    fn placement_is_set_like_anything_else() {
        let env = [
            ("HOTBOOK_PLACEMENT_MODE", "advise"),
            ("HOTBOOK_PLACEMENT_MOVE_ABOVE", "0.95"),
            ("HOTBOOK_NODE_CORES", "2"),
        ];
        let c = load(None, environment(&env), Dict::new()).unwrap();
        assert_eq!((c.placement_mode, c.placement_move_above, c.node_cores), (PlacementMode::Advise, 0.95, 2.0));
        assert!(c.masked().contains("placement_mode = \"advise\""), "{}", c.masked());
    }
}
