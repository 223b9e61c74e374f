//! An edge: [`Meeting`], with the driver and links around it as in `edge-node::{driver, link}`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use core_node::key::SpurtKey;
use edge_node::{
    meeting::{Action, Beat, Meeting, Offer, Settings},
    uplink::format::Origin,
};
use mesh::{
    clock::Micros,
    lease::{BEAT_EVERY, Beats, Renewal},
    mandate::Proof,
    wire::{
        Epoch, MeetingAlias, SpurtNo,
        control::{ToCore, ToEdge},
        request::{LeaseProof, Request, Response},
    },
};

use crate::world::{Asked, CORES, Down, Event, MS, NODES, SECOND, Stream, Up, World};

/// As in `edge-node::link`.
const DETOUR_AFTER: u32 = 2;
const DETOUR_EVERY: Duration = Duration::from_millis(400);
const GIVE_UP_AFTER: u32 = 12;
const ASK_AFTER: Duration = Duration::from_secs(4);

pub(crate) const ALIAS: MeetingAlias = MeetingAlias(1);

#[derive(Default)]
pub(crate) struct Edge {
    pub(crate) instances: BTreeMap<usize, Instance>,
    next: usize,
}

impl Edge {
    /// How it stands, for whoever reads a story.
    pub(crate) fn state(&self) -> String {
        let instance = |i: &Instance| {
            let streams: Vec<_> = i.links.iter().map(|(c, l)| (*c, l.stream, l.opened, l.sent.len())).collect();
            format!(
                "epoch {}, serving {}, {} frames, owner {}, may transmit {}, listening {}, links {streams:?}",
                i.epoch.0,
                i.serving,
                i.frames.len(),
                i.meeting.is_owner(),
                i.meeting.may_transmit(),
                i.meeting.is_listening()
            )
        };
        self.instances.values().map(instance).collect::<Vec<_>>().join("; ")
    }
}

/// One meeting that was offered.
pub(crate) struct Instance {
    meeting: Meeting,
    pub(crate) epoch: Epoch,
    serving: usize,
    /// The core that renewed its lease last.
    lessor: Option<usize>,
    links: BTreeMap<usize, Link>,
    frames: BTreeMap<u32, Micros>,
    next_frame: u32,
    origin: Origin,
    down: Option<Instant>,
}

/// Its link to one core.
struct Link {
    stream: Option<usize>,
    beats: Beats,
    quiet: u32,
    opened: bool,
    served: bool,
    next_beat: Instant,
    next_detour: Instant,
    sent: BTreeSet<u32>,
}

impl Link {
    fn new(now: Instant) -> Self {
        Self {
            stream: None,
            beats: Beats::default(),
            quiet: 0,
            opened: false,
            served: false,
            next_beat: now,
            next_detour: now,
            sent: BTreeSet::new(),
        }
    }
}

pub(crate) fn key(epoch: Epoch, n: u32) -> SpurtKey {
    SpurtKey { epoch, participant: "p".into(), spurt: SpurtNo(n) }
}

impl World {
    fn instance(&mut self, e: usize, i: usize) -> Option<&mut Instance> {
        self.edges[e - CORES].instances.get_mut(&i)
    }

    pub(crate) fn edge_begin(&mut self, e: usize) {
        let found = std::mem::take(&mut self.edges[e - CORES].instances);
        for (_, instance) in found {
            // What was spilled is found again, mostly.
            if !instance.frames.is_empty() && self.rng.chance(800) {
                self.recover(e, instance);
            }
        }
        self.edge_pump(e);
    }

    fn recover(&mut self, e: usize, old: Instance) {
        let now = self.clock(e);
        let meeting = Meeting::recovered(old.origin.clone(), vec![], vec![], Settings::default(), now);
        self.add(e, Instance { meeting, links: BTreeMap::new(), down: Some(now), ..old });
    }

    fn add(&mut self, e: usize, instance: Instance) {
        let edge = &mut self.edges[e - CORES];
        edge.next += 1;
        edge.instances.insert(edge.next, instance);
    }

    pub(crate) fn edge_crash(&mut self, e: usize) {
        for stream in self.streams.iter_mut().filter(|s| s.edge == e) {
            stream.edge_open = false;
        }
    }

