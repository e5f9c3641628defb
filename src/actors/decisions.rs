//! What the supervisor saw and decided, and who leads: for whoever asks `GET /admin/decisions`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::domain::{Micros, NodeId};
use crate::migration::handover::MoveId;
use crate::migration::placement::{Band, Decision, Kind};

/// Decisions that are remembered: 1,000 x about 1 KiB.
const REMEMBERED_MAX: usize = 1_000;
/// A decision that is made again within this time is the same one, still standing.
const STANDS_FOR_US: u64 = 30_000_000;

/// A node as it was seen when something was decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    pub id: NodeId,
    /// Fraction of its budget.
    pub load: f64,
    pub band: Band,
    /// It takes books.
    pub is_open: bool,
}

/// A decision with what it came from and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// Grows by one with each.
    pub id: u64,
    /// When it was made first, and last.
    pub at: Micros,
    pub last_at: Micros,
    /// How often it was made, look after look.
    pub times: u64,
    /// The leader that made it.
    pub by: NodeId,
    pub decision: Decision,
    /// The move that was begun.
    pub move_id: Option<MoveId>,
    pub nodes: Vec<Seen>,
}

impl Decided {
    fn is_again(&self, by: NodeId, now: Micros, decision: &Decision) -> bool {
        let same = |d: &Decision| (d.kind, d.reason, d.symbol, d.from, d.to);
        let stands = now.0.saturating_sub(self.last_at.0) < STANDS_FOR_US;
        stands && self.by == by && self.move_id.is_none() && same(&self.decision) == same(decision)
    }
}

#[derive(Default)]
struct Kept {
    last: u64,
    decided: VecDeque<Decided>,
    leader: Option<(NodeId, Instant)>,
}

/// All that is remembered in this process. The leader's process has the decisions.
#[derive(Default)]
pub struct Decisions(Mutex<Kept>);

impl Decisions {
    /// Somebody has the lease for so long.
    pub(super) fn led_by(&self, node: NodeId, expires_in: Duration) {
        let mut kept = self.0.lock();
        if kept.leader.is_none_or(|(was, _)| was != node) {
            tracing::info!(leader = %node, "a node leads");
        }
        kept.leader = Some((node, Instant::now() + expires_in));
    }

    /// Who leads, if that is known and its lease has not lapsed.
    pub fn leader(&self) -> Option<NodeId> {
        self.0.lock().leader.filter(|(_, until)| Instant::now() < *until).map(|(node, _)| node)
    }

    /// The newest so many, oldest first.
    pub fn newest(&self, limit: usize) -> Vec<Decided> {
        let kept = self.0.lock();
        let older = kept.decided.len().saturating_sub(limit);
        kept.decided.iter().skip(older).cloned().collect()
    }

    /// Remembers a decision; one that only stands on is counted.
    pub(super) fn note(&self, by: NodeId, now: Micros, decision: Decision, move_id: Option<MoveId>, nodes: Vec<Seen>) {
        let mut kept = self.0.lock();
        let before = kept
            .decided
            .iter_mut()
            .rev()
            .find(|d| d.decision.from == decision.from && d.decision.kind == decision.kind);
        if let Some(before) = before.filter(|d| move_id.is_none() && d.is_again(by, now, &decision)) {
            (before.last_at, before.decision, before.nodes) = (now, decision, nodes);
            before.times += 1;
            return;
        }
        tell(&decision, move_id);
        kept.last += 1;
        let id = kept.last;
        kept.decided.push_back(Decided { id, at: now, last_at: now, times: 1, by, decision, move_id, nodes });
        if kept.decided.len() > REMEMBERED_MAX {
            kept.decided.pop_front();
        }
    }
}

fn tell(decision: &Decision, move_id: Option<MoveId>) {
    let Decision { kind, reason, message, .. } = decision;
    metrics::counter!("hotbook_decisions_total", "kind" => kind.code(), "reason" => reason.code()).increment(1);
    match (kind, move_id) {
        (Kind::Stay, _) => tracing::warn!(reason = reason.code(), "{message}"),
        (_, Some(id)) => tracing::info!(kind = kind.code(), reason = reason.code(), migration = %id, "{message}"),
        _ => tracing::info!(kind = kind.code(), reason = reason.code(), "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::placement::Reason;

    fn decision(kind: Kind, reason: Reason, from: &str) -> Decision {
        let from = NodeId::new(from).ok();
        Decision { kind, symbol: None, from, to: None, reason, message: format!("{kind:?}") }
    }

    fn note(decisions: &Decisions, at_s: u64, decision: Decision, move_id: Option<u64>) {
        let by = NodeId::new("n1").unwrap();
        decisions.note(by, Micros(at_s * 1_000_000), decision, move_id.map(MoveId), Vec::new());
    }

    #[test]
    fn what_stands_is_counted_and_what_changes_is_added() {
        let decisions = Decisions::default();
        for at in 1..=5 {
            note(&decisions, at, decision(Kind::Stay, Reason::NoRoom, "n1"), None);
            note(&decisions, at, decision(Kind::Stay, Reason::Cooldown, "n2"), None);
        }
        note(&decisions, 6, decision(Kind::Stay, Reason::Cooldown, "n1"), None);
        note(&decisions, 200, decision(Kind::Stay, Reason::Cooldown, "n1"), None);
        let kept = decisions.newest(10);
        let brief = |d: &Decided| (d.id, d.at.0 / 1_000_000, d.last_at.0 / 1_000_000, d.times);
        assert_eq!(
            kept.iter().map(brief).collect::<Vec<_>>(),
            [(1, 1, 5, 5), (2, 1, 5, 5), (3, 6, 6, 1), (4, 200, 200, 1)]
        );
        assert_eq!(decisions.newest(1)[0].id, 4);
    }

    #[test]
    fn each_move_is_a_decision_of_its_own_and_only_so_many_are_kept() {
        let decisions = Decisions::default();
        for n in 0..REMEMBERED_MAX as u64 + 10 {
            note(&decisions, 1, decision(Kind::Move, Reason::NodeHot, "n1"), Some(n));
        }
        let kept = decisions.newest(usize::MAX);
        assert_eq!((kept.len(), kept[0].id), (REMEMBERED_MAX, 11));
    }

    #[test]
    fn a_leader_whose_lease_has_lapsed_is_none() {
        let decisions = Decisions::default();
        assert_eq!(decisions.leader(), None);
        let node = NodeId::new("n2").unwrap();
        decisions.led_by(node, Duration::from_secs(60));
        assert_eq!(decisions.leader(), Some(node));
        decisions.led_by(node, Duration::ZERO);
        assert_eq!(decisions.leader(), None);
    }
}
