//! What an exchange stands on: the log, the snapshots, and the table of routes. And the cache for others, if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::Cache;
use super::log::embedded::{EmbeddedLog, EmbeddedLogOptions};
use super::log::{Log, LogError};
use super::routes::Routes;
use super::routes::local::LocalRoutes;
use super::snapshots::folder::FolderSnapshots;
use super::snapshots::{SnapshotStore, SnapshotStoreError};

/// Open parts that belong together.
#[derive(Clone)]
pub struct Parts {
    pub log: Arc<dyn Log>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub routes: Arc<dyn Routes>,
    /// `None`: nobody outside looks anything up.
    pub cache: Option<Arc<dyn Cache>>,
}

/// Why a part cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    #[error("data folder {} cannot be made: {source}", folder.display())]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("log: {0}")]
    Log(#[from] LogError),
    #[error("snapshots: {0}")]
    Snapshots(#[from] SnapshotStoreError),
}

impl Parts {
    /// Log and snapshots in one folder, which is made if it is not there, and a table of routes in memory.
    /// `partitions`: of a folder that is new. `accepts_lost_tail`: opens a log whose end is gone, without it.
    ///
    /// # Errors
    /// [`PartsError`].
    pub fn embedded(folder: &Path, partitions: u32, accepts_lost_tail: bool) -> Result<Self, PartsError> {
        std::fs::create_dir_all(folder).map_err(|source| PartsError::Folder { folder: folder.to_owned(), source })?;
        let options = EmbeddedLogOptions { accepts_lost_tail, ..EmbeddedLogOptions::new(folder, partitions) };
        Ok(Self {
            log: Arc::new(EmbeddedLog::open(&options)?),
            snapshots: Arc::new(FolderSnapshots::open(folder)?),
            routes: Arc::new(LocalRoutes::default()),
            cache: None,
        })
    }
}
