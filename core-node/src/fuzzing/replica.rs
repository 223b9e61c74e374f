//! What a core sends to its standby.

use mesh::{identity::NodeId, wire::Term};

use super::{core, meeting, stored::reread};
use crate::{
    api::fuzzing::shown,
    key::SpurtKey,
    receipt::Receipt,
    replicate::{
        receiver::{Receiver, StreamId},
        snapshot::op,
    },
    speech::utterance::Cover,
    store::{
        Op, SpurtRecord,
        record::{CoreRole, MeetingRecord, Participant},
    },
    transcript::{
        Segment,
        format::{srt, txt, vtt},
        in_spoken_order, timestamp,
    },
};

/// The number of the stream that [`replica`] takes.
pub const REPLICA: u64 = 1;

/// What a standby has of a meeting.
#[derive(Default)]
struct Held {
    record: Option<MeetingRecord>,
    segments: Vec<Segment>,
    spurts: Vec<(SpurtKey, SpurtRecord)>,
}

/// Pieces of a replica, each behind two bytes of length and one that says where in the stream it claims to be: 0 where it
/// should, else one more than that. Whatever comes out is of this meeting, and serves nowhere but where it came from. It is
/// kept as it came or refused, and what is kept can be shown and attested.
///
/// # Panics
/// This crate is wrong.
pub fn replica(mut data: &[u8]) {
    let (mut receiver, mut held) = (Receiver::default(), Held::default());
    let from = core().node;
    let stream = StreamId { term: Term(2), by: from.clone(), number: REPLICA };
    while let Some((head, rest)) = data.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[0], head[1]])).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        data = rest;
        let next = receiver.next();
        let first = if head[2] == 0 { next } else { u64::from(head[2]) - 1 };
        let Ok(entries) = receiver.handle(meeting(), &stream, first, &[piece.to_vec()]) else {
            assert_eq!(receiver.next(), next, "of a refused piece nothing is taken");
            continue;
        };
        assert!(receiver.next() <= first.max(next) + 1);
        for op in entries.into_iter().filter_map(|entry| op(meeting(), entry, &from, Term(2), REPLICA)) {
            check(&op, &from);
            held.keep(op);
        }
    }
    held.show();
}

fn check(op: &Op, from: &NodeId) {
    match op {
        Op::Meeting(record) => {
            assert_eq!((record.id, record.serving.role), (meeting(), CoreRole::Standby));
            assert_eq!((record.serving.by.as_ref(), record.serving.term), (Some(from), Term(2)));
        }
        Op::Taken { meeting: of, segment, .. } => {
            assert!(*of == meeting() && segment.as_ref().is_none_or(|s| s.meeting_id == meeting()));
        }
        Op::Participant(of, ..) | Op::Placement(of, ..) | Op::Sequence(of, _) => assert_eq!(*of, meeting()),
        other => panic!("an entry became {other:?}"),
    }
}

impl Held {
    /// Takes what the store would: of what it refuses, nothing.
    fn keep(&mut self, op: Op) {
        let Ok(values) = op.prepare() else { return };
        let mut rows = values.rows().iter().map(Vec::as_slice);
        let mut next = || rows.next().expect("a row for each part");
        match op {
            Op::Meeting(record) => {
                assert_eq!(reread::<MeetingRecord>(next()).as_ref(), Some(&*record));
                self.record = Some(*record);
            }
            Op::Participant(_, participant, _) => assert_eq!(reread::<Participant>(next()), Some(participant)),
            Op::Placement(_, _, decision) => assert_eq!(reread::<serde_json::Value>(next()), Some(decision)),
            Op::Taken { spurts, segment, cover, .. } => {
                spurts.iter().for_each(|_| _ = next());
                self.spurts.extend(spurts);
                if let Some(segment) = segment {
                    assert_eq!(reread::<Segment>(next()).as_ref(), Some(&*segment));
                    self.segments.push(*segment);
                }
                if let Some(cover) = cover {
                    assert_eq!(reread::<Cover>(next()), Some(cover));
                }
            }
            _ => {}
        }
    }

    fn show(mut self) {
        self.segments = in_spoken_order(self.segments);
        let cues = vtt(&self.segments).lines().filter(|line| line.contains("-->")).count();
        assert_eq!(cues, self.segments.len(), "one line of times for each cue");
        drop((srt(&self.segments), txt(&self.segments)));
        let Some(record) = self.record else { return };
        let at = record.created_at;
        let receipt = Receipt::made(&record, &self.segments, &self.spurts, &core(), at).expect("it can be attested");
        assert_eq!(receipt.begun_at, timestamp(at));
        let written = serde_json::to_vec(&receipt).expect("a receipt can be written");
        assert_eq!(serde_json::from_slice::<Receipt>(&written).ok(), Some(receipt));
        assert!(shown(record, &self.segments, &core()).is_ok());
    }
}
