//! The exchange inside one process: restarts, panics, slow neighbours, listings at once. No socket, no service.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use embedded::*;
use hotbook::actors::exchange::{ControlError, Exchange, ExchangeConfig};
use hotbook::domain::{Command, OrderStatus, OutputBody, Reason, Side};
use hotbook::ports::log::{NewRecord, SessionOptions, Topic, TopicPartition, partition_of};
use hotbook::wire;

#[path = "common/embedded.rs"]
mod embedded;

#[actix_web::test]
async fn a_restart_finds_every_book_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(config(folder.path())).await;
    for name in ["AAA", "BBB"] {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    for n in 0..200 {
        let side = if n % 2 == 0 { Side::Buy } else { Side::Sell };
        let command = Command::Add(order(&format!("o{n}"), side, 100 + n % 7, 1 + n % 5));
        send(&exchange, if n % 3 == 0 { "AAA" } else { "BBB" }, &command).await;
        if n == 90 {
            exchange.snapshot(symbol("AAA")).await.unwrap();
        }
    }
    let before: Vec<_> = exchange.directory().all().iter().map(|b| (b.seq(), b.state_digest(), b.orders())).collect();
    exchange.shutdown().await;
    drop(exchange);
    let exchange = start(config(folder.path())).await;
    let after: Vec<_> = exchange.directory().all().iter().map(|b| (b.seq(), b.state_digest(), b.orders())).collect();
    assert_eq!(before, after);
    let again = send(&exchange, "AAA", &Command::Add(order("o0", Side::Buy, 1, 1))).await;
    let refused =
        again.said.iter().any(|s| matches!(s.output.body, OutputBody::Refused { reason: Reason::DuplicateOrder, .. }));
    assert!(refused, "an order id lives on across a restart");
    exchange.shutdown().await;
}

#[actix_web::test]
async fn a_damaged_snapshot_is_skipped_and_nothing_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(config(folder.path())).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    for n in 0..60 {
        let side = if n % 2 == 0 { Side::Buy } else { Side::Sell };
        send(&exchange, "AAA", &Command::Add(order(&format!("o{n}"), side, 100 + n % 7, 1 + n % 5))).await;
        if n % 20 == 0 {
            exchange.snapshot(symbol("AAA")).await.unwrap();
        }
    }
    let digest = |e: &Exchange| e.directory().get(&symbol("AAA")).unwrap().state_digest();
    let before = digest(&exchange);
    exchange.shutdown().await;
    drop(exchange);
    // The newest, then both that are kept: then the book is born again from the log.
    for damaged in 1..=2 {
        let files = std::fs::read_dir(folder.path().join("snapshots/AAA")).unwrap();
        let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2, "the newest two are kept");
        for file in files.iter().rev().take(damaged) {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(file, bytes).unwrap();
        }
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let exchange = start(config(copy.path())).await;
        assert_eq!(digest(&exchange), before, "{damaged} damaged");
        exchange.shutdown().await;
    }
}

#[actix_web::test]
async fn a_snapshot_that_knows_more_than_the_log_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(config(folder.path())).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    send(&exchange, "AAA", &Command::Add(order("kept", Side::Buy, 100, 1))).await;
    exchange.snapshot(symbol("AAA")).await.unwrap();
    let early = tempfile::tempdir().unwrap();
    copy_folder(&folder.path().join("log"), &early.path().join("log"));
    send(&exchange, "AAA", &Command::Add(order("lost", Side::Buy, 100, 1))).await;
    exchange.snapshot(symbol("AAA")).await.unwrap();
    exchange.shutdown().await;
    drop(exchange);
    // The log is put back from an older copy, the snapshots are not.
    std::fs::remove_dir_all(folder.path().join("log")).unwrap();
    copy_folder(&early.path().join("log"), &folder.path().join("log"));
    let said = Exchange::start(config(folder.path())).await.err().expect("a snapshot is ahead").to_string();
    assert!(said.starts_with("snapshot_ahead_of_log"), "{said}");
    let named = said.split_whitespace().find(|word| word.starts_with("snapshots/AAA/")).expect("a file");
    std::fs::remove_file(folder.path().join(named)).unwrap();
    let exchange = start(config(folder.path())).await;
    assert_eq!(exchange.directory().get(&symbol("AAA")).unwrap().orders(), 1);
    let again = send(&exchange, "AAA", &Command::Add(order("lost", Side::Buy, 100, 1))).await;
    assert_eq!(status(&again), OrderStatus::New, "offsets that were lost are used again");
    exchange.shutdown().await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to)
        } else {
            _ = std::fs::copy(entry.path(), to).unwrap()
        }
    }
}

