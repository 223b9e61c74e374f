#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::{
    identity::NodeId,
    lease::margin,
    wire::{cause::Cause, control::CloseReason::Asked, request::Response},
};

use super::{
    seek::{Found, Step},
    *,
};
use crate::{
    meeting::lifecycle::{
        Unplaced,
        orders::{self, Event, Subject, Word},
    },
    replicate::witnesses::Tally,
    tests::fakes,
};

const LEASE: Duration = Duration::from_millis(1600);

/// A machine, and a driver that does what can be done at once.
struct Rig {
    machine: Machine<()>,
    now: Now,
    orders: VecDeque<Order>,
    /// What has passed beside the time that it is told.
    waited: Duration,
}

fn edge(epoch: Epoch) -> NodeId {
    format!("edge-{}", epoch.0).parse().unwrap()
}

impl Rig {
    fn new(redundancy: u8) -> Self {
        let now = Now { at: Instant::now(), wall: Micros(1_000_000_000) };
        let mut record = fakes::record();
        record.spec.redundancy = redundancy;
        Self { machine: Machine::new(&mut record, now), now, orders: VecDeque::new(), waited: Duration::ZERO }
    }

    fn wait(&mut self, by: Duration) -> Vec<String> {
        let end = self.now.at + by;
        let mut done = vec![];
        while let Some((at, _)) = self.machine.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at > self.now.at, "it waits for what has come: {:?}", self.machine.poll_timeout());
            self.pass(at.duration_since(self.now.at));
            self.machine.handle_timeout(self.now);
            done.extend(self.run());
        }
        self.pass(end.duration_since(self.now.at));
        done
    }

    fn pass(&mut self, by: Duration) {
        self.now = Now { at: self.now.at + by, wall: self.now.wall.plus(by) };
    }

    fn run(&mut self) -> Vec<String> {
        self.machine.advance(0, 0, 1, self.now);
        let mut done = self.act();
        self.machine.conclude(0, 0, self.now);
        done.extend(self.act());
        done
    }

    fn act(&mut self) -> Vec<String> {
        let mut done = vec![];
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Seek(Step::Rank(order)) => {
                    done.push(format!("place {:?} in slot {}", order.which, order.slot));
                    self.orders.push_back(order);
                }
                Action::DropSeek => {
                    self.orders.clear();
                    done.push("drop what is placed".into());
                }
                Action::Leave(epoch) => done.push(format!("tell {} to leave", epoch.0)),
                Action::Stopped(epoch) => {
                    self.machine.captures.handle_stopped(epoch, 0);
                    done.push(format!("{} is stopped", epoch.0));
                }
                Action::Gap(gap) => {
                    let ms = gap.to.unwrap().since(gap.from).as_millis();
                    done.push(format!("a gap of {ms} ms: {:?}", gap.reason));
                }
                Action::NoGap => done.push("no gap".into()),
                Action::Owed(epoch, gap) => {
                    self.machine.captures.note_owed(epoch, None);
                    let ms = gap.to.unwrap().since(gap.from).as_millis();
                    done.push(format!("{} owed {ms} ms", epoch.0));
                }
                Action::Tell(change) => done.push(change.status.as_str().into()),
                Action::Fence { below, .. } => done.push(format!("fence below {}", below.0)),
                Action::EndOpen { below, .. } => done.push(format!("end what is open below {}", below.0)),
                Action::End(Ending::Over) => done.push("end".into()),
                Action::End(Ending::Moved { core, term }) => {
                    done.push(format!("leave it to {core} in term {}", term.0))
                }
                Action::Tally => done.push("look who may request a takeover".into()),
                Action::Unmet(wish, _) => done.push(format!("no {}", wish.as_str())),
                Action::Seek(_)
                | Action::Declined(_)
                | Action::Silent(_)
                | Action::Write
                | Action::Capturing
                | Action::Publish(_)
                | Action::NoWitness
                | Action::Met(_) => {}
            }
        }
        done
    }

    /// An edge has been granted what was to be placed, and may speak; the answer that it takes it is on its way.
    fn ask(&mut self) -> (Which, Epoch) {
        let order = self.orders.pop_front().expect("nothing is to be placed");
        let epoch = Epoch(order.after.0 + 1);
        let owner = Owner { slot: order.slot, leased: true, ..Owner::new(edge(epoch), "eu-central".parse().unwrap()) };
        self.machine.captures.vacate(order.slot, self.now.at).unwrap();
        self.machine.captures.assign(epoch, owner, self.now.wall);
        self.machine.captures.offer(epoch, self.now.at).unwrap();
        (order.which, epoch)
    }

    fn answer(&mut self, (which, epoch): (Which, Epoch)) -> Vec<String> {
        self.machine.handle_placed(which, Ok(epoch), self.now);
        self.run()
    }

    fn beat(&mut self, epoch: Epoch) {
        assert!(self.machine.captures.handle_beat(&edge(epoch), epoch, LEASE, self.now).kept);
    }

    fn says(&mut self, notice: Notice) -> Vec<String> {
        if let Notice::Closed(epoch, _) = &notice {
            self.machine.captures.handle_left(&edge(*epoch), *epoch);
        }
        self.machine.handle_notice(notice, self.now);
        self.run()
    }

    fn live(&mut self, epoch: Epoch) -> Vec<String> {
        self.beat(epoch);
        [self.says(Notice::Opened(epoch)), self.says(Notice::State(epoch, EdgeState::Live, None))].concat()
    }

    /// Another core goes on with the meeting, as it is written.
    fn take_over(&mut self) {
        let mut record = fakes::record();
        record.spec.redundancy = 1 + u8::from(self.machine.secondary.is_wanted());
        (record.owners, record.status) = (self.machine.captures.owners().clone(), self.machine.status());
        record.gaps.extend(self.machine.gap.clone());
        self.machine = Machine::resumed(&mut record, 0, self.now);
        self.orders.clear();
        self.run();
    }

    fn join(&mut self) -> Epoch {
        let asked = self.ask();
        self.answer(asked);
        self.live(asked.1);
        asked.1
    }
}

