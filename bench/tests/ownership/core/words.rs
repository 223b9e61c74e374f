//! What is taken in is transcribed, written, and published once the standby has it: as `core_node::publish` does.

use core_node::{
    key::SpurtKey,
    replicate::{
        entry::{DoneSpurt, Entry},
        sender::Settled,
    },
    store::DoneMark,
};
use mesh::{clock::Micros, trace::TraceContext, wire::control::ToEdge};

use super::{Then, Write};
use crate::{
    edge::ALIAS,
    world::{Event, MS, World},
};

pub(super) fn done(key: &SpurtKey, words: u64) -> DoneSpurt {
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

impl World {
    pub(super) fn transcribe(&mut self, c: usize, key: SpurtKey) {
        let by = self.rng.range(50 * MS, 500 * MS);
        let (life, live) = (self.life(c), self.cores[c].lives);
        self.after(by, Event::Transcribed(c, life, live, key));
    }

    pub(crate) fn core_transcribed(&mut self, c: usize, no: u64, key: SpurtKey) {
        if let Some(live) = self.cores[c].live(no) {
            live.finals.push_back(key);
            self.core_pump(c);
        }
    }

    /// A spurt is on disk.
    pub(super) fn durable(&mut self, c: usize, no: u64, key: SpurtKey) {
        let core = &mut self.cores[c];
        let done = core.disk.done.contains_key(&key);
        if let Some(live) = core.live(no)
            && !done
            && live.undone.contains(&key)
        {
            self.transcribe(c, key);
        }
    }

    /// Words are on disk here: as in `Publisher::finish`.
    pub(super) fn finished(&mut self, c: usize, no: u64, key: SpurtKey, words: u64) {
        let now = self.clock(c);
        let Some(live) = self.cores[c].live(no) else { return };
        let mut number = live.rep.written();
        if live.rep.wants_entries() {
            number = live.rep.push(&Entry::Finish { spurts: vec![done(&key, words)], segment: None, cover: None }, now);
        }
        live.waiting.push((number, key, words));
    }

    pub(super) fn publish(&mut self, c: usize) {
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
            live.driver.progressed();
            let to = live.machine.captures.link(key.epoch);
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
    pub(super) fn finish(&mut self, c: usize) {
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
}
