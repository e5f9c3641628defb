//! From a command that a client sent to a record in the `orders` log: the router's core, which any thread calls in place.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::actors::cluster::Members;
use crate::actors::directory::Directory;
use crate::actors::mirror::Mirrors;
use crate::actors::owners::Owners;
use crate::clock;
use crate::domain::command::{Signed, SignedOrder};
use crate::domain::control::Stamp;
use crate::domain::{Admission, Command, Instrument, Micros, NewOrder, OrderKind, Origin, Reason, Symbol, UserId};
use crate::ports::log::renewed::RenewedSession;
use crate::ports::log::{Log, LogError, NewRecord, Receipt, SessionOptions, Topic, TopicPartition, partition_of};
use crate::wire::client::error::EdgeError;
use crate::wire::control::VALID_US;
use crate::wire::{Control, Keyring, orders};

/// Why nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the symbol is not listed")]
    UnknownSymbol,
    /// The book is too far behind, or the log's queue is full: try later.
    #[error("the symbol or the log is behind")]
    Overloaded,
    /// The instrument's rules do not let it in.
    #[error("{}", .0.text())]
    Invalid(Reason),
    #[error("the orders log takes no records now")]
    LogUnavailable,
    #[error("only the cluster itself may send this")]
    Forbidden,
    #[error("this connection holds as many subscriptions as it may")]
    TooManySubscriptions,
    #[error("a valid token is needed")]
    NotAuthenticated,
    #[error("the connection is gone")]
    NotConnected,
}

impl Refusal {
    /// The stable code that clients see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownSymbol => "unknown_symbol",
            Self::Overloaded => "overloaded",
            Self::Invalid(reason) => reason.code(),
            Self::LogUnavailable => "log_unavailable",
            Self::Forbidden => "forbidden",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::NotAuthenticated => "unauthorized",
            Self::NotConnected => "internal",
        }
    }
}

impl From<Refusal> for EdgeError {
    fn from(refusal: Refusal) -> Self {
        Self::from_code(refusal.code())
    }
}

/// What a connection or request wants appended. The authority of a CANCEL_ALL is filled in by the router.
#[derive(Debug)]
pub struct Submit {
    pub symbol: Symbol,
    pub command: Command,
    /// Comes back in the header of every output of this command.
    pub origin: Origin,
}

/// How far each book is behind: of those in this process as they are, of others as their nodes said last.
#[derive(Clone, Default)]
pub struct Lags {
    directory: Arc<Directory>,
    owners: Arc<Owners>,
    members: Arc<Members>,
}

impl Lags {
    pub(in crate::actors) fn new(directory: &Arc<Directory>, owners: &Arc<Owners>, members: &Arc<Members>) -> Self {
        Self { directory: Arc::clone(directory), owners: Arc::clone(owners), members: Arc::clone(members) }
    }

    /// Records that the book's node has met in the log and the book has not applied yet.
    fn of(&self, symbol: &Symbol) -> u64 {
        match (self.directory.get(symbol), self.owners.get(symbol)) {
            // One that only follows may be behind, and that keeps nobody from trading.
            (Some(book), owner) if owner.is_none_or(|o| o.node == book.node() || !self.members.knows(&o.node)) => {
                book.lag()
            }
            (_, Some(owner)) => self.members.lag(&owner.node, symbol),
            (_, None) => 0,
        }
    }
}

/// What the core needs to know.
pub(in crate::actors) struct CoreParts {
    pub log: Arc<dyn Log>,
    pub mirrors: Arc<Mirrors>,
    pub lags: Lags,
    pub keyring: Arc<Keyring>,
    /// The gateway's, of this start.
    pub incarnation: u64,
    /// Records by which a book may be behind before new orders for it are refused.
    pub lag_records_max: u64,
    /// Bytes of orders not yet durable: above it, receipts say [`LogError::Full`].
    pub queue_bytes_max: usize,
}

