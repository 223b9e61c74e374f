//! What edges have measured lately, and which edges have gone silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    identity::NodeId,
    placement::{Measured, RttSource},
};

use super::target::Target;

/// A round trip measured within this counts as measured now: paths seldom change sooner.
pub(crate) const FRESH: Duration = Duration::from_secs(60);

/// And within this it says where the relay is.
const KNOWN: Duration = Duration::from_secs(3600);

/// Relays remembered; the one that was asked about longest ago makes room.
const MAX_RELAYS: usize = 1024;

/// Edges remembered of each relay; the one that measured longest ago makes room.
const MAX_EDGES: usize = 64;

/// An edge that was silent is asked again after this, or as soon as it is heard of.
const SILENCE: Duration = Duration::from_secs(60);

/// What an edge wrote just before it fell silent may arrive this much later.
const LATE: Duration = Duration::from_secs(3);

/// Silent edges remembered; the first to fall silent makes room.
const MAX_SILENT: usize = 1024;

/// Pure: everything takes `now`.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    relays: BTreeMap<Target, Relay>,
    silent: BTreeMap<NodeId, Silent>,
}

#[derive(Debug)]
struct Relay {
    used: Instant,
    probes: BTreeMap<NodeId, (Duration, Instant)>,
}

#[derive(Debug)]
struct Silent {
    since: Instant,
    /// When it wrote the last report known then.
    report: Option<Micros>,
}

impl Memory {
    /// `edge` has measured `rtt` to `target`, and so is not silent.
    pub(crate) fn handle_probed(&mut self, target: &Target, edge: &NodeId, rtt: Duration, now: Instant) {
        self.silent.remove(edge);
        if !self.relays.contains_key(target) && self.relays.len() >= MAX_RELAYS {
            drop_oldest(&mut self.relays, |relay| relay.used);
        }
        let relay = self.relays.entry(target.clone()).or_insert_with(|| Relay { used: now, probes: BTreeMap::new() });
        relay.used = now;
        relay.probes.retain(|_, (_, at)| now.saturating_duration_since(*at) < KNOWN);
        if !relay.probes.contains_key(edge) && relay.probes.len() >= MAX_EDGES {
            drop_oldest(&mut relay.probes, |(_, at)| *at);
        }
        relay.probes.insert(edge.clone(), (rtt, now));
    }

    /// `edge` does not answer; `report` is when it wrote the last report that is known.
    pub(crate) fn handle_silent(&mut self, edge: &NodeId, report: Option<Micros>, now: Instant) {
        if self.silent.len() >= MAX_SILENT && !self.silent.contains_key(edge) {
            drop_oldest(&mut self.silent, |silent| silent.since);
        }
        self.silent.insert(edge.clone(), Silent { since: now, report });
    }

    /// The edges that are silent; `report` gives when one wrote its newest report.
    pub(crate) fn silent(&mut self, report: impl Fn(&NodeId) -> Option<Micros>, now: Instant) -> BTreeSet<NodeId> {
        self.silent.retain(|edge, silent| {
            let since = now.saturating_duration_since(silent.since);
            let heard = since > LATE && report(edge) > silent.report;
            since < SILENCE && !heard
        });
        self.silent.keys().cloned().collect()
    }

    /// Relays and silent edges that are remembered.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.relays.len(), self.silent.len())
    }

    /// Makes everything older by `age`.
    #[cfg(test)]
    pub(crate) fn forget(&mut self, age: Duration) {
        let probes = self.relays.values_mut().flat_map(|relay| relay.probes.values_mut());
        probes.for_each(|(_, at)| *at -= age);
    }

    /// What was measured to `target` within `age`, by edge.
    pub(crate) fn within(&self, target: &Target, age: Duration, now: Instant) -> BTreeMap<NodeId, Measured> {
        let all = self.relays.get(target).into_iter().flat_map(|relay| &relay.probes);
        let measured = all.map(|(edge, (rtt, at))| {
            let age = now.saturating_duration_since(*at);
            let source = if age <= FRESH { RttSource::Probe } else { RttSource::Remembered };
            (edge.clone(), Measured { rtt: *rtt, source, age })
        });
        measured.filter(|(_, measured)| measured.age <= age).collect()
    }

    /// Everything that is remembered of `target`: where it is, if not how far exactly.
    pub(crate) fn known(&self, target: &Target, now: Instant) -> BTreeMap<NodeId, Measured> {
        self.within(target, KNOWN, now)
    }
}

fn drop_oldest<K: Clone + Ord, V>(map: &mut BTreeMap<K, V>, at: impl Fn(&V) -> Instant) {
    let oldest = map.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| key.clone());
    oldest.and_then(|key| map.remove(&key));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    fn id(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn relay(number: usize) -> Target {
        Target::plain(format!("relay-{number}:443"))
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_measurement_is_fresh_for_a_minute_and_known_for_an_hour() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.handle_probed(&relay(1), &id("a"), 5 * MS, start);
        memory.handle_probed(&relay(1), &id("b"), 9 * MS, start + FRESH);
        let fresh = |now| memory.within(&relay(1), FRESH, now).into_iter().map(|(n, m)| (n, m.age)).collect::<Vec<_>>();
        assert_eq!(fresh(start + FRESH), [(id("a"), FRESH), (id("b"), Duration::ZERO)]);
        assert_eq!(fresh(start + FRESH + MS), [(id("b"), MS)]);
        let known = memory.known(&relay(1), start + FRESH + MS);
        assert_eq!(known[&id("a")].source, RttSource::Remembered);
        assert_eq!((known[&id("b")].source, known[&id("b")].rtt), (RttSource::Probe, 9 * MS));
        assert!(memory.known(&relay(2), start).is_empty());
        assert!(memory.known(&relay(1), start + FRESH + KNOWN + MS).is_empty());
    }

    #[test]
    fn a_silent_edge_is_heard_of_again_by_a_later_report_or_a_probe() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let report = |at| move |_: &NodeId| Some(Micros(at));
        memory.handle_silent(&id("a"), Some(Micros(10)), start);
        memory.handle_silent(&id("b"), Some(Micros(10)), start);
        assert_eq!(memory.silent(report(11), start + LATE).len(), 2, "it may have been under way");
        memory.handle_probed(&relay(1), &id("b"), MS, start);
        assert_eq!(memory.silent(report(10), start + 2 * LATE), [id("a")].into());
        assert_eq!(memory.silent(report(11), start + 2 * LATE), [].into());
        memory.handle_silent(&id("a"), Some(Micros(11)), start);
        assert_eq!(memory.silent(report(11), start + SILENCE), [].into(), "it is given another chance");
    }

    #[test]
    fn nothing_grows_without_bound_and_the_oldest_makes_room() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        for i in 0..=MAX_RELAYS.max(MAX_SILENT) {
            let now = start + MS * i as u32;
            memory.handle_probed(&relay(i), &id("a"), MS, now);
            memory.handle_probed(&relay(MAX_RELAYS), &id(&format!("e{i}")), MS, now);
        }
        for i in 0..=MAX_SILENT {
            memory.handle_silent(&id(&format!("s{i}")), None, start + MS * i as u32);
        }
        let end = start + MS * MAX_RELAYS as u32;
        assert_eq!(memory.relays.len(), MAX_RELAYS);
        assert_eq!(memory.relays[&relay(MAX_RELAYS)].probes.len(), MAX_EDGES);
        assert!(memory.known(&relay(0), end).is_empty() && memory.known(&relay(2), end).len() == 1);
        let silent = memory.silent(|_| None, end);
        assert!(silent.len() == MAX_SILENT && !silent.contains(&id("s0")));
    }
}
