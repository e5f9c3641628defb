//! The API's description, from one table.

use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Required, ResponseBuilder,
};

/// Who may call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Everyone,
    Trader,
    Admin,
}

struct Address {
    method: HttpMethod,
    path: &'static str,
    who: Who,
    summary: &'static str,
    /// Query parameters, `!` in front of required ones.
    query: &'static [(&'static str, &'static str)],
    /// An example body, as JSON.
    body: &'static str,
    responses: &'static [(&'static str, &'static str)],
}

const ORDER: &str = r#"{"symbol":"TSLA","side":"BUY","order_type":"LIMIT","price":250.50,"quantity":10,"time_in_force":"GTC","order_id":"my-1"}"#;
const SYMBOL: (&str, &str) = ("!symbol", "symbol of the order");
const REFUSED: (&str, &str) = ("4XX", "refused before the log, with a code of docs/errors.md");
const UNKNOWN: (&str, &str) = ("504", "outcome_unknown: not known to be durable by the deadline");

const fn get(path: &'static str, who: Who, summary: &'static str) -> Address {
    Address { method: HttpMethod::Get, path, who, summary, query: &[], body: "", responses: &[("200", "as described")] }
}

const fn post(path: &'static str, who: Who, summary: &'static str) -> Address {
    Address { method: HttpMethod::Post, ..get(path, who, summary) }
}

const ADDRESSES: &[Address] = &[
    Address {
        body: r#"{"user_id":"alice","roles":["trader","admin"]}"#,
        ..post("/auth/dev-token", Who::Everyone, "Development token; only on loopback and without a JWT secret")
    },
    Address {
        body: ORDER,
        responses: &[
            ("201", "the order's result once it has been matched; a refused one has status REJECTED and a reason"),
            ("202", "durable, status RECEIVED: no result within answer_timeout_ms"),
            ("409", "duplicate_order"),
            REFUSED,
            UNKNOWN,
        ],
        ..post("/orders", Who::Trader, "Enters an order")
    },
    Address {
        query: &[("symbol", "only this symbol"), ("status", "only `open`, the default")],
        ..get("/orders", Who::Trader, "The caller's open orders")
    },
    Address {
        query: &[SYMBOL],
        responses: &[("200", "the order"), ("404", "unknown_order, another user's too")],
        ..get("/orders/{id}", Who::Trader, "One of the caller's orders, open or recently finished")
    },
    Address {
        method: HttpMethod::Put,
        query: &[SYMBOL],
        body: r#"{"price":250.40,"quantity":12}"#,
        responses: &[
            ("200", "the order's result"),
            ("202", "durable, no result yet"),
            ("404", "unknown_order"),
            REFUSED,
            UNKNOWN,
        ],
        ..get("/orders/{id}", Who::Trader, "Replaces price or total quantity")
    },
    Address {
        method: HttpMethod::Delete,
        query: &[SYMBOL],
        responses: &[
            ("200", "the order's result"),
            ("202", "durable, no result yet"),
            ("404", "unknown_order"),
            REFUSED,
            UNKNOWN,
        ],
        ..get("/orders/{id}", Who::Trader, "Cancels an order")
    },
    Address {
        query: &[("symbol", "only this symbol"), ("limit", "100 by default, cut at 1000")],
        ..get(
            "/fills",
            Who::Trader,
            "The caller's newest fills, newest first, as many as the gateway keeps; the whole record is the topic `fills`",
        )
    },
    get(
        "/account",
        Who::Trader,
        "What the caller's open orders would take. Balances are not kept yet: `balances_kept` is false, every order is admitted",
    ),
    Address {
        query: &[("depth", "levels a side, 20 by default, cut at 1000")],
        ..get("/orderbook/{symbol}", Who::Everyone, "Price levels, best first")
    },
    Address {
        query: &[("limit", "100 by default, cut at 1000")],
        ..get("/trades/{symbol}", Who::Everyone, "The newest trades")
    },
    get("/ticker/{symbol}", Who::Everyone, "The last 24 hours in numbers"),
    Address {
        query: &[("interval", "1m (the default), 5m, 15m, 30m or 1h"), ("limit", "100 by default, cut at 1440")],
        ..get(
            "/candles/{symbol}",
            Who::Everyone,
            "Candles of the last 24 hours, oldest first; none for a time without trades",
        )
    },
    get("/instruments", Who::Everyone, "What may be traded, and by which rules"),
    Address {
        responses: &[("101", "see docs/websocket.md")],
        ..get("/ws", Who::Everyone, "WebSocket: orders and live data")
    },
    get("/health/live", Who::Everyone, "200 while the process runs"),
    Address {
        responses: &[("200", "every book trades and the mirrors are level"), ("503", "starting or going down")],
        ..get("/health/ready", Who::Everyone, "Whether all is ready")
    },
    get("/metrics", Who::Everyone, "Prometheus metrics"),
    get("/openapi.json", Who::Everyone, "This description"),
    get("/docs", Who::Everyone, "This description as a page"),
    get("/", Who::Everyone, "Trading page"),
    get("/ops", Who::Everyone, "Operator's page: nodes, books and moves, live; what it shows needs an admin's token"),
    get("/admin/nodes", Who::Admin, "Nodes with load, books and status"),
    get("/admin/books", Who::Admin, "Books with node, epoch, seq, orders, rate, busy, lag, digests and standby"),
    get("/admin/routes", Who::Admin, "Which node owns which symbol"),
    Address {
        query: &[("limit", "only the newest so many; 100 without it")],
        ..get("/admin/decisions", Who::Admin, "Who leads, and which books it moved or not, with what it saw and why")
    },
    Address {
        body: r#"{"symbol":"TSLA","price_scale":2,"tick_size":"0.01","lot_size":1,"reference_price":"250.00","limit_up":"325.00","limit_down":"175.00","admission":"open"}"#,
        responses: &[("201", "the symbol trades"), ("409", "symbol_exists"), REFUSED],
        ..post(
            "/admin/instruments",
            Who::Admin,
            "Lists a symbol; all but `symbol` have defaults. With `admission` `gateway` it takes orders from no other program on the log",
        )
    },
    Address {
        responses: &[("200", "halted"), ("409", "already_halted")],
        ..post("/admin/books/{symbol}/halt", Who::Admin, "Stops trading; cancels still pass")
    },
    Address {
        responses: &[("200", "trading"), ("409", "not_halted")],
        ..post("/admin/books/{symbol}/resume", Who::Admin, "Trading goes on")
    },
    Address {
        body: r#"{"version":1}"#,
        responses: &[("200", "`books`: how many have it now"), ("409", "rules_version_unknown")],
        ..post("/admin/finalize-version", Who::Admin, "Raises the rules of every book, once every node can run them")
    },
    Address {
        body: r#"{"symbol":"TSLA","target":"n2"}"#,
        responses: &[("202", "`id` of the move, which has begun"), ("409", "already_there, already_moving, node_down")],
        ..post("/admin/migrations", Who::Admin, "Moves a book to another node while it trades")
    },
    Address {
        query: &[("limit", "only the newest so many")],
        ..get("/admin/migrations", Who::Admin, "Moves, oldest first, with their steps, pause and parked commands")
    },
    get("/admin/migrations/{id}", Who::Admin, "One move"),
    Address {
        method: HttpMethod::Delete,
        responses: &[("202", "will be stopped unless its fence is in the log"), ("409", "too_late_to_abort")],
        ..get("/admin/migrations/{id}", Who::Admin, "Aborts a move before its fence")
    },
    Address {
        responses: &[("202", "`books`: how many are still to leave"), ("409", "last_node")],
        ..post("/admin/nodes/{id}/drain", Who::Admin, "Moves all books of a node to the others")
    },
    post("/admin/books/{symbol}/snapshot", Who::Admin, "Takes a snapshot now"),
];

