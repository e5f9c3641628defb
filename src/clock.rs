//! The only place that asks the machine for the time.

use crate::domain::Micros;

/// Wall clock time now.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Micros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Micros(since.as_micros() as u64)
}

/// Milliseconds since some moment of the past, as of the last tick of the machine's clock, a few milliseconds ago: for
/// what is asked with each record, where a precise answer would cost more than the work that it is about.
pub fn coarse_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(target_os = "linux"))]
    let clock = libc::CLOCK_MONOTONIC;
    read(clock).unwrap_or(0) / 1_000_000
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of all threads of the process, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of all threads of another process, in nanoseconds; `None` if there is none with this number.
pub fn cpu_ns_of(process: u32) -> Option<u64> {
    let (process, mut id) = (libc::pid_t::try_from(process).ok()?, 0);
    // SAFETY: `id` is a valid place for the answer, which is all the call writes to; an unknown process is an error.
    let failed = unsafe { libc::clock_getcpuclockid(process, &raw mut id) };
    if failed == 0 { read(id) } else { None }
}

/// The CPU clock of one thread, which any other may read.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// Of the calling thread; `None` where threads have no such clock.
    pub fn of_this_thread() -> Option<Self> {
        let mut id = 0;
        // SAFETY: the thread is the calling one and so alive, and `id` is a valid place for the answer.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut id) };
        (failed == 0).then_some(Self(id))
    }

    /// CPU time so far, in nanoseconds; `None` once the thread has ended.
    pub fn cpu_ns(self) -> Option<u64> {
        read(self.0)
    }
}

fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the answer, which is all the call writes to; an unknown clock is an error.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut t) };
    (failed == 0).then(|| t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_clock_is_read_by_others_and_ends_with_it() {
        let (tell, clock) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while thread_cpu_ns() < 2_000_000 {
                std::hint::spin_loop();
            }
            tell.send(ThreadClock::of_this_thread().unwrap()).unwrap();
            wait.recv().unwrap();
        });
        let clock = clock.recv().unwrap();
        assert!(clock.cpu_ns().unwrap() >= 2_000_000);
        go.send(()).unwrap();
        thread.join().unwrap();
        // It is joined a moment before the system has forgotten it.
        let joined = std::time::Instant::now();
        while clock.cpu_ns().is_some() {
            assert!(joined.elapsed() < std::time::Duration::from_secs(10), "the clock outlives its thread");
            std::thread::yield_now();
        }
    }
}
