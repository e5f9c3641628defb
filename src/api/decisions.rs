//! What the supervisor decided and why: role admin.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::edge::Shared;
use super::gathered;
use super::rest::Outcome;
use crate::actors::cluster::Read;
use crate::actors::decisions::{Decided, Seen};
use crate::actors::exchange::Exchange;
use crate::domain::{NodeId, Symbol};
use crate::migration::handover::MoveId;
use crate::migration::placement::{Band, Kind, PlacementMode, Reason};
use crate::wire::rfc3339;

/// A node as it was seen.
#[derive(Serialize)]
struct SeenOut {
    id: NodeId,
    load: f64,
    band: Band,
    takes_books: bool,
}

/// A decision as operators see it.
#[derive(Serialize)]
struct DecisionOut {
    id: u64,
    at: String,
    last_at: String,
    times: u64,
    by: NodeId,
    kind: Kind,
    reason: Reason,
    message: String,
    symbol: Option<Symbol>,
    from: Option<NodeId>,
    to: Option<NodeId>,
    migration_id: Option<MoveId>,
    nodes: Vec<SeenOut>,
}

fn view(decided: Decided) -> DecisionOut {
    let seen = |s: Seen| SeenOut { id: s.id, load: s.load, band: s.band, takes_books: s.is_open };
    let Decided { id, at, last_at, times, by, decision, move_id, nodes } = decided;
    DecisionOut {
        id,
        at: rfc3339(at),
        last_at: rfc3339(last_at),
        times,
        by,
        kind: decision.kind,
        reason: decision.reason,
        message: decision.message,
        symbol: decision.symbol,
        from: decision.from,
        to: decision.to,
        migration_id: move_id,
        nodes: nodes.into_iter().map(seen).collect(),
    }
}

#[derive(Deserialize)]
pub(super) struct Amount {
    /// The newest so many; 100 without it.
    limit: Option<usize>,
}

/// Oldest first.
pub(super) async fn list(edge: Shared, request: HttpRequest, query: web::Query<Amount>) -> Outcome {
    edge.admin(&request)?;
    #[derive(Serialize)]
    struct Decisions<'a> {
        /// `None`: nobody has the lease, or nobody could be asked.
        leader: Option<NodeId>,
        mode: PlacementMode,
        decisions: &'a [Box<RawValue>],
    }
    let mut all = gathered::all(&edge.exchange, Read::Decisions).await;
    if edge.exchange.members().is_cluster() {
        gathered::sort_by_time(&mut all, "/at");
    }
    let decisions = &all[all.len().saturating_sub(query.limit.unwrap_or(100))..];
    let (leader, mode) = (edge.exchange.decisions().leader(), edge.exchange.placement_mode());
    Ok(HttpResponse::Ok().json(Decisions { leader, mode, decisions }))
}

/// Those of this process, oldest first.
pub(super) fn entries(exchange: &Exchange) -> gathered::Entries {
    gathered::entries(exchange.decisions().newest(usize::MAX).into_iter().map(view))
}
