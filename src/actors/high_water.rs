//! How far `events` got for each symbol, read once per partition for all books of a node that ask.
//!
//! When a node dies with a thousand books, sixteen of them share a partition: each that is restored, and each that takes
//! over, has to know how far `events` got. What was read for one is kept for the next.

use std::collections::HashMap;

use tokio::sync::Mutex;

use super::recovery;
use crate::domain::{Offset, Seq, Symbol};
use crate::ports::log::{Log, LogError};

/// What was read of one partition: the highest seq of each symbol in `from..next`.
#[derive(Debug, Default)]
struct Scanned {
    from: Offset,
    next: Offset,
    highest: HashMap<Symbol, Seq>,
}

/// What was read of all partitions; 24 bytes a symbol.
#[derive(Debug)]
pub struct HighWaters {
    partitions: Vec<Mutex<Scanned>>,
}

impl HighWaters {
    pub fn new(partitions: u32) -> Self {
        Self { partitions: (0..partitions).map(|_| Mutex::default()).collect() }
    }

    /// The highest seq of a symbol in `events`, read from `from` (or from before it) to the end as it is now; `Seq(0)`
    /// if there is none. Everything up to it is durable (handover facts A and B).
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn read(&self, log: &dyn Log, partition: u32, symbol: Symbol, from: Offset) -> Result<Seq, LogError> {
        let Some(scanned) = self.partitions.get(partition as usize) else {
            return Err(LogError::NoPartition { topic: "events", partition });
        };
        let mut scanned = scanned.lock().await;
        if from > scanned.next {
            // What lies in between is of no interest to anyone who asks now.
            *scanned = Scanned { from, next: from, highest: HashMap::new() };
        }
        if from < scanned.from {
            let until = scanned.from;
            recovery::scan_events(log, partition, from, Some(until), &mut scanned.highest).await?;
            scanned.from = from;
        }
        let next = scanned.next;
        scanned.next = recovery::scan_events(log, partition, next, None, &mut scanned.highest).await?;
        Ok(scanned.highest.get(&symbol).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::{Epoch, Micros, Origin, Outbox, OutputBody, Seqs};
    use crate::ports::log::embedded::EmbeddedLog;
    use crate::ports::log::{NewRecord, Session, SessionOptions, Topic, TopicPartition};
    use crate::wire;

    const EVENTS: TopicPartition = TopicPartition { topic: Topic::Events, partition: 0 };

    async fn say(session: &dyn Session, symbol: Symbol, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            let mut out = Outbox::new(Seqs { last: Seq(seq - 1), ..Seqs::default() }, Epoch(0));
            out.begin(Offset(seq), Micros(seq), Origin::NONE);
            out.emit(&OutputBody::Halted, true);
            out.end();
            let value = wire::events::encode(&symbol, out.bytes()).unwrap().remove(0);
            let key = Bytes::copy_from_slice(symbol.as_bytes());
            session.append(NewRecord { to: EVENTS, key, header: Bytes::new(), value }).await.unwrap();
        }
    }

    #[tokio::test]
    async fn who_asks_later_or_for_more_hears_what_reading_it_all_gives() {
        let log = EmbeddedLog::ephemeral(1).unwrap();
        let session = log.open_session(SessionOptions { name: "t".into(), queue_bytes_max: 1 << 20 }).unwrap();
        let (a, b) = (Symbol::new("A").unwrap(), Symbol::new("B").unwrap());
        say(&*session, a, 1..=3).await;
        say(&*session, b, 1..=5).await;
        let waters = HighWaters::new(1);
        let read = async |symbol, from| waters.read(&log, 0, symbol, Offset(from)).await.unwrap();
        assert_eq!(read(b, 6).await, Seq(5));
        assert_eq!(read(a, 6).await, Seq(0), "behind its last");
        assert_eq!(read(a, 0).await, Seq(3), "what lies before is read now");
        say(&*session, a, 4..=4).await;
        assert_eq!(read(a, 2).await, Seq(4), "what came since, too");
        say(&*session, b, 6..=9).await;
        assert_eq!(read(b, 12).await, Seq(9), "far behind what was read");
        assert_eq!((read(a, 0).await, read(b, 0).await), (Seq(4), Seq(9)));
        assert!(matches!(waters.read(&log, 9, a, Offset(0)).await, Err(LogError::NoPartition { .. })));
    }
}
