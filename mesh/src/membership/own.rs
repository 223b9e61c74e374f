//! What this node says of itself: when, and how much of it.

use std::time::{Duration, Instant};

use super::{
    MAX_FAREWELLS, Membership, news,
    reports::{self, Telling},
    upkeep::{due, sooner},
};
use crate::{
    clock::Micros,
    version::Version,
    wire::report::{Extension, Report},
};

/// A round trip or a coordinate that moved by less is told as it was: they move all the time.
const MOVED: Duration = Duration::from_millis(2);
/// For long ways it is this share, in per cent.
const MOVED_SHARE: u32 = 15;
/// Stress that changed by this much is told at once, in thousandths.
const BRISK_STRESS: u16 = 100;

/// The own report as it was published last, and as it was told last.
#[derive(Debug)]
pub(super) struct Own {
    latest: Report,
    published: Instant,
    told: Option<Told>,
    /// Others hold a report of ours that is this new: the clock went back since. Ours are to be newer.
    after: Micros,
    /// What was told last is to be told once more, for those who missed it.
    again: bool,
}

#[derive(Debug)]
struct Told {
    report: Report,
    sum: u16,
    at: Instant,
}

/// How much a report differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Others may hold on to what they have.
    None,
    /// Others should know within seconds.
    Slight,
    /// Others act on it.
    Brisk,
}

impl Membership {
    pub(super) fn take_report(&mut self, mut report: Report, now: Instant) {
        report.node = self.foca.identity().node.clone();
        let before = self.own.take().map(|own| (own.told, own.after, own.again));
        let (told, after, again) = before.unwrap_or((None, Micros::default(), false));
        let wait = told.as_ref().map(|told| (told.at, self.settings.wait_after(change(&told.report, &report))));
        self.own = Some(Own { latest: report, published: now, told, after, again });
        sooner(&mut self.deadlines.report, wait.map_or(now, |(at, wait)| at + wait));
        if due(&mut self.deadlines.report, now) {
            self.send_report(now);
        }
    }

    /// A newcomer of version 1 has heard nobody's report yet and would wait for the next period's.
    pub(super) fn repeat_report(&mut self, now: Instant) {
        if self.settings.wire < Version::V2
            && let Some(own) = &self.own
        {
            let sent = own.told.as_ref().map(|told| told.at + self.settings.report_gap);
            sooner(&mut self.deadlines.report, sent.map_or(now, |at| now.max(at)));
        }
    }

    /// Somebody holds a report of ours that was written at `at`, by a clock that went back since.
    pub(super) fn outdo(&mut self, at: Micros, now: Instant) {
        let Some(own) = &mut self.own else { return };
        if own.told.as_ref().is_none_or(|told| told.report.at < at) && own.after < at {
            own.after = at;
            sooner(&mut self.deadlines.report, now + self.settings.report_gap);
        }
    }

    /// A repeated report is as much later as it is repeated later, or nobody would pass it on.
    pub(super) fn send_report(&mut self, now: Instant) {
        self.deadlines.report = Some(now + self.settings.report_period);
        let Some(own) = &mut self.own else { return };
        let mut report = own.told.as_ref().map_or_else(|| own.latest.clone(), |told| steady(&told.report, &own.latest));
        let at = own.latest.at.plus(now.saturating_duration_since(own.published)).max(own.after);
        let last = own.told.as_ref().map(|told| told.report.at);
        report.at = whole_millis(last.map_or(at, |last| at.max(last.plus(Duration::from_millis(1)))));
        if self.settings.wire < Version::V2 {
            return self.broadcast(report, now);
        }
        // As others will read it, or the sums differ.
        let canonical = reports::encode(&report, true).and_then(|bytes| reports::decode(&bytes).ok());
        let Some(report) = canonical else { return too_long() };
        let sum = news::sum(&report);
        let full = own.told.as_ref().is_none_or(|told| told.sum != sum);
        let again = std::mem::take(&mut own.again);
        let changed = full || own.told.as_ref().is_none_or(|told| change(&told.report, &report) == Change::Brisk);
        own.again = changed;
        let brisk = changed || again;
        let telling = match &own.told {
            _ if full => Telling::Full,
            Some(told) if !again && change(&told.report, &report) == Change::None => Telling::Mark,
            _ => Telling::Note,
        };
        own.told = Some(Told { report: report.clone(), sum, at: now });
        self.reports.hear_report(report.clone());
        self.rumours.hear(report.node.clone(), telling, brisk, None);
        self.tell_the_old(&report);
        if changed {
            self.deadlines.report = Some(now + self.settings.report_gap);
        }
        if brisk {
            self.deadlines.tell = Some(now);
        }
    }

    /// As 0.1.0 does it: in full, by foca, to everyone.
    fn broadcast(&mut self, mut report: Report, now: Instant) {
        report.extension = None;
        let Some(bytes) = reports::encode(&report, false) else { return too_long() };
        if let Err(error) = self.foca.add_broadcast(&bytes) {
            tracing::debug!(%error, "own report not queued");
        }
        if let Some(own) = &mut self.own {
            own.told = Some(Told { report, sum: 0, at: now });
        }
    }

