#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::wire::spurt::EdgeStages;
use proptest::prelude::*;

use super::{spilling::RETRY, *};

fn node(n: u8) -> NodeId {
    format!("core-{n}").parse().unwrap()
}

fn key(participant: u16, spurt: u32) -> SpurtKey {
    SpurtKey { participant: ParticipantAlias(participant), spurt: SpurtNo(spurt) }
}

fn frame(n: u32) -> Item {
    Item::Frame(Bytes::from(format!("{n:060}")))
}

/// A spurt of `items`, handed in whole or up to but not including its end.
fn speak(uplink: &mut Uplink, key: SpurtKey, items: u32, ended: bool, now: Instant) {
    let spurt = key.spurt;
    uplink.handle_output(key.participant, Output::Start { spurt, captured: Micros(7) }, now);
    for offset in 0..items {
        let output = Output::Item { spurt, offset, item: frame(offset), stages: EdgeStages::default() };
        uplink.handle_output(key.participant, output, now);
    }
    if ended {
        let end = SpurtEnd::of(items);
        uplink.handle_output(key.participant, Output::End { spurt, end }, now);
    }
}

/// What is transmitted, as `open 0/1@2`, `items 0/1 3`, `end 0/1`.
fn transmitted(uplink: &mut Uplink) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    let mut run = 0;
    let name = |key: SpurtKey| format!("{}/{}", key.participant.0, key.spurt.0);
    while let Some(transmit) = uplink.poll_transmit(Micros(99)) {
        match transmit {
            Transmit::Open { key, offset, captured } => {
                assert_eq!(captured, Micros(7));
                out.push(format!("open {}@{offset}", name(key)));
                run = 0;
            }
            Transmit::Item { key, .. } => {
                if run > 0 {
                    out.pop();
                }
                run += 1;
                out.push(format!("items {} {run}", name(key)));
            }
            Transmit::End { key, end } => {
                assert_eq!(end.stages.sent, Micros(99));
                out.push(format!("end {} {}", name(key), end.items));
            }
        }
    }
    out
}

fn uplink() -> (Uplink, Instant) {
    (Uplink::new(Settings::default()), Instant::now())
}

#[test]
fn what_a_core_has_not_made_words_of_is_sent_as_the_next_part_from_memory_and_from_disk() {
    for evicted in [false, true] {
        let now = Instant::now();
        let mut uplink = Uplink::new(Settings { spill: true, ..Settings::default() });
        speak(&mut uplink, key(0, 3), 10, true, now);
        uplink.handle_connected(&node(1), now);
        transmitted(&mut uplink);
        if evicted {
            uplink.spill_all();
            assert!(!uplink.poll_spill(99, now).is_empty());
            uplink.handle_spilled(true, now);
            assert!(uplink.evict_oldest());
        }
        uplink.handle_done_to(ParticipantAlias(0), SpurtNo(3), 4, now);
        if evicted {
            assert_eq!(uplink.poll_load(), Some(key(0, 3)));
            uplink.handle_loaded(key(0, 3), (0..10).map(frame).collect());
        }
        let rest = key(0, 3 | 1 << 28);
        // The TOC of these frames says 40 ms.
        let captured = Micros(7 + 4 * 40_000);
        let open = uplink.poll_transmit(Micros(99));
        assert_eq!(open, Some(Transmit::Open { key: rest, offset: 0, captured }), "evicted: {evicted}");
        assert_eq!(uplink.poll_transmit(Micros(99)), Some(Transmit::Item { key: rest, item: frame(4) }));
        assert_eq!(transmitted(&mut uplink), ["items 0/268435459 5", "end 0/268435459 6"]);
        uplink.handle_done(ParticipantAlias(0), rest.spurt);
        assert!(uplink.is_empty() && uplink.bytes() == 0);
    }
}

