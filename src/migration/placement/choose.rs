//! The choice of a book and its target, and what it is not chosen for.

use std::collections::BTreeMap;

use super::history::History;
use super::{BookView, Decision, Kind, MoveView, NodeView, Reason, Settings, View};
use crate::domain::{Micros, NodeId, Symbol};

/// A book below it costs nothing worth moving, in cores.
const BUSY_MIN: f64 = 0.001;

/// What can be done for one node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Choice {
    Move {
        book: Symbol,
        to: NodeId,
        /// In cores.
        busy: f64,
        /// Of the target, afterwards.
        predicted: f64,
        /// A book that fills its core and stays.
        full: Option<Symbol>,
    },
    None {
        reason: Reason,
        full: Option<Symbol>,
        /// A warm node would help.
        wants_room: bool,
    },
}

pub(super) struct Chooser<'a> {
    pub settings: &'a Settings,
    pub view: &'a View,
    /// Under way, and decided in this look.
    pub moves: &'a [MoveView],
    pub proposed: &'a BTreeMap<Symbol, Micros>,
    pub histories: &'a BTreeMap<NodeId, History>,
}

/// Why books were passed over.
#[derive(Default)]
struct Passed {
    full: Option<Symbol>,
    cooling: usize,
    without_room: usize,
    not_worth_it: usize,
}

struct Best {
    score: f64,
    predicted: f64,
    book: Symbol,
    to: NodeId,
    busy: f64,
}

impl Best {
    fn is_better_than(&self, other: &Self) -> bool {
        let order = other.score.total_cmp(&self.score).then(self.predicted.total_cmp(&other.predicted));
        order.then(self.book.cmp(&other.book)).then(self.to.cmp(&other.to)).is_lt()
    }
}

impl Chooser<'_> {
    /// The best book of a node to give away, and its target.
    pub fn choose(&self, source: &NodeView) -> Choice {
        let none = |reason, full, wants_room| Choice::None { reason, full, wants_room };
        if self.moves.len() >= self.settings.moves_max || self.moves.iter().any(|m| m.from == source.id) {
            return none(Reason::MoveRunning, None, false);
        }
        let mut passed = Passed::default();
        let mut best: Option<Best> = None;
        for book in source.books.iter().filter(|b| self.mean_busy(source, b) >= BUSY_MIN) {
            if self.fills_its_core(source, book) {
                passed.full = Some(passed.full.map_or(book.symbol, |full| full.min(book.symbol)));
            } else if self.is_cooling(book) {
                passed.cooling += 1;
            } else {
                let found = self.best_target(source, book, &mut passed);
                if let Some(found) = found
                    && best.as_ref().is_none_or(|b| found.is_better_than(b))
                {
                    best = Some(found);
                }
            }
        }
        if let Some(Best { book, to, busy, predicted, .. }) = best {
            return Choice::Move { book, to, busy, predicted, full: passed.full };
        }
        // Whoever takes a book, or took one a moment ago, may have room again.
        let wait = self.view.nodes.iter().any(|n| n.is_open && n.id != source.id && !self.is_free(n));
        match passed {
            Passed { without_room: 1.., full, .. } if wait => none(Reason::MoveRunning, full, false),
            Passed { without_room: 1.., full, .. } => none(Reason::NoRoom, full, true),
            Passed { not_worth_it: 1.., full, .. } => none(Reason::NotWorthIt, full, false),
            Passed { cooling: 1.., full, .. } => none(Reason::Cooldown, full, false),
            Passed { full: Some(full), .. } => none(Reason::BookFillsCore, Some(full), false),
            Passed { .. } => none(Reason::NothingToMove, None, false),
        }
    }

    fn history(&self, node: &NodeView) -> Option<&History> {
        self.histories.get(&node.id)
    }

    fn mean_busy(&self, node: &NodeView, book: &BookView) -> f64 {
        self.history(node).map_or(book.busy, |h| h.mean_busy(book))
    }

    /// Takes no book now, and was seen for long enough since it last took one.
    fn is_free(&self, node: &NodeView) -> bool {
        let is_settled = self.history(node).is_some_and(|h| h.is_settled(self.settings));
        is_settled && !self.moves.iter().any(|m| m.to == node.id)
    }

    fn fills_its_core(&self, node: &NodeView, book: &BookView) -> bool {
        self.mean_busy(node, book) >= self.settings.full_book * node.cores.min(1.0)
    }

    fn is_cooling(&self, book: &BookView) -> bool {
        let lately = |at: &Micros| self.view.now.0.saturating_sub(at.0) < self.settings.cooldown_us;
        book.moved_at.as_ref().is_some_and(lately) || self.proposed.get(&book.symbol).is_some_and(lately)
    }

    fn best_target(&self, source: &NodeView, book: &BookView, passed: &mut Passed) -> Option<Best> {
        let demand = self.history(source).map_or(book.busy, |h| h.demand(book));
        let load = self.history(source).map_or(source.load, |h| h.mean_load(self.settings, source.load));
        let (mut best, mut has_room) = (None::<Best>, false);
        for target in self.view.nodes.iter().filter(|n| n.is_open && n.id != source.id && self.is_free(n)) {
            let fetched = self.fetched_anew(source, target, book);
            let peak = self.history(target).map_or(target.load, |h| h.peak_load(self.settings, target.load));
            let predicted = peak + (demand + fetched) / target.cores;
            if predicted > self.settings.target_max || predicted >= load {
                continue;
            }
            has_room = true;
            let score = self.relief(source, book) - self.cost_of_moving(book) - fetched;
            let found = Best { score, predicted, book: book.symbol, to: target.id, busy: demand };
            if score > 0.0 && best.as_ref().is_none_or(|b| found.is_better_than(b)) {
                best = Some(found);
            }
        }
        match (has_room, &best) {
            (false, _) => passed.without_room += 1,
            (true, None) => passed.not_worth_it += 1,
            (true, Some(_)) => {}
        }
        best
    }

    /// What the source is rid of, in cores; no more counts than what it has too much.
    fn relief(&self, source: &NodeView, book: &BookView) -> f64 {
        let history = self.history(source);
        let load = history.map_or(source.load, |h| h.mean_load(self.settings, source.load));
        let is_late = history.is_some_and(|h| h.is_late(self.settings));
        let shares = |other: &BookView| other.partition == book.partition && other.symbol != book.symbol;
        let still_read = self.settings.reads_all_partitions || source.books.iter().any(shares);
        let fetch = if still_read { 0.0 } else { source.fetch.get(&book.partition).copied().unwrap_or(0.0) };
        let brings = self.mean_busy(source, book) + fetch;
        // How much too much a late node has is not known.
        if is_late { brings } else { brings.min((load - self.settings.leave_below).max(0.0) * source.cores) }
    }

    /// Spread over the time in which the book will not move again.
    fn cost_of_moving(&self, book: &BookView) -> f64 {
        let s = self.settings;
        (s.move_fixed_us + s.move_order_us * book.orders as f64) / s.cooldown_us.max(1) as f64
    }

    /// Reading the book's partition, for a target that has not done so.
    fn fetched_anew(&self, source: &NodeView, target: &NodeView, book: &BookView) -> f64 {
        let reads = |b: &BookView| b.partition == book.partition;
        if self.settings.reads_all_partitions || target.books.iter().any(reads) {
            return 0.0;
        }
        source.fetch.get(&book.partition).copied().unwrap_or(0.0)
    }
}

