//! Producer sessions: one idempotent producer each, and one thread that hears of deliveries.
//!
//! Order: within a partition the client library and the brokers keep it (a sequence number per partition); a session
//! gives its records to the library under one lock. End: the first record that fails ends the session as a whole. What
//! was queued is dropped, what was on its way may land, but never behind the failed record of its partition, because the
//! brokers refuse a sequence with a hole.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::Timestamp;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use tokio::sync::{Notify, oneshot};

use super::context::Context;
use super::options::KafkaOptions;
use super::places::Places;
use crate::clock::coarse_ms;
use crate::domain::{Micros, Offset};
use crate::ports::log::{Ack, LogError, NewRecord, RECORD_BYTES_MAX, Receipt, Session, SessionOptions};

/// Key of the one header that our records carry.
pub const HEADER: &str = "origin";
/// What a record costs beside its bytes while it waits: the library's own bookkeeping.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// How long a partition may acknowledge nothing before a bounded session refuses more for it.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// How often the thread of a session looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(100);

/// What one append call brought.
pub struct Pending {
    /// Records not yet delivered.
    left: AtomicUsize,
    bytes: usize,
    /// Place of the last record: its acknowledgement is the receipt's.
    last: usize,
    answer: Mutex<Option<Answer>>,
}

struct Answer {
    sender: oneshot::Sender<Result<Ack, LogError>>,
    ack: Ack,
}

/// Which record was delivered.
pub struct Delivered {
    pending: Arc<Pending>,
    place: usize,
}

/// What the session's handle, its producer and its thread share.
pub struct Shared {
    options: SessionOptions,
    places: Arc<Places>,
    log_is_closed: Arc<AtomicBool>,
    state: Mutex<State>,
    is_ended: AtomicBool,
    is_released: AtomicBool,
    outstanding_bytes: AtomicUsize,
    outstanding_records: AtomicUsize,
    /// By place.
    progress: Vec<Progress>,
    drained: Notify,
}

struct State {
    /// `None` once everything is delivered and the session over.
    producer: Option<Arc<BaseProducer<SessionContext>>>,
    why_ended: Option<String>,
}

/// Whether a partition acknowledges.
#[derive(Default)]
struct Progress {
    outstanding: AtomicU32,
    /// When it last acknowledged or had nothing to acknowledge; [`coarse_ms`].
    at_ms: AtomicU64,
}

struct SessionContext {
    context: Context,
    session: Weak<Shared>,
}

impl ClientContext for SessionContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for SessionContext {
    type DeliveryOpaque = Box<Delivered>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivered: Box<Delivered>) {
        let Some(session) = self.session.upgrade() else { return };
        session.progress[delivered.place].acknowledged(coarse_ms());
        match result {
            Ok(message) => session.landed(&delivered, message),
            Err((error, _)) => {
                session.end(&error.to_string());
                session.resolve(&delivered.pending, Err(session.over()));
            }
        }
        if session.outstanding_records.fetch_sub(1, Ordering::AcqRel) == 1 {
            session.drained.notify_waiters();
        }
    }
}

