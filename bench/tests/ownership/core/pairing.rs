//! Ships a meeting to its standby: as `core_node::meetings::replication`.

use std::time::Instant;

use core_node::{
    replicate::{
        entry::{DoneSpurt, Entry},
        sender::{Event as Ship, Settled},
    },
    store::record::MeetingRecord,
};
use mesh::{
    identity::NodeId,
    mandate::Proof,
    wire::{
        control::ToEdge,
        request::{Replica, Request},
    },
};

use super::{Live, Then, hands::Job, words::done};
use crate::{
    authority::Ask,
    edge::ALIAS,
    world::{Asked, CORES, SECOND, World},
};

impl Live {
    /// As in `Replication::push`; the number of the change.
    pub(super) fn push_record(&mut self, record: &MeetingRecord, now: Instant) -> u64 {
        match self.rep.wants_entries() {
            true => self.rep.push(&Entry::Record(Box::new(record.clone())), now),
            false => self.rep.written(),
        }
    }

    /// As in `Meeting::settle_witnesses`.
    pub(super) fn settle_witnesses(&mut self) {
        let rep = &self.rep;
        if self.machine.captures.handle_settled(|number| rep.settled(number) == Settled::Yes) {
            self.tally();
        }
    }
}

impl World {
    /// As in `Pairing::ship`.
    pub(super) fn ship(&mut self, c: usize) {
        if let Some(live) = &mut self.cores[c].live {
            live.settle_witnesses();
        }
        self.choose(c);
        while let Some(live) = self.cores[c].live.as_mut().filter(|l| !l.shipping || l.rep.is_superseded())
            && let Some(event) = live.rep.poll_event()
        {
            match event {
                Ship::Load => {
                    live.shipping = true;
                    self.write(c, vec![], Then::Load);
                }
                Ship::Persist(number, None) if self.plan.authority => {
                    live.shipping = true;
                    if self.plan.broken.unbound {
                        live.rep.handle_persisted(number);
                    }
                    let live = live.no;
                    self.ask_authority(c, Ask::Standby { live, number, standby: None });
                }
                Ship::Persist(number, standby) => {
                    let claim = standby.clone().filter(|_| self.plan.authority).map(|standby| (live.no, standby));
                    live.shipping = true;
                    if self.plan.broken.persistence {
                        live.rep.handle_persisted(number);
                    }
                    let then = claim.map_or(Then::Persisted(number), |(no, standby)| Then::Claim(no, number, standby));
                    self.update(c, |record| record.serving.standby = standby, |_| then);
                }
                Ship::Announce(number, core) => {
                    let attached = live.machine.captures.witnesses();
                    if attached.is_empty() {
                        live.tally();
                    } else if core.is_some() {
                        live.rep.handle_told();
                    }
                    for (_, s) in attached {
                        self.tell_edge(s, ToEdge::Standby { alias: ALIAS, core: core.clone(), number });
                    }
                }
                Ship::Avoid(core, _) => {
                    let (at, other) = (self.now + 5 * SECOND, self.index(&core));
                    if let Some(live) = &mut self.cores[c].live {
                        live.avoided[other] = at;
                        if self.plan.broken.confirmation {
                            live.rep.handle_no_witness();
                        }
                    }
                }
                Ship::Begin(term) => {
                    live.shipping = true;
                    self.oracle.isolated = true;
                    self.job(c, Job::Begin(term));
                }
                Ship::Superseded(core, term) => {
                    let core = self.index(&core);
                    self.job(c, Job::StepDown { core, term });
                }
            }
            self.choose(c);
        }
        self.send_replica(c);
    }

    fn choose(&mut self, c: usize) {
        if !self.cores[c].live.as_ref().is_some_and(|l| l.rep.wants_standby() && !l.rest.status.ended()) {
            return;
        }
        let first = self.rng.range(0, CORES as u64) as usize;
        let fit = |w: &Self, d: usize| {
            let avoided = w.cores[c].live.as_ref().is_some_and(|l| l.avoided[d] > w.now);
            d != c && !avoided && w.cores[c].absent[d].is_none()
        };
        let Some(d) = (0..CORES).map(|n| (first + n) % CORES).find(|d| fit(self, *d)) else { return };
        let (now, core) = (self.clock(c), self.name(d));
        if let Some(live) = &mut self.cores[c].live {
            live.rep.handle_chosen(core, now);
        }
    }

    fn send_replica(&mut self, c: usize) {
        let (now, meeting) = (self.clock(c), self.meeting);
        let Some(live) = self.cores[c].live.as_mut().filter(|l| !l.in_flight) else { return };
        if let Some(send) = live.rep.poll_send(now) {
            live.in_flight = true;
            let term = live.rep.term();
            let replica = Replica {
                meeting,
                term,
                stream: send.stream,
                first: send.first,
                entries: send.pieces,
                resumed: None,
                proof: Proof::default(),
            };
            let to = self.index(&send.core);
            self.ask(c, to, Request::Replicate(replica), Asked::Replicate);
        }
    }

    pub(super) fn load(&mut self, c: usize) {
        let now = self.clock(c);
        let core = &mut self.cores[c];
        let Some(live) = &mut core.live else { return };
        let Some(record) = core.disk.record.clone() else { return };
        live.shipping = false;
        let spurts: Vec<DoneSpurt> = core.disk.done.iter().map(|(key, words)| done(key, *words)).collect();
        let mut entries: Vec<Entry> =
            spurts.chunks(64).map(|c| Entry::Finish { spurts: c.to_vec(), segment: None, cover: None }).collect();
        entries.push(Entry::Record(Box::new(record)));
        live.rep.handle_snapshot(Some(entries), now);
    }

    /// The authority knows of the standby, or that there is none.
    pub(crate) fn standby_claimed(&mut self, c: usize, number: u64, standby: Option<NodeId>) {
        if standby.is_some() {
            return self.then(c, Then::Persisted(number));
        }
        self.update(c, |record| record.serving.standby = None, |_| Then::Persisted(number));
    }
}
