//! The steps of a search for an edge, as in `core_node::placement`: the next is begun when the driver waits for what comes.

use std::collections::BTreeSet;

use core_node::{
    meeting::machine::{
        Order,
        seek::{Declined, Eligible, Found, Step},
    },
    replicate::sender::Settled,
};
use mesh::{
    identity::NodeId,
    mandate::EdgeKey,
    node::Member,
    trace::TraceContext,
    wire::{
        Epoch,
        request::{Assignment, Join, Request, Response, VadSettings},
    },
};

use super::{Then, driver::not_here, source};
use crate::{
    authority::Ask,
    world::{Asked, Event, MS, SECOND, World},
};

/// Edges asked to take the meeting in one search, as in the product.
const MAX_ASKED: usize = 3;

/// What is being done to find an edge: one step at a time.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// To be begun.
    step: Option<Step>,
    /// The number of the step that is under way.
    number: Option<u64>,
    /// The epoch that an edge is asked to take.
    asking: Option<Epoch>,
    /// Its rows are on disk, and the standby is to have this change.
    storing: Option<u64>,
    found: Option<Found>,
    /// Not asked before they are heard of again.
    silent: BTreeSet<NodeId>,
}

impl Search {
    pub(super) fn begin(&mut self, step: Step) {
        self.step = Some(step);
    }

    /// What is being done is not wanted any more, at whatever point it is.
    pub(super) fn drop(&mut self) {
        *self = Self { silent: std::mem::take(&mut self.silent), ..Self::default() };
    }

    pub(super) fn note_silent(&mut self, edge: NodeId) {
        self.silent.insert(edge);
    }

    /// It has said something of itself.
    pub(super) fn note_heard(&mut self, edge: &NodeId) {
        self.silent.remove(edge);
    }

    /// Whether an edge is asked under `epoch`, and its answer has not been read.
    pub(super) fn asks(&self, epoch: Epoch) -> bool {
        self.asking == Some(epoch)
    }

    pub(super) fn is_found(&self) -> bool {
        self.found.is_some()
    }

    pub(super) fn take(&mut self) -> Option<Found> {
        (self.number, self.storing, self.asking) = (None, None, None);
        self.found.take()
    }
}

impl World {
    /// The step that is due is begun.
    pub(super) fn begin_step(&mut self, c: usize) {
        self.look_at_store(c);
        let Some(live) = &mut self.cores[c].live else { return };
        let Some(step) = live.driver.search.step.take() else { return };
        self.cores[c].steps += 1;
        let number = self.cores[c].steps;
        if let Some(live) = &mut self.cores[c].live {
            live.driver.search.number = Some(number);
        }
        match step {
            Step::Rank(order) => {
                let by = self.rng.range(MS, 400 * MS);
                self.after(by, Event::Ranked(c, self.life(c), number, Box::new(order)));
            }
            Step::Reach { edge, former } => {
                let (to, meeting) = (self.index(&edge), self.meeting);
                let question = Request::Captures { meeting, key: EdgeKey::default() };
                self.ask(c, to, question, Asked::Captures { step: number, former });
            }
            Step::Begin { edge, .. } => {
                let edge = self.index(&edge);
                self.write(c, vec![], Then::Begun { step: number, edge });
            }
            Step::Claim(epoch) if self.plan.authority => {
                let Some(live) = self.cores[c].live.as_ref().map(|live| live.no) else { return };
                self.ask_authority(c, Ask::Grant { live, step: number, epoch });
            }
            Step::Claim(_) => self.find_later(c, number, MS, Found::Done(Ok(()))),
            Step::Store => self.update(c, |_| {}, |change| Then::Stored { step: number, number: change }),
            Step::Join(epoch) => self.join(c, number, epoch),
        }
    }

    fn find_later(&mut self, c: usize, step: u64, by: u64, found: Found) {
        self.after(by, Event::Found(c, self.life(c), step, Box::new(found)));
    }

    /// What a step has come to.
    pub(crate) fn core_found(&mut self, c: usize, step: u64, found: Found) {
        if let Some(live) = &mut self.cores[c].live
            && live.driver.search.number == Some(step)
        {
            live.driver.search.found = Some(found);
        }
        self.core_pump(c);
    }

