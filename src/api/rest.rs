//! Orders over REST, tokens, health.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::edge::{Edge, Shared};
use super::error::{Code, EdgeError};
use super::market::{self, OrderQuery};
use super::schema::{self, ChangeFields, OrderFields};
use super::view;
use crate::actors::gateway::Answer;
use crate::actors::router::Submit;
use crate::actors::session::append_failed;
use crate::domain::{Command, OrderId, Symbol, UserId};
use crate::ports::identity::hs256::ROLES;
use crate::ports::log::{LogError, Receipt};

/// What a handler gives.
pub type Outcome = Result<HttpResponse, EdgeError>;

/// A request's body, or why there is none.
pub type Body = Result<web::Bytes, actix_web::Error>;

/// The body's bytes.
///
/// # Errors
/// `payload_too_large`, `malformed_json`.
pub fn bytes(body: Body) -> Result<web::Bytes, EdgeError> {
    body.map_err(|e| match e.as_response_error().status_code().as_u16() {
        413 => EdgeError::new(Code::PayloadTooLarge),
        _ => EdgeError::new(Code::MalformedJson).message(e.to_string()),
    })
}

/// Registers the addresses.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/orders").post(add).get(market::open_orders))
        .service(web::resource("/orders/{id}").get(market::order).put(replace).delete(cancel));
}

/// What a process is asked by whoever keeps it running, whatever its role.
pub fn operation(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/health/live").get(live))
        .service(web::resource("/health/ready").get(ready))
        .service(web::resource("/auth/dev-token").post(dev_token));
}

/// How a command went by the deadline.
#[derive(Debug)]
enum Waited {
    Answered(Answer),
    /// Durable, no result yet.
    Received,
}

impl Edge {
    /// Appends a command and waits for its answer.
    ///
    /// # Errors
    /// A refusal before the log; `outcome_unknown` when it is not known to be durable by the deadline.
    async fn ask(&self, symbol: Symbol, command: Command) -> Result<Waited, EdgeError> {
        self.takes_commands()?;
        let (origin, answer) = self.gateway.expect_answer();
        let receipt = match self.router.submit(Submit { symbol, command, origin }) {
            Ok(receipt) => receipt,
            Err(refusal) => {
                self.gateway.forget_answer(origin);
                return Err(refusal.into());
            }
        };
        let failed = |e: &LogError| append_failed(&self.router, e);
        let waited = wait(receipt, answer, Instant::now() + self.answer_timeout, failed).await;
        if !matches!(waited, Ok(Waited::Answered(_))) {
            self.gateway.forget_answer(origin);
        }
        waited
    }
}

/// Waits for the answer, which may overtake the receipt and implies it.
async fn wait(
    mut receipt: Receipt,
    mut answer: oneshot::Receiver<Answer>,
    deadline: Instant,
    append_failed: impl Fn(&LogError) -> EdgeError,
) -> Result<Waited, EdgeError> {
    let mut appended = None;
    loop {
        tokio::select! {
            biased;
            said = &mut answer => return said.map(Waited::Answered).map_err(|_| EdgeError::new(Code::OutcomeUnknown)),
            result = &mut receipt, if appended.is_none() => match result {
                Ok(_) => appended = Some(true),
                Err(e) => {
                    let error = append_failed(&e);
                    if error.code != Code::OutcomeUnknown.code() {
                        return Err(error);
                    }
                    // It may have landed all the same: then the answer comes.
                    appended = Some(false);
                }
            },
            () = tokio::time::sleep_until(deadline) => return match appended {
                Some(true) => Ok(Waited::Received),
                _ => Err(EdgeError::new(Code::OutcomeUnknown)),
            },
        }
    }
}

async fn add(edge: Shared, request: HttpRequest, body: Body) -> Outcome {
    let caller = edge.trader(&request)?;
    let body = bytes(body)?;
    let fields: OrderFields = schema::read(&body)?;
    let (symbol, instrument) = edge.listed(fields.symbol.as_deref())?;
    let order = fields.to_order(caller.user, instrument.price_scale)?;
    let id = order.order_id;
    match edge.ask(symbol, Command::Add(order)).await? {
        Waited::Answered(answer) => Ok(HttpResponse::Created().json(view::answer(&answer)?)),
        Waited::Received => Ok(received(id, symbol)),
    }
}

fn received(id: OrderId, symbol: Symbol) -> HttpResponse {
    HttpResponse::Accepted().json(json!({"order_id": id.as_str(), "symbol": symbol, "status": "RECEIVED"}))
}

async fn change(edge: &Edge, symbol: Symbol, id: OrderId, command: Command) -> Outcome {
    match edge.ask(symbol, command).await? {
        Waited::Answered(answer) => Ok(HttpResponse::Ok().json(view::answer(&answer)?)),
        Waited::Received => Ok(received(id, symbol)),
    }
}

