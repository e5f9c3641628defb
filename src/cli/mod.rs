//! The command line.

mod admin;
pub mod audit;
pub mod bench;
mod demo;
pub mod flow;
pub mod flow_file;
mod http;
mod inspect;
mod parts;
pub mod replay;
pub mod serve;
mod sim;
mod sim_placement;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use figment::value::{Dict, Value};

use crate::config::{self, Config};

/// An exchange whose order books move between machines while they trade.
#[derive(Debug, Parser)]
#[command(name = "hotbook", version, about)]
struct Cli {
    /// Without one: `serve --nodes 3 --demo`.
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Runs the exchange.
    Serve(ServeArgs),
    /// Checks the settings and prints the effective values, secrets masked.
    CheckConfig(ServeArgs),
    /// Nodes, books, routes and moves of a running exchange.
    Admin(admin::AdminArgs),
    /// Judges log and snapshots of a data folder or a cluster, also beside a running exchange; status 1 if anything is wrong.
    Audit(audit::AuditArgs),
    /// Looks into snapshot files.
    #[command(subcommand)]
    Snapshot(inspect::SnapshotAction),
    /// Runs recorded or synthetic flow against a server, and says what came of it.
    Replay(replay::ReplayArgs),
    /// Makes synthetic order flow.
    Flow(flow::FlowArgs),
    /// Runs the handover in a simulated world where everything goes wrong, and judges what came of it.
    Sim(sim::SimArgs),
    /// Measures, each figure beside a baseline of the same run.
    #[command(subcommand)]
    Bench(bench::BenchAction),
}

/// What `serve` and `check-config` take.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Settings file (TOML).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Nodes in this process, each with books and threads of its own.
    #[arg(long)]
    nodes: Option<usize>,
    /// In a cluster: gateway, engine or both.
    #[arg(long)]
    role: Option<config::Role>,
    /// Where log and snapshots are kept.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Lists a few symbols and runs a gentle synthetic flow.
    #[arg(long)]
    demo: bool,
    /// Starts although acknowledged records are gone from the end of the log, without them.
    #[arg(long)]
    accept_lost_tail: bool,
    /// HTTP port; 0 takes a free one, for gRPC too unless that is named.
    #[arg(long)]
    http_port: Option<u16>,
    /// gRPC port; 0 takes a free one.
    #[arg(long)]
    grpc_port: Option<u16>,
}

impl ServeArgs {
    /// The effective settings.
    ///
    /// # Errors
    /// See [`config::load`].
    pub fn settings(&self) -> Result<Config, config::ConfigError> {
        let mut flags = Dict::new();
        if let Some(n) = self.nodes {
            flags.insert("nodes".into(), Value::from(n));
        }
        if let Some(role) = self.role {
            flags.insert("role".into(), Value::serialize(role).unwrap_or(Value::from("")));
        }
        if let Some(port) = self.http_port {
            flags.insert("http_port".into(), Value::from(port));
        }
        if let Some(port) = self.grpc_port {
            flags.insert("grpc_port".into(), Value::from(port));
        }
        if let Some(data) = &self.data {
            flags.insert("data_dir".into(), Value::from(data.to_string_lossy().into_owned()));
        }
        if self.accept_lost_tail {
            flags.insert("accept_lost_tail".into(), Value::from(true));
        }
        if self.demo {
            flags.insert("demo".into(), Value::from(true));
        }
        config::load(self.config.as_deref(), std::env::vars(), flags)
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let first_sight = || ServeArgs { nodes: Some(3), demo: true, ..ServeArgs::default() };
    let done = match cli.command.unwrap_or_else(|| Action::Serve(first_sight())) {
        Action::Serve(args) => args.settings().map_err(Into::into).and_then(|config| serve::run(&config)),
        Action::CheckConfig(args) => check_config(&args),
        Action::Admin(args) => admin::run(&args),
        Action::Audit(args) => audit::run(&args),
        Action::Replay(args) => replay::run(&args),
        Action::Flow(args) => flow::run(&args),
        Action::Sim(args) => sim::run(&args),
        Action::Bench(action) => bench::run(action),
        Action::Snapshot(action) => inspect::run(&action),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hotbook: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn check_config(args: &ServeArgs) -> Result<()> {
    print!("{}", args.settings()?.masked());
    Ok(())
}

/// A progress bar on a terminal; nothing elsewhere, where the closing figures are enough.
pub(crate) fn progress(total: u64, what: &'static str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {msg} {per_sec} {eta}");
    let bar = indicatif::ProgressBar::new(total).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
