//! Shadows on demand: a snapshot that somebody gives is checked against the log before a replica starts from it.
//!
//! What is given is not trusted. A wrong state would stay wrong, and the crash path has no digest to find it with; a
//! state whose outputs are not durable would claim that they are. So the log is replayed from an older snapshot of the
//! store up to where the given one stands, everything is compared, and `events` must hold its last output.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::catalogue::Entry;
use super::node::{Follow, LetGo, NodeContext, NodeSupervisor};
use super::recovery;
use crate::domain::machine::SnapshotError;
use crate::domain::{Command, Digest, Epoch, Input, NodeId, Offset, Origin, Seq, Symbol};
use crate::engine::Book;
use crate::migration::replica::Replica;
use crate::migration::snapshot::Snapshot;
use crate::ports::log::{LogError, Topic, TopicPartition};
use crate::ports::snapshots::{SnapshotKey, SnapshotStoreError};
use crate::wire;

const READ_RECORDS_MAX: usize = 4_096;
/// A shadow that has not gone by then is busy with a takeover: it is not removed.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);

/// Where a shadow starts from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A snapshot file.
    Data(Bytes),
    /// One in the store, by its [path](SnapshotKey::path).
    Key(String),
}

/// A shadow that was started.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    pub node: NodeId,
    pub offset: Offset,
    pub epoch: Epoch,
    pub seq: Seq,
    pub digest: Digest,
}

