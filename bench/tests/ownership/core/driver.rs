//! Does what a meeting's [`Machine`] asks, one action after the other, and feeds it what happens: as `core_node::meetings::supervise`.
//!
//! What waits there waits here for an event: [`Wait`]. What comes meanwhile lies in its queue, and of what is there when the driver
//! looks again any may be the next.

use std::{collections::VecDeque, time::Instant};

use core_node::{
    meeting::{
        Notice,
        captures::Now,
        machine::{Action, StatusChange, seek::Declined},
    },
    replicate::sender::Settled,
    store::record::{Gap, MeetingRecord},
};
use mesh::{
    mandate::EdgeKey,
    wire::{Epoch, control::ToEdge, request::Request},
};

use super::{Live, Then, seek::Search};
use crate::{
    edge::ALIAS,
    world::{Asked, SECOND, World},
};

/// A meeting that nobody could get into is given up this long after the last fault, or not at all.
const GIVES_UP: u64 = 20 * SECOND;

#[derive(Debug, Default)]
pub(super) struct Driver {
    notices: VecDeque<Notice>,
    /// The backlog has changed, or what is known of leases.
    progress: bool,
    /// Who is there has changed.
    members: bool,
    phase: Phase,
    wait: Option<Wait>,
    pub(super) search: Search,
    /// This edge captured under its lease when it was decided that the meeting is over.
    captured: Option<(usize, Epoch)>,
}

/// Where it is in its loop.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Begin,
    Input,
    Advancing,
    Concluding,
    Over,
}

/// What an action waits for, and what follows.
#[derive(Debug)]
enum Wait {
    /// The change of that number is on its way to the disk; whether the standby is to have it as well.
    Disk(u64, bool, After),
    /// The standby is to have it.
    Settled(u64, After),
}

#[derive(Debug)]
enum After {
    Nothing,
    Stopped(Epoch),
    Gap(Gap),
    Told(StatusChange),
}

/// Something that the driver finds when it looks what has come in.
#[derive(Debug, Clone, Copy)]
enum Input {
    Notice,
    Timeout,
    Members,
    Progress,
    Found,
}

impl Driver {
    /// As `Meeting::notify`.
    pub(super) fn notify(&mut self, notice: Notice) {
        self.notices.push_back(notice);
    }

    /// As `Meeting::progressed`.
    pub(super) fn progressed(&mut self) {
        self.progress = true;
    }

    pub(super) fn members_changed(&mut self) {
        self.members = true;
    }

    /// The meeting is another core's.
    pub(super) fn stop(&mut self) {
        self.phase = Phase::Over;
    }

    fn inputs(&self, timeout: Option<Instant>, now: Instant) -> impl Iterator<Item = Input> {
        let due = timeout.is_some_and(|at| at <= now);
        let inputs = [
            (!self.notices.is_empty(), Input::Notice),
            (due, Input::Timeout),
            (self.members, Input::Members),
            (self.progress, Input::Progress),
            (self.search.is_found(), Input::Found),
        ];
        inputs.into_iter().filter(|(here, _)| *here).map(|(_, input)| input)
    }
}

impl Live {
    /// When its driver is next to be woken.
    pub(super) fn driver_due(&self) -> Option<Instant> {
        self.machine.poll_timeout().map(|(at, _)| at).filter(|_| self.driver.phase == Phase::Input)
    }

    fn advance(&mut self, present: usize, now: Now) {
        self.driver.phase = Phase::Advancing;
        self.machine.advance(self.undone.len(), 0, present, now);
    }

    /// All of a phase's actions are done.
    fn next_phase(&mut self, now: Now) {
        self.driver.phase = match self.driver.phase {
            Phase::Advancing => {
                self.machine.conclude(self.undone.len(), 0, now);
                Phase::Concluding
            }
            _ => Phase::Input,
        };
    }
}

impl World {
    /// Goes on until it waits.
    pub(super) fn drive(&mut self, c: usize) {
        while self.oracle.violation.is_none() && self.turn(c) {}
    }