/// The description.
pub fn description() -> OpenApi {
    let mut paths = Paths::new();
    for address in ADDRESSES {
        let method = match address.method {
            HttpMethod::Post => HttpMethod::Post,
            HttpMethod::Put => HttpMethod::Put,
            HttpMethod::Delete => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        paths.add_path_operation(address.path, vec![method], operation(address));
    }
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("hotbook")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("An exchange whose order books move between machines while they trade.")),
        )
        .paths(paths)
        .components(Some(ComponentsBuilder::new().security_scheme("token", scheme).build()))
        .build()
}

fn operation(address: &Address) -> OperationBuilder {
    let tag = match (address.who, address.path) {
        (Who::Admin, _) => "administration",
        (Who::Trader, _) | (_, "/auth/dev-token" | "/ws") => "trading",
        (_, p) if p.starts_with("/health") || matches!(p, "/metrics" | "/openapi.json" | "/docs" | "/" | "/ops") => {
            "service"
        }
        _ => "market data",
    };
    let mut operation = OperationBuilder::new().tag(tag).summary(Some(address.summary));
    for name in address.path.split('/').filter_map(|p| p.strip_prefix('{')?.strip_suffix('}')) {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        operation = operation.parameter(parameter);
    }
    for (name, text) in address.query {
        let required = if name.starts_with('!') { Required::True } else { Required::False };
        let parameter = ParameterBuilder::new().name(name.trim_start_matches('!')).parameter_in(ParameterIn::Query);
        operation = operation.parameter(parameter.required(required).description(Some(*text)));
    }
    if !address.body.is_empty() {
        let example: Value = serde_json::from_str(address.body).unwrap_or_else(|_| json!({}));
        let content = ContentBuilder::new().example(Some(example)).build();
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True));
        operation = operation.request_body(Some(body.build()));
    }
    for (status, text) in address.responses {
        operation = operation.response(*status, ResponseBuilder::new().description(*text).build());
    }
    if address.who != Who::Everyone {
        operation = operation.security(SecurityRequirement::new("token", Vec::<String>::new()));
    }
    operation
}