/// Why no shadow was started or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ShadowError {
    #[error("symbol is not listed")]
    UnknownSymbol,
    #[error("there is no such node in this process")]
    UnknownNode,
    #[error("node {node} owns the book, or is about to")]
    Owner { node: NodeId },
    #[error("node {node} follows the book already")]
    AlreadyThere { node: NodeId },
    #[error("node {node} stands by for the book, and would follow it again at once")]
    StandsBy { node: NodeId },
    #[error("node {node} has no shadow of the book")]
    NotThere { node: NodeId },
    #[error("there is no snapshot {key}")]
    NoSnapshot { key: String },
    #[error("`{key}` is no name of a snapshot of {symbol}")]
    BadKey { key: String, symbol: Symbol },
    #[error("snapshot cannot be used: {0}")]
    BadSnapshot(#[from] SnapshotError),
    #[error("snapshot is of {found}")]
    OtherSymbol { found: Symbol },
    #[error("the log does not give the state of this snapshot")]
    NotOfTheLog,
    #[error("snapshot cannot be checked: {why}")]
    Unverifiable { why: &'static str },
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("snapshots: {0}")]
    Store(#[from] SnapshotStoreError),
    #[error("no shadow was started: {why}")]
    Failed { why: String },
}

/// Starts a shadow on a node that does not own the book.
///
/// # Errors
/// [`ShadowError`]: there is no new shadow.
pub async fn restore(
    node: &Arc<NodeContext>,
    supervisor: &Addr<NodeSupervisor>,
    symbol: Symbol,
    source: Source,
) -> Result<Restored, ShadowError> {
    let entry = node.catalogue.get(&symbol).ok_or(ShadowError::UnknownSymbol)?;
    refuse_owner(node, &symbol)?;
    if node.status(&symbol).is_some() {
        return Err(ShadowError::AlreadyThere { node: node.id });
    }
    let snapshot = match source {
        Source::Key(key) => stored(node, symbol, &key).await?,
        Source::Data(data) => {
            let decoded = tokio::task::spawn_blocking(move || Snapshot::<Book>::decode(&data)).await;
            let given = decoded.map_err(|e| ShadowError::Failed { why: e.to_string() })??;
            verify(node, entry, given).await?
        }
    };
    let restored = Restored {
        node: node.id,
        offset: snapshot.offset,
        epoch: snapshot.epoch,
        seq: snapshot.seqs.last,
        digest: crate::domain::Machine::digest(&snapshot.machine),
    };
    let (done, started) = oneshot::channel();
    let gone = || ShadowError::Failed { why: "the node is gone".into() };
    supervisor.send(Follow { symbol, from: Some(Box::new(snapshot)), done }).await.map_err(|_| gone())?;
    started.await.map_err(|_| gone())?.map_err(|why| ShadowError::Failed { why })?;
    Ok(restored)
}

/// Removes a shadow.
///
/// # Errors
/// [`ShadowError`].
pub async fn remove(
    node: &Arc<NodeContext>,
    supervisor: &Addr<NodeSupervisor>,
    symbol: Symbol,
) -> Result<(), ShadowError> {
    node.catalogue.get(&symbol).ok_or(ShadowError::UnknownSymbol)?;
    refuse_owner(node, &symbol)?;
    let status = node.status(&symbol).ok_or(ShadowError::NotThere { node: node.id })?;
    if status.stands_by() {
        return Err(ShadowError::StandsBy { node: node.id });
    }
    if !status.is_idle_shadow() {
        return Err(ShadowError::Owner { node: node.id });
    }
    let (done, gone) = oneshot::channel();
    let node_is_gone = || ShadowError::Failed { why: "the node is gone".into() };
    supervisor.send(LetGo { symbol, done }).await.map_err(|_| node_is_gone())?;
    // A fence may have come in between.
    match tokio::time::timeout(REMOVE_WITHIN, gone).await {
        Ok(gone) => gone.map_err(|_| node_is_gone()),
        Err(_) => Err(ShadowError::Owner { node: node.id }),
    }
}

/// Whether the node owns the book by the log, as far as anybody here has read it.
fn refuse_owner(node: &NodeContext, symbol: &Symbol) -> Result<(), ShadowError> {
    let owns_by = |status: &super::directory::BookStatus| status.owner() == node.id;
    // A replica that has just been started has not said yet who owns the book: it is idle until then.
    let mine = node.status(symbol).is_some_and(|status| owns_by(&status) && !status.is_idle_shadow());
    let known = node.owners.get(symbol).is_some_and(|owner| owner.node == node.id);
    if mine || known { Err(ShadowError::Owner { node: node.id }) } else { Ok(()) }
}

/// A snapshot of the store: it became visible only when its outputs were durable, and its digest is computed anew.
async fn stored(node: &NodeContext, symbol: Symbol, key: &str) -> Result<Snapshot<Book>, ShadowError> {
    let bad = || ShadowError::BadKey { key: key.to_owned(), symbol };
    let file = key.rsplit('/').next().unwrap_or(key);
    let named = SnapshotKey::from_file_name(symbol, file).filter(|k| k.path() == key).ok_or_else(bad)?;
    let file = match node.snapshots.get(named).await {
        Err(SnapshotStoreError::Missing { .. }) => return Err(ShadowError::NoSnapshot { key: key.to_owned() }),
        file => file?,
    };
    let snapshot = Snapshot::<Book>::decode(&file)?;
    if snapshot.key() == named { Ok(snapshot) } else { Err(bad()) }
}

/// Replays the log up to a given snapshot; gives it back with a position in `events` that is known to be good.
async fn verify(node: &NodeContext, entry: Entry, given: Snapshot<Book>) -> Result<Snapshot<Book>, ShadowError> {
    if given.symbol != entry.symbol {
        return Err(ShadowError::OtherSymbol { found: given.symbol });
    }
    let older = older_snapshot(node, entry.symbol, given.offset).await?;
    let events_from = older.as_ref().map_or(entry.events_from, |s| s.events_position);
    let replayed = replay(node, entry, older, given.offset).await?;
    if !replayed.is_some_and(|replica| replica.is_state_of(&given)) {
        return Err(ShadowError::NotOfTheLog);
    }
    let known = recovery::high_water(&*node.log, entry.partition, events_from).await?;
    if known.get(&entry.symbol).copied().unwrap_or_default() < given.seqs.last {
        return Err(ShadowError::Unverifiable { why: "its outputs are not durable yet" });
    }
    Ok(Snapshot { events_position: events_from, ..given })
}

/// The newest valid snapshot of the store that is not newer than `offset`.
async fn older_snapshot(
    node: &NodeContext,
    symbol: Symbol,
    offset: Offset,
) -> Result<Option<Snapshot<Book>>, ShadowError> {
    for key in node.snapshots.list(symbol).await?.into_iter().filter(|k| k.offset <= offset) {
        match node.snapshots.get(key).await {
            Ok(file) => match Snapshot::<Book>::decode(&file) {
                Ok(snapshot) if snapshot.key() == key => return Ok(Some(snapshot)),
                _ => tracing::error!(path = key.path(), "snapshot is invalid, skipped"),
            },
            Err(SnapshotStoreError::Missing { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// What the log says that the book is at `until`; `None` if it was not born by then.
async fn replay(
    node: &NodeContext,
    entry: Entry,
    from: Option<Snapshot<Book>>,
    until: Offset,
) -> Result<Option<Replica<Book>>, ShadowError> {
    let of = TopicPartition { topic: Topic::Orders, partition: entry.partition };
    let mut next = from.as_ref().map_or(entry.orders_from, |s| s.offset);
    if next < node.log.start_offset(of).await? {
        return Err(ShadowError::Unverifiable { why: "the log no longer holds what lies before it" });
    }
    if until > node.log.end_offset(of).await? {
        return Err(ShadowError::NotOfTheLog);
    }
    let mut replica = from.map(|snapshot| Replica::restore(node.id, snapshot));
    let mut scale = replica.as_ref().map(|r| r.machine().instrument().price_scale);
    // Nothing is done with what a replayed replica wants: it publishes nothing.
    let mut effects = Vec::new();
    while next < until {
        let records = node.log.read(of, next, READ_RECORDS_MAX).await?;
        let through = records.last().map_or(until, |r| r.offset.next()).min(until);
        let mut inputs = Vec::new();
        for record in records.iter().filter(|r| r.offset < until && r.key == entry.symbol.as_bytes()) {
            if let Ok((symbol, command)) = wire::decode_for(&record.value, entry.partition, &node.keyring, scale)
                && symbol == entry.symbol
            {
                if let Command::List { listing, authority } = &command
                    && record.at <= authority.valid_until
                {
                    scale.get_or_insert(listing.instrument.price_scale);
                }
                let origin = Origin::from_bytes(&record.header);
                inputs.push(Input { offset: record.offset, at: record.at, origin, command });
            }
        }
        next = through;
        apply(node.id, entry, &mut replica, inputs, through, &mut effects);
        effects.clear();
    }
    Ok(replica)
}

fn apply(
    me: NodeId,
    entry: Entry,
    replica: &mut Option<Replica<Book>>,
    mut inputs: Vec<Input<Command>>,
    through: Offset,
    effects: &mut Vec<crate::migration::replica::Effect>,
) {
    while replica.is_none() {
        let Some(list) = inputs.iter().position(|i| matches!(i.command, Command::List { .. })) else { return };
        let rest = inputs.split_off(list + 1);
        if let Some(first) = inputs.last()
            && let Command::List { listing, .. } = &first.command
        {
            *replica = Replica::born(me, entry.symbol, listing.owner, first, effects);
        }
        inputs = rest;
    }
    if let Some(replica) = replica {
        replica.apply(&inputs, through, effects);
    }
}
