//! The exchange of one process: a log, a gateway, and some nodes with their books.

mod config;
mod start;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use bytes::Bytes;
use futures_util::StreamExt;

use super::book::{CutError, Saved};
use super::cache::{self, CacheWriter};
use super::catalogue::{Catalogue, Entry};
use super::cluster::Members;
use super::decisions::Decisions;
use super::directory::{BookStatus, Directory};
use super::fleet::{Fleet, RunningNode};
use super::gateway::Gateway;
use super::moves::Moves;
use super::node::{CrashBook, NodeContext};
use super::owners::{Owner, Owners};
use super::peers::Peers;
use super::retention::Retention;
use super::shadows::{self, Restored, ShadowError, Source};
use crate::clock;
use crate::domain::command::Listing;
use crate::domain::{Instrument, NodeId, OutputBody, Reason, Symbol};
use crate::engine::RULES_VERSION;
use crate::migration::placement::PlacementMode;
use crate::ports::log::{Log, LogError, NewRecord, Session, Topic, TopicPartition, partition_of};
use crate::ports::snapshots::SnapshotStore;
use crate::wire::{Control, Keyring};

pub use config::ExchangeConfig;
pub use start::StartError;

/// How long an administrator waits for a book's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Snapshots written at once while stopping.
const STOP_SNAPSHOTS_MAX: usize = 16;
/// Books whose rules are raised at once.
const FINALIZED_AT_ONCE: usize = 256;
/// How long books have to leave a process that goes down, and how often it is looked whether they have.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);
const LEAVE_LOOK: Duration = Duration::from_millis(50);
const LET_GO_WITHIN: Duration = Duration::from_secs(3);

/// Why a symbol was not listed, halted or resumed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    #[error("instrument is not usable: {0}")]
    Instrument(&'static str),
    #[error("{}", .0.text())]
    Refused(Reason),
    #[error("symbol is not listed")]
    UnknownSymbol,
    #[error("no node is there to take the book")]
    NoNode,
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("no answer in time; the outcome is not known")]
    OutcomeUnknown,
}

/// Everything of one process, composed.
pub struct Exchange {
    log: Arc<dyn Log>,
    snapshots: Arc<dyn SnapshotStore>,
    admin: Arc<dyn Session>,
    keyring: Arc<Keyring>,
    catalogue: Arc<Catalogue>,
    directory: Arc<Directory>,
    gateway: Arc<Gateway>,
    fleet: Arc<Fleet>,
    /// Held while a symbol is entered into the catalogue.
    listing: tokio::sync::Mutex<()>,
    moves: Arc<Moves>,
    decisions: Arc<Decisions>,
    placement_mode: PlacementMode,
    peers: Arc<Peers>,
    retention: Arc<Retention>,
    /// `None`: the parts have no cache.
    cache: Option<Addr<CacheWriter>>,
}

impl Exchange {
    /// What the supervisor decided and why, and who leads.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Whether books move by themselves.
    pub fn placement_mode(&self) -> PlacementMode {
        self.placement_mode
    }

    /// Moves of books, under way and ended.
    pub fn moves(&self) -> &Arc<Moves> {
        &self.moves
    }

    /// The nodes of the process.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The nodes of other processes.
    pub fn members(&self) -> &Arc<Members> {
        self.fleet.members()
    }

    /// Who owns each book, by the log.
    pub fn owners(&self) -> &Arc<Owners> {
        self.fleet.owners()
    }

