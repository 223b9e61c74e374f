//! The local engine: whisper.cpp with a ggml model, on this machine's CPU.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use mesh::tasks::{Broken, blocking};
use metrics::counter;
use tracing::debug;
use whisper_rs::{
    FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters, WhisperError, WhisperState, WhisperTokenId,
};

use super::{
    Clip, SAMPLE_RATE, Span, Text, TranscribeError, Transcriber, Word, align::align, is_spaced, loops::without_loop,
};
use crate::lock;

/// The longest clip: Whisper's window.
pub const MAX_CLIP: Duration = Duration::from_secs(30);

/// The encoder's window in frames of 20 ms, and the longest clip given to it. Less than 768 makes
/// Whisper repeat itself without end; sizes in between are padded to the next of these anyway.
const WINDOWS: [(i32, Duration); 4] = [
    (768, Duration::from_secs(14)),
    (1024, Duration::from_secs(19)),
    (1280, Duration::from_secs(24)),
    (FULL_WINDOW, MAX_CLIP),
];
const FULL_WINDOW: i32 = 1500;

/// whisper.cpp takes clips as short as 0.1 s but makes words up in them.
const MIN_SAMPLES: usize = SAMPLE_RATE;

/// Fast speech has about six tokens a second, and one or two of time; a decoder that makes more has lost the thread.
const TOKENS_PER_SECOND: f32 = 9.0;
const TOKENS_SPARE: f32 = 12.0;

/// What Whisper says where nobody speaks, from the captions it was trained on ...
const MADE_UP: [&str; 8] =
    ["", "you", "thank you", "thanks for watching", "thank you for watching", "bye", "so", "the end"];
/// ... unless it is surer than this: in noise and silence it is 0.04 to 0.38 sure, of real ones above 0.5.
const UNSURE: f32 = 0.45;

/// What a time token stands for.
const TIME_STEP_MS: u32 = 20;

/// First bytes of a ggml file: `ggml` as a little-endian number.
const MAGIC: [u8; 4] = *b"lmgg";

/// Settings of the local engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The ggml file.
    pub model: PathBuf,
    /// Threads per clip, 1 to 64. 1 gives the most words per core; more makes each clip faster.
    pub threads: u16,
}

/// whisper.cpp behind [`Transcriber`].
///
/// A decoder's state takes about 60 MB (tiny) and is kept for the next clip. There are as many as
/// clips were ever transcribed at once, which the [`super::pool::Pool`] bounds.
pub struct Whisper {
    shared: Arc<Shared>,
}

struct Shared {
    context: WhisperContext,
    threads: u16,
    idle: Mutex<Vec<WhisperState>>,
    /// By language: whisper-rs never frees the language it is given, so it is given each once.
    params: Mutex<BTreeMap<&'static str, FullParams<'static, 'static>>>,
}

/// What one pass of the decoder says.
#[derive(Default)]
struct Draft {
    words: Vec<Piece>,
    /// Where they are from, by time tokens.
    spans: Vec<Span>,
    /// A loop was cut.
    repeated: bool,
}

/// A word in the making: its bytes, the probabilities of its tokens, and the number of the span it is from.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    tokens: Vec<f32>,
    span: usize,
}

/// Which tokens are what: text below the first special one, time from `time` on.
#[derive(Clone, Copy)]
struct Tokens {
    special: WhisperTokenId,
    time: WhisperTokenId,
}

