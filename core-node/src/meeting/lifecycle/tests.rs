//! What moves a meeting on, step by step.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use mesh::wire::cause::Cause;

use super::{wait::LATE_UPLOAD, *};

pub(super) fn actions(l: &mut Lifecycle) -> Vec<Action> {
    std::iter::from_fn(|| l.poll_action()).collect()
}

pub(super) fn active(now: Instant) -> Lifecycle {
    let mut l = Lifecycle::new();
    assert_eq!(actions(&mut l), [Action::Place]);
    l.handle_assigned(Epoch(1), now);
    assert_eq!(l.status(), Status::Connecting);
    l.handle_opened(Epoch(1));
    assert_eq!(l.poll_timeout(), None);
    l.handle_edge_state(Epoch(1), EdgeState::Live, None, now);
    assert_eq!(l.status(), Status::Active);
    l
}

#[test]
fn a_meeting_is_done_when_the_edge_has_left_and_all_words_are_out() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_backlog(3, 1, now);
    l.handle_stop(now);
    assert_eq!(actions(&mut l), [Action::Leave]);
    l.handle_backlog(0, 0, now);
    assert_eq!(l.status(), Status::Finishing, "the edge may still be flushing");
    l.handle_backlog(2, 1, now);
    l.handle_closed(Epoch(1), CloseReason::Asked, now);
    l.handle_backlog(1, 0, now);
    assert_eq!(l.status(), Status::Finishing);
    l.handle_backlog(0, 0, now);
    assert_eq!((l.status(), l.poll_timeout()), (Status::Done, None));
}

#[test]
fn an_edge_that_lives_but_cannot_be_reached_is_waited_for_but_not_for_ever() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_stop(now);
    let mut waited = Duration::ZERO;
    while l.status() == Status::Finishing {
        waited = l.poll_timeout().unwrap() - now;
        l.handle_edge_alive(now + waited);
        l.handle_timeout(now + waited);
    }
    assert!((LATE_UPLOAD..LATE_UPLOAD + Duration::from_secs(10)).contains(&waited), "{waited:?}");
    let mut back = active(now);
    back.handle_stop(now);
    assert_eq!(actions(&mut back), [Action::Leave]);
    back.handle_opened(Epoch(1));
    assert_eq!(actions(&mut back), [Action::Leave], "it may not have heard of it");
    let mut dead = active(now);
    dead.handle_stop(now);
    dead.handle_timeout(now + Duration::from_secs(10));
    assert_eq!(dead.status(), Status::Done);
}

#[test]
fn an_edge_that_dies_or_drains_is_replaced_until_too_many_have_failed() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_edge_down(Epoch(1), now);
    assert_eq!(actions(&mut l), [Action::Place]);
    l.handle_assigned(Epoch(2), now);
    l.handle_edge_state(Epoch(1), EdgeState::Live, None, now);
    assert_eq!(l.status(), Status::Connecting, "that was the old edge");
    l.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
    l.handle_closed(Epoch(2), CloseReason::Drain, now);
    assert_eq!((l.status(), actions(&mut l)), (Status::Placing, vec![Action::Place]));
    let mut now = now;
    for epoch in 3..7 {
        l.handle_assigned(Epoch(epoch), now);
        now += Duration::from_secs(16);
        l.handle_timeout(now);
    }
    l.handle_assigned(Epoch(7), now);
    l.handle_timeout(now + Duration::from_secs(16));
    assert_eq!(l.status(), Status::Failed);
    assert_eq!(l.failure().map(|f| f.0.as_str()), Some("no_edge"));
}

