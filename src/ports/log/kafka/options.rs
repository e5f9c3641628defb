//! How the brokers are reached, and what every client of them is set to.

use std::path::PathBuf;
use std::sync::Arc;

use rdkafka::admin::AdminClient;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::context::Context;
#[cfg(feature = "msk")]
use super::tokens::MskIam;
use crate::ports::log::{LogError, RECORD_BYTES_MAX, Topic};

/// Largest batch that a producer sends and a topic must take: one record of [`RECORD_BYTES_MAX`], and its framing.
pub const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10);
/// Readers never join a group; the client library wants a name all the same.
const GROUP: &str = "hotbook";

/// How the log is opened.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// Stands before the name of every topic, so that two exchanges can share brokers. Usually empty.
    pub topic_prefix: String,
    pub security: Security,
    /// What the brokers call us in their logs.
    pub client_id: String,
    pub batching: Batching,
}

/// How producers make batches of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// `none`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// How long a batch waits for more records, in milliseconds. With 0 it collects while earlier ones are on their way, up to
    /// five for each broker.
    pub linger_ms: u32,
}

impl Default for Batching {
    /// Measured: docs/speed.md.
    fn default() -> Self {
        Self { compression: "lz4".to_owned(), linger_ms: 0 }
    }
}

/// How a connection is protected, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Security {
    #[default]
    Plaintext,
    /// The brokers show a certificate that the file's authorities signed; without a file, the system's.
    Tls { ca_file: Option<PathBuf>, identity: Option<TlsIdentity> },
    /// TLS, and a token that the credentials of the AWS SDK sign.
    #[cfg(feature = "msk")]
    MskIam { ca_file: Option<PathBuf>, iam: MskIam },
}

/// The certificate that we show, where brokers ask for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

impl KafkaOptions {
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic_prefix: String::new(),
            security: Security::Plaintext,
            client_id: "hotbook".to_owned(),
            batching: Batching::default(),
        }
    }

    pub fn topic_name(&self, topic: Topic) -> String {
        format!("{}{}", self.topic_prefix, topic.name())
    }

    /// What every client has in common.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            // A broker that comes back is met within a second.
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set_log_level(RDKafkaLogLevel::Warning);
        self.security.apply(&mut config);
        config
    }

    /// A producer's settings: nothing is lost, doubled or reordered, and a gap ends the session (handover rule 11).
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            // Never given up: only the end of the session loses a record.
            .set("message.timeout.ms", "0")
            .set("linger.ms", self.batching.linger_ms.to_string())
            .set("compression.type", &self.batching.compression)
            .set("batch.size", BATCH_BYTES_MAX.to_string())
            .set("message.max.bytes", BATCH_BYTES_MAX.to_string())
            // The session counts bytes itself.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", i32::MAX.to_string());
        config
    }

    /// A reader's settings: assigned by hand, nothing committed, offsets never reset in silence.
    ///
    /// `isolation.level` is `read_uncommitted` on purpose: otherwise an open transaction of another producer would hold
    /// up every order behind it. Every replica sees the same records either way.
    pub(super) fn reader(&self, fetch_wait_ms: u32) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", format!("{}{GROUP}", self.topic_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_uncommitted")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", fetch_wait_ms.to_string())
            .set("fetch.error.backoff.ms", "50")
            // Fetched ahead per partition that is being read: bounds the memory of many readers.
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.queue.backoff.ms", "2");
        config
    }
}

impl Security {
    /// # Errors
    /// Why there is no token.
    pub(super) fn token(&self) -> Result<OAuthToken, String> {
        match self {
            #[cfg(feature = "msk")]
            Self::MskIam { iam, .. } => iam.token(),
            _ => Err("brokers are not asked for by token".to_owned()),
        }
    }

    /// Gives an administrator tokens: nobody polls one, so the library cannot ask for them.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when there is no thread for it.
    pub(super) fn keep_authorized(&self, client: &Arc<AdminClient<Context>>) -> Result<(), LogError> {
        match self {
            #[cfg(feature = "msk")]
            Self::MskIam { iam, .. } => iam.keep_authorized(client),
            _ => {
                _ = client;
                Ok(())
            }
        }
    }

    fn apply(&self, config: &mut ClientConfig) {
        let (ca_file, identity) = match self {
            Self::Plaintext => return,
            Self::Tls { ca_file, identity } => {
                config.set("security.protocol", "ssl");
                (ca_file, identity)
            }
            #[cfg(feature = "msk")]
            Self::MskIam { ca_file, .. } => {
                config.set("security.protocol", "sasl_ssl").set("sasl.mechanism", "OAUTHBEARER");
                (ca_file, &None)
            }
        };
        if let Some(file) = ca_file {
            config.set("ssl.ca.location", file.to_string_lossy());
        }
        if let Some(TlsIdentity { certificate_file, key_file }) = identity {
            config.set("ssl.certificate.location", certificate_file.to_string_lossy());
            config.set("ssl.key.location", key_file.to_string_lossy());
        }
    }
}
