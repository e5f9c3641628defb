//! The auditor's own test: runs of the real replica and engine are clean; each fault that a move could make is put into
//! such a run, and is caught and named.

use bytes::Bytes;
use hotbook::domain::machine::SnapshotError;
use hotbook::domain::{
    Authority, Command, Digest, Epoch, Input, Machine, Micros, Offset, Outbox, Output, OutputBody, Seq, Seqs, Side,
    TimeInForce,
};
use hotbook::engine::Book;
use hotbook::migration::audit::{AuditOptions, Kind, decode_state};
use hotbook::migration::naive::{FINISHED_MAX, NaiveBook, NaiveState};
use hotbook::migration::snapshot::{RawSnapshot, Snapshot};
use hotbook::ports::log::Record;
use hotbook::wire::{self, Control};
use recorded::*;

#[path = "common/recorded.rs"]
mod recorded;

/// Orders, two moves, snapshots, a halt and its replay: some of everything.
fn some_run(seed: u64) -> Run {
    let (mut run, mut dice) = (Run::new(), Dice(seed));
    for round in 0..4 {
        run.random(&mut dice, 300);
        run.snapshot();
        match round {
            0 | 2 => _ = run.change_owner(),
            1 => {
                let halt = run.control(Control::Halt);
                run.random(&mut dice, 5);
                run.control(Control::Resume);
                // Played again by somebody who read it: void, and said to nobody.
                run.append(run.orders[halt.0 as usize].value.clone());
            }
            _ => _ = run.control(Control::CancelAll { user: user("ann") }),
        }
    }
    run.random(&mut dice, 100);
    run
}

fn outputs(run: &Run) -> Vec<Output> {
    let decode = |r: &Record| wire::events::decode(&r.value).unwrap().outputs;
    run.events.iter().flat_map(|r| Output::decode_all(&decode(r)).map(Result::unwrap).collect::<Vec<_>>()).collect()
}

/// Publishes these instead, numbered densely: what a faulty book would have written.
fn republish(run: &mut Run, outputs: &[Output]) {
    let at = run.events[0].clone();
    run.events.clear();
    let mut out = Outbox::new(Seqs::default(), Epoch(0));
    for output in outputs {
        out.set_epoch(output.epoch);
        out.begin(output.offset, output.at, output.origin);
        out.emit(&output.body, output.answer);
        if output.end {
            out.end();
        }
        let value = wire::events::encode(&symbol(), &out.take()).unwrap().remove(0);
        let offset = Offset(run.events.len() as u64);
        run.events.push(Record { offset, value, ..at.clone() });
    }
}

/// From here on the book is another one than the log gives: it was restored from a state that was changed.
fn restored_wrongly(mut run: Run, change: impl FnOnce(&mut NaiveState), then: impl FnOnce(&mut Run)) -> Run {
    let snapshot = RawSnapshot::decode(&run.cut().encode().unwrap()).unwrap();
    let (mut state, _) = decode_state(&snapshot.machine).unwrap();
    change(&mut state);
    let mut book = NaiveBook::from_state(&state);
    let (orders, events) = (run.orders.len(), run.events.len());
    then(&mut run);
    run.events.truncate(events);
    let mut out = Outbox::new(snapshot.header.seqs, snapshot.header.epoch);
    for record in &run.orders[orders..] {
        let (_, command) = wire::decode(&record.value, PARTITION, &keyring()).unwrap();
        out.begin(record.offset, record.at, hotbook::domain::Origin::from_bytes(&record.header));
        for (body, answer) in book.apply(&command, record.at) {
            out.emit(&body, answer);
        }
        out.end();
        let value = wire::events::encode(&symbol(), &out.take()).unwrap().remove(0);
        let offset = Offset(run.events.len() as u64);
        run.events.push(Record { offset, value, header: Bytes::new(), ..record.clone() });
    }
    run
}

