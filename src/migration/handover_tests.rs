//! The coordinator alone: what it does, and when it can still be stopped.

use proptest::prelude::*;

use super::handover::{
    AbortError, Action, Cause, Coordinator, Deadlines, Event, LAG_SMALL, LAG_WITH_OWNER_MAX, MoveId, MoveStatus, Plan,
    Step,
};
use crate::domain::control::Fence;
use crate::domain::{Epoch, Micros, NodeId, Offset, Symbol};

fn plan(cause: Cause) -> Plan {
    Plan {
        id: MoveId(1),
        symbol: Symbol::new("TSLA").unwrap(),
        from: NodeId::new("n1").unwrap(),
        to: NodeId::new("n2").unwrap(),
        epoch: Epoch(4),
        cause,
        detected_at: Micros(5),
    }
}

struct Drive {
    coordinator: Coordinator,
    now: u64,
    actions: Vec<Action>,
}

impl Drive {
    fn begin(cause: Cause) -> Self {
        let mut actions = Vec::new();
        let coordinator = Coordinator::begin(plan(cause), Deadlines::default(), Micros(10), &mut actions);
        Self { coordinator, now: 10, actions }
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.now += 10;
        self.actions.clear();
        self.coordinator.on(event, Micros(self.now), &mut self.actions);
        self.actions.clone()
    }

    fn status(&self) -> MoveStatus {
        self.coordinator.record().status
    }

    fn up_to_the_fence(&mut self) {
        self.on(Event::SnapshotReady { bytes: 100, stall_us: 3 });
        self.on(caught_up());
        self.on(Event::RouteMarked);
        self.on(Event::FenceAppended);
    }
}

fn caught_up() -> Event {
    Event::ShadowProgress { lag: LAG_SMALL, source_lag: 0, epoch: Epoch(4), orders: 7 }
}

fn fence() -> Fence {
    Fence { epoch: Epoch(5), from: plan(Cause::Load).from, to: plan(Cause::Load).to }
}

fn applied(epoch: u64, to: &str) -> Event {
    Event::FenceApplied { epoch: Epoch(epoch), to: NodeId::new(to).unwrap(), offset: Offset(9) }
}

#[test]
fn a_move_goes_through_its_eight_steps() {
    let mut d = Drive::begin(Cause::Operator);
    assert_eq!(d.actions, [Action::TakeSnapshot]);
    assert_eq!(d.on(Event::SnapshotReady { bytes: 100, stall_us: 3 }), [Action::StartShadow]);
    assert_eq!(d.on(Event::ShadowProgress { lag: LAG_SMALL + 1, source_lag: 0, epoch: Epoch(4), orders: 7 }), []);
    assert_eq!(d.on(caught_up()), [Action::MarkRoute]);
    assert_eq!(d.on(Event::RouteMarked), [Action::AppendFence(fence())]);
    assert_eq!(d.on(Event::FenceAppended), []);
    assert_eq!(d.on(applied(5, "n2")), []);
    assert_eq!(d.on(Event::Sealed { epoch: Epoch(5) }), []);
    assert_eq!(d.on(Event::Active { epoch: Epoch(5), parked: Some(3) }), [Action::SwitchRoute]);
    assert_eq!(d.on(Event::RouteSwitched), [Action::WatchReplay]);
    assert_eq!(d.on(Event::Replayed { pause_us: Some(120), baseline_gap_us: Some(80) }), [Action::DropSource]);
    assert_eq!(d.on(Event::Cleaned), []);
    let record = d.coordinator.record();
    assert_eq!(record.status, MoveStatus::Completed);
    assert_eq!(record.steps.iter().map(|s| s.name).collect::<Vec<_>>(), Step::ALL);
    assert!(record.steps.iter().all(|s| s.took_us.is_some()));
    assert_eq!((record.parked, record.pause_us, record.fence), (Some(3), Some(120), Some(Offset(9))));
    assert_eq!((record.book_orders, record.snapshot_bytes, record.snapshot_stall_us), (7, 100, 3));
}

#[test]
fn before_the_fence_an_abort_leaves_no_trace_and_behind_it_is_too_late() {
    let mut d = Drive::begin(Cause::Operator);
    d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
    d.on(caught_up());
    assert_eq!(d.on(Event::Abort), [Action::DropShadow, Action::UnmarkRoute]);
    assert_eq!((d.status(), d.coordinator.may_abort()), (MoveStatus::Aborted, Err(AbortError::Ended)));
    let mut d = Drive::begin(Cause::Operator);
    assert_eq!(d.on(Event::Abort), []);
    let mut d = Drive::begin(Cause::Operator);
    d.up_to_the_fence();
    assert_eq!(d.coordinator.may_abort(), Err(AbortError::TooLate));
    assert_eq!((d.on(Event::Abort), d.status()), (vec![], MoveStatus::Running));
}

