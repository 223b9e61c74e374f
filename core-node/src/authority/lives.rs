//! Which cores an authority has not heard of for how long, as far as this core has looked. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::identity::NodeId;

use super::Revision;

/// Cores remembered; the one that was looked at first for the shortest time gives way.
const MAX_CORES: usize = 64;

/// What was seen of other cores' lives.
#[derive(Debug, Default)]
pub struct Lives(BTreeMap<NodeId, (Option<Revision>, Instant)>);

impl Lives {
    /// `life` is the newest sign of `core` that the authority has at `now`. For how long it has been that.
    pub fn handle(&mut self, core: &NodeId, life: Option<Revision>, now: Instant) -> Duration {
        let seen = self.0.entry(core.clone()).or_insert((life, now));
        if seen.0 != life {
            *seen = (life, now);
        }
        let silent = now.saturating_duration_since(seen.1);
        if self.0.len() > MAX_CORES {
            let newest = self.0.iter().max_by_key(|(_, (_, since))| *since).map(|(core, _)| core.clone());
            newest.and_then(|core| self.0.remove(&core));
        }
        silent
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
    fn the_table_is_bounded_and_keeps_those_that_were_silent_longest() {
        let (mut lives, start) = (Lives::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        for n in 0..200u64 {
            lives.handle(&format!("core-{n}").parse().unwrap(), None, at(n));
        }
        assert_eq!(lives.rows(), MAX_CORES);
        assert_eq!(lives.handle(&"core-0".parse().unwrap(), None, at(900)), Duration::from_secs(900));
    }
}