async fn cancel(edge: Shared, request: HttpRequest, path: web::Path<String>, query: web::Query<OrderQuery>) -> Outcome {
    let caller = edge.trader(&request)?;
    let (symbol, _) = edge.listed(query.symbol.as_deref())?;
    let order_id = schema::order_id(Some(&path))?;
    change(&edge, symbol, order_id, Command::Cancel { user: caller.user, order_id }).await
}

async fn replace(
    edge: Shared,
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<OrderQuery>,
    body: Body,
) -> Outcome {
    let caller = edge.trader(&request)?;
    let body = bytes(body)?;
    let fields: ChangeFields = schema::read(&body)?;
    let (symbol, instrument) = edge.listed(query.symbol.as_deref().or(fields.symbol.as_deref()))?;
    let order_id = schema::order_id(Some(&path))?;
    let command = fields.to_replace(caller.user, order_id, instrument.price_scale)?;
    change(&edge, symbol, order_id, command).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFields {
    user_id: String,
    roles: Option<Vec<String>>,
}

async fn dev_token(edge: Shared, body: Body) -> Outcome {
    if !edge.identity.is_development() {
        return Err(EdgeError::new(Code::DevTokensOff));
    }
    let body = bytes(body)?;
    let fields: TokenFields = schema::read(&body)?;
    let user = UserId::new(&fields.user_id)
        .map_err(|e| EdgeError::field(Code::InvalidField, "user_id", format!("`user_id` {e}")))?;
    let roles = fields.roles.unwrap_or_else(|| vec!["trader".into()]);
    if let Some(role) = roles.iter().find(|r| !ROLES.contains(&r.as_str())) {
        let what = format!("`{}` is no role; there are trader and admin", role.chars().take(32).collect::<String>());
        return Err(EdgeError::field(Code::InvalidField, "roles", what));
    }
    let token = edge.identity.issue(&user, &roles).map_err(crate::actors::session::identity_error)?;
    Ok(HttpResponse::Ok().json(json!({"token": token})))
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "live"}))
}

async fn ready(edge: Shared) -> HttpResponse {
    if edge.takes_commands().is_ok() && edge.exchange.is_ready() {
        HttpResponse::Ok().json(json!({"status": "ready"}))
    } else {
        HttpResponse::ServiceUnavailable().json(json!({"status": "starting"}))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::session::append_error;
    use crate::ports::log::Ack;

    /// How a command ends whose receipt and answer are left as they are.
    async fn ends(receipt: Receipt, answer: oneshot::Receiver<Answer>) -> Result<Waited, &'static str> {
        let deadline = Instant::now() + Duration::from_millis(20);
        wait(receipt, answer, deadline, append_error).await.map_err(|e| e.code)
    }

    fn ready(result: Result<Ack, LogError>) -> Receipt {
        let (resolve, receipt) = Receipt::pair();
        resolve.send(result).unwrap();
        receipt
    }

    fn durable() -> Receipt {
        ready(Ok(Ack { offset: None, at: None }))
    }

    #[actix_rt::test]
    async fn a_command_not_known_to_be_durable_by_the_deadline_has_an_unknown_outcome() {
        let (_keep, answer) = oneshot::channel();
        let (_pending, receipt) = Receipt::pair();
        assert_eq!(ends(receipt, answer).await.unwrap_err(), "outcome_unknown");
        let (_keep, answer) = oneshot::channel();
        let ended = LogError::SessionEnded { why: "the disk is gone".into() };
        assert_eq!(ends(ready(Err(ended)), answer).await.unwrap_err(), "outcome_unknown", "it may have landed");
        let (forgotten, answer) = oneshot::channel();
        drop(forgotten);
        assert_eq!(ends(durable(), answer).await.unwrap_err(), "outcome_unknown", "the answer was forgotten");
    }

    #[actix_rt::test]
    async fn a_durable_command_without_an_answer_is_received_and_one_never_appended_is_refused() {
        let (_keep, answer) = oneshot::channel();
        assert!(matches!(ends(durable(), answer).await, Ok(Waited::Received)));
        let (_keep, answer) = oneshot::channel();
        assert_eq!(ends(ready(Err(LogError::Full)), answer).await.unwrap_err(), "overloaded");
        let (_keep, answer) = oneshot::channel();
        assert_eq!(ends(ready(Err(LogError::ReadOnly)), answer).await.unwrap_err(), "log_unavailable");
    }

    #[actix_rt::test]
    async fn an_answer_that_overtakes_the_receipt_counts() {
        let (tell, answer) = oneshot::channel();
        tell.send(Answer { said: Vec::new() }).unwrap();
        let (_pending, receipt) = Receipt::pair();
        assert!(matches!(ends(receipt, answer).await, Ok(Waited::Answered(_))));
        let (tell, answer) = oneshot::channel();
        tell.send(Answer { said: Vec::new() }).unwrap();
        let ended = LogError::SessionEnded { why: "the disk is gone".into() };
        assert!(matches!(ends(ready(Err(ended)), answer).await, Ok(Waited::Answered(_))), "it had landed");
    }
}
