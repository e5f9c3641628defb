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

#[test]
fn dependencies_point_one_way() {
    let rooms: [(&str, &[&str]); 3] = [
        (
            "domain",
            &["crate::engine", "crate::migration", "crate::actors", "crate::api", "crate::ports", "crate::wire"],
        ),
        ("engine", &["crate::migration", "crate::actors", "crate::api", "crate::ports", "crate::wire"]),
        ("migration", &["crate::actors", "crate::api", "crate::wire", "actix"]),
    ];
    for (room, above) in rooms {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for (n, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let points_back = above.iter().find(|other| code.contains(**other));
                assert_eq!(points_back, None, "{}:{}: {}", path.display(), n + 1, line.trim());
            }
        }
    }
}
