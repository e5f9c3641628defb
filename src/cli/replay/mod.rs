//! `replay`: runs recorded or synthetic flow against a server over WebSocket, or in process, and says what came of it.

mod client;
mod in_process;
mod lobster;
mod summary;

use std::path::PathBuf;

use clap::ValueEnum;

use super::flow_file;
use crate::domain::{Command, Instrument, OrderId, SelfTrade, Symbol, UserId};
use summary::Summary;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// LOBSTER's message file, csv or csv.gz.
    Lobster,
    /// What `hotbook flow` writes.
    Flow,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    pub file: PathBuf,
    #[arg(long, value_enum)]
    pub format: Format,
    /// Server.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Symbol of a LOBSTER file; it is listed if it is not there.
    #[arg(long, default_value = "AAPL")]
    pub symbol: String,
    /// Straight into the engine, without a server.
    #[arg(long)]
    pub in_process: bool,
    /// Commands that may be unanswered.
    #[arg(long, default_value_t = 1_000)]
    pub window: usize,
    /// Writes the summary as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// One command, and the resting orders that its trades hit in reality.
#[derive(Debug, Clone)]
pub struct Step {
    pub symbol: Symbol,
    pub command: Command,
    pub hits: Vec<OrderId>,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    pub listings: Vec<(Symbol, Instrument)>,
    pub steps: Vec<Step>,
    /// Fills and quantity that must come of it, where that is known.
    pub expected: Option<(u64, u64)>,
}

/// One connection is one user, so all orders are one user's, and trade with each other (`stp` none).
const USER: &str = "replay";

fn plan(args: &ReplayArgs) -> anyhow::Result<Plan> {
    let user = UserId::new(USER)?;
    match args.format {
        Format::Lobster => Ok(lobster::plan(&lobster::read(&args.file)?, Symbol::new(&args.symbol)?, user)),
        Format::Flow => {
            let (header, records) = flow_file::read(&args.file)?;
            let step = |r| {
                let mut command = flow_file::command_of(r, flow_file::order_id_of);
                match &mut command {
                    Command::Add(order) => (order.user, order.self_trade) = (user, SelfTrade::None),
                    Command::Cancel { user: of, .. } | Command::Replace { user: of, .. } => *of = user,
                    _ => {}
                }
                Step { symbol: flow_file::symbol_of(r.symbol), command, hits: Vec::new() }
            };
            let symbols = (0..header.symbols).map(|n| flow_file::symbol_of(n as u16));
            Ok(Plan {
                listings: symbols.map(|s| (s, Instrument::plain(2, 1, 1))).collect(),
                steps: records.iter().map(step).collect(),
                expected: Some((header.fills, header.filled_quantity)),
            })
        }
    }
}

/// Runs it.
///
/// # Errors
/// When the file or the server cannot be used, a command is not answered, or the fills are not those expected.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let plan = plan(args)?;
    let summary: Summary = if args.in_process {
        in_process::run(&plan)?
    } else {
        actix::System::new().block_on(client::run(&args.url, &plan, args.window.max(1), USER))?
    };
    println!("{summary}");
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&summary)?)?;
    }
    summary.check(&plan)
}
