//! What nodes report while time passes.

use std::time::Duration;

use rand::RngExt;

use super::{EPOCH_MS, Happening, World, id, network};
use crate::{
    clock::Micros,
    coordinate::Coordinate,
    identity::Role,
    wire::report::{Extension, Report},
};

/// What the nodes have to tell of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Nothing: no node reports.
    None,
    /// The same every 10 s, as a program does that serves nobody.
    Idle,
    /// Every second something that may differ: stress wanders by up to 2 % of the limit, and one time in
    /// twenty a meeting begins or ends.
    Busy,
}

/// How busy a node is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    stress: u16,
    meetings: u32,
}

/// A report as node `index` of a world would give it at `now`.
pub fn report(index: usize, now: Duration) -> Report {
    let rtts = network::RTT_MS[index % network::REGIONS];
    let place = |axis: usize| rtts[axis * 3] as f32 / 2.0;
    let core = super::identity(index).role == Role::Core;
    Report {
        node: id(index),
        at: Micros(EPOCH_MS * 1000 + now.as_micros() as u64),
        stress_permille: 0,
        meetings: 0,
        capacity: 40,
        draining: false,
        api: core.then(|| format!("http://10.0.{}.{}:8080", index / 250, index % 250 + 1)),
        software: "0.2.0".into(),
        rtts: (0..network::REGIONS).map(|r| (network::region(r), rtts[r] * 1000)).collect(),
        extension: Some(Extension { wire: 2, coordinate: Coordinate::new([place(0), place(1), place(2)], 2.0, 0.1) }),
    }
}

impl World {
    /// Changes what the nodes have to tell, from now on.
    pub fn set_load(&mut self, load: Load) {
        let was = std::mem::replace(&mut self.load, load);
        if was == Load::None {
            (0..self.nodes.len()).for_each(|index| self.begin_reports(index));
        }
    }

    /// A report as it would be now, round trips and coordinate a little off as they are when measured.
    fn measured(&mut self, index: usize) -> Report {
        let State { stress, meetings } = self.nodes[index].load;
        let mut report = Report { stress_permille: stress, meetings, ..report(index, self.now) };
        for (_, micros) in &mut report.rtts {
            *micros = (f64::from(*micros) * self.rng.random_range(0.97..1.03)) as u32;
        }
        if let Some(place) = report.extension.as_mut().and_then(|e| e.coordinate.as_mut()) {
            place.position.iter_mut().for_each(|part| *part += self.rng.random_range(-0.5..0.5));
        }
        report
    }

    /// Lets node `index` report `change` at once.
    pub fn publish(&mut self, index: usize, change: impl FnOnce(&mut Report)) {
        let mut report = self.measured(index);
        change(&mut report);
        self.nodes[index].load = State { stress: report.stress_permille, meetings: report.meetings };
        self.with(index, |swim, now| swim.publish(report, now));
    }

    pub(super) fn begin_reports(&mut self, index: usize) {
        if self.load != Load::None {
            let wait = Duration::from_millis(self.rng.random_range(0..1000));
            self.push(self.now + wait, Happening::Report(index));
        }
    }

    pub(super) fn report(&mut self, index: usize) {
        let mut period = Duration::from_secs(10);
        if self.load == Load::Busy {
            period = Duration::from_secs(1);
            let (wander, chance) = (self.rng.random_range(-20..=20i16), self.rng.random_range(0..40));
            let load = &mut self.nodes[index].load;
            load.stress = load.stress.saturating_add_signed(wander).min(1000);
            load.meetings = (load.meetings + u32::from(chance == 0)).saturating_sub(u32::from(chance == 1));
        }
        if self.load == Load::None || !self.is_live(index) {
            return;
        }
        if self.nodes[index].stalled.is_none() {
            self.publish(index, |_| ());
        }
        self.push(self.now + period, Happening::Report(index));
    }
}
