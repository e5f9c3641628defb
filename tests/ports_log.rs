//! The embedded log: the port's contract, and what only it promises (repair, locking, a second process, `kill -9`).

mod common {
    pub mod log_contract;
}

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::log_contract::{Bench, PARTITIONS, SYMBOLS, all_from, keyed, orders, record, session, soon, texts};
use futures_util::future::BoxFuture;
use hotbook::domain::Offset;
use hotbook::ports::log::embedded::{EmbeddedLog, EmbeddedLogOptions};
use hotbook::ports::log::{Log, LogError, SessionOptions};
use proptest::prelude::*;

struct Embedded {
    folder: tempfile::TempDir,
    segment_bytes: u64,
    cache_bytes: usize,
    prepares_segments: bool,
    accepts_lost_tail: bool,
}

impl Embedded {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            segment_bytes: 4 << 20,
            cache_bytes: 1 << 20,
            prepares_segments: true,
            accepts_lost_tail: false,
        }
    }

    /// So small that everything crosses segments and nearly nothing is read from memory.
    fn tiny() -> Self {
        Self { segment_bytes: 1 << 12, cache_bytes: 1 << 10, ..Self::new() }
    }

    fn try_open(&self) -> Result<Arc<dyn Log>, LogError> {
        let options = EmbeddedLogOptions {
            segment_bytes: self.segment_bytes,
            cache_bytes: self.cache_bytes,
            prepares_segments: self.prepares_segments,
            accepts_lost_tail: self.accepts_lost_tail,
            ..EmbeddedLogOptions::new(self.folder.path(), PARTITIONS)
        };
        Ok(Arc::new(EmbeddedLog::open(&options)?))
    }

    fn segments(&self) -> Vec<PathBuf> {
        segments(self.folder.path())
    }

    /// The file that says how far the journal is durable.
    fn mark(&self) -> PathBuf {
        self.folder.path().join("log/durable")
    }
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data.join("log")).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "segment")).collect();
    files.sort();
    files
}

impl Bench for Embedded {
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Log>> {
        let log = self.try_open().expect("it opens");
        Box::pin(async move { log })
    }
}

mod in_memory_and_one_segment {
    use super::*;
    contract!(Embedded::new());
}

mod from_disk_and_many_segments {
    use super::*;
    contract!(Embedded::tiny());
}

#[tokio::test]
async fn a_second_writer_is_refused_and_another_partition_count_too() {
    let bench = Embedded::new();
    let log = bench.try_open().unwrap();
    assert!(matches!(bench.try_open(), Err(LogError::Locked { .. })));
    soon(log.close()).await.unwrap();
    let other = EmbeddedLogOptions::new(bench.folder.path(), PARTITIONS + 1);
    let refused = EmbeddedLog::open(&other).err().expect("refused").to_string();
    assert!(refused.contains("created with 4 partitions, opened with 5"), "{refused}");
    bench.try_open().expect("a closed log is free, its object may still live");
}

#[tokio::test]
async fn dropping_without_closing_keeps_what_was_taken() {
    let bench = Embedded::new();
    let log = bench.try_open().unwrap();
    let receipts: Vec<_> = (0..500).map(|i| session(&log).append(record(orders(0), format!("{i}")))).collect();
    drop(log);
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    assert_eq!(all_from(&bench.try_open().unwrap(), orders(0), 0).await.len(), 500);
}

/// Where the bytes of a segment end that are not zero.
fn end_of(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1)
}

/// Five records, each a group of its own; the end of the journal after each, and the durable mark after the fourth.
async fn five_groups(bench: &Embedded) -> (Vec<usize>, Vec<u8>) {
    let log = bench.try_open().unwrap();
    let session = session(&log);
    let (mut ends, mut mark) = (Vec::new(), Vec::new());
    for i in 1..=5 {
        soon(session.append(record(orders(0), format!("value {i}")))).await.unwrap();
        ends.push(end_of(&std::fs::read(bench.segments().last().unwrap()).unwrap()));
        if i == 4 {
            mark = std::fs::read(bench.mark()).unwrap();
        }
    }
    soon(log.close()).await.unwrap();
    (ends, mark)
}

