//! `bench order-entry`: how long after an order is sent its ACK and its FILL come, over a real WebSocket.
//!
//! Open loop: orders go out on a fixed schedule whatever the answers do, and time counts from the scheduled moment, so
//! that a stall is charged to every order it delays. The baseline of the same run is a bare actix WebSocket echo that
//! makes one (ACK) or two (FILL) durable appends with the same log. Server and baselines are processes of their own;
//! they take turns of a second or two, so that a disk that is slow for a while is slow for all of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::child::{ServerProcess, Socket, connect};
use super::progress;
use crate::cli::http::Server;

const SYMBOL: &str = "BENCH";
/// Answers that come later than this after the last order count as lost.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Share of the run that only warms up.
const WARM_UP: f64 = 0.1;
/// How many durable appends the baselines make before they answer, and behind that. The last does to the disk what the
/// exchange does: the order, then what became of it.
const APPENDS: [(u32, u32); 4] = [(0, 0), (1, 0), (2, 0), (1, 1)];

#[derive(Debug, Clone, clap::Args)]
pub struct OrderEntryArgs {
    /// Orders per second.
    #[arg(long, default_value_t = 500)]
    pub rate: u64,
    /// Seconds in all for the exchange, and for each baseline.
    #[arg(long, default_value_t = 12)]
    pub seconds: u64,
    /// Turns in which those seconds are taken.
    #[arg(long, default_value_t = 8)]
    pub turns: u64,
    /// Where the data folders are made; the disk that is measured.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Writes the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Which order a message answers, and whether it is its ACK (0) or FILL (1).
type Classify = fn(&Value) -> Option<(u64, usize)>;

/// The exchange or a baseline, and what was measured of it.
struct Subject {
    /// Runs as long as this is kept.
    _server: ServerProcess,
    /// Taken while a turn runs.
    socket: Option<Socket>,
    classify: Classify,
    /// Answers of each kind to a pair of orders.
    answers: [u64; 2],
    /// Nanoseconds, of all turns.
    took: [Histogram<u64>; 2],
    /// p99 of each turn.
    turns: Vec<[u64; 2]>,
}

impl Subject {
    async fn baseline(data: &Path, (appends, behind): (u32, u32)) -> anyhow::Result<Self> {
        let (appends, behind) = (appends.to_string(), behind.to_string());
        let args = ["bench", "baseline-server", "--appends", &appends, "--behind", &behind];
        let mut server = ServerProcess::start(&args, data, true, &[])?;
        server.listening().await?;
        let socket = connect(&server.url("ws"), None).await?;
        Self::new(server, socket, classify_echo, [2, 0])
    }

    async fn exchange(data: &Path) -> anyhow::Result<Self> {
        let mut server = ServerProcess::start(&["serve"], data, false, &[])?;
        server.listening().await?;
        let dev = Server::developing(&server.url("http"), "bench", &["trader", "admin"]).await?;
        dev.post("/admin/instruments", json!({"symbol": SYMBOL})).await?;
        let socket = connect(&server.url("ws"), Some(dev.token())).await?;
        Self::new(server, socket, classify_exchange, [2, 1])
    }

    fn new(server: ServerProcess, socket: Socket, classify: Classify, answers: [u64; 2]) -> anyhow::Result<Self> {
        let took = [Histogram::new(3)?, Histogram::new(3)?];
        Ok(Self { _server: server, socket: Some(socket), classify, answers, took, turns: Vec::new() })
    }

    /// Sends orders `first` and following on schedule and collects the answers.
    async fn turn(&mut self, first: u64, orders: u64, rate: u64) -> anyhow::Result<()> {
        let socket = self.socket.take().context("the turn before failed")?;
        let (tx, mut rx) = socket.split();
        let began = Instant::now() + Duration::from_millis(20);
        let due = move |n: u64| began + Duration::from_nanos((n - first) * 1_000_000_000 / rate);
        let sender = tokio::spawn(send_on_schedule(tx, first..first + orders, due));
        let expected = self.answers.map(|of_two| orders / 2 * of_two);
        let mut took = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
        let mut seen = [0u64; 2];
        let warm = first + (orders as f64 * WARM_UP) as u64;
        let deadline = due(first + orders) + DRAIN_WITHIN;
        while seen != expected {
            let message = tokio::time::timeout_at(deadline.into(), rx.next())
                .await
                .with_context(|| format!("answers are missing: {seen:?} of {expected:?} came"))?;
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                // A heartbeat's ping is answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                other => bail!("connection ended: {other:?}"),
            };
            let now = Instant::now();
            let Some((n, kind)) = (self.classify)(&serde_json::from_str(&text)?) else { continue };
            seen[kind] += 1;
            if n >= warm {
                took[kind].record(now.saturating_duration_since(due(n)).as_nanos() as u64)?;
            }
        }
        for (all, this) in self.took.iter_mut().zip(&took) {
            all.add(this)?;
        }
        self.turns.push([took[0].value_at_quantile(0.99), took[1].value_at_quantile(0.99)]);
        self.socket = Some(sender.await??.reunite(rx)?);
        Ok(())
    }
}

type Sending = futures_util::stream::SplitSink<Socket, Message>;

