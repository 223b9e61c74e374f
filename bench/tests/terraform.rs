//! `deploy/terraform/examples/local-mesh` starts real nodes, replaces one that was killed, and leaves nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A copy of the example, which is destroyed again whatever the test finds.
struct Example {
    dir: tempfile::TempDir,
}

impl Example {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(&root().join("deploy/terraform"), dir.path());
        Self { dir }
    }

    fn terraform(&self, arguments: &[&str]) -> Output {
        self.terraform_with(arguments, &[])
    }

    /// With other variables.
    fn terraform_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let binaries = Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap();
        let model = std::env::var("NEARFIELD_MODEL")
            .map_or_else(|_| root().join(".cache/models/ggml-tiny.en-q8_0.bin"), PathBuf::from);
        let output = Command::new("terraform")
            .args(arguments)
            .current_dir(self.dir.path().join("examples/local-mesh"))
            .env("TF_VAR_bin_dir", binaries)
            .env("TF_VAR_model", model)
            .env("TF_VAR_run_dir", self.run_dir())
            .env("TF_VAR_regions", r#"{"eu-central":14600,"ap-northeast":14700}"#)
            .env("TF_VAR_edges", "1")
            .env("TF_VAR_dns_server", "127.0.0.1:14653")
            .env("TF_IN_AUTOMATION", "1")
            .envs(variables.iter().copied())
            .output()
            .expect("terraform cannot be started: ./dev test installs it");
        println!("terraform {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
        println!("{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn succeeds(&self, arguments: &[&str]) {
        assert!(self.terraform(arguments).status.success(), "terraform {arguments:?} failed");
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The nodes by name, with their process ids: `NAME.process` holds `STATE GENERATION PID START`.
    fn processes(&self) -> Vec<(String, i32)> {
        let files = fs::read_dir(self.run_dir()).unwrap().flatten().map(|entry| entry.path());
        let records = files.filter(|path| path.extension().is_some_and(|ending| ending == "process"));
        let pid = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap();
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                text.split_whitespace().nth(2).unwrap().parse().unwrap(),
            )
        };
        let mut processes: Vec<_> = records.map(pid).collect();
        processes.sort();
        processes
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.terraform(&["destroy", "-auto-approve", "-no-color"]);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            // What an operator's own runs left there.
            true if [".terraform", "run"].contains(&entry.file_name().to_string_lossy().as_ref()) => {}
            true => copy(&source, &target),
            false if source.extension().is_some_and(|ending| ending == "tfstate") => {}
            false => drop(fs::copy(source, target).unwrap()),
        }
    }
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn apply_starts_the_mesh_a_killed_node_is_replaced_and_destroy_leaves_nothing() {
    let example = Example::new();
    example.succeeds(&["init", "-no-color"]);
    example.succeeds(&["apply", "-auto-approve", "-no-color"]);
    let processes = example.processes();
    assert_eq!(processes.len(), 5, "two edges, two cores, one geo-dns: {processes:?}");
    assert!(processes.iter().all(|(_, pid)| lives(*pid)));
    assert_eq!(example.terraform(&["plan", "-detailed-exitcode", "-no-color"]).status.code(), Some(0), "nothing to do");

    for (variable, wrong) in [("TF_VAR_bin_dir", "/nonexistent/bin"), ("TF_VAR_model", "/nonexistent/model.bin")] {
        let output = example.terraform_with(&["apply", "-auto-approve", "-no-color"], &[(variable, wrong)]);
        assert_eq!(output.status.code(), Some(1), "a typing error in {variable} ends the plan");
        assert!(String::from_utf8_lossy(&output.stderr).contains(wrong), "and is named");
        assert_eq!(example.processes(), processes, "no node was drained for it");
    }

    let (name, victim) = processes.iter().find(|(name, _)| name.contains("edge")).unwrap().clone();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    while lives(victim) {
        std::thread::yield_now();
    }
    assert_eq!(
        example.terraform(&["plan", "-detailed-exitcode", "-no-color"]).status.code(),
        Some(2),
        "a death is seen"
    );
    example.succeeds(&["apply", "-auto-approve", "-no-color"]);
    let after = example.processes();
    assert!(after.iter().all(|(_, pid)| lives(*pid)));
    let replaced: Vec<&String> = after.iter().filter(|node| !processes.contains(node)).map(|(name, _)| name).collect();
    assert_eq!(replaced, [&name], "that node and no other");

    example.succeeds(&["destroy", "-auto-approve", "-no-color"]);
    assert!(after.iter().all(|(_, pid)| !lives(*pid)), "a node outlived its destroy");
}

#[test]
fn what_terraform_has_lost_sight_of_is_found_again() {
    let example = Example::new();
    example.succeeds(&["init", "-no-color"]);
    example.succeeds(&["apply", "-auto-approve", "-no-color"]);
    let first = example.processes();
    let resource = |name: &str| format!(r#"module.region["ap-northeast"].terraform_data.node["{name}"]"#);
    let edge = resource("edge-ap-northeast-1");

    // As an apply leaves it that was killed before the state was written.
    example.succeeds(&["state", "rm", &edge]);
    example.succeeds(&["apply", "-auto-approve", "-no-color"]);
    let second = example.processes();
    assert_eq!(second.len(), first.len());
    assert!(second.iter().all(|(_, pid)| lives(*pid)));
    let replaced: Vec<_> = first.iter().filter(|node| !second.contains(node)).collect();
    assert!(matches!(&replaced[..], [(name, pid)] if name == "edge-ap-northeast-1" && !lives(*pid)), "{replaced:?}");

    // Dead, and no record of it.
    let (_, pid) = second.iter().find(|(name, _)| name == "edge-ap-northeast-1").unwrap();
    kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    fs::remove_file(example.run_dir().join("edge-ap-northeast-1.process")).unwrap();
    let plan = ["plan", "-detailed-exitcode", "-no-color"];
    assert_eq!(example.terraform(&plan).status.code(), Some(2), "a node without a record is not well");
    example.succeeds(&["apply", "-auto-approve", "-no-color"]);
    assert_eq!(example.terraform(&plan).status.code(), Some(0));

    let last = example.processes();
    example.succeeds(&["state", "rm", &edge, &resource("core-ap-northeast-1")]);
    example.succeeds(&["destroy", "-auto-approve", "-no-color"]);
    assert!(last.iter().all(|(_, pid)| !lives(*pid)), "a node outlived its destroy");
}
