//! The snapshot store in S3 against a real server: the port's contract, and what only it promises.

mod common {
    pub mod snapshots_contract;
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::snapshots_contract::{contract, key};
use futures_util::future::{join, join_all};
use hotbook::domain::Symbol;
use hotbook::ports::snapshots::s3::{S3Options, S3Snapshots};
use hotbook::ports::snapshots::{SnapshotStore, SnapshotStoreError};
use hotbook_harness::services::{Certificates, S3};

/// A server that starts anew, or one of a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn options(s3: &S3) -> S3Options {
    S3Options {
        bucket: S3::BUCKET.into(),
        prefix: String::new(),
        region: Some(S3::REGION.into()),
        endpoint: Some(format!("http://127.0.0.1:{}", s3.port)),
        credentials: Some((S3::ACCESS_KEY.into(), S3::SECRET_KEY.into())),
        ca_pem: None,
    }
}

async fn open(s3: &S3) -> Arc<dyn SnapshotStore> {
    Arc::new(S3Snapshots::open(options(s3)).await.expect("it opens"))
}

/// What cannot be compressed, larger than one part.
fn large() -> Bytes {
    let mut content = vec![0; 20 << 20];
    getrandom::fill(&mut content).unwrap();
    content.into()
}

async fn refused(options: S3Options) -> String {
    match S3Snapshots::open(options).await {
        Err(error @ SnapshotStoreError::Unavailable { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() {
    let s3 = S3::start();
    contract(open(&s3).await).await;
}

/// Two exchanges in one bucket.
#[tokio::test]
async fn a_prefix_keeps_one_exchange_from_the_others_snapshots() {
    let s3 = S3::start();
    let (plain, of) = (open(&s3).await, |prefix: &str| S3Options { prefix: prefix.into(), ..options(&s3) });
    let east: Arc<dyn SnapshotStore> = Arc::new(S3Snapshots::open(of("east/")).await.expect("it opens"));
    plain.put(key("TSLA", 1, 0), Bytes::from_static(b"plain")).await.unwrap();
    east.put(key("TSLA", 1, 0), Bytes::from_static(b"east")).await.unwrap();
    east.put(key("AAPL", 1, 0), Bytes::from_static(b"east")).await.unwrap();
    assert_eq!(plain.get(key("TSLA", 1, 0)).await.unwrap(), "plain");
    assert_eq!(plain.symbols().await.unwrap(), [Symbol::new("TSLA").unwrap()]);
    assert_eq!(east.symbols().await.unwrap().len(), 2);
    assert_eq!(east.list(Symbol::new("TSLA").unwrap()).await.unwrap(), [key("TSLA", 1, 0)]);
    assert!(s3.files().join("east/snapshots/TSLA").is_dir());
    east.delete(key("TSLA", 1, 0)).await.unwrap();
    assert_eq!(plain.list(Symbol::new("TSLA").unwrap()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_large_book_goes_up_in_parts_and_only_once() {
    let s3 = S3::start();
    let store = open(&s3).await;
    let (first, second) = (large(), large());
    store.put(key("TSLA", 1, 0), first.clone()).await.unwrap();
    assert!(store.get(key("TSLA", 1, 0)).await.unwrap() == first);
    let again = store.put(key("TSLA", 1, 0), second.clone()).await;
    assert!(matches!(again, Err(SnapshotStoreError::Exists { .. })), "{again:?}");
    assert!(store.get(key("TSLA", 1, 0)).await.unwrap() == first, "the first one stays");

    let contested = key("TSLA", 2, 0);
    let (a, b) = join(store.put(contested, first.clone()), store.put(contested, second.clone())).await;
    let won = store.get(contested).await.unwrap();
    match (&a, &b) {
        (Ok(()), Err(SnapshotStoreError::Exists { .. })) => assert!(won == first),
        (Err(SnapshotStoreError::Exists { .. }), Ok(())) => assert!(won == second),
        other => panic!("one wins: {other:?}"),
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_to_have_happened() {
    let s3 = S3::start();
    let store = open(&s3).await;
    for content in [Bytes::from_static(b"small"), large()] {
        let key = key("TSLA", content.len() as u64, 0);
        store.put(key, content.clone()).await.unwrap();
        store.put(key, content).await.expect("the same once more is what was wanted");
    }
}

#[tokio::test]
async fn more_than_one_page_is_listed() {
    let s3 = S3::start();
    let store = open(&s3).await;
    let keys: Vec<_> = (0..1_100).map(|n| key("TSLA", n, 0)).collect();
    for some in keys.chunks(50) {
        for put in join_all(some.iter().map(|k| store.put(*k, Bytes::from_static(b"x")))).await {
            put.unwrap();
        }
    }
    let listed = store.list(Symbol::new("TSLA").unwrap()).await.unwrap();
    assert!(listed.iter().rev().eq(&keys), "{} of {}", listed.len(), keys.len());
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_in_time_and_all_is_well_when_it_is_back() {
    let mut s3 = S3::start();
    let store = open(&s3).await;
    store.put(key("TSLA", 1, 0), Bytes::from_static(b"before")).await.unwrap();
    s3.server.kill();
    let asked = Instant::now();
    let lost = store.put(key("TSLA", 2, 0), Bytes::from_static(b"meanwhile")).await;
    assert!(matches!(lost, Err(SnapshotStoreError::Unavailable { .. })), "{lost:?}");
    assert!(asked.elapsed() < DEADLINE);
    let unread = store.get(key("TSLA", 1, 0)).await;
    assert!(matches!(unread, Err(SnapshotStoreError::Unavailable { .. })), "gone is not missing: {unread:?}");
    s3.server.start();
    s3.server.until_ready();
    assert_eq!(store.get(key("TSLA", 1, 0)).await.unwrap(), "before");
    store.put(key("TSLA", 2, 0), Bytes::from_static(b"after")).await.unwrap();
}

#[tokio::test]
async fn who_may_not_and_what_is_not_there_is_said_at_the_start() {
    let s3 = S3::start();
    let wrong = (S3::ACCESS_KEY.into(), "wrong".into());
    let said = refused(S3Options { credentials: Some(wrong), ..options(&s3) }).await;
    assert!(said.contains(S3::BUCKET) && said.contains("403"), "{said}");
    let said = refused(S3Options { bucket: "elsewhere".into(), ..options(&s3) }).await;
    assert!(said.contains("bucket elsewhere"), "{said}");
    let said = refused(S3Options { endpoint: Some("http://127.0.0.1:1".into()), ..options(&s3) }).await;
    assert!(said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn tls_is_let_in_with_its_certificate_and_refused_with_another() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let s3 = S3::start_with(&["--cert", &certificates.path("server.pem"), "--key", &certificates.path("server.key")]);
    let with = |ca_pem| S3Options { endpoint: Some(format!("https://127.0.0.1:{}", s3.port)), ca_pem, ..options(&s3) };
    let store = S3Snapshots::open(with(Some(certificates.ca_pem()))).await.expect("it opens");
    SnapshotStore::put(&store, key("TSLA", 1, 0), Bytes::from_static(b"x")).await.unwrap();
    for ca in [Some(others.ca_pem()), None] {
        let said = refused(with(ca)).await;
        assert!(said.to_lowercase().contains("certificate"), "{said}");
    }
}
