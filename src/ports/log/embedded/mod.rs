//! The embedded log: one journal of segment files for all topics and partitions, so that one `fdatasync` makes
//! everything durable that was queued while the last one ran.
//!
//! *Owns* the folder `<data>/log` ([`folder`] lists the files). *Never* shows a record that is not durable, skips a gap,
//! or waits to make a group larger. *Start reading at* [`writer`]; then [`partition`] for readers, [`scan`] for what
//! happens at start, [`shared`] for trimming.
//!
//! **Why zeros are written ahead.** One write of 250 bytes and one `fdatasync` on ext4 (virtual disk, idle machine, 1,500
//! times each): appending p50 151 to 166 us, overwriting space that was written with zeros before p50 105 to 107 us; for
//! 16 KB 184 to 200 us against 111 to 120 us. Space that was only reserved (`fallocate`) is as slow as appending for
//! large writes, because its extents change state at the first write. So a thread fills the next segment with zeros, no
//! faster than commits would notice; until it is ready the current one is appended to.
//!
//! **A torn end** is what a crash left of the last group: it was never acknowledged and is cut off with a warning. Bytes
//! that are broken although a later group exists, or in an earlier segment, were durable: that is damage and the log does
//! not open ([`LogError::Damaged`]). Nor does it when the whole records end below the durable mark, torn or cleanly: the
//! disk lost what it had promised. [`EmbeddedLogOptions::accepts_lost_tail`] goes on all the same.
//!
//! **A reader in another process** never goes beyond the durable mark while a writer lives. Without a writer it reads all
//! whole records, which is what the next writer will find.

mod folder;
mod frame;
pub mod measure;
mod partition;
mod preparer;
mod queue;
mod scan;
mod shared;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::folder::{Folder, damaged, io_error};
use self::frame::PARTITIONS_MAX;
use self::partition::Looked;
use self::queue::{EmbeddedSession, Queue};
use self::scan::{Cursor, Mend};
use self::shared::Shared;
use self::writer::{Sizes, Writer};
use super::{Log, LogError, Record, Session, SessionOptions, TopicPartition};
use crate::domain::Offset;

/// Bytes of one segment file.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Positions within a segment are kept in 32 bits; a group may reach over its end.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Bytes of recent records kept in memory, for all partitions together: 64 MiB / (250 + 128) bytes = 177,000 records.
pub const CACHE_BYTES: usize = 64 << 20;
/// How often a reader in another process looks for news.
const FOLLOW_EVERY: Duration = Duration::from_millis(20);

/// How the log is opened.
#[derive(Debug, Clone)]
pub struct EmbeddedLogOptions {
    /// The data folder; the log makes its folder `log` in it.
    pub folder: PathBuf,
    /// Partitions of `orders` and of `events`; fixed when the log is created.
    pub partitions: u32,
    pub segment_bytes: u64,
    pub cache_bytes: usize,
    /// Whether the space of the next segment is written with zeros in the background: see the figures above.
    pub prepares_segments: bool,
    /// Goes on without acknowledged records that are gone from the journal's end, instead of not opening.
    pub accepts_lost_tail: bool,
}

impl EmbeddedLogOptions {
    pub fn new(folder: impl Into<PathBuf>, partitions: u32) -> Self {
        let folder = folder.into();
        Self {
            folder,
            partitions,
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: CACHE_BYTES,
            prepares_segments: true,
            accepts_lost_tail: false,
        }
    }
}

/// The durable log of one process.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    role: Role,
    /// Removed last.
    ephemeral: Option<tempfile::TempDir>,
}

enum Role {
    Writer { queue: Arc<Queue>, ended: watch::Receiver<bool>, thread: Option<std::thread::JoinHandle<()>> },
    Reader { cursor: Arc<Mutex<Option<Cursor>>> },
}

