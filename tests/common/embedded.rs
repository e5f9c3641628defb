//! An exchange inside the test's own process: no socket, no service.
#![allow(dead_code)] // not every test needs all of it

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::actors::gateway::Answer;
use hotbook::domain::{
    Command, Instrument, NewOrder, OrderId, OrderKind, OrderStatus, OutputBody, Price, Quantity, SelfTrade, Side,
    Symbol, TimeInForce, UserId,
};
use hotbook::ports::log::{NewRecord, SessionOptions, Topic, TopicPartition, partition_of};
use hotbook::wire;

pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn config(folder: &Path) -> ExchangeConfig {
    ExchangeConfig { data_dir: folder.to_owned(), cluster_secret: b"test".to_vec(), ..ExchangeConfig::default() }
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn start(config: ExchangeConfig) -> Arc<Exchange> {
    let exchange = Exchange::start(config).await.unwrap();
    until("ready", || exchange.is_ready()).await;
    exchange
}

pub fn symbol(name: &str) -> Symbol {
    Symbol::new(name).unwrap()
}

pub fn order(id: &str, side: Side, price: u64, quantity: u64) -> NewOrder {
    NewOrder {
        order_id: OrderId::new(id).unwrap(),
        user: UserId::new("alice").unwrap(),
        side,
        kind: OrderKind::Limit { price: Price(price) },
        quantity: Quantity(quantity),
        time_in_force: TimeInForce::Gtc,
        self_trade: SelfTrade::None,
        post_only: false,
        all_or_none: false,
        display_quantity: None,
    }
}

/// Appends a command as a gateway does and waits for its answer.
pub async fn send(exchange: &Exchange, to: &str, command: &Command) -> Answer {
    let (origin, answer) = exchange.gateway().expect_answer();
    append(exchange, to, command, &origin.to_bytes()).await;
    tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time").unwrap()
}

pub async fn append(exchange: &Exchange, to: &str, command: &Command, origin: &[u8]) {
    let options = SessionOptions { name: "test".into(), queue_bytes_max: usize::MAX };
    let session = exchange.log().open_session(options).unwrap();
    let partition = partition_of(to.as_bytes(), exchange.log().partitions());
    let record = NewRecord {
        to: TopicPartition { topic: Topic::Orders, partition },
        key: Bytes::copy_from_slice(to.as_bytes()),
        header: Bytes::copy_from_slice(origin),
        value: wire::orders::encode(&symbol(to), command),
    };
    session.append(record).await.unwrap();
}

/// Appends commands of a symbol, together, and waits until they are durable.
pub async fn append_all(exchange: &Exchange, to: &str, commands: impl Iterator<Item = Command>) {
    let options = SessionOptions { name: "test".into(), queue_bytes_max: usize::MAX };
    let session = exchange.log().open_session(options).unwrap();
    let partition = partition_of(to.as_bytes(), exchange.log().partitions());
    let record = |command| NewRecord {
        to: TopicPartition { topic: Topic::Orders, partition },
        key: Bytes::copy_from_slice(to.as_bytes()),
        header: Bytes::new(),
        value: wire::orders::encode(&symbol(to), &command),
    };
    session.append_all(commands.map(record).collect()).await.unwrap();
}

pub fn status(answer: &Answer) -> OrderStatus {
    let body = answer.said.iter().find(|s| s.output.answer).map(|s| s.output.body.clone());
    match body {
        Some(OutputBody::Order(o)) => o.status,
        other => panic!("no order update: {other:?}"),
    }
}

pub fn plain() -> Instrument {
    Instrument::plain(2, 1, 1)
}
