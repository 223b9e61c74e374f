//! Which cores an authority has not heard of for how long, as far as this core has looked. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::identity::NodeId;

use super::Revision;

/// Cores remembered, those that are long gone among them; the one that was looked at longest ago gives way.
const MAX_CORES: usize = 1024;

/// What was seen of other cores' lives.
#[derive(Debug, Default)]
pub struct Lives(BTreeMap<NodeId, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    life: Option<Revision>,
    since: Instant,
    looked: Instant,
}

impl Lives {
    /// `life` is the newest sign of `core` that the authority has at `now`. For how long it has been that.
    pub fn handle(&mut self, core: &NodeId, life: Option<Revision>, now: Instant) -> Duration {
        let new = Seen { life, since: now, looked: now };
        let before = self.0.get(core).filter(|seen| seen.life == life);
        let seen = before.map_or(new, |seen| Seen { looked: now, ..*seen });
        if self.0.len() >= MAX_CORES && !self.0.contains_key(core) {
            let oldest = self.0.iter().min_by_key(|(_, seen)| seen.looked).map(|(core, _)| core.clone());
            oldest.and_then(|core| self.0.remove(&core));
        }
        self.0.insert(core.clone(), seen);
        now.saturating_duration_since(seen.since)
    }

    /// How many cores are remembered.
    pub fn rows(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn a_core_is_silent_since_its_life_was_first_seen_as_it_is() {
        let (mut lives, start) = (Lives::default(), Instant::now());
        let core: NodeId = "core-1".parse().unwrap();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(lives.handle(&core, None, at(0)), Duration::ZERO);
        assert_eq!(lives.handle(&core, None, at(300)), Duration::from_secs(300), "it never gave a sign");
        assert_eq!(lives.handle(&core, Some(Revision(7)), at(301)), Duration::ZERO);
        assert_eq!(lives.handle(&core, Some(Revision(9)), at(310)), Duration::ZERO);
        assert_eq!(lives.handle(&core, Some(Revision(9)), at(315)), Duration::from_secs(5));
    }

    #[test]
    fn the_table_is_bounded_and_a_core_that_is_new_is_known_all_the_same() {
        let (mut lives, start) = (Lives::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        for n in 0..2000u64 {
            lives.handle(&format!("core-{n}").parse().unwrap(), None, at(n));
        }
        assert_eq!(lives.rows(), MAX_CORES);
        assert_eq!(lives.handle(&"core-1999".parse().unwrap(), None, at(2900)), Duration::from_secs(901));
    }
}