#[test]
fn a_spurt_that_is_to_be_sent_whole_waits_for_its_end_and_what_is_open_goes_on() {
    let (mut uplink, now) = uplink();
    uplink.handle_connected(&node(1), now);
    speak(&mut uplink, key(0, 0), 2, false, now);
    assert_eq!(transmitted(&mut uplink), ["open 0/0@0", "items 0/0 2"]);
    uplink.send_whole_only(true);
    speak(&mut uplink, key(1, 0), 3, false, now);
    uplink.handle_output(ParticipantAlias(0), Output::End { spurt: SpurtNo(0), end: SpurtEnd::of(2) }, now);
    assert_eq!(transmitted(&mut uplink), ["end 0/0 2"]);
    uplink.handle_output(ParticipantAlias(1), Output::End { spurt: SpurtNo(0), end: SpurtEnd::of(3) }, now);
    assert_eq!(transmitted(&mut uplink), ["open 1/0@0", "items 1/0 3", "end 1/0 3"]);
    speak(&mut uplink, key(2, 0), 1, false, now);
    uplink.send_whole_only(false);
    assert!(uplink.is_sent(), "what began so ends so");
    speak(&mut uplink, key(3, 0), 1, false, now);
    assert_eq!(transmitted(&mut uplink), ["open 3/0@0", "items 3/0 1"]);
}

#[test]
fn the_age_is_that_of_the_oldest_live_speech_that_the_core_does_not_hold() {
    let (mut uplink, t0) = uplink();
    let s = |s: u64| t0 + Duration::from_secs(s);
    speak(&mut uplink, key(0, 0), 5, true, t0);
    assert_eq!(uplink.age(s(1)), None, "no core");
    uplink.handle_connected(&node(1), s(1));
    assert_eq!(uplink.age(s(2)), None, "a backlog");
    speak(&mut uplink, key(0, 1), 5, false, s(2));
    assert_eq!(uplink.age(s(4)), Some(Duration::from_secs(2)));
    uplink.handle_durable(ParticipantAlias(0), SpurtNo(1), 4);
    assert_eq!(uplink.age(s(4)), Some(Duration::from_secs(2)), "not all of it");
    uplink.handle_durable(ParticipantAlias(0), SpurtNo(1), 5);
    assert_eq!(uplink.age(s(4)), Some(Duration::ZERO), "held, and going on");
    uplink.handle_output(ParticipantAlias(0), Output::End { spurt: SpurtNo(1), end: SpurtEnd::of(5) }, s(5));
    assert_eq!(uplink.age(s(5)), None);
    uplink.send_whole_only(true);
    speak(&mut uplink, key(0, 2), 5, false, s(10));
    assert_eq!(uplink.age(s(14)), Some(Duration::ZERO), "held back");
    uplink.handle_output(ParticipantAlias(0), Output::End { spurt: SpurtNo(2), end: SpurtEnd::of(5) }, s(14));
    assert_eq!(uplink.age(s(18)), Some(Duration::ZERO), "it may take as long as it was said");
    assert_eq!(uplink.age(s(21)), Some(Duration::from_secs(3)));
    uplink.handle_connected(&node(2), s(21));
    assert_eq!(uplink.age(s(30)), None, "a backlog for the next core");
}

#[test]
fn a_core_that_has_it_all_leaves_no_rest() {
    let now = Instant::now();
    let mut uplink = Uplink::new(Settings::default());
    speak(&mut uplink, key(0, 0), 5, true, now);
    speak(&mut uplink, key(0, 1), 5, false, now);
    uplink.handle_done_to(ParticipantAlias(0), SpurtNo(0), 5, now);
    uplink.handle_done_to(ParticipantAlias(0), SpurtNo(1), 2, now);
    assert_eq!(uplink.spurts.keys().copied().collect::<Vec<_>>(), [key(0, 1)], "still being spoken");
}

#[test]
fn a_spurt_is_transmitted_as_it_is_spoken() {
    let (mut uplink, now) = uplink();
    speak(&mut uplink, key(0, 0), 2, false, now);
    assert!(transmitted(&mut uplink).is_empty(), "not connected");
    uplink.handle_connected(&node(1), now);
    assert_eq!(transmitted(&mut uplink), ["open 0/0@0", "items 0/0 2"]);
    let end = SpurtEnd::of(2);
    uplink.handle_output(ParticipantAlias(0), Output::End { spurt: SpurtNo(0), end }, now);
    assert_eq!(transmitted(&mut uplink), ["end 0/0 2"]);
    uplink.handle_done(ParticipantAlias(0), SpurtNo(0));
    assert!(uplink.is_empty());
    assert_eq!(uplink.bytes(), 0);
}

