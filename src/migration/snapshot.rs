//! The snapshot file: a machine's whole state with what its replica must know to go on from there.
//!
//! MessagePack inside zstd: `{format, crc32 of content, content}`, the content again MessagePack. What is truncated,
//! flipped or newer is refused, and the state's digest is computed again and compared.

use std::cell::RefCell;
use std::io::Read;

use serde::{Deserialize, Serialize};
use zstd::zstd_safe::DCtx;

use crate::domain::machine::SnapshotError;
use crate::domain::{Digest, Epoch, Machine, Micros, NodeId, Offset, Seqs, Symbol};
use crate::ports::snapshots::{SnapshotKey, SnapshotStore, SnapshotStoreError};

/// The newest format that this build writes and reads.
pub const FORMAT: u32 = 1;
/// Largest content once decompressed: 4 million orders of 150 bytes and all finished ids.
const CONTENT_BYTES_MAX: u64 = 1 << 30;
/// Fast, and the ids do not compress much further.
pub const ZSTD_LEVEL: i32 = 1;

/// A machine at one offset of its log.
#[derive(Debug, Clone)]
pub struct Snapshot<M> {
    pub symbol: Symbol,
    /// The next record to apply.
    pub offset: Offset,
    pub seqs: Seqs,
    pub epoch: Epoch,
    pub owner: NodeId,
    /// Where in `events` a reader may start who wants the outputs behind `seqs.last` (handover rule 10).
    pub events_position: Offset,
    /// Highest append time met.
    pub clock: Micros,
    /// Nonces of control records that have not run out: (valid until, nonce), ascending.
    pub nonces: Vec<(Micros, u128)>,
    pub machine: M,
}

/// What a snapshot says of itself, readable without its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    pub format: u32,
    pub symbol: Symbol,
    pub offset: Offset,
    pub seqs: Seqs,
    pub epoch: Epoch,
    pub owner: NodeId,
    pub events_position: Offset,
    pub rules_version: u32,
    pub digest: Digest,
    /// Bytes of the machine's state, uncompressed.
    pub machine_bytes: usize,
}

/// A snapshot whose machine is left as bytes, for whoever reads it in a way of their own: the auditor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSnapshot {
    pub header: SnapshotHeader,
    /// As in [`Snapshot`].
    pub clock: Micros,
    /// As in [`Snapshot`].
    pub nonces: Vec<(Micros, u128)>,
    pub machine: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    crc32: u32,
    #[serde(borrow, with = "bytes_field")]
    content: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct Content<'a> {
    symbol: Symbol,
    offset: Offset,
    seqs: Seqs,
    epoch: Epoch,
    owner: NodeId,
    events_position: Offset,
    clock: Micros,
    /// (valid until, nonce's low half, nonce's high half).
    nonces: Vec<(Micros, u64, u64)>,
    rules_version: u32,
    /// Low half, high half.
    digest: (u64, u64),
    #[serde(borrow, with = "bytes_field")]
    machine: &'a [u8],
}

/// Binary fields as MessagePack `bin`, not as arrays of numbers.
mod bytes_field {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(v: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(v)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<&'de [u8], D::Error> {
        <&'de [u8]>::deserialize(d)
    }
}

fn halves(n: u128) -> (u64, u64) {
    (n as u64, (n >> 64) as u64)
}

