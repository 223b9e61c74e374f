#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const RTT: Duration = Duration::from_millis(20);

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A machine whose primary `a` and standby `b` are up and have just answered.
struct Bench {
    failover: Failover,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let failover = Failover::new(Settings::default(), id("a"), Term(1), Some(id("b")), true, now);
        let mut this = Self { failover, now };
        assert_eq!(this.actions(), [Action::Watch(id("a")), Action::Watch(id("b"))]);
        this.failover.handle_up(&id("a"), true, now);
        this.failover.handle_up(&id("b"), true, now);
        this.beats(&["a", "b"], 4);
        assert_eq!(this.actions(), []);
        this
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.failover.poll_action()).collect()
    }

    /// `count` beats pass, which `who` answers.
    fn beats(&mut self, who: &[&str], count: u32) {
        for _ in 0..count {
            self.now += BEAT_EVERY;
            for core in who {
                let opened = self.failover.serving() == &id(core);
                self.failover.handle_beat(&id(core), RTT, opened, self.now);
            }
            self.failover.handle_timeout(self.now);
        }
    }

    fn turned(&mut self) -> Option<(NodeId, Term, Why)> {
        self.actions().into_iter().find_map(|action| match action {
            Action::Turn { core, term, why } => Some((core, term, why)),
            _ => None,
        })
    }
}

#[test]
fn a_silent_core_is_left_for_its_standby_within_a_second() {
    let mut bench = Bench::new();
    bench.beats(&["b"], 2);
    assert_eq!(bench.turned(), None, "half a second may be the network's");
    bench.beats(&["b"], 1);
    assert_eq!(bench.turned(), Some((id("b"), Term(2), Why::Silent)));
    bench.beats(&["b"], 1);
    assert_eq!(bench.actions(), [Action::Unwatch(id("a"))], "no way back once the standby has answered");
}

#[test]
fn a_slow_path_is_given_four_round_trips() {
    let mut bench = Bench::new();
    bench.failover.handle_beat(&id("a"), ms(300), true, bench.now);
    bench.beats(&["b"], 6);
    assert_eq!(bench.turned(), None, "1.5 of 1.55 s");
    bench.beats(&["b"], 1);
    assert!(bench.turned().is_some());
}

#[test]
fn a_core_whose_connection_lives_is_given_six_seconds() {
    let mut bench = Bench::new();
    for beats in 1..24 {
        bench.failover.handle_alive(&id("a"), bench.now);
        bench.beats(&["b"], 1);
        assert_eq!(bench.turned(), None, "{beats} beats");
    }
    bench.beats(&["b"], 1);
    assert!(bench.turned().is_some());
    let mut bench = Bench::new();
    bench.failover.handle_alive(&id("a"), bench.now);
    bench.beats(&["b"], 3);
    assert!(bench.turned().is_some(), "but not for having lived once");
}

#[test]
fn a_connection_that_lived_after_an_unanswered_beat_is_given_time_for_its_queue_to_drain() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.beats(&["b"], 1);
        bench.failover.handle_alive(&id("a"), bench.now);
    }
    bench.beats(&["b"], 9);
    assert_eq!(bench.turned(), None, "2.25 of 2.5 s");
    bench.beats(&["b"], 1);
    assert!(bench.turned().is_some());
}

#[test]
fn a_core_behind_a_short_path_is_given_time_while_that_is_short() {
    let mut bench = Bench::new();
    for beats in 1..9 {
        bench.failover.handle_short(&id("a"), bench.now);
        bench.beats(&["b"], 1);
        assert_eq!(bench.turned(), None, "{beats} beats");
    }
    bench.beats(&["b"], 2);
    assert!(bench.turned().is_some(), "not for longer than any core");
}

#[test]
fn a_queue_that_came_and_went_is_reckoned_with_for_a_while() {
    for (beats_since, patient) in [(4, true), (40, false)] {
        let mut bench = Bench::new();
        bench.failover.handle_beat(&id("a"), ms(500), true, bench.now);
        bench.beats(&["a", "b"], beats_since);
        bench.beats(&["b"], 4);
        assert_eq!(bench.turned().is_none(), patient, "{beats_since} beats after it");
    }
}

