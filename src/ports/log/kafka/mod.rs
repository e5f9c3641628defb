//! The log on Kafka: a topic for each kind of records, partitions as they are.
//!
//! *Owns* the clients of the brokers: a producer per session ([`session`]), consumers for readers ([`reader`], [`lane`],
//! [`stream`]), an administrator ([`topics`]), and the tokens that they show (`tokens`). *Never* joins a consumer group,
//! lets an offset be reset in silence, gives up on a record and goes on, or interprets records. *Start reading at*
//! [`session`] for writing and [`reader`] for reading.
//!
//! **While brokers are away** nothing is lost: what was taken waits in the sessions, readers wait, and all goes on by
//! itself when they are back. A bounded session refuses more with [`LogError::Unavailable`] once a partition has
//! acknowledged nothing for two seconds, and with [`LogError::Full`] at its bound.

mod context;
mod lane;
mod options;
mod places;
mod probe;
mod reach;
mod reader;
mod session;
mod stream;
#[cfg(feature = "msk")]
mod tokens;
mod topics;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use self::places::Places;
use self::probe::Probe;
use self::reader::{Readers, unavailable};
use self::session::{KafkaSession, Shared};
use self::topics::Admin;
use super::{Log, LogError, Record, Session, SessionOptions, Topic, TopicPartition};
use crate::domain::Offset;

pub use self::options::{Batching, KafkaOptions, Security, TlsIdentity};
#[cfg(feature = "msk")]
pub use self::tokens::MskIam;
pub use self::topics::{NewTopics, Outcome, init as init_topics};

/// How long closing waits for brokers to acknowledge what was taken.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// The log of a cluster, as one process uses it.
pub struct KafkaLog {
    kafka: KafkaOptions,
    places: Arc<Places>,
    readers: Arc<Readers>,
    probe: Arc<Probe>,
    admin: Arc<Admin>,
    sessions: Mutex<Vec<Weak<Shared>>>,
    is_closed: Arc<AtomicBool>,
}

impl KafkaLog {
    /// Connects and checks that the topics are as they must be.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when brokers do not answer, [`LogError::Refused`] when they do not let us in,
    /// [`LogError::Topics`] naming all that does not fit.
    pub async fn open(kafka: KafkaOptions) -> Result<Self, LogError> {
        let admin = Admin::open(&kafka).await?;
        let partitions = topics::check(&kafka, &admin).await?;
        let names = Topic::ALL.iter().map(|t| kafka.topic_name(*t)).collect();
        let places = Arc::new(Places::new(names, partitions));
        let is_closed = Arc::new(AtomicBool::new(false));
        let readers = Readers::new(kafka.clone(), Arc::clone(&places), Arc::clone(&is_closed));
        let probe = Arc::new(Probe::new(kafka.clone(), Arc::clone(&is_closed)));
        tracing::info!(brokers = kafka.brokers, partitions, "log is Kafka");
        Ok(Self { kafka, places, readers, probe, admin, sessions: Mutex::default(), is_closed })
    }

    fn is_open(&self) -> Result<(), LogError> {
        if self.is_closed.load(Ordering::Acquire) { Err(LogError::Closed) } else { Ok(()) }
    }

    async fn watermarks(&self, of: TopicPartition) -> Result<(usize, u64, u64), LogError> {
        self.is_open()?;
        let index = self.places.index_of(of)?;
        let readers = Arc::clone(&self.readers);
        let (low, high) = blocking(move || readers.watermarks(index)).await?;
        Ok((index, low, high))
    }

    async fn end(&self, of: TopicPartition) -> Result<Offset, LogError> {
        let (index, low, high) = self.watermarks(of).await?;
        if low == high || self.places.at(index).seen() >= high {
            return Ok(Offset(high));
        }
        let (probe, places) = (Arc::clone(&self.probe), Arc::clone(&self.places));
        let end = blocking(move || {
            let end = probe.end(places.name(of.topic), of.partition, low, high).map_err(unavailable)?;
            if end > low {
                places.at(index).met(end);
            }
            Ok(end)
        });
        Ok(Offset(end.await?))
    }

    async fn close_all(&self) -> Result<(), LogError> {
        self.is_closed.store(true, Ordering::Release);
        let sessions: Vec<Arc<Shared>> = self.sessions.lock().drain(..).filter_map(|s| s.upgrade()).collect();
        let drained = tokio::time::timeout(CLOSE_WITHIN, join_all(sessions.iter().map(|s| s.drained()))).await;
        self.readers.close();
        drained.map(|_| ()).map_err(|_| {
            sessions.iter().for_each(|s| s.end("the log was closed while brokers did not answer"));
            LogError::Unavailable { why: format!("what was taken is not acknowledged after {CLOSE_WITHIN:?}") }
        })
    }
}

/// Runs what waits for brokers where it delays nobody.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(LogError::Closed))
}

impl Log for KafkaLog {
    fn partitions(&self) -> u32 {
        self.places.partitions
    }

    fn open_session(&self, options: SessionOptions) -> Result<Arc<dyn Session>, LogError> {
        self.is_open()?;
        let (places, is_closed) = (Arc::clone(&self.places), Arc::clone(&self.is_closed));
        let (session, shared) = KafkaSession::open(&self.kafka, options, places, is_closed)?;
        let mut sessions = self.sessions.lock();
        sessions.retain(|s| s.strong_count() > 0);
        sessions.push(shared);
        Ok(Arc::new(session))
    }

    fn start_offset(&self, of: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(async move { self.watermarks(of).await.map(|(_, low, _)| Offset(low)) })
    }

    fn end_offset(&self, of: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(self.end(of))
    }

    fn read(
        &self,
        of: TopicPartition,
        from: Offset,
        records_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        Box::pin(self.readers.read(of, from, records_max))
    }

    /// In the compacted topic it removes nothing.
    fn trim(&self, of: TopicPartition, before: Offset) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let (index, low, high) = self.watermarks(of).await?;
            let place = self.places.at(index);
            if place.is_compacted() || before.0 <= low {
                return Ok(());
            }
            let before = before.0.min(high);
            place.starts_at(self.admin.delete_records(self.places.name(of.topic), of.partition, before).await?);
            Ok(())
        })
    }

    /// Any broker will do.
    fn answers(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(self.admin.answers(self.places.name(Topic::Orders)))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(self.close_all())
    }
}

impl Drop for KafkaLog {
    /// What was taken is still made durable by the sessions' threads, for as long as the process lives.
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Release);
        self.readers.close();
    }
}
