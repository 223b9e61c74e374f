//! What the code has: files, and words in them.

use std::{fs, path::Path, sync::LazyLock};

use crate::page::root;

/// Packages with source code that pages speak of.
pub(crate) const CRATES: [&str; 7] = ["geo", "mesh", "edge-node", "core-node", "cli", "bench", "silero"];

/// A package's folder, from the root.
pub(crate) fn folder(package: &str) -> String {
    if package == "silero" { "edge-node/silero".into() } else { package.into() }
}

/// The text of every Rust file of a folder, one after the other; empty if there is none.
pub(crate) fn text(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let of = |path: &Path| match path.is_dir() {
        true => text(path),
        false if path.extension().is_some_and(|ending| ending == "rs") => fs::read_to_string(path).unwrap(),
        false => String::new(),
    };
    paths.iter().map(|path| of(path)).collect()
}

/// The source of all packages.
pub(crate) fn all() -> &'static str {
    static ALL: LazyLock<String> =
        LazyLock::new(|| CRATES.iter().map(|package| text(&root().join(folder(package)).join("src"))).collect());
    &ALL
}

/// Each module by its path in its package, `membership/cards`, with its code.
pub(crate) fn modules() -> &'static [(String, String)] {
    static MODULES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let mut found = vec![];
        for package in CRATES {
            let src = root().join(folder(package)).join("src");
            walk(&src, &src, &mut found);
        }
        found
    });
    &MODULES
}

fn walk(src: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            walk(src, &path, found);
        } else if let (Ok(code), Ok(name)) = (fs::read_to_string(&path), path.with_extension("").strip_prefix(src)) {
            found.push((name.display().to_string(), code));
        }
    }
}

/// Whether an item of this name is declared in the text.
pub(crate) fn declares(text: &str, item: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "const", "type", "mod"];
    let declared = |after: &str| after.strip_prefix(item).is_some_and(|rest| !rest.starts_with(is_word));
    kinds.iter().any(|kind| text.split(&format!("{kind} ")).skip(1).any(declared))
}

/// Whether a test's name, or the module that it is in, has this in it.
pub(crate) fn has_test(text: &str, part: &str) -> bool {
    let named = |after: &str| after.split(|c| !is_word(c)).next().is_some_and(|name| name.contains(part));
    ["fn ", "mod "].iter().any(|kind| text.split(kind).skip(1).any(named))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
