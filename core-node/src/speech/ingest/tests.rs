#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn key(n: u32) -> SpurtKey {
    SpurtKey { epoch: Epoch(1), participant: "alice".into(), spurt: SpurtNo(n) }
}

fn frames(range: std::ops::Range<u32>) -> Vec<Item> {
    range.map(|n| Item::Frame(n.to_be_bytes().to_vec().into())).collect()
}

fn end(items: u32) -> Item {
    Item::End(SpurtEnd::of(items))
}

fn trace() -> TraceContext {
    TraceContext::new(7)
}

fn open(ingest: &mut Ingest, key: &SpurtKey, offset: u32) -> Result<Opened, Refusal> {
    ingest.handle_header(key, Micros(1), trace(), offset)
}

fn events(ingest: &mut Ingest) -> Vec<Event> {
    std::iter::from_fn(|| ingest.poll_event()).collect()
}

#[test]
fn a_spurt_is_acknowledged_only_when_it_is_on_disk_and_whole_only_with_its_trailer() {
    let mut ingest = Ingest::new(Limits::default());
    assert_eq!(open(&mut ingest, &key(0), 0), Ok(Opened::Ready { next: 0 }));
    let first = ingest.handle_items(&key(0), 0, frames(0..3)).unwrap().unwrap();
    assert_eq!(first.opened, Some((Micros(1), trace())));
    assert_eq!(events(&mut ingest), []);
    ingest.handle_logged(first.receipt());
    // The first byte of these packets is the TOC of 10 ms.
    let media = Duration::from_millis(30);
    assert_eq!(events(&mut ingest), [Event::Durable { key: key(0), upto: 3, media, grown: true }]);
    assert_eq!(ingest.handle_items(&key(0), 0, frames(0..3)), Ok(None));
    assert_eq!(events(&mut ingest), [Event::Durable { key: key(0), upto: 3, media, grown: false }]);

    let last = ingest.handle_items(&key(0), 3, vec![end(3)]).unwrap().unwrap();
    assert!(last.items.is_empty() && last.opened.is_none());
    ingest.handle_logged(last.receipt());
    let whole = Event::Whole { key: key(0), end: Some(SpurtEnd::of(3)), media };
    assert_eq!(events(&mut ingest)[1], whole);
    let want = Counts { frames_received: 3, frames_durable: 3, duplicates: 3, spurts: 1, ..Counts::default() };
    assert_eq!(ingest.counts(), want);
}

#[test]
fn a_spurt_that_was_ended_early_is_done_to_where_it_was_and_its_next_part_is_taken() {
    let mut ingest = Ingest::new(Limits::default());
    open(&mut ingest, &key(7), 0).unwrap();
    let append = ingest.handle_items(&key(7), 0, frames(0..5)).unwrap().unwrap();
    ingest.handle_logged(append.receipt());
    ingest.end_open(Epoch(2), &BTreeSet::new());
    assert!(matches!(events(&mut ingest)[..], [_, Event::Whole { .. }]));
    ingest.handle_done(&key(7));
    assert_eq!((open(&mut ingest, &key(7), 5), ingest.done_to(&key(7))), (Ok(Opened::Done), Some(5)));
    let rest = key(7).with_spurt(SpurtNo(7).next_part().unwrap());
    assert_eq!(open(&mut ingest, &rest, 0), Ok(Opened::Ready { next: 0 }));
    let append = ingest.handle_items(&rest, 0, [frames(5..8), vec![end(3)]].concat()).unwrap().unwrap();
    ingest.handle_logged(append.receipt());
    ingest.handle_done(&rest);
    assert_eq!(ingest.done_to(&rest), None, "it had its trailer");
}

#[test]
fn a_replay_of_what_is_done_hears_so_and_costs_nothing() {
    let mut ingest = Ingest::new(Limits::default());
    open(&mut ingest, &key(0), 0).unwrap();
    let append = ingest.handle_items(&key(0), 0, vec![Item::Gap, end(1)]).unwrap().unwrap();
    ingest.handle_logged(append.receipt());
    ingest.handle_done(&key(0));
    events(&mut ingest);
    assert_eq!(open(&mut ingest, &key(0), 0), Ok(Opened::Done));
    assert_eq!(events(&mut ingest), [Event::Done { key: key(0) }]);
    assert_eq!(ingest.undone(), 0);
}