fn whole(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

fn damaged(what: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::Damaged { what: what.to_string() }
}

/// Unpacks the file. A decompressor is made once per thread: that takes longer than unpacking a small book with it.
fn unpack(file: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    thread_local! {
        static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    }
    let mut unpacked = Vec::new();
    CONTEXT
        .with_borrow_mut(|context| {
            // It forgets what an earlier, broken file left in the context.
            let decoder = zstd::stream::read::Decoder::with_context(file, context);
            decoder.take(CONTENT_BYTES_MAX).read_to_end(&mut unpacked)
        })
        .map_err(damaged)?;
    Ok(unpacked)
}

/// Unpacks the file as far as its checksum, and reads the content.
fn open<T>(file: &[u8], read: impl FnOnce(&Content<'_>, u32) -> Result<T, SnapshotError>) -> Result<T, SnapshotError> {
    let unpacked = unpack(file)?;
    let envelope: Envelope<'_> = rmp_serde::from_slice(&unpacked).map_err(damaged)?;
    if envelope.format > FORMAT {
        return Err(SnapshotError::Newer { found: envelope.format, known: FORMAT });
    }
    // The checksum does not cover the format.
    if envelope.format == 0 {
        return Err(damaged("there is no format 0"));
    }
    if crc32fast::hash(envelope.content) != envelope.crc32 {
        return Err(damaged("checksum does not match"));
    }
    let content: Content<'_> = rmp_serde::from_slice(envelope.content).map_err(damaged)?;
    read(&content, envelope.format)
}

impl SnapshotHeader {
    /// Reads the header and checks the file's checksum.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn decode(file: &[u8]) -> Result<Self, SnapshotError> {
        open(file, |c, format| Ok(Self::of(c, format)))
    }

    fn of(c: &Content<'_>, format: u32) -> Self {
        Self {
            format,
            symbol: c.symbol,
            offset: c.offset,
            seqs: c.seqs,
            epoch: c.epoch,
            owner: c.owner,
            events_position: c.events_position,
            rules_version: c.rules_version,
            digest: Digest(whole(c.digest.0, c.digest.1)),
            machine_bytes: c.machine.len(),
        }
    }
}

impl RawSnapshot {
    /// Reads the file and checks its checksum; the machine's own digest is not looked at.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn decode(file: &[u8]) -> Result<Self, SnapshotError> {
        open(file, |c, format| {
            Ok(Self {
                header: SnapshotHeader::of(c, format),
                clock: c.clock,
                nonces: c.nonces.iter().map(|(until, low, high)| (*until, whole(*low, *high))).collect(),
                machine: c.machine.to_vec(),
            })
        })
    }

    /// The name under which it is kept.
    pub fn key(&self) -> SnapshotKey {
        let SnapshotHeader { symbol, offset, epoch, .. } = self.header;
        SnapshotKey { symbol, offset, epoch }
    }
}

impl<M: Machine> Snapshot<M> {
    /// The name under which it is kept.
    pub fn key(&self) -> SnapshotKey {
        SnapshotKey { symbol: self.symbol, offset: self.offset, epoch: self.epoch }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When compression fails.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut machine = Vec::new();
        self.machine.encode(&mut machine);
        let nonces = self.nonces.iter().map(|(until, n)| (*until, halves(*n).0, halves(*n).1)).collect();
        let content = rmp_serde::to_vec_named(&Content {
            symbol: self.symbol,
            offset: self.offset,
            seqs: self.seqs,
            epoch: self.epoch,
            owner: self.owner,
            events_position: self.events_position,
            clock: self.clock,
            nonces,
            rules_version: self.machine.rules_version(),
            digest: halves(self.machine.digest().0),
            machine: &machine,
        })
        .map_err(std::io::Error::other)?;
        let envelope = Envelope { format: FORMAT, crc32: crc32fast::hash(&content), content: &content };
        let packed = rmp_serde::to_vec_named(&envelope).map_err(std::io::Error::other)?;
        zstd::bulk::compress(&packed, ZSTD_LEVEL)
    }

    /// Reads the file and computes the machine's digest anew.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn decode(file: &[u8]) -> Result<Self, SnapshotError> {
        open(file, |c, _| {
            let machine = M::decode(c.machine)?;
            let (stated, computed) = (Digest(whole(c.digest.0, c.digest.1)), machine.digest());
            if stated != computed {
                return Err(SnapshotError::Digest { stated, computed });
            }
            Ok(Self {
                symbol: c.symbol,
                offset: c.offset,
                seqs: c.seqs,
                epoch: c.epoch,
                owner: c.owner,
                events_position: c.events_position,
                clock: c.clock,
                nonces: c.nonces.iter().map(|(until, low, high)| (*until, whole(*low, *high))).collect(),
                machine,
            })
        })
    }
}

/// The newest snapshot of a symbol that can be read. An invalid one is skipped, loudly.
///
/// # Errors
/// [`SnapshotStoreError`] when the store itself cannot be read.
pub async fn newest_valid<M: Machine>(
    store: &dyn SnapshotStore,
    symbol: Symbol,
) -> Result<Option<Snapshot<M>>, SnapshotStoreError> {
    for key in store.list(symbol).await? {
        let file = match store.get(key).await {
            Ok(file) => file,
            // Pruned between listing and reading.
            Err(SnapshotStoreError::Missing { .. }) => continue,
            Err(e) => return Err(e),
        };
        match Snapshot::<M>::decode(&file) {
            Ok(snapshot) if snapshot.key() == key => return Ok(Some(snapshot)),
            Ok(other) => {
                tracing::error!(path = key.path(), holds = other.key().path(), "snapshot is misnamed, skipped")
            }
            Err(e) => tracing::error!(path = key.path(), error = %e, "snapshot is invalid, skipped"),
        }
    }
    Ok(None)
}
