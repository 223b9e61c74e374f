//! Whether this node is outside of the mesh, for how long, and why: seed by seed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{ConnectError, Peer};
use crate::seeds::Found;

/// So long a node may be without members before that is told. A first node with its seeds yet to come is told of too: its
/// operator knows, and anybody else should.
const FIRST: Duration = Duration::from_secs(15);
/// Told again after this long at most; until then each time after twice as long.
const AT_MOST: Duration = Duration::from_secs(600);
/// The most seeds that are named at a time.
const MOST_NAMED: usize = 8;
/// The most addresses whose dials are remembered: as many as seeds are tried, and a few.
const MOST_DIALS: usize = 128;

/// What came of each dial, by address.
#[derive(Debug, Default)]
pub(super) struct Dials(BTreeMap<SocketAddr, String>);

impl Dials {
    /// What came of the last one to `addr`.
    pub(super) fn note(&mut self, addr: SocketAddr, outcome: String) {
        if self.0.len() < MOST_DIALS || self.0.contains_key(&addr) {
            self.0.insert(addr, outcome);
        }
    }

    /// None of it matters any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Since when there are no members, and when that is told.
#[derive(Debug)]
pub(super) struct Outside {
    since: Instant,
    next: Instant,
    told: bool,
}

impl Outside {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, next: now + FIRST, told: false }
    }

    /// There are members at `now`; for how long it was outside, if that had been told.
    pub(super) fn handle_inside(&mut self, now: Instant) -> Option<Duration> {
        let lasted = self.told.then(|| now.saturating_duration_since(self.since));
        *self = Self::new(now);
        lasted
    }

    /// There are none at `now`; what is to be told of it, if anything is.
    pub(super) fn handle_outside(&mut self, found: &Found, dials: &Dials, now: Instant) -> Option<String> {
        if now < self.next {
            return None;
        }
        let lasted = now.saturating_duration_since(self.since);
        self.next = now + lasted.clamp(FIRST, AT_MOST);
        self.told = true;
        Some(format!("no other node for {} s: {}", lasted.as_secs(), why(found, dials)))
    }
}

/// Why, by seed.
fn why(found: &Found, dials: &Dials) -> String {
    let missing = found.problems.iter().map(|(seed, why)| format!("{seed}: {why}"));
    let dialled = found.addresses.iter().map(|(addr, seed)| {
        let outcome = dials.0.get(addr).map_or("not dialled yet", String::as_str);
        let text = addr.to_string();
        if *seed == text { format!("{text}: {outcome}") } else { format!("{seed} ({text}): {outcome}") }
    });
    let all: Vec<String> = missing.chain(dialled).collect();
    let more = all.len().saturating_sub(MOST_NAMED);
    let named = all.into_iter().take(MOST_NAMED).collect::<Vec<_>>().join("; ");
    match (named.is_empty(), more) {
        (true, _) => "no seed is named anywhere".into(),
        (_, 0) => named,
        (_, more) => format!("{named}; and {more} more"),
    }
}

/// What came of a dial, for whoever asks why this node is alone.
pub(super) fn told(outcome: &Result<Peer, ConnectError>) -> String {
    match outcome {
        Ok(peer) => format!("connected to `{}`, which has not taken this node in yet", peer.identity.node),
        Err(error) if error.is_silence() => {
            format!("{error}: nobody is there, UDP is blocked, or the path carries no packets of 1200 bytes")
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    // An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    fn found(addresses: &[(&str, &str)], problems: &[(&str, &str)]) -> Found {
        Found {
            addresses: addresses.iter().map(|(addr, seed)| (addr.parse().unwrap(), (*seed).to_owned())).collect(),
            refresh: Duration::from_secs(30),
            problems: problems.iter().map(|(seed, why)| ((*seed).to_owned(), (*why).to_owned())).collect(),
        }
    }

    #[test]
    fn it_is_told_after_15_seconds_and_again_ever_more_rarely() {
        let (start, seeds) = (Instant::now(), found(&[], &[]));
        let mut outside = Outside::new(start);
        let told = (0..3600u64).filter(|second| {
            let now = start + Duration::from_secs(*second);
            outside.handle_outside(&seeds, &Dials::default(), now).is_some()
        });
        assert_eq!(told.collect::<Vec<_>>(), [15, 30, 60, 120, 240, 480, 960, 1560, 2160, 2760, 3360]);
        let end = start + Duration::from_secs(3600);
        assert_eq!(outside.handle_inside(end), Some(Duration::from_secs(3600)));
        assert_eq!(outside.handle_inside(end), None, "it was told");
        assert_eq!(outside.handle_outside(&seeds, &Dials::default(), end + Duration::from_secs(14)), None);
    }

    #[test]
    fn each_seed_is_named_with_what_came_of_it() {
        let seeds =
            found(&[("192.0.2.1:7", "192.0.2.1:7"), ("192.0.2.2:7", "b.test:7")], &[("a.test:7", "no such name")]);
        let mut dials = Dials::default();
        dials.note("192.0.2.2:7".parse().unwrap(), "no answer".into());
        assert_eq!(
            why(&seeds, &dials),
            "a.test:7: no such name; 192.0.2.1:7: not dialled yet; b.test:7 (192.0.2.2:7): no answer"
        );
        dials.clear();
        let many: Vec<_> = (0..20).map(|n| format!("s{n}")).collect();
        let many: Vec<_> = many.iter().map(|seed| (seed.as_str(), "gone")).collect();
        assert!(why(&found(&[], &many), &dials).ends_with("; and 12 more"));
    }
}
