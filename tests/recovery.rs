//! Nodes that die, and books that others restore. Every run is judged from the log by the auditor.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use embedded::*;
use futures_util::future::join_all;
use hotbook::actors::exchange::{Exchange, ExchangeConfig};
use hotbook::actors::shadows::{self, Source};
use hotbook::domain::{Command, Offset, Side};
use hotbook::ports::log::embedded::{EmbeddedLog, EmbeddedLogOptions};
use hotbook::ports::log::{Log, Topic, TopicPartition};
use judged::*;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

#[path = "common/embedded.rs"]
mod embedded;
#[path = "common/judged.rs"]
mod judged;

/// A counter without labels as `/metrics` shows it; all tests of this file count together.
fn counted(name: &str) -> u64 {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap());
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

async fn trades_elsewhere(exchange: &Arc<Exchange>, names: &[&str], dead: usize) {
    let active = |name: &&str| {
        let book = exchange.directory().get(&symbol(name)).unwrap();
        book.node() != node(dead) && book.is_active()
    };
    until("every book trades elsewhere", || names.iter().all(active)).await;
}

/// handover rules 4 and 8b: what a shadow forgot it cannot say, so it is restored, and says it then.
#[actix_web::test]
async fn a_shadow_that_forgot_its_outputs_is_restored_to_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let before = (counted("hotbook_shadow_outputs_forgotten_total"), counted("hotbook_crash_path_restores_total"));
    let exchange = start(ExchangeConfig { nodes: 3, shadow_bytes_max: 0, ..config(folder.path()) }).await;
    let names = ["AAA", "BBB", "CCC"];
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    let load = Load::on(&exchange, &["AAA"], 4);
    until("some orders are answered", || load.answered() > 100).await;
    let saved = exchange.snapshot(symbol("AAA")).await.unwrap();
    let target = exchange.fleet().get(&node(2)).unwrap();
    let from = Source::Key(saved.key.path());
    shadows::restore(&target.context, &target.supervisor, symbol("AAA"), from).await.unwrap();
    until("the shadow follows", || target.context.status(&symbol("AAA")).is_some_and(|s| !s.is_detached())).await;
    exchange.fleet().crash(&node(1));
    // Behind the owner's last output, and before the fence that makes the shadow the owner.
    send(&exchange, "AAA", &Command::Add(order("behind", Side::Buy, 1, 1))).await;
    load.stop().await;
    let book = exchange.directory().get(&symbol("AAA")).unwrap();
    assert_eq!(book.node(), node(2), "the emptiest node has the shadow");
    let after = (counted("hotbook_shadow_outputs_forgotten_total"), counted("hotbook_crash_path_restores_total"));
    assert!(after.0 > before.0, "it forgot");
    assert!(after.1 > before.1, "it was restored");
    assert_eq!(book.restarts(), 0, "which is no death");
    judge(&exchange, folder.path(), &names).await;
    exchange.shutdown().await;
}

async fn with_standbys(folder: &std::path::Path, names: &[&str], more: ExchangeConfig) -> Arc<Exchange> {
    let base = config(folder);
    let data = ExchangeConfig { data_dir: base.data_dir, cluster_secret: base.cluster_secret, ..more };
    let exchange = start(ExchangeConfig { nodes: 3, standby: 1, ..data }).await;
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    until("every book is followed", || names.iter().all(|name| is_followed(&exchange, name))).await;
    exchange
}

/// Whether its standby, on another living node, is level.
fn is_followed(exchange: &Exchange, name: &str) -> bool {
    let owner = exchange.directory().get(&symbol(name)).unwrap().owner();
    exchange.fleet().standby_of(&symbol(name)).is_some_and(|s| s.node() != owner && !s.is_detached() && s.lag() == 0)
}