#[test]
fn the_same_core_gets_what_it_has_not_and_another_core_gets_all() {
    let (mut uplink, now) = uplink();
    uplink.handle_connected(&node(1), now);
    speak(&mut uplink, key(0, 0), 5, true, now);
    transmitted(&mut uplink);
    uplink.handle_durable(ParticipantAlias(0), SpurtNo(0), 3);
    uplink.handle_disconnected(now);
    uplink.handle_connected(&node(1), now);
    assert_eq!(transmitted(&mut uplink), ["open 0/0@3", "items 0/0 2", "end 0/0 5"]);
    uplink.handle_connected(&node(2), now);
    assert_eq!(transmitted(&mut uplink), ["open 0/0@0", "items 0/0 5", "end 0/0 5"]);
    uplink.handle_connected(&node(1), now);
    assert_eq!(transmitted(&mut uplink)[0], "open 0/0@0", "what the first core had is not relied upon after a move");
}

#[test]
fn newest_speech_is_replayed_first() {
    let (mut uplink, now) = uplink();
    speak(&mut uplink, key(0, 0), 1, true, now);
    speak(&mut uplink, key(1, 0), 1, true, now);
    speak(&mut uplink, key(0, 1), 1, false, now);
    uplink.handle_connected(&node(1), now);
    let opened: Vec<String> = transmitted(&mut uplink).into_iter().filter(|t| t.starts_with("open")).collect();
    assert_eq!(opened, ["open 0/1@0", "open 1/0@0", "open 0/0@0"]);
}

#[test]
fn the_oldest_goes_first_when_full_and_the_spoken_one_last() {
    let now = Instant::now();
    let mut uplink = Uplink::new(Settings { max_bytes: 64 * 3 + 124 * 6, ..Settings::default() });
    speak(&mut uplink, key(0, 0), 2, false, now);
    speak(&mut uplink, key(1, 0), 2, true, now);
    speak(&mut uplink, key(1, 1), 3, false, now);
    assert_eq!(uplink.overflowed(), 2, "the ended one, though it began later");
    uplink.handle_connected(&node(1), now);
    assert_eq!(transmitted(&mut uplink), ["open 1/1@0", "items 1/1 3", "open 0/0@0", "items 0/0 2"]);
}

/// Writes all there is to be spilled to a disk that has room for it, or not.
fn spill(uplink: &mut Uplink, room: bool, now: Instant) -> usize {
    let records = uplink.poll_spill(9999, now).len();
    uplink.handle_spilled(room, now);
    records
}

fn spilling(max_bytes: usize) -> (Uplink, Instant) {
    (Uplink::new(Settings { max_bytes, spill: true, ..Settings::default() }), Instant::now())
}

#[test]
fn a_disk_that_refuses_keeps_what_it_has_and_is_tried_again() {
    let (mut uplink, now) = spilling(1 << 20);
    speak(&mut uplink, key(0, 0), 50, true, now);
    assert_eq!(spill(&mut uplink, true, now), 52);
    assert!(uplink.evict_oldest());
    speak(&mut uplink, key(0, 1), 50, true, now);
    assert_eq!(spill(&mut uplink, false, now), 52);
    assert_eq!((uplink.overflowed(), uplink.take_given_up(false)), (0, None));
    assert!(uplink.poll_spill(9999, now + RETRY - Duration::from_millis(1)).is_empty(), "not at once");
    assert_eq!(spill(&mut uplink, true, now + RETRY), 52, "all that was not written");
    assert!(uplink.evict_oldest());
    uplink.handle_connected(&node(1), now);
    for n in [1, 0] {
        assert_eq!(uplink.poll_transmit(Micros(99)), None);
        assert_eq!(uplink.poll_load(), Some(key(0, n)), "on disk only, and there");
        uplink.handle_loaded(key(0, n), (0..50).map(frame).collect());
        assert_eq!(transmitted(&mut uplink).len(), 3);
    }
}

#[test]
fn only_where_memory_is_nearly_full_too_the_oldest_on_a_full_disk_makes_room_and_is_named() {
    let cost = 64 + 50 * 124;
    let (mut uplink, now) = spilling(cost * 8);
    speak(&mut uplink, key(0, 0), 50, true, now);
    spill(&mut uplink, true, now);
    assert!(uplink.evict_oldest());
    (1..=5).for_each(|n| speak(&mut uplink, key(0, n), 50, true, now));
    spill(&mut uplink, false, now);
    assert_eq!(uplink.overflowed(), 0, "there is room here");
    (6..=7).for_each(|n| speak(&mut uplink, key(0, n), 50, true, now));
    spill(&mut uplink, false, now + RETRY);
    assert_eq!(uplink.overflowed(), 50);
    // 50 frames of 40 ms, captured at 7.
    assert_eq!(uplink.take_given_up(false), Some(vec![(Micros(7), Micros(2_000_007))]));
    let at_once = uplink.poll_spill(9999, now + RETRY);
    assert!(matches!(at_once[0], Record::Done { .. }) && at_once.len() > 300, "with the room that makes");
}