/// A book with one bid of 10 that has 4 filled, behind it 5 at the same price, and an IOC that ended with 6 unfilled.
fn resting() -> Run {
    let mut run = Run::new();
    run.add("a-first", Side::Buy, 100, 10);
    run.add("b-second", Side::Buy, 100, 5);
    run.add("s-taker", Side::Sell, 100, 4);
    let ioc = hotbook::domain::NewOrder { time_in_force: TimeInForce::Ioc, ..add("i-ioc", Side::Sell, 101, 6) };
    run.send(&Command::Add(ioc));
    run
}

fn first_kind(run: &Run) -> Kind {
    let report = run.judge();
    println!("{}", report.violations.first().expect("an offence"));
    report.violations[0].kind
}

#[test]
fn runs_of_the_real_book_are_clean() {
    for seed in 0..8 {
        let run = some_run(seed);
        let report = run.judge();
        assert_eq!(report.violations, [], "seed {seed}");
        assert_eq!((report.moves.len(), report.snapshots, report.repeats), (2, 4, 0));
        assert_eq!(report.outputs, outputs(&run).len() as u64);
        assert!(report.fills > 200 && report.moves.iter().all(|m| m.pause_us == Some(3)), "{report:?}");
        let q = report.quantities;
        assert!(q.open > 0 && q.submitted == q.filled + q.open + q.canceled, "{q:?}");
    }
}

#[test]
fn a_trimmed_log_is_judged_from_its_oldest_snapshot() {
    for seed in 0..4 {
        let mut run = some_run(seed);
        run.snapshots.remove(0);
        let start = run.snapshots[0].key.offset;
        run.orders.retain(|r| r.offset >= start);
        let position = RawSnapshot::decode(&run.snapshots[0].bytes).unwrap().header.events_position;
        run.events.retain(|r| r.offset >= position);
        let trimmed = AuditOptions { orders_start: start, ..AuditOptions::new(keyring(), PARTITION) };
        let report = run.judge_with(&trimmed);
        assert_eq!((report.violations, report.from, report.snapshots), (vec![], start, 3), "seed {seed}");
        // Also the ids that ended before it are known: the first run's duplicates were refused.
        assert!(report.fills > 100);
    }
}

/// A book forgets the ids that ended longest ago, also those of which a snapshot kept only the hash.
#[test]
fn ids_that_ended_before_a_snapshot_are_forgotten_in_their_order() {
    let mut run = Run::new();
    let ended = |n: usize| {
        let ioc = add(&format!("o{n}"), Side::Buy, 100, 1);
        Command::Add(hotbook::domain::NewOrder { time_in_force: TimeInForce::Ioc, ..ioc })
    };
    let first = FINISHED_MAX + 5;
    (0..first).for_each(|n| _ = run.send(&ended(n)));
    run.snapshot();
    let start = run.snapshots[0].key.offset;
    // The oldest five are forgotten, and each that is accepted again drives the next one out. The newest are refused.
    (0..20).for_each(|n| _ = run.send(&ended(n)));
    (first..first + 50).for_each(|n| _ = run.send(&ended(n)));
    (first - 30..first).for_each(|n| _ = run.send(&ended(n)));
    run.snapshot();
    let refused = |o: &&Output| matches!(o.body, OutputBody::Refused { .. });
    assert_eq!(outputs(&run).iter().filter(refused).count(), 30);
    run.orders.retain(|r| r.offset >= start);
    let report = run.judge_with(&AuditOptions { orders_start: start, ..AuditOptions::new(keyring(), PARTITION) });
    assert_eq!((report.violations, report.inputs, report.snapshots), (vec![], 100, 2));
}

#[test]
fn a_trimmed_log_without_a_snapshot_cannot_be_judged() {
    let mut run = some_run(1);
    run.snapshots.truncate(1);
    run.orders.retain(|r| r.offset >= Offset(500));
    let trimmed = AuditOptions { orders_start: Offset(500), ..AuditOptions::new(keyring(), PARTITION) };
    assert_eq!(run.judge_with(&trimmed).kinds(), [Kind::NoStart]);
}

#[test]
fn repeats_with_the_same_bytes_are_counted() {
    let (mut run, mut dice) = (Run::new(), Dice(5));
    run.random(&mut dice, 100);
    let said = outputs(&run).len() as u64;
    run.crash_owner(Seq(said - 10));
    run.random(&mut dice, 100);
    let report = run.judge();
    assert_eq!((report.violations, report.repeats, report.moves.len()), (vec![], 10, 1));
}

