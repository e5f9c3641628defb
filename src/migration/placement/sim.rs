//! The placement policy in a simulated cluster: nodes with a budget, books that want CPU time, and hot spots that come,
//! go and wander. It must settle within a stated number of moves, and not oscillate.
//!
//! A window is a step. A node gives its books what they want, or less if it has not got it, and then they fall behind;
//! measurements are noisy; moves take windows, some are aborted.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::{BookView, Decision, Kind, MoveView, NodeView, Placement, Settings, View};
use crate::domain::{Micros, NodeId, Symbol};
use crate::migration::sim::random::Stream;

/// Length of a window.
pub const WINDOW_US: u64 = 1_000_000;
/// What a command costs: 50 us are 20,000 commands per second and core.
const COMMAND_US: f64 = 50.0;
/// What the hot spot makes of its node's load, or the most that the cluster has room for.
const HOT_LOAD: f64 = 1.2;
/// No book wants more: above it there is no place for it.
const BOOK_MAX: f64 = 0.30;
/// All that is wanted, as a fraction of all there is: far above it there would be no placement to find.
const TOTAL_MAX: f64 = 0.50;
/// Windows before the load changes first: what the first placement has too much of somewhere is put right.
const QUIET: u64 = 180;

/// How the load changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Pattern {
    /// One node's books become hot and stay so.
    Step,
    /// The same books are hot and quiet in turn.
    Square,
    /// The hot spot goes on to the books of another node, again and again.
    Rotating,
}

impl Pattern {
    pub const ALL: [Self; 3] = [Self::Step, Self::Square, Self::Rotating];

    /// Windows of a run.
    fn windows(self) -> u64 {
        match self {
            Self::Step => 600,
            Self::Square | Self::Rotating => 3_600,
        }
    }
}

/// What is asked of every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Moves for one change of load.
    pub moves_per_change: usize,
    /// Windows from a change until no node is hot, and the last move is over.
    pub windows_to_settle: u64,
}

impl Bounds {
    /// Measured over many seeds, with room: what docs/placement.md states.
    pub fn of(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Step => Self { moves_per_change: 10, windows_to_settle: 60 },
            Pattern::Square => Self { moves_per_change: 8, windows_to_settle: 60 },
            Pattern::Rotating => Self { moves_per_change: 12, windows_to_settle: 60 },
        }
    }
}

/// What a run showed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub nodes: usize,
    pub books: usize,
    /// Windows between two changes; 0 for a single one.
    pub period: u64,
    pub changes: usize,
    pub moves: usize,
    pub aborted: usize,
    /// The most moves for one change.
    pub moves_per_change_max: usize,
    /// The most windows that a change took to settle.
    pub windows_to_settle_max: u64,
    /// Moves of a book back to where it had just come from.
    pub returns: usize,
    /// Moves in the second half of the run.
    pub late_moves: usize,
    pub violations: Vec<String>,
    /// Line by line, if it was asked for.
    pub trace: Vec<String>,
}

struct Book {
    symbol: Symbol,
    node: usize,
    /// In cores, when it is quiet.
    base: f64,
    is_hot: bool,
    orders: u64,
    behind: f64,
    moved_at: Option<Micros>,
    came_from: Option<usize>,
}

struct Moving {
    book: usize,
    to: usize,
    ends: u64,
    is_aborted: bool,
}

struct World {
    nodes: usize,
    books: Vec<Book>,
    /// What hot books want, as a multiple of what they want when quiet.
    factor: f64,
    /// Hot books are hot now.
    is_on: bool,
    moving: Vec<Moving>,
    settings: Settings,
    noise: Stream,
    moves: Stream,
    window: u64,
}

fn node_id(n: usize) -> NodeId {
    NodeId::new(&format!("n{}", n + 1)).unwrap_or_else(|_| unreachable!("n1 to n9 are good names"))
}

