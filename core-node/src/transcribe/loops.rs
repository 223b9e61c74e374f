//! Repetition: a decoder that has lost the thread says the same again until it is stopped.

use std::collections::BTreeSet;

/// Longest group of words looked for.
const MAX_GROUP: usize = 20;
/// From this many words on, a text is also judged as a whole.
const WHOLE_MIN: usize = 24;

/// How many of `words` to keep: all of them, unless they run into a loop.
///
/// People repeat themselves too ("no no no", telephone numbers), so short groups need more repeats.
pub(super) fn without_loop(words: &[&str]) -> usize {
    let plain: Vec<String> = words.iter().map(|word| normalise(word)).collect();
    tail_loop(&plain).or_else(|| dense_loop(&plain)).unwrap_or(words.len())
}

/// The text ends in a group said again and again: keep it once.
fn tail_loop(words: &[String]) -> Option<usize> {
    (1..=MAX_GROUP.min(words.len() / 2)).find_map(|group| {
        let periodic = words.iter().rev().zip(words.iter().rev().skip(group)).take_while(|(a, b)| a == b).count();
        let repeats = (periodic + group) / group;
        let enough = match group {
            1 => 8,
            2 | 3 => 4,
            _ => 3,
        };
        (repeats >= enough).then(|| words.len() - periodic)
    })
}

/// Fewer than half of all three-word sequences are new: keep what comes before the first that is not.
fn dense_loop(words: &[String]) -> Option<usize> {
    if words.len() < WHOLE_MIN {
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut first_repeat = None;
    for (at, three) in words.windows(3).enumerate() {
        if !seen.insert(three) {
            first_repeat.get_or_insert(at);
        }
    }
    first_repeat.filter(|_| seen.len() * 2 < words.len() - 2)
}

fn normalise(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(text: &str) -> String {
        let words: Vec<&str> = text.split(' ').collect();
        words[..without_loop(&words)].join(" ")
    }

    #[test]
    fn a_loop_is_cut_to_one_turn() {
        assert_eq!(kept("press one. Press one. press one press one press"), "press one.");
        assert_eq!(kept(&format!("hello{}", " you".repeat(40))), "hello you");
        assert_eq!(kept("a b c d e f, b c d e f b c d e f b"), "a b c d e f,");
    }

    #[test]
    fn what_people_repeat_stays() {
        for text in ["no no no no", "one one one one one zero", "bye bye bye bye", "thank you thank you thank you", "a"]
        {
            assert_eq!(kept(text), text);
        }
    }

    #[test]
    fn a_loop_that_varies_is_cut_too() {
        let turns =
            ["or", "but", "yet", "now", "then", "so", "if"].map(|word| format!("well we all of us go on {word}"));
        assert_eq!(kept(&turns.join(" ")), "well we all of us go on or");
    }

    proptest! {
        #[test]
        fn different_words_are_all_kept(n in 0usize..200) {
            let words: Vec<String> = (0..n).map(|i| i.to_string()).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            prop_assert_eq!(without_loop(&words), n);
        }

        #[test]
        fn never_keeps_more_than_there_is(words in proptest::collection::vec("[ab]", 0..60)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            prop_assert!(without_loop(&words) <= words.len());
        }
    }
}
