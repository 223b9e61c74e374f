//! What edges say on their control streams, and their spurts: as in `core_node::edges`.

use std::time::Duration;

use core_node::{
    meeting::{
        Notice,
        captures::{Beat, Now},
        role::{self, NotHere},
    },
    store::record::Serving,
};
use mesh::{
    clock::Micros,
    identity::NodeId,
    lease::lease_for,
    wire::{
        Epoch, ParticipantAlias, SpurtNo, Term,
        control::{RefusedReason, ToCore, ToEdge},
    },
};

use super::{Live, Then, Write, hands::Job};
use crate::{
    edge::{ALIAS, key},
    world::{Down, Up, World},
};

#[derive(Default)]
pub(super) struct Link {
    opened: Option<(Epoch, bool)>,
    pub(super) heard: u64,
}

impl Live {
    /// A beat of an edge; whether it owns the epoch.
    pub(super) fn renew(&mut self, edge: &NodeId, epoch: Epoch, lease: Duration, now: Now) -> bool {
        let beat = self.machine.captures.handle_beat(edge, epoch, lease, now);
        self.note_news(beat).kept
    }

    /// As in the product: its driver looks if there is news.
    pub(super) fn note_news(&mut self, beat: Beat) -> Beat {
        if beat.news {
            self.driver.progressed();
        }
        beat
    }
}

impl World {
    /// The driver of the meeting that this link has opened is told.
    fn notice(&mut self, c: usize, opened: Option<(Epoch, bool)>, notice: impl FnOnce(Epoch) -> Notice) {
        let forgets = self.plan.broken.early;
        if let (Some((epoch, _)), Some(live)) = (opened, &mut self.cores[c].live)
            && !(forgets && live.driver.search.asks(epoch))
        {
            live.driver.notify(notice(epoch));
        }
    }

    pub(crate) fn core_accepts(&mut self, c: usize, s: usize) {
        let heard = self.now;
        self.cores[c].links.insert(s, Link { opened: None, heard });
    }

    pub(crate) fn core_waits(&self, c: usize, s: usize) -> bool {
        self.cores[c].blocked.contains(&s)
    }

    pub(super) fn close(&mut self, c: usize, s: usize) {
        self.send_down(s, Down::Closed);
        self.streams[s].core_open = false;
        self.cores[c].links.remove(&s);
    }

    pub(super) fn tell_edge(&mut self, s: usize, message: ToEdge) {
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
                    live.machine.captures.handle_answer(epoch, number, core);
                    live.tally();
                    self.tell(|_| told);
                }
            }
            Up::Message(ToCore::State { state, detail, .. }) => {
                self.notice(c, opened, |epoch| Notice::State(epoch, state, detail));
            }
            Up::Message(ToCore::HandOver { .. }) => self.notice(c, opened, Notice::HandOver),
            Up::Message(ToCore::Close { reason, .. }) => {
                let name = self.name(edge);
                if let (Some((epoch, _)), Some(live)) = (opened, &mut self.cores[c].live) {
                    live.machine.captures.handle_left(&name, epoch);
                }
                if let Some(link) = self.cores[c].links.get_mut(&s) {
                    link.opened = opened.map(|(epoch, _)| (epoch, false));
                }
                self.notice(c, opened, |epoch| Notice::Closed(epoch, reason));
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
            let lost = live.is_none_or(|live| !live.renew(&name, epoch, counted, now));
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
        let done = ToEdge::Done { alias: ALIAS, participant: ParticipantAlias(0), spurt: SpurtNo(n) };
        let Some((epoch, _)) = self.cores[c].links.get(&s).and_then(|l| l.opened) else { return };
        let core = &mut self.cores[c];
        let Some(live) = &mut core.live else { return };
        let key = key(epoch, n);
        let in_time = live.machine.captures.owner(epoch).is_some() && live.machine.captures.takes(epoch, captured);
        let out = core.disk.done.contains_key(&key) && !live.waiting.iter().any(|(_, k, _)| *k == key);
        let fenced = live.machine.captures.is_fenced(epoch) && !live.undone.contains(&key);
        if out || !in_time || fenced {
            // Nothing more will come of it.
            return self.tell_edge(s, done);
        }
        self.oracle.accepts(c, epoch, edge);
        let (no, new) = (live.no, live.undone.insert(key.clone()));
        if live.rest.origin.is_none() {
            self.update(c, |record| record.origin = Some(captured), |_| Then::Nothing);
        }
        if new {
            self.write(c, vec![Write::Append(key.clone())], Then::Durable { live: no, key });
        }
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

    pub(super) fn open_live(&mut self, c: usize, s: usize, epoch: Epoch, term: Term) -> Result<(), NotHere> {
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
            Some(live) if live.machine.captures.owner(epoch).is_some_and(|o| o.edge == edge) => Ok(()),
            Some(_) => Err(RefusedReason::NotAllowed.into()),
            None => Err(match core.disk.record.as_ref().map(|r| r.serving.clone()) {
                Some(Serving { by: Some(by), term, .. }) => NotHere::Moved(by, term),
                Some(_) => RefusedReason::Ended.into(),
                None => RefusedReason::UnknownMeeting.into(),
            }),
        };
        self.opened(c, s, epoch, opened, false);
    }

    pub(super) fn opened(&mut self, c: usize, s: usize, epoch: Epoch, opened: Result<(), NotHere>, leased: bool) {
        let (edge, now) = (self.name(self.streams[s].edge), self.both_clocks(c));
        let lease = lease_for(self.rtt(c, self.streams[s].edge));
        match opened {
            Ok(()) => {
                if let Some(link) = self.cores[c].links.get_mut(&s) {
                    link.opened = Some((epoch, leased));
                }
                let Some(live) = &mut self.cores[c].live else { return };
                // Streams are numbered as they are accepted.
                if live.machine.captures.handle_opened(epoch, s as u64, s) {
                    live.rep.handle_attached();
                }
                if leased {
                    live.renew(&edge, epoch, lease, now);
                    self.notice(c, Some((epoch, true)), Notice::Opened);
                } else {
                    live.machine.captures.handle_left(&edge, epoch);
                    self.notice(c, Some((epoch, false)), Notice::Late);
                }
            }
            Err(NotHere::Refused(reason)) => self.tell_edge(s, ToEdge::Refused { alias: ALIAS, reason }),
            Err(NotHere::Moved(core, term)) => self.tell_edge(s, ToEdge::Moved { alias: ALIAS, core, term }),
        }
    }
}
