//! What operators ask and order: role admin.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::decimal;
use super::edge::Shared;
use super::error::{Code, EdgeError};
use super::gathered;
use super::rest::{Body, Outcome, bytes};
use super::schema;
use crate::actors::book::CutError;
use crate::actors::cluster::Read;
use crate::actors::directory::BookStatus;
use crate::actors::exchange::{ControlError, Exchange};
use crate::actors::standbys::Followed;
use crate::domain::instrument::TickBand;
use crate::domain::{Admission, Epoch, Instrument, NodeId, Offset, Price, Reason, Seq, Symbol};
use crate::engine::RULES_VERSION;
use crate::ports::routes::Route;
use crate::wire::rfc3339;

/// Registers the addresses.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/admin/nodes").get(nodes))
        .service(web::resource("/admin/books").get(books))
        .service(web::resource("/admin/routes").get(routes_table))
        .service(web::resource("/admin/decisions").get(super::decisions::list))
        .service(web::resource("/admin/instruments").post(list))
        .service(web::resource("/admin/finalize-version").post(finalize_version))
        .service(web::resource("/admin/books/{symbol}/halt").post(halt))
        .service(web::resource("/admin/books/{symbol}/resume").post(resume))
        .service(web::resource("/admin/books/{symbol}/snapshot").post(snapshot));
}

async fn nodes(edge: Shared, request: HttpRequest) -> Outcome {
    edge.admin(&request)?;
    let mut nodes = gathered::all(&edge.exchange, Read::Nodes).await;
    nodes.extend(gathered::entries(edge.exchange.fleet().dead_members()));
    gathered::sort_by_text(&mut nodes, "/id");
    Ok(HttpResponse::Ok().json(json!({"nodes": nodes})))
}

/// A book as operators see it.
#[derive(Serialize)]
struct BookOut {
    symbol: Symbol,
    node: NodeId,
    epoch: Epoch,
    seq: Seq,
    orders: u64,
    /// Records per second.
    rate: f64,
    /// Fraction of one core.
    busy: f64,
    lag: u64,
    /// The longest that a batch waited in its mailbox in the last window.
    waiting_us: u64,
    /// When it came here from another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_at: Option<String>,
    partition: u32,
    offset: Offset,
    active: bool,
    detached: bool,
    restarts: u64,
    /// The node that follows it, to take it over at once, and by how many records it is behind.
    standby: Option<NodeId>,
    standby_lag: Option<u64>,
    book_digest: String,
    state_digest: String,
}

async fn books(edge: Shared, request: HttpRequest) -> Outcome {
    edge.admin(&request)?;
    let mut books = gathered::all(&edge.exchange, Read::Books).await;
    gathered::sort_by_text(&mut books, "/symbol");
    Ok(HttpResponse::Ok().json(json!({"books": books})))
}

/// The books of this process; one that is about to leave for another is that one's.
pub(super) fn book_entries(exchange: &Exchange) -> gathered::Entries {
    let view = |(b, standby): (Arc<BookStatus>, Option<Followed>)| BookOut {
        standby: standby.map(|s| s.node),
        standby_lag: standby.map(|s| s.lag),
        symbol: b.symbol,
        node: b.node(),
        epoch: b.epoch(),
        seq: b.seq(),
        orders: b.orders(),
        rate: b.rate(),
        busy: b.busy(),
        lag: b.lag(),
        waiting_us: b.waiting_us(),
        moved_at: b.moved_at().map(rfc3339),
        partition: b.partition,
        offset: b.offset(),
        active: b.is_active(),
        detached: b.is_detached(),
        restarts: b.restarts(),
        book_digest: b.book_digest().to_string(),
        state_digest: b.state_digest().to_string(),
    };
    let with_standby = |book: Arc<BookStatus>| {
        let standby = exchange.fleet().follower_of(&book.symbol);
        (book, standby)
    };
    gathered::entries(exchange.fleet().books().into_iter().map(with_standby).map(view))
}

/// Which node owns a symbol.
#[derive(Serialize)]
struct RouteOut {
    symbol: Symbol,
    #[serde(flatten)]
    route: Route,
}