#[test]
fn a_lost_order_is_named() {
    let mut run = some_run(1);
    let victim = outputs(&run).iter().find(|o| o.seq > Seq(300) && o.answer).unwrap().offset;
    let kept: Vec<_> = outputs(&run).into_iter().filter(|o| o.offset != victim).collect();
    republish(&mut run, &kept);
    let report = run.judge();
    assert_eq!((report.violations[0].kind, report.violations[0].offset), (Kind::LostOrder, Some(victim)));
}

#[test]
fn outputs_of_a_record_that_the_log_lost_are_named() {
    let mut run = some_run(1);
    let lost = outputs(&run)[300].offset;
    run.orders.retain(|r| r.offset != lost);
    assert_eq!(first_kind(&run), Kind::Unexplained);
    assert_eq!(run.judge().violations[0].offset, Some(lost));
    // Without the end of the log there is nothing to compare with, and that is said as well.
    let mut cut = some_run(1);
    cut.orders.truncate(cut.orders.len() - 3);
    assert_eq!(first_kind(&cut), Kind::Unexplained);
}

#[test]
fn a_record_of_events_that_cannot_be_read_is_named() {
    let mut run = some_run(1);
    run.events[50].value = Bytes::from_static(b"E\x02 from a newer build");
    let kinds = run.judge().kinds();
    assert_eq!(kinds[..2], [Kind::UnreadableEvents, Kind::Gap]);
}

#[test]
fn a_lost_record_of_events_is_a_gap() {
    let mut run = some_run(1);
    run.events.remove(200);
    let report = run.judge();
    assert_eq!(report.kinds(), [Kind::Gap], "the rest is judged all the same");
    let mut cut = some_run(1);
    cut.events.pop();
    assert_eq!(first_kind(&cut), Kind::Unanswered);
    let beside = AuditOptions { complete: false, ..AuditOptions::new(keyring(), PARTITION) };
    assert!(cut.judge_with(&beside).is_clean() && cut.judge_with(&beside).pending > 0);
}

#[test]
fn a_lost_fill_and_a_doubled_fill_are_named() {
    let all = outputs(&some_run(2));
    let n = all.iter().rposition(|o| matches!(o.body, OutputBody::Trade(_))).unwrap();
    let (mut lost, mut doubled, mut later) = (some_run(2), some_run(2), some_run(2));
    republish(&mut lost, &[&all[..n], &all[n + 1..]].concat());
    assert_eq!(first_kind(&lost), Kind::LostOutput);
    republish(&mut doubled, &[&all[..=n], &all[n..]].concat());
    assert_eq!(first_kind(&doubled), Kind::DoubledFill);
    let end = n + all[n..].iter().position(|o| o.end).unwrap() + 1;
    republish(&mut later, &[&all[..end], &all[n..=n], &all[end..]].concat());
    assert_eq!(first_kind(&later), Kind::DoubledFill);
}

#[test]
fn an_answer_given_twice_is_named() {
    let all = outputs(&some_run(2));
    let n = 1 + all[200..].iter().position(|o| o.end).unwrap() + 200;
    let mut run = some_run(2);
    republish(&mut run, &[&all[..n], &all[n - 1..]].concat());
    assert_eq!(first_kind(&run), Kind::DoubledOutput);
}

#[test]
fn two_swapped_orders_are_named() {
    let mut run = some_run(3);
    let mut all = outputs(&run);
    let n = (300..).find(|n| all[*n].end && all[n + 1].end && all[n - 1].end).unwrap();
    all.swap(n, n + 1);
    let early = all[n + 1].offset;
    republish(&mut run, &all);
    let report = run.judge();
    assert_eq!((report.violations[0].kind, report.violations[0].offset), (Kind::Reordered, Some(early)));
}

#[test]
fn time_priority_that_a_move_lost_is_named() {
    let swap = |state: &mut NaiveState| state.orders.swap(0, 1);
    let run = restored_wrongly(resting(), swap, |run| _ = run.add("t-next", Side::Sell, 100, 3));
    assert_eq!(first_kind(&run), Kind::TimePriority);
}

