//! `bench moves`: `serve --nodes 3` in a process of its own, clients that send orders over WebSocket whatever the answers
//! do, and the hottest book moved back and forth through the admin endpoint. Afterwards every order was answered exactly
//! once, the audit of what the server left behind is clean, and the pauses are told beside one durable append, made while
//! nothing happens and while the orders come in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::child::ServerProcess;
use super::progress;
use super::ws_load::{Clients, Order, Tally};
use crate::cli::audit::judge_folder;
use crate::cli::http::Server;
use crate::cli::serve::known_secret;
use crate::config::Config;
use crate::migration::audit::SymbolReport;
use crate::ports::log::embedded::measure::bare_append_latency;

const NODES: &str = "3";
const APPENDS: u32 = 300;
/// Roughly what an order takes in the log.
const APPEND_BYTES: usize = 200;
/// The server measures load for a second before it tells it.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between two moves: the book trades where it is for a while.
const BETWEEN: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(2);
/// Answers that come later than this after the last order count as lost; what comes twice comes within [`QUIET`].
const DRAIN_WITHIN: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(500);
/// Lines of progress where there is no terminal.
const LINES: usize = 10;
/// Where everything trades.
const TRADE_PRICE: &str = "100.00";

#[derive(Debug, Clone, clap::Args)]
pub struct MovesArgs {
    /// Moves of the hottest book, back and forth, in each run.
    #[arg(long, default_value_t = 100)]
    pub moves: usize,
    /// Symbols; the n-th gets 1/n^1.5 of the first one's orders, which is nearly half of all with 20.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub symbols: u16,
    /// Orders that rest in the hottest book before it moves; a run for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    pub resting: Vec<u64>,
    /// Orders per second over all symbols.
    #[arg(long, default_value_t = 4_000)]
    pub rate: u64,
    /// WebSocket clients, each a user of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub clients: u16,
    /// Where the data folders are made.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What one run gave; times in microseconds.
struct Run {
    resting: u64,
    /// The book that moved, and its part of all orders per second.
    hottest: String,
    share: f64,
    moves: usize,
    /// Of the moves in which an order waited, ascending.
    pauses: Vec<u64>,
    /// What of each pause is above the gap between two outputs that the book's clients are used to, ascending.
    excesses: Vec<u64>,
    parked: u64,
    /// One durable append on the same disk, while nothing happens and while the orders come in.
    append_p50_us: u64,
    loaded_p50_us: u64,
    tally: Tally,
    /// Orders that rest in the end, as the server says, and as the clients' answers leave.
    rests: (u64, u64),
    audited: Vec<SymbolReport>,
}

fn at(sorted: &[u64], percent: usize) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

/// Of the n-th symbol, from 0.
fn weight(n: usize) -> f64 {
    1.0 / ((n + 1) as f64).powf(1.5)
}

fn name(n: usize) -> String {
    format!("S{n:03}")
}

/// Which order is next: symbols by their weights, evenly mixed without chance, and each symbol's orders sell and buy in turn
/// at one price.
struct Flow {
    names: Vec<String>,
    /// Orders that each symbol is owed, in units of the first one's weight.
    owed: Vec<f64>,
    total: f64,
    sells_next: Vec<bool>,
}

impl Flow {
    fn new(symbols: usize) -> Self {
        let total = (0..symbols).map(weight).sum();
        Self {
            names: (0..symbols).map(name).collect(),
            owed: vec![0.0; symbols],
            total,
            sells_next: vec![true; symbols],
        }
    }

