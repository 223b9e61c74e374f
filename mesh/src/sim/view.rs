//! Whom each node holds to be alive, as its events told.

use std::time::Duration;

use super::index_of;
use crate::membership::Event;

/// A matrix: row by observer.
pub(super) struct View(Vec<Vec<bool>>);

impl View {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![vec![false; nodes]; nodes])
    }

    /// `observer` begins afresh and knows nobody.
    pub(super) fn reset(&mut self, observer: usize) {
        self.0[observer].fill(false);
    }

    pub(super) fn note(&mut self, observer: usize, event: &Event) {
        let (node, alive) = match event {
            Event::Up(member) => (&member.identity.node, true),
            Event::Down(node) => (node, false),
            Event::Changed(_) | Event::ClockDiffers { .. } | Event::Twin { .. } => return,
        };
        if let Some(index) = index_of(node) {
            self.0[observer][index] = alive;
        }
    }

    pub(super) fn sees(&self, observer: usize, index: usize) -> bool {
        self.0[observer][index]
    }

    /// Whether each of `live` sees all others of them and nobody else.
    pub(super) fn is_complete(&self, live: &[usize]) -> bool {
        let mut wanted = vec![false; self.0.len()];
        live.iter().for_each(|index| wanted[*index] = true);
        live.iter().all(|observer| {
            let row = &self.0[*observer];
            (0..row.len()).all(|index| index == *observer || row[index] == wanted[index])
        })
    }
}

/// The value below which `share` of `times` lie; zero of none.
pub fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}