    /// The edges that are there, in any order.
    pub(crate) fn core_ranked(&mut self, c: usize, step: u64, order: &Order) {
        let members = self.cores[c].members.clone();
        let Some(live) = &self.cores[c].live else { return };
        let silent = &live.driver.search.silent;
        let may = |edge: &NodeId| !order.without.contains(edge) && !silent.contains(edge);
        let mut left: Vec<Eligible> = vec![];
        for member in members.iter().filter(|member| may(&member.identity.node) && !drains(member)) {
            let at = self.rng.range(0, left.len() as u64 + 1) as usize;
            left.insert(at, Eligible { edge: member.identity.node.clone(), region: member.identity.region.clone() });
        }
        left.truncate(MAX_ASKED);
        self.core_found(c, step, Found::Ranked(Ok((left, members.len()))));
    }

    /// It is noted that the edge is asked; whether it knows leases is known if it is there.
    pub(super) fn begun(&mut self, c: usize, step: u64, edge: usize) {
        match self.reach(c, edge) && self.reach(edge, c) {
            true => self.core_found(c, step, Found::Begun(Ok(true))),
            false => self.find_later(c, step, 2 * SECOND, Found::Begun(Err(Declined::Silent))),
        }
    }

    pub(super) fn stored(&mut self, c: usize, step: u64, number: u64) {
        if let Some(live) = &mut self.cores[c].live
            && live.driver.search.number == Some(step)
        {
            live.driver.search.storing = Some(number);
        }
    }

    /// The rows are written: has the standby got them?
    fn look_at_store(&mut self, c: usize) {
        let Some(live) = &mut self.cores[c].live else { return };
        let search = &mut live.driver.search;
        let Some(number) = search.storing else { return };
        let found = match live.rep.settled(number) {
            Settled::Yes => Ok(()),
            Settled::No => return,
            Settled::Never => Err(not_here()),
        };
        (search.storing, search.found) = (None, Some(Found::Done(found)));
    }

    fn join(&mut self, c: usize, step: u64, epoch: Epoch) {
        let meeting = self.meeting;
        let Some(live) = &mut self.cores[c].live else { return };
        let Some(owner) = live.machine.captures.owner(epoch).cloned() else { return };
        live.driver.search.asking = Some(epoch);
        live.rep.handle_told();
        let (standby, term) = (live.rep.binding().cloned(), live.rep.term());
        let edge = self.index(&owner.edge);
        let holder = self.holder_before(c, epoch, owner.slot);
        self.oracle.grants(c, epoch, (edge, owner.slot), holder);
        self.tell(|_| format!("core {c} grants epoch {} to edge {edge} in slot {}", epoch.0, owner.slot));
        let trace = TraceContext::new(1);
        let core = self.name(c);
        let assignment = Assignment { meeting, epoch, core, source: source(), vad: VadSettings::default(), trace };
        let (key, regions) = Default::default();
        let join = Join { assignment, term, standby, lease_ms: 6000, key, regions };
        self.ask(c, edge, Request::Join(join), Asked::Join { step });
    }

    /// The authority has it otherwise.
    pub(crate) fn ask_lost(&mut self, c: usize, ask: &Ask) {
        match ask {
            Ask::Grant { step, .. } => self.core_found(c, *step, Found::Done(Err(not_here()))),
            Ask::Standby { .. } | Ask::Begin { .. } => {
                self.cores[c].live.iter_mut().for_each(|live| live.shipping = false);
            }
            _ => {}
        }
    }

    /// The edge has answered, or has not.
    pub(super) fn joined(&mut self, c: usize, step: u64, response: Option<Response>) {
        self.core_found(c, step, Found::Answered(response.ok_or(Declined::Silent)));
    }

    /// Whether it captures is known, or it has not said.
    pub(super) fn reached(&mut self, c: usize, step: u64, former: Option<Epoch>, response: Option<Response>) {
        let reached = match response {
            None => Err(Declined::Silent),
            Some(Response::Captures(Some(epoch))) if former == Some(epoch) => Err(Declined::Captures),
            Some(_) => Ok(()),
        };
        self.core_found(c, step, Found::Done(reached));
    }
}

fn drains(member: &Member) -> bool {
    member.report.as_ref().is_some_and(|report| report.draining)
}
