//! Whether this process reaches the log.
//!
//! A node that does not is of no use to its books, however well it answers everybody else: it says so in its heartbeat, and
//! whoever reaches the log takes it for dead. If nobody reaches the log, nobody is dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ports::log::Log;

/// The log is lost when it did not answer so many times in a row, asked once in a window; and it is in sight once it has
/// answered for so many windows without a miss: by then others that it has come back to have said so.
const WINDOWS: u32 = 5;

/// See the module.
pub struct Sight {
    window: Duration,
    state: Mutex<State>,
}

struct State {
    missed: u32,
    answers_since: Option<Instant>,
}

impl Sight {
    pub fn new(window: Duration) -> Self {
        Self { window, state: Mutex::new(State { missed: 0, answers_since: None }) }
    }

    /// Asks once in a window, for ever.
    pub async fn watch(self: Arc<Self>, log: Arc<dyn Log>) {
        loop {
            let answer = log.answers().await;
            self.heard(answer.is_ok(), Instant::now());
            tokio::time::sleep(self.window).await;
        }
    }

    fn heard(&self, answers: bool, now: Instant) {
        let mut state = self.state.lock();
        if answers {
            if state.missed >= WINDOWS {
                tracing::info!("the log answers again");
            }
            state.missed = 0;
            state.answers_since.get_or_insert(now);
        } else {
            state.missed = state.missed.saturating_add(1);
            state.answers_since = None;
            if state.missed == WINDOWS {
                tracing::error!("the log does not answer: others that reach it are to take the books of this process");
            }
        }
    }

    pub fn is_lost(&self) -> bool {
        self.state.lock().missed >= WINDOWS
    }

    /// Whether it is certain that others can reach the log as well as this process.
    pub fn is_clear(&self) -> bool {
        self.is_clear_at(Instant::now())
    }

    fn is_clear_at(&self, now: Instant) -> bool {
        let since = self.state.lock().answers_since;
        since.is_some_and(|since| now.duration_since(since) >= self.window * WINDOWS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_lost_and_in_sight_only_after_five_windows_without_an_exception() {
        let (window, began) = (Duration::from_secs(1), Instant::now());
        let sight = Sight::new(window);
        let at = |n: u32| began + window * n;
        let said = |answers: bool, n: u32| {
            sight.heard(answers, at(n));
            (sight.is_lost(), sight.is_clear_at(at(n)))
        };
        let first: Vec<_> = (0..=5).map(|n| said(true, n)).collect();
        assert_eq!(first, [vec![(false, false); 5], vec![(false, true)]].concat());
        assert_eq!(said(false, 6), (false, false), "one miss is no loss, but nobody is judged by it");
        for n in 7..10 {
            assert_eq!(said(false, n), (false, false));
        }
        assert_eq!(said(false, 10), (true, false));
        assert_eq!(said(true, 11), (false, false), "it is back, for us");
        assert_eq!((12..16).map(|n| said(true, n)).next_back(), Some((false, false)));
        assert_eq!(said(true, 16), (false, true));
    }
}
