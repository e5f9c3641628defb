//! Topics and partitions by number: what the brokers call them, and what is known of each.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ports::log::{LogError, Topic, TopicPartition};

/// All partitions of all topics.
#[derive(Debug)]
pub struct Places {
    /// By `Topic as usize`.
    names: Vec<String>,
    /// Partitions of `orders` and `events`.
    pub partitions: u32,
    places: Vec<Place>,
}

/// One partition of one topic.
#[derive(Debug)]
pub struct Place {
    pub of: TopicPartition,
    /// Where the log is known to begin; it never goes back.
    start: AtomicU64,
    /// One past the newest record that a reader or a producer of this process has met.
    seen: AtomicU64,
}

impl Places {
    pub fn new(names: Vec<String>, partitions: u32) -> Self {
        let places = Topic::ALL
            .into_iter()
            .flat_map(|topic| {
                (0..partitions_of(topic, partitions)).map(move |p| TopicPartition { topic, partition: p })
            })
            .map(|of| Place { of, start: AtomicU64::new(0), seen: AtomicU64::new(0) })
            .collect();
        Self { names, partitions, places }
    }

    pub fn name(&self, topic: Topic) -> &str {
        &self.names[topic as usize]
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// # Errors
    /// [`LogError::NoPartition`].
    pub fn index_of(&self, of: TopicPartition) -> Result<usize, LogError> {
        let TopicPartition { topic, partition } = of;
        if partition >= partitions_of(topic, self.partitions) {
            return Err(LogError::NoPartition { topic: topic.name(), partition });
        }
        let before: u32 =
            Topic::ALL.into_iter().take_while(|t| *t != topic).map(|t| partitions_of(t, self.partitions)).sum();
        Ok((before + partition) as usize)
    }

    pub fn at(&self, index: usize) -> &Place {
        &self.places[index]
    }
}

/// How many partitions a topic has when `orders` has `partitions`.
pub fn partitions_of(topic: Topic, partitions: u32) -> u32 {
    if topic.is_partitioned() { partitions } else { 1 }
}

impl Place {
    pub fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    pub fn starts_at(&self, offset: u64) {
        self.start.fetch_max(offset, Ordering::AcqRel);
    }

    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Notes that the record before `end` was met.
    pub fn met(&self, end: u64) {
        self.seen.fetch_max(end, Ordering::AcqRel);
    }

    /// The newest record of each key is kept, whatever is trimmed.
    pub fn is_compacted(&self) -> bool {
        self.of.topic == Topic::Symbols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_place_of_its_own() {
        let places = Places::new(Topic::ALL.iter().map(|t| format!("x-{}", t.name())).collect(), 3);
        let mut met = vec![false; places.len()];
        for topic in Topic::ALL {
            for partition in 0..partitions_of(topic, 3) {
                let of = TopicPartition { topic, partition };
                let index = places.index_of(of).unwrap();
                assert_eq!(places.at(index).of, of);
                assert!(!std::mem::replace(&mut met[index], true));
            }
            let beyond = TopicPartition { topic, partition: partitions_of(topic, 3) };
            assert!(matches!(places.index_of(beyond), Err(LogError::NoPartition { .. })));
            assert_eq!(places.name(topic), format!("x-{}", topic.name()));
        }
        assert!(met.into_iter().all(|m| m));
    }
}