/// Checks, encodes, appends. Plain and shared by all threads: its only lock is around the log session's handle.
pub struct RouterCore {
    parts: CoreParts,
    session: RenewedSession,
    /// Number of the last signed order, by partition; held until the order is appended, so that numbers ascend in the log.
    signed: Vec<Mutex<u64>>,
}

impl RouterCore {
    /// Opens the gateway's own session of the log.
    ///
    /// # Errors
    /// As [`Log::open_session`].
    pub(in crate::actors) fn new(parts: CoreParts) -> Result<Self, LogError> {
        let options = SessionOptions { name: "gateway".into(), queue_bytes_max: parts.queue_bytes_max };
        let session = RenewedSession::open(Arc::clone(&parts.log), options)?;
        tracing::info!("accounts are not kept yet: the router admits every order, whatever its user owns");
        let signed = (0..parts.log.partitions()).map(|_| Mutex::default()).collect();
        Ok(Self { parts, session, signed })
    }

    /// Checks the command and appends it. The receipt resolves when the record is durable: only then may a client be
    /// told RECEIVED. The log's queue is bounded: with a receipt that says [`LogError::Full`] nothing was appended. What each
    /// error of a receipt means to the sender, [`crate::actors::session::append_error`] says.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was appended.
    pub fn submit(&self, submit: Submit) -> Result<Receipt, Refusal> {
        let result = self.append(submit);
        match &result {
            Ok(_) => metrics::counter!("hotbook_router_appended_total").increment(1),
            Err(refusal) => metrics::counter!("hotbook_router_refused_total", "code" => refusal.code()).increment(1),
        }
        result
    }

    fn append(&self, submit: Submit) -> Result<Receipt, Refusal> {
        let Submit { symbol, command, origin } = submit;
        let instrument = self.parts.mirrors.instrument(&symbol).ok_or(Refusal::UnknownSymbol)?;
        check(&instrument, &command).map_err(Refusal::Invalid)?;
        let partition = partition_of(symbol.as_bytes(), self.parts.log.partitions());
        let needs_signature = instrument.admission == Admission::Gateway;
        let value = match command {
            Command::Add(order) => {
                self.admit(&order.user)?;
                self.refuse_if_behind(&symbol)?;
                if needs_signature {
                    return Ok(self.append_signed(symbol, partition, SignedOrder::Add(order), origin));
                }
                orders::encode(&symbol, &command)
            }
            Command::Replace { user, order_id, price, quantity } => {
                self.refuse_if_behind(&symbol)?;
                if needs_signature {
                    let order = SignedOrder::Replace { user, order_id, price, quantity };
                    return Ok(self.append_signed(symbol, partition, order, origin));
                }
                orders::encode(&symbol, &command)
            }
            // Taking orders out of a book that is behind helps it.
            Command::Cancel { .. } => orders::encode(&symbol, &command),
            Command::CancelAll { user, .. } => {
                self.parts.keyring.encode(&symbol, partition, Control::CancelAll { user }, clock::now())
            }
            _ => return Err(Refusal::Forbidden),
        };
        Ok(self.append_value(&symbol, partition, origin, value))
    }

    /// One after another within a partition.
    fn append_signed(&self, symbol: Symbol, partition: u32, order: SignedOrder, origin: Origin) -> Receipt {
        let mut number = self.signed[partition as usize].lock();
        *number += 1;
        let valid_until = Micros(clock::now().0 + VALID_US);
        let stamp = Stamp { gateway: self.parts.incarnation, number: *number, valid_until };
        let value = self.parts.keyring.encode_signed(&symbol, partition, &Signed { stamp, order });
        self.append_value(&symbol, partition, origin, value)
    }

    fn append_value(&self, symbol: &Symbol, partition: u32, origin: Origin, value: Bytes) -> Receipt {
        self.session.current().append(NewRecord {
            to: TopicPartition { topic: Topic::Orders, partition },
            key: Bytes::copy_from_slice(symbol.as_bytes()),
            header: Bytes::copy_from_slice(&origin.to_bytes()),
            value,
        })
    }

