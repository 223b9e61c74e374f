//! What other nodes ask, and what they answer.

use mesh::{
    lease::LEASE_MAX,
    wire::request::{LeaseAnswer, LeaseProof, Request, Response},
};

use crate::world::{Asked, Event, MS, World};

impl World {
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
                let told = serving.and_then(|s| Some(super::hands::serving(s.core(&me)?, s.term)));
                self.respond(id, c, from, told.unwrap_or(Response::Unknown));
            }
            Request::Renew { core, edge, sent_ms, leases } if core == self.name(c) => {
                let mut live = self.cores[c].live.as_mut();
                // As in `Meetings::renew_one`: nothing is said of one that is not served here, or came before.
                let answer = |LeaseProof { meeting, epoch, proof }: LeaseProof| {
                    let live = live.as_mut()?;
                    let beat = live.machine.captures.handle_relayed(&edge, epoch, sent_ms, LEASE_MAX, now)?;
                    Some(LeaseAnswer { meeting, kept: live.note_news(beat).kept, proof })
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
            (Asked::Join { step }, response) => self.joined(c, step, response),
            (Asked::Captures { step, former }, response) => self.reached(c, step, former, response),
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
}
