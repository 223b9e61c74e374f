//! What nodes say of themselves: one report for each, the newest wins. Each was signed by the node that it is of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    chain::Link,
    items::{self, BadItem, Mark, Note, Signed},
    keys::{Fingerprint, Keys},
};
use crate::{
    clock::Micros,
    codec::DecodeError,
    identity::NodeId,
    wire::report::{MAX_RTTS, Report},
};

/// The longest encoded report, in bytes: beside the longest header it still fits into a packet, with its signature.
pub(super) const MAX_REPORT: usize = 640;

/// The most nodes of whom a report is kept.
const MAX_REPORTS: usize = super::MAX_MEMBERS_KNOWN;

/// Stress that changed by this much is worth telling at once, in thousandths.
const BRISK_STRESS: u16 = 100;

/// How long a report stands for each link of its chain.
pub(super) const STEP: Duration = Duration::from_secs(10);

/// The newest report of each node.
#[derive(Debug, Default)]
pub(super) struct Reports {
    newest: BTreeMap<NodeId, Held>,
    keys: BTreeMap<items::Key, NodeId>,
    changed: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Held {
    /// As it is now: with the newest note and mark.
    report: Arc<Report>,
    signed: Signed,
    sum: u16,
    /// The newest note that continues it.
    note: Option<Note>,
    /// When the newer of the two was signed, in Unix milliseconds.
    at: u64,
    /// How many links of its chain have been shown, and the last of them.
    steps: u16,
    link: Link,
    /// When the newest of it came; `None` of this node's own.
    heard: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BadReport {
    #[error("report of {0} bytes, at most {MAX_REPORT} are allowed")]
    TooLong(usize),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Item(#[from] BadItem),
    #[error("report with {0} round trips, at most {MAX_RTTS} are allowed")]
    TooManyRtts(usize),
}

/// How much of a report is to be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Telling {
    /// That nothing has changed.
    Mark,
    /// The load.
    Note,
    /// All of it.
    Full,
}

/// What a report, a note or a mark was worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Newer than what was known, and how it is to be passed on.
    News { node: NodeId, telling: Telling, brisk: bool },
    /// Nothing new.
    Known,
    /// It continues a report that is not here.
    Missing,
    /// It was signed with another key, or in another life, than the node's card names.
    Elsewhere,
    /// It is not what its node has said.
    Forged,
}

/// By what somebody else's word is judged.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) keys: &'a dyn Keys,
    /// The certificate of the node that the word is of.
    pub(super) certificate: Fingerprint,
    /// And the life.
    pub(super) life: u64,
    /// Later words than of this time are not taken, in Unix milliseconds.
    pub(super) until: u64,
}

impl Judge<'_> {
    fn knows(&self, tag: u8) -> bool {
        tag == items::tag(self.certificate, self.life)
    }
}

impl Reports {
    pub(super) fn get(&self, node: &NodeId) -> Option<Arc<Report>> {
        self.newest.get(node).map(|held| held.report.clone())
    }

    /// When the newest word of `node` came.
    pub(super) fn heard(&self, node: &NodeId) -> Option<Instant> {
        self.newest.get(node)?.heard
    }

    /// The newest word of `node` has come.
    pub(super) fn note_heard(&mut self, node: &NodeId, now: Instant) {
        if let Some(held) = self.newest.get_mut(node) {
            held.heard = Some(now);
        }
    }

    /// Whose key that is, of those who have reported.
    pub(super) fn node(&self, key: items::Key) -> Option<&NodeId> {
        self.keys.get(&key)
    }

    /// When what is known of `node` was signed, in Unix milliseconds.
    pub(super) fn signed_at(&self, node: &NodeId) -> Option<u64> {
        self.newest.get(node).map(|held| held.at)
    }

    pub(super) fn mark(&self, node: &NodeId) -> Option<Mark> {
        let held = self.newest.get(node)?;
        Some(Mark { key: items::Key::of(node), at: held.at as u32, steps: held.steps, link: held.link })
    }

