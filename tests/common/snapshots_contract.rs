//! What every snapshot store must do.

use std::sync::Arc;

use bytes::Bytes;
use hotbook::domain::{Epoch, Offset, Symbol};
use hotbook::ports::snapshots::{SnapshotKey, SnapshotStore, SnapshotStoreError};

pub fn key(symbol: &str, offset: u64, epoch: u64) -> SnapshotKey {
    SnapshotKey { symbol: Symbol::new(symbol).unwrap(), offset: Offset(offset), epoch: Epoch(epoch) }
}

/// What every snapshot store must do; the store is empty.
pub async fn contract(store: Arc<dyn SnapshotStore>) {
    let tsla = Symbol::new("TSLA").unwrap();
    assert_eq!(store.list(tsla).await.unwrap(), []);
    assert_eq!(store.symbols().await.unwrap(), []);
    let missing = store.get(key("TSLA", 1, 0)).await;
    assert!(matches!(missing, Err(SnapshotStoreError::Missing { .. })), "{missing:?}");

    let keys = [key("TSLA", 5, 0), key("TSLA", 1_000, 1), key("TSLA", 5, 2), key("AAPL", 7, 0), key("..", 3, 0)];
    for (i, k) in keys.iter().enumerate() {
        store.put(*k, Bytes::from(vec![i as u8; 100_000])).await.unwrap();
    }
    for (i, k) in keys.iter().enumerate() {
        assert_eq!(store.get(*k).await.unwrap(), vec![i as u8; 100_000]);
    }
    assert_eq!(store.list(tsla).await.unwrap(), [keys[1], keys[2], keys[0]], "newest first");
    assert_eq!(store.list(keys[4].symbol).await.unwrap(), [keys[4]]);
    let symbols: Vec<_> = store.symbols().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(symbols, ["..", "AAPL", "TSLA"]);

    let again = store.put(keys[0], Bytes::from_static(b"other")).await;
    assert!(matches!(again, Err(SnapshotStoreError::Exists { .. })), "{again:?}");
    assert_eq!(store.get(keys[0]).await.unwrap(), vec![0; 100_000], "the first one stays");

    let contested = key("RACE", 9, 9);
    let racers: Vec<_> = (0..16u8)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put(contested, Bytes::from(vec![i; 10_000])).await.map(|()| i) })
        })
        .collect();
    let mut winners = Vec::new();
    for racer in racers {
        match racer.await.unwrap() {
            Ok(i) => winners.push(i),
            Err(SnapshotStoreError::Exists { .. }) => {}
            Err(e) => panic!("unexpected: {e}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get(contested).await.unwrap(), vec![winners[0]; 10_000]);

    store.delete(keys[1]).await.unwrap();
    store.delete(keys[1]).await.expect("gone already");
    assert_eq!(store.list(tsla).await.unwrap(), [keys[2], keys[0]]);
    store.delete(keys[3]).await.unwrap();
    assert!(!store.symbols().await.unwrap().contains(&keys[3].symbol), "a symbol without any is not listed");
}