/// Sends each order when it is due.
async fn send_on_schedule(
    mut tx: Sending,
    orders: std::ops::Range<u64>,
    due: impl Fn(u64) -> Instant + Send + 'static,
) -> anyhow::Result<Sending> {
    let (clock, mut ticks) = tokio::sync::mpsc::unbounded_channel();
    // A thread of its own keeps the schedule: the runtime's timer is only good to a millisecond.
    std::thread::spawn(move || {
        for n in orders {
            std::thread::sleep(due(n).saturating_duration_since(Instant::now()));
            if clock.send(n).is_err() {
                return;
            }
        }
    });
    while let Some(n) = ticks.recv().await {
        tx.send(Message::text(order(n))).await?;
    }
    Ok(tx)
}

/// Even orders rest, odd ones take them: every odd order gets one FILL.
fn order(n: u64) -> String {
    let side = if n.is_multiple_of(2) { "SELL" } else { "BUY" };
    json!({"action": "ADD", "request_id": n.to_string(), "symbol": SYMBOL, "side": side, "order_type": "LIMIT",
           "price": "100.00", "quantity": 1, "stp": "none", "order_id": format!("bench-{n:030}")})
    .to_string()
}

fn classify_exchange(message: &Value) -> Option<(u64, usize)> {
    match message["type"].as_str()? {
        "ACK" => Some((message["request_id"].as_str()?.parse().ok()?, 0)),
        "FILL" => {
            let n: u64 = message["data"]["order_id"].as_str()?.strip_prefix("bench-")?.parse().ok()?;
            // The maker's FILL belongs to an order that was sent long ago.
            (!n.is_multiple_of(2)).then_some((n, 1))
        }
        _ => None,
    }
}

fn classify_echo(message: &Value) -> Option<(u64, usize)> {
    Some((message["request_id"].as_str()?.parse().ok()?, 0))
}

fn us(h: &Histogram<u64>, quantile: f64) -> f64 {
    h.value_at_quantile(quantile) as f64 / 1_000.0
}

fn hundredths(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// The median over the turns of the ratio of their p99: one bad moment of the disk spoils one turn only.
fn median_of_turns(ours: &[[u64; 2]], base: &[[u64; 2]], kind: usize) -> f64 {
    let mut ratios: Vec<f64> =
        ours.iter().zip(base).map(|(ours, base)| ours[kind] as f64 / base[0].max(1) as f64).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().map_or(0.0, hundredths)
}

/// Measures and prints.
///
/// # Errors
/// When a process cannot be started or an answer does not come.
pub fn run(args: OrderEntryArgs) -> anyhow::Result<()> {
    actix::System::new().block_on(async move {
        let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let folder = tempfile::Builder::new().prefix("hotbook-bench-").tempdir_in(dir)?;
        let mut subjects = Vec::new();
        for appends in APPENDS {
            subjects.push(
                Subject::baseline(&folder.path().join(format!("baseline-{}-{}", appends.0, appends.1)), appends)
                    .await?,
            );
        }
        subjects.push(Subject::exchange(&folder.path().join("exchange")).await?);
        let turns = args.turns.max(1);
        let orders = (args.rate * args.seconds / turns).max(2) / 2 * 2;
        eprintln!("open loop, {} orders/s, {turns} turns of {orders} orders", args.rate);
        let bar = progress(turns * subjects.len() as u64, "turns");
        for turn in 0..turns {
            for subject in &mut subjects {
                subject.turn(turn * orders, orders, args.rate).await?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        report(&args, &subjects)
    })
}

fn report(args: &OrderEntryArgs, subjects: &[Subject]) -> anyhow::Result<()> {
    let [echo, one, two, both, ours] = subjects else { bail!("five were measured") };
    let mut table = HashMap::new();
    println!("{:<34} {:>10} {:>10} {:>10}", "microseconds", "p50", "p99", "max");
    let rows = [
        ("echo", "bare echo", &echo.took[0]),
        ("baseline_ack", "echo + 1 durable append", &one.took[0]),
        ("baseline_fill", "echo + 2 durable appends", &two.took[0]),
        ("baseline_ack_same_disk", "echo + 1, another one behind it", &both.took[0]),
        ("ack", "order to ACK", &ours.took[0]),
        ("fill", "order to FILL", &ours.took[1]),
    ];
    for (key, name, h) in rows {
        let (p50, p99, max) = (us(h, 0.5), us(h, 0.99), h.max() as f64 / 1_000.0);
        println!("{name:<34} {p50:>10.0} {p99:>10.0} {max:>10.0}");
        table.insert(key, json!({"p50_us": p50, "p99_us": p99, "max_us": max, "count": h.len()}));
    }
    let ratio = |ours: &Histogram<u64>, base: &Histogram<u64>, q| hundredths(us(ours, q) / us(base, q).max(0.001));
    let [ack, fill] = &ours.took;
    let ratios = json!({
        "ack_p50": ratio(ack, &one.took[0], 0.5), "ack_p99": ratio(ack, &one.took[0], 0.99),
        "ack_p99_median_of_turns": median_of_turns(&ours.turns, &one.turns, 0),
        "ack_p50_same_disk": ratio(ack, &both.took[0], 0.5), "ack_p99_same_disk": ratio(ack, &both.took[0], 0.99),
        "ack_p99_same_disk_median_of_turns": median_of_turns(&ours.turns, &both.turns, 0),
        "fill_p50": ratio(fill, &two.took[0], 0.5), "fill_p99": ratio(fill, &two.took[0], 0.99),
        "fill_p99_median_of_turns": median_of_turns(&ours.turns, &two.turns, 1),
    });
    println!("ratio to the baseline of this run: {ratios:#}");
    if let Some(file) = &args.json {
        let all = json!({"rate": args.rate, "seconds": args.seconds, "latency": table, "ratio": ratios});
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}
