//! What this node says of itself: when, and how much of it.

use std::time::{Duration, Instant};

use super::{
    Membership,
    chain::Chain,
    items::{self, Note, Signed},
    reports::{self, Heard, STEP, Telling},
    upkeep::{due, sooner},
};
use crate::{
    clock::Micros,
    wire::report::{Extension, Report},
};

/// A round trip or a coordinate that moved by less is told as it was: they move all the time.
const MOVED: Duration = Duration::from_millis(2);
/// For long ways it is this share, in per cent.
const MOVED_SHARE: u32 = 15;
/// Stress that changed by less is told with the next refresh, in thousandths: each telling is signed.
const SLIGHT_STRESS: u16 = 50;
/// The first link of a chain is shown this long after signing, or later.
const SOON: Duration = Duration::from_millis(500);
/// Stress that changed by this much is told at once, in thousandths.
const BRISK_STRESS: u16 = 100;

/// The own report as it was published last, and as it was told last.
#[derive(Debug)]
pub(super) struct Own {
    latest: Report,
    published: Instant,
    told: Option<Told>,
    /// What is signed next is to be of this time at least.
    after: Micros,
    /// What was told last is to be told once more, for those who missed it.
    again: bool,
}

#[derive(Debug)]
struct Told {
    report: Report,
    sum: u16,
    at: Instant,
    /// What was signed last stands by the links of this chain.
    chain: Chain,
    /// When that was.
    signed: Instant,
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

    /// Tells what has changed, signed, or that nothing has.
    pub(super) fn send_report(&mut self, now: Instant) {
        self.deadlines.report = Some(now + self.settings.report_period);
        let Some(own) = &mut self.own else { return };
        let again = std::mem::take(&mut own.again);
        let (telling, changed) = own.telling(now);
        if let (Telling::Mark, Some(told)) = (telling, &mut own.told) {
            told.at = now;
            let node = told.report.node.clone();
            self.stand(now);
            self.updates.hear(node, Telling::Mark, again, None);
        } else if !self.sign_report(telling, changed || again, now) {
            return too_long();
        }
        if let Some(own) = &mut self.own {
            own.again = changed;
        }
        if changed {
            self.deadlines.report = Some(now + self.settings.report_gap);
        }
        if changed || again {
            self.deadlines.tell = Some(now);
        }
    }

    /// Shows the next link of the chain: what was told last still stands.
    fn stand(&mut self, now: Instant) {
        let Some(told) = self.own.as_ref().and_then(|own| own.told.as_ref()) else { return };
        let steps = told.steps(now);
        let (Some(link), Some(at)) = (told.chain.link(steps), self.reports.signed_at(&told.report.node)) else {
            return;
        };
        let mark = items::Mark { key: items::Key::of(&told.report.node), at: at as u32, steps, link };
        let stood = self.reports.hear_mark(&told.report.node, &mark);
        debug_assert!(matches!(stood, Heard::News { .. } | Heard::Known), "{stood:?}: our own chain");
    }

    /// Signs what is to be told; `false` if that is impossible.
    fn sign_report(&mut self, telling: Telling, brisk: bool, now: Instant) -> bool {
        let (life, Some(own)) = (self.foca.identity().life, &mut self.own) else { return true };
        let report = own.next(now);
        let chain = Chain::new(&mut self.rng);
        let Some(anchor) = chain.link(0) else { return false };
        let report = if telling == Telling::Full {
            let Some(signed) = Signed::sign(&*self.keys, life, &report, anchor) else { return false };
            // As others will read it, or the sums differ.
            let report = signed.report.clone();
            self.reports.keep(signed);
            report
        } else {
            let Some(note) = Note::sign(&*self.keys, life, &report, items::sum(&report), anchor) else { return false };
            self.reports.keep_note(&report.node, note, report.at.as_millis());
            report
        };
        self.updates.hear(report.node.clone(), telling, brisk, None);
        own.told = Some(Told { sum: items::sum(&report), report, at: now, chain, signed: now });
        true
    }

    /// Has the own report signed anew, soon: the key or the life has changed.
    pub(super) fn sign_anew(&mut self, now: Instant) {
        let Some(own) = &mut self.own else { return };
        if let Some(told) = own.told.take() {
            own.after = told.report.at.plus(Duration::from_millis(1));
        }
        self.deadlines.report = Some(now);
    }
}

impl Own {
    /// How much is to be told, and whether it is something that others act on.
    fn telling(&self, now: Instant) -> (Telling, bool) {
        let Some(told) = &self.told else { return (Telling::Full, true) };
        let report = self.next(now);
        if reports::encode(&report).and_then(|bytes| reports::decode(&bytes).ok()).map(|r| items::sum(&r))
            != Some(told.sum)
        {
            return (Telling::Full, true);
        }
        let change = change(&told.report, &report);
        let same = change == Change::None && told.report.stress_permille == report.stress_permille;
        let stands = told.steps(now) <= Chain::LENGTH;
        (if same && stands { Telling::Mark } else { Telling::Note }, change == Change::Brisk)
    }

    /// What is to be said now: as much later than what was published as it is said later.
    fn next(&self, now: Instant) -> Report {
        let mut report =
            self.told.as_ref().map_or_else(|| self.latest.clone(), |told| steady(&told.report, &self.latest));
        let at = self.latest.at.plus(now.saturating_duration_since(self.published)).max(self.after);
        let last = self.told.as_ref().map(|told| told.report.at);
        report.at = whole_millis(last.map_or(at, |last| at.max(last.plus(Duration::from_millis(1)))));
        report
    }
}

impl Told {
    /// Which link is to be shown: the first soon after signing, then one for each period that it has stood.
    ///
    /// Whoever missed what was signed learns from the first link that it lacks something, and asks.
    fn steps(&self, now: Instant) -> u16 {
        let stood = now.saturating_duration_since(self.signed);
        let periods = (stood.as_millis() / STEP.as_millis()).try_into().unwrap_or(u16::MAX);
        if stood < SOON { 0 } else { u16::saturating_add(periods, 1) }
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
    } else if stress >= SLIGHT_STRESS || !hardly_moved(told, latest) {
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
        assert_eq!(items::sum(&steady(&told, &trembling)), items::sum(&told));
        for moved in [report([900, 130_000], 50.0), report([900, 100_000], 53.0), report([4_000, 100_000], 50.0)] {
            assert_eq!(change(&told, &moved), Change::Slight);
            assert_eq!(steady(&told, &moved), moved);
        }
    }

    #[test]
    fn what_others_act_on_is_told_at_once() {
        let told = report([900, 100_000], 50.0);
        let stressed = |stress_permille| Report { stress_permille, ..told.clone() };
        assert_eq!(change(&told, &stressed(149)), Change::None);
        assert_eq!(change(&told, &stressed(199)), Change::Slight);
        for brisk in [stressed(200), Report { meetings: 4, ..told.clone() }, Report { draining: true, ..told.clone() }]
        {
            assert_eq!(change(&told, &brisk), Change::Brisk);
        }
    }
}
