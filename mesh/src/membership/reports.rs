//! What nodes say of themselves: one report for each, the newest wins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::peer::Peer;
use crate::{
    clock::Micros,
    codec::DecodeError,
    identity::NodeId,
    wire::report::{MAX_RTTS, Report},
};

/// The longest encoded report, in bytes: beside the longest header it still fits into a packet.
pub(super) const MAX_REPORT: usize = 640;

/// The most nodes of whom a report is kept.
const MAX_REPORTS: usize = super::MAX_MEMBERS_KNOWN;

/// foca takes the handler in and gives no way back to it, so the table is shared. One task uses both
/// sides: the lock is never contended and never held across a call into foca.
#[derive(Debug, Clone, Default)]
pub(super) struct Reports(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    newest: BTreeMap<NodeId, Arc<Report>>,
    changed: BTreeSet<NodeId>,
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
    #[error("report with {0} round trips, at most {MAX_RTTS} are allowed")]
    TooManyRtts(usize),
}

impl Reports {
    pub(super) fn get(&self, node: &NodeId) -> Option<Arc<Report>> {
        self.lock().newest.get(node).cloned()
    }

    /// Whose reports have changed since the last call.
    pub(super) fn take_changed(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.lock().changed)
    }

    /// Forgets the reports of nodes for which `keep` is false.
    pub(super) fn retain(&self, keep: impl Fn(&NodeId) -> bool) {
        self.lock().newest.retain(|node, _| keep(node));
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
            // The same, but it did not come by a node that reads no extensions.
            Some(known) if report.at == known.at => known.extension.is_none() && report.extension.is_some(),
            Some(known) => report.at > known.at,
            None => self.newest.len() < MAX_REPORTS,
        };
        if !newer {
            return None;
        }
        self.newest.insert(key.node.clone(), Arc::new(report));
        self.changed.insert(key.node.clone());
        Some(key)
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

    fn receive_item(&mut self, data: &[u8], _sender: Option<&Peer>) -> Result<Option<Key>, BadReport> {
        Ok(self.lock().accept(decode(data)?))
    }
}

fn decode(data: &[u8]) -> Result<Report, BadReport> {
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
        let mut reports = Reports::default();
        assert!(reports.receive_item(&bytes(&report(2, 0, "b")), None).unwrap().is_some());
        assert!(reports.receive_item(&bytes(&report(2, 0, "c")), None).unwrap().is_none());
        assert!(reports.receive_item(&bytes(&report(1, 0, "a")), None).unwrap().is_none());
        assert_eq!(reports.get(&"edge-1".parse().unwrap()).unwrap().software, "b");
        assert_eq!(reports.take_changed().len(), 1);
    }

    #[test]
    fn a_report_with_too_many_round_trips_is_refused() {
        let mut reports = Reports::default();
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
            let _ = Reports::default().receive_item(&data, None);
        }
    }
}