    /// The symbol that is owed most, and which side is due.
    fn next(&mut self) -> (usize, &'static str) {
        for (n, owed) in self.owed.iter_mut().enumerate() {
            *owed += weight(n);
        }
        let most = (0..self.owed.len()).max_by(|a, b| self.owed[*a].total_cmp(&self.owed[*b])).unwrap_or(0);
        self.owed[most] -= self.total;
        let side = if self.sells_next[most] { "SELL" } else { "BUY" };
        self.sells_next[most] ^= true;
        (most, side)
    }
}

struct Hottest {
    symbol: String,
    node: String,
    share: f64,
}

async fn hottest(admin: &Server) -> anyhow::Result<Hottest> {
    let said = admin.get("/admin/books").await?;
    let books = said["books"].as_array().context("books")?;
    let rate = |b: &Value| b["rate"].as_f64().unwrap_or_default();
    let hottest = books.iter().max_by(|a, b| rate(a).total_cmp(&rate(b))).context("a book")?;
    let all: f64 = books.iter().map(rate).sum();
    ensure!(all > 0.0, "no book has had an order in the last second");
    let text = |field: &str| hottest[field].as_str().map(str::to_owned).context("a book's symbol and node");
    Ok(Hottest { symbol: text("symbol")?, node: text("node")?, share: rate(hottest) / all })
}

/// Moves the book to another node and back, and so on; gives the moves' records.
async fn back_and_forth(admin: &Server, book: &Hottest, moves: usize) -> anyhow::Result<Vec<Value>> {
    let said = admin.get("/admin/nodes").await?;
    let ids = said["nodes"].as_array().context("nodes")?.iter().filter_map(|n| n["id"].as_str());
    let away = ids.filter(|id| *id != book.node).max().context("another node")?.to_owned();
    let (bar, mut records) = (progress(moves as u64, "moves"), Vec::new());
    for n in 1..=moves {
        let target = if n % 2 == 1 { &away } else { &book.node };
        let begun = admin.post("/admin/migrations", json!({"symbol": book.symbol, "target": target})).await?;
        let record = admin.until_ended(begun["id"].as_u64().context("an id")?, LOOK).await?;
        ensure!(record["status"] == "COMPLETED", "move {n} of {moves} is {}: {}", record["status"], record["error"]);
        bar.inc(1);
        if bar.is_hidden() && n % moves.div_ceil(LINES) == 0 {
            eprintln!("{n} of {moves} moves, the last to {target}, pause {} us", record["pause_us"]);
        }
        records.push(record);
        tokio::time::sleep(BETWEEN).await;
    }
    bar.finish_and_clear();
    Ok(records)
}

/// Orders far from where anything trades, over 500 prices.
async fn let_rest(clients: &mut Clients, orders: u64) -> anyhow::Result<()> {
    let prices: Vec<String> = (0..500).map(|n| format!("{}.{:02}", 10 + n / 100, n % 100)).collect();
    let (bar, symbol) = (progress(orders, "orders rest"), name(0));
    let resting =
        (0..orders).map(|n| Order { symbol: &symbol, side: "BUY", price: &prices[n as usize % prices.len()] });
    clients.send_all(resting, |n| bar.set_position(n)).await?;
    bar.finish_and_clear();
    Ok(())
}

async fn measure(args: &MovesArgs, resting: u64) -> anyhow::Result<Run> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::Builder::new().prefix("hotbook-bench-").tempdir_in(dir)?;
    let data = folder.path().join("exchange");
    // The supervisor advises only: nobody but this moves the book. The log keeps all of the run, for the audit.
    let settings = [("HOTBOOK_PLACEMENT_MODE", "advise"), ("HOTBOOK_ORDERS_RETENTION_HOURS", "24")];
    let mut server = ServerProcess::start(&["serve", "--nodes", NODES, "--grpc-port", "0"], &data, false, &settings)?;
    server.listening().await?;
    let admin = Server::developing(&server.url("http"), "bench", &["admin"]).await?;
    let flow = Flow::new(args.symbols.into());
    for symbol in &flow.names {
        admin.post("/admin/instruments", json!({"symbol": symbol})).await?;
    }
    let mut clients = Clients::connect(&[&server], args.clients.into(), "client").await?;
    let_rest(&mut clients, resting).await?;
    let append_p50_us = median_append_us(folder.path().join("append")).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let names = flow.names.clone();
    let (names, mut flow) = (&names, flow);
    let next = move || {
        let (n, side) = flow.next();
        Order { symbol: &names[n], side, price: TRADE_PRICE }
    };
    let moving = async {
        tokio::time::sleep(WARM_UP).await;
        let book = hottest(&admin).await?;
        let loaded = median_append_us(folder.path().join("loaded")).await?;
        let records = back_and_forth(&admin, &book, args.moves).await;
        stop.store(true, Ordering::Release);
        anyhow::Ok((book, loaded, records?))
    };
    let (book, loaded_p50_us, records) =
        tokio::try_join!(moving, clients.send_on_schedule(args.rate, Arc::clone(&stop), next))
            .map(|(moved, ())| moved)?;
    let tally = clients.tally(DRAIN_WITHIN, QUIET).await;
    if let Some(why) = clients.first_refusal() {
        eprintln!("the first refusal: {why}");
    }
    let said = admin.get("/admin/books").await?;
    let rest = said["books"].as_array().context("books")?.iter().filter_map(|b| b["orders"].as_u64()).sum();
    let rests = (rest, (tally.answered_once - tally.refused).saturating_sub(tally.filled_once));
    server.stop().await?;
    let audited = audit(&data).await?;
    let mut pauses: Vec<u64> = records.iter().filter_map(|r| r["pause_us"].as_u64()).filter(|us| *us > 0).collect();
    pauses.sort_unstable();
    let excess = |r: &Value| Some(r["pause_us"].as_u64()?.saturating_sub(r["baseline_gap_us"].as_u64()?));
    let mut excesses: Vec<u64> = records.iter().filter_map(excess).collect();
    excesses.sort_unstable();
    let parked = records.iter().filter_map(|r| r["parked"].as_u64()).sum();
    let (hottest, share, moves) = (book.symbol, book.share, records.len());
    Ok(Run {
        resting,
        hottest,
        share,
        moves,
        pauses,
        excesses,
        parked,
        append_p50_us,
        loaded_p50_us,
        tally,
        rests,
        audited,
    })
}