    /// The relay has speech.
    pub(crate) fn edge_capture(&mut self, e: usize) {
        let wall = self.wall(e);
        let ids: Vec<usize> = self.edges[e - CORES].instances.keys().copied().collect();
        for i in ids {
            self.check(e, i);
            let Some(instance) = self.instance(e, i) else { continue };
            if !instance.meeting.is_listening() || instance.frames.len() >= 40 {
                continue;
            }
            let (epoch, lessor) = (instance.epoch, instance.lessor.filter(|_| instance.meeting.is_owner()));
            instance.frames.insert(instance.next_frame, wall);
            instance.next_frame += 1;
            if let Some(core) = lessor {
                self.oracle.captures(e, core, epoch);
            }
        }
        self.edge_pump(e);
    }

    /// An edge that still holds a lease of core `c` under an epoch before `epoch`, by its own clock.
    pub(crate) fn holder_before(&mut self, c: usize, epoch: Epoch) -> Option<(usize, Epoch)> {
        let awake: Vec<usize> = (CORES..NODES).filter(|e| self.is_awake(*e)).collect();
        for e in awake {
            let ids: Vec<usize> = self.edges[e - CORES].instances.keys().copied().collect();
            for i in ids {
                self.check(e, i);
                let Some(held) = self.instance(e, i) else { continue };
                if held.lessor == Some(c)
                    && held.epoch < epoch
                    && held.meeting.is_listening()
                    && held.meeting.is_owner()
                {
                    return Some((e, held.epoch));
                }
            }
        }
        None
    }

    /// First of all after each wait.
    fn check(&mut self, e: usize, i: usize) {
        let (now, wall) = (self.clock(e), self.wall(e));
        if let Some(instance) = self.instance(e, i)
            && instance.meeting.poll_timeout() <= now
        {
            instance.meeting.handle_timeout(now, wall);
        }
    }

    pub(crate) fn edge_pump(&mut self, e: usize) {
        let ids: Vec<usize> = self.edges[e - CORES].instances.keys().copied().collect();
        for i in ids {
            self.pump(e, i);
        }
    }

    fn pump(&mut self, e: usize, i: usize) {
        self.check(e, i);
        self.beat_all(e, i);
        while self.oracle.violation.is_none() {
            let Some(instance) = self.instance(e, i) else { return };
            if let Some(action) = instance.meeting.poll_action() {
                self.obey(e, i, action);
            } else if let Some(message) = instance.meeting.poll_control() {
                let to = instance.serving;
                self.say(e, i, to, message);
            } else if !self.transmit(e, i) {
                break;
            }
        }
        self.who_serves(e, i);
        let now = self.clock(e);
        let Some(instance) = self.instance(e, i) else { return };
        if instance.meeting.is_over() {
            let epoch = instance.epoch;
            let streams: Vec<usize> = instance.links.values().filter_map(|l| l.stream).collect();
            self.edges[e - CORES].instances.remove(&i);
            for s in streams {
                self.streams[s].edge_open = false;
                self.send_up(s, Up::Closed);
            }
            self.tell(|_| format!("edge {e} is done with epoch {}", epoch.0));
            return;
        }
        let beats = instance.links.values().filter(|l| l.stream.is_some()).map(|l| l.next_beat);
        let detours = instance.links.values().filter(|l| l.opened).map(|l| l.next_detour);
        let asks = instance.down.map(|at| at + ASK_AFTER);
        let next = beats.chain(detours).chain(asks).fold(instance.meeting.poll_timeout(), Instant::min);
        self.wake(e, next.max(now));
    }

