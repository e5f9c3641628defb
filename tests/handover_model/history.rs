//! What the log alone decides: seq, epoch and owner at every offset.
//!
//! Appending commutes with everything else, because a replica may lag as far as it likes. So a search begins with each
//! log of the bounds already written; a run with a shorter log is part of a run with a longer one.

use super::bounds::{Bounds, Record};

/// State of the book before the record of one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub seq: u8,
    pub epoch: u8,
    pub owner: u8,
}

/// One log, and what follows from it for every replica (MG1).
#[derive(Debug, Clone)]
pub struct History {
    pub records: Vec<Record>,
    /// Before each record, and behind the last.
    at: Vec<At>,
    /// Topics of each output, by seq - 1.
    topics: Vec<u8>,
    /// Epoch of each output, by seq - 1.
    epochs: Vec<u8>,
    /// Owner when each output was applied, by seq - 1.
    owners: Vec<u8>,
    /// Offset of the effective fence of each epoch, by epoch - 1.
    fences: Vec<u8>,
}

impl History {
    pub fn new(records: Vec<Record>) -> Self {
        let mut now = At { seq: 0, epoch: 0, owner: 0 };
        let mut history = Self {
            records: Vec::new(),
            at: vec![now],
            topics: Vec::new(),
            epochs: Vec::new(),
            owners: Vec::new(),
            fences: Vec::new(),
        };
        for (offset, record) in records.iter().enumerate() {
            match *record {
                Record::Command { topics } => {
                    now.seq += 1;
                    history.topics.push(topics);
                    history.epochs.push(now.epoch);
                    history.owners.push(now.owner);
                }
                Record::Fence { epoch, to } if epoch == now.epoch + 1 => {
                    (now.epoch, now.owner) = (epoch, to);
                    history.fences.push(offset as u8);
                }
                Record::Fence { .. } => {}
            }
            history.at.push(now);
        }
        history.records = records;
        history
    }

    pub fn at(&self, offset: u8) -> At {
        self.at[usize::from(offset)]
    }

    pub fn record(&self, offset: u8) -> Option<Record> {
        self.records.get(usize::from(offset)).copied()
    }

    /// Offset of the fence that began this epoch.
    pub fn fence_of(&self, epoch: u8) -> u8 {
        self.fences[usize::from(epoch) - 1]
    }

    /// Seq at the fence that began this epoch.
    pub fn seq_at_fence(&self, epoch: u8) -> u8 {
        self.at(self.fence_of(epoch)).seq
    }

    /// Seq when the owner at this offset became so.
    pub fn seq_at_takeover(&self, offset: u8) -> u8 {
        let owner = self.at(offset).owner;
        let since = (0..=offset).rev().take_while(|o| self.at(*o).owner == owner).last();
        self.at(since.unwrap_or(offset)).seq
    }

    pub fn last_epoch(&self) -> u8 {
        self.fences.len() as u8
    }

    pub fn is_in(&self, seq: u8, topic: usize) -> bool {
        self.topics[usize::from(seq) - 1] & (1 << topic) != 0
    }

    pub fn epoch_of(&self, seq: u8) -> u8 {
        self.epochs[usize::from(seq) - 1]
    }

    pub fn owner_of(&self, seq: u8) -> u8 {
        self.owners[usize::from(seq) - 1]
    }

    /// `last_seq_in_topic`: the last output of the topic up to and including `seq`.
    pub fn last_in(&self, seq: u8, topic: usize) -> u8 {
        (1..=seq).rev().find(|s| self.is_in(*s, topic)).unwrap_or(0)
    }

    /// `prev_seq` of an output.
    pub fn prev_in(&self, seq: u8, topic: usize) -> u8 {
        self.last_in(seq - 1, topic)
    }
}

/// Every log of the bounds.
pub fn histories(bounds: &Bounds) -> Vec<History> {
    let mut logs = Vec::new();
    extend(bounds, &mut Vec::new(), &mut logs);
    logs
}

fn extend(bounds: &Bounds, log: &mut Vec<Record>, logs: &mut Vec<History>) {
    let history = History::new(log.clone());
    let commands = usize::from(history.at(log.len() as u8).seq);
    let fences = log.len() - commands;
    if commands == bounds.commands && fences == bounds.fences {
        logs.push(history);
        return;
    }
    let mut next = Vec::new();
    if commands < bounds.commands {
        next.extend((1..1 << bounds.topics).map(|topics| Record::Command { topics }));
    }
    if fences < bounds.fences {
        let epoch = history.last_epoch();
        for to in targets(bounds, log) {
            next.push(Record::Fence { epoch: epoch + 1, to });
        }
        if bounds.losers && epoch > 0 {
            next.push(Record::Fence { epoch, to: 0 });
        }
    }
    for record in next {
        log.push(record);
        extend(bounds, log, logs);
        log.pop();
    }
}

/// Names that a fence may give the book to. Names above 0 that no fence has used yet are alike, if each is one process.
fn targets(bounds: &Bounds, log: &[Record]) -> Vec<u8> {
    let mut names = bounds.names.to_vec();
    names.sort_unstable();
    let alike = names.windows(2).all(|w| w[0] < w[1]);
    names.dedup();
    let used = log.iter().filter_map(|r| if let Record::Fence { to, .. } = r { Some(*to) } else { None }).max();
    names.retain(|n| !alike || *n <= used.unwrap_or(0) + 1);
    names
}