#[test]
fn a_meeting_s_life_is_told_in_order() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.run(), ["place First in slot 0", "placing"]);
    let asked = rig.ask();
    assert_eq!(rig.answer(asked), ["connecting"]);
    assert_eq!(rig.live(Epoch(1)), ["active"]);
    assert_eq!(rig.says(Notice::Stop), ["tell 1 to leave", "finishing"]);
    assert_eq!(rig.says(Notice::Closed(Epoch(1), CloseReason::Asked)), ["done", "end"]);
    assert_eq!(rig.machine.poll_timeout(), None);
}

/// What is asked for after all that was asked for before is done, or dropped.
fn left_of(rig: &mut Rig) -> Vec<String> {
    let left = rig.act();
    rig.machine.handle_broken("once more".into(), rig.now);
    assert_eq!(rig.act(), Vec::<String>::new(), "it ends once");
    left
}

#[test]
fn a_meeting_that_breaks_fails_at_once_whatever_is_under_way_and_every_edge_leaves() {
    let mut rig = Rig::new(2);
    rig.run();
    let (first, second) = (rig.join(), rig.join());
    rig.machine.handle_notice(Notice::HandOver(first), rig.now);
    rig.machine.advance(3, 1, 1, rig.now);
    rig.machine.handle_broken("it panicked".into(), rig.now);
    assert_eq!(left_of(&mut rig), ["failed", "drop what is placed", "tell 1 to leave", "tell 2 to leave", "end"]);
    assert_eq!(rig.machine.lifecycle.failure(), Some(&("internal_error".into(), Some("it panicked".into()))));
    assert!([first, second].iter().all(|epoch| rig.machine.captures.is_fenced(*epoch)));
    assert_eq!(
        rig.machine.poll_timeout().map(|(_, reason)| reason),
        Some(Reason::Lease),
        "it waits for nothing of its own"
    );

    // Nobody captures it: the gap ends with it, and whoever is being asked is to leave.
    let mut rig = Rig::new(1);
    rig.run();
    let lost = rig.join();
    rig.says(Notice::Closed(lost, CloseReason::Drain));
    rig.ask();
    rig.pass(Duration::from_secs(1));
    rig.machine.handle_broken("it panicked".into(), rig.now);
    let ended = ["a gap of 1000 ms: EdgeLeft", "failed", "drop what is placed", "tell 2 to leave", "end"];
    assert_eq!(left_of(&mut rig), ended);
}