    fn obey(&mut self, e: usize, i: usize, action: Action) {
        let now = self.clock(e);
        match action {
            Action::Watch(core) => {
                let c = self.index(&core);
                let Some(instance) = self.instance(e, i) else { return };
                instance.links.insert(c, Link::new(now));
                let life = self.life(e);
                let by = self.rng.range(0, 20 * MS);
                self.after(by, Event::Dialled(e, life, i, c));
            }
            Action::Unwatch(core) => {
                let c = self.index(&core);
                let link = self.instance(e, i).and_then(|instance| instance.links.remove(&c));
                if let Some(s) = link.and_then(|link| link.stream) {
                    self.streams[s].edge_open = false;
                    self.send_up(s, Up::Closed);
                }
            }
            Action::Release => {
                let Some(instance) = self.instance(e, i) else { return };
                for link in instance.links.values_mut() {
                    (link.opened, link.served) = (false, false);
                    link.beats.handle_closed(ALIAS);
                }
            }
            Action::Turn(core) => {
                let c = self.index(&core);
                self.tell(|_| format!("edge {e} turns to core {c}"));
                if let Some(instance) = self.instance(e, i) {
                    instance.serving = c;
                    reopen(instance, now);
                }
            }
        }
    }

    /// As the link writes: a beat follows what opens the meeting.
    fn say(&mut self, e: usize, i: usize, core: usize, message: ToCore) {
        let now = self.clock(e);
        let Some(link) = self.instance(e, i).and_then(|instance| instance.links.get_mut(&core)) else { return };
        let Some(s) = link.stream else { return };
        let opens = match &message {
            ToCore::Serve { .. } => Some(true),
            ToCore::Open { .. } | ToCore::Late { .. } | ToCore::Close { .. } => Some(false),
            _ => None,
        };
        let beat = match opens {
            Some(true) => {
                link.opened = true;
                link.beats.handle_opened(ALIAS);
                Some(link.beats.handle_sent(now))
            }
            Some(false) => {
                (link.opened, link.served) = (false, false);
                link.beats.handle_closed(ALIAS);
                None
            }
            None => None,
        };
        if opens.is_some() {
            self.tell(|_| format!("edge {e} to core {core}: {message:?}"));
        }
        self.send_up(s, Up::Message(message));
        if let Some(seq) = beat {
            self.send_up(s, Up::Message(ToCore::Beat { seq }));
        }
    }

    /// Sends a frame that the primary has not been sent; whether there was anything to do.
    fn transmit(&mut self, e: usize, i: usize) -> bool {
        let wall = self.wall(e);
        let Some(instance) = self.instance(e, i) else { return false };
        if !instance.meeting.may_transmit() {
            return false;
        }
        let Some(link) = instance.links.get_mut(&instance.serving) else { return false };
        let Some(s) = link.stream else { return false };
        let next = instance.frames.iter().find(|(n, _)| !link.sent.contains(n)).map(|(n, at)| (*n, *at));
        if let Some((n, captured)) = next {
            link.sent.insert(n);
            self.send_up(s, Up::Frame(n, captured));
            return true;
        }
        if instance.frames.is_empty() && instance.meeting.has_left() {
            // There is nothing in its own ring: it closes the meeting.
            instance.meeting.poll_transmit(wall);
            if let Some(message) = instance.meeting.poll_control() {
                let to = instance.serving;
                self.say(e, i, to, message);
                return true;
            }
        }
        false
    }

    fn beat_all(&mut self, e: usize, i: usize) {
        let now = self.clock(e);
        let Some(instance) = self.instance(e, i) else { return };
        let cores: Vec<usize> = instance.links.keys().copied().collect();
        for c in cores {
            let rtt = self.rtt(e, c);
            let Some(instance) = self.instance(e, i) else { return };
            let Some(link) = instance.links.get_mut(&c) else { continue };
            let lost = link.stream.is_none() || link.quiet >= DETOUR_AFTER;
            if link.next_detour <= now {
                link.next_detour = now + DETOUR_EVERY;
                if link.opened && lost {
                    let epoch = instance.epoch;
                    self.detour(e, i, c, epoch);
                }
            }
            let Some(link) = self.instance(e, i).and_then(|instance| instance.links.get_mut(&c)) else { continue };
            let Some(s) = link.stream else { continue };
            if link.next_beat > now {
                continue;
            }
            link.next_beat = now + BEAT_EVERY;
            link.quiet += 1;
            if link.quiet > GIVE_UP_AFTER + (rtt.as_millis() * 4 / BEAT_EVERY.as_millis()) as u32 {
                self.edge_loses(s);
                continue;
            }
            let seq = link.beats.handle_sent(now);
            self.send_up(s, Up::Message(ToCore::Beat { seq }));
        }
    }

