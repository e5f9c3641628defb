//! Where mirrors start from: the newest valid snapshot of each symbol.

use super::BookState;
use crate::domain::{NodeId, Offset};
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};

/// One symbol's start.
#[derive(Debug, Clone)]
pub struct Start {
    pub state: BookState,
    /// From here on in `events` lies everything above the state's seq.
    pub events_position: Offset,
    pub owner: NodeId,
}

/// Reads the newest valid snapshot of every symbol.
///
/// # Errors
/// [`SnapshotStoreError`] when the store cannot be read.
pub async fn read_starts(_store: &dyn SnapshotStore) -> Result<Vec<Start>, SnapshotStoreError> {
    Ok(Vec::new())
}
