//! The parts of a cluster: Kafka, S3 and Redis.

use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "msk")]
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::{Config, KafkaSecurity};
use crate::ports::Parts;
use crate::ports::cache::Cache;
#[cfg(feature = "msk")]
use crate::ports::log::kafka::MskIam;
use crate::ports::log::kafka::{
    Batching, KafkaLog, KafkaOptions, NewTopics, Outcome, Security, TlsIdentity, init_topics as make_topics,
};
use crate::ports::log::{Log, LogError};
use crate::ports::routes::redis::{RedisOptions, RedisRoutes, RedisTls};
use crate::ports::snapshots::SnapshotStore;
use crate::ports::snapshots::s3::{S3Options, S3Snapshots};

/// See [`super::open`]. Redis need not be there yet: the exchange trades without it.
pub async fn open(config: &Config) -> Result<Parts> {
    let (log, snapshots) = open_read_only(config).await?;
    let routes = RedisRoutes::open(&redis(config)?).context("routes in Redis")?;
    let cache = Some(Arc::new(routes.cache()) as Arc<dyn Cache>);
    Ok(Parts { log, snapshots, routes: Arc::new(routes), cache })
}

/// See [`super::open_read_only`].
pub async fn open_read_only(config: &Config) -> Result<(Arc<dyn Log>, Arc<dyn SnapshotStore>)> {
    let log = KafkaLog::open(kafka(config)).await.map_err(with_advice).context("log on Kafka")?;
    let snapshots = S3Snapshots::open(s3(config)?).await.context("snapshots in S3")?;
    Ok((Arc::new(log), Arc::new(snapshots)))
}

/// See [`super::init_topics`].
pub async fn init_topics(config: &Config) -> Result<Vec<String>> {
    let new = NewTopics {
        partitions: config.partitions,
        replication: config.kafka_replication,
        min_insync_replicas: config.kafka_min_insync_replicas,
    };
    let outcomes = make_topics(&kafka(config), &new).await.context("topics on Kafka")?;
    let line = |(name, outcome): (String, Outcome)| match outcome {
        Outcome::Created => format!("{name}: created"),
        Outcome::Fits => format!("{name}: is there and fits"),
    };
    Ok(outcomes.into_iter().map(line).collect())
}

fn with_advice(error: LogError) -> anyhow::Error {
    match error {
        LogError::Topics { .. } => anyhow::anyhow!(
            "{error}. `hotbook admin init-topics` with the same settings makes those that are missing; what is there is \
             changed by Kafka's own tools only"
        ),
        error => error.into(),
    }
}

fn kafka(config: &Config) -> KafkaOptions {
    let identity = config.kafka_certificate_file.clone().zip(config.kafka_key_file.clone());
    KafkaOptions {
        topic_prefix: config.kafka_topic_prefix.clone(),
        security: match config.kafka_security {
            KafkaSecurity::Plaintext => Security::Plaintext,
            #[cfg(feature = "msk")]
            KafkaSecurity::MskIam => Security::MskIam {
                ca_file: config.kafka_ca_file.clone(),
                iam: MskIam {
                    region: config.aws_region.clone().unwrap_or_default(),
                    token_lifetime: Duration::from_secs(config.kafka_token_lifetime_s),
                },
            },
            // Refused by the check of such settings.
            #[cfg(not(feature = "msk"))]
            KafkaSecurity::MskIam => unreachable!("such settings are refused"),
            KafkaSecurity::Tls => Security::Tls {
                ca_file: config.kafka_ca_file.clone(),
                identity: identity.map(|(certificate_file, key_file)| TlsIdentity { certificate_file, key_file }),
            },
        },
        batching: Batching {
            compression: config.kafka_compression.as_str().to_owned(),
            linger_ms: config.kafka_linger_ms,
        },
        client_id: config.node_id.as_ref().map_or_else(|| "hotbook".into(), |id| format!("hotbook-{id}")),
        ..KafkaOptions::new(config.kafka_brokers.clone().unwrap_or_default())
    }
}

fn redis(config: &Config) -> Result<RedisOptions> {
    let ca_pem = config.redis_ca_file.as_deref().map(certificates).transpose()?;
    Ok(RedisOptions {
        username: config.redis_username.clone(),
        password: config.redis_password.clone(),
        tls: config.redis_tls.then_some(RedisTls { ca_pem }),
        ..RedisOptions::new(config.redis_host.clone().unwrap_or_default(), config.redis_port)
    })
}

fn s3(config: &Config) -> Result<S3Options> {
    Ok(S3Options {
        bucket: config.s3_bucket.clone().unwrap_or_default(),
        prefix: config.s3_prefix.clone(),
        region: config.aws_region.clone(),
        endpoint: config.s3_endpoint.clone(),
        credentials: None,
        ca_pem: config.s3_ca_file.as_deref().map(certificates).transpose()?,
    })
}

fn certificates(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read the certificates in {}", file.display()))
}