#[test]
fn nobody_turns_to_a_core_that_does_not_answer_either() {
    let mut bench = Bench::new();
    bench.beats(&[], 40);
    assert_eq!(bench.actions(), [], "the trouble is this edge's own");
    bench.beats(&["b"], 1);
    assert_eq!(bench.turned(), Some((id("b"), Term(2), Why::Silent)));
}

#[test]
fn who_is_cut_off_from_both_cores_turns_to_neither() {
    let mut bench = Bench::new();
    bench.failover.handle_beat(&id("b"), RTT, false, bench.now + ms(20));
    bench.beats(&[], 40);
    assert_eq!(bench.actions(), [], "the standby was heard last, by chance");
    bench.beats(&["a", "b"], 4);
    assert_eq!(bench.actions(), []);
}

#[test]
fn the_former_core_s_lease_counts_until_the_one_turned_to_has_answered() {
    let mut bench = Bench::new();
    assert!(bench.failover.is_lessor(&id("a")) && !bench.failover.is_lessor(&id("b")));
    bench.beats(&["b"], 3);
    bench.turned().unwrap();
    assert!(bench.failover.is_lessor(&id("a")) && bench.failover.is_lessor(&id("b")), "it may not have heard of it");
    bench.beats(&["b"], 1);
    assert!(!bench.failover.is_lessor(&id("a")));
}

#[test]
fn a_machine_that_was_stopped_blames_nobody() {
    let mut bench = Bench::new();
    bench.now += ms(8000);
    assert!(bench.failover.was_away(bench.now));
    bench.failover.handle_timeout(bench.now);
    bench.failover.handle_beat(&id("b"), RTT, false, bench.now);
    assert_eq!(bench.actions(), []);
    bench.beats(&["b"], 3);
    assert_eq!(bench.turned(), Some((id("b"), Term(2), Why::Silent)), "it is asked again, and judged by that");
}

#[test]
fn a_standby_that_refuses_sends_the_meeting_back_in_the_former_term() {
    let mut bench = Bench::new();
    bench.beats(&["b"], 3);
    bench.turned().unwrap();
    bench.failover.handle_refused(&id("b"), RefusedReason::UnknownMeeting, bench.now);
    let want = Action::Turn { core: id("a"), term: Term(1), why: Why::Refused };
    assert_eq!(bench.actions(), [want, Action::Unwatch(id("b"))]);
    bench.failover.handle_refused(&id("a"), RefusedReason::UnknownMeeting, bench.now);
    assert_eq!(bench.actions(), [Action::GiveUp(RefusedReason::UnknownMeeting)]);
}

#[test]
fn a_standby_that_falls_silent_before_it_answers_may_have_been_called_and_is_not_given_up() {
    let mut bench = Bench::new();
    bench.beats(&["b"], 3);
    bench.turned().unwrap();
    bench.failover.handle_beat(&id("a"), RTT, false, bench.now);
    bench.beats(&[], 1);
    // Its answer to the call is lost.
    for _ in 0..8 {
        bench.now += BEAT_EVERY;
        bench.failover.handle_beat(&id("a"), RTT, false, bench.now);
        bench.failover.handle_timeout(bench.now);
    }
    assert_eq!(bench.turned(), Some((id("a"), Term(1), Why::Silent)), "the former goes on in its own term");
    bench.failover.handle_standby(&id("a"), None, 7, bench.now);
    assert_eq!(bench.actions(), [Action::Confirm(7, Some(id("b")))]);
    bench.beats(&["a"], 8);
    bench.failover.handle_beat(&id("b"), RTT, false, bench.now);
    assert_eq!(bench.turned(), Some((id("b"), Term(2), Why::Silent)), "it is there again, and says itself");
    bench.failover.handle_refused(&id("b"), RefusedReason::UnknownMeeting, bench.now);
    assert_eq!(bench.turned(), Some((id("a"), Term(1), Why::Refused)));
    bench.failover.handle_standby(&id("a"), None, 8, bench.now);
    assert_eq!(bench.actions(), [Action::Confirm(8, None)]);
}

