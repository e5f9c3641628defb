//! Snapshots in memory, as files: what is not whole is found out when it is read.

use bytes::Bytes;

use crate::domain::{Epoch, Offset};
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;

#[derive(Debug, Clone)]
pub(super) struct File {
    pub key: (Offset, Epoch),
    pub bytes: Bytes,
    /// Written undamaged.
    pub is_whole: bool,
}

/// The files of one symbol.
#[derive(Default)]
struct Files {
    visible: Vec<File>,
    /// All that were ever visible and whole, for the judge.
    shown_whole: Vec<File>,
}

pub(super) struct Store(Vec<Files>);

impl Store {
    pub fn new(symbols: usize) -> Self {
        Self((0..symbols).map(|_| Files::default()).collect())
    }

    /// Create-only.
    pub fn put(&mut self, symbol: usize, file: File) {
        let files = &mut self.0[symbol];
        if files.visible.iter().any(|f| f.key == file.key) {
            return;
        }
        if file.is_whole && files.shown_whole.iter().all(|f| f.key != file.key) {
            files.shown_whole.push(file.clone());
        }
        files.visible.push(file);
        files.visible.sort_by_key(|f| f.key);
    }

    pub fn files(&self, symbol: usize) -> &[File] {
        &self.0[symbol].visible
    }

    pub fn shown_whole(&self, symbol: usize) -> &[File] {
        &self.0[symbol].shown_whole
    }

    /// Keeps the newest `keep`; how many went.
    pub fn prune(&mut self, symbol: usize, keep: usize) -> u64 {
        let files = &mut self.0[symbol].visible;
        let gone = files.len().saturating_sub(keep);
        files.drain(..gone);
        gone as u64
    }

    /// The newest that can be read, the first `hidden` of the list not looked at; and how many were damaged.
    pub fn newest_valid(&self, symbol: usize, hidden: usize) -> (Option<Snapshot<Book>>, u64) {
        let mut damaged = 0;
        for file in self.0[symbol].visible.iter().rev().skip(hidden) {
            match Snapshot::<Book>::decode(&file.bytes) {
                Ok(snapshot) => return (Some(snapshot), damaged),
                Err(_) => damaged += 1,
            }
        }
        (None, damaged)
    }
}
