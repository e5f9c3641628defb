//! How long a move paused its book, from the times that the log stamped: no clock of this process is in it.

use std::time::Duration;

use crate::domain::{Micros, Offset, Output, Symbol};
use crate::migration::pause::PauseMeter;
use crate::ports::log::{Log, LogError, Record, Topic, TopicPartition};
use crate::wire;

const READ_RECORDS_MAX: usize = 1_024;
/// The stretch before a move whose largest gap is what a client is used to.
const BASELINE_US: u64 = 1_000_000;
/// Outputs that do not come in this time are not waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Times in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pause {
    /// See [`PauseMeter`]; `None` if no output behind the fence was seen in time though a command lies there.
    pub pause_us: Option<u64>,
    /// Largest gap between two publications in the second before the move began; `None` if it was not read.
    pub baseline_gap_us: Option<u64>,
}

/// Measures a move that began at `begun` and was fenced at offset `fence` of the book's partition.
///
/// # Errors
/// [`LogError`].
pub async fn measure(
    log: &dyn Log,
    symbol: Symbol,
    partition: u32,
    fence: Offset,
    begun: Micros,
) -> Result<Pause, LogError> {
    let events = TopicPartition { topic: Topic::Events, partition };
    let orders = TopicPartition { topic: Topic::Orders, partition };
    let from = first_at(log, events, Micros(begun.0.saturating_sub(BASELINE_US))).await?;
    let first_command = first_behind(log, orders, symbol, fence).await?;
    let mut meter = PauseMeter::new(fence, None);
    first_command.into_iter().for_each(|at| meter.command(at));
    let (mut next, mut gap, mut previous) = (from, 0, None::<Micros>);
    loop {
        let end = log.end_offset(events).await?;
        if next >= end && first_command.is_none() {
            return Ok(Pause { pause_us: Some(0), baseline_gap_us: Some(gap) });
        }
        let Ok(read) = tokio::time::timeout(WAIT, log.read(events, next, READ_RECORDS_MAX)).await else {
            return Ok(Pause { pause_us: None, baseline_gap_us: Some(gap) });
        };
        for record in read? {
            next = record.offset.next();
            let Some(highest) = highest_input(&record, symbol) else { continue };
            if record.at < begun {
                gap = gap.max(previous.map_or(0, |p| record.at.0.saturating_sub(p.0)));
                previous = Some(record.at);
            }
            if let Some(pause_us) = meter.published(highest, record.at) {
                return Ok(Pause { pause_us: Some(pause_us), baseline_gap_us: Some(gap) });
            }
        }
    }
}

/// The highest input offset that a record's outputs answer, if they are this symbol's.
fn highest_input(record: &Record, symbol: Symbol) -> Option<Offset> {
    if record.key != symbol.as_bytes() {
        return None;
    }
    let events = wire::events::decode(&record.value).ok()?;
    Output::decode_all(&events.outputs).filter_map(Result::ok).map(|o| o.offset).max()
}

/// When the first command of the symbol behind the fence was appended, if there is one by now.
async fn first_behind(
    log: &dyn Log,
    of: TopicPartition,
    symbol: Symbol,
    fence: Offset,
) -> Result<Option<Micros>, LogError> {
    let (mut next, end) = (fence.next(), log.end_offset(of).await?);
    while next < end {
        for record in log.read(of, next, READ_RECORDS_MAX).await? {
            next = record.offset.next();
            if record.key == symbol.as_bytes() {
                return Ok(Some(record.at));
            }
        }
    }
    Ok(None)
}

/// The first record that was appended at or after a time: append times never fall within a partition.
async fn first_at(log: &dyn Log, of: TopicPartition, at: Micros) -> Result<Offset, LogError> {
    let (mut low, mut high) = (log.start_offset(of).await?, log.end_offset(of).await?);
    while low < high {
        let middle = Offset(low.0 + (high.0 - low.0) / 2);
        match log.read(of, middle, 1).await?.first() {
            Some(record) if record.at < at => low = record.offset.next(),
            _ => high = middle,
        }
    }
    Ok(low)
}
