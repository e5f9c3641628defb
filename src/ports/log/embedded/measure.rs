//! The bare cost of a durable append, for `bench order-entry` and the page that explains it.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::{EmbeddedLog, EmbeddedLogOptions};
use crate::ports::log::{Log, LogError, NewRecord, SessionOptions, Topic, TopicPartition};

/// Latency of durable appends made one at a time.
#[derive(Debug, Clone, Copy)]
pub struct AppendLatency {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// Appends `count` records of `value_bytes` to a new log under `folder`, each after the one before is durable.
///
/// # Errors
/// What the log says.
pub async fn bare_append_latency(folder: &Path, count: u32, value_bytes: usize) -> Result<AppendLatency, LogError> {
    let log = EmbeddedLog::open(&EmbeddedLogOptions::new(folder, 1))?;
    let session = log.open_session(SessionOptions { name: "measure".to_owned(), queue_bytes_max: 1 << 20 })?;
    let record = NewRecord {
        to: TopicPartition { topic: Topic::Orders, partition: 0 },
        key: Bytes::from_static(b"BENCH"),
        header: Bytes::from_static(&[0; 16]),
        value: Bytes::from(vec![b'x'; value_bytes]),
    };
    // Widths: 1 ns to a minute, 3 digits.
    let mut took = Histogram::<u64>::new_with_max(60_000_000_000, 3).map_err(|e| super::damaged(e.to_string()))?;
    for _ in 0..count {
        let started = Instant::now();
        session.append(record.clone()).await?;
        took.saturating_record(started.elapsed().as_nanos() as u64);
    }
    log.close().await?;
    let quantile = |q| Duration::from_nanos(took.value_at_quantile(q));
    Ok(AppendLatency { p50: quantile(0.5), p99: quantile(0.99), max: Duration::from_nanos(took.max()) })
}
