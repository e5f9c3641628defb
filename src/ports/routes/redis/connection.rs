//! One connection that many callers share, made anew after any error.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSub};
use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::{
    Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult,
    ScriptInvocation, TlsCertificates, Value,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::RoutesError;

/// Where Redis is and how it is spoken to.
#[derive(Clone)]
pub struct RedisOptions {
    pub host: String,
    pub port: u16,
    /// Of Redis's access control lists; none is the default user.
    pub username: Option<String>,
    pub password: Option<String>,
    /// Speaks TLS (`rediss`) and checks the server's certificate.
    pub tls: Option<RedisTls>,
    /// For a connection to be made, and for an answer. A call fails after twice this at the latest.
    pub timeout: Duration,
}

/// How a certificate begins in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// How the server's certificate is checked.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Who signs it, in PEM; none: whoever the machine trusts.
    pub ca_pem: Option<Vec<u8>>,
}

impl RedisOptions {
    /// Plain, without a password; an answer takes a second at most.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, username: None, password: None, tls: None, timeout: Duration::from_secs(1) }
    }

    fn client(&self) -> RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default().set_lib_name("hotbook", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        // A host that is gone without a word is noticed: by what it does not acknowledge, and by probes when idle.
        let probes = TcpKeepalive::new().with_time(self.timeout * 5).with_interval(self.timeout).with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(self.timeout * 5).set_keepalive(probes);
        let (host, port) = (self.host.clone(), self.port);
        let address = match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp);
        match &self.tls {
            None => Client::open(info),
            Some(tls) => {
                // The crate takes a file without a certificate for a list of none, and refuses every server later.
                if tls.ca_pem.as_ref().is_some_and(|pem| !pem.windows(CERTIFICATE.len()).any(|w| w == CERTIFICATE)) {
                    return Err((redis::ErrorKind::InvalidClientConfig, "CA file has no PEM certificate").into());
                }
                // The crate takes the process's provider and has none of its own. An earlier one serves as well.
                _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
                let certificates = TlsCertificates { client_tls: None, root_cert: tls.ca_pem.clone() };
                Client::build_with_tls(info, certificates)
            }
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, username, password, tls, timeout } = self;
        f.debug_struct("RedisOptions")
            .field("host", host)
            .field("port", port)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "********"))
            .field("tls", &tls.is_some())
            .field("timeout", timeout)
            .finish()
    }
}

/// One question to Redis.
#[derive(Debug)]
pub(super) enum Asked {
    Command(Cmd),
    Script(ScriptInvocation<'static>),
}

/// Whether a question may be asked again when the connection broke and it is not known whether it was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Allowed,
    Never,
}

/// A shared way to Redis.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    timeout: Duration,
    /// Callers come from threads with runtimes of their own that end before this one; the connection must not.
    runtime: Handle,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// Tells an error of this connection from one of an earlier.
    number: u64,
    manager: ConnectionManager,
}

pub(super) fn unavailable(why: impl fmt::Display) -> RoutesError {
    RoutesError::Unavailable { why: why.to_string() }
}

/// A connection that is made when it is first used. The library's own reconnecting is not relied on: it keeps a refused
/// password for ever, and a server that hangs would gather questions without end.
fn lazy(client: &Client, timeout: Duration) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(Some(timeout))
        .set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl Connection {
    pub fn open(options: &RedisOptions) -> Result<Self, RoutesError> {
        let client = options.client().map_err(unavailable)?;
        let manager = lazy(&client, options.timeout).map_err(unavailable)?;
        Ok(Self(Arc::new(Shared {
            client,
            timeout: options.timeout,
            runtime: Handle::current(),
            current: Mutex::new(Current { number: 0, manager }),
        })))
    }

    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Asks and waits for the answer, within twice the timeout.
    pub async fn ask<T: FromRedisValue>(&self, asked: Asked, repeat: Repeat) -> Result<T, RoutesError> {
        let shared = Arc::clone(&self.0);
        let task = self.0.runtime.spawn(async move {
            let bound = shared.timeout * 2;
            timeout(bound, shared.ask(&asked, repeat)).await.unwrap_or_else(|_| {
                let why = format!("no answer within {bound:?}");
                Err(RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, why)))
            })
        });
        let value = task.await.map_err(unavailable)?.map_err(unavailable)?;
        ::redis::from_redis_value(value).map_err(unavailable)
    }

    /// A connection of its own that hears `channel`.
    pub async fn subscribe(&self, channel: &str) -> RedisResult<PubSub> {
        let connect = async {
            let mut pubsub = self.0.client.get_async_pubsub().await?;
            pubsub.subscribe(channel).await?;
            Ok(pubsub)
        };
        timeout(self.0.timeout, connect)
            .await
            .unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
    }
}

impl Shared {
    async fn ask(&self, asked: &Asked, repeat: Repeat) -> RedisResult<Value> {
        match self.ask_once(asked).await {
            // A connection that broke while nobody looked is the usual case; a new one may well do.
            Err(e) if repeat == Repeat::Allowed && e.is_io_error() && !e.is_timeout() => self.ask_once(asked).await,
            answer => answer,
        }
    }

    async fn ask_once(&self, asked: &Asked) -> RedisResult<Value> {
        let (number, mut manager) = {
            let current = self.current.lock();
            (current.number, current.manager.clone())
        };
        let answer = match asked {
            Asked::Command(command) => command.query_async(&mut manager).await,
            Asked::Script(script) => script.invoke_async(&mut manager).await,
        };
        if answer.is_err() {
            self.replace(number);
        }
        answer
    }

    /// Lets go of a connection that gave an error, whatever it was: a replica that was the primary, a password that was
    /// changed, a hang. The next question makes another.
    fn replace(&self, number: u64) {
        let mut current = self.current.lock();
        if current.number == number
            && let Ok(manager) = lazy(&self.client, self.timeout)
        {
            *current = Current { number: number + 1, manager };
        }
    }
}