/// [`five_groups`] in one segment, which stays the only one.
async fn settled() -> (Embedded, Vec<usize>, Vec<u8>) {
    let bench = Embedded { prepares_segments: false, ..Embedded::new() };
    let (ends, mark) = five_groups(&bench).await;
    assert_eq!(bench.segments().len(), 1);
    (bench, ends, mark)
}

#[tokio::test]
async fn a_torn_end_is_cut_at_every_length() {
    let (bench, ends, mark) = settled().await;
    let path = bench.segments().remove(0);
    let whole = std::fs::read(&path).unwrap();
    for length in ends[3]..ends[4] {
        for is_zeroed in [false, true] {
            let mut torn = whole[..length].to_vec();
            if is_zeroed {
                // A write into prepared space: what did not land is still zero.
                torn.resize(whole.len().max(ends[4]) + 512, 0);
            }
            std::fs::write(&path, torn).unwrap();
            // The machine went down before the last group was acknowledged.
            std::fs::write(bench.mark(), &mark).unwrap();
            let log = bench.try_open().unwrap_or_else(|e| panic!("cut at {length}: {e}"));
            let texts = texts(&all_from(&log, orders(0), 0).await);
            assert_eq!(texts, ["value 1", "value 2", "value 3", "value 4"], "cut at {length}");
            soon(log.close()).await.unwrap();
        }
    }
    // And it is written on as if nothing had been.
    let log = bench.try_open().unwrap();
    soon(session(&log).append(record(orders(0), "again"))).await.unwrap();
    soon(log.close()).await.unwrap();
    assert_eq!(texts(&all_from(&bench.try_open().unwrap(), orders(0), 4).await), ["again"]);
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_group_is_torn_and_before_it_is_damage() {
    let (bench, ends, mark) = settled().await;
    let path = bench.segments().remove(0);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..ends[4] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(bench.mark(), &mark).unwrap();
        match bench.try_open() {
            Ok(log) => {
                assert!(at >= ends[3], "a flip at {at} went unnoticed");
                assert_eq!(all_from(&log, orders(0), 0).await.len(), 4);
                soon(log.close()).await.unwrap();
                std::fs::write(&path, &whole).unwrap();
            }
            Err(LogError::Damaged { .. }) => assert!(at < ends[3], "a flip at {at} is a torn end"),
            Err(e) => panic!("a flip at {at}: {e}"),
        }
    }
}

#[tokio::test]
async fn an_end_below_what_was_acknowledged_stops_the_start_until_the_operator_accepts_the_loss() {
    let (mut bench, ends, _) = settled().await;
    let path = bench.segments().remove(0);
    let (whole, mark) = (std::fs::read(&path).unwrap(), std::fs::read(bench.mark()).unwrap());
    let cleanly = whole[..ends[3]].to_vec();
    let torn = whole[..ends[4] - 3].to_vec();
    let mut zeroed = cleanly.clone();
    zeroed.resize(whole.len(), 0);
    for lost in [cleanly, torn, zeroed] {
        std::fs::write(&path, &lost).unwrap();
        std::fs::write(bench.mark(), &mark).unwrap();
        let said = bench.try_open().err().expect("acknowledged records are gone").to_string();
        for part in [&path.display().to_string(), &format!("byte {}", ends[3]), "--accept-lost-tail"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), lost, "nothing is cut before the operator has looked");
        bench.accepts_lost_tail = true;
        let log = bench.try_open().expect("the operator has said so");
        assert_eq!(all_from(&log, orders(0), 0).await.len(), 4);
        soon(log.close()).await.unwrap();
        bench.accepts_lost_tail = false;
        soon(bench.try_open().expect("it was said once").close()).await.unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(bench.mark(), &mark).unwrap();
    assert!(matches!(bench.try_open().err(), Some(LogError::Damaged { .. })), "the whole segment is gone");
}

