//! An edge's links to cores, and what goes over them: as `edge_node::link`.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use edge_node::meeting::Beat;
use mesh::{
    lease::{BEAT_EVERY, Beats},
    mandate::Proof,
    wire::{
        Epoch,
        control::{ToCore, ToEdge},
        request::{LeaseProof, Request},
    },
};

use super::{ALIAS, Instance};
use crate::world::{Asked, CORES, Down, Event, MS, NODES, SECOND, Stream, Up, World};

const DETOUR_AFTER: u32 = 2;
const DETOUR_EVERY: Duration = Duration::from_millis(400);
const GIVE_UP_AFTER: u32 = 12;
pub(super) const ASK_AFTER: Duration = Duration::from_secs(4);

/// Its link to one core.
pub(super) struct Link {
    pub(super) stream: Option<usize>,
    pub(super) beats: Beats,
    pub(super) quiet: u32,
    pub(super) opened: bool,
    pub(super) served: bool,
    pub(super) next_beat: Instant,
    pub(super) next_detour: Instant,
    pub(super) sent: BTreeSet<u32>,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
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

impl World {
    /// As the link writes: a beat follows what opens the meeting.
    pub(super) fn say(&mut self, e: usize, i: usize, core: usize, message: ToCore) {
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
    pub(super) fn transmit(&mut self, e: usize, i: usize) -> bool {
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

    pub(super) fn beat_all(&mut self, e: usize, i: usize) {
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

    pub(super) fn who_serves(&mut self, e: usize, i: usize) {
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
}

/// Starts over with the primary, if its link is up.
pub(super) fn reopen(instance: &mut Instance, now: Instant) {
    if let Some(link) = instance.links.get_mut(&instance.serving)
        && link.stream.is_some()
    {
        link.sent.clear();
        instance.meeting.handle_opening(ALIAS, true, now);
    }
}
