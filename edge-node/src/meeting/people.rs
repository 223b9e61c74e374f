//! Who is in the meeting, and what is heard of them.

use std::time::Instant;

use mesh::wire::{
    MeetingAlias, ParticipantAlias, SpurtNo,
    cause::Cause,
    control::{EdgeTotals, ToCore},
    spurt::Step,
};
use smallvec::SmallVec;

use super::{Meeting, Phase};
use crate::{
    budget::{self, Budget, Verdict},
    connect::Failure,
    media::{ParticipantId, RtpPacket},
    paths::Paths,
    pipeline::Pipeline,
    spurt::Output,
    transcode::Transcoder,
    uplink::{Uplink, format::Record},
};

/// Participants one meeting may have at a time; the table is keyed by what the relay says. Who has left, and of whom nothing is on
/// its way any more, makes room.
const MAX_PARTICIPANTS: usize = 500;

#[derive(Debug)]
pub(super) struct Participant {
    pub(super) alias: ParticipantAlias,
    pub(super) name: Option<String>,
    /// What they publish, if none of it can be heard.
    pub(super) unheard: Option<String>,
    pub(super) present: bool,
    pub(super) paths: Paths,
    /// One for each spurt under way.
    pub(super) transcoders: SmallVec<[Transcoder; 1]>,
    pub(super) budget: Budget,
    /// What its media path in another process has done.
    pub(super) tally: EdgeTotals,
}

impl Participant {
    pub(super) fn new(alias: ParticipantAlias, name: Option<String>, pipeline: Pipeline, now: Instant) -> Self {
        let budget = Budget::new(budget::Settings::of_participant(), now);
        Self {
            alias,
            name,
            unheard: None,
            present: true,
            paths: Paths::new(pipeline),
            transcoders: SmallVec::new(),
            budget,
            tally: EdgeTotals::default(),
        }
    }
}

impl Meeting {
    pub(super) fn handle_packet(&mut self, packet: RtpPacket, now: Instant) {
        if self.phase != Phase::Listening || !self.affords(&packet, now) || !self.admit(&packet.participant, None, now)
        {
            return;
        }
        if let Some(participant) = self.participants.get_mut(&packet.participant) {
            if participant.budget.handle_packet(packet.payload.len(), now) != Verdict::Within {
                metrics::counter!("nearfield_edge_flood_packets_dropped_total", "of" => "participant").increment(1);
                return;
            }
            participant.paths.handle_packet(packet, now);
            drain(participant, self.ladder.step(), &mut self.uplink, now);
        }
    }

    /// What a media path in another process yields; some of it after this side has left.
    pub(super) fn handle_speech(&mut self, id: &ParticipantId, output: Output, now: Instant) {
        if self.phase == Phase::Over || !self.admit(id, None, now) {
            return;
        }
        if let Some(participant) = self.participants.get_mut(id) {
            send(participant, output, self.ladder.step(), &mut self.uplink, now);
        }
    }

    pub(super) fn handle_joined(
        &mut self,
        id: ParticipantId,
        name: Option<String>,
        unheard: Option<String>,
        now: Instant,
    ) {
        if !self.admit(&id, name.clone(), now) {
            return;
        }
        let Some(participant) = self.participants.get_mut(&id) else { return };
        let renamed = name.is_some() && participant.name != name;
        if renamed || !participant.present || participant.unheard != unheard {
            participant.unheard = unheard;
            participant.name = name.or(participant.name.take());
            participant.present = true;
            self.rows.push(table_row(&id, participant));
            let row = |alias| row(alias, &id, participant);
            if let Some(row) = self.opened.map(row) {
                self.say(row);
            }
        }
    }

    pub(super) fn handle_left(&mut self, id: &ParticipantId, now: Instant) {
        let Some(participant) = self.participants.get_mut(id) else { return };
        participant.present = false;
        let left = participant.alias;
        self.collect(now);
        if let Some(alias) = self.opened {
            self.say(ToCore::Left { alias, participant: left });
        }
    }

    pub(super) fn collect(&mut self, now: Instant) {
        for participant in self.participants.values_mut() {
            drain(participant, self.ladder.step(), &mut self.uplink, now);
        }
    }

    /// Whether the meeting's budget has room for it. A flood that does not end ends the meeting.
    fn affords(&mut self, packet: &RtpPacket, now: Instant) -> bool {
        let verdict = self.budget.handle_packet(packet.payload.len(), now);
        if verdict != Verdict::Within {
            metrics::counter!("nearfield_edge_flood_packets_dropped_total", "of" => "meeting").increment(1);
        }
        if verdict == Verdict::Flooded {
            let failure = flooded(&self.settings.budget);
            tracing::warn!(why = failure.why, "leaving the meeting");
            self.handle_ended(Some(failure), now, packet.arrived_at);
        }
        verdict == Verdict::Within
    }

