#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http, response::IntoResponse, routing::post};
use ezk_g722::libg722::{Bitrate, decoder::Decoder};
use serde_json::json;

use super::*;
use crate::transcribe::pool::Pool;

const KEY: &str = "sk-not-to-be-seen";

/// Status, headers and body.
type Reply = (u16, Vec<(&'static str, &'static str)>, String);

/// Answers requests with what it was given, in turn, the last for ever; keeps what it was sent.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Vec<Reply>>,
    seen: Arc<Mutex<Vec<(http::HeaderMap, Bytes)>>>,
}

impl Server {
    async fn start(answers: Vec<Reply>) -> (Self, SocketAddr) {
        let server = Self { answers: Arc::new(answers), seen: Arc::default() };
        let routes =
            Router::new().route("/base/v1/audio/transcriptions", post(Self::handle)).with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (server, addr)
    }

    async fn handle(State(server): State<Self>, headers: http::HeaderMap, body: Bytes) -> impl IntoResponse {
        let number = {
            let mut seen = server.seen.lock().unwrap();
            seen.push((headers, body));
            seen.len() - 1
        };
        let (status, headers, body) = server.answers[number.min(server.answers.len() - 1)].clone();
        let headers: http::HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        (http::StatusCode::from_u16(status).unwrap(), headers, body)
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn engine(addr: SocketAddr) -> OpenAi {
    let _ = rustls::crypto::ring::default_provider().install_default();
    OpenAi::new(Settings {
        url: format!("http://{addr}/base/"),
        model: "whisper-1".into(),
        key: Some(Secret(KEY.into())),
        deadline: Duration::from_secs(20),
    })
    .unwrap()
}

fn clip() -> Clip {
    Clip { samples: vec![0.25; SAMPLE_RATE].into(), language: Some("en".into()) }
}

fn verbose() -> String {
    json!({
        "task": "transcribe", "language": "english", "duration": 1.0, "text": " Hello there. ",
        "words": [{"word": "Hello", "start": 0.1, "end": 0.4}, {"word": "there", "start": 0.5, "end": 7.0}],
        "segments": [{"id": 0, "avg_logprob": -0.1}],
    })
    .to_string()
}

#[tokio::test]
async fn the_request_has_every_field_and_the_answer_is_read() {
    let (server, addr) = Server::start(vec![(200, vec![], verbose())]).await;
    let text = engine(addr).transcribe(clip()).await.unwrap();
    assert_eq!((text.text.as_str(), text.language.as_deref()), ("Hello there.", Some("en")));
    let words: Vec<_> = text.words.iter().map(|w| (w.text.as_str(), w.start_ms, w.end_ms)).collect();
    assert_eq!(words, [("Hello", 100, 400), ("there", 500, 1000)]);
    assert!((text.confidence.unwrap() - 0.905).abs() < 0.001);

    let (headers, body) = server.seen.lock().unwrap()[0].clone();
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    let body = String::from_utf8_lossy(&body).into_owned();
    for part in ["name=\"model\"\r\n\r\nwhisper-1", "verbose_json", "timestamp_granularities[]", "audio/wav", "RIFF"] {
        assert!(body.contains(part), "{part}");
    }
    assert!(body.contains("name=\"language\"\r\n\r\nen"));
}

#[tokio::test]
async fn a_model_that_knows_no_verbose_json_is_asked_for_plain_text_from_then_on() {
    let refusal = (400, vec![], json!({"error": {"message": "response_format 'verbose_json' is not compatible"}}));
    let answers =
        vec![(refusal.0, refusal.1, refusal.2.to_string()), (200, vec![], json!({"text": "yes"}).to_string())];
    let (server, addr) = Server::start(answers).await;
    let engine = engine(addr);
    for requests in [2, 3] {
        assert_eq!(engine.transcribe(clip()).await.unwrap().text, "yes");
        assert_eq!(server.requests(), requests);
    }
    let last = String::from_utf8_lossy(&server.seen.lock().unwrap()[2].1).into_owned();
    assert!(last.contains("name=\"response_format\"\r\n\r\njson") && !last.contains("granularities"));
}

#[tokio::test]
async fn words_without_times_are_laid_over_the_clip() {
    let (_server, addr) = Server::start(vec![(200, vec![], json!({"text": "one two"}).to_string())]).await;
    let text = engine(addr).transcribe(clip()).await.unwrap();
    let words: Vec<_> = text.words.iter().map(|w| (w.text.as_str(), w.start_ms, w.end_ms)).collect();
    assert_eq!(words, [("one", 0, 500), ("two", 500, 1000)]);
    assert_eq!((text.confidence, text.language), (None, None));
}

#[tokio::test]
async fn busy_and_failing_servers_are_asked_again_when_they_say() {
    let busy = (429, vec![("retry-after", "0")], "slow down".into());
    let (server, addr) = Server::start(vec![busy, (503, vec![], String::new()), (200, vec![], verbose())]).await;
    assert_eq!(engine(addr).transcribe(clip()).await.unwrap().words.len(), 2);
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn retries_end() {
    let (server, addr) = Server::start(vec![(500, vec![("retry-after", "0")], String::new())]).await;
    let error = engine(addr).transcribe(clip()).await.unwrap_err();
    assert!(matches!(error, TranscribeError::Status { status: 500, .. }));
    assert_eq!(server.requests(), RETRIES + 1);
}

#[tokio::test]
async fn a_refusal_is_final_and_names_neither_key_nor_words() {
    for (status, word) in [(401, "key"), (404, "model"), (400, "refused"), (302, "redirect")] {
        let body = format!("bad key {KEY} for: my secret words");
        let (server, addr) = Server::start(vec![(status, vec![("location", "http://elsewhere/")], body)]).await;
        let error = engine(addr).transcribe(clip()).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(word) && text.contains(&status.to_string()), "{text}");
        assert!(!text.contains(KEY) && !text.contains("secret"), "{text}");
        // A model without `verbose_json` says 400, so that is asked once more, without.
        assert_eq!(server.requests(), if status == 400 { 2 } else { 1 });
    }
}

#[tokio::test]
async fn a_malformed_or_endless_answer_is_an_error_that_quotes_nothing() {
    let answers = ["not json", "{}", r#"{"text": 3, "words": "secret"}"#, r#"{"text": "secret", "words": [7]}"#];
    for body in answers.map(str::to_owned).into_iter().chain(["\"secret\"".repeat(MAX_ANSWER / 4)]) {
        let (server, addr) = Server::start(vec![(200, vec![], body)]).await;
        let error = engine(addr).transcribe(clip()).await.unwrap_err();
        assert!(matches!(error, TranscribeError::Engine { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn waiting_ends_at_the_deadline() {
    let (_server, addr) = Server::start((0..5).map(|_| (503, vec![], String::new())).collect()).await;
    let mut engine = engine(addr);
    engine.deadline = Duration::from_millis(300);
    let error = engine.transcribe(clip()).await.unwrap_err();
    assert_eq!(error, TranscribeError::Deadline { engine: "openai", after: engine.deadline });
}

#[tokio::test]
async fn who_is_put_off_for_longer_than_the_deadline_says_why_at_once() {
    let (_server, addr) = Server::start(vec![(429, vec![("retry-after", "3600")], String::new())]).await;
    let error = engine(addr).transcribe(clip()).await.unwrap_err();
    assert!(matches!(error, TranscribeError::Status { status: 429, .. }), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    for (url, key, named) in [("ftp://host", "k", "url"), ("no url", "k", "url"), ("http://host", "a\nb", "key")] {
        let settings = Settings {
            url: url.into(),
            model: String::new(),
            key: Some(Secret(key.into())),
            deadline: Duration::from_secs(1),
        };
        let error = OpenAi::new(settings).unwrap_err();
        assert!(matches!(error, TranscribeError::Setting { key, .. } if key == named), "{error}");
    }
}

#[test]
fn a_wav_says_what_it_holds() {
    let wav = wav(&[0.0, 1.0, -2.0]);
    assert_eq!(wav.len(), 44 + 6);
    assert_eq!(&wav[40..44], &6u32.to_le_bytes());
    assert_eq!(&wav[44..], [0, 0, 0xff, 0x7f, 0x01, 0x80]);
}

/// Seven words as sound, and what is said of them.
fn spoken() -> Vec<f32> {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/speech/en/cannot-complete-as-dialed.g722");
    let bytes = std::fs::read(&path).unwrap_or_else(|_| panic!("{} is missing: run ./dev speech", path.display()));
    let samples = Decoder::new(Bitrate::Mode1_64000, false, false).decode(&bytes);
    samples.into_iter().map(|s| f32::from(s) / 32_768.0).collect()
}

async fn whole(answers: Vec<Reply>) -> (Result<Text, TranscribeError>, usize) {
    let (server, addr) = Server::start(answers).await;
    let pool = Pool::new(Arc::new(engine(addr)), 1, 1);
    // Three times the sentence, a quarter of a second apart.
    let samples: Vec<f32> = std::iter::repeat_n([spoken(), vec![0.0; 4000]].concat(), 3).flatten().collect();
    let text = pool.transcribe_final(Clip { samples: samples.into(), language: Some("en".into()) }, None).await;
    (text, server.requests())
}

fn segment(text: &str, start: f64, end: f64) -> Reply {
    let segment = json!({"text": text, "start": start, "end": end, "avg_logprob": -0.1});
    (200, vec![], json!({"text": text, "segments": [segment]}).to_string())
}

const SENTENCE: &str = "Your call cannot be completed as dialed.";

#[tokio::test]
async fn a_short_answer_is_asked_for_the_rest() {
    let rest = segment(&format!("{SENTENCE} {SENTENCE}"), 0.0, 5.8);
    let (text, requests) = whole(vec![segment(SENTENCE, 0.0, 2.6), rest]).await;
    let text = text.unwrap();
    assert_eq!((text.text, text.missing), ([SENTENCE; 3].join(" "), vec![]));
    assert_eq!(requests, 2);
}

#[tokio::test]
async fn words_without_times_are_laid_over_their_segment() {
    let (_server, addr) = Server::start(vec![segment("one two", 0.5, 0.9)]).await;
    let text = engine(addr).transcribe(clip()).await.unwrap();
    let words: Vec<_> = text.words.iter().map(|w| (w.text.as_str(), w.start_ms, w.end_ms)).collect();
    assert_eq!(words, [("one", 500, 700), ("two", 700, 900)]);
    assert_eq!(text.spans, [Span { start_ms: 500, end_ms: 900 }]);
}

#[tokio::test]
async fn a_short_answer_without_times_is_found_out_by_its_few_words() {
    let bare = (200, vec![], json!({"text": "Your call"}).to_string());
    let (text, requests) = whole(vec![bare]).await;
    assert!(!text.unwrap().missing.is_empty());
    assert!((2..=7).contains(&requests), "{requests}");
}

#[tokio::test]
async fn empty_answers_to_speech_are_told_and_not_asked_for_without_end() {
    let (text, requests) = whole(vec![(200, vec![], json!({"text": ""}).to_string())]).await;
    let text = text.unwrap();
    assert!(text.text.is_empty() && text.missing.iter().map(|span| span.length_ms()).sum::<u32>() > 4000, "{text:?}");
    assert!((2..=7).contains(&requests), "{requests}");
}

#[tokio::test]
async fn a_server_that_fails_in_between_costs_no_word_that_is_there() {
    let (text, requests) = whole(vec![segment(SENTENCE, 0.0, 2.6), (404, vec![], String::new())]).await;
    let text = text.unwrap();
    assert_eq!((text.text.as_str(), text.missing.len(), requests), (SENTENCE, 1, 2));
}

#[test]
fn a_stretch_beyond_the_clip_has_its_words_at_the_clip_s_end() {
    let answer = json!({"text": "a", "segments": [{"start": 10.0, "end": 1.5, "text": "a"}]}).to_string();
    let text = text_of(answer.as_bytes(), &clip()).unwrap();
    assert_eq!(text.words.iter().map(|w| (w.start_ms, w.end_ms)).collect::<Vec<_>>(), [(1000, 1000)]);
}
