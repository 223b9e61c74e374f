#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use futures_util::future::join_all;

use super::*;
use crate::transcribe::{
    pool::Pool,
    samples::{cache, plain, prompt, silence},
};

/// One for all tests: loading it takes a while.
fn engine() -> Arc<Whisper> {
    static ENGINE: OnceLock<Arc<Whisper>> = OnceLock::new();
    let load = || {
        let model = cache("models/ggml-tiny.en-q8_0.bin", "./dev model");
        Arc::new(Whisper::load(&Settings { model, threads: 1 }).unwrap())
    };
    ENGINE.get_or_init(load).clone()
}

/// White noise of `dbov` (RMS below full scale), always the same.
fn noise(ms: usize, dbov: i32) -> Vec<f32> {
    let peak = 10f32.powf(dbov as f32 / 20.0) * 3f32.sqrt();
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..ms * SAMPLE_RATE / 1000).map(|_| next() * peak).collect()
}

async fn hear(samples: Vec<f32>) -> Text {
    engine().transcribe(Clip { samples: samples.into(), language: None }).await.unwrap()
}

#[tokio::test]
async fn a_sentence_comes_out_with_its_words_timed_and_in_order() {
    let samples = [silence(500), prompt("cannot-complete-as-dialed"), silence(500)].concat();
    let end = (samples.len() * 1000 / SAMPLE_RATE) as u32;
    let text = hear(samples).await;
    assert_eq!(plain(&text.text), "your call cannot be completed as dialed");
    assert_eq!(text.language.as_deref(), Some("en"));
    assert!(text.confidence.unwrap() > 0.6);
    assert_eq!(text.words.len(), 7);
    assert!(text.words.is_sorted_by(|a, b| a.end_ms <= b.start_ms + 20));
    assert!(text.words[0].start_ms >= 450 && text.words[6].end_ms <= end - 400, "{:?}", text.words);
}

#[tokio::test]
async fn clips_shorter_than_a_second_are_heard() {
    let text = hear(prompt("activated")).await;
    assert_eq!(plain(&text.text), "activated");
}

#[tokio::test]
async fn what_is_made_up_in_silence_is_heard_when_it_is_said() {
    assert_eq!(plain(&hear(prompt("auth-thankyou")).await.text), "thank you");
    assert_eq!(plain(&hear(prompt("vm-goodbye")).await.text), "goodbye");
}

#[tokio::test]
async fn silence_and_noise_say_nothing() {
    for samples in [silence(100), silence(3000), noise(3000, -65), noise(5000, -45), noise(2000, -20)] {
        let text = hear(samples).await;
        assert_eq!((text.text.as_str(), text.words.len()), ("", 0));
    }
}

#[tokio::test]
async fn every_window_size_hears_the_same_sentence() {
    for pause in [0, 12_500, 18_000, 24_000] {
        let text = hear([silence(pause), prompt("cannot-complete-as-dialed")].concat()).await;
        assert_eq!(plain(&text.text), "your call cannot be completed as dialed", "after {pause} ms");
    }
}

/// Seventeen seconds of prompts 0.12 s apart, 39 words. Without time tokens Whisper ends its text after the first five.
const MONOLOGUE: [&str; 7] = [
    "astcc-followed-by-the-pound-key",
    "conf-userwilljoin",
    "confbridge-dec-talk-vol-out",
    "confbridge-unlocked",
    "vm-torerecord",
    "vm-changeto",
    "vm-tocancelmsg",
];

#[tokio::test]
async fn a_long_utterance_keeps_the_words_after_its_pauses() {
    let mut samples: Vec<f32> = MONOLOGUE.iter().flat_map(|name| [prompt(name), silence(120)].concat()).collect();
    samples.extend(silence(590));
    let seconds = samples.len() / SAMPLE_RATE;
    let clip = Clip { samples: samples.into(), language: Some("en".into()) };
    let text = Pool::new(engine(), 1, 1).transcribe_final(clip, None).await.unwrap();
    assert_eq!(seconds, 17);
    assert!((37..=41).contains(&text.words.len()), "{} words", text.words.len());
    assert_eq!(text.missing, []);
    assert!(text.words.is_sorted_by(|a, b| a.end_ms <= b.start_ms + 20), "{:?}", text.words);
    assert!(text.words.last().is_some_and(|last| last.end_ms > 15_000), "{:?}", text.words.last());
}

#[tokio::test]
async fn more_than_the_window_and_nothing_at_all_are_no_trouble() {
    let refused = engine().transcribe(Clip { samples: silence(30_001).into(), language: None }).await;
    assert!(matches!(refused, Err(TranscribeError::Clip(_))));
    assert_eq!(hear(vec![]).await, Text { language: Some("en".into()), ..Text::default() });
}

#[tokio::test]
async fn states_are_reused_and_as_many_as_workers() {
    let model = cache("models/ggml-tiny.en-q8_0.bin", "./dev model");
    let engine = Arc::new(Whisper::load(&Settings { model, threads: 1 }).unwrap());
    let pool = Pool::new(engine.clone(), 2, 1);
    let clip = Clip { samples: prompt("agent-loginok").into(), language: Some("en".into()) };
    let texts = join_all((0..4).map(|_| pool.transcribe_final(clip.clone(), None))).await;
    assert!(texts.iter().all(|text| plain(&text.as_ref().unwrap().text) == "agent logged in"));
    assert_eq!(engine.shared.idle.lock().unwrap().len(), 2);
}

#[test]
fn what_is_no_model_is_refused_with_its_path_and_cause() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "no model at all, but a text that is longer than any header").unwrap();
    let cut = tempfile::NamedTempFile::new().unwrap();
    let whole = std::fs::read(cache("models/ggml-tiny.en-q8_0.bin", "./dev model")).unwrap();
    for length in [6, 48, 200_000, 30_000_000] {
        std::fs::write(cut.path(), &whole[..length]).unwrap();
        assert!(Whisper::load(&Settings { model: cut.path().into(), threads: 1 }).is_err(), "cut to {length} bytes");
    }
    for (path, cause) in [(Path::new("/nowhere.bin"), "No such file"), (text.path(), "ggml"), (cut.path(), "")] {
        let error = Whisper::load(&Settings { model: path.into(), threads: 1 }).err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains(cause), "{error}");
    }
    let threads = Whisper::load(&Settings { model: "x".into(), threads: 0 }).err().unwrap();
    assert!(matches!(threads, TranscribeError::Setting { key: "threads", .. }));
}

#[test]
fn words_begin_at_spaces_or_at_characters() {
    let words = |tokens: &[&[u8]], spaced| {
        let mut draft = Draft::default();
        tokens.iter().for_each(|token| draft.push(token, 0.5, spaced));
        draft.words.iter().map(Piece::text).collect::<Vec<_>>()
    };
    assert_eq!(words(&[b" Hel", b"lo", b",", b" you"], true), ["Hello,", "you"]);
    assert_eq!(words(&[b"\xe6\x97", b"\xa5", "本".as_bytes()], false), ["日", "本"]);
}

#[test]
fn languages_go_by_code_or_name() {
    assert_eq!(known_language("en"), Some("en"));
    assert_eq!(known_language("German"), Some("de"));
    for bad in ["", "xx", "e\0n", "auto"] {
        assert_eq!(known_language(bad), None, "{bad:?}");
    }
}
