//! The built program, as an operator calls it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    process::{Command, Output},
};

fn nearfield(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nearfield")).args(args).current_dir(dir).env_clear().output().unwrap()
}

/// What it ends with, and what it says on standard output and standard error.
fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_says_its_version_and_what_it_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let version = format!("nearfield {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(told(nearfield(dir.path(), &["--version"])), (Some(0), version, String::new()));
    let (code, out, _) = told(nearfield(dir.path(), &["--help"]));
    assert_eq!(code, Some(0));
    for command in ["certs", "check", "verify-receipt"] {
        assert!(out.contains(command), "{out}");
        assert_eq!(told(nearfield(dir.path(), &[command, "--help"])).0, Some(0));
    }
}

#[test]
fn a_wrong_call_ends_with_2_and_a_failure_with_1_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(told(nearfield(dir.path(), &["dance"])).0, Some(2));
    assert_eq!(told(nearfield(dir.path(), &["certs", "--dir", "certs"])).0, Some(2), "for nobody");
    let (code, out, err) = told(nearfield(dir.path(), &["certs", "--dir", "certs", "edge-1:king:eu-central"]));
    assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
    assert!(err.starts_with("error: ") && err.contains("king"), "{err}");
    let receipt = ["verify-receipt", "--ca", "ca.pem", "receipt.json"];
    let (code, _, err) = told(nearfield(dir.path(), &receipt));
    assert_eq!(code, Some(1));
    assert_eq!(err, "error: receipt.json: cannot be read: No such file or directory (os error 2)\n");
}

/// An edge's configuration with the certificates in `certs`.
const EDGE: &str = r#"
node = { id = "edge-1", region = "eu-central" }
mesh = { listen = "127.0.0.1:0" }
http = { listen = "127.0.0.1:0" }
[tls]
ca = "certs/ca.pem"
cert = "certs/edge-1.pem"
key = "certs/edge-1.key"
crl = "certs/crl.pem"
trust_domain = "nearfield.internal"
"#;

#[test]
fn certificates_are_made_and_a_configuration_that_names_them_is_right() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let config = dir.path().join("etc/edge-1.toml");
    std::fs::write(&config, EDGE).unwrap();
    let check = |args: &[&str]| told(nearfield(dir.path(), &[&["check"], args].concat()));

    let (code, out, err) = check(&["etc"]);
    assert_eq!((code, err.as_str()), (Some(1), "error: 1 of 1 is wrong\n"));
    assert!(out.contains("etc/edge-1.toml (edge-node): 1 error\n") && out.contains("tls.ca"), "{out}");
    let right = "etc/edge-1.toml (edge-node): right\n".to_owned();
    assert_eq!(check(&["--values-only", "etc"]), (Some(0), right.clone(), String::new()));

    let (code, _, err) = told(nearfield(dir.path(), &["certs", "--dir", "certs", "edge-1:edge:eu-central"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(check(&["etc"]), (Some(0), right, String::new()));

    std::fs::write(config, EDGE.replace("id = \"edge-1\"", "id = \"edge-2\"")).unwrap();
    let (code, out, _) = check(&["etc/edge-1.toml"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("node.id = \"edge-2\": the certificate in tls.cert names node `edge-1`"), "{out}");
}

#[test]
fn what_is_wrong_is_told_all_of_it_and_in_the_words_of_people() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = EDGE.replace(
        "mesh = { listen = \"127.0.0.1:0\" }",
        "mesh = 3\nuplink = { ladder = 1, rings = 2 }\nlog = { format = \"xml\" }",
    );
    std::fs::write(dir.path().join("edge.toml"), wrong).unwrap();
    let (code, out, _) = told(nearfield(dir.path(), &["check", "--values-only", "edge.toml"]));
    assert_eq!(code, Some(1));
    for line in [
        "edge.toml (edge-node): 4 errors",
        "  error: edge.toml: mesh = 3: invalid type: integer `3`, expected a section",
        "  error: edge.toml: log.format = \"xml\": unknown variant `xml`, expected `human` or `json`",
        "  error: edge.toml: uplink.ladder = 1: invalid type: integer `1`, expected a boolean",
        "  error: edge.toml: uplink.rings = 2: unknown field `rings`, expected one of ",
    ] {
        assert!(out.lines().any(|told| told.starts_with(line)), "{line}\n{out}");
    }
}
