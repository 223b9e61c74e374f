//! What each of our programs does as a program. Included by the tests of each.

use std::{
    fs,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

/// `--version` says which program it is.
pub(crate) fn says_its_version(program: &str, name: &str) {
    let output = Command::new(program).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
}

/// SIGHUP before the configuration has been read does not end it. The configuration is a pipe: when the program has opened it, it is
/// in the very middle of its start.
pub(crate) fn survives_an_early_hangup(program: &str, args: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("node.toml");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut starting = Command::new(program);
    starting.args(args).arg("--config").arg(&pipe).stderr(Stdio::piped()).stdin(Stdio::null());
    let mut starting = starting.spawn().unwrap();
    // Returns when the other end is open.
    let mut config = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    kill(Pid::from_raw(starting.id() as i32), Signal::SIGHUP).unwrap();
    config.write_all(b"nonsense = 1\n").unwrap();
    drop(config);
    let mut told = String::new();
    starting.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    let status = starting.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(1), None), "{told}");
    assert!(told.contains("nonsense"), "it went on to read its configuration: {told}");
}
