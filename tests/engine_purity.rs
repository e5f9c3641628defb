//! The engine is a function of its inputs: its source is read for what would make it anything else.

use std::path::Path;

/// Clocks, randomness, the outside, async, hash order, floats.
const FORBIDDEN: [&str; 22] = [
    "std::time",
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "RandomState",
    "f64",
    "f32",
    "actix",
    "tokio",
    "async",
    "await",
    "std::fs",
    "std::net",
    "std::env",
    "std::io",
    "std::thread",
    "Mutex",
    "Atomic",
    "getrandom",
    "rand::",
    "println",
];

fn offences(folder: &Path, found: &mut Vec<String>) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += offences(&path, found);
            continue;
        }
        files += 1;
        for (n, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in FORBIDDEN.iter().filter(|word| code.contains(**word)) {
                found.push(format!("{}:{}: {word}: {}", path.display(), n + 1, line.trim()));
            }
        }
    }
    files
}

#[test]
fn the_engine_asks_nothing_of_the_world() {
    let mut found = Vec::new();
    let files = offences(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine"), &mut found);
    assert!(files >= 8, "only {files} files were read: is the engine elsewhere?");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Each room and what it may use besides itself; clock and config are no rooms.
const ROOMS: [(&str, &[&str]); 8] = [
    ("domain", &[]),
    ("engine", &["domain"]),
    ("ports", &["domain"]),
    ("wire", &["domain"]),
    ("migration", &["domain", "engine", "ports", "wire"]),
    ("actors", &["domain", "engine", "migration", "ports", "wire"]),
    ("api", &["domain", "engine", "migration", "ports", "wire", "actors"]),
    ("cli", &["domain", "engine", "migration", "ports", "wire", "actors", "api"]),
];

fn each_line(folder: &Path, look: &mut impl FnMut(&Path, usize, &str)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_line(&path, look);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            text.lines().enumerate().for_each(|(n, line)| look(&path, n + 1, line));
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    let (mut lines, mut found) = (0, Vec::new());
    for (room, uses) in ROOMS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room);
        each_line(&folder, &mut |path, n, line| {
            lines += 1;
            let code = line.split("//").next().unwrap_or_default();
            let is_used = |other: &str| code.contains(&format!("crate::{other}::"));
            let points_back = ROOMS.iter().any(|(other, _)| *other != room && !uses.contains(other) && is_used(other));
            // Only actors and what is above them know actix.
            let knows_actix = code.contains("use actix") && !["actors", "api", "cli"].contains(&room);
            if points_back || knows_actix {
                found.push(format!("{}:{n}: {}", path.display(), line.trim()));
            }
        });
    }
    assert!(lines > 10_000, "only {lines} lines were read: are the rooms elsewhere?");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
