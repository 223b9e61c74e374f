//! What stands in backticks and names a part of this repository: paths, modules, settings, metrics.

use std::fs;

use crate::{
    page::{Page, root},
    source::{CRATES, all, declares, folder, modules, text},
};

/// Files that teach the settings.
const EXAMPLES: [&str; 3] = ["mesh/dns.example.toml", "core-node/core.example.toml", "edge-node/edge.example.toml"];
/// Folders of the root in which paths may be named.
const TOP: [&str; 10] = ["geo", "mesh", "edge-node", "core-node", "cli", "bench", "docs", "deploy", ".ci", ".config"];

/// Packages of others that pages name.
const FOREIGN: [&str; 1] = ["tokio"];

/// Complaints about what a page names.
pub(crate) fn unknown(page: &Page) -> Vec<String> {
    let complaint = |name: &str| {
        if let Some(why) = metric(name).or_else(|| module(name)).or_else(|| setting(name)) {
            return Some(why);
        }
        name.split_whitespace().find_map(path)
    };
    page.spans
        .iter()
        .filter_map(|span| Some(format!("{}: `{}`: {}", page.at(span), span.text, complaint(&span.text)?)))
        .collect()
}

/// Complaints about the glossary's last column: names that the code has no more.
pub(crate) fn renamed() -> Vec<String> {
    let glossary = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let last = |row: &str| Some(row.trim().strip_suffix('|')?.rsplit('|').next()?.to_owned());
    let rows = glossary.lines().filter(|line| line.starts_with('|') && line.matches('|').count() == 5);
    let columns = rows.filter_map(last).filter(|column| !column.starts_with("---") && column.trim() != "in the code");
    let names: Vec<String> =
        columns.flat_map(|c| c.split(',').map(|n| n.replace('`', "").trim().to_owned()).collect::<Vec<_>>()).collect();
    assert!(names.iter().filter(|name| !name.is_empty()).count() > 20, "{names:?}");
    // Of several words the code makes one.
    let known = |name: &String| [name.clone(), name.replace(' ', "_")].iter().any(|name| all().contains(name));
    names
        .iter()
        .filter(|name| !known(name))
        .map(|name| format!("docs/glossary.md: {name}: not in the code any more"))
        .collect()
}

/// `nearfield_…`, with labels or without.
fn metric(name: &str) -> Option<String> {
    let name = name.split('{').next()?;
    let is_one = name.starts_with("nearfield_") && name.matches('_').count() > 1;
    (is_one && !all().contains(&format!("\"{name}\""))).then(|| "there is no such metric".into())
}

/// `package::module::item`, or the end of it: `module::item`.
fn module(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split("::").collect();
    let is_word = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    if parts.len() < 2 || !parts.iter().all(is_word) || FOREIGN.contains(&parts[0]) {
        return None;
    }
    let Some(package) = CRATES.into_iter().find(|package| parts[0] == *package) else {
        return (!ends_a_path(&parts)).then(|| "no package has such a module or item".into());
    };
    let src = root().join(folder(package)).join("src");
    let there = |parts: &[&str]| {
        let path = src.join(parts.join("/"));
        path.with_extension("rs").is_file() || path.is_dir()
    };
    parts.remove(0);
    if there(&parts) {
        return None;
    }
    let item = parts.pop()?;
    let holder = src.join(parts.join("/"));
    let code = fs::read_to_string(holder.with_extension("rs")).unwrap_or_default() + &text(&holder);
    (!declares(&code, item)).then(|| "there is no such module or item".into())
}

/// Whether some module's or item's path ends so.
fn ends_a_path(parts: &[&str]) -> bool {
    let ends = |path: &str, parts: &[&str]| {
        path.split('/').rev().zip(parts.iter().rev()).filter(|(a, b)| a == *b).count() == parts.len()
    };
    let Some((item, holder)) = parts.split_last() else { return false };
    modules().iter().any(|(path, code)| ends(path, parts) || (ends(path, holder) && declares(code, item)))
}

/// `[section] key`, with a value or without.
fn setting(name: &str) -> Option<String> {
    let (section, rest) = name.strip_prefix('[')?.split_once(']')?;
    let key = rest.split('=').next()?.trim();
    let word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
    if section.is_empty() || !word(section) || !word(key) {
        return None;
    }
    let has = |example: &&str| {
        let text = fs::read_to_string(root().join(example)).unwrap();
        let part = text.split(&format!("\n[{section}]\n")).nth(1).and_then(|part| part.split("\n[").next());
        let is_key = |line: &str| line.trim_start_matches("# ").split('=').next().is_some_and(|k| k.trim() == key);
        part.is_some_and(|part| key.is_empty() || part.lines().any(is_key))
    };
    (!EXAMPLES.iter().any(has)).then(|| "no example has such a setting".into())
}

/// A path from the root, with `*` for a part or without.
pub(crate) fn path(word: &str) -> Option<String> {
    let word = word.trim_end_matches(['/', ',']);
    let is_one = word.split_once('/').is_some_and(|(top, _)| TOP.contains(&top));
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
    // What a first meeting makes.
    let made = word.starts_with("deploy/local/run");
    (is_one && !made && !word.contains(odd) && !root().join(word).exists()).then(|| format!("there is no {word}"))
}

#[test]
fn what_is_not_there_is_told() {
    assert!(metric("nearfield_no_such_total{a}").is_some());
    assert!(module("membership::no_such").is_some() && module("no_such::cards").is_some());
    assert!(module("mesh::no_such").is_some() && module("mesh::lease::NoSuch").is_some());
    assert!(setting("[egress] nothing").is_some() && setting("[nothing] allow").is_some());
    assert!(path("docs/nothing.md").is_some());
    assert_eq!(metric("nearfield_mesh_twins"), None);
    assert_eq!(module("mesh::wire::spurt").or(module("membership::cards")).or(module("tokio::spawn")), None);
    assert_eq!(setting("[egress] allow = [\"10.20.0.0/16\"]"), None);
    assert_eq!(path("docs/api.md"), None);
}
