//! Regenerated outputs in runs, cut only where something of a run is known durable.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::domain::Seq;
use crate::domain::outbox::Header;

/// A run of whole outputs.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub first: Seq,
    pub last: Seq,
    pub outputs: Bytes,
}

impl Chunk {
    /// Drops the outputs up to and including `through`; `None` if nothing is left.
    pub fn above(self, through: Seq) -> Option<Self> {
        if self.first > through {
            return Some(self);
        }
        self.split(through).1
    }

    /// Splits behind `through`: (up to it, above it).
    pub fn split(self, through: Seq) -> (Option<Self>, Option<Self>) {
        if self.last <= through {
            return (Some(self), None);
        }
        if self.first > through {
            return (None, Some(self));
        }
        let (mut at, mut seq) = (0, self.first);
        while seq <= through {
            at += length_of_first(&self.outputs[at..]);
            seq = seq.next();
        }
        let head = Self { first: self.first, last: through, outputs: self.outputs.slice(..at) };
        (Some(head), Some(Self { first: seq, last: self.last, outputs: self.outputs.slice(at..) }))
    }

    /// How many outputs it has.
    pub fn count(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }
}

fn length_of_first(outputs: &[u8]) -> usize {
    Header::read(outputs).unwrap_or_else(|_| unreachable!("the outbox writes whole outputs")).length
}

/// The runs that are kept back, ascending and dense.
#[derive(Debug, Default)]
pub(super) struct Pending {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

impl Pending {
    pub fn push(&mut self, chunk: Chunk) {
        self.bytes += chunk.outputs.len();
        self.chunks.push_back(chunk);
    }

    /// Lets go of the runs that lie wholly at or below `through`.
    pub fn trim(&mut self, through: Seq) {
        while let Some(chunk) = self.chunks.pop_front_if(|c| c.last <= through) {
            self.bytes -= chunk.outputs.len();
        }
    }

    /// All of it, which is then gone.
    pub fn take(&mut self) -> VecDeque<Chunk> {
        self.bytes = 0;
        std::mem::take(&mut self.chunks)
    }

    pub fn outputs(&self) -> u64 {
        self.chunks.iter().map(Chunk::count).sum()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