#[test]
fn a_route_table_that_is_away_is_waited_for_and_asked_again() {
    let mut d = Drive::begin(Cause::Operator);
    d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
    d.on(caught_up());
    assert_eq!(d.on(Event::RoutesAway), []);
    assert_eq!((d.status(), d.coordinator.record().code), (MoveStatus::Running, Some("routes_unavailable")));
    assert_eq!(d.on(Event::Tick), [], "not at once");
    for _ in 0..100 {
        d.now += 600_000;
        assert_eq!(d.on(Event::Tick), [Action::MarkRoute]);
        assert_eq!(d.on(Event::Tick), [], "asked once until it answers");
        assert_eq!(d.on(Event::RoutesAway), []);
    }
    assert_eq!(d.coordinator.may_abort(), Ok(()));
    let mut back = d.coordinator.clone();
    assert_eq!(d.on(Event::RouteMarked), [Action::AppendFence(fence())]);
    assert_eq!(d.coordinator.record().code, None);

    let (now, mut actions) = (Micros(d.now + Deadlines::default().routes_us), Vec::new());
    back.on(Event::Tick, now, &mut actions);
    assert_eq!((back.record().status, back.record().code), (MoveStatus::Aborted, Some("routes_unavailable")));
    assert_eq!(actions, [Action::DropShadow, Action::UnmarkRoute]);
}

#[test]
fn who_stops_waiting_for_a_route_table_by_order_is_told_of_the_order() {
    let mut d = Drive::begin(Cause::Load);
    d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
    d.on(caught_up());
    d.on(Event::RoutesAway);
    d.on(Event::Abort);
    assert_eq!((d.status(), d.coordinator.record().code), (MoveStatus::Aborted, None));
}

#[test]
fn a_node_that_is_dead_or_goes_down_waits_for_no_route_table() {
    for cause in [Cause::Recovery, Cause::Drain] {
        let mut d = Drive::begin(cause);
        d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
        d.on(caught_up());
        assert_eq!(d.on(Event::RoutesAway), [Action::AppendFence(fence())]);
    }
}

#[test]
fn a_dead_source_is_not_asked_for_anything() {
    let mut d = Drive::begin(Cause::Recovery);
    assert_eq!(d.actions, [Action::StartShadow]);
    assert_eq!(d.on(caught_up()), [Action::MarkRoute]);
    assert_eq!(d.on(Event::RouteMarked), [Action::AppendFence(fence())]);
    assert_eq!(d.on(Event::FenceAppended), [Action::TakeByCrashPath]);
}

#[test]
fn a_shadow_of_an_owner_that_is_behind_need_not_be_further_than_that() {
    let behind = |lag, source_lag| Event::ShadowProgress { lag, source_lag, epoch: Epoch(4), orders: 7 };
    let mut d = Drive::begin(Cause::Load);
    d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
    assert_eq!(d.on(behind(1_000 + LAG_SMALL + 1, 1_000)), []);
    assert_eq!(d.on(behind(LAG_WITH_OWNER_MAX + 1, u64::MAX)), [], "it would hold for too long");
    assert_eq!(d.on(behind(u64::MAX, u64::MAX)), []);
    assert_eq!(d.on(behind(1_000 + LAG_SMALL, 1_000)), [Action::MarkRoute]);
}

#[test]
fn a_target_that_comes_late_to_the_fence_of_a_silent_source_is_asked_at_once() {
    let mut d = Drive::begin(Cause::Load);
    d.up_to_the_fence();
    d.now += Deadlines::default().drain_us;
    assert_eq!(d.on(Event::Tick), [Action::TakeByCrashPath]);
    assert_eq!(d.on(applied(5, "n2")), [Action::TakeByCrashPath]);
    assert_eq!(d.on(Event::Tick), []);
}

#[test]
fn a_silent_source_is_waited_for_only_so_long() {
    let mut d = Drive::begin(Cause::Load);
    d.up_to_the_fence();
    assert_eq!(d.on(Event::SourceSilent), [Action::TakeByCrashPath]);
    d.now += Deadlines::default().drain_us;
    assert_eq!(d.on(Event::Tick), [Action::TakeByCrashPath], "asked again: the first may have been lost");
    d.now += Deadlines::default().takeover_us;
    assert_eq!((d.on(Event::Tick), d.status()), (vec![], MoveStatus::Failed));
}

#[test]
fn the_first_fence_wins() {
    let mut d = Drive::begin(Cause::Load);
    d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
    assert_eq!((d.on(applied(5, "n3")), d.status()), (vec![Action::DropShadow], MoveStatus::Aborted));
    let mut d = Drive::begin(Cause::Load);
    d.up_to_the_fence();
    assert_eq!((d.on(applied(5, "n3")), d.status()), (vec![], MoveStatus::Failed));
}

