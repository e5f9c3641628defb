//! Writes the zeros of the next segment in a thread of its own. Overwriting them later needs no journal of the file
//! system: see the figures in [`super`].
//!
//! The disk is shared with the commits, which must not notice: zeros are written while nothing is committed, and else only
//! as fast as the segment in use fills up.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::folder::Folder;

/// Zeros are written in steps of this size.
const STEP_BYTES: usize = 1 << 20;
/// While commits go on there may be this many bytes of zeros for each byte that they wrote: so the next segment is ready
/// when the one in use is half full.
const ZEROS_PER_BYTE: u64 = 2;
/// No commit for so long, and the next step is written at once.
const IDLE: Duration = Duration::from_millis(20);

/// What the writer tells its preparer.
#[derive(Default)]
struct Pace {
    stop: AtomicBool,
    commits: AtomicU64,
    /// Bytes in use of the segment that is being written.
    used: AtomicU64,
}

/// See the module.
pub struct Preparer {
    thread: Option<JoinHandle<Option<File>>>,
    pace: Arc<Pace>,
}

impl Preparer {
    pub fn start(folder: Folder, bytes: u64) -> Self {
        let pace = Arc::new(Pace::default());
        let its = Arc::clone(&pace);
        let thread = std::thread::Builder::new().name("log-prepare".to_owned()).spawn(move || {
            prepare(&folder, bytes, &its).unwrap_or_else(|error| {
                tracing::warn!(%error, "space for the next segment cannot be prepared");
                None
            })
        });
        Self { thread: thread.ok(), pace }
    }

    /// A group was made durable; `used` bytes of the segment are in use.
    pub fn committed(&self, used: u64) {
        self.pace.used.store(used, Ordering::Relaxed);
        self.pace.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    pub fn finish(mut self) -> Option<File> {
        self.thread.take().and_then(|t| t.join().ok().flatten())
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.pace.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot have panicked with anything that matters here.
            let _ = thread.join();
        }
    }
}

impl Pace {
    /// Waits until the step behind `done` bytes may be written; `false` to end.
    fn is_next(&self, done: u64) -> bool {
        loop {
            let commits = self.commits.load(Ordering::Relaxed);
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            if commits == 0 || done < self.used.load(Ordering::Relaxed) * ZEROS_PER_BYTE {
                return true;
            }
            std::thread::park_timeout(IDLE);
            if self.commits.load(Ordering::Relaxed) == commits && !self.stop.load(Ordering::Relaxed) {
                return true;
            }
        }
    }
}

fn prepare(folder: &Folder, bytes: u64, pace: &Pace) -> io::Result<Option<File>> {
    let file = File::create(folder.prepared_path())?;
    let zeros = vec![0; STEP_BYTES.min(bytes as usize)];
    let mut position = 0;
    while position < bytes {
        if !pace.is_next(position) {
            return Ok(None);
        }
        let n = zeros.len().min((bytes - position) as usize);
        file.write_all_at(&zeros[..n], position)?;
        file.sync_data()?;
        position += n as u64;
    }
    file.sync_all()?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_run_ahead_of_commits_and_stop_at_once() {
        let pace = Pace::default();
        assert!(pace.is_next(1 << 30), "nothing is committed, nobody is disturbed");
        pace.commits.store(1, Ordering::Relaxed);
        pace.used.store(10, Ordering::Relaxed);
        assert!(pace.is_next(19), "less than twice of what is in use");
        pace.stop.store(true, Ordering::Relaxed);
        assert!(!pace.is_next(0));
    }
}
