//! Any server that speaks OpenAI's `POST /v1/audio/transcriptions`.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use mesh::wire::request::Secret;
use metrics::counter;
use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderMap},
    multipart::{Form, Part},
    redirect,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Clip, SAMPLE_RATE, Span, Text, TranscribeError, Transcriber, Word, align::laid_over, whisper::known_language,
};

/// The longest answer read, in bytes: 30 s of speech take about 10 kB.
const MAX_ANSWER: usize = 1 << 20;
/// How often one clip is sent again after a failure that may pass.
const RETRIES: usize = 4;
/// The first pause before sending again; doubles, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Clips longer than this are refused: 25 MB is what OpenAI takes, 13 minutes of them.
const MAX_CLIP: Duration = Duration::from_secs(600);

/// Settings of a remote engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the server is; `/v1/audio/transcriptions` is added.
    pub url: String,
    /// The model's name, as the server knows it.
    pub model: String,
    /// Bearer token.
    pub key: Option<Secret>,
    /// How long one clip may take in all, retries included.
    pub deadline: Duration,
}

/// A remote engine behind [`Transcriber`].
pub struct OpenAi {
    client: reqwest::Client,
    endpoint: Url,
    model: String,
    key: Option<Secret>,
    deadline: Duration,
    /// The model knows no `verbose_json`: it gives text only.
    plain: AtomicBool,
}

/// Why one attempt failed.
struct Failure {
    error: TranscribeError,
    may_pass: bool,
    retry_after: Option<Duration>,
}

/// The answer in `verbose_json`; every part but the text may be missing.
#[derive(Deserialize)]
struct Answer {
    text: String,
    language: Option<String>,
    #[serde(default)]
    words: Vec<Timed>,
    #[serde(default)]
    segments: Vec<Segment>,
}

#[derive(Deserialize)]
struct Timed {
    word: String,
    start: f64,
    end: f64,
}

#[derive(Deserialize)]
struct Segment {
    avg_logprob: Option<f32>,
    start: Option<f64>,
    end: Option<f64>,
    text: Option<String>,
}

impl OpenAi {
    /// A client for one server. Nothing is sent yet.
    ///
    /// # Errors
    /// [`TranscribeError::Setting`] when the URL is no `http` or `https` URL, or the key no header value.
    pub fn new(settings: Settings) -> Result<Self, TranscribeError> {
        let endpoint = endpoint(&settings.url)?;
        if settings.key.as_ref().is_some_and(|key| header::HeaderValue::try_from(&key.0).is_err()) {
            let cause = "holds characters that no HTTP header can carry".to_owned();
            return Err(TranscribeError::Setting { key: "key", cause });
        }
        // An answer that points elsewhere must not carry the key there.
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|e| TranscribeError::Setting { key: "url", cause: without_url(e) })?;
        let Settings { model, key, deadline, .. } = settings;
        Ok(Self { client, endpoint, model, key, deadline, plain: AtomicBool::new(false) })
    }

    async fn attempt(&self, clip: &Clip, wav: &[u8]) -> Result<Text, Failure> {
        let mut response = self.send(clip, wav, self.plain.load(Ordering::Relaxed)).await?;
        if response.status() == StatusCode::BAD_REQUEST && !self.plain.load(Ordering::Relaxed) {
            // Some models know no `verbose_json`.
            let plain = self.send(clip, wav, true).await?;
            if plain.status().is_success() {
                tracing::info!("the engine gives text without times");
                self.plain.store(true, Ordering::Relaxed);
                response = plain;
            }
        }
        if !response.status().is_success() {
            return Err(Failure::status(response.status(), response.headers()));
        }
        text_of(&read(response).await?, clip).map_err(Failure::lasting)
    }

    async fn send(&self, clip: &Clip, wav: &[u8], plain: bool) -> Result<Response, Failure> {
        let mut request = self.client.post(self.endpoint.clone()).multipart(self.form(clip, wav, plain));
        if let Some(key) = &self.key {
            request = request.bearer_auth(&key.0);
        }
        request.send().await.map_err(Failure::passing)
    }

    fn form(&self, clip: &Clip, wav: &[u8], plain: bool) -> Form {
        let file = Part::bytes(wav.to_vec()).file_name("clip.wav");
        let file = file.mime_str("audio/wav").expect("a constant media type");
        let form = Form::new().part("file", file).text("model", self.model.clone());
        let form = if plain {
            form.text("response_format", "json")
        } else {
            let form = form.text("response_format", "verbose_json").text("timestamp_granularities[]", "word");
            form.text("timestamp_granularities[]", "segment")
        };
        match &clip.language {
            Some(language) => form.text("language", language.clone()),
            None => form,
        }
    }
}

