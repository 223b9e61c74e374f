//! The standby's end: takes each entry of the newest stream once and in order.

use std::cmp::Ordering;

use mesh::{
    identity::NodeId,
    wire::{MeetingId, Term, request::Replica},
};

use super::entry::{Assembler, BadEntry, Entry};

/// A farewell has so many pieces.
const FAREWELL: usize = 2;

/// Which stream; one that is newer is greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// The term in which its sender serves the meeting.
    pub term: Term,
    /// Its sender.
    pub by: NodeId,
    /// That core's own number for it.
    pub number: u64,
}

/// One meeting's stream as far as it has come. After a restart it is empty, and asks for a new snapshot.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    stream: Option<StreamId>,
    next: u64,
    assembler: Assembler,
}

impl Receiver {
    /// The next piece wanted.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether all that `replica` says of `meeting` is that its receiver need not be the standby.
    pub fn is_farewell(meeting: MeetingId, replica: &Replica) -> bool {
        let mut assembler = Assembler::default();
        let entries: Result<Vec<Option<Entry>>, BadEntry> =
            replica.entries.iter().take(FAREWELL + 1).map(|piece| assembler.push(meeting, piece)).collect();
        matches!(entries.as_deref(), Ok([Some(Entry::Begin { .. }), Some(Entry::Dropped)]))
    }

    /// Takes pieces of `stream` of which the first has number `first`; returns the entries that are complete and new, in
    /// order. Repeated pieces are passed over, and pieces after a hole, or of a new stream without its beginning, are not
    /// taken: [`Receiver::next`] says so.
    ///
    /// # Errors
    /// They are no entries of `meeting`, or of a stream older than the newest. Nothing of them is taken.
    pub fn handle(
        &mut self,
        meeting: MeetingId,
        stream: &StreamId,
        first: u64,
        pieces: &[Vec<u8>],
    ) -> Result<Vec<Entry>, BadEntry> {
        let mut after = match self.stream.as_ref().cmp(&Some(stream)) {
            Ordering::Greater => return Err(BadEntry::OldStream),
            Ordering::Equal => self.clone(),
            Ordering::Less => Self { stream: Some(stream.clone()), ..Self::default() },
        };
        if first == 0
            && let Some(piece) = pieces.first()
            && !matches!(Assembler::default().push(meeting, piece)?, Some(Entry::Begin { stream: number, .. }) if number == stream.number)
        {
            return Err(BadEntry::NoBeginning);
        }
        let entries = after.take(meeting, first, pieces)?;
        *self = after;
        Ok(entries)
    }

