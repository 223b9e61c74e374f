//! A core: the machines of `core-node`, with the shell around them as in `core_node::{edges, meetings}`, of one meeting.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use core_node::{
    key::SpurtKey,
    meeting::{
        captures::{Captures, Now},
        role::{self, NotHere},
    },
    replicate::{
        entry::{DoneSpurt, Entry},
        receiver::{Receiver, StreamId},
        sender::{self, Event as Ship, Replicator, Settled},
        snapshot,
    },
    store::{
        DoneMark, Op,
        record::{CoreRole, MeetingRecord, Owner, Serving, Spec, Status},
    },
};
use mesh::{
    clock::Micros,
    identity::NodeId,
    lease::{LEASE_MAX, lease_for},
    mandate::Proof,
    trace::TraceContext,
    wire::{
        Epoch, Term,
        control::{RefusedReason, ToCore, ToEdge},
        request::{Assignment, Join, LeaseAnswer, LeaseProof, Replica, Request, Response, Source, VadSettings},
    },
};

use crate::{
    authority::Ask,
    edge::{ALIAS, key},
    world::{Asked, CORES, Down, EDGES, Event, MS, SECOND, Up, World},
};

/// How long an edge that took the meeting has to open it; shorter than in `core_node::meeting::lifecycle`.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// A core is held to be down after so long.
const ABSENT: u64 = 5 * SECOND;
const IDLE: u64 = 10 * SECOND;

pub(crate) struct Core {
    disk: Disk,
    writes: VecDeque<(Vec<Write>, Then)>,
    links: BTreeMap<usize, Link>,
    receiver: Receiver,
    pub(crate) live: Option<Live>,
    lives: u64,
    /// The lock under which a meeting changes hands.
    pub(crate) hands: bool,
    jobs: VecDeque<Job>,
    blocked: BTreeSet<usize>,
    seen: [u64; CORES],
    absent: [Option<u64>; CORES],
    adopting: Option<(u32, bool)>,
    ticks: u64,
    /// The edge's call for which the meeting is being claimed.
    pub(crate) calling: Option<(usize, Epoch)>,
    /// It is asked what stands at the authority.
    pub(crate) looking: bool,
    /// It may have claimed the meeting, and does not know.
    pub(crate) unsettled: bool,
}

/// What survives a crash.
#[derive(Default)]
struct Disk {
    record: Option<MeetingRecord>,
    done: BTreeMap<SpurtKey, u64>,
    log: BTreeSet<SpurtKey>,
}

enum Write {
    Record(Box<MeetingRecord>),
    Done(SpurtKey, u64),
    Append(SpurtKey),
    Forget,
}

enum Then {
    Nothing,
    Persisted(u64),
    /// The authority is to hear of the standby.
    Claim(u64, u64, NodeId),
    Load,
    Granted {
        live: u64,
        number: u64,
        epoch: Epoch,
        edge: usize,
    },
    Durable {
        live: u64,
        key: SpurtKey,
    },
    Final {
        live: u64,
        key: SpurtKey,
        words: u64,
    },
    TookOver {
        term: Term,
        former: Option<usize>,
        call: Option<(usize, Epoch)>,
    },
    SteppedDown {
        core: usize,
        term: Term,
    },
    Begun(Term),
    Kept {
        to: usize,
        request: u64,
    },
}

enum Job {
    Serve { stream: usize, epoch: Epoch, term: Term },
    Replica { from: usize, request: u64, replica: Replica },
    StepDown { core: usize, term: Term },
    Begin(Term),
    Adopt(Serving),
    TakeUp(Term),
}

#[derive(Default)]
struct Link {
    opened: Option<(Epoch, bool)>,
    heard: u64,
}

#[derive(Debug)]
enum Placing {
    No,
    Claiming,
    Storing,
    Settling { number: u64, epoch: Epoch, edge: usize },
    Asking(Epoch),
    Assigned { since: Instant },
    Opened,
}

pub(crate) struct Live {
    pub(crate) no: u64,
    /// Its claim was seen to stand.
    pub(crate) known: bool,
    /// But for its owners.
    rest: MeetingRecord,
    pub(crate) rep: Replicator,
    /// Its links are streams.
    captures: Captures<usize>,
    shipping: bool,
    in_flight: bool,
    avoided: [u64; CORES],
    placing: Placing,
    retry: Instant,
    undone: BTreeSet<SpurtKey>,
    finals: VecDeque<SpurtKey>,
    finishing: bool,
    /// Words that wait for the standby before anybody hears of them.
    waiting: Vec<(u64, SpurtKey, u64)>,
}

