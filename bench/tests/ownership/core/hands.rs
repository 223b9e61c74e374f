//! Who serves the meeting changes: one change after the other, each on disk before the next.

use core_node::{
    meeting::role::{self, NotHere},
    replicate::{entry::Entry, receiver::StreamId, sender::Settled, snapshot},
    store::{
        Op,
        record::{CoreRole, MeetingRecord, Serving},
    },
};
use mesh::{
    identity::NodeId,
    mandate::Proof,
    wire::{
        Epoch, Term,
        control::RefusedReason,
        request::{Replica, Request, Response},
    },
};

use super::{Then, Write};
use crate::{
    authority::Ask,
    world::{Asked, World},
};

pub(super) enum Job {
    Serve { stream: usize, epoch: Epoch, term: Term },
    Replica { from: usize, request: u64, replica: Replica },
    StepDown { core: usize, term: Term },
    Begin(Term),
    Adopt(Serving),
    TakeUp(Term),
}

impl World {
    pub(super) fn job(&mut self, c: usize, job: Job) {
        self.cores[c].jobs.push_back(job);
        self.work(c);
    }

    pub(crate) fn work(&mut self, c: usize) {
        while !self.cores[c].hands
            && let Some(job) = self.cores[c].jobs.pop_front()
        {
            match job {
                Job::Serve { stream, epoch, term } => self.serve_job(c, stream, epoch, term),
                Job::Replica { from, request, replica } => self.replica_job(c, from, request, replica),
                Job::StepDown { core, term } => self.step_down_job(c, core, term),
                Job::Begin(term) => self.begin_job(c, term),
                Job::Adopt(known) => self.adopt_job(c, known),
                Job::TakeUp(term) => {
                    let known = self.cores[c].disk.record.as_ref().map(|r| r.serving.clone());
                    let known = known.filter(|k| k.role != CoreRole::Serving && self.cores[c].live.is_none());
                    if let Some(known) = known {
                        self.claim(c, known, term, None);
                    }
                }
            }
        }
    }

    fn serve_job(&mut self, c: usize, s: usize, epoch: Epoch, term: Term) {
        if self.cores[c].live.is_some() {
            let opened = self.open_live(c, s, epoch, term);
            self.cores[c].blocked.remove(&s);
            return self.opened(c, s, epoch, opened, true);
        }
        let edge = self.identity(self.streams[s].edge).clone();
        let (me, record) = (self.name(c), self.cores[c].disk.record.clone());
        let called = match &record {
            None => Err(RefusedReason::UnknownMeeting.into()),
            Some(r) if self.plan.broken.fence && r.serving.role == CoreRole::Standby && term > r.serving.term => Ok(()),
            Some(record) => role::called(record, &me, &edge, epoch, term),
        };
        match (called, record) {
            (Ok(()), Some(record)) if self.plan.authority => self.claim(c, record.serving, term, Some((s, epoch))),
            (Ok(()), Some(record)) => self.take_over(c, record, term, Some((s, epoch))),
            (refused, _) => {
                self.cores[c].blocked.remove(&s);
                self.opened(c, s, epoch, refused, true);
            }
        }
    }

    pub(crate) fn refuse_call(&mut self, c: usize, s: usize, epoch: Epoch, why: NotHere) {
        self.cores[c].blocked.remove(&s);
        self.opened(c, s, epoch, Err(why), true);
    }

    /// It had claimed the meeting in `term`.
    pub(crate) fn take_up_claim(&mut self, c: usize, term: Term) {
        let Some(known) = self.cores[c].disk.record.as_ref().map(|r| r.serving.clone()) else { return };
        if known.role != CoreRole::Serving && self.cores[c].live.is_none() && term > known.term {
            self.job(c, Job::TakeUp(term));
        }
    }

    pub(crate) fn take_over(&mut self, c: usize, mut record: MeetingRecord, term: Term, call: Option<(usize, Epoch)>) {
        let former = record.serving.by.as_ref().map(|by| self.index(by));
        record.serving = Serving::here(term);
        self.cores[c].hands = true;
        self.write(c, vec![Write::Record(Box::new(record))], Then::TookOver { term, former, call });
    }

    /// As in `Meetings::handle_replica`.
    pub(super) fn replica(&mut self, c: usize, from: usize, request: u64, replica: Replica) {
        let (name, me) = (self.name(from), self.name(c));
        if let Some(live) = &mut self.cores[c].live {
            if !live.rep.handle_other(&name, replica.term) {
                let response = serving(me, live.rep.term());
                return self.respond(request, c, from, response);
            }
            self.job(c, Job::StepDown { core: from, term: replica.term });
        }
        self.job(c, Job::Replica { from, request, replica });
    }

