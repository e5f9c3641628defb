//! Moves of books, and drains: role admin.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::edge::Shared;
use super::error::{Code, EdgeError};
use super::gathered;
use super::rest::{Body, Outcome, bytes};
use super::schema;
use crate::actors::cluster::Read;
use crate::actors::exchange::Exchange;
use crate::actors::fleet::DrainError;
use crate::actors::moves::MoveError;
use crate::domain::{NodeId, Symbol};
use crate::migration::handover::{AbortError, Cause, MoveId, MoveRecord, MoveStatus, Step};
use crate::wire::rfc3339;

/// Registers the addresses.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/admin/migrations").get(list).post(begin))
        .service(web::resource("/admin/migrations/{id}").get(show).delete(abort))
        .service(web::resource("/admin/nodes/{id}/drain").post(drain));
}

#[derive(Serialize)]
struct StepOut {
    name: Step,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_us: Option<u64>,
}

/// A move as operators see it; times in microseconds.
#[derive(Serialize)]
struct MoveOut {
    id: MoveId,
    symbol: Symbol,
    from: NodeId,
    to: NodeId,
    cause: Cause,
    status: MoveStatus,
    steps: Vec<StepOut>,
    parked: Option<u64>,
    pause_us: Option<u64>,
    baseline_gap_us: Option<u64>,
    snapshot_stall_us: u64,
    book_orders: u64,
    snapshot_bytes: u64,
    /// What it waits for, or waited for in vain.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn view(record: &MoveRecord) -> MoveOut {
    let step = |s: &crate::migration::handover::StepRecord| StepOut {
        name: s.name,
        started_at: rfc3339(s.started_at),
        took_us: s.took_us,
    };
    MoveOut {
        id: record.plan.id,
        symbol: record.plan.symbol,
        from: record.plan.from,
        to: record.plan.to,
        cause: record.plan.cause,
        status: record.status,
        steps: record.steps.iter().map(step).collect(),
        parked: record.parked,
        pause_us: record.pause_us,
        baseline_gap_us: record.baseline_gap_us,
        snapshot_stall_us: record.snapshot_stall_us,
        book_orders: record.book_orders,
        snapshot_bytes: record.snapshot_bytes,
        code: record.code,
        error: record.error.clone(),
    }
}

#[derive(Deserialize)]
struct Amount {
    /// The newest so many; all that are remembered without it.
    limit: Option<usize>,
}

/// Oldest first.
async fn list(edge: Shared, request: HttpRequest, query: web::Query<Amount>) -> Outcome {
    edge.admin(&request)?;
    let mut all = gathered::all(&edge.exchange, Read::Migrations).await;
    if edge.exchange.members().is_cluster() {
        // Not by id: each process gives out its own.
        gathered::sort_by_time(&mut all, "/steps/0/started_at");
    }
    let older = all.len().saturating_sub(query.limit.unwrap_or(all.len()));
    Ok(HttpResponse::Ok().json(json!({"migrations": all[older..]})))
}

/// The moves to nodes of this process, oldest first.
pub(super) fn entries(exchange: &Exchange) -> gathered::Entries {
    gathered::entries(exchange.moves().all().iter().map(view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveFields {
    symbol: Option<String>,
    target: Option<String>,
}

async fn begin(edge: Shared, request: HttpRequest, body: Body) -> Outcome {
    edge.admin(&request)?;
    edge.takes_commands()?;
    let body = bytes(body)?;
    let fields: MoveFields = schema::read(&body)?;
    let (symbol, _) = edge.listed(Some(fields.symbol.as_deref().ok_or_else(|| schema::missing("symbol"))?))?;
    let target = fields.target.as_deref().ok_or_else(|| schema::missing("target"))?;
    let target = node_id(target)?;
    let id = edge.exchange.fleet().move_book(symbol, target, Cause::Operator).await.map_err(|e| {
        let code = match e {
            MoveError::UnknownSymbol => Code::UnknownSymbol,
            MoveError::UnknownNode => Code::UnknownNode,
            MoveError::NodeDown => Code::NodeDown,
            MoveError::AlreadyThere => Code::AlreadyThere,
            MoveError::AlreadyMoving => Code::AlreadyMoving,
            MoveError::NotReady | MoveError::TooMany => Code::Overloaded,
            MoveError::NoAnswer => Code::OutcomeUnknown,
        };
        EdgeError::new(code).message(e.to_string()).detail("symbol", symbol.as_str()).detail("target", target.as_str())
    })?;
    Ok(HttpResponse::Accepted().json(json!({"id": id})))
}

fn node_id(text: &str) -> Result<NodeId, EdgeError> {
    NodeId::new(text).map_err(|_| EdgeError::new(Code::UnknownNode).detail("node", text))
}

fn move_id(text: &str) -> Result<MoveId, EdgeError> {
    text.parse().map(MoveId).map_err(|_| EdgeError::new(Code::UnknownMigration).detail("id", text))
}

async fn show(edge: Shared, request: HttpRequest, path: web::Path<String>) -> Outcome {
    edge.admin(&request)?;
    let id = move_id(&path)?;
    if let Some(record) = edge.exchange.moves().get(id) {
        return Ok(HttpResponse::Ok().json(view(&record)));
    }
    // Whoever carries it out knows it.
    let all = if edge.exchange.members().is_cluster() {
        gathered::all(&edge.exchange, Read::Migrations).await
    } else {
        Vec::new()
    };
    #[derive(Deserialize)]
    struct Numbered {
        id: MoveId,
    }
    let is_it = |entry: &RawValue| serde_json::from_str::<Numbered>(entry.get()).is_ok_and(|n| n.id == id);
    let unknown = || EdgeError::new(Code::UnknownMigration).detail("id", path.as_str());
    Ok(HttpResponse::Ok().json(all.iter().find(|entry| is_it(entry)).ok_or_else(unknown)?))
}

/// `None`: no process knows such a move.
async fn abort_anywhere(exchange: &Exchange, id: MoveId) -> Option<Result<(), AbortError>> {
    if let Some(here) = exchange.moves().abort(id) {
        return Some(here);
    }
    for member in exchange.members().processes() {
        match member.link().abort_move(id).await {
            Ok(Some(outcome)) => return Some(outcome),
            Ok(None) => {}
            Err(e) => tracing::warn!(%id, error = %e, "a process does not say whether it knows a move"),
        }
    }
    None
}

async fn abort(edge: Shared, request: HttpRequest, path: web::Path<String>) -> Outcome {
    edge.admin(&request)?;
    match abort_anywhere(&edge.exchange, move_id(&path)?).await {
        None => Err(EdgeError::new(Code::UnknownMigration).detail("id", path.as_str())),
        Some(Err(e)) => Err(EdgeError::new(Code::TooLateToAbort).message(e.to_string()).detail("id", path.as_str())),
        Some(Ok(())) => Ok(HttpResponse::Accepted().json(json!({"id": move_id(&path)?}))),
    }
}

async fn drain(edge: Shared, request: HttpRequest, path: web::Path<String>) -> Outcome {
    edge.admin(&request)?;
    let id = node_id(&path)?;
    let books = edge.exchange.fleet().drain_any(&id).await.map_err(|e| {
        let code = match e {
            DrainError::UnknownNode => Code::UnknownNode,
            DrainError::LastNode => Code::LastNode,
            DrainError::NoAnswer => Code::OutcomeUnknown,
        };
        EdgeError::new(code).message(e.to_string()).detail("node", id.as_str())
    })?;
    Ok(HttpResponse::Accepted().json(json!({"id": id, "status": "DRAINING", "books": books})))
}
