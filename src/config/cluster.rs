//! The settings of a cluster: log, routes and snapshots outside the process, all three or none.

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};
use crate::domain::NodeId;

/// How brokers are spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaSecurity {
    #[default]
    Plaintext,
    Tls,
    /// TLS, and an identity of AWS IAM, as Amazon MSK asks for.
    MskIam,
}

/// How records on their way to the brokers, and there, are made smaller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaCompression {
    None,
    Snappy,
    #[default]
    Lz4,
    Zstd,
}

impl KafkaCompression {
    /// As Kafka calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What a process of a cluster does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Clients trade through it; it has no books.
    Gateway,
    /// It has books; only operators come to it.
    Engine,
    #[default]
    Both,
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gateway" => Ok(Self::Gateway),
            "engine" => Ok(Self::Engine),
            "both" => Ok(Self::Both),
            _ => Err("is gateway, engine or both".into()),
        }
    }
}

/// An order waits that long at each of two producers.
const LINGER_MS_MAX: u32 = 100;

/// The outside parts by what makes each of them one, and what of the build it needs.
const PARTS: [(&str, &str, bool); 3] = [
    ("KAFKA_BROKERS", "kafka", cfg!(feature = "kafka")),
    ("REDIS_HOST", "redis", cfg!(feature = "redis")),
    ("HOTBOOK_S3_BUCKET", "s3", cfg!(feature = "s3")),
];

impl Config {
    /// Whether log, routes and snapshots are outside the process.
    pub fn is_cluster(&self) -> bool {
        self.parts_set().contains(&true)
    }

    /// Whether the JSON topics are written.
    pub fn writes_json_topics(&self) -> bool {
        self.projector.unwrap_or(self.is_cluster())
    }

    /// As [`PARTS`].
    fn parts_set(&self) -> [bool; 3] {
        [&self.kafka_brokers, &self.redis_host, &self.s3_bucket]
            .map(|part| part.as_ref().is_some_and(|value| !value.is_empty()))
    }

