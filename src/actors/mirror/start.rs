//! Where mirrors start from: the newest valid snapshot of each symbol.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{BookState, OpenOrder};
use crate::domain::{NodeId, Offset, Side};
use crate::engine::Book;
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

/// Reads the newest valid snapshot of every symbol.
///
/// # Errors
/// [`SnapshotStoreError`] when the store cannot be read.
pub async fn read_starts(store: &dyn SnapshotStore) -> Result<Vec<Start>, SnapshotStoreError> {
    let starts = stream::iter(store.symbols().await?).map(|symbol| async move {
        let snapshot = newest_valid::<Book>(store, symbol).await?;
        Ok(snapshot.map(|s| Start { state: state_of(&s), events_position: s.events_position, owner: s.owner }))
    });
    let starts: Vec<Option<Start>> = starts.buffer_unordered(READING_MAX).try_collect().await?;
    Ok(starts.into_iter().flatten().collect())
}

/// What a mirror needs of a snapshot.
pub fn state_of(snapshot: &Snapshot<Book>) -> BookState {
    let book = &snapshot.machine;
    // There are never more levels than orders.
    let levels = book.resting_orders();
    let orders = book.open_orders().into_iter().map(|o| OpenOrder {
        order_id: o.order_id,
        user: o.user,
        side: o.side,
        order_type: o.order_type,
        time_in_force: o.time_in_force,
        price: o.price,
        quantity: o.quantity,
        open: o.open,
        filled: o.filled,
    });
    BookState {
        symbol: snapshot.symbol,
        seq: snapshot.seqs.last,
        epoch: snapshot.epoch,
        instrument: book.instrument().clone(),
        halted: book.is_halted(),
        bids: book.depth(Side::Buy, levels),
        asks: book.depth(Side::Sell, levels),
        orders: orders.collect(),
        last_trade: book.last_trade(),
    }
}