#[test]
fn what_breaks_while_the_end_is_told_has_it_told_again() {
    let mut rig = Rig::new(1);
    rig.run();
    let edge = rig.join();
    rig.says(Notice::Stop);
    rig.machine.handle_notice(Notice::Closed(edge, Asked), rig.now);
    rig.machine.advance(0, 0, 1, rig.now);
    rig.machine.conclude(0, 0, rig.now);
    // The driver stands still on the first of these.
    assert!(matches!(rig.machine.poll_action(), Some(Action::NoWitness)));
    assert!(matches!(rig.machine.poll_action(), Some(Action::Tell(_))));
    rig.machine.handle_broken("it stands still".into(), rig.now);
    assert_eq!(left_of(&mut rig), ["done", "tell 1 to leave", "end"]);
}

#[test]
fn a_meeting_that_another_core_serves_ends_here_and_says_nothing_more() {
    for broken in [false, true] {
        let mut rig = Rig::new(1);
        rig.run();
        rig.join();
        if broken {
            rig.machine.handle_broken("it panicked".into(), rig.now);
        }
        rig.machine.handle_notice(Notice::Stop, rig.now);
        rig.machine.handle_superseded("core-2".parse().unwrap(), mesh::wire::Term(2));
        assert_eq!(left_of(&mut rig), ["leave it to core-2 in term 2"]);
    }
}

#[test]
fn what_a_lost_edge_left_open_ends_after_a_while() {
    let mut rig = Rig::new(1);
    rig.run();
    let lost = rig.join();
    rig.says(Notice::Closed(lost, CloseReason::LeaseOver));
    let asked = rig.ask();
    let open = "end what is open below 2".to_owned();
    assert!(!rig.answer(asked).contains(&open));
    assert_eq!(rig.machine.poll_timeout().map(|(_, reason)| reason), Some(Reason::LateGrace));
    assert!(!rig.wait(Duration::from_millis(1999)).contains(&open), "its last packets may be on their way");
    assert!(rig.wait(Duration::from_millis(1)).contains(&open));
}

#[test]
fn an_edge_that_is_live_before_its_answer_is_read_makes_the_same_meeting() {
    let (mut early, mut late) = (Rig::new(1), Rig::new(1));
    for rig in [&mut early, &mut late] {
        rig.run();
    }
    let asked = early.ask();
    assert_eq!(early.live(Epoch(1)), Vec::<String>::new());
    assert_eq!(early.answer(asked), ["active"]);
    late.join();
    assert_eq!(early.machine.status(), late.machine.status());
    let of = |rig: &Rig| rig.machine.poll_timeout().map(|(_, reason)| reason);
    assert_eq!(of(&early), of(&late));
}

#[test]
fn a_lost_edge_is_replaced_and_the_gap_is_from_its_last_beat_to_the_next_that_is_live() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    rig.pass(Duration::from_secs(1));
    rig.beat(first);
    assert_eq!(rig.wait(LEASE + margin(LEASE)), ["place First in slot 0", "placing"]);
    let secondary = rig.ask();
    assert_eq!(rig.answer(secondary), ["connecting"]);
    rig.pass(Duration::from_millis(200));
    assert_eq!(rig.live(Epoch(2)), ["a gap of 2000 ms: EdgeLost", "active"]);
    assert_eq!(rig.machine.captures.capturing(), [Epoch(2)].into());
}

#[test]
fn the_second_edge_goes_on_for_the_first_without_a_gap_and_its_place_is_filled() {
    let mut rig = Rig::new(2);
    rig.run();
    let first = rig.join();
    let secondary = rig.join();
    let lost = rig.says(Notice::Closed(first, CloseReason::Drain));
    assert_eq!(lost, ["1 is stopped", "place Secondary in slot 0"]);
    assert_eq!((rig.machine.status(), rig.machine.captures.capturing()), (Status::Active, [secondary].into()));
}

#[test]
fn a_second_edge_that_is_to_be_sought_again_is_waited_for_only_while_it_may_be_sought() {
    let mut rig = Rig::new(2);
    rig.run();
    let first = rig.join();
    let order = rig.orders.pop_front().unwrap();
    let none = Unplaced { code: "no_edge", detail: "none".into(), retry: true };
    rig.machine.handle_placed(order.which, Err((Epoch(2), none)), rig.now);
    assert_eq!(rig.run(), ["no redundancy"]);
    rig.says(Notice::Closed(first, CloseReason::Drain));
    assert_eq!(rig.machine.status(), Status::Placing);
    // The pause of the secondary ends while the first is sought: the driver must not spin.
    rig.wait(Duration::from_secs(5));
    let asked = rig.ask();
    assert!(rig.answer(asked).contains(&"place Secondary in slot 1".into()));
}

