#![allow(clippy::unwrap_used)]

use super::*;

/// A model's files, as far as they are looked at before the library is.
fn files(folder: &Path, names: &[&str]) -> Settings {
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let files = names.iter().map(|name| ((*name).to_owned(), write(name, b"\x14\0\0\0ORTM\0\0\0\0"))).collect();
    let tokens = write("tokens.txt", b"PHVuaz4= 0\nPHM+ 1\n");
    Settings { library: None, family: Family::Moonshine, files, tokens, languages: vec!["en".into()], threads: 1 }
}

fn refused(settings: &Settings) -> String {
    check(settings).unwrap_err().to_string()
}

#[test]
fn what_can_be_no_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = files(folder.path(), &["encoder", "merged_decoder"]);
    check(&good).unwrap();
    check(&files(folder.path(), &["preprocessor", "encoder", "uncached_decoder", "cached_decoder"])).unwrap();

    let cases = [
        (files(folder.path(), &["encoder"]), "moonshine takes encoder, merged_decoder or preprocessor"),
        (Settings { family: Family::Canary, ..good.clone() }, "canary takes encoder, decoder; given are"),
        (Settings { languages: vec![], ..good.clone() }, "sherpa.languages"),
        (Settings { languages: vec!["english".into()], ..good.clone() }, "sherpa.languages"),
        (Settings { threads: 0, ..good.clone() }, "1 to 64"),
        (Settings { tokens: folder.path().join("none"), ..good.clone() }, "none"),
        (Settings { tokens: good.files["encoder"].clone(), ..good.clone() }, "not a list of tokens"),
    ];
    for (settings, why) in cases {
        assert!(refused(&settings).contains(why), "{} does not say {why}", refused(&settings));
    }
    for (content, why) in [(&b""[..], "neither an ONNX file"), (b"<html>", "neither an ONNX file")] {
        std::fs::write(&good.files["encoder"], content).unwrap();
        assert!(refused(&good).contains(why) && refused(&good).contains("encoder"), "{}", refused(&good));
    }
    std::fs::write(&good.tokens, b"\n\n").unwrap();
    std::fs::write(&good.files["encoder"], [ONNX, 7]).unwrap();
    assert!(refused(&good).contains("not a list of tokens"));
}

mod engine {
    use std::sync::{Arc, OnceLock};

    use futures_util::future::join_all;
    use proptest::prelude::*;

    use super::*;
    use crate::transcribe::{
        Clip, SAMPLE_RATE, Text, Transcriber,
        samples::{cache, plain, prompt, silence},
        sherpa::recognizer::{Heard, text},
    };

    /// One for all tests: loading it takes a while.
    fn moonshine() -> Arc<Sherpa> {
        static ENGINE: OnceLock<Arc<Sherpa>> = OnceLock::new();
        let file = |name: &str| cache(&format!("models/moonshine-tiny-en/{name}"), "./dev model moonshine");
        let files = [("encoder", "encoder_model.ort"), ("merged_decoder", "decoder_model_merged.ort")];
        let load = || {
            let settings = Settings {
                library: Some(cache("sherpa-onnx/lib/libsherpa-onnx-c-api.so", "./dev model moonshine")),
                family: Family::Moonshine,
                files: files.iter().map(|(role, name)| ((*role).to_owned(), file(name))).collect(),
                tokens: file("tokens.txt"),
                languages: vec!["en".into()],
                threads: 1,
            };
            Arc::new(Sherpa::load(&settings).unwrap())
        };
        ENGINE.get_or_init(load).clone()
    }

    async fn hear(samples: Vec<f32>) -> Text {
        moonshine().transcribe(Clip { samples: samples.into(), language: None }).await.unwrap()
    }

    #[tokio::test]
    async fn a_sentence_comes_out_with_its_words_within_its_sound() {
        let samples = [silence(500), prompt("cannot-complete-as-dialed"), silence(500)].concat();
        let end = (samples.len() * 1000 / SAMPLE_RATE) as u32;
        let text = hear(samples).await;
        assert_eq!(plain(&text.text), "your call cannot be completed as dialed");
        assert_eq!((text.language.as_deref(), text.words.len()), (Some("en"), 7));
        assert!(text.words.is_sorted_by(|a, b| a.end_ms <= b.start_ms + 20));
        assert!(text.words[0].start_ms >= 450 && text.words[6].end_ms <= end - 400, "{:?}", text.words);
    }

