//! `bench gateways`: what gateways cost, one and several, in front of the same engine: processes of their own on the parts
//! that a configuration file names. All read every output, each tells its own clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::child::ServerProcess;
use super::progress;
use super::ws_load::{Clients, Order, Tally};
use crate::cli::http::Server;
use crate::clock;

const WARM_UP: Duration = Duration::from_secs(2);
const DRAIN_WITHIN: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const PRICE: &str = "100.00";
/// What of the own environment says where the parts are; the servers get no more of it.
const SETTINGS: [&str; 5] = ["HOTBOOK_", "KAFKA_", "REDIS_", "AWS_", "S3_"];

#[derive(Debug, Clone, clap::Args)]
pub struct GatewaysArgs {
    /// The configuration of the cluster; no other process may serve it meanwhile. Where its parts are may be in the
    /// environment.
    #[arg(long)]
    config: PathBuf,
    /// How many gateways; a run for each, the first is the baseline.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3], value_parser = clap::value_parser!(u16).range(1..=16))]
    gateways: Vec<u16>,
    /// Orders per second over all gateways.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Seconds of each run that count.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// WebSocket clients, shared out evenly.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Symbols that trade, evenly.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    symbols: u16,
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one run gave.
struct Run {
    /// Cores in use, of each gateway.
    gateways: Vec<f64>,
    engine: f64,
    orders_per_s: f64,
    tally: Tally,
}

impl Run {
    fn all_gateways(&self) -> f64 {
        self.gateways.iter().sum()
    }