#[test]
fn a_called_core_that_was_let_go_by_the_former_one_makes_room_for_the_next() {
    let mut bench = Bench::new();
    bench.beats(&["b"], 3);
    for _ in 0..9 {
        bench.now += BEAT_EVERY;
        bench.failover.handle_beat(&id("a"), RTT, false, bench.now);
        bench.failover.handle_timeout(bench.now);
    }
    bench.actions();
    bench.failover.handle_standby(&id("a"), Some(id("c")), 7, bench.now);
    let want = [Action::Unwatch(id("b")), Action::Watch(id("c")), Action::Confirm(7, Some(id("c")))];
    assert_eq!(bench.actions(), want);
}

#[test]
fn a_core_that_goes_on_in_another_term_is_opened_again() {
    let mut bench = Bench::new();
    bench.failover.handle_moved(&id("a"), id("a"), Term(1), bench.now);
    assert_eq!(bench.actions(), []);
    bench.failover.handle_moved(&id("a"), id("a"), Term(4), bench.now);
    let turn = Action::Turn { core: id("a"), term: Term(4), why: Why::Moved };
    assert_eq!(bench.actions(), [Action::Unwatch(id("b")), turn]);
}

#[test]
fn a_core_that_drains_is_left_at_once_and_one_without_a_standby_is_not() {
    let mut bench = Bench::new();
    bench.failover.handle_drain(&id("b"), bench.now);
    assert_eq!(bench.actions(), [], "that is the standby");
    bench.failover.handle_drain(&id("a"), bench.now);
    assert_eq!(bench.turned(), Some((id("b"), Term(2), Why::Draining)));
    bench.beats(&["b"], 8);
    bench.failover.handle_drain(&id("b"), bench.now);
    assert_eq!(bench.turned(), None);
    bench.failover.handle_standby(&id("b"), Some(id("c")), 1, bench.now);
    assert_eq!(bench.actions(), [Action::Watch(id("c")), Action::Confirm(1, Some(id("c")))]);
    bench.failover.handle_up(&id("c"), true, bench.now);
    assert_eq!(bench.turned(), Some((id("c"), Term(3), Why::Draining)));
}

#[test]
fn a_change_of_standby_is_confirmed_and_what_others_say_of_it_is_not() {
    let mut bench = Bench::new();
    bench.failover.handle_standby(&id("b"), Some(id("c")), 1, bench.now);
    assert_eq!(bench.actions(), []);
    bench.failover.handle_standby(&id("a"), Some(id("c")), 2, bench.now);
    let want = [Action::Unwatch(id("b")), Action::Watch(id("c")), Action::Confirm(2, Some(id("c")))];
    assert_eq!(bench.actions(), want);
    bench.failover.handle_standby(&id("a"), None, 3, bench.now);
    assert_eq!(bench.actions(), [Action::Unwatch(id("c")), Action::Confirm(3, None)]);
    bench.beats(&[], 20);
    assert_eq!(bench.actions(), [], "without a standby the primary is tried for ever");
}

#[test]
fn a_core_that_says_moved_is_believed_in_no_older_term() {
    let mut bench = Bench::new();
    bench.failover.handle_moved(&id("a"), id("c"), Term(0), bench.now);
    assert_eq!(bench.actions(), []);
    bench.failover.handle_moved(&id("a"), id("c"), Term(4), bench.now);
    let turn = Action::Turn { core: id("c"), term: Term(4), why: Why::Moved };
    let want = [Action::Watch(id("c")), Action::Unwatch(id("b")), turn, Action::Unwatch(id("a"))];
    assert_eq!(bench.actions(), want);
}

#[test]
fn flapping_waits_longer_each_time() {
    let mut bench = Bench::new();
    let (mut turns, mut serving, mut other) = (vec![], "a", "b");
    for _ in 0..4000 {
        bench.beats(&[other], 1);
        if bench.turned().is_some() {
            turns.push(bench.now);
            (serving, other) = (other, serving);
            bench.beats(&[serving], 1);
            bench.failover.handle_standby(&id(serving), Some(id(other)), 1, bench.now);
            bench.failover.handle_up(&id(other), true, bench.now);
        }
    }
    let gaps: Vec<Duration> = turns.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() < 50, "{} turns in 1000 s", gaps.len());
    assert!(gaps.iter().skip(6).all(|gap| *gap >= ms(29_000)), "{gaps:?}");
}

