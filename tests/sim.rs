//! The simulator: a few hundred seeds without a violation, and proof that it can see one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hotbook::migration::sim::{Counts, Happened, Mutation, Options, command_for, run};

/// Seeds that every test run visits: 400 x about 5 ms.
const SEEDS: u64 = 400;
/// Within so many seeds every mutation must be caught.
const MUTATED_SEEDS: u64 = 600;

#[test]
fn no_seed_shows_a_violation_and_every_fault_happens() {
    let (next, all) = (AtomicU64::new(1), Mutex::new((Counts::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let outcome = run(seed, Options::default());
                    let mut all = all.lock().unwrap();
                    all.0.merge(&outcome.counts);
                    if let Some(first) = outcome.violations.first() {
                        all.1.push(format!("seed {seed}: {first}; repeat: {}", command_for(seed, None)));
                    }
                }
            });
        }
    });
    let (counts, violations) = all.into_inner().unwrap();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    let never: Vec<Happened> = Happened::ALL.into_iter().filter(|what| counts.get(*what) == 0).collect();
    assert!(never.is_empty(), "never happened in {SEEDS} seeds: {never:?}");
}

#[test]
fn a_seed_is_repeated_exactly() {
    for seed in [3, 4_711] {
        let options = Options { trace: true, ..Options::default() };
        let (once, again) = (run(seed, options), run(seed, options));
        assert!(once.trace.len() > 50, "the story of seed {seed} has {} lines", once.trace.len());
        assert_eq!(once, again);
    }
    assert_ne!(run(3, Options::default()).counts, run(4, Options::default()).counts);
}

#[test]
fn a_trace_changes_nothing() {
    let silent = run(17, Options::default());
    let told = run(17, Options { trace: true, ..Options::default() });
    assert_eq!((silent.counts, silent.violations), (told.counts, told.violations));
}

/// The readings of the handover that lose data, and a few more: each must be seen, and the seed named.
#[test]
fn every_wrong_reading_is_caught() {
    for mutation in Mutation::ALL {
        let caught = (1..=MUTATED_SEEDS).find_map(|seed| {
            let outcome = run(seed, Options { mutation: Some(mutation), trace: false });
            outcome.violations.first().map(|first| (seed, first.clone()))
        });
        let Some((seed, first)) = caught else {
            panic!("{} is not caught within {MUTATED_SEEDS} seeds", mutation.name());
        };
        println!("{}: seed {seed}: {first}\n  repeat: {}", mutation.name(), command_for(seed, Some(mutation)));
        assert!(first.starts_with("audit: "), "not the auditor sees {}: {first}", mutation.name());
        let clean = run(seed, Options::default());
        assert!(clean.violations.is_empty(), "seed {seed} fails without the mutation too: {:?}", clean.violations);
    }
}

fn hotbook_sim(args: &[&str]) -> (bool, String, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_hotbook")).arg("sim").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

#[test]
fn the_command_prints_a_table_and_fails_with_the_seed_and_how_to_repeat_it() {
    let (is_good, out, progress) = hotbook_sim(&["--seeds", "20", "--from", "100", "--threads", "2"]);
    assert!(is_good && out.contains("no violation"), "{out}");
    assert!(progress.contains("20 of 20 seeds, 0 with a violation"), "{progress}");
    assert!(Happened::ALL.iter().all(|what| out.contains(what.words())), "{out}");

    let mutated = ["--mutation", "crash-path-only-behind-fence"];
    let (is_good, out, error) = hotbook_sim(&[&["--seeds", "5"][..], &mutated].concat());
    assert!(!is_good && error.contains("of 5 seeds show a violation"), "{error}");
    let repeat = out.lines().find_map(|l| l.trim().strip_prefix("repeat: hotbook sim ")).unwrap();
    let (is_good, story, error) = hotbook_sim(&repeat.split(' ').collect::<Vec<_>>());
    assert!(!is_good && story.contains("FENCE") && story.contains("VIOLATION"), "{story}");
    assert!(error.contains("audit: "), "{error}");
}

#[test]
fn the_placement_of_books_is_simulated_too_and_a_seed_tells_its_story() {
    let (is_good, out, _) = hotbook_sim(&["--placement", "--seeds", "5", "--from", "7"]);
    assert!(is_good && out.contains("every run settled within its bounds"), "{out}");
    let moves = |pattern: &str| {
        let line = out.lines().find(|l| l.trim_start().starts_with(pattern)).unwrap();
        line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap()
    };
    assert!(moves("step") > 0 && moves("square") > 0 && moves("rotating") > moves("step"), "{out}");
    let (is_good, story, _) = hotbook_sim(&["--placement", "rotating", "--seed", "3", "--trace"]);
    assert!(is_good && story.contains("is heated up to") && story.contains("goes to n"), "{story}");
}
