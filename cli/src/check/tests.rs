#![allow(clippy::unwrap_used)]

use std::fs;

use mesh::program::Configuration;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        Self(dir)
    }

    /// What a check of the values says, without the folder's name, and how it ends.
    fn check(&self, paths: &[&str], program: Option<Kind>) -> (String, Option<String>) {
        let paths = paths.iter().map(|path| self.0.path().join(path)).collect();
        let mut out = vec![];
        let ended = run(&Args { paths, values_only: true, program }, &mut out);
        let own = format!("{}/", self.0.path().display());
        let plain = |text: String| text.replace(&own, "");
        (plain(String::from_utf8(out).unwrap()), ended.err().map(|error| plain(format!("{error:#}"))))
    }
}

fn core() -> String {
    core_node::config::Config::EXAMPLE.to_owned()
}

#[test]
fn a_folder_s_files_are_told_of_in_a_line_each_and_all_errors_below() {
    let wrong = core().replace("workers = 1", "workers = 0").replace("meetings = 200", "meetings = 0");
    let folder = Folder::new(&[
        ("a.toml", &wrong),
        ("b.toml", edge_node::config::Config::EXAMPLE),
        ("c.toml", mesh::geo_dns::Config::EXAMPLE),
        ("notes.txt", "no configuration"),
    ]);
    fs::create_dir(folder.0.path().join("d.toml")).unwrap();
    let (told, ended) = folder.check(&[""], None);
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        [
            "a.toml (core-node): 2 errors",
            "  error: a.toml: limits.meetings = 0: must be 1 to 100000",
            "  error: a.toml: transcribe.workers = 0: must be 1 to 256",
            "b.toml (edge-node): right",
            "c.toml (geo-dns): right",
        ]
    );
    assert_eq!(ended.unwrap(), "1 of 3 is wrong");
    assert_eq!(folder.check(&["b.toml", "c.toml"], None).1, None);
}

#[test]
fn what_is_no_configuration_at_all_is_an_error_of_its_file_and_the_others_are_looked_at() {
    let folder = Folder::new(&[("core.toml", "[store\nx"), ("x.toml", "[package]"), ("z.toml", &core())]);
    let (told, ended) = folder.check(&["no.toml", "core.toml", "x.toml", "z.toml"], None);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines[..2],
        ["no.toml: 1 error", "  error: no.toml: cannot be read: No such file or directory (os error 2)"]
    );
    assert!(
        told.contains("core.toml: 1 error\n  error: core.toml: not valid TOML: TOML parse error at line 1"),
        "{told}"
    );
    assert!(told.contains("x.toml: 1 error\n  error: x.toml: neither its sections ([package]) nor its name"), "{told}");
    assert_eq!(lines.last().unwrap(), &"z.toml (core-node): right");
    assert_eq!(ended.unwrap(), "3 of 4 are wrong");
}

#[test]
fn the_program_may_be_said() {
    let folder = Folder::new(&[("x.toml", "[package]")]);
    let (told, _) = folder.check(&["x.toml"], Some(Kind::EdgeNode));
    assert!(told.starts_with("x.toml (edge-node): "), "{told}");
    assert!(told.contains("unknown field `package`") && told.contains("missing field `node`"), "{told}");
}

#[test]
fn a_folder_without_such_files_is_an_error() {
    let folder = Folder::new(&[("core.conf", "")]);
    assert!(folder.check(&[""], None).1.unwrap().ends_with("no *.toml file in it"));
}

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    let open = core().replace("listen = \"127.0.0.1:8080\"", "listen = \"0.0.0.0:8080\"");
    let folder = Folder::new(&[("core.toml", &open)]);
    let (told, ended) = folder.check(&["core.toml"], None);
    assert!(told.starts_with("core.toml (core-node): right\n  warning: the API listens on every address"), "{told}");
    assert_eq!(ended, None);
}