/// The median of durable appends made one after another in a log of their own, on a thread of their own.
async fn median_append_us(folder: PathBuf) -> anyhow::Result<u64> {
    let measuring = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        anyhow::Ok(runtime.block_on(bare_append_latency(&folder, APPENDS, APPEND_BYTES))?)
    });
    Ok(measuring.await??.p50.as_micros() as u64)
}

/// Judges what the server left behind; after a clean stop every record must be answered.
async fn audit(data: &Path) -> anyhow::Result<Vec<SymbolReport>> {
    let config = Config { data_dir: data.to_owned(), ..Config::default() };
    let secret = known_secret(&config)?.context("the server made a secret")?;
    judge_folder(data, &secret, None, true).await
}

impl Run {
    fn ratio(&self) -> f64 {
        at(&self.pauses, 50) as f64 / self.loaded_p50_us.max(1) as f64
    }

    fn violations(&self) -> u64 {
        self.audited.iter().map(|r| r.violations_total).sum()
    }

    fn moves_audited(&self) -> usize {
        self.audited.iter().map(|r| r.moves.len()).sum()
    }

    /// # Errors
    /// What is not as it should be.
    fn check(&self, args: &MovesArgs) -> anyhow::Result<()> {
        if let Some(first) = self.audited.iter().find_map(|r| r.violations.first()) {
            bail!("the audit found {} violations; the first: {first}", self.violations());
        }
        ensure!(self.audited.len() == usize::from(args.symbols), "{} symbols were audited", self.audited.len());
        ensure!(self.moves_audited() == args.moves, "the audit saw {} of {} moves", self.moves_audited(), args.moves);
        ensure!(self.tally.is_exact(), "not every order was answered exactly once: {:?}", self.tally);
        let (says, left) = self.rests;
        ensure!(says == left, "{says} orders rest, but {left} were taken and not filled");
        Ok(())
    }

