//! What a search may do, and the readings of the rules that it can be told to follow instead.

use std::fmt;

/// A record of the book's `orders` log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A command with one output; bit t of `topics` is set if topic t gets it.
    Command { topics: u8 },
    /// Takes effect iff its epoch is one above the book's (rule 2).
    Fence { epoch: u8, to: u8 },
}

/// Limits of one search. Within them everything that can happen is tried, in every order.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Node name of each process at the start; two processes may have one name.
    pub names: &'static [u8],
    pub commands: usize,
    pub fences: usize,
    /// Also fences that lose to a competing coordinator's.
    pub losers: bool,
    pub topics: usize,
    /// Crashes, lost suffixes and discards that are followed by a restore.
    pub restores: u8,
    pub cuts: u8,
    /// How often a shadow may drop its outputs (rule 4).
    pub drops: u8,
    /// How often a replica that does not publish may diverge in silence.
    pub diverges: u8,
    /// Keeps the whole topic with its duplicates, for positions (rules 10 and 12); otherwise first copies only.
    pub positions: bool,
    /// Rule 8a. Without it the crash path is 8b alone, which is what rule 8 prefers.
    pub crash_path_a: bool,
}

impl Bounds {
    pub const NONE: Self = Self {
        names: &[0, 1],
        commands: 0,
        fences: 0,
        losers: false,
        topics: 1,
        restores: 0,
        cuts: 0,
        drops: 0,
        diverges: 0,
        positions: false,
        crash_path_a: true,
    };
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |f: &mut fmt::Formatter<'_>, n: usize, what| if n > 0 { write!(f, ", {n} {what}") } else { Ok(()) };
        let names: Vec<String> = self.names.iter().map(|n| format!("n{n}")).collect();
        f.write_str(&names.join(" "))?;
        count(f, self.commands, "commands")?;
        count(f, self.fences, if self.losers { "fences (also losing)" } else { "fences" })?;
        count(f, if self.topics > 1 { self.topics } else { 0 }, "topics")?;
        count(f, self.restores.into(), "restores")?;
        count(f, self.cuts.into(), if self.positions { "cuts with positions" } else { "cuts" })?;
        count(f, self.drops.into(), "drops")?;
        count(f, self.diverges.into(), "divergences")?;
        f.write_str(if self.crash_path_a { "" } else { ", crash path 8b only" })?;
        Ok(())
    }
}

/// A wrong reading of the rules (the table "Readings that lose data" of the handover).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Rule 9's test read as "my queue is empty".
    SealWhenQueueIsEmpty,
    /// A fence seen again in replay counts as a takeover already done.
    ReplayedFenceIsDone,
    /// The crash path publishes only what this node owned when it was applied.
    CrashPathOwnOnly,
    /// The crash path publishes only what came after the last fence.
    CrashPathSinceFence,
    /// A shadow that dropped its outputs takes the crash path without a new restore.
    CrashPathAfterDrop,
    /// A Sealed of another epoch releases the hold.
    AnySealedReleases,
    /// One high-water mark for all topics.
    OneHighWater,
    /// The highest acknowledgement of any topic stands for all.
    HighestAck,
    /// Snapshot while holding, shown when the own queue is empty.
    SnapshotInHold,
    /// A snapshot waits only for the outputs behind the last fence.
    SnapshotWaitsSinceFence,
    /// The producer gives up on one record and goes on.
    GiveUpOneRecord,
    /// Consumers drop records of older epochs than they know of.
    ConsumerFiltersEpoch,
    /// The reader of hw drops records of older epochs.
    HighWaterFiltersEpoch,
    /// "Last sent" is persisted and trusted after a restart.
    LastSentPersisted,
    /// A snapshot's position is that of its producer's acknowledgement.
    PositionFromAck,
    /// A snapshot's position is the topic's end.
    PositionFromEnd,
    /// Digests are not compared.
    NoDigest,
    /// Rule 4's freedom to drop outputs is taken by a replica in the silent replay of rule 8b too.
    DropInReplay,
    /// Rule 2 read as "the last fence wins".
    LosingFenceWins,
    /// Not a reading but a fault that no rule covers: a holder diverges.
    DivergeInHold,
}