impl Core {
    pub(crate) fn new() -> Self {
        Self {
            disk: Disk::default(),
            writes: VecDeque::new(),
            links: BTreeMap::new(),
            receiver: Receiver::default(),
            live: None,
            lives: 0,
            hands: false,
            jobs: VecDeque::new(),
            blocked: BTreeSet::new(),
            seen: [0; CORES],
            absent: [None; CORES],
            adopting: None,
            ticks: 0,
            calling: None,
            looking: false,
            unsettled: false,
        }
    }

    pub(crate) fn is_live(&self, no: u64) -> bool {
        self.live.as_ref().is_some_and(|live| live.no == no)
    }

    /// In which term it serves.
    pub(crate) fn term(&self) -> Option<Term> {
        self.live.as_ref().map(|live| live.rep.term())
    }

    /// What is on its disk of the meeting.
    pub(crate) fn held(&self) -> Option<MeetingRecord> {
        self.disk.record.clone()
    }

    /// The words that its disk has of a spurt.
    pub(crate) fn done(&self, key: &SpurtKey) -> Option<u64> {
        self.disk.done.get(key).copied()
    }

    /// How it stands, for whoever reads a story.
    pub(crate) fn state(&self) -> String {
        let live = self.live.as_ref().map(|l| {
            let (waiting, undone, finals) = (l.waiting.len(), l.undone.len(), l.finals.len());
            format!(
                "{waiting} waiting, {undone} undone, {finals} finals, shipping {}, in flight {}, {:?}, {:?}, {:?}",
                l.shipping, l.in_flight, l.placing, l.captures, l.rep
            )
        });
        format!(
            "hands {}, {} jobs, {} writes, blocked {:?}, {live:?}",
            self.hands,
            self.jobs.len(),
            self.writes.len(),
            self.blocked
        )
    }

    /// The term in which it serves, and the newest epoch granted.
    pub(crate) fn serves(&self) -> Option<(Term, Epoch)> {
        let live = self.live.as_ref().filter(|l| l.rep.settled(0) != Settled::Never)?;
        Some((live.rep.term(), live.captures.owners().epoch))
    }
}

impl Live {
    fn record(&self) -> MeetingRecord {
        MeetingRecord { owners: self.captures.owners().clone(), ..self.rest.clone() }
    }

    fn tally(&mut self) {
        self.rep.handle_tally(&self.captures.tally());
    }

    /// Whether the edge of `epoch` is the one that was asked last.
    fn is_newest(&self, epoch: Epoch) -> bool {
        self.captures.owners().epoch == epoch
    }

    /// The edge of `epoch` has left, or its lease has run out: another is sought.
    fn lose(&mut self, epoch: Epoch) {
        if self.is_newest(epoch) && matches!(self.placing, Placing::Opened | Placing::Assigned { .. }) {
            self.placing = Placing::No;
        }
    }
}

fn record(world: &World) -> MeetingRecord {
    let spec = Spec {
        source: Source::Whep { url: String::new(), token: None, participants: vec![] },
        stun: None,
        meeting_url: None,
        residency: vec![],
        prefer: vec![],
        max_rtt_ms: None,
        language: None,
        interim: false,
        noise_suppression: None,
        vad: VadSettings::default(),
        metadata: serde_json::Map::new(),
        deduplication_key: None,
        redundancy: 1,
        leave: core_node::store::record::LeaveRules::default(),
    };
    MeetingRecord { status: Status::Active, ..MeetingRecord::new(world.meeting, spec, Micros(0)) }
}

impl World {
    /// The meeting is made at core `c`.
    pub(crate) fn create(&mut self, c: usize) {
        let record = record(self);
        self.cores[c].disk.record = Some(record);
        self.claim_new(c);
        self.take_up(c);
    }

    pub(crate) fn core_begin(&mut self, c: usize) {
        if self.cores[c].disk.record.as_ref().is_some_and(|r| r.serving.role == CoreRole::Serving) {
            self.take_up(c);
        }
        // As in `Meetings::is_unsettled`.
        let me = self.name(c);
        let perhaps = self.cores[c].disk.record.as_ref().is_some_and(|r| match r.serving.role {
            CoreRole::Standby => true,
            CoreRole::Moved => r.serving.standby == Some(me),
            CoreRole::Serving => false,
        });
        self.cores[c].unsettled = self.plan.authority && perhaps;
        self.core_pump(c);
    }

    pub(crate) fn core_crash(&mut self, c: usize) {
        // What was queued may have got to the disk all the same, in order.
        let some = self.rng.range(0, self.cores[c].writes.len() as u64 + 1);
        for _ in 0..some {
            if let Some((writes, _)) = self.cores[c].writes.pop_front() {
                self.cores[c].disk.apply(writes);
            }
        }
        let core = &mut self.cores[c];
        *core = Core { disk: std::mem::take(&mut core.disk), lives: core.lives, ..Core::new() };
        let streams: Vec<usize> = (0..self.streams.len()).filter(|s| self.streams[*s].core == c).collect();
        for s in streams {
            self.streams[s].core_open = false;
        }
    }

