//! What the tests of engines hear, from what `./dev` fetches.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use ezk_g722::libg722::{Bitrate, decoder::Decoder};

use super::SAMPLE_RATE;

/// What `command` fetches.
///
/// # Panics
/// It has not.
pub(super) fn cache(path: &str, command: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache").join(path);
    assert!(path.exists(), "{} is missing: run {command}", path.display());
    path
}

/// A recorded sentence.
pub(super) fn prompt(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(cache(&format!("speech/en/{name}.g722"), "./dev speech")).unwrap();
    let samples = Decoder::new(Bitrate::Mode1_64000, false, false).decode(&bytes);
    samples.into_iter().map(|s| f32::from(s) / 32_768.0).collect()
}

pub(super) fn silence(ms: usize) -> Vec<f32> {
    vec![0.0; ms * SAMPLE_RATE / 1000]
}

/// Letters and spaces, in lower case.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphabetic() || *c == ' ').collect::<String>().to_lowercase()
}