#[tokio::test]
async fn damage_in_an_earlier_segment_stops_the_start() {
    let bench = Embedded::tiny();
    let log = bench.try_open().unwrap();
    let session = session(&log);
    for i in 0..100 {
        soon(session.append(record(orders(i % 2), vec![b'v'; 200]))).await.unwrap();
    }
    soon(log.close()).await.unwrap();
    drop(log);
    let paths = bench.segments();
    assert!(paths.len() > 3, "{} segments", paths.len());
    for path in &paths[..paths.len() - 1] {
        let whole = std::fs::read(path).unwrap();
        let end = end_of(&whole);
        for at in [0, 9, 20, 45, 60, end / 2, end - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(path, bytes).unwrap();
            let opened = bench.try_open().err();
            assert!(matches!(opened, Some(LogError::Damaged { .. })), "{path:?} at {at}: {opened:?}");
        }
        std::fs::write(path, &whole[..end - 300]).unwrap();
        let opened = bench.try_open().err();
        assert!(matches!(opened, Some(LogError::Damaged { .. })), "{path:?} cut: {opened:?}");
        std::fs::remove_file(path).unwrap();
        let opened = bench.try_open().err();
        assert!(matches!(opened, Some(LogError::Damaged { .. })), "{path:?} removed: {opened:?}");
        std::fs::write(path, whole).unwrap();
    }
    bench.try_open().expect("all is mended");
}

#[tokio::test]
async fn trimming_gives_space_back_though_the_catalogue_lies_in_old_segments() {
    let bench = Embedded::tiny();
    let log = bench.try_open().unwrap();
    let first = session(&log);
    soon(first.append(keyed(SYMBOLS, "OLD", "gone"))).await.unwrap();
    soon(first.append(keyed(SYMBOLS, "OLD", ""))).await.unwrap();
    soon(first.append(keyed(SYMBOLS, "TSLA", "listed"))).await.unwrap();
    for i in 0..200 {
        soon(first.append(record(orders(i % PARTITIONS), vec![b'v'; 200]))).await.unwrap();
    }
    soon(first.append(keyed(SYMBOLS, "AAPL", "listed too"))).await.unwrap();
    let before = bench.segments().len();
    for p in 0..PARTITIONS {
        soon(log.trim(orders(p), Offset(50))).await.unwrap();
    }
    assert!(before > 8 && bench.segments().len() <= 2, "{before} segments, then {}", bench.segments().len());
    for _ in 0..2 {
        let log = {
            soon(log.close()).await.unwrap();
            bench.try_open().unwrap()
        };
        assert_eq!(texts(&all_from(&log, SYMBOLS, 0).await), ["listed", "listed too"]);
        assert_eq!(soon(log.end_offset(SYMBOLS)).await.unwrap(), Offset(4));
        assert_eq!(soon(log.end_offset(orders(0))).await.unwrap(), Offset(50));
        soon(log.close()).await.unwrap();
    }
    let log = bench.try_open().unwrap();
    soon(session(&log).append(record(orders(0), "on"))).await.unwrap();
    assert_eq!(texts(&all_from(&log, orders(0), 50).await), ["on"]);
}

#[tokio::test]
async fn a_reader_follows_beside_the_writer() {
    let bench = Embedded::tiny();
    assert!(EmbeddedLog::open_read_only(bench.folder.path()).is_err(), "there is nothing to read");
    let log = bench.try_open().unwrap();
    let writer = session(&log);
    soon(writer.append(record(orders(0), "0"))).await.unwrap();
    let reader: Arc<dyn Log> = Arc::new(EmbeddedLog::open_read_only(bench.folder.path()).unwrap());
    assert_eq!(texts(&all_from(&reader, orders(0), 0).await), ["0"]);
    let options = SessionOptions { name: String::new(), queue_bytes_max: 1 };
    assert!(matches!(reader.open_session(options), Err(LogError::ReadOnly)));
    assert!(matches!(soon(reader.trim(orders(0), Offset(1))).await, Err(LogError::ReadOnly)));
    for i in 1..100 {
        soon(writer.append(record(orders(0), format!("{i}")))).await.unwrap();
        soon(writer.append(keyed(SYMBOLS, "K", format!("{i}")))).await.unwrap();
        let read = soon(reader.read(orders(0), Offset(i), 10)).await.unwrap();
        assert_eq!(texts(&read), [i.to_string()], "what is acknowledged is seen at once");
    }
    // The writer trims away what the reader has not read yet.
    soon(writer.append_all((0..200).map(|_| record(orders(1), vec![0; 100])).collect())).await.unwrap();
    soon(log.trim(orders(0), Offset(100))).await.unwrap();
    soon(log.trim(orders(1), Offset(200))).await.unwrap();
    soon(writer.append(record(orders(1), "last"))).await.unwrap();
    assert_eq!(soon(reader.end_offset(orders(1))).await.unwrap(), Offset(201));
    assert_eq!(soon(reader.start_offset(orders(1))).await.unwrap(), Offset(200));
    assert_eq!(texts(&soon(reader.read(orders(1), Offset(200), 5)).await.unwrap()), ["last"]);
    let below = soon(reader.read(orders(0), Offset(3), 5)).await;
    assert!(matches!(below, Err(LogError::Trimmed { .. })), "{below:?}");
    assert_eq!(texts(&all_from(&reader, SYMBOLS, 0).await), ["99"]);
    // Without a writer, and beside the next one.
    soon(log.close()).await.unwrap();
    let reader: Arc<dyn Log> = Arc::new(EmbeddedLog::open_read_only(bench.folder.path()).unwrap());
    assert_eq!(texts(&all_from(&reader, orders(1), 200).await), ["last"]);
    let log = bench.try_open().unwrap();
    soon(session(&log).append(record(orders(1), "next"))).await.unwrap();
    assert_eq!(texts(&soon(reader.read(orders(1), Offset(201), 5)).await.unwrap()), ["next"]);
}

