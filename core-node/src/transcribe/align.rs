//! Word times from the sound alone: words share the voiced part of a clip by their length.
//!
//! Used where an engine gives words but no times. Pauses take none of the share, so a word never
//! spans the silence between two sentences by more than one frame.

use super::{SAMPLE_RATE, Span};

/// Frames of 20 ms.
const FRAME: usize = SAMPLE_RATE / 50;
/// Milliseconds per frame.
const FRAME_MS: u32 = 20;
/// A frame is voiced within this much of the loudest one, as a ratio of power: 30 dB.
const RANGE: f32 = 1e-3;

/// Start and end of each of `words` within `samples`, in milliseconds; in order, never overlapping.
pub fn align(samples: &[f32], words: &[&str]) -> Vec<(u32, u32)> {
    let voiced = voiced_frames(samples);
    let weights: Vec<usize> = words.iter().map(|word| weight(word)).collect();
    let total = weights.iter().sum::<usize>().max(1);
    // Where a share of the voiced time ends, on the clip's own time line.
    let frame_at = |said: usize| voiced[(said * voiced.len() / total).min(voiced.len() - 1)];
    // The last frame may be a part of one.
    let length = (samples.len() * 1000 / SAMPLE_RATE) as u32;
    let mut said = 0;
    weights
        .iter()
        .map(|weight| {
            let start = frame_at(said);
            said += weight;
            let end = match said * voiced.len() / total {
                0 => start,
                last => voiced[last - 1] + 1,
            };
            ((start * FRAME_MS).min(length), (end.max(start) * FRAME_MS).min(length))
        })
        .collect()
}

/// The words of `text`, and where in `samples` each begins and ends, within `span`.
pub(super) fn laid_over<'a>(samples: &[f32], span: Span, text: &'a str) -> Vec<(&'a str, u32, u32)> {
    let spoken: Vec<&str> = text.split_whitespace().collect();
    let at = |ms: u32| (ms as usize * SAMPLE_RATE / 1000).min(samples.len());
    let times = align(&samples[at(span.start_ms)..at(span.end_ms)], &spoken);
    spoken
        .into_iter()
        .zip(times)
        .map(|(text, (start, end))| (text, span.start_ms + start, span.start_ms + end))
        .collect()
}

/// Numbers of the voiced frames; never empty.
fn voiced_frames(samples: &[f32]) -> Vec<u32> {
    let power: Vec<f32> = samples.chunks(FRAME).map(|f| f.iter().map(|s| s * s).sum()).collect();
    let floor = power.iter().fold(0.0f32, |a, &b| a.max(b)) * RANGE;
    let voiced: Vec<u32> = (0u32..).zip(&power).filter(|(_, p)| **p >= floor).map(|(i, _)| i).collect();
    if voiced.is_empty() { vec![0] } else { voiced }
}

/// Spoken length: letters, and a digit as the word it is read as.
fn weight(word: &str) -> usize {
    word.chars().map(|c| if c.is_numeric() { 4 } else { usize::from(c.is_alphabetic()) }).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tone(ms: usize) -> Vec<f32> {
        vec![0.5; ms * SAMPLE_RATE / 1000]
    }

    #[test]
    fn no_word_ends_after_the_sound() {
        assert_eq!(align(&[], &["all"]), [(0, 0)]);
        assert_eq!(align(&tone(30), &["all"]), [(0, 30)]);
        assert_eq!(align(&tone(30), &["all", "of", "it"]).last().map(|(_, end)| *end), Some(30));
    }

    #[test]
    fn a_pause_belongs_to_no_word() {
        let samples = [vec![0.0; 8000], tone(400), vec![0.0; 16_000], tone(400)].concat();
        assert_eq!(align(&samples, &["four", "four"]), [(500, 900), (1900, 2300)]);
    }

    #[test]
    fn longer_words_take_longer() {
        assert_eq!(align(&tone(1000), &["a", "abcd,"]), [(0, 200), (200, 1000)]);
        assert_eq!(align(&tone(1000), &["4", "abcd"]), [(0, 500), (500, 1000)]);
    }

    #[test]
    fn nothing_to_align_is_no_trouble() {
        assert_eq!(align(&[], &[]), []);
        assert_eq!(align(&[], &["word"]).len(), 1);
        assert_eq!(align(&[0.0; 100], &["", "?"]).len(), 2);
    }

    proptest! {
        #[test]
        fn words_stay_in_order_and_inside(
            samples in proptest::collection::vec(-1.0f32..1.0, 0..20_000),
            words in proptest::collection::vec("[a-z0-9.]{0,9}", 0..40),
        ) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let times = align(&samples, &words);
            prop_assert_eq!(times.len(), words.len());
            let end = samples.len().div_ceil(FRAME).max(1) as u32 * FRAME_MS;
            let mut last = 0;
            for (start, stop) in times {
                prop_assert!(last <= start.max(last) && start <= stop && stop <= end);
                prop_assert!(start + FRAME_MS >= last, "overlap: {} after {}", start, last);
                last = stop;
            }
        }
    }
}