#[test]
fn an_edge_that_fails_by_its_own_fault_is_not_asked_again_for_a_while() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    rig.says(Notice::State(first, EdgeState::Failed(Cause::MediaLost), None));
    rig.says(Notice::Closed(first, CloseReason::Failed));
    assert_eq!(rig.orders.front().map(|order| order.without.clone()), Some(vec![edge(first)]));
}

#[test]
fn an_edge_that_joined_unnoticed_is_stopped_though_another_was_asked_after_it() {
    let mut rig = Rig::new(2);
    rig.run();
    rig.join();
    let (which, stray) = rig.ask();
    rig.beat(stray);
    // Its answer was lost, and the next to be asked never came to a row.
    let next = Epoch(stray.0 + 1);
    rig.machine.handle_placed(which, Err((next, orders::unplaced())), rig.now);
    assert_eq!(rig.run(), ["tell 2 to leave", "2 is stopped", "no redundancy"]);
    assert_eq!(rig.machine.captures.capturing(), [Epoch(1)].into());
}

#[test]
fn what_the_end_finds_being_placed_is_told_to_leave() {
    let mut rig = Rig::new(1);
    rig.run();
    rig.ask();
    rig.says(Notice::Stop);
    let ended = rig.wait(Duration::from_secs(11));
    assert!(ended.ends_with(&["done", "drop what is placed", "tell 1 to leave", "end"].map(String::from)), "{ended:?}");
}

#[test]
fn an_edge_that_declines_is_none_of_those_who_may_request_a_takeover_and_that_is_looked_at() {
    let mut rig = Rig::new(1);
    rig.run();
    let eligible = seek::Eligible { edge: edge(Epoch(1)), region: "eu-central".parse().unwrap() };
    let way = [
        Found::Ranked(Ok((vec![eligible], 1))),
        Found::Begun(Ok(true)),
        Found::Done(Ok(())),
        Found::Done(Ok(())),
        Found::Answered(Ok(Response::Refused { reason: "full".into() })),
    ];
    let [ranked, begun, claimed, stored, refused] = way;
    for found in [ranked, begun, claimed, stored] {
        rig.machine.handle_found(found, rig.now);
        assert_eq!(rig.act(), Vec::<String>::new());
    }
    assert_eq!(rig.machine.captures.tally(), Tally::Open);
    rig.machine.handle_found(refused, rig.now);
    assert_eq!(rig.machine.captures.tally(), Tally::Nobody);
    assert_eq!(rig.act(), ["look who may request a takeover"]);
}

#[test]
fn an_end_that_waits_for_the_second_edge_s_placement_fences_at_once_when_that_is_over() {
    let mut rig = Rig::new(2);
    rig.run();
    let first = rig.join();
    rig.says(Notice::Closed(first, CloseReason::Drain));
    assert_eq!(rig.says(Notice::Stop), ["finishing"]);
    let order = rig.orders.pop_front().unwrap();
    rig.machine.handle_placed(order.which, Err((Epoch(2), orders::unplaced())), rig.now);
    assert_eq!(rig.run(), ["fence below 2", "a gap of 0 ms: EdgeLeft", "done", "end"]);
}

/// What is compared of the whole meeting.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: Status,
    capturing: BTreeSet<Epoch>,
    live: BTreeSet<Epoch>,
    placing: Option<Which>,
    waits: Option<Reason>,
    gap: bool,
}

impl Subject for Rig {
    type Outcome = Outcome;

    fn new(now: Instant) -> Self {
        let mut rig = Self::new(1);
        rig.now.at = now;
        rig.run();
        rig
    }

