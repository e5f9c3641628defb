//! `hotbook serve`: the exchange of one process, from start to a clean end.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{demo, parts};
use crate::actors::exchange::{Exchange, ExchangeConfig};
use crate::api::grpc::{self, GrpcServer};
use crate::api::server::{self, Server};
use crate::config::{Config, GRPC_PORT, Role};
use crate::domain::{NodeId, Symbol};
use crate::migration::placement;
use crate::ports::identity::Identity;
use crate::ports::identity::hs256::Hs256;
use crate::ports::routes::Addresses;
use crate::wire::client::schema::random_bytes;
use crate::wire::rpc::RpcKey;

/// How often readiness is looked at while starting.
const READY_POLL: Duration = Duration::from_millis(10);

/// A running exchange with its server.
pub struct Running {
    pub exchange: Arc<Exchange>,
    pub server: Server,
    /// `None`: its usual port is another program's.
    pub grpc: Option<GrpcServer>,
}

impl Running {
    /// Starts everything; must be called inside an actix system.
    ///
    /// # Errors
    /// When a part, a book's owner or the address is not to be had.
    pub async fn start(config: &Config) -> Result<Self> {
        let parts = parts::open(config).await?;
        let secret = cluster_secret(config)?;
        let identity: Arc<dyn Identity> = match &config.jwt_secret {
            Some(secret) => Arc::new(Hs256::configured(secret.as_bytes())),
            None => Arc::new(Hs256::development(&secret)),
        };
        let grpc = bind_grpc(config).await?;
        let no_address = || format!("cannot listen on {}:{}", config.http_host, config.http_port);
        let http = server::bind(config).with_context(no_address)?;
        let mut exchange_config = exchange_config(config, secret);
        if config.is_cluster() {
            let port = http.local_addr()?.as_socket().map_or(config.http_port, |address| address.port());
            exchange_config.cluster = Some(addresses(config, port, grpc.as_ref())?);
        }
        let exchange = Exchange::start_on(exchange_config, parts).await?;
        let router = exchange.gateway().router();
        let server =
            server::start(config, http, Arc::clone(&exchange), router, identity).await.with_context(no_address)?;
        let key = config.cluster_secret.as_ref().map(|secret| RpcKey::from_secret(secret.as_bytes()));
        let grpc = grpc.map(|listener| grpc::start(listener, &exchange, key)).transpose()?;
        Ok(Self { exchange, server, grpc })
    }

