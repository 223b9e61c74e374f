//! When speech was said that this edge has given up: the core names it as a gap.

use std::time::Duration;

use mesh::{clock::Micros, wire::control::MAX_GIVEN_UP};

/// Spans no farther apart than this are one.
const NEAR: Duration = Duration::from_secs(1);

/// Spans of capture time, in order, none near another; at most [`MAX_GIVEN_UP`]. Of more, those nearest to each other are one.
#[derive(Debug, Default)]
pub(super) struct Lost {
    spans: Vec<(Micros, Micros)>,
    news: bool,
}

impl Lost {
    /// What was said from then to then is given up.
    pub(super) fn note(&mut self, from: Micros, to: Micros) {
        if to <= from {
            return;
        }
        self.news = true;
        let at = self.spans.partition_point(|(other, _)| *other <= from);
        self.spans.insert(at, (from, to));
        self.join(NEAR);
        while self.spans.len() > MAX_GIVEN_UP {
            let apart = |pair: &[(Micros, Micros)]| pair[1].0.since(pair[0].1);
            let nearest = self.spans.windows(2).map(apart).min().unwrap_or(NEAR);
            self.join(nearest);
        }
    }

    /// All of them, if there are any that were not taken before, or if `again`.
    pub(super) fn take(&mut self, again: bool) -> Option<Vec<(Micros, Micros)>> {
        let told = std::mem::take(&mut self.news) || again;
        (told && !self.spans.is_empty()).then(|| self.spans.clone())
    }

    fn join(&mut self, near: Duration) {
        self.spans.dedup_by(|next, last| {
            let one = next.0 <= last.1.plus(near);
            if one {
                last.1 = last.1.max(next.1);
            }
            one
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    #[test]
    fn what_is_near_is_one_span_and_told_once() {
        let mut lost = Lost::default();
        assert_eq!(lost.take(true), None);
        for (from, to) in [(10, 12), (30, 31), (12, 15), (5, 9)] {
            lost.note(s(from), s(to));
        }
        assert_eq!(lost.take(false), Some(vec![(s(5), s(15)), (s(30), s(31))]));
        assert_eq!(lost.take(false), None);
        assert_eq!(lost.take(true).map(|spans| spans.len()), Some(2), "on another stream");
    }

    #[test]
    fn however_much_is_given_up_the_spans_are_few_and_hold_all_of_it() {
        let mut lost = Lost::default();
        (0..1000).for_each(|n| lost.note(s(n * 10), s(n * 10 + 1)));
        let spans = lost.take(false).unwrap_or_default();
        assert!(spans.len() <= MAX_GIVEN_UP);
        assert!((0..1000).all(|n| spans.iter().any(|(from, to)| *from <= s(n * 10) && s(n * 10 + 1) <= *to)));
    }
}