impl World {
    fn new(seed: u64, settings: Settings) -> Self {
        let mut setup = Stream::new(seed, "placement: setup");
        let nodes = setup.between(3, 8) as usize;
        let count = nodes as u64 * setup.between(4, 30);
        let weight = |n: u64| 1.0 / (n as f64 + 3.0);
        let all: f64 = (0..count).map(weight).sum();
        let wanted = nodes as f64 * setup.between(15, 35) as f64 / 100.0;
        let book = |n| {
            let symbol = Symbol::new(&format!("B{n:03}")).unwrap_or_else(|_| unreachable!("a good name"));
            let (node, orders) = (setup.index(nodes), setup.between(100, 200_000));
            let base = (wanted * weight(n) / all).min(BOOK_MAX);
            Book { symbol, node, base, is_hot: false, orders, behind: 0.0, moved_at: None, came_from: None }
        };
        let books = (0..count).map(book).collect();
        let (noise, moves) = (Stream::new(seed, "placement: noise"), Stream::new(seed, "placement: moves"));
        Self { nodes, books, factor: 1.0, is_on: true, moving: Vec::new(), settings, noise, moves, window: 0 }
    }

    fn now(&self) -> Micros {
        // Not 0: a book that moved then would never have cooled down.
        Micros((self.window + 1_000_000) * WINDOW_US)
    }

    fn wants(&self, book: &Book) -> f64 {
        if book.is_hot && self.is_on { (book.base * self.factor).min(BOOK_MAX) } else { book.base }
    }

    fn wanted_of(&self, node: usize) -> f64 {
        self.books.iter().filter(|b| b.node == node).map(|b| self.wants(b)).sum()
    }

    /// Heats the costliest third of a node's books up, as far as the cluster has room for it.
    fn heat(&mut self, node: usize) {
        self.books.iter_mut().for_each(|b| b.is_hot = false);
        let mut of: Vec<usize> = (0..self.books.len()).filter(|b| self.books[*b].node == node).collect();
        of.sort_by(|a, b| self.books[*b].base.total_cmp(&self.books[*a].base));
        of.truncate((of.len() / 3).max(3));
        of.iter().for_each(|b| self.books[*b].is_hot = true);
        self.factor = 1.0;
        let total = |w: &Self| w.books.iter().map(|b| w.wants(b)).sum::<f64>();
        while self.wanted_of(node) < HOT_LOAD && self.factor < 1_000.0 {
            self.factor *= 1.05;
            if total(self) > TOTAL_MAX * self.nodes as f64 {
                self.factor /= 1.05;
                return;
            }
        }
    }

    /// The node whose books want least: heat comes as a surprise there.
    fn coolest(&self) -> usize {
        (0..self.nodes).min_by(|a, b| self.wanted_of(*a).total_cmp(&self.wanted_of(*b))).unwrap_or(0)
    }

    /// Lets a window pass; what the nodes measured in it.
    fn pass(&mut self) -> View {
        self.window += 1;
        let now = self.now();
        let mut nodes = Vec::new();
        for node in 0..self.nodes {
            nodes.push(self.measure(node, now));
        }
        let moves = self.moving.iter().map(|m| self.view_of(m)).collect();
        View { now, nodes, moves, warm: Vec::new() }
    }

    fn view_of(&self, m: &Moving) -> MoveView {
        let book = &self.books[m.book];
        MoveView { symbol: book.symbol, from: node_id(book.node), to: node_id(m.to) }
    }