impl EmbeddedLog {
    /// Opens or creates a log for writing. Blocks while the journal is read: about a second per GB.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process writes it, [`LogError::Damaged`] when it is broken anywhere but at its
    /// very end or ends below what was acknowledged, [`LogError::Io`] for the rest, a changed partition count included.
    pub fn open(options: &EmbeddedLogOptions) -> Result<Self, LogError> {
        if options.partitions == 0 || options.partitions >= PARTITIONS_MAX {
            let reason = format!("{} partitions are not possible", options.partitions);
            return Err(io_error("opened", std::io::Error::new(std::io::ErrorKind::InvalidInput, reason)));
        }
        let folder = Folder::new(&options.folder);
        folder.create()?;
        let lock = folder.lock()?;
        let meta = folder.meta_or_create(options.partitions)?;
        let shared = Shared::load(folder, meta)?;
        let mend = if options.accepts_lost_tail { Mend::Lost } else { Mend::Torn };
        let end = scan::scan_all(&shared, mend)?;
        let sizes = Sizes {
            segment_bytes: options.segment_bytes.clamp(1 << 12, SEGMENT_BYTES_MAX),
            cache_bytes: options.cache_bytes,
            prepares_segments: options.prepares_segments,
        };
        let queue = Arc::new(Queue::default());
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&queue), end, &sizes, lock)?;
        shared.remove_free_segments()?;
        let (ended, has_ended) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                writer.run();
                // Those who wait in `close` may be gone.
                let _ = ended.send(true);
            })
            .map_err(|e| io_error("opened", e))?;
        let role = Role::Writer { queue, ended: has_ended, thread: Some(thread) };
        Ok(Self { shared, role, ephemeral: None })
    }

    /// A log in a temporary folder that is removed with it: for tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn ephemeral(partitions: u32) -> Result<Self, LogError> {
        let folder = tempfile::tempdir().map_err(|e| io_error("created", e))?;
        // Small, so that a test does not fill the disk with zeros.
        let options =
            EmbeddedLogOptions { segment_bytes: 4 << 20, ..EmbeddedLogOptions::new(folder.path(), partitions) };
        let mut log = Self::open(&options)?;
        log.ephemeral = Some(folder);
        Ok(log)
    }

    /// Opens a log for reading, beside a living writer or without one. Beside a writer it shows records up to the
    /// durable mark that the writer publishes after each commit; without one, all whole records of the journal, which is
    /// what a writer would find at its start. Nothing is repaired or written.
    ///
    /// # Errors
    /// [`LogError::Io`] when there is no log, [`LogError::Damaged`] when it is broken.
    pub fn open_read_only(folder: &Path) -> Result<Self, LogError> {
        let folder = Folder::new(folder);
        let Some(meta) = folder.read_meta()? else {
            return Err(io_error("opened", std::io::Error::from(std::io::ErrorKind::NotFound)));
        };
        let has_writer = folder.has_writer();
        let shared = Shared::load(folder, meta)?;
        let mut cursor = None;
        if has_writer {
            scan::follow(&shared, &mut cursor)?;
        } else {
            cursor = scan::scan_all(&shared, Mend::No)?;
        }
        Ok(Self { shared, role: Role::Reader { cursor: Arc::new(Mutex::new(cursor)) }, ephemeral: None })
    }

    /// Partition count of an existing log.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Damaged`].
    pub fn partitions_of(folder: &Path) -> Result<Option<u32>, LogError> {
        Ok(Folder::new(folder).read_meta()?.map(|m| m.partitions))
    }

    /// A reader catches up with the writer; a writer has nothing to do.
    async fn refresh(&self) -> Result<(), LogError> {
        let Role::Reader { cursor } = &self.role else { return Ok(()) };
        let (shared, cursor) = (Arc::clone(&self.shared), Arc::clone(cursor));
        blocking(move || {
            let mut cursor = cursor.lock();
            scan::follow(&shared, &mut cursor).map(|_| ())
        })
        .await
    }

    async fn read_from(&self, of: TopicPartition, from: Offset, records_max: usize) -> Result<Vec<Record>, LogError> {
        let partition = self.shared.partition(of)?;
        loop {
            // Registered before looking, so that no wake-up is missed.
            let mut news = std::pin::pin!(partition.news.notified());
            news.as_mut().enable();
            let is_closed = self.shared.is_closed.load(Ordering::Acquire);
            match partition.look(from, records_max)? {
                Looked::Records(records) => return Ok(records),
                Looked::NothingYet if is_closed => return Err(LogError::Closed),
                Looked::NothingYet => match &self.role {
                    Role::Writer { .. } => news.await,
                    Role::Reader { .. } => {
                        self.refresh().await?;
                        if partition.end_offset() <= from {
                            tokio::time::sleep(FOLLOW_EVERY).await;
                        }
                    }
                },
                looked @ Looked::OnDisk { .. } => {
                    let shared = Arc::clone(&self.shared);
                    let is_reader = matches!(self.role, Role::Reader { .. });
                    let records = blocking(move || {
                        let records = shared.read_now(of, from, looked);
                        if is_reader && records.is_err() {
                            // The writer may have trimmed it.
                            shared.reload_starts()?;
                            let looked = shared.partition(of)?.look(from, records_max)?;
                            return shared.read_now(of, from, looked);
                        }
                        records
                    })
                    .await?;
                    if !records.is_empty() {
                        return Ok(records);
                    }
                }
            }
        }
    }
}

