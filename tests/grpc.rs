//! gRPC through the socket: copies, shadows, who is let in, health, reflection.

mod common;

use std::time::Duration;

use common::{SOON, TestServer, until};
use hotbook::clock;
use hotbook::wire::rpc::RpcKey;
use hotbook::wire::rpc::v1::order_book_engine_client::OrderBookEngineClient;
use hotbook::wire::rpc::v1::restore_order_book_request::Source;
use hotbook::wire::rpc::v1::{
    GetOrderBookRequest, RemoveOrderBookRequest, RestoreOrderBookRequest, SnapshotOrderBookRequest,
    SnapshotOrderBookResponse,
};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

async fn channel(server: &TestServer) -> Channel {
    let at = server.running().grpc.as_ref().expect("grpc is on").address;
    Channel::from_shared(format!("http://{at}")).unwrap().timeout(SOON).connect().await.expect("it listens")
}

async fn engine(server: &TestServer) -> OrderBookEngineClient<Channel> {
    OrderBookEngineClient::new(channel(server).await)
}

/// Three nodes, TSLA with three resting orders and a trade.
async fn trading() -> TestServer {
    let server = TestServer::start_with(|c| c.nodes = 3).await;
    server.list(&["TSLA"]).await;
    for (user, side, price, quantity) in [
        ("ann", "BUY", "250.00", 5),
        ("ann", "BUY", "249.50", 7),
        ("bob", "SELL", "251.00", 9),
        ("bob", "SELL", "250.00", 2),
    ] {
        let order =
            json!({"symbol": "TSLA", "side": side, "order_type": "LIMIT", "price": price, "quantity": quantity});
        let (status, answer) = server.trader(user).await.post("/orders", order).await;
        assert_eq!(status, 201, "{answer}");
    }
    server
}

async fn snapshot(engine: &mut OrderBookEngineClient<Channel>) -> SnapshotOrderBookResponse {
    let request = SnapshotOrderBookRequest { symbol: "TSLA".into(), include_data: true };
    engine.snapshot_order_book(request).await.expect("a snapshot").into_inner()
}

async fn restore(
    engine: &mut OrderBookEngineClient<Channel>,
    node: &str,
    source: Source,
) -> Result<hotbook::wire::rpc::v1::RestoreOrderBookResponse, Status> {
    let request = RestoreOrderBookRequest { symbol: "TSLA".into(), node: node.into(), source: Some(source) };
    engine.restore_order_book(request).await.map(tonic::Response::into_inner)
}

async fn remove(engine: &mut OrderBookEngineClient<Channel>, node: &str) -> Result<String, Status> {
    let request = RemoveOrderBookRequest { symbol: "TSLA".into(), node: node.into() };
    engine.remove_order_book(request).await.map(|r| r.into_inner().node)
}

#[actix_web::test]
async fn a_book_is_read_as_over_rest() {
    let server = trading().await;
    let request = GetOrderBookRequest { symbol: "TSLA".into(), depth: 1 };
    let book = engine(&server).await.get_order_book(request).await.unwrap().into_inner();
    let level = |l: &hotbook::wire::rpc::v1::Level| (l.price.clone(), l.quantity, l.orders);
    assert_eq!(book.bids.iter().map(level).collect::<Vec<_>>(), [("250.00".to_owned(), 3, 1)]);
    assert_eq!(book.asks.iter().map(level).collect::<Vec<_>>(), [("251.00".to_owned(), 9, 1)]);
    assert_eq!((book.last_price.as_str(), book.last_quantity, book.node.as_str()), ("250.00", 2, "n1"));
    let (_, rest) = server.call("GET", "/orderbook/TSLA", None, None).await;
    assert_eq!(rest["seq"], book.seq);
    let unknown = GetOrderBookRequest { symbol: "NONE".into(), depth: 0 };
    assert_eq!(engine(&server).await.get_order_book(unknown).await.unwrap_err().code(), Code::NotFound);
    let no_symbol = GetOrderBookRequest { symbol: "no symbol".into(), depth: 0 };
    assert_eq!(engine(&server).await.get_order_book(no_symbol).await.unwrap_err().code(), Code::InvalidArgument);
}

