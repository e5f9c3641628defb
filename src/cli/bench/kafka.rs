//! `bench kafka`: an exchange whose log is Kafka, beside a bare loop of the client library on the same brokers in the same
//! run: produce to one topic, consume, produce to a second, consume.
//!
//! One partition, one symbol, so that neither side gains by spreading. Both carry the same orders, each with an id of its own:
//! the same bytes again and again would cost the loop's client and broker next to nothing, for they compress to nothing. The
//! exchange adds to the loop: admission, matching, answers found by origin, mirrors.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, TopicPartitionList};
use serde::Serialize;

use super::{load, on_kafka};
use crate::actors::exchange::{Exchange, ExchangeConfig};
use crate::actors::gateway::Answer;
use crate::actors::router::Submit;
use crate::domain::{Command, Side, Symbol};
use crate::ports::log::Topic;
use crate::ports::log::kafka::{Batching, KafkaOptions};
use crate::wire;

const WITHIN: Duration = Duration::from_secs(60);
/// Orders sent before one is timed: connections are made, code is warm.
const WARM_UP: u64 = 300;
/// Orders under way at once while throughput is measured, for both.
const WINDOW: usize = 8_192;
const POLL: Duration = Duration::from_millis(50);
const PRICE: u64 = 10_000;

#[derive(Debug, Clone, clap::Args)]
pub struct KafkaArgs {
    /// `host:port,..`; topics with names of their own are made there and left.
    #[arg(long, env = "KAFKA_BROKERS")]
    brokers: String,
    /// Copies of each partition; of more than one, all but one must have a record before it is durable.
    #[arg(long, default_value_t = 1)]
    replication: u32,
    /// Orders of a round that go one at a time.
    #[arg(long, default_value_t = 1_500)]
    trips: u64,
    /// Orders of a round that go as fast as they can.
    #[arg(long, default_value_t = 100_000)]
    orders: u64,
    /// The loop and the exchange take turns so often; each figure is the median of them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Of all producers, the loop's as well.
    #[arg(long, default_value = "lz4", value_parser = ["none", "snappy", "lz4", "zstd"])]
    compression: String,
    /// How long each of their batches waits for more records, in milliseconds.
    #[arg(long, default_value_t = 0)]
    linger_ms: u32,
    /// Writes the figures there.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one of them did in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    round_trip_us_p50: u64,
    round_trip_us_p99: u64,
    orders_per_s: u64,
}

#[derive(Serialize)]
struct Report {
    exchange: Figures,
    bare: Figures,
    round_trip_ratio: f64,
    throughput_ratio: f64,
}

/// Measures and prints.
///
/// # Errors
/// When brokers do not answer, or an order is not answered in time.
pub fn run(args: &KafkaArgs) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.trips > 0 && args.orders > 0, "there is nothing to measure");
    let (exchange, bare) = actix_rt::System::new().block_on(measure(args))?;
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    let (exchange, bare) = (median(&exchange), median(&bare));
    let report = Report {
        exchange,
        bare,
        round_trip_ratio: ratio(exchange.round_trip_us_p50, bare.round_trip_us_p50),
        throughput_ratio: ratio(exchange.orders_per_s, bare.orders_per_s),
    };
    let line = |name: &str, f: Figures| {
        let Figures { round_trip_us_p50: p50, round_trip_us_p99: p99, orders_per_s } = f;
        println!("{name:<22} {p50:>9} {p99:>9} {orders_per_s:>12}");
    };
    println!("{:<22} {:>9} {:>9} {:>12}", "median of rounds", "p50 us", "p99 us", "orders/s");
    line("exchange on Kafka", exchange);
    line("bare loop", bare);
    println!("round trip {:.2} x, throughput {:.2} x", report.round_trip_ratio, report.throughput_ratio);
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

async fn measure(args: &KafkaArgs) -> anyhow::Result<(Vec<Figures>, Vec<Figures>)> {
    let batching = Batching { compression: args.compression.clone(), linger_ms: args.linger_ms };
    let topics = async |who| {
        let made = on_kafka::make_topics(&args.brokers, who, 1, args.replication).await?;
        anyhow::Ok(KafkaOptions { batching: batching.clone(), ..made })
    };
    let (ours, bare) = (topics("exchange").await?, topics("bare").await?);
    let folder = tempfile::tempdir()?;
    let parts = on_kafka::parts(ours, folder.path()).await?;
    let config = ExchangeConfig { cluster_secret: b"bench".to_vec(), book_threads_per_node: 1, ..Default::default() };
    let exchange = Exchange::start_on(config, parts).await?;
    let symbol = Symbol::new("BENCH").context("symbol")?;
    load::list(&exchange, &[symbol]).await?;
    let mut numbers = 0..;
    let (mut of_exchange, mut of_bare) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let (bare, (trips, orders)) = (bare.clone(), (args.trips, args.orders));
        of_bare.push(tokio::task::spawn_blocking(move || Bare::open(&bare)?.measure(trips, orders)).await??);
        of_exchange.push(measure_exchange(&exchange, symbol, args, &mut numbers).await?);
    }
    exchange.shutdown().await;
    Ok((of_exchange, of_bare))
}

