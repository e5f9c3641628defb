//! `bench scale`: many symbols on one node: memory per idle book, and how long a start takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::StreamExt;
use serde_json::json;

use super::progress;
use crate::actors::exchange::{Exchange, ExchangeConfig};
use crate::domain::{Instrument, Symbol};

const LISTINGS_AT_ONCE: usize = 64;
const READY_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, clap::Args)]
pub struct ScaleArgs {
    #[arg(long, default_value_t = 5_000)]
    pub symbols: usize,
    /// Where the data folder is made.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Resident memory of this process, in bytes (Linux).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4_096
}

async fn ready(exchange: &Exchange) -> anyhow::Result<()> {
    let started = Instant::now();
    while !exchange.is_ready() {
        if started.elapsed() > READY_WITHIN {
            bail!("exchange is not ready after {READY_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn list_all(exchange: &Arc<Exchange>, symbols: usize) -> anyhow::Result<()> {
    let bar = progress(symbols as u64, "symbols listed");
    let listings = (0..symbols).map(|n| {
        let (exchange, bar) = (Arc::clone(exchange), bar.clone());
        async move {
            exchange.list(Symbol::new(&format!("S{n:05}"))?, Instrument::plain(2, 1, 1)).await?;
            bar.inc(1);
            anyhow::Ok(())
        }
    });
    let mut listings = futures_util::stream::iter(listings).buffer_unordered(LISTINGS_AT_ONCE);
    while let Some(listed) = listings.next().await {
        listed?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Measures and prints.
///
/// # Errors
/// When the exchange does not start.
pub fn run(args: ScaleArgs) -> anyhow::Result<()> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::Builder::new().prefix("hotbook-bench-").tempdir_in(dir)?;
    let config = || ExchangeConfig {
        data_dir: folder.path().to_owned(),
        cluster_secret: b"bench".to_vec(),
        snapshots_per_second_max: 1_000,
        ..ExchangeConfig::default()
    };
    let (listed_in, bytes_per_book) = actix::System::new().block_on(async {
        let exchange = Exchange::start(config()).await?;
        ready(&exchange).await?;
        let (before, started) = (resident_bytes(), Instant::now());
        list_all(&exchange, args.symbols).await?;
        let listed_in = started.elapsed();
        let per_book = resident_bytes().saturating_sub(before) as f64 / args.symbols as f64;
        exchange.shutdown().await;
        anyhow::Ok((listed_in, per_book))
    })?;
    let started_in = actix::System::new().block_on(async {
        let started = Instant::now();
        let exchange = Exchange::start(config()).await?;
        ready(&exchange).await?;
        let elapsed = started.elapsed();
        exchange.shutdown().await;
        anyhow::Ok(elapsed)
    })?;
    println!("{} symbols on one node", args.symbols);
    println!("listed in        {:>8.2} s", listed_in.as_secs_f64());
    println!(
        "memory per book  {:>8.1} KiB (whole process: log cache, mirrors and feeds included)",
        bytes_per_book / 1024.0
    );
    println!("start to ready   {:>8.2} s", started_in.as_secs_f64());
    if let Some(file) = &args.json {
        let all = json!({"symbols": args.symbols, "listed_s": listed_in.as_secs_f64(),
                         "bytes_per_book": bytes_per_book, "start_s": started_in.as_secs_f64()});
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}
