//! The handover's table "Readings that lose data", row by row, each with bounds in which the search finds the loss.

use super::bounds::{Bounds, Mutation};

/// A row, or one of the readings that share a row.
pub struct Row {
    pub reading: &'static str,
    pub mutation: Mutation,
    pub bounds: Bounds,
}

const ONE: Bounds = Bounds { names: &[0], commands: 2, ..Bounds::NONE };
const TWO: Bounds = Bounds { names: &[0, 1], fences: 1, ..ONE };
const BACK: Bounds = Bounds { fences: 2, ..TWO };
const POSITIONS: Bounds =
    Bounds { names: &[0, 0], commands: 3, fences: 0, restores: 1, cuts: 1, positions: true, ..Bounds::NONE };

/// All are found from the birth of the book; none needs a directed start.
pub const ROWS: &[Row] = &[
    Row {
        reading: "\"all its outputs are durable\" read as \"my queue is empty\"",
        mutation: Mutation::SealWhenQueueIsEmpty,
        bounds: BACK,
    },
    Row {
        reading: "a fence seen again in replay counts as a takeover already done",
        mutation: Mutation::ReplayedFenceIsDone,
        bounds: Bounds { restores: 1, ..TWO },
    },
    Row {
        reading: "crash path publishes only what this node owned",
        mutation: Mutation::CrashPathOwnOnly,
        bounds: TWO,
    },
    Row {
        reading: "crash path publishes only since the last fence",
        mutation: Mutation::CrashPathSinceFence,
        bounds: TWO,
    },
    Row {
        reading: "a shadow that dropped its outputs takes the crash path without a new restore",
        mutation: Mutation::CrashPathAfterDrop,
        bounds: Bounds { drops: 1, ..BACK },
    },
    Row { reading: "a Sealed of another epoch releases the hold", mutation: Mutation::AnySealedReleases, bounds: BACK },
    Row {
        reading: "one high-water mark for all topics",
        mutation: Mutation::OneHighWater,
        bounds: Bounds { topics: 2, ..TWO },
    },
    Row {
        reading: "\"highest ack\" instead of contiguous acks per topic",
        mutation: Mutation::HighestAck,
        bounds: Bounds { topics: 2, ..TWO },
    },
    Row {
        reading: "snapshot while holding",
        mutation: Mutation::SnapshotInHold,
        bounds: Bounds { restores: 1, cuts: 1, ..TWO },
    },
    Row {
        reading: "snapshot after waiting only for outputs after F",
        mutation: Mutation::SnapshotWaitsSinceFence,
        bounds: Bounds { restores: 1, cuts: 1, ..TWO },
    },
    Row {
        reading: "the producer gives up on one record and goes on",
        mutation: Mutation::GiveUpOneRecord,
        bounds: ONE,
    },
    Row { reading: "consumers drop records of older epochs", mutation: Mutation::ConsumerFiltersEpoch, bounds: TWO },
    Row {
        reading: "\"last sent\" persisted and trusted after a restart",
        mutation: Mutation::LastSentPersisted,
        bounds: Bounds { restores: 1, ..ONE },
    },
    Row {
        reading: "a snapshot's position in a topic taken from the producer's ack",
        mutation: Mutation::PositionFromAck,
        bounds: POSITIONS,
    },
    Row {
        reading: "a snapshot's position in a topic taken from the topic's end",
        mutation: Mutation::PositionFromEnd,
        bounds: POSITIONS,
    },
    Row {
        reading: "shadow diverged silently and no digest compared",
        mutation: Mutation::NoDigest,
        bounds: Bounds { diverges: 1, crash_path_a: false, ..BACK },
    },
];

/// What the table has not, found with the model.
pub const BEYOND: &[Row] = &[
    Row {
        reading: "a replica that replays for rule 8b drops outputs as a shadow may",
        mutation: Mutation::DropInReplay,
        bounds: Bounds { restores: 1, drops: 1, fences: 3, ..TWO },
    },
    Row {
        reading: "an owner diverges behind its fence, where no digest guards",
        mutation: Mutation::DivergeInHold,
        bounds: Bounds { diverges: 1, crash_path_a: false, ..TWO },
    },
];