#[test]
fn a_core_of_version_1_is_never_silent() {
    let now = Instant::now();
    let mut failover = Failover::new(Settings::default(), id("a"), Term(1), None, false, now);
    failover.handle_up(&id("a"), false, now);
    failover.poll_action();
    for n in 0..40 {
        failover.handle_timeout(now + ms(250 * n));
    }
    assert_eq!(failover.poll_action(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Up(u8),
    Down(u8),
    Beat(u8),
    Standby(u8, Option<u8>),
    Moved(u8, u8, u32),
    Drain(u8),
    Refused(u8, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let core = 0u8..4;
    prop_oneof![
        2 => core.clone().prop_map(Step::Up),
        1 => core.clone().prop_map(Step::Down),
        6 => core.clone().prop_map(Step::Beat),
        1 => (core.clone(), proptest::option::of(0u8..4)).prop_map(|(a, b)| Step::Standby(a, b)),
        1 => (core.clone(), 0u8..4, 0u32..9).prop_map(|(a, b, t)| Step::Moved(a, b, t)),
        1 => core.clone().prop_map(Step::Drain),
        1 => (core, any::<bool>()).prop_map(|(a, stale)| Step::Refused(a, stale)),
        4 => (0u64..1500).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn it_turns_only_to_cores_it_watches_and_watches_at_most_three(steps in proptest::collection::vec(step(), 0..300)) {
        let core = |n: u8| id(&format!("core-{n}"));
        let mut now = Instant::now();
        let mut failover = Failover::new(Settings::default(), core(0), Term(1), Some(core(1)), true, now);
        let (mut watched, mut serving) = (BTreeSet::new(), core(0));
        for step in steps {
            match step {
                Step::Up(n) => failover.handle_up(&core(n), true, now),
                Step::Down(n) => failover.handle_down(&core(n), now),
                Step::Beat(n) => failover.handle_beat(&core(n), RTT, true, now),
                Step::Standby(n, s) => failover.handle_standby(&core(n), s.map(core), 1, now),
                Step::Moved(n, to, term) => failover.handle_moved(&core(n), core(to), Term(term), now),
                Step::Drain(n) => failover.handle_drain(&core(n), now),
                Step::Refused(n, stale) => {
                    let reason = if stale { RefusedReason::StaleEpoch } else { RefusedReason::UnknownMeeting };
                    failover.handle_refused(&core(n), reason, now);
                }
                Step::Wait(by) => {
                    now += ms(by);
                    failover.handle_timeout(now);
                }
            }
            while let Some(action) = failover.poll_action() {
                match action {
                    Action::Watch(core) => prop_assert!(watched.insert(core), "watched once"),
                    Action::Unwatch(core) => prop_assert!(watched.remove(&core), "it was watched"),
                    Action::Turn { core, .. } => serving = core,
                    Action::Confirm(..) | Action::GiveUp(_) => {}
                }
            }
            prop_assert_eq!(failover.serving(), &serving);
            prop_assert!(watched.contains(&serving), "{:?} does not hold {}", watched, serving);
            prop_assert!(watched.len() <= 3, "{:?}", watched);
        }
    }
}

#[test]
fn an_edge_that_owns_the_meeting_no_more_calls_nobody() {
    let mut bench = Bench::new();
    bench.failover.handle_late(bench.now);
    assert_eq!(bench.actions(), [Action::Unwatch(id("b"))]);
    bench.failover.handle_standby(&id("a"), Some(id("b")), 1, bench.now);
    assert_eq!(bench.actions(), [Action::Confirm(1, Some(id("b")))], "it says what it was told, and watches nobody");
    bench.beats(&["b"], 40);
    assert_eq!(bench.turned(), None);
    // Whoever asks who serves finds out.
    bench.failover.handle_moved(&id("a"), id("c"), Term(3), bench.now);
    assert_eq!(bench.turned(), Some((id("c"), Term(3), Why::Moved)));
}

#[test]
fn a_called_core_that_names_the_former_one_has_taken_nothing_over() {
    let mut bench = Bench::new();
    bench.beats(&["b"], 3);
    assert_eq!(bench.turned(), Some((id("b"), Term(2), Why::Silent)));
    bench.failover.handle_moved(&id("b"), id("a"), Term(1), bench.now);
    assert_eq!(bench.turned(), Some((id("a"), Term(1), Why::Refused)));
}