#[test]
fn a_relay_that_cannot_be_joined_fails_the_meeting_after_its_last_word() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_backlog(1, 1, now);
    l.handle_edge_state(Epoch(1), EdgeState::Failed(Cause::AccessDenied), Some("wrong PIN".into()), now);
    l.handle_closed(Epoch(1), CloseReason::Failed, now);
    assert_eq!(l.status(), Status::Finishing);
    l.handle_timeout(now + Duration::from_secs(6));
    assert_eq!(actions(&mut l), [Action::Fence]);
    l.handle_backlog(0, 0, now);
    assert_eq!(l.status(), Status::Failed);
    assert_eq!(l.failure(), Some(&("access_denied".into(), Some("wrong PIN".into()))));
}

#[test]
fn placing_is_tried_again_only_where_that_can_help() {
    let now = Instant::now();
    let why = |retry| Unplaced { code: "no_edge", detail: "none".into(), retry };
    let mut l = Lifecycle::new();
    l.handle_unplaced(why(true), now);
    l.handle_timeout(now + Duration::from_secs(3));
    assert_eq!(actions(&mut l), [Action::Place, Action::Place]);
    l.handle_unplaced(why(false), now);
    assert_eq!(l.status(), Status::Failed);
}

#[test]
fn words_that_never_come_are_given_up_at_their_deadline() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_backlog(1, 0, now);
    l.handle_closed(Epoch(1), CloseReason::Ended, now);
    l.handle_timeout(now + Duration::from_secs(5));
    l.handle_timeout(now + Duration::from_secs(606));
    assert_eq!(l.status(), Status::Failed);
}

pub(super) fn handing_over(now: Instant) -> Lifecycle {
    let mut l = active(now);
    l.handle_hand_over(Epoch(1), now);
    l.handle_hand_over(Epoch(1), now);
    assert_eq!((l.status(), l.capturing(), actions(&mut l)), (Status::Active, Some(Epoch(1)), vec![Action::Place]));
    l
}

#[test]
fn an_edge_that_hands_over_is_dismissed_when_its_successor_is_live() {
    let now = Instant::now();
    let mut l = handing_over(now);
    l.handle_assigned(Epoch(2), now);
    l.handle_opened(Epoch(2));
    assert_eq!((l.capturing(), actions(&mut l)), (Some(Epoch(1)), vec![]));
    l.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
    assert_eq!((l.capturing(), actions(&mut l)), (Some(Epoch(2)), vec![Action::Dismiss(Epoch(1))]));
    l.handle_closed(Epoch(1), CloseReason::Drain, now);
    assert_eq!((l.status(), l.poll_timeout(), actions(&mut l)), (Status::Active, None, vec![]));
}

#[test]
fn a_successor_that_fails_is_succeeded_while_the_first_goes_on() {
    let now = Instant::now();
    let mut l = handing_over(now);
    l.handle_unplaced(Unplaced { code: "no_edge", detail: "none".into(), retry: true }, now);
    l.handle_timeout(now + Duration::from_secs(3));
    l.handle_assigned(Epoch(3), now);
    l.handle_edge_state(Epoch(3), EdgeState::Failed(Cause::MediaLost), None, now);
    assert_eq!((l.status(), l.capturing()), (Status::Active, Some(Epoch(1))));
    assert_eq!(actions(&mut l), [Action::Place, Action::Place]);
    l.handle_assigned(Epoch(4), now);
    l.handle_edge_down(Epoch(4), now);
    assert_eq!((l.capturing(), actions(&mut l)), (Some(Epoch(1)), vec![Action::Place]));
}

#[test]
fn an_edge_that_leaves_before_its_successor_is_live_leaves_the_meeting_without_one() {
    let now = Instant::now();
    let mut early = handing_over(now);
    early.handle_closed(Epoch(1), CloseReason::Drain, now);
    assert_eq!((early.status(), early.capturing()), (Status::Placing, None));
    let mut joining = handing_over(now);
    joining.handle_assigned(Epoch(2), now);
    joining.handle_closed(Epoch(1), CloseReason::Drain, now);
    assert_eq!(joining.status(), Status::Connecting);
    joining.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
    assert_eq!(joining.status(), Status::Active);
    let mut silent = handing_over(now);
    silent.handle_assigned(Epoch(2), now);
    silent.handle_opened(Epoch(2));
    silent.handle_timeout(now + LEAVING);
    assert_eq!((silent.status(), silent.leaving()), (Status::Connecting, None));
}