    /// Forgets one who has left and has nothing on its way; whether there was one.
    fn make_room(&mut self) -> bool {
        let done = |p: &&Participant| !p.present && p.paths.is_idle() && !self.uplink.holds(p.alias);
        let gone = self.participants.iter().filter(|(_, p)| done(p)).min_by_key(|(_, p)| p.alias);
        let Some(id) = gone.map(|(id, _)| id.clone()) else { return false };
        let Some(gone) = self.participants.remove(&id) else { return false };
        metrics::counter!("nearfield_edge_meeting_participants_forgotten_total").increment(1);
        self.first_spurt = self.first_spurt.max(gone.paths.next_spurt());
        let forwarded = gone.transcoders.iter().map(Transcoder::frames).sum();
        self.totals.keep(gone.paths.totals().chain([gone.tally]), forwarded);
        self.rows.push(Record::Forgotten { participant: gone.alias });
        if let Some(alias) = self.opened {
            self.say(ToCore::Forget { alias, participant: gone.alias });
        }
        true
    }

    /// A number that nobody in the table has, and that nobody has had for long.
    fn next_alias(&mut self) -> ParticipantAlias {
        let taken = |alias| self.participants.values().any(|p| p.alias == alias);
        let mut next = self.last_alias.map_or(0, |ParticipantAlias(last)| last.wrapping_add(1));
        while taken(ParticipantAlias(next)) {
            next = next.wrapping_add(1);
        }
        *self.last_alias.insert(ParticipantAlias(next))
    }

    /// Makes sure `id` is in the table; `false` if the table is full.
    fn admit(&mut self, id: &ParticipantId, name: Option<String>, now: Instant) -> bool {
        if self.participants.contains_key(id) {
            return true;
        }
        if self.participants.len() >= MAX_PARTICIPANTS && !self.make_room() {
            self.totals.refused += 1;
            if self.totals.refused == 1 {
                tracing::warn!(limit = MAX_PARTICIPANTS, "participant table full: later participants are not heard");
            }
            metrics::counter!("nearfield_edge_meeting_participants_refused_total").increment(1);
            return false;
        }
        let alias = self.next_alias();
        let pipeline = Pipeline::new(self.assignment.vad, self.settings.pipeline.clone());
        let mut participant = Participant::new(alias, name, pipeline, now);
        // Should they have been here before, no number is used again.
        participant.paths.number_from(self.first_spurt);
        let row = self.opened.map(|alias| row(alias, id, &participant));
        self.rows.push(table_row(id, &participant));
        self.participants.insert(id.clone(), participant);
        self.control.extend(row);
        true
    }
}

/// Why a flood ends a meeting.
pub(crate) fn flooded(budget: &budget::Settings) -> Failure {
    let budget::Settings { packets_per_second, bytes_per_second, patience } = budget;
    let why =
        format!("a flood: over {packets_per_second} packets or {bytes_per_second} bytes a second for {patience:?}");
    Failure { cause: Cause::Flooded, why }
}

pub(super) fn drain(participant: &mut Participant, step: Step, uplink: &mut Uplink, now: Instant) {
    while let Some(output) = participant.paths.poll_output() {
        send(participant, output, step, uplink, now);
    }
}

fn send(participant: &mut Participant, output: Output, step: Step, uplink: &mut Uplink, now: Instant) {
    let Participant { alias, transcoders, .. } = participant;
    let of = |spurt: Option<SpurtNo>| transcoders.iter().position(|transcoder| transcoder.spurt() == spurt);
    // As many as there are paths: one process of its own may have open no more spurts than that.
    let n = of(Some(output.spurt())).or_else(|| of(None)).unwrap_or(transcoders.len());
    if n == transcoders.len() {
        transcoders.push(Transcoder::default());
    }
    transcoders[n].push(output, step, &mut |output| uplink.handle_output(*alias, output, now));
}

pub(super) fn row(meeting: MeetingAlias, id: &ParticipantId, participant: &Participant) -> ToCore {
    ToCore::Participant {
        alias: meeting,
        participant: participant.alias,
        id: id.as_str().to_owned(),
        name: participant.name.clone(),
        unheard: participant.unheard.clone(),
    }
}

