//! `[transcribe]`: which engine makes words, and how much it may take.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use mesh::{config::Checks, wire::request::Secret};
use serde::Deserialize;

use crate::transcribe::{
    openai,
    sherpa::{self, Family},
    whisper,
};

/// Which engine makes words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Whisper in this process.
    #[default]
    Local,
    /// A model of `sherpa-onnx` in this process: Moonshine and others.
    Sherpa,
    /// An OpenAI-compatible server.
    Openai,
}

/// `[transcribe]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranscribeSection {
    /// Which engine.
    pub engine: Engine,
    /// Whisper's ggml file, where that is the engine.
    pub model: Option<PathBuf>,
    /// Utterances transcribed at a time.
    pub workers: usize,
    /// Threads for each with a local engine.
    pub threads: u16,
    /// Finals that wait for a worker before their meetings wait.
    pub queue: usize,
    /// Language where a meeting does not say, ISO 639-1; absent: detected.
    pub language: Option<String>,
    /// Whether noise is taken out of what the engine hears, where a meeting does not say.
    pub noise_suppression: bool,
    /// Whether partials are made for meetings that want them.
    pub interim: bool,
    /// How often.
    pub interim_every_ms: u64,
    /// The model of `sherpa-onnx`.
    pub sherpa: Option<SherpaSection>,
    /// The remote engine.
    pub openai: OpenAiSection,
}

impl TranscribeSection {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        checks.range("transcribe.workers", self.workers, 1..=256);
        checks.range("transcribe.threads", self.threads, 1..=64);
        checks.range("transcribe.queue", self.queue, 1..=10_000);
        checks.range("transcribe.interim_every_ms", self.interim_every_ms, 200..=60_000);
        checks.range("transcribe.openai.timeout_ms", self.openai.timeout_ms, 100..=600_000);
        let code = |l: &String| l.len() == 2 && l.bytes().all(|b| b.is_ascii_lowercase());
        let language = self.language.as_ref().is_none_or(code);
        checks.ensure("transcribe.language", language, "an ISO 639-1 code such as `en`, or absent");
        let named = self.engine != Engine::Local || self.model.is_some();
        checks.ensure("transcribe.model", named, "the path of a ggml file when transcribe.engine is `local`");
        let told = self.engine != Engine::Sherpa || self.sherpa.is_some();
        checks.ensure(
            "transcribe.sherpa",
            told,
            "a model's family, files, tokens and languages when transcribe.engine is `sherpa`",
        );
    }

    /// The engine that is to be loaded; `None` where it was refused.
    pub fn chosen(&self) -> Option<Chosen> {
        Some(match self.engine {
            Engine::Local => Chosen::Whisper(whisper::Settings { model: self.model.clone()?, threads: self.threads }),
            Engine::Sherpa => {
                let SherpaSection { library, family, files, tokens, languages } = self.sherpa.clone()?;
                Chosen::Sherpa(sherpa::Settings { library, family, files, tokens, languages, threads: self.threads })
            }
            Engine::Openai => {
                let OpenAiSection { url, model, api_key, timeout_ms } = self.openai.clone();
                let deadline = Duration::from_millis(timeout_ms);
                Chosen::OpenAi(openai::Settings { url, model, key: api_key, deadline })
            }
        })
    }

    /// Opens what the engine would.
    pub(super) fn try_opening(&self, checks: &mut Checks<'_>) {
        let _ = match self.chosen() {
            Some(Chosen::Whisper(settings)) => checks.accept("transcribe.model", whisper::check(&settings.model)),
            Some(Chosen::Sherpa(settings)) => checks.accept("transcribe.sherpa", sherpa::check(&settings)),
            Some(Chosen::OpenAi(_)) | None => None,
        };
    }
}

/// An engine and its settings.
#[derive(Debug, Clone)]
pub enum Chosen {
    /// Whisper in this process.
    Whisper(whisper::Settings),
    /// A model of `sherpa-onnx` in this process.
    Sherpa(sherpa::Settings),
    /// A server.
    OpenAi(openai::Settings),
}

/// `[transcribe.sherpa]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SherpaSection {
    /// The library's file; absent: where our packages put it, else where the system looks.
    pub library: Option<PathBuf>,
    /// Which family the model is of.
    pub family: Family,
    /// Its files by what each is.
    pub files: BTreeMap<String, PathBuf>,
    /// The text of each of its tokens.
    pub tokens: PathBuf,
    /// ISO 639-1 codes of the languages that it knows.
    pub languages: Vec<String>,
}

/// `[transcribe.openai]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiSection {
    /// Where the server is; `/v1/audio/transcriptions` is added.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Bearer token.
    pub api_key: Option<Secret>,
    /// How long one clip may take, retries included.
    pub timeout_ms: u64,
}

impl Default for TranscribeSection {
    fn default() -> Self {
        Self {
            engine: Engine::Local,
            model: None,
            workers: 1,
            threads: 1,
            queue: 64,
            language: None,
            noise_suppression: false,
            interim: true,
            interim_every_ms: 1000,
            sherpa: None,
            openai: OpenAiSection::default(),
        }
    }
}

impl Default for OpenAiSection {
    fn default() -> Self {
        Self { url: "http://127.0.0.1:8000".into(), model: "whisper-1".into(), api_key: None, timeout_ms: 30_000 }
    }
}