#[test]
fn an_append_that_certainly_failed_is_an_abort_and_an_unknown_one_is_waited_for() {
    let mut d = Drive::begin(Cause::Load);
    d.on(Event::SnapshotReady { bytes: 1, stall_us: 0 });
    d.on(caught_up());
    d.on(Event::RouteMarked);
    let mut unknown = d.coordinator.clone();
    assert_eq!(d.on(Event::FenceFailed { why: "full".into() }), [Action::DropShadow, Action::UnmarkRoute]);
    unknown.on(applied(5, "n2"), Micros(100), &mut Vec::new());
    assert_eq!(unknown.step(), Step::WaitForDrain);
}

#[test]
fn a_late_answer_about_the_route_does_not_complete_a_move_that_nobody_took_over() {
    for stale in [Event::RouteSwitched, Event::RouteRefused { why: "late".into() }] {
        let mut d = Drive::begin(Cause::Load);
        d.up_to_the_fence();
        d.on(Event::Sealed { epoch: Epoch(5) });
        assert_eq!(d.on(stale), []);
        assert_eq!(d.coordinator.step(), Step::SwitchRouting);
        assert_eq!(d.on(Event::Active { epoch: Epoch(5), parked: Some(1) }), [Action::SwitchRoute]);
        assert_eq!(d.on(Event::RouteSwitched), [Action::WatchReplay]);
    }
}

#[test]
fn what_nobody_can_tell_stays_unknown_and_does_not_keep_a_move_from_its_end() {
    let mut d = Drive::begin(Cause::Load);
    d.up_to_the_fence();
    assert_eq!(d.on(Event::Active { epoch: Epoch(5), parked: None }), [Action::SwitchRoute]);
    assert_eq!(d.on(Event::Active { epoch: Epoch(5), parked: Some(7) }), [], "it is taken already");
    assert_eq!(d.on(Event::RouteSwitched), [Action::WatchReplay]);
    assert_eq!(d.on(Event::Replayed { pause_us: None, baseline_gap_us: None }), [Action::DropSource]);
    d.on(Event::Cleaned);
    let record = d.coordinator.record();
    assert_eq!((record.status, record.parked, record.pause_us), (MoveStatus::Completed, None, None));
}

fn any_event() -> impl Strategy<Value = Event> {
    let why = || "why".to_owned();
    let epoch = || (3u64..8).prop_map(Epoch);
    prop_oneof![
        Just(Event::SnapshotReady { bytes: 1, stall_us: 1 }),
        Just(Event::SnapshotFailed { why: why() }),
        (0u64..600, 0u64..600, epoch()).prop_map(|(lag, source_lag, epoch)| Event::ShadowProgress {
            lag,
            source_lag,
            epoch,
            orders: 1
        }),
        Just(Event::ShadowFailed { why: why() }),
        Just(Event::RouteMarked),
        Just(Event::RoutesAway),
        Just(Event::RouteRefused { why: why() }),
        Just(Event::FenceAppended),
        Just(Event::FenceFailed { why: why() }),
        (epoch(), 1usize..4).prop_map(|(epoch, n)| Event::FenceApplied {
            epoch,
            to: NodeId::new(&format!("n{n}")).unwrap(),
            offset: Offset(1)
        }),
        epoch().prop_map(|epoch| Event::Sealed { epoch }),
        (epoch(), proptest::option::of(0..3u64)).prop_map(|(epoch, parked)| Event::Active { epoch, parked }),
        Just(Event::RouteSwitched),
        Just(Event::Replayed { pause_us: Some(1), baseline_gap_us: None }),
        Just(Event::Cleaned),
        Just(Event::SourceSilent),
        Just(Event::TargetGone),
        Just(Event::Abort),
        Just(Event::Tick),
    ]
}

proptest! {
    /// In whatever order events come, at most one fence is appended, an abort comes before it, the steps are in order,
    /// and time alone ends every move.
    #[test]
    fn any_order_of_events_is_survived(events in prop::collection::vec((any_event(), 0u64..3_000_000), 0..60)) {
        let mut d = Drive::begin(Cause::Load);
        let (mut fences, mut is_taken) = (0, false);
        for (event, later) in events {
            d.now += later;
            let actions = d.on(event);
            is_taken |= actions.contains(&Action::SwitchRoute);
            fences += actions.iter().filter(|a| matches!(a, Action::AppendFence(_))).count();
            let steps: Vec<Step> = d.coordinator.record().steps.iter().map(|s| s.name).collect();
            prop_assert_eq!(&steps[..], &Step::ALL[..steps.len()]);
        }
        prop_assert!(fences <= 1);
        for _ in 0..10 {
            d.now += 120_000_001;
            d.on(Event::Tick);
        }
        prop_assert!(d.coordinator.is_over());
        prop_assert!(d.status() != MoveStatus::Completed || is_taken);
    }
}