    fn detour(&mut self, e: usize, i: usize, core: usize, epoch: Epoch) {
        let helper = self.rng.range(0, NODES as u64) as usize;
        if helper == core || helper == e {
            return;
        }
        let (meeting, sent) = (self.meeting, self.clock(e));
        let leases = vec![LeaseProof { meeting, epoch, proof: Proof::default() }];
        let request = Request::Renew { core: self.name(core), edge: self.name(e), sent_ms: self.uptime_ms(e), leases };
        self.ask(e, helper, request, Asked::Renew { instance: i, core, sent });
    }

    fn who_serves(&mut self, e: usize, i: usize) {
        let now = self.clock(e);
        let Some(instance) = self.instance(e, i) else { return };
        let up = instance.links.get(&instance.serving).is_some_and(|l| l.stream.is_some());
        instance.down = if up { None } else { instance.down.or(Some(now)) };
        if instance.down.is_some_and(|since| now >= since + ASK_AFTER) {
            instance.down = Some(now);
            let of = instance.serving;
            for c in (0..CORES).filter(|c| *c != of) {
                let request = Request::Serving { meeting: self.meeting };
                self.ask(e, c, request, Asked::WhoServes { instance: i, of });
            }
        }
    }

    /// A dial has come to its end.
    pub(crate) fn edge_dialled(&mut self, e: usize, i: usize, c: usize) {
        let (reach, now, life) = (self.reach(e, c), self.clock(e), self.life(e));
        let Some(link) = self.instance(e, i).and_then(|instance| instance.links.get_mut(&c)) else { return };
        if link.stream.is_some() {
            return;
        }
        if !reach {
            let by = self.rng.range(200 * MS, SECOND);
            return self.after(by, Event::Dialled(e, life, i, c));
        }
        let s = self.streams.len();
        self.streams.push(Stream {
            edge: e,
            core: c,
            instance: i,
            up: Default::default(),
            down: Default::default(),
            edge_open: true,
            core_open: true,
            due: [0; 2],
            again: [false; 2],
        });
        self.core_accepts(c, s);
        let Some(instance) = self.instance(e, i) else { return };
        if let Some(link) = instance.links.get_mut(&c) {
            // What was opened on an earlier stream is still to be renewed by way of others.
            *link = Link { opened: link.opened, served: link.served, stream: Some(s), ..Link::new(now) };
        }
        let core = crate::world::identity(c).node;
        instance.meeting.handle_up(&core, true, now);
        if instance.serving == c {
            reopen(instance, now);
        }
        self.pump(e, i);
    }

    /// The edge's end of a stream is lost.
    pub(crate) fn edge_loses(&mut self, s: usize) {
        let Stream { edge: e, core: c, instance: i, .. } = self.streams[s];
        self.streams[s].edge_open = false;
        self.send_up(s, Up::Closed);
        let (now, life, core) = (self.clock(e), self.life(e), self.name(c));
        self.check(e, i);
        let Some(instance) = self.instance(e, i) else { return };
        let Some(link) = instance.links.get_mut(&c).filter(|l| l.stream == Some(s)) else { return };
        link.stream = None;
        instance.meeting.handle_down(&core, now);
        let by = self.rng.range(100 * MS, SECOND);
        self.after(by, Event::Dialled(e, life, i, c));
        self.pump(e, i);
    }

