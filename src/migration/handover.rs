//! One move of a machine from node to node, as its coordinator sees it.
//!
//! Pure: events and the time go in, actions come out. A coordinator is never needed for safety: it starts work and
//! appends a FENCE, and who owns the machine is decided by the log alone (rules 1 and 13). Before the fence it can stop
//! at any moment without trace; after it the move only goes forward, or somebody fences again.

use serde::{Deserialize, Serialize};

use crate::domain::control::Fence;
use crate::domain::{Epoch, Micros, NodeId, Offset, Symbol};

/// A shadow that lags by no more records than this is fenced in: what it holds at the fence is a batch at most.
pub const LAG_SMALL: u64 = 256;
/// A shadow of an owner that is itself behind is fenced in as soon as it is no further behind: it would not gain by
/// waiting, and up to the fence the owner goes on. Not beyond this many records, which the target has to work off before it
/// publishes: at 10 ms a record that is within [`Deadlines::takeover_us`].
pub const LAG_WITH_OWNER_MAX: u64 = 4_096;

/// Number of a move, unique among those that one coordinator remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(pub u64);

impl std::fmt::Display for MoveId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The steps of a move, in order; the names are those of the API, the logs and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Step {
    /// Somebody found that the book should move.
    DetectHotSymbol,
    /// A target is there.
    ProvisionNewInstance,
    /// The target restores a snapshot and follows the log until its lag is small. Nothing is paused yet.
    TransferSnapshot,
    /// The route is marked MIGRATING and the FENCE appended.
    PauseRouting,
    /// The source applies up to the fence, and its outputs become durable.
    WaitForDrain,
    /// The target has verified the Sealed and publishes; the route names it.
    SwitchRouting,
    /// What was held back since the fence becomes durable.
    ReplayPendingOrders,
    /// The source drops its replica.
    Cleanup,
}

impl Step {
    pub const ALL: [Self; 8] = [
        Self::DetectHotSymbol,
        Self::ProvisionNewInstance,
        Self::TransferSnapshot,
        Self::PauseRouting,
        Self::WaitForDrain,
        Self::SwitchRouting,
        Self::ReplayPendingOrders,
        Self::Cleanup,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::DetectHotSymbol => "DetectHotSymbol",
            Self::ProvisionNewInstance => "ProvisionNewInstance",
            Self::TransferSnapshot => "TransferSnapshot",
            Self::PauseRouting => "PauseRouting",
            Self::WaitForDrain => "WaitForDrain",
            Self::SwitchRouting => "SwitchRouting",
            Self::ReplayPendingOrders => "ReplayPendingOrders",
            Self::Cleanup => "Cleanup",
        }
    }
}

/// Who wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Cause {
    Operator,
    Load,
    Drain,
    /// The source is dead: there is nobody to take a snapshot from or to wait for.
    Recovery,
}

/// How a move stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MoveStatus {
    Running,
    Completed,
    /// Stopped before the fence: as if it had never begun.
    Aborted,
    /// Stopped after the fence: the log says who owns the book, and that node, or the next fence, goes on.
    Failed,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub id: MoveId,
    pub symbol: Symbol,
    pub from: NodeId,
    pub to: NodeId,
    /// The machine's epoch now; the fence's is the next.
    pub epoch: Epoch,
    pub cause: Cause,
    /// When it was found that the book should move.
    pub detected_at: Micros,
}

/// Why a move waits, or has ended because it waited in vain: the route table is away. The name is stable.
pub const ROUTES_UNAVAILABLE: &str = "routes_unavailable";
/// The same in words, once it has ended.
const ROUTES_WAITED_FOR: &str = "the route table did not come back in time";
/// How often a route table that is away is asked again.
const ROUTES_AGAIN_US: u64 = 500_000;