#[async_trait]
impl Transcriber for OpenAi {
    fn name(&self) -> &str {
        "openai"
    }

    async fn transcribe(&self, clip: Clip) -> Result<Text, TranscribeError> {
        if clip.duration() > MAX_CLIP {
            return Err(TranscribeError::Clip("longer than 10 minutes".into()));
        }
        let wav = wav(&clip.samples);
        let pauses = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_times(RETRIES).with_jitter();
        let until = Instant::now() + self.deadline;
        let work = (|| self.attempt(&clip, &wav))
            .retry(pauses)
            // Who is put off for longer than there is says why at once.
            .when(|failure| failure.may_pass && failure.retry_after.is_none_or(|pause| Instant::now() + pause < until))
            .adjust(|failure, pause| pause.map(|pause| failure.retry_after.unwrap_or(pause)))
            .notify(|_, _| counter!("nearfield_core_transcribe_retries_total").increment(1));
        match tokio::time::timeout(self.deadline, work).await {
            Ok(result) => result.map_err(|failure| failure.error),
            Err(_) => Err(TranscribeError::Deadline { engine: "openai", after: self.deadline }),
        }
    }
}

impl Failure {
    fn passing(cause: reqwest::Error) -> Self {
        Self { error: failed(without_url(cause)), may_pass: true, retry_after: None }
    }

    fn lasting(cause: String) -> Self {
        Self { error: failed(cause), may_pass: false, retry_after: None }
    }

    /// The body is not quoted: servers repeat part of the key in it.
    fn status(status: StatusCode, headers: &HeaderMap) -> Self {
        let cause = match status.as_u16() {
            401 | 403 => "the key is missing, wrong or not allowed to",
            404 => "no such endpoint or model there",
            413 => "the clip is too large for this server",
            429 => "too many requests, or no credit left",
            300..=399 => "a redirect, which is not followed",
            500.. => "the server has failed",
            _ => "the request was refused",
        };
        Self {
            error: TranscribeError::Status { engine: "openai", status: status.as_u16(), cause: cause.into() },
            may_pass: status.as_u16() == 429 || status.is_server_error(),
            retry_after: retry_after(headers),
        }
    }
}

/// The words of `clip` in an answer, or why it is none.
pub(crate) fn text_of(answer: &[u8], clip: &Clip) -> Result<Text, String> {
    serde_json::from_slice(answer).map(|answer: Answer| answer.into_text(clip)).map_err(|e| malformed(&e))
}

