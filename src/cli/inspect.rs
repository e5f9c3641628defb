//! `hotbook snapshot inspect FILE`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::migration::snapshot::SnapshotHeader;

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
    let header = SnapshotHeader::decode(&bytes).with_context(|| format!("{} is not valid", file.display()))?;
    println!("symbol          {}", header.symbol);
    println!("offset          {} (the next record to apply)", header.offset);
    println!("epoch           {}", header.epoch);
    println!("owner           {}", header.owner);
    println!("last seq        {}", header.seqs.last);
    println!("events position {}", header.events_position);
    println!("rules version   {}", header.rules_version);
    println!("digest          {}", header.digest);
    println!("format          {}", header.format);
    println!("bytes           {} ({} of state, uncompressed)", bytes.len(), header.machine_bytes);
    Ok(())
}
