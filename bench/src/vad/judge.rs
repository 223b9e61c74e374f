//! How good a row of scores is against labels.

use super::corpus::FRAME;
use crate::speech::SAMPLE_RATE;

/// Frames to either side of a change from speech to silence that are not judged: where it lies is a matter of taste.
const COLLAR: usize = 4;
/// The share of silence taken for speech at which engines are compared.
const FALSE_ALARMS: f64 = 0.05;
/// The edge's gate as all engines are compared in it: pre-roll and hangover in frames.
const PREROLL: usize = 20;
const HANGOVER: usize = 30;
/// As much speech may be lost in it.
const MOST_LOST: f64 = 0.01;

/// Scores for each frame of one recording, higher where speech is likelier; and its labels.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// Scores.
    pub scores: &'a [f32],
    /// Labels.
    pub speech: &'a [bool],
}

/// Quality with no regard to what comes after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Area under the curve of hits over false alarms: 0.5 is chance, 1 perfect.
    pub auc: f64,
    /// The share of speech missed where 5 % of silence is taken for speech.
    pub miss: f64,
}

/// Quality behind pre-roll and hangover.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gated {
    /// The share of speech that does not go through.
    pub lost: f64,
    /// The share of silence that does.
    pub forwarded: f64,
}

/// Gives `score` to every frame whose middle lies in the `samples` from sample `start` on.
pub fn fill(scores: &mut [f32], start: usize, samples: usize, score: f32) {
    let at = |sample: usize| (sample + FRAME / 2 - 1) / FRAME;
    let end = at(start + samples).min(scores.len());
    scores[at(start).min(end)..end].fill(score);
}

/// Scores `frames` earlier: what an engine says late it says about what was.
pub fn shift(scores: &[f32], frames: usize) -> Vec<f32> {
    (0..scores.len()).map(|n| scores[(n + frames).min(scores.len() - 1)]).collect()
}

/// Over all `heard` at once, with one threshold for all.
pub fn quality<'a>(heard: impl IntoIterator<Item = Heard<'a>>) -> Quality {
    let mut all: Vec<(f32, bool)> = heard.into_iter().flat_map(judged).collect();
    all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let speech = all.iter().filter(|(_, speech)| *speech).count().max(1) as f64;
    let silence = (all.len() as f64 - speech).max(1.0);
    let (mut hits, mut alarms) = (0.0, 0.0);
    let (mut auc, mut miss) = (0.0, None);
    for same in all.chunk_by(|a, b| a.0 == b.0) {
        let spoken = same.iter().filter(|(_, speech)| *speech).count() as f64;
        let (more_hits, more_alarms) = (spoken / speech, (same.len() as f64 - spoken) / silence);
        auc += more_alarms * (hits + more_hits / 2.0);
        if miss.is_none() && alarms + more_alarms >= FALSE_ALARMS {
            let part = (FALSE_ALARMS - alarms) / more_alarms;
            miss = Some(1.0 - hits - part * more_hits);
        }
        hits += more_hits;
        alarms += more_alarms;
    }
    Quality { auc, miss: miss.unwrap_or(0.0) }
}

/// The scores and labels outside collars.
fn judged(heard: Heard<'_>) -> impl Iterator<Item = (f32, bool)> {
    let clear = move |n: usize| {
        let around = &heard.speech[n.saturating_sub(COLLAR)..(n + COLLAR + 1).min(heard.speech.len())];
        around.iter().all(|s| *s == heard.speech[n])
    };
    (0..heard.speech.len()).filter(move |n| clear(*n)).map(|n| (heard.scores[n], heard.speech[n]))
}

