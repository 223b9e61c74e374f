//! All the words of an utterance: what an engine left out is decoded again, and what stays out is told.
//!
//! ```text
//!            engine: the whole clip
//!                │ words, and the stretches they are from
//!                ▼
//!  speech ──▶ coverage ── nothing left ─────────────────────────────▶ text
//!                │ ▲
//!         left   │ │ words of that window
//!                ▼ │
//!            engine: what is left, from a pause on; then half of it; then with what was said before
//!                │
//!                └── tries or sound used up ──▶ words that a partial had shown there ──▶ text, what is missing
//! ```
//!
//! It holds for every engine. Calling contract of [`Whole`]: while [`Whole::poll_window`] gives a window, have it
//! transcribed and tell [`Whole::handle_words`], or [`Whole::handle_failure`].

use std::sync::Arc;

use mesh::tasks::blocking;
use metrics::histogram;

use super::{
    Clip, SAMPLE_RATE, Span, Text, TranscribeError, Transcriber, Word,
    coverage::{believe, letters, uncovered, voiced_ms},
    invented, speech,
};

/// Windows of one clip that are tried.
const MAX_TRIES: usize = 6;
/// Sound decoded again at most, in milliseconds: that of one clip and half of another.
const MAX_AGAIN_MS: u32 = 45_000;
/// A window begins and ends in a pause within so much of what is left ...
const NEAR_MS: u32 = 600;
/// ... or else so much beside it: coverage allows stretches to be a quarter of a second short.
const EDGE_MS: u32 = 400;
/// Stretches of more speech than this are tried by halves, too.
const HALVE_MS: u32 = 4000;
/// What was said before is heard once more from so long ago.
const BEFORE_MS: u32 = 3000;
/// At a seam so many words are compared; those that begin within so much of each other may be the same.
const SEAM: usize = 4;
const SAME_MS: u32 = 300;
/// Nobody says more letters in a second than this; an engine that invents does.
const MAX_LETTERS_PER_SECOND: u32 = 35;

/// The words of `clip`, of which `shown` was said to somebody before.
///
/// # Errors
/// The engine's, for the clip as a whole. That it fails to decode a part again is no error.
pub(super) async fn transcribe(
    engine: &dyn Transcriber,
    clip: Clip,
    shown: Option<&Text>,
) -> Result<Text, TranscribeError> {
    let (text, speech) = tokio::join!(engine.transcribe(clip.clone()), find_speech(clip.samples.clone()));
    let mut whole = Whole::new(text?, speech, clip.duration().as_millis() as u32);
    while let Some(window) = whole.poll_window() {
        histogram!("nearfield_core_transcribe_again_seconds").record(f64::from(window.length_ms()) / 1000.0);
        match engine.transcribe(cut(&clip, window, whole.language())).await {
            Ok(text) => whole.handle_words(text),
            Err(error) => {
                tracing::debug!(%error, "a part could not be decoded again");
                whole.handle_failure();
            }
        }
    }
    Ok(counted(whole.finish(shown)))
}

/// The words of `clip` so far.
///
/// # Errors
/// The engine's.
pub(super) async fn partial(engine: &dyn Transcriber, clip: Clip) -> Result<Text, TranscribeError> {
    let mut text = engine.transcribe(clip.clone()).await?;
    if invented::is_suspect(&text) {
        invented::strip(&mut text, &find_speech(clip.samples).await);
    }
    Ok(text)
}

/// What is told of `clip` where the engine has no words for it: those `shown`, and what is missing.
pub(super) async fn without_engine(clip: &Clip, shown: Option<&Text>) -> Text {
    let speech = find_speech(clip.samples.clone()).await;
    counted(Whole::new(Text::default(), speech, clip.duration().as_millis() as u32).finish(shown))
}

fn counted(text: Text) -> Text {
    let missing: u32 = text.missing.iter().map(|span| span.length_ms()).sum();
    if missing > 0 {
        histogram!("nearfield_core_not_transcribed_seconds").record(f64::from(missing) / 1000.0);
    }
    text
}

