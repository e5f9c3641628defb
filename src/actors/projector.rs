//! The projector: writes the derived topics, `fills`, `trades`, `depth` and `order_status`, from `events`.
//!
//! One process writes those of a partition at a time, whoever holds the lease `projector:P`. It keeps nothing: where to go
//! on is read from the derived partitions themselves. Should two write for a moment, their records repeat, and readers
//! drop repeats by `seq`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::mirror::Mirrors;
use crate::domain::{Offset, Output, OutputBody, Seq, Symbol};
use crate::ports::log::{Log, LogError, NewRecord, Session, SessionOptions, Topic, TopicPartition};
use crate::ports::routes::{Holder, Lease, Routes, RoutesError};
use crate::wire::derived::{self, Source};
use crate::wire::events;

/// How long a lease lasts; it is prolonged three times in that time.
const LEASE: Duration = Duration::from_secs(10);
/// How long a partition is left alone that another process has, or that cannot be read or written.
const RETRY: Duration = Duration::from_secs(3);
/// Records of `events` projected at once: 32 x at most 512 KiB, and at most about twice that as JSON.
const EVENTS_RECORDS_MAX: usize = 32;
/// Derived records looked at at once while finding where to go on.
const DERIVED_RECORDS_MAX: usize = 4_096;
/// A partition's derived records are written at most so often, together: with every order that trades there are records
/// for four topics, and each topic's partition costs the brokers a request of its own.
const TOGETHER: Duration = Duration::from_millis(20);
/// How soon the mirror of a symbol whose instrument is not known yet is looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// What the projector works on.
pub struct ProjectorParts {
    pub log: Arc<dyn Log>,
    pub routes: Arc<dyn Routes>,
    pub mirrors: Arc<Mirrors>,
    pub holder: Holder,
}

/// Why a partition is given up for now.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("lease: {0}")]
    Lease(#[from] RoutesError),
}

/// How far the derived topics of one partition got.
#[derive(Debug, Default)]
struct Progress {
    /// Highest seq of each symbol in each class, in the order of `Classes::EACH`.
    highest: HashMap<Symbol, [Seq; 4]>,
    /// The record of `events` to go on with: no class lacks anything before it.
    next: Offset,
}

impl Progress {
    /// Reads the derived partitions to their end.
    async fn read(log: &dyn Log, partition: u32) -> Result<Self, LogError> {
        let mut progress = Self::default();
        let mut reached: Vec<Option<Offset>> = Vec::new();
        for (class, topic) in Topic::DERIVED.into_iter().enumerate() {
            let of = TopicPartition { topic, partition };
            let (mut at, end) = (log.start_offset(of).await?, log.end_offset(of).await?);
            let mut furthest = None;
            while at < end {
                for record in log.read(of, at, DERIVED_RECORDS_MAX).await? {
                    at = record.offset.next();
                    furthest = furthest.max(progress.met(class, &record.key, &record.header));
                }
            }
            reached.push(furthest);
        }
        let start = log.start_offset(TopicPartition { topic: Topic::Events, partition }).await?;
        progress.next = reached.into_iter().min().flatten().unwrap_or(start).max(start);
        Ok(progress)
    }

    /// Takes a derived record into account; gives the `events` record that it came from.
    fn met(&mut self, class: usize, key: &[u8], header: &[u8]) -> Option<Offset> {
        let (symbol, source) = (Symbol::from_bytes(key).ok()?, Source::from_bytes(header)?);
        let highest = &mut self.highest.entry(symbol).or_default()[class];
        *highest = (*highest).max(source.seq);
        Some(source.events)
    }

    /// What an output gives that is not there yet.
    fn derive(
        &mut self,
        partition: u32,
        symbol: Symbol,
        price_scale: u8,
        output: &Output,
        events: Offset,
        into: &mut Vec<NewRecord>,
    ) {
        let highest = self.highest.entry(symbol).or_default();
        for (class, topic) in Topic::DERIVED.into_iter().enumerate() {
            if output.seq <= highest[class] {
                continue;
            }
            let Some(value) = derived::encode(&symbol, price_scale, output, class) else { continue };
            highest[class] = output.seq;
            into.push(NewRecord {
                to: TopicPartition { topic, partition },
                key: Bytes::copy_from_slice(symbol.as_bytes()),
                header: Bytes::copy_from_slice(&Source { seq: output.seq, events }.to_bytes()),
                value,
            });
        }
    }
}