#[actix_web::test]
async fn a_dead_nodes_books_are_taken_over_by_their_standbys() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..12).map(|n| format!("S{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let exchange = with_standbys(folder.path(), &names, ExchangeConfig::default()).await;
    let load = Load::on(&exchange, &names, 2);
    until("some orders are answered", || load.answered() > 300).await;
    let of_dead = |n: &&&str| exchange.directory().get(&symbol(n)).unwrap().owner() == node(1);
    let lost: Vec<&str> = names.iter().filter(of_dead).copied().collect();
    assert_eq!(lost.len(), 4);
    let standbys: Vec<_> = lost.iter().map(|n| exchange.fleet().standby_of(&symbol(n)).unwrap()).collect();
    assert!([2, 3].iter().all(|n| standbys.iter().any(|s| s.node() == node(*n))), "they are spread");
    exchange.fleet().crash(&node(1));
    trades_elsewhere(&exchange, &names, 1).await;
    for (name, standby) in lost.iter().zip(&standbys) {
        let book = exchange.directory().get(&symbol(name)).unwrap();
        assert!(Arc::ptr_eq(&book, standby), "{name}: the replica that followed it, and no other");
    }
    let then = load.answered();
    until("orders go on", || load.answered() > then + 300).await;
    // The two that are left follow each other's books, also those that had their standby on the dead node.
    until("every book is followed again", || names.iter().all(|name| is_followed(&exchange, name))).await;
    load.stop().await;
    judge(&exchange, folder.path(), &names).await;
    exchange.shutdown().await;
}

#[actix_web::test]
async fn a_standby_follows_a_book_wherever_it_moves_and_every_order_is_answered_once() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = with_standbys(folder.path(), &["AAA"], ExchangeConfig::default()).await;
    let load = Load::on(&exchange, &["AAA"], 4);
    for n in 0..9 {
        let owner = exchange.directory().get(&symbol("AAA")).unwrap().owner();
        let standby = exchange.fleet().standby_of(&symbol("AAA")).unwrap().node();
        // To where it is followed, and to the node that has nothing of it, in turn.
        let elsewhere = (1..=3).map(node).find(|n| *n != owner && *n != standby).unwrap();
        moved(&exchange, "AAA", if n % 2 == 0 { standby } else { elsewhere }).await;
        until("it is followed", || is_followed(&exchange, "AAA")).await;
    }
    until("one replica beside the owner's", || {
        let has = |n: &usize| exchange.fleet().get(&node(*n)).unwrap().context.status(&symbol("AAA")).is_some();
        [1, 2, 3].iter().filter(|n| has(n)).count() == 2
    })
    .await;
    let standby = exchange.fleet().standby_of(&symbol("AAA")).unwrap();
    let at = exchange.fleet().get(&standby.node()).unwrap();
    let refused = shadows::remove(&at.context, &at.supervisor, symbol("AAA")).await.unwrap_err();
    assert!(matches!(refused, shadows::ShadowError::StandsBy { .. }), "{refused}");
    load.stop().await;
    until("the standby is where the book is", || {
        let book = exchange.directory().get(&symbol("AAA")).unwrap();
        (standby.seq(), standby.state_digest()) == (book.seq(), book.state_digest())
    })
    .await;
    judge(&exchange, folder.path(), &["AAA"]).await;
    exchange.shutdown().await;
}

/// Rule 8b once more, by the standby of a node that dies: what it forgot is said again from the log.
#[actix_web::test]
async fn a_standby_without_room_for_outputs_is_restored_to_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let before = counted("hotbook_crash_path_restores_total");
    let more = ExchangeConfig { shadow_bytes_max: 0, ..ExchangeConfig::default() };
    let exchange = with_standbys(folder.path(), &["AAA"], more).await;
    let load = Load::on(&exchange, &["AAA"], 4);
    until("some orders are answered", || load.answered() > 100).await;
    exchange.fleet().crash(&node(1));
    send(&exchange, "AAA", &Command::Add(order("behind", Side::Buy, 1, 1))).await;
    load.stop().await;
    assert!(counted("hotbook_crash_path_restores_total") > before);
    judge(&exchange, folder.path(), &["AAA"]).await;
    exchange.shutdown().await;
}

