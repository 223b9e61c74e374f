//! One meeting at the edge: its participants, their pipelines, and what is on its way to the core.
//!
//! ```text
//! Listening ──leave, ended, failed──▶ Flushing ──all done, or the deadline──▶ Over
//! ```
//!
//! Pure: the [`crate::driver`] feeds it events and moves what it says.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::{
        MeetingAlias, ParticipantAlias,
        control::{CloseReason, EdgeState, EdgeTotals, ToCore, ToEdge},
        request::Assignment,
    },
};

use crate::{
    connect::Event,
    media::{ParticipantId, RtpPacket},
    pipeline::{self, Pipeline},
    uplink::{self, Transmit, Uplink},
};

/// Participants one meeting may have over its life; the table is keyed by what the relay says.
const MAX_PARTICIPANTS: usize = 500;
/// How often changed totals are reported.
const STATS_EVERY: Duration = Duration::from_secs(1);

/// How a meeting is run; see `edge.example.toml`.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Of each participant's media path.
    pub pipeline: pipeline::Settings,
    /// Of the ring of what is not yet done.
    pub uplink: uplink::Settings,
}

/// How long a meeting that is left waits for its last words to be done.
pub const FLUSH: Duration = Duration::from_secs(30);

/// One meeting. See the module.
#[derive(Debug)]
pub struct Meeting {
    assignment: Assignment,
    alias: MeetingAlias,
    settings: Settings,
    participants: BTreeMap<ParticipantId, Participant>,
    uplink: Uplink,
    state: (EdgeState, Option<String>),
    phase: Phase,
    connected: bool,
    control: VecDeque<ToCore>,
    totals: Totals,
}

#[derive(Debug)]
struct Participant {
    alias: ParticipantAlias,
    name: Option<String>,
    present: bool,
    pipeline: Pipeline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listening,
    Flushing { reason: CloseReason, until: Instant, said: bool },
    Over,
}

#[derive(Debug)]
struct Totals {
    media_cpu_us: u64,
    uplink_bytes: u64,
    refused: u64,
    reported: EdgeTotals,
    next: Instant,
}

impl Meeting {
    /// The meeting of `assignment`, called `alias` on the link to its core.
    pub fn new(assignment: Assignment, alias: MeetingAlias, settings: Settings, now: Instant) -> Self {
        Self {
            uplink: Uplink::new(settings.uplink.clone()),
            assignment,
            alias,
            settings,
            participants: BTreeMap::new(),
            state: (EdgeState::Connecting, None),
            phase: Phase::Listening,
            connected: false,
            control: VecDeque::new(),
            totals: Totals {
                media_cpu_us: 0,
                uplink_bytes: 0,
                refused: 0,
                reported: EdgeTotals::default(),
                next: now + STATS_EVERY,
            },
        }
    }

