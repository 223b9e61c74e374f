//! `nearfield check`: are these configuration files right?

mod kind;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use mesh::{config::Reach, program::Report};

pub use self::kind::Kind;
use crate::files::read_text;

/// The longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The ending of configuration files in a folder.
const ENDING: &str = "toml";

/// Checks configuration files as their programs would with --check, and tells all that is wrong with each.
///
/// Which program a file is for is found out by its sections, such as `[dns]` or `[store]`, and where it has none of its own by its
/// name, such as edge-1.toml. What environment variables (NEARFIELD_CORE__..., NEARFIELD_EDGE__..., NEARFIELD_DNS__...) say
/// counts, as for the programs. Nothing is made or kept open. Ends with 1 if a file is wrong.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, or folders: of these every *.toml file, and none of the folders below.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Checks only what the files say, for programs that run on other machines: not the certificates, addresses, models and other
    /// files and folders that they name.
    #[arg(long)]
    pub values_only: bool,
    /// The program that all of the files are for.
    #[arg(long, value_name = "PROGRAM")]
    pub program: Option<Kind>,
}

/// Runs the command.
///
/// # Errors
/// A file is wrong, or there is none.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let reach = if args.values_only { Reach::Values } else { Reach::Machine };
    let (mut files, mut wrong) = (0, 0);
    for path in &args.paths {
        for file in files_of(path)? {
            let found = check(&file, args.program, reach);
            tell(out, &file, &found)?;
            files += 1;
            wrong += usize::from(!found.errors.is_empty());
        }
    }
    ensure!(wrong == 0, "{wrong} of {files} {} wrong", if wrong == 1 { "is" } else { "are" });
    Ok(())
}

/// What was found in one file.
struct Found {
    kind: Option<Kind>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// `path`, or in order of name the configuration files of the folder that it is.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = || format!("{}: cannot be read", path.display());
    let mut files = vec![];
    for entry in path.read_dir().with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        if file.extension().is_some_and(|ending| ending == ENDING) && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{}: no *.{ENDING} file in it", path.display());
    }
    files.sort();
    Ok(files)
}

fn check(path: &Path, program: Option<Kind>, reach: Reach) -> Found {
    let none = |error: String| Found { kind: program, errors: vec![error], warnings: vec![] };
    let text = match read_text(path, MAX_FILE) {
        Ok(text) => text,
        Err(error) => return none(format!("{error:#}")),
    };
    let name = path.display().to_string();
    let sections = match kind::sections(&name, &text) {
        Ok(sections) => sections,
        Err(error) => return none(error.to_string()),
    };
    let kind = match program.map_or_else(|| kind::of(path, &sections), Ok) {
        Ok(kind) => kind,
        Err(error) => return none(format!("{name}: {error}")),
    };
    let Report { errors, warnings } = kind.check(&name, &text, reach);
    Found { kind: Some(kind), errors: errors.iter().map(ToString::to_string).collect(), warnings }
}

/// One line, and one more for each error and warning.
fn tell(out: &mut dyn Write, path: &Path, found: &Found) -> Result<()> {
    let kind = found.kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    let verdict = match found.errors.len() {
        0 => "right".to_owned(),
        1 => "1 error".to_owned(),
        more => format!("{more} errors"),
    };
    writeln!(out, "{}{kind}: {verdict}", path.display())?;
    let (errors, warnings) = (found.errors.iter(), found.warnings.iter());
    for (what, text) in errors.map(|text| ("error", text)).chain(warnings.map(|text| ("warning", text))) {
        // What TOML's parser says has several lines.
        writeln!(out, "  {what}: {}", text.replace('\n', "\n    "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
