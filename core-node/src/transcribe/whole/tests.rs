#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn span((start_ms, end_ms): (u32, u32)) -> Span {
    Span { start_ms, end_ms }
}

/// `count` words, "w0", "w1" and so on, one every 400 ms from 200 ms on: speech without a pause.
fn said(count: u32) -> Vec<Word> {
    let word =
        |n: u32| Word { text: format!("word{n}"), start_ms: 200 + n * 400, end_ms: 600 + n * 400, confidence: 0.9 };
    (0..count).map(word).collect()
}

fn speech(words: &[Word]) -> Vec<Span> {
    words.first().zip(words.last()).map(|(first, last)| span((first.start_ms, last.end_ms))).into_iter().collect()
}

/// What an engine makes of `window` that stops after `most` words.
fn heard(said: &[Word], window: Span, most: usize) -> Text {
    let inside = said.iter().filter(|word| window.start_ms <= word.start_ms && word.end_ms <= window.end_ms);
    let at = |ms: u32| ms - window.start_ms;
    let words: Vec<Word> = inside
        .take(most)
        .map(|word| Word { start_ms: at(word.start_ms), end_ms: at(word.end_ms), ..word.clone() })
        .collect();
    let spans = words.iter().map(|word| span((word.start_ms, word.end_ms))).collect();
    Text { text: texts(&words), words, spans, ..Text::default() }
}

