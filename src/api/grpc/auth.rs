//! Who may call: whoever knows the cluster's secret.

use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::clock;
use crate::wire::rpc::{RpcKey, TokenError};

/// Checks the token of each call.
#[derive(Debug, Clone)]
pub struct Auth {
    key: Option<RpcKey>,
}

impl Auth {
    /// `None` lets everybody in: for a server that only this machine can reach.
    pub fn new(key: Option<RpcKey>) -> Self {
        Self { key }
    }

    fn check(&self, request: &Request<()>) -> Result<(), TokenError> {
        let Some(key) = &self.key else { return Ok(()) };
        let value = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let token = value.and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
        key.check(token.ok_or(TokenError::Missing)?.trim(), clock::now())
    }
}

impl Interceptor for Auth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match self.check(&request) {
            Ok(()) => Ok(request),
            Err(e) => {
                metrics::counter!("hotbook_grpc_refused_total").increment(1);
                tracing::debug!(error = %e, "grpc call refused");
                Err(Status::unauthenticated(e.to_string()))
            }
        }
    }
}