fn median(rounds: &[Figures]) -> Figures {
    let of = |value: fn(&Figures) -> u64| {
        let mut values: Vec<u64> = rounds.iter().map(value).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    Figures {
        round_trip_us_p50: of(|f| f.round_trip_us_p50),
        round_trip_us_p99: of(|f| f.round_trip_us_p99),
        orders_per_s: of(|f| f.orders_per_s),
    }
}

fn figures(trips: &Histogram<u64>, orders: u64, took: Duration) -> Figures {
    Figures {
        round_trip_us_p50: trips.value_at_quantile(0.5),
        round_trip_us_p99: trips.value_at_quantile(0.99),
        orders_per_s: (orders as f64 / took.as_secs_f64()) as u64,
    }
}

/// Every second one trades with the one before it, so that the book stays small.
fn order(n: u64) -> anyhow::Result<Command> {
    load::order(n, if n.is_multiple_of(2) { Side::Buy } else { Side::Sell }, PRICE)
}

/// Sends an order as an edge does, and gives where its outcome comes.
fn send(
    exchange: &Exchange,
    symbol: Symbol,
    command: Command,
) -> anyhow::Result<tokio::sync::oneshot::Receiver<Answer>> {
    let (origin, answer) = exchange.gateway().expect_answer();
    drop(exchange.gateway().router().submit(Submit { symbol, command, origin })?);
    Ok(answer)
}

async fn answered(answer: tokio::sync::oneshot::Receiver<Answer>) -> anyhow::Result<()> {
    tokio::time::timeout(WITHIN, answer).await.context("an order was not answered in time")??;
    Ok(())
}

async fn measure_exchange(
    exchange: &Exchange,
    symbol: Symbol,
    args: &KafkaArgs,
    numbers: &mut std::ops::RangeFrom<u64>,
) -> anyhow::Result<Figures> {
    let mut trips = Histogram::new(3)?;
    for (trip, n) in (0..WARM_UP + args.trips).zip(&mut *numbers) {
        let began = Instant::now();
        answered(send(exchange, symbol, order(n)?)?).await?;
        if trip >= WARM_UP {
            trips.record(began.elapsed().as_micros() as u64)?;
        }
    }
    let orders = numbers.take(args.orders as usize).map(order).collect::<anyhow::Result<Vec<_>>>()?;
    let (began, mut waiting) = (Instant::now(), VecDeque::with_capacity(WINDOW));
    for command in orders {
        waiting.push_back(send(exchange, symbol, command)?);
        if waiting.len() == WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            answered(oldest).await?;
        }
    }
    for answer in waiting {
        answered(answer).await?;
    }
    Ok(figures(&trips, args.orders, began.elapsed()))
}

type BareProducer = ThreadedProducer<DefaultProducerContext>;

/// The loop without an exchange in it, as durable as ours.
struct Bare {
    there: BareProducer,
    back: Option<(BaseConsumer, BareProducer)>,
    heard: BaseConsumer,
    topics: [String; 2],
    symbol: Symbol,
}

impl Bare {
    fn open(kafka: &KafkaOptions) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &kafka.brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", kafka.batching.linger_ms.to_string())
            .set("compression.type", &kafka.batching.compression)
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50");
        let topics = [Topic::Orders, Topic::Events].map(|t| kafka.topic_name(t));
        let from_end = |topic: &str| -> anyhow::Result<BaseConsumer> {
            let consumer: BaseConsumer = config.create()?;
            let (_, end) = consumer.fetch_watermarks(topic, 0, WITHIN)?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, 0, rdkafka::Offset::Offset(end))?;
            consumer.assign(&list)?;
            Ok(consumer)
        };
        Ok(Self {
            there: config.create()?,
            back: Some((from_end(&topics[0])?, config.create()?)),
            heard: from_end(&topics[1])?,
            symbol: Symbol::new("BENCH").context("symbol")?,
            topics,
        })
    }

    fn measure(mut self, count: u64, orders: u64) -> anyhow::Result<Figures> {
        let (consumer, producer) = self.back.take().context("opened")?;
        let (stop, topic) = (AtomicBool::new(false), self.topics[1].clone());
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| -> anyhow::Result<()> {
                while !stop.load(Ordering::Acquire) {
                    if let Some(message) = consumer.poll(POLL) {
                        put(&producer, &topic, message?.payload().unwrap_or_default())?;
                    }
                }
                Ok(())
            });
            let result = self.loops(count, orders);
            stop.store(true, Ordering::Release);
            echo.join().map_err(|_| anyhow::anyhow!("the loop's thread ended"))??;
            result
        })
    }

    fn loops(&self, count: u64, orders: u64) -> anyhow::Result<Figures> {
        let mut trips = Histogram::new(3)?;
        for trip in 0..WARM_UP + count {
            let order = wire::orders::encode(&self.symbol, &order(trip)?);
            let began = Instant::now();
            put(&self.there, &self.topics[0], &order)?;
            self.hear()?;
            if trip >= WARM_UP {
                trips.record(began.elapsed().as_micros() as u64)?;
            }
        }
        let encode = |n| Ok(wire::orders::encode(&self.symbol, &order(n)?));
        let payloads = (0..orders).map(encode).collect::<anyhow::Result<Vec<_>>>()?;
        let (began, mut heard) = (Instant::now(), 0);
        for (sent, order) in (0..orders).zip(payloads) {
            put(&self.there, &self.topics[0], &order)?;
            while sent - heard >= WINDOW as u64 {
                self.hear()?;
                heard += 1;
            }
        }
        for _ in heard..orders {
            self.hear()?;
        }
        self.there.flush(WITHIN)?;
        Ok(figures(&trips, orders, began.elapsed()))
    }

    fn hear(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.heard.poll(POLL) {
                Some(message) => return message.map(|_| ()).map_err(Into::into),
                None if began.elapsed() > WITHIN => bail!("a record of the bare loop did not come back in time"),
                None => {}
            }
        }
    }
}

fn put(producer: &BareProducer, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
    loop {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(b"BENCH").payload(payload);
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