pub(super) fn table_row(id: &ParticipantId, participant: &Participant) -> Record {
    Record::Participant { participant: participant.alias, id: id.as_str().to_owned(), name: participant.name.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use std::collections::BTreeMap;

    use mesh::{
        clock::Micros,
        trace::TraceContext,
        wire::{
            Epoch, MeetingId, SpurtNo,
            request::{Assignment, Source, VadSettings},
            spurt::{Item, SpurtEnd},
        },
    };

    use super::*;
    use crate::{
        connect::Event,
        meeting::{Offer, Settings},
    };

    fn meeting(now: Instant) -> Meeting {
        let assignment = Assignment {
            meeting: MeetingId::from_u128(1),
            epoch: Epoch(1),
            core: "core-1".parse().unwrap(),
            source: Source::Whep { url: "http://relay.example/".into(), token: None, participants: vec![] },
            vad: VadSettings::default(),
            trace: TraceContext::new(1),
        };
        let mut meeting = Meeting::new(Offer::assigned(assignment), Settings::default(), now);
        meeting.handle_opening(MeetingAlias(1), false, now);
        meeting
    }

    fn id(name: &str) -> ParticipantId {
        ParticipantId::new(name).unwrap()
    }

    fn comes_and_goes(meeting: &mut Meeting, name: &str, now: Instant) {
        meeting.handle_event(Event::Joined { id: id(name), name: None, unheard: None }, now);
        meeting.handle_event(Event::Left { id: id(name) }, now);
    }

    #[test]
    fn a_core_that_comes_later_hears_how_long_the_relay_has_been_silent_by_then() {
        let now = Instant::now();
        let mut meeting = meeting(now);
        let lost = mesh::wire::control::EdgeState::Reconnecting { silent_ms: 5000 };
        meeting.handle_event(Event::State { state: lost, detail: None }, now);
        let said = |meeting: &mut Meeting| {
            let said = std::iter::from_fn(|| meeting.poll_control());
            said.filter_map(|m| if let ToCore::State { state, .. } = m { Some(state) } else { None }).last()
        };
        assert_eq!(said(&mut meeting), Some(lost));
        meeting.handle_opening(MeetingAlias(2), false, now + std::time::Duration::from_secs(3));
        let later = mesh::wire::control::EdgeState::Reconnecting { silent_ms: 8000 };
        assert_eq!(said(&mut meeting), Some(later));
    }

    #[test]
    fn those_who_came_and_went_make_room_for_any_number_more() {
        let now = Instant::now();
        let (mut meeting, mut rows) = (meeting(now), BTreeMap::new());
        for n in 0..4 * MAX_PARTICIPANTS {
            comes_and_goes(&mut meeting, &format!("p-{n}"), now);
            while let Some(message) = meeting.poll_control() {
                match message {
                    ToCore::Participant { participant, id, .. } => assert_eq!(rows.insert(participant, id), None),
                    ToCore::Forget { participant, .. } => assert!(rows.remove(&participant).is_some()),
                    _ => {}
                }
            }
            assert!(rows.len() <= MAX_PARTICIPANTS && rows.values().any(|id| *id == format!("p-{n}")), "{n}");
        }
        assert_eq!(meeting.totals.refused, 0);
    }

    #[test]
    fn whoever_has_speech_under_way_is_not_forgotten_and_no_number_is_used_again() {
        let now = Instant::now();
        let mut meeting = meeting(now);
        let spurt = SpurtNo(7);
        let (start, end) = (Output::Start { spurt, captured: Micros(1) }, Output::End { spurt, end: SpurtEnd::of(1) });
        let item = Output::Item { spurt, offset: 0, item: Item::Gap, stages: Default::default() };
        for output in [start, item, end] {
            meeting.handle_event(Event::Speech { id: id("late"), output }, now);
        }
        comes_and_goes(&mut meeting, "done", now);
        let next = |meeting: &Meeting, who: &str| meeting.participants.get(&id(who)).map(|p| p.paths.next_spurt());
        meeting.participants.get_mut(&id("done")).unwrap().paths.number_from(SpurtNo(9));
        meeting.handle_event(Event::Left { id: id("late") }, now);
        for n in 0..2 * MAX_PARTICIPANTS {
            comes_and_goes(&mut meeting, &format!("p-{n}"), now);
        }
        assert!(next(&meeting, "late").is_some() && next(&meeting, "done").is_none());
        comes_and_goes(&mut meeting, "done", now);
        assert_eq!(next(&meeting, "done"), Some(SpurtNo(9)));
    }
}
