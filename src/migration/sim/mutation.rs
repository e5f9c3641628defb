//! Wrong readings of the handover, put into the simulator's shell: what it must be able to catch.

/// One wrong reading. None of them touches the replica: each is what a careless shell around it might do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// A Sealed of whatever epoch ends a hold (rule 7).
    SealedOfAnotherEpoch,
    /// "All its outputs are durable" read as "my queue is empty" (rule 9).
    SealOnEmptyQueue,
    /// The producer gives up on one record and goes on (rule 11).
    ProducerSkipsFailed,
    /// A shadow that dropped its outputs takes the crash path without a new restore (rules 4 and 8).
    DroppedTakesCrashPath,
    /// The crash path publishes only what lies behind the fence (rule 8a).
    CrashPathOnlyBehindFence,
    /// A snapshot is taken while holding (rule 10).
    SnapshotWhileHolding,
    /// A snapshot becomes visible before its outputs are durable (rule 10).
    SnapshotBeforeDurable,
    /// A snapshot's position in `events` is the end of the log (rule 10).
    PositionIsTopicEnd,
    /// "Last sent" is kept over a restart and trusted (rule 13).
    LastSentPersisted,
    /// A fence met again in replay counts as a takeover already done (rule 6).
    ReplayedFenceIsDone,
    /// The consumer drops records of epochs older than one it has met (rule 12).
    ConsumerDropsOlderEpochs,
    /// A shadow diverges, and digests are not compared (rule 7).
    DigestNotCompared,
}

impl Mutation {
    pub const ALL: [Self; 12] = [
        Self::SealedOfAnotherEpoch,
        Self::SealOnEmptyQueue,
        Self::ProducerSkipsFailed,
        Self::DroppedTakesCrashPath,
        Self::CrashPathOnlyBehindFence,
        Self::SnapshotWhileHolding,
        Self::SnapshotBeforeDurable,
        Self::PositionIsTopicEnd,
        Self::LastSentPersisted,
        Self::ReplayedFenceIsDone,
        Self::ConsumerDropsOlderEpochs,
        Self::DigestNotCompared,
    ];

    /// The name on the command line.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}
