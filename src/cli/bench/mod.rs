//! `bench`: every figure is printed beside a baseline of the same run.

pub mod actor;
pub mod baseline;
mod chart;
mod child;
pub mod engine;
pub mod gateways;
#[cfg(feature = "kafka")]
mod kafka;
mod load;
pub mod migration;
pub mod moves;
#[cfg(feature = "kafka")]
mod on_kafka;
pub mod order_entry;
pub mod recovery;
pub mod scale;
pub mod snapshot;
mod ws_load;

use clap::Subcommand;

use super::flow;
use super::flow_file::{self, FlowRecord};
use super::progress;
use crate::domain::command::Listing;
use crate::domain::{Authority, Command, Input, Instrument, Micros, NodeId, Offset, OrderId, Origin, Symbol};
use crate::ports::log::{Topic, TopicPartition};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchAction {
    /// The bare engine: commands per CPU second, beside the naive matcher.
    Engine(engine::EngineArgs),
    /// The same through the book actor's mailbox, beside the bare engine.
    Actor(actor::ActorArgs),
    /// Order to ACK and to FILL over WebSocket, beside a bare echo with durable appends.
    OrderEntry(order_entry::OrderEntryArgs),
    /// Pause of a move under load, over book sizes, beside one durable append.
    Migration(migration::MigrationArgs),
    /// `serve --nodes 3` under load over WebSocket while its hottest book moves back and forth: every order answered
    /// once, clean audit, the pauses beside one durable append.
    Moves(moves::MovesArgs),
    /// A node dies with its books: how long until each trades again, beside reading the same snapshots and log alone.
    Recovery(recovery::RecoveryArgs),
    /// How long a book stands still for its snapshot, and how large that is, beside a bare copy and JSON.
    Snapshot(snapshot::SnapshotArgs),
    /// Round trip and throughput of an exchange on Kafka, beside a bare loop on the same brokers.
    #[cfg(feature = "kafka")]
    Kafka(kafka::KafkaArgs),
    /// CPU that one gateway and several use in front of the same engine, processes of their own on a cluster's parts.
    Gateways(gateways::GatewaysArgs),
    /// Many symbols on one node: memory per idle book, time to start.
    Scale(scale::ScaleArgs),
    /// The baseline server that `order-entry` starts.
    #[command(hide = true)]
    BaselineServer(baseline::BaselineArgs),
}

/// Runs one.
///
/// # Errors
/// When it cannot be measured.
pub fn run(action: BenchAction) -> anyhow::Result<()> {
    match action {
        BenchAction::Engine(args) => engine::run(&args),
        BenchAction::Actor(args) => actor::run(args),
        BenchAction::OrderEntry(args) => order_entry::run(args),
        BenchAction::Migration(args) => migration::run(&args),
        BenchAction::Moves(args) => moves::run(&args),
        BenchAction::Recovery(args) => recovery::run(&args),
        BenchAction::Snapshot(args) => snapshot::run(&args),
        #[cfg(feature = "kafka")]
        BenchAction::Kafka(args) => kafka::run(&args),
        BenchAction::Gateways(args) => gateways::run(&args),
        BenchAction::Scale(args) => scale::run(args),
        BenchAction::BaselineServer(args) => baseline::run(args),
    }
}

const ORDERS_0: TopicPartition = TopicPartition { topic: Topic::Orders, partition: 0 };

/// A record as a feed would have decoded it.
fn input_of(n: u64, record: &FlowRecord, order_id_of: fn(u32) -> OrderId) -> Input<Command> {
    let origin = Origin { gateway: 1, counter: n };
    Input { offset: Offset(n), at: Micros(n), origin, command: flow_file::command_of(record, order_id_of) }
}

fn listing_of(n: u64) -> Input<Command> {
    let owner = NodeId::new("n1").unwrap_or_else(|_| unreachable!("n1 is a good name"));
    let listing = Listing { instrument: Instrument::plain(2, 1, 1), owner, id_key: 0x5eed, rules_version: 1 };
    let authority = Authority { nonce: u128::from(n), valid_until: Micros(u64::MAX) };
    let command = Command::List { listing: Box::new(listing), authority };
    Input { offset: Offset(n), at: Micros(0), origin: Origin::NONE, command }
}

type SymbolInputs = Vec<(Symbol, Input<Command>)>;

/// A flow's listings, warm-up and timed records.
fn flow_inputs(kind: &str, records: u64) -> anyhow::Result<(SymbolInputs, SymbolInputs, SymbolInputs)> {
    let bar = progress(records, "records made");
    let (header, all) = flow::generate(kind, records, &|n| bar.set_position(n))?;
    bar.finish_and_clear();
    let listings = (0..header.symbols).map(|n| (flow_file::symbol_of(n as u16), listing_of(n))).collect();
    let mut inputs: SymbolInputs = (header.symbols..)
        .zip(&all)
        .map(|(n, r)| (flow_file::symbol_of(r.symbol), input_of(n, r, flow_file::order_id_of)))
        .collect();
    let timed = inputs.split_off(header.warm_up as usize);
    Ok((listings, inputs, timed))
}