/// Off the runtime's threads: 10 ms for half a minute. Where that fails nothing is checked.
async fn find_speech(samples: Arc<[f32]>) -> Vec<Span> {
    blocking("speech", move || speech::find(&samples)).await.unwrap_or_default()
}

/// A part of `clip`, which is in `language` if that is known: found out anew, a short part may come out in another one.
fn cut(clip: &Clip, window: Span, language: Option<String>) -> Clip {
    let at = |ms: u32| (ms as usize * SAMPLE_RATE / 1000).min(clip.samples.len());
    Clip {
        samples: clip.samples[at(window.start_ms)..at(window.end_ms)].into(),
        language: clip.language.clone().or(language),
    }
}

/// A text that is to cover a clip's speech.
pub(crate) struct Whole {
    speech: Vec<Span>,
    text: Text,
    /// What was left when it was tried, and the window that was.
    tried: Vec<(Span, Span)>,
    again_ms: u32,
}

impl Whole {
    pub(crate) fn new(text: Text, speech: Vec<Span>, length_ms: u32) -> Self {
        let mut text = located(text, length_ms);
        invented::strip(&mut text, &speech);
        believe(&mut text, &speech);
        Self { speech, text, tried: vec![], again_ms: 0 }
    }

    fn language(&self) -> Option<String> {
        self.text.language.clone()
    }

    /// What to have transcribed next.
    pub(crate) fn poll_window(&mut self) -> Option<Span> {
        if self.tried.len() >= MAX_TRIES {
            return None;
        }
        let mut left = uncovered(&self.speech, &self.text).into_iter();
        let (left, window) = left.find_map(|left| Some((left, self.window(left)?)))?;
        self.again_ms += window.length_ms();
        if self.again_ms > MAX_AGAIN_MS {
            return None;
        }
        self.tried.push((left, window));
        Some(window)
    }

    /// The first window for what is `left` that was not tried: the same again would give the same words.
    fn window(&self, left: Span) -> Option<Span> {
        let near = Span { start_ms: self.pause_before(left.start_ms), end_ms: self.pause_after(left.end_ms) };
        let mut windows = vec![near];
        if voiced_ms(left, &self.speech) > HALVE_MS {
            let middle = self.pause_in(left);
            windows.extend([Span { end_ms: middle, ..near }, Span { start_ms: middle, ..near }]);
        }
        if near.start_ms > BEFORE_MS {
            windows.push(Span { start_ms: near.start_ms - BEFORE_MS, ..near });
        }
        windows.into_iter().find(|window| self.tried.iter().all(|(_, tried)| tried != window))
    }

    fn pause_before(&self, at: u32) -> u32 {
        let pauses = self.pauses().into_iter().map(|pause| (pause.start_ms + pause.end_ms) / 2);
        let near = pauses.filter(|pause| *pause <= at && pause + NEAR_MS >= at);
        near.max().unwrap_or(at.saturating_sub(EDGE_MS))
    }

    fn pause_after(&self, at: u32) -> u32 {
        let next = self.speech.iter().map(|stretch| stretch.start_ms).find(|start| *start >= at);
        next.map_or(at + NEAR_MS, |next| next.min(at + NEAR_MS)).max(at + EDGE_MS)
    }

    /// The middle of the pause nearest to the middle of `span`, or that if there is none.
    fn pause_in(&self, span: Span) -> u32 {
        let middle = (span.start_ms + span.end_ms) / 2;
        let pauses = self.pauses().into_iter().map(|pause| (pause.start_ms + pause.end_ms) / 2);
        let inside = pauses.filter(|at| span.start_ms + EDGE_MS < *at && *at + EDGE_MS < span.end_ms);
        inside.min_by_key(|at| at.abs_diff(middle)).unwrap_or(middle)
    }

