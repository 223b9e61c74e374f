//! Speech to words: one trait, several engines, one bounded [`pool::Pool`] in front of them.

pub mod align;
mod coverage;
mod health;
mod invented;
mod loops;
pub mod openai;
pub mod pool;
#[cfg(test)]
mod samples;
pub mod sherpa;
pub mod speech;
pub mod whisper;
pub(crate) mod whole;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

/// Samples per second of every [`Clip`].
pub const SAMPLE_RATE: usize = 16_000;

/// One utterance, or as much of it as there is yet.
#[derive(Clone)]
pub struct Clip {
    /// 16 kHz mono, -1 to 1.
    pub samples: Arc<[f32]>,
    /// ISO 639-1 code of the language spoken; `None` lets the engine find out.
    pub language: Option<String>,
}

/// A word and when it was said.
#[derive(Clone, PartialEq)]
pub struct Word {
    /// As written, with its punctuation.
    pub text: String,
    /// Where it begins, in milliseconds from the clip's start.
    pub start_ms: u32,
    /// Where it ends, in milliseconds from the clip's start; never before `start_ms`.
    pub end_ms: u32,
    /// 0 to 1.
    pub confidence: f32,
}

/// A stretch of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins, in milliseconds from the clip's start.
    pub start_ms: u32,
    /// Where it ends, likewise; never before `start_ms`.
    pub end_ms: u32,
}

/// What was said in a [`Clip`]; empty where nobody spoke.
#[derive(Clone, PartialEq, Default)]
pub struct Text {
    /// The whole text, trimmed.
    pub text: String,
    /// ISO 639-1 code, where the engine says it.
    pub language: Option<String>,
    /// 0 to 1, where the engine says it.
    pub confidence: Option<f32>,
    /// The same text by words, in order of time.
    pub words: Vec<Word>,
    /// The stretches that the engine says its words are from; one that does not know says all of the clip.
    pub spans: Vec<Span>,
    /// Speech without words after all tries, in order. Engines leave it empty; the [`pool::Pool`] finds out, for finals.
    pub missing: Vec<Span>,
    /// The engine ran into a loop, which was cut.
    pub repeated: bool,
}

/// A speech engine. Waits without blocking the async runtime.
#[async_trait]
pub trait Transcriber: Send + Sync {
    /// For logs and metrics: `whisper`, `openai`.
    fn name(&self) -> &str;

    /// Whether it knows a language, by its ISO 639 code; what it says may be too hopeful.
    fn knows(&self, _language: &str) -> bool {
        true
    }

    /// The words of `clip`.
    ///
    /// # Errors
    /// Any [`TranscribeError`]; the engine stays usable.
    async fn transcribe(&self, clip: Clip) -> Result<Text, TranscribeError>;
}

/// Why there are no words. Never holds a key, nor a word that was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscribeError {
    /// The model's file cannot be used.
    #[error("model `{path}`: {cause}")]
    Model {
        /// As configured.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The engine's settings cannot be used.
    #[error("transcription setting `{key}`: {cause}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What is wrong with it and what is allowed.
        cause: String,
    },
    /// The clip cannot be transcribed by this engine: its length or language.
    #[error("clip refused: {0}")]
    Clip(Cow<'static, str>),
    /// The engine failed on a sound clip.
    #[error("{engine}: {cause}")]
    Engine {
        /// Which.
        engine: &'static str,
        /// In its own words.
        cause: String,
    },
    /// A remote engine answered with an HTTP status that says no.
    #[error("{engine} answered {status}: {cause}")]
    Status {
        /// Which.
        engine: &'static str,
        /// HTTP status.
        status: u16,
        /// What that status means here.
        cause: Cow<'static, str>,
    },
    /// No answer in time.
    #[error("{engine} gave no answer within {} ms", after.as_millis())]
    Deadline {
        /// Which.
        engine: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// The pool has been dropped.
    #[error("transcription has been shut down")]
    Closed,
}

impl Clip {
    /// How long it plays.
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.samples.len() as u64 * 1_000_000 / SAMPLE_RATE as u64)
    }
}

impl Span {
    /// How long it is, in milliseconds.
    pub fn length_ms(self) -> u32 {
        self.end_ms.saturating_sub(self.start_ms)
    }

    /// Whether the moment `at_ms` is in it.
    pub fn holds(self, at_ms: u32) -> bool {
        (self.start_ms..self.end_ms).contains(&at_ms)
    }

    /// What both have; `None` if that is nothing.
    pub fn overlap(self, other: Self) -> Option<Self> {
        let common = Self { start_ms: self.start_ms.max(other.start_ms), end_ms: self.end_ms.min(other.end_ms) };
        (common.start_ms < common.end_ms).then_some(common)
    }
}

impl Text {
    /// The text with `new` words between those `before` and those `after`, which it has. An engine's own writing is kept
    /// where it can be: not all of them have punctuation in their words.
    fn joined(&self, before: &[Word], new: &[Word], after: &[Word]) -> String {
        let space = if self.language.as_deref().is_none_or(is_spaced) { " " } else { "" };
        let written = |words: &[Word]| words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(space);
        match (before.is_empty(), after.is_empty()) {
            (true, true) => written(new),
            (false, true) => [self.text.clone(), written(new)].join(space),
            (true, false) => [written(new), self.text.clone()].join(space),
            (false, false) => [before, new, after].map(written).join(space),
        }
    }
}

/// Whether a language (ISO 639-1) has spaces between its words.
fn is_spaced(language: &str) -> bool {
    !matches!(language, "zh" | "ja" | "th" | "lo" | "my" | "yue")
}

impl fmt::Debug for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clip({:?}, {:?})", self.duration(), self.language)
    }
}

/// Shows no word: spoken words do not belong in logs.
impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Word({}..{} ms, {:.2})", self.start_ms, self.end_ms, self.confidence)
    }
}

/// Shows no word: spoken words do not belong in logs.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} words, {:?}, {:?})", self.words.len(), self.language, self.confidence)
    }
}
