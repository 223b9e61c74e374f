//! How full the tables are: a number for each by name, so that one that only grows is found before it is full.

use super::Membership;

impl Membership {
    /// Every table that outlives a packet, and its rows.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let own = [
            ("gossip_accused", self.accusers.len()),
            ("gossip_history", self.history.len()),
            ("gossip_hints", self.hints.len()),
            ("gossip_limits", self.limits.len()),
            ("gossip_round_trips", self.rtts.len()),
            ("gossip_updates", self.updates.len()),
            ("gossip_seeds", self.seeds.len()),
            ("gossip_shown_to", self.shown_to.len()),
            ("gossip_timers", self.timers.len()),
        ];
        own.into_iter().chain(self.cards.tables()).chain(self.reports.tables()).chain(self.twins.tables())
    }
}