fn texts(words: &[Word]) -> String {
    words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// All windows are transcribed by `engine`; returns the text and the windows.
fn run(said: &[Word], shown: Option<&Text>, mut engine: impl FnMut(Span) -> Option<Text>) -> (Text, Vec<Span>) {
    let all = span((0, said.last().map_or(0, |word| word.end_ms) + 300));
    let mut whole = Whole::new(engine(all).unwrap_or_default(), speech(said), all.end_ms);
    let mut windows = vec![];
    while let Some(window) = whole.poll_window() {
        windows.push(window);
        match engine(window) {
            Some(text) => whole.handle_words(text),
            None => whole.handle_failure(),
        }
    }
    (whole.finish(shown), windows)
}

#[test]
fn a_whole_text_costs_no_second_try() {
    let said = said(40);
    let (text, windows) = run(&said, None, |window| Some(heard(&said, window, 99)));
    assert_eq!((text.words, text.missing, windows), (said, vec![], vec![]));
}

#[test]
fn an_engine_that_stops_early_is_asked_for_the_rest() {
    let said = said(46);
    let (text, windows) =
        run(&said, None, |window| Some(heard(&said, window, if window.start_ms == 0 { 3 } else { 99 })));
    assert_eq!(text.text, texts(&said));
    assert_eq!((text.missing, windows.len()), (vec![], 1));
    assert!(text.words.is_sorted_by_key(|word| word.start_ms));
}

#[test]
fn one_that_stops_each_time_is_asked_until_tries_run_out_and_what_is_left_is_told() {
    let said = said(60);
    let (text, windows) = run(&said, None, |window| Some(heard(&said, window, 5)));
    assert!(windows.len() <= MAX_TRIES, "{windows:?}");
    assert_eq!(text.text, texts(&said[..text.words.len()]), "none twice, none out of order");
    let heard_until = text.words.last().unwrap().end_ms;
    assert!(text.missing.len() == 1 && text.missing[0].start_ms.abs_diff(heard_until) <= 300, "{:?}", text.missing);
    assert_eq!(text.missing[0].end_ms, said[59].end_ms);
}

#[test]
fn an_empty_answer_for_speech_is_asked_for_in_other_windows_and_told() {
    let said = said(30);
    let (text, windows) = run(&said, None, |_| Some(Text::default()));
    assert_eq!((text.text.as_str(), text.missing), ("", speech(&said)));
    let mut different = windows.clone();
    different.dedup();
    assert!(windows.len() > 1 && different == windows, "{windows:?}");
}

#[test]
fn an_engine_that_fails_is_not_asked_again_and_again() {
    let said = said(30);
    let mut first = true;
    let (text, windows) = run(&said, None, |window| std::mem::take(&mut first).then(|| heard(&said, window, 3)));
    assert_eq!((text.words.len(), windows.len(), text.missing.len()), (3, 1, 1));
}

#[test]
fn a_hole_in_the_middle_is_filled_in_its_place() {
    let said = said(40);
    let (text, _) = run(&said, None, |window| {
        let mut text = heard(&said, window, 99);
        if window.start_ms == 0 {
            text.words.drain(10..20);
            text.spans.drain(10..20);
            text.text = texts(&text.words);
        }
        Some(text)
    });
    assert_eq!((text.text, text.missing), (texts(&said), vec![]));
}

#[test]
fn few_words_that_claim_all_of_the_clip_are_not_believed() {
    let said = said(46);
    let (text, _) = run(&said, None, |window| {
        let mut text = heard(&said, window, if window.start_ms == 0 { 3 } else { 99 });
        text.spans = vec![span((0, window.length_ms()))];
        Some(text)
    });
    assert_eq!(text.words.first().zip(text.words.last()).map(|(a, b)| (&*a.text, &*b.text)), Some(("word0", "word45")));
    assert!(text.words.len() >= 44 && text.missing.is_empty(), "{} {:?}", text.words.len(), text.missing);
}

#[test]
fn what_a_listener_was_shown_stands_where_the_engine_says_nothing() {
    let said = said(30);
    let shown = heard(&said, span((0, 10_000)), 99);
    let (text, _) =
        run(&said, Some(&shown), |window| Some(heard(&said, window, if window.start_ms == 0 { 3 } else { 0 })));
    assert_eq!(text.text, texts(&said[..shown.words.len()]));
    assert_eq!(text.missing.iter().map(|span| span.end_ms).collect::<Vec<_>>(), [said[29].end_ms]);
}

#[test]
fn words_invented_in_a_window_are_not_taken() {
    let said = said(20);
    let (text, _) = run(&said, None, |window| {
        let mut text = heard(&said, window, 3);
        if window.start_ms > 0 {
            let word = Word { text: "thanksforwatching".into(), start_ms: 100, end_ms: 200, confidence: 0.3 };
            text.words = vec![word; 60];
        }
        Some(text)
    });
    assert_eq!((text.words.len(), text.missing.len()), (3, 1));
}

#[test]
fn what_is_said_twice_stays_and_what_is_heard_twice_does_not() {
    let mut said = said(12);
    said.iter_mut().for_each(|word| word.text = "no".into());
    // The window begins before what is left: its first word is the last of what was there.
    let (text, _) = run(&said, None, |window| Some(heard(&said, window, if window.start_ms == 0 { 4 } else { 99 })));
    assert_eq!(text.words.len(), 12, "{:?}", text.words);
}

proptest! {
    #[test]
    fn whatever_an_engine_says_tries_end_and_words_stay_in_order(
        count in 0u32..70,
        answers in proptest::collection::vec(proptest::option::of((0usize..30, 0usize..20)), 1..12),
    ) {
        let said = said(count);
        let mut turn = 0;
        let (text, windows) = run(&said, None, |window| {
            turn += 1;
            answers[turn % answers.len()].map(|(skip, most)| {
                let mut text = heard(&said, window, skip + most);
                text.words.drain(..skip.min(text.words.len()));
                text.spans.drain(..skip.min(text.spans.len()));
                text
            })
        });
        prop_assert!(windows.len() <= MAX_TRIES);
        prop_assert!(windows.iter().map(|window| window.length_ms()).sum::<u32>() <= MAX_AGAIN_MS + 30_000);
        prop_assert!(text.words.windows(2).all(|two| two[0].start_ms < two[1].start_ms), "{:?}", text.words);
        prop_assert!(text.missing.windows(2).all(|two| two[0].end_ms <= two[1].start_ms));
    }
}

#[test]
fn a_part_is_in_the_language_of_the_whole() {
    let clip =
        |language: Option<&str>| Clip { samples: vec![0.0; SAMPLE_RATE].into(), language: language.map(Into::into) };
    let of = |said, found: Option<&str>| cut(&clip(said), span((0, 500)), found.map(Into::into)).language;
    assert_eq!(
        (of(None, Some("de")), of(Some("fr"), Some("de")), of(None, None)),
        (Some("de".into()), Some("fr".into()), None)
    );
}
