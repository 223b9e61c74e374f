//! One talk spurt as far as it has come, and the numbers of those that are done.

use std::{collections::BTreeSet, time::Duration};

use mesh::{
    clock::Micros,
    redundancy::ahead::Ahead,
    trace::TraceContext,
    wire::spurt::{Item, SpurtEnd},
};

use super::{Append, Counts, Refusal};
use crate::{
    key::SpurtKey,
    speech::utterance::{Slot, duration_of},
};

#[derive(Debug)]
pub(super) struct Spurt {
    pub(super) captured: Micros,
    pub(super) opened: Option<(Micros, TraceContext)>,
    /// Accepted items that [`super::Ingest::take_fresh`] has not returned yet.
    pub(super) fresh: Vec<Slot>,
    pub(super) accepted: u32,
    pub(super) logged: u32,
    pub(super) media: Duration,
    pub(super) slot: Duration,
    pub(super) end: Option<SpurtEnd>,
    pub(super) end_logged: bool,
    pub(super) truncated: bool,
    pub(super) whole: bool,
    /// Copies that came before their turn.
    pub(super) ahead: Ahead,
}

/// Numbers that are done: all below `below`, and some above it.
#[derive(Debug, Default)]
pub(super) struct DoneSet {
    pub(super) below: u32,
    pub(super) above: BTreeSet<u32>,
    /// When a spurt of it last came or was done, counted in such events.
    pub(super) used: u64,
}

/// How long a gap is that nothing precedes: the usual packet.
pub(super) const DEFAULT_SLOT: Duration = Duration::from_millis(20);

impl Spurt {
    pub(super) fn new(captured: Micros, trace: TraceContext) -> Self {
        Self {
            captured,
            fresh: vec![],
            opened: Some((captured, trace)),
            accepted: 0,
            logged: 0,
            media: Duration::ZERO,
            slot: DEFAULT_SLOT,
            end: None,
            end_logged: false,
            truncated: false,
            whole: false,
            ahead: Ahead::default(),
        }
    }

    pub(super) fn take(
        &mut self,
        key: &SpurtKey,
        offset: u32,
        mut items: Vec<Item>,
        limit: u32,
        counts: &mut Counts,
    ) -> Result<Option<Append>, Refusal> {
        let end = match items.last() {
            Some(Item::End(end)) => Some(*end),
            _ => None,
        };
        items.truncate(items.len() - usize::from(end.is_some()));
        let seen = ((self.accepted - offset) as usize).min(items.len());
        counts.duplicates += seen as u64;
        items.drain(..seen);
        self.check(offset, seen as u32, items.len() as u32, end, limit)?;
        // A replay that was cut short, of what an edge had to give up, ends what is held.
        let held = self.accepted + items.len() as u32;
        let end = end.filter(|_| self.end.is_none()).map(|end| SpurtEnd { items: held, ..end });
        if items.is_empty() && end.is_none() {
            return Ok(None);
        }
        let first = self.accepted;
        self.accepted += items.len() as u32;
        self.end = self.end.or(end);
        for item in &items {
            self.measure(item, counts);
        }
        Ok(Some(Append { key: key.clone(), first, items, end, opened: self.opened.take() }))
    }

    /// Appends copies whose turn comes after these items.
    pub(super) fn join_ahead(&mut self, offset: u32, items: &mut Vec<Item>) {
        let reach = offset.saturating_add(items.len() as u32);
        if reach >= self.accepted && !matches!(items.last(), Some(Item::End(_))) {
            items.extend(self.ahead.take(reach));
        }
    }

    fn check(&self, offset: u32, seen: u32, new: u32, end: Option<SpurtEnd>, limit: u32) -> Result<(), Refusal> {
        if new > 0 && self.end.is_some() {
            return Err(Refusal::WrongCount { said: self.accepted, held: self.accepted + new });
        }
        if self.truncated && (new > 0 || (end.is_some() && self.end.is_none())) {
            return Err(Refusal::Fenced);
        }
        if self.accepted + new > limit {
            return Err(Refusal::TooLong(limit));
        }
        let sent = offset + seen + new;
        match end {
            Some(end) if end.items != sent => Err(Refusal::WrongCount { said: end.items, held: sent }),
            _ => Ok(()),
        }
    }

    fn measure(&mut self, item: &Item, counts: &mut Counts) {
        if let Item::Frame(packet) = item {
            self.slot = duration_of(packet);
            counts.frames_received += 1;
        }
        self.media += self.slot;
        self.fresh.push(Slot::of(item, self.slot.as_micros() as u32));
    }
}

impl DoneSet {
    pub(super) fn insert(&mut self, n: u32) {
        if n >= self.below {
            self.above.insert(n);
        }
        while self.above.remove(&self.below) {
            self.below += 1;
        }
    }

    pub(super) fn contains(&self, n: u32) -> bool {
        n < self.below || self.above.contains(&n)
    }
}
