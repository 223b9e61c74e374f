//! Which path a packet takes: rules from place to place, the most particular one wins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use geo::RegionId;
use serde::Serialize;

use super::path::{Counters, Path, Quality};

/// Hosts that a path or a partition is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Every host.
    Anywhere,
    /// Every host of a region.
    Site(RegionId),
    /// One host, by name.
    Host(Arc<str>),
}

/// Where a host is, as far as routing is concerned.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) name: Arc<str>,
    pub(super) site: RegionId,
}

/// A path's counters with its ends.
#[derive(Debug, Clone, Serialize)]
pub struct PathReport {
    /// Where packets come from.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// What became of them.
    pub counters: Counters,
}

/// All paths and partitions.
#[derive(Debug)]
pub(super) struct Routes {
    seed: u64,
    rules: BTreeMap<(Place, Place), Path>,
    cuts: BTreeSet<(Place, Place)>,
}

impl Place {
    /// The host of this name.
    pub fn host(name: &str) -> Self {
        Self::Host(name.into())
    }

    fn holds(&self, location: &Location) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Site(site) => *site == location.site,
            Self::Host(name) => *name == location.name,
        }
    }

    fn weight(&self) -> u8 {
        match self {
            Self::Anywhere => 0,
            Self::Site(_) => 1,
            Self::Host(_) => 2,
        }
    }
}

impl Routes {
    /// No partitions, and `default` between all hosts.
    pub(super) fn new(seed: u64, default: Quality) -> Self {
        let mut routes = Self { seed, rules: BTreeMap::new(), cuts: BTreeSet::new() };
        routes.set((Place::Anywhere, Place::Anywhere), default);
        routes
    }

    /// Sets one direction. A path that exists keeps its counters.
    pub(super) fn set(&mut self, ends: (Place, Place), quality: Quality) {
        if let Some(path) = self.rules.get_mut(&ends) {
            return path.set_quality(quality);
        }
        // Each path has chances of its own, and the same ones however many others there are.
        let seed = self.seed ^ fnv1a(format!("{}>{}", ends.0, ends.1).as_bytes());
        self.rules.insert(ends, Path::new(quality, seed));
    }

    /// Cuts both directions.
    pub(super) fn cut(&mut self, a: Place, b: Place) {
        self.cuts.insert((b.clone(), a.clone()));
        self.cuts.insert((a, b));
    }

    /// Takes back a [`cut`](Self::cut) between the same places.
    pub(super) fn heal(&mut self, a: Place, b: Place) {
        self.cuts.remove(&(b.clone(), a.clone()));
        self.cuts.remove(&(a, b));
    }

    /// The most particular path, and whether the way is cut.
    pub(super) fn find(&mut self, from: &Location, to: &Location) -> (&mut Path, bool) {
        let holds = |ends: &(Place, Place)| ends.0.holds(from) && ends.1.holds(to);
        let cut = self.cuts.iter().any(holds);
        let path = self.rules.iter_mut().filter(|(ends, _)| holds(ends));
        let best = path.max_by_key(|(ends, _)| ends.0.weight() + ends.1.weight());
        (best.expect("`new` laid a path from anywhere to anywhere").1, cut)
    }

    pub(super) fn report(&self) -> Vec<PathReport> {
        let line = |(ends, path): (&(Place, Place), &Path)| PathReport {
            from: ends.0.to_string(),
            to: ends.1.to_string(),
            counters: path.counters(),
        };
        self.rules.iter().map(line).collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere => f.write_str("*"),
            Self::Site(site) => write!(f, "{site}/*"),
            Self::Host(name) => f.write_str(name),
        }
    }
}

impl From<&RegionId> for Place {
    fn from(site: &RegionId) -> Self {
        Self::Site(site.clone())
    }
}

impl From<RegionId> for Place {
    fn from(site: RegionId) -> Self {
        Self::Site(site)
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use std::time::Duration;

    use super::*;

    fn at(name: &str, site: &str) -> Location {
        Location { name: name.into(), site: site.parse().expect("a region") }
    }

    fn ms(ms: u64) -> Quality {
        Quality::delayed(Duration::from_millis(ms))
    }

    fn routes() -> (Routes, Place, Place) {
        let (eu, jp) = (Place::Site("eu".parse().expect("a region")), Place::Site("jp".parse().expect("a region")));
        (Routes::new(1, ms(1)), eu, jp)
    }

    #[test]
    fn the_most_particular_rule_wins_whatever_the_order_of_setting() {
        let (mut routes, eu, jp) = routes();
        routes.set((Place::host("a"), Place::host("b")), ms(30));
        routes.set((eu.clone(), jp.clone()), ms(20));
        let mut delay = |from, to| routes.find(&from, &to).0.quality().delay.as_millis();
        assert_eq!(delay(at("a", "eu"), at("b", "jp")), 30);
        assert_eq!(delay(at("b", "jp"), at("a", "eu")), 1, "a path has one direction");
        assert_eq!(delay(at("c", "eu"), at("b", "jp")), 20);
        assert_eq!(delay(at("c", "eu"), at("d", "eu")), 1);
    }

    #[test]
    fn a_cut_works_both_ways_and_heals() {
        let (mut routes, eu, _) = routes();
        routes.cut(Place::host("b"), eu.clone());
        let (a, b) = (at("a", "eu"), at("b", "jp"));
        assert!(routes.find(&a, &b).1 && routes.find(&b, &a).1);
        assert!(!routes.find(&b, &at("c", "jp")).1);
        routes.heal(eu, Place::host("b"));
        assert!(!routes.find(&a, &b).1 && !routes.find(&b, &a).1);
    }

    #[test]
    fn a_changed_path_keeps_its_counters() {
        let (mut routes, eu, jp) = routes();
        routes.set((eu.clone(), jp.clone()), ms(20));
        routes.find(&at("a", "eu"), &at("b", "jp")).0.transit(std::time::Instant::now(), 10, true);
        routes.set((eu, jp), ms(40));
        assert_eq!(routes.report().iter().map(|path| path.counters.cut).sum::<u64>(), 1);
    }
}
