//! Local engines by `sherpa-onnx`: Moonshine, Parakeet, Zipformer, SenseVoice, Canary and others, on this machine's CPU.
//!
//! A model is a family and its files. Which files a family takes: [`Family::files`]. The library is its makers' own (PyPI
//! `sherpa-onnx-core` 2.0.1, or their releases), and is opened when the engine is.

mod family;
mod library;
mod recognizer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{family::Family, recognizer::Sherpa};
use super::TranscribeError;

/// The longest clip: what the models were trained on; Whisper's is as long.
pub const MAX_CLIP: Duration = Duration::from_secs(30);

/// Settings of such an engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The library, `libsherpa-onnx-c-api.so`; absent: where our packages put it, else where the system looks.
    pub library: Option<PathBuf>,
    /// Which family the model is of.
    pub family: Family,
    /// The model's files by what each is: see [`Family::files`].
    pub files: BTreeMap<String, PathBuf>,
    /// The file that says which text each token stands for.
    pub tokens: PathBuf,
    /// ISO 639-1 codes of the languages that the model knows; meetings in others are refused.
    pub languages: Vec<String>,
    /// Threads per clip, 1 to 64. 1 gives the most words per core; more makes each clip faster.
    pub threads: u16,
}

/// The library's name.
const LIBRARY: &str = "libsherpa-onnx-c-api.so";
/// Where our packages put it.
const PACKAGED: &str = "/usr/lib/nearfield";

impl Settings {
    fn library(&self) -> PathBuf {
        let packaged = || Some(Path::new(PACKAGED).join(LIBRARY)).filter(|path| path.exists());
        self.library.clone().or_else(packaged).unwrap_or_else(|| LIBRARY.into())
    }
}

/// Whether these can be the files of a model: the library ends the process on some that are not.
///
/// # Errors
/// [`TranscribeError::Setting`] for the names of the files and the languages, [`TranscribeError::Model`] for a file.
pub fn check(settings: &Settings) -> Result<(), TranscribeError> {
    let setting = |key, cause| Err(TranscribeError::Setting { key, cause });
    let given: Vec<&str> = settings.files.keys().map(String::as_str).collect();
    if !settings.family.files().iter().any(|set| set.len() == given.len() && set.iter().all(|n| given.contains(n))) {
        let sets: Vec<String> = settings.family.files().iter().map(|set| set.join(", ")).collect();
        let cause = format!("{} takes {}; given are {}", settings.family, sets.join(" or "), given.join(", "));
        return setting("sherpa.files", cause);
    }
    let code = |l: &String| l.len() == 2 && l.bytes().all(|b| b.is_ascii_lowercase());
    if settings.languages.is_empty() || !settings.languages.iter().all(code) {
        return setting("sherpa.languages", "ISO 639-1 codes such as `en`, one at least".to_owned());
    }
    if !(1..=64).contains(&settings.threads) {
        let cause = format!("{} is not a number of threads, 1 to 64 are allowed", settings.threads);
        return setting("threads", cause);
    }
    settings.files.values().try_for_each(|file| is_model(file))?;
    is_tokens(&settings.tokens)
}

/// The first bytes of an ONNX file, a protocol buffer: its first field, a small number. And those of ONNX Runtime's own format, a
/// flat buffer, after its first offset.
const ONNX: u8 = 0x08;
const ORT: [u8; 4] = *b"ORTM";

fn is_model(path: &Path) -> Result<(), TranscribeError> {
    let first = first_bytes(path)?;
    let known = first.first() == Some(&ONNX) || first.get(4..8) == Some(&ORT);
    known.then_some(()).ok_or_else(|| bad(path, "neither an ONNX file nor one of ONNX Runtime (.ort)"))
}

/// A token and its number on each line.
fn is_tokens(path: &Path) -> Result<(), TranscribeError> {
    let text = std::fs::read(path).map_err(|e| bad(path, &e.to_string()))?;
    let numbered = |line: &[u8]| {
        let number = line.rsplit(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty());
        number.is_some_and(|number| number.iter().all(u8::is_ascii_digit))
    };
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).peekable();
    let sound = lines.peek().is_some() && lines.all(numbered);
    sound.then_some(()).ok_or_else(|| bad(path, "not a list of tokens: each line is to end in a token's number"))
}

fn first_bytes(path: &Path) -> Result<Vec<u8>, TranscribeError> {
    use std::io::Read;
    let mut first = vec![];
    let file = std::fs::File::open(path).map_err(|e| bad(path, &e.to_string()))?;
    file.take(16).read_to_end(&mut first).map_err(|e| bad(path, &e.to_string()))?;
    Ok(first)
}

fn bad(path: &Path, cause: &str) -> TranscribeError {
    TranscribeError::Model { path: path.display().to_string(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests;
