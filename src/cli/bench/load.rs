//! Orders for the benchmarks that run a whole exchange.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::StreamExt;

use super::{flow_file, progress};
use crate::actors::exchange::Exchange;
use crate::domain::{
    Command, Instrument, NewOrder, OrderKind, Price, Quantity, SelfTrade, Side, Symbol, TimeInForce, UserId,
};
use crate::ports::log::{NewRecord, Session, SessionOptions, Topic, TopicPartition, partition_of};
use crate::wire;

/// Longer than anything here should take.
pub const WITHIN: Duration = Duration::from_secs(300);
/// Orders that are appended under one receipt.
const APPEND_AT_ONCE: usize = 4_096;
const LISTINGS_AT_ONCE: usize = 64;

/// A limit order for one; `n` makes its id.
pub fn order(n: u64, side: Side, price: u64) -> anyhow::Result<Command> {
    Ok(Command::Add(NewOrder {
        order_id: flow_file::order_id_of(n as u32),
        user: UserId::new(if side == Side::Buy { "buyer" } else { "seller" }).context("user")?,
        side,
        kind: OrderKind::Limit { price: Price(price) },
        quantity: Quantity(1),
        time_in_force: TimeInForce::Gtc,
        self_trade: SelfTrade::None,
        post_only: false,
        all_or_none: false,
        display_quantity: None,
    }))
}

/// A command as a gateway would append it.
pub fn record(symbol: &Symbol, partition: u32, header: Bytes, command: &Command) -> NewRecord {
    NewRecord {
        to: TopicPartition { topic: Topic::Orders, partition },
        key: Bytes::copy_from_slice(symbol.as_bytes()),
        header,
        value: wire::orders::encode(symbol, command),
    }
}

/// A session that is never full.
pub fn session(exchange: &Exchange) -> anyhow::Result<std::sync::Arc<dyn Session>> {
    Ok(exchange.log().open_session(SessionOptions { name: "bench".into(), queue_bytes_max: usize::MAX })?)
}

/// Lists symbols with the defaults.
pub async fn list(exchange: &Exchange, symbols: &[Symbol]) -> anyhow::Result<()> {
    let bar = progress(symbols.len() as u64, "symbols listed");
    let listings = symbols.iter().map(|symbol| async {
        let listed = exchange.list(*symbol, Instrument::plain(2, 1, 1)).await;
        bar.inc(1);
        listed
    });
    let mut listings = futures_util::stream::iter(listings).buffer_unordered(LISTINGS_AT_ONCE);
    while let Some(listed) = listings.next().await {
        listed?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Lets so many buy orders more rest in each book, far from where anything trades; numbers them from `from`.
pub async fn rest(
    exchange: &Exchange,
    session: &dyn Session,
    symbols: &[Symbol],
    from: u64,
    orders: u64,
) -> anyhow::Result<()> {
    let (bar, partitions) = (progress(orders * symbols.len() as u64, "orders rest"), exchange.log().partitions());
    let mut records = Vec::with_capacity(APPEND_AT_ONCE);
    for n in from..from + orders {
        let command = order(n, Side::Buy, 1_000 + n % 500)?;
        for symbol in symbols {
            let partition = partition_of(symbol.as_bytes(), partitions);
            records.push(record(symbol, partition, Bytes::new(), &command));
            if records.len() == APPEND_AT_ONCE {
                session.append_all(std::mem::take(&mut records)).await?;
                bar.inc(APPEND_AT_ONCE as u64);
            }
        }
    }
    if !records.is_empty() {
        session.append_all(records).await?;
    }
    bar.finish_and_clear();
    let started = Instant::now();
    for symbol in symbols {
        let book = exchange.directory().get(symbol).context("listed")?;
        while book.orders() < from + orders {
            if started.elapsed() > WITHIN {
                bail!("{} of {} orders rest in {symbol} after {WITHIN:?}", book.orders(), from + orders);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}