    fn write(&mut self, c: usize, writes: Vec<Write>, then: Then) {
        let slow = self.rng.chance(20);
        let by = self.rng.range(MS, if slow { 600 * MS } else { 15 * MS });
        self.cores[c].writes.push_back((writes, then));
        let life = self.life(c);
        self.after(by, Event::Disk(c, life));
    }

    /// As in `Meetings::take_up`.
    fn take_up(&mut self, c: usize) {
        let (now, me, wall) = (self.clock(c), self.name(c), self.wall(c));
        let Some(mut rest) = self.cores[c].disk.record.clone() else { return };
        let term = rest.serving.term;
        let settings = sender::Settings { isolated_after: self.isolated_after, ..sender::Settings::default() };
        let rep = Replicator::new(settings, me, term, rest.serving.standby.clone(), wall.0, now);
        let captures = Captures::of(&mut rest, Now { at: now, wall });
        let is_owned = captures.owners().owner().is_some();
        let placing = if is_owned { Placing::Assigned { since: now } } else { Placing::No };
        let core = &mut self.cores[c];
        core.lives += 1;
        let waiting = core.disk.done.iter().map(|(key, words)| (rep.written(), key.clone(), *words)).collect();
        let undone: BTreeSet<SpurtKey> =
            core.disk.log.iter().filter(|key| !core.disk.done.contains_key(key)).cloned().collect();
        core.live = Some(Live {
            no: core.lives,
            known: false,
            rest,
            rep,
            captures,
            shipping: false,
            in_flight: false,
            avoided: [0; CORES],
            placing,
            retry: now,
            undone: undone.clone(),
            finals: VecDeque::new(),
            finishing: false,
            waiting,
        });
        self.oracle.serves(c, term);
        self.tell(|_| format!("core {c} serves in term {}", term.0));
        for key in undone {
            self.transcribe(c, key);
        }
    }

    fn transcribe(&mut self, c: usize, key: SpurtKey) {
        let by = self.rng.range(50 * MS, 500 * MS);
        let (life, live) = (self.life(c), self.cores[c].lives);
        self.after(by, Event::Transcribed(c, life, live, key));
    }

    pub(crate) fn core_transcribed(&mut self, c: usize, no: u64, key: SpurtKey) {
        if let Some(live) = self.cores[c].live.as_mut().filter(|l| l.no == no) {
            live.finals.push_back(key);
            self.core_pump(c);
        }
    }

    pub(crate) fn core_accepts(&mut self, c: usize, s: usize) {
        let heard = self.now;
        self.cores[c].links.insert(s, Link { opened: None, heard });
    }

    pub(crate) fn core_waits(&self, c: usize, s: usize) -> bool {
        self.cores[c].blocked.contains(&s)
    }

    fn close(&mut self, c: usize, s: usize) {
        self.send_down(s, Down::Closed);
        self.streams[s].core_open = false;
        self.cores[c].links.remove(&s);
    }

    fn tell_edge(&mut self, s: usize, message: ToEdge) {
        self.send_down(s, Down::Message(message));
    }

    /// As in `edges`.
    pub(crate) fn core_hears(&mut self, c: usize, s: usize, what: Up) {
        let (edge, heard) = (self.streams[s].edge, self.now);
        let Some(link) = self.cores[c].links.get_mut(&s) else { return };
        link.heard = heard;
        let opened = link.opened;
        match what {
            Up::Closed => self.close(c, s),
            Up::Frame(n, captured) => self.frame(c, s, n, captured),
            Up::Message(ToCore::Serve { epoch, term, .. }) => self.serve(c, s, epoch, term),
            Up::Message(ToCore::Late { epoch, .. }) => self.late(c, s, epoch),
            Up::Message(ToCore::Beat { seq }) => self.beat(c, s, seq),
            Up::Message(ToCore::Standby { core, number, .. }) => {
                if let (Some((epoch, _)), Some(live)) = (opened, &mut self.cores[c].live) {
                    let told = format!("core {c} hears of epoch {}: standby {core:?}, {number}", epoch.0);
                    live.captures.handle_answer(epoch, number, core);
                    live.tally();
                    self.tell(|_| told);
                }
            }
            Up::Message(ToCore::Close { .. }) => {
                let name = self.name(edge);
                if let (Some((epoch, _)), Some(live)) = (opened, &mut self.cores[c].live) {
                    live.captures.handle_left(&name, epoch);
                    live.lose(epoch);
                }
                if let Some(link) = self.cores[c].links.get_mut(&s) {
                    link.opened = opened.map(|(epoch, _)| (epoch, false));
                }
            }
            Up::Message(_) => {}
        }
        self.core_pump(c);
    }

