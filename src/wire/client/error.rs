//! The one error of the edge: a stable code, an HTTP status, a sentence, the request's id. One table of all codes.

use serde::Serialize;

use crate::domain::Reason;

macro_rules! codes {
    ($($name:ident $status:literal $code:literal $text:literal;)*) => {
        /// What the edge itself can say; the book's own reasons are [`Reason`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $text] $name,)* }

        impl Code {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code that clients see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// One sentence for people.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    MalformedJson 400 "malformed_json" "the body or message is not JSON of the expected shape";
    UnknownField 400 "unknown_field" "the body or message has a field that is not known here";
    MissingField 400 "missing_field" "a required field is missing";
    InvalidField 400 "invalid_field" "a field has a value that is not allowed";
    InvalidOrderId 400 "invalid_order_id" "an order id is 1 to 36 printable ASCII characters";
    PriceTooPrecise 400 "price_too_precise" "the price has more decimals than the symbol's price_scale";
    UnknownAction 400 "unknown_action" "the message's action is not known";
    UnknownChannel 400 "unknown_channel" "the channel is not known";
    Unauthorized 401 "unauthorized" "a valid token is needed";
    TokenExpired 401 "token_expired" "the token has expired";
    Forbidden 403 "forbidden" "the token's roles do not allow this";
    DevTokensOff 403 "dev_tokens_off" "development tokens are given out only on loopback and without a configured secret";
    NotFound 404 "not_found" "there is nothing at this address";
    UnknownSymbol 404 "unknown_symbol" "the symbol is not listed";
    UnknownNode 404 "unknown_node" "there is no node of this id";
    UnknownMigration 404 "unknown_migration" "there is no move of this id, or it is no longer remembered";
    MethodNotAllowed 405 "method_not_allowed" "this address does not take this method";
    PayloadTooLarge 413 "payload_too_large" "the body is larger than 65536 bytes";
    TooManyInFlight 429 "too_many_in_flight" "this connection has 4096 commands without an answer; nothing was appended";
    TooManySubscriptions 429 "too_many_subscriptions" "this connection holds as many subscriptions as it may";
    ResyncNeeded 409 "resync_needed" "what lies between last_seq and now is not kept; ask for the state again";
    AlreadyThere 409 "already_there" "the book is on that node already";
    AlreadyMoving 409 "already_moving" "the book is being moved; one move of a book at a time";
    TooLateToAbort 409 "too_late_to_abort" "the move has ended, or its fence is in the log: it can only go forward";
    NodeDown 409 "node_down" "the node is not alive";
    LastNode 409 "last_node" "there is no other node to take the books";
    Internal 500 "internal" "something failed on our side";
    Overloaded 503 "overloaded" "the symbol or the log is behind; nothing was appended, try later";
    LogUnavailable 503 "log_unavailable" "the orders log takes no records now; nothing was appended";
    Draining 503 "draining" "the server is shutting down; nothing was appended";
    OutcomeUnknown 504 "outcome_unknown" "it is not known whether the command is durable; ask for the order before sending it again";
}

/// The HTTP status of a book's reason, where the reason answers a request.
pub fn status_of_reason(reason: Reason) -> u16 {
    match reason {
        Reason::UnknownOrder => 404,
        Reason::DuplicateOrder
        | Reason::SymbolExists
        | Reason::SymbolHalted
        | Reason::AlreadyHalted
        | Reason::NotHalted
        | Reason::RulesVersionUnknown
        | Reason::GatewayOnly
        | Reason::SignatureVoid
        | Reason::BookFull => 409,
        _ => 400,
    }
}

/// One row of the table of all codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub code: &'static str,
    pub status: u16,
    pub text: &'static str,
}

/// Every code that a client can see: the edge's, then the book's. Codes are unique.
pub fn table() -> Vec<Row> {
    let edge = Code::ALL.iter().map(|c| Row { code: c.code(), status: c.status(), text: c.text() });
    let book = Reason::ALL.iter().map(|r| Row { code: r.code(), status: status_of_reason(*r), text: r.text() });
    edge.chain(book).collect()
}

/// The error that every REST answer and WebSocket ERROR carries.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct EdgeError {
    pub code: &'static str,
    pub status: u16,
    pub message: String,
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// The documented form, its fields in the documented order.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
    details: &'a serde_json::Map<String, serde_json::Value>,
}

impl EdgeError {
    pub fn new(code: Code) -> Self {
        Self { code: code.code(), status: code.status(), message: code.text().to_owned(), details: Default::default() }
    }

    /// Finds a code in the table; one that is not there (a bug that a test looks for) becomes `internal`.
    pub fn from_code(code: &str) -> Self {
        match table().into_iter().find(|r| r.code == code) {
            Some(r) => Self { code: r.code, status: r.status, message: r.text.to_owned(), details: Default::default() },
            None => Self::new(Code::Internal).detail("code", code),
        }
    }

    /// Replaces the sentence.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Adds to the details.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// A field that is not as it should be.
    pub fn field(code: Code, field: &str, message: impl Into<String>) -> Self {
        Self::new(code).message(message).detail("field", field)
    }

    /// The JSON that clients see.
    pub fn to_json<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        ErrorBody { code: self.code, message: &self.message, request_id, details: &self.details }
    }
}

impl From<Code> for EdgeError {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<Reason> for EdgeError {
    fn from(reason: Reason) -> Self {
        Self {
            code: reason.code(),
            status: status_of_reason(reason),
            message: reason.text().to_owned(),
            details: Default::default(),
        }
    }
}

/// The table as docs/errors.md shows it.
pub fn table_as_markdown() -> String {
    let mut out = String::from("| code | status | meaning |\n|---|---|---|\n");
    for r in table() {
        out.push_str(&format!("| `{}` | {} | {} |\n", r.code, r.status, r.text));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_look_alike() {
        let table = table();
        let codes: std::collections::BTreeSet<_> = table.iter().map(|r| r.code).collect();
        assert_eq!(codes.len(), table.len(), "a code stands twice in the table");
        for r in &table {
            assert!(r.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", r.code);
            assert!((400..600).contains(&r.status), "{}", r.code);
        }
    }

    #[test]
    fn the_docs_show_the_table_as_it_is() {
        let docs = include_str!("../../../docs/errors.md");
        assert!(docs.contains(&table_as_markdown()), "docs/errors.md must contain:\n{}", table_as_markdown());
    }
}