    pub(crate) fn edge_hears(&mut self, e: usize, s: usize, what: Down) {
        let Stream { core: c, instance: i, .. } = self.streams[s];
        let message = match what {
            Down::Closed => return self.edge_loses(s),
            Down::Message(message) => message,
        };
        self.check(e, i);
        let (now, wall, core, rtt) = (self.clock(e), self.wall(e), self.name(c), self.rtt(e, c));
        let Some(instance) = self.instance(e, i) else { return };
        let Some(link) = instance.links.get_mut(&c).filter(|l| l.stream == Some(s)) else { return };
        link.quiet = 0;
        match message {
            ToEdge::Beat { seq, lease_ms } => {
                let Some((renewal, renewed)) = link.beats.handle_answer(seq, lease_ms, now) else { return };
                let renewal = (!renewed.is_empty()).then_some(renewal);
                link.served |= renewal.is_some();
                if renewal.is_some() {
                    instance.lessor = Some(c);
                }
                instance.meeting.handle_beat(&core, Beat { rtt, short: false, renewal }, now);
            }
            message => {
                if matches!(message, ToEdge::Refused { .. } | ToEdge::Moved { .. }) {
                    link.beats.handle_closed(ALIAS);
                    link.opened = false;
                }
                if let ToEdge::Done { spurt, .. } = &message
                    && c == instance.serving
                {
                    instance.frames.remove(&spurt.0);
                }
                let told = format!("edge {e} hears core {c}: {message:?}");
                let quiet = matches!(message, ToEdge::Done { .. } | ToEdge::Durable { .. });
                instance.meeting.handle_message(&core, message, now, wall);
                if !quiet {
                    self.tell(|_| told);
                }
            }
        }
        self.pump(e, i);
    }

    pub(crate) fn edge_request(&mut self, e: usize, from: usize, id: u64, request: Request) {
        match request {
            Request::Join(join) => {
                let held = self.edges[e - CORES].instances.values().map(|i| i.epoch).max();
                if held >= Some(join.assignment.epoch) {
                    return self.respond(id, e, from, Response::Refused { reason: "already here".into() });
                }
                let (now, wall) = (self.clock(e), self.wall(e));
                for former in self.edges[e - CORES].instances.values_mut() {
                    former.meeting.leave(mesh::wire::control::CloseReason::Drain, now, wall);
                }
                let (epoch, serving) = (join.assignment.epoch, self.index(&join.assignment.core));
                let meeting = Meeting::new(Offer::joined(join), Settings::default(), now);
                let origin = meeting.origin();
                let instance = Instance {
                    meeting,
                    epoch,
                    serving,
                    lessor: None,
                    links: BTreeMap::new(),
                    frames: BTreeMap::new(),
                    next_frame: 0,
                    origin,
                    down: Some(now),
                };
                self.add(e, instance);
                self.respond(id, e, from, Response::Accepted);
                self.edge_pump(e);
            }
            Request::Renew { ref core, .. } => {
                let to = self.index(core);
                let asked = Asked::Passed { asker: from, request: id };
                self.ask(e, to, request, asked);
            }
            _ => {}
        }
    }

    pub(crate) fn edge_response(&mut self, e: usize, from: usize, asked: Asked, response: Option<Response>) {
        let (now, wall) = (self.clock(e), self.wall(e));
        match (asked, response) {
            (Asked::Passed { asker, request }, Some(response)) => self.respond(request, e, asker, response),
            (Asked::Renew { instance: i, core, sent }, Some(Response::Renewed { lease_ms, leases })) => {
                self.check(e, i);
                let name = self.name(core);
                let Some(instance) = self.instance(e, i) else { return };
                let Some(link) = instance.links.get(&core).filter(|l| l.opened) else { return };
                if leases.is_empty() {
                    return;
                }
                match leases.iter().all(|lease| lease.kept) {
                    true => {
                        instance.lessor = Some(core);
                        instance.meeting.handle_renewed(&name, Renewal::new(sent, lease_ms), now);
                    }
                    false if link.served => instance.meeting.handle_lost(&name, now, wall),
                    false => {}
                }
                self.pump(e, i);
            }
            (Asked::WhoServes { instance: i, of }, Some(Response::Serving { core, term, .. })) => {
                self.check(e, i);
                let name = self.name(of);
                let Some(instance) = self.instance(e, i) else { return };
                if instance.serving == of && from != of {
                    instance.meeting.handle_moved(&name, core, term, now);
                }
                self.pump(e, i);
            }
            _ => {}
        }
    }
}

/// Starts over with the primary, if its link is up.
fn reopen(instance: &mut Instance, now: Instant) {
    if let Some(link) = instance.links.get_mut(&instance.serving)
        && link.stream.is_some()
    {
        link.sent.clear();
        instance.meeting.handle_opening(ALIAS, true, now);
    }
}
