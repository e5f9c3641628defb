//! The session actor: one WebSocket connection. It reads messages, submits commands, and writes what comes back.
//!
//! It is frozen while its client does not read; see [`super::connection`] for what must not freeze with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::{Actor, ActorContext, AsyncContext, StreamHandler};
use actix_http::ws::Item as Fragment;
use actix_web_actors::ws::{CloseReason, Message, ProtocolError, WebsocketContext};
use bytes::BytesMut;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::connection::{CloseWith, Connection, Item};
use super::gateway::{Channel, Gateway, Push, Role, Said};
use super::mirror::Mirrors;
use super::router::{RouterCore, Submit};
use crate::domain::control::Authority;
use crate::domain::{Command, Micros, OrderId, Symbol, UserId};
use crate::ports::identity::{Caller, Identity, IdentityError};
use crate::ports::log::{Ack, LogError, Receipt};
use crate::wire::client::error::{Code, EdgeError};
use crate::wire::client::schema::{self, BODY_BYTES_MAX, ChangeFields, OrderFields};
use crate::wire::client::ws_message::{
    AuthFields, CancelAllFields, Head, ResumeFields, SubscribeFields, checked_request_id,
};
use crate::wire::client::ws_text::{self, Standing};

/// Commands of one connection without an answer: 4,096 x about 300 bytes = 1.2 MiB.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// A frame up to here is read whole, so that one above [`BODY_BYTES_MAX`] still gets a proper close.
pub const FRAME_BYTES_READ_MAX: usize = 4 * BODY_BYTES_MAX;
/// Subscriptions of one connection: three channels of 5,000 symbols, and some.
pub const SUBSCRIPTIONS_MAX: usize = 16_384;
/// Finished orders are dropped from the cancel-on-disconnect list each time it has grown by so many.
const PRUNE_EVERY: usize = 4_096;

/// What a session works with.
pub struct SessionParts {
    pub gateway: Arc<Gateway>,
    pub router: Arc<RouterCore>,
    pub identity: Arc<dyn Identity>,
    pub connection: Arc<Connection>,
    /// From the `Authorization` header of the upgrade.
    pub caller: Option<Caller>,
}

/// A command that has no answer yet.
struct Pending {
    request_id: Option<Box<str>>,
    symbol: Symbol,
    order_id: Option<OrderId>,
    acked: bool,
}

/// The actor.
pub struct Session {
    gateway: Arc<Gateway>,
    router: Arc<RouterCore>,
    identity: Arc<dyn Identity>,
    connection: Arc<Connection>,
    caller: Option<Caller>,
    pending: HashMap<u64, Pending>,
    subscribed: HashSet<(u8, Option<Symbol>)>,
    receipts: Option<mpsc::UnboundedSender<(u64, Receipt)>>,
    /// A message that comes in parts.
    fragments: Option<BytesMut>,
    closing: bool,
}

type Ctx = WebsocketContext<Session>;

impl Session {
    pub fn new(parts: SessionParts) -> Self {
        let SessionParts { gateway, router, identity, connection, caller } = parts;
        metrics::gauge!("hotbook_ws_connections").increment(1.0);
        Self {
            gateway,
            router,
            identity,
            connection,
            caller,
            pending: HashMap::new(),
            subscribed: HashSet::new(),
            receipts: None,
            fragments: None,
            closing: false,
        }
    }

    fn close(&mut self, with: CloseWith, ctx: &mut Ctx) {
        if !self.closing {
            self.closing = true;
            self.connection.is_closing();
            ctx.close(Some(CloseReason { code: (with as u16).into(), description: Some(with.text().into()) }));
        }
    }

    fn refuse(&self, request_id: Option<&str>, error: &EdgeError, ctx: &mut Ctx) {
        tracing::debug!(connection = self.connection.id(), code = error.code, "refused on websocket");
        metrics::counter!("hotbook_ws_errors_total", "code" => error.code).increment(1);
        ctx.text(ws_text::error(request_id, error));
    }
}

impl Actor for Session {
    type Context = Ctx;

    fn started(&mut self, ctx: &mut Ctx) {
        // Bounded by IN_FLIGHT_MAX: each entry belongs to a pending command.
        let (tx, rx) = mpsc::unbounded_channel();
        self.receipts = Some(tx);
        ctx.add_stream(Outgoing(Arc::clone(&self.connection)));
        ctx.add_stream(appended(rx));
    }
}