    pub(super) fn check_cluster(&self) -> Result<(), ConfigError> {
        if let Some(Err(bad)) = self.node_id.as_deref().map(NodeId::new) {
            return Err(ConfigError::Value { key: "node_id", what: bad.to_string() });
        }
        if !self.is_cluster() {
            if self.role != Role::Both {
                return Err(ConfigError::Value { key: "role", what: "other than both needs a cluster".into() });
            }
            return Ok(());
        }
        let is_anywhere = self.grpc_host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        if is_anywhere && self.peer_address.is_none() {
            let what = format!("is needed: others cannot reach {}", self.grpc_host);
            return Err(ConfigError::Value { key: "peer_address", what });
        }
        let (set, missing): (Vec<_>, Vec<_>) = PARTS.into_iter().zip(self.parts_set()).partition(|(_, set)| *set);
        let names = |parts: Vec<((&'static str, _, _), _)>| parts.into_iter().map(|((key, _, _), _)| key).collect();
        if !missing.is_empty() {
            return Err(ConfigError::ClusterHalfSet { set: names(set), missing: names(missing) });
        }
        if let Some((key, feature, _)) = PARTS.into_iter().find(|(_, _, is_built)| !is_built) {
            return Err(ConfigError::FeatureMissing { key, feature });
        }
        if self.node_id.is_none() {
            return Err(ConfigError::NodeIdNeeded);
        }
        if self.cluster_secret.is_none() {
            return Err(ConfigError::SharedSecretNeeded);
        }
        self.check_kafka()
    }

    fn check_kafka(&self) -> Result<(), ConfigError> {
        let refused = |key, what: &str| Err(ConfigError::Value { key, what: what.into() });
        if self.kafka_security == KafkaSecurity::MskIam {
            if !cfg!(feature = "msk") {
                return Err(ConfigError::FeatureMissing { key: "kafka_security = \"msk_iam\"", feature: "msk" });
            }
            if self.aws_region.is_none() {
                return refused("aws_region", "is needed for kafka_security = \"msk_iam\"");
            }
            if !(1..=900).contains(&self.kafka_token_lifetime_s) {
                return refused("kafka_token_lifetime_s", "must be 1 to 900");
            }
            if self.kafka_key_file.is_some() {
                return refused("kafka_key_file", "is of no use with kafka_security = \"msk_iam\"");
            }
        }
        if self.kafka_linger_ms > LINGER_MS_MAX {
            return refused("kafka_linger_ms", "must be at most 100");
        }
        if self.kafka_certificate_file.is_some() != self.kafka_key_file.is_some() {
            return refused("kafka_key_file", "and kafka_certificate_file go together");
        }
        let has_files = self.kafka_ca_file.is_some() || self.kafka_key_file.is_some();
        if self.kafka_security == KafkaSecurity::Plaintext && has_files {
            return refused("kafka_security", "is plaintext, but certificates are given");
        }
        if self.redis_ca_file.is_some() && !self.redis_tls {
            return refused("redis_ca_file", "is given, but redis_tls is false");
        }
        if !(1..=self.kafka_replication).contains(&self.kafka_min_insync_replicas) {
            return refused("kafka_min_insync_replicas", "must be 1 to kafka_replication");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use figment::value::Dict;

    use super::super::{load, tests::environment};
    use super::*;

    const WHOLE: [(&str, &str); 5] = [
        ("KAFKA_BROKERS", "b:9092"),
        ("REDIS_HOST", "r"),
        ("HOTBOOK_S3_BUCKET", "s"),
        ("HOTBOOK_NODE_ID", "east"),
        ("HOTBOOK_CLUSTER_SECRET", "secret"),
    ];

    fn refused(pairs: &[(&str, &str)]) -> ConfigError {
        load(None, environment(pairs), Dict::new()).unwrap_err()
    }

    #[test]
    fn the_outside_parts_go_together() {
        for n in 0..3 {
            let (one, others) = (WHOLE[n], [WHOLE[(n + 1) % 3], WHOLE[(n + 2) % 3]]);
            let said = refused(&[one]).to_string();
            assert!(said.starts_with("config_cluster_half_set: ") && said.contains(others[0].0), "{said}");
            let ConfigError::ClusterHalfSet { set, missing } = refused(&others) else { panic!() };
            assert_eq!((set.len(), missing), (2, vec![one.0]));
        }
        assert!(!load(None, environment(&[("KAFKA_BROKERS", "")]), Dict::new()).unwrap().is_cluster());
        assert!(refused(&[("HOTBOOK_ROLE", "gateway")]).to_string().contains("role"));
    }

    #[test]
    #[cfg(not(any(feature = "kafka", feature = "redis", feature = "s3")))]
    fn a_build_without_the_adapters_says_so() {
        let said = refused(&WHOLE).to_string();
        assert!(said.starts_with("config_feature_missing: ") && said.contains("KAFKA_BROKERS"), "{said}");
    }

    #[test]
    #[cfg(all(feature = "kafka", feature = "redis", feature = "s3"))]
    fn a_cluster_needs_a_name_and_a_secret_and_sense() {
        let with = |more: &[(&str, &str)]| load(None, environment(&[&WHOLE, more].concat()), Dict::new());
        let whole = with(&[("HOTBOOK_REDIS_PASSWORD", "12345")]).unwrap();
        assert!(whole.is_cluster() && whole.writes_json_topics() && !whole.masked().contains("12345"));
        assert!(!with(&[("HOTBOOK_PROJECTOR", "false")]).unwrap().writes_json_topics());
        assert!(matches!(refused(&[&WHOLE[..3], &WHOLE[4..]].concat()), ConfigError::NodeIdNeeded));
        assert!(matches!(refused(&WHOLE[..4]), ConfigError::SharedSecretNeeded));
        for (key, value, named) in [
            ("HOTBOOK_NODE_ID", "not a name", "node_id"),
            ("HOTBOOK_KAFKA_CA_FILE", "ca.pem", "kafka_security"),
            ("HOTBOOK_KAFKA_KEY_FILE", "key.pem", "kafka_key_file"),
            ("HOTBOOK_GRPC_HOST", "0.0.0.0", "peer_address"),
            ("HOTBOOK_REDIS_CA_FILE", "ca.pem", "redis_ca_file"),
            ("HOTBOOK_KAFKA_REPLICATION", "1", "kafka_min_insync_replicas"),
        ] {
            let said = with(&[(key, value)]).unwrap_err().to_string();
            assert!(said.starts_with("config_value_invalid: ") && said.contains(named), "{said}");
        }
        assert!(with(&[("HOTBOOK_KAFKA_SECURITY", "none")]).is_err());
        let followed = with(&[("HOTBOOK_STANDBY", "1"), ("HOTBOOK_NODES", "1")]).unwrap();
        assert_eq!((followed.standby, followed.nodes), (1, 1), "the second node is in another process");
    }
}
