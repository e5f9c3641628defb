//! `admin`: what operators ask and order, over HTTP.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use awc::http::Method;
use clap::Subcommand;
use serde_json::{Value, json};

use super::http::Server;
use super::parts;
use crate::clock;
use crate::config;
use crate::wire::rpc::RpcKey;

/// How often a move is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, clap::Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    pub verb: Verb,
    /// Server.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Token with role admin; without one a development token is asked for.
    #[arg(long, global = true, env = "HOTBOOK_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Prints the server's JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What is asked or ordered.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Nodes with load, books and status.
    Nodes,
    /// Books with node, epoch, orders, rate and lag.
    Books,
    /// The route table.
    Routes,
    /// Moves a book to another node and waits until it is there.
    Migrate {
        symbol: String,
        target: String,
        /// Returns at once.
        #[arg(long)]
        no_wait: bool,
    },
    /// Moves, or one of them.
    Migrations { id: Option<u64> },
    /// What the supervisor decided and why, oldest first, and who leads.
    Decisions {
        /// The newest so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Stops a move before its fence.
    Abort { id: u64 },
    /// Moves all books of a node to the others.
    Drain { node: String },
    /// Stops trading in a symbol.
    Halt { symbol: String },
    /// Trading goes on.
    Resume { symbol: String },
    /// Lists a symbol with the defaults.
    ListSymbol {
        symbol: String,
        /// From whom it takes new orders and replaces: from anyone who may write to the log, or only from the exchange's gateways.
        #[arg(long, default_value = "open", value_parser = ["open", "gateway"])]
        admission: String,
    },
    /// Raises the rules of every book, once every node can run them.
    FinalizeVersion {
        /// The newest that the server knows, without it.
        version: Option<u32>,
    },
    /// Makes the topics of a cluster that are missing, and checks those that are there; changes none.
    InitTopics {
        /// Settings file (TOML).
        #[arg(long)]
        config: Option<PathBuf>,
        /// Of `orders` and `events`; never changed afterwards.
        #[arg(long)]
        partitions: Option<u32>,
        /// Copies of each partition.
        #[arg(long)]
        replication: Option<u32>,
        /// Copies that must have a record before it counts as durable.
        #[arg(long)]
        min_insync_replicas: Option<u32>,
    },
    /// Makes a token for one gRPC call, good for a minute, from HOTBOOK_CLUSTER_SECRET or the settings file.
    GrpcToken {
        /// Settings file (TOML).
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

async fn server(args: &AdminArgs) -> anyhow::Result<Server> {
    match &args.token {
        Some(token) => Ok(Server::new(&args.url, token.clone())),
        None => Server::developing(&args.url, "operator", &["admin"]).await.context("no --token was given"),
    }
}

/// Whoever reads may have enough (`| head`): no reason to fail.
fn say(line: &str) {
    _ = writeln!(std::io::stdout(), "{line}");
}

/// A table of the named fields, as wide as its content.
fn table(rows: &[Value], fields: &[&str]) {
    let cell = |row: &Value, field: &str| match &row[field] {
        Value::String(s) => s.clone(),
        Value::Null => "-".into(),
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    let width = |f: &str| rows.iter().map(|r| cell(r, f).len()).chain([f.len()]).max().unwrap_or(0);
    let widths: Vec<usize> = fields.iter().map(|f| width(f)).collect();
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        say(padded.join("  ").trim_end());
    };
    line(fields.iter().map(|f| (*f).to_owned()).collect());
    for row in rows {
        line(fields.iter().map(|f| cell(row, f)).collect());
    }
}

const BOOK: &[&str] = &["symbol", "node", "epoch", "seq", "orders", "rate", "busy", "lag", "waiting_us", "active"];
const MOVE: &[&str] =
    &["id", "symbol", "from", "to", "cause", "status", "parked", "pause_us", "book_orders", "code", "error"];

fn show(args: &AdminArgs, answer: &Value) {
    let rows = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
    match &args.verb {
        _ if args.json => say(&answer.to_string()),
        Verb::Nodes => {
            table(&rows("nodes"), &["id", "status", "leads", "books", "load", "cores", "rate", "lag", "waiting_us"])
        }
        Verb::Books => table(&rows("books"), BOOK),
        Verb::Decisions { .. } => {
            let (leader, mode) = (answer["leader"].as_str(), answer["mode"].as_str());
            say(&format!("leader {}, mode {}", leader.unwrap_or("none"), mode.unwrap_or("?")));
            table(&rows("decisions"), &["at", "times", "kind", "reason", "migration_id", "message"]);
        }
        Verb::Routes => table(&rows("routes"), &["symbol", "target_instance", "status", "epoch", "partition", "to"]),
        Verb::Migrations { id: None } => table(&rows("migrations"), MOVE),
        Verb::Migrations { .. } | Verb::Migrate { no_wait: false, .. } => {
            table(std::slice::from_ref(answer), MOVE);
            table(&rows("steps"), &["name", "started_at", "took_us"]);
        }
        _ => say(&answer.to_string()),
    }
}

fn grpc_token(config: Option<&Path>) -> anyhow::Result<String> {
    let config = config::load(config, std::env::vars(), Default::default())?;
    let secret = config.cluster_secret.context("no cluster_secret (HOTBOOK_CLUSTER_SECRET) is configured")?;
    Ok(RpcKey::from_secret(secret.as_bytes()).token(clock::now()))
}

async fn ask(args: &AdminArgs) -> anyhow::Result<Value> {
    let server = server(args).await?;
    let post = async |path: String, body: Value| server.post(&path, body).await;
    match &args.verb {
        Verb::GrpcToken { .. } | Verb::InitTopics { .. } => bail!("this is done here, not asked for"),
        Verb::Nodes => server.get("/admin/nodes").await,
        Verb::Books => server.get("/admin/books").await,
        Verb::Routes => server.get("/admin/routes").await,
        Verb::Migrations { id: None } => server.get("/admin/migrations").await,
        Verb::Migrations { id: Some(id) } => server.get(&format!("/admin/migrations/{id}")).await,
        Verb::Decisions { limit } => server.get(&format!("/admin/decisions?limit={limit}")).await,
        Verb::Abort { id } => server.call(Method::DELETE, &format!("/admin/migrations/{id}"), None).await,
        Verb::Drain { node } => post(format!("/admin/nodes/{node}/drain"), json!({})).await,
        Verb::Halt { symbol } => post(format!("/admin/books/{symbol}/halt"), json!({})).await,
        Verb::Resume { symbol } => post(format!("/admin/books/{symbol}/resume"), json!({})).await,
        Verb::ListSymbol { symbol, admission } => {
            post("/admin/instruments".into(), json!({"symbol": symbol, "admission": admission})).await
        }
        Verb::FinalizeVersion { version } => {
            let body = version.map_or(json!({}), |version| json!({"version": version}));
            post("/admin/finalize-version".into(), body).await
        }
        Verb::Migrate { symbol, target, no_wait } => {
            let begun = post("/admin/migrations".into(), json!({"symbol": symbol, "target": target})).await?;
            match begun["id"].as_u64() {
                Some(id) if !no_wait => server.until_ended(id, LOOK).await,
                _ => Ok(begun),
            }
        }
    }
}

/// What `init-topics` makes, by file, environment and flags.
fn init_topics(config: Option<&Path>, flags: [(&str, Option<u32>); 3]) -> anyhow::Result<Vec<String>> {
    let given =
        flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), figment::value::Value::from(value?))));
    let config = config::load(config, std::env::vars(), given.collect())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(parts::init_topics(&config))
}

/// Asks and prints.
///
/// # Errors
/// The server's code and message; a move that did not complete.
pub fn run(args: &AdminArgs) -> anyhow::Result<()> {
    if let Verb::GrpcToken { config } = &args.verb {
        println!("{}", grpc_token(config.as_deref())?);
        return Ok(());
    }
    if let Verb::InitTopics { config, partitions, replication, min_insync_replicas } = &args.verb {
        let flags = [
            ("partitions", *partitions),
            ("kafka_replication", *replication),
            ("kafka_min_insync_replicas", *min_insync_replicas),
        ];
        init_topics(config.as_deref(), flags)?.iter().for_each(|line| say(line));
        return Ok(());
    }
    let answer = actix_rt::System::new().block_on(ask(args))?;
    show(args, &answer);
    match (&args.verb, answer["status"].as_str()) {
        (Verb::Migrate { no_wait: false, .. }, Some(status)) if status != "COMPLETED" => bail!("the move is {status}"),
        _ => Ok(()),
    }
}