    /// Between stretches of speech, and before the first.
    fn pauses(&self) -> Vec<Span> {
        let ends = std::iter::once(0).chain(self.speech.iter().map(|stretch| stretch.end_ms));
        let starts = self.speech.iter().map(|stretch| stretch.start_ms);
        ends.zip(starts).map(|(start_ms, end_ms)| Span { start_ms, end_ms }).collect()
    }

    /// The words of the window that was polled last.
    pub(crate) fn handle_words(&mut self, heard: Text) {
        let Some((left, window)) = self.tried.last().copied() else { return };
        let heard = located(heard, window.length_ms());
        let at = |ms: u32| ms.saturating_add(window.start_ms).min(window.end_ms);
        let words =
            heard.words.into_iter().map(|word| Word { start_ms: at(word.start_ms), end_ms: at(word.end_ms), ..word });
        let spans = heard.spans.iter().map(|span| Span { start_ms: at(span.start_ms), end_ms: at(span.end_ms) });
        self.text.repeated |= heard.repeated;
        self.text.language = self.text.language.take().or(heard.language);
        self.insert(left, words.collect(), spans.collect());
    }

    /// It could not be transcribed.
    pub(crate) fn handle_failure(&mut self) {
        self.again_ms = MAX_AGAIN_MS;
    }

    /// The text, with words that somebody was shown where there are none; what is missing is told.
    pub(crate) fn finish(mut self, shown: Option<&Text>) -> Text {
        for left in uncovered(&self.speech, &self.text) {
            let words = shown.into_iter().flat_map(|shown| shown.words.iter().cloned()).collect();
            let spans = shown.into_iter().flat_map(|shown| shown.spans.iter().copied()).collect();
            self.insert(left, words, spans);
        }
        self.text.missing = uncovered(&self.speech, &self.text);
        self.text
    }

    /// Puts those of `words` into the text that are from `left`, but none twice.
    fn insert(&mut self, left: Span, words: Vec<Word>, spans: Vec<Span>) {
        let middle = |word: &Word| (word.start_ms + word.end_ms) / 2;
        let wide = Span { start_ms: left.start_ms.saturating_sub(EDGE_MS), end_ms: left.end_ms + EDGE_MS };
        let mut words: Vec<Word> = words.into_iter().filter(|word| wide.holds(middle(word))).collect();
        let (before, after): (Vec<Word>, Vec<Word>) = std::mem::take(&mut self.text.words)
            .into_iter()
            .partition(|word| middle(word) < (left.start_ms + left.end_ms) / 2);
        words.drain(..seam(&before, &words));
        words.truncate(words.len() - seam(&words, &after));
        let said: u32 = words.iter().map(|word| letters(&word.text)).sum();
        if said * 1000 > MAX_LETTERS_PER_SECOND * (voiced_ms(wide, &self.speech) + 1000) {
            words.clear();
        }
        if !words.is_empty() {
            self.text.spans.extend(spans.into_iter().filter_map(|span| span.overlap(wide)));
            self.text.text = self.text.joined(&before, &words, &after);
        }
        self.text.words = [before, words, after].concat();
        believe(&mut self.text, &self.speech);
    }
}

/// Words of which the engine does not say where they are from are from anywhere in its clip.
fn located(mut text: Text, length_ms: u32) -> Text {
    if text.spans.is_empty() && !text.words.is_empty() {
        text.spans.push(Span { start_ms: 0, end_ms: length_ms });
    }
    text
}

/// How many words `later` begins with that `earlier` ends with.
fn seam(earlier: &[Word], later: &[Word]) -> usize {
    let plain = |word: &Word| {
        word.text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>()
    };
    let most = SEAM.min(earlier.len()).min(later.len());
    let same = |n: &usize| {
        let end = &earlier[earlier.len() - n..];
        // People repeat themselves too, but not at the same moment.
        end[0].start_ms.abs_diff(later[0].start_ms) <= SAME_MS
            && end.iter().map(plain).eq(later[..*n].iter().map(plain))
    };
    (1..=most).rev().find(same).unwrap_or(0)
}

#[cfg(test)]
mod tests;