    /// Does one thing; false if it waits.
    fn turn(&mut self, c: usize) -> bool {
        let (now, members) = (self.both_clocks(c), self.cores[c].members.clone());
        if !self.is_waited_for(c) {
            return false;
        }
        let present = self.present();
        let Some(live) = &mut self.cores[c].live else { return false };
        live.machine.know(members);
        match live.driver.phase {
            Phase::Over => return false,
            Phase::Begin => {
                live.advance(present, now);
                self.note_end(c);
            }
            Phase::Input => return self.input(c),
            Phase::Advancing | Phase::Concluding => match live.machine.poll_action() {
                Some(action) => self.obey_machine(c, action),
                None => live.next_phase(now),
            },
        }
        true
    }

    /// Hands in one of the things that have come; false if there are none.
    fn input(&mut self, c: usize) -> bool {
        self.begin_step(c);
        let (now, present) = (self.both_clocks(c), self.present());
        let Some(live) = &mut self.cores[c].live else { return false };
        let inputs: Vec<Input> = live.driver.inputs(live.machine.poll_timeout().map(|(at, _)| at), now.at).collect();
        let at = if inputs.len() > 1 { self.rng.range(0, inputs.len() as u64) as usize } else { 0 };
        let (machine, driver) = (&mut live.machine, &mut live.driver);
        match inputs.get(at) {
            None => return false,
            Some(Input::Notice) => {
                driver.notices.pop_front().into_iter().for_each(|notice| machine.handle_notice(notice, now))
            }
            Some(Input::Timeout) => machine.handle_timeout(now),
            Some(Input::Members) => {
                driver.members = false;
                machine.handle_members(now);
            }
            Some(Input::Progress) => driver.progress = false,
            Some(Input::Found) => {
                driver.search.take().into_iter().for_each(|found| machine.handle_found(found, now));
            }
        }
        live.advance(present, now);
        self.note_end(c);
        true
    }

    /// Whether the last action is done.
    fn is_waited_for(&mut self, c: usize) -> bool {
        let Some(live) = &mut self.cores[c].live else { return false };
        match live.driver.wait.take() {
            None => true,
            Some(Wait::Settled(number, after)) => match live.rep.settled(number) {
                Settled::Yes => {
                    self.acted_on(c, number, after);
                    true
                }
                Settled::No => {
                    live.driver.wait = Some(Wait::Settled(number, after));
                    false
                }
                Settled::Never => {
                    live.driver.stop();
                    false
                }
            },
            wait => {
                live.driver.wait = wait;
                false
            }
        }
    }

    /// What an action wrote is on disk.
    pub(super) fn acted(&mut self, c: usize, no: u64) {
        let Some(live) = self.cores[c].live(no) else { return };
        match live.driver.wait.take() {
            Some(Wait::Disk(number, true, after)) => live.driver.wait = Some(Wait::Settled(number, after)),
            Some(Wait::Disk(number, false, after)) => self.acted_on(c, number, after),
            wait => live.driver.wait = wait,
        }
    }

    fn acted_on(&mut self, c: usize, number: u64, after: After) {
        let Some(live) = &mut self.cores[c].live else { return };
        match after {
            After::Nothing => {}
            After::Stopped(epoch) => {
                live.machine.captures.handle_stopped(epoch, number);
                live.settle_witnesses();
            }
            After::Gap(gap) => {
                self.tell(|_| format!("core {c} publishes a gap: {gap:?}"));
                self.oracle.gaps.push(gap);
            }
            After::Told(change) => self.tell(|_| format!("core {c} says: {change:?}")),
        }
    }