#[test]
fn memory_that_is_full_gives_up_what_is_in_it_and_not_what_is_on_disk() {
    let cost = 64 + 50 * 124;
    let (mut uplink, now) = spilling(cost * 3);
    speak(&mut uplink, key(0, 0), 50, true, now);
    spill(&mut uplink, true, now);
    assert!(uplink.evict_oldest());
    (1..=3).for_each(|n| speak(&mut uplink, key(0, n), 50, true, now));
    assert!(uplink.spurts[&key(0, 0)].is_evicted());
    assert!(!uplink.spurts.contains_key(&key(0, 1)));
}

#[test]
fn all_that_is_said_of_a_spurt_that_was_given_up_is_named() {
    let (mut uplink, now) = (Uplink::new(Settings { max_bytes: 64 + 124 * 3, ..Settings::default() }), Instant::now());
    speak(&mut uplink, key(0, 0), 10, true, now);
    assert_eq!(uplink.take_given_up(false), Some(vec![(Micros(7), Micros(400_007))]));
}

#[test]
fn a_disk_that_is_gone_costs_what_was_only_there() {
    let (mut uplink, now) = spilling(1 << 20);
    speak(&mut uplink, key(0, 0), 50, true, now);
    spill(&mut uplink, true, now);
    assert!(uplink.evict_oldest());
    speak(&mut uplink, key(0, 1), 50, true, now);
    uplink.handle_disk_gone();
    assert_eq!(uplink.overflowed(), 50);
    assert!(uplink.take_given_up(false).is_some());
    uplink.handle_connected(&node(1), now);
    assert_eq!(transmitted(&mut uplink).len(), 3);
}

#[test]
fn a_stream_that_is_open_when_its_spurt_is_given_up_gets_a_trailer() {
    let now = Instant::now();
    let mut uplink = Uplink::new(Settings { max_bytes: 64 + 124 * 3, ..Settings::default() });
    uplink.handle_connected(&node(1), now);
    speak(&mut uplink, key(0, 0), 3, false, now);
    assert_eq!(transmitted(&mut uplink), ["open 0/0@0", "items 0/0 3"]);
    let output = Output::Item { spurt: SpurtNo(0), offset: 3, item: frame(3), stages: EdgeStages::default() };
    uplink.handle_output(ParticipantAlias(0), output, now);
    assert_eq!(transmitted(&mut uplink), ["end 0/0 3"]);
    assert_eq!(uplink.overflowed(), 4);
}

#[test]
fn speech_too_old_is_given_up() {
    let (mut uplink, now) = uplink();
    speak(&mut uplink, key(0, 0), 3, true, now);
    speak(&mut uplink, key(0, 1), 1, true, now + Duration::from_secs(3601));
    assert_eq!(uplink.overflowed(), 3);
}

#[test]
fn done_is_not_believed_of_a_spurt_still_spoken() {
    let (mut uplink, now) = uplink();
    speak(&mut uplink, key(0, 0), 3, false, now);
    uplink.handle_done(ParticipantAlias(0), SpurtNo(0));
    assert!(!uplink.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Speak { participant: u16, ends: bool },
    Connect(u8),
    Disconnect,
    Durable { participant: u16, spurt: u32, upto: u32 },
    Done { participant: u16, spurt: u32 },
    Transmit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..3, prop::bool::weighted(0.2)).prop_map(|(participant, ends)| Step::Speak { participant, ends }),
        1 => (0u8..2).prop_map(Step::Connect),
        1 => Just(Step::Disconnect),
        2 => (0u16..3, 0u32..6, 0u32..12).prop_map(|(participant, spurt, upto)| Step::Durable { participant, spurt, upto }),
        1 => (0u16..3, 0u32..6).prop_map(|(participant, spurt)| Step::Done { participant, spurt }),
        3 => (0usize..20).prop_map(Step::Transmit),
    ]
}

/// What the cores hold, as far as the transmissions tell, and what was acknowledged.
#[derive(Default)]
struct World {
    /// Items of each spurt handed in, and whether it ended.
    spoken: BTreeMap<SpurtKey, (u32, bool)>,
    speaking: BTreeMap<u16, u32>,
    done: BTreeSet<SpurtKey>,
    /// Per core, per spurt: items held, and whether the trailer came.
    held: BTreeMap<u8, BTreeMap<SpurtKey, (u32, bool)>>,
    streams: BTreeMap<SpurtKey, u32>,
    core: Option<u8>,
}

