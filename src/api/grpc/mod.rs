//! The gRPC server: copies and shadows of books for other programs (docs/grpc.md), what the processes of a cluster say to
//! each other, health, reflection.
//!
//! It has a thread of its own, so that a large snapshot on its way holds up no order.

mod auth;
mod engine;
mod peer;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::Arbiter;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::actors::exchange::Exchange;
use crate::wire::rpc::v1::node_peer_server::NodePeerServer;
use crate::wire::rpc::v1::order_book_engine_server::OrderBookEngineServer;
use crate::wire::rpc::{DESCRIPTORS, RpcKey};
pub use auth::Auth;

/// Largest request: a snapshot of some million orders.
const REQUEST_BYTES_MAX: usize = 256 << 20;
/// How often the health service looks whether the exchange is ready.
const HEALTH_LOOK: Duration = Duration::from_millis(100);
/// Calls under way have so long to end when the server goes down.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// A running gRPC server.
pub struct GrpcServer {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
    thread: Arbiter,
}

/// Takes the address, so that it can be told before anything is served there.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(host: &str, port: u16) -> std::io::Result<std::net::TcpListener> {
    TcpListener::bind((host, port)).await?.into_std()
}

/// Starts serving. `key`: what calls are checked with; `None` takes every call, and is for loopback only.
///
/// # Errors
/// When the listener is not usable.
pub fn start(
    listener: std::net::TcpListener,
    exchange: &Arc<Exchange>,
    key: Option<RpcKey>,
) -> std::io::Result<GrpcServer> {
    let address = listener.local_addr()?;
    let (stop, stopping) = oneshot::channel();
    let (ended, stopped) = oneshot::channel();
    let thread = Arbiter::new();
    let exchange = Arc::clone(exchange);
    thread.spawn(async move {
        if let Err(e) = serve(listener, exchange, key, stopping).await {
            tracing::error!(error = %e, "grpc server ended");
        }
        // Nobody may be waiting.
        _ = ended.send(());
    });
    Ok(GrpcServer { address, stop, stopped, thread })
}

async fn serve(
    listener: std::net::TcpListener,
    exchange: Arc<Exchange>,
    key: Option<RpcKey>,
    stopping: oneshot::Receiver<()>,
) -> Result<(), Box<dyn std::error::Error>> {
    let auth = Auth::new(key);
    let (reporter, health) = tonic_health::server::health_reporter();
    actix::spawn(report_health(reporter, Arc::downgrade(&exchange)));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // A process that is alone has no peers.
    let peer = exchange.members().is_cluster().then(|| NodePeerServer::new(peer::Peer::new(Arc::clone(&exchange))));
    let engine = OrderBookEngineServer::new(engine::Engine::new(exchange)).max_decoding_message_size(REQUEST_BYTES_MAX);
    Server::builder()
        .tcp_nodelay(true)
        .add_service(health)
        .add_service(InterceptedService::new(reflection().build_v1()?, auth.clone()))
        .add_service(InterceptedService::new(reflection().build_v1alpha()?, auth.clone()))
        .add_optional_service(peer.map(|peer| InterceptedService::new(peer, auth.clone())))
        .add_service(InterceptedService::new(engine, auth))
        .serve_with_incoming_shutdown(TcpListenerStream::new(TcpListener::from_std(listener)?), async {
            // The sender is dropped with the server.
            _ = stopping.await;
        })
        .await?;
    Ok(())
}

/// SERVING as long as `/health/ready` says 200.
async fn report_health(reporter: tonic_health::server::HealthReporter, exchange: Weak<Exchange>) {
    let mut said = None;
    while let Some(exchange) = exchange.upgrade() {
        let ready = exchange.is_ready();
        drop(exchange);
        if said != Some(ready) {
            said = Some(ready);
            let status =
                if ready { tonic_health::ServingStatus::Serving } else { tonic_health::ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
            reporter.set_service_status("hotbook.v1.OrderBookEngine", status).await;
        }
        tokio::time::sleep(HEALTH_LOOK).await;
    }
}

impl GrpcServer {
    /// Takes no more calls; those under way may end.
    pub async fn stop(self) {
        _ = self.stop.send(());
        _ = tokio::time::timeout(STOP_WITHIN, self.stopped).await;
        self.thread.stop();
    }
}
