//! A session that is opened anew once it has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::{Log, LogError, NewRecord, Receipt, Session, SessionOptions};

/// Sessions are opened at most this often.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// For records that each stand alone, such as those of an administrator, or of clients who are told what became of each: what
/// comes behind one that was lost may land. The receipts say which were lost, as those of any session.
pub struct RenewedSession {
    log: Arc<dyn Log>,
    options: SessionOptions,
    current: RwLock<Arc<dyn Session>>,
    renewed: Mutex<Option<Instant>>,
}

impl RenewedSession {
    /// # Errors
    /// As [`Log::open_session`].
    pub fn open(log: Arc<dyn Log>, options: SessionOptions) -> Result<Self, LogError> {
        let session = log.open_session(options.clone())?;
        Ok(Self { log, options, current: RwLock::new(session), renewed: Mutex::default() })
    }

    /// The session as it is; one that has ended stays until [`Self::renew`].
    pub fn current(&self) -> Arc<dyn Session> {
        Arc::clone(&self.current.read())
    }

    /// Opens a new session if this one has ended. Whoever finds out may say so; it is done once.
    pub fn renew(&self) {
        let mut renewed = self.renewed.lock();
        if !self.current.read().has_ended() || renewed.is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return;
        }
        *renewed = Some(Instant::now());
        match self.log.open_session(self.options.clone()) {
            Ok(session) => {
                tracing::warn!(session = self.options.name, "session of the log had ended and is opened anew");
                *self.current.write() = session;
            }
            Err(e) => tracing::error!(session = self.options.name, error = %e, "log takes no new session"),
        }
    }

    fn unless_ended(&self) -> Arc<dyn Session> {
        let current = self.current();
        if !current.has_ended() {
            return current;
        }
        self.renew();
        self.current()
    }
}

impl Session for RenewedSession {
    fn append(&self, record: NewRecord) -> Receipt {
        self.unless_ended().append(record)
    }

    fn append_all(&self, records: Vec<NewRecord>) -> Receipt {
        self.unless_ended().append_all(records)
    }

    fn abort(&self) {
        self.current().abort();
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
        let first = session.current();
        session.abort();
        session.append(record()).await.unwrap();
        let second = session.current();
        assert!(first.has_ended() && !second.has_ended());
        session.renew();
        assert!(Arc::ptr_eq(&second, &session.current()), "one that has not ended stays");
        session.abort();
        let error = session.append(record()).await.unwrap_err();
        assert!(matches!(error, LogError::SessionEnded { .. }), "not more often than once a second: {error}");
        *session.renewed.lock() = None;
        session.append(record()).await.unwrap();
    }
}
