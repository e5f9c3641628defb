//! The snapshot store's contract, run against the folder.

mod common {
    pub mod snapshots_contract;
}

use std::sync::Arc;

use bytes::Bytes;
use common::snapshots_contract::{contract, key};
use hotbook::domain::Symbol;
use hotbook::ports::snapshots::SnapshotStore;
use hotbook::ports::snapshots::folder::FolderSnapshots;

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
