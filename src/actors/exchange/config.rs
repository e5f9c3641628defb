//! How the exchange of one process is set up.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::actors::book::SHADOW_BYTES_MAX;
use crate::actors::node::NodeSettings;
use crate::domain::ids::BadName;
use crate::domain::{NodeId, Symbol};
use crate::migration::placement::{self, PlacementMode};
use crate::ports::routes::Addresses;

/// How the exchange is set up.
#[derive(Debug, Clone)]
pub struct ExchangeConfig {
    pub data_dir: PathBuf,
    /// Nodes in this process; 0 for a gateway beside the nodes of other processes.
    pub nodes: usize,
    /// Name of the node; of several: what their names begin with. Without one they are called n1 to nN.
    pub node_id: Option<NodeId>,
    /// Partitions of `orders` and `events`; fixed when the data folder is made.
    pub partitions: u32,
    /// Threads for the books of each node; 0 = one per core, divided among the nodes.
    pub book_threads_per_node: usize,
    pub snapshot_every_s: u64,
    pub snapshot_every_records: u64,
    pub snapshots_per_second_max: usize,
    pub events_retention_hours: u64,
    /// 0: as soon as no snapshot needs them.
    pub orders_retention_hours: u64,
    /// A book further behind than this takes no new orders.
    pub lag_records_max: u64,
    /// Goes on without acknowledged records that are gone from the end of the log, instead of not starting.
    pub accept_lost_tail: bool,
    /// Signs control records.
    pub cluster_secret: Vec<u8>,
    /// Whether this process writes the derived topics of the partitions whose lease it gets.
    pub projector: bool,
    /// How long load is measured before it counts.
    pub load_window_ms: u64,
    /// The budget of each node, in cores; 0 = all cores, divided among the nodes, and 1 at least.
    pub node_cores: f64,
    /// Replicas that follow each book on other nodes, to take it over at once: 0 or 1.
    pub standby: usize,
    /// What one shadow keeps back before it forgets it; for fault tests.
    pub shadow_bytes_max: usize,
    /// Whether books move by themselves.
    pub placement_mode: PlacementMode,
    pub placement: placement::Settings,
    /// Development only: CPU time that each command of a symbol is made to cost.
    pub dev_command_cost_us: HashMap<Symbol, u64>,
    /// Development only: how long each step of a move waits before anything is done for it.
    pub dev_move_step_ms: u64,
    /// Where the process is reached by others; `None`: it is alone.
    pub cluster: Option<Addresses>,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("hotbook-data"),
            nodes: 1,
            node_id: None,
            partitions: 64,
            book_threads_per_node: 0,
            snapshot_every_s: 10,
            snapshot_every_records: 100_000,
            snapshots_per_second_max: 64,
            events_retention_hours: 24,
            orders_retention_hours: 0,
            lag_records_max: 50_000,
            accept_lost_tail: false,
            cluster_secret: Vec::new(),
            projector: false,
            load_window_ms: 1_000,
            node_cores: 0.0,
            standby: 0,
            shadow_bytes_max: SHADOW_BYTES_MAX,
            // Tests and benchmarks say themselves where books are; `serve` has its own default.
            placement_mode: PlacementMode::Off,
            placement: placement::Settings::default(),
            dev_command_cost_us: HashMap::new(),
            dev_move_step_ms: 0,
            cluster: None,
        }
    }
}

/// One node is called as it was told, several `NAME-1` to `NAME-N`; without a name `n1` to `nN`.
///
/// # Errors
/// When a name with its number is too long.
pub(super) fn node_ids(config: &ExchangeConfig) -> Result<Vec<NodeId>, BadName> {
    let id = |n: usize| match config.node_id {
        Some(id) if config.nodes == 1 => Ok(id),
        Some(id) => NodeId::new(&format!("{id}-{n}")),
        None => NodeId::new(&format!("n{n}")),
    };
    (1..=config.nodes).map(id).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(super) fn threads_per_node(config: &ExchangeConfig) -> usize {
    match config.book_threads_per_node {
        0 => (cores() / config.nodes.max(1)).max(1),
        n => n,
    }
}

pub(super) fn node_settings(config: &ExchangeConfig) -> NodeSettings {
    NodeSettings {
        snapshot_every: Duration::from_secs(config.snapshot_every_s),
        snapshot_every_records: config.snapshot_every_records,
        snapshots_per_second_max: config.snapshots_per_second_max,
        cores: if config.node_cores > 0.0 { config.node_cores } else { (cores() / config.nodes).max(1) as f64 },
        shadow_bytes_max: config.shadow_bytes_max,
        dev_command_cost_us: config.dev_command_cost_us.clone(),
    }
}