    /// An edge of which something happens has been granted the meeting by then, if that was to be placed.
    fn happen(&mut self, event: Event, now: Instant) {
        self.now.at = now + self.waited;
        match event {
            Event::Says(epoch, _) | Event::Assigned(epoch) | Event::Down(epoch) => self.grant(Epoch(epoch)),
            // Somebody was asked.
            Event::Unplaced => self.grant(Epoch(self.orders.front().map_or(0, |order| order.after.0 + 1))),
            Event::Stop | Event::Broken | Event::Slow(_) | Event::TakenOver => {}
        }
        match event {
            Event::Says(epoch, words) => words.iter().for_each(|word| self.say(Epoch(epoch), *word)),
            Event::Assigned(epoch) => self.placed(Ok(Epoch(epoch))),
            Event::Unplaced => self.placed(Err((self.machine.captures.owners().epoch, orders::unplaced()))),
            Event::Down(epoch) => {
                let lapsed = Lapsed { edge: edge(Epoch(epoch)), epoch: Epoch(epoch) };
                self.machine.captures.handle_left(&lapsed.edge, lapsed.epoch);
                self.machine.handle_lapsed(&lapsed, self.now);
            }
            Event::Stop => self.machine.handle_notice(Notice::Stop, self.now),
            Event::Broken => self.machine.handle_broken("it panicked".into(), self.now),
            Event::Slow(epoch) => {
                beating(self, &[Epoch(epoch)], 25);
                self.waited = self.now.at - now;
            }
            Event::TakenOver => {
                self.take_over();
                self.wait(Duration::from_secs(10));
                self.waited = self.now.at - now;
            }
        }
        self.run();
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn outcome(&self) -> Outcome {
        let machine = &self.machine;
        Outcome {
            status: machine.status(),
            // Where one is sought, whoever is lost may come back until the next is granted the meeting.
            capturing: if machine.lifecycle.is_sought() { BTreeSet::new() } else { machine.captures.capturing() },
            live: machine.live.clone(),
            placing: machine.placing,
            // What was left open ends in any case.
            waits: machine.waits().filter(|(_, reason)| *reason != Reason::LateGrace).min().map(|(_, reason)| reason),
            gap: machine.gap.is_some(),
        }
    }

    fn end(mut self, _: Instant) -> (Status, Option<String>) {
        self.machine.handle_notice(Notice::Stop, self.now);
        self.run();
        for epoch in 1..=3 {
            self.says(Notice::Closed(Epoch(epoch), Asked));
        }
        for _ in 1..30 {
            self.pass(Duration::from_secs(60));
            self.machine.handle_timeout(self.now);
            self.run();
        }
        (self.machine.status(), self.machine.lifecycle.failure().map(|(code, _)| code.clone()))
    }

    /// Whoever is heard of after he was held to be dead lives. And of an edge that is asked, joins and is gone it may be that nobody
    /// waits for its answer any more: the next is sought then without another pause.
    fn decides(one: Event, two: Event) -> bool {
        let gone = |words: &[Word]| words.iter().any(|word| matches!(word, Word::Close(_)));
        match (one, two) {
            (Event::Down(dead), Event::Says(epoch, words)) => dead == epoch && words.contains(&Word::Live),
            (Event::Unplaced, Event::Says(_, words)) => gone(words),
            _ => false,
        }
    }
}

impl Rig {
    fn grant(&mut self, epoch: Epoch) {
        let Some(slot) = self.orders.front().map(|order| order.slot) else { return };
        if self.machine.captures.owners().epoch < epoch {
            let _ = self.machine.captures.vacate(slot, self.now.at);
            let owner = Owner { slot, leased: true, ..Owner::new(edge(epoch), "eu-central".parse().unwrap()) };
            self.machine.captures.assign(epoch, owner, self.now.wall);
            self.machine.captures.offer(epoch, self.now.at).unwrap();
        }
    }

    fn placed(&mut self, placed: Result<Epoch, (Epoch, Unplaced)>) {
        let Some(order) = self.orders.pop_front() else { return };
        let newest = self.machine.captures.owners().epoch;
        // What it has opened it has taken, whatever became of its answer.
        let placed = if self.machine.captures.is_taken(newest, self.now.at) { Ok(newest) } else { placed };
        self.machine.handle_placed(order.which, placed, self.now);
    }

