//! What nodes say of themselves: one report for each, the newest wins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    news::{self, BadItem, Item, Mark, Note},
    peer::Peer,
};
use crate::{
    clock::Micros,
    codec::DecodeError,
    identity::NodeId,
    version::Version,
    wire::report::{MAX_RTTS, Report},
};

/// The longest encoded report, in bytes: beside the longest header it still fits into a packet.
pub(super) const MAX_REPORT: usize = 640;

/// The most nodes of whom a report is kept.
const MAX_REPORTS: usize = super::MAX_MEMBERS_KNOWN;

/// Stress that changed by this much is worth telling at once, in thousandths.
const BRISK_STRESS: u16 = 100;

/// foca takes the handler in and gives no way back to it, so the table is shared. One task uses both
/// sides: the lock is never contended and never held across a call into foca.
#[derive(Debug, Clone)]
pub(super) struct Reports(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    wire: Version,
    newest: BTreeMap<NodeId, Held>,
    keys: BTreeMap<news::Key, NodeId>,
    changed: BTreeSet<NodeId>,
    /// What came with the packet that foca is taking in: no more than fits into one.
    inbox: Vec<(Peer, Item)>,
}

#[derive(Debug)]
struct Held {
    report: Arc<Report>,
    sum: u16,
}

/// Which report a broadcast carries; a newer one of the same node takes its place in the queue.
#[derive(Debug)]
pub(super) struct Key {
    node: NodeId,
    at: Micros,
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

/// What a note or a mark was worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Newer than what was known, and how it is to be passed on.
    News { node: NodeId, telling: Telling, brisk: bool },
    /// Nothing new.
    Known,
    /// It continues a report that is not here.
    Missing,
}

impl Reports {
    /// For a node that speaks nothing newer than `wire`.
    pub(super) fn new(wire: Version) -> Self {
        let table =
            Table { wire, newest: BTreeMap::new(), keys: BTreeMap::new(), changed: BTreeSet::new(), inbox: Vec::new() };
        Self(Arc::new(Mutex::new(table)))
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<Arc<Report>> {
        self.lock().newest.get(node).map(|held| held.report.clone())
    }

    /// What is known of `node`, in full and as a note.
    pub(super) fn telling(&self, node: &NodeId) -> Option<(Arc<Report>, Note)> {
        let table = self.lock();
        let held = table.newest.get(node)?;
        Some((held.report.clone(), Note::of(&held.report, held.sum)))
    }

    /// The report of the node with that key.
    pub(super) fn by_key(&self, key: news::Key) -> Option<Arc<Report>> {
        let table = self.lock();
        Some(table.newest.get(table.keys.get(&key)?)?.report.clone())
    }

    /// Takes in a note of another node.
    pub(super) fn hear_note(&self, note: &Note) -> Heard {
        self.lock().hear_note(note)
    }

    /// Takes in a mark of another node.
    pub(super) fn hear_mark(&self, mark: &Mark) -> Heard {
        self.lock().hear_mark(mark)
    }

    /// Takes in a report that came in full, or is our own; whether it is news.
    pub(super) fn hear_report(&self, report: Report) -> bool {
        self.lock().accept(report).is_some()
    }

    /// Whose reports have changed since the last call.
    pub(super) fn take_changed(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.lock().changed)
    }

    /// What other nodes of version 2 sent along since the last call.
    pub(super) fn take_inbox(&self) -> Vec<(Peer, Item)> {
        std::mem::take(&mut self.lock().inbox)
    }

