//! The supervisor: one per node. It measures its node, says so in the route table, and leads the cluster if it has the lease.

use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::prelude::*;

use super::directory::BookStatus;
use super::fleet::Fleet;
use super::leader::{Leader, LeaderParts};
use super::load::LoadMeter;
use super::node::{NodeContext, NodeLoad};
use crate::clock;
use crate::ports::routes::{Addresses, Arriving, BookLoad, Heartbeat, Holder, NodeStatus, PartitionLoad, Routes};

/// A node of which nothing was heard for so many windows is forgotten.
const FORGOTTEN_AFTER_WINDOWS: u32 = 5;

/// What a supervisor works with.
pub struct SupervisorParts {
    pub node: Arc<NodeContext>,
    pub fleet: Weak<Fleet>,
    pub routes: Arc<dyn Routes>,
    pub addresses: Addresses,
    /// How long load is measured before it is told.
    pub window: Duration,
    pub leading: Arc<LeaderParts>,
}

/// See the module.
pub struct Supervisor {
    parts: SupervisorParts,
    meter: LoadMeter,
    leader: Leader,
    /// The table is being told; a slow one is told less often.
    is_telling: bool,
}

impl Supervisor {
    pub fn new(parts: SupervisorParts) -> Self {
        let meter = LoadMeter::new(&parts.node.spent);
        let me = Holder { node: parts.node.id, incarnation: parts.node.incarnation };
        let leader = Leader::new(Arc::clone(&parts.leading), me);
        Self { parts, meter, leader, is_telling: false }
    }

    fn end_window(&mut self, ctx: &mut Context<Self>) {
        let Some(fleet) = self.parts.fleet.upgrade() else {
            ctx.stop();
            return;
        };
        let node = &self.parts.node;
        let books = node.statuses();
        let window = self.meter.measure(&node.spent, &books);
        let load = NodeLoad { load: window.busy / node.settings.cores, measured_at: clock::now(), fetch: window.fetch };
        node.set_load(load.clone());
        let status = fleet.get(&node.id).map_or(NodeStatus::Starting, super::fleet::RunningNode::status);
        let beat = Heartbeat { log_lost: fleet.members().log_is_lost(), ..self.heartbeat(status, load, &books) };
        if !std::mem::replace(&mut self.is_telling, true) {
            let (routes, ttl) = (Arc::clone(&self.parts.routes), self.parts.window * FORGOTTEN_AFTER_WINDOWS);
            // Who cannot reach the log could only hold up others that can.
            let ask = (!beat.log_lost).then(|| self.leader.ask());
            let tell = async move {
                let told = routes.beat(beat, ttl).await;
                let asked = match ask {
                    Some(ask) => Some(ask.await),
                    None => None,
                };
                (told, asked)
            };
            ctx.spawn(tell.into_actor(self).map(|(told, asked), supervisor, _| {
                supervisor.is_telling = false;
                if let Err(e) = told {
                    tracing::warn!(node = %supervisor.parts.node.id, error = %e, "heartbeat not written");
                }
                match (asked, supervisor.parts.fleet.upgrade()) {
                    (Some(asked), Some(fleet)) => supervisor.leader.lead(asked, &fleet),
                    _ => supervisor.leader.step_down(),
                }
            }));
        }
    }

    fn heartbeat(&self, status: NodeStatus, load: NodeLoad, books: &[Arc<BookStatus>]) -> Heartbeat {
        let moves = &self.parts.leading.moves;
        let node = &self.parts.node;
        let mut hottest: Vec<BookLoad> = books.iter().filter(|b| b.is_active()).map(|b| book_load(b)).collect();
        let owned = hottest.len() as u64;
        hottest.sort_by(|a, b| b.busy.total_cmp(&a.busy).then(a.symbol.cmp(&b.symbol)));
        hottest.truncate(Heartbeat::HOTTEST_MAX);
        Heartbeat {
            node: node.id,
            incarnation: node.incarnation,
            addresses: self.parts.addresses.clone(),
            status,
            measured_at: load.measured_at.0,
            load: load.load,
            cores: node.settings.cores,
            books: owned,
            log_lost: false,
            hottest,
            partitions: load.fetch.into_iter().map(|(partition, fetch)| PartitionLoad { partition, fetch }).collect(),
            arriving: moves
                .under_way()
                .into_iter()
                .filter(|plan| plan.to == node.id)
                .take(Heartbeat::ARRIVING_MAX)
                .map(|plan| Arriving { symbol: plan.symbol, from: plan.from })
                .collect(),
        }
    }
}

fn book_load(book: &BookStatus) -> BookLoad {
    BookLoad {
        symbol: book.symbol,
        partition: book.partition,
        rate: book.rate(),
        busy: book.busy(),
        lag: book.lag(),
        waiting_us: book.waiting_us(),
        orders: book.orders(),
        moved_at: book.moved_at().map(|at| at.0),
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.parts.window, Self::end_window);
    }
}