#[test]
fn a_stale_owners_write_is_named() {
    let mut run = resting();
    run.change_owner();
    let offset = run.add("c-third", Side::Buy, 99, 1);
    let right = outputs(&run).pop().unwrap();
    assert_eq!((right.offset, right.epoch), (offset, Epoch(1)));
    let mut out = Outbox::new(Seqs { last: Seq(right.seq.0 - 1), by_class: right.prev_seq }, Epoch(0));
    out.begin(right.offset, right.at, right.origin);
    out.emit(&right.body, true);
    out.end();
    let value = wire::events::encode(&symbol(), &out.take()).unwrap().remove(0);
    let stale = Record { value, ..run.events.last().unwrap().clone() };
    // As a zombie's late write, and as one that came first.
    run.events.push(stale);
    assert_eq!(first_kind(&run), Kind::StaleOwner);
    let n = run.events.len();
    run.events.swap(n - 2, n - 1);
    assert_eq!(first_kind(&run), Kind::StaleOwner);
}

#[test]
fn another_repeat_of_the_right_owner_is_named() {
    let mut run = some_run(4);
    let all = outputs(&run);
    let mut out = Outbox::new(Seqs { last: Seq(9), by_class: [Seq(1); 4] }, all[9].epoch);
    out.begin(all[9].offset, all[9].at, all[9].origin);
    out.emit(&OutputBody::Halted, true);
    out.end();
    let value = wire::events::encode(&symbol(), &out.take()).unwrap().remove(0);
    run.events.push(Record { value, ..run.events.last().unwrap().clone() });
    assert_eq!(first_kind(&run), Kind::RepeatDiffers);
}

#[test]
fn an_order_restored_at_full_size_is_named() {
    let refill = |state: &mut NaiveState| (state.orders[0].open, state.orders[0].filled) = (10, 0);
    let trades = restored_wrongly(resting(), refill, |run| _ = run.add("t-next", Side::Sell, 100, 8));
    assert_eq!(first_kind(&trades), Kind::RefilledOrder);
    let joins = restored_wrongly(resting(), refill, |run| _ = run.add("d-next", Side::Buy, 100, 1));
    assert_eq!(first_kind(&joins), Kind::RefilledOrder);
}

/// The IOC order of [`resting`] as it would rest.
fn ghost(state: &mut NaiveState) {
    let like = state.orders[0];
    let (order_id, user) = (id("i-ioc"), user("i"));
    let price = hotbook::domain::Price(101);
    state.orders.push(hotbook::migration::naive::NaiveOrder {
        order_id,
        user,
        side: Side::Sell,
        price,
        quantity: 6,
        open: 6,
        filled: 0,
        rank: state.next_rank,
        ..like
    });
    state.next_rank += 1;
}

#[test]
fn an_ioc_that_comes_back_as_a_resting_ghost_is_named() {
    let trades = restored_wrongly(resting(), ghost, |run| _ = run.add("t-next", Side::Buy, 101, 2));
    assert_eq!(first_kind(&trades), Kind::GhostOrder);
    let joins = restored_wrongly(resting(), ghost, |run| _ = run.add("d-next", Side::Sell, 101, 2));
    assert_eq!(first_kind(&joins), Kind::GhostOrder);
    // Its ADD is answered as if it could rest.
    let mut run = resting();
    let mut all = outputs(&run);
    if let Some(OutputBody::Order(o)) = all.last_mut().map(|o| &mut o.body) {
        (o.status, o.reason, o.open) = (hotbook::domain::OrderStatus::New, None, o.quantity);
    }
    republish(&mut run, &all);
    assert_eq!(first_kind(&run), Kind::GhostOrder);
}

