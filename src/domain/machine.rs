//! What a shard is: a function of its log. Books are the first kind; account shards will be the second.

use super::command::Input;
use super::control::{Authority, Fence};
use super::numbers::Digest;
use super::outbox::Outbox;

/// Why a snapshot was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("snapshot is truncated: {need} bytes needed, {have} there")]
    Truncated { need: usize, have: usize },
    #[error("snapshot is damaged: {what}")]
    Damaged { what: String },
    #[error("snapshot has format {found}, this build reads up to {known}")]
    Newer { found: u32, known: u32 },
    #[error("snapshot's rules version {found} is not known to this build")]
    RulesUnknown { found: u32 },
    #[error("snapshot's digest is {stated}, its content gives {computed}")]
    Digest { stated: Digest, computed: Digest },
}

/// A deterministic state machine over the records of one key in one partition.
///
/// Same records, same bytes: no clock, no randomness, no hash order, no floats. What is emitted depends on the record,
/// never on how records were batched.
pub trait Machine: Clone + Send + Sized + 'static {
    type Command: Clone + Send + 'static;

    /// Makes the machine from its birth record and emits its first outputs; `None` if the record is no valid birth.
    fn birth(input: &Input<Self::Command>, out: &mut Outbox) -> Option<Self>;

    /// Applies one record and emits its outputs: exactly one answer, the last output marked as the end. Fences never
    /// come here: they are the replica's.
    fn apply(&mut self, input: &Input<Self::Command>, out: &mut Outbox);

    /// Applies many, in order; equal to [`Self::apply`] on each.
    fn apply_batch(&mut self, inputs: &[Input<Self::Command>], out: &mut Outbox) {
        for input in inputs {
            self.apply(input, out);
        }
    }

    /// The authority of a control record, which the replica checks first.
    fn authority(command: &Self::Command) -> Option<&Authority>;

    /// The fence, if the record is one.
    fn fence(command: &Self::Command) -> Option<&Fence>;

    /// Digest of all that can influence the future, ownership left out (the replica adds it).
    fn digest(&self) -> Digest;

    fn rules_version(&self) -> u32;

    /// A copy to be digested and encoded elsewhere, and for nothing else: it may be cheap by leaving out what these two do
    /// not need, and by sharing memory until this machine changes it.
    fn freeze(&mut self) -> Self {
        self.clone()
    }

    /// Appends the whole state in the format of its rules version.
    fn encode(&self, into: &mut Vec<u8>);

    /// Reads [`Self::encode`].
    ///
    /// # Errors
    /// [`SnapshotError`]: truncated, damaged, newer than this build, or not what its digest says.
    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError>;
}
