//! The files of a log folder and how each is written.
//!
//! | file | content |
//! |---|---|
//! | `lock` | held exclusively by the writer as long as it lives |
//! | `meta.json` | format, partition count, log id; written once |
//! | `{number:020}.segment` | the journal |
//! | `prepared.tmp` | zeros for the next segment |
//! | `durable` | segment and position up to which the journal is durable; overwritten after each commit, not synced |
//! | `starts` | logical start of every partition; replaced as a whole |
//! | `symbols` | live records of the compacted topic whose segments are gone; replaced as a whole |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::ports::log::LogError;

const FORMAT: u32 = 1;
/// A reader that looks whether a writer lives holds the lock for microseconds: the writer tries for 20 x 10 ms.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A log error of the operating system.
pub fn io_error(doing: impl Into<String>, source: io::Error) -> LogError {
    LogError::Io { doing: doing.into(), source: Arc::new(source) }
}

/// A log error about bytes that should not be as they are.
pub fn damaged(what: impl Into<String>) -> LogError {
    LogError::Damaged { what: what.into() }
}

/// What is fixed when a log is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    pub format: u32,
    pub partitions: u32,
    pub id: u64,
}

/// Logical starts, and the newest time stamp that deleted segments had.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Starts {
    pub starts: Vec<u64>,
    pub last_at: u64,
}

/// `<data>/log`.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(data: &Path) -> Self {
        Self(data.join("log"))
    }

    pub fn create(&self) -> Result<(), LogError> {
        fs::create_dir_all(&self.0).map_err(|e| io_error(format!("created in {}", self.0.display()), e))?;
        if let Some(parent) = self.0.parent() {
            File::open(parent).and_then(|d| d.sync_all()).map_err(|e| io_error("created", e))?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn segment_path(&self, number: u64) -> PathBuf {
        self.0.join(format!("{number:020}.segment"))
    }

    pub fn prepared_path(&self) -> PathBuf {
        self.path("prepared.tmp")
    }

    /// Makes creations, renames and removals in it durable.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    /// Takes the writer's lock.
    pub fn lock(&self) -> Result<File, LogError> {
        let doing = || format!("locked in {}", self.0.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path("lock"))
            .map_err(|e| io_error(doing(), e))?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(e)) => return Err(io_error(doing(), e)),
            }
        }
        Err(LogError::Locked { folder: self.0.display().to_string() })
    }

    /// Whether some process writes this log now.
    pub fn has_writer(&self) -> bool {
        let Ok(file) = File::open(self.path("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    pub fn read_meta(&self) -> Result<Option<Meta>, LogError> {
        let bytes = match fs::read(self.path("meta.json")) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("opened", e)),
        };
        let meta: Meta = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("meta.json: {e}")))?;
        if meta.format != FORMAT {
            return Err(damaged(format!("format {} is not known here, only {FORMAT}", meta.format)));
        }
        Ok(Some(meta))
    }

    /// Reads what was fixed at creation, or fixes it.
    pub fn meta_or_create(&self, partitions: u32) -> Result<Meta, LogError> {
        if let Some(meta) = self.read_meta()? {
            if meta.partitions != partitions {
                let reason = format!("log was created with {} partitions, opened with {partitions}", meta.partitions);
                return Err(io_error("opened", io::Error::new(io::ErrorKind::InvalidInput, reason)));
            }
            return Ok(meta);
        }
        if !self.segments()?.is_empty() {
            return Err(damaged("there are segments but no meta.json"));
        }
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|e| io_error("created", io::Error::other(e)))?;
        let meta = Meta { format: FORMAT, partitions, id: u64::from_le_bytes(id) };
        let text = serde_json::to_vec(&meta).map_err(|e| io_error("created", io::Error::other(e)))?;
        self.replace("meta.json", &text).map_err(|e| io_error("created", e))?;
        Ok(meta)
    }

    /// Numbers of the segments that are there, ascending.
    pub fn segments(&self) -> Result<Vec<u64>, LogError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(|e| io_error("opened", e))? {
            let name = entry.map_err(|e| io_error("opened", e))?.file_name();
            let number = name.to_str().and_then(|n| n.strip_suffix(".segment")).and_then(|n| n.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Writes a file so that after a crash either the old or the new one is there.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.path(&format!("{name}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(name))?;
        self.sync()
    }

    /// [`Self::replace`] with a checksum in front.
    pub fn replace_checked(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut all = crc32fast::hash(content).to_le_bytes().to_vec();
        all.extend_from_slice(content);
        self.replace(name, &all)
    }

    /// Content of a file written by [`Self::replace_checked`]; `None` if there is none.
    pub fn read_checked(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        let mut bytes = match fs::read(self.path(name)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("opened", e)),
        };
        let Some(crc) = bytes.first_chunk::<4>().map(|c| u32::from_le_bytes(*c)) else {
            return Err(damaged(format!("file {name} is cut")));
        };
        let content = bytes.split_off(4);
        if crc32fast::hash(&content) != crc {
            return Err(damaged(format!("checksum of file {name} is wrong")));
        }
        Ok(Some(content))
    }

    pub fn read_starts(&self) -> Result<Starts, LogError> {
        let Some(content) = self.read_checked("starts")? else { return Ok(Starts::default()) };
        serde_json::from_slice(&content).map_err(|e| damaged(format!("starts: {e}")))
    }

    pub fn write_starts(&self, starts: &Starts) -> io::Result<()> {
        self.replace_checked("starts", &serde_json::to_vec(starts).map_err(io::Error::other)?)
    }

    /// Opens the durable mark for writing.
    pub fn open_mark(&self) -> Result<File, LogError> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path("durable"))
            .map_err(|e| io_error("opened", e))
    }

    /// The durable mark; `None` if it is not there or was caught half written.
    pub fn read_mark(&self) -> Option<Mark> {
        Mark::decode(&fs::read(self.path("durable")).ok()?)
    }
}

/// Up to where the journal is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub segment: u64,
    pub position: u64,
}

impl Mark {
    fn encode(self) -> [u8; 20] {
        let mut b = [0; 20];
        b[..8].copy_from_slice(&self.segment.to_le_bytes());
        b[8..16].copy_from_slice(&self.position.to_le_bytes());
        let crc = crc32fast::hash(&b[..16]);
        b[16..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8]) -> Option<Self> {
        let b: &[u8; 20] = b.try_into().ok()?;
        let (segment, rest) = b.split_first_chunk::<8>()?;
        let (position, crc) = rest.split_first_chunk::<8>()?;
        (crc32fast::hash(&b[..16]).to_le_bytes() == *crc)
            .then(|| Self { segment: u64::from_le_bytes(*segment), position: u64::from_le_bytes(*position) })
    }

    /// Tells readers in other processes.
    pub fn publish(self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.encode(), 0)
    }
}
