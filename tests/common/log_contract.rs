//! What every adapter of the log port must do. An adapter's test file makes a [`Bench`] and calls [`contract!`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hotbook::domain::Offset;
use hotbook::ports::log::{
    Log, LogError, NewRecord, RECORD_BYTES_MAX, Record, Session, SessionOptions, Topic, TopicPartition,
};

pub const PARTITIONS: u32 = 4;
/// Whatever is awaited here takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// One log that can be closed and opened again.
pub trait Bench: Send {
    /// Opens it; its records stay from one opening to the next.
    fn open(&mut self) -> BoxFuture<'_, Arc<dyn Log>>;
}

pub fn orders(partition: u32) -> TopicPartition {
    TopicPartition { topic: Topic::Orders, partition }
}

pub const SYMBOLS: TopicPartition = TopicPartition { topic: Topic::Symbols, partition: 0 };

pub fn record(to: TopicPartition, value: impl Into<Vec<u8>>) -> NewRecord {
    keyed(to, "TSLA", value)
}

pub fn keyed(to: TopicPartition, key: &str, value: impl Into<Vec<u8>>) -> NewRecord {
    let key = Bytes::copy_from_slice(key.as_bytes());
    NewRecord { to, key, header: Bytes::from_static(b"0123456789abcdef"), value: value.into().into() }
}

pub fn session(log: &Arc<dyn Log>) -> Arc<dyn Session> {
    session_of(log, 64 << 20)
}

fn session_of(log: &Arc<dyn Log>, queue_bytes_max: usize) -> Arc<dyn Session> {
    log.open_session(SessionOptions { name: "test".to_owned(), queue_bytes_max }).expect("a session")
}

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

/// All records from `from` to the end as it is now.
pub async fn all_from(log: &Arc<dyn Log>, of: TopicPartition, from: u64) -> Vec<Record> {
    let end = soon(log.end_offset(of)).await.expect("an end").0;
    let (mut records, mut at) = (Vec::new(), from);
    while at < end {
        let batch = soon(log.read(of, Offset(at), 1_000)).await.expect("records");
        assert!(!batch.is_empty() && batch.len() <= 1_000, "a batch of {}", batch.len());
        at = batch.last().expect("one").offset.0 + 1;
        records.extend(batch);
    }
    records
}

pub fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8_lossy(&r.value).into_owned()).collect()
}

async fn acked(session: &Arc<dyn Session>, new: NewRecord) {
    soon(session.append(new)).await.expect("an ack");
}

pub async fn a_session_is_fifo_and_offsets_are_dense(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let session = session(&log);
    let mut receipts = Vec::new();
    for i in 0..1_000 {
        receipts.push(session.append(record(orders(i % PARTITIONS), format!("{i}"))));
    }
    for (i, receipt) in receipts.into_iter().enumerate() {
        let ack = soon(receipt).await.expect("an ack");
        // Not every adapter knows it, but none may lie.
        assert!(ack.offset.is_none_or(|o| o.0 == i as u64 / u64::from(PARTITIONS)), "record {i}: {ack:?}");
    }
    for p in 0..PARTITIONS {
        let records = all_from(&log, orders(p), 0).await;
        let expected: Vec<_> = (0..1_000).filter(|i| i % PARTITIONS == p).map(|i| i.to_string()).collect();
        assert_eq!(texts(&records), expected);
        assert!(records.iter().enumerate().all(|(i, r)| r.offset.0 == i as u64));
        assert!(records.windows(2).all(|w| w[0].at <= w[1].at), "time never falls");
        assert!(records.iter().all(|r| &r.key[..] == b"TSLA" && &r.header[..] == b"0123456789abcdef"));
    }
}

pub async fn what_was_acknowledged_is_there_after_reopening(bench: &mut dyn Bench) {
    let mut expected = Vec::new();
    let mut last_at = 0;
    for round in 0..3 {
        let log = bench.open().await;
        assert_eq!(texts(&all_from(&log, orders(1), 0).await), expected, "round {round}");
        let session = session(&log);
        for i in 0..50 {
            acked(&session, record(orders(1), format!("{round}-{i}"))).await;
            expected.push(format!("{round}-{i}"));
        }
        let records = all_from(&log, orders(1), 0).await;
        assert_eq!(texts(&records), expected);
        assert!(records.windows(2).all(|w| w[0].at <= w[1].at));
        assert!(records[0].at.0 > 0 && records.last().is_some_and(|r| r.at.0 >= last_at));
        last_at = records.last().map_or(0, |r| r.at.0);
        soon(log.close()).await.expect("closed");
    }
}

