//! What edges send of speech, in whatever order it comes to one meeting.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh::wire::{
    Epoch, ParticipantAlias, SpurtNo,
    copies::Copies,
    spurt::{Item, Part, SpurtDecoder},
};

use crate::{
    key::SpurtKey,
    speech::ingest::{Append, Event, Ingest, Limits, Opened, Receipt},
};

/// First byte of a step: a spurt stream behind two bytes of length.
pub const STREAM: u8 = 0;
/// A datagram of copies behind two bytes of length.
pub const COPIES: u8 = 1;
/// The disk has the oldest append.
pub const LOGGED: u8 = 2;
/// The words of the oldest whole spurt are out.
pub const DONE: u8 = 3;
/// Epochs below the next byte are over, but that of the one behind it.
pub const FENCE: u8 = 4;
/// Their open spurts are.
pub const END_OPEN: u8 = 5;
const KINDS: u8 = 6;

const LIMITS: Limits = Limits { participants: 4, open_spurts: 8, undone_spurts: 16, items_per_spurt: 64 };

/// One spurt, as the log and the transcript see it.
#[derive(Default)]
struct Seen {
    /// Items handed to the log, those told to be on its disk, and those handed on.
    appended: u32,
    durable: u32,
    fresh: u32,
    ended: bool,
    whole: bool,
}

#[derive(Default)]
struct Meeting {
    ingest: Ingest,
    seen: BTreeMap<SpurtKey, Seen>,
    /// On their way to the disk.
    pending: Vec<Receipt>,
    over: BTreeSet<u64>,
}

/// Steps of what may happen to the intake of a meeting. Each item of each spurt comes to the log once and in order, of an
/// epoch that is over nothing comes, and a spurt is whole once and when all of it is on disk.
///
/// # Panics
/// This crate is wrong.
pub fn intake(mut data: &[u8]) {
    let mut meeting = Meeting { ingest: Ingest::new(LIMITS), ..Meeting::default() };
    while let Some((kind, rest)) = data.split_first() {
        data = rest;
        match kind % KINDS {
            STREAM => meeting.stream(bytes(&mut data), kind / KINDS),
            COPIES => meeting.copies(bytes(&mut data)),
            LOGGED => meeting.log(),
            DONE => meeting.finish(),
            kind => {
                let Some(([below, but], rest)) = data.split_first_chunk::<2>() else { break };
                data = rest;
                meeting.end(u64::from(below % 5), u64::from(but % 5), kind == FENCE);
            }
        }
        meeting.drain();
    }
    while !meeting.pending.is_empty() {
        meeting.log();
        meeting.drain();
    }
    let counts = meeting.ingest.counts();
    assert_eq!(counts.frames_durable, counts.frames_received);
}

fn bytes<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return std::mem::take(data) };
    let (bytes, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    *data = rest;
    bytes
}

fn key(epoch: u32, participant: ParticipantAlias, spurt: SpurtNo) -> SpurtKey {
    let participant = format!("p{}", participant.0 % 6).as_str().into();
    SpurtKey { epoch: Epoch(u64::from(epoch % 4)), participant, spurt: SpurtNo(spurt.0 % 32) }
}

impl Meeting {
    /// Items come by ones, or by so many.
    fn stream(&mut self, stream: &[u8], batch: u8) {
        let mut decoder = SpurtDecoder::default();
        decoder.feed(stream);
        let Ok(Some(Part::Header(header))) = decoder.poll() else { return };
        let key = key(header.meeting.0, header.participant, header.spurt);
        let known = self.ingest.knows(&key);
        // As `meeting::Meeting::begin` does.
        if !known && self.over.contains(&key.epoch.0) {
            return;
        }
        let opened = self.ingest.handle_header(&key, header.captured, header.trace, header.offset);
        match opened {
            Ok(Opened::Ready { next }) if known => assert_eq!(next, self.seen[&key].appended),
            Ok(Opened::Ready { next }) => {
                // Of somebody who was forgotten what is done comes anew.
                self.seen.insert(key.clone(), Seen::default());
                assert_eq!(next, 0);
            }
            Ok(Opened::Done) | Err(_) => return,
        }
        let mut items = std::iter::from_fn(|| match decoder.poll() {
            Ok(Some(Part::Item(item))) => Some(item),
            _ => None,
        });
        let mut offset = header.offset;
        loop {
            let some: Vec<Item> = items.by_ref().take(usize::from(batch) + 1).collect();
            let count = some.iter().filter(|item| !matches!(item, Item::End(_))).count() as u32;
            if some.is_empty() {
                return;
            }
            let Ok(append) = self.ingest.handle_items(&key, offset, some) else { return };
            offset = offset.saturating_add(count);
            self.append(append);
        }
    }

    fn copies(&mut self, datagram: &[u8]) {
        let Ok(copies) = Copies::decode(Bytes::copy_from_slice(datagram)) else { return };
        let key = key(copies.meeting.0, copies.participant, copies.spurt);
        if let Ok(append) = self.ingest.handle_copies(&key, copies.items) {
            self.append(append);
        }
    }

    fn append(&mut self, append: Option<Append>) {
        let Some(append) = append else { return };
        let seen = self.seen.get_mut(&append.key).expect("it was opened");
        assert_eq!(append.opened.is_some(), seen.appended == 0 && !seen.ended && append.first == 0, "opened once");
        assert_eq!(append.first, seen.appended, "a hole, or twice");
        assert!(!self.over.contains(&append.key.epoch.0) && !seen.ended && !seen.whole);
        seen.appended += append.items.len() as u32;
        assert!(seen.appended <= LIMITS.items_per_spurt);
        if let Some(end) = append.end {
            assert_eq!(end.items, seen.appended);
            seen.ended = true;
        }
        self.pending.push(append.receipt());
    }

    fn log(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let receipt = self.pending.remove(0);
        self.ingest.handle_logged(receipt);
    }

    fn finish(&mut self) {
        if let Some(key) = self.seen.iter().find(|(_, seen)| seen.whole).map(|(key, _)| key.clone()) {
            self.ingest.handle_done(&key);
            assert!(self.ingest.knows(&key));
            self.seen.remove(&key);
        }
    }

    fn end(&mut self, below: u64, but: u64, fence: bool) {
        let but: BTreeSet<u64> = BTreeSet::from([but]).difference(&self.over).copied().collect();
        let epochs = but.iter().copied().map(Epoch).collect();
        self.ingest.end_open(Epoch(below), &epochs);
        if fence {
            self.over.extend((0..below).filter(|epoch| !but.contains(epoch)));
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.ingest.poll_event() {
            match event {
                Event::Durable { key, upto, .. } => {
                    let seen = self.seen.get_mut(&key).expect("it was opened");
                    assert!(seen.durable <= upto && upto <= seen.appended);
                    seen.durable = upto;
                    if let Some(fresh) = self.ingest.take_fresh(&key) {
                        assert_eq!(fresh.first, seen.fresh, "a hole, or twice");
                        seen.fresh += fresh.slots.len() as u32;
                    }
                    assert_eq!(seen.fresh, upto);
                }
                Event::Whole { key, end, .. } => {
                    let seen = self.seen.get_mut(&key).expect("it was opened");
                    assert!(!std::mem::replace(&mut seen.whole, true), "whole twice");
                    assert!(seen.durable == seen.appended && end.is_some() == seen.ended);
                }
                Event::Done { key } => assert!(self.ingest.knows(&key)),
            }
        }
        assert!(self.ingest.undone() <= LIMITS.undone_spurts && self.ingest.open() <= self.ingest.undone());
    }
}