#[actix_web::test]
async fn one_books_panic_does_not_stop_another() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(ExchangeConfig { book_threads_per_node: 1, ..config(folder.path()) }).await;
    for name in ["AAA", "BBB"] {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    for n in 0..50 {
        send(&exchange, "AAA", &Command::Add(order(&format!("a{n}"), Side::Buy, 100 + n, 1))).await;
    }
    let book = exchange.directory().get(&symbol("AAA")).unwrap();
    let before = (book.seq(), book.book_digest());
    exchange.crash_book(symbol("AAA")).await;
    let other = send(&exchange, "BBB", &Command::Add(order("b1", Side::Buy, 100, 1))).await;
    assert_eq!(status(&other), OrderStatus::New);
    until("the book is rebuilt", || book.restarts() == 1 && book.is_active() && !book.is_detached()).await;
    assert_eq!((book.seq(), book.book_digest()), before);
    let next = send(&exchange, "AAA", &Command::Add(order("after", Side::Sell, 100, 1))).await;
    assert_eq!(status(&next), OrderStatus::Filled);
    exchange.shutdown().await;
}

#[actix_web::test]
async fn orders_sent_while_a_book_is_dead_are_answered_once_it_lives() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(config(folder.path())).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    for round in 0..3 {
        let answers: Vec<_> = (0..100)
            .map(|n| {
                let exchange = Arc::clone(&exchange);
                actix_web::rt::spawn(async move {
                    let command = Command::Add(order(&format!("r{round}-{n}"), Side::Buy, 100, 1));
                    status(&send(&exchange, "AAA", &command).await)
                })
            })
            .collect();
        exchange.crash_book(symbol("AAA")).await;
        for answer in answers {
            assert_eq!(answer.await.unwrap(), OrderStatus::New);
        }
    }
    assert_eq!(exchange.directory().get(&symbol("AAA")).unwrap().orders(), 300);
    exchange.shutdown().await;
}

#[actix_web::test]
async fn two_listings_at_once_give_one_symbol() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(ExchangeConfig { nodes: 3, ..config(folder.path()) }).await;
    let (one, two) = futures_util::join!(exchange.list(symbol("AAA"), plain()), exchange.list(symbol("AAA"), plain()));
    let refused = |r: &Result<(), ControlError>| matches!(r, Err(ControlError::Refused(Reason::SymbolExists)));
    assert!(one.is_ok() != two.is_ok() && (refused(&one) || refused(&two)), "{one:?} {two:?}");
    assert_eq!(exchange.directory().len(), 1);
    exchange.shutdown().await;
}

#[actix_web::test]
async fn listings_go_to_the_emptiest_node() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(ExchangeConfig { nodes: 3, ..config(folder.path()) }).await;
    for n in 0..9 {
        exchange.list(symbol(&format!("S{n}")), plain()).await.unwrap();
    }
    assert_eq!(exchange.fleet().views().iter().map(|n| n.books).collect::<Vec<_>>(), [3, 3, 3]);
    exchange.shutdown().await;
}