    fn say(&mut self, epoch: Epoch, word: Word) {
        let notice = match word {
            Word::Open => {
                self.machine.captures.handle_beat(&edge(epoch), epoch, LEASE, self.now);
                Notice::Opened(epoch)
            }
            Word::HandOver => Notice::HandOver(epoch),
            Word::Close(reason) => Notice::Closed(epoch, reason),
            Word::Live | Word::Lost | Word::Failed | Word::Denied => {
                let (state, detail) = word.state();
                Notice::State(epoch, state, detail)
            }
        };
        self.says(notice);
    }
}

/// As for the life-cycle alone, with all that is known of its edges.
#[test]
fn no_order_of_two_events_makes_another_meeting() {
    orders::compare::<Rig>();
}

#[test]
fn an_edge_that_is_back_before_another_is_granted_the_meeting_has_it_and_no_gap_is_named() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    assert_eq!(rig.wait(LEASE + margin(LEASE)), ["place First in slot 0", "placing"]);
    rig.beat(first);
    assert_eq!(rig.run(), ["drop what is placed", "active"]);
    assert!(rig.machine.gap.is_some(), "it may have stood still");
    rig.pass(Duration::from_secs(1));
    rig.beat(first);
    assert_eq!(rig.wait(Duration::from_millis(1100)), ["no gap"], "one was written");
    assert!(rig.machine.gap.is_none() && rig.orders.is_empty());
}

#[test]
fn an_edge_that_hands_over_and_is_gone_before_its_successor_is_live_captures_no_more() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    assert_eq!(rig.says(Notice::HandOver(first)), ["place First in slot 0"]);
    let asked = rig.ask();
    rig.answer(asked);
    rig.beat(asked.1);
    rig.says(Notice::Opened(asked.1));
    let told: Vec<String> = (0..25)
        .flat_map(|_| {
            rig.beat(asked.1);
            rig.wait(Duration::from_secs(1))
        })
        .collect();
    assert_eq!(told, ["1 is stopped", "tell 1 to leave", "connecting", "end what is open below 2"]);
    assert_eq!(rig.live(asked.1), ["a gap of 25000 ms: EdgeLost", "active"], "from its last beat on");
    assert_eq!((rig.machine.status(), rig.machine.captures.capturing()), (Status::Active, [asked.1].into()));
}

#[test]
fn an_edge_that_was_live_and_is_gone_before_its_answer_is_read_leaves_a_gap() {
    let mut rig = Rig::new(1);
    rig.run();
    let asked = rig.ask();
    rig.live(asked.1);
    rig.says(Notice::Closed(asked.1, CloseReason::Drain));
    rig.answer(asked);
    rig.pass(Duration::from_millis(500));
    let next = rig.ask();
    rig.answer(next);
    assert_eq!(rig.live(next.1), ["a gap of 500 ms: EdgeLeft", "active"]);
}

/// For so many seconds `edges` beat, and whoever is sought is not found.
fn beating(rig: &mut Rig, edges: &[Epoch], seconds: u32) -> Vec<String> {
    let second = |_| {
        edges.iter().for_each(|epoch| rig.beat(*epoch));
        rig.wait(Duration::from_secs(1))
    };
    (0..seconds).flat_map(second).collect()
}

#[test]
fn an_edge_that_hands_over_captures_on_however_slow_its_successors_are() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    rig.says(Notice::HandOver(first));
    let mut told = vec![];
    for _ in 0..12 {
        // It takes the meeting, and is never live.
        let asked = rig.ask();
        told.extend(rig.answer(asked));
        for _ in 0..40 {
            told.extend(beating(&mut rig, &[first], 1));
            if !rig.orders.is_empty() {
                break;
            }
        }
        assert_eq!((rig.machine.status(), rig.machine.lifecycle.capturing()), (Status::Active, Some(first)));
    }
    told.retain(|what| what != "place First in slot 0");
    assert_eq!(told, Vec::<String>::new());
    assert!(rig.machine.gap.is_none() && rig.machine.captures.capturing().contains(&first));
    let last = rig.ask();
    rig.answer(last);
    assert_eq!(rig.live(last.1), ["1 is stopped", "tell 1 to leave"]);
    assert_eq!(rig.machine.captures.capturing(), [last.1].into());
}

#[test]
fn an_edge_that_hands_over_and_was_forgotten_is_stopped_when_another_captures_and_not_before() {
    let mut rig = Rig::new(2);
    rig.run();
    let (first, secondary) = (rig.join(), rig.join());
    assert_eq!(rig.says(Notice::HandOver(first)), ["place First in slot 0"]);
    let successor = rig.ask();
    rig.answer(successor);
    // The successor does not last, and the secondary takes the first place.
    let told = rig.says(Notice::State(successor.1, EdgeState::Failed(Cause::MediaLost), None));
    assert_eq!(told, ["3 is stopped", "1 is stopped", "tell 1 to leave", "place Secondary in slot 0"]);
    assert_eq!((rig.machine.captures.capturing(), rig.machine.status()), ([secondary].into(), Status::Active));
    assert!(rig.machine.gap.is_none());
}

