//! Spilled speech as it stands in a file.
//!
//! | part | bytes |
//! |---|---|
//! | magic | `NFSPILL2` |
//! | origin | 2, big-endian: length; 4: CRC-32; then a codec body holding the [`Origin`] |
//! | record, many times | 2, big-endian: length; 4: CRC-32; then a codec body holding the [`Record`] |
//!
//! A record's checksum begins with the origin's, so that a record of one meeting is none in another's file. A file ends
//! where writing stopped, which may be within a record. What is damaged is passed over, up to the next record that is sound.

use mesh::{
    clock::Micros,
    codec,
    identity::NodeId,
    mandate::EdgeKey,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, ParticipantAlias, SpurtNo, Term,
        spurt::{MAX_OPUS, SpurtEnd},
    },
};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"NFSPILL2";
const HEAD: usize = 6;
/// The longest body: one Opus packet and its numbers. Everything else is shorter.
const MAX_BODY: usize = MAX_OPUS + 64;

/// Whose speech a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The meeting.
    pub meeting: MeetingId,
    /// The epoch under which it was captured.
    pub epoch: Epoch,
    /// The core that served the meeting when the file was begun.
    pub core: NodeId,
    /// In which term.
    pub term: Term,
    /// The request that created it.
    pub trace: TraceContext,
    /// This edge's key for it: a core that says who serves by now has it, too.
    pub key: EdgeKey,
}

/// One thing that was said or learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A row of the participant table.
    Participant {
        /// Its number.
        participant: ParticipantAlias,
        /// The platform's id.
        id: String,
        /// The display name.
        name: Option<String>,
    },
    /// A spurt begins.
    Start {
        /// Whose.
        participant: ParticipantAlias,
        /// Which.
        spurt: SpurtNo,
        /// Capture time of item 0.
        captured: Micros,
    },
    /// It goes on.
    Item {
        /// Whose.
        participant: ParticipantAlias,
        /// Which.
        spurt: SpurtNo,
        /// The item's number.
        offset: u32,
        /// An Opus packet; a gap if absent.
        packet: Option<Vec<u8>>,
    },
    /// It is over.
    End {
        /// Whose.
        participant: ParticipantAlias,
        /// Which.
        spurt: SpurtNo,
        /// The trailer.
        end: SpurtEnd,
    },
    /// Its words are out: what is in the file of it is of no use any more.
    Done {
        /// Whose.
        participant: ParticipantAlias,
        /// Which.
        spurt: SpurtNo,
    },
    /// A row of the participant table is free: nothing of them is kept.
    Forgotten {
        /// Its number.
        participant: ParticipantAlias,
    },
}

/// Why a file is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It begins with something else, or ends at once.
    #[error("not a file of spilled speech")]
    Magic,
    /// Its first part is damaged: whose speech it holds is not known.
    #[error("its origin is damaged: {0}")]
    Origin(String),
}

/// Appends what stands before the records; the checksum for [`write_record`].
///
/// # Errors
/// The origin is too long, which no node id is.
pub fn write_origin(origin: &Origin, out: &mut Vec<u8>) -> Result<u32, FormatError> {
    let mut body = vec![];
    codec::encode_body(origin, &mut body).map_err(|e| FormatError::Origin(e.to_string()))?;
    out.extend_from_slice(MAGIC);
    Ok(write_part(&body, 0, out))
}

/// Appends a record. One that is too long for its reader is left out, and `false` returned.
pub fn write_record(record: &Record, seed: u32, out: &mut Vec<u8>) -> bool {
    let mut body = vec![];
    let fits = codec::encode_body(record, &mut body).is_ok() && body.len() <= MAX_BODY;
    if fits {
        write_part(&body, seed, out);
    }
    fits
}

fn write_part(body: &[u8], seed: u32, out: &mut Vec<u8>) -> u32 {
    let len = (body.len() as u16).to_be_bytes();
    let crc = checksum(&len, body, seed);
    out.extend_from_slice(&len);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(body);
    crc
}

fn checksum(len: &[u8], body: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(len);
    hasher.update(body);
    hasher.finalize()
}

/// Reads a file's records, in order.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    seed: u32,
    damaged: u64,
}

impl<'a> Reader<'a> {
    /// What `bytes` holds.
    ///
    /// # Errors
    /// It is none of ours, or it is not known whose.
    pub fn new(bytes: &'a [u8]) -> Result<(Origin, Self), FormatError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(FormatError::Magic)?;
        let (body, crc, rest) = take_part(rest, 0).ok_or_else(|| FormatError::Origin("checksum".into()))?;
        let origin = decode(body).ok_or_else(|| FormatError::Origin("malformed".into()))?;
        Ok((origin, Self { rest, seed: crc, damaged: 0 }))
    }

    /// Records that were passed over, a broken end of the file counted as one.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The next record is not sound: from where on one is, wherever it begins. A torn one has no length to go by.
    fn after_damage(&self) -> Option<&'a [u8]> {
        let sound = |from: usize| self.rest.get(from..).filter(|rest| take_part(rest, self.seed).is_some());
        (1..self.rest.len()).find_map(sound)
    }
}

