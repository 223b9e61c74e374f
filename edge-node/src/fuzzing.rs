//! What the fuzz targets in `fuzz/` run, and, over their seeds, an ordinary test: each takes any bytes and panics
//! only where this crate is wrong.

mod media;

use mesh::{
    clock::Micros,
    codec,
    trace::TraceContext,
    wire::{Epoch, MeetingId, ParticipantAlias, SpurtNo, Term, spurt::SpurtEnd},
};

pub use self::media::{opus, pipeline};
use crate::{
    connect,
    isolate::{FromChild, ToChild, translate::Translator},
    uplink::format::{Origin, Reader, Record, write_origin, write_record},
};

/// A file of spilled speech as this crate writes it, whose it is and what is in it.
///
/// # Panics
/// Never: the parts are valid.
pub fn spilled() -> (Origin, Vec<Record>, Vec<u8>) {
    let core = "core-1".parse().expect("a valid id");
    let (meeting, trace) = (MeetingId::from_u128(7), TraceContext::new(7));
    let origin = Origin { meeting, epoch: Epoch(3), core, term: Term(1), trace, key: Default::default() };
    let (participant, spurt) = (ParticipantAlias(0), SpurtNo(4));
    let mut records = vec![
        Record::Participant { participant, id: "p".into(), name: Some("N".into()) },
        Record::Start { participant, spurt, captured: Micros(9) },
    ];
    let packet = |n: u32| (n != 2).then(|| vec![n as u8; 40]);
    records.extend((0..5).map(|offset| Record::Item { participant, spurt, offset, packet: packet(offset) }));
    let end = SpurtEnd::of(5);
    records.extend([Record::End { participant, spurt, end }, Record::Done { participant, spurt }]);
    let mut bytes = vec![];
    let seed = write_origin(&origin, &mut bytes).expect("a short id");
    for record in &records {
        assert!(write_record(record, seed, &mut bytes));
    }
    (origin, records, bytes)
}

/// A file of spilled speech: the bytes themselves, or, if the first is odd, a sound file with edits of four bytes each (two
/// of position, a mask, and whether to cut there). What is read from a damaged file is what was written to it, and of the
/// meeting it was written for.
pub fn spill(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind % 2 == 0 {
        if let Ok((_, mut records)) = Reader::new(rest) {
            let count = records.by_ref().count();
            assert!(count + records.damaged() as usize <= rest.len());
        }
        return;
    }
    let (origin, written, mut bytes) = spilled();
    for edit in rest.chunks_exact(4).take(8) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % bytes.len().max(1);
        match bytes.get_mut(at) {
            Some(byte) if edit[3] & 1 == 0 => *byte ^= edit[2],
            _ => bytes.truncate(at),
        }
    }
    let Ok((from, records)) = Reader::new(&bytes) else { return };
    assert_eq!(from, origin, "another owner");
    for record in records {
        assert!(written.contains(&record), "never written: {record:?}");
    }
}

/// What a meeting's own process says, each message behind its length: spurts come out whole, each under a number of its own.
pub fn child(mut data: &[u8]) {
    let (mut told, mut open) = (Translator::default(), std::collections::BTreeMap::new());
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (message, rest) = rest.split_at(length);
        data = rest;
        let _ = codec::decode::<ToChild>(message);
        match codec::decode::<FromChild>(message) {
            Ok(said) => told.translate(said).into_iter().for_each(|event| in_order(event, &mut open)),
            Err(_) if message.is_empty() => told.handle_gone().into_iter().for_each(|event| in_order(event, &mut open)),
            Err(_) => {}
        }
    }
    told.handle_gone().into_iter().for_each(|event| in_order(event, &mut open));
    assert!(open.values().all(|(_, open)| open.is_empty()), "a spurt was left open");
}

/// By participant: the spurts that have begun, and the items of those that are open.
type Order =
    std::collections::BTreeMap<String, (std::collections::BTreeSet<u32>, std::collections::BTreeMap<u32, u32>)>;

fn in_order(event: crate::connect::Event, order: &mut Order) {
    use crate::{connect::Event, spurt::Output};
    let Event::Speech { id, output } = event else { return };
    let (begun, open) = order.entry(id.as_str().into()).or_default();
    match output {
        Output::Start { spurt, .. } => {
            // What goes on after a cut has its number before it begins: another source may begin in between.
            assert!(begun.insert(spurt.0) && open.insert(spurt.0, 0).is_none(), "a number is used again");
        }
        Output::Item { spurt, offset, .. } => {
            let items = open.get_mut(&spurt.0).expect("it has begun");
            assert_eq!(offset, *items);
            *items += 1;
        }
        Output::End { spurt, end } => assert_eq!(open.remove(&spurt.0), Some(end.items)),
    }
}

/// What Janus says over its WebSocket, each text behind its length.
pub fn janus(data: &[u8]) {
    connect::fuzzing::messages(data);
}

/// What LiveKit says over its WebSocket: whose the offers are, and then each message behind its length.
pub fn livekit(data: &[u8]) {
    connect::fuzzing::livekit(data);
}

/// What a LiveKit says in a usual meeting, as [`livekit`] takes it; `ours` if the offers are.
pub fn livekit_session(ours: bool) -> Vec<u8> {
    connect::fuzzing::livekit_session(ours)
}

/// What Zoom's RTMS servers say over both WebSockets, each message behind its length and whose it is.
pub fn rtms(data: &[u8]) {
    connect::fuzzing::rtms(data);
}

/// What they say in a usual meeting, as [`rtms`] takes it, with sound in Opus or in linear samples.
pub fn rtms_session(opus: bool) -> Vec<u8> {
    connect::fuzzing::rtms_session(opus)
}

/// Headers and description of a WHEP endpoint's answer.
pub fn whep(data: &[u8]) {
    connect::fuzzing::answer(data);
}

/// A relay's offer, and the answer we make of it.
pub fn sdp(data: &[u8]) {
    connect::fuzzing::offer(data);
}

/// An RTP packet and its extensions.
pub fn rtp(data: &[u8]) {
    connect::fuzzing::rtp(data);
}
