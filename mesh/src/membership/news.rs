//! What nodes of wire version 2 add to SWIM's packets: notes of each other's state, and what finds differences.
//!
//! An item takes the place of one of foca's custom broadcasts, with [`MARK`] as its first byte: no report begins
//! with it, since no node id is empty. It is for the receiver alone and is never sent to a node of version 1,
//! which would refuse the packet.
//!
//! | kind | then |
//! |---|---|
//! | 1 notes | [`Note`]s, 14 bytes each mostly |
//! | 2 report | one report with its extension |
//! | 3 want | [`Key`]s of nodes whose reports the sender lacks |
//! | 4 digest | count (2), sum (4), whether the sender's list has been quiet (1) |
//! | 5 roll | whether one is wanted back (1), first and last key of the range (5 + 5), the [`Key`]s of all lives in it |
//! | 6 doubt | [`Key`]s of lives that the sender holds to be over |
//! | 7 missing | [`Key`]s of lives that the sender does not know |
//! | 9 marks | [`Mark`]s, 11 bytes each: nothing has changed |
//! | 8 answer | as 2, but asked for: it is not to be passed on |

use bytes::{Buf, BufMut};

use crate::{identity::NodeId, wire::report::Report};

/// The first byte of every item.
pub(super) const MARK: u8 = 0;

/// The length of a [`Key`].
const KEY: usize = 5;

/// foca's length prefix, [`MARK`] and the kind.
const FRAME: usize = 4;

const NOTES: u8 = 1;
const REPORT: u8 = 2;
const WANT: u8 = 3;
const DIGEST: u8 = 4;
const ROLL: u8 = 5;
const DOUBT: u8 = 6;
const MISSING: u8 = 7;
const ANSWER: u8 = 8;
const MARKS: u8 = 9;

const DRAINING: u16 = 1 << 15;

/// 40 bits of a hash. Two of 1000 nodes share one in one of two million meshes; they would then overwrite each
/// other's notes until the next full report, and a difference of lists between them would go unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// The state of a node that held the rest of its report as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    /// Of the node's id.
    pub(super) key: Key,
    /// The lower 32 bits of when it was written, in Unix milliseconds: enough for 24 days around a known time.
    pub(super) at: u32,
    /// [`sum`] of the report that it continues.
    pub(super) sum: u16,
    pub(super) stress_permille: u16,
    pub(super) draining: bool,
    pub(super) meetings: u32,
}

/// A node is as it was at an earlier time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: Key,
    /// As in [`Note`].
    pub(super) at: u32,
    /// Of all that a note would say but the time.
    pub(super) state: u16,
}

/// What two nodes compare of their lists of live members, themselves included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) count: u16,
    pub(super) sum: u32,
    /// The list has not changed for a while, so a difference is not one that gossip is about to mend.
    pub(super) quiet: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    Notes(Vec<Note>),
    Marks(Vec<Mark>),
    Report(Box<Report>),
    Answer(Box<Report>),
    Want(Vec<Key>),
    Digest(Digest),
    Roll { answer: bool, range: (Key, Key), lives: Vec<Key> },
    Doubt(Vec<Key>),
    Missing(Vec<Key>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadItem {
    #[error("item ends early")]
    Short,
    #[error("item of unknown kind {0}")]
    Kind(u8),
    #[error("item with bytes left over")]
    Trailing,
}

impl Key {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self((1 << (8 * KEY)) - 1);

    pub(super) fn of(node: &NodeId) -> Self {
        Self(hash(node.as_str().as_bytes(), 0) >> 24)
    }

    /// Of one life of a node.
    pub(super) fn of_life(node: &NodeId, life: u64) -> Self {
        Self(life_hash(node, life) >> 24)
    }

    /// The one after it.
    pub(super) fn next(self) -> Self {
        Self((self.0 + 1).min(Self::LAST.0))
    }

    fn put(self, buf: &mut impl BufMut) {
        buf.put_uint(self.0, KEY);
    }

    fn take(buf: &mut &[u8]) -> Result<Self, BadItem> {
        if buf.remaining() < KEY { Err(BadItem::Short) } else { Ok(Self(buf.get_uint(KEY))) }
    }
}

/// What a life adds to [`Digest::sum`].
pub(super) fn life_hash(node: &NodeId, life: u64) -> u64 {
    hash(node.as_str().as_bytes(), life)
}

/// FNV-1a, then the finisher of SplitMix64, so that the upper bits depend on all of the input.
fn hash(bytes: &[u8], salt: u64) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut mixed = bytes.iter().chain(&salt.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, fnv);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A check sum over all of a report that a [`Note`] does not say. Two that differ have the same in one of 65536
/// cases: then a node misses a change until the next one.
pub(super) fn sum(report: &Report) -> u16 {
    let rest = Report {
        at: crate::clock::Micros::default(),
        stress_permille: 0,
        meetings: 0,
        draining: false,
        ..report.clone()
    };
    (hash(&rest.encode(true).unwrap_or_default(), 0) >> 48) as u16
}

impl Note {
    pub(super) fn of(report: &Report, sum: u16) -> Self {
        Self {
            key: Key::of(&report.node),
            at: report.at.as_millis() as u32,
            sum,
            stress_permille: report.stress_permille.min(DRAINING - 1),
            draining: report.draining,
            meetings: report.meetings,
        }
    }

    /// The same without what has not changed.
    pub(super) fn mark(&self) -> Mark {
        let mut bytes = Vec::with_capacity(16);
        Self { at: 0, ..*self }.put(&mut bytes);
        Mark { key: self.key, at: self.at, state: (hash(&bytes, 0) >> 48) as u16 }
    }

    fn put(self, buf: &mut impl BufMut) {
        self.key.put(buf);
        buf.put_u32(self.at);
        buf.put_u16(self.sum);
        buf.put_u16(self.stress_permille | if self.draining { DRAINING } else { 0 });
        let mut rest = self.meetings;
        while rest >= 0x80 {
            buf.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        buf.put_u8(rest as u8);
    }

    fn take(buf: &mut &[u8]) -> Result<Self, BadItem> {
        let key = Key::take(buf)?;
        if buf.remaining() < 9 {
            return Err(BadItem::Short);
        }
        let (at, sum, state) = (buf.get_u32(), buf.get_u16(), buf.get_u16());
        let meetings = take_varint(buf)?;
        let (stress_permille, draining) = (state & !DRAINING, state & DRAINING != 0);
        Ok(Self { key, at, sum, stress_permille, draining, meetings })
    }

    /// Its length in a packet.
    pub(super) fn len(&self) -> usize {
        let bits = 32 - (self.meetings | 1).leading_zeros() as usize;
        KEY + 8 + bits.div_ceil(7)
    }
}

/// LEB128, at most 32 bits.
fn take_varint(buf: &mut &[u8]) -> Result<u32, BadItem> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = if buf.has_remaining() { buf.get_u8() } else { return Err(BadItem::Short) };
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadItem::Trailing)
}