    /// Nodes of version 1 are told directly and in their shape: there are some only while a mesh is upgraded.
    fn tell_the_old(&mut self, report: &Report) {
        let old = |peer: &super::Peer| self.versions.get(&peer.node) == Some(&Version::V1);
        let old: Vec<_> = self.foca.iter_members().map(foca::Member::id).filter(|peer| old(peer)).cloned().collect();
        let Some(bytes) = reports::encode(report, false).filter(|_| !old.is_empty()) else { return };
        let mut item = (bytes.len() as u16).to_be_bytes().to_vec();
        item.extend(bytes);
        for peer in old.into_iter().take(MAX_FAREWELLS) {
            self.send_with(peer, &item);
        }
    }
}

fn too_long() {
    tracing::warn!(limit = reports::MAX_REPORT, "own report is too long to be sent; shorten `api` or `software`");
}

fn whole_millis(at: Micros) -> Micros {
    Micros(at.as_millis() * 1000)
}

impl super::Settings {
    fn wait_after(&self, change: Change) -> Duration {
        match change {
            Change::None => self.report_period,
            Change::Slight => self.load_gap,
            Change::Brisk => self.report_gap,
        }
    }
}

fn change(told: &Report, latest: &Report) -> Change {
    let said = |report: &Report| {
        let Report { meetings, capacity, draining, api, software, extension, .. } = report.clone();
        (meetings, capacity, draining, api, software, extension.map(|e| e.wire))
    };
    let stress = told.stress_permille.abs_diff(latest.stress_permille);
    if said(told) != said(latest) || stress >= BRISK_STRESS {
        Change::Brisk
    } else if stress > 0 || !hardly_moved(told, latest) {
        Change::Slight
    } else {
        Change::None
    }
}

/// `latest` with the round trips and the coordinate as they were told, if they have hardly moved.
fn steady(told: &Report, latest: &Report) -> Report {
    let mut report = latest.clone();
    if hardly_moved(told, latest) {
        report.rtts.clone_from(&told.rtts);
        if let (Some(new), Some(old)) = (&mut report.extension, told.extension) {
            new.coordinate = old.coordinate;
        }
    }
    report
}

fn hardly_moved(told: &Report, latest: &Report) -> bool {
    let near = |a: u32, b: u32| a.abs_diff(b) <= (MOVED.as_micros() as u32).max(a.max(b) / 100 * MOVED_SHARE);
    let same_regions = told.rtts.len() == latest.rtts.len();
    let rtts = latest.rtts.iter().all(|(region, now)| {
        told.rtts.iter().find(|(other, _)| other == region).is_some_and(|(_, then)| near(*then, *now))
    });
    same_regions && rtts && same_place(told.extension, latest.extension)
}

fn same_place(told: Option<Extension>, latest: Option<Extension>) -> bool {
    let moved = MOVED.as_millis() as f32;
    match (told.and_then(|e| e.coordinate), latest.and_then(|e| e.coordinate)) {
        (Some(then), Some(now)) => {
            let way = (0..3).map(|i| (then.position[i] - now.position[i]).powi(2)).sum::<f32>().sqrt();
            way + (then.height - now.height).abs() <= moved && (then.error - now.error).abs() <= 0.1
        }
        (then, now) => then == now,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::coordinate::Coordinate;

    fn report(rtts: [u32; 2], x: f32) -> Report {
        Report {
            node: "edge-1".parse().unwrap(),
            at: Micros(1),
            stress_permille: 100,
            meetings: 3,
            capacity: 40,
            draining: false,
            api: None,
            software: "0.2.0".into(),
            rtts: vec![("a".parse().unwrap(), rtts[0]), ("b".parse().unwrap(), rtts[1])],
            extension: Some(Extension { wire: 2, coordinate: Coordinate::new([x, 0.0, 0.0], 2.0, 0.1) }),
        }
    }

    #[test]
    fn round_trips_that_tremble_are_told_as_they_were() {
        let told = report([900, 100_000], 50.0);
        let trembling = report([2_500, 112_000], 51.0);
        assert_eq!(change(&told, &trembling), Change::None);
        assert_eq!(news::sum(&steady(&told, &trembling)), news::sum(&told));
        for moved in [report([900, 130_000], 50.0), report([900, 100_000], 53.0), report([4_000, 100_000], 50.0)] {
            assert_eq!(change(&told, &moved), Change::Slight);
            assert_eq!(steady(&told, &moved), moved);
        }
    }

    #[test]
    fn what_others_act_on_is_told_at_once() {
        let told = report([900, 100_000], 50.0);
        let stressed = |stress_permille| Report { stress_permille, ..told.clone() };
        assert_eq!(change(&told, &stressed(199)), Change::Slight);
        for brisk in [stressed(200), Report { meetings: 4, ..told.clone() }, Report { draining: true, ..told.clone() }]
        {
            assert_eq!(change(&told, &brisk), Change::Brisk);
        }
    }
}
