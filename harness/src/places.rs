//! Where the program and the servers are found.

use std::path::{Path, PathBuf};

/// The program that `HOTBOOK_BIN` names, for tests outside of this project; its own say `env!("CARGO_BIN_EXE_hotbook")`.
///
/// # Panics
/// When that is not set, or names no file.
pub fn program() -> PathBuf {
    let Some(path) = std::env::var_os("HOTBOOK_BIN") else {
        panic!(
            "HOTBOOK_BIN is not set: it names the hotbook program that tests are to run, \
             built with --features cluster"
        )
    };
    checked(Path::new(&path))
}

/// A program that is there.
pub(crate) fn checked(program: &Path) -> PathBuf {
    let found = program.canonicalize().unwrap_or_else(|e| panic!("no hotbook program at {}: {e}", program.display()));
    assert!(found.is_file(), "{} is no program", found.display());
    found
}

/// The folder `scripts` of a checkout of hotbook, which fetches and starts real servers: `HOTBOOK_SCRIPTS`, or that of the
/// checkout that this library was built from.
///
/// # Panics
/// When there is none.
pub fn scripts() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("scripts");
    let folder = std::env::var_os("HOTBOOK_SCRIPTS").map_or_else(ours, PathBuf::from);
    assert!(
        folder.join("services").is_file(),
        "no servers for tests: there is no {}/services. HOTBOOK_SCRIPTS names the folder scripts of a checkout of hotbook",
        folder.display()
    );
    folder
}

/// Where `scripts/services` keeps what it fetched: `HOTBOOK_SERVICES_DIR`, or `target/services` beside its folder.
pub fn services_folder() -> PathBuf {
    let default = || scripts().with_file_name("target").join("services");
    std::env::var_os("HOTBOOK_SERVICES_DIR").map_or_else(default, PathBuf::from)
}
