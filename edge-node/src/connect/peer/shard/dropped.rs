//! Datagrams that fell.

use std::collections::BTreeMap;

/// Datagrams that fell since it was last told, by why. Counted here: a flood must cost no more than this.
#[derive(Default)]
pub(super) struct Dropped(BTreeMap<&'static str, u64>);

impl Dropped {
    pub(super) fn note(&mut self, why: &'static str) {
        *self.0.entry(why).or_default() += 1;
    }

    pub(super) fn tell(&mut self) {
        while let Some((why, count)) = self.0.pop_first() {
            metrics::counter!("nearfield_edge_connect_datagrams_dropped_total", "why" => why).increment(count);
        }
    }
}
