//! A core: the machines of `core-node`, of one meeting, with what it has around them pretended here.
//!
//! - `driver`: does what [`Machine`] asks, as `core_node::meetings::supervise` does; `seek`: the steps of a search for an edge
//! - `disk`: what is written, and what follows once it is
//! - `links`: what edges say, as `core_node::edges` hears it
//! - `hands`: who serves the meeting changes, one change after the other
//! - `pairing`: ships to the standby, as `core_node::meetings::replication` does
//! - `leave`: when the meeting is left
//! - `words`: what is transcribed is published, once the standby has it
//! - `watch`: who is there, and what follows from that; `requests`: what other nodes ask and answer

mod disk;
mod driver;
mod hands;
mod leave;
mod links;
mod pairing;
mod requests;
mod seek;
mod watch;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use core_node::{
    key::SpurtKey,
    meeting::machine::Machine,
    replicate::{
        receiver::Receiver,
        sender::{self, Replicator, Settled},
    },
    store::record::{CoreRole, MeetingRecord, Spec, Status},
};
use mesh::{
    clock::Micros,
    identity::NodeId,
    node::Member,
    wire::{
        Epoch, Term,
        request::{Source, VadSettings},
    },
};

use self::{
    disk::{Disk, Then, Write},
    driver::Driver,
    hands::Job,
    links::Link,
};
use crate::world::{CORES, Event, MS, NODES, World};

pub(crate) struct Core {
    disk: Disk,
    writes: VecDeque<(Vec<Write>, Then)>,
    links: BTreeMap<usize, Link>,
    receiver: Receiver,
    pub(crate) live: Option<Live>,
    lives: u64,
    /// Steps of searches for an edge so far.
    steps: u64,
    /// The lock under which a meeting changes hands.
    pub(crate) hands: bool,
    jobs: VecDeque<Job>,
    blocked: BTreeSet<usize>,
    /// When it last heard of each node, as gossip would have it.
    seen: [u64; NODES],
    absent: [Option<u64>; CORES],
    /// The edges that are there.
    members: Arc<Vec<Member>>,
    adopting: Option<(u32, bool)>,
    ticks: u64,
    /// The edge's call for which the meeting is being claimed.
    pub(crate) calling: Option<(usize, Epoch)>,
    /// It is asked what stands at the authority.
    pub(crate) looking: bool,
    /// It may have claimed the meeting, and does not know.
    pub(crate) unsettled: bool,
}

pub(crate) struct Live {
    pub(crate) no: u64,
    /// Its claim was seen to stand.
    pub(crate) known: bool,
    /// But for its owners.
    rest: MeetingRecord,
    pub(crate) rep: Replicator,
    /// Its links are streams.
    machine: Machine<usize>,
    driver: Driver,
    shipping: bool,
    in_flight: bool,
    avoided: [u64; CORES],
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
            steps: 0,
            hands: false,
            jobs: VecDeque::new(),
            blocked: BTreeSet::new(),
            seen: [0; NODES],
            absent: [None; CORES],
            members: Arc::default(),
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

