//! Which book should go where, and why (docs/placement.md). Pure: what is seen goes in, decisions come out.
//!
//! It only proposes: a move that is not begun, or fails, costs nothing but its book's cooldown. Who owns a book is
//! decided by the log. docs/placement.md has it in an operator's words, with what was simulated.

mod choose;
mod history;
pub mod sim;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{Micros, NodeId, Symbol};
use choose::{Choice, Chooser};
use history::History;

/// What is done with what the policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlacementMode {
    /// Books move by themselves.
    #[default]
    Auto,
    /// It is said what would be done, and nothing is done.
    Advise,
    /// Nobody looks.
    Off,
}

/// The policy's numbers. Loads are fractions of a node's budget; times are in microseconds unless named otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// From here on a node is watched; also as full as a scale-in may make the others.
    pub watch: f64,
    /// From here on there should be a node that can take books.
    pub prepare: f64,
    /// Above it a node gives books away.
    pub move_above: f64,
    /// A node that gives books away goes on until it is below.
    pub leave_below: f64,
    /// No target is predicted to be above it.
    pub target_max: f64,
    /// Something counts when it is so in `windows_needed` of the last `windows` windows.
    pub windows: usize,
    pub windows_needed: usize,
    /// A node that is watched and lets a book's batches wait so long is as good as full.
    pub late_us: u64,
    /// A book that uses so much of its core, or of a budget of less than one, would fill any other as well.
    pub full_book: f64,
    /// After a move, or an attempt, a book stays for so long.
    pub cooldown_us: u64,
    /// Moves under way at once, whoever asked for them: beyond that none is proposed.
    pub moves_max: usize,
    /// CPU time of any move, on both nodes together.
    pub move_fixed_us: f64,
    /// CPU time per resting order that is copied, written, read and restored.
    pub move_order_us: f64,
    /// Every node reads every partition, as the embedded log's do: a move changes nothing of that.
    pub reads_all_partitions: bool,
    /// A node whose last `idle_windows` windows are all below it is not needed, if the others can take its books.
    pub idle_below: f64,
    pub idle_windows: usize,
    /// No scale-in to fewer nodes; 0 = never.
    pub nodes_min: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            watch: 0.50,
            prepare: 0.70,
            move_above: 0.85,
            leave_below: 0.70,
            target_max: 0.70,
            windows: 5,
            windows_needed: 3,
            late_us: 250_000,
            full_book: 0.85,
            cooldown_us: 60_000_000,
            moves_max: 4,
            move_fixed_us: 50_000.0,
            move_order_us: 2.0,
            reads_all_partitions: true,
            idle_below: 0.20,
            idle_windows: 60,
            nodes_min: 0,
        }
    }
}

/// A book as its node last measured it.
#[derive(Debug, Clone, PartialEq)]
pub struct BookView {
    pub symbol: Symbol,
    pub partition: u32,
    /// Records per second.
    pub rate: f64,
    /// CPU time, in cores.
    pub busy: f64,
    /// Records that it is behind.
    pub lag: u64,
    /// The longest that a batch waited in its mailbox.
    pub waiting_us: u64,
    pub orders: u64,
    /// When it came from another node.
    pub moved_at: Option<Micros>,
}

/// A node as it last measured itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    pub id: NodeId,
    /// It takes books.
    pub is_open: bool,
    pub load: f64,
    /// Its budget.
    pub cores: f64,
    /// When its window ended: the same window may be seen twice.
    pub measured_at: Micros,
    /// Those that cost most; there may be more.
    pub books: Vec<BookView>,
    /// Cores' worth of fetching, per partition.
    pub fetch: BTreeMap<u32, f64>,
}

/// A move under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveView {
    pub symbol: Symbol,
    pub from: NodeId,
    pub to: NodeId,
}

/// What there is to see.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub now: Micros,
    pub nodes: Vec<NodeView>,
    pub moves: Vec<MoveView>,
    /// Nodes that could be called in.
    pub warm: Vec<NodeId>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// `symbol` goes `from` one node `to` another.
    Move,
    /// `from` ought to give something away, and does not.
    Stay,
    /// `from` may soon have to give something away; `to` is, or is called in as, the node that can take it.
    Prepare,
    /// `from` is not needed: drain it.
    ScaleIn,
    /// What would be done if it were not only to be advised.
    Advise,
}