    fn measure(&mut self, node: usize, now: Micros) -> NodeView {
        let of: Vec<usize> = (0..self.books.len()).filter(|b| self.books[*b].node == node).collect();
        // Up to a tenth more or less than usual comes in a window.
        let arrives: Vec<f64> =
            of.iter().map(|b| self.wants(&self.books[*b]) * self.noise.between(900, 1_100) as f64 / 1_000.0).collect();
        let due: Vec<f64> = of.iter().zip(&arrives).map(|(b, a)| a + self.books[*b].behind).collect();
        let all = due.iter().sum::<f64>();
        let mut views = Vec::new();
        for (b, due) in of.iter().zip(&due) {
            let busy = if all <= 1.0 { *due } else { due / all };
            let book = &mut self.books[*b];
            book.behind = due - busy;
            let waiting_us = if busy > 0.0 { (book.behind / busy * WINDOW_US as f64) as u64 } else { 0 };
            let (rate, lag) = (busy * 1e6 / COMMAND_US, (book.behind * 1e6 / COMMAND_US) as u64);
            let (symbol, orders, moved_at) = (book.symbol, book.orders, book.moved_at);
            views.push(BookView { symbol, partition: 0, rate, busy, lag, waiting_us, orders, moved_at });
        }
        let fetch = BTreeMap::new();
        NodeView {
            id: node_id(node),
            is_open: true,
            load: all.min(1.0),
            cores: 1.0,
            measured_at: now,
            books: views,
            fetch,
        }
    }

    /// Begins what was decided; says which book goes where.
    fn begin(&mut self, decision: &Decision) -> Option<(usize, usize)> {
        let book = self.books.iter().position(|b| Some(b.symbol) == decision.symbol)?;
        let to = (0..self.nodes).find(|n| Some(node_id(*n)) == decision.to)?;
        let (ends, is_aborted) = (self.window + self.moves.between(1, 3), self.moves.chance(50));
        self.moving.push(Moving { book, to, ends, is_aborted });
        Some((book, to))
    }

    /// Ends the moves whose time has come: how many were carried out, were aborted, went back to where they came from.
    fn end_moves(&mut self) -> (usize, usize, usize) {
        let (now, window) = (self.now(), self.window);
        let (ended, moving) = std::mem::take(&mut self.moving).into_iter().partition(|m| m.ends <= window);
        self.moving = moving;
        let (mut done, mut aborted, mut returns) = (0, 0, 0);
        for Moving { book, to, is_aborted, .. } in ended {
            if is_aborted {
                aborted += 1;
                continue;
            }
            let book = &mut self.books[book];
            done += 1;
            returns += usize::from(book.came_from == Some(to));
            (book.came_from, book.node, book.moved_at) = (Some(book.node), to, Some(now));
        }
        (done, aborted, returns)
    }

    fn is_calm(&self) -> bool {
        let is_hot = |node| self.wanted_of(node) > self.settings.move_above;
        self.moving.is_empty() && !(0..self.nodes).any(is_hot)
    }
}

/// Looks at the world as an operator would.
struct Watcher {
    bounds: Bounds,
    trace: bool,
    outcome: Outcome,
    changed_at: Option<u64>,
    moves_since: usize,
}

impl Watcher {
    fn say(&mut self, window: u64, text: impl FnOnce() -> String) {
        if self.trace {
            self.outcome.trace.push(format!("{window:>5} {}", text()));
        }
    }

    fn violated(&mut self, window: u64, what: String) {
        self.say(window, || format!("VIOLATION {what}"));
        self.outcome.violations.push(format!("window {window}: {what}"));
    }

    fn change(&mut self, window: u64) {
        (self.changed_at, self.moves_since) = (Some(window), 0);
        self.outcome.changes += 1;
    }

    fn look(&mut self, world: &World) {
        let Some(changed_at) = self.changed_at else { return };
        let took = world.window - changed_at;
        if world.is_calm() {
            self.changed_at = None;
            self.outcome.windows_to_settle_max = self.outcome.windows_to_settle_max.max(took);
            let moves = self.moves_since;
            self.say(world.window, || format!("calm again after {took} windows and {moves} moves"));
        } else if took == self.bounds.windows_to_settle + 1 {
            self.violated(world.window, format!("not calm {took} windows after the load changed"));
        }
    }

