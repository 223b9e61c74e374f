//! The engine itself.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use mesh::tasks::{Broken, blocking};
use serde::Deserialize;

use super::{
    Family, MAX_CLIP, Settings, check,
    library::{Config, Recognizer, Strings},
};
use crate::transcribe::{
    Clip, SAMPLE_RATE, Span, Text, TranscribeError, Transcriber, Word, align::laid_over, coverage::letters,
    loops::without_loop, speech, whisper::known_language,
};

/// Silence before a clip: Moonshine misses words that begin with it (5.5 % errors without, 5.0 % with, on recorded prompts).
const LEAD: usize = SAMPLE_RATE * 3 / 10;
/// Shorter clips are filled up with silence.
const MIN_SAMPLES: usize = SAMPLE_RATE / 2;

/// Nobody says more letters in a second.
const MAX_LETTERS_PER_SECOND: u32 = 35;

/// A model of `sherpa-onnx` behind [`Transcriber`]. One for all clips: it keeps no state between them.
pub struct Sherpa {
    shared: Arc<Shared>,
}

struct Shared {
    recognizer: Recognizer,
    settings: Settings,
}

/// What the library says of a clip; of times and language not every model says anything.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Heard {
    pub(super) text: String,
    #[serde(default)]
    pub(super) tokens: Vec<String>,
    /// Where each token begins, in seconds.
    #[serde(default)]
    pub(super) timestamps: Vec<f32>,
    /// How long each is, in seconds.
    #[serde(default)]
    pub(super) durations: Vec<f32>,
    /// SenseVoice's way: `<|en|>`.
    #[serde(default)]
    pub(super) lang: String,
}

impl Sherpa {
    /// Loads the model; blocks for as long as reading the files takes.
    ///
    /// # Errors
    /// As of [`check`], and [`TranscribeError::Model`] if the library refuses the files. Some that are damaged inside it ends the
    /// process for, and says why.
    pub fn load(settings: &Settings) -> Result<Self, TranscribeError> {
        check(settings)?;
        let path = settings.library();
        let mut strings = Strings::default();
        let config = config(settings, &mut strings);
        let model = |path: &Path, cause| TranscribeError::Model { path: path.display().to_string(), cause };
        let recognizer = Recognizer::load(&path, &config, &strings).map_err(|e| model(&path, e))?.ok_or_else(|| {
            let cause = format!("sherpa-onnx takes it for no model of the family {}", settings.family);
            model(&settings.tokens, cause)
        })?;
        Ok(Self { shared: Arc::new(Shared { recognizer, settings: settings.clone() }) })
    }
}

#[async_trait]
impl Transcriber for Sherpa {
    fn name(&self) -> &str {
        self.shared.settings.family.name()
    }

    fn knows(&self, language: &str) -> bool {
        self.shared.settings.languages.iter().any(|known| known == language)
    }

    async fn transcribe(&self, clip: Clip) -> Result<Text, TranscribeError> {
        let shared = self.shared.clone();
        let decoding = blocking("sherpa", move || shared.transcribe(&clip));
        decoding.await.unwrap_or_else(|error| Err(failed(Broken::from(error))))
    }
}

impl Shared {
    fn transcribe(&self, clip: &Clip) -> Result<Text, TranscribeError> {
        if clip.duration() > MAX_CLIP {
            return Err(TranscribeError::Clip("longer than 30 s".into()));
        }
        let faint_ms = speech::faint_ms(&clip.samples);
        if faint_ms == 0 {
            return Ok(self.nothing());
        }
        let lead = if self.settings.family == Family::Moonshine { LEAD } else { 0 };
        let mut samples = vec![0.0; lead];
        samples.extend_from_slice(&clip.samples);
        samples.resize(samples.len().max(MIN_SAMPLES), 0.0);
        let json = self.recognizer.decode(&samples).ok_or_else(|| failed("the library gave no result"))?;
        // Only the kind of fault and its place: serde's own message may quote a word that was said.
        let heard: Heard = serde_json::from_str(&json)
            .map_err(|e| failed(format!("result of the library: {:?} at column {}", e.classify(), e.column())))?;
        // Of applause Moonshine makes whole sentences, and says nothing of how sure it is.
        if letters(&heard.text) * 1000 > faint_ms * MAX_LETTERS_PER_SECOND {
            metrics::counter!("nearfield_core_transcribe_invented_total").increment(1);
            return Ok(self.nothing());
        }
        let language = self.language(&heard, clip);
        Ok(text(&heard, clip, language, lead * 1000 / SAMPLE_RATE))
    }

    fn nothing(&self) -> Text {
        Text { language: only_language(&self.settings).map(str::to_owned), ..Text::default() }
    }

    /// Of a model with one language it is that; of one with several what it has heard, if it says so, or was told.
    fn language(&self, heard: &Heard, clip: &Clip) -> Option<String> {
        let said = known_language(heard.lang.trim_matches(['<', '|', '>'])).map(str::to_owned);
        only_language(&self.settings).map(str::to_owned).or(said).or_else(|| clip.language.clone())
    }
}

