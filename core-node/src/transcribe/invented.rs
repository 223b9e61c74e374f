//! What engines invent where nobody speaks: the captions they were trained on, which end in thanks and in the names of those who wrote them.
//!
//! A stretch of words goes if it is such a phrase and nothing else, **and** there is less speech in its sound than the phrase could be
//! said in. So what somebody says stays, whatever it is, and so does all that is no such phrase.

use std::{collections::BTreeSet, sync::LazyLock};

use super::{
    Span, Text, Word,
    coverage::{letters, voiced_ms},
};

/// By language, as its speakers write it; compared without case, spaces and punctuation.
const PHRASES: &str = include_str!("invented.txt");

/// Of a caption's author: no meeting has it.
const AUTHORS: [&str; 3] = ["amaraorg", "dimatorzok", "castingwords"];

/// An engine's stretch may begin or end so much beside its sound.
const SLACK_MS: u32 = 250;

/// Nobody says more letters in a second.
const MAX_LETTERS_PER_SECOND: u32 = 35;

static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    PHRASES.lines().filter(|line| !line.starts_with('#')).map(plain).filter(|p| !p.is_empty()).collect()
});

/// Whether some stretch of `text` is nothing but such phrases: only then need it be known where speech is.
pub(super) fn is_suspect(text: &Text) -> bool {
    stretches(text).iter().any(|span| is_known(&words_in(text, *span)))
}

/// Takes from `text` what was invented where there is no `speech`.
pub(super) fn strip(text: &mut Text, speech: &[Span]) {
    let invented: Vec<Span> = stretches(text)
        .into_iter()
        .filter(|span| {
            let words = words_in(text, *span);
            is_known(&words) && is_too_short(*span, &words, speech)
        })
        .collect();
    if invented.is_empty() {
        return;
    }
    metrics::counter!("nearfield_core_transcribe_invented_total").increment(invented.len() as u64);
    let gone = |word: &Word| invented.iter().any(|span| is_in(word, *span));
    text.words.retain(|word| !gone(word));
    text.spans.retain(|span| !invented.contains(span));
    text.text = text.joined(&[], &text.words, &[]);
}

/// Where an engine says its words are from; all of the clip, where it does not.
fn stretches(text: &Text) -> Vec<Span> {
    let last = text.words.iter().map(|word| word.end_ms).max().unwrap_or(0);
    match text.spans.is_empty() {
        true => vec![Span { start_ms: 0, end_ms: last.saturating_add(1) }],
        false => text.spans.clone(),
    }
}

fn is_in(word: &Word, span: Span) -> bool {
    span.holds((word.start_ms + word.end_ms) / 2)
}

fn words_in(text: &Text, span: Span) -> Vec<&str> {
    text.words.iter().filter(|word| is_in(word, span)).map(|word| word.text.as_str()).collect()
}

/// Whether `words` are one such phrase after the other, and nothing else.
fn is_known(words: &[&str]) -> bool {
    let all = plain(&words.concat());
    if all.is_empty() {
        return false;
    }
    if AUTHORS.iter().any(|author| all.contains(author)) || KNOWN.contains(&all) {
        return true;
    }
    let ends = |word: &str| word.ends_with(['.', '!', '?', '…', '。', '！', '？', '।', '؟']);
    let sentences: Vec<&[&str]> = words.split_inclusive(|word| ends(word)).collect();
    sentences.len() > 1 && sentences.iter().all(|sentence| KNOWN.contains(&plain(&sentence.concat())))
}

fn is_too_short(span: Span, words: &[&str], speech: &[Span]) -> bool {
    let wide = Span { start_ms: span.start_ms.saturating_sub(SLACK_MS), end_ms: span.end_ms.saturating_add(SLACK_MS) };
    let said: u32 = words.iter().map(|word| letters(word)).sum();
    u64::from(voiced_ms(wide, speech)) * u64::from(MAX_LETTERS_PER_SECOND) < u64::from(said) * 1000
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Span = Span { start_ms: 0, end_ms: 1000 };

    /// The words of each text laid evenly over its stretch.
    fn text(stretches: &[(Span, &str)]) -> Text {
        let mut text = Text::default();
        for (span, said) in stretches {
            let words: Vec<&str> = said.split(' ').collect();
            let each = span.length_ms() / words.len() as u32;
            text.words.extend((0..).zip(&words).map(|(n, word)| {
                let start_ms = span.start_ms + n * each;
                Word { text: (*word).into(), start_ms, end_ms: start_ms + each, confidence: 0.9 }
            }));
            text.spans.push(*span);
        }
        text.text = text.joined(&[], &text.words, &[]);
        text
    }

    fn left(stretches: &[(Span, &str)], speech: &[Span]) -> String {
        let mut text = text(stretches);
        strip(&mut text, speech);
        text.text
    }

    #[test]
    fn captions_endings_go_in_every_language_where_nobody_speaks_and_stay_where_somebody_does() {
        let long = Span { start_ms: 0, end_ms: 6000 };
        for line in PHRASES.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            assert_eq!(left(&[(long, line)], &[]), "", "{line}");
            assert_eq!(left(&[(long, line)], &[long]), line, "{line}");
        }
    }

    #[test]
    fn what_is_no_such_phrase_stays_whatever_the_sound() {
        for said in ["Danke, wir sehen uns morgen.", "Thank you for the numbers.", "Subscribe to the feed", "no"] {
            assert_eq!(left(&[(SECOND, said)], &[]), said);
        }
    }

    #[test]
    fn a_phrase_behind_what_was_said_goes_alone() {
        let behind = Span { start_ms: 1500, end_ms: 4000 };
        let said = [(SECOND, "Bis morgen."), (behind, "Vielen Dank. Untertitel der Amara.org-Community")];
        assert_eq!(left(&said, &[SECOND]), "Bis morgen.");
        let heard = Span { start_ms: 1500, end_ms: 3500 };
        assert_eq!(left(&said, &[SECOND, heard]), text(&said).text);
    }

    #[test]
    fn a_breath_is_too_short_for_a_phrase() {
        let breath = [Span { start_ms: 400, end_ms: 500 }];
        assert_eq!(left(&[(SECOND, "Sous-titrage Société Radio-Canada")], &breath), "");
        assert_eq!(left(&[(SECOND, "Merci.")], &[Span { start_ms: 300, end_ms: 600 }]), "Merci.", "a quick one");
    }

    #[test]
    fn an_engine_that_says_nothing_of_where_its_words_are_from_is_judged_by_the_whole_clip() {
        let mut bare = text(&[(SECOND, "Thanks for watching!")]);
        bare.spans.clear();
        let mut kept = bare.clone();
        strip(&mut bare, &[]);
        assert_eq!((bare.text.as_str(), bare.words.len()), ("", 0));
        strip(&mut kept, &[SECOND]);
        assert_eq!(kept.text, "Thanks for watching!");
    }

    proptest! {
        #[test]
        fn nothing_is_taken_where_there_is_speech_enough(words in proptest::collection::vec("[a-z]{1,8}|thank|you|bye\\.", 0..9)) {
            let span = Span { start_ms: 0, end_ms: 20_000 };
            let said = words.join(" ");
            prop_assert_eq!(left(&[(span, &said)], &[span]), said);
        }
    }
}