/// Dropped with the connection, frozen or not.
impl Drop for Session {
    fn drop(&mut self) {
        self.connection.mark_gone();
        metrics::gauge!("hotbook_ws_connections").decrement(1.0);
    }
}

/// The connection's queue as a stream.
struct Outgoing(Arc<Connection>);

impl Stream for Outgoing {
    type Item = Vec<Item>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<Item>>> {
        self.0.poll_take(cx).map(Some)
    }
}

/// A receipt that has resolved. Receipts of one session resolve in order, so one is awaited after the other.
struct Appended {
    counter: u64,
    result: Result<Ack, LogError>,
}

fn appended(rx: mpsc::UnboundedReceiver<(u64, Receipt)>) -> impl Stream<Item = Appended> {
    futures_util::stream::unfold(rx, |mut rx| async move {
        let (counter, receipt) = rx.recv().await?;
        Some((Appended { counter, result: receipt.await }, rx))
    })
}

impl StreamHandler<Appended> for Session {
    fn handle(&mut self, done: Appended, ctx: &mut Ctx) {
        match done.result {
            Ok(_) => self.acknowledge(done.counter, ctx),
            Err(e) => {
                let error = append_failed(&self.router, &e);
                if let Some(p) = self.pending.remove(&done.counter) {
                    self.refuse(p.request_id.as_deref(), &error, ctx);
                }
            }
        }
    }

    fn finished(&mut self, _: &mut Ctx) {}
}

/// What a failed append means to its sender; after the end of the log's session the next command gets a new one.
pub fn append_failed(router: &RouterCore, e: &LogError) -> EdgeError {
    if matches!(e, LogError::SessionEnded { .. }) {
        router.renew_session();
    }
    append_error(e)
}

/// What a failed append means to its sender.
pub fn append_error(e: &LogError) -> EdgeError {
    match e {
        LogError::Full => EdgeError::new(Code::Overloaded),
        LogError::TooLarge { .. }
        | LogError::ReadOnly
        | LogError::NoPartition { .. }
        | LogError::Unavailable { .. } => EdgeError::new(Code::LogUnavailable),
        _ => EdgeError::new(Code::OutcomeUnknown),
    }
}

impl StreamHandler<Vec<Item>> for Session {
    fn handle(&mut self, batch: Vec<Item>, ctx: &mut Ctx) {
        for item in batch {
            match item {
                Item::Push(Push::Own { said, role }) => self.own(&said, &role, ctx),
                Item::Push(Push::Market(text)) | Item::Text(text) => ctx.text(text),
                Item::Ping => ctx.ping(b""),
                Item::Close(with) => self.close(with, ctx),
            }
        }
    }

    fn finished(&mut self, _: &mut Ctx) {}
}

impl Session {
    /// Says RECEIVED once; an outcome that overtook the receipt has said it already, since it implies durability.
    fn acknowledge(&mut self, counter: u64, ctx: &mut Ctx) {
        if let Some(p) = self.pending.get_mut(&counter)
            && !p.acked
        {
            p.acked = true;
            ctx.text(ws_text::received(p.request_id.as_deref(), p.order_id.as_ref(), &p.symbol));
        }
    }