#[test]
fn an_order_registered_twice_is_named() {
    let twice = |state: &mut NaiveState| {
        let again = hotbook::migration::naive::NaiveOrder { rank: state.next_rank, ..state.orders[1] };
        state.orders.push(again);
        state.next_rank += 1;
    };
    let joins = restored_wrongly(resting(), twice, |run| _ = run.add("d-next", Side::Buy, 100, 1));
    assert_eq!(first_kind(&joins), Kind::RegisteredTwice);
    let trades = restored_wrongly(resting(), twice, |run| _ = run.add("t-next", Side::Sell, 99, 14));
    assert_eq!(first_kind(&trades), Kind::RegisteredTwice);
    // The id is forgotten, and the same ADD is accepted again.
    let forget = |state: &mut NaiveState| state.finished.clear();
    let again = restored_wrongly(resting(), forget, |run| _ = run.add("s-taker", Side::Sell, 120, 4));
    assert_eq!(first_kind(&again), Kind::RegisteredTwice);
}

#[test]
fn a_silent_match_while_restoring_is_named() {
    let some = |state: &mut NaiveState| (state.orders[0].open, state.orders[0].filled) = (1, 9);
    let whole = |state: &mut NaiveState| _ = state.orders.remove(0);
    let trade = |run: &mut Run| _ = run.add("t-next", Side::Sell, 100, 3);
    let join = |run: &mut Run| _ = run.add("d-next", Side::Buy, 100, 1);
    let cancel = |run: &mut Run| _ = run.send(&Command::Cancel { user: user("a"), order_id: id("a-first") });
    assert_eq!(first_kind(&restored_wrongly(resting(), some, trade)), Kind::SilentMatch);
    assert_eq!(first_kind(&restored_wrongly(resting(), some, join)), Kind::SilentMatch);
    assert_eq!(first_kind(&restored_wrongly(resting(), some, cancel)), Kind::SilentMatch);
    assert_eq!(first_kind(&restored_wrongly(resting(), whole, trade)), Kind::SilentMatch);
    assert_eq!(first_kind(&restored_wrongly(resting(), whole, cancel)), Kind::SilentMatch);
}

/// A book that lies about its digest.
#[derive(Clone)]
struct Liar(Book);

impl Machine for Liar {
    type Command = Command;

    fn birth(input: &Input<Command>, out: &mut Outbox) -> Option<Self> {
        Book::birth(input, out).map(Self)
    }
    fn apply(&mut self, input: &Input<Command>, out: &mut Outbox) {
        self.0.apply(input, out);
    }
    fn authority(command: &Command) -> Option<&Authority> {
        Book::authority(command)
    }
    fn fence(command: &Command) -> Option<&hotbook::domain::control::Fence> {
        Book::fence(command)
    }
    fn digest(&self) -> Digest {
        Digest(self.0.digest().0 ^ 1)
    }
    fn rules_version(&self) -> u32 {
        self.0.rules_version()
    }
    fn encode(&self, into: &mut Vec<u8>) {
        self.0.encode(into);
    }
    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Book::decode(bytes).map(Self)
    }
}

fn with_machine<M>(s: Snapshot<Book>, machine: impl FnOnce(Book) -> M) -> Snapshot<M> {
    let Snapshot { symbol, offset, seqs, epoch, owner, events_position, clock, nonces, machine: book } = s;
    Snapshot { symbol, offset, seqs, epoch, owner, events_position, clock, nonces, machine: machine(book) }
}

#[test]
fn a_snapshot_with_a_wrong_digest_is_named() {
    let mut run = resting();
    let lie = with_machine(run.cut(), Liar);
    run.keep(&lie);
    run.add("d-next", Side::Buy, 99, 1);
    assert_eq!(first_kind(&run), Kind::SnapshotDigest);
    let mut torn = resting();
    torn.snapshot();
    let mut bytes = torn.snapshots[0].bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    torn.snapshots[0].bytes = bytes.into();
    assert_eq!(first_kind(&torn), Kind::SnapshotUnreadable);
}