    fn beat(&mut self, c: usize, s: usize, seq: u64) {
        let (edge, now) = (self.streams[s].edge, self.both_clocks(c));
        let (name, lease) = (self.name(edge), lease_for(self.rtt(c, edge)));
        let counted = if self.plan.broken.margin { lease * 8 / 9 } else { lease };
        if let Some(link) = self.cores[c].links.get(&s)
            && let Some((epoch, true)) = link.opened
        {
            let live = self.cores[c].live.as_mut();
            let lost = live.is_none_or(|live| !live.captures.handle_beat(&name, epoch, counted, now).kept);
            if lost {
                if let Some(link) = self.cores[c].links.get_mut(&s) {
                    link.opened = Some((epoch, false));
                }
                self.tell_edge(s, ToEdge::Refused { alias: ALIAS, reason: RefusedReason::StaleEpoch });
            }
        }
        self.tell_edge(s, ToEdge::Beat { seq, lease_ms: lease.as_millis() as u32 });
    }

    fn frame(&mut self, c: usize, s: usize, n: u32, captured: Micros) {
        let edge = self.streams[s].edge;
        let done =
            ToEdge::Done { alias: ALIAS, participant: mesh::wire::ParticipantAlias(0), spurt: mesh::wire::SpurtNo(n) };
        let Some((epoch, _)) = self.cores[c].links.get(&s).and_then(|l| l.opened) else { return };
        let core = &mut self.cores[c];
        let Some(live) = &mut core.live else { return };
        let key = key(epoch, n);
        let in_time = live.captures.owner(epoch).is_some() && live.captures.takes(epoch, captured);
        let out = core.disk.done.contains_key(&key) && !live.waiting.iter().any(|(_, k, _)| *k == key);
        if out || !in_time {
            // Nothing more will come of it.
            return self.tell_edge(s, done);
        }
        self.oracle.accepts(c, epoch, edge);
        let live = live.no;
        self.write(c, vec![Write::Append(key.clone())], Then::Durable { live, key });
    }

    /// As in `Meetings::serve`.
    fn serve(&mut self, c: usize, s: usize, epoch: Epoch, term: Term) {
        if self.cores[c].live.is_some() {
            let opened = self.open_live(c, s, epoch, term);
            self.opened(c, s, epoch, opened, true);
        } else {
            self.cores[c].blocked.insert(s);
            self.job(c, Job::Serve { stream: s, epoch, term });
        }
    }

    fn open_live(&mut self, c: usize, s: usize, epoch: Epoch, term: Term) -> Result<(), NotHere> {
        let (me, edge) = (self.name(c), self.identity(self.streams[s].edge).clone());
        let Some(live) = &self.cores[c].live else { return Err(RefusedReason::Ended.into()) };
        if !self.plan.broken.fence {
            role::owns(&live.record(), &edge, epoch)?;
        }
        role::opened(&me, live.rep.term(), term)
    }

    fn late(&mut self, c: usize, s: usize, epoch: Epoch) {
        let edge = self.name(self.streams[s].edge);
        let core = &self.cores[c];
        let opened = match &core.live {
            Some(live) if live.captures.owner(epoch).is_some_and(|o| o.edge == edge) => Ok(()),
            Some(_) => Err(RefusedReason::NotAllowed.into()),
            None => Err(match core.disk.record.as_ref().map(|r| r.serving.clone()) {
                Some(Serving { by: Some(by), term, .. }) => NotHere::Moved(by, term),
                Some(_) => RefusedReason::Ended.into(),
                None => RefusedReason::UnknownMeeting.into(),
            }),
        };
        self.opened(c, s, epoch, opened, false);
    }

    fn opened(&mut self, c: usize, s: usize, epoch: Epoch, opened: Result<(), NotHere>, leased: bool) {
        let (edge, now) = (self.name(self.streams[s].edge), self.both_clocks(c));
        let lease = lease_for(self.rtt(c, self.streams[s].edge));
        match opened {
            Ok(()) => {
                if let Some(link) = self.cores[c].links.get_mut(&s) {
                    link.opened = Some((epoch, leased));
                }
                let Some(live) = &mut self.cores[c].live else { return };
                // Streams are numbered as they are accepted.
                if live.captures.handle_opened(epoch, s as u64, s) {
                    live.rep.handle_attached();
                }
                if leased {
                    live.captures.handle_beat(&edge, epoch, lease, now);
                }
                if live.is_newest(epoch)
                    && leased
                    && matches!(live.placing, Placing::Assigned { .. } | Placing::Asking(_))
                {
                    live.placing = Placing::Opened;
                }
                if !leased {
                    live.captures.handle_left(&edge, epoch);
                    live.lose(epoch);
                }
            }
            Err(NotHere::Refused(reason)) => self.tell_edge(s, ToEdge::Refused { alias: ALIAS, reason }),
            Err(NotHere::Moved(core, term)) => self.tell_edge(s, ToEdge::Moved { alias: ALIAS, core, term }),
        }
    }