pub async fn a_read_waits_for_its_record_and_only_for_it(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let session = session(&log);
    acked(&session, record(orders(0), "first")).await;
    let mut waiting = log.read(orders(0), Offset(1), 10);
    let mut beyond = log.read(orders(0), Offset(2), 10);
    assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none(), "there is no such record yet");
    assert!(futures_util::FutureExt::now_or_never(&mut beyond).is_none());
    acked(&session, record(orders(1), "another partition")).await;
    acked(&session, record(orders(0), "second")).await;
    assert_eq!(texts(&soon(waiting).await.expect("the record")), ["second"]);
    assert!(futures_util::FutureExt::now_or_never(&mut beyond).is_none(), "it asked for the one after");
    drop(beyond);
    assert_eq!(texts(&soon(log.read(orders(0), Offset(0), 1)).await.expect("one")), ["first"]);
}

pub async fn many_waiting_readers_all_wake(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let readers: Vec<_> = (0..200)
        .map(|i| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.read(orders(i % PARTITIONS), Offset(0), 10).await })
        })
        .collect();
    let session = session(&log);
    for p in 0..PARTITIONS {
        acked(&session, record(orders(p), format!("{p}"))).await;
    }
    for (i, reader) in readers.into_iter().enumerate() {
        let records = soon(reader).await.expect("no panic").expect("records");
        assert_eq!(texts(&records), [(i as u32 % PARTITIONS).to_string()]);
    }
}

pub async fn sessions_interleave_but_keep_their_own_order(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let writers: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let session = session(&log);
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                for i in 0..500 {
                    receipts.push(session.append(keyed(orders(2), name, format!("{i}"))));
                    tokio::task::yield_now().await;
                }
                for receipt in receipts {
                    receipt.await.expect("an ack");
                }
            })
        })
        .collect();
    for writer in writers {
        soon(writer).await.expect("no panic");
    }
    let mut by_key = BTreeMap::<Bytes, Vec<String>>::new();
    for r in all_from(&log, orders(2), 0).await {
        by_key.entry(r.key.clone()).or_default().extend(texts(&[r]));
    }
    let expected: Vec<_> = (0..500).map(|i| i.to_string()).collect();
    assert_eq!(by_key.len(), 3);
    assert!(by_key.values().all(|v| *v == expected));
}

pub async fn append_all_lands_in_order_under_one_receipt(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let session = session(&log);
    let many = (0..300).map(|i| record(orders(i % 2), format!("{i}"))).collect();
    let ack = soon(session.append_all(many)).await.expect("an ack");
    assert!(ack.offset.is_none_or(|o| o.0 == 149));
    for p in 0..2 {
        let expected: Vec<_> = (0..300).filter(|i| i % 2 == p).map(|i| i.to_string()).collect();
        assert_eq!(texts(&all_from(&log, orders(p), 0).await), expected);
    }
    soon(session.append_all(Vec::new())).await.expect("nothing is durable at once");
    assert_eq!(soon(log.end_offset(orders(0))).await.expect("an end"), Offset(150));
}

pub async fn an_aborted_session_loses_only_an_unacknowledged_suffix(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let (dying, living) = (session(&log), session(&log));
    let mut receipts = Vec::new();
    let mut others = Vec::new();
    for i in 0..5_000 {
        receipts.push(dying.append(keyed(orders(0), "dying", format!("{i}"))));
        others.push(living.append(keyed(orders(0), "living", format!("{i}"))));
        if i == 3_000 {
            assert!(!dying.has_ended());
            dying.abort();
        }
    }
    assert!(dying.has_ended() && !living.has_ended());
    let mut acked = 0;
    let mut is_over = false;
    for receipt in receipts {
        match soon(receipt).await {
            Ok(_) => {
                assert!(!is_over, "an ack behind a lost record");
                acked += 1;
            }
            Err(LogError::SessionEnded { .. }) => is_over = true,
            Err(e) => panic!("unexpected: {e}"),
        }
    }
    for receipt in others {
        soon(receipt).await.expect("the other session lives on");
    }
    assert!(acked <= 3_001);
    let (dead, alive): (Vec<_>, Vec<_>) =
        all_from(&log, orders(0), 0).await.into_iter().partition(|r| &r.key[..] == b"dying");
    assert_eq!(alive.len(), 5_000);
    assert!(dead.len() >= acked, "{} landed, {acked} were acknowledged", dead.len());
    assert_eq!(texts(&dead), (0..dead.len()).map(|i| i.to_string()).collect::<Vec<_>>(), "a prefix");
    let later = soon(dying.append(record(orders(0), "late"))).await;
    assert!(matches!(later, Err(LogError::SessionEnded { .. })), "{later:?}");
}

pub async fn too_large_too_much_and_nowhere_are_refused(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let session = session_of(&log, 2 << 20);
    let refused = soon(session.append(record(orders(0), vec![0; RECORD_BYTES_MAX]))).await;
    assert!(matches!(refused, Err(LogError::TooLarge { .. })), "key and header count, too: {refused:?}");
    let nowhere = soon(session.append(record(orders(PARTITIONS), "x"))).await;
    assert!(matches!(nowhere, Err(LogError::NoPartition { .. })), "{nowhere:?}");
    let largest = RECORD_BYTES_MAX - 4 - 16;
    acked(&session, record(orders(0), vec![1; largest])).await;
    let receipts: Vec<_> = (0..200).map(|_| session.append(record(orders(0), vec![2; largest]))).collect();
    let (mut landed, mut full) = (1, 0);
    for receipt in receipts {
        match soon(receipt).await {
            Ok(_) => landed += 1,
            Err(LogError::Full) => full += 1,
            Err(e) => panic!("unexpected: {e}"),
        }
    }
    assert!(full > 0, "200 MiB were queued in 2 MiB");
    assert_eq!(soon(log.end_offset(orders(0))).await.expect("an end"), Offset(landed), "what was refused is not there");
    acked(&session, record(orders(0), "and it goes on")).await;
}

