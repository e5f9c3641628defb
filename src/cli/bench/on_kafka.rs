//! Topics of a benchmark's own, on brokers that are there already. They are left behind.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::ports::Parts;
use crate::ports::log::kafka::{KafkaLog, KafkaOptions, NewTopics, init_topics};
use crate::ports::routes::local::LocalRoutes;
use crate::ports::snapshots::folder::FolderSnapshots;

/// Makes topics whose names begin with `bench-`, something of this run alone, and `who`.
///
/// # Errors
/// When brokers do not answer, or have too few copies to give.
pub async fn make_topics(brokers: &str, who: &str, partitions: u32, replication: u32) -> anyhow::Result<KafkaOptions> {
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).context("randomness")?;
    let topic_prefix = format!("bench-{}-{who}-", hex::encode(random));
    let options = KafkaOptions { topic_prefix, ..KafkaOptions::new(brokers) };
    let min_insync_replicas = replication.saturating_sub(1).max(1);
    init_topics(&options, &NewTopics { partitions, replication, min_insync_replicas }).await?;
    Ok(options)
}

/// A log on these topics, snapshots in a folder, routes in the process.
///
/// # Errors
/// When one of them cannot be opened.
pub async fn parts(kafka: KafkaOptions, folder: &Path) -> anyhow::Result<Parts> {
    Ok(Parts {
        log: Arc::new(KafkaLog::open(kafka).await?),
        snapshots: Arc::new(FolderSnapshots::open(folder)?),
        routes: Arc::new(LocalRoutes::default()),
        cache: None,
    })
}