/// How long each part may take, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Snapshot, restore and catch-up.
    pub transfer_us: u64,
    /// Marking the route and appending the fence.
    pub pause_us: u64,
    /// How long a route table that is away is waited for.
    pub routes_us: u64,
    /// From the fence to the Sealed; then the crash path is taken, and again each time this has passed.
    pub drain_us: u64,
    /// From the fence to the new owner's first publication.
    pub takeover_us: u64,
    /// Each of the last two steps.
    pub cleanup_us: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            transfer_us: 120_000_000,
            pause_us: 10_000_000,
            routes_us: 300_000_000,
            drain_us: 2_000_000,
            takeover_us: 60_000_000,
            cleanup_us: 10_000_000,
        }
    }
}

/// What the coordinator hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A snapshot that is new enough is visible. `stall_us`: how long the book stood still to be copied for it.
    SnapshotReady {
        bytes: u64,
        stall_us: u64,
    },
    SnapshotFailed {
        why: String,
    },
    /// The target's shadow is this many records behind, at this epoch, with this many resting orders; the owner is
    /// `source_lag` records behind, as it said last.
    ShadowProgress {
        lag: u64,
        source_lag: u64,
        epoch: Epoch,
        orders: u64,
    },
    ShadowFailed {
        why: String,
    },
    RouteMarked,
    /// The route table is away. A move that somebody wishes waits for it; one away from a node that is dead or goes down does
    /// not: trading needs it, and the table does not decide.
    RoutesAway,
    RouteRefused {
        why: String,
    },
    FenceAppended,
    /// The fence is certainly not in the log. Of an append whose outcome is not known nothing is said: the log tells.
    FenceFailed {
        why: String,
    },
    /// A replica applied a fence that took effect.
    FenceApplied {
        epoch: Epoch,
        to: NodeId,
        offset: Offset,
    },
    /// The source has sealed.
    Sealed {
        epoch: Epoch,
    },
    /// The target publishes; `parked` commands lay behind the fence when it began to, `None` if nobody can tell.
    Active {
        epoch: Epoch,
        parked: Option<u64>,
    },
    RouteSwitched,
    /// What was held back is durable. Times from the log's own stamps, `None` if it could not be read for them.
    Replayed {
        pause_us: Option<u64>,
        baseline_gap_us: Option<u64>,
    },
    Cleaned,
    /// The source does not answer.
    SourceSilent,
    /// The target is dead.
    TargetGone,
    Abort,
    /// Time has passed.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// See that a visible snapshot is new enough; the source takes one if none is.
    TakeSnapshot,
    /// The target restores the newest snapshot and follows the log.
    StartShadow,
    /// Mark the route MIGRATING at the plan's epoch.
    MarkRoute,
    AppendFence(Fence),
    /// The target takes the machine without waiting for a Sealed (rule 8).
    TakeByCrashPath,
    /// Route ACTIVE, target, new epoch.
    SwitchRoute,
    /// See when what was held back is durable.
    WatchReplay,
    /// The source drops its replica, or keeps it as a standby.
    DropSource,
    /// The target drops its replica.
    DropShadow,
    /// Route ACTIVE again, source, the plan's epoch.
    UnmarkRoute,
}

/// One step as it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StepRecord {
    pub name: Step,
    pub started_at: Micros,
    /// `None` while it runs.
    pub took_us: Option<u64>,
}

/// What is kept of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRecord {
    pub plan: Plan,
    pub status: MoveStatus,
    pub steps: Vec<StepRecord>,
    /// Where the fence lies in the book's partition of `orders`.
    pub fence: Option<Offset>,
    /// `None`, like the two below, until it is known; what nobody can tell stays `None`.
    pub parked: Option<u64>,
    pub pause_us: Option<u64>,
    pub baseline_gap_us: Option<u64>,
    pub snapshot_stall_us: u64,
    pub book_orders: u64,
    pub snapshot_bytes: u64,
    /// While it runs: what it waits for. Afterwards: what it waited for in vain. A stable name.
    pub code: Option<&'static str>,
    pub error: Option<String>,
}

/// Why a move cannot be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AbortError {
    #[error("the fence is appended: the move can only go forward")]
    TooLate,
    #[error("the move has ended")]
    Ended,
}

/// Records by which a shadow may be behind to be fenced in.
fn lag_fenced(source_lag: u64) -> u64 {
    source_lag.saturating_add(LAG_SMALL).min(LAG_WITH_OWNER_MAX)
}

