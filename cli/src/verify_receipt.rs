//! `nearfield verify-receipt`: checks the signed receipt of a meeting, offline.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use core_node::receipt::{
    jws::MAX_JWS,
    show::show,
    verify::{Against, verify},
};
use geo::map::RegionMap;

use crate::files::{read, read_text};

/// The longest transcript, list or table that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// Checks the signed receipt of a meeting, offline, and shows what it says. Ends with 1 if it is not to be believed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The receipt, as GET /v1/meetings/{id}/receipt answered.
    pub file: PathBuf,
    /// The certificates of the mesh's authorities, PEM.
    #[arg(long)]
    pub ca: PathBuf,
    /// What they have revoked, PEM.
    #[arg(long)]
    pub crl: Option<PathBuf>,
    /// The mesh's own regions, if it has any: `geo.regions_file`.
    #[arg(long)]
    pub regions: Option<PathBuf>,
    /// Also checks that this is its transcript: the JSON of GET /v1/meetings/{id}/transcript.
    #[arg(long)]
    pub transcript: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or the receipt is not to be believed.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let (receipt, ca) = (read(&args.file, MAX_JWS)?, read(&args.ca, MAX_FILE)?);
    let optional = |path: &Option<PathBuf>| path.as_ref().map(|path| read(path, MAX_FILE)).transpose();
    let (crl, transcript) = (optional(&args.crl)?, optional(&args.transcript)?);
    let map = regions(args)?;
    let against = Against { ca: &ca, crl: crl.as_deref(), map: &map, transcript: transcript.as_deref() };
    let checked = verify(&receipt, &against);
    let (receipt, signer) = checked.with_context(|| format!("{}: not to be believed", args.file.display()))?;
    write!(out, "{}", show(&receipt, &signer))?;
    writeln!(out, "The receipt is valid.")?;
    Ok(())
}

fn regions(args: &Args) -> Result<RegionMap> {
    let Some(path) = &args.regions else { return Ok(RegionMap::built_in()) };
    RegionMap::built_in().overlaid(&read_text(path, MAX_FILE)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
