//! A session that is opened anew once it has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Log, LogError, NewRecord, Receipt, Session, SessionOptions};

/// Sessions are opened at most this often.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// For records that each stand alone, such as those of an administrator: what comes behind one that was lost may land. The
/// receipts say which were lost, as those of any session.
pub struct RenewedSession {
    log: Arc<dyn Log>,
    options: SessionOptions,
    current: Mutex<Current>,
}

struct Current {
    session: Arc<dyn Session>,
    opened: Instant,
}

impl RenewedSession {
    /// # Errors
    /// As [`Log::open_session`].
    pub fn open(log: Arc<dyn Log>, options: SessionOptions) -> Result<Self, LogError> {
        let session = log.open_session(options.clone())?;
        Ok(Self { log, options, current: Mutex::new(Current { session, opened: Instant::now() }) })
    }

    fn current(&self) -> Arc<dyn Session> {
        let mut current = self.current.lock();
        if current.session.has_ended() && current.opened.elapsed() >= REOPEN_EVERY {
            current.opened = Instant::now();
            match self.log.open_session(self.options.clone()) {
                Ok(session) => {
                    tracing::warn!(session = self.options.name, "session of the log had ended and is opened anew");
                    current.session = session;
                }
                Err(e) => tracing::error!(session = self.options.name, error = %e, "log takes no new session"),
            }
        }
        Arc::clone(&current.session)
    }
}

impl Session for RenewedSession {
    fn append(&self, record: NewRecord) -> Receipt {
        self.current().append(record)
    }

    fn append_all(&self, records: Vec<NewRecord>) -> Receipt {
        self.current().append_all(records)
    }

    fn abort(&self) {
        self.current.lock().session.abort();
    }

    /// Never for good.
    fn has_ended(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ports::log::embedded::EmbeddedLog;
    use crate::ports::log::{Topic, TopicPartition};

    #[tokio::test]
    async fn what_comes_after_the_end_of_a_session_is_appended_by_a_new_one() {
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::ephemeral(1).unwrap());
        let options = SessionOptions { name: "t".into(), queue_bytes_max: 1 << 20 };
        let session = RenewedSession::open(Arc::clone(&log), options).unwrap();
        let record = || NewRecord {
            to: TopicPartition { topic: Topic::Orders, partition: 0 },
            key: Bytes::from_static(b"A"),
            header: Bytes::new(),
            value: Bytes::from_static(b"x"),
        };
        session.append(record()).await.unwrap();
        session.abort();
        let error = session.append(record()).await.unwrap_err();
        assert!(matches!(error, LogError::SessionEnded { .. }), "not more often than once a second: {error}");
        session.current.lock().opened -= REOPEN_EVERY;
        session.append(record()).await.unwrap();
        session.append(record()).await.unwrap();
    }
}