/// Drives one move.
#[derive(Debug, Clone)]
pub struct Coordinator {
    record: MoveRecord,
    deadlines: Deadlines,
    step: Step,
    entered: Micros,
    /// When the fence was handed to the log: from then on there is no way back.
    fenced: Option<Micros>,
    crash_path: Option<Micros>,
    /// When the route table, which is away, is to be asked again.
    routes_again: Option<Micros>,
    /// The target publishes.
    is_taken: bool,
    has_shadow: bool,
    is_marked: bool,
}

impl Coordinator {
    /// Begins a move.
    pub fn begin(plan: Plan, deadlines: Deadlines, now: Micros, actions: &mut Vec<Action>) -> Self {
        let record = MoveRecord {
            plan,
            status: MoveStatus::Running,
            steps: Vec::new(),
            fence: None,
            parked: None,
            pause_us: None,
            baseline_gap_us: None,
            snapshot_stall_us: 0,
            book_orders: 0,
            snapshot_bytes: 0,
            code: None,
            error: None,
        };
        let mut this = Self {
            record,
            deadlines,
            step: Step::DetectHotSymbol,
            entered: plan.detected_at.min(now),
            fenced: None,
            crash_path: None,
            routes_again: None,
            is_taken: false,
            has_shadow: false,
            is_marked: false,
        };
        this.open(Step::DetectHotSymbol, plan.detected_at.min(now));
        this.enter(Step::ProvisionNewInstance, now);
        this.enter(Step::TransferSnapshot, now);
        if plan.cause == Cause::Recovery {
            this.start_shadow(actions);
        } else {
            actions.push(Action::TakeSnapshot);
        }
        this
    }

    pub fn record(&self) -> &MoveRecord {
        &self.record
    }

    pub fn step(&self) -> Step {
        self.step
    }

    /// Whether the target is known to publish.
    pub fn is_taken(&self) -> bool {
        self.is_taken
    }

    pub fn is_over(&self) -> bool {
        self.record.status != MoveStatus::Running
    }

    /// Whether [`Event::Abort`] would be heeded.
    ///
    /// # Errors
    /// [`AbortError`].
    pub fn may_abort(&self) -> Result<(), AbortError> {
        match (self.is_over(), self.fenced) {
            (true, _) => Err(AbortError::Ended),
            (false, Some(_)) => Err(AbortError::TooLate),
            (false, None) => Ok(()),
        }
    }

    /// Takes one event.
    pub fn on(&mut self, event: Event, now: Micros, actions: &mut Vec<Action>) {
        if self.is_over() {
            return;
        }
        match event {
            Event::Tick => self.tick(now, actions),
            Event::Abort => self.stop_before_the_fence("aborted by an operator", now, actions),
            Event::TargetGone => self.give_up("the target is gone", now, actions),
            Event::SourceSilent => self.crash_path(now, actions),
            Event::FenceApplied { epoch, to, offset } => self.fence_applied(epoch, to, offset, now, actions),
            event if self.fenced.is_none() => self.before_the_fence(event, now, actions),
            event => self.behind_the_fence(event, now, actions),
        }
    }