    fn print(&self) {
        let (pause, audit) =
            (|percent| at(&self.pauses, percent), if self.violations() == 0 { "clean" } else { "NOT CLEAN" });
        let Self { resting, parked, append_p50_us: append, loaded_p50_us: loaded, .. } = self;
        println!(
            "{resting:>9} {:>6} {:>9} {:>7} {:>7} {:>7} {:>10} {append:>7} {loaded:>7} {:>10.2} {parked:>7} {:>8} {audit:>9}",
            self.pauses.len(),
            pause(50),
            pause(90),
            pause(99),
            pause(100),
            at(&self.excesses, 99),
            self.ratio(),
            self.tally.sent,
        );
    }

    fn json(&self) -> Value {
        let pause = |percent| at(&self.pauses, percent);
        json!({"resting": self.resting, "hottest": self.hottest, "share": self.share, "moves": self.moves,
               "waited": self.pauses.len(),
               "pause_p50_us": pause(50), "pause_p90_us": pause(90), "pause_p99_us": pause(99), "pause_max_us": pause(100),
               "excess_p99_us": at(&self.excesses, 99), "append_p50_us": self.append_p50_us,
               "loaded_append_p50_us": self.loaded_p50_us, "ratio_to_loaded_append": self.ratio(), "parked": self.parked,
               "orders": self.tally, "rests": self.rests.0, "violations": self.violations(),
               "moves_audited": self.moves_audited()})
    }
}

/// Measures and prints.
///
/// # Errors
/// When a move does not complete, an order is not answered exactly once, or the audit is not clean.
pub fn run(args: &MovesArgs) -> anyhow::Result<()> {
    let MovesArgs { moves, symbols, rate, clients, .. } = args;
    println!(
        "serve --nodes {NODES}: {rate} orders/s in {symbols} symbols by {clients} WebSocket clients, open loop, while"
    );
    println!(
        "the hottest book moves back and forth {moves} times; waited: moves in which an order did; pauses of those; in us"
    );
    println!(
        "{:>9} {:>6} {:>9} {:>7} {:>7} {:>7} {:>10} {:>7} {:>7} {:>10} {:>7} {:>8} {:>9}",
        "resting",
        "waited",
        "pause p50",
        "p90",
        "p99",
        "max",
        "excess p99",
        "append",
        "loaded",
        "p50/loaded",
        "parked",
        "orders",
        "audit"
    );
    let mut runs = Vec::new();
    for resting in &args.resting {
        let run = actix::System::new().block_on(measure(args, *resting))?;
        run.print();
        runs.push(run);
    }
    for run in &runs {
        let Tally { sent, acked_once, answered_once, answered_again, never_answered, refused, filled_once, .. } =
            run.tally;
        println!(
            "{} resting: {} had {:.0} % of the load; {sent} orders sent, {acked_once} acknowledged once, {answered_once} \
             answered once, {answered_again} again, {never_answered} never, {refused} refused; {filled_once} filled once, \
             {} rest; audit: {} symbols, {} moves, {} violations",
            run.resting,
            run.hottest,
            run.share * 100.0,
            run.rests.0,
            run.audited.len(),
            run.moves_audited(),
            run.violations(),
        );
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&runs.iter().map(Run::json).collect::<Vec<_>>())?)?;
    }
    runs.iter().try_for_each(|run| run.check(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_symbol_is_hottest_and_each_symbol_sells_and_buys_in_turn() {
        let (mut flow, mut counts, mut sides) = (Flow::new(4), [0u32; 4], vec![Vec::new(); 4]);
        for _ in 0..10_000 {
            let (n, side) = flow.next();
            counts[n] += 1;
            sides[n].push(side);
        }
        // 1 : 0.354 : 0.192 : 0.125.
        assert_eq!(counts, [5_984, 2_116, 1_152, 748]);
        assert!(sides.iter().all(|of| of.iter().enumerate().all(|(n, s)| *s == ["SELL", "BUY"][n % 2])));
    }
}
