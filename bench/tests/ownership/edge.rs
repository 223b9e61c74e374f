//! An edge: [`Meeting`], with the driver around it as in `edge-node::driver`.
//!
//! - `links`: to cores, and what goes over them; `requests`: what it is asked

mod links;
mod requests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use core_node::key::SpurtKey;
use edge_node::{
    connect,
    meeting::{Action, Meeting, Settings},
    uplink::format::Origin,
};
use mesh::{
    clock::Micros,
    wire::{Epoch, MeetingAlias, SpurtNo, control::EdgeState},
};

use self::links::{ASK_AFTER, Link, reopen};
use crate::world::{CORES, Event, MS, NODES, SECOND, Up, World};

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
    relay: Relay,
}

/// Its way into the meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relay {
    Out,
    Joining,
    Live,
    /// It is gone, and that is not noticed yet.
    Silent(u64),
    Lost,
}

impl Instance {
    /// Whether it hears the meeting, by some right.
    fn captures(&self) -> bool {
        self.relay == Relay::Live && self.meeting.is_listening()
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
            if !instance.captures() || instance.frames.len() >= 40 {
                continue;
            }
            let (epoch, lessor) = (instance.epoch, instance.lessor.filter(|_| instance.meeting.is_owner()));
            instance.frames.insert(instance.next_frame, wall);
            instance.next_frame += 1;
            if let Some(core) = lessor.filter(|core| !self.cores[*core].lets_go(epoch)) {
                self.oracle.captures(e, core, epoch);
            }
        }
        self.edge_pump(e);
    }

    /// An edge that still holds a lease of core `c` for that `slot` under an epoch before `epoch`, by its own clock; but for one that
    /// hands over.
    pub(crate) fn holder_before(&mut self, c: usize, epoch: Epoch, slot: u8) -> Option<(usize, Epoch)> {
        let awake: Vec<usize> = (CORES..NODES).filter(|e| self.is_awake(*e)).collect();
        for e in awake {
            let ids: Vec<usize> = self.edges[e - CORES].instances.keys().copied().collect();
            for i in ids {
                self.check(e, i);
                let Some(held) = self.instance(e, i).map(|held| held.epoch) else { continue };
                if self.oracle.slot(held) != Some(slot) || self.cores[c].lets_go(held) {
                    continue;
                }
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
        self.join_relay(e, i);
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

    /// As the driver does as soon as the edge may listen.
    fn join_relay(&mut self, e: usize, i: usize) {
        let life = self.life(e);
        let Some(instance) = self.instance(e, i) else { return };
        if instance.relay == Relay::Out && instance.meeting.is_listening() {
            instance.relay = Relay::Joining;
            let by = self.rng.range(50 * MS, 800 * MS);
            self.after(by, Event::Relay(e, life, i));
        }
    }

    /// The relay lets the edge in, loses it, or has it back.
    pub(crate) fn edge_relay(&mut self, e: usize, i: usize) {
        let (now, life, calm) = (self.clock(e), self.life(e), self.calm.is_some());
        let (at, noticed) = (self.now, self.rng.range(0, 2 * SECOND));
        let next = self.rng.range(SECOND / 2, 30 * SECOND);
        self.check(e, i);
        let Some(instance) = self.instance(e, i).filter(|instance| instance.meeting.is_listening()) else { return };
        let (relay, state, next) = match instance.relay {
            Relay::Live if calm => return,
            Relay::Live => (Relay::Silent(at), None, Some(noticed)),
            Relay::Silent(since) => {
                let silent = EdgeState::silent(Duration::from_micros(at - since));
                (Relay::Lost, Some(silent), Some(next / 10))
            }
            _ => (Relay::Live, Some(EdgeState::Live), Some(next)),
        };
        instance.relay = relay;
        if let Some(state) = state {
            instance.meeting.handle_event(connect::Event::State { state, detail: None }, now);
        }
        self.tell(|_| format!("edge {e}: relay {relay:?}"));
        if let Some(by) = next {
            self.after(by, Event::Relay(e, life, i));
        }
        self.pump(e, i);
    }

    /// As the driver does when the node is told to end.
    pub(crate) fn edge_drain(&mut self, e: usize) {
        let (now, wall) = (self.clock(e), self.wall(e));
        let ids: Vec<usize> = self.edges[e - CORES].instances.keys().copied().collect();
        for i in ids {
            self.check(e, i);
            if let Some(instance) = self.instance(e, i) {
                instance.meeting.hand_over(now, wall);
            }
            self.pump(e, i);
        }
    }

    /// The edges that capture now, and under which epoch.
    pub(crate) fn capturing(&self) -> Vec<(usize, Epoch)> {
        let awake = (CORES..NODES).filter(|e| self.is_awake(*e));
        let of =
            |e: usize| self.edges[e - CORES].instances.values().filter(|i| i.captures()).map(move |i| (e, i.epoch));
        awake.flat_map(of).collect()
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
}
