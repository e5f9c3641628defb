//! What a node and its books cost, in CPU time: written by the node's threads, read once per window.
//!
//! A book's busy time is all that is spent for it on its node: decode, apply, encode, publish, snapshot. A node's load
//! is the CPU time of its own threads, and of what others do for it, over its budget. In one process the host's CPU
//! says nothing of a node, and matching alone says too little.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use super::directory::BookStatus;
use crate::clock::ThreadClock;
use crate::domain::Symbol;

/// What the threads of a node write.
#[derive(Debug)]
pub struct Spent {
    book_threads: RwLock<Vec<ThreadClock>>,
    feed_thread: RwLock<Option<ThreadClock>>,
    decoded_ns: AtomicU64,
    elsewhere_ns: AtomicU64,
    /// Records read, per partition.
    read: Vec<AtomicU64>,
}

impl Spent {
    pub fn new(partitions: u32) -> Self {
        let read = (0..partitions).map(|_| AtomicU64::new(0)).collect();
        let (decoded_ns, elsewhere_ns) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { book_threads: RwLock::default(), feed_thread: RwLock::default(), decoded_ns, elsewhere_ns, read }
    }

    /// Counts a thread of its books; `None`, where threads have no clock, counts as nothing.
    pub fn count_book_thread(&self, clock: Option<ThreadClock>) {
        self.book_threads.write().extend(clock);
    }

    pub fn count_feed_thread(&self, clock: Option<ThreadClock>) {
        *self.feed_thread.write() = clock;
    }

    /// CPU time of the feed's thread that is a book's.
    pub fn decoded(&self, ns: u64) {
        self.decoded_ns.fetch_add(ns, Ordering::AcqRel);
    }

    /// CPU time for this node on a thread that is not its own.
    pub fn elsewhere(&self, ns: u64) {
        self.elsewhere_ns.fetch_add(ns, Ordering::AcqRel);
    }

    pub fn read(&self, partition: u32, records: u64) {
        if let Some(read) = self.read.get(partition as usize) {
            read.fetch_add(records, Ordering::AcqRel);
        }
    }