impl Mark {
    /// Its length in a packet.
    pub(super) const LENGTH: usize = KEY + 6;

    fn put(self, buf: &mut impl BufMut) {
        self.key.put(buf);
        buf.put_u32(self.at);
        buf.put_u16(self.state);
    }

    fn take(buf: &mut &[u8]) -> Result<Self, BadItem> {
        let key = Key::take(buf)?;
        if buf.remaining() < 6 {
            return Err(BadItem::Short);
        }
        Ok(Self { key, at: buf.get_u32(), state: buf.get_u16() })
    }
}

/// When something was written, in Unix milliseconds: of all times that end in `at` the one nearest to `known`.
pub(super) fn millis(at: u32, known: u64) -> u64 {
    let later = at.wrapping_sub(known as u32);
    known.saturating_add_signed(i64::from(later.cast_signed()))
}

impl Item {
    /// The item as foca expects a custom broadcast in a packet: its length in two bytes, then itself.
    ///
    /// `None` if it is longer than `room`.
    pub(super) fn encode(&self, room: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0, 0, MARK, self.kind()];
        match self {
            Self::Notes(notes) => notes.iter().for_each(|note| note.put(&mut bytes)),
            Self::Marks(marks) => marks.iter().for_each(|mark| mark.put(&mut bytes)),
            Self::Report(report) | Self::Answer(report) => bytes.extend(super::reports::encode(report, true)?),
            Self::Want(keys) | Self::Doubt(keys) | Self::Missing(keys) => put_keys(keys, &mut bytes),
            Self::Digest(digest) => {
                bytes.put_u16(digest.count);
                bytes.put_u32(digest.sum);
                bytes.put_u8(digest.quiet.into());
            }
            Self::Roll { answer, range, lives } => {
                bytes.put_u8((*answer).into());
                range.0.put(&mut bytes);
                range.1.put(&mut bytes);
                put_keys(lives, &mut bytes);
            }
        }
        let length = u16::try_from(bytes.len() - 2).ok()?;
        bytes[..2].copy_from_slice(&length.to_be_bytes());
        (bytes.len() <= room).then_some(bytes)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Notes(_) => NOTES,
            Self::Marks(_) => MARKS,
            Self::Report(_) => REPORT,
            Self::Answer(_) => ANSWER,
            Self::Want(_) => WANT,
            Self::Digest(_) => DIGEST,
            Self::Roll { .. } => ROLL,
            Self::Doubt(_) => DOUBT,
            Self::Missing(_) => MISSING,
        }
    }

    /// The item without its length, as foca hands it on. Arbitrary bytes never panic.
    pub(super) fn decode(data: &[u8]) -> Result<Self, super::reports::BadReport> {
        let [MARK, kind, rest @ ..] = data else { return Err(BadItem::Short.into()) };
        match *kind {
            REPORT => Ok(Self::Report(Box::new(super::reports::decode(rest)?))),
            ANSWER => Ok(Self::Answer(Box::new(super::reports::decode(rest)?))),
            small => Ok(Self::decode_small(small, rest)?),
        }
    }

    fn decode_small(kind: u8, mut rest: &[u8]) -> Result<Self, BadItem> {
        let buf = &mut rest;
        let item = match kind {
            NOTES => Self::Notes(take_all(buf, Note::take)?),
            MARKS => Self::Marks(take_all(buf, Mark::take)?),
            WANT => Self::Want(take_all(buf, Key::take)?),
            DOUBT => Self::Doubt(take_all(buf, Key::take)?),
            MISSING => Self::Missing(take_all(buf, Key::take)?),
            DIGEST if buf.remaining() < 7 => return Err(BadItem::Short),
            DIGEST => Self::Digest(Digest { count: buf.get_u16(), sum: buf.get_u32(), quiet: buf.get_u8() != 0 }),
            ROLL if buf.remaining() < 1 => return Err(BadItem::Short),
            ROLL => {
                let answer = buf.get_u8() != 0;
                let range = (Key::take(buf)?, Key::take(buf)?);
                Self::Roll { answer, range, lives: take_all(buf, Key::take)? }
            }
            unknown => return Err(BadItem::Kind(unknown)),
        };
        if rest.is_empty() { Ok(item) } else { Err(BadItem::Trailing) }
    }
}

