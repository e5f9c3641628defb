//! Opens log, snapshots and routes as the settings say: in the data folder, or all three outside.
//!
//! In a build without the adapters `Config` is never a cluster's: its check refuses such settings.

#[cfg(all(feature = "kafka", feature = "redis", feature = "s3"))]
mod outside;

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::ports::Parts;
use crate::ports::log::Log;
use crate::ports::log::embedded::EmbeddedLog;
use crate::ports::snapshots::SnapshotStore;
use crate::ports::snapshots::folder::FolderSnapshots;

/// All parts, to trade on. Must be called inside a Tokio runtime that lives as long as they do.
///
/// # Errors
/// Which part cannot be opened, and why.
pub async fn open(config: &Config) -> Result<Parts> {
    #[cfg(all(feature = "kafka", feature = "redis", feature = "s3"))]
    if config.is_cluster() {
        return outside::open(config).await;
    }
    Ok(Parts::embedded(&config.data_dir, config.partitions, config.accept_lost_tail)?)
}

/// Log and snapshots, to be read beside a running exchange.
///
/// # Errors
/// As [`open`].
pub async fn open_read_only(config: &Config) -> Result<(Arc<dyn Log>, Arc<dyn SnapshotStore>)> {
    #[cfg(all(feature = "kafka", feature = "redis", feature = "s3"))]
    if config.is_cluster() {
        return outside::open_read_only(config).await;
    }
    let data = &config.data_dir;
    let log = EmbeddedLog::open_read_only(data).with_context(|| format!("no log in {}", data.display()))?;
    Ok((Arc::new(log), Arc::new(FolderSnapshots::open_read_only(data))))
}

/// Makes the topics that are missing; gives one line for each topic.
///
/// # Errors
/// When the log is not Kafka, when brokers do not answer, and naming all topics that are not as they must be.
pub async fn init_topics(config: &Config) -> Result<Vec<String>> {
    #[cfg(all(feature = "kafka", feature = "redis", feature = "s3"))]
    if config.is_cluster() {
        return outside::init_topics(config).await;
    }
    anyhow::bail!("the log is in {} and needs no topics: KAFKA_BROKERS is not set", config.data_dir.display())
}

/// Where log, routes and snapshots are, for people.
pub fn describe(config: &Config) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if config.is_cluster() {
        let (brokers, redis, bucket) = (text(&config.kafka_brokers), text(&config.redis_host), text(&config.s3_bucket));
        return format!("Kafka at {brokers}, Redis at {redis}:{}, S3 bucket {bucket}", config.redis_port);
    }
    config.data_dir.display().to_string()
}