    /// A move that was decided.
    fn decided(&mut self, world: &World, book: usize, to: usize, decision: &Decision) {
        self.say(world.window, || decision.message.clone());
        let (book, now) = (&world.books[book], world.now());
        let since = book.moved_at.map(|at| now.0.saturating_sub(at.0));
        if since.is_some_and(|us| us < world.settings.cooldown_us) {
            self.violated(world.window, format!("{} moves again in its cooldown", book.symbol));
        }
        let after = world.wanted_of(to) + world.wants(book);
        if after > world.settings.move_above {
            self.violated(world.window, format!("{} makes n{} as hot as {:.0} %", book.symbol, to + 1, after * 100.0));
        }
    }

    fn moved(&mut self, world: &World, pattern: Pattern, (done, aborted, returns): (usize, usize, usize)) {
        self.outcome.moves += done;
        self.outcome.aborted += aborted;
        self.outcome.returns += returns;
        self.moves_since += done;
        self.outcome.moves_per_change_max = self.outcome.moves_per_change_max.max(self.moves_since);
        self.outcome.late_moves += if world.window > pattern.windows() / 2 { done } else { 0 };
        if done > 0 && self.moves_since == self.bounds.moves_per_change + 1 {
            self.violated(world.window, format!("{} moves for one change of load", self.moves_since));
        }
    }

    fn end(&mut self, pattern: Pattern) {
        let late = self.outcome.late_moves;
        // One: what is left just below the edge may be seen above it in some unlucky windows, much later.
        if pattern != Pattern::Rotating && late > 1 {
            self.violated(pattern.windows(), format!("{late} moves in the second half: it does not settle"));
        }
    }
}

/// Runs one seed of a pattern with these settings. `trace`: keeps the story.
pub fn run(seed: u64, pattern: Pattern, settings: Settings, trace: bool) -> Outcome {
    let mut world = World::new(seed, settings.clone());
    let mut placement = Placement::new(settings, true);
    let mut choice = Stream::new(seed, "placement: pattern");
    let period = match pattern {
        Pattern::Step => 0,
        Pattern::Square => choice.between(4, 400),
        Pattern::Rotating => choice.between(120, 600),
    };
    let outcome = Outcome { nodes: world.nodes, books: world.books.len(), period, ..Outcome::default() };
    let (bounds, changed_at) = (Bounds::of(pattern), Some(0));
    let mut watcher = Watcher { bounds, trace, outcome, changed_at, moves_since: 0 };
    let first = choice.index(world.nodes);
    while world.window < pattern.windows() {
        if let Some(node) = heated(&mut world, pattern, period, first) {
            watcher.change(world.window);
            let wanted = world.wanted_of(node) * 100.0;
            watcher.say(world.window, || format!("n{} is heated up to {wanted:.0} %", node + 1));
        }
        let view = world.pass();
        for decision in placement.look(&view).iter().filter(|d| d.kind == Kind::Move) {
            if let Some((book, to)) = world.begin(decision) {
                watcher.decided(&world, book, to, decision);
            }
        }
        let ended = world.end_moves();
        watcher.moved(&world, pattern, ended);
        watcher.look(&world);
    }
    watcher.end(pattern);
    watcher.outcome
}

/// Changes the load if it is time for that; the node that became hot.
fn heated(world: &mut World, pattern: Pattern, period: u64, first: usize) -> Option<usize> {
    let since = world.window.checked_sub(QUIET)?;
    match pattern {
        Pattern::Step if since == 0 => {
            world.heat(first);
            Some(first)
        }
        Pattern::Square if since == 0 => {
            world.heat(first);
            Some(first)
        }
        Pattern::Square if since % (2 * period) == 0 => {
            world.is_on = true;
            Some(first)
        }
        Pattern::Square if since % period == 0 => {
            world.is_on = false;
            None
        }
        Pattern::Rotating if since % period == 0 => {
            let node = world.coolest();
            world.heat(node);
            Some(node)
        }
        _ => None,
    }
}
