//! A de-duplicating reader of `events` on a node: how far a book's outputs are known to be there, and where (rule 10).

use super::log::Said;
use crate::domain::{Offset, Seq};

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reader {
    next: Offset,
    met: Seq,
    /// First record that holds `met`.
    position: Offset,
}

impl Reader {
    /// One that knows everything up to `seq` and begins at `position`.
    pub fn behind(seq: Seq, position: Offset) -> Self {
        Self { next: position, met: seq, position }
    }

    pub fn met(&self) -> Seq {
        self.met
    }

    /// First record that holds what it has met last.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// A snapshot's position for a book whose last seq is `seq`, if this reader knows one.
    pub fn position_for(&self, seq: Seq) -> Option<Offset> {
        (self.met <= seq).then_some(self.position)
    }

    /// Reads at most `steps` records.
    ///
    /// # Errors
    /// What it met instead of the next output.
    pub fn read_on(&mut self, events: &[Said], symbol: usize, steps: usize) -> Result<(), String> {
        for said in events.iter().skip(self.next.0 as usize).take(steps) {
            self.next = said.record.offset.next();
            if said.symbol != symbol || said.last <= self.met {
                continue;
            }
            if said.first > self.met.next() {
                let known = std::mem::replace(&mut self.met, said.last); // told once
                return Err(format!("knows {known} and meets {} at {}", said.first, said.record.offset));
            }
            (self.met, self.position) = (said.last, said.record.offset);
        }
        Ok(())
    }
}