    /// The nodes as they know each other.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Which snapshots are kept, as far as this process knows.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    pub fn snapshots(&self) -> &Arc<dyn SnapshotStore> {
        &self.snapshots
    }

    /// Lists a symbol on the node with the fewest books; returns once it trades.
    ///
    /// # Errors
    /// [`ControlError`]; `Refused(SymbolExists)` when it is listed already, also when two list it at once.
    pub async fn list(&self, symbol: Symbol, instrument: Instrument) -> Result<(), ControlError> {
        instrument.check().map_err(ControlError::Instrument)?;
        if self.is_listed(&symbol) {
            return Err(ControlError::Refused(Reason::SymbolExists));
        }
        let entry = self.enter(symbol).await?;
        let mut key = [0u8; 16];
        getrandom::fill(&mut key).map_err(|_| ControlError::Instrument("no randomness for the id key"))?;
        let id_key = u128::from_le_bytes(key);
        let rules_version = instrument.rules_needed();
        let listing = Listing { instrument, owner: entry.owner, id_key, rules_version };
        self.control(symbol, Control::List(listing)).await
    }

    /// The first to list a symbol decides where its records begin and who owns it.
    async fn enter(&self, symbol: Symbol) -> Result<Entry, ControlError> {
        let _alone = self.listing.lock().await;
        if let Some(entry) = self.catalogue.get(&symbol) {
            return Ok(entry);
        }
        let partition = partition_of(symbol.as_bytes(), self.log.partitions());
        let orders_from = self.log.end_offset(TopicPartition { topic: Topic::Orders, partition }).await?;
        let events_from = self.log.end_offset(TopicPartition { topic: Topic::Events, partition }).await?;
        let owner = self.emptiest_node().ok_or(ControlError::NoNode)?;
        let entry = Entry { symbol, partition, owner, orders_from, events_from };
        Ok(self.catalogue.enter(&*self.log, &*self.admin, entry).await?)
    }

    fn is_listed(&self, symbol: &Symbol) -> bool {
        self.gateway.mirrors().cell(symbol).is_some()
    }

    /// By entries of the catalogue, so that listings under way count as well.
    fn emptiest_node(&self) -> Option<NodeId> {
        let entries = self.catalogue.all();
        let owner = |e: &Entry| self.owners().get(&e.symbol).map_or(e.owner, |owner| owner.node);
        let emptiest = self.fleet.emptiest(|id| entries.iter().filter(|e| owner(e) == *id).count());
        emptiest.or_else(|| self.fleet.all().first().map(|n| n.context.id))
    }

    /// Stops trading in a symbol; cancels still pass.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn halt(&self, symbol: Symbol) -> Result<(), ControlError> {
        self.control_listed(symbol, Control::Halt).await
    }

    /// # Errors
    /// [`ControlError`].
    pub async fn resume(&self, symbol: Symbol) -> Result<(), ControlError> {
        self.control_listed(symbol, Control::Resume).await
    }

    /// Raises the rules of every listed book to this version, by a record of its own each; gives how many there are.
    /// Every node must be able to run it: a node that is not would refuse to go on. Once more does no harm.
    ///
    /// # Errors
    /// [`ControlError`]: some books may have it already.
    pub async fn finalize_version(&self, version: u32) -> Result<usize, ControlError> {
        if !(1..=RULES_VERSION).contains(&version) {
            return Err(ControlError::Refused(Reason::RulesVersionUnknown));
        }
        let books: Vec<Symbol> = self.catalogue.all().iter().map(|e| e.symbol).filter(|s| self.is_listed(s)).collect();
        for some in books.chunks(FINALIZED_AT_ONCE) {
            let raise = some.iter().map(|symbol| self.control(*symbol, Control::Rules { version }));
            for raised in futures_util::future::join_all(raise).await {
                raised?;
            }
        }
        Ok(books.len())
    }

    async fn control_listed(&self, symbol: Symbol, control: Control) -> Result<(), ControlError> {
        if !self.is_listed(&symbol) {
            return Err(ControlError::UnknownSymbol);
        }
        self.control(symbol, control).await
    }

    /// Appends a signed record and waits for the book's answer.
    async fn control(&self, symbol: Symbol, control: Control) -> Result<(), ControlError> {
        let partition = partition_of(symbol.as_bytes(), self.log.partitions());
        let (origin, answer) = self.gateway.expect_answer();
        let receipt = self.admin.append(NewRecord {
            to: TopicPartition { topic: Topic::Orders, partition },
            key: Bytes::copy_from_slice(symbol.as_bytes()),
            header: Bytes::copy_from_slice(&origin.to_bytes()),
            value: self.keyring.encode(&symbol, partition, control, clock::now()),
        });
        if let Err(e) = receipt.await {
            self.gateway.forget_answer(origin);
            return Err(e.into());
        }
        let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WITHIN, answer).await else {
            self.gateway.forget_answer(origin);
            return Err(ControlError::OutcomeUnknown);
        };
        match answer.said.iter().find(|s| s.output.answer).map(|s| &s.output.body) {
            Some(OutputBody::Refused { reason, .. }) => Err(ControlError::Refused(*reason)),
            Some(_) => Ok(()),
            None => Err(ControlError::OutcomeUnknown),
        }
    }

    /// Takes a snapshot now; returns once it is visible.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn snapshot(&self, symbol: Symbol) -> Result<Saved, CutError> {
        let of = self.route(&symbol).await.ok_or(CutError::NotActive)?;
        self.moves.snapshot(of, symbol).await.unwrap_or(Err(CutError::NotActive))
    }

    /// The node that a book is on: by the log if its records are read here, by the route table otherwise.
    async fn route(&self, symbol: &Symbol) -> Option<NodeId> {
        match self.owners().get(symbol) {
            Some(owner) if !self.fleet.all().is_empty() => Some(owner.node),
            _ => self.gateway.routes().get(*symbol).await.ok().flatten().map(|row| row.target_instance),
        }
    }

    /// Who owns a book, as far as this process knows. One without nodes may know of a book that was listed a moment ago only
    /// from the route table.
    pub async fn owner(&self, symbol: &Symbol) -> Option<Owner> {
        if let Some(owner) = self.owners().get(symbol) {
            return Some(owner);
        }
        let row = self.gateway.routes().get(*symbol).await.ok().flatten()?;
        Some(Owner { node: row.target_instance, epoch: row.epoch, partition: row.partition })
    }

    /// Starts a shadow of a book. `on`: which node; `None`: the first that neither owns nor follows it.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub async fn restore_shadow(
        &self,
        symbol: Symbol,
        on: Option<NodeId>,
        source: Source,
    ) -> Result<Restored, ShadowError> {
        let node = self.shadow_node(&symbol, on, |context| context.status(&symbol).is_none())?;
        shadows::restore(&node.context, &node.supervisor, symbol, source).await
    }

    /// Removes a shadow of a book; gives the node that it was on. `on`: which node; `None`: the first that has one.
    ///
    /// # Errors
    /// [`ShadowError`].
    pub async fn remove_shadow(&self, symbol: Symbol, on: Option<NodeId>) -> Result<NodeId, ShadowError> {
        let node = self.shadow_node(&symbol, on, |context| context.status(&symbol).is_some())?;
        shadows::remove(&node.context, &node.supervisor, symbol).await?;
        Ok(node.context.id)
    }

    /// The named node; otherwise the one best suited for a shadow, so that the error is of it if there is none.
    fn shadow_node(
        &self,
        symbol: &Symbol,
        named: Option<NodeId>,
        suits: impl Fn(&NodeContext) -> bool,
    ) -> Result<&RunningNode, ShadowError> {
        if let Some(id) = named {
            return self.fleet.get(&id).ok_or(ShadowError::UnknownNode);
        }
        let owner = self.owners().get(symbol).ok_or(ShadowError::UnknownSymbol)?.node;
        let others = || self.fleet.all().iter().filter(|n| n.context.id != owner && n.context.is_alive());
        let best = others().find(|n| suits(&n.context)).or_else(|| others().next());
        best.or_else(|| self.fleet.all().first()).ok_or(ShadowError::UnknownNode)
    }

    /// What a node of this process last said of its replica of a book.
    pub fn replica(&self, on: &NodeId, symbol: &Symbol) -> Option<Arc<BookStatus>> {
        self.fleet.get(on)?.context.status(symbol)
    }

    /// Makes a book panic as an engine bug would. For fault tests.
    pub async fn crash_book(&self, symbol: Symbol) {
        if let Some(node) = self.fleet.node_of(&symbol) {
            _ = node.supervisor.send(CrashBook { symbol }).await;
        }
    }

    /// Whether every book that the nodes of this process own by the log trades, what the log held at start is published, and
    /// the mirrors show it.
    pub fn is_ready(&self) -> bool {
        let mirrors = self.gateway.mirrors();
        let trades = |b: &BookStatus| b.is_active() && b.is_caught_up();
        let shows = |b: &BookStatus| mirrors.last_seq(&b.symbol) >= Some(b.level_seq());
        // Not the directory's: after a restart another node's replica may stand there, which only owes a Sealed.
        let replica = |symbol: &Symbol, owner: &NodeId| self.fleet.get(owner).map(|node| node.context.status(symbol));
        self.fleet.all().iter().all(|n| !n.context.is_alive() || n.context.is_level())
            && self.owners().all().iter().all(|(symbol, owner)| match replica(symbol, &owner.node) {
                Some(replica) => replica.is_some_and(|b| trades(&b) && shows(&b)),
                // Of another process.
                None => true,
            })
            && self.gateway.is_level()
    }

    /// Waits until a node of this process cannot go on, because it missed records that the log holds no longer; gives which.
    pub async fn until_overtaken(&self) -> NodeId {
        let overtaken = self.fleet.all().iter().map(|node| {
            Box::pin(async {
                node.context.until_overtaken().await;
                node.context.id
            })
        });
        let mut any: futures_util::stream::FuturesUnordered<_> = overtaken.collect();
        match any.next().await {
            Some(node) => node,
            None => std::future::pending().await,
        }
    }

    /// Gives all books to nodes of other processes, if there are any that take them; returns when they have left, or
    /// [`LEAVE_WITHIN`] has passed.
    pub async fn leave(&self) {
        let nodes = self.fleet.all();
        if nodes.iter().filter(|node| self.fleet.leave(&node.context.id)).count() == 0 {
            return;
        }
        let asked = Instant::now();
        while !self.fleet.is_empty() && self.members().takes_books() && asked.elapsed() < LEAVE_WITHIN {
            tokio::time::sleep(LEAVE_LOOK).await;
        }
        if !self.fleet.is_empty() {
            tracing::warn!("not all books have left: those that are still here wait for the next start");
        }
        // Those who took them say that the old replicas may go.
        let left = Instant::now();
        while !self.fleet.has_no_replicas() && left.elapsed() < LET_GO_WITHIN {
            tokio::time::sleep(LEAVE_LOOK).await;
        }
    }

    /// Snapshots every book that has changed and closes the log. New orders must have stopped.
    pub async fn shutdown(&self) {
        for node in self.fleet.all() {
            node.context.stop();
        }
        let books = self.fleet.books();
        for some in books.chunks(STOP_SNAPSHOTS_MAX) {
            let saves = some.iter().map(|book| self.snapshot(book.symbol));
            for (book, result) in some.iter().zip(futures_util::future::join_all(saves).await) {
                if let Err(e) = result {
                    tracing::warn!(symbol = %book.symbol, error = %e, "no snapshot while stopping; the log has it all");
                }
            }
        }
        if let Some(writer) = &self.cache {
            cache::end(writer).await;
        }
        if let Err(e) = self.log.close().await {
            tracing::error!(error = %e, "log did not close cleanly");
        }
        self.fleet.end();
    }
}
