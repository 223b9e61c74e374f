//! What is added to SWIM's packets: what nodes say of themselves, and what finds differences.
//!
//! An item is its length (2), its kind (1) and itself, behind the members of a packet. It is for the receiver alone.
//! What is *signed* was signed by the node that it is about, and is told as it came.
//!
//! | kind | then |
//! |---|---|
//! | 1 notes | signed [`Note`]s, about 90 bytes each |
//! | 2 report | one [`Signed`] report |
//! | 3 want | [`Key`]s of nodes whose reports the sender lacks |
//! | 4 digest | count (2), sum (4), whether the sender's list has been quiet (1) |
//! | 5 roll | whether one is wanted back (1), first and last key of the range (5 + 5), the [`Key`]s of all lives in it |
//! | 6 doubt | [`Key`]s of lives that the sender holds to be over |
//! | 7 missing | [`Key`]s of lives that the sender does not know |
//! | 8 answer | as 2, but asked for: it is not to be passed on |
//! | 9 marks | [`Mark`]s, 16 bytes each: nothing has changed, by the next link of a hash chain |
//! | 10 card | one signed [`Card`] |
//! | 11 cards | [`Key`]s of nodes whose cards the sender lacks |
//! | 12 clock | what the sender's clock says (8), in Unix milliseconds: the receiver's differs |

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut};

use super::{
    cards::Card,
    chain::Link,
    keys::{Fingerprint, Keys},
    reports::{BadReport, Judge},
};
use crate::{identity::NodeId, wire::report::Report};

/// The length of a [`Key`].
const KEY: usize = 5;

/// Length and kind.
const FRAME: usize = 3;

/// The longest signature: RSA with 4096 bits.
const MAX_SIGNATURE: usize = 512;

const NOTES: u8 = 1;
const REPORT: u8 = 2;
const WANT: u8 = 3;
const DIGEST: u8 = 4;
const ROLL: u8 = 5;
const DOUBT: u8 = 6;
const MISSING: u8 = 7;
const ANSWER: u8 = 8;
const MARKS: u8 = 9;
const CARD: u8 = 10;
const CARDS: u8 = 11;
const CLOCK: u8 = 12;

/// What is signed begins with one of these: a node's key signs other things as well.
const REPORT_DOMAIN: &[u8] = b"nearfield gossip report 1\0";
const NOTE_DOMAIN: &[u8] = b"nearfield gossip note 1\0";

const DRAINING: u16 = 1 << 15;

/// 40 bits of a hash. Two of 1000 nodes share one in one of two million meshes; they would then overwrite each
/// other's notes until the next full report, and a difference of lists between them would go unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// What proves a report or a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    /// [`tag`] of the certificate whose key has signed, and of the life.
    pub(super) tag: u8,
    /// The end of the chain by which its [`Mark`]s are known. It is signed too.
    pub(super) anchor: Link,
    pub(super) signature: Vec<u8>,
}

/// A report as its node has signed it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signed {
    pub(super) report: Report,
    /// The same in the bytes that were signed.
    bytes: Vec<u8>,
    pub(super) proof: Proof,
}

/// The state of a node that held the rest of its report as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub(super) proof: Proof,
}

/// A node is as it was when it signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: Key,
    /// When the report or note was signed, as in [`Note`].
    pub(super) at: u32,
    /// How many periods it has stood since.
    pub(super) steps: u16,
    /// The chain's link for it.
    pub(super) link: Link,
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
    Report(Box<Signed>),
    Answer(Box<Signed>),
    Want(Vec<Key>),
    Digest(Digest),
    Roll { answer: bool, range: (Key, Key), lives: Vec<Key> },
    Doubt(Vec<Key>),
    Missing(Vec<Key>),
    Card(Box<Card>),
    Cards(Vec<Key>),
    Clock(u64),
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

/// By this a word that was signed in another life, or with another key, is not taken for a forgery.
pub(super) fn tag(certificate: Fingerprint, life: u64) -> u8 {
    hash(&certificate.0, life) as u8
}