#[test]
fn a_meeting_that_ends_during_a_hand_over_is_left_by_both() {
    let now = Instant::now();
    let mut l = handing_over(now);
    l.handle_assigned(Epoch(2), now);
    l.handle_stop(now);
    assert_eq!(actions(&mut l), [Action::Dismiss(Epoch(1)), Action::Leave]);
}

#[test]
fn after_a_restart_the_edge_is_given_time_to_come_back() {
    let now = Instant::now();
    let mut l = Lifecycle::resumed(Status::Active, Epoch(4), None, 0, now);
    l.handle_opened(Epoch(4));
    assert_eq!((l.status(), l.poll_timeout()), (Status::Active, None));
    let mut lost = Lifecycle::resumed(Status::Active, Epoch(4), None, 0, now);
    lost.handle_timeout(now + Duration::from_secs(15));
    assert_eq!(actions(&mut lost), [Action::Place]);
}

#[test]
fn an_edge_that_is_live_before_its_placement_is_known_stays_the_meetings_edge() {
    let now = Instant::now();
    let mut l = Lifecycle::new();
    l.handle_opened(Epoch(1));
    l.handle_edge_state(Epoch(1), EdgeState::Live, None, now);
    l.handle_assigned(Epoch(1), now);
    assert_eq!((l.status(), l.capturing(), l.poll_timeout()), (Status::Active, Some(Epoch(1)), None));
    l.handle_timeout(now + Duration::from_secs(15));
    assert_eq!((l.status(), actions(&mut l)), (Status::Active, vec![Action::Place]), "only the first");
}

#[test]
fn an_edge_that_is_found_when_the_meeting_is_to_end_is_told_and_waited_for() {
    let now = Instant::now();
    let mut l = Lifecycle::new();
    assert_eq!(actions(&mut l), [Action::Place]);
    l.handle_leave("requested", now);
    assert_eq!((l.status(), actions(&mut l)), (Status::Finishing, vec![]));
    l.handle_assigned(Epoch(1), now);
    assert_eq!(actions(&mut l), [Action::Leave]);
    l.handle_closed(Epoch(1), CloseReason::Asked, now);
    l.handle_backlog(0, 0, now);
    assert_eq!(l.status(), Status::Done);
    let mut nobody = Lifecycle::new();
    assert_eq!(actions(&mut nobody), [Action::Place]);
    nobody.handle_stop(now);
    nobody.handle_unplaced(Unplaced { code: "no_edge", detail: "none".into(), retry: true }, now);
    assert_eq!(nobody.status(), Status::Done);
}

#[test]
fn a_placement_that_ends_after_the_second_edge_took_over_changes_nothing() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_hand_over(Epoch(1), now);
    l.handle_promoted(Epoch(2));
    for late in [Ok(Epoch(3)), Err(Unplaced { code: "no_edge", detail: "none".into(), retry: true })] {
        match late {
            Ok(epoch) => l.handle_assigned(epoch, now),
            Err(why) => l.handle_unplaced(why, now),
        }
        assert_eq!((l.status(), l.capturing(), l.poll_timeout()), (Status::Active, Some(Epoch(2)), None));
    }
}

#[test]
fn a_dead_edge_that_was_to_be_relieved_is_forgotten_with_its_deadline() {
    let now = Instant::now();
    let mut l = handing_over(now);
    l.handle_edge_down(Epoch(1), now);
    l.handle_assigned(Epoch(2), now);
    l.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
    l.handle_timeout(now + LEAVING);
    assert_eq!((l.status(), l.capturing(), l.leaving()), (Status::Active, Some(Epoch(2)), None));
}

