//! One meeting at the edge: its participants, their pipelines, and what is on its way to the core.
//!
//! ```text
//! Listening ──leave, ended, failed, lease over──▶ Flushing ──all done, or the deadline──▶ Over
//! ```
//!
//! Which core that is [`crate::failover`] decides; by what right the edge listens, `ownership`. Speech of a lease that is over
//! is uploaded as *late* speech.
//!
//! Pure: the [`crate::driver`] feeds it events and moves what it says. After a wait the driver calls
//! [`Meeting::handle_timeout`] before it hands in anything else, so that a lease that ran out while the process stood still
//! is noticed first.

mod cores;
mod offer;
mod ownership;
mod people;
mod report;
mod settings;
mod steps;
mod totals;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use geo::RegionId;
use mesh::{
    clock::Micros,
    identity::NodeId,
    mandate::EdgeKey,
    wire::{
        MeetingAlias, ParticipantAlias, SpurtNo,
        control::{CloseReason, EdgeState, ToCore},
        request::{Assignment, Source, VadSettings},
        spurt::Item,
    },
};

pub(crate) use self::people::flooded;
pub use self::{cores::Beat, offer::Offer, settings::Settings};
use self::{
    ownership::{Ownership, Right},
    people::Participant,
    totals::Totals,
};
use crate::{
    budget::Budget,
    connect::{Event, Failure},
    failover::Failover,
    media::ParticipantId,
    pipeline::Pipeline,
    uplink::{
        SpurtKey, Transmit, Uplink,
        format::{Origin, Record},
        ladder::Ladder,
        spill::Spoken,
    },
};

/// Records written to disk in one go, and a spurt's more.
const SPILL_BATCH: usize = 512;
/// How often it is looked what is to be written there.
const SPILL_EVERY: Duration = Duration::from_millis(250);

/// How long a meeting that is left waits for its last words to be done: while it has a core, without any word from it.
/// Without a core it waits as long as speech is kept.
pub const FLUSH: Duration = Duration::from_secs(30);
/// How long a media path in another process may take to yield the rest of what was said.
const REST: Duration = Duration::from_secs(2);
/// How long an offered meeting waits for its lease.
const OFFER: Duration = Duration::from_secs(10);

/// What the driver is to do about cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep a link to it from now on.
    Watch(NodeId),
    /// Drop the link to it.
    Unwatch(NodeId),
    /// It serves from now on: [`Meeting::handle_opening`] it when, or as soon as, its link is up.
    Turn(NodeId),
    /// The lease is over: no core is to be asked to renew it, for it would hold the meeting to be captured.
    Release,
}

/// One meeting. See the module.
#[derive(Debug)]
pub struct Meeting {
    assignment: Assignment,
    key: EdgeKey,
    regions: Vec<RegionId>,
    settings: Settings,
    ownership: Ownership,
    failover: Failover,
    /// What the primary calls it on the stream that is up.
    opened: Option<MeetingAlias>,
    /// That stream is of version 2.
    beats: bool,
    participants: BTreeMap<ParticipantId, Participant>,
    last_alias: Option<ParticipantAlias>,
    /// The first spurt of whoever comes next: later than any of those who are forgotten.
    first_spurt: SpurtNo,
    uplink: Uplink,
    ladder: Ladder,
    next_step: Instant,
    budget: Budget,
    /// The media path is in another process, which has not ended.
    apart: bool,
    state: (EdgeState, Option<String>, Instant),
    phase: Phase,
    /// The lease is over: what is left is late speech.
    late: bool,
    /// An earlier process has captured it.
    recovered: bool,
    /// No core takes it.
    refused: bool,
    /// Until when it is captured while a successor is sought.
    hand_over: Option<Instant>,
    /// The core has told it to leave: it waits for what is here, and for nobody to take the meeting.
    dismissed: bool,
    offered: Instant,
    /// When the primary was last opened, or last acknowledged anything.
    progressed: Instant,
    control: VecDeque<ToCore>,
    actions: VecDeque<Action>,
    /// Rows of the participant table that the disk has not seen.
    rows: Vec<Record>,
    next_spill: Instant,
    /// The disk refused what was last to be spilled.
    unspilled: bool,
    totals: Totals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listening,
    Flushing { reason: CloseReason, since: Instant, said: bool },
    Over,
}

