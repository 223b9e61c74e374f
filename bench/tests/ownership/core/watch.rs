//! Who is there, as gossip would have it, and what follows from that.

use std::{net::SocketAddr, sync::Arc};

use core_node::store::record::CoreRole;
use mesh::{
    clock::Micros,
    identity::NodeId,
    node::Member,
    wire::{report::Report, request::Request},
};

use super::{hands::Job, index};
use crate::world::{Asked, CORES, NODES, SECOND, World};

/// A node is held to be down after so long.
const ABSENT: u64 = 5 * SECOND;
/// A link on which nothing has come for so long is closed.
const IDLE: u64 = 10 * SECOND;
/// Nodes report on themselves every so many seconds; what was silent may be asked again then.
const REPORTS: u64 = 5;

impl World {
    /// Once a second: who is there.
    pub(crate) fn core_tick(&mut self, c: usize) {
        self.cores[c].ticks += 1;
        for n in 0..NODES {
            if n != c && self.reach(c, n) {
                self.cores[c].seen[n] = self.now;
            }
        }
        for d in (0..CORES).filter(|d| *d != c) {
            let gone = self.now - self.cores[c].seen[d].min(self.now) >= ABSENT && self.cores[c].ticks > 5;
            self.cores[c].absent[d] = if gone { self.cores[c].absent[d].or(Some(self.now)) } else { None };
        }
        self.look_at_members(c);
        let (now, seen) = (self.clock(c), self.cores[c].absent);
        if let Some(live) = &mut self.cores[c].live {
            let other = live.rep.other().cloned();
            if other.is_some_and(|o| seen[index(&o)].is_some()) {
                live.rep.handle_unfit(now);
            }
        }
        let idle: Vec<usize> =
            self.cores[c].links.iter().filter(|(_, l)| self.now - l.heard > IDLE).map(|(s, _)| *s).collect();
        for s in idle {
            self.close(c, s);
        }
        self.watch(c);
        if self.plan.authority {
            self.look_at_claims(c);
        }
        self.core_pump(c);
    }

    /// The edges that gossip knows of: those that were there within a while.
    fn look_at_members(&mut self, c: usize) {
        let core = &self.cores[c];
        let here = |e: &usize| core.seen[*e] > 0 && self.now - core.seen[*e] < ABSENT;
        let here: Vec<usize> = (CORES..NODES).filter(here).collect();
        let members: Vec<Member> = here.iter().map(|e| self.member(*e)).collect();
        let reports = core.ticks.is_multiple_of(REPORTS);
        let heard: Vec<NodeId> = here.iter().filter(|e| reports && self.reach(c, **e)).map(|e| self.name(*e)).collect();
        let changed = members != *core.members;
        let core = &mut self.cores[c];
        if changed {
            core.members = Arc::new(members);
        }
        if let Some(live) = &mut core.live {
            heard.iter().for_each(|edge| live.driver.search.note_heard(edge));
            if changed {
                live.driver.members_changed();
            }
        }
    }

    fn member(&self, n: usize) -> Member {
        let addr = SocketAddr::from(([127, 0, 0, 1], n as u16));
        let report = Report {
            node: self.name(n),
            at: Micros(0),
            stress_permille: 0,
            meetings: 0,
            capacity: 10,
            draining: self.draining[n],
            api: None,
            software: String::new(),
            rtts: vec![],
            extension: None,
        };
        Member { identity: self.identity(n).clone(), addr, report: Some(Arc::new(report)), heard: None }
    }

    fn watch(&mut self, c: usize) {
        let meeting = self.meeting;
        let alone = self.cores[c].live.as_ref().is_some_and(|l| l.rep.term().is_isolated());
        if alone && self.cores[c].ticks.is_multiple_of(5) {
            for d in (0..CORES).filter(|d| *d != c) {
                self.ask(c, d, Request::Serving { meeting }, Asked::Reunite);
            }
        }
        let core = &self.cores[c];
        let under_way = core.disk.record.as_ref().filter(|r| !r.status.ended());
        let Some(known) = under_way.map(|r| r.serving.clone()) else { return };
        let Some(by) = known.by.as_ref().map(index).filter(|_| known.role == CoreRole::Standby) else { return };
        let long = self.isolated_after.as_micros() as u64;
        let orphan = core.absent[by].is_some_and(|since| self.now >= since + long);
        if orphan && core.live.is_none() && core.adopting.is_none() {
            self.cores[c].adopting = Some((CORES as u32 - 1, false));
            for d in (0..CORES).filter(|d| *d != c) {
                self.ask(c, d, Request::Serving { meeting }, Asked::Adopt);
            }
        }
    }

    pub(super) fn adopt(&mut self, c: usize) {
        let Some((0, found)) = self.cores[c].adopting else { return };
        self.cores[c].adopting = None;
        let Some(record) = self.cores[c].disk.record.clone() else { return };
        if record.serving.role == CoreRole::Standby && !found {
            self.job(c, Job::Adopt(record.serving));
        }
    }
}