    fn totals(&self) -> Totals {
        let cpu = |clock: ThreadClock| clock.cpu_ns().unwrap_or(0);
        Totals {
            books_ns: self.book_threads.read().iter().map(|c| cpu(*c)).sum(),
            feed_ns: self.feed_thread.read().map_or(0, cpu),
            decoded_ns: self.decoded_ns.load(Ordering::Acquire),
            elsewhere_ns: self.elsewhere_ns.load(Ordering::Acquire),
            read: self.read.iter().map(|r| r.load(Ordering::Acquire)).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Totals {
    books_ns: u64,
    feed_ns: u64,
    decoded_ns: u64,
    elsewhere_ns: u64,
    read: Vec<u64>,
}

/// What one window cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Cores' worth of CPU time of the node.
    pub busy: f64,
    /// Of it, per partition: fetching, and skipping what is not the node's. Only those that cost something.
    pub fetch: Vec<(u32, f64)>,
}

/// Reads what was spent, window by window.
#[derive(Debug)]
pub struct LoadMeter {
    measured_at: Instant,
    totals: Totals,
    books: HashMap<Symbol, (u64, u64)>,
}

impl LoadMeter {
    /// The first window begins now.
    pub fn new(spent: &Spent) -> Self {
        Self { measured_at: Instant::now(), totals: spent.totals(), books: HashMap::new() }
    }

    /// Ends a window: tells each book what it cost, and the caller what the node did.
    pub fn measure(&mut self, spent: &Spent, books: &[Arc<BookStatus>]) -> Window {
        let elapsed = self.measured_at.elapsed();
        self.measured_at = Instant::now();
        let cores = |ns: u64| ns as f64 / elapsed.as_nanos().max(1) as f64;
        let mut known = HashMap::with_capacity(books.len());
        for book in books {
            let now = (book.applied(), book.busy_ns());
            // What it did before it was met first is not this window's.
            let before = self.books.get(&book.symbol).copied().unwrap_or(now);
            let (records, busy_ns) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
            book.set_load(records as f64 / elapsed.as_secs_f64(), cores(busy_ns));
            known.insert(book.symbol, now);
        }
        self.books = known;
        let now = spent.totals();
        let window = self.window(&now, cores);
        self.totals = now;
        window
    }

    fn window(&self, now: &Totals, cores: impl Fn(u64) -> f64) -> Window {
        let was = &self.totals;
        // A thread that ended takes its clock with it: such a window counts as nothing, not as a negative.
        let books_ns = now.books_ns.saturating_sub(was.books_ns);
        let feed_ns = now.feed_ns.saturating_sub(was.feed_ns);
        let elsewhere_ns = now.elsewhere_ns.saturating_sub(was.elsewhere_ns);
        let shared = cores(feed_ns.saturating_sub(now.decoded_ns.saturating_sub(was.decoded_ns)));
        let read: Vec<u64> = now.read.iter().zip(&was.read).map(|(now, was)| now.saturating_sub(*was)).collect();
        let all = read.iter().sum::<u64>().max(1) as f64;
        let share = |(partition, records): (u32, &u64)| (partition, shared * *records as f64 / all);
        let fetch = (0..).zip(&read).filter(|(_, records)| **records > 0).map(share).collect();
        Window { busy: cores(books_ns + feed_ns + elsewhere_ns), fetch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::thread_cpu_ns;
    use crate::domain::{Digest, Epoch, NodeId, Offset, Seq};

    fn burn(ns: u64) {
        let started = thread_cpu_ns();
        while thread_cpu_ns() - started < ns {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_window_counts_what_was_spent_in_it() {
        let spent = Spent::new(4);
        // This thread stands for the feed's.
        spent.count_feed_thread(ThreadClock::of_this_thread());
        let directory = super::super::directory::Directory::default();
        let book = directory.enter(Symbol::new("A").unwrap(), 2, NodeId::new("n1").unwrap());
        let d = Digest(1);
        let report = super::super::directory::Report {
            offset: Offset(1),
            seq: Seq(1),
            epoch: Epoch(0),
            orders: 0,
            state_digest: d,
            book_digest: d,
        };
        book.report(&report, 1_000, 50_000_000);
        let books = [Arc::clone(&book)];
        let mut meter = LoadMeter::new(&spent);
        meter.measure(&spent, &books);
        assert_eq!((book.rate(), book.busy()), (0.0, 0.0), "the past is no load");

        let started = Instant::now();
        burn(20_000_000);
        spent.decoded(10_000_000);
        spent.elsewhere(30_000_000);
        spent.read(1, 300);
        spent.read(2, 100);
        book.report(&report, 100, 10_000_000);
        book.waited(77);
        book.waited(5);
        let window = meter.measure(&spent, &books);
        let wall_ns = started.elapsed().as_nanos() as f64;
        assert!(window.busy * wall_ns >= 49_000_000.0 && window.busy * wall_ns <= 60_000_000.0, "{window:?}");
        let partitions: Vec<u32> = window.fetch.iter().map(|f| f.0).collect();
        assert_eq!(partitions, [1, 2]);
        assert!((window.fetch[0].1 / window.fetch[1].1 - 3.0).abs() < 1e-6, "{window:?}");
        assert!(window.fetch[0].1 + window.fetch[1].1 < window.busy / 2.0, "decoding is the book's: {window:?}");
        let busy_ns = book.busy() * wall_ns;
        assert!((9_000_000.0..=11_000_000.0).contains(&busy_ns), "{busy_ns}");
        assert_eq!(book.waiting_us(), 77);
        meter.measure(&spent, &books);
        assert_eq!((book.rate(), book.waiting_us()), (0.0, 0));
    }
}
