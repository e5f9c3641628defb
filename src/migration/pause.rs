//! How long a move paused its book, from the times that the log stamped: no clock of any process is in it.

use crate::domain::{Micros, Offset};

/// Measures one pause: publication of the first output behind the fence, minus the later of the publication of the
/// last one before it and the append of the first command behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseMeter {
    fence: Offset,
    /// Publication of the last output up to the fence.
    last_before: Option<Micros>,
    /// Append of the first command behind the fence.
    first_command: Option<Micros>,
}

impl PauseMeter {
    /// For the fence at this offset; `last_before` if something was published before it already.
    pub fn new(fence: Offset, last_before: Option<Micros>) -> Self {
        Self { fence, last_before, first_command: None }
    }

    /// A command of the symbol was appended behind the fence; the first call counts.
    pub fn command(&mut self, appended: Micros) {
        self.first_command.get_or_insert(appended);
    }

    /// Outputs were published whose highest input has this offset; the pause in microseconds if that ends it.
    pub fn published(&mut self, highest_input: Offset, at: Micros) -> Option<u64> {
        if highest_input > self.fence {
            let since = self.last_before.unwrap_or(Micros(0)).max(self.first_command.unwrap_or(at));
            return Some(at.0.saturating_sub(since.0));
        }
        self.last_before = Some(at);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_begins_with_the_later_of_last_output_and_first_command() {
        let mut meter = PauseMeter::new(Offset(5), Some(Micros(10)));
        assert_eq!(meter.published(Offset(5), Micros(100)), None);
        meter.command(Micros(130));
        meter.command(Micros(150));
        assert_eq!(meter.published(Offset(6), Micros(170)), Some(40));
        let mut idle = PauseMeter::new(Offset(5), None);
        assert_eq!(idle.published(Offset(9), Micros(170)), Some(0));
    }
}