#[test]
fn what_is_missing_too_much_or_contradictory_is_refused() {
    let limits = Limits { participants: 2, open_spurts: 2, undone_spurts: 3, items_per_spurt: 4 };
    let mut ingest = Ingest::new(limits);
    assert_eq!(open(&mut ingest, &key(0), 5), Err(Refusal::Gap { expected: 0, got: 5 }));
    open(&mut ingest, &key(0), 0).unwrap();
    let mut items = |offset, items| ingest.handle_items(&key(0), offset, items);
    assert_eq!(items(2, frames(2..3)), Err(Refusal::Gap { expected: 0, got: 2 }));
    assert_eq!(items(0, frames(0..5)), Err(Refusal::TooLong(4)));
    assert_eq!(items(0, vec![end(3)]), Err(Refusal::WrongCount { said: 3, held: 0 }));
    assert_eq!(ingest.handle_items(&key(9), 0, vec![]), Err(Refusal::NotOpen));
    assert_eq!(open(&mut ingest, &key(70_000), 0), Err(Refusal::TooFarAhead(70_000)));
    open(&mut ingest, &key(1), 0).unwrap();
    assert_eq!(open(&mut ingest, &key(2), 0), Err(Refusal::TooManyOpen(2)));
    let of = |name: &str| SpurtKey { participant: name.into(), ..key(0) };
    open(&mut ingest, &of("bob"), 0).unwrap();
    assert_eq!(open(&mut ingest, &of("carol"), 0), Err(Refusal::Backlog(3)));
}

#[test]
fn a_new_epoch_ends_what_the_old_owner_left_open() {
    let mut ingest = Ingest::new(Limits::default());
    open(&mut ingest, &key(0), 0).unwrap();
    open(&mut ingest, &key(1), 0).unwrap();
    let append = ingest.handle_items(&key(0), 0, frames(0..2)).unwrap().unwrap();
    ingest.end_open(Epoch(2), &BTreeSet::new());
    assert_eq!(events(&mut ingest), [], "two frames are still on their way to the disk");
    ingest.handle_logged(append.receipt());
    assert!(matches!(events(&mut ingest)[1], Event::Whole { .. }));
    assert_eq!(ingest.undone(), 1, "nothing of spurt 1 had come");
    assert_eq!(ingest.handle_items(&key(0), 2, frames(2..3)), Err(Refusal::Fenced));
}

#[test]
fn the_trailer_of_an_empty_spurt_that_is_cut_ends_no_other_of_its_number() {
    let mut ingest = Ingest::new(Limits::default());
    open(&mut ingest, &key(0), 0).unwrap();
    let trailer = ingest.handle_items(&key(0), 0, vec![end(0)]).unwrap().unwrap();
    ingest.end_open(Epoch(2), &BTreeSet::new());
    assert_eq!((events(&mut ingest), ingest.undone()), (vec![], 1), "its trailer is on its way to the disk");
    assert_eq!(open(&mut ingest, &key(0), 0), Err(Refusal::Fenced));
    ingest.handle_logged(trailer.receipt());
    let media = Duration::ZERO;
    assert_eq!(events(&mut ingest)[1], Event::Whole { key: key(0), end: Some(SpurtEnd::of(0)), media });
}

#[test]
fn a_shorter_replay_s_trailer_ends_a_spurt_with_all_that_is_held() {
    let mut ingest = Ingest::new(Limits::default());
    open(&mut ingest, &key(0), 0).unwrap();
    ingest.handle_items(&key(0), 0, frames(0..6)).unwrap();
    open(&mut ingest, &key(0), 0).unwrap();
    // The edge had to give the rest up: nobody else will end it.
    let append = ingest.handle_items(&key(0), 0, [frames(0..4), vec![end(4)]].concat()).unwrap().unwrap();
    assert_eq!((append.first, append.items.len(), append.end), (6, 0, Some(SpurtEnd::of(6))));
}

#[test]
fn another_core_may_have_counted_any_number_of_frames() {
    let mut ingest = Ingest::new(Limits::default());
    for n in 0..2 {
        let (captured, media, frames) = (Micros(1), Duration::ZERO, u64::MAX);
        ingest.restore(Restored {
            key: key(n),
            captured,
            items: 2,
            frames,
            media,
            slots: vec![],
            end: None,
            done: true,
        });
    }
    assert_eq!(ingest.counts().frames_received, u64::MAX);
}

#[test]
fn what_the_store_remembers_is_taken_up_where_it_was() {
    let mut ingest = Ingest::new(Limits::default());
    let media = Duration::from_millis(40);
    let restored = |n, end, done| Restored {
        key: key(n),
        captured: Micros(1),
        items: 2,
        frames: 1,
        media,
        slots: vec![],
        end,
        done,
    };
    ingest.restore(restored(0, None, true));
    ingest.restore(restored(1, Some(SpurtEnd { continues: true, ..SpurtEnd::of(2) }), false));
    ingest.restore(restored(2, None, false));
    assert_eq!(
        events(&mut ingest),
        [Event::Whole { key: key(1), end: Some(SpurtEnd { continues: true, ..SpurtEnd::of(2) }), media }]
    );
    assert_eq!(open(&mut ingest, &key(0), 0), Ok(Opened::Done));
    assert_eq!(open(&mut ingest, &key(2), 1), Ok(Opened::Ready { next: 2 }));
    assert_eq!(ingest.counts().frames_durable, 3);
}

