#![allow(clippy::unwrap_used)]

use std::path::Path;

use core_node::transcribe::{
    Clip, Transcriber,
    whisper::{Settings, Whisper},
};
use proptest::prelude::*;

use super::*;
use crate::speech::{self, Manner, Prompt, SAMPLE_RATE};

fn script(seed: u64) -> Script {
    let texts = ["please hold the line", "press one to go on", "nobody is here now", "try again a bit later"];
    let prompt = |(i, text): (usize, &&str)| Prompt {
        name: i.to_string(),
        text: (*text).to_owned(),
        samples: vec![8000; SAMPLE_RATE * 2].into(),
    };
    let prompts: Vec<Prompt> = texts.iter().enumerate().map(prompt).collect();
    Script::generate(seed, 3, Duration::from_secs(40), &prompts, &Manner::default())
}

/// Each line as a final, a second after its end.
fn all_heard(script: &Script) -> Vec<Heard> {
    let heard = |(i, line): (usize, &Line)| Heard {
        id: i.to_string(),
        participant: Some(line.participant),
        start: line.start,
        end: line.end(),
        text: line.text.to_uppercase() + ".",
        is_final: true,
        delivered: line.end() + Duration::from_secs(1),
    };
    script.lines.iter().enumerate().map(heard).collect()
}

#[test]
fn all_heard_is_no_error_and_each_word_has_its_delay() {
    let script = script(5);
    let verdict = judge(&script, &all_heard(&script));
    assert_eq!((verdict.errors.total(), verdict.speaker_accuracy()), (0, 1.0));
    assert_eq!(verdict.delays.len(), verdict.errors.words);
    assert!(verdict.lines.iter().all(|line| line.missing.is_empty()));
    let delays: Vec<Duration> = verdict.delays.iter().map(|delay| delay.settled).collect();
    // The last word of a line is a second old when it is delivered, the first nearly three.
    assert_eq!(delays.iter().min(), Some(&Duration::from_secs(1)));
    assert!(delays.iter().max().unwrap() > &Duration::from_millis(2000));
}

#[test]
fn a_lost_line_is_all_missing_and_a_wrong_word_is_named() {
    let script = script(6);
    let mut heard = all_heard(&script);
    heard[1].text = heard[1].text.replacen(' ', " BLUE ", 1);
    let lost = normalise(&heard.remove(0).text);
    let verdict = judge(&script, &heard);
    assert_eq!(verdict.lines[0].missing, lost);
    assert_eq!((verdict.errors.deletions, verdict.errors.insertions), (lost.len(), 1));
    assert_eq!(verdict.lines[1].errors.insertions, 1);
}

#[test]
fn a_wrong_name_costs_accuracy_and_not_words() {
    let script = script(7);
    let mut heard = all_heard(&script);
    heard[0].participant = Some((script.lines[0].participant + 1) % 3);
    heard[1].participant = None;
    let verdict = judge(&script, &heard);
    assert_eq!(verdict.errors.total(), 0);
    let wrong = normalise(&heard[0].text).len() + normalise(&heard[1].text).len();
    assert_eq!(verdict.words_heard - verdict.words_credited, wrong);
}

#[test]
fn halves_of_a_long_line_are_laid_to_who_said_it_and_not_to_who_said_as_many_words_before() {
    let line = |participant, start, seconds: usize, text: &str| Line {
        participant,
        start: Duration::from_secs(start),
        prompt: "p".into(),
        text: text.into(),
        samples: vec![8000; SAMPLE_RATE * seconds].into(),
    };
    let long = "If this is the person you are looking for press 1 now, otherwise please press star now.";
    let lines = vec![line(0, 1, 2, "your message is too short"), line(1, 3, 7, long)];
    let script = Script::of(lines, Duration::from_secs(12));
    let mut heard = all_heard(&script);
    let (first, second) = long.split_once(" press").unwrap();
    let middle = heard[1].start + Duration::from_secs(3);
    let half =
        |id: &str, text: &str, start, end| Heard { id: id.into(), text: text.into(), start, end, ..heard[1].clone() };
    let halves = [half("a", first, heard[1].start, middle), half("b", &format!("press{second}"), middle, heard[1].end)];
    heard.splice(1.., halves);
    let verdict = judge(&script, &heard);
    assert_eq!((verdict.errors.total(), verdict.speaker_accuracy()), (0, 1.0), "{:?}", verdict.lines);
}

#[test]
fn what_nobody_said_is_an_error_wherever_it_is() {
    let script = script(8);
    let mut heard = all_heard(&script);
    let after = script.duration + Duration::from_secs(60);
    heard.push(Heard { id: "x".into(), start: after, end: after, text: "thank you".into(), ..heard[0].clone() });
    let verdict = judge(&script, &heard);
    assert_eq!(verdict.errors.insertions, 2);
    assert!(verdict.speaker_accuracy() < 1.0);
}

#[test]
fn the_first_partial_that_has_a_word_counts_for_it() {
    let script = script(9);
    let mut heard = all_heard(&script);
    let last = heard[0].clone();
    let first_two: Vec<&str> = last.text.split(' ').take(2).collect();
    let early = last.delivered - Duration::from_millis(1500);
    heard.insert(0, Heard { is_final: false, text: first_two.join(" "), delivered: early, ..last });
    let delays = judge(&script, &heard).delays;
    let sooner = delays.iter().filter(|delay| delay.first < delay.settled);
    assert_eq!(sooner.map(|d| d.settled - d.first).collect::<Vec<_>>(), [Duration::from_millis(1500); 2]);
}

#[tokio::test]
async fn the_real_engine_hears_real_prompts() {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let model = cache.join("models/ggml-tiny.en-q8_0.bin");
    assert!(model.exists(), "{} is missing: run ./dev model", model.display());
    let prompts = speech::load(&cache.join("speech/en")).unwrap();
    let engine = Whisper::load(&Settings { model, threads: 1 }).unwrap();
    let mut pairs = vec![];
    for prompt in prompts.iter().step_by(prompts.len() / 12).take(12) {
        let samples = prompt.samples.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        let text = engine.transcribe(Clip { samples, language: None }).await.unwrap();
        pairs.push((prompt.text.clone(), text.text));
    }
    let rate = reference(pairs.clone()).rate();
    assert!(rate < 0.10, "{rate}: {pairs:#?}");
}

proptest! {
    #[test]
    fn counts_add_up_whatever_is_heard(
        seed in 0u64..50,
        said in proptest::collection::vec(("[a-c ]{0,20}", 0u64..60, 0u64..5, proptest::option::of(0usize..4), any::<bool>()), 0..12),
    ) {
        let script = script(seed);
        let heard: Vec<Heard> = said
            .into_iter()
            .map(|(text, start, length, participant, is_final)| Heard {
                id: (start % 7).to_string(),
                participant,
                start: Duration::from_secs(start),
                end: Duration::from_secs(start + length),
                text,
                is_final,
                delivered: Duration::from_secs(start + length + 1),
            })
            .collect();
        let verdict = judge(&script, &heard);
        let e = verdict.errors;
        prop_assert_eq!(e.words - e.deletions + e.insertions, verdict.words_heard);
        prop_assert_eq!(verdict.delays.len(), e.words - e.deletions - e.substitutions);
        prop_assert!(verdict.words_credited <= verdict.words_heard);
        let missing: usize = verdict.lines.iter().map(|line| line.missing.len()).sum();
        prop_assert_eq!(missing, e.deletions + e.substitutions);
    }
}
