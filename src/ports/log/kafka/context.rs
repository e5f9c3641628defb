//! What the client library tells us: its log and its errors.

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// One client's ear.
#[derive(Debug, Clone)]
pub struct Context {
    /// For people.
    pub name: String,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
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
        tracing::warn!(client = self.name, %error, "{reason}");
    }
}

impl ConsumerContext for Context {}