#[test]
fn a_snapshot_of_another_state_than_the_log_gives_is_named() {
    // Taken before an order, named as if behind it.
    let mut late = resting();
    let before = late.cut();
    late.add("d-next", Side::Buy, 99, 1);
    late.keep(&Snapshot { offset: before.offset.next(), ..before });
    assert_eq!(first_kind(&late), Kind::SilentMatch);
    let mut run = resting();
    let cut = run.cut();
    run.keep(&Snapshot { owner: node(2), ..cut.clone() });
    assert_eq!(first_kind(&run), Kind::SnapshotDiffers);
    run.snapshots.clear();
    run.keep(&Snapshot { clock: Micros(5), ..cut });
    assert_eq!(first_kind(&run), Kind::SnapshotDiffers);
    // With the partly filled order at its full size: the engine itself cannot write that, so its record is replayed.
    let mut refilled = Run::new();
    refilled.add("a-first", Side::Buy, 100, 10);
    let full = refilled.cut();
    refilled.add("s-taker", Side::Sell, 100, 4);
    let partly = refilled.cut();
    refilled.keep(&Snapshot { machine: full.machine, ..partly });
    assert_eq!(first_kind(&refilled), Kind::RefilledOrder);
}

#[test]
fn what_a_snapshot_promises_about_events_is_checked() {
    // SN1: visible although its outputs were not durable.
    let mut early = some_run(6);
    early.snapshot();
    early.events.pop();
    let beside = AuditOptions { complete: false, ..AuditOptions::new(keyring(), PARTITION) };
    assert_eq!(early.judge_with(&beside).kinds(), [Kind::SnapshotEarly]);
    // Rule 10: a position behind the outputs that a reader needs.
    let mut run = resting();
    let cut = run.cut();
    let end = Offset(run.events.len() as u64);
    run.keep(&Snapshot { events_position: end, ..cut.clone() });
    run.add("d-next", Side::Buy, 99, 1);
    assert!(run.judge().is_clean(), "the first record behind it is still at a position that will do");
    run.snapshots.clear();
    run.keep(&Snapshot { events_position: end.next(), ..cut });
    assert_eq!(first_kind(&run), Kind::SnapshotPosition);
}

/// Whatever is changed, in whichever byte: it is noticed. What it is called is another matter.
#[test]
fn no_changed_byte_goes_unnoticed() {
    let (mut run, mut dice) = (Run::new(), Dice(9));
    run.random(&mut dice, 60);
    run.snapshot();
    run.change_owner();
    run.random(&mut dice, 20);
    assert!(run.judge().is_clean());
    let events = run.events.clone();
    for (n, event) in events.iter().enumerate() {
        for _ in 0..25 {
            let mut value = event.value.to_vec();
            let at = dice.below(value.len() as u64) as usize;
            value[at] ^= 1 << dice.below(8);
            run.events[n].value = value.into();
            assert!(!run.judge().is_clean(), "record {n} of events, byte {at}");
        }
        run.events[n] = event.clone();
    }
    let whole = run.snapshots[0].bytes.clone();
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << dice.below(8);
        // What zstd itself ignores changes nothing of the content.
        let is_same = RawSnapshot::decode(&bytes).is_ok_and(|raw| Ok(raw) == RawSnapshot::decode(&whole));
        run.snapshots[0].bytes = bytes.into();
        assert_eq!(run.judge().is_clean(), is_same, "byte {at} of the snapshot");
    }
}

/// Records of `events` in any order but one a reader by seq can use, and any of them twice.
#[test]
fn lost_swapped_and_repeated_records_are_told_apart() {
    let (mut run, mut dice) = (Run::new(), Dice(11));
    run.random(&mut dice, 80);
    let events = run.events.clone();
    for n in 0..events.len() - 1 {
        let again = dice.below(n as u64 + 1) as usize;
        run.events = events.clone();
        run.events.insert(n + 1, events[again].clone());
        let report = run.judge();
        assert!(report.is_clean() && report.repeats > 0, "record {again} again behind {n}");
        run.events = events.clone();
        run.events.swap(n, n + 1);
        assert_eq!(run.judge().kinds(), [Kind::Gap], "{n} behind the next");
        run.events = events.clone();
        run.events.remove(n);
        assert_eq!(run.judge().kinds(), [Kind::Gap], "without {n}");
    }
}

#[test]
fn names_differ_and_are_documented() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    assert_eq!(Kind::GhostOrder.to_string(), "ghost_order");
    let told = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).unwrap();
    for kind in Kind::ALL {
        assert!(told.contains(&format!("| `{kind}` | {} |", kind.text())), "docs/audit.md does not tell of {kind}");
    }
}
