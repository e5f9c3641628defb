//! The snapshots port: immutable files named by symbol, offset and epoch.

pub mod folder;
#[cfg(feature = "s3")]
pub mod s3;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::domain::{Epoch, Offset, Symbol};

/// Name of a snapshot. Orders by offset, then epoch, within a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    pub symbol: Symbol,
    pub offset: Offset,
    pub epoch: Epoch,
}

impl SnapshotKey {
    /// `snapshots/SYMBOL/{offset:020}-{epoch:010}.mp.zst`.
    pub fn path(&self) -> String {
        format!("snapshots/{}/{:020}-{:010}.mp.zst", self.symbol, self.offset.0, self.epoch.0)
    }

    /// Reads the last part of [`Self::path`].
    pub fn from_file_name(symbol: Symbol, name: &str) -> Option<Self> {
        let (offset, epoch) = name.strip_suffix(".mp.zst")?.split_once('-')?;
        Some(Self { symbol, offset: Offset(offset.parse().ok()?), epoch: Epoch(epoch.parse().ok()?) })
    }
}

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotStoreError {
    #[error("snapshot {path} exists already")]
    Exists { path: String },
    #[error("snapshot {path} is not there")]
    Missing { path: String },
    /// It may come back by itself.
    #[error("snapshot store cannot be reached: {why}")]
    Unavailable { why: String },
    #[error("snapshot store cannot be {doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: Arc<std::io::Error>,
    },
}

/// The symbol, save for two that would lead out of the folder; [`symbol_of`] reads it.
fn folder_name(symbol: Symbol) -> String {
    match symbol.as_str() {
        "." | ".." => symbol.as_str().replace('.', "%2E"),
        name => name.to_owned(),
    }
}

fn symbol_of(folder: &str) -> Option<Symbol> {
    Symbol::new(&folder.replace("%2E", ".")).ok()
}

/// Where snapshots are kept. Contents are opaque here: see `migration::snapshot` for what is in them.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Writes one whole, durably, create-only: a reader never sees part of it.
    fn put(&self, key: SnapshotKey, content: Bytes) -> BoxFuture<'_, Result<(), SnapshotStoreError>>;

    fn get(&self, key: SnapshotKey) -> BoxFuture<'_, Result<Bytes, SnapshotStoreError>>;

    /// Those of one symbol, newest first.
    fn list(&self, symbol: Symbol) -> BoxFuture<'_, Result<Vec<SnapshotKey>, SnapshotStoreError>>;

    /// All symbols that have any, in order.
    fn symbols(&self) -> BoxFuture<'_, Result<Vec<Symbol>, SnapshotStoreError>>;

    /// Removes one; that it is gone already is no error.
    fn delete(&self, key: SnapshotKey) -> BoxFuture<'_, Result<(), SnapshotStoreError>>;
}
