//! Do the words of a text cover the speech it was made of?
//!
//! An engine may end its text early and say nothing of it: Whisper does so at pauses. What it gives are stretches of the clip
//! that it says its words are from ([`Text::spans`]), and words. A stretch with far too few words for its speech is believed
//! only as far as its words reach ([`believe`]); speech outside all stretches is not covered ([`uncovered`]).

use super::{Span, Text, Word};

/// Speech that is not covered is looked for among what lies closer together than this.
const JOIN_MS: u32 = 1000;
/// Less speech than this is no loss worth another try: engines' stretches are as inexact as that.
const LEAST_MS: u32 = 700;
/// How far a stretch may seem to begin or end beside its speech.
const SLACK_MS: u32 = 250;
/// The slowest speaker's time for a letter, in which pauses do not count: half as fast as people read aloud ...
const SLOW_MS_PER_LETTER: u32 = 170;
/// ... and for a word by itself.
const SLOW_MS: u32 = 900;
/// What a letter takes at least as a rule.
const QUICK_MS_PER_LETTER: u32 = 60;

/// The parts of `speech` that `text` does not cover, in order.
pub(super) fn uncovered(speech: &[Span], text: &Text) -> Vec<Span> {
    let wide = |span: &Span| Span {
        start_ms: span.start_ms.saturating_sub(SLACK_MS),
        end_ms: span.end_ms.saturating_add(SLACK_MS),
    };
    let covered: Vec<Span> = text.spans.iter().map(wide).collect();
    let left = speech.iter().flat_map(|stretch| without(*stretch, &covered));
    let mut groups: Vec<(Span, u32)> = vec![];
    for span in left {
        match groups.last_mut() {
            Some((group, voiced))
                if span.start_ms < group.end_ms + JOIN_MS && !parted(group.end_ms, span, &covered) =>
            {
                group.end_ms = span.end_ms;
                *voiced += span.length_ms();
            }
            _ => groups.push((span, span.length_ms())),
        }
    }
    groups.into_iter().filter(|(_, voiced)| *voiced >= LEAST_MS).map(|(span, _)| span).collect()
}

/// How much of `span` is speech, in milliseconds.
pub(super) fn voiced_ms(span: Span, speech: &[Span]) -> u32 {
    speech.iter().filter_map(|stretch| stretch.overlap(span)).map(Span::length_ms).sum()
}

/// How long words are to say: letters, a digit as the word it is read as, a character of a script without spaces as a syllable.
pub(super) fn letters(words: &str) -> u32 {
    let weight = |c: char| match c {
        '\u{1100}'..='\u{11FF}' | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' => 3,
        c if c.is_numeric() => 4,
        c => u32::from(c.is_alphabetic()),
    };
    words.chars().map(weight).sum()
}

/// Shortens each stretch of which the words are far too few to what they can be from, and moves them there.
pub(super) fn believe(text: &mut Text, speech: &[Span]) {
    for span in &mut text.spans {
        let claimed = *span;
        let inside = |word: &&mut Word| claimed.holds((word.start_ms + word.end_ms) / 2);
        let letters = text.words.iter_mut().filter(inside).map(|word| letters(&word.text)).sum();
        let believed = reach(claimed, letters, speech);
        if believed == claimed {
            continue;
        }
        let squeeze = |at: u32| {
            let share = u64::from(believed.length_ms()) * u64::from(at.saturating_sub(claimed.start_ms));
            (believed.start_ms + (share / u64::from(claimed.length_ms()).max(1)) as u32).min(believed.end_ms)
        };
        for word in text.words.iter_mut().filter(inside) {
            (word.start_ms, word.end_ms) = (squeeze(word.start_ms), squeeze(word.end_ms));
        }
        *span = believed;
    }
}

/// As much of `span` as so many letters can be from.
fn reach(span: Span, letters: u32, speech: &[Span]) -> Span {
    if voiced_ms(span, speech) <= letters * SLOW_MS_PER_LETTER + SLOW_MS {
        return span;
    }
    let mut left = letters * QUICK_MS_PER_LETTER;
    for stretch in speech.iter().filter_map(|stretch| stretch.overlap(span)) {
        if stretch.length_ms() >= left {
            return Span { end_ms: stretch.start_ms + left, ..span };
        }
        left -= stretch.length_ms();
    }
    span
}

/// What of `span` none of `others` holds.
fn without(span: Span, others: &[Span]) -> Vec<Span> {
    let mut left = vec![span];
    for other in others {
        left = left
            .into_iter()
            .flat_map(|span| {
                let before = Span { end_ms: span.end_ms.min(other.start_ms), ..span };
                let after = Span { start_ms: span.start_ms.max(other.end_ms), ..span };
                [before, after].into_iter().filter(|part| part.start_ms < part.end_ms).collect::<Vec<_>>()
            })
            .collect();
    }
    left
}