#[test]
fn an_edge_whose_hand_over_another_core_has_begun_is_counted_as_long_as_it_beats() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    rig.says(Notice::HandOver(first));
    let asked = rig.ask();
    rig.answer(asked);
    rig.take_over();
    rig.says(Notice::State(first, EdgeState::Live, None));
    assert_eq!(beating(&mut rig, &[first], 60).iter().filter(|what| what.contains("is stopped")).count(), 0);
    assert!(rig.machine.gap.is_none() && rig.machine.captures.capturing().contains(&first));
    assert_eq!(rig.machine.status(), Status::Active);
}

#[test]
fn what_an_edge_owes_is_owed_until_it_is_written_that_it_never_came() {
    let mut record = fakes::record();
    let mut rig = Rig::new(1);
    let owner = |epoch| Owner { leased: true, ..Owner::new(edge(epoch), "eu-central".parse().unwrap()) };
    for (epoch, owes) in [(Epoch(1), Some(rig.now.wall)), (Epoch(2), None)] {
        record.owners.grant(epoch, Owner { owes, ..owner(epoch) }, rig.now.wall.plus(Duration::from_secs(epoch.0)));
    }
    record.status = Status::Finishing;
    rig.machine = Machine::resumed(&mut record, 0, rig.now);
    rig.machine.handle_notice(Notice::Closed(Epoch(2), Asked), rig.now);
    rig.machine.advance(0, 0, 1, rig.now);
    rig.machine.conclude(0, 0, rig.now);
    assert!(rig.machine.captures.owners().owing().count() == 1, "a core that stops here names it later");
    assert_eq!(rig.act(), ["1 owed 2000 ms", "done", "end"]);
    assert_eq!(rig.machine.captures.owners().owing().count(), 0);
}

#[test]
fn an_edge_that_is_back_while_another_is_being_asked_keeps_the_meeting() {
    let mut rig = Rig::new(1);
    rig.run();
    let first = rig.join();
    rig.wait(LEASE + margin(LEASE));
    let eligible = seek::Eligible { edge: edge(Epoch(2)), region: "eu-central".parse().unwrap() };
    for found in [Found::Ranked(Ok((vec![eligible], 1))), Found::Done(Ok(()))] {
        rig.machine.handle_found(found, rig.now);
        assert_eq!(rig.act(), Vec::<String>::new());
    }
    rig.beat(first);
    rig.machine.handle_found(Found::Begun(Ok(true)), rig.now);
    assert_eq!(rig.run(), ["drop what is placed", "active"]);
    rig.beat(first);
    assert_eq!(rig.machine.captures.capturing(), [first].into());
}

#[test]
fn a_meeting_that_was_live_is_so_for_the_core_that_takes_it_over_while_another_edge_is_sought() {
    let lost = || {
        let mut rig = Rig::new(1);
        rig.run();
        let first = rig.join();
        rig.wait(LEASE + margin(LEASE));
        assert_eq!(rig.machine.status(), Status::Placing);
        rig.take_over();
        (rig, first)
    };
    // It is sought for as long as before.
    let (mut rig, _) = lost();
    let mut ended = Duration::ZERO;
    while !rig.machine.status().ended() {
        if rig.orders.pop_front().is_some() {
            let newest = rig.machine.captures.owners().epoch;
            rig.machine.handle_placed(Which::First, Err((newest, orders::unplaced())), rig.now);
            rig.run();
        }
        rig.wait(Duration::from_secs(1));
        ended += Duration::from_secs(1);
    }
    assert!(ended > Duration::from_secs(120), "{ended:?}");
    // And its own edge, which has captured all the while, has it without a gap.
    let (mut rig, first) = lost();
    rig.beat(first);
    assert_eq!(rig.run(), ["drop what is placed", "active"]);
    assert_eq!(beating(&mut rig, &[first], 3), ["no gap"]);
    assert!(rig.machine.gap.is_none());
    // One that was asked since and was never live has yet to say so.
    let mut rig = Rig::new(1);
    rig.run();
    rig.join();
    rig.wait(LEASE + margin(LEASE));
    let next = rig.ask();
    rig.take_over();
    rig.beat(next.1);
    assert_eq!(rig.run(), ["drop what is placed", "connecting"]);
    assert!(rig.live(next.1).iter().any(|what| what.starts_with("a gap of")));
}