    /// Opens a new session after a receipt said that the old one ended: nothing behind the failed record landed, and
    /// nothing would land on it any more. Many receipts say so at once, and it is done once.
    pub fn renew_session(&self) {
        self.session.renew();
    }

    /// The account step admits everything: no account is kept yet, so nobody's funds or shares are looked at.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // the place where account shards will be asked
    fn admit(&self, _user: &UserId) -> Result<(), Refusal> {
        Ok(())
    }

    fn refuse_if_behind(&self, symbol: &Symbol) -> Result<(), Refusal> {
        let lag = self.parts.lags.of(symbol);
        if lag > self.parts.lag_records_max { Err(Refusal::Overloaded) } else { Ok(()) }
    }
}

/// What the instrument says before the log is asked. The book checks again: the log has other producers.
fn check(instrument: &Instrument, command: &Command) -> Result<(), Reason> {
    match command {
        Command::Add(NewOrder { kind, quantity, .. }) => {
            instrument.check_quantity(*quantity)?;
            if let OrderKind::Limit { price } | OrderKind::StopLimit { price, .. } = kind {
                instrument.check_price(*price)?;
                instrument.check_value(*price, *quantity)?;
            }
            Ok(())
        }
        Command::Replace { price, quantity, .. } => {
            price.map_or(Ok(()), |p| instrument.check_price(p))?;
            quantity.map_or(Ok(()), |q| instrument.check_quantity(q))?;
            match (price, quantity) {
                (Some(price), Some(quantity)) => instrument.check_value(*price, *quantity),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::mirror::Mirror;
    use crate::actors::session::append_error;
    use crate::actors::toy::{Toy, id, user};
    use crate::ports::log::Session as _;
    use crate::ports::log::embedded::EmbeddedLog;

    fn core(toy: &Toy) -> RouterCore {
        let mirrors = Arc::new(Mirrors::default());
        mirrors.enter(Mirror::restored(toy.state()));
        let parts = CoreParts {
            log: Arc::new(EmbeddedLog::ephemeral(2).unwrap()),
            mirrors,
            lags: Lags::default(),
            keyring: Arc::new(Keyring::from_secret(b"s")),
            incarnation: 1,
            lag_records_max: 10,
            queue_bytes_max: 1 << 20,
        };
        RouterCore::new(parts).unwrap()
    }

    fn cancel(symbol: Symbol) -> Submit {
        Submit { symbol, command: Command::Cancel { user: user("a"), order_id: id("1") }, origin: Origin::NONE }
    }

    #[actix_rt::test]
    async fn a_session_that_ended_is_replaced_by_a_new_one() {
        let toy = Toy::listed("TSLA");
        let core = core(&toy);
        core.submit(cancel(toy.symbol)).unwrap().await.unwrap();
        core.session.abort();
        let error = core.submit(cancel(toy.symbol)).unwrap().await.unwrap_err();
        assert!(matches!(error, LogError::SessionEnded { .. }), "{error}");
        assert_eq!(append_error(&error).code, "outcome_unknown");
        core.renew_session();
        core.submit(cancel(toy.symbol)).unwrap().await.unwrap();
    }

    #[test]
    fn every_refusal_of_the_router_is_in_the_table() {
        use Refusal::{
            Forbidden, Invalid, LogUnavailable, NotAuthenticated, NotConnected, Overloaded, TooManySubscriptions,
            UnknownSymbol,
        };
        let refusals = [
            UnknownSymbol,
            Overloaded,
            LogUnavailable,
            Forbidden,
            TooManySubscriptions,
            NotAuthenticated,
            NotConnected,
            Invalid(Reason::PriceAboveLimit),
        ];
        for refusal in refusals {
            assert_eq!(EdgeError::from(refusal).code, refusal.code());
        }
    }
}
