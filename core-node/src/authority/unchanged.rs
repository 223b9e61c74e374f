//! For how long claims have stood as they are, as far as this core has looked. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::wire::MeetingId;

use super::Revision;

/// What was seen at the last look, and since when it was the same.
#[derive(Debug, Default)]
pub struct Unchanged(BTreeMap<MeetingId, (Revision, Instant)>);

impl Unchanged {
    /// `claims` are all that this core sees `now`; the others are forgotten. Returns those that have stood as they are for `long`.
    pub fn handle(&mut self, claims: &BTreeMap<MeetingId, Revision>, long: Duration, now: Instant) -> Vec<MeetingId> {
        let before = std::mem::take(&mut self.0);
        let since = |meeting, revision: &Revision| {
            before.get(meeting).filter(|(known, _)| known == revision).map_or(now, |(_, since)| *since)
        };
        self.0 = claims.iter().map(|(meeting, of)| (*meeting, (*of, since(meeting, of)))).collect();
        let old = self.0.iter().filter(|(_, (_, since))| now.saturating_duration_since(*since) >= long);
        old.map(|(meeting, _)| *meeting).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any instant will do to count from")]

    use super::*;

    const NONE: [MeetingId; 0] = [];

    #[test]
    fn a_claim_is_old_when_every_look_for_so_long_has_found_the_same() {
        let (mut unchanged, start, hour) = (Unchanged::default(), Instant::now(), Duration::from_secs(3600));
        let id = MeetingId::from_u128;
        let mut look = |claims: &[(u128, u64)], hours| {
            let claims = claims.iter().map(|(meeting, of)| (id(*meeting), Revision(*of))).collect();
            unchanged.handle(&claims, 2 * hour, start + hour * hours)
        };
        assert_eq!(look(&[(1, 5), (2, 6)], 0), NONE);
        assert_eq!(look(&[(1, 5), (2, 7), (3, 8)], 1), NONE);
        assert_eq!(look(&[(1, 5), (2, 7)], 2), [id(1)]);
        assert_eq!(look(&[(2, 7), (3, 8)], 3), [id(2)]);
        assert_eq!(look(&[(2, 7), (3, 8)], 5), [id(2), id(3)], "it was not there two hours ago");
    }
}
