//! What an edge is asked, and what it has asked.

use std::collections::BTreeMap;

use edge_node::meeting::{Meeting, Offer, Settings};
use mesh::{
    lease::Renewal,
    wire::{
        control::CloseReason,
        request::{Request, Response},
    },
};

use super::{Instance, Relay};
use crate::world::{Asked, CORES, World};

impl World {
    pub(crate) fn edge_request(&mut self, e: usize, from: usize, id: u64, request: Request) {
        match request {
            Request::Join(join) => {
                let held = self.edges[e - CORES].instances.values().map(|i| i.epoch).max();
                if held >= Some(join.assignment.epoch) {
                    return self.respond(id, e, from, Response::Refused { reason: "already here".into() });
                }
                let (now, wall) = (self.clock(e), self.wall(e));
                for former in self.edges[e - CORES].instances.values_mut() {
                    former.meeting.leave(CloseReason::Drain, now, wall);
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
                    relay: Relay::Out,
                };
                self.add(e, instance);
                self.respond(id, e, from, Response::Accepted);
                self.edge_pump(e);
            }
            Request::Captures { .. } => {
                let newest = self.edges[e - CORES].instances.values().next_back();
                let held = newest.filter(|i| i.meeting.is_listening()).map(|i| i.epoch);
                self.respond(id, e, from, Response::Captures(held));
            }
            Request::Release { .. } => {
                let (now, wall) = (self.clock(e), self.wall(e));
                if let Some(newest) = self.edges[e - CORES].instances.values_mut().next_back() {
                    newest.meeting.leave(CloseReason::Drain, now, wall);
                }
                self.respond(id, e, from, Response::Released);
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
