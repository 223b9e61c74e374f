//! What the primary is told of the meeting, besides its speech.

use std::time::Instant;

use mesh::wire::control::{CloseReason, ToCore};

use super::{Meeting, Phase};
use crate::transcode::Transcoder;

impl Meeting {
    /// Says that it has left once the core holds all that was said here: control overtakes speech, and a meeting that is at its
    /// end ends with that word. Only one that leaves unrelieved says so at once, for another is to be sought.
    pub(super) fn close_when_home(&mut self) {
        let Phase::Flushing { reason, .. } = self.phase else { return };
        let hurries = reason == CloseReason::Drain && !self.dismissed && !self.late;
        if if hurries { self.uplink.is_sent() } else { self.uplink.is_home() } {
            self.say_close();
        }
    }

    pub(super) fn say_close(&mut self) {
        if let Phase::Flushing { reason, said: said @ false, .. } = &mut self.phase {
            *said = true;
            let reason = *reason;
            self.say_totals();
            self.say_given_up(false);
            if let Some(alias) = self.opened {
                self.say(ToCore::Close { alias, reason });
            }
        }
    }

    pub(super) fn say_state(&mut self, now: Instant) {
        if self.late {
            // It is not in the meeting any more.
            return;
        }
        let (state, detail, since) = self.state.clone();
        let state = state.after(now.saturating_duration_since(since));
        if let Some(alias) = self.opened {
            self.say(ToCore::State { alias, state, detail });
        }
    }

    pub(super) fn say_hand_over(&mut self) {
        if let Some(alias) = self.opened.filter(|_| self.hand_over.is_some() && self.beats) {
            self.say(ToCore::HandOver { alias });
        }
    }

    pub(super) fn say_totals(&mut self) {
        let Some(alias) = self.opened else { return };
        if self.recovered {
            // Its own are not known, and these would take the place of those told before.
            return;
        }
        let here = self.participants.values().flat_map(|p| p.paths.totals());
        let pipelines = here.chain(self.participants.values().map(|p| p.tally));
        let frames = self.participants.values().flat_map(|p| p.transcoders.iter().map(Transcoder::frames));
        let forwarded: u64 = frames.sum();
        let mut totals = self.totals.sum(pipelines, self.uplink.overflowed());
        totals.packets_forwarded += forwarded;
        if let Some(totals) = self.totals.report(totals) {
            self.say(ToCore::Stats { alias, totals });
        }
    }

    /// When speech was said that never comes: what is new of it, or all of it on a new stream.
    pub(super) fn say_given_up(&mut self, new_stream: bool) {
        let Some(alias) = self.opened else { return };
        if let Some(spans) = self.uplink.take_given_up(new_stream) {
            self.say(ToCore::GivenUp { alias, spans });
        }
    }

