//! Snapshots as files under `<data>/snapshots/SYMBOL/`.
//!
//! A snapshot is written under a temporary name, synced, and gets its name by a hard link: the link fails if the name is
//! taken, so of two writers one wins, and a reader never sees part of a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{SnapshotKey, SnapshotStore, SnapshotStoreError, folder_name, symbol_of};
use crate::domain::Symbol;

/// Temporary files lie here, on the same file system and never inside a listing.
const TEMPORARY: &str = "snapshots.tmp";

/// Snapshots in a folder.
#[derive(Debug, Clone)]
pub struct FolderSnapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    is_read_only: bool,
    /// Makes temporary names of this process differ.
    written: AtomicU64,
}

fn io_error(doing: impl Into<String>, source: io::Error) -> SnapshotStoreError {
    SnapshotStoreError::Io { doing: doing.into(), source: Arc::new(source) }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl FolderSnapshots {
    /// Opens or creates the store in the data folder and removes what a crash left half written. Only the process that
    /// holds the log's lock may do so.
    ///
    /// # Errors
    /// [`SnapshotStoreError::Io`].
    pub fn open(data: &Path) -> Result<Self, SnapshotStoreError> {
        let temporary = data.join(TEMPORARY);
        fs::create_dir_all(data.join("snapshots"))
            .and_then(|()| fs::create_dir_all(&temporary))
            .and_then(|()| sync_folder(data))
            .map_err(|e| io_error("created", e))?;
        for entry in fs::read_dir(&temporary).map_err(|e| io_error("opened", e))? {
            let path = entry.map_err(|e| io_error("opened", e))?.path();
            fs::remove_file(&path).map_err(|e| io_error(format!("cleaned of {}", path.display()), e))?;
        }
        Ok(Self::at(data, false))
    }

    /// A view beside the process that writes; [`SnapshotStore::put`] and [`SnapshotStore::delete`] are refused.
    pub fn open_read_only(data: &Path) -> Self {
        Self::at(data, true)
    }

    fn at(data: &Path, is_read_only: bool) -> Self {
        Self { inner: Arc::new(Inner { root: data.to_owned(), is_read_only, written: AtomicU64::new(0) }) }
    }

    /// Runs file work where it delays nobody.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, SnapshotStoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, SnapshotStoreError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            tokio::task::spawn_blocking(move || work(&inner))
                .await
                .unwrap_or_else(|e| Err(io_error("used", io::Error::other(e))))
        })
    }
}

impl Inner {
    fn folder(&self, symbol: Symbol) -> PathBuf {
        self.root.join("snapshots").join(folder_name(symbol))
    }

    fn path(&self, key: SnapshotKey) -> PathBuf {
        let path = key.path();
        self.folder(key.symbol).join(path.rsplit('/').next().unwrap_or_default())
    }

    fn check_writable(&self) -> Result<(), SnapshotStoreError> {
        match self.is_read_only {
            true => Err(io_error("written", io::Error::from(io::ErrorKind::ReadOnlyFilesystem))),
            false => Ok(()),
        }
    }

    fn put(&self, key: SnapshotKey, content: &[u8]) -> Result<(), SnapshotStoreError> {
        self.check_writable()?;
        let path = self.path(key);
        let doing = || format!("written to {}", path.display());
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join(TEMPORARY).join(format!("{}-{number}", std::process::id()));
        let folder = path.parent().unwrap_or(&self.root);
        let linked = write_synced(&temporary, content)
            .and_then(|()| make_folder(folder))
            .and_then(|()| fs::hard_link(&temporary, &path));
        // Whatever happened, the temporary name has served; what is left over is removed at the next open.
        let removed = fs::remove_file(&temporary);
        match linked {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SnapshotStoreError::Exists { path: key.path() });
            }
            linked => linked.map_err(|e| io_error(doing(), e))?,
        }
        removed.and_then(|()| sync_folder(folder)).map_err(|e| io_error(doing(), e))
    }

    fn get(&self, key: SnapshotKey) -> Result<Bytes, SnapshotStoreError> {
        match fs::read(self.path(key)) {
            Ok(content) => Ok(content.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(SnapshotStoreError::Missing { path: key.path() }),
            Err(e) => Err(io_error(format!("read from {}", key.path()), e)),
        }
    }

    fn list(&self, symbol: Symbol) -> Result<Vec<SnapshotKey>, SnapshotStoreError> {
        let folder = self.folder(symbol);
        let mut keys: Vec<_> = names_in(&folder)?
            .iter()
            .filter_map(|name| SnapshotKey::from_file_name(symbol, name))
            // A name that says the same in other words is not one of ours.
            .filter(|key| self.path(*key).is_file())
            .collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.dedup();
        Ok(keys)
    }

    fn symbols(&self) -> Result<Vec<Symbol>, SnapshotStoreError> {
        let mut symbols = Vec::new();
        for name in names_in(&self.root.join("snapshots"))? {
            let Some(symbol) = symbol_of(&name) else { continue };
            if !self.list(symbol)?.is_empty() {
                symbols.push(symbol);
            }
        }
        symbols.sort_unstable();
        Ok(symbols)
    }

    fn delete(&self, key: SnapshotKey) -> Result<(), SnapshotStoreError> {
        self.check_writable()?;
        match fs::remove_file(self.path(key)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(format!("rid of {}", key.path()), e)),
            _ => Ok(()),
        }
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a symbol's folder; its entry is durable before anything in it is.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Names in a folder; none if it is not there.
fn names_in(folder: &Path) -> Result<Vec<String>, SnapshotStoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("listed", e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| io_error("listed", e))?.file_name();
        names.extend(name.to_str().map(str::to_owned));
    }
    Ok(names)
}

impl SnapshotStore for FolderSnapshots {
    fn put(&self, key: SnapshotKey, content: Bytes) -> BoxFuture<'_, Result<(), SnapshotStoreError>> {
        self.run(move |inner| inner.put(key, &content))
    }

    fn get(&self, key: SnapshotKey) -> BoxFuture<'_, Result<Bytes, SnapshotStoreError>> {
        self.run(move |inner| inner.get(key))
    }

    fn list(&self, symbol: Symbol) -> BoxFuture<'_, Result<Vec<SnapshotKey>, SnapshotStoreError>> {
        self.run(move |inner| inner.list(symbol))
    }

    fn symbols(&self) -> BoxFuture<'_, Result<Vec<Symbol>, SnapshotStoreError>> {
        self.run(Inner::symbols)
    }

    fn delete(&self, key: SnapshotKey) -> BoxFuture<'_, Result<(), SnapshotStoreError>> {
        self.run(move |inner| inner.delete(key))
    }
}