    fn obey_machine(&mut self, c: usize, action: Action) {
        let Some(live) = &mut self.cores[c].live else { return };
        match action {
            Action::Seek(step) => live.driver.search.begin(step),
            Action::DropSeek => live.driver.search.drop(),
            Action::Declined(by) => {
                let silent = by.silent.then_some(by.edge);
                silent.into_iter().for_each(|edge| live.driver.search.note_silent(edge));
            }
            Action::Silent(edge) => live.driver.search.note_silent(edge),
            Action::Tally => live.tally(),
            Action::Leave(epoch) => self.tell_to_leave(c, epoch),
            Action::Write => self.change(c, false, After::Nothing, |_| {}),
            Action::Stopped(epoch) => self.change(c, false, After::Stopped(epoch), |_| {}),
            Action::Fence { below, but } => live.machine.captures.fence(below, but),
            Action::Gap(gap) => self.add_gap(c, gap),
            Action::Owed(epoch, gap) => {
                live.machine.captures.note_owed(epoch, None);
                self.add_gap(c, gap);
            }
            Action::NoGap => self.change(c, true, After::Nothing, end_gap),
            Action::Tell(change) => self.tell_status(c, change),
            Action::NoWitness => live.rep.handle_no_witness(),
            Action::End(_) => self.ended(c),
            // All that was said here is whole, and a status is told when it is written.
            Action::EndOpen { .. } | Action::Publish(_) => {}
            Action::Capturing | Action::Unmet(..) | Action::Met(_) => {}
        }
    }

    /// As in `Meeting::update` if the standby is to have it (`settled`), else as in `Meeting::update_here`.
    fn change(&mut self, c: usize, settled: bool, after: After, change: impl FnOnce(&mut MeetingRecord)) {
        let Some(no) = self.cores[c].live.as_ref().map(|live| live.no) else { return };
        let mut written = 0;
        self.update(c, change, |number| {
            written = number;
            Then::Acted(no)
        });
        if let Some(live) = &mut self.cores[c].live {
            live.driver.wait = Some(Wait::Disk(written, settled, after));
        }
    }

    fn add_gap(&mut self, c: usize, gap: Gap) {
        self.change(c, true, After::Gap(gap.clone()), |record| {
            end_gap(record);
            record.add_gap(gap);
        });
    }

    /// As in `supervise::tell`.
    fn tell_status(&mut self, c: usize, change: StatusChange) {
        let (wall, after) = (self.wall(c), After::Told(change.clone()));
        self.change(c, true, after, |record| {
            record.status = change.status;
            end_gap(record);
            record.gaps.extend(change.gap);
            (record.sub_code, record.detail) = match change.failure {
                Some((code, detail)) => (Some(code), detail),
                None => (change.left.map(Into::into), None),
            };
            record.ended_at = change.status.ended().then_some(wall);
        });
    }

    fn tell_to_leave(&mut self, c: usize, epoch: Epoch) {
        let meeting = self.meeting;
        let Some(live) = &self.cores[c].live else { return };
        let owner = live.machine.captures.owner(epoch).map(|owner| owner.edge.clone());
        if let Some(s) = live.machine.captures.link(epoch) {
            self.tell_edge(s, ToEdge::Leave { alias: ALIAS });
        }
        if let Some(edge) = owner {
            let to = self.index(&edge);
            self.ask(c, to, Request::Release { meeting, key: EdgeKey::default() }, Asked::Release);
        }
    }

    /// The machine may just have decided that the meeting is over: does an edge capture it then that owns it?
    fn note_end(&mut self, c: usize) {
        let now = self.clock(c);
        let Some(live) = self.cores[c].live.as_ref().filter(|live| live.machine.status().ended()) else { return };
        let held = |epoch| (0..2).any(|slot| live.machine.captures.held(slot, now) == Some(epoch));
        let captured = self.capturing().into_iter().find(|(_, epoch)| held(*epoch));
        self.cores[c].live.iter_mut().for_each(|live| live.driver.captured = captured);
    }

    fn ended(&mut self, c: usize) {
        let Some(live) = self.cores[c].live.take() else { return };
        let (status, why) = (live.rest.status, live.rest.sub_code);
        self.tell(|_| format!("core {c} ends the meeting: {status:?}, {why:?}"));
        let late = self.calm.is_some_and(|calm| self.now > calm + GIVES_UP);
        self.oracle.ends(c, status, why, live.driver.captured, late);
    }
}

fn end_gap(record: &mut MeetingRecord) {
    record.gaps.retain(|gap| gap.to.is_some());
}

/// The meeting is not this core's to place.
pub(super) fn not_here() -> Declined {
    Declined::Refused("another core serves it".into())
}