    fn before_the_fence(&mut self, event: Event, now: Micros, actions: &mut Vec<Action>) {
        match (self.step, event) {
            (Step::TransferSnapshot, Event::SnapshotReady { bytes, stall_us }) => {
                self.record.snapshot_bytes = bytes;
                self.record.snapshot_stall_us = stall_us;
                self.start_shadow(actions);
            }
            (Step::TransferSnapshot, Event::ShadowProgress { lag, source_lag, epoch, orders }) => {
                self.record.book_orders = orders;
                if epoch > self.record.plan.epoch {
                    self.stop_before_the_fence("somebody else moved the book", now, actions);
                } else if lag <= lag_fenced(source_lag) && epoch == self.record.plan.epoch {
                    self.enter(Step::PauseRouting, now);
                    self.is_marked = true;
                    actions.push(Action::MarkRoute);
                }
            }
            (Step::PauseRouting, Event::RoutesAway)
                if matches!(self.record.plan.cause, Cause::Operator | Cause::Load) =>
            {
                self.record.code = Some(ROUTES_UNAVAILABLE);
                self.routes_again = Some(Micros(now.0 + ROUTES_AGAIN_US));
            }
            (Step::PauseRouting, Event::RouteMarked | Event::RoutesAway) => {
                (self.record.code, self.routes_again) = (None, None);
                self.fenced = Some(now);
                let Plan { epoch, from, to, .. } = self.record.plan;
                actions.push(Action::AppendFence(Fence { epoch: epoch.next(), from, to }));
            }
            (_, Event::SnapshotFailed { why } | Event::ShadowFailed { why } | Event::RouteRefused { why }) => {
                self.stop_before_the_fence(&why, now, actions);
            }
            _ => {}
        }
    }

    fn behind_the_fence(&mut self, event: Event, now: Micros, actions: &mut Vec<Action>) {
        let mine = self.record.plan.epoch.next();
        match event {
            Event::FenceAppended => self.fence_is_there(now, actions),
            Event::FenceFailed { why } if self.step == Step::PauseRouting => {
                self.fenced = None;
                self.stop_before_the_fence(&why, now, actions);
            }
            Event::Sealed { epoch } if epoch == mine && self.step <= Step::WaitForDrain => {
                self.enter(Step::SwitchRouting, now);
            }
            Event::Active { epoch, parked } if epoch == mine && !self.is_taken => {
                if self.step < Step::SwitchRouting {
                    self.enter(Step::SwitchRouting, now);
                }
                self.is_taken = true;
                self.record.parked = parked;
                actions.push(Action::SwitchRoute);
            }
            // Before the target publishes nobody was asked to switch the route: such an answer is of an older question.
            Event::RouteSwitched | Event::RouteRefused { .. } if self.step == Step::SwitchRouting && self.is_taken => {
                // Refused: the table knows a newer epoch, or is away; it is a cache, and the router mends it.
                self.enter(Step::ReplayPendingOrders, now);
                actions.push(Action::WatchReplay);
            }
            Event::Replayed { pause_us, baseline_gap_us } if self.step == Step::ReplayPendingOrders => {
                self.record.pause_us = pause_us;
                self.record.baseline_gap_us = baseline_gap_us;
                self.enter(Step::Cleanup, now);
                actions.push(Action::DropSource);
            }
            Event::Cleaned if self.step == Step::Cleanup => self.end(MoveStatus::Completed, None, now),
            Event::ShadowFailed { why } => self.give_up(&why, now, actions),
            _ => {}
        }
    }

    /// Rule 13: the log tells whose fence won.
    fn fence_applied(&mut self, epoch: Epoch, to: NodeId, offset: Offset, now: Micros, actions: &mut Vec<Action>) {
        let mine = self.record.plan.epoch.next();
        if epoch < mine {
            return;
        }
        if self.fenced.is_none() {
            self.stop_before_the_fence("somebody else moved the book", now, actions);
        } else if epoch == mine && to == self.record.plan.to {
            self.record.fence = Some(offset);
            let was_asked = self.crash_path.is_some();
            self.fence_is_there(now, actions);
            if was_asked && self.record.plan.cause != Cause::Recovery {
                // Asked before it had come to the fence, it had nothing to take yet.
                self.crash_path(now, actions);
            }
        } else if !self.is_taken {
            self.give_up("another fence came first, or took the book on", now, actions);
        }
    }

    fn fence_is_there(&mut self, now: Micros, actions: &mut Vec<Action>) {
        if self.step == Step::PauseRouting {
            self.enter(Step::WaitForDrain, now);
            if self.record.plan.cause == Cause::Recovery {
                self.crash_path(now, actions);
            }
        }
    }

    fn start_shadow(&mut self, actions: &mut Vec<Action>) {
        if !self.has_shadow {
            self.has_shadow = true;
            actions.push(Action::StartShadow);
        }
    }