/// Runs what waits for the disk where it delays nobody.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => Err(damaged(format!("reading it panicked: {e}"))),
        Err(_) => Err(LogError::Closed),
    }
}

impl Log for EmbeddedLog {
    fn partitions(&self) -> u32 {
        self.shared.meta.partitions
    }

    fn open_session(&self, options: SessionOptions) -> Result<Arc<dyn Session>, LogError> {
        let Role::Writer { queue, .. } = &self.role else { return Err(LogError::ReadOnly) };
        if let Some(error) = queue.refusal() {
            return Err(error);
        }
        Ok(Arc::new(EmbeddedSession::new(options, Arc::clone(queue), Arc::clone(&self.shared))))
    }

    fn start_offset(&self, of: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(async move {
            self.refresh().await?;
            if matches!(self.role, Role::Reader { .. }) {
                self.shared.reload_starts()?;
            }
            Ok(self.shared.partition(of)?.start_offset())
        })
    }

    fn end_offset(&self, of: TopicPartition) -> BoxFuture<'_, Result<Offset, LogError>> {
        Box::pin(async move {
            self.refresh().await?;
            Ok(self.shared.partition(of)?.end_offset())
        })
    }

    fn read(
        &self,
        of: TopicPartition,
        from: Offset,
        records_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, LogError>> {
        Box::pin(self.read_from(of, from, records_max))
    }

    /// In the compacted topic it removes nothing that is the newest of its key.
    fn trim(&self, of: TopicPartition, before: Offset) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            match &self.role {
                Role::Reader { .. } => return Err(LogError::ReadOnly),
                Role::Writer { queue, .. } => queue.refusal().map_or(Ok(()), Err)?,
            }
            let shared = Arc::clone(&self.shared);
            blocking(move || shared.trim(of, before)).await
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let Role::Writer { queue, ended, .. } = &self.role else { return Ok(()) };
            let failure = queue.refusal().filter(|e| !matches!(e, LogError::Closed));
            queue.close();
            // An error means that the writer is gone, too.
            let _ = ended.clone().wait_for(|has_ended| *has_ended).await;
            failure.map_or(Ok(()), Err)
        })
    }
}

impl Drop for EmbeddedLog {
    /// As [`Log::close`]: what was taken is made durable.
    fn drop(&mut self) {
        if let Role::Writer { queue, thread, .. } = &mut self.role {
            queue.close();
            if thread.take().is_some_and(|t| t.join().is_err()) {
                tracing::error!("the log's writer panicked");
            }
        }
    }
}