    fn own(&mut self, said: &Said, role: &Role, ctx: &mut Ctx) {
        let origin = said.output.origin;
        let mine = origin.gateway == self.gateway.incarnation() && self.pending.contains_key(&origin.counter);
        if mine {
            self.acknowledge(origin.counter, ctx);
        }
        let request_id = match role {
            Role::Answer if mine => self.pending.remove(&origin.counter).and_then(|p| p.request_id),
            _ => None,
        };
        if let Some(text) = ws_text::own(said, role, request_id.as_deref()) {
            ctx.text(text);
        }
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(&mut self, message: Result<Message, ProtocolError>, ctx: &mut Ctx) {
        self.connection.heard();
        match message {
            // The parser stays in error: go on and it says so for ever.
            Err(e) => {
                let with = match e {
                    ProtocolError::Overflow => CloseWith::TooLarge,
                    _ => CloseWith::ProtocolError,
                };
                self.close(with, ctx);
                ctx.stop();
            }
            Ok(Message::Close(reason)) => {
                if !self.closing {
                    self.closing = true;
                    ctx.close(reason);
                }
                ctx.stop();
            }
            Ok(_) if self.closing => {}
            Ok(Message::Text(text)) if text.len() > BODY_BYTES_MAX => self.close(CloseWith::TooLarge, ctx),
            Ok(Message::Text(text)) => self.text(text.as_bytes(), ctx),
            Ok(Message::Binary(_)) => self.close(CloseWith::BinaryFrame, ctx),
            Ok(Message::Continuation(part)) => self.fragment(part, ctx),
            Ok(Message::Ping(data)) => ctx.pong(&data),
            Ok(Message::Pong(_) | Message::Nop) => {}
        }
    }
}

impl Session {
    fn fragment(&mut self, part: Fragment, ctx: &mut Ctx) {
        let (data, is_last) = match part {
            Fragment::FirstBinary(_) => return self.close(CloseWith::BinaryFrame, ctx),
            Fragment::FirstText(data) => {
                self.fragments = Some(BytesMut::new());
                (data, false)
            }
            Fragment::Continue(data) => (data, false),
            Fragment::Last(data) => (data, true),
        };
        let Some(whole) = &mut self.fragments else { return };
        if whole.len() + data.len() > BODY_BYTES_MAX {
            self.fragments = None;
            return self.close(CloseWith::TooLarge, ctx);
        }
        whole.extend_from_slice(&data);
        if is_last && let Some(whole) = self.fragments.take() {
            self.text(&whole, ctx);
        }
    }

    fn text(&mut self, text: &[u8], ctx: &mut Ctx) {
        let head = match schema::read::<Head>(text) {
            Ok(head) => head,
            Err(e) => return self.refuse(None, &e, ctx),
        };
        let request_id = match head.request_id.map(checked_request_id).transpose() {
            Ok(id) => id,
            Err(e) => return self.refuse(None, &e, ctx),
        };
        let done = match head.action.as_deref() {
            Some("ADD") => self.add(text, request_id.clone()),
            Some("CANCEL") => self.cancel(text, request_id.clone()),
            Some("REPLACE") => self.replace(text, request_id.clone()),
            Some("CANCEL_ALL") => self.cancel_all(text, request_id.clone(), ctx),
            Some("SUBSCRIBE") => self.subscribe(text, request_id.as_deref(), true, ctx),
            Some("UNSUBSCRIBE") => self.subscribe(text, request_id.as_deref(), false, ctx),
            Some("RESUME") => self.resume(text, request_id.as_deref(), ctx),
            Some("AUTH") => self.auth(text, request_id.as_deref(), ctx),
            Some("PING") => {
                ctx.text(ws_text::pong(request_id.as_deref()));
                Ok(())
            }
            Some(other) => {
                let given: String = other.chars().take(32).collect();
                Err(EdgeError::new(Code::UnknownAction).detail("action", given))
            }
            None => Err(schema::missing("action")),
        };
        if let Err(e) = done {
            self.refuse(request_id.as_deref(), &e, ctx);
        }
    }

    fn trader(&self) -> Result<UserId, EdgeError> {
        match &self.caller {
            Some(c) if c.is_trader => Ok(c.user),
            Some(_) => Err(EdgeError::new(Code::Forbidden).message("the role `trader` is needed")),
            None => Err(EdgeError::new(Code::Unauthorized).message("send AUTH with a token first")),
        }
    }

    fn add(&mut self, text: &[u8], request_id: Option<Box<str>>) -> Result<(), EdgeError> {
        let user = self.trader()?;
        let fields: OrderFields = schema::read(text)?;
        let (symbol, scale) = self.listed(fields.symbol.as_deref())?;
        let order = fields.to_order(user, scale)?;
        self.submit(symbol, Command::Add(order), Some(order.order_id), request_id)
    }

    fn cancel(&mut self, text: &[u8], request_id: Option<Box<str>>) -> Result<(), EdgeError> {
        let user = self.trader()?;
        let fields: ChangeFields = schema::read(text)?;
        let (symbol, _) = self.listed(fields.symbol.as_deref())?;
        let order_id = schema::order_id(fields.order_id.as_deref())?;
        self.submit(symbol, Command::Cancel { user, order_id }, Some(order_id), request_id)
    }

