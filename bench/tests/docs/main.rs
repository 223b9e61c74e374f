//! What the documentation says is there: links, commands, flags, tests, paths, modules, settings, metrics and codes.
#![allow(clippy::unwrap_used)]

mod commands;
mod links;
mod names;
mod page;
mod source;

use std::{fs, path::Path, process::Command};

use page::{Page, pages, root};

#[test]
fn every_link_leads_somewhere() {
    none_of(pages().iter().flat_map(links::broken));
}

#[test]
fn every_command_exists_with_its_flags() {
    none_of(today().iter().flat_map(commands::wrong));
}

#[test]
fn every_path_module_setting_and_metric_exists() {
    none_of(today().iter().flat_map(names::unknown));
}

#[test]
fn every_cause_of_a_failed_meeting_is_told() {
    let api = Page::read(Path::new("docs/api.md"));
    let told = |cause: &mesh::wire::cause::Cause| api.spans.iter().any(|span| span.text == cause.as_str());
    none_of(
        mesh::wire::cause::Cause::ALL.iter().filter(|cause| !told(cause)).map(|cause| format!("docs/api.md: {cause}")),
    );
}

#[test]
fn the_glossary_knows_what_was_renamed() {
    none_of(names::renamed().into_iter());
}

#[test]
fn the_front_door_is_short() {
    for name in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        assert!(text.lines().count() <= 120, "{name} has more than 120 lines");
        let picture_or_text = |line: &&str| name == "README.md" || !line.starts_with('|');
        let long = text.lines().filter(picture_or_text).find(|line| line.chars().count() > 120);
        assert_eq!(long, None, "{name} has a line of more than 120 columns");
    }
}

#[test]
fn the_settings_of_a_first_meeting_are_good() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    run("nearfield", &["certs", "--dir", &at(""), "core-1:core:eu-central", "edge-1:edge:eu-central"]);
    let set = |key: &str, value: String| ["--set".to_owned(), format!("{key}={value}")];
    for (program, role) in [("core-node", "core"), ("edge-node", "edge")] {
        let mut args = vec!["--check".into(), "--config".into(), format!("deploy/local/{role}.toml")];
        args.extend(set("tls.ca", at("ca.pem")));
        args.extend(set("tls.cert", at(&format!("{role}-1.pem"))));
        args.extend(set("tls.key", at(&format!("{role}-1.key"))));
        if let (Some(model), "core") = (std::env::var_os("NEARFIELD_MODEL"), role) {
            args.extend(set("transcribe.model", Path::new(&model).display().to_string()));
        }
        run(program, &args.iter().map(String::as_str).collect::<Vec<_>>());
    }
    run("nearfield", &["check", "--values-only", "deploy/local"]);
    let meeting = fs::read_to_string(root().join("deploy/local/meeting.json")).unwrap();
    let meeting: serde_json::Value = serde_json::from_str(&meeting).unwrap();
    assert_eq!(meeting["source"]["url"], "ws://HOST:8188");
}

/// The pages that tell what is there now, and not what was.
fn today() -> Vec<Page> {
    pages().into_iter().filter(|page| page.path != Path::new("CHANGELOG.md")).collect()
}

/// Fails with all complaints at once.
fn none_of(complaints: impl Iterator<Item = String>) {
    let all: Vec<String> = complaints.collect();
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

/// Runs one of our programs in the repository's root, which must succeed.
fn run(program: &str, args: &[&str]) {
    let output = program_of(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One of our programs, built beside this test, to be run in the repository's root.
fn program_of(name: &str) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap();
    let mut command = Command::new(built.join(name));
    command.current_dir(root());
    command
}
