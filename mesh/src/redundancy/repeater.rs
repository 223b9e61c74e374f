//! What has been sent of each live spurt, and when it is to be said again.
//!
//! Calling contract: tell it of everything written to a spurt's stream, in that order; then, and whenever
//! [`Repeater::poll_timeout`] has come, call [`Repeater::poll_copies`] until it yields no more.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{MAX_STRIDES, Plan, STRIDE};
use crate::wire::{
    ParticipantAlias, SpurtNo,
    copies::Copies,
    spurt::{Item, SpurtHeader},
};

/// A spurt of one meeting.
pub type Key = (ParticipantAlias, SpurtNo);

/// A copy due this soon goes along with the packet that is being sent anyway.
const SLACK: Duration = Duration::from_millis(6);
/// A copy waits this long for such a packet before it goes alone.
const GRACE: Duration = Duration::from_millis(8);
/// Items kept for one spurt, the oldest going first: more come only at once, as a pre-roll or a backlog.
const MAX_ITEMS: usize = 64;
/// Bytes of a datagram before its items: type, three numbers and a header.
const PREFIX: usize = 1 + 8 + 4 + 8 + 96;
/// Bytes an item takes beyond its own: skipped numbers and its length.
const PER_ITEM: usize = 4;
/// A trailer's bytes, stamps and all.
const TRAILER: usize = 64;

/// The live spurts of one meeting on one connection.
#[derive(Debug, Default)]
pub struct Repeater {
    spurts: BTreeMap<Key, Held>,
}

#[derive(Debug)]
struct Held {
    header: SpurtHeader,
    opened: Instant,
    /// The number of the next item.
    next: u32,
    items: VecDeque<Kept>,
    ended: bool,
    /// Something was written since copies were last asked for: they can ride along.
    fresh: bool,
}

#[derive(Debug)]
struct Kept {
    number: u32,
    item: Item,
    sent: Instant,
    /// The lag of its last copy.
    copied: Duration,
}

impl Repeater {
    /// A spurt's stream begins with `header`.
    pub fn handle_open(&mut self, header: SpurtHeader, now: Instant) {
        let key = (header.participant, header.spurt);
        let (items, next) = (VecDeque::new(), header.offset);
        let held = Held { header, opened: now, next, items, ended: false, fresh: false };
        self.spurts.insert(key, held);
    }

    /// An item, or the trailer, was written to a spurt's stream.
    pub fn handle_item(&mut self, key: Key, item: &Item, now: Instant) {
        let Some(held) = self.spurts.get_mut(&key).filter(|held| !held.ended) else { return };
        held.ended = matches!(item, Item::End(_));
        held.fresh = true;
        held.items.push_back(Kept { number: held.next, item: item.clone(), sent: now, copied: Duration::ZERO });
        held.next += 1;
        if held.items.len() > MAX_ITEMS {
            held.items.pop_front();
        }
    }

    /// A spurt's stream is given up.
    pub fn forget(&mut self, key: Key) {
        self.spurts.remove(&key);
    }

    /// The next datagram, of at most `max` bytes; `None` when nothing is due under `plan`.
    pub fn poll_copies(&mut self, plan: Plan, max: usize, now: Instant) -> Option<Copies> {
        self.spurts.retain(|_, held| {
            held.expire(plan, now);
            !held.ended || !held.items.is_empty()
        });
        self.spurts.values_mut().find_map(|held| held.copies(plan, max, now))
    }

    /// When [`Repeater::poll_copies`] is next needed if nothing else is written.
    pub fn poll_timeout(&self, plan: Plan) -> Option<Instant> {
        self.spurts
            .values()
            .flat_map(|held| held.items.iter().filter_map(|kept| kept.due(plan)))
            .min()
            .map(|d| d + GRACE)
    }
}

impl Held {
    /// Drops what will not be repeated any more.
    fn expire(&mut self, plan: Plan, now: Instant) {
        // What the present plan does not repeat may yet be by a fuller one, until it is too old for any.
        let oldest = STRIDE * (u32::from(MAX_STRIDES) + 1);
        let ended = self.ended;
        let over =
            |kept: &mut Kept| now.saturating_duration_since(kept.sent) > oldest || (ended && kept.due(plan).is_none());
        while self.items.pop_front_if(over).is_some() {}
    }

    fn copies(&mut self, plan: Plan, max: usize, now: Instant) -> Option<Copies> {
        let grace = if self.fresh { Duration::ZERO } else { SLACK + GRACE };
        let has_come = |kept: &Kept, grace| kept.due(plan).is_some_and(|due| due + grace <= now + SLACK);
        if !self.items.iter().any(|kept| has_come(kept, grace)) {
            self.fresh = false;
            return None;
        }
        // If a datagram must be sent, all that is due soon goes along.
        let mut room = max.saturating_sub(PREFIX);
        let mut items = vec![];
        for kept in self.items.iter_mut().filter(|kept| has_come(kept, Duration::ZERO)) {
            let size = kept.size();
            if size <= room {
                room -= size;
                items.push((kept.number, kept.item.clone()));
            } else if size <= max.saturating_sub(PREFIX) {
                break;
            }
            // An item too large for any datagram is left to the stream.
            kept.copied = plan.passed(now + SLACK - kept.sent).unwrap_or(kept.copied).max(kept.copied);
        }
        let SpurtHeader { meeting, participant, spurt, .. } = self.header;
        let young = plan.last().is_some_and(|last| now.saturating_duration_since(self.opened) <= last + SLACK);
        let header = young.then_some(self.header);
        (!items.is_empty()).then_some(Copies { meeting, participant, spurt, header, items })
    }
}