    pub(super) fn note(&self, node: &NodeId) -> Option<&Note> {
        self.newest.get(node)?.note.as_ref()
    }

    pub(super) fn signed(&self, node: &NodeId) -> Option<&Signed> {
        self.newest.get(node).map(|held| &held.signed)
    }

    /// Takes in a report of a node that is known by `judge`'s certificate.
    pub(super) fn hear_report(&mut self, signed: Signed, judge: Judge<'_>) -> Heard {
        let node = &signed.report.node;
        let newer =
            self.signed_at(node).map_or(self.newest.len() < MAX_REPORTS, |at| signed.report.at.as_millis() > at);
        if !newer {
            return Heard::Known;
        }
        if !judge.knows(signed.proof.tag) {
            return Heard::Elsewhere;
        }
        if signed.report.at.as_millis() > judge.until || !signed.is_signed(judge) {
            return Heard::Forged;
        }
        let node = node.clone();
        self.keep(signed);
        Heard::News { node, telling: Telling::Full, brisk: true }
    }

    /// Keeps a report that is known to be signed.
    pub(super) fn keep(&mut self, signed: Signed) {
        let node = signed.report.node.clone();
        let (sum, at, link) = (items::sum(&signed.report), signed.report.at.as_millis(), signed.proof.anchor);
        let report = Arc::new(signed.report.clone());
        let held = Held { report, signed, sum, note: None, at, steps: 0, link, heard: None };
        self.keys.insert(items::Key::of(&node), node.clone());
        self.newest.insert(node.clone(), held);
        self.changed.insert(node);
    }

    /// Takes in a note of the node `node`, which is known by `judge`'s certificate.
    pub(super) fn hear_note(&mut self, node: &NodeId, note: &Note, judge: Judge<'_>) -> Heard {
        let Some(held) = self.newest.get_mut(node) else { return Heard::Missing };
        let millis = items::millis(note.at, held.at);
        if millis <= held.at {
            return Heard::Known;
        }
        if !judge.knows(note.proof.tag) {
            return Heard::Elsewhere;
        }
        if note.sum != held.sum {
            return Heard::Missing;
        }
        if millis > judge.until || !note.is_signed(judge, node, millis) {
            return Heard::Forged;
        }
        let brisk = held.take_note(note.clone(), millis);
        self.changed.insert(node.clone());
        Heard::News { node: node.clone(), telling: Telling::Note, brisk }
    }

    /// Keeps a note that is known to be signed.
    pub(super) fn keep_note(&mut self, node: &NodeId, note: Note, millis: u64) {
        if let Some(held) = self.newest.get_mut(node) {
            held.take_note(note, millis);
            self.changed.insert(node.clone());
        }
    }

    /// Takes in a mark of the node `node`.
    pub(super) fn hear_mark(&mut self, node: &NodeId, mark: &Mark) -> Heard {
        let Some(held) = self.newest.get_mut(node) else { return Heard::Missing };
        let millis = items::millis(mark.at, held.at);
        if millis > held.at {
            return Heard::Missing;
        }
        if millis < held.at || mark.steps <= held.steps {
            return Heard::Known;
        }
        if !mark.link.continues(held.link, mark.steps - held.steps) {
            return Heard::Forged;
        }
        (held.steps, held.link) = (mark.steps, mark.link);
        // The first link says only that this was signed.
        let stood = STEP * u32::from(mark.steps.saturating_sub(1));
        Arc::make_mut(&mut held.report).at = Micros(held.at * 1000).plus(stood);
        self.changed.insert(node.clone());
        Heard::News { node: node.clone(), telling: Telling::Mark, brisk: false }
    }

    pub(super) fn tables(&self) -> [(&'static str, usize); 2] {
        [("gossip_reports", self.newest.len()), ("gossip_report_keys", self.keys.len())]
    }

    /// Whose reports have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets what `node` said: it has another life.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.newest.remove(node);
    }