    fn live(&mut self, no: u64) -> Option<&mut Live> {
        self.live.as_mut().filter(|live| live.no == no)
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

    /// Whether the edge of `epoch` captures on until its successor does, or is told to leave.
    pub(crate) fn lets_go(&self, epoch: Epoch) -> bool {
        let row = match &self.live {
            Some(live) => live.machine.captures.owner(epoch),
            None => self.disk.record.as_ref().and_then(|record| record.owners.get(epoch)),
        };
        row.is_some_and(|owner| owner.leaving)
    }

    /// How it stands, for whoever reads a story.
    pub(crate) fn state(&self) -> String {
        let live = self.live.as_ref().map(|l| {
            let (waiting, undone, finals) = (l.waiting.len(), l.undone.len(), l.finals.len());
            format!(
                "{waiting} waiting, {undone} undone, {finals} finals, shipping {}, in flight {}, {:?}, {:?}, {:?}",
                l.shipping, l.in_flight, l.driver, l.machine, l.rep
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

    /// Where the meeting stands, as it is decided and as the world is told.
    pub(crate) fn status(&self) -> Option<(Status, Status)> {
        self.live.as_ref().map(|live| (live.machine.status(), live.rest.status))
    }

    /// Whether it takes what the edge of `epoch` captures.
    pub(crate) fn wants(&self, epoch: Epoch) -> bool {
        self.live.as_ref().is_some_and(|live| live.machine.captures.owners().captures(epoch))
    }

    /// The term in which it serves, and the newest epoch granted.
    pub(crate) fn serves(&self) -> Option<(Term, Epoch)> {
        let live = self.live.as_ref().filter(|l| l.rep.settled(0) != Settled::Never)?;
        Some((live.rep.term(), live.machine.captures.owners().epoch))
    }
}

impl Live {
    fn record(&self) -> MeetingRecord {
        MeetingRecord { owners: self.machine.captures.owners().clone(), ..self.rest.clone() }
    }

    fn tally(&mut self) {
        self.rep.handle_tally(&self.machine.captures.tally());
    }
}

fn record(world: &mut World) -> MeetingRecord {
    let spec = Spec {
        source: source(),
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
        redundancy: world.plan.kind.redundancy(),
        leave: world.leave_rules(),
    };
    MeetingRecord::new(world.meeting, spec, Micros(0))
}

fn source() -> Source {
    Source::Whep { url: String::new(), token: None, participants: vec![] }
}

impl World {
    /// The meeting is made at core `c`.
    pub(crate) fn create(&mut self, c: usize) {
        let record = record(self);
        self.cores[c].disk.record = Some(record);
        self.claim_new(c);
        self.take_up(c, true);
        self.core_pump(c);
    }

    pub(crate) fn core_begin(&mut self, c: usize) {
        let record = self.cores[c].disk.record.as_ref();
        if record.is_some_and(|r| r.serving.role == CoreRole::Serving && !r.status.ended()) {
            self.take_up(c, false);
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

    /// As in `Meetings::take_up`, or, of a `new` meeting, in `Meetings::make`.
    fn take_up(&mut self, c: usize, new: bool) {
        let (now, me) = (self.both_clocks(c), self.name(c));
        let core = &mut self.cores[c];
        let Some(mut rest) = core.disk.record.clone() else { return };
        let term = rest.serving.term;
        let settings = sender::Settings { isolated_after: self.isolated_after, ..sender::Settings::default() };
        let rep = Replicator::new(settings, me, term, rest.serving.standby.clone(), now.wall.0, now.at);
        let undone: BTreeSet<SpurtKey> =
            core.disk.log.iter().filter(|key| !core.disk.done.contains_key(key)).cloned().collect();
        let machine = match new {
            true => Machine::new(&mut rest, now),
            false => Machine::resumed(&mut rest, undone.len(), now),
        };
        core.lives += 1;
        let waiting = core.disk.done.iter().map(|(key, words)| (rep.written(), key.clone(), *words)).collect();
        core.live = Some(Live {
            no: core.lives,
            known: false,
            rest,
            rep,
            machine,
            driver: Driver::default(),
            shipping: false,
            in_flight: false,
            avoided: [0; CORES],
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

    // What goes on by itself.

    pub(crate) fn core_pump(&mut self, c: usize) {
        let now = self.clock(c);
        if let Some(live) = &mut self.cores[c].live {
            live.rep.handle_timeout(now);
        }
        self.drive(c);
        self.ship(c);
        self.publish(c);
        self.finish(c);
        // What the standby has, and what was published, is news for the driver.
        self.drive(c);
        let Some(live) = &self.cores[c].live else { return };
        // Nothing more is sent before the last request is answered.
        let busy = now + Duration::from_millis(if live.in_flight { 50 } else { 0 });
        let rep = live.rep.poll_timeout().map(|at| at.max(busy));
        if let Some(next) = rep.into_iter().chain(live.driver_due()).min() {
            self.wake(c, next);
        }
    }

    fn write(&mut self, c: usize, writes: Vec<Write>, then: Then) {
        let slow = self.rng.chance(self.slow_writes);
        let by = self.rng.range(MS, if slow { 600 * MS } else { 15 * MS });
        self.cores[c].writes.push_back((writes, then));
        let life = self.life(c);
        self.after(by, Event::Disk(c, life));
    }

    /// As in `Meeting::update_here`: the number of the change, once `then` says that it is on disk.
    fn update(&mut self, c: usize, change: impl FnOnce(&mut MeetingRecord), then: impl FnOnce(u64) -> Then) {
        let now = self.clock(c);
        let Some(live) = &mut self.cores[c].live else { return };
        change(&mut live.rest);
        let record = Box::new(live.record());
        let number = live.push_record(&record, now);
        self.write(c, vec![Write::Record(record)], then(number));
    }
}

pub(crate) fn index(name: &NodeId) -> usize {
    name.as_str().rsplit('-').next().unwrap().parse().unwrap()
}