impl Meeting {
    /// The meeting that was offered.
    pub fn new(offer: Offer, settings: Settings, now: Instant) -> Self {
        let Offer { assignment, term, standby, leased, key, regions } = offer;
        let core = assignment.core.clone();
        let mut this = Self {
            ownership: Ownership::new(assignment.epoch, leased, settings.orphan),
            failover: Failover::new(settings.failover.clone(), core, term, standby, leased, now),
            uplink: Uplink::new(settings.uplink.clone()),
            ladder: Ladder::new(now),
            next_step: now,
            budget: Budget::new(settings.budget.clone(), now),
            apart: false,
            assignment,
            key,
            regions,
            settings,
            opened: None,
            beats: leased,
            participants: BTreeMap::new(),
            last_alias: None,
            first_spurt: SpurtNo::default(),
            state: (EdgeState::Connecting, None, now),
            phase: Phase::Listening,
            late: false,
            recovered: false,
            refused: false,
            hand_over: None,
            dismissed: false,
            offered: now,
            progressed: now,
            control: VecDeque::new(),
            actions: VecDeque::new(),
            rows: vec![],
            next_spill: now,
            unspilled: false,
            totals: Totals::new(now),
        };
        this.follow(now);
        this
    }

    /// A meeting that an earlier process has left: only what that had spilled is to be uploaded.
    pub fn recovered(origin: Origin, rows: Vec<Record>, spurts: Vec<Spoken>, settings: Settings, now: Instant) -> Self {
        let Origin { meeting, epoch, core, term, trace, key } = origin;
        let source = Source::Whep { url: String::new(), token: None, participants: vec![] };
        let assignment = Assignment { meeting, epoch, core, source, vad: VadSettings::default(), trace };
        let mut this = Self::new(Offer { term, key, ..Offer::assigned(assignment) }, settings, now);
        (this.late, this.beats, this.recovered) = (true, true, true);
        this.phase = Phase::Flushing { reason: CloseReason::LeaseOver, since: now, said: false };
        for row in rows {
            let Record::Participant { participant: alias, id, name } = row else { continue };
            let Ok(id) = ParticipantId::new(id) else { continue };
            let pipeline = Pipeline::new(this.assignment.vad, this.settings.pipeline.clone());
            this.last_alias = this.last_alias.max(Some(alias));
            this.participants.insert(id, Participant::new(alias, name, pipeline, now));
        }
        for (key, captured, items, end) in spurts {
            this.uplink.restore(key, captured, items, end, now);
        }
        this
    }

    /// Whose speech it is, for its folder on disk.
    pub fn origin(&self) -> Origin {
        let Assignment { meeting, epoch, trace, .. } = self.assignment;
        let (core, term, key) = (self.failover.serving().clone(), self.failover.term(), self.key);
        Origin { meeting, epoch, core, term, trace, key }
    }

    /// Whether a core in `region` may have its speech.
    pub fn may_be_in(&self, region: &RegionId) -> bool {
        self.regions.is_empty() || self.regions.contains(region)
    }