    /// Forgets the reports of nodes for which `keep` is false.
    pub(super) fn retain(&self, keep: impl Fn(&NodeId) -> bool) {
        let mut table = self.lock();
        table.newest.retain(|node, _| keep(node));
        table.keys.retain(|_, node| keep(node));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Keeps `report` if it is news.
    fn accept(&mut self, report: Report) -> Option<Key> {
        let key = Key { node: report.node.clone(), at: report.at };
        let newer = match self.newest.get(&key.node) {
            Some(known) => report.at > known.report.at,
            None => self.newest.len() < MAX_REPORTS,
        };
        if !newer {
            return None;
        }
        let sum = news::sum(&report);
        self.keys.insert(news::Key::of(&key.node), key.node.clone());
        self.newest.insert(key.node.clone(), Held { report: Arc::new(report), sum });
        self.changed.insert(key.node.clone());
        Some(key)
    }

    fn hear_note(&mut self, note: &Note) -> Heard {
        let Some(node) = self.keys.get(&note.key).cloned() else { return Heard::Missing };
        let Some(held) = self.newest.get_mut(&node) else { return Heard::Missing };
        let known = held.report.at.as_millis();
        let millis = news::millis(note.at, known);
        if millis <= known {
            return Heard::Known;
        }
        if note.sum != held.sum {
            return Heard::Missing;
        }
        let report = Arc::make_mut(&mut held.report);
        let stress = report.stress_permille.abs_diff(note.stress_permille);
        let moved = report.meetings != note.meetings || report.draining != note.draining;
        let brisk = moved || stress >= BRISK_STRESS;
        let telling = if moved || stress > 0 { Telling::Note } else { Telling::Mark };
        report.at = Micros(millis * 1000);
        report.meetings = note.meetings;
        report.draining = note.draining;
        report.stress_permille = note.stress_permille;
        self.changed.insert(node.clone());
        Heard::News { node, telling, brisk }
    }

    fn hear_mark(&mut self, mark: &Mark) -> Heard {
        let Some(node) = self.keys.get(&mark.key).cloned() else { return Heard::Missing };
        let Some(held) = self.newest.get_mut(&node) else { return Heard::Missing };
        let known = held.report.at.as_millis();
        let millis = news::millis(mark.at, known);
        if millis <= known {
            return Heard::Known;
        }
        if mark.state != Note::of(&held.report, held.sum).mark().state {
            return Heard::Missing;
        }
        Arc::make_mut(&mut held.report).at = Micros(millis * 1000);
        self.changed.insert(node.clone());
        Heard::News { node, telling: Telling::Mark, brisk: false }
    }

    /// A report in its first shape: of nodes of wire version 1, and for them. What a newer node says comes
    /// here in news, which say more.
    fn hear_broadcast(&mut self, data: &[u8]) -> Result<Option<Key>, BadReport> {
        let report = decode(data)?;
        if self.wire >= Version::V2 && report.reads_extension() {
            return Ok(None);
        }
        Ok(self.accept(report))
    }
}

impl foca::Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self.at >= other.at
    }
}

impl foca::BroadcastHandler<Peer> for Reports {
    type Key = Key;
    type Error = BadReport;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Peer>) -> Result<Option<Key>, BadReport> {
        let mut table = self.lock();
        if data.first() != Some(&news::MARK) || table.wire < Version::V2 {
            return table.hear_broadcast(data);
        }
        let item = Item::decode(data)?;
        if let Some(sender) = sender {
            table.inbox.push((sender.clone(), item));
        }
        Ok(None)
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
/// With its extension only if all who may get to see it read that.
pub(super) fn encode(report: &Report, extended: bool) -> Option<Vec<u8>> {
    let mut report = report.clone();
    report.rtts.truncate(MAX_RTTS);
    loop {
        let bytes = report.encode(extended).ok()?;
        if bytes.len() <= MAX_REPORT {
            return Some(bytes);
        }
        report.rtts.pop()?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use foca::BroadcastHandler;
    use proptest::prelude::*;

    use super::*;

    fn report(at: u64, rtts: usize, software: &str) -> Report {
        let region = |i| format!("a-region-with-quite-a-long-nam{i:02}").parse().unwrap();
        Report {
            node: "edge-1".parse().unwrap(),
            at: Micros(at),
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

    fn bytes(report: &Report) -> Vec<u8> {
        report.encode(true).unwrap()
    }

    #[test]
    fn the_newest_report_wins_and_an_old_one_is_not_passed_on() {
        let mut reports = Reports::new(Version::NEWEST);
        assert!(reports.receive_item(&bytes(&report(2, 0, "b")), None).unwrap().is_some());
        assert!(reports.receive_item(&bytes(&report(2, 0, "c")), None).unwrap().is_none());
        assert!(reports.receive_item(&bytes(&report(1, 0, "a")), None).unwrap().is_none());
        assert_eq!(reports.get(&"edge-1".parse().unwrap()).unwrap().software, "b");
        assert_eq!(reports.take_changed().len(), 1);
    }

    #[test]
    fn a_report_with_too_many_round_trips_is_refused() {
        let mut reports = Reports::new(Version::NEWEST);
        let mut crowded = report(1, 0, "x");
        crowded.rtts = (0..=MAX_RTTS).map(|i| (format!("r{i}").parse().unwrap(), 1)).collect();
        let refused = reports.receive_item(&bytes(&crowded), None);
        assert!(matches!(refused, Err(BadReport::TooManyRtts(13))), "{refused:?}");
    }

    #[test]
    fn a_report_that_would_not_fit_gives_up_its_last_round_trips() {
        let full = report(1, MAX_RTTS, &"v".repeat(300));
        let sent = decode(&encode(&full, true).unwrap()).unwrap();
        assert!(!sent.rtts.is_empty() && sent.rtts.len() < full.rtts.len(), "{} round trips", sent.rtts.len());
        assert_eq!(sent.rtts[..], full.rtts[..sent.rtts.len()]);
        assert_eq!(encode(&report(1, 0, &"v".repeat(MAX_REPORT)), true), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_report_or_an_error(data in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Reports::new(Version::NEWEST).receive_item(&data, None);
        }
    }
}
