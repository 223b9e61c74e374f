//! A meeting that sends too much, as its driver sees it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::time::{Duration, Instant};

use edge_node::{
    budget,
    connect::Event,
    media::{ParticipantId, RtpPacket},
    meeting::{Meeting, Offer, Settings},
};
use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, MeetingId,
        control::{CloseReason, EdgeState, ToCore},
        request::{Assignment, Source, VadSettings},
    },
};

const WALL: Micros = Micros(1_700_000_000_000_000);

fn meeting(now: Instant) -> Meeting {
    let source = Source::Whep { url: "http://relay.example/whep".into(), token: None, participants: vec![] };
    let (core, trace) = ("core-1".parse().unwrap(), TraceContext::new(1));
    let (meeting, vad) = (MeetingId::from_u128(7), VadSettings::default());
    let assignment = Assignment { meeting, epoch: Epoch(1), core, source, vad, trace };
    let budget =
        budget::Settings { packets_per_second: 1000, bytes_per_second: 100_000, patience: Duration::from_secs(3) };
    let mut meeting = Meeting::new(Offer::assigned(assignment), Settings { budget, ..Settings::default() }, now);
    meeting.handle_up(&"core-1".parse().unwrap(), false, now);
    meeting.handle_opening(MeetingAlias(1), false, now);
    meeting
}

/// `speakers` of them send `rate` packets a second each, for `seconds`.
fn send(meeting: &mut Meeting, now: &mut Instant, speakers: usize, rate: u32, seconds: u32) {
    for n in 0..rate * seconds {
        *now += Duration::from_secs(1) / rate;
        for who in 0..speakers {
            let packet = RtpPacket {
                participant: ParticipantId::new(format!("p{who}")).unwrap(),
                source: 1,
                sequence: n as u16,
                timestamp: n * 960,
                level: None,
                payload: vec![0x08, 1, 2, 3].into(),
                arrived: *now,
                arrived_at: WALL,
            };
            meeting.handle_event(Event::Packet(packet), *now);
        }
    }
}

fn said(meeting: &mut Meeting) -> Vec<ToCore> {
    while meeting.poll_transmit(WALL).is_some() {}
    std::iter::from_fn(|| meeting.poll_control()).collect()
}

#[test]
fn a_flood_that_does_not_end_ends_the_meeting_and_its_core_is_told_why() {
    let mut now = Instant::now();
    let mut meeting = meeting(now);
    send(&mut meeting, &mut now, 10, 50, 10);
    assert!(!meeting.has_left(), "ten who speak at once are no flood");
    send(&mut meeting, &mut now, 40, 50, 2);
    assert!(!meeting.has_left(), "two seconds are within its patience");
    send(&mut meeting, &mut now, 40, 50, 6);
    assert!(meeting.has_left());
    let said = said(&mut meeting);
    let why = said.iter().find_map(|message| match message {
        ToCore::State { state: EdgeState::Failed(_), detail, .. } => detail.clone(),
        _ => None,
    });
    assert_eq!(why.unwrap(), "a flood: over 1000 packets or 100000 bytes a second for 3s");
    assert!(said.iter().any(|m| matches!(m, ToCore::Close { reason: CloseReason::Failed, .. })), "{said:?}");
}