impl Proof {
    fn sign(keys: &dyn Keys, life: u64, anchor: Link, message: &[u8]) -> Option<Self> {
        let signature = keys.sign(message)?;
        Some(Self { tag: tag(keys.certificate(), life), anchor, signature })
    }

    fn put(&self, buf: &mut Vec<u8>) {
        buf.put_u8(self.tag);
        self.anchor.put(buf);
        put_varint(self.signature.len() as u32, buf);
        buf.put_slice(&self.signature);
    }

    fn take(buf: &mut &[u8]) -> Result<Self, BadItem> {
        let tag = buf.try_get_u8().map_err(|_| BadItem::Short)?;
        let anchor = Link::take(buf).ok_or(BadItem::Short)?;
        let length = take_varint(buf)? as usize;
        if length > MAX_SIGNATURE || length > buf.remaining() {
            return Err(BadItem::Short);
        }
        let (signature, rest) = buf.split_at(length);
        *buf = rest;
        Ok(Self { tag, anchor, signature: signature.to_vec() })
    }
}

impl Signed {
    /// `report` of the life `life`, signed; `None` if it is too long, or the key refuses.
    pub(super) fn sign(keys: &dyn Keys, life: u64, report: &Report, anchor: Link) -> Option<Self> {
        let bytes = super::reports::encode(report)?;
        let report = super::reports::decode(&bytes).ok()?;
        let proof = Proof::sign(keys, life, anchor, &message(REPORT_DOMAIN, life, &bytes, anchor))?;
        Some(Self { report, bytes, proof })
    }

    /// Whether it was signed as `judge` wants it.
    pub(super) fn is_signed(&self, judge: Judge<'_>) -> bool {
        let message = message(REPORT_DOMAIN, judge.life, &self.bytes, self.proof.anchor);
        judge.keys.verify(judge.certificate, &message, &self.proof.signature)
    }

    fn put(&self, buf: &mut Vec<u8>) {
        put_varint(self.bytes.len() as u32, buf);
        buf.put_slice(&self.bytes);
        self.proof.put(buf);
    }

    fn take(mut bytes: &[u8]) -> Result<Self, BadReport> {
        let buf = &mut bytes;
        let length = take_varint(buf)? as usize;
        let report = buf.get(..length).ok_or(BadItem::Short)?;
        buf.advance(length);
        let proof = Proof::take(buf)?;
        if !buf.is_empty() {
            return Err(BadItem::Trailing.into());
        }
        Ok(Self { report: super::reports::decode(report)?, bytes: report.to_vec(), proof })
    }
}

fn message(domain: &[u8], life: u64, said: &[u8], anchor: Link) -> Vec<u8> {
    [domain, &life.to_be_bytes(), said, anchor.bytes()].concat()
}

impl Note {
    /// Signs what `report`, which has the sum `sum`, says of a node's load; `None` if the key refuses.
    pub(super) fn sign(keys: &dyn Keys, life: u64, report: &Report, sum: u16, anchor: Link) -> Option<Self> {
        let mut note = Self {
            key: Key::of(&report.node),
            at: report.at.as_millis() as u32,
            sum,
            stress_permille: report.stress_permille.min(DRAINING - 1),
            draining: report.draining,
            meetings: report.meetings,
            proof: Proof { tag: 0, anchor, signature: vec![] },
        };
        let said = note.said(&report.node, report.at.as_millis());
        note.proof = Proof::sign(keys, life, anchor, &message(NOTE_DOMAIN, life, &said, anchor))?;
        Some(note)
    }

    /// Whether `node` signed it at `millis`, the whole of [`Note::at`], as `judge` wants it.
    pub(super) fn is_signed(&self, judge: Judge<'_>, node: &NodeId, millis: u64) -> bool {
        let message = message(NOTE_DOMAIN, judge.life, &self.said(node, millis), self.proof.anchor);
        judge.keys.verify(judge.certificate, &message, &self.proof.signature)
    }

    fn said(&self, node: &NodeId, millis: u64) -> Vec<u8> {
        let mut bytes = node.as_str().as_bytes().to_vec();
        bytes.put_u8(0);
        bytes.put_u64(millis);
        self.put_load(&mut bytes);
        bytes
    }