impl Kind {
    /// The stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Move => "MOVE",
            Self::Stay => "STAY",
            Self::Prepare => "PREPARE",
            Self::ScaleIn => "SCALE_IN",
            Self::Advise => "ADVISE",
        }
    }
}

/// Why. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The node is above the band's edge, or was and is not yet out of the band.
    NodeHot,
    /// The node is hot, and a book that fills its core has to stay: this one makes room for it.
    NeighbourOfFullBook,
    /// No other node would stay below the target's limit.
    NoRoom,
    /// A book that fills its core is all there is.
    BookFillsCore,
    /// Every book that could go has moved lately.
    Cooldown,
    /// The node gives a book away already, every other node takes one or has just taken one, or as many moves are under
    /// way as may be.
    MoveRunning,
    /// What a move costs is more than it brings.
    NotWorthIt,
    /// No book of the node costs anything: it is not the books.
    NothingToMove,
    /// The move was refused by those who would carry it out.
    Refused,
    /// A node with room is there.
    TargetReady,
    /// A warm node is called in.
    WarmNode,
    /// There is neither room nor a warm node.
    NoWarmNode,
    /// The node has been idle, and the others can take its books.
    NodeIdle,
    /// The node has been idle, but its books fit nowhere else.
    BooksDoNotFit,
}

impl Reason {
    /// The stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::NodeHot => "node_hot",
            Self::NeighbourOfFullBook => "neighbour_of_full_book",
            Self::NoRoom => "no_room",
            Self::BookFillsCore => "book_fills_core",
            Self::Cooldown => "cooldown",
            Self::MoveRunning => "move_running",
            Self::NotWorthIt => "not_worth_it",
            Self::NothingToMove => "nothing_to_move",
            Self::Refused => "refused",
            Self::TargetReady => "target_ready",
            Self::WarmNode => "warm_node",
            Self::NoWarmNode => "no_warm_node",
            Self::NodeIdle => "node_idle",
            Self::BooksDoNotFit => "books_do_not_fit",
        }
    }
}

/// One decision, with its reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub kind: Kind,
    pub symbol: Option<Symbol>,
    pub from: Option<NodeId>,
    pub to: Option<NodeId>,
    pub reason: Reason,
    pub message: String,
}

/// Where a node stands, over its last windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Band {
    Normal,
    Watch,
    Prepare,
    /// It gives books away, until it is out of the band below.
    Move,
}

/// The policy with what it remembers: the last windows of each node, and what it has proposed.
#[derive(Debug, Clone)]
pub struct Placement {
    settings: Settings,
    /// Whether its proposals are carried out. If not, it does not repeat them at every look.
    is_heeded: bool,
    nodes: BTreeMap<NodeId, History>,
    /// When each book was last proposed to be moved.
    proposed: BTreeMap<Symbol, Micros>,
    /// Nothing is proposed for these nodes until then.
    silent_until: BTreeMap<NodeId, Micros>,
    moves: Vec<MoveView>,
}

impl Placement {
    pub fn new(settings: Settings, is_heeded: bool) -> Self {
        let (nodes, proposed, silent_until, moves) = Default::default();
        Self { settings, is_heeded, nodes, proposed, silent_until, moves }
    }

    /// Where a node stands.
    pub fn band(&self, node: &NodeId) -> Band {
        self.nodes.get(node).map_or(Band::Normal, |h| h.band(&self.settings))
    }

