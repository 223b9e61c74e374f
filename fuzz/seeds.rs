//! The inputs in `corpus/`, for the tests of each crate that has targets (`tests/fuzz.rs`).

use std::{fs, path::PathBuf};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// Runs `target` over its inputs, and over what becomes of these when they are damaged.
pub(crate) fn take_damage(name: &str, target: fn(&[u8])) {
    let seeds = read(name);
    seeds.iter().for_each(|seed| target(seed));
    let config = Config { failure_persistence: None, ..Config::with_cases(2000) };
    let run = TestRunner::new(config).run(&damaged(seeds), |data| {
        target(&data);
        Ok(())
    });
    run.unwrap_or_else(|e| panic!("{e}"));
}

/// Writes the seeds of a target anew.
pub(crate) fn write(target: &str, seeds: &[Vec<u8>]) {
    let folder = folder(target);
    fs::create_dir_all(&folder).unwrap();
    for (n, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{n:02}")), seed).unwrap();
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn read(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder(target)).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no seeds");
    files.iter().map(|f| fs::read(f).unwrap()).collect()
}

/// What becomes of an input: bytes changed, cut out, put in, doubled.
fn damaged(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<u16>(), any::<u8>(), 0..5u8);
    (prop::sample::select(seeds), prop::collection::vec(edit, 0..12)).prop_map(|(mut bytes, edits)| {
        for (at, value, how) in edits {
            let at = usize::from(at) % (bytes.len() + 1);
            match how {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, value),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if bytes.len() < 4000 => bytes.extend_from_within(at..),
                _ if at < bytes.len() => bytes[at] ^= value,
                _ => {}
            }
        }
        bytes
    })
}
