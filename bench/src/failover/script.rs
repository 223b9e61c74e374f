//! What is said in a failover run: dense speech, and the moment in the middle of a word at which to break things.

use std::time::Duration;

use crate::{
    oracle::word_times,
    speech::{Manner, Prompt, Script},
};

/// Shorter words are over before a signal is surely delivered.
const LONG_ENOUGH: Duration = Duration::from_millis(280);
/// How many speak.
pub(super) const SPEAKERS: usize = 3;

/// A moment in the middle of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MidWord {
    /// The word, normalised.
    pub(super) word: String,
    /// Whose it is, counted from 0.
    pub(super) participant: usize,
    /// When it begins, from the script's start.
    pub(super) from: Duration,
    /// When it ends.
    pub(super) to: Duration,
}

impl MidWord {
    /// The middle of it.
    pub(super) fn middle(&self) -> Duration {
        (self.from + self.to) / 2
    }
}

/// A meeting in which somebody speaks nearly always.
pub(super) fn dense(seed: u64, duration: Duration, prompts: &[Prompt]) -> Script {
    let ms = Duration::from_millis;
    let manner = Manner { overlap: 0.08, over: ms(200)..ms(500), pause: ms(250)..ms(600), breath: ms(1200) };
    Script::generate(seed, SPEAKERS, duration, prompts, &manner)
}

/// A meeting in which now and then somebody speaks: company for the one that is looked at.
pub(super) fn sparse(seed: u64, duration: Duration, prompts: &[Prompt]) -> Script {
    let s = Duration::from_secs;
    let manner = Manner { overlap: 0.0, over: s(0)..s(1), pause: s(3)..s(6), breath: s(2) };
    Script::generate(seed, 2, duration, prompts, &manner)
}

/// The first word at or after `from` that is long enough, with others of its sentence before and after it.
pub(super) fn mid_word(script: &Script, from: Duration) -> Option<MidWord> {
    let inner = |line| {
        let words = word_times(line);
        let last = words.len().saturating_sub(1);
        words.into_iter().enumerate().filter(move |(n, _)| (1..last).contains(n)).map(|(_, word)| word)
    };
    let words = script.lines.iter().flat_map(|line| inner(line).map(|word| (line.participant, word)));
    let fits = |(_, (_, begins, ends)): &(usize, (String, Duration, Duration))| {
        *begins >= from && *ends - *begins >= LONG_ENOUGH
    };
    let (participant, (word, from, to)) = words.filter(fits).min_by_key(|(_, (_, begins, _))| *begins)?;
    Some(MidWord { word, participant, from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts() -> Vec<Prompt> {
        let prompt = |n: i16| Prompt {
            name: format!("p{n}"),
            text: "one extraordinarily long word".into(),
            samples: (0..48_000).map(|at| ((at * 37 % 8000) as i16 - 4000).saturating_add(n)).collect(),
        };
        (0..4).map(prompt).collect()
    }

    #[test]
    fn the_moment_is_inside_a_long_word_that_has_neighbours() {
        let script = dense(3, Duration::from_secs(40), &prompts());
        let found = mid_word(&script, Duration::from_secs(8)).expect("somebody speaks");
        assert!(found.from >= Duration::from_secs(8) && found.to - found.from >= LONG_ENOUGH, "{found:?}");
        assert!(["extraordinarily", "long"].contains(&&*found.word), "{found:?}");
        assert!(
            script
                .lines
                .iter()
                .any(|l| l.participant == found.participant && l.start < found.from && found.to < l.end())
        );
    }

    #[test]
    fn after_the_last_word_there_is_none() {
        let script = dense(3, Duration::from_secs(20), &prompts());
        assert_eq!(mid_word(&script, Duration::from_secs(20)), None);
    }

    #[test]
    fn dense_speech_leaves_little_silence() {
        let script = dense(1, Duration::from_secs(120), &prompts());
        let spoken: Duration = script.lines.iter().map(|line| line.end() - line.start).sum();
        assert!(spoken > Duration::from_secs(80), "{spoken:?}");
    }
}