    // The lock, and what is done under it.

    fn job(&mut self, c: usize, job: Job) {
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
    fn replica(&mut self, c: usize, from: usize, request: u64, replica: Replica) {
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
        self.write(c, vec![Write::Record(record)], Then::Begun(term));
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

    /// The next write has got to the disk.
    pub(crate) fn core_disk(&mut self, c: usize) {
        let Some((writes, then)) = self.cores[c].writes.pop_front() else { return };
        self.cores[c].disk.apply(writes);
        self.then(c, then);
        self.work(c);
        self.core_pump(c);
    }

    fn then(&mut self, c: usize, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Persisted(number) => {
                if let Some(live) = &mut self.cores[c].live {
                    live.shipping = false;
                    live.rep.handle_persisted(number);
                }
            }
            Then::Claim(live, number, standby) => {
                self.ask_authority(c, Ask::Standby { live, number, standby: Some(standby) });
            }
            Then::Load => self.load(c),
            Then::Granted { live: no, number, epoch, edge } => {
                if let Some(live) = self.cores[c].live.as_mut().filter(|l| l.no == no) {
                    live.placing = Placing::Settling { number, epoch, edge };
                }
            }
            Then::Durable { live: no, key } => self.durable(c, no, key),
            Then::Final { live: no, key, words } => self.finished(c, no, key, words),
            Then::TookOver { term, former, call } => {
                self.cores[c].hands = false;
                self.cores[c].receiver = Receiver::default();
                self.take_up(c);
                if let Some(former) = former {
                    self.core_tell_former(c, former, 0);
                }
                if let Some((s, epoch)) = call {
                    self.cores[c].blocked.remove(&s);
                    let opened = self.open_live(c, s, epoch, term);
                    self.opened(c, s, epoch, opened, true);
                }
            }
            Then::SteppedDown { core, term } => {
                self.cores[c].hands = false;
                self.tell(|_| format!("core {c} steps down for core {core}"));
                let Some(live) = self.cores[c].live.take() else { return };
                self.write(c, vec![Write::Forget], Then::Nothing);
                let core = self.name(core);
                for (_, s) in live.captures.links() {
                    self.tell_edge(s, ToEdge::Moved { alias: ALIAS, core: core.clone(), term });
                }
            }
            Then::Begun(term) => self.begun(c, term),
            Then::Kept { to, request } => {
                self.cores[c].hands = false;
                let next = self.cores[c].receiver.next();
                self.respond(request, c, to, Response::Replicated { next });
            }
        }
    }

    fn begun(&mut self, c: usize, term: Term) {
        self.cores[c].hands = false;
        let me = self.name(c);
        let Some(live) = &mut self.cores[c].live else { return };
        live.shipping = false;
        live.captures.handle_term(term);
        live.rep.handle_begun(term);
        let links = live.captures.links();
        self.oracle.serves(c, term);
        self.tell(|_| format!("core {c} goes on alone in term {}", term.0));
        for (_, s) in links {
            self.tell_edge(s, ToEdge::Moved { alias: ALIAS, core: me.clone(), term });
        }
    }

    fn load(&mut self, c: usize) {
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

    fn durable(&mut self, c: usize, no: u64, key: SpurtKey) {
        let core = &mut self.cores[c];
        let Some(live) = core.live.as_mut().filter(|l| l.no == no) else { return };
        if !core.disk.done.contains_key(&key) && live.undone.insert(key.clone()) {
            self.transcribe(c, key);
        }
    }

    /// Words are on disk here: as in `Publisher::finish`.
    fn finished(&mut self, c: usize, no: u64, key: SpurtKey, words: u64) {
        let now = self.clock(c);
        let Some(live) = self.cores[c].live.as_mut().filter(|l| l.no == no) else { return };
        let mut number = live.rep.written();
        if live.rep.wants_entries() {
            number = live.rep.push(&Entry::Finish { spurts: vec![done(&key, words)], segment: None, cover: None }, now);
        }
        live.waiting.push((number, key, words));
    }

    // What goes on by itself.

    pub(crate) fn core_pump(&mut self, c: usize) {
        self.expire(c);
        self.ship(c);
        self.publish(c);
        self.finish(c);
        self.place(c);
        let now = self.clock(c);
        let Some(live) = &self.cores[c].live else { return };
        let open = match live.placing {
            Placing::Assigned { since, .. } => Some(since + OPEN_WAIT),
            Placing::No => Some(live.retry.max(now + Duration::from_millis(50))),
            _ => None,
        };
        // Nothing more is sent before the last request is answered.
        let busy = now + Duration::from_millis(if live.in_flight { 50 } else { 0 });
        let rep = live.rep.poll_timeout().map(|at| at.max(busy));
        let next = [rep, live.captures.poll_timeout(), open].into_iter().flatten().min();
        if let Some(next) = next {
            self.wake(c, next);
        }
    }

    fn expire(&mut self, c: usize) {
        let now = self.clock(c);
        let Some(live) = &mut self.cores[c].live else { return };
        live.rep.handle_timeout(now);
        if let Some(lapsed) = live.captures.handle_timeout(now) {
            live.lose(lapsed.epoch);
        }
        if let Placing::Assigned { since, .. } = live.placing
            && now >= since + OPEN_WAIT
        {
            live.placing = Placing::No;
        }
    }

    /// As in `Pairing::ship`.
    fn ship(&mut self, c: usize) {
        let now = self.clock(c);
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
                    live.rest.serving.standby = standby;
                    live.shipping = true;
                    let record = live.record();
                    live.rep.push(&Entry::Record(Box::new(record.clone())), now);
                    if self.plan.broken.persistence {
                        live.rep.handle_persisted(number);
                    }
                    let then = claim.map_or(Then::Persisted(number), |(no, standby)| Then::Claim(no, number, standby));
                    self.write(c, vec![Write::Record(Box::new(record))], then);
                }
                Ship::Announce(number, core) => {
                    let attached = live.captures.witnesses();
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
        if !self.cores[c].live.as_ref().is_some_and(|l| l.rep.wants_standby()) {
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

    /// Words go out when the standby has them.
    fn publish(&mut self, c: usize) {
        let skip = self.plan.broken.acknowledgement;
        let Some(live) = &mut self.cores[c].live else { return };
        let mut out = vec![];
        live.waiting.retain(|(number, key, words)| match live.rep.settled(*number) {
            Settled::Yes => {
                out.push((key.clone(), *words));
                false
            }
            Settled::No if skip => {
                out.push((key.clone(), *words));
                false
            }
            Settled::No => true,
            Settled::Never => false,
        });
        live.finishing = !live.waiting.is_empty();
        for (key, words) in out {
            let Some(live) = &mut self.cores[c].live else { return };
            live.undone.remove(&key);
            let to = live.captures.link(key.epoch);
            if self.plan.authority {
                self.successor_has(c, &key, words);
            }
            self.oracle.publishes(c, &key, words);
            self.tell(|_| format!("core {c} publishes {} of epoch {}", key.spurt.0, key.epoch.0));
            if let Some(s) = to {
                let participant = mesh::wire::ParticipantAlias(0);
                self.tell_edge(s, ToEdge::Done { alias: ALIAS, participant, spurt: key.spurt });
            }
        }
    }

    /// One final at a time.
    fn finish(&mut self, c: usize) {
        let core = &mut self.cores[c];
        let Some(live) = core.live.as_mut().filter(|l| !l.finishing && l.rep.settled(0) != Settled::Never) else {
            return;
        };
        let Some(key) = live.finals.pop_front() else { return };
        live.finishing = true;
        let no = live.no;
        let words = self.rng.next();
        self.write(c, vec![Write::Done(key.clone(), words)], Then::Final { live: no, key, words });
    }

    /// As in `placement::assign`: an edge for a meeting that has none.
    fn place(&mut self, c: usize) {
        let (now, meeting) = (self.clock(c), self.meeting);
        let edge = CORES + self.rng.range(0, EDGES as u64) as usize;
        let Some(live) = &mut self.cores[c].live else { return };
        match live.placing {
            // As in `Machine::take_back`: it has opened the meeting after it was given up.
            Placing::No if live.captures.held(0, now).is_some() => live.placing = Placing::Opened,
            Placing::No if live.retry <= now && live.captures.vacate(0, now).is_ok() => {
                let after = live.captures.owners().epoch;
                let Some(epoch) = after.next_in(live.rep.term()) else { return };
                if self.plan.authority {
                    live.placing = Placing::Claiming;
                    let live = live.no;
                    self.ask_authority(c, Ask::Grant { live, epoch, edge });
                } else {
                    self.store_grant(c, epoch, edge);
                }
            }
            Placing::Settling { number, epoch, edge } if live.rep.settled(number) == Settled::Yes => {
                live.retry = now + Duration::from_millis(500);
                if live.captures.offer(epoch, now).is_err() {
                    live.placing = Placing::No;
                    return;
                }
                live.placing = Placing::Asking(epoch);
                live.rep.handle_told();
                let (standby, term) = (live.rep.binding().cloned(), live.rep.term());
                let holder = self.holder_before(c, epoch);
                self.oracle.grants(c, epoch, edge, holder);
                self.tell(|_| format!("core {c} grants epoch {} to edge {edge}", epoch.0));
                let source = Source::Whep { url: String::new(), token: None, participants: vec![] };
                let trace = TraceContext::new(1);
                let core = self.name(c);
                let assignment = Assignment { meeting, epoch, core, source, vad: VadSettings::default(), trace };
                let (key, regions) = Default::default();
                let join = Join { assignment, term, standby, lease_ms: 6000, key, regions };
                self.ask(c, edge, Request::Join(join), Asked::Join);
            }
            _ => {}
        }
    }

    // Requests.

    pub(crate) fn core_request(&mut self, c: usize, from: usize, id: u64, request: Request) {
        let now = self.both_clocks(c);
        match request {
            Request::Replicate(replica) => self.replica(c, from, id, replica),
            Request::Serving { .. } => {
                let (me, core) = (self.name(c), &self.cores[c]);
                let serving = match &core.live {
                    Some(live) => Some(&live.rest.serving),
                    None => core.disk.record.as_ref().map(|r| &r.serving),
                };
                let told = serving.and_then(|s| Some(self::serving(s.core(&me)?, s.term)));
                self.respond(id, c, from, told.unwrap_or(Response::Unknown));
            }
            Request::Renew { core, edge, sent_ms, leases } if core == self.name(c) => {
                let mut live = self.cores[c].live.as_mut();
                // As in `Meetings::renew_one`: nothing is said of one that is not served here, or came before.
                let answer = |LeaseProof { meeting, epoch, proof }: LeaseProof| {
                    let beat = live.as_mut()?.captures.handle_relayed(&edge, epoch, sent_ms, LEASE_MAX, now)?;
                    Some(LeaseAnswer { meeting, kept: beat.kept, proof })
                };
                let leases = leases.into_iter().filter_map(answer).collect();
                self.respond(id, c, from, Response::Renewed { lease_ms: LEASE_MAX.as_millis() as u32, leases });
            }
            Request::Renew { core, edge, sent_ms, leases } => {
                let to = self.index(&core);
                let passed = Asked::Passed { asker: from, request: id };
                self.ask(c, to, Request::Renew { core, edge, sent_ms, leases }, passed);
            }
            _ => {}
        }
        self.core_pump(c);
    }

    pub(crate) fn core_response(&mut self, c: usize, from: usize, _: u64, asked: Asked, response: Option<Response>) {
        let now = self.clock(c);
        match (asked, response) {
            (Asked::Replicate, response) => {
                if let Some(live) = &mut self.cores[c].live {
                    live.in_flight = false;
                    let told = format!("core {c} hears core {from}: {response:?}");
                    live.rep.handle_answer(response, now);
                    self.tell(|_| told);
                }
            }
            (Asked::Join, response) => self.joined(c, response),
            (Asked::Former { tries }, None) if tries < 5 => {
                let by = (1 << tries) * 200 * MS;
                self.after(by, Event::Former(c, self.life(c), from));
            }
            (Asked::Passed { asker, request }, Some(response)) => self.respond(request, c, asker, response),
            (Asked::Reunite, Some(Response::Serving { core, term, .. })) => self.reunite(c, from, core, term),
            (Asked::Adopt, answer) => {
                let elsewhere =
                    matches!(answer, Some(Response::Serving { core, term, .. }) if self.is_elsewhere(c, &core, term));
                if let Some((open, found)) = &mut self.cores[c].adopting {
                    *open -= 1;
                    *found |= elsewhere;
                }
                self.adopt(c);
            }
            _ => {}
        }
        self.core_pump(c);
    }

    pub(crate) fn store_grant(&mut self, c: usize, epoch: Epoch, edge: usize) {
        let (now, wall) = (self.clock(c), self.wall(c));
        let (name, region) = (self.name(edge), self.identity(edge).region.clone());
        let Some(live) = &mut self.cores[c].live else { return };
        if epoch.term() != live.rep.term() {
            live.placing = Placing::No;
            return;
        }
        let owner = Owner { leased: true, ..Owner::new(name, region) };
        live.captures.assign(epoch, owner, wall);
        live.placing = Placing::Storing;
        let record = Box::new(live.record());
        let number = match live.rep.wants_entries() {
            true => live.rep.push(&Entry::Record(record.clone()), now),
            false => live.rep.written(),
        };
        let then = Then::Granted { live: live.no, number, epoch, edge };
        self.write(c, vec![Write::Record(record)], then);
        self.ship(c);
    }

    /// The authority knows of the standby, or that there is none.
    pub(crate) fn standby_claimed(&mut self, c: usize, number: u64, standby: Option<NodeId>) {
        let now = self.clock(c);
        if standby.is_some() {
            return self.then(c, Then::Persisted(number));
        }
        let Some(live) = &mut self.cores[c].live else { return };
        live.rest.serving.standby = None;
        let record = live.record();
        live.rep.push(&Entry::Record(Box::new(record.clone())), now);
        self.write(c, vec![Write::Record(Box::new(record))], Then::Persisted(number));
    }

    /// The authority has it otherwise.
    pub(crate) fn ask_lost(&mut self, c: usize, ask: &Ask) {
        let Some(live) = &mut self.cores[c].live else { return };
        match ask {
            Ask::Grant { .. } if matches!(live.placing, Placing::Claiming) => live.placing = Placing::No,
            Ask::Standby { .. } | Ask::Begin { .. } => live.shipping = false,
            _ => {}
        }
    }

    fn joined(&mut self, c: usize, response: Option<Response>) {
        let now = self.clock(c);
        let Some(live) = &mut self.cores[c].live else { return };
        let Placing::Asking(epoch) = live.placing else { return };
        live.placing = match response {
            Some(Response::Accepted) => Placing::Assigned { since: now },
            Some(_) => {
                live.captures.handle_declined(epoch);
                live.tally();
                Placing::No
            }
            None => Placing::No,
        };
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
    fn reunite(&mut self, c: usize, by: usize, core: mesh::identity::NodeId, term: Term) {
        let Some(live) = &mut self.cores[c].live else { return };
        let superseded = live.rep.handle_other(&core, term);
        if !superseded && self.index(&core) == by {
            self.core_tell_former(c, by, 5);
        }
    }

    fn is_elsewhere(&self, c: usize, core: &mesh::identity::NodeId, term: Term) -> bool {
        let known = self.cores[c].disk.record.as_ref().map(|r| &r.serving);
        known.is_some_and(|k| k.by.as_ref() != Some(core) && term >= k.term && *core != self.name(c))
    }

    /// Once a second: who is there.
    pub(crate) fn core_tick(&mut self, c: usize) {
        self.cores[c].ticks += 1;
        for d in (0..CORES).filter(|d| *d != c) {
            if self.reach(c, d) {
                self.cores[c].seen[d] = self.now;
            }
            let gone = self.now - self.cores[c].seen[d].min(self.now) >= ABSENT && self.cores[c].ticks > 5;
            self.cores[c].absent[d] = if gone { self.cores[c].absent[d].or(Some(self.now)) } else { None };
        }
        let (now, seen) = (self.clock(c), self.cores[c].absent);
        if let Some(live) = &mut self.cores[c].live {
            let other = live.rep.other().cloned();
            if other.is_some_and(|o| seen[crate::core::index(&o)].is_some()) {
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

    fn watch(&mut self, c: usize) {
        let meeting = self.meeting;
        let alone = self.cores[c].live.as_ref().is_some_and(|l| l.rep.term().is_isolated());
        if alone && self.cores[c].ticks.is_multiple_of(5) {
            for d in (0..CORES).filter(|d| *d != c) {
                self.ask(c, d, Request::Serving { meeting }, Asked::Reunite);
            }
        }
        let core = &self.cores[c];
        let Some(known) = core.disk.record.as_ref().map(|r| r.serving.clone()) else { return };
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

    fn adopt(&mut self, c: usize) {
        let Some((0, found)) = self.cores[c].adopting else { return };
        self.cores[c].adopting = None;
        let Some(record) = self.cores[c].disk.record.clone() else { return };
        if record.serving.role == CoreRole::Standby && !found {
            self.job(c, Job::Adopt(record.serving));
        }
    }
}

pub(crate) fn index(name: &mesh::identity::NodeId) -> usize {
    name.as_str().rsplit('-').next().unwrap().parse().unwrap()
}

fn done(key: &SpurtKey, words: u64) -> DoneSpurt {
    DoneSpurt {
        epoch: key.epoch,
        participant: key.participant.to_string(),
        spurt: key.spurt,
        // The words, so that they can be told from others of the same speech.
        captured: Micros(words),
        trace: TraceContext::new(1),
        mark: DoneMark { at: Micros(0), items: 1, frames: 1 },
    }
}

impl Disk {
    fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Record(record) => self.record = Some(*record),
                Write::Done(key, words) => {
                    self.done.insert(key, words);
                }
                Write::Append(key) => {
                    self.log.insert(key);
                }
                Write::Forget => self.log.clear(),
            }
        }
    }
}

/// The rules are tried here, and not who may speak: proofs are `mesh::mandate`'s.
fn serving(core: mesh::identity::NodeId, term: Term) -> Response {
    Response::Serving { core, term, proof: Proof::default() }
}