impl Shared {
    fn landed(&self, delivered: &Delivered, message: &impl Message) {
        let Delivered { pending, place } = delivered;
        let offset = u64::try_from(message.offset()).ok();
        if let Some(offset) = offset {
            self.places.at(*place).met(offset + 1);
        }
        if *place == pending.last
            && let Some(answer) = &mut *pending.answer.lock()
        {
            let at = match message.timestamp() {
                Timestamp::LogAppendTime(ms) => u64::try_from(ms).ok().map(|ms| Micros(ms * 1_000)),
                _ => None,
            };
            answer.ack = Ack { offset: offset.map(Offset), at };
        }
        if pending.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // What landed while the session ended is not claimed: something before it may be lost.
            let result = if self.is_ended.load(Ordering::Acquire) { Err(self.over()) } else { Ok(()) };
            self.resolve(pending, result);
        }
    }

    /// Gives the bytes back and resolves the receipt; the first call counts.
    fn resolve(&self, pending: &Pending, result: Result<(), LogError>) {
        let Some(Answer { sender, ack }) = pending.answer.lock().take() else { return };
        self.outstanding_bytes.fetch_sub(pending.bytes, Ordering::AcqRel);
        // Nobody may be waiting, which is no error.
        _ = sender.send(result.map(|()| ack));
    }

    /// Ends the session: nothing more is taken, what is queued is dropped. The first reason stands.
    pub fn end(&self, why: &str) {
        let producer = {
            let mut state = self.state.lock();
            if state.why_ended.is_some() {
                return;
            }
            state.why_ended = Some(why.to_owned());
            self.is_ended.store(true, Ordering::Release);
            state.producer.clone()
        };
        tracing::debug!(session = self.options.name, why, "session of the log ends");
        if let Some(producer) = producer {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
    }

    fn over(&self) -> LogError {
        let why = self.state.lock().why_ended.clone();
        LogError::SessionEnded { why: why.unwrap_or_else(|| "closed".to_owned()) }
    }

    /// Waits until all that was taken is durable or lost.
    pub async fn drained(&self) {
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            // The lock: an append that began before the log was closed has counted its records by now.
            let left = {
                let _state = self.state.lock();
                self.outstanding_records.load(Ordering::Acquire)
            };
            if left == 0 {
                return;
            }
            drained.await;
        }
    }

    fn is_over(&self) -> bool {
        let is_needed = !self.is_ended.load(Ordering::Acquire)
            && !self.is_released.load(Ordering::Acquire)
            && !self.log_is_closed.load(Ordering::Acquire);
        !is_needed && self.outstanding_records.load(Ordering::Acquire) == 0
    }

    /// Serves the producer's callbacks until the session is over and nothing is outstanding.
    fn run(&self, producer: &BaseProducer<SessionContext>) {
        while !self.is_over() {
            producer.poll(LOOK);
        }
        let mut state = self.state.lock();
        state.why_ended.get_or_insert_with(|| "closed".to_owned());
        self.is_ended.store(true, Ordering::Release);
        state.producer = None;
    }

    fn check(&self, records: &[NewRecord]) -> Result<usize, LogError> {
        let is_bounded = self.options.queue_bytes_max != usize::MAX;
        let mut bytes = 0;
        for record in records {
            let place = self.places.index_of(record.to)?;
            let payload = record.key.len() + record.header.len() + record.value.len();
            if payload > RECORD_BYTES_MAX {
                return Err(LogError::TooLarge { bytes: payload });
            }
            if is_bounded && self.progress[place].is_stalled(coarse_ms()) {
                let to = self.places.name(record.to.topic);
                let why = format!("{to}/{} acknowledges nothing", record.to.partition);
                return Err(LogError::Unavailable { why });
            }
            bytes += payload + RECORD_OVERHEAD_BYTES;
        }
        Ok(bytes)
    }

    /// One append larger than the bound is let in alone: otherwise it could never be.
    fn reserve(&self, bytes: usize) -> Result<(), LogError> {
        let max = self.options.queue_bytes_max;
        let fits = |now: usize| (now == 0 || now.saturating_add(bytes) <= max).then_some(now + bytes);
        match self.outstanding_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => {
                tracing::debug!(session = self.options.name, bytes, "append queue is full");
                Err(LogError::Full)
            }
        }
    }

    fn enqueue(&self, records: &[NewRecord]) -> Receipt {
        let bytes = match self.check(records).and_then(|b| self.reserve(b).map(|()| b)) {
            Ok(bytes) => bytes,
            Err(error) => return Receipt::refused(error),
        };
        let (sender, receipt) = Receipt::pair();
        let none = Ack { offset: None, at: None };
        let pending = Arc::new(Pending {
            left: AtomicUsize::new(records.len()),
            bytes,
            last: records.last().and_then(|r| self.places.index_of(r.to).ok()).unwrap_or_default(),
            answer: Mutex::new(Some(Answer { sender, ack: none })),
        });
        let sent = {
            let state = self.state.lock();
            self.send_all(&state, records, &pending)
        };
        match sent {
            Ok(()) if records.is_empty() => self.resolve(&pending, Ok(())),
            Ok(()) => {}
            Err(Refused::AtOnce(error)) => self.resolve(&pending, Err(error)),
            Err(Refused::Behind(why)) => {
                self.end(&why);
                self.resolve(&pending, Err(self.over()));
            }
        }
        receipt
    }

    fn send_all(&self, state: &State, records: &[NewRecord], pending: &Arc<Pending>) -> Result<(), Refused> {
        if let Some(why) = &state.why_ended {
            return Err(Refused::AtOnce(LogError::SessionEnded { why: why.clone() }));
        }
        if self.log_is_closed.load(Ordering::Acquire) {
            return Err(Refused::AtOnce(LogError::Closed));
        }
        let Some(producer) = &state.producer else { return Err(Refused::AtOnce(LogError::Closed)) };
        for (n, record) in records.iter().enumerate() {
            self.send(producer, record, pending).map_err(|error| match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) if n == 0 => Refused::AtOnce(LogError::Full),
                error => Refused::Behind(error.to_string()),
            })?;
        }
        Ok(())
    }

    fn send(
        &self,
        producer: &BaseProducer<SessionContext>,
        record: &NewRecord,
        pending: &Arc<Pending>,
    ) -> Result<(), KafkaError> {
        let place = self.places.index_of(record.to).unwrap_or_default();
        let delivered = Box::new(Delivered { pending: Arc::clone(pending), place });
        let mut new = BaseRecord::<[u8], [u8], _>::with_opaque_to(self.places.name(record.to.topic), delivered)
            .partition(record.to.partition as i32);
        // Nothing and an empty text are the same to us; where the topic is compacted, nothing is what removes a key.
        new.key = some(&record.key);
        new.payload = some(&record.value);
        if !record.header.is_empty() {
            new = new.headers(
                OwnedHeaders::new_with_capacity(1).insert(Header { key: HEADER, value: some(&record.header) }),
            );
        }
        self.outstanding_records.fetch_add(1, Ordering::AcqRel);
        self.progress[place].sent(coarse_ms());
        producer.send(new).map_err(|(error, _)| {
            self.progress[place].acknowledged(coarse_ms());
            self.outstanding_records.fetch_sub(1, Ordering::AcqRel);
            error
        })
    }
}