/// How many keys fit into `room` beside what frames them.
pub(super) fn keys_in(room: usize) -> usize {
    room.saturating_sub(FRAME + 1 + 2 * KEY) / KEY
}

/// The length of an item of notes or marks before the first one.
pub(super) const ITEM_FRAME: usize = FRAME;

fn put_keys(keys: &[Key], bytes: &mut Vec<u8>) {
    keys.iter().for_each(|key| key.put(bytes));
}

fn take_all<T>(buf: &mut &[u8], take: impl Fn(&mut &[u8]) -> Result<T, BadItem>) -> Result<Vec<T>, BadItem> {
    let mut all = Vec::new();
    while buf.has_remaining() {
        all.push(take(buf)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        (0..=Key::LAST.0).prop_map(Key)
    }

    prop_compose! {
        fn note()(key in key(), at: u32, sum: u16, stress in 0u16..=1000, draining: bool, meetings: u32) -> Note {
            Note { key, at, sum, stress_permille: stress, draining, meetings }
        }
    }

    fn item() -> impl Strategy<Value = Item> {
        let keys = || prop::collection::vec(key(), 0..100);
        prop_oneof![
            prop::collection::vec(note(), 0..60).prop_map(Item::Notes),
            prop::collection::vec(note().prop_map(|note| note.mark()), 0..60).prop_map(Item::Marks),
            keys().prop_map(Item::Want),
            keys().prop_map(Item::Doubt),
            keys().prop_map(Item::Missing),
            (any::<u16>(), any::<u32>(), any::<bool>()).prop_map(|(count, sum, quiet)| Item::Digest(Digest {
                count,
                sum,
                quiet
            })),
            (any::<bool>(), key(), key(), keys()).prop_map(|(answer, from, to, lives)| Item::Roll {
                answer,
                range: (from, to),
                lives
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_item_is_read_as_it_was_written(item in item()) {
            let bytes = item.encode(usize::MAX).unwrap();
            prop_assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
            if let Item::Notes(notes) = &item {
                prop_assert_eq!(bytes.len(), ITEM_FRAME + notes.iter().map(Note::len).sum::<usize>());
            }
            if let Item::Marks(marks) = &item {
                prop_assert_eq!(bytes.len(), ITEM_FRAME + marks.len() * Mark::LENGTH);
            }
            prop_assert_eq!(item.encode(bytes.len() - 1), None);
            prop_assert_eq!(Item::decode(&bytes[2..]).unwrap(), item);
        }

        #[test]
        fn arbitrary_bytes_are_an_item_or_an_error(kind in 0u8..11, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Item::decode(&[&[MARK, kind], &bytes[..]].concat());
            let _ = Item::decode(&bytes);
        }

        #[test]
        fn a_note_s_time_is_found_within_24_days(known in 1_700_000_000_000u64..2_000_000_000_000, later in -2_000_000_000i64..2_000_000_000) {
            let at = known.saturating_add_signed(later);
            prop_assert_eq!(millis(at as u32, known), at);
        }
    }

    #[test]
    fn a_full_packet_of_keys_fits() {
        let keys = vec![Key::LAST; keys_in(1000)];
        let roll = Item::Roll { answer: false, range: (Key::FIRST, Key::LAST), lives: keys };
        assert!(roll.encode(1000).is_some());
    }
}