    fn crash_path(&mut self, now: Micros, actions: &mut Vec<Action>) {
        if self.step == Step::WaitForDrain {
            self.crash_path = Some(now);
            actions.push(Action::TakeByCrashPath);
        }
    }

    fn tick(&mut self, now: Micros, actions: &mut Vec<Action>) {
        let passed = |since: Micros| now.0.saturating_sub(since.0);
        let d = self.deadlines;
        match self.step {
            Step::DetectHotSymbol | Step::ProvisionNewInstance | Step::TransferSnapshot => {
                if passed(self.entered) > d.transfer_us {
                    self.stop_before_the_fence("the target did not catch up in time", now, actions);
                }
            }
            Step::PauseRouting if self.fenced.is_none() && self.record.code.is_some() => {
                if passed(self.entered) > d.routes_us {
                    self.stop_before_the_fence(ROUTES_WAITED_FOR, now, actions);
                } else if self.routes_again.is_some_and(|again| now >= again) {
                    self.routes_again = None;
                    actions.push(Action::MarkRoute);
                }
            }
            Step::PauseRouting if self.fenced.is_none() => {
                if passed(self.entered) > d.pause_us {
                    self.stop_before_the_fence("the route could not be marked in time", now, actions);
                }
            }
            Step::PauseRouting | Step::WaitForDrain | Step::SwitchRouting if !self.is_taken => {
                if passed(self.fenced.unwrap_or(self.entered)) > d.takeover_us {
                    self.give_up("the target did not take over in time", now, actions);
                } else if passed(self.crash_path.unwrap_or(self.entered)) > d.drain_us {
                    self.crash_path(now, actions);
                }
            }
            // The new owner publishes: what is left is bookkeeping, and is not waited for without end.
            Step::PauseRouting | Step::WaitForDrain | Step::SwitchRouting | Step::ReplayPendingOrders => {
                if passed(self.entered) > d.cleanup_us {
                    self.enter(Step::Cleanup, now);
                    actions.push(Action::DropSource);
                }
            }
            Step::Cleanup => {
                if passed(self.entered) > d.cleanup_us {
                    self.end(MoveStatus::Completed, Some("the source's replica was not dropped in time"), now);
                }
            }
        }
    }

    /// Leaves no trace.
    fn stop_before_the_fence(&mut self, why: &str, now: Micros, actions: &mut Vec<Action>) {
        if self.fenced.is_some() {
            return;
        }
        if why != ROUTES_WAITED_FOR {
            self.record.code = None;
        }
        if self.has_shadow {
            actions.push(Action::DropShadow);
        }
        if self.is_marked {
            actions.push(Action::UnmarkRoute);
        }
        self.end(MoveStatus::Aborted, Some(why), now);
    }

    /// Behind the fence nothing is undone: the log's owner goes on, or is fenced again.
    fn give_up(&mut self, why: &str, now: Micros, actions: &mut Vec<Action>) {
        if self.fenced.is_none() {
            self.stop_before_the_fence(why, now, actions);
        } else {
            self.end(MoveStatus::Failed, Some(why), now);
        }
    }

    fn end(&mut self, status: MoveStatus, error: Option<&str>, now: Micros) {
        self.close(now);
        self.record.status = status;
        self.record.error = error.map(str::to_owned);
    }

    fn enter(&mut self, step: Step, now: Micros) {
        self.close(now);
        // A step that was passed over took no time: the record always names all of them in order.
        let done = self.record.steps.len();
        for skipped in Step::ALL.iter().skip(done).take_while(|s| **s < step) {
            self.record.steps.push(StepRecord { name: *skipped, started_at: now, took_us: Some(0) });
        }
        self.open(step, now);
    }

    fn open(&mut self, step: Step, now: Micros) {
        self.step = step;
        self.entered = now;
        self.record.steps.push(StepRecord { name: step, started_at: now, took_us: None });
    }

    fn close(&mut self, now: Micros) {
        if let Some(last) = self.record.steps.last_mut().filter(|s| s.took_us.is_none()) {
            last.took_us = Some(now.0.saturating_sub(last.started_at.0));
        }
    }
}