fn some(bytes: &Bytes) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(&bytes[..])
}

/// Why records were not handed over.
enum Refused {
    /// None was; nothing is lost.
    AtOnce(LogError),
    /// Some were: the rest is lost, and with it the session.
    Behind(String),
}

impl Progress {
    fn sent(&self, now_ms: u64) {
        // Before it counts: whoever looks in between is not to take the time of nothing to acknowledge for a stall.
        if self.outstanding.load(Ordering::Acquire) == 0 {
            self.at_ms.store(now_ms, Ordering::Release);
        }
        self.outstanding.fetch_add(1, Ordering::AcqRel);
    }

    fn acknowledged(&self, now_ms: u64) {
        self.at_ms.store(now_ms, Ordering::Release);
        self.outstanding.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_stalled(&self, now_ms: u64) -> bool {
        self.outstanding.load(Ordering::Acquire) > 0
            && now_ms.saturating_sub(self.at_ms.load(Ordering::Acquire)) > STALLED_AFTER.as_millis() as u64
    }
}

/// A producer session of the Kafka log.
pub struct KafkaSession {
    shared: Arc<Shared>,
}

impl KafkaSession {
    /// Makes the producer and its thread; needs no broker to be there.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the settings are refused by the client library.
    pub fn open(
        kafka: &KafkaOptions,
        options: SessionOptions,
        places: Arc<Places>,
        log_is_closed: Arc<AtomicBool>,
    ) -> Result<(Self, Weak<Shared>), LogError> {
        let name = options.name.clone();
        let shared = Arc::new(Shared {
            options,
            progress: (0..places.len()).map(|_| Progress::default()).collect(),
            places,
            log_is_closed,
            state: Mutex::new(State { producer: None, why_ended: None }),
            is_ended: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            outstanding_bytes: AtomicUsize::new(0),
            outstanding_records: AtomicUsize::new(0),
            drained: Notify::new(),
        });
        let context = Context::new(&name, kafka);
        let context = SessionContext { context, session: Arc::downgrade(&shared) };
        let unavailable = |why: String| LogError::Unavailable { why };
        let producer: BaseProducer<SessionContext> =
            kafka.producer().create_with_context(context).map_err(|e| unavailable(e.to_string()))?;
        let producer = Arc::new(producer);
        shared.state.lock().producer = Some(Arc::clone(&producer));
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("kafka-session".to_owned())
            .spawn(move || of_thread.run(&producer))
            .map_err(|e| unavailable(e.to_string()))?;
        let weak = Arc::downgrade(&shared);
        Ok((Self { shared }, weak))
    }
}

impl Session for KafkaSession {
    fn append(&self, record: NewRecord) -> Receipt {
        self.shared.enqueue(std::slice::from_ref(&record))
    }

    fn append_all(&self, records: Vec<NewRecord>) -> Receipt {
        self.shared.enqueue(&records)
    }

    fn abort(&self) {
        self.shared.end("aborted");
    }

    fn has_ended(&self) -> bool {
        self.shared.is_ended.load(Ordering::Acquire)
    }
}

impl Drop for KafkaSession {
    /// What was taken is still made durable; then the thread ends.
    fn drop(&mut self) {
        self.shared.is_released.store(true, Ordering::Release);
    }
}