async fn routes_table(edge: Shared, request: HttpRequest) -> Outcome {
    edge.admin(&request)?;
    let rows = edge.exchange.gateway().routes().all().await;
    let rows = rows.map_err(|e| EdgeError::new(Code::Internal).message(e.to_string()))?;
    #[derive(Serialize)]
    struct Table {
        routes: Vec<RouteOut>,
    }
    let routes = rows.into_iter().map(|(symbol, route)| RouteOut { symbol, route }).collect();
    Ok(HttpResponse::Ok().json(Table { routes }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TickFields<'a> {
    #[serde(borrow)]
    from: &'a RawValue,
    #[serde(borrow)]
    tick_size: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstrumentFields<'a> {
    symbol: Option<String>,
    price_scale: Option<u8>,
    #[serde(borrow)]
    tick_size: Option<&'a RawValue>,
    /// A tick size table, instead of `tick_size`.
    #[serde(borrow)]
    ticks: Option<Vec<TickFields<'a>>>,
    lot_size: Option<u64>,
    #[serde(borrow)]
    reference_price: Option<&'a RawValue>,
    #[serde(borrow)]
    limit_up: Option<&'a RawValue>,
    #[serde(borrow)]
    limit_down: Option<&'a RawValue>,
    #[serde(borrow)]
    max_order_value: Option<&'a RawValue>,
    admission: Option<Admission>,
}

impl InstrumentFields<'_> {
    /// Defaults: two decimals, the smallest tick, lots of one, no limits.
    fn to_instrument(&self) -> Result<Instrument, EdgeError> {
        let scale = self.price_scale.unwrap_or(2);
        if scale > Instrument::PRICE_SCALE_MAX {
            return Err(refused("price_scale must be 0 to 9"));
        }
        let number = |field: &str, raw: &RawValue| {
            decimal::parse_json(raw, scale).map_err(|e| refused(format!("{field} {e}")).detail("field", field))
        };
        let price = |field, raw: Option<&RawValue>| raw.map(|r| number(field, r).map(Price)).transpose();
        let ticks = match (&self.ticks, self.tick_size) {
            (Some(_), Some(_)) => return Err(refused("give tick_size or ticks, not both")),
            (Some(rows), None) => rows
                .iter()
                .map(|r| Ok(TickBand { from: Price(number("from", r.from)?), tick: number("tick_size", r.tick_size)? }))
                .collect::<Result<_, EdgeError>>()?,
            (None, Some(tick)) => vec![TickBand { from: Price(0), tick: number("tick_size", tick)? }],
            (None, None) => vec![TickBand { from: Price(0), tick: 1 }],
        };
        let instrument = Instrument {
            price_scale: scale,
            ticks,
            lot_size: self.lot_size.unwrap_or(1),
            reference_price: price("reference_price", self.reference_price)?,
            limit_up: price("limit_up", self.limit_up)?,
            limit_down: price("limit_down", self.limit_down)?,
            max_order_value: self.max_order_value.map(|r| number("max_order_value", r)).transpose()?,
            admission: self.admission.unwrap_or_default(),
        };
        instrument.check().map_err(refused)?;
        Ok(instrument)
    }
}

fn refused(what: impl Into<String>) -> EdgeError {
    EdgeError::from(Reason::InvalidInstrument).message(what)
}

async fn list(edge: Shared, request: HttpRequest, body: Body) -> Outcome {
    edge.admin(&request)?;
    edge.takes_commands()?;
    let body = bytes(body)?;
    let fields: InstrumentFields = schema::read(&body)?;
    let text = fields.symbol.as_deref().ok_or_else(|| schema::missing("symbol"))?;
    let symbol = Symbol::new(text)
        .map_err(|e| EdgeError::field(Code::InvalidField, "symbol", format!("the symbol {e} (A-Z 0-9 . - _)")))?;
    let instrument = fields.to_instrument()?;
    edge.exchange.list(symbol, instrument.clone()).await.map_err(|e| control_error(e, symbol))?;
    Ok(HttpResponse::Created().json(super::market::instrument_view(symbol, &instrument, false)))
}

/// How a refused listing or halt looks at the edge.
fn control_error(e: ControlError, symbol: Symbol) -> EdgeError {
    let error = match &e {
        ControlError::Instrument(what) => refused(*what),
        ControlError::Refused(reason) => EdgeError::from(*reason),
        ControlError::UnknownSymbol => schema::unknown_symbol(symbol.as_str()),
        ControlError::NoNode => EdgeError::new(Code::NodeDown).message(e.to_string()),
        ControlError::Log(log) => crate::actors::session::append_error(log),
        ControlError::OutcomeUnknown => EdgeError::new(Code::OutcomeUnknown),
    };
    error.detail("symbol", symbol.as_str())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionFields {
    /// The newest that this build knows, without it.
    version: Option<u32>,
}

async fn finalize_version(edge: Shared, request: HttpRequest, body: Body) -> Outcome {
    edge.admin(&request)?;
    edge.takes_commands()?;
    let body = bytes(body)?;
    let fields: VersionFields = schema::read(&body)?;
    let version = fields.version.unwrap_or(RULES_VERSION);
    let books = edge.exchange.finalize_version(version).await.map_err(|e| match e {
        ControlError::Refused(reason) => EdgeError::from(reason).detail("version", version.to_string()),
        ControlError::Log(log) => crate::actors::session::append_error(&log),
        other => EdgeError::new(Code::OutcomeUnknown).message(other.to_string()),
    })?;
    Ok(HttpResponse::Ok().json(json!({"version": version, "books": books})))
}

async fn halt(edge: Shared, request: HttpRequest, path: web::Path<String>) -> Outcome {
    edge.admin(&request)?;
    let (symbol, _) = edge.listed(Some(&path))?;
    edge.exchange.halt(symbol).await.map_err(|e| control_error(e, symbol))?;
    Ok(HttpResponse::Ok().json(json!({"symbol": symbol, "status": "HALTED"})))
}

async fn resume(edge: Shared, request: HttpRequest, path: web::Path<String>) -> Outcome {
    edge.admin(&request)?;
    let (symbol, _) = edge.listed(Some(&path))?;
    edge.exchange.resume(symbol).await.map_err(|e| control_error(e, symbol))?;
    Ok(HttpResponse::Ok().json(json!({"symbol": symbol, "status": "TRADING"})))
}

async fn snapshot(edge: Shared, request: HttpRequest, path: web::Path<String>) -> Outcome {
    edge.admin(&request)?;
    let (symbol, _) = edge.listed(Some(&path))?;
    let saved = edge.exchange.snapshot(symbol).await;
    let saved = saved.map_err(|e| {
        let code = if matches!(e, CutError::Busy) { Code::Overloaded } else { Code::Internal };
        EdgeError::new(code).message(e.to_string()).detail("symbol", symbol.as_str())
    })?;
    Ok(HttpResponse::Ok().json(json!({
        "symbol": symbol, "key": saved.key.path(), "offset": saved.key.offset, "epoch": saved.key.epoch,
    })))
}