impl Iterator for Reader<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let Some((body, _, rest)) = take_part(self.rest, self.seed) else {
                self.damaged += 1;
                self.rest = self.after_damage().unwrap_or_default();
                continue;
            };
            self.rest = rest;
            match decode(body) {
                Some(record) => return Some(record),
                None => self.damaged += 1,
            }
        }
    }
}

fn length(bytes: &[u8]) -> Option<usize> {
    let len = u16::from_be_bytes(*bytes.first_chunk::<2>()?) as usize;
    (len <= MAX_BODY).then_some(len)
}

/// The body at the front of `bytes`, its checksum, and the rest; `None` if it is not whole and sound.
fn take_part(bytes: &[u8], seed: u32) -> Option<(&[u8], u32, &[u8])> {
    let len = length(bytes)?;
    let crc = u32::from_be_bytes(*bytes.get(2..)?.first_chunk::<4>()?);
    let body = bytes.get(HEAD..HEAD + len)?;
    (checksum(&bytes[..2], body, seed) == crc).then(|| (body, crc, &bytes[HEAD + len..]))
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (value, used) = codec::decode_body(body).ok()?;
    (used == body.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn origin(n: u128) -> Origin {
        let core = "core-1".parse().unwrap();
        let meeting = MeetingId::from_u128(n);
        Origin { meeting, epoch: Epoch(3), core, term: Term(1), trace: TraceContext::new(n), key: EdgeKey::default() }
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let item =
            (0u16..3, 0u32..4, any::<u32>(), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)))
                .prop_map(|(p, s, offset, packet)| Record::Item {
                    participant: ParticipantAlias(p),
                    spurt: SpurtNo(s),
                    offset,
                    packet,
                });
        let row = (0u16..3, ".{1,20}", proptest::option::of(".{0,20}")).prop_map(|(p, id, name)| Record::Participant {
            participant: ParticipantAlias(p),
            id,
            name,
        });
        proptest::collection::vec(prop_oneof![4 => item, 1 => row], 0..40)
    }

    fn file(origin: &Origin, records: &[Record]) -> Vec<u8> {
        let mut bytes = vec![];
        let seed = write_origin(origin, &mut bytes).unwrap();
        assert!(records.iter().all(|record| write_record(record, seed, &mut bytes)));
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(Origin, Vec<Record>, u64)> {
        let (origin, mut reader) = Reader::new(bytes).ok()?;
        let records = reader.by_ref().collect();
        Some((origin, records, reader.damaged()))
    }

    /// `part` is `whole` with some left out.
    fn is_part_of(part: &[Record], whole: &[Record]) -> bool {
        let mut rest = whole.iter();
        part.iter().all(|record| rest.any(|r| r == record))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in records()) {
            let read = read(&file(&origin(1), &records));
            prop_assert_eq!(read, Some((origin(1), records, 0)));
        }

        #[test]
        fn a_truncated_file_gives_what_is_whole(records in records(), cut in any::<prop::sample::Index>()) {
            let bytes = file(&origin(1), &records);
            if let Some((from, got, damaged)) = read(&bytes[..cut.index(bytes.len())]) {
                prop_assert_eq!(from, origin(1));
                prop_assert_eq!(&records[..got.len()], &got[..]);
                prop_assert!(damaged <= 1);
            }
        }

        #[test]
        fn flipped_bits_cost_records_and_make_none(
            records in records(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
        ) {
            let mut bytes = file(&origin(1), &records);
            for (at, bit) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            if let Some((from, got, _)) = read(&bytes) {
                prop_assert_eq!(from, origin(1));
                prop_assert!(is_part_of(&got, &records), "{:?}", got);
            }
        }

        #[test]
        fn one_damaged_record_costs_only_itself(records in records(), at in any::<prop::sample::Index>()) {
            prop_assume!(records.len() > 2);
            let at = at.index(records.len() - 1);
            let before = file(&origin(1), &records[..at]).len();
            let mut bytes = file(&origin(1), &records);
            bytes[before + HEAD] ^= 0x55;
            let (_, got, damaged) = read(&bytes).unwrap();
            prop_assert_eq!((got.len(), damaged), (records.len() - 1, 1));
        }

        #[test]
        fn a_torn_record_costs_only_itself(
            records in records(),
            at in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assume!(records.len() > 2);
            let at = at.index(records.len() - 1);
            let (before, after) = (file(&origin(1), &records[..at]), file(&origin(1), &records[..=at]));
            let torn = before.len() + 1 + cut.index(after.len() - before.len() - 1);
            let mut bytes = after[..torn].to_vec();
            bytes.extend_from_slice(&file(&origin(1), &records)[after.len()..]);
            let (_, got, damaged) = read(&bytes).unwrap();
            prop_assert_eq!((got.len(), damaged), (records.len() - 1, 1));
        }

        #[test]
        fn a_record_of_another_meeting_is_none(records in records()) {
            let (mut here, there) = (file(&origin(1), &[]), file(&origin(2), &records));
            let begin = file(&origin(2), &[]).len();
            here.extend_from_slice(&there[begin..]);
            prop_assert_eq!(read(&here).unwrap().1, vec![]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), ours in any::<bool>()) {
            if ours {
                bytes.splice(0..0, file(&origin(1), &[]));
            }
            if let Ok((_, reader)) = Reader::new(&bytes) {
                reader.for_each(drop);
            }
        }
    }
}