impl Answer {
    fn into_text(self, clip: &Clip) -> Text {
        let logprobs: Vec<f32> = self.segments.iter().filter_map(|s| s.avg_logprob).collect();
        // The mean of none, or of infinite ones, is no number.
        let mean = Some(logprobs.iter().sum::<f32>() / logprobs.len() as f32).filter(|mean| !mean.is_nan());
        let confidence = mean.map(|mean| mean.exp().clamp(0.0, 1.0));
        let word = |text: &str, start_ms, end_ms| Word {
            text: text.trim().to_owned(),
            start_ms,
            end_ms,
            confidence: confidence.unwrap_or_default(),
        };
        let last = clip.duration().as_millis() as u32;
        let ms = |seconds: f64| ((seconds * 1000.0) as u32).min(last);
        let span = |start, end| Span { start_ms: ms(start), end_ms: ms(end).max(ms(start)) };
        let segments = self.segments(&span, last);
        let words = if self.words.is_empty() {
            let laid = segments.iter().flat_map(|(span, text)| laid_over(&clip.samples, *span, text));
            laid.map(|(text, start, end)| word(text, start, end)).collect()
        } else {
            let timed = self.words.iter().map(|timed| (&timed.word, span(timed.start, timed.end)));
            timed.map(|(text, span)| word(text, span.start_ms, span.end_ms)).collect()
        };
        let spans = segments.iter().map(|(span, _)| *span).filter(|span| span.length_ms() > 0).collect();
        let language = self.language.as_deref().and_then(known_language).map(str::to_owned);
        Text { text: self.text.trim().to_owned(), language, confidence, words, spans, ..Text::default() }
    }

    /// Stretches of the clip and what was said in each: segments where they say so, else words, else all in one.
    fn segments(&self, span: &impl Fn(f64, f64) -> Span, last: u32) -> Vec<(Span, &str)> {
        let segment = |s: &'_ Segment| Some((span(s.start?, s.end?), s.text.is_some()));
        let known: Option<Vec<(Span, bool)>> = self.segments.iter().map(segment).collect();
        let texts = self.segments.iter().map(|s| s.text.as_deref().unwrap_or_default());
        match known.filter(|known| !known.is_empty()) {
            Some(known) if !self.words.is_empty() || known.iter().all(|(_, has_text)| *has_text) => {
                known.into_iter().map(|(span, _)| span).zip(texts).collect()
            }
            _ if !self.words.is_empty() => {
                self.words.iter().map(|timed| (span(timed.start, timed.end), timed.word.as_str())).collect()
            }
            _ if self.text.trim().is_empty() => vec![],
            _ => vec![(Span { start_ms: 0, end_ms: last }, self.text.as_str())],
        }
    }
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenAi({})", self.endpoint.host_str().unwrap_or_default())
    }
}

fn endpoint(url: &str) -> Result<Url, TranscribeError> {
    let bad = |cause: String| TranscribeError::Setting { key: "url", cause };
    let url = format!("{}/v1/audio/transcriptions", url.trim_end_matches('/'));
    let url = Url::parse(&url).map_err(|e| bad(format!("not a URL: {e}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(bad(format!("scheme `{other}`, http and https are allowed"))),
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await.map_err(Failure::passing)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Failure::lasting(format!("answer longer than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Seconds only: the date form (RFC 9110 section 10.2.3) falls back to our own pause.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// RIFF WAVE, 16-bit mono.
fn wav(samples: &[f32]) -> Vec<u8> {
    let (rate, bytes) = (SAMPLE_RATE as u32, samples.len() as u32 * 2);
    let mut out = Vec::with_capacity(44 + samples.len() * 2);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + bytes).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt ");
    out.extend_from_slice(&16u32.to_le_bytes());
    out.extend([1u16, 1].iter().flat_map(|v| v.to_le_bytes())); // PCM, mono
    out.extend([rate, rate * 2].iter().flat_map(|v| v.to_le_bytes()));
    out.extend([2u16, 16].iter().flat_map(|v| v.to_le_bytes())); // bytes per sample, bits
    out.extend_from_slice(b"data");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend(samples.iter().flat_map(|s| ((s.clamp(-1.0, 1.0) * 32_767.0) as i16).to_le_bytes()));
    out
}

/// Only the kind of fault and its place: serde's own message may quote a word that was said.
fn malformed(error: &serde_json::Error) -> String {
    format!(
        "answer is no verbose_json: {:?} error at line {} column {}",
        error.classify(),
        error.line(),
        error.column()
    )
}

fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn failed(cause: String) -> TranscribeError {
    TranscribeError::Engine { engine: "openai", cause }
}

#[cfg(test)]
mod tests;