    /// Forgets the reports of nodes for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.newest.retain(|node, _| keep(node));
        self.keys.retain(|_, node| keep(node));
    }
}

impl Held {
    /// Whether others act on the change.
    fn take_note(&mut self, note: Note, millis: u64) -> bool {
        let report = Arc::make_mut(&mut self.report);
        let stress = report.stress_permille.abs_diff(note.stress_permille);
        let moved = report.meetings != note.meetings || report.draining != note.draining;
        report.at = Micros(millis * 1000);
        report.meetings = note.meetings;
        report.draining = note.draining;
        report.stress_permille = note.stress_permille;
        (self.at, self.steps, self.link) = (millis, 0, note.proof.anchor);
        self.note = Some(note);
        moved || stress >= BRISK_STRESS
    }
}

pub(super) fn decode(data: &[u8]) -> Result<Report, BadReport> {
    if data.len() > MAX_REPORT {
        return Err(BadReport::TooLong(data.len()));
    }
    let report = Report::decode(data)?;
    if report.rtts.len() > MAX_RTTS {
        return Err(BadReport::TooManyRtts(report.rtts.len()));
    }
    Ok(report)
}

/// The bytes of `report`, with fewer round trips if it would not fit otherwise; the ones named first stay.
pub(super) fn encode(report: &Report) -> Option<Vec<u8>> {
    let mut report = report.clone();
    report.rtts.truncate(MAX_RTTS);
    loop {
        let bytes = report.encode(true).ok()?;
        if bytes.len() <= MAX_REPORT {
            return Some(bytes);
        }
        report.rtts.pop()?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::{super::chain::Chain, *};
    use crate::sim::keys::Authority;

    const LIFE: u64 = 7;

    fn report(at: u64, rtts: usize, software: &str) -> Report {
        let region = |i| format!("a-region-with-quite-a-long-nam{i:02}").parse().unwrap();
        Report {
            node: "edge-1".parse().unwrap(),
            at: Micros(at * 1000),
            stress_permille: 250,
            meetings: 3,
            capacity: 40,
            draining: false,
            api: None,
            software: software.into(),
            rtts: (0..rtts).map(|i| (region(i), 150_000)).collect(),
            extension: None,
        }
    }

    /// A node that reports, and one that holds another certificate.
    fn keys() -> [Arc<dyn Keys>; 2] {
        let authority = Authority::default();
        let identity = |node: &str| crate::identity::Identity {
            node: node.parse().unwrap(),
            role: crate::identity::Role::Edge,
            region: "eu-central".parse().unwrap(),
        };
        let keys = ["edge-1", "edge-2"].map(|node| authority.issue(identity(node)));
        keys[0].learn(keys[1].certificate());
        let [a, b] = keys;
        [a, b]
    }

    #[test]
    fn the_newest_report_wins_and_only_as_its_node_signed_it() {
        let ([edge, other], mut reports) = (keys(), Reports::default());
        let chain = Chain::new(&mut StdRng::seed_from_u64(1));
        let judge = Judge { keys: &*edge, certificate: edge.certificate(), life: LIFE, until: u64::MAX };
        let mut hear = |at, software: &str, by: &Arc<dyn Keys>| {
            let mut signed = Signed::sign(&**by, LIFE, &report(at, 0, software), chain.link(0).unwrap()).unwrap();
            signed.proof.tag = items::tag(edge.certificate(), LIFE);
            reports.hear_report(signed, judge)
        };
        assert!(matches!(hear(2, "b", &edge), Heard::News { .. }));
        assert_eq!(hear(2, "c", &edge), Heard::Known);
        assert_eq!(hear(1, "a", &edge), Heard::Known);
        assert_eq!(hear(3, "forged", &other), Heard::Forged);
        assert_eq!(reports.get(&"edge-1".parse().unwrap()).unwrap().software, "b");
        assert_eq!(reports.take_changed().len(), 1);
    }

    #[test]
    fn notes_are_signed_and_marks_are_of_the_chain_that_was_signed() {
        let ([edge, other], mut reports) = (keys(), Reports::default());
        let mut rng = StdRng::seed_from_u64(1);
        let (chain, next) = (Chain::new(&mut rng), Chain::new(&mut rng));
        let judge = Judge { keys: &*edge, certificate: edge.certificate(), life: LIFE, until: u64::MAX };
        let (node, first) = ("edge-1".parse().unwrap(), report(10_000, 0, "a"));
        let signed = Signed::sign(&*edge, LIFE, &first, chain.link(0).unwrap()).unwrap();
        let sum = items::sum(&first);
        reports.hear_report(signed, judge);

        let mark = |at, steps, chain: Chain| {
            let link = chain.link(steps).unwrap();
            Mark { key: items::Key::of(&node), at, steps, link }
        };
        assert!(matches!(reports.hear_mark(&node, &mark(10_000, 2, chain)), Heard::News { .. }));
        // The first link says only that it was signed, the second that it has stood for a period.
        assert_eq!(reports.get(&node).unwrap().at, Micros(20_000_000));
        assert_eq!(reports.hear_mark(&node, &mark(10_000, 1, chain)), Heard::Known);
        assert_eq!(reports.hear_mark(&node, &mark(10_000, 3, next)), Heard::Forged);

        let load = |at, by: &Arc<dyn Keys>| {
            let report = Report { meetings: 9, draining: true, ..report(at, 0, "a") };
            let mut note = Note::sign(&**by, LIFE, &report, sum, next.link(0).unwrap()).unwrap();
            note.proof.tag = items::tag(edge.certificate(), LIFE);
            note
        };
        let former = Note::sign(&*edge, LIFE - 1, &first, sum, next.link(0).unwrap()).unwrap();
        let former = Note { at: 20_000, ..former };
        assert_eq!(reports.hear_note(&node, &former, judge), Heard::Elsewhere);
        assert_eq!(reports.hear_note(&node, &load(40_000, &other), judge), Heard::Forged);
        let damaged = Note { draining: false, ..load(40_000, &edge) };
        assert_eq!(reports.hear_note(&node, &damaged, judge), Heard::Forged);
        let later = Note { at: 50_000, ..load(40_000, &edge) };
        assert_eq!(reports.hear_note(&node, &later, judge), Heard::Forged);
        let brisk = reports.hear_note(&node, &load(40_000, &edge), judge);
        assert_eq!(brisk, Heard::News { node: node.clone(), telling: Telling::Note, brisk: true });
        assert_eq!(reports.hear_note(&node, &load(40_000, &edge), judge), Heard::Known);
        assert_eq!(reports.hear_mark(&node, &mark(40_000, 1, chain)), Heard::Forged);
        assert!(matches!(reports.hear_mark(&node, &mark(40_000, 1, next)), Heard::News { .. }));
        assert_eq!(reports.hear_mark(&node, &mark(60_000, 1, next)), Heard::Missing);
    }

    #[test]
    fn a_report_with_too_many_round_trips_is_refused() {
        let mut crowded = report(1, 0, "x");
        crowded.rtts = (0..=MAX_RTTS).map(|i| (format!("r{i}").parse().unwrap(), 1)).collect();
        let refused = decode(&crowded.encode(true).unwrap());
        assert!(matches!(refused, Err(BadReport::TooManyRtts(13))), "{refused:?}");
    }

    #[test]
    fn a_report_that_would_not_fit_gives_up_its_last_round_trips() {
        let full = report(1, MAX_RTTS, &"v".repeat(300));
        let sent = decode(&encode(&full).unwrap()).unwrap();
        assert!(!sent.rtts.is_empty() && sent.rtts.len() < full.rtts.len(), "{} round trips", sent.rtts.len());
        assert_eq!(sent.rtts[..], full.rtts[..sent.rtts.len()]);
        assert_eq!(encode(&report(1, 0, &"v".repeat(MAX_REPORT))), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_report_or_an_error(data in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = decode(&data);
        }
    }
}