    /// Returns once every book trades.
    pub async fn until_ready(&self) {
        while !self.exchange.is_ready() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Gives the books to other processes, if there are any, and says goodbye to clients; then snapshots every book that has
    /// changed and is still here, and closes the log.
    pub async fn stop(self) {
        self.exchange.leave().await;
        self.server.stop().await;
        if let Some(grpc) = self.grpc {
            grpc.stop().await;
        }
        self.exchange.shutdown().await;
    }
}

/// Nobody is kept from trading on one machine because another program has the usual gRPC port; one that was asked for
/// must be had, and so must one that other processes need.
async fn bind_grpc(config: &Config) -> Result<Option<std::net::TcpListener>> {
    match grpc::bind(&config.grpc_host, config.grpc_port).await {
        Ok(listener) => Ok(Some(listener)),
        Err(e)
            if e.kind() == std::io::ErrorKind::AddrInUse && config.grpc_port == GRPC_PORT && !config.is_cluster() =>
        {
            tracing::warn!(port = GRPC_PORT, "another program has the gRPC port: no gRPC here (set GRPC_PORT)");
            Ok(None)
        }
        Err(e) => {
            Err(e).with_context(|| format!("cannot listen for gRPC on {}:{}", config.grpc_host, config.grpc_port))
        }
    }
}

/// Where traders and the other processes of the cluster reach this one.
fn addresses(config: &Config, http_port: u16, grpc: Option<&std::net::TcpListener>) -> Result<Addresses> {
    let bound = grpc.map(std::net::TcpListener::local_addr).transpose()?;
    let peer = config.peer_address.clone().or_else(|| bound.map(|a| format!("{}:{}", config.grpc_host, a.port())));
    // Of an address for anyone, others are told the host by which they reach its gRPC.
    let is_anywhere = config.http_host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    let host = peer.as_deref().and_then(|peer| Some(peer.rsplit_once(':')?.0)).filter(|_| is_anywhere);
    let http =
        (config.role != Role::Engine).then(|| format!("{}:{http_port}", host.unwrap_or(config.http_host.as_str())));
    Ok(Addresses { http, peer })
}

fn exchange_config(config: &Config, cluster_secret: Vec<u8>) -> ExchangeConfig {
    let costs = config.dev_command_cost_us.iter().filter_map(|(s, us)| Some((Symbol::new(s).ok()?, *us)));
    ExchangeConfig {
        data_dir: config.data_dir.clone(),
        nodes: if config.role == Role::Gateway { 0 } else { config.nodes },
        node_id: config.node_id.as_deref().and_then(|id| NodeId::new(id).ok()),
        partitions: config.partitions,
        book_threads_per_node: config.book_threads_per_node,
        snapshot_every_s: config.snapshot_every_s,
        snapshot_every_records: config.snapshot_every_records,
        orders_retention_hours: config.orders_retention_hours,
        events_retention_hours: config.events_retention_hours,
        accept_lost_tail: config.accept_lost_tail,
        standby: config.standby,
        projector: config.writes_json_topics(),
        lag_records_max: config.lag_records_max,
        cluster_secret,
        load_window_ms: config.load_window_ms,
        node_cores: config.node_cores,
        placement_mode: config.placement_mode,
        placement: placement_settings(config),
        dev_move_step_ms: config.dev_move_step_ms,
        dev_command_cost_us: costs.collect::<HashMap<_, _>>(),
        ..ExchangeConfig::default()
    }
}

fn placement_settings(config: &Config) -> placement::Settings {
    placement::Settings {
        move_above: config.placement_move_above,
        leave_below: config.placement_leave_below,
        target_max: config.placement_target_max,
        cooldown_us: config.placement_cooldown_s * 1_000_000,
        moves_max: config.placement_moves_max,
        nodes_min: config.placement_nodes_min,
        ..placement::Settings::default()
    }
}

const SECRET_FILE: &str = "cluster-secret";

/// The configured secret, or the one that an earlier start left in the data folder.
///
/// # Errors
/// When that file is damaged or cannot be read.
pub(super) fn known_secret(config: &Config) -> Result<Option<Vec<u8>>> {
    match &config.cluster_secret {
        Some(secret) => Ok(Some(secret.clone().into_bytes())),
        None => read_secret(&config.data_dir.join(SECRET_FILE)),
    }
}

/// The configured secret, or the one in the data folder, made at the first start and readable by its owner only.
fn cluster_secret(config: &Config) -> Result<Vec<u8>> {
    if let Some(secret) = known_secret(config)? {
        return Ok(secret);
    }
    let path = config.data_dir.join(SECRET_FILE);
    let secret = hex::encode(random_bytes::<32>());
    // Written aside and renamed: a crash in between leaves no half of a secret.
    let aside = config.data_dir.join("cluster-secret.new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .with_context(|| format!("cannot write {}", aside.display()))?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&aside, &path)?;
    std::fs::File::open(&config.data_dir)?.sync_all()?;
    Ok(secret.into_bytes())
}

fn read_secret(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(secret) if secret.len() >= 32 => Ok(Some(secret)),
        Ok(_) => anyhow::bail!("{} is damaged: it is shorter than 32 bytes", path.display()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub fn run(config: &Config) -> Result<()> {
    start_logging(config)?;
    actix_rt::System::new().block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let running = Running::start(config).await?;
        tokio::select! {
            () = running.until_ready() => {}
            node = running.exchange.until_overtaken() => return Err(overtaken(node)),
        }
        let demo = if config.demo { Some(demo::start(&running.exchange).await?) } else { None };
        // Whoever started it may have stopped listening (`hotbook | head`): no reason to stop trading.
        _ = std::io::stdout().write_all(banner(config, &running).as_bytes());
        let why = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            node = running.exchange.until_overtaken() => return Err(overtaken(node)),
        };
        tracing::info!(why, "going down: no new commands, snapshots of every changed book");
        if let Some(demo) = demo {
            demo.stop().await;
        }
        running.stop().await;
        Ok(())
    })
}

/// The process ends as if it had been killed: its books are fenced to others.
fn overtaken(node: NodeId) -> anyhow::Error {
    anyhow::anyhow!("log_overtaken: {node} missed records of orders that are trimmed, and has to be started anew")
}

fn start_logging(config: &Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(format!("actix_server=warn,{}", config.log_level))
        .with_context(|| format!("log_level `{}` is not understood", config.log_level))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let done = if config.log_json { logs.json().try_init() } else { logs.try_init() };
    done.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))
}

/// Where to look.
fn banner(config: &Config, running: &Running) -> String {
    let at = running.server.address;
    let books = running.exchange.directory().len();
    let mut lines = vec![
        format!("hotbook {} is trading at http://{at}", env!("CARGO_PKG_VERSION")),
        format!("  page       http://{at}/"),
        format!("  API        http://{at}/docs"),
        format!("  websocket  ws://{at}/ws"),
        format!("  grpc       {}", running.grpc.as_ref().map_or("off".into(), |g| g.address.to_string())),
        format!("  data       {} ({books} books, nodes: {})", parts::describe(config), config.nodes),
        "  accounts   not checked: the account step admits every order in this version".into(),
    ];
    if config.jwt_secret.is_none() {
        lines.push("  identity   development tokens for anyone on this machine: POST /auth/dev-token".into());
    }
    if config.demo {
        lines.push(format!("  demo       synthetic orders of users {} in {}", demo::USERS_TEXT, demo::SYMBOLS_TEXT));
    }
    lines.push("  stop       Ctrl-C or SIGTERM: every changed book is snapshotted first\n".into());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        let secret = cluster_secret(&config).unwrap();
        assert_eq!(cluster_secret(&config).unwrap(), secret);
        let file = dir.path().join("cluster-secret");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "short").unwrap();
        assert!(cluster_secret(&config).is_err(), "a damaged secret is not replaced in silence");
    }
}