    fn put_load(&self, buf: &mut Vec<u8>) {
        buf.put_u16(self.sum);
        buf.put_u16(self.stress_permille | if self.draining { DRAINING } else { 0 });
        put_varint(self.meetings, buf);
    }

    fn put(&self, buf: &mut Vec<u8>) {
        self.key.put(buf);
        buf.put_u32(self.at);
        self.put_load(buf);
        self.proof.put(buf);
    }

    fn take(buf: &mut &[u8]) -> Result<Self, BadItem> {
        let key = Key::take(buf)?;
        if buf.remaining() < 9 {
            return Err(BadItem::Short);
        }
        let (at, sum, state) = (buf.get_u32(), buf.get_u16(), buf.get_u16());
        let meetings = take_varint(buf)?;
        let (stress_permille, draining) = (state & !DRAINING, state & DRAINING != 0);
        Ok(Self { key, at, sum, stress_permille, draining, meetings, proof: Proof::take(buf)? })
    }

    /// Its length in a packet.
    pub(super) fn len(&self) -> usize {
        let signature = self.proof.signature.len();
        KEY + 8 + varint_len(self.meetings) + 1 + Link::LENGTH + varint_len(signature as u32) + signature
    }
}

fn put_varint(mut rest: u32, buf: &mut Vec<u8>) {
    while rest >= 0x80 {
        buf.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buf.put_u8(rest as u8);
}

fn varint_len(value: u32) -> usize {
    (32 - (value | 1).leading_zeros() as usize).div_ceil(7)
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
    /// Its length in a packet, at most.
    pub(super) const LENGTH: usize = KEY + 4 + 2 + Link::LENGTH;

    fn put(&self, buf: &mut Vec<u8>) {
        self.key.put(buf);
        buf.put_u32(self.at);
        put_varint(self.steps.into(), buf);
        self.link.put(buf);
    }

    fn take(buf: &mut &[u8]) -> Result<Self, BadItem> {
        let key = Key::take(buf)?;
        let at = buf.try_get_u32().map_err(|_| BadItem::Short)?;
        let steps = u16::try_from(take_varint(buf)?).map_err(|_| BadItem::Trailing)?;
        Ok(Self { key, at, steps, link: Link::take(buf).ok_or(BadItem::Short)? })
    }
}

/// When something was written, in Unix milliseconds: of all times that end in `at` the one nearest to `known`.
pub(super) fn millis(at: u32, known: u64) -> u64 {
    let later = at.wrapping_sub(known as u32);
    known.saturating_add_signed(i64::from(later.cast_signed()))
}

impl Item {
    /// The item as it stands in a packet: its length in two bytes, then itself.
    ///
    /// `None` if it is longer than `room`.
    pub(super) fn encode(&self, room: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0, 0, self.kind()];
        match self {
            Self::Notes(notes) => notes.iter().for_each(|note| note.put(&mut bytes)),
            Self::Marks(marks) => marks.iter().for_each(|mark| mark.put(&mut bytes)),
            Self::Report(report) | Self::Answer(report) => report.put(&mut bytes),
            Self::Card(card) => card.put(&mut bytes),
            Self::Clock(millis) => bytes.put_u64(*millis),
            Self::Want(keys) | Self::Doubt(keys) | Self::Missing(keys) | Self::Cards(keys) => {
                put_keys(keys, &mut bytes)
            }
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
            Self::Card(_) => CARD,
            Self::Cards(_) => CARDS,
            Self::Clock(_) => CLOCK,
        }
    }

    /// The item without its length. Arbitrary bytes never panic.
    pub(super) fn decode(data: &[u8]) -> Result<Self, BadReport> {
        let [kind, rest @ ..] = data else { return Err(BadItem::Short.into()) };
        match *kind {
            REPORT => Ok(Self::Report(Box::new(Signed::take(rest)?))),
            ANSWER => Ok(Self::Answer(Box::new(Signed::take(rest)?))),
            CARD => Ok(Self::Card(Box::new(Card::take(rest)?))),
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
            CARDS => Self::Cards(take_all(buf, Key::take)?),
            CLOCK => Self::Clock(buf.try_get_u64().map_err(|_| BadItem::Short)?),
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