#[test]
fn an_edge_that_was_given_up_and_is_back_before_another_was_found_goes_on() {
    let now = Instant::now();
    let nobody = || Unplaced { code: "no_edge", detail: "none".into(), retry: true };
    for retrying in [false, true] {
        let mut l = active(now);
        l.handle_edge_down(Epoch(1), now);
        if retrying {
            assert_eq!(actions(&mut l), [Action::Place]);
            l.handle_unplaced(nobody(), now);
        }
        l.handle_back(Epoch(1), now);
        assert_eq!((l.status(), l.capturing(), l.poll_timeout()), (Status::Active, Some(Epoch(1)), None));
        assert_eq!(actions(&mut l), []);
        l.handle_hand_over(Epoch(1), now);
        assert_eq!(actions(&mut l), [Action::Place], "and can hand over");
    }
    let mut connecting = Lifecycle::new();
    connecting.handle_assigned(Epoch(1), now);
    connecting.handle_edge_down(Epoch(1), now);
    connecting.handle_back(Epoch(1), now);
    assert_eq!(connecting.status(), Status::Connecting);
    assert!(connecting.poll_timeout().is_some(), "it is not in yet");
}

#[test]
fn an_edge_whose_answer_was_missed_is_the_meetings_edge_once_it_has_opened_it() {
    let now = Instant::now();
    let mut l = Lifecycle::new();
    assert_eq!(actions(&mut l), [Action::Place]);
    l.handle_unplaced(Unplaced { code: "no_edge", detail: "silent".into(), retry: true }, now);
    l.handle_opened(Epoch(1));
    l.handle_edge_state(Epoch(1), EdgeState::Live, None, now);
    l.handle_back(Epoch(1), now);
    assert_eq!((l.status(), l.capturing(), l.poll_timeout()), (Status::Active, Some(Epoch(1)), None));
}

#[test]
fn an_edge_that_is_back_when_the_meeting_is_to_end_is_told_to_leave() {
    let now = Instant::now();
    let mut l = active(now);
    l.handle_edge_down(Epoch(1), now);
    assert_eq!(actions(&mut l), [Action::Place]);
    l.handle_stop(now);
    l.handle_back(Epoch(1), now);
    assert_eq!((l.status(), actions(&mut l)), (Status::Finishing, vec![Action::Leave]));
}

#[test]
fn a_meeting_that_was_live_does_not_fail_for_a_cut_in_which_no_edge_can_be_had() {
    let nobody = || Unplaced { code: "no_edge", detail: "none".into(), retry: true };
    let failed_after = |mut l: Lifecycle, start: Instant| {
        let mut now = start;
        while l.status() == Status::Placing {
            actions(&mut l);
            l.handle_unplaced(nobody(), now);
            now = l.poll_timeout().unwrap_or(now);
            l.handle_timeout(now);
        }
        now - start
    };
    let start = Instant::now();
    let mut live = active(start);
    live.handle_edge_down(Epoch(1), start);
    assert!((SEEK..SEEK + Duration::from_secs(10)).contains(&failed_after(live, start)));
    assert!(failed_after(Lifecycle::new(), start) < Duration::from_secs(20), "one that never was");
}

/// The edge of this epoch has this trouble, and leaves.
fn fails(l: &mut Lifecycle, epoch: u64, cause: Cause, now: Instant) {
    l.handle_edge_state(Epoch(epoch), EdgeState::Failed(cause), Some(format!("{epoch}")), now);
    l.handle_closed(Epoch(epoch), CloseReason::Failed, now);
}