    /// Something happened in the meeting.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Packet(packet) => self.handle_packet(packet, now),
            Event::Joined { id, name } => self.handle_joined(id, name),
            Event::Left { id } => self.handle_left(&id, now),
            Event::State { state, detail } => self.handle_state(state, detail),
        }
    }

    /// The connector has ended; `failure` says why if it was not asked to.
    pub fn handle_ended(&mut self, failure: Option<String>, now: Instant, wall: Micros) {
        match failure {
            Some(why) => {
                self.handle_state(EdgeState::Failed, Some(why));
                self.leave(CloseReason::Failed, now, wall);
            }
            None => self.leave(CloseReason::Ended, now, wall),
        }
    }

    /// No more is heard from here on; what was said is still brought home.
    pub fn leave(&mut self, reason: CloseReason, now: Instant, wall: Micros) {
        if self.phase != Phase::Listening {
            return;
        }
        self.phase = Phase::Flushing { reason, until: now + FLUSH, said: false };
        for participant in self.participants.values_mut() {
            participant.pipeline.finish(now, wall);
        }
        self.collect(now);
    }

    /// A control stream to `core` is up: say everything from the start.
    pub fn handle_connected(&mut self, core: &NodeId, now: Instant) {
        self.connected = true;
        self.control.clear();
        let Assignment { meeting, epoch, trace, .. } = self.assignment;
        self.control.push_back(ToCore::Open { alias: self.alias, meeting, epoch, trace });
        for (id, participant) in &self.participants {
            self.control.push_back(row(self.alias, id, participant));
            if !participant.present {
                self.control.push_back(ToCore::Left { alias: self.alias, participant: participant.alias });
            }
        }
        self.say_state();
        if let Phase::Flushing { said, .. } = &mut self.phase {
            *said = false;
        }
        self.uplink.handle_connected(core, now);
    }

    /// The control stream is gone.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.connected = false;
        self.control.clear();
        self.uplink.handle_disconnected(now);
    }

    /// The core spoke of this meeting.
    pub fn handle_message(&mut self, message: ToEdge, now: Instant, wall: Micros) {
        match message {
            ToEdge::Durable { participant, spurt, upto, .. } => self.uplink.handle_durable(participant, spurt, upto),
            ToEdge::Done { participant, spurt, .. } => self.uplink.handle_done(participant, spurt),
            ToEdge::Leave { .. } => self.leave(CloseReason::Asked, now, wall),
            ToEdge::Refused { reason, .. } => {
                tracing::info!(?reason, "the core refuses this meeting");
                self.phase = Phase::Over;
            }
            // Of the link, or of a version that this edge does not yet offer.
            ToEdge::Hello { .. }
            | ToEdge::Drain
            | ToEdge::Beat { .. }
            | ToEdge::Standby { .. }
            | ToEdge::Moved { .. } => {}
        }
    }

    /// A deadline has passed, or may have.
    pub fn handle_timeout(&mut self, now: Instant, wall: Micros) {
        for participant in self.participants.values_mut() {
            participant.pipeline.handle_timeout(now, wall);
        }
        self.collect(now);
        if now >= self.totals.next {
            self.totals.next = now + STATS_EVERY;
            self.say_totals();
        }
        if let Phase::Flushing { until, .. } = self.phase
            && now >= until
        {
            metrics::counter!("nearfield_edge_meeting_unflushed_total").increment(1);
            self.phase = Phase::Over;
        }
    }

    /// When [`Meeting::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Instant {
        let pipelines = self.participants.values().filter_map(|p| p.pipeline.poll_timeout());
        let flush = match self.phase {
            Phase::Flushing { until, .. } => Some(until),
            _ => None,
        };
        pipelines.chain(flush).fold(self.totals.next, Instant::min)
    }

    /// What is to be said on the control stream, while there is one.
    pub fn poll_control(&mut self) -> Option<ToCore> {
        self.control.pop_front()
    }

    /// What is to be written to spurt streams, while there is a connection.
    pub fn poll_transmit(&mut self, wall: Micros) -> Option<Transmit> {
        if !self.connected {
            return None;
        }
        let transmit = self.uplink.poll_transmit(wall);
        if transmit.is_none() {
            self.close_when_sent();
        }
        transmit
    }

    /// Whether every word of it is done, or given up.
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Listening => false,
            Phase::Flushing { said, .. } => said && self.control.is_empty() && self.uplink.is_empty(),
            Phase::Over => true,
        }
    }

    /// Whether the connector should be running.
    pub fn is_listening(&self) -> bool {
        self.phase == Phase::Listening
    }

    /// CPU time spent in here, and bytes put on the wire, as the driver measured them.
    pub fn account(&mut self, media_cpu: Duration, uplink_bytes: u64) {
        self.totals.media_cpu_us += media_cpu.as_micros() as u64;
        self.totals.uplink_bytes += uplink_bytes;
    }

    fn handle_packet(&mut self, packet: RtpPacket, now: Instant) {
        if self.phase != Phase::Listening || !self.admit(&packet.participant, None) {
            return;
        }
        if let Some(participant) = self.participants.get_mut(&packet.participant) {
            participant.pipeline.handle_packet(packet, now);
            drain(participant, &mut self.uplink, now);
        }
    }

    fn handle_joined(&mut self, id: ParticipantId, name: Option<String>) {
        if !self.admit(&id, name.clone()) {
            return;
        }
        let Some(participant) = self.participants.get_mut(&id) else { return };
        let renamed = name.is_some() && participant.name != name;
        if renamed || !participant.present {
            participant.name = name.or(participant.name.take());
            participant.present = true;
            let row = row(self.alias, &id, participant);
            self.say(row);
        }
    }

    fn handle_left(&mut self, id: &ParticipantId, now: Instant) {
        let Some(participant) = self.participants.get_mut(id) else { return };
        participant.present = false;
        let left = ToCore::Left { alias: self.alias, participant: participant.alias };
        self.collect(now);
        self.say(left);
    }

    fn handle_state(&mut self, state: EdgeState, detail: Option<String>) {
        self.state = (state, detail);
        self.say_state();
    }

    /// Makes sure `id` is in the table; `false` if the table is full.
    fn admit(&mut self, id: &ParticipantId, name: Option<String>) -> bool {
        if self.participants.contains_key(id) {
            return true;
        }
        if self.participants.len() >= MAX_PARTICIPANTS {
            self.totals.refused += 1;
            if self.totals.refused == 1 {
                tracing::warn!(limit = MAX_PARTICIPANTS, "participant table full: later participants are not heard");
            }
            metrics::counter!("nearfield_edge_meeting_participants_refused_total").increment(1);
            return false;
        }
        let alias = ParticipantAlias(self.participants.len() as u16);
        let pipeline = Pipeline::new(self.assignment.vad, self.settings.pipeline.clone());
        let participant = Participant { alias, name, present: true, pipeline };
        let row = row(self.alias, id, &participant);
        self.participants.insert(id.clone(), participant);
        self.say(row);
        true
    }

    fn collect(&mut self, now: Instant) {
        for participant in self.participants.values_mut() {
            drain(participant, &mut self.uplink, now);
        }
    }

    fn close_when_sent(&mut self) {
        if let Phase::Flushing { reason, said: said @ false, .. } = &mut self.phase {
            *said = true;
            let close = ToCore::Close { alias: self.alias, reason: *reason };
            self.say_totals();
            self.say(close);
        }
    }

    fn say_state(&mut self) {
        let (state, detail) = self.state.clone();
        self.say(ToCore::State { alias: self.alias, state, detail });
    }

    fn say_totals(&mut self) {
        let totals = self.totals();
        if totals != self.totals.reported && self.connected {
            self.totals.reported = totals;
            self.say(ToCore::Stats { alias: self.alias, totals });
        }
    }

    /// While there is no connection nothing is kept: the next one starts from the tables.
    fn say(&mut self, message: ToCore) {
        if self.connected {
            self.control.push_back(message);
        }
    }

    fn totals(&self) -> EdgeTotals {
        let mut sum = EdgeTotals {
            uplink_bytes: self.totals.uplink_bytes,
            media_cpu_us: self.totals.media_cpu_us,
            packets_overflowed: self.uplink.overflowed(),
            ..EdgeTotals::default()
        };
        for totals in self.participants.values().map(|p| p.pipeline.totals()) {
            sum.packets_in += totals.packets_in;
            sum.opus_bytes_in += totals.opus_bytes_in;
            sum.media_ms_in += totals.media_ms_in;
            sum.packets_decoded += totals.packets_decoded;
            sum.packets_forwarded += totals.packets_forwarded;
            sum.packets_lost += totals.packets_lost;
        }
        sum
    }
}

fn drain(participant: &mut Participant, uplink: &mut Uplink, now: Instant) {
    while let Some(output) = participant.pipeline.poll_output() {
        uplink.handle_output(participant.alias, output, now);
    }
}

fn row(meeting: MeetingAlias, id: &ParticipantId, participant: &Participant) -> ToCore {
    ToCore::Participant {
        alias: meeting,
        participant: participant.alias,
        id: id.as_str().to_owned(),
        name: participant.name.clone(),
    }
}