/// Many books of one partition come to others at once, from different places of it; one of them is slow.
#[actix_web::test]
async fn books_of_one_partition_are_restored_together_and_a_slow_one_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let dev_command_cost_us = HashMap::from([(symbol("S00"), 60)]);
    let config = ExchangeConfig { nodes: 3, partitions: 1, dev_command_cost_us, ..config(folder.path()) };
    let exchange = start(config).await;
    let names: Vec<String> = (0..60).map(|n| format!("S{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    // More than is in flight to a book at once (32 batches of 256), so that it falls behind when it is restored.
    fill(&exchange, "S00", 12_000).await;
    for (n, name) in names.iter().enumerate() {
        send(&exchange, name, &Command::Add(order("first", Side::Buy, 10, 1))).await;
        if n > 0 && n % 3 == 0 {
            exchange.snapshot(symbol(name)).await.unwrap();
        }
    }
    until("the slow book is level", || exchange.directory().get(&symbol("S00")).unwrap().lag() == 0).await;
    let load = Load::on(&exchange, &names, 1);
    until("some orders are answered", || load.answered() > 200).await;
    let before = counted("hotbook_books_fallen_behind_total");
    exchange.fleet().crash(&node(1));
    trades_elsewhere(&exchange, &names, 1).await;
    assert!(counted("hotbook_books_fallen_behind_total") > before, "the slow one leaves the others");
    let then = load.answered();
    until("orders go on", || load.answered() > then + 200).await;
    load.stop().await;
    judge(&exchange, folder.path(), &names).await;
    until("every book is level, with no record counted twice", || {
        names.iter().all(|n| exchange.directory().get(&symbol(n)).is_some_and(|b| b.lag() == 0 && !b.is_detached()))
    })
    .await;
    exchange.shutdown().await;
}

/// Each book finds out when it publishes next; the first has the session replaced, and that is enough.
#[actix_web::test]
async fn a_lost_session_is_replaced_once_whoever_finds_out_and_when() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["AAA", "BBB", "CCC"];
    let exchange = start(ExchangeConfig { nodes: 1, ..config(folder.path()) }).await;
    for name in names {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    let node = &exchange.fleet().all()[0].context;
    let lost = node.session();
    lost.abort();
    assert!(lost.has_ended());
    let mut next = None;
    for name in names {
        send(&exchange, name, &Command::Add(order("1", Side::Buy, 1, 1))).await;
        let session = node.session();
        assert!(!session.has_ended());
        assert!(
            Arc::ptr_eq(next.get_or_insert_with(|| Arc::clone(&session)), &session),
            "{name} took another one away"
        );
        assert_eq!(exchange.directory().get(&symbol(name)).unwrap().restarts(), 1);
    }
    judge(&exchange, folder.path(), &names).await;
    exchange.shutdown().await;
}

fn orders_of(partition: u32) -> TopicPartition {
    TopicPartition { topic: Topic::Orders, partition }
}

/// A shadow whose next records are trimmed has a newer snapshot to begin with, or they would not be.
#[actix_web::test]
async fn a_shadow_that_trimming_overtakes_begins_anew_and_is_level() {
    let folder = tempfile::tempdir().unwrap();
    let slow = std::collections::HashMap::from([(symbol("AAA"), 100)]);
    let exchange =
        start(ExchangeConfig { nodes: 2, partitions: 1, dev_command_cost_us: slow, ..config(folder.path()) }).await;
    exchange.list(symbol("AAA"), plain()).await.unwrap();
    let old = exchange.snapshot(symbol("AAA")).await.unwrap();
    let adds = (0..20_000).map(|n| Command::Add(order(&format!("f{n}"), Side::Buy, 1, 1)));
    append_all(&exchange, "AAA", adds).await;
    send(&exchange, "AAA", &Command::Add(order("last", Side::Buy, 1, 1))).await;
    let new = exchange.snapshot(symbol("AAA")).await.unwrap();
    assert!(new.key.offset.0 > old.key.offset.0 + 20_000);
    let target = exchange.fleet().get(&node(2)).unwrap();
    shadows::restore(&target.context, &target.supervisor, symbol("AAA"), Source::Key(old.key.path())).await.unwrap();
    exchange.log().trim(orders_of(0), new.key.offset).await.unwrap();
    let status = || target.context.status(&symbol("AAA"));
    until("the shadow is level", || status().is_some_and(|s| !s.is_detached() && s.lag() == 0)).await;
    let (shadow, book) = (status().unwrap(), exchange.directory().get(&symbol("AAA")).unwrap());
    assert_eq!((shadow.restarts(), shadow.book_digest()), (0, book.book_digest()));
    let late = shadows::restore(&target.context, &target.supervisor, symbol("AAA"), Source::Key(old.key.path())).await;
    assert!(late.is_err(), "it is there");
    shadows::remove(&target.context, &target.supervisor, symbol("AAA")).await.unwrap();
    let late = shadows::restore(&target.context, &target.supervisor, symbol("AAA"), Source::Key(old.key.path())).await;
    assert!(late.unwrap_err().to_string().contains("the log begins at"));
    exchange.shutdown().await;
}

/// It is loud and is tried again; no other book of its partition waits for it.
#[actix_web::test]
async fn a_book_whose_newest_snapshot_is_older_than_the_log_keeps_no_other_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let one = || ExchangeConfig { nodes: 1, partitions: 1, ..config(folder.path()) };
    let exchange = start(one()).await;
    for name in ["AAA", "BBB"] {
        exchange.list(symbol(name), plain()).await.unwrap();
    }
    let snapshots = folder.path().join("snapshots/AAA");
    let files = || std::fs::read_dir(&snapshots).unwrap().map(|f| f.unwrap().path()).collect::<Vec<_>>();
    exchange.snapshot(symbol("AAA")).await.unwrap();
    let old: Vec<_> = files().into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect();
    let mut newest = Offset(0);
    for n in 0..3 {
        send(&exchange, "AAA", &Command::Add(order(&format!("{n}"), Side::Buy, 1, 1))).await;
        newest = exchange.snapshot(symbol("AAA")).await.unwrap().key.offset;
        send(&exchange, "BBB", &Command::Add(order(&format!("{n}"), Side::Buy, 1, 1))).await;
        exchange.snapshot(symbol("BBB")).await.unwrap();
    }
    exchange.shutdown().await;
    let log = EmbeddedLog::open(&EmbeddedLogOptions::new(folder.path(), 1)).unwrap();
    log.trim(orders_of(0), newest).await.unwrap();
    log.close().await.unwrap();
    let new: Vec<_> = files().into_iter().map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect();
    new.iter().for_each(|(file, _)| std::fs::remove_file(file).unwrap());
    old.iter().for_each(|(file, content)| std::fs::write(file, content).unwrap());

    let exchange = Exchange::start(one()).await.unwrap();
    send(&exchange, "BBB", &Command::Add(order("again", Side::Buy, 1, 1))).await;
    assert!(exchange.directory().get(&symbol("AAA")).is_none_or(|book| !book.is_active()));
    assert!(!exchange.is_ready());
    // An operator finds the newer one.
    new.iter().for_each(|(file, content)| std::fs::write(file, content).unwrap());
    until("it trades", || exchange.is_ready()).await;
    send(&exchange, "AAA", &Command::Add(order("again", Side::Buy, 1, 1))).await;
    exchange.shutdown().await;
}

/// Orders as fast as the log takes them.
async fn fill(exchange: &Exchange, to: &str, orders: usize) {
    let add = |n| Command::Add(order(&format!("f{n}"), Side::Buy, 1, 1));
    for chunk in (0..orders).collect::<Vec<_>>().chunks(500) {
        let commands: Vec<Command> = chunk.iter().map(|n| add(*n)).collect();
        join_all(commands.iter().map(|command| append(exchange, to, command, &[]))).await;
    }
}
