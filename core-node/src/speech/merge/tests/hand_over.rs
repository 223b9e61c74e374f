//! One edge after the other captures: an utterance goes on over their changes.

use super::*;

/// An edge that captures from one frame to another.
fn ear(epoch: u64, alive: Range<u64>) -> Ear {
    Ear { alive, clock: epoch as i64 * 30_000, ..Ear::new(epoch) }
}

/// How many frames each utterance has.
fn lengths(said: &Said, ears: &[Ear]) -> Vec<usize> {
    let out = play(said, ears, None);
    out.check().unwrap();
    assert!(out.in_order());
    out.utterances.iter().map(Vec::len).collect()
}

#[test]
fn a_planned_hand_over_in_the_middle_of_a_sentence_joins_both_halves() {
    let said = sentences(&[(40, 300), (60, 100)]);
    let leaves = Ear { alive: 0..200, ..Ear::new(1) };
    let comes = Ear { alive: 180..u64::MAX, clock: 60_000, delay: ms(80), ..Ear::new(2) };
    assert_eq!(lengths(&said, &[leaves, comes]), [330, 130]);
}

#[test]
fn it_does_so_however_little_both_have_heard() {
    let said = sentences(&[(40, 300), (60, 100)]);
    for both in [3, 1, 0] {
        assert_eq!(lengths(&said, &[ear(1, 0..200), ear(2, 200 - both..u64::MAX)]), [330, 130], "{both} packets");
    }
    // Packets are lost between them.
    let comes = Ear { lost: (190..205).collect(), ..ear(2, 190..u64::MAX) };
    assert_eq!(lengths(&said, &[ear(1, 0..200), comes]), [325, 130]);
}

#[test]
fn what_is_lost_at_the_seam_is_not_put_in_the_wrong_place() {
    let said = sentences(&[(40, 300)]);
    let leaves = |lost: &[u64]| Ear { lost: lost.to_vec(), ..ear(1, 0..200) };
    let comes = |lost: &[u64]| Ear { lost: lost.to_vec(), ..ear(2, 196..u64::MAX) };
    assert_eq!(lengths(&said, &[leaves(&[196, 197, 198, 199]), comes(&[])]), [330]);
    assert_eq!(lengths(&said, &[leaves(&[]), comes(&[196, 197, 198, 199, 204])]), [330]);
    // Nothing tells which came first.
    assert_eq!(lengths(&said, &[leaves(&[196, 198]), comes(&[197, 199, 203])]).len(), 2);
}

#[test]
fn and_however_long_the_second_takes_to_notice_that_somebody_speaks() {
    let said = sentences(&[(40, 300), (60, 100)]);
    for late in [300, 900, 2500] {
        let comes = Ear { delay: ms(late), ..ear(2, 195..u64::MAX) };
        assert_eq!(lengths(&said, &[ear(1, 0..200), comes]), [330, 130], "{late} ms");
    }
}

#[test]
fn two_edges_that_have_heard_nothing_with_a_third_are_known_to_each_other_by_what_they_hear_together() {
    // The first one's clock was never compared with another's.
    let said = sentences(&[(40, 60), (60, 400)]);
    let quiet = |ear: Ear| Ear { tells: false, ..ear };
    let ears = [ear(1, 0..170), quiet(ear(2, 170..300)), ear(3, 297..u64::MAX)];
    assert_eq!(lengths(&said, &ears), [90, 430]);
}

#[test]
fn what_is_too_long_with_its_other_half_is_cut_where_its_edge_found_a_pause() {
    let said = sentences(&[(40, 1700)]);
    let leaves = Ear { cut_after: 800, ..ear(1, 0..1000) };
    let lengths = lengths(&said, &[leaves, ear(2, 995..u64::MAX)]);
    assert_eq!(lengths, [800, 930]);
}

#[test]
fn a_sentence_may_be_handed_over_twice() {
    let said = sentences(&[(40, 500), (60, 100)]);
    for both in [10, 2, 0] {
        let ears = [ear(1, 0..200), ear(2, 200 - both..350), ear(3, 350 - both..u64::MAX)];
        assert_eq!(lengths(&said, &ears), [530, 130], "{both} packets");
    }
}

#[test]
fn the_last_packets_of_the_first_may_come_after_the_second_has_ended() {
    let said = sentences(&[(40, 200), (60, 100)]);
    let leaves = Ear { delay: ms(1100), ..ear(1, 0..230) };
    let comes = Ear { delay: ms(5), late: 0, ..ear(2, 225..u64::MAX) };
    let lengths = lengths(&said, &[leaves, comes]);
    assert_eq!(lengths.len(), 2, "{lengths:?}");
}

#[test]
fn what_nobody_goes_on_with_comes_out_at_once_if_nobody_captures_and_else_soon() {
    let said = sentences(&[(40, 300)]);
    let out = play(&said, &[ear(1, 0..200)], None);
    assert!(out.delays.iter().all(|d| *d <= ms(100)), "{:?}", out.delays);
    let silent = Ear { lost: (0..1000).collect(), ..ear(2, 150..u64::MAX) };
    let out = play(&said, &[ear(1, 0..200), silent], None);
    assert!(out.delays.iter().all(|d| *d <= CONTINUATION_WAIT + ms(100)), "{:?}", out.delays);
}

#[test]
fn what_is_said_some_time_after_is_another_utterance() {
    let said = sentences(&[(40, 120), (60, 100)]);
    assert_eq!(lengths(&said, &[ear(1, 0..200), ear(2, 200..u64::MAX)]), [150, 130]);
}

#[test]
fn a_partial_shows_both_halves() {
    let said = sentences(&[(40, 300)]);
    let (mut origin, now, mut merger) = (Origin::new(), Instant::now(), Merger::default());
    let ears = [ear(1, 0..200), ear(2, 198..u64::MAX)];
    let mut events: Vec<_> = ears.iter().flat_map(|e| e.speak(&said, &mut origin)).collect();
    events.sort_by_key(|(at, _)| *at);
    let (mut capturing, mut most) = (BTreeSet::new(), 0);
    for (at, what) in events {
        match what {
            What::Fresh(key, fresh) => merger.handle_fresh(&key, &fresh, now + at),
            What::Whole(key, end) => merger.handle_whole(&key, end, now + at),
            What::Joins(epoch) => assert!(capturing.insert(Epoch(epoch))),
            What::Leaves(epoch) => assert!(capturing.remove(&Epoch(epoch))),
        }
        merger.handle_capturing(capturing.clone(), now + at);
        for growing in merger.growing() {
            let frames = growing.pieces.iter().map(|p| p.items.len()).sum::<usize>();
            assert!(frames + 3 >= most, "{frames} after {most}");
            most = most.max(frames);
        }
    }
    assert!(most > 320, "{most}");
}