    /// Strokes of fading noise, many a second.
    fn applause(seed: u32) -> Vec<f32> {
        let (mut sound, mut state) = (silence(15_000), seed);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        for _ in 0..900 {
            let (at, loud) = ((next() * 240_000.0) as usize, 0.02 + next() * 0.18);
            for (n, sample) in sound[at..].iter_mut().take(480).enumerate() {
                *sample += loud * (-(n as f32) / 120.0).exp() * (next() * 2.0 - 1.0);
            }
        }
        sound
    }

    #[tokio::test]
    async fn nothing_is_made_of_applause() {
        for seed in 1..=4 {
            assert_eq!(hear(applause(seed)).await.text, "", "seed {seed}");
        }
    }

    #[tokio::test]
    async fn short_and_empty_clips_are_no_trouble() {
        assert_eq!(plain(&hear(prompt("activated")).await.text), "activated");
        assert_eq!(hear(vec![]).await.text, "");
        assert_eq!(hear(vec![0.0; 1]).await.words, []);
    }

    #[tokio::test]
    async fn clips_heard_at_once_come_out_as_those_heard_one_by_one() {
        let names = ["activated", "cannot-complete-as-dialed", "vm-goodbye", "auth-thankyou"];
        let mut alone = vec![];
        for name in names {
            alone.push(hear(prompt(name)).await);
        }
        assert_eq!(join_all(names.map(|name| hear(prompt(name)))).await, alone);
    }

    #[tokio::test]
    async fn a_clip_that_is_too_long_is_refused() {
        let clip = Clip { samples: silence(30_001).into(), language: None };
        assert!(matches!(moonshine().transcribe(clip).await, Err(TranscribeError::Clip(_))));
    }

    #[test]
    fn a_model_knows_the_languages_that_are_given() {
        assert!(moonshine().knows("en") && !moonshine().knows("de"));
    }

    fn heard(text: &str, tokens: &[(&str, f32)], durations: &[f32]) -> Heard {
        Heard {
            text: text.into(),
            tokens: tokens.iter().map(|(token, _)| (*token).into()).collect(),
            timestamps: tokens.iter().map(|(_, at)| *at).collect(),
            durations: durations.to_vec(),
            lang: String::new(),
        }
    }

    fn times(heard: &Heard) -> Vec<(u32, u32)> {
        let clip = Clip { samples: silence(2000).into(), language: None };
        text(heard, &clip, None, 300).words.iter().map(|word| (word.start_ms, word.end_ms)).collect()
    }

    #[test]
    fn a_word_has_the_times_of_its_tokens() {
        let tokens = [("\u{2581}Good", 0.3), ("\u{2581}mor", 0.8), ("ning.", 1.0)];
        assert_eq!(times(&heard("Good morning.", &tokens, &[])), [(0, 500), (500, 2000)]);
        assert_eq!(times(&heard("Good morning.", &tokens, &[0.2, 0.2, 0.3])), [(0, 200), (500, 1000)]);
        let spaces = [(" Good", 0.3), (" mor", 0.8), ("ning.", 1.0)];
        assert_eq!(times(&heard("Good morning.", &spaces, &[])), [(0, 500), (500, 2000)]);
    }

    #[test]
    fn tokens_that_do_not_spell_the_words_give_no_times() {
        let other = heard("Good morning.", &[("\u{2581}Go", 0.3), ("\u{2581}od", 0.4)], &[]);
        assert_eq!(times(&other).len(), 2, "they are laid over the sound");
        let short = Heard { tokens: vec!["\u{2581}Good".into()], ..other };
        assert_eq!(times(&short).len(), 2);
    }

    proptest! {
        #[test]
        fn words_are_in_order_and_inside_whatever_a_model_says(
            words in proptest::collection::vec("[a-z]{1,9}", 0..20),
            times in proptest::collection::vec(-9.0f32..99.0, 20),
            durations in proptest::option::of(proptest::collection::vec(-9.0f32..99.0, 20)),
        ) {
            let tokens: Vec<String> = words.iter().map(|word| format!("\u{2581}{word}")).collect();
            let durations = durations.map(|durations| durations[..tokens.len()].to_vec()).unwrap_or_default();
            let times = times[..tokens.len()].to_vec();
            let said = Heard { text: words.join(" "), timestamps: times, durations, tokens, lang: String::new() };
            let clip = Clip { samples: silence(2000).into(), language: None };
            let text = text(&said, &clip, None, 300);
            prop_assert!(text.words.iter().all(|word| word.start_ms <= word.end_ms && word.end_ms <= 2000));
        }
    }
}
