use std::collections::BTreeSet;

use proptest::prelude::*;

use super::sim::{Pattern, WINDOW_US, run};
use super::*;

fn id(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn symbol(name: &str) -> Symbol {
    Symbol::new(name).unwrap()
}

fn book(name: &str, busy: f64) -> BookView {
    BookView {
        symbol: symbol(name),
        partition: 0,
        rate: busy * 20_000.0,
        busy,
        lag: 0,
        waiting_us: 0,
        orders: 1_000,
        moved_at: None,
    }
}

/// A node whose load is that of its books.
fn node(n: usize, books: &[BookView]) -> NodeView {
    let load = books.iter().map(|b| b.busy).sum::<f64>().min(1.0);
    let (measured_at, fetch, books) = (Micros(0), BTreeMap::new(), books.to_vec());
    NodeView { id: id(n), is_open: true, load, cores: 1.0, measured_at, books, fetch }
}

/// A policy with a clock that goes on by a window at each look.
struct Watch {
    placement: Placement,
    now: u64,
    moves: Vec<MoveView>,
}

impl Watch {
    fn new(settings: Settings) -> Self {
        Self { placement: Placement::new(settings, true), now: 1_000 * WINDOW_US, moves: Vec::new() }
    }

    fn look(&mut self, nodes: &[NodeView]) -> Vec<Decision> {
        self.now += WINDOW_US;
        let now = Micros(self.now);
        let nodes = nodes.iter().cloned().map(|n| NodeView { measured_at: now, ..n }).collect();
        self.placement.look(&View { now, nodes, moves: self.moves.clone(), warm: Vec::new() })
    }

    /// Looks until something is decided, or so many times.
    fn look_up_to(&mut self, times: usize, nodes: &[NodeView]) -> Vec<Decision> {
        (0..times).map(|_| self.look(nodes)).find(|d| !d.is_empty()).unwrap_or_default()
    }
}

type Brief = (Kind, Reason, Option<Symbol>, Option<NodeId>);

fn brief(decisions: &[Decision]) -> Vec<Brief> {
    decisions.iter().map(|d| (d.kind, d.reason, d.symbol, d.to)).collect()
}

fn hot_and_two_others() -> [NodeView; 3] {
    [
        node(1, &[book("A", 0.5), book("B", 0.3), book("C", 0.15)]),
        node(2, &[book("D", 0.3)]),
        node(3, &[book("E", 0.1)]),
    ]
}

#[test]
fn a_node_that_stays_hot_gives_the_book_that_helps_most_to_where_there_is_most_room() {
    let mut watch = Watch::new(Settings::default());
    let nodes = hot_and_two_others();
    assert_eq!(
        (brief(&watch.look(&nodes)), brief(&watch.look(&nodes))),
        (vec![], vec![]),
        "two windows are not enough"
    );
    let decisions = watch.look(&nodes);
    // B and A bring as much as is needed: B leaves its target emptier.
    assert_eq!(brief(&decisions), [(Kind::Move, Reason::NodeHot, Some(symbol("B")), Some(id(3)))]);
    assert_eq!(decisions[0].message, "n1 is at 95 %: B (30 % of a core) goes to n3, which will be at 40 %");
}

#[test]
fn a_short_burst_moves_nothing() {
    let mut watch = Watch::new(Settings::default());
    let (calm, hot) =
        ([node(1, &[book("A", 0.3)]), node(2, &[])], [node(1, &[book("A", 0.5), book("B", 0.5)]), node(2, &[])]);
    for _ in 0..20 {
        let decisions = [watch.look(&hot), watch.look(&calm), watch.look(&hot), watch.look(&calm), watch.look(&calm)];
        assert!(decisions.iter().all(Vec::is_empty), "{decisions:?}");
    }
}

#[test]
fn between_its_two_edges_a_node_moves_only_if_it_was_above_the_upper_one() {
    let between = [node(1, &[book("A", 0.4), book("B", 0.38)]), node(2, &[])];
    let mut watch = Watch::new(Settings::default());
    let first = watch.look_up_to(50, &between);
    assert_eq!(brief(&first), [(Kind::Prepare, Reason::TargetReady, None, Some(id(2)))]);
    let mut watch = Watch::new(Settings::default());
    let moves = |d: &[Decision]| d.iter().filter(|d| d.kind == Kind::Move).count();
    let hot = [node(1, &[book("A", 0.4), book("B", 0.38), book("C", 0.1)]), node(2, &[])];
    assert_eq!(moves(&watch.look_up_to(5, &hot)), 1);
    assert_eq!(moves(&watch.look_up_to(5, &between)), 1, "78 % is not yet out of the band");
    let out = [node(1, &[book("A", 0.4), book("C", 0.1)]), node(2, &[book("B", 0.38)])];
    assert_eq!(watch.look_up_to(50, &out), []);
}

#[test]
fn a_book_that_fills_its_core_stays_its_neighbours_go_and_that_is_said() {
    let mut watch = Watch::new(Settings::default());
    let nodes = [node(1, &[book("HOT", 0.9), book("SMALL", 0.05)]), node(2, &[])];
    let decisions = watch.look_up_to(5, &nodes);
    assert_eq!(brief(&decisions), [(Kind::Move, Reason::NeighbourOfFullBook, Some(symbol("SMALL")), Some(id(2)))]);
    assert!(decisions[0].message.ends_with("; HOT alone fills its core and stays"), "{}", decisions[0].message);
    let alone = [node(1, &[book("HOT", 0.99)]), node(2, &[book("SMALL", 0.05)])];
    let decisions = watch.look_up_to(10, &alone);
    assert_eq!(brief(&decisions), [(Kind::Stay, Reason::BookFillsCore, Some(symbol("HOT")), None)]);
    assert_eq!(decisions[0].message, "n1 is at 99 %, but nothing else can go; HOT alone fills its core and stays");
}

#[test]
fn without_room_elsewhere_nothing_moves_and_a_warm_node_is_called_in() {
    let nodes = [node(1, &[book("A", 0.5), book("B", 0.45)]), node(2, &[book("C", 0.4)]), node(3, &[book("D", 0.5)])];
    let mut watch = Watch::new(Settings::default());
    let none = (Kind::Prepare, Reason::NoWarmNode, None, None);
    assert_eq!(brief(&watch.look_up_to(5, &nodes)), [(Kind::Stay, Reason::NoRoom, None, None), none]);
    let mut placement = Placement::new(Settings::default(), true);
    let mut view = View { now: Micros(0), nodes: nodes.to_vec(), moves: Vec::new(), warm: vec![id(7)] };
    let mut last = Vec::new();
    for n in 1..5 {
        view.now = Micros(n * WINDOW_US);
        view.nodes.iter_mut().for_each(|node| node.measured_at = Micros(n * WINDOW_US));
        last = placement.look(&view);
    }
    assert_eq!(brief(&last)[1], (Kind::Prepare, Reason::WarmNode, None, Some(id(7))));
}

#[test]
fn the_same_window_seen_twice_counts_once() {
    let mut placement = Placement::new(Settings::default(), true);
    let view = View { now: Micros(5), nodes: hot_and_two_others().to_vec(), moves: Vec::new(), warm: Vec::new() };
    assert!((0..20).all(|_| placement.look(&view).is_empty()));
}

#[test]
fn a_book_that_catches_up_does_not_make_its_node_hot() {
    let mut watch = Watch::new(Settings::default());
    let others = node(2, &[book("D", 0.1)]);
    for left in (0..10).rev() {
        // It has come with a backlog: half of what it does is that, and batches wait.
        let new = BookView { lag: left * 6_000, waiting_us: 900_000, ..book("NEW", 0.6) };
        let busy = node(1, &[new, book("OLD", 0.35)]);
        assert_eq!(watch.look(&[busy, others.clone()]), []);
    }
    let behind = |n: u64| BookView { lag: n * 6_000, waiting_us: 900_000, ..book("NEW", 0.3) };
    let falls = (0..5).map(|n| watch.look(&[node(1, &[behind(n), book("OLD", 0.3)]), others.clone()]));
    let decided = falls.flatten().next().expect("a node whose book falls behind is as good as full");
    assert_eq!((decided.kind, decided.symbol), (Kind::Move, Some(symbol("OLD"))));
}

#[test]
fn one_move_in_and_one_out_per_node_and_so_many_in_all() {
    let full = |n: usize| {
        let name = |c: char| format!("{c}{n}");
        node(n, &[book(&name('A'), 0.4), book(&name('B'), 0.3), book(&name('C'), 0.25)])
    };
    let nodes: Vec<NodeView> = (1..=4).map(full).chain((5..=9).map(|n| node(n, &[]))).collect();
    let mut watch = Watch::new(Settings { moves_max: 3, ..Settings::default() });
    let decisions = watch.look_up_to(5, &nodes);
    let moves: Vec<&Decision> = decisions.iter().filter(|d| d.kind == Kind::Move).collect();
    let set = |end: fn(&Decision) -> Option<NodeId>| moves.iter().filter_map(|d| end(d)).collect::<BTreeSet<_>>().len();
    assert_eq!((moves.len(), set(|d| d.from), set(|d| d.to)), (3, 3, 3));
    let waits = decisions.iter().find(|d| d.kind == Kind::Stay).unwrap();
    assert_eq!((waits.reason, waits.from), (Reason::MoveRunning, Some(id(4))));
    // While they run, none follows.
    let running = |d: &&Decision| MoveView { symbol: d.symbol.unwrap(), from: d.from.unwrap(), to: d.to.unwrap() };
    watch.moves = moves.iter().map(running).collect();
    for _ in 0..10 {
        assert!(watch.look(&nodes).iter().all(|d| d.kind == Kind::Stay));
    }
}

#[test]
fn an_idle_node_is_drained_only_if_that_is_wanted_and_its_books_fit_elsewhere() {
    let idle = [node(1, &[book("A", 0.3)]), node(2, &[book("B", 0.1)]), node(3, &[book("C", 0.05)])];
    assert_eq!(Watch::new(Settings::default()).look_up_to(100, &idle), []);
    let settings = Settings { nodes_min: 2, idle_windows: 10, ..Settings::default() };
    let decisions = Watch::new(settings.clone()).look_up_to(100, &idle);
    assert_eq!(
        (decisions[0].kind, decisions[0].reason, decisions[0].from),
        (Kind::ScaleIn, Reason::NodeIdle, Some(id(3)))
    );
    assert_eq!(Watch::new(Settings { nodes_min: 3, ..settings.clone() }).look_up_to(100, &idle), []);
    let full = [node(1, &[book("A", 0.45)]), node(2, &[book("B", 0.49)]), node(3, &[book("C", 0.15)])];
    assert_eq!(Watch::new(settings).look_up_to(100, &full)[0].reason, Reason::BooksDoNotFit);
}

#[test]
fn what_is_only_advised_is_not_said_again_at_every_look() {
    let mut watch = Watch::new(Settings::default());
    watch.placement = Placement::new(Settings::default(), false);
    let nodes = hot_and_two_others();
    let decided: Vec<Decision> = (0..60).flat_map(|_| watch.look(&nodes)).collect();
    assert_eq!(decided.len(), 1, "{decided:?}");
}

/// Loads that change at random, at each look: at most four nodes, some closed.
fn any_story() -> impl Strategy<Value = Vec<Vec<(bool, Vec<f64>)>>> {
    let node = (prop::bool::weighted(0.8), prop::collection::vec(0.0..0.6f64, 0..4));
    prop::collection::vec(prop::collection::vec(node, 4), 1..60)
}

fn story_nodes(look: &[(bool, Vec<f64>)], at: &BTreeMap<Symbol, (usize, Option<Micros>)>) -> Vec<NodeView> {
    let of = |n: usize| {
        let mine = at.iter().filter(|(_, (node, _))| *node == n);
        let busy = |k: usize| look[n].1.get(k % 4).copied().unwrap_or(0.01);
        let view = |(k, (symbol, (_, moved_at))): (usize, (&Symbol, &(usize, Option<Micros>)))| BookView {
            moved_at: *moved_at,
            ..book(symbol.as_str(), busy(k))
        };
        let books: Vec<BookView> = mine.enumerate().map(view).collect();
        NodeView { is_open: look[n].0, ..node(n, &books) }
    };
    (0..4).map(of).collect()
}

proptest! {
    /// Whatever is measured: books go from open nodes to open ones that have room, one in and one out per node, none
    /// twice within its cooldown; and the order in which things are listed decides nothing.
    #[test]
    fn every_proposal_keeps_the_rules(story in any_story(), takes in 0usize..3) {
        let settings = Settings { cooldown_us: 10 * WINDOW_US, ..Settings::default() };
        let (mut placement, mut mirrored) = (Placement::new(settings.clone(), true), Placement::new(settings.clone(), true));
        let mut at: BTreeMap<Symbol, (usize, Option<Micros>)> =
            (0..12).map(|n| (symbol(&format!("B{n}")), (n % 4, None))).collect();
        let mut running: Vec<(MoveView, usize)> = Vec::new();
        let mut proposed: BTreeMap<Symbol, Micros> = BTreeMap::new();
        for (n, look) in story.iter().enumerate() {
            let now = Micros((n as u64 + 1_000) * WINDOW_US);
            let nodes: Vec<NodeView> =
                story_nodes(look, &at).into_iter().map(|n| NodeView { measured_at: now, ..n }).collect();
            let moves = running.iter().map(|(m, _)| *m).collect();
            let view = View { now, nodes: nodes.clone(), moves, warm: Vec::new() };
            let decisions = placement.look(&view);
            let mut other = view.clone();
            other.nodes.reverse();
            other.moves.reverse();
            other.nodes.iter_mut().for_each(|n| n.books.reverse());
            prop_assert_eq!(&decisions, &mirrored.look(&other));
            for d in decisions.iter().filter(|d| d.kind == Kind::Move) {
                let (book, from, to) = (d.symbol.unwrap(), d.from.unwrap(), d.to.unwrap());
                let find = |id: NodeId| nodes.iter().find(|n| n.id == id).unwrap();
                let (source, target) = (find(from), find(to));
                prop_assert!(from != to && source.is_open && target.is_open);
                let busy = source.books.iter().find(|b| b.symbol == book).expect("it is there").busy;
                prop_assert!(target.load + busy <= settings.target_max + 1e-9);
                prop_assert!(running.iter().all(|(m, _)| m.symbol != book && m.from != from && m.to != to));
                prop_assert!(proposed.get(&book).is_none_or(|was| now.0 - was.0 >= settings.cooldown_us));
                prop_assert!(at[&book].1.is_none_or(|was| now.0 - was.0 >= settings.cooldown_us));
                proposed.insert(book, now);
                running.push((MoveView { symbol: book, from, to }, n + takes));
            }
            prop_assert!(running.len() <= settings.moves_max);
            let (ended, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, ends)| *ends <= n);
            running = still;
            for (m, _) in ended {
                let to = (0..4).find(|n| id(*n) == m.to).unwrap();
                at.insert(m.symbol, (to, Some(now)));
            }
        }
    }
}

#[test]
fn hot_spots_are_settled_within_the_stated_moves_and_nothing_oscillates() {
    for pattern in Pattern::ALL {
        let mut moves = 0;
        for seed in 1..=40 {
            let outcome = run(seed, pattern, Settings::default(), false);
            assert_eq!(
                outcome.violations,
                Vec::<String>::new(),
                "hotbook sim --placement {pattern:?} --seed {seed} --trace"
            );
            moves += outcome.moves;
        }
        assert!(moves > 40, "{pattern:?}: the load moves nothing");
    }
}

#[test]
fn a_policy_without_cooldown_and_hysteresis_is_found_to_oscillate() {
    let nervous = Settings {
        windows: 1,
        windows_needed: 1,
        cooldown_us: 0,
        leave_below: 0.45,
        move_above: 0.45,
        target_max: 2.0,
        ..Settings::default()
    };
    let found = (1..=20).filter(|seed| !run(*seed, Pattern::Square, nervous.clone(), false).violations.is_empty());
    assert!(found.count() > 0, "the simulation would not see an oscillation");
}