    fn of_one(&self) -> f64 {
        self.all_gateways() / self.gateways.len().max(1) as f64
    }
}

async fn start(config: &Path, node: &str, role: &str, data: &Path) -> anyhow::Result<ServerProcess> {
    let text = config.to_str().context("the configuration's path is no text")?;
    let own: Vec<(String, String)> =
        std::env::vars().filter(|(name, _)| SETTINGS.iter().any(|prefix| name.starts_with(prefix))).collect();
    let mut settings: Vec<(&str, &str)> = own.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    settings.extend([("HOTBOOK_NODE_ID", node), ("HOTBOOK_PLACEMENT_MODE", "advise"), ("LOG_LEVEL", "error")]);
    let arguments = ["serve", "--config", text, "--role", role, "--nodes", "1", "--grpc-port", "0"];
    let mut server = ServerProcess::start(&arguments, data, false, &settings)?;
    server.listening().await?;
    Ok(server)
}

async fn ready(server: &ServerProcess) -> anyhow::Result<()> {
    let (anyone, began) = (Server::new(&server.url("http"), String::new()), Instant::now());
    while let Err(e) = anyone.get("/health/ready").await {
        ensure!(began.elapsed() < READY_WITHIN, "a server is not ready after {READY_WITHIN:?}: {e}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Lists what an earlier run has not listed.
async fn list(gateway: &ServerProcess, symbols: &[String]) -> anyhow::Result<()> {
    let admin = Server::developing(&gateway.url("http"), "bench", &["admin"]).await?;
    let (is_active, began) = (|node: &Value| node["status"] == "ACTIVE", Instant::now());
    while !admin.get("/admin/nodes").await?["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(is_active)) {
        ensure!(began.elapsed() < READY_WITHIN, "the gateway sees no engine after {READY_WITHIN:?}");
        tokio::time::sleep(LOOK).await;
    }
    let said = admin.get("/instruments").await?;
    let listed = said["instruments"].as_array().context("instruments")?;
    for symbol in symbols.iter().filter(|s| !listed.iter().any(|i| i["symbol"] == s.as_str())) {
        admin.post("/admin/instruments", json!({"symbol": symbol})).await?;
    }
    Ok(())
}

/// CPU time that each has used so far.
fn cpu_ns(servers: &[&ServerProcess]) -> anyhow::Result<Vec<u64>> {
    servers.iter().map(|server| server.cpu_ns().context("a server's CPU clock")).collect()
}

async fn measure(args: &GatewaysArgs, engine: &ServerProcess, gateways: u16, data: &Path) -> anyhow::Result<Run> {
    let mut started = Vec::new();
    for n in 1..=gateways {
        let gateway = start(&args.config, &format!("bench-g{n}"), "gateway", data).await?;
        ready(&gateway).await?;
        started.push(gateway);
    }
    let (symbols, stop) = (names(args.symbols), Arc::new(AtomicBool::new(false)));
    list(started.first().context("a gateway")?, &symbols).await?;
    let who = format!("client-{:x}", clock::now().0);
    let mut clients = Clients::connect(&started.iter().collect::<Vec<_>>(), args.clients.into(), &who).await?;
    let mut n = 0usize;
    let next = || {
        let side = if (n / symbols.len()).is_multiple_of(2) { "SELL" } else { "BUY" };
        let order = Order { symbol: &symbols[n % symbols.len()], side, price: PRICE };
        n += 1;
        order
    };
    let all: Vec<&ServerProcess> = started.iter().chain([engine]).collect();
    let bar = progress(args.seconds, "seconds");
    let watching = async {
        tokio::time::sleep(WARM_UP).await;
        let (before, began) = (cpu_ns(&all)?, Instant::now());
        for _ in 0..args.seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bar.inc(1);
        }
        let (after, took) = (cpu_ns(&all)?, began.elapsed().as_nanos() as f64);
        stop.store(true, Ordering::Release);
        let cores: Vec<f64> = before.iter().zip(&after).map(|(b, a)| (a - b) as f64 / took).collect();
        anyhow::Ok(cores)
    };
    let began = Instant::now();
    let sending = clients.send_on_schedule(args.rate, Arc::clone(&stop), next);
    let (mut cores, ()) = tokio::try_join!(watching, sending)?;
    bar.finish_and_clear();
    let took = began.elapsed().as_secs_f64();
    let tally = clients.tally(DRAIN_WITHIN, QUIET).await;
    if let Some(why) = clients.first_refusal() {
        eprintln!("the first refusal: {why}");
    }
    ensure!(tally.is_exact(), "not every order was answered exactly once: {tally:?}");
    drop(clients);
    let engine = cores.pop().context("the engine's")?;
    for gateway in started {
        gateway.stop().await?;
    }
    Ok(Run { gateways: cores, engine, orders_per_s: tally.sent as f64 / took, tally })
}

fn names(symbols: u16) -> Vec<String> {
    (0..symbols).map(|n| format!("G{n:03}")).collect()
}

async fn measure_all(args: &GatewaysArgs) -> anyhow::Result<Vec<Run>> {
    let data = tempfile::tempdir()?;
    let engine = start(&args.config, "bench-engine", "engine", data.path()).await?;
    ready(&engine).await?;
    let mut runs = Vec::new();
    for gateways in &args.gateways {
        let run = measure(args, &engine, *gateways, data.path()).await?;
        println!(
            "{:>8} {:>9.0} {:>12.3} {:>12.3} {:>12.3} {:>8.2} {:>9}",
            run.gateways.len(),
            run.orders_per_s,
            run.of_one(),
            run.all_gateways(),
            run.engine,
            run.of_one() / runs.first().map_or(run.of_one(), Run::of_one),
            run.tally.sent,
        );
        runs.push(run);
    }
    engine.stop().await?;
    Ok(runs)
}

/// Measures and prints.
///
/// # Errors
/// When a part does not answer, or an order is not answered exactly once.
pub fn run(args: &GatewaysArgs) -> anyhow::Result<()> {
    println!("one engine, {} orders/s in {} symbols by {} WebSocket clients", args.rate, args.symbols, args.clients);
    println!("cores in use; ratio: of one gateway, to the first line's");
    println!(
        "{:>8} {:>9} {:>12} {:>12} {:>12} {:>8} {:>9}",
        "gateways", "orders/s", "one gateway", "all gateways", "engine", "ratio", "orders"
    );
    let runs = actix_rt::System::new().block_on(measure_all(args))?;
    if let Some(file) = &args.json {
        let of = |run: &Run| json!({"gateways": run.gateways, "engine": run.engine, "orders_per_s": run.orders_per_s, "orders": run.tally});
        std::fs::write(file, serde_json::to_vec_pretty(&runs.iter().map(of).collect::<Vec<_>>())?)?;
    }
    Ok(())
}
