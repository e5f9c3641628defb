//! What the client library tells us: its log and its errors.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// One client's ear.
#[derive(Debug, Clone)]
pub struct Context {
    /// For people.
    pub name: String,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // What is said of settings was weighed when they were chosen (ADR 0006), and each client would say it again.
            _ if facility == "CONFWARN" => tracing::debug!(client = self.name, facility, "{message}"),
            _ if facility == "FAIL" && !is_due() => tracing::debug!(client = self.name, facility, "{message}"),
            // Connections come and go: that is the brokers' business until it lasts, and then sessions and readers say so.
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(client = self.name, facility, "{message}"),
            _ => tracing::debug!(client = self.name, facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let is_away = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve
            )
        );
        if is_away && !is_due() {
            tracing::debug!(client = self.name, %error, "{reason}");
        } else {
            tracing::warn!(client = self.name, %error, "{reason}");
        }
    }
}

impl ConsumerContext for Context {}

/// Brokers that are away are complained of by every client again and again; once in a while is enough for all of them.
fn is_due() -> bool {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    let mut said = SAID.lock();
    let is_due = said.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
    if is_due {
        *said = Some(Instant::now());
    }
    is_due
}