/// Something is covered between `end_ms` and `next`.
fn parted(end_ms: u32, next: Span, covered: &[Span]) -> bool {
    let between = Span { start_ms: end_ms, end_ms: next.start_ms };
    covered.iter().filter_map(|span| span.overlap(between)).any(|common| common.length_ms() > 2 * SLACK_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span((start_ms, end_ms): (u32, u32)) -> Span {
        Span { start_ms, end_ms }
    }

    /// Words laid evenly over each span.
    fn text(spans: &[((u32, u32), &str)]) -> Text {
        let mut text = Text::default();
        for (at, said) in spans {
            let words: Vec<&str> = said.split_whitespace().collect();
            let each = (at.1 - at.0) / words.len().max(1) as u32;
            text.spans.push(span(*at));
            text.words.extend((0u32..).zip(&words).map(|(n, word)| Word {
                text: (*word).into(),
                start_ms: at.0 + n * each,
                end_ms: at.0 + (n + 1) * each,
                confidence: 1.0,
            }));
        }
        text
    }

    fn left(speech: &[(u32, u32)], said: &[((u32, u32), &str)]) -> Vec<(u32, u32)> {
        let speech: Vec<Span> = speech.iter().copied().map(span).collect();
        let mut text = text(said);
        believe(&mut text, &speech);
        uncovered(&speech, &text).into_iter().map(|s| (s.start_ms, s.end_ms)).collect()
    }

    #[test]
    fn words_over_all_of_the_speech_cover_it() {
        assert_eq!(left(&[(400, 2900)], &[((0, 3000), "your call cannot be completed")]), []);
        assert_eq!(left(&[(400, 2900)], &[((600, 2700), "your call cannot be completed")]), [], "inexact");
        assert_eq!(left(&[(100, 900), (3000, 3400)], &[((0, 4000), "one two")]), [], "slow, with a pause");
        assert_eq!(left(&[], &[]), []);
        assert_eq!(left(&[(0, 4000)], &[((0, 4000), "好的我们明天早上见面吧")]), [], "characters are syllables");
    }

    #[test]
    fn what_comes_after_the_last_stretch_is_left() {
        assert_eq!(left(&[(300, 9000), (9200, 18_000)], &[((0, 1000), "good morning")]), [(1250, 18_000)]);
    }

    #[test]
    fn a_stretch_of_few_words_is_believed_as_far_as_they_reach() {
        let left = left(&[(400, 18_000)], &[((0, 18_000), "good morning everybody")]);
        assert_eq!(left, [(400 + 20 * 60 + 250, 18_000)]);
    }

    #[test]
    fn words_are_moved_to_where_they_can_be_from() {
        let mut text = text(&[((0, 18_000), "good morning everybody")]);
        believe(&mut text, &[span((400, 18_000))]);
        assert_eq!(text.spans, [span((0, 1600))]);
        assert!(text.words.iter().all(|word| word.start_ms <= word.end_ms && word.end_ms <= 1600), "{:?}", text.words);
    }

    #[test]
    fn holes_are_told_apart_by_what_is_covered_between() {
        let said = [((0, 2000), "one two three four"), ((5000, 7000), "seven eight nine ten")];
        assert_eq!(left(&[(0, 10_000)], &said), [(2250, 4750), (7250, 10_000)]);
    }

    #[test]
    fn a_cough_is_no_loss() {
        assert_eq!(left(&[(0, 2000), (5000, 5600)], &[((0, 2000), "that is quite enough")]), []);
    }

    proptest! {
        #[test]
        fn what_is_left_is_speech_and_in_order(
            speech in proptest::collection::vec((0u32..3000, 1u32..5000), 0..9),
            spans in proptest::collection::vec((0u32..30_000, 0u32..9000, "[a-z ]{0,40}"), 0..9),
        ) {
            let mut at = 0;
            let speech: Vec<Span> = speech.into_iter().map(|(pause, length)| {
                let start_ms = at + pause;
                at = start_ms + length;
                Span { start_ms, end_ms: at }
            }).collect();
            let said: Vec<((u32, u32), &str)> = spans.iter().map(|(at, length, said)| ((*at, at + length), said.as_str())).collect();
            let mut text = text(&said);
            believe(&mut text, &speech);
            let left = uncovered(&speech, &text);
            prop_assert!(left.windows(2).all(|two| two[0].end_ms <= two[1].start_ms));
            prop_assert!(left.iter().all(|span| voiced_ms(*span, &speech) >= LEAST_MS));
        }
    }
}
