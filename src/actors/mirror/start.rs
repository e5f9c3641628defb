//! Where mirrors start from: the newest valid snapshot of each symbol.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::BookState;
use crate::domain::{Machine, NodeId, Offset};
use crate::migration::snapshot::{Snapshot, newest_valid};
use crate::ports::snapshots::{SnapshotStore, SnapshotStoreError};

/// Snapshots read at once.
const READING_MAX: usize = 16;

/// One symbol's start.
#[derive(Debug, Clone)]
pub struct Start {
    pub state: BookState,
    /// From here on in `events` lies everything above the state's seq.
    pub events_position: Offset,
    pub owner: NodeId,
}

/// Reads the newest valid snapshot of every symbol; `show` tells what a mirror needs of it.
///
/// # Errors
/// [`SnapshotStoreError`] when the store cannot be read.
pub async fn read_starts<M: Machine>(
    store: &dyn SnapshotStore,
    show: impl Fn(&Snapshot<M>) -> BookState,
) -> Result<Vec<Start>, SnapshotStoreError> {
    let show = &show;
    let starts = stream::iter(store.symbols().await?).map(|symbol| async move {
        let snapshot = newest_valid::<M>(store, symbol).await?;
        Ok(snapshot.map(|s| Start { state: show(&s), events_position: s.events_position, owner: s.owner }))
    });
    let starts: Vec<Option<Start>> = starts.buffer_unordered(READING_MAX).try_collect().await?;
    Ok(starts.into_iter().flatten().collect())
}
