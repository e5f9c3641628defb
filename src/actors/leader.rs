//! The leader: one node at a time, by a lease of the route table. It looks at everybody's heartbeats, asks the placement
//! policy, and has its decisions carried out.
//!
//! It is never needed for safety: two leaders at once would at most move a book that need not have moved.

use std::sync::Arc;
use std::time::Duration;

use super::decisions::{Decisions, Seen};
use super::fleet::Fleet;
use super::moves::Moves;
use crate::clock;
use crate::domain::{Micros, NodeId};
use crate::migration::handover::{Cause, MoveId};
use crate::migration::placement::{
    BookView, Decision, Kind, MoveView, NodeView, Placement, PlacementMode, Reason, Settings, View,
};
use crate::ports::routes::{BookLoad, Heartbeat, Holder, LEADER, Lease, NodeStatus, Routes, RoutesError};

/// A leader that has not been heard of for so many windows is one no more.
const LEASE_WINDOWS: u32 = 3;

/// What all nodes of a process lead with.
pub struct LeaderParts {
    pub routes: Arc<dyn Routes>,
    pub moves: Arc<Moves>,
    pub decisions: Arc<Decisions>,
    pub mode: PlacementMode,
    pub settings: Settings,
    pub window: Duration,
}

/// One node's part in it.
pub struct Leader {
    parts: Arc<LeaderParts>,
    me: Holder,
    /// There while it leads: what a former leader remembers is old.
    placement: Option<Placement>,
}

/// The lease as it stands, and the heartbeats if it is one's own.
type Asked = Result<(Lease, Vec<Heartbeat>), RoutesError>;

impl Leader {
    pub fn new(parts: Arc<LeaderParts>, me: Holder) -> Self {
        Self { parts, me, placement: None }
    }

    /// Takes or prolongs the lease if it is to be had.
    pub fn ask(&self) -> impl Future<Output = Asked> + use<> {
        let (routes, me, ttl) = (Arc::clone(&self.parts.routes), self.me, self.parts.window * LEASE_WINDOWS);
        async move {
            let lease = routes.acquire(LEADER, me, ttl).await?;
            let beats = if lease.holder == me { routes.beats().await? } else { Vec::new() };
            Ok((lease, beats))
        }
    }

    /// Forgets what it led with, without prolonging the lease.
    pub fn step_down(&mut self) {
        self.placement = None;
    }

    /// Leads, if it is the leader.
    pub fn lead(&mut self, asked: Asked, fleet: &Arc<Fleet>) {
        let beats = match asked {
            Ok((lease, beats)) => {
                self.parts.decisions.led_by(lease.holder.node, lease.expires_in);
                (lease.holder == self.me).then_some(beats)
            }
            Err(e) => {
                tracing::warn!(node = %self.me.node, error = %e, "whether it leads cannot be known");
                None
            }
        };
        let Some(beats) = beats.filter(|_| self.parts.mode != PlacementMode::Off) else {
            self.placement = None;
            return;
        };
        let is_heeded = self.parts.mode == PlacementMode::Auto;
        let settings = &self.parts.settings;
        let placement = self.placement.get_or_insert_with(|| Placement::new(settings.clone(), is_heeded));
        let view = view_of(&beats, &self.parts.moves, fleet);
        let decisions = placement.look(&view);
        let seen = |n: &NodeView| Seen { id: n.id, load: n.load, band: placement.band(&n.id), is_open: n.is_open };
        let nodes: Vec<Seen> = view.nodes.iter().map(seen).collect();
        let (parts, me, fleet) = (Arc::clone(&self.parts), self.me.node, Arc::clone(fleet));
        // Other processes may have to be asked.
        actix::spawn(async move {
            for decision in decisions {
                let (decision, move_id) = parts.carry_out(decision, &fleet).await;
                parts.decisions.note(me, view.now, decision, move_id, nodes.clone());
            }
        });
    }
}

impl LeaderParts {
    /// Gives the decision as it is to be told.
    async fn carry_out(&self, decision: Decision, fleet: &Fleet) -> (Decision, Option<MoveId>) {
        let is_action = matches!(decision.kind, Kind::Move | Kind::ScaleIn);
        if is_action && self.mode == PlacementMode::Advise {
            return (Decision { kind: Kind::Advise, ..decision }, None);
        }
        let refused = |d: Decision, why: String| {
            let message = format!("{}; refused: {why}", d.message);
            (Decision { kind: Kind::Stay, reason: Reason::Refused, message, ..d }, None)
        };
        match (decision.kind, decision.symbol, decision.from, decision.to) {
            (Kind::Move, Some(symbol), _, Some(to)) => match fleet.move_book(symbol, to, Cause::Load).await {
                Ok(id) => (decision, Some(id)),
                Err(e) => refused(decision, e.to_string()),
            },
            (Kind::ScaleIn, _, Some(node), _) => match fleet.drain_any(&node).await {
                Ok(_) => (decision, None),
                Err(e) => refused(decision, e.to_string()),
            },
            _ => (decision, None),
        }
    }
}

fn view_of(beats: &[Heartbeat], moves: &Moves, fleet: &Fleet) -> View {
    // Of a node of its own it is known before that says so.
    let is_open = |id: &NodeId| match fleet.get(id) {
        Some(node) => moves.reaches(id) && node.takes_books(),
        None => fleet.members().get(id).is_some_and(|member| member.takes_books()),
    };
    let node = |beat: &Heartbeat| NodeView {
        id: beat.node,
        is_open: beat.status == NodeStatus::Active && is_open(&beat.node),
        load: beat.load,
        cores: beat.cores,
        measured_at: Micros(beat.measured_at),
        books: beat.hottest.iter().map(book_view).collect(),
        fetch: beat.partitions.iter().map(|p| (p.partition, p.fetch)).collect(),
    };
    let here = moves.under_way().into_iter().map(|p| MoveView { symbol: p.symbol, from: p.from, to: p.to });
    let elsewhere = beats.iter().filter(|beat| fleet.get(&beat.node).is_none());
    let elsewhere = elsewhere
        .flat_map(|beat| beat.arriving.iter().map(|m| MoveView { symbol: m.symbol, from: m.from, to: beat.node }));
    View {
        now: clock::now(),
        nodes: beats.iter().map(node).collect(),
        moves: here.chain(elsewhere).collect(),
        warm: Vec::new(),
    }
}

fn book_view(load: &BookLoad) -> BookView {
    BookView {
        symbol: load.symbol,
        partition: load.partition,
        rate: load.rate,
        busy: load.busy,
        lag: load.lag,
        waiting_us: load.waiting_us,
        orders: load.orders,
        moved_at: load.moved_at.map(Micros),
    }
}

/// Whether this process looks after the dead: the leader is one of its nodes, or nobody leads, for fencing twice is
/// harmless and not fencing is not (handover rule 13). A leader of its own that has died leads nobody.
pub(super) fn is_led_from_here(decisions: &Decisions, is_here: impl Fn(&NodeId) -> bool) -> bool {
    decisions.leader().is_none_or(|leader| is_here(&leader))
}