    fn replica_job(&mut self, c: usize, from: usize, request: u64, replica: Replica) {
        let (me, name) = (self.name(c), self.name(from));
        let (term, stream, id) = (replica.term, replica.stream, replica.meeting);
        let broken = self.plan.broken.streams;
        let core = &mut self.cores[c];
        let known = core.disk.record.as_ref().map(|r| r.serving.clone());
        let seen = if broken { u64::MAX } else { stream };
        if let Some((core, term)) = known.and_then(|k| role::outranked(&k, &me, &name, term, seen)) {
            return self.respond(request, c, from, serving(core, term));
        }
        let newest = StreamId { term, by: name.clone(), number: stream };
        let entries = match core.receiver.handle(id, &newest, replica.first, &replica.entries) {
            Ok(entries) => entries,
            Err(error) => {
                return self.respond(request, c, from, Response::Refused { reason: error.to_string() });
            }
        };
        let mut writes = vec![];
        for entry in entries {
            let op = match entry {
                Entry::Dropped => core.disk.record.clone().map(|mut record| {
                    let standby = core.unsettled.then(|| me.clone());
                    record.serving = Serving { standby, ..Serving::moved(name.clone(), term, stream) };
                    Op::Meeting(Box::new(record))
                }),
                entry => snapshot::op(id, entry, &name, term, stream),
            };
            match op {
                Some(Op::Meeting(record)) => writes.push(Write::Record(record)),
                Some(Op::Taken { spurts, .. }) => {
                    writes.extend(spurts.into_iter().map(|(key, row)| Write::Done(key, row.captured.0)));
                }
                _ => {}
            }
        }
        core.hands = true;
        for write in &writes {
            if let Write::Record(record) = write {
                let told = format!("core {c} of core {from}: {:?}", record.serving);
                self.tell(|_| told);
            }
        }
        self.write(c, writes, Then::Kept { to: from, request });
    }

    fn step_down_job(&mut self, c: usize, core: usize, term: Term) {
        let name = self.name(core);
        let Some(live) = &mut self.cores[c].live else { return };
        live.rep.handle_other(&name, term);
        live.driver.stop();
        live.rest.serving = Serving::moved(name, term, 0);
        let record = Box::new(live.record());
        self.cores[c].hands = true;
        self.write(c, vec![Write::Record(record)], Then::SteppedDown { core, term });
    }

    fn begin_job(&mut self, c: usize, term: Term) {
        if !self.plan.authority {
            return self.begin_claimed(c, term);
        }
        let (now, far) = (self.clock(c), self.far[c]);
        let Some(live) = self.cores[c].live.as_mut().filter(|l| l.rep.settled(0) != Settled::Never) else { return };
        if far {
            live.rep.handle_not_begun(term, now);
            live.shipping = false;
        } else {
            let live = live.no;
            self.ask_authority(c, Ask::Begin { live, term });
        }
    }

    pub(crate) fn begin_claimed(&mut self, c: usize, term: Term) {
        let Some(live) = self.cores[c].live.as_mut().filter(|l| l.rep.settled(0) != Settled::Never) else { return };
        live.rest.serving = Serving::here(term);
        let record = Box::new(live.record());
        self.cores[c].hands = true;
        self.write(c, vec![Write::Record(record)], Then::Alone(term));
    }

    fn adopt_job(&mut self, c: usize, known: Serving) {
        let (me, wall) = (self.name(c), self.wall(c));
        let record = self.cores[c].disk.record.clone().filter(|r| r.serving == known);
        if let (Some(record), None) = (record, &self.cores[c].live) {
            let term = known.term.isolated(&me, wall.0);
            self.oracle.isolated = true;
            self.tell(|_| format!("core {c} takes the meeting over alone"));
            if self.plan.authority {
                self.claim(c, known, term, None);
            } else {
                self.take_over(c, record, term, None);
            }
        }
    }

    pub(crate) fn core_tell_former(&mut self, c: usize, former: usize, tries: u32) {
        let Some(live) = self.cores[c].live.as_ref().filter(|_| former != c) else { return };
        let replica = Replica {
            meeting: self.meeting,
            term: live.rep.term(),
            stream: 0,
            first: 0,
            entries: vec![],
            resumed: None,
            proof: Proof::default(),
        };
        self.ask(c, former, Request::Replicate(replica), Asked::Former { tries: tries + 1 });
    }

    /// As in `meetings::isolated`.
    pub(super) fn reunite(&mut self, c: usize, by: usize, core: NodeId, term: Term) {
        let Some(live) = &mut self.cores[c].live else { return };
        let superseded = live.rep.handle_other(&core, term);
        if !superseded && self.index(&core) == by {
            self.core_tell_former(c, by, 5);
        }
    }

    pub(super) fn is_elsewhere(&self, c: usize, core: &NodeId, term: Term) -> bool {
        let known = self.cores[c].disk.record.as_ref().map(|r| &r.serving);
        known.is_some_and(|k| k.by.as_ref() != Some(core) && term >= k.term && *core != self.name(c))
    }
}

/// The rules are tried here, and not who may speak: proofs are `mesh::mandate`'s.
pub(super) fn serving(core: NodeId, term: Term) -> Response {
    Response::Serving { core, term, proof: Proof::default() }
}
