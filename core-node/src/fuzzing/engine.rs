//! What an engine may answer: see the parent.

use std::{sync::OnceLock, time::Duration};

use mesh::{
    clock::Micros,
    wire::{Epoch, SpurtNo},
};

use super::meeting;
use crate::{
    key::SpurtKey,
    store::{json, to_json},
    transcribe::{Clip, SAMPLE_RATE, Span, Text, openai::text_of, whole::Whole},
    transcript::{Draft, Finality, Segment, Transcript},
};

/// Seconds of sound.
const LENGTH: usize = 6;

/// A clip of two sounds with a pause between, and where there is speech in it.
fn clip() -> &'static (Clip, Vec<Span>) {
    static CLIP: OnceLock<(Clip, Vec<Span>)> = OnceLock::new();
    CLIP.get_or_init(|| {
        let loud = |at: usize| !(2 * SAMPLE_RATE..4 * SAMPLE_RATE).contains(&at);
        let sample = |at: usize| if loud(at) { (at as f32 * 0.05).sin() * 0.5 } else { 0.0 };
        let samples = (0..LENGTH * SAMPLE_RATE).map(sample).collect();
        let spans = [Span { start_ms: 0, end_ms: 2000 }, Span { start_ms: 4000, end_ms: 6000 }];
        (Clip { samples, language: None }, spans.to_vec())
    })
}

/// Answers of an engine that speaks as OpenAI's does, one a line: to the whole clip, then to parts of it that are asked for
/// again. What comes of them is within the clip and can be kept.
///
/// # Panics
/// This crate is wrong.
pub fn engine(data: &[u8]) {
    let (clip, speech) = clip();
    let mut answers = data.split(|byte| *byte == b'\n').map(|answer| text_of(answer, clip));
    let Some(Ok(first)) = answers.next() else { return };
    let (shown, length_ms) = (first.clone(), (LENGTH * 1000) as u32);
    check(&first, length_ms);
    let mut whole = Whole::new(first, speech.clone(), length_ms);
    let mut asked = 0;
    while let Some(window) = whole.poll_window() {
        assert!(window.length_ms() > 0);
        asked += 1;
        assert!(asked <= 16, "it is asked again and again");
        match answers.next() {
            Some(Ok(text)) => whole.handle_words(text),
            _ => whole.handle_failure(),
        }
    }
    let text = whole.finish(Some(&shown));
    check(&text, length_ms + 1000);
    keep(text);
}

fn check(text: &Text, length_ms: u32) {
    let certain = |c: f32| (0.0..=1.0).contains(&c);
    assert!(text.confidence.is_none_or(certain), "{:?}", text.confidence);
    for word in &text.words {
        assert!(word.start_ms <= word.end_ms && word.end_ms <= length_ms && certain(word.confidence));
    }
    assert!(text.missing.iter().all(|span| span.start_ms < span.end_ms && span.end_ms <= length_ms));
}

fn keep(text: Text) {
    let key = SpurtKey { epoch: Epoch(1), participant: "p".into(), spurt: SpurtNo(0) };
    let at = Micros(1_767_225_600_000_000);
    let draft = Draft {
        key,
        item: 0,
        participant: None,
        text,
        captured: at,
        length: Duration::from_secs(LENGTH as u64),
        stages: None,
        step: None,
        received: at,
        durable: at,
        words: at,
        edge: None,
    };
    if let Finality::Segment(segment) = Transcript::new(meeting(), None, 1, []).handle_final(draft) {
        let row = to_json("segments", &*segment).expect("words that were made can be kept");
        assert_eq!(json::<Segment>("segments", &row).ok(), Some(*segment));
    }
}
