//! The derived topics as a reader of the log finds them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use embedded::*;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::domain::output::Level;
use hotbook::domain::{Command, Side};
use hotbook::ports::log::{Record, Topic, TopicPartition, partition_of};

#[path = "common/embedded.rs"]
mod embedded;

async fn with_projector(folder: &Path) -> Arc<Exchange> {
    start(ExchangeConfig { projector: true, ..config(folder) }).await
}

async fn all(exchange: &Exchange, topic: Topic, symbol: &str) -> Vec<serde_json::Value> {
    let partition = partition_of(symbol.as_bytes(), exchange.log().partitions());
    let of = TopicPartition { topic, partition };
    let (mut at, end) = (exchange.log().start_offset(of).await.unwrap(), exchange.log().end_offset(of).await.unwrap());
    let mut values = Vec::new();
    while at < end {
        for record in exchange.log().read(of, at, 1_000).await.unwrap() {
            at = record.offset.next();
            assert_eq!(record.key, symbol.as_bytes());
            let Record { value, .. } = record;
            values.push(serde_json::from_slice(&value).unwrap());
        }
    }
    values
}

/// Waits until `order_status` has the book's last output, which every order gives.
async fn projected(exchange: &Exchange, name: &str) -> BTreeMap<&'static str, Vec<serde_json::Value>> {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let last = exchange.directory().get(&symbol(name)).unwrap().seq().0;
        let statuses = all(exchange, Topic::OrderStatus, name).await;
        if statuses.last().is_some_and(|s| s["seq"] == last) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "order_status ends below {last}: {:?}", statuses.last());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut topics = BTreeMap::new();
    for topic in Topic::DERIVED {
        topics.insert(topic.name(), all(exchange, topic, name).await);
    }
    topics
}

/// A price with two decimals in minor units.
fn cents(price: &serde_json::Value) -> u64 {
    (price.as_f64().unwrap() * 100.0).round() as u64
}

/// Each class's records are a chain: nothing is missing, nothing is twice.
fn assert_chain(records: &[serde_json::Value]) {
    let mut last = 0;
    for record in records {
        assert_eq!(record["prev_seq"], last, "{record}");
        last = record["seq"].as_u64().unwrap();
    }
}

async fn trade(exchange: &Exchange, from: usize, to: usize) {
    for n in from..to {
        let side = if n % 2 == 0 { Side::Buy } else { Side::Sell };
        send(exchange, "AAA", &Command::Add(order(&format!("o{n}"), side, 100 + n as u64 % 3, 1 + n as u64 % 5))).await;
    }
}

#[actix_web::test]
async fn every_output_is_in_its_topics_once_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = with_projector(folder.path()).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    trade(&exchange, 0, 40).await;
    projected(&exchange, "AAA").await;
    exchange.shutdown().await;
    drop(exchange);
    // Some outputs that no projector saw.
    let exchange = start(config(folder.path())).await;
    trade(&exchange, 40, 60).await;
    exchange.shutdown().await;
    drop(exchange);
    let exchange = with_projector(folder.path()).await;
    trade(&exchange, 60, 80).await;
    let topics = projected(&exchange, "AAA").await;
    topics.values().for_each(|records| assert_chain(records));
    let trades = exchange.gateway().mirrors().trades(&symbol("AAA"), 1_000).unwrap();
    assert_eq!((topics["fills"].len(), topics["trades"].len()), (trades.len(), trades.len()));
    assert!(trades.len() > 10, "the flow trades");
    assert_eq!(topics["order_status"].len() as u64 + 1, exchange.directory().get(&symbol("AAA")).unwrap().seq().0);
    exchange.shutdown().await;
}

#[actix_web::test]
async fn depth_records_add_up_to_the_book() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = with_projector(folder.path()).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    trade(&exchange, 0, 60).await;
    let topics = projected(&exchange, "AAA").await;
    let mut sides = [BTreeMap::new(), BTreeMap::new()];
    for record in &topics["depth"] {
        for (side, name) in sides.iter_mut().zip(["bids", "asks"]) {
            for level in record[name].as_array().unwrap() {
                let (price, quantity) = (cents(&level[0]), level[1].as_u64().unwrap());
                if quantity == 0 {
                    side.remove(&price)
                } else {
                    side.insert(price, quantity)
                };
            }
        }
    }
    let depth = exchange.gateway().mirrors().depth(&symbol("AAA"), 1_000).unwrap();
    let of = |levels: &[Level]| -> BTreeMap<u64, u64> { levels.iter().map(|l| (l.price.0, l.quantity)).collect() };
    assert_eq!(sides, [of(&depth.bids), of(&depth.asks)]);
    assert!(sides.iter().any(|s| !s.is_empty()), "something rests");
    exchange.shutdown().await;
}
