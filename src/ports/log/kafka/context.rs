//! What the client library tells us: its log and its errors.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::options::{KafkaOptions, Security};
use crate::ports::log::Objection;

/// In OpenSSL's words for what the other side says before it hangs up.
const TLS_ALERT: &str = "SSL alert number";
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// One client's ear.
#[derive(Debug, Clone)]
pub struct Context {
    /// For people.
    name: String,
    security: Security,
    heard: Heard,
}

/// What stands between us and brokers, as it was last heard.
pub type Heard = Arc<Mutex<Option<(Objection, String)>>>;

impl Context {
    pub fn new(name: &str, kafka: &KafkaOptions) -> Self {
        Self { name: name.to_owned(), security: kafka.security.clone(), heard: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn heard(&self) -> Heard {
        Arc::clone(&self.heard)
    }

    fn hear(&self, error: &KafkaError, reason: &str) {
        let objection = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::SSL) => Objection::Certificate,
            Some(RDKafkaErrorCode::Authentication) => Objection::Identity,
            _ => return,
        };
        self.object(objection, reason);
    }

    fn object(&self, objection: Objection, reason: &str) {
        let mut heard = self.heard.lock();
        // Without a token there is no authentication either, and the library says so in general words.
        if !matches!(*heard, Some((Objection::NoToken, _))) {
            *heard = Some((objection, reason.to_owned()));
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let token = self.security.token();
        if let Err(why) = &token {
            *self.heard.lock() = Some((Objection::NoToken, why.clone()));
        }
        Ok(token?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // To the library a certificate of ours that brokers refuse is a connection that broke; only its log says why.
        if facility == "FAIL" && message.contains(TLS_ALERT) {
            self.object(Objection::Certificate, message);
        }
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
        self.hear(&error, reason);
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
