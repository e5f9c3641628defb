//! `bench order-entry`: how long after an order is sent its ACK and its FILL come, over a real WebSocket.
//!
//! Open loop: orders go out on a fixed schedule whatever the answers do, and time counts from the scheduled moment, so
//! that a stall is charged to every order it delays. The baseline of the same run is a bare actix WebSocket echo that
//! makes one (ACK) or two (FILL) durable appends with the same log. Server, baseline and client are processes of their
//! own or this one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const SYMBOL: &str = "BENCH";
const START_WITHIN: Duration = Duration::from_secs(20);
/// Answers that come later than this after the last order count as lost.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Share of the run that only warms up.
const WARM_UP: f64 = 0.1;

#[derive(Debug, Clone, clap::Args)]
pub struct OrderEntryArgs {
    /// Orders per second.
    #[arg(long, default_value_t = 500)]
    pub rate: u64,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Where the data folders are made; the disk that is measured.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Writes the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// A child process that ends with its owner.
struct Running {
    process: Child,
    port: u16,
}

impl Running {
    fn start(args: &[&str], data: &Path, port_flag: bool) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).arg("--data").arg(data).stdout(Stdio::null()).stderr(Stdio::inherit());
        if port_flag {
            command.args(["--port", &port.to_string()]);
        }
        command.env("HOTBOOK_HTTP_PORT", port.to_string()).env("LOG_LEVEL", "warn");
        Ok(Self { process: command.spawn()?, port })
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    async fn listening(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if started.elapsed() > START_WITHIN {
                bail!("server does not listen after {START_WITHIN:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(url: &str, token: Option<&str>) -> anyhow::Result<Socket> {
    let mut request = format!("{url}/ws").into_client_request()?;
    if let Some(token) = token {
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse()?);
    }
    let (socket, _) = tokio_tungstenite::connect_async(request).await?;
    if let tokio_tungstenite::MaybeTlsStream::Plain(tcp) = socket.get_ref() {
        tcp.set_nodelay(true)?;
    }
    Ok(socket)
}

/// Latencies of one run, in nanoseconds, by kind of message.
struct Measured {
    first: Histogram<u64>,
    second: Histogram<u64>,
}

/// Which order a message answers, and whether it is its ACK (0) or FILL (1).
type Classify = fn(&Value) -> Option<(u64, usize)>;

/// Sends on schedule and collects the answers. `expected`: answers of each kind that must come.
async fn measure(
    socket: Socket,
    orders: u64,
    rate: u64,
    make: impl Fn(u64) -> String + Send + 'static,
    classify: Classify,
    expected: [u64; 2],
) -> anyhow::Result<Measured> {
    let (mut tx, mut rx) = socket.split();
    let began = Instant::now() + Duration::from_millis(50);
    let due = move |n: u64| began + Duration::from_nanos(n * 1_000_000_000 / rate);
    let (clock, mut ticks) = tokio::sync::mpsc::unbounded_channel();
    // A thread of its own keeps the schedule: the runtime's timer is only good to a millisecond.
    std::thread::spawn(move || {
        for n in 0..orders {
            std::thread::sleep(due(n).saturating_duration_since(Instant::now()));
            if clock.send(n).is_err() {
                return;
            }
        }
    });
    let sender = tokio::spawn(async move {
        while let Some(n) = ticks.recv().await {
            tx.send(Message::text(make(n))).await?;
        }
        Ok::<_, anyhow::Error>(tx)
    });
    let mut histograms = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
    let mut seen = [0u64; 2];
    let warm = (orders as f64 * WARM_UP) as u64;
    let deadline = due(orders) + DRAIN_WITHIN;
    while seen != expected {
        let message = tokio::time::timeout_at(deadline.into(), rx.next())
            .await
            .with_context(|| format!("answers are missing: {seen:?} of {expected:?} came"))?;
        let Some(Ok(Message::Text(text))) = message else { bail!("connection ended: {message:?}") };
        let now = Instant::now();
        let Some((n, kind)) = classify(&serde_json::from_str(&text)?) else { continue };
        seen[kind] += 1;
        if n >= warm {
            histograms[kind].record(now.saturating_duration_since(due(n)).as_nanos() as u64)?;
        }
    }
    drop(sender.await??);
    let [first, second] = histograms;
    Ok(Measured { first, second })
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

async fn post(url: &str, token: Option<&str>, body: &Value) -> anyhow::Result<Value> {
    let mut request = awc::Client::default().post(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let mut answer = request.send_json(body).await.map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
    let value: Value = answer.json().await?;
    if !answer.status().is_success() {
        bail!("{url}: {value}");
    }
    Ok(value)
}

async fn measure_exchange(args: &OrderEntryArgs, data: &Path) -> anyhow::Result<Measured> {
    let server = Running::start(&["serve"], data, false)?;
    server.listening().await?;
    let url = server.url("http");
    let login = format!("{url}/auth/dev-token");
    let dev = post(&login, None, &json!({"user_id": "bench", "roles": ["trader", "admin"]})).await?;
    let token = dev["token"].as_str().context("no token")?;
    post(&format!("{url}/admin/instruments"), Some(token), &json!({"symbol": SYMBOL})).await?;
    let socket = connect(&server.url("ws"), Some(token)).await?;
    let orders = args.rate * args.seconds / 2 * 2;
    measure(socket, orders, args.rate, order, classify_exchange, [orders, orders / 2]).await
}

async fn measure_baseline(args: &OrderEntryArgs, data: &Path, appends: u32) -> anyhow::Result<Histogram<u64>> {
    let server = Running::start(&["bench", "baseline-server", "--appends", &appends.to_string()], data, true)?;
    server.listening().await?;
    let socket = connect(&server.url("ws"), None).await?;
    let orders = args.rate * args.seconds / 2 * 2;
    Ok(measure(socket, orders, args.rate, order, classify_echo, [orders, 0]).await?.first)
}

fn us(h: &Histogram<u64>, quantile: f64) -> f64 {
    h.value_at_quantile(quantile) as f64 / 1_000.0
}

/// Measures and prints.
///
/// # Errors
/// When a process cannot be started or an answer does not come.
pub fn run(args: OrderEntryArgs) -> anyhow::Result<()> {
    actix::System::new().block_on(async move {
        let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let folder = tempfile::Builder::new().prefix("hotbook-bench-").tempdir_in(dir)?;
        eprintln!("open loop, {} orders/s, {} s per measurement", args.rate, args.seconds);
        let echo = measure_baseline(&args, &folder.path().join("echo"), 0).await?;
        let one = measure_baseline(&args, &folder.path().join("one"), 1).await?;
        let two = measure_baseline(&args, &folder.path().join("two"), 2).await?;
        let ours = measure_exchange(&args, &folder.path().join("exchange")).await?;
        let mut table = HashMap::new();
        println!("{:<34} {:>10} {:>10} {:>10}", "microseconds", "p50", "p99", "max");
        let rows = [
            ("echo", "bare echo", &echo),
            ("baseline_ack", "echo + 1 durable append", &one),
            ("baseline_fill", "echo + 2 durable appends", &two),
            ("ack", "order to ACK", &ours.first),
            ("fill", "order to FILL", &ours.second),
        ];
        for (key, name, h) in rows {
            let (p50, p99, max) = (us(h, 0.5), us(h, 0.99), h.max() as f64 / 1_000.0);
            println!("{name:<34} {p50:>10.0} {p99:>10.0} {max:>10.0}");
            table.insert(key, json!({"p50_us": p50, "p99_us": p99, "max_us": max, "count": h.len()}));
        }
        let hundredths = |x: f64| (x * 100.0).round() / 100.0;
        let ratio = |ours: &Histogram<u64>, base: &Histogram<u64>, q| hundredths(us(ours, q) / us(base, q).max(0.001));
        let ratios = json!({
            "ack_p50": ratio(&ours.first, &one, 0.5), "ack_p99": ratio(&ours.first, &one, 0.99),
            "fill_p50": ratio(&ours.second, &two, 0.5), "fill_p99": ratio(&ours.second, &two, 0.99),
        });
        println!("ratio to the baseline of this run: {ratios:#}");
        if let Some(file) = &args.json {
            let all = json!({"rate": args.rate, "seconds": args.seconds, "latency": table, "ratio": ratios});
            std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
        }
        Ok(())
    })
}
