//! How often what happened.

/// What is counted. Everything down to [`Happened::ClientRetry`] is a fault or a consequence of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happened {
    ProcessCrashed,
    BookPanicked,
    ProcessFroze,
    ZombieWoke,
    ProcessRestarted,
    TwoLivesOfOneName,
    SuffixLost,
    SessionFailed,
    SealedLost,
    SealedRepeated,
    SealedMisdelivered,
    RouteWentBack,
    RouteTableLost,
    SnapshotSlow,
    SnapshotMissing,
    SnapshotCorrupt,
    SnapshotPruned,
    RestoredFromBirth,
    OutputsDropped,
    StaleHighWater,
    FenceLost,
    FenceLate,
    FenceVoid,
    StrayFence,
    CoordinatorCrashed,
    FalseSuspicion,
    ControlRepeated,
    ControlRanOut,
    GatewayCrashed,
    ClientRetry,
    Commands,
    Fences,
    MovesBegun,
    MovesCompleted,
    MovesAborted,
    MovesFailed,
    Recoveries,
    Seals,
    DrainedAsHolder,
    TookBySealed,
    TookByCrashPathA,
    TookByCrashPathB,
    SnapshotsShown,
    Outputs,
    Repeats,
}

impl Happened {
    pub const ALL: [Self; 45] = [
        Self::ProcessCrashed,
        Self::BookPanicked,
        Self::ProcessFroze,
        Self::ZombieWoke,
        Self::ProcessRestarted,
        Self::TwoLivesOfOneName,
        Self::SuffixLost,
        Self::SessionFailed,
        Self::SealedLost,
        Self::SealedRepeated,
        Self::SealedMisdelivered,
        Self::RouteWentBack,
        Self::RouteTableLost,
        Self::SnapshotSlow,
        Self::SnapshotMissing,
        Self::SnapshotCorrupt,
        Self::SnapshotPruned,
        Self::RestoredFromBirth,
        Self::OutputsDropped,
        Self::StaleHighWater,
        Self::FenceLost,
        Self::FenceLate,
        Self::FenceVoid,
        Self::StrayFence,
        Self::CoordinatorCrashed,
        Self::FalseSuspicion,
        Self::ControlRepeated,
        Self::ControlRanOut,
        Self::GatewayCrashed,
        Self::ClientRetry,
        Self::Commands,
        Self::Fences,
        Self::MovesBegun,
        Self::MovesCompleted,
        Self::MovesAborted,
        Self::MovesFailed,
        Self::Recoveries,
        Self::Seals,
        Self::DrainedAsHolder,
        Self::TookBySealed,
        Self::TookByCrashPathA,
        Self::TookByCrashPathB,
        Self::SnapshotsShown,
        Self::Outputs,
        Self::Repeats,
    ];

    /// In words, for the closing table.
    pub fn words(self) -> &'static str {
        match self {
            Self::ProcessCrashed => "process crashed",
            Self::BookPanicked => "one book's replica lost, its process goes on",
            Self::ProcessFroze => "process froze for 0.1 to 8 s",
            Self::ZombieWoke => "woke up as a zombie: thinks it owns a book that is another's",
            Self::ProcessRestarted => "process started again under its old name",
            Self::TwoLivesOfOneName => "two live processes with one name",
            Self::SuffixLost => "records in a dead producer's queue lost (a suffix)",
            Self::SessionFailed => "record failed for good, producer session ended",
            Self::SealedLost => "Sealed lost",
            Self::SealedRepeated => "Sealed delivered twice",
            Self::SealedMisdelivered => "Sealed delivered to everybody",
            Self::RouteWentBack => "route read as it was some time ago",
            Self::RouteTableLost => "route table lost, rebuilt from the log",
            Self::SnapshotSlow => "snapshot visible only seconds later",
            Self::SnapshotMissing => "snapshot never written, or not found",
            Self::SnapshotCorrupt => "corrupt snapshot met and skipped",
            Self::SnapshotPruned => "old snapshots deleted",
            Self::RestoredFromBirth => "no snapshot: replayed from the listing",
            Self::OutputsDropped => "shadow dropped its outputs",
            Self::StaleHighWater => "high-water mark was stale when used",
            Self::FenceLost => "FENCE lost on its way to the log",
            Self::FenceLate => "FENCE in the log only seconds later",
            Self::FenceVoid => "FENCE without effect (another came first)",
            Self::StrayFence => "FENCE from nowhere, any epoch, any node",
            Self::CoordinatorCrashed => "coordinator crashed",
            Self::FalseSuspicion => "live owner taken for dead",
            Self::ControlRepeated => "control record played again",
            Self::ControlRanOut => "control record appended after it had run out",
            Self::GatewayCrashed => "gateway crashed, its unsent commands lost",
            Self::ClientRetry => "client sent the same order again",
            Self::Commands => "records in orders",
            Self::Fences => "FENCEs that took effect",
            Self::MovesBegun => "moves begun",
            Self::MovesCompleted => "moves completed",
            Self::MovesAborted => "moves aborted before the fence",
            Self::MovesFailed => "moves given up behind the fence",
            Self::Recoveries => "moves begun because the owner was dead",
            Self::Seals => "Sealed sent",
            Self::DrainedAsHolder => "holder fenced away that drained (rule 9b)",
            Self::TookBySealed => "takeovers by Sealed (rule 7)",
            Self::TookByCrashPathA => "takeovers by crash path 8a",
            Self::TookByCrashPathB => "takeovers by crash path 8b",
            Self::SnapshotsShown => "snapshots made visible",
            Self::Outputs => "outputs",
            Self::Repeats => "outputs repeated with the same bytes",
        }
    }

    /// Whether the world does this to the machines, or the machines do it.
    pub fn is_fault(self) -> bool {
        self <= Self::ClientRetry
    }
}

/// One number for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts([u64; Happened::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Happened::ALL.len()])
    }
}

impl Counts {
    pub fn get(&self, what: Happened) -> u64 {
        self.0[what as usize]
    }

    pub(super) fn add(&mut self, what: Happened, n: u64) {
        self.0[what as usize] += n;
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}