    /// While there is no stream nothing is kept: the next one starts from the tables.
    pub(super) fn say(&mut self, message: ToCore) {
        if self.opened.is_some() {
            self.control.push_back(message);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use std::time::Duration;

    use mesh::{
        clock::Micros,
        identity::NodeId,
        lease::Renewal,
        trace::TraceContext,
        wire::{
            Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo,
            control::ToEdge,
            request::{Assignment, Source, VadSettings},
            spurt::{Item, SpurtEnd},
        },
    };

    use super::*;
    use crate::{
        connect::Event,
        media::ParticipantId,
        meeting::{Beat, FLUSH, Offer, Settings},
        spurt::Output,
    };

    const WALL: Micros = Micros(1_700_000_000_000_000);
    const ITEMS: u32 = 3;

    fn core() -> NodeId {
        "core-1".parse().unwrap()
    }

    /// A meeting that this edge owns, in which two spurts have been said.
    fn meeting(now: Instant) -> Meeting {
        let assignment = Assignment {
            meeting: MeetingId::from_u128(1),
            epoch: Epoch(1),
            core: core(),
            source: Source::Whep { url: "http://relay.example/".into(), token: None, participants: vec![] },
            vad: VadSettings::default(),
            trace: TraceContext::new(1),
        };
        let settings = Settings { hand_over: Duration::ZERO, ..Settings::default() };
        let mut meeting = Meeting::new(Offer { leased: true, ..Offer::assigned(assignment) }, settings, now);
        meeting.handle_up(&core(), true, now);
        meeting.handle_opening(MeetingAlias(1), true, now);
        let renewal = Some(Renewal::new(now, 6000));
        meeting.handle_beat(&core(), Beat { rtt: Duration::ZERO, short: false, renewal }, now);
        for spurt in [0, 1].map(SpurtNo) {
            let item = |offset| Output::Item { spurt, offset, item: Item::Gap, stages: Default::default() };
            let (start, end) = (Output::Start { spurt, captured: WALL }, SpurtEnd::of(ITEMS));
            let items = (0..ITEMS).map(item);
            for output in [start].into_iter().chain(items).chain([Output::End { spurt, end }]) {
                meeting.handle_event(Event::Speech { id: ParticipantId::new("ada").unwrap(), output }, now);
            }
        }
        meeting
    }

    /// All of it is handed to the connection; what is said on the control stream.
    fn said(meeting: &mut Meeting) -> Vec<ToCore> {
        while meeting.poll_transmit(WALL).is_some() {}
        std::iter::from_fn(|| meeting.poll_control()).collect()
    }

    fn closed(said: &[ToCore]) -> Option<CloseReason> {
        said.iter().find_map(|message| if let ToCore::Close { reason, .. } = message { Some(*reason) } else { None })
    }

    fn holds(meeting: &mut Meeting, spurt: u32, upto: u32, now: Instant) {
        let (participant, spurt) = (ParticipantAlias(0), SpurtNo(spurt));
        let durable = ToEdge::Durable { alias: MeetingAlias(2), participant, spurt, upto };
        meeting.handle_message(&core(), durable, now, WALL);
    }

    /// It was relieved while it had no way to the core, and has one again.
    fn relieved(now: Instant) -> Meeting {
        let mut meeting = meeting(now);
        meeting.handle_down(&core(), now);
        meeting.handle_lost(&core(), now, WALL);
        meeting.handle_up(&core(), true, now);
        meeting.handle_opening(MeetingAlias(2), true, now);
        meeting
    }

    #[test]
    fn an_edge_says_that_it_has_left_when_its_late_speech_is_home_and_not_when_it_is_under_way() {
        let now = Instant::now();
        let mut meeting = relieved(now);
        let first = said(&mut meeting);
        assert!(matches!(first[0], ToCore::Late { .. }), "{first:?}");
        assert_eq!(closed(&first), None, "that would overtake its speech");
        holds(&mut meeting, 1, ITEMS, now);
        holds(&mut meeting, 0, ITEMS - 1, now);
        assert_eq!(closed(&said(&mut meeting)), None);
        holds(&mut meeting, 0, ITEMS, now);
        assert_eq!(closed(&said(&mut meeting)), Some(CloseReason::LeaseOver));
        assert!(!meeting.is_over(), "the words are still to be made");
    }

    #[test]
    fn nor_when_it_was_asked_to_leave() {
        let now = Instant::now();
        let mut meeting = meeting(now);
        meeting.handle_message(&core(), ToEdge::Leave { alias: MeetingAlias(1) }, now, WALL);
        assert_eq!(closed(&said(&mut meeting)), None);
        [0, 1].iter().for_each(|spurt| holds(&mut meeting, *spurt, ITEMS, now));
        assert_eq!(closed(&said(&mut meeting)), Some(CloseReason::Asked));
    }

    #[test]
    fn a_core_that_takes_no_more_of_it_is_told_in_the_end() {
        let now = Instant::now();
        let mut meeting = relieved(now);
        assert_eq!(closed(&said(&mut meeting)), None);
        meeting.handle_timeout(now + FLUSH, WALL);
        assert!(meeting.is_over());
        assert_eq!(closed(&said(&mut meeting)), Some(CloseReason::LeaseOver));
    }

    #[test]
    fn one_that_leaves_unrelieved_says_so_at_once_for_another_is_to_be_sought() {
        let now = Instant::now();
        let mut meeting = meeting(now);
        meeting.hand_over(now, WALL);
        assert_eq!(closed(&said(&mut meeting)), Some(CloseReason::Drain));
    }
}
