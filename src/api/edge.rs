//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::Addr;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use metrics_exporter_prometheus::PrometheusHandle;

use super::error::{Code, EdgeError};
use crate::actors::exchange::Exchange;
use crate::actors::gateway::Gateway;
use crate::actors::registry::Registry;
use crate::actors::router::RouterCore;
use crate::actors::session::identity_error;
use crate::domain::{Instrument, Symbol};
use crate::ports::identity::{Caller, Identity};

/// The edge of one process.
pub struct Edge {
    pub exchange: Arc<Exchange>,
    pub gateway: Arc<Gateway>,
    pub router: Arc<RouterCore>,
    pub identity: Arc<dyn Identity>,
    pub registry: Addr<Registry>,
    pub answer_timeout: Duration,
    pub metrics: PrometheusHandle,
    /// New commands are refused while the server goes down.
    pub draining: AtomicBool,
}

/// How handlers get it.
pub type Shared = web::Data<Edge>;

impl Edge {
    /// The caller of a request, by its `Authorization: Bearer` header; `None` without one.
    ///
    /// # Errors
    /// `unauthorized`, `token_expired`.
    pub fn caller(&self, request: &HttpRequest) -> Result<Option<Caller>, EdgeError> {
        let Some(value) = request.headers().get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
        let token = token.ok_or_else(|| {
            EdgeError::new(Code::Unauthorized).message("the header must be `Authorization: Bearer ..`")
        })?;
        self.identity.verify(token.trim()).map(Some).map_err(identity_error)
    }

    /// # Errors
    /// As [`Self::caller`], `forbidden` without the role.
    pub fn trader(&self, request: &HttpRequest) -> Result<Caller, EdgeError> {
        self.with_role(request, "trader", |c| c.is_trader)
    }

    /// # Errors
    /// As [`Self::caller`], `forbidden` without the role.
    pub fn admin(&self, request: &HttpRequest) -> Result<Caller, EdgeError> {
        self.with_role(request, "admin", |c| c.is_admin)
    }

    fn with_role(&self, request: &HttpRequest, role: &str, has: fn(&Caller) -> bool) -> Result<Caller, EdgeError> {
        let caller = self.caller(request)?.ok_or_else(|| EdgeError::new(Code::Unauthorized))?;
        if has(&caller) {
            return Ok(caller);
        }
        Err(EdgeError::new(Code::Forbidden).message(format!("the role `{role}` is needed")).detail("role", role))
    }

    /// A listed symbol with its rules.
    ///
    /// # Errors
    /// `missing_field`, `unknown_symbol`.
    pub fn listed(&self, text: Option<&str>) -> Result<(Symbol, Arc<Instrument>), EdgeError> {
        let symbol = super::schema::symbol(text)?;
        let instrument = self.gateway.mirrors().instrument(&symbol);
        instrument.map(|i| (symbol, i)).ok_or_else(|| super::schema::unknown_symbol(symbol.as_str()))
    }

    /// # Errors
    /// `draining` once the server goes down.
    pub fn takes_commands(&self) -> Result<(), EdgeError> {
        if self.draining.load(Ordering::Acquire) { Err(EdgeError::new(Code::Draining)) } else { Ok(()) }
    }
}

impl ResponseError for EdgeError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The request's id is filled in by the server's outermost layer, which knows the request.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(self.to_json(""))
    }
}
