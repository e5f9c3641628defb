//! Producer sessions and the queue between them and the writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::frame::{frame_bytes, payload_bytes};
use super::shared::Shared;
use crate::ports::log::{Ack, LogError, NewRecord, RECORD_BYTES_MAX, Receipt, Session, SessionOptions};

/// What one append call brought.
pub struct Item {
    pub records: Records,
    pub bytes: usize,
    pub session: Arc<SessionState>,
    pub answer: oneshot::Sender<Result<Ack, LogError>>,
}

impl Item {
    /// Gives the bytes back to the session and resolves the receipt.
    pub fn resolve(self, result: Result<Ack, LogError>) {
        self.session.outstanding_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        // Nobody may be waiting, which is no error.
        let _ = self.answer.send(result);
    }
}

/// One record without an allocation of its own, or many.
pub enum Records {
    One(NewRecord),
    Many(Vec<NewRecord>),
}

impl Records {
    pub fn as_slice(&self) -> &[NewRecord] {
        match self {
            Self::One(record) => std::slice::from_ref(record),
            Self::Many(records) => records,
        }
    }
}

/// Bounded by the sum of the sessions' `queue_bytes_max`.
#[derive(Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Default)]
struct QueueState {
    items: VecDeque<Item>,
    is_writer_waiting: bool,
    is_closing: bool,
    failure: Option<LogError>,
}

impl Queue {
    /// Waits for work and takes all of it; `None` once closed and empty.
    pub fn take(&self) -> Option<VecDeque<Item>> {
        let mut state = self.state.lock();
        while state.items.is_empty() {
            if state.is_closing {
                return None;
            }
            state.is_writer_waiting = true;
            self.filled.wait(&mut state);
            state.is_writer_waiting = false;
        }
        Some(std::mem::take(&mut state.items))
    }

    /// Takes no more appends; what was taken is still written.
    pub fn close(&self) {
        self.state.lock().is_closing = true;
        self.filled.notify_one();
    }

    /// Ends all sessions.
    pub fn fail(&self, error: &LogError) {
        let items = {
            let mut state = self.state.lock();
            state.is_closing = true;
            state.failure = Some(error.clone());
            std::mem::take(&mut state.items)
        };
        for item in items {
            item.resolve(Err(error.clone()));
        }
    }

    /// Why no session can be opened, if so.
    pub fn refusal(&self) -> Option<LogError> {
        let state = self.state.lock();
        state.failure.clone().or_else(|| state.is_closing.then_some(LogError::Closed))
    }

    fn push(&self, item: Item) {
        let mut state = self.state.lock();
        let refusal = if let Some(error) = &state.failure {
            Some(LogError::SessionEnded { why: error.to_string() })
        } else if state.is_closing {
            Some(LogError::Closed)
        } else if *item.session.is_aborted.lock() {
            Some(aborted())
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(state);
            return item.resolve(Err(error));
        }
        state.items.push_back(item);
        if state.is_writer_waiting {
            self.filled.notify_one();
        }
    }

    fn abort(&self, session: &Arc<SessionState>) {
        let mut lost = Vec::new();
        {
            let mut state = self.state.lock();
            *session.is_aborted.lock() = true;
            let items = std::mem::take(&mut state.items);
            for item in items {
                if Arc::ptr_eq(&item.session, session) {
                    lost.push(item);
                } else {
                    state.items.push_back(item);
                }
            }
        }
        for item in lost {
            item.resolve(Err(aborted()));
        }
    }
}

fn aborted() -> LogError {
    LogError::SessionEnded { why: "aborted".to_owned() }
}

/// What queue and session share.
pub struct SessionState {
    options: SessionOptions,
    outstanding_bytes: AtomicUsize,
    /// Changed only under the queue's lock.
    is_aborted: Mutex<bool>,
}

/// A producer session of the embedded log.
pub struct EmbeddedSession {
    state: Arc<SessionState>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

impl EmbeddedSession {
    pub fn new(options: SessionOptions, queue: Arc<Queue>, shared: Arc<Shared>) -> Self {
        let state = SessionState { options, outstanding_bytes: AtomicUsize::new(0), is_aborted: Mutex::new(false) };
        Self { state: Arc::new(state), queue, shared }
    }

    fn check(&self, records: &[NewRecord]) -> Result<usize, LogError> {
        let mut bytes = 0;
        for record in records {
            self.shared.index_of(record.to)?;
            let payload = payload_bytes(record);
            if payload > RECORD_BYTES_MAX {
                return Err(LogError::TooLarge { bytes: payload });
            }
            bytes += frame_bytes(record);
        }
        Ok(bytes)
    }

    /// One append larger than the bound is let in alone: otherwise it could never be.
    fn reserve(&self, bytes: usize) -> Result<(), LogError> {
        let max = self.state.options.queue_bytes_max;
        let outstanding = &self.state.outstanding_bytes;
        let fits = |now: usize| (now == 0 || now + bytes <= max).then_some(now + bytes);
        match outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => {
                tracing::debug!(session = self.state.options.name, bytes, "append queue is full");
                Err(LogError::Full)
            }
        }
    }

    fn enqueue(&self, records: Records) -> Receipt {
        let bytes = match self.check(records.as_slice()).and_then(|b| self.reserve(b).map(|()| b)) {
            Ok(bytes) => bytes,
            Err(error) => return Receipt::refused(error),
        };
        let (answer, receipt) = Receipt::pair();
        self.queue.push(Item { records, bytes, session: Arc::clone(&self.state), answer });
        receipt
    }
}

impl Session for EmbeddedSession {
    fn append(&self, record: NewRecord) -> Receipt {
        self.enqueue(Records::One(record))
    }

    fn append_all(&self, records: Vec<NewRecord>) -> Receipt {
        self.enqueue(Records::Many(records))
    }

    fn abort(&self) {
        self.queue.abort(&self.state);
    }

    fn has_ended(&self) -> bool {
        *self.state.is_aborted.lock() || self.queue.refusal().is_some()
    }
}