fn config(settings: &Settings, strings: &mut Strings) -> Config {
    let mut config = Config::new();
    let tokens = settings.tokens.display().to_string();
    let model = &mut config.model;
    (model.tokens, model.provider) = (strings.keep(Some(&tokens)), strings.keep(Some("cpu")));
    model.num_threads = i32::from(settings.threads);
    let mut file = |role: &str| {
        let path = settings.files.get(role).map(|path| path.display().to_string());
        strings.keep(path.as_deref())
    };
    match settings.family {
        Family::Moonshine => {
            model.moonshine =
                ["preprocessor", "encoder", "uncached_decoder", "cached_decoder", "merged_decoder"].map(file);
        }
        Family::Transducer | Family::NemoTransducer => {
            model.transducer = ["encoder", "decoder", "joiner"].map(file);
            let nemo = settings.family == Family::NemoTransducer;
            model.model_type = strings.keep(nemo.then_some("nemo_transducer"));
        }
        Family::NemoCtc => model.nemo_ctc = file("model"),
        Family::ZipformerCtc => model.zipformer_ctc = file("model"),
        Family::WenetCtc => model.wenet_ctc = file("model"),
        Family::Paraformer => model.paraformer = file("model"),
        Family::SenseVoice => {
            (model.sense_voice.model, model.sense_voice.use_itn) = (file("model"), 1);
            model.sense_voice.language = strings.keep(only_language(settings).or(Some("auto")));
        }
        Family::Dolphin => model.dolphin = file("model"),
        Family::FireRedAsr => model.fire_red_asr = ["encoder", "decoder"].map(file),
        Family::Whisper => {
            let whisper = &mut model.whisper;
            (whisper.encoder, whisper.decoder) = (file("encoder"), file("decoder"));
            (whisper.language, whisper.task) =
                (strings.keep(only_language(settings)), strings.keep(Some("transcribe")));
            whisper.tail_paddings = -1;
        }
        Family::Canary => {
            let canary = &mut model.canary;
            (canary.encoder, canary.decoder, canary.use_pnc) = (file("encoder"), file("decoder"), 1);
            let language = settings.languages.first().map(String::as_str);
            (canary.src_lang, canary.tgt_lang) = (strings.keep(language), strings.keep(language));
        }
    }
    config
}

fn only_language(settings: &Settings) -> Option<&str> {
    settings.languages.first().filter(|_| settings.languages.len() == 1).map(String::as_str)
}

/// The words in what was heard; a loop at its end is cut.
pub(super) fn text(heard: &Heard, clip: &Clip, language: Option<String>, lead_ms: usize) -> Text {
    let all = heard.text.trim();
    let spoken: Vec<&str> = all.split_whitespace().collect();
    let sound = without_loop(&spoken);
    let text = if sound < spoken.len() { spoken[..sound].join(" ") } else { all.to_owned() };
    let last = clip.duration().as_millis() as u32;
    let words = timed(heard, &spoken[..sound], lead_ms as u32, last).unwrap_or_else(|| {
        let whole = Span { start_ms: 0, end_ms: last };
        laid_over(&clip.samples, whole, &text).into_iter().map(|(text, start, end)| word(text, start, end)).collect()
    });
    Text { repeated: sound < spoken.len(), text, language, words, ..Text::default() }
}

fn word(text: &str, start_ms: u32, end_ms: u32) -> Word {
    Word { text: text.to_owned(), start_ms, end_ms: end_ms.max(start_ms), confidence: 0.0 }
}

/// Words by the times of their tokens, where the model has them. A word begins with its first token and ends with its last one,
/// where the model says how long that is, else with the next word. `None` where there are no times, or the tokens do not spell
/// the words.
fn timed(heard: &Heard, spoken: &[&str], lead_ms: u32, last: u32) -> Option<Vec<Word>> {
    let full = |times: &&Vec<f32>| times.len() == heard.tokens.len() && !times.is_empty();
    let times = Some(&heard.timestamps).filter(full)?;
    let durations = Some(&heard.durations).filter(full);
    let ms = |seconds: f32| ((seconds.max(0.0) * 1000.0) as u32).saturating_sub(lead_ms).min(last);
    let (mut next, mut spans) = (0, vec![]);
    for said in spoken {
        let first = next;
        let mut spelt = String::new();
        while spelt.len() < said.len() {
            spelt += &plain(heard.tokens.get(next)?);
            next += 1;
        }
        if spelt != *said {
            return None;
        }
        let end = durations.map(|durations| ms(times[next - 1] + durations[next - 1]));
        spans.push((ms(times[first]), end.unwrap_or(last)));
    }
    let begins: Vec<u32> = spans.iter().skip(1).map(|(start, _)| *start).chain([last]).collect();
    let words = spoken.iter().zip(spans).zip(begins);
    Some(words.map(|((said, (start, end)), next)| word(said, start, end.min(next))).collect())
}

/// A token without the mark of a word's beginning: a space, or SentencePiece's.
fn plain(token: &str) -> String {
    token.replace('\u{2581}', " ").trim().to_owned()
}

fn failed(cause: impl std::fmt::Display) -> TranscribeError {
    TranscribeError::Engine { engine: "sherpa", cause: cause.to_string() }
}