    fn take(&mut self, meeting: MeetingId, first: u64, pieces: &[Vec<u8>]) -> Result<Vec<Entry>, BadEntry> {
        if first > self.next {
            return Ok(vec![]);
        }
        let seen = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        let mut entries = vec![];
        for piece in pieces.iter().skip(seen) {
            entries.extend(self.assembler.push(meeting, piece)?);
            self.next += 1;
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::wire::{Epoch, request::Held};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        store::record::MeetingRecord,
        tests::fakes,
        transcript::{MAX_SEQ, Segment},
    };

    /// A stream whose record is long enough for several pieces.
    fn stream(number: u64) -> (MeetingId, Vec<Vec<u8>>) {
        let mut record = fakes::record();
        record.trace = "x".repeat(60_000);
        let entries = [
            Entry::Begin { stream: number, held: None },
            Entry::Placement { epoch: Epoch(1), decision: "near".into() },
            Entry::Record(Box::new(record.clone())),
            Entry::Sequence { below: 9 },
        ];
        (record.id, entries.iter().flat_map(Entry::pieces).collect())
    }

    fn id(term: u32, by: &str, number: u64) -> StreamId {
        StreamId { term: Term(term), by: by.parse().unwrap(), number }
    }

    #[test]
    fn nothing_is_taken_of_an_older_stream_or_of_one_without_its_beginning() {
        let (meeting, pieces) = stream(4);
        for newest in [id(1, "c1", 5), id(1, "c2", 3), id(2, "c0", 1)] {
            let mut receiver = Receiver { stream: Some(newest), ..Receiver::default() };
            assert_eq!(receiver.handle(meeting, &id(1, "c1", 4), 0, &pieces), Err(BadEntry::OldStream));
            assert_eq!(receiver.next(), 0);
        }
        let mut receiver = Receiver::default();
        assert_eq!(receiver.handle(meeting, &id(1, "c1", 4), 1, &pieces[1..]), Ok(vec![]));
        assert_eq!(receiver.next(), 0, "it asks for the beginning");
        let other = receiver.handle(meeting, &id(1, "c1", 5), 0, &pieces);
        assert_eq!(other, Err(BadEntry::NoBeginning), "the beginning of another");
        assert_eq!(receiver.handle(meeting, &id(1, "c1", 4), 0, &pieces).unwrap().len(), 4);
    }

    #[test]
    fn a_later_core_s_stream_is_the_newer_one_whatever_its_number() {
        let (meeting, mut pieces) = stream(4);
        let begin = Entry::Begin { stream: 9, held: None }.pieces();
        let mut receiver = Receiver::default();
        receiver.handle(meeting, &id(1, "c1", 9), 0, &begin).unwrap();
        assert_eq!(receiver.handle(meeting, &id(2, "c0", 4), 1, &pieces.split_off(1)), Ok(vec![]));
        assert_eq!(receiver.next(), 0, "the other's pieces do not count");
        assert_eq!(receiver.handle(meeting, &id(2, "c0", 4), 0, &pieces).unwrap().len(), 1);
    }

    #[test]
    fn event_numbers_from_which_nobody_can_count_on_are_refused() {
        let (meeting, pieces) = stream(4);
        let segment = |seq| Box::new(Segment { seq, meeting_id: meeting, ..crate::fuzzing::segment() });
        let entries = |number| {
            let record = MeetingRecord { id: meeting, last_seq: number, ..fakes::record() };
            [
                Entry::Begin { stream: 4, held: Some(Held { ended: true, newest: number }) },
                Entry::Sequence { below: number },
                Entry::Finish { spurts: vec![], segment: Some(segment(number)), cover: None },
                Entry::Record(record.into()),
            ]
        };
        let take = |entry: Entry| {
            let mut receiver = Receiver::default();
            receiver.handle(meeting, &id(1, "c1", 4), 0, &pieces[..1]).unwrap();
            receiver.handle(meeting, &id(1, "c1", 4), 1, &entry.pieces()).map(|taken| taken.len())
        };
        entries(MAX_SEQ).into_iter().for_each(|entry| assert_eq!(take(entry), Ok(1)));
        entries(MAX_SEQ + 1).into_iter().for_each(|entry| assert_eq!(take(entry), Err(BadEntry::TooGreat)));
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_and_number_make_the_same_entries(
            cuts in vec((0usize..8, 0usize..8), 0..40),
        ) {
            let (meeting, pieces) = stream(3);
            let (mut receiver, mut taken) = (Receiver::default(), vec![]);
            for (from, count) in cuts.into_iter().chain((0..pieces.len()).map(|at| (at, 1))) {
                let from = from.min(pieces.len());
                let to = (from + count).min(pieces.len());
                taken.extend(receiver.handle(meeting, &id(1, "c1", 3), from as u64, &pieces[from..to]).unwrap());
            }
            prop_assert_eq!(receiver.next(), pieces.len() as u64);
            prop_assert_eq!(taken, Receiver::default().handle(meeting, &id(1, "c1", 3), 0, &pieces).unwrap());
        }

        #[test]
        fn arbitrary_bytes_are_refused_and_change_nothing(
            first in 0u64..4,
            number: u64,
            junk in vec(vec(any::<u8>(), 0..200), 1..5),
        ) {
            let (meeting, pieces) = stream(3);
            let mut receiver = Receiver::default();
            receiver.handle(meeting, &id(1, "c1", 3), 0, &pieces[..1]).unwrap();
            let before = receiver.clone();
            if receiver.handle(meeting, &id(1, "c1", number), first, &junk).is_err() {
                prop_assert_eq!(receiver.next(), before.next());
            }
        }

        #[test]
        fn a_flipped_bit_never_makes_a_record_of_another_meeting(piece in 0usize..5, bit: usize) {
            let (meeting, mut pieces) = stream(3);
            let at = piece % pieces.len();
            let bit = bit % (pieces[at].len() * 8);
            pieces[at][bit / 8] ^= 1 << (bit % 8);
            for entry in Receiver::default().handle(meeting, &id(1, "c1", 3), 0, &pieces).unwrap_or_default() {
                if let Entry::Record(record) = entry {
                    prop_assert_eq!(record.id, meeting);
                }
            }
        }
    }
}
