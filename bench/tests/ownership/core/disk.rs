//! A core's disk: what is written to it in order, and what follows once it is there.

use std::collections::{BTreeMap, BTreeSet};

use core_node::{key::SpurtKey, replicate::receiver::Receiver, store::record::MeetingRecord};
use mesh::{
    identity::NodeId,
    wire::{Epoch, Term, control::ToEdge, request::Response},
};

use crate::{authority::Ask, edge::ALIAS, world::World};

/// What survives a crash.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) record: Option<MeetingRecord>,
    pub(super) done: BTreeMap<SpurtKey, u64>,
    pub(super) log: BTreeSet<SpurtKey>,
}

pub(super) enum Write {
    Record(Box<MeetingRecord>),
    Done(SpurtKey, u64),
    Append(SpurtKey),
    Forget,
}

pub(super) enum Then {
    Nothing,
    Persisted(u64),
    /// The authority is to hear of the standby.
    Claim(u64, u64, NodeId),
    Load,
    /// The driver of this meeting waits for it.
    Acted(u64),
    /// It is noted that this edge is asked.
    Begun {
        step: u64,
        edge: usize,
    },
    /// The rows are written, by the change of this number.
    Stored {
        step: u64,
        number: u64,
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
    /// It goes on alone.
    Alone(Term),
    Kept {
        to: usize,
        request: u64,
    },
}

impl Disk {
    pub(super) fn apply(&mut self, writes: Vec<Write>) {
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

impl World {
    /// The next write has got to the disk.
    pub(crate) fn core_disk(&mut self, c: usize) {
        let Some((writes, then)) = self.cores[c].writes.pop_front() else { return };
        self.cores[c].disk.apply(writes);
        self.then(c, then);
        self.work(c);
        self.core_pump(c);
    }

    pub(super) fn then(&mut self, c: usize, then: Then) {
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
            Then::Acted(live) => self.acted(c, live),
            Then::Begun { step, edge } => self.begun(c, step, edge),
            Then::Stored { step, number } => self.stored(c, step, number),
            Then::Durable { live, key } => self.durable(c, live, key),
            Then::Final { live, key, words } => self.finished(c, live, key, words),
            Then::TookOver { term, former, call } => self.took_over(c, term, former, call),
            Then::SteppedDown { core, term } => self.stepped_down(c, core, term),
            Then::Alone(term) => self.alone(c, term),
            Then::Kept { to, request } => {
                self.cores[c].hands = false;
                let next = self.cores[c].receiver.next();
                self.respond(request, c, to, Response::Replicated { next });
            }
        }
    }

    fn took_over(&mut self, c: usize, term: Term, former: Option<usize>, call: Option<(usize, Epoch)>) {
        self.cores[c].hands = false;
        self.cores[c].receiver = Receiver::default();
        self.take_up(c, false);
        if let Some(former) = former {
            self.core_tell_former(c, former, 0);
        }
        if let Some((s, epoch)) = call {
            self.cores[c].blocked.remove(&s);
            let opened = self.open_live(c, s, epoch, term);
            self.opened(c, s, epoch, opened, true);
        }
    }

    fn stepped_down(&mut self, c: usize, core: usize, term: Term) {
        self.cores[c].hands = false;
        self.tell(|_| format!("core {c} steps down for core {core}"));
        let Some(live) = self.cores[c].live.take() else { return };
        self.write(c, vec![Write::Forget], Then::Nothing);
        let core = self.name(core);
        for (_, s) in live.machine.captures.links() {
            self.tell_edge(s, ToEdge::Moved { alias: ALIAS, core: core.clone(), term });
        }
    }

    fn alone(&mut self, c: usize, term: Term) {
        self.cores[c].hands = false;
        let me = self.name(c);
        let Some(live) = &mut self.cores[c].live else { return };
        live.shipping = false;
        live.machine.captures.handle_term(term);
        live.rep.handle_begun(term);
        let links = live.machine.captures.links();
        self.oracle.serves(c, term);
        self.tell(|_| format!("core {c} goes on alone in term {}", term.0));
        for (_, s) in links {
            self.tell_edge(s, ToEdge::Moved { alias: ALIAS, core: me.clone(), term });
        }
    }
}
