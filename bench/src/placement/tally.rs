//! Penalties, counted.

use serde::Serialize;

/// Less is not heard, and within what a probe itself is off.
const WRONG_MS: f64 = 2.0;

/// What choices cost against the best possible ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Regret {
    /// Choices this was found of.
    pub choices: usize,
    /// The share of choices, 0 to 1, whose edge is further from the relay than the best by more than 2 ms.
    pub wrong_over_2ms: f64,
    /// Over all choices, in milliseconds.
    pub mean_penalty_ms: f64,
    /// Over those that are wrong by more than 2 ms; 0 where none is.
    pub median_where_wrong_ms: f64,
    /// 99 of 100 choices cost no more.
    pub p99_penalty_ms: f64,
    /// The worst choice.
    pub max_penalty_ms: f64,
}

#[derive(Debug, Default)]
pub(super) struct Tally(Vec<f64>);

impl Tally {
    pub(super) fn add(&mut self, penalty_ms: f64) {
        self.0.push(penalty_ms);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// `None` of no choices.
    pub(super) fn regret(mut self) -> Option<Regret> {
        self.0.sort_by(f64::total_cmp);
        let wrong = &self.0[self.0.partition_point(|ms| *ms <= WRONG_MS)..];
        Some(Regret {
            choices: self.0.len(),
            wrong_over_2ms: wrong.len() as f64 / self.0.len() as f64,
            mean_penalty_ms: self.0.iter().sum::<f64>() / self.0.len() as f64,
            median_where_wrong_ms: wrong.get(wrong.len() / 2).copied().unwrap_or_default(),
            p99_penalty_ms: self.0.get((self.0.len() * 99).div_ceil(100).saturating_sub(1)).copied()?,
            max_penalty_ms: self.0.last().copied()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_counted_beyond_two_milliseconds() {
        let mut tally = Tally::default();
        [0.0, 2.0, 2.5, 10.0, 0.5].into_iter().for_each(|ms| tally.add(ms));
        let found = tally.regret().unwrap();
        assert_eq!((found.wrong_over_2ms, found.mean_penalty_ms, found.median_where_wrong_ms), (0.4, 3.0, 10.0));
        assert_eq!((found.p99_penalty_ms, found.max_penalty_ms), (10.0, 10.0));
        assert_eq!(Tally::default().regret(), None);
    }
}
