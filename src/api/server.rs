//! The HTTP server: all addresses, the request's id, errors in one form.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Actor, Addr, Arbiter};
use actix_web::body::MessageBody;
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpResponse, HttpServer, web};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::edge::{Edge, Shared};
use super::error::{Code, EdgeError};
use super::{account, admin, market, migrations, pages, rest, schema, ws};
use crate::actors::exchange::Exchange;
use crate::actors::registry::{Drain, Registry, RegistryLimits, StopRegistry};
use crate::actors::router::RouterCore;
use crate::config::{Config, Role};
use crate::ports::identity::Identity;

/// How long connections have to close when the server goes down.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// Connections that wait to be accepted; one more is tried again by its client.
const BACKLOG: i32 = 1_024;
/// Requests under way have so long to end, in seconds.
const STOP_WITHIN_S: u64 = 5;
const REQUEST_ID_BYTES_MAX: usize = 64;
/// How often measured values are summed up: between two readings of /metrics they would pile up one by one.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// What traders come for.
fn trading(app: &mut web::ServiceConfig) {
    app.configure(rest::routes)
        .configure(account::routes)
        .configure(market::routes)
        .configure(ws::routes)
        .configure(pages::trading);
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub edge: Shared,
    handle: ServerHandle,
    registry: Addr<Registry>,
    registry_thread: Arbiter,
}

/// Takes the address. Nobody is let in before [`start`].
///
/// # Errors
/// When it cannot be had.
pub fn bind(config: &Config) -> std::io::Result<Socket> {
    let mut error = std::io::Error::other("the name has no address");
    for address in (config.http_host.as_str(), config.http_port).to_socket_addrs()? {
        match bind_to(address) {
            Ok(socket) => return Ok(socket),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn bind_to(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As for any server: the connections of the last one do not keep the next from its port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Starts serving at an address from [`bind`]; must be called inside an actix system.
///
/// # Errors
/// When it cannot be listened at.
pub async fn start(
    config: &Config,
    socket: Socket,
    exchange: Arc<Exchange>,
    router: Arc<RouterCore>,
    identity: Arc<dyn Identity>,
) -> std::io::Result<Server> {
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    let limits = RegistryLimits {
        heartbeat: Duration::from_secs(config.heartbeat_s),
        idle: Duration::from_secs(config.idle_timeout_s),
        slow: Duration::from_secs(config.slow_consumer_s),
    };
    let registry_thread = Arbiter::new();
    let registry = {
        let (gateway, router) = (Arc::clone(exchange.gateway()), Arc::clone(&router));
        Registry::start_in_arbiter(&registry_thread.handle(), move |_| Registry::new(gateway, router, limits))
    };
    let edge = web::Data::new(Edge {
        gateway: Arc::clone(exchange.gateway()),
        exchange,
        router,
        identity,
        registry: registry.clone(),
        answer_timeout: Duration::from_millis(config.answer_timeout_ms),
        metrics: recorder(),
        draining: AtomicBool::new(false),
    });
    actix::spawn(keep_metrics(Arc::downgrade(&edge.clone().into_inner())));
    let data = edge.clone();
    let trades = config.role != Role::Engine;
    let app = move || {
        App::new()
            .app_data(data.clone())
            .app_data(web::PayloadConfig::new(schema::BODY_BYTES_MAX))
            .wrap(from_fn(in_one_form))
            .configure(|app| {
                if trades {
                    trading(app)
                }
            })
            .configure(rest::operation)
            .configure(admin::routes)
            .configure(migrations::routes)
            .configure(pages::routes)
            .default_service(web::to(nothing_here))
    };
    let workers = match config.http_workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let server = HttpServer::new(app)
        .workers(workers)
        .on_connect(ws::on_connect)
        .disable_signals()
        .shutdown_timeout(STOP_WITHIN_S)
        .listen(listener)?
        .run();
    let handle = server.handle();
    actix::spawn(server);
    Ok(Server { address, edge, handle, registry, registry_thread })
}

impl Server {
    /// Refuses new commands, says DRAINING on every WebSocket and closes it with 1012, and stops listening.
    pub async fn stop(&self) {
        self.edge.draining.store(true, Ordering::Release);
        let until = Instant::now() + DRAIN_WITHIN;
        while Instant::now() < until && self.registry.send(Drain).await.unwrap_or(0) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.handle.stop(true).await;
        // It may be gone already.
        _ = self.registry.send(StopRegistry).await;
        self.registry_thread.stop();
    }
}

/// Sums measured values up for as long as the server is there.
async fn keep_metrics(edge: Weak<Edge>) {
    while let Some(edge) = edge.upgrade() {
        edge.metrics.run_upkeep();
        drop(edge);
        tokio::time::sleep(METRICS_UPKEEP).await;
    }
}

async fn nothing_here() -> Result<HttpResponse, EdgeError> {
    Err(EdgeError::new(Code::NotFound))
}

/// Gives every answer its request's id, and every error the documented form.
async fn in_one_form(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody + 'static>, actix_web::Error> {
    let id = request_id(&request);
    let response = next.call(request).await?;
    let error = match response.response().error() {
        Some(e) => match e.as_error::<EdgeError>() {
            Some(ours) => Some(ours.clone()),
            None => Some(foreign(response.status().as_u16(), &e.to_string())),
        },
        None if response.status().as_u16() == 405 => Some(EdgeError::new(Code::MethodNotAllowed)),
        None => None,
    };
    let mut response = match error {
        Some(e) => {
            metrics::counter!("hotbook_http_errors_total", "code" => e.code).increment(1);
            tracing::debug!(code = e.code, request_id = %id, "refused over http");
            let status = actix_web::ResponseError::status_code(&e);
            response.into_response(HttpResponse::build(status).json(e.to_json(&id))).map_into_right_body()
        }
        None => response.map_into_left_body(),
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    Ok(response)
}

/// An error of the framework: a query or path that cannot be read, a failed upgrade.
fn foreign(status: u16, what: &str) -> EdgeError {
    let code = match status {
        404 => Code::NotFound,
        405 => Code::MethodNotAllowed,
        413 => Code::PayloadTooLarge,
        400..=499 => Code::InvalidField,
        _ => {
            tracing::error!(status, what, "request failed");
            Code::Internal
        }
    };
    if status < 500 { EdgeError::new(code).message(what) } else { EdgeError::new(code) }
}

fn request_id(request: &ServiceRequest) -> String {
    let given = request.headers().get("x-request-id").and_then(|v| v.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX => id.to_owned(),
        _ => hex::encode(schema::random_bytes::<8>()),
    }
}

/// The process's one metrics recorder; a second server of the process (tests) shares it.
fn recorder() -> PrometheusHandle {
    static RECORDER: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; /metrics stays empty");
            }
            handle
        })
        .clone()
}