#[derive(Debug, Clone)]
enum Step {
    Append { partition: u32, count: usize, bytes: usize },
    Trim { partition: u32, share: f64 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (0..PARTITIONS, 1..30usize, 0..600usize).prop_map(|(partition, count, bytes)| Step::Append {
        partition,
        count,
        bytes,
    });
    let trim = (0..PARTITIONS, 0.0..1.0).prop_map(|(partition, share)| Step::Trim { partition, share });
    proptest::collection::vec(prop_oneof![6 => append, 2 => trim, 1 => Just(Step::Reopen)], 1..40)
}

/// What a partition should hold: its start, and all values ever appended.
#[derive(Default, Clone)]
struct Model {
    start: usize,
    values: Vec<Vec<u8>>,
}

async fn run(steps: Vec<Step>) {
    let bench = Embedded::tiny();
    let mut log = bench.try_open().unwrap();
    let mut model = vec![Model::default(); PARTITIONS as usize];
    for step in steps {
        match step {
            Step::Append { partition, count, bytes } => {
                let m = &mut model[partition as usize];
                let values: Vec<_> = (0..count).map(|i| vec![(m.values.len() + i) as u8; bytes]).collect();
                let records = values.iter().map(|v| record(orders(partition), v.clone())).collect();
                soon(session(&log).append_all(records)).await.unwrap();
                m.values.extend(values);
            }
            Step::Trim { partition, share } => {
                let m = &mut model[partition as usize];
                m.start += ((m.values.len() - m.start) as f64 * share) as usize;
                soon(log.trim(orders(partition), Offset(m.start as u64))).await.unwrap();
            }
            Step::Reopen => {
                soon(log.close()).await.unwrap();
                log = bench.try_open().unwrap();
            }
        }
        for (p, m) in model.iter().enumerate() {
            let of = orders(p as u32);
            assert_eq!(soon(log.start_offset(of)).await.unwrap().0, m.start as u64);
            assert_eq!(soon(log.end_offset(of)).await.unwrap().0, m.values.len() as u64);
            let records = all_from(&log, of, m.start as u64).await;
            assert!(records.iter().map(|r| &r.value[..]).eq(m.values[m.start..].iter().map(|v| &v[..])));
            assert!(records.iter().enumerate().all(|(i, r)| r.offset.0 == (m.start + i) as u64));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn it_behaves_as_a_vector_that_survives_reopening(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}

/// Set in the child: the folder to write to until it is killed.
const CHILD: &str = "HOTBOOK_TEST_LOG_CHILD";

/// Does nothing unless [`kill_minus_9_loses_nothing_acknowledged`] starts this binary again.
#[test]
fn child_that_is_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = EmbeddedLogOptions { segment_bytes: 1 << 16, ..EmbeddedLogOptions::new(&folder, PARTITIONS) };
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(&options).unwrap());
        let session = session(&log);
        let from = soon(log.end_offset(orders(0))).await.unwrap().0;
        let mut waiting = std::collections::VecDeque::new();
        for i in from.. {
            waiting.push_back(session.append(record(orders(0), i.to_string())));
            if waiting.len() > 32 {
                let ack = waiting.pop_front().unwrap().await.unwrap();
                println!("acked {}", ack.offset.unwrap().0);
            }
        }
    });
}