#[actix_web::test]
async fn a_snapshot_is_restored_as_a_shadow_that_follows_and_is_removed() {
    let server = trading().await;
    let mut engine = engine(&server).await;
    let taken = snapshot(&mut engine).await;
    assert_eq!(taken.bytes, taken.data.len() as u64);
    let owner = restore(&mut engine, "n1", Source::Key(taken.key.clone())).await.unwrap_err();
    assert_eq!(owner.code(), Code::FailedPrecondition, "{owner}");

    for source in [Source::Data(taken.data.clone()), Source::Key(taken.key.clone())] {
        let shadow = restore(&mut engine, "n2", source).await.expect("a shadow");
        assert_eq!((shadow.seq, &shadow.state_digest, shadow.node.as_str()), (taken.seq, &taken.state_digest, "n2"));
        let again = restore(&mut engine, "n2", Source::Key(taken.key.clone())).await.unwrap_err();
        assert_eq!(again.code(), Code::AlreadyExists, "{again}");

        let order = json!({"symbol": "TSLA", "side": "BUY", "order_type": "LIMIT", "price": "1.00", "quantity": 1});
        assert_eq!(server.trader("ann").await.post("/orders", order).await.0, 201);
        let (node, symbol) = ("n2".parse().unwrap(), hotbook::domain::Symbol::new("TSLA").unwrap());
        let live = server.exchange().directory().get(&symbol).unwrap();
        let replica = async || server.exchange().replica(&node, &symbol).expect("it is there");
        let state = |b: &hotbook::actors::directory::BookStatus| (b.seq(), b.state_digest());
        until("the shadow follows", async || state(&*replica().await), |shadow| *shadow == state(&live)).await;
        assert_eq!(remove(&mut engine, "").await.unwrap(), "n2");
        assert_eq!(remove(&mut engine, "n2").await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(remove(&mut engine, "n1").await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(remove(&mut engine, "n9").await.unwrap_err().code(), Code::NotFound);
}

#[actix_web::test]
async fn a_book_moves_to_a_shadow_that_was_restored_by_hand() {
    let server = trading().await;
    let mut engine = engine(&server).await;
    let taken = snapshot(&mut engine).await;
    restore(&mut engine, "n3", Source::Data(taken.data)).await.expect("a shadow");
    let (status, begun) =
        server.admin().await.post("/admin/migrations", json!({"symbol": "TSLA", "target": "n3"})).await;
    assert_eq!(status, 202, "{begun}");
    let symbol = hotbook::domain::Symbol::new("TSLA").unwrap();
    let book = async || server.exchange().directory().get(&symbol).unwrap();
    until("it trades there", book, |b| b.node().as_str() == "n3" && b.is_active()).await;
    assert_eq!(remove(&mut engine, "n3").await.unwrap_err().code(), Code::FailedPrecondition);
}

#[actix_web::test]
async fn what_is_not_of_the_log_is_not_restored() {
    let server = trading().await;
    let mut engine = engine(&server).await;
    let taken = snapshot(&mut engine).await;
    let mut damaged = taken.data.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let code = restore(&mut engine, "n2", Source::Data(damaged.into())).await.unwrap_err().code();
    assert_eq!(code, Code::InvalidArgument);

    // Sound in itself, but nothing that the log ever said: one order has another quantity, and the digest agrees.
    type Book = hotbook::engine::Book;
    let mut forged = hotbook::migration::snapshot::Snapshot::<Book>::decode(&taken.data).unwrap();
    forged.clock.0 += 1;
    let forged = forged.encode().unwrap();
    let refused = restore(&mut engine, "n2", Source::Data(forged.into())).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let mut ahead = hotbook::migration::snapshot::Snapshot::<Book>::decode(&taken.data).unwrap();
    ahead.offset.0 += 1_000;
    let ahead = ahead.encode().unwrap();
    let refused = restore(&mut engine, "n2", Source::Data(ahead.into())).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");

    let missing = Source::Key("snapshots/TSLA/00000000000000000001-0000000007.mp.zst".into());
    assert_eq!(restore(&mut engine, "n2", missing).await.unwrap_err().code(), Code::NotFound);
    let no_key = Source::Key("../../etc/passwd".into());
    assert_eq!(restore(&mut engine, "n2", no_key).await.unwrap_err().code(), Code::InvalidArgument);
    let nothing = RestoreOrderBookRequest { symbol: "TSLA".into(), node: "n2".into(), source: None };
    assert_eq!(engine.restore_order_book(nothing).await.unwrap_err().code(), Code::InvalidArgument);
    let node = "n2".parse().unwrap();
    assert!(server.exchange().replica(&node, &hotbook::domain::Symbol::new("TSLA").unwrap()).is_none());
}

#[actix_web::test]
async fn with_a_cluster_secret_only_its_tokens_are_let_in() {
    let server = TestServer::start_with(|c| c.cluster_secret = Some("the cluster's secret".into())).await;
    server.list(&["TSLA"]).await;
    let ask = async |token: Option<String>| {
        let mut request = Request::new(GetOrderBookRequest { symbol: "TSLA".into(), depth: 0 });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        engine(&server).await.get_order_book(request).await.map(|_| ()).map_err(|e| e.code())
    };
    let now = clock::now();
    let key = RpcKey::from_secret(b"the cluster's secret");
    assert_eq!(ask(Some(key.token(now))).await, Ok(()));
    assert_eq!(ask(None).await, Err(Code::Unauthenticated));
    assert_eq!(ask(Some("hotbook1.0.00".into())).await, Err(Code::Unauthenticated));
    assert_eq!(ask(Some(RpcKey::from_secret(b"another").token(now))).await, Err(Code::Unauthenticated));
    let old = hotbook::domain::Micros(now.0 - Duration::from_secs(300).as_micros() as u64);
    assert_eq!(ask(Some(key.token(old))).await, Err(Code::Unauthenticated));

    let health = HealthClient::new(channel(&server).await).check(HealthCheckRequest { service: String::new() }).await;
    assert_eq!(health.unwrap().into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    assert_eq!(services(&server).await.unwrap_err().code(), Code::Unauthenticated);
}

async fn services(server: &TestServer) -> Result<Vec<String>, Status> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(server).await);
    let mut answers = client.server_reflection_info(futures_util::stream::iter([ask])).await?.into_inner();
    let ServerReflectionResponse { message_response, .. } = answers.message().await?.expect("an answer");
    match message_response {
        Some(MessageResponse::ListServicesResponse(list)) => Ok(list.service.into_iter().map(|s| s.name).collect()),
        other => panic!("no list of services: {other:?}"),
    }
}

#[actix_web::test]
async fn reflection_names_the_services_and_health_tells_readiness() {
    let server = trading().await;
    let names = services(&server).await.unwrap();
    for name in ["hotbook.v1.OrderBookEngine", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    let mut health = HealthClient::new(channel(&server).await);
    // Said as soon as the exchange is seen to be ready, which is looked at from time to time.
    let started = std::time::Instant::now();
    loop {
        let request = HealthCheckRequest { service: "hotbook.v1.OrderBookEngine".into() };
        let status = health.check(request).await.unwrap().into_inner().status();
        if status == tonic_health::pb::health_check_response::ServingStatus::Serving {
            break;
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let unknown = health.check(HealthCheckRequest { service: "hotbook.v1.Nothing".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}