fn stays(full: Option<Symbol>) -> String {
    full.map_or_else(String::new, |full| format!("; {full} alone fills its core and stays"))
}

impl Choice {
    pub fn as_move(&self, source: &NodeView, load: f64) -> Decision {
        let Self::Move { book, to, busy, predicted, full } = self else { return self.as_stay(source, load) };
        let reason = if full.is_some() { Reason::NeighbourOfFullBook } else { Reason::NodeHot };
        let message = format!(
            "{} is at {:.0} %: {book} ({:.0} % of a core) goes to {to}, which will be at {:.0} %{}",
            source.id,
            load * 100.0,
            busy * 100.0,
            predicted * 100.0,
            stays(*full)
        );
        Decision { kind: Kind::Move, symbol: Some(*book), from: Some(source.id), to: Some(*to), reason, message }
    }

    pub fn as_stay(&self, source: &NodeView, load: f64) -> Decision {
        let (reason, full) = match self {
            Self::None { reason, full, .. } => (*reason, *full),
            Self::Move { full, .. } => (Reason::NodeHot, *full),
        };
        let why = match reason {
            Reason::NoRoom => "no other node has room for any of its books".to_owned(),
            Reason::Cooldown => "every book that could go has moved lately".to_owned(),
            Reason::MoveRunning => "moves are under way already".to_owned(),
            Reason::NotWorthIt => "moving costs more than it brings".to_owned(),
            Reason::NothingToMove => "its books cost next to nothing".to_owned(),
            _ => "nothing else can go".to_owned(),
        };
        let message = format!("{} is at {:.0} %, but {why}{}", source.id, load * 100.0, stays(full));
        let symbol = full.filter(|_| reason == Reason::BookFillsCore);
        Decision { kind: Kind::Stay, symbol, from: Some(source.id), to: None, reason, message }
    }

    /// What is made ready for a node that may soon have to give books away.
    pub fn as_prepare(&self, source: &NodeView, view: &View) -> Option<Decision> {
        let percent = source.load * 100.0;
        let (to, reason, what) = match self {
            Self::Move { to, .. } => (Some(*to), Reason::TargetReady, format!("{to} has room for its books")),
            Self::None { wants_room: true, .. } => match view.warm.first() {
                Some(warm) => (Some(*warm), Reason::WarmNode, format!("nobody has room: {warm} is called in")),
                None => (None, Reason::NoWarmNode, "nobody has room, and there is no warm node".to_owned()),
            },
            Self::None { .. } => return None,
        };
        let message = format!("{} is at {percent:.0} %, {what}", source.id);
        Some(Decision { kind: Kind::Prepare, symbol: None, from: Some(source.id), to, reason, message })
    }
}

/// Whether all books of a node find a place among the others without filling one of them above the first band.
pub(super) fn fits_elsewhere(
    settings: &Settings,
    idle: &NodeView,
    open: &[&NodeView],
    histories: &BTreeMap<NodeId, History>,
) -> bool {
    let peak = |n: &NodeView| histories.get(&n.id).map_or(n.load, |h| h.peak_load(settings, n.load));
    let mut others: Vec<(f64, f64)> = open.iter().filter(|n| n.id != idle.id).map(|n| (peak(n), n.cores)).collect();
    let mut books: Vec<f64> = idle.books.iter().map(|b| b.busy).collect();
    let listed: f64 = books.iter().sum();
    // What is not listed is many small books: as if it were one more.
    books.push((peak(idle) * idle.cores - listed).max(0.0));
    books.sort_by(|a, b| b.total_cmp(a));
    books.into_iter().all(|busy| {
        let after = |(load, cores): &(f64, f64)| load + busy / cores;
        let best = others.iter_mut().min_by(|a, b| after(a).total_cmp(&after(b)));
        best.is_some_and(|place| {
            place.0 = after(place);
            place.0 <= settings.watch
        })
    })
}