/// One edge stream in the property test: from an item on, some items, perhaps to the end.
#[derive(Debug, Clone)]
struct Stream {
    offset: u32,
    len: u32,
    chunk: usize,
}

fn streams() -> impl Strategy<Value = (u32, Vec<Stream>, Vec<usize>, u64)> {
    (1u32..60).prop_flat_map(|total| {
        let stream = (0..=total, 0..=total, 1usize..20).prop_map(|(offset, len, chunk)| Stream { offset, len, chunk });
        let order = proptest::collection::vec(0usize..8, 0..200);
        (Just(total), proptest::collection::vec(stream, 1..6), order, any::<u64>())
    })
}

proptest! {
    /// Any interleaving of replays, partial streams and duplicates: each item once, in order; nothing
    /// is acknowledged that the log does not have.
    #[test]
    fn each_item_reaches_the_log_once_and_in_order((total, mut streams, order, lag) in streams()) {
        // The last replay is complete, as an edge's is.
        streams.push(Stream { offset: 0, len: total, chunk: 7 });
        let mut sends: Vec<VecDeque<(u32, Vec<Item>)>> = streams.iter().map(|s| cut(s, total)).collect();
        let mut ingest = Ingest::new(Limits::default());
        let mut opened = vec![false; sends.len()];
        let mut queue: VecDeque<Append> = VecDeque::new();
        let mut logged: Vec<Item> = vec![];
        let mut whole = 0;
        let mut turns = order.into_iter().map(|n| n % streams.len()).collect::<VecDeque<_>>();
        turns.extend(std::iter::repeat_n(streams.len() - 1, total as usize + 3));
        for (turn, at) in turns.into_iter().enumerate() {
            if !opened[at] {
                opened[at] = open(&mut ingest, &key(0), streams[at].offset).is_ok();
            } else if let Some((offset, items)) = sends[at].pop_front()
                && let Ok(Some(append)) = ingest.handle_items(&key(0), offset, items) {
                queue.push_back(append);
            }
            if (lag >> (turn % 64)) & 1 == 0 {
                commit(&mut queue, &mut logged, &mut ingest);
            }
            for event in events(&mut ingest) {
                match event {
                    Event::Durable { upto, .. } => prop_assert!(upto as usize <= logged.len()),
                    Event::Whole { .. } => whole += 1,
                    Event::Done { .. } => prop_assert!(false, "nothing was done"),
                }
            }
        }
        while !queue.is_empty() {
            commit(&mut queue, &mut logged, &mut ingest);
        }
        whole += events(&mut ingest).iter().filter(|e| matches!(e, Event::Whole { .. })).count();
        prop_assert_eq!(logged, frames(0..total));
        prop_assert_eq!(whole, 1);
        prop_assert_eq!(ingest.counts().frames_durable, u64::from(total));
    }
}

fn commit(queue: &mut VecDeque<Append>, logged: &mut Vec<Item>, ingest: &mut Ingest) {
    if let Some(append) = queue.pop_front() {
        assert_eq!(append.first as usize, logged.len());
        logged.extend(append.items.clone());
        ingest.handle_logged(append.receipt());
    }
}

fn cut(stream: &Stream, total: u32) -> VecDeque<(u32, Vec<Item>)> {
    let upto = (stream.offset + stream.len).min(total);
    let mut items = frames(stream.offset..upto);
    if upto == total {
        items.push(end(total));
    }
    let mut at = stream.offset;
    let pieces = items.chunks(stream.chunk).map(|c| {
        let piece = (at, c.to_vec());
        at += c.len() as u32;
        piece
    });
    pieces.collect()
}

#[test]
fn whoever_spoke_longest_ago_makes_room_and_nobody_whose_words_are_awaited() {
    let mut ingest = Ingest::new(Limits { participants: 3, ..Limits::default() });
    let of = |who: u32, spurt| SpurtKey { participant: format!("p-{who}").as_str().into(), ..key(spurt) };
    for who in 0..1000 {
        open(&mut ingest, &of(who, 0), 0).unwrap();
        ingest.handle_done(&of(who, 0));
    }
    assert_eq!(open(&mut ingest, &of(999, 0), 0), Ok(Opened::Done), "the last ones are remembered");
    assert!(ingest.rows() <= 7, "{} rows", ingest.rows());
    for who in [1000, 1001, 1002] {
        open(&mut ingest, &of(who, 0), 0).unwrap();
    }
    assert_eq!(open(&mut ingest, &of(1003, 0), 0), Err(Refusal::TooManyParticipants(3)));
    ingest.handle_done(&of(1001, 0));
    assert_eq!(open(&mut ingest, &of(1003, 0), 0), Ok(Opened::Ready { next: 0 }));
}