impl Kept {
    fn due(&self, plan: Plan) -> Option<Instant> {
        plan.after(self.copied).map(|lag| self.sent + lag)
    }

    fn size(&self) -> usize {
        PER_ITEM
            + match &self.item {
                Item::Gap => 0,
                Item::Frame(packet) => packet.len(),
                Item::End(_) => TRAILER,
            }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Micros,
        trace::TraceContext,
        wire::{MeetingAlias, spurt::SpurtEnd},
    };

    const MS: Duration = Duration::from_millis(1);
    const KEY: Key = (ParticipantAlias(4), SpurtNo(9));
    const MAX: usize = 1162;

    fn header(offset: u32) -> SpurtHeader {
        let (meeting, trace) = (MeetingAlias(1), TraceContext::new(7));
        SpurtHeader { meeting, participant: KEY.0, spurt: KEY.1, offset, captured: Micros(1), trace }
    }

    fn frame(bytes: usize) -> Item {
        Item::Frame(vec![1; bytes].into())
    }

    fn end(items: u32) -> Item {
        Item::End(SpurtEnd::of(items))
    }

    /// The numbers in each datagram that is due now.
    fn due(repeater: &mut Repeater, plan: Plan, now: Instant) -> Vec<Vec<u32>> {
        let copies = std::iter::from_fn(|| repeater.poll_copies(plan, MAX, now));
        copies.map(|copies| copies.items.iter().map(|(number, _)| *number).collect()).collect()
    }

    #[test]
    fn copies_ride_with_the_packets_that_their_lags_meet_and_the_tail_goes_alone() {
        let (start, mut repeater, plan) = (Instant::now(), Repeater::default(), Plan::FIRM);
        repeater.handle_open(header(0), start);
        let mut sent = vec![];
        for n in 0..5 {
            let now = start + MS * 20 * n;
            repeater.handle_item(KEY, &if n < 4 { frame(80) } else { end(4) }, now);
            sent.extend(due(&mut repeater, plan, now));
        }
        assert_eq!(sent, [vec![0], vec![1], vec![0, 2], vec![1, 3]]);
        let mut tail = vec![];
        while let Some(at) = repeater.poll_timeout(plan) {
            tail.extend(due(&mut repeater, plan, at));
        }
        assert_eq!(tail, [vec![2, 4], vec![3], vec![4]]);
        assert!(repeater.spurts.is_empty());
    }

    #[test]
    fn a_pre_roll_written_at_once_is_repeated_a_lag_later() {
        let (start, mut repeater) = (Instant::now(), Repeater::default());
        repeater.handle_open(header(0), start);
        (0..25).for_each(|_| repeater.handle_item(KEY, &frame(80), start));
        assert_eq!(due(&mut repeater, Plan::LIGHT, start), Vec::<Vec<u32>>::new());
        repeater.handle_item(KEY, &frame(80), start + MS * 20);
        let sent = due(&mut repeater, Plan::LIGHT, start + MS * 20);
        assert_eq!(sent.concat(), (0..25).collect::<Vec<_>>());
        assert_eq!(sent.len(), 3, "as many datagrams as 25 frames fill");
    }

    #[test]
    fn the_header_goes_along_while_its_stream_is_young() {
        let (start, mut repeater) = (Instant::now(), Repeater::default());
        repeater.handle_open(header(3), start);
        for n in 0..5 {
            repeater.handle_item(KEY, &frame(80), start + MS * 20 * n);
            let copies = repeater.poll_copies(Plan::LIGHT, MAX, start + MS * 20 * n);
            let with_header = copies.map(|copies| copies.header.is_some());
            assert_eq!(with_header, [None, Some(true), Some(false), Some(false), Some(false)][n as usize]);
        }
    }

    #[test]
    fn without_a_plan_nothing_is_sent_and_an_ended_spurt_is_forgotten() {
        let (start, mut repeater) = (Instant::now(), Repeater::default());
        repeater.handle_open(header(0), start);
        repeater.handle_item(KEY, &frame(80), start);
        repeater.handle_item(KEY, &end(1), start + MS * 20);
        assert_eq!(repeater.poll_copies(Plan::NONE, MAX, start + MS * 20), None);
        assert_eq!(repeater.poll_timeout(Plan::NONE), None);
        assert!(repeater.spurts.is_empty());
    }

    proptest! {
        #[test]
        fn datagrams_fit_and_each_item_is_repeated_at_most_as_often_as_planned(
            sizes in prop::collection::vec(0usize..1500, 1..80), gaps in prop::collection::vec(0u32..70, 80),
            strides in 0u8..5, max in 200usize..1400,
        ) {
            let plan = Plan { next: true, strides };
            let (mut now, mut repeater) = (Instant::now(), Repeater::default());
            repeater.handle_open(header(70_000), now);
            let mut times = BTreeMap::<u32, u32>::new();
            for (size, gap) in sizes.iter().zip(gaps) {
                now += MS * gap;
                repeater.handle_item(KEY, &frame(*size), now);
                while let Some(copies) = repeater.poll_copies(plan, max, now) {
                    let mut bytes = BytesMut::new();
                    copies.encode(&mut bytes);
                    prop_assert!(bytes.len() <= max, "{} bytes", bytes.len());
                    copies.items.iter().for_each(|(n, _)| *times.entry(*n).or_default() += 1);
                }
                prop_assert!(repeater.poll_timeout(plan).is_none_or(|at| at > now));
            }
            prop_assert!(times.values().all(|times| *times <= plan.times()));
        }
    }
}