impl World {
    fn speak(&mut self, uplink: &mut Uplink, participant: u16, ends: bool, now: Instant) {
        let number = self.speaking.entry(participant).or_default();
        let key = key(participant, *number);
        let (items, ended) = self.spoken.entry(key).or_insert_with(|| {
            uplink.handle_output(key.participant, Output::Start { spurt: key.spurt, captured: Micros(7) }, now);
            (0, false)
        });
        let item =
            Output::Item { spurt: key.spurt, offset: *items, item: frame(*items), stages: EdgeStages::default() };
        uplink.handle_output(key.participant, item, now);
        *items += 1;
        if ends {
            let end = SpurtEnd::of(*items);
            uplink.handle_output(key.participant, Output::End { spurt: key.spurt, end }, now);
            (*ended, *number) = (true, *number + 1);
        }
    }

    fn receive(&mut self, transmit: Transmit) {
        let held = self.held.entry(self.core.expect("nothing is transmitted without a connection")).or_default();
        match transmit {
            Transmit::Open { key, offset, .. } => {
                let have = held.entry(key).or_default();
                assert!(offset <= have.0, "no hole before a stream's first item");
                assert!(self.streams.insert(key, offset).is_none(), "one stream for each spurt");
            }
            Transmit::Item { key, item } => {
                let next = self.streams.get_mut(&key).expect("opened");
                assert_eq!(item, frame(*next), "items go in order");
                *next += 1;
                let have = held.entry(key).or_default();
                have.0 = have.0.max(*next);
            }
            Transmit::End { key, end } => {
                assert_eq!(self.streams.remove(&key).expect("opened"), end.items);
                held.entry(key).or_default().1 = true;
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_what_is_not_done_reaches_the_core_that_is_last(
        steps in proptest::collection::vec(step(), 0..200),
        max_bytes in prop_oneof![Just(1 << 20), 400usize..3000],
    ) {
        let now = Instant::now();
        let mut uplink = Uplink::new(Settings { max_bytes, ..Settings::default() });
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Speak { participant, ends } => world.speak(&mut uplink, participant, ends, now),
                Step::Connect(core) => {
                    world.core = Some(core);
                    world.streams.clear();
                    uplink.handle_connected(&node(core), now);
                }
                Step::Disconnect => {
                    world.core = None;
                    uplink.handle_disconnected(now);
                    prop_assert_eq!(uplink.poll_transmit(Micros(0)), None);
                }
                Step::Durable { participant, spurt, upto } => {
                    let held = world.core.and_then(|c| world.held.get(&c)?.get(&key(participant, spurt)).copied());
                    let upto = upto.min(held.map_or(0, |h| h.0));
                    uplink.handle_durable(ParticipantAlias(participant), SpurtNo(spurt), upto);
                }
                Step::Done { participant, spurt } => {
                    let key = key(participant, spurt);
                    uplink.handle_done(key.participant, key.spurt);
                    if world.spoken.get(&key).is_some_and(|s| s.1) {
                        world.done.insert(key);
                        prop_assert!(!uplink.spurts.contains_key(&key));
                    }
                }
                Step::Transmit(count) => for _ in 0..count {
                    let Some(transmit) = uplink.poll_transmit(Micros(99)) else { break };
                    world.receive(transmit);
                },
            }
            prop_assert!(uplink.bytes() <= max_bytes);
            prop_assert_eq!(uplink.bytes(), uplink.spurts.values().map(|s| s.bytes).sum::<usize>());
        }
        world.core = Some(9);
        world.streams.clear();
        uplink.handle_connected(&node(9), now);
        while let Some(transmit) = uplink.poll_transmit(Micros(99)) {
            world.receive(transmit);
        }
        let last = world.held.remove(&9).unwrap_or_default();
        let mut missing = 0;
        for (key, spoken) in world.spoken.iter().filter(|(key, _)| !world.done.contains(key)) {
            match last.get(key) {
                Some(held) => prop_assert_eq!(held, spoken, "all of {:?}", key),
                None => missing += u64::from(spoken.0),
            }
        }
        prop_assert!(missing <= uplink.overflowed(), "{} missing, {} overflowed", missing, uplink.overflowed());
        prop_assert!(uplink.spurts.keys().all(|key| !world.done.contains(key)));
    }
}