    /// Something happened in the meeting.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Packet(packet) => self.handle_packet(packet, now),
            Event::Joined { id, name, unheard } => self.handle_joined(id, name, unheard, now),
            Event::Left { id } => self.handle_left(&id, now),
            Event::State { state, detail } => self.handle_state(state, detail, now),
            Event::Apart => self.apart = true,
            Event::Speech { id, output } => self.handle_speech(&id, output, now),
            Event::Tally { id, totals } => {
                let Some(participant) = self.participants.get_mut(&id) else { return };
                if totals.packets_in < participant.tally.packets_in {
                    // The other process had forgotten them in between.
                    self.totals.keep(std::iter::once(participant.tally), 0);
                }
                participant.tally = totals;
            }
        }
    }

    /// The connector has ended; `failure` says why if it was not asked to.
    pub fn handle_ended(&mut self, failure: Option<Failure>, now: Instant, wall: Micros) {
        self.apart = false;
        match failure {
            Some(Failure { cause, why }) => {
                self.handle_state(EdgeState::Failed(cause), Some(why), now);
                self.leave(CloseReason::Failed, now, wall);
            }
            None => self.leave(CloseReason::Ended, now, wall),
        }
    }

    /// No more is heard from here on; what was said is still uploaded.
    pub fn leave(&mut self, reason: CloseReason, now: Instant, wall: Micros) {
        if self.phase != Phase::Listening {
            return;
        }
        self.phase = Phase::Flushing { reason, since: now, said: false };
        self.hand_over = None;
        for participant in self.participants.values_mut() {
            participant.paths.finish(now, wall);
        }
        self.collect(now);
    }

    /// The edge is going away: asks for a successor and leaves when there is one, or after a while. A core of version 1
    /// is not asked: it may see by gossip that this edge drains.
    pub fn hand_over(&mut self, now: Instant, wall: Micros) {
        self.uplink.spill_all();
        if !self.is_listening() || self.settings.hand_over.is_zero() {
            return self.leave(CloseReason::Drain, now, wall);
        }
        self.hand_over.get_or_insert(now + self.settings.hand_over);
        self.say_hand_over();
    }

    /// A deadline has passed, or may have.
    pub fn handle_timeout(&mut self, now: Instant, wall: Micros) {
        self.ownership.handle_timeout(self.failover.was_away(now), now);
        self.obey_ownership(now, wall);
        self.failover.handle_timeout(now);
        self.follow(now);
        self.step(now);
        for participant in self.participants.values_mut() {
            participant.paths.handle_timeout(now, wall);
        }
        self.collect(now);
        if self.totals.handle_timeout(now) {
            self.say_totals();
            self.say_given_up(false);
        }
        if self.hand_over.is_some_and(|until| until <= now) {
            metrics::counter!("nearfield_edge_hand_overs_unanswered_total").increment(1);
            self.leave(CloseReason::Drain, now, wall);
        }
        if self.ownership.right() == Right::Waiting && now >= self.offered + OFFER {
            tracing::info!("offered, but no lease came");
            self.phase = Phase::Over;
        }
        if matches!(self.phase, Phase::Flushing { since, .. } if now >= since + REST) {
            self.apart = false;
        }
        if self.flush_deadline().is_some_and(|until| until <= now) {
            metrics::counter!("nearfield_edge_meeting_unflushed_total").increment(1);
            self.say_close();
            self.phase = Phase::Over;
        }
    }

    /// When [`Meeting::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Instant {
        let pipelines = self.participants.values().filter_map(|p| p.paths.poll_timeout());
        let others = [self.flush_deadline(), self.ownership.poll_timeout(), self.hand_over];
        let first = self.totals.poll_timeout().min(self.failover.poll_timeout());
        pipelines.chain(others.into_iter().flatten()).fold(first, Instant::min)
    }

    /// What is to be said on the control stream, while there is one.
    pub fn poll_control(&mut self) -> Option<ToCore> {
        self.control.pop_front()
    }

    /// What is to be done about cores.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What is to be written to spurt streams, while there is a connection and the right to it.
    pub fn poll_transmit(&mut self, wall: Micros) -> Option<Transmit> {
        if !self.may_transmit() {
            return None;
        }
        let transmit = self.uplink.poll_transmit(wall);
        if transmit.is_none() && !self.apart {
            self.close_when_home();
        }
        transmit
    }

    /// What is to be written to disk; [`Meeting::handle_spilled`] follows.
    pub fn poll_spill(&mut self, now: Instant) -> Vec<Record> {
        if now < self.next_spill {
            return vec![];
        }
        self.next_spill = now + SPILL_EVERY;
        let mut records = std::mem::take(&mut self.rows);
        records.extend(self.uplink.poll_spill(SPILL_BATCH, now));
        records
    }

    /// What was last polled is on disk, which has given up `dropped` for it; or it could not be written.
    pub fn handle_spilled(&mut self, written: Result<Vec<SpurtKey>, String>, now: Instant) {
        self.uplink.handle_spilled(written.is_ok(), now);
        match written {
            Ok(dropped) => {
                if std::mem::take(&mut self.unspilled) {
                    tracing::info!("speech can be spilled again");
                }
                self.uplink.handle_dropped(&dropped);
            }
            Err(why) => {
                if !std::mem::replace(&mut self.unspilled, true) {
                    tracing::error!(why, "speech cannot be spilled: what is on disk stays, the rest is kept in memory");
                }
                metrics::counter!("nearfield_edge_spill_failures_total").increment(1);
            }
        }
    }

    /// The disk can neither be written nor read any more.
    pub fn handle_disk_gone(&mut self, why: &str) {
        tracing::error!(why, "what was spilled is lost: only memory is left for speech");
        metrics::counter!("nearfield_edge_spill_failures_total").increment(1);
        self.uplink.handle_disk_gone();
    }

    /// A spurt to be read from disk, so that it can be sent.
    pub fn poll_load(&mut self) -> Option<SpurtKey> {
        self.uplink.poll_load()
    }

    /// What the disk had of it.
    pub fn handle_loaded(&mut self, key: SpurtKey, items: Vec<Item>) {
        self.uplink.handle_loaded(key, items);
    }

    /// Whether what it has spilled is of no use any more, now that it is over.
    pub fn is_settled(&self) -> bool {
        self.uplink.is_empty() || self.refused
    }

    /// Whether every word of it is done, or given up.
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Listening => false,
            Phase::Flushing { said, .. } => said && self.control.is_empty() && self.uplink.is_empty() && !self.apart,
            Phase::Over => true,
        }
    }

    /// Whether the connector should be running.
    pub fn is_listening(&self) -> bool {
        let owned = matches!(self.ownership.right(), Right::Free | Right::Held | Right::Orphaned);
        self.phase == Phase::Listening && owned
    }

    /// Whether it holds the meeting's lease, as of the last call that had a time.
    pub fn is_owner(&self) -> bool {
        self.ownership.right() == Right::Held
    }

    /// Whether its primary is there, and this edge may send it speech.
    pub fn may_transmit(&self) -> bool {
        self.opened.is_some() && self.may_send()
    }

    /// Whether it will never listen (again).
    pub fn has_left(&self) -> bool {
        self.phase != Phase::Listening
    }

    /// CPU time spent in here, and bytes put on the wire, as the driver measured them.
    pub fn account(&mut self, media_cpu: Duration, uplink_bytes: u64) {
        self.totals.account(media_cpu, uplink_bytes);
    }

    fn may_send(&self) -> bool {
        match self.ownership.right() {
            Right::Free | Right::Held => true,
            Right::Waiting => self.has_left(),
            Right::Orphaned => false,
            Right::Lost(_) => self.late,
        }
    }

    fn flush_deadline(&self) -> Option<Instant> {
        let Phase::Flushing { since, .. } = self.phase else { return None };
        Some(match self.opened {
            Some(_) => since.max(self.progressed) + FLUSH,
            None => since + self.settings.uplink.max_age,
        })
    }

    fn handle_state(&mut self, state: EdgeState, detail: Option<String>, now: Instant) {
        self.state = (state, detail, now);
        self.say_state(now);
    }
}