#[tokio::test]
async fn kill_minus_9_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let options = EmbeddedLogOptions { segment_bytes: 1 << 16, ..EmbeddedLogOptions::new(folder.path(), PARTITIONS) };
    for round in 0..10u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked = None;
        let mut seen = 0;
        // After a different number of acknowledgements each time; what is still in the pipe counts, too.
        while let Some(Ok(line)) = lines.next() {
            if let Some(offset) = line.strip_prefix("acked ") {
                acked = Some(offset.parse::<u64>().unwrap());
                seen += 1;
                if seen == 100 + 37 * round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let acked = acked.expect("the child wrote");
        assert!(seen >= 100 + 37 * round, "the child ended by itself after {seen}");
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(&options).unwrap());
        let values = texts(&all_from(&log, orders(0), 0).await);
        assert!(values.len() as u64 > acked, "round {round}: {acked} was acknowledged, {} are there", values.len());
        let expected: Vec<_> = (0..values.len()).map(|i| i.to_string()).collect();
        assert!(values == expected, "round {round}: exactly once and in order");
        soon(log.close()).await.unwrap();
    }
}

#[tokio::test]
async fn bare_append_latency_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let took = hotbook::ports::log::embedded::measure::bare_append_latency(folder.path(), 200, 200).await.unwrap();
    assert!(!took.p50.is_zero() && took.p50 <= took.p99 && took.p99 <= took.max, "{took:?}");
}

/// Set in the child: the folder to write to until a file may grow no more.
const FULL_CHILD: &str = "HOTBOOK_TEST_LOG_FULL_CHILD";

/// Does nothing unless [`a_disk_that_fails_ends_all_sessions_and_loses_nothing_acknowledged`] starts this binary again.
#[test]
fn child_whose_disk_fails() {
    let Ok(folder) = std::env::var(FULL_CHILD) else { return };
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: plain calls with a valid struct; without the handler the kernel would kill us instead of failing the write.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = EmbeddedLogOptions { prepares_segments: false, ..EmbeddedLogOptions::new(&folder, PARTITIONS) };
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(&options).unwrap());
        let (one, other) = (session(&log), session(&log));
        let mut acked = 0;
        let error = loop {
            let mut value = format!("{acked} ").into_bytes();
            value.resize(1_000, b'.');
            match soon(one.append(record(orders(0), value))).await {
                Ok(_) => acked += 1,
                Err(e) => break e,
            }
        };
        assert!(matches!(error, LogError::Io { .. }), "{error:?}");
        let later = soon(other.append(record(orders(1), "small"))).await;
        assert!(matches!(later, Err(LogError::SessionEnded { .. })), "every session ended: {later:?}");
        assert!(log.open_session(SessionOptions { name: String::new(), queue_bytes_max: 1 }).is_err());
        assert_eq!(all_from(&log, orders(0), 0).await.len(), acked, "what is not durable is not shown");
        assert!(soon(log.read(orders(0), Offset(acked as u64), 1)).await.is_err(), "nobody waits for ever");
        assert!(soon(log.close()).await.is_err(), "it did not end well");
        // The harness has begun a line of its own.
        println!("\nacked {acked}");
    });
}

#[tokio::test]
async fn a_disk_that_fails_ends_all_sessions_and_loses_nothing_acknowledged() {
    let bench = Embedded::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_whose_disk_fails", "--nocapture", "--test-threads=1"])
        .env(FULL_CHILD, bench.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    let acked: usize = said.lines().find_map(|l| l.strip_prefix("acked ")?.parse().ok()).expect("a number");
    assert!(acked > 500, "{acked}");
    let log = bench.try_open().expect("the half written record is a torn end");
    let values = texts(&all_from(&log, orders(0), 0).await);
    assert!(values.iter().enumerate().all(|(i, v)| v.starts_with(&format!("{i} "))));
    assert_eq!(values.len(), acked);
}