/// Over all `heard` behind pre-roll and hangover, with the one threshold that forwards least silence of those that lose
/// at most 1 % of speech; where none does, that which loses least.
pub fn gated(heard: &[Heard<'_>]) -> Gated {
    let mut all: Vec<f32> = heard.iter().flat_map(|h| h.scores.iter().copied()).collect();
    all.sort_unstable_by(f32::total_cmp);
    let quantile = |n: usize| all[(all.len() - 1) * n / 60];
    let mut thresholds: Vec<f32> = if all.is_empty() { vec![] } else { (0..=60).map(quantile).collect() };
    thresholds.dedup();
    let found = thresholds.iter().map(|threshold| {
        let passed = heard.iter().map(|h| (pass(h.scores, *threshold), h.speech));
        count(passed)
    });
    let good = |g: &Gated| (g.lost > MOST_LOST, if g.lost > MOST_LOST { g.lost } else { g.forwarded });
    found
        .min_by(|a, b| good(a).partial_cmp(&good(b)).unwrap_or(std::cmp::Ordering::Equal))
        .unwrap_or(Gated { lost: 0.0, forwarded: 0.0 })
}

/// What of speech is lost and of silence forwarded where `passed` says what goes through.
pub fn count<'a>(passed: impl IntoIterator<Item = (Vec<bool>, &'a [bool])>) -> Gated {
    let (mut lost, mut speech, mut forwarded, mut silence) = (0u64, 0u64, 0u64, 0u64);
    for (passed, labels) in passed {
        for (passed, spoken) in passed.iter().zip(labels) {
            speech += u64::from(*spoken);
            silence += u64::from(!spoken);
            lost += u64::from(*spoken && !passed);
            forwarded += u64::from(!spoken && *passed);
        }
    }
    Gated { lost: lost as f64 / speech.max(1) as f64, forwarded: forwarded as f64 / silence.max(1) as f64 }
}

/// Which frames go through: those at or above `threshold`, and those around them.
fn pass(scores: &[f32], threshold: f32) -> Vec<bool> {
    let mut passed = vec![false; scores.len()];
    let mut until = 0;
    for (n, score) in scores.iter().enumerate() {
        if *score >= threshold {
            let from = n.saturating_sub(PREROLL).max(until.min(n));
            passed[from..=n].fill(true);
            until = n + HANGOVER + 1;
        } else if n < until {
            passed[n] = true;
        }
    }
    passed
}

/// How long so many frames are, in seconds.
pub fn seconds(frames: usize) -> f64 {
    (frames * FRAME) as f64 / SAMPLE_RATE as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<bool> {
        (0..1000).map(|n| n / 100 % 2 == 1).collect()
    }

    #[test]
    fn perfect_scores_are_perfect_and_constant_ones_are_chance() {
        let speech = labels();
        let perfect: Vec<f32> = speech.iter().map(|s| f32::from(u8::from(*s))).collect();
        let found = quality([Heard { scores: &perfect, speech: &speech }]);
        assert_eq!(found, Quality { auc: 1.0, miss: 0.0 });
        let found = quality([Heard { scores: &[0.5; 1000], speech: &speech }]);
        assert!((found.auc - 0.5).abs() < 1e-9 && (found.miss - 0.95).abs() < 1e-9, "{found:?}");
        let wrong: Vec<f32> = perfect.iter().map(|s| 1.0 - s).collect();
        assert_eq!(quality([Heard { scores: &wrong, speech: &speech }]).auc, 0.0);
    }

    #[test]
    fn changes_are_not_judged() {
        let speech = labels();
        let late: Vec<f32> = (0..1000).map(|n: usize| f32::from(u8::from(speech[n.saturating_sub(COLLAR)]))).collect();
        assert_eq!(quality([Heard { scores: &late, speech: &speech }]).auc, 1.0);
        let later: Vec<f32> =
            (0..1000).map(|n: usize| f32::from(u8::from(speech[n.saturating_sub(COLLAR + 3)]))).collect();
        assert!(quality([Heard { scores: &later, speech: &speech }]).auc < 1.0);
    }

    #[test]
    fn preroll_and_hangover_reach_as_far_as_they_say() {
        let mut scores = [0.0; 200];
        scores[100] = 1.0;
        scores[110] = 1.0;
        let passed = pass(&scores, 0.5);
        let (first, last) = (passed.iter().position(|p| *p), passed.iter().rposition(|p| *p));
        assert_eq!((first, last), (Some(100 - PREROLL), Some(110 + HANGOVER)));
        assert_eq!(passed.iter().filter(|p| **p).count(), 10 + PREROLL + HANGOVER + 1);
    }

    #[test]
    fn the_threshold_that_forwards_least_is_found() {
        let speech = labels();
        let scores: Vec<f32> = speech.iter().map(|s| if *s { 0.8 } else { 0.3 }).collect();
        let found = gated(&[Heard { scores: &scores, speech: &speech }]);
        assert_eq!(found.lost, 0.0);
        // Four of the five silences have speech on both sides or before, one only behind it.
        assert!((found.forwarded - (4.0 * 50.0 + 20.0) / 500.0).abs() < 0.05, "{found:?}");
    }

    #[test]
    fn a_score_belongs_to_the_frames_whose_middle_it_covers() {
        let mut scores = [0.0; 10];
        fill(&mut scores, 0, 512, 1.0);
        fill(&mut scores, 512, 512, 2.0);
        assert_eq!(scores, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