/// Writes for all partitions of the process over one session of the log.
struct Projector {
    parts: ProjectorParts,
    session: Mutex<Option<Arc<dyn Session>>>,
    /// When the log last said that it is there.
    answered: tokio::sync::Mutex<Option<Instant>>,
}

/// Projects every partition whose lease can be had, until the log is closed. Must be called inside an actix system.
pub fn start(parts: ProjectorParts) {
    let projector = Arc::new(Projector::new(parts));
    for partition in 0..projector.parts.log.partitions() {
        let projector = Arc::clone(&projector);
        actix::spawn(async move {
            loop {
                match projector.partition(partition).await {
                    Err(Stopped::Log(LogError::Closed)) => return,
                    Err(e) => tracing::warn!(partition, error = %e, "derived topics wait"),
                    Ok(()) => {}
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }
}

impl Projector {
    fn new(parts: ProjectorParts) -> Self {
        Self { parts, session: Mutex::default(), answered: tokio::sync::Mutex::default() }
    }

    /// The session, opened when first needed and again after it ended.
    fn session(&self) -> Result<Arc<dyn Session>, LogError> {
        let mut session = self.session.lock();
        if let Some(session) = &*session {
            return Ok(Arc::clone(session));
        }
        // Bounded by itself: of each partition one batch is under way at a time.
        let options = SessionOptions { name: "projector".to_owned(), queue_bytes_max: usize::MAX };
        Ok(Arc::clone(session.insert(self.parts.log.open_session(options)?)))
    }

    /// Asks whether the log is there, for all partitions together.
    async fn log_answers(&self) -> Result<(), LogError> {
        let mut answered = self.answered.lock().await;
        if answered.is_none_or(|at| at.elapsed() >= LEASE / 3) {
            self.parts.log.answers().await?;
            *answered = Some(Instant::now());
        }
        Ok(())
    }

    /// Appends; a session that ended meanwhile is given up for all partitions.
    async fn append(&self, records: Vec<NewRecord>) -> Result<(), LogError> {
        let session = self.session()?;
        let appended = session.append_all(records).await;
        if appended.is_err() {
            self.session.lock().take_if(|now| Arc::ptr_eq(now, &session));
        }
        appended.map(|_| ())
    }

    /// Projects one partition for as long as its lease is held; returns at once if another process has it.
    async fn partition(&self, partition: u32) -> Result<(), Stopped> {
        let name = format!("projector:{partition}");
        let asked = Instant::now();
        let lease = self.parts.routes.acquire(&name, self.parts.holder, LEASE).await?;
        if lease.holder != self.parts.holder {
            return Ok(());
        }
        let mut held = Held { routes: &*self.parts.routes, name, lease, since: asked };
        let result = self.project(partition, &mut held).await;
        _ = self.parts.routes.release(&held.name, held.lease).await;
        result
    }

    async fn project(&self, partition: u32, held: &mut Held<'_>) -> Result<(), Stopped> {
        let log = &*self.parts.log;
        let mut progress = Progress::read(log, partition).await?;
        let of = TopicPartition { topic: Topic::Events, partition };
        tracing::debug!(partition, next = %progress.next, "derived topics go on");
        loop {
            held.keep().await?;
            let read = log.read(of, progress.next, EVENTS_RECORDS_MAX);
            // Dropping a read is safe; the lease must be kept while nothing comes.
            let Ok(records) = tokio::time::timeout(LEASE / 3, read).await else {
                // Whoever reaches the log is to have the partition.
                self.log_answers().await?;
                continue;
            };
            let (records, mut new, began) = (records?, Vec::new(), Instant::now());
            for record in &records {
                progress.next = record.offset.next();
                self.derive(partition, record.offset, &record.value, &mut progress, &mut new).await;
            }
            if !new.is_empty() {
                held.keep().await?;
                let count = new.len() as u64;
                self.append(new).await?;
                metrics::counter!("hotbook_derived_records_total").increment(count);
            }
            if records.len() < EVENTS_RECORDS_MAX {
                tokio::time::sleep(TOGETHER.saturating_sub(began.elapsed())).await;
            }
        }
    }

    async fn derive(
        &self,
        partition: u32,
        offset: Offset,
        value: &Bytes,
        progress: &mut Progress,
        new: &mut Vec<NewRecord>,
    ) {
        let Ok(record) = events::decode(value) else {
            // The egress has counted it and said so.
            return;
        };
        let mut price_scale = None;
        for output in Output::decode_all(&record.outputs).map_while(Result::ok) {
            if let OutputBody::Listed { instrument, .. } = &output.body {
                price_scale = Some(instrument.price_scale);
            }
            let scale = match price_scale {
                Some(scale) => scale,
                None => *price_scale.insert(self.price_scale(&record.symbol).await),
            };
            progress.derive(partition, record.symbol, scale, &output, offset, new);
        }
    }

    /// Of a symbol's instrument; the mirrors follow `events` too and will know it soon.
    async fn price_scale(&self, symbol: &Symbol) -> u8 {
        loop {
            if let Some(instrument) = self.parts.mirrors.instrument(symbol) {
                return instrument.price_scale;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A lease that is held, and since when.
struct Held<'a> {
    routes: &'a dyn Routes,
    name: String,
    lease: Lease,
    since: Instant,
}

impl Held<'_> {
    /// Prolongs the lease when a third of it is over.
    async fn keep(&mut self) -> Result<(), RoutesError> {
        if self.since.elapsed() >= LEASE / 3 {
            let asked = Instant::now();
            self.lease = self.routes.renew(&self.name, self.lease, LEASE).await?;
            self.since = asked;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NodeId;
    use crate::ports::log::embedded::EmbeddedLog;

    fn header(seq: u64, events: u64) -> Bytes {
        Bytes::copy_from_slice(&Source { seq: Seq(seq), events: Offset(events) }.to_bytes())
    }

    #[actix_rt::test]
    async fn it_goes_on_where_the_class_that_got_least_far_ends() {
        let log = EmbeddedLog::ephemeral(1).unwrap();
        let session = log.open_session(SessionOptions { name: "t".into(), queue_bytes_max: usize::MAX }).unwrap();
        let put = |topic, seq, events| NewRecord {
            to: TopicPartition { topic, partition: 0 },
            key: Bytes::from_static(b"TSLA"),
            header: header(seq, events),
            value: Bytes::from_static(b"{}"),
        };
        let all = [(Topic::Fills, 3, 2), (Topic::Trades, 3, 2), (Topic::Depth, 9, 6), (Topic::OrderStatus, 8, 5)];
        let events = (0..9).map(|n| put(Topic::Events, n, n));
        let records = events.chain(all.map(|(topic, seq, events)| put(topic, seq, events))).collect();
        session.append_all(records).await.unwrap();
        let progress = Progress::read(&log, 0).await.unwrap();
        assert_eq!(progress.next, Offset(2));
        assert_eq!(progress.highest[&Symbol::new("TSLA").unwrap()], [Seq(3), Seq(3), Seq(9), Seq(8)]);
        log.close().await.unwrap();
    }

    #[actix_rt::test]
    async fn a_partition_that_another_process_has_is_left_alone() {
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::ephemeral(1).unwrap());
        let routes: Arc<dyn Routes> = Arc::new(crate::ports::routes::local::LocalRoutes::default());
        let holder = |incarnation| Holder { node: NodeId::new("n1").unwrap(), incarnation };
        routes.acquire("projector:0", holder(1), LEASE).await.unwrap();
        let mirrors = Arc::default();
        let parts = ProjectorParts { log: Arc::clone(&log), routes, mirrors, holder: holder(2) };
        let projector = Projector::new(parts);
        assert!(projector.partition(0).await.is_ok(), "it returns, having written nothing");
        assert!(projector.session.lock().is_none());
        log.close().await.unwrap();
    }
}
