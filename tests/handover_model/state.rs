//! A state of the modelled world, small enough that millions of them can be copied and hashed.

use std::fmt;

pub const PROCESSES_MAX: usize = 3;
pub const TOPICS_MAX: usize = 2;
pub const EPOCHS_MAX: usize = 4;
pub const ORPHANS_MAX: usize = 2;
const SNAPSHOTS_MAX: usize = 3;

/// Bit of a record that a diverged replica wrote.
pub const BAD: u8 = 8;
/// Never diverged.
pub const NEVER: u8 = u8::MAX;

/// Up to 16 values of 1 to 15, four bits each, the first in the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nibbles(pub u64);

impl Nibbles {
    pub const MAX: u8 = 16;

    pub fn len(self) -> u8 {
        (64 - self.0.leading_zeros()).div_ceil(4) as u8
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn get(self, index: u8) -> u8 {
        (self.0 >> (4 * u32::from(index))) as u8 & 15
    }

    pub fn push(&mut self, value: u8) {
        assert!(self.len() < Self::MAX && (1..16).contains(&value), "a queue or topic of the model is full");
        self.0 |= u64::from(value) << (4 * u32::from(self.len()));
    }

    pub fn pop(&mut self) -> Option<u8> {
        let first = (self.0 & 15) as u8;
        self.0 >>= 4;
        (first != 0).then_some(first)
    }

    /// The seqs from `start` on, each with its index.
    pub fn seqs_from(self, start: u8) -> impl Iterator<Item = (u8, u8)> {
        (start..self.len()).map(move |i| (i, self.get(i) & !BAD))
    }

    /// Highest seq from `start` on.
    pub fn highest_from(self, start: u8) -> u8 {
        self.seqs_from(start).map(|(_, seq)| seq).max().unwrap_or(0)
    }
}

pub type Topics = [Nibbles; TOPICS_MAX];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Discarded; its queue may still land.
    Dead,
    Shadow,
    Active,
    Hold(u8),
}

/// A Sealed that a replica owes for the fence of one epoch (rule 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Debt {
    #[default]
    None,
    Owed,
    /// It was holding when it was fenced away, and drains on the Sealed of this epoch (rule 9b).
    Drains(u8),
    /// It was holding and will not drain: due only if others make it durable (rule 9a).
    Abandoned,
}

impl Debt {
    pub fn without_drain(self) -> Self {
        if matches!(self, Self::Drains(_)) { Self::Abandoned } else { self }
    }
}

/// A process: one replica of the book and its producer session. Seq, epoch and owner follow from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub name: u8,
    pub offset: u8,
    pub mode: Mode,
    /// Rule 8b: replays silently up to the fence of this epoch; 0 = does not.
    pub silent_until: u8,
    /// Last seq enqueued or known durable. What is above it and above `dropped` is pending.
    pub sent: u8,
    /// Outputs up to here were dropped while it was a shadow.
    pub dropped: u8,
    /// It diverged at this offset; [`NEVER`] if it did not.
    pub diverged_at: u8,
    /// A snapshot was cut at this offset and is not visible yet; 0 = none.
    pub cut: u8,
    pub debts: [Debt; EPOCHS_MAX],
    pub floor: [u8; TOPICS_MAX],
    pub acked: [u8; TOPICS_MAX],
    /// Position of the restored snapshot, where its reader of each topic started.
    pub start: [u8; TOPICS_MAX],
    /// `last_seq_in_topic` of that snapshot.
    pub start_seq: [u8; TOPICS_MAX],
    /// End of the topic when it was last read to its end; 0 = was not.
    pub read_end: [u8; TOPICS_MAX],
    /// For mutations only: position of the last acknowledged record, or of the topic's end when a snapshot was cut.
    pub wrong_position: [u8; TOPICS_MAX],
    pub queue: Topics,
}

impl Process {
    pub fn is_queue_empty(&self) -> bool {
        self.queue.iter().all(|q| q.is_empty())
    }