pub async fn trimming_moves_the_start_for_good(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let first = session(&log);
    for p in 0..2 {
        let many = (0..100).map(|i| record(orders(p), format!("{i}"))).collect();
        soon(first.append_all(many)).await.expect("an ack");
    }
    soon(log.trim(orders(0), Offset(40))).await.expect("trimmed");
    soon(log.trim(orders(0), Offset(30))).await.expect("below the start: nothing to do");
    soon(log.close()).await.expect("closed");
    drop((first, log));
    let log = bench.open().await;
    assert_eq!(soon(log.start_offset(orders(0))).await.expect("a start"), Offset(40));
    let below = soon(log.read(orders(0), Offset(39), 10)).await;
    assert!(
        matches!(below, Err(LogError::Trimmed { asked: Offset(39), start: Offset(40) })),
        "below the start: {below:?}"
    );
    assert_eq!(texts(&all_from(&log, orders(0), 40).await).len(), 60);
    assert_eq!(all_from(&log, orders(1), 0).await.len(), 100, "the other partition is whole");
    soon(log.trim(orders(0), Offset(100))).await.expect("trimmed to the end");
    assert_eq!(soon(log.start_offset(orders(0))).await.expect("a start"), Offset(100));
    acked(&session(&log), record(orders(0), "on")).await;
    assert_eq!(soon(log.read(orders(0), Offset(100), 1)).await.expect("it")[0].offset, Offset(100));
}

pub async fn a_compacted_topic_keeps_the_newest_of_each_key(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let first = session(&log);
    for i in 0..30 {
        acked(&first, keyed(SYMBOLS, &format!("K{}", i % 3), format!("{i}"))).await;
    }
    acked(&first, keyed(SYMBOLS, "K1", "")).await;
    soon(log.trim(SYMBOLS, Offset(31))).await.expect("a trim of a compacted topic loses no key");
    soon(log.close()).await.expect("closed");
    drop((first, log));
    let log = bench.open().await;
    let mut newest = BTreeMap::new();
    for r in all_from(&log, SYMBOLS, 0).await {
        newest.insert(r.key.clone(), (r.offset.0, texts(&[r]).remove(0)));
    }
    newest.retain(|_, (_, value)| !value.is_empty());
    let expected = [("K0", (27, "27")), ("K2", (29, "29"))];
    let expected = expected.map(|(k, (o, v))| (Bytes::from(k), (o, v.to_owned()))).into_iter().collect();
    assert_eq!(newest, expected);
    acked(&session(&log), keyed(SYMBOLS, "K3", "new")).await;
    assert_eq!(soon(log.end_offset(SYMBOLS)).await.expect("an end"), Offset(32), "offsets go on");
}

pub async fn a_closed_log_takes_nothing_and_lets_nobody_wait(bench: &mut dyn Bench) {
    let log = bench.open().await;
    let session = session(&log);
    let taken: Vec<_> = (0..100).map(|i| session.append(record(orders(3), format!("{i}")))).collect();
    let reader = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.read(orders(0), Offset(0), 1).await })
    };
    soon(log.close()).await.expect("closed");
    for receipt in taken {
        soon(receipt).await.expect("what was taken is durable");
    }
    assert!(matches!(soon(reader).await.expect("no panic"), Err(LogError::Closed)));
    assert!(soon(session.append(record(orders(3), "late"))).await.is_err());
    assert!(log.open_session(SessionOptions { name: String::new(), queue_bytes_max: 1 }).is_err());
    soon(log.close()).await.expect("closing twice is no error");
}

/// Makes one test per rule for the adapter whose bench `$bench` makes.
#[macro_export]
macro_rules! contract {
    ($bench:expr; $($rule:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            common::log_contract::$rule(&mut $bench).await;
        })*
    };
    ($bench:expr) => {
        contract!($bench;
            a_session_is_fifo_and_offsets_are_dense,
            what_was_acknowledged_is_there_after_reopening,
            a_read_waits_for_its_record_and_only_for_it,
            many_waiting_readers_all_wake,
            sessions_interleave_but_keep_their_own_order,
            append_all_lands_in_order_under_one_receipt,
            an_aborted_session_loses_only_an_unacknowledged_suffix,
            too_large_too_much_and_nowhere_are_refused,
            trimming_moves_the_start_for_good,
            a_compacted_topic_keeps_the_newest_of_each_key,
            a_closed_log_takes_nothing_and_lets_nobody_wait,
        );
    };
}