impl Whisper {
    /// Loads the model; blocks for as long as reading the file takes.
    ///
    /// # Errors
    /// [`TranscribeError::Model`] when the file is missing or no model, [`TranscribeError::Setting`].
    pub fn load(settings: &Settings) -> Result<Self, TranscribeError> {
        if !(1..=64).contains(&settings.threads) {
            let cause = format!("{} is not a number of threads, 1 to 64 are allowed", settings.threads);
            return Err(TranscribeError::Setting { key: "threads", cause });
        }
        whisper_rs::install_logging_hooks();
        check(&settings.model)?;
        let mut parameters = WhisperContextParameters::default();
        parameters.use_gpu(false).flash_attn(true);
        let context = WhisperContext::new_with_params(&settings.model, parameters)
            .map_err(|e| bad_model(&settings.model, &e.to_string()))?;
        let shared = Shared { context, threads: settings.threads, idle: Mutex::default(), params: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Transcriber for Whisper {
    fn name(&self) -> &str {
        "whisper"
    }

    fn knows(&self, language: &str) -> bool {
        let multilingual = self.shared.context.is_multilingual();
        known_language(language).is_some_and(|code| multilingual || code == "en")
    }

    async fn transcribe(&self, clip: Clip) -> Result<Text, TranscribeError> {
        let shared = self.shared.clone();
        let decoding = blocking("whisper", move || shared.transcribe(&clip));
        decoding.await.unwrap_or_else(|error| Err(failed(Broken::from(error))))
    }
}

impl Shared {
    fn transcribe(&self, clip: &Clip) -> Result<Text, TranscribeError> {
        if clip.duration() > MAX_CLIP {
            return Err(TranscribeError::Clip("longer than 30 s, Whisper's window".into()));
        }
        let params = self.params(self.language(clip)?)?;
        let idle = lock(&self.idle).pop();
        let mut state = match idle {
            Some(state) => state,
            None => self.context.create_state().map_err(failed)?,
        };
        let text = self.decode(&mut state, params, clip);
        lock(&self.idle).push(state);
        text
    }

    /// whisper.cpp's own name of the language; `auto` to find out.
    fn language(&self, clip: &Clip) -> Result<&'static str, TranscribeError> {
        if !self.context.is_multilingual() {
            return Ok("en");
        }
        let Some(asked) = &clip.language else { return Ok("auto") };
        known_language(asked).ok_or_else(|| TranscribeError::Clip("its language is none that Whisper knows".into()))
    }

    fn params(&self, language: &'static str) -> Result<FullParams<'static, 'static>, TranscribeError> {
        let mut cache = lock(&self.params);
        Ok(cache.entry(language).or_insert_with(|| params(language, self.threads)).clone())
    }

    /// Once with the smallest window; if that ends in a loop, again with the whole one.
    fn decode(
        &self,
        state: &mut WhisperState,
        mut params: FullParams<'static, 'static>,
        clip: &Clip,
    ) -> Result<Text, TranscribeError> {
        let mut samples = clip.samples.to_vec();
        samples.resize(samples.len().max(MIN_SAMPLES), 0.0);
        params.set_max_tokens((clip.duration().as_secs_f32() * TOKENS_PER_SECOND + TOKENS_SPARE) as i32);
        let window = WINDOWS.iter().find(|(_, longest)| clip.duration() <= *longest).map_or(FULL_WINDOW, |w| w.0);
        let mut draft = self.pass(state, params.clone(), window, &samples)?;
        let mut sound = draft.without_loop();
        if sound < draft.words.len() && window < FULL_WINDOW {
            counter!("nearfield_core_transcribe_loops_total").increment(1);
            debug!(window, "the decoder repeats itself, trying the whole window");
            draft = self.pass(state, params, FULL_WINDOW, &samples)?;
            sound = draft.without_loop();
        }
        draft.repeated = sound < draft.words.len();
        draft.words.truncate(sound);
        if draft.is_made_up() {
            draft.words.clear();
        }
        let language = whisper_rs::get_lang_str(state.full_lang_id_from_state());
        Ok(draft.into_text(&clip.samples, language.map(str::to_owned)))
    }

    fn pass(
        &self,
        state: &mut WhisperState,
        mut params: FullParams<'static, 'static>,
        window: i32,
        samples: &[f32],
    ) -> Result<Draft, TranscribeError> {
        params.set_audio_ctx(window);
        state.full(params, samples).map_err(failed)?;
        let tokens = Tokens { special: self.context.token_eot(), time: self.context.token_beg() };
        Draft::read(state, tokens, (samples.len() * 1000 / SAMPLE_RATE) as u32).map_err(failed)
    }
}

impl Draft {
    /// Reads text and time tokens; `end_ms` is where the clip ends, and with it a text that has no last time.
    fn read(state: &WhisperState, kinds: Tokens, end_ms: u32) -> Result<Self, WhisperError> {
        let spaced = whisper_rs::get_lang_str(state.full_lang_id_from_state()).is_none_or(is_spaced);
        let mut draft = Self::default();
        let mut start_ms = 0;
        for segment in state.as_iter() {
            for token in (0..segment.n_tokens()).filter_map(|i| segment.get_token(i)) {
                let id = token.token_id();
                if id < kinds.special {
                    draft.push(token.to_bytes()?, token.token_probability(), spaced);
                } else if id >= kinds.time {
                    let at = ((id - kinds.time) as u32 * TIME_STEP_MS).min(end_ms);
                    draft.close(start_ms, at);
                    start_ms = at;
                }
            }
        }
        draft.close(start_ms, end_ms);
        Ok(draft)
    }

    /// The words since the last time token are from there.
    fn close(&mut self, start_ms: u32, end_ms: u32) {
        if self.words.last().is_some_and(|word| word.span == self.spans.len()) {
            self.spans.push(Span { start_ms, end_ms: end_ms.max(start_ms) });
        }
    }

    /// A token that begins with a space begins a word; without spaces, any that begins a character does.
    fn push(&mut self, bytes: &[u8], probability: f32, spaced: bool) {
        let span = self.spans.len();
        let begins = match self.words.last() {
            None => true,
            Some(word) if word.span < span => true,
            Some(_) if spaced => bytes.first() == Some(&b' '),
            Some(word) => std::str::from_utf8(&word.bytes).is_ok(),
        };
        if begins {
            self.words.push(Piece { span, ..Piece::default() });
        }
        if let Some(word) = self.words.last_mut() {
            word.bytes.extend_from_slice(bytes);
            word.tokens.push(probability);
        }
    }

    fn without_loop(&self) -> usize {
        let words: Vec<String> = self.words.iter().map(Piece::text).collect();
        without_loop(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn confidence(&self) -> Option<f32> {
        mean(self.words.iter().flat_map(|word| &word.tokens))
    }

    fn is_made_up(&self) -> bool {
        let words: Vec<String> = self.words.iter().map(|word| letters(&word.text())).collect();
        let known = MADE_UP.contains(&words.join(" ").trim());
        known && self.confidence().is_some_and(|sure| sure < UNSURE)
    }

    /// Time tokens stand between sentences; within them, words are laid over the voiced part by their length.
    fn into_text(self, samples: &[f32], language: Option<String>) -> Text {
        let confidence = self.confidence();
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| &word.bytes).copied().collect();
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        let at = |ms: u32| (ms as usize * SAMPLE_RATE / 1000).min(samples.len());
        let (mut words, mut spans) = (vec![], vec![]);
        for (number, span) in self.spans.iter().enumerate() {
            let pieces = self.words.iter().filter(|word| word.span == number && !word.text().is_empty());
            let (said, sure): (Vec<String>, Vec<f32>) =
                pieces.map(|word| (word.text(), mean(&word.tokens).unwrap_or_default())).unzip();
            if said.is_empty() {
                continue;
            }
            let times = align(
                &samples[at(span.start_ms)..at(span.end_ms)],
                &said.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            words.extend(said.into_iter().zip(sure).zip(times).map(|((text, confidence), (start, end))| Word {
                text,
                start_ms: span.start_ms + start,
                end_ms: span.start_ms + end,
                confidence,
            }));
            spans.push(*span);
        }
        Text { text, language, confidence, words, spans, missing: vec![], repeated: self.repeated }
    }
}

impl Piece {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).trim().to_owned()
    }
}

/// The language whisper.cpp means by a code or an English name.
pub(super) fn known_language(name: &str) -> Option<&'static str> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic());
    let id = plain.then(|| whisper_rs::get_lang_id(&name.to_ascii_lowercase()))??;
    whisper_rs::get_lang_str(id)
}

fn params(language: &'static str, threads: u16) -> FullParams<'static, 'static> {
    let mut params = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
    params.set_language(Some(language));
    params.set_n_threads(i32::from(threads));
    params.set_no_context(true);
    // Without time tokens Whisper ends its text at some pauses, and nothing tells that it did. One pass all the same: whether
    // more is to be heard behind the last of them is for `whole` to say, by the speech that is there.
    params.set_no_timestamps(false);
    params.set_single_segment(true);
    // The first word may be anywhere: a clip may begin with a pause.
    params.set_max_initial_ts(0.0);
    params.set_temperature_inc(0.0);
    params.set_suppress_blank(true);
    params.set_suppress_nst(true);
    params.set_print_special(false);
    params.set_print_progress(false);
    params.set_print_realtime(false);
    params.set_print_timestamps(false);
    params
}

/// Whether the file can be a model. whisper.cpp takes one without a single tensor for a test of its own, and then crashes on it.
///
/// # Errors
/// [`TranscribeError::Model`].
pub fn check(path: &Path) -> Result<(), TranscribeError> {
    let bad = |e: std::io::Error| bad_model(path, &e.to_string());
    let mut file = File::open(path).map_err(bad)?;
    let length = file.metadata().map_err(bad)?.len();
    let mut header = [0; 48];
    file.read_exact(&mut header).map_err(bad)?;
    if header[..4] != MAGIC {
        return Err(bad_model(path, "not a whisper.cpp ggml file"));
    }
    // Words times width, at two bits or more each: the largest tensor.
    let field = |at: usize| header[at..at + 4].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    if length < field(4).saturating_mul(field(28)) / 4 {
        return Err(bad_model(path, "the file ends before the model does"));
    }
    Ok(())
}

fn bad_model(path: &Path, cause: &str) -> TranscribeError {
    TranscribeError::Model { path: path.display().to_string(), cause: cause.to_owned() }
}

fn letters(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn failed(cause: impl std::fmt::Display) -> TranscribeError {
    TranscribeError::Engine { engine: "whisper", cause: cause.to_string() }
}

fn mean<'a>(values: impl IntoIterator<Item = &'a f32>) -> Option<f32> {
    let (sum, count) = values.into_iter().fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f32)
}

#[cfg(test)]
mod tests;