#[actix_web::test]
async fn a_slow_book_is_detached_and_its_partition_neighbour_does_not_notice() {
    let folder = tempfile::tempdir().unwrap();
    let slow = "SLOW0";
    let of = |name: &str| partition_of(name.as_bytes(), 64);
    let neighbour = (0..).map(|n| format!("N{n}")).find(|n| of(n) == of(slow)).unwrap();
    let config = ExchangeConfig { dev_command_cost_us: [(symbol(slow), 500)].into(), ..config(folder.path()) };
    let exchange = start(config).await;
    for name in [slow, &neighbour] {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    // 40,000 x 0.5 ms = 20 s of work: more than the permits let in at once, and than the neighbour needs on any machine.
    let options = SessionOptions { name: "test".into(), queue_bytes_max: usize::MAX };
    let session = exchange.log().open_session(options).unwrap();
    let to = TopicPartition { topic: Topic::Orders, partition: of(slow) };
    let records = (0..40_000).map(|n| NewRecord {
        to,
        key: Bytes::from_static(b"SLOW0"),
        header: Bytes::new(),
        value: wire::orders::encode(&symbol(slow), &Command::Add(order(&format!("s{n}"), Side::Buy, 100, 1))),
    });
    session.append_all(records.collect()).await.unwrap();
    let book = exchange.directory().get(&symbol(slow)).unwrap();
    until("the slow book is detached", || book.is_detached()).await;
    let mut worst = Duration::ZERO;
    for n in 0..100 {
        let started = Instant::now();
        send(&exchange, &neighbour, &Command::Add(order(&format!("n{n}"), Side::Buy, 100, 1))).await;
        worst = worst.max(started.elapsed());
    }
    println!("slow book {} records behind, neighbour's slowest answer {worst:?}", book.lag());
    assert!(book.lag() > 1_000, "the slow book caught up, the test shows nothing");
    assert!(book.is_detached());
    exchange.shutdown().await;
}

#[actix_web::test]
async fn poisoned_records_become_dead_letters_and_stop_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = start(config(folder.path())).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    let good = wire::orders::encode(&symbol("AAA"), &Command::Add(order("x", Side::Buy, 100, 1)));
    let home = partition_of(b"AAA", 64);
    let poison: [(&[u8], u32, Bytes, &str); 6] = [
        (b"AAA", home, Bytes::from_static(b"rubbish"), "malformed"),
        (b"AAA", home, Bytes::new(), "malformed"),
        (b"aaa", home, good.clone(), "key_mismatch"),
        (b"BBB", home, good.clone(), "key_mismatch"),
        (b"AAA", (home + 1) % 64, good.clone(), "wrong_partition"),
        (b"", home, Bytes::from_static(b"\xc1"), "malformed"),
    ];
    let options = SessionOptions { name: "test".into(), queue_bytes_max: usize::MAX };
    let session = exchange.log().open_session(options).unwrap();
    for (key, partition, value, _) in &poison {
        let to = TopicPartition { topic: Topic::Orders, partition: *partition };
        let (key, header) = (Bytes::copy_from_slice(key), Bytes::new());
        session.append(NewRecord { to, key, header, value: value.clone() }).await.unwrap();
    }
    // A symbol nobody listed.
    append(&exchange, "NOBODY", &Command::Add(order("x", Side::Buy, 100, 1)), &[]).await;
    let alive = send(&exchange, "AAA", &Command::Add(order("alive", Side::Buy, 100, 1))).await;
    assert_eq!(status(&alive), OrderStatus::New);
    let of = TopicPartition { topic: Topic::DeadLetters, partition: 0 };
    let (mut letters, mut next) = (Vec::new(), hotbook::domain::Offset(0));
    while letters.len() < poison.len() + 1 {
        let read = exchange.log().read(of, next, 100);
        for record in tokio::time::timeout(DEADLINE, read).await.expect("dead letters in time").unwrap() {
            next = record.offset.next();
            let letter: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
            letters.push(letter["code"].as_str().unwrap().to_owned());
        }
    }
    letters.sort();
    let mut expected: Vec<_> = poison.iter().map(|p| p.3.to_owned()).collect();
    expected.push("unknown_symbol".into());
    expected.sort();
    assert_eq!(letters, expected);
    exchange.shutdown().await;
}