#[test]
fn what_an_edge_said_before_it_was_known_to_be_back_is_not_forgotten() {
    let mut rig = Rig::new(1);
    rig.run();
    let asked = rig.ask();
    rig.answer(asked);
    rig.beat(asked.1);
    assert_eq!(rig.wait(Duration::from_secs(3)), ["place First in slot 0", "placing"]);
    rig.says(Notice::State(asked.1, EdgeState::Live, None));
    rig.beat(asked.1);
    assert_eq!(rig.run(), ["drop what is placed", "active"]);
}

#[test]
fn an_edge_that_was_being_relieved_when_the_core_stopped_captures_until_the_other_is_live() {
    let mut record = fakes::record();
    let mut rig = Rig::new(1);
    for (epoch, slot) in [(Epoch(1), 0), (Epoch(2), 1)] {
        let owner = Owner { slot, leased: true, ..Owner::new(edge(epoch), "eu-central".parse().unwrap()) };
        record.owners.grant(epoch, owner, rig.now.wall.plus(Duration::from_secs(epoch.0)));
    }
    record.status = Status::Active;
    rig.machine = Machine::resumed(&mut record, 0, rig.now);
    assert_eq!(rig.run(), ["active"]);
    assert_eq!(rig.live(Epoch(1)), Vec::<String>::new());
    assert_eq!(rig.machine.captures.capturing(), [Epoch(1), Epoch(2)].into());
    assert_eq!(rig.live(Epoch(2)), ["tell 1 to leave", "1 is stopped"]);
    assert!(rig.machine.gap.is_none());
}

#[test]
fn of_two_edges_that_hand_over_at_once_neither_is_forgotten() {
    let mut rig = Rig::new(2);
    rig.run();
    let (first, secondary) = (rig.join(), rig.join());
    // The first's relay is gone for a moment.
    rig.says(Notice::State(first, EdgeState::Reconnecting { silent_ms: 0 }, None));
    rig.says(Notice::HandOver(secondary));
    rig.says(Notice::HandOver(first));
    assert_eq!(rig.machine.lifecycle.leaving(), Some(first), "a successor is sought");
    assert!(rig.machine.leaves.contains(&secondary), "it goes when another captures");
}

#[test]
fn an_edge_that_dies_while_it_hands_over_leaves_a_gap_from_its_last_beat_to_its_successor() {
    let hand_over = |silent: Duration| {
        let mut rig = Rig::new(1);
        rig.run();
        let first = rig.join();
        rig.says(Notice::HandOver(first));
        let next = rig.ask();
        rig.answer(next);
        rig.wait(silent);
        rig.live(next.1)
    };
    let gap = |done: &[String]| done.iter().find(|what| what.starts_with("a gap")).cloned();
    assert_eq!(gap(&hand_over(LEASE)), None, "it may have captured until now");
    let silent = LEASE + margin(LEASE);
    assert_eq!(gap(&hand_over(silent)), Some(format!("a gap of {} ms: EdgeLost", silent.as_millis())));
}

#[test]
fn what_is_found_for_a_first_edge_that_was_relieved_meanwhile_is_not_taken_for_the_next() {
    for found in [None, Some(Epoch(3))] {
        let mut rig = Rig::new(2);
        rig.run();
        let (first, secondary) = (rig.join(), rig.join());
        rig.says(Notice::HandOver(first));
        // A successor is sought in its slot; the secondary takes its place, and hands over as well.
        let sought = match found {
            Some(_) => rig.ask(),
            None => (rig.orders.pop_front().unwrap().which, Epoch(3)),
        };
        rig.says(Notice::Closed(first, CloseReason::LeaseOver));
        assert_eq!(rig.says(Notice::HandOver(secondary)), Vec::<String>::new());
        rig.machine.handle_placed(sought.0, found.ok_or_else(|| (sought.1, orders::unplaced())), rig.now);
        assert!(rig.run().contains(&"place First in slot 1".into()));
        let next = rig.ask();
        rig.answer(next);
        rig.live(next.1);
        assert_eq!((rig.machine.lifecycle.epoch(), rig.machine.secondary.epoch()), (next.1, found));
    }
}