    fn words(&self) -> [u64; 6] {
        let mode = match self.mode {
            Mode::Dead => 0,
            Mode::Shadow => 1,
            Mode::Active => 2,
            Mode::Hold(epoch) => 3 + epoch,
        };
        let debts = self.debts.map(|d| match d {
            Debt::None => 0,
            Debt::Owed => 1,
            Debt::Abandoned => 2,
            Debt::Drains(epoch) => 2 + epoch,
        });
        let Self { name, offset, silent_until, sent, dropped, diverged_at, cut, floor, acked, .. } = *self;
        let Self { start, start_seq, read_end, wrong_position, queue, .. } = *self;
        [
            u64::from_le_bytes([name, offset, mode, silent_until, sent, dropped, diverged_at, cut]),
            u64::from_le_bytes([debts[0], debts[1], debts[2], debts[3], floor[0], floor[1], acked[0], acked[1]]),
            u64::from_le_bytes([start[0], start[1], start_seq[0], start_seq[1], read_end[0], read_end[1], 0, 0]),
            u64::from_le_bytes([wrong_position[0], wrong_position[1], 0, 0, 0, 0, 0, 0]),
            queue[0].0,
            queue[1].0,
        ]
    }
}

/// A visible snapshot; what else it holds follows from its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Snapshot {
    pub offset: u8,
    pub positions: [u8; TOPICS_MAX],
}

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A consumer of this topic met this seq before an earlier one.
    Gap { topic: u8, seq: u8 },
    /// A record of this seq has not the content that the log decides.
    WrongContent { topic: u8, seq: u8 },
    /// A reader that started at this position, knowing this seq, met a gap (rules 10 and 12).
    GapForReader { topic: u8, position: u8, known: u8, seq: u8 },
    /// A Sealed, a snapshot, a floor or an acknowledgement says durable of what is not (fact C).
    FalseClaim(&'static str),
    /// A replica believes itself owner where the log says otherwise (MG1).
    TwoOwners,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { topic, seq } => write!(f, "topic {topic}: {seq} before an earlier one"),
            Self::WrongContent { topic, seq } => write!(f, "topic {topic}: {seq} with wrong content"),
            Self::GapForReader { topic, position, known, seq } => {
                write!(f, "topic {topic}: a reader from position {position} that knows {known} meets {seq}")
            }
            Self::FalseClaim(what) => write!(f, "a false claim: {what}"),
            Self::TwoOwners => f.write_str("a replica takes itself for the owner, against the log"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Which of the model's logs.
    pub log: u16,
    pub processes: [Process; PROCESSES_MAX],
    /// Queues of ended sessions that may still land.
    pub orphans: [Topics; ORPHANS_MAX],
    pub topics: Topics,
    /// Sealed messages that were ever sent, two bits per epoch: (digest as the log decides, digest of a diverged one).
    /// Each may reach anybody at any time, any number of times, or never.
    pub sealed: u16,
    /// Visible snapshots; offset 0 = no snapshot (the birth at offset 0 is always there).
    pub snapshots: [Snapshot; SNAPSHOTS_MAX],
    pub restores: u8,
    pub cuts: u8,
    pub drops: u8,
    pub diverges: u8,
    /// Per name, for mutations only: how far an earlier life had applied the log; what it had sent.
    pub seen: [u8; PROCESSES_MAX],
    pub last_sent: [u8; PROCESSES_MAX],
    /// For the mutation of consumers only: the epoch known to it and the last seq it took.
    pub consumer: [u8; 2],
    pub violation: Option<Violation>,
}

impl State {
    pub fn born(log: u16, names: &[u8]) -> Self {
        let process = |name| Process {
            name,
            offset: 0,
            mode: if name == 0 { Mode::Active } else { Mode::Shadow },
            silent_until: 0,
            sent: 0,
            dropped: 0,
            diverged_at: NEVER,
            cut: 0,
            debts: [Debt::None; EPOCHS_MAX],
            floor: [0; TOPICS_MAX],
            acked: [0; TOPICS_MAX],
            start: [0; TOPICS_MAX],
            start_seq: [0; TOPICS_MAX],
            read_end: [0; TOPICS_MAX],
            wrong_position: [0; TOPICS_MAX],
            queue: Topics::default(),
        };
        let nobody = Process { mode: Mode::Dead, ..process(u8::MAX) };
        let mut processes = [nobody; PROCESSES_MAX];
        for (slot, name) in processes.iter_mut().zip(names) {
            *slot = process(*name);
        }
        Self {
            log,
            processes,
            orphans: <[Topics; ORPHANS_MAX]>::default(),
            topics: Topics::default(),
            sealed: 0,
            snapshots: [Snapshot::default(); SNAPSHOTS_MAX],
            restores: 0,
            cuts: 0,
            drops: 0,
            diverges: 0,
            seen: [0; PROCESSES_MAX],
            last_sent: [0; PROCESSES_MAX],
            consumer: [0; 2],
            violation: None,
        }
    }

    /// Snapshots that a restore may find: the birth, and every visible one (a stale listing shows fewer).
    pub fn visible(&self) -> impl Iterator<Item = Snapshot> + use<> {
        let shown = self.snapshots;
        std::iter::once(Snapshot::default()).chain(shown.into_iter().filter(|s| s.offset > 0))
    }

    /// Makes a snapshot visible. The first of an offset stays.
    pub fn show(&mut self, snapshot: Snapshot) {
        if self.snapshots.iter().any(|s| s.offset == snapshot.offset) {
            return;
        }
        if let Some(slot) = self.snapshots.iter_mut().find(|s| s.offset == 0) {
            *slot = snapshot;
            self.snapshots.sort_unstable();
        }
    }

    /// Keeps the queue of a session whose process is gone. False if there is no room.
    pub fn orphan(&mut self, queue: Topics) -> bool {
        let Some(slot) = self.orphans.iter_mut().find(|q| q.iter().all(|t| t.is_empty())) else { return false };
        *slot = queue;
        true
    }

    /// 64 bits that are equal for states that differ only in which of two processes of one name is which. Two of n
    /// different states are mistaken for one with a probability of n^2 / 2^65: 10^-5 for 20 million.
    pub fn fingerprint(&self) -> u64 {
        let mut words = self.processes.map(|p| p.words());
        for i in 0..PROCESSES_MAX {
            for j in i + 1..PROCESSES_MAX {
                if self.processes[i].name == self.processes[j].name && words[j] < words[i] {
                    words.swap(i, j);
                }
            }
        }
        let mut orphans = self.orphans;
        orphans.sort_unstable();
        let mut h = Mixer(0x9e37_79b9_7f4a_7c15);
        words.iter().flatten().for_each(|w| h.add(*w));
        let [[a, b], [c, d]] = orphans;
        let [e, f] = self.topics;
        [a, b, c, d, e, f].iter().for_each(|queue| h.add(queue.0));
        let Self { log, sealed, restores, cuts, drops, diverges, snapshots: s, seen, last_sent, consumer, .. } = *self;
        let log = log.to_le_bytes();
        let sealed = sealed.to_le_bytes();
        h.add(u64::from_le_bytes([log[0], log[1], sealed[0], sealed[1], restores, cuts, drops, diverges]));
        for Snapshot { offset, positions } in s {
            h.add(u64::from_le_bytes([offset, positions[0], positions[1], 0, 0, 0, 0, 0]));
        }
        let [a, b, c] = seen;
        let [d, e, f] = last_sent;
        h.add(u64::from_le_bytes([a, b, c, d, e, f, consumer[0], consumer[1]]));
        h.add(u64::from(self.violation.is_some()));
        h.0
    }
}

/// Folded 128-bit multiplication, as in wyhash.
struct Mixer(u64);

impl Mixer {
    fn add(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0xe703_7ed1_a0b4_28db;
        self.0 = ((wide as u64) ^ ((wide >> 64) as u64)).wrapping_add(0xa076_1d64_78bd_642f);
    }
}