    /// One look, at most once per window: remembers what is seen, and says what should be done about it.
    pub fn look(&mut self, view: &View) -> Vec<Decision> {
        self.observe(view);
        let mut nodes: Vec<&NodeView> = view.nodes.iter().filter(|n| n.is_open).collect();
        nodes.sort_by(|a, b| b.load.total_cmp(&a.load).then(a.id.cmp(&b.id)));
        let (mut decisions, mut moves, mut is_calm) = (Vec::new(), view.moves.clone(), view.moves.is_empty());
        for node in nodes {
            let band = self.band(&node.id);
            is_calm &= band < Band::Prepare;
            let silent = self.silent_until.get(&node.id).is_some_and(|until| view.now < *until);
            let can_judge = self.nodes.get(&node.id).is_some_and(|h| h.can_judge(&self.settings));
            if band < Band::Prepare || silent || !can_judge {
                continue;
            }
            let found = Chooser {
                settings: &self.settings,
                view,
                moves: &moves,
                proposed: &self.proposed,
                histories: &self.nodes,
            }
            .choose(node);
            // A decision needs fresh windows of both nodes before the next.
            match found {
                Choice::Move { book, to, .. } if band == Band::Move => {
                    decisions.push(found.as_move(node, self.load_seen(node)));
                    moves.push(MoveView { symbol: book, from: node.id, to });
                    self.remember(book, node.id, to, view.now);
                }
                _ => {
                    decisions.extend((band == Band::Move).then(|| found.as_stay(node, self.load_seen(node))));
                    decisions.extend(found.as_prepare(node, view));
                }
            }
        }
        if is_calm && decisions.is_empty() {
            decisions.extend(self.scale_in(view));
        }
        decisions
    }

    fn observe(&mut self, view: &View) {
        self.nodes.retain(|id, _| view.nodes.iter().any(|n| n.id == *id));
        let cooldown_us = self.settings.cooldown_us;
        self.proposed.retain(|_, at| view.now.0.saturating_sub(at.0) < cooldown_us);
        self.silent_until.retain(|_, until| view.now < *until);
        for ended in self.moves.iter().filter(|m| !view.moves.contains(m)) {
            // What was measured before says nothing of how it is now.
            forget(&mut self.nodes, &[ended.from, ended.to]);
        }
        self.moves.clone_from(&view.moves);
        for node in &view.nodes {
            self.nodes.entry(node.id).or_default().observe(node, &self.settings);
        }
    }

    fn remember(&mut self, book: Symbol, from: NodeId, to: NodeId, now: Micros) {
        self.proposed.insert(book, now);
        forget(&mut self.nodes, &[from, to]);
        if !self.is_heeded {
            self.silent_until.insert(from, Micros(now.0 + self.settings.cooldown_us));
        }
    }

    fn load_seen(&self, node: &NodeView) -> f64 {
        self.nodes.get(&node.id).map_or(node.load, |h| h.mean_load(&self.settings, node.load))
    }

    fn scale_in(&mut self, view: &View) -> Option<Decision> {
        let settings = &self.settings;
        let open: Vec<&NodeView> = view.nodes.iter().filter(|n| n.is_open).collect();
        if settings.nodes_min == 0 || open.len() <= settings.nodes_min {
            return None;
        }
        let is_idle = |n: &&&NodeView| {
            !self.silent_until.contains_key(&n.id) && self.nodes.get(&n.id).is_some_and(|h| h.is_idle(settings))
        };
        let idle = open.iter().filter(is_idle).min_by(|a, b| a.load.total_cmp(&b.load).then(b.id.cmp(&a.id)))?;
        let percent = idle.load * 100.0;
        let decision = |kind, reason, rest: &str| Decision {
            kind,
            symbol: None,
            from: Some(idle.id),
            to: None,
            reason,
            message: format!("{} has been idle ({percent:.0} %), {rest}", idle.id),
        };
        if !choose::fits_elsewhere(settings, idle, &open, &self.nodes) {
            return Some(decision(Kind::Stay, Reason::BooksDoNotFit, "but its books fit nowhere else"));
        }
        let decided = decision(Kind::ScaleIn, Reason::NodeIdle, "and the others can take its books: it is drained");
        if !self.is_heeded {
            self.silent_until.insert(idle.id, Micros(view.now.0 + settings.cooldown_us));
        }
        self.nodes.values_mut().for_each(History::forget);
        Some(decided)
    }
}

fn forget(nodes: &mut BTreeMap<NodeId, History>, of: &[NodeId]) {
    for id in of {
        if let Some(history) = nodes.get_mut(id) {
            history.forget();
        }
    }
}