#[test]
fn an_edge_s_own_trouble_ends_no_meeting_until_a_second_edge_has_the_same() {
    let now = Instant::now();
    for live in [true, false] {
        let mut l = active(now);
        fails(&mut l, 1, Cause::TlsFailed, now);
        assert_eq!((l.status(), l.failure()), (Status::Placing, None));
        assert_eq!(actions(&mut l), [Action::Place]);
        l.handle_assigned(Epoch(2), now);
        fails(&mut l, 2, Cause::MediaUnreachable, now);
        assert_eq!((l.status(), actions(&mut l)), (Status::Placing, vec![Action::Place]), "another trouble");
        l.handle_assigned(Epoch(3), now);
        if live {
            l.handle_edge_state(Epoch(3), EdgeState::Live, None, now);
        }
        fails(&mut l, 3, Cause::MediaLost, now + Duration::from_secs(300));
        assert_eq!((l.status(), actions(&mut l)), (Status::Finishing, vec![]));
        assert_eq!(l.failure(), Some(&("media_unreachable".into(), Some("2".into()))), "the first of the two");
    }
}

#[test]
fn where_no_other_edge_is_left_the_meeting_fails_with_the_trouble_of_its_own_and_flushes_what_was_sent() {
    let now = Instant::now();
    let nobody = || Unplaced { code: "no_edge_allowed", detail: "none".into(), retry: false };
    let mut lone = active(now);
    lone.handle_backlog(1, 1, now);
    fails(&mut lone, 1, Cause::RelayTimeout, now);
    lone.handle_unplaced(nobody(), now);
    assert_eq!((lone.status(), lone.failure().unwrap().0.as_str()), (Status::Finishing, "relay_timeout"));
    lone.handle_backlog(1, 1, now);
    assert_eq!(actions(&mut lone), [Action::Place], "its last spurt may still be on its stream");
    lone.handle_timeout(now + Duration::from_secs(5));
    assert_eq!(actions(&mut lone), [Action::Fence]);
    lone.handle_backlog(0, 0, now);
    assert_eq!(lone.status(), Status::Failed);
    let mut since = active(now);
    fails(&mut since, 1, Cause::RelayTimeout, now);
    since.handle_assigned(Epoch(2), now);
    assert!(since.is_troubled());
    since.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
    assert!(!since.is_troubled());
    since.handle_edge_down(Epoch(2), now);
    since.handle_unplaced(nobody(), now);
    assert_eq!(since.failure().unwrap().0, "no_edge_allowed", "the first one's trouble is over");
}

#[test]
fn edges_in_trouble_are_tried_no_more_than_others_that_do_not_get_in() {
    let now = Instant::now();
    let mut l = Lifecycle::new();
    let causes = [Cause::DnsFailed, Cause::TlsFailed, Cause::RelayTimeout, Cause::AddressDenied, Cause::MediaLost];
    for (epoch, cause) in (1..).zip(causes) {
        assert_eq!(actions(&mut l), [Action::Place]);
        l.handle_assigned(Epoch(epoch), now);
        fails(&mut l, epoch, cause, now);
    }
    l.handle_backlog(0, 0, now);
    assert_eq!((l.status(), l.failure().unwrap().0.as_str()), (Status::Failed, "dns_failed"));
}

#[test]
fn an_edge_that_has_not_opened_the_meeting_in_time_is_named() {
    let now = Instant::now();
    let mut l = Lifecycle::new();
    l.handle_assigned(Epoch(1), now);
    let late = l.poll_timeout().unwrap();
    assert_eq!((l.unopened(now), l.unopened(late)), (None, Some(Epoch(1))));
    l.handle_opened(Epoch(1));
    assert_eq!(l.unopened(late), None);
}

#[test]
fn an_edge_that_handed_over_before_the_core_started_is_dismissed_by_the_next_that_is_live() {
    let now = Instant::now();
    let mut l = Lifecycle::resumed(Status::Connecting, Epoch(2), Some(Epoch(1)), 0, now);
    l.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
    assert_eq!((l.status(), l.leaving(), l.poll_action()), (Status::Active, None, Some(Action::Dismiss(Epoch(1)))));
    l.handle_timeout(now + LEAVING);
    assert_eq!(l.status(), Status::Active, "that it is gone is no news");
}