    fn replace(&mut self, text: &[u8], request_id: Option<Box<str>>) -> Result<(), EdgeError> {
        let user = self.trader()?;
        let fields: ChangeFields = schema::read(text)?;
        let (symbol, scale) = self.listed(fields.symbol.as_deref())?;
        let order_id = schema::order_id(fields.order_id.as_deref())?;
        let command = fields.to_replace(user, order_id, scale)?;
        self.submit(symbol, command, Some(order_id), request_id)
    }

    /// Without a symbol: in every symbol in which the user has open orders now.
    fn cancel_all(&mut self, text: &[u8], request_id: Option<Box<str>>, ctx: &mut Ctx) -> Result<(), EdgeError> {
        let user = self.trader()?;
        let fields: CancelAllFields = schema::read(text)?;
        let symbols: Vec<Symbol> = match &fields.symbol {
            Some(s) => vec![self.listed(Some(s))?.0],
            None => {
                let open = self.gateway.mirrors().open_orders(None, &user);
                open.iter().map(|o| o.symbol).collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        if symbols.is_empty() {
            ctx.text(ws_text::done(request_id.as_deref(), "CANCEL_ALL", r#""count":0"#));
        }
        for symbol in symbols {
            // The router signs it and fills this in.
            let authority = Authority { nonce: 0, valid_until: Micros(0) };
            self.submit(symbol, Command::CancelAll { user, authority }, None, request_id.clone())?;
        }
        Ok(())
    }

    fn listed(&self, text: Option<&str>) -> Result<(Symbol, u8), EdgeError> {
        let symbol = schema::symbol(text)?;
        let instrument = self.gateway.mirrors().instrument(&symbol);
        instrument.map(|i| (symbol, i.price_scale)).ok_or_else(|| schema::unknown_symbol(symbol.as_str()))
    }

    /// Hands a command to the router; what the connection entered is noted before, under the lock that the registry
    /// takes before it cancels, so that no command slips in behind the cancels.
    fn submit(
        &mut self,
        symbol: Symbol,
        command: Command,
        order_id: Option<OrderId>,
        request_id: Option<Box<str>>,
    ) -> Result<(), EdgeError> {
        if self.pending.len() >= IN_FLIGHT_MAX {
            return Err(EdgeError::new(Code::TooManyInFlight));
        }
        let origin = self.gateway.origin(self.connection.id());
        let mut entered = self.connection.entered.lock();
        if entered.ended {
            return Err(EdgeError::new(Code::Draining));
        }
        let receipt = self.router.submit(Submit { symbol, command: command.clone(), origin })?;
        if entered.is_on
            && let Command::Add(order) = &command
        {
            entered.orders.insert((symbol, order.order_id));
            if entered.orders.len() >= entered.prune_at {
                let mirrors = self.gateway.mirrors();
                entered.orders.retain(|(s, id)| !has_ended(mirrors, s, &order.user, id));
                entered.prune_at = entered.orders.len() + PRUNE_EVERY;
            }
        }
        drop(entered);
        self.pending.insert(origin.counter, Pending { request_id, symbol, order_id, acked: false });
        if let Some(receipts) = &self.receipts {
            // Fails only once the actor has stopped.
            _ = receipts.send((origin.counter, receipt));
        }
        Ok(())
    }

    fn auth(&mut self, text: &[u8], request_id: Option<&str>, ctx: &mut Ctx) -> Result<(), EdgeError> {
        let fields: AuthFields = schema::read(text)?;
        let caller = match &fields.token {
            Some(token) => self.identity.verify(token).map_err(identity_error)?,
            None => self.caller.clone().ok_or_else(|| schema::missing("token"))?,
        };
        if self.caller.as_ref().is_some_and(|c| c.user != caller.user) {
            return Err(EdgeError::new(Code::Forbidden).message("the connection belongs to another user already"));
        }
        self.gateway.authenticate(self.connection.id(), caller.user);
        let mut entered = self.connection.entered.lock();
        entered.user = Some(caller.user);
        if let Some(on) = fields.cancel_on_disconnect {
            entered.is_on = on;
            entered.prune_at = entered.prune_at.max(PRUNE_EVERY);
        }
        let is_on = entered.is_on;
        drop(entered);
        let mut more = String::from(r#""user_id":"#);
        ws_text::string(caller.user.as_str(), &mut more);
        more.push_str(&format!(r#","cancel_on_disconnect":{is_on}"#));
        ctx.text(ws_text::done(request_id, "AUTH", &more));
        self.caller = Some(caller);
        Ok(())
    }

    fn subscribe(&mut self, text: &[u8], request_id: Option<&str>, on: bool, ctx: &mut Ctx) -> Result<(), EdgeError> {
        let fields: SubscribeFields = schema::read(text)?;
        let channels = fields.channels.ok_or_else(|| schema::missing("channels"))?;
        let mut wanted: Vec<(Channel, u8, Option<Symbol>)> = Vec::new();
        for name in &channels {
            let (channel, number) = match name.as_str() {
                "depth" => (Channel::Depth, 0),
                "trades" => (Channel::Trades, 1),
                "ticker" => (Channel::Ticker, 2),
                "candles" => (Channel::Candles, 4),
                "orders" => {
                    self.trader()?;
                    wanted.push((Channel::Orders, 3, None));
                    continue;
                }
                other => {
                    let given: String = other.chars().take(32).collect();
                    return Err(EdgeError::new(Code::UnknownChannel).detail("channel", given));
                }
            };
            for s in fields.symbols.as_deref().ok_or_else(|| schema::missing("symbols"))? {
                wanted.push((channel, number, Some(self.listed(Some(s))?.0)));
            }
        }
        if on && self.subscribed.len() + wanted.len() > SUBSCRIPTIONS_MAX {
            return Err(EdgeError::new(Code::TooManySubscriptions));
        }
        let action = if on { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
        let names = serde_json::to_string(&channels).unwrap_or_default();
        let symbols = serde_json::to_string(&fields.symbols.unwrap_or_default()).unwrap_or_default();
        ctx.text(ws_text::done(request_id, action, &format!(r#""channels":{names},"symbols":{symbols}"#)));
        for (channel, number, symbol) in wanted {
            self.subscribe_one(channel, number, symbol, on)?;
        }
        Ok(())
    }

    /// Says how each of the caller's orders stands that changed above `last_seq`. Fills in between are not kept: with
    /// anything missed, the client is told the seq to which these states belong.
    fn resume(&mut self, text: &[u8], request_id: Option<&str>, ctx: &mut Ctx) -> Result<(), EdgeError> {
        let user = self.trader()?;
        let fields: ResumeFields = schema::read(text)?;
        for (name, last) in fields.last_seq.ok_or_else(|| schema::missing("last_seq"))? {
            let (symbol, _) = self.listed(Some(&name))?;
            let mirrors = self.gateway.mirrors();
            let now = mirrors.last_seq(&symbol).map_or(0, |s| s.0);
            for order in mirrors.open_orders(Some(&symbol), &user) {
                let (order_id, symbol, seq) = (order.order_id, order.symbol, order.seq);
                let (status, filled, remaining) = (order.status, order.filled, order.remaining);
                ctx.text(ws_text::standing(&Standing { order_id, symbol, status, filled, remaining, seq }));
            }
            if last != now {
                let e = EdgeError::new(Code::ResyncNeeded).detail("symbol", name).detail("seq", now);
                self.refuse(request_id, &e, ctx);
            }
        }
        ctx.text(ws_text::done(request_id, "RESUME", ""));
        Ok(())
    }

    fn subscribe_one(&mut self, channel: Channel, number: u8, of: Option<Symbol>, on: bool) -> Result<(), EdgeError> {
        let id = self.connection.id();
        // The channel of own orders takes no notice of the symbol.
        let symbol = of.unwrap_or_else(|| Symbol::new("ALL").expect("is a symbol"));
        if !on {
            self.gateway.unsubscribe(id, channel, symbol);
            self.subscribed.remove(&(number, of));
        } else if self.subscribed.insert((number, of)) {
            self.gateway.subscribe(id, channel, symbol)?;
        }
        Ok(())
    }
}

/// Whether the mirrors know that an order has ended; one that they do not know may be on its way.
pub(super) fn has_ended(mirrors: &Mirrors, symbol: &Symbol, user: &UserId, order_id: &OrderId) -> bool {
    mirrors.order(symbol, user, order_id).is_some_and(|o| !o.status.is_open())
}

/// How a token's refusal looks at the edge.
pub fn identity_error(e: IdentityError) -> EdgeError {
    match e {
        IdentityError::Expired => EdgeError::new(Code::TokenExpired),
        IdentityError::NoTokens => EdgeError::new(Code::DevTokensOff),
        IdentityError::Invalid { why } => EdgeError::new(Code::Unauthorized).message(format!("invalid token: {why}")),
    }
}
