//! The snapshot store's contract, run against the folder.

use std::sync::Arc;

use bytes::Bytes;
use hotbook::domain::{Epoch, Offset, Symbol};
use hotbook::ports::snapshots::folder::FolderSnapshots;
use hotbook::ports::snapshots::{SnapshotKey, SnapshotStore, SnapshotStoreError};

fn key(symbol: &str, offset: u64, epoch: u64) -> SnapshotKey {
    SnapshotKey { symbol: Symbol::new(symbol).unwrap(), offset: Offset(offset), epoch: Epoch(epoch) }
}

/// What every snapshot store must do; the store is empty.
async fn contract(store: Arc<dyn SnapshotStore>) {
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

#[tokio::test]
async fn the_folder_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    contract(Arc::new(FolderSnapshots::open(folder.path()).unwrap())).await;
    let inside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(inside.len(), 2, "nothing lies outside its folders: {inside:?}");
    assert_eq!(std::fs::read_dir(folder.path().join("snapshots.tmp")).unwrap().count(), 0, "nothing is left over");
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_what_is_whole_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderSnapshots::open(folder.path()).unwrap();
    store.put(key("TSLA", 1, 0), Bytes::from_static(b"whole")).await.unwrap();
    std::fs::write(folder.path().join("snapshots.tmp/123-0"), b"half").unwrap();
    let stranger = folder.path().join("snapshots/TSLA/notes.txt");
    std::fs::write(&stranger, b"not ours").unwrap();
    let store = FolderSnapshots::open(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("snapshots.tmp")).unwrap().count(), 0);
    assert_eq!(store.list(Symbol::new("TSLA").unwrap()).await.unwrap(), [key("TSLA", 1, 0)]);
    assert!(stranger.exists());
}

#[tokio::test]
async fn a_read_only_view_sees_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderSnapshots::open(folder.path()).unwrap();
    let reader = FolderSnapshots::open_read_only(folder.path());
    assert_eq!(reader.symbols().await.unwrap(), []);
    store.put(key("TSLA", 1, 0), Bytes::from_static(b"whole")).await.unwrap();
    assert_eq!(reader.get(key("TSLA", 1, 0)).await.unwrap(), "whole");
    assert!(reader.put(key("TSLA", 2, 0), Bytes::new()).await.is_err());
    assert!(reader.delete(key("TSLA", 1, 0)).await.is_err());
    assert_eq!(store.list(Symbol::new("TSLA").unwrap()).await.unwrap().len(), 1);
}
