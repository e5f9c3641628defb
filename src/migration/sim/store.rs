//! Snapshots in memory, as files: what is not whole is found out when it is read.

use crate::domain::{Epoch, Offset};
use crate::engine::Book;
use crate::migration::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct File {
    pub key: (Offset, Epoch),
    pub bytes: Vec<u8>,
    /// Written whole: the judge reads these only.
    pub is_whole: bool,
}

pub(super) struct Store(Vec<Vec<File>>);

impl Store {
    pub fn new(symbols: usize) -> Self {
        Self((0..symbols).map(|_| Vec::new()).collect())
    }

    /// Create-only.
    pub fn put(&mut self, symbol: usize, file: File) {
        let files = &mut self.0[symbol];
        if files.iter().all(|f| f.key != file.key) {
            files.push(file);
            files.sort_by_key(|f| f.key);
        }
    }

    pub fn files(&self, symbol: usize) -> &[File] {
        &self.0[symbol]
    }

    /// Keeps the newest `keep`; how many went.
    pub fn prune(&mut self, symbol: usize, keep: usize) -> u64 {
        let files = &mut self.0[symbol];
        let gone = files.len().saturating_sub(keep);
        files.drain(..gone);
        gone as u64
    }

    /// The newest that can be read, the first `hidden` of the list not looked at; and how many were damaged.
    pub fn newest_valid(&self, symbol: usize, hidden: usize) -> (Option<Snapshot<Book>>, u64) {
        let mut damaged = 0;
        for file in self.0[symbol].iter().rev().skip(hidden) {
            match Snapshot::<Book>::decode(&file.bytes) {
                Ok(snapshot) => return (Some(snapshot), damaged),
                Err(_) => damaged += 1,
            }
        }
        (None, damaged)
    }
}
