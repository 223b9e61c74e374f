#![allow(clippy::unwrap_used)]
use super::{
    super::people::tests::{id, person, track},
    *,
};
use crate::connect::flood::MAX_OFFERS;
use mesh::wire::cause::Cause;
use message::{Action as Way, Participant, Permission, Pong, Reconnect, Sections, SignalResponse, State, Unsubscribed};

const SECOND: Duration = Duration::from_secs(1);

fn says(room: &mut Room, said: Said, now: Instant) -> Result<(), ConnectError> {
    room.handle_message(&SignalResponse { message: Some(said) }.encode_to_vec(), now)
}

fn ada() -> Participant {
    person("PA_1", "ada", "Ada", &[track("TR_1", "audio/opus")])
}

fn bob() -> Participant {
    person("PA_2", "bob", "Bob", &[track("TR_2", "audio/red")])
}

fn join(others: &[Participant]) -> Said {
    let us = Some(person("PA_us", "nearfield", "", &[]));
    Said::Join(Join { us, others: others.to_vec(), ping_timeout: 15, ping_interval: 5, ..Join::default() })
}

fn update(participants: &[Participant]) -> Said {
    Said::Update(Update { participants: participants.to_vec() })
}

/// What we ask, in the order of the actions, and the other actions.
fn drain(room: &mut Room) -> (Vec<Ask>, Vec<Action>) {
    let (mut asked, mut others) = (vec![], vec![]);
    while let Some(action) = room.poll_action() {
        match action {
            Action::Send(bytes) => asked.push(SignalRequest::decode(&bytes[..]).unwrap().message.unwrap()),
            other => others.push(other),
        }
    }
    (asked, others)
}

fn subscribed(asked: &[Ask]) -> Vec<&str> {
    let subscriptions = asked.iter().filter_map(|ask| match ask {
        Ask::Subscription(subscription) => Some(&subscription.tracks),
        _ => None,
    });
    subscriptions.flatten().map(String::as_str).collect()
}

fn offered(actions: &[Action]) -> Option<(usize, bool)> {
    actions.iter().find_map(|action| match action {
        Action::Offer { sections, restart } => Some((*sections, *restart)),
        _ => None,
    })
}

/// A room that was entered with these in it, and the first offer of ours answered.
fn entered(others: &[Participant], now: Instant) -> Room {
    let mut room = Room::new(Offers::Ours, now);
    says(&mut room, join(others), now).unwrap();
    room.handle_offer("v=0".into());
    says(&mut room, answer(1, &[]), now).unwrap();
    drain(&mut room);
    room
}

fn answer(id: u32, tracks: &[(&str, &str)]) -> Said {
    let tracks_by_mid = tracks.iter().map(|(mid, track)| ((*mid).into(), (*track).into())).collect();
    Said::Answer(Description { kind: "answer".into(), sdp: "v=1".into(), id, tracks_by_mid })
}

#[test]
fn whoever_is_there_is_subscribed_to_and_offered_a_section_each() {
    let now = Instant::now();
    let mut room = Room::new(Offers::Ours, now);
    says(&mut room, join(&[ada(), bob(), person("PA_3", "eve", "", &[])]), now).unwrap();
    let (asked, actions) = drain(&mut room);
    assert_eq!(subscribed(&asked), ["TR_1", "TR_2"]);
    assert_eq!(actions[0], Action::Entered);
    assert_eq!((actions.len(), offered(&actions)), (5, Some((2, false))));
    room.handle_offer("v=0".into());
    assert!(matches!(&drain(&mut room).0[..], [Ask::Offer(offer)] if offer.id == 1 && offer.sdp == "v=0"));
    says(&mut room, answer(1, &[("0", "TR_2"), ("1", "TR_1")]), now).unwrap();
    let (_, actions) = drain(&mut room);
    let [Action::Accept { answer, whose }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(
        (answer.as_str(), whose.section("0", None), whose.section("1", None)),
        ("v=1", Some(&id("bob")), Some(&id("ada")))
    );
}

#[test]
fn sections_that_the_server_wants_are_offered_one_exchange_at_a_time() {
    let now = Instant::now();
    let mut room = entered(&[], now);
    says(&mut room, update(&[ada()]), now).unwrap();
    assert_eq!(subscribed(&drain(&mut room).0), ["TR_1"]);
    says(&mut room, Said::Sections(Sections { audios: 1 }), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), Some((2, false)));
    room.handle_offer("v=0".into());
    for _ in 0..2 {
        says(&mut room, Said::Sections(Sections { audios: 1 }), now).unwrap();
    }
    assert_eq!(offered(&drain(&mut room).1), None, "an answer is awaited");
    says(&mut room, answer(1, &[]), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), None, "that is another's");
    says(&mut room, answer(2, &[]), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), Some((4, false)));
    says(&mut room, Said::Sections(Sections { audios: u32::MAX }), now).unwrap();
    room.handle_offer("v=0".into());
    says(&mut room, answer(3, &[]), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), Some((MAX_TRACKS, false)));
}

#[test]
fn once_the_sections_are_used_up_the_room_is_joined_anew_where_that_gives_room() {
    let now = Instant::now();
    let full = |voices: usize| {
        let all: Vec<Participant> = (0..voices)
            .map(|n| person(&format!("PA_{n}"), &format!("p{n}"), "", &[track(&format!("TR_{n}"), "audio/opus")]))
            .collect();
        let mut room = entered(&all, now);
        says(&mut room, Said::Sections(Sections { audios: MAX_TRACKS as u32 }), now).unwrap();
        assert_eq!(offered(&drain(&mut room).1), Some((MAX_TRACKS, false)));
        room.handle_offer("v=0".into());
        says(&mut room, answer(2, &[]), now).unwrap();
        says(&mut room, Said::Sections(Sections { audios: 1 }), now)
    };
    let error = full(MAX_TRACKS / 2).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("500 sections"), "{error}");
    full(MAX_TRACKS / 2 + 1).unwrap();
    // That many sections without that many voices are a flood.
    full(2).unwrap();
}

#[test]
fn a_track_that_is_published_anew_is_asked_for_anew_and_one_that_is_refused_is_told() {
    let now = Instant::now();
    let mut room = entered(&[ada()], now);
    let version = |version, tracks: &[_]| Participant { version, ..person("PA_1", "ada", "Ada", tracks) };
    says(&mut room, update(&[version(2, &[])]), now).unwrap();
    says(&mut room, update(&[version(3, &[track("TR_1", "audio/opus")])]), now).unwrap();
    assert_eq!(subscribed(&drain(&mut room).0), ["TR_1"]);
    says(&mut room, Said::Unsubscribed(Unsubscribed { track: "TR_1".into() }), now).unwrap();
    let (asked, actions) = drain(&mut room);
    assert!(asked.is_empty());
    let unheard = Some("refused by LiveKit".to_owned());
    let joined = Change::Joined { id: id("ada"), name: Some("Ada".into()), unheard };
    assert_eq!(actions, [Action::Person(joined)]);
}

/// A room that was lost, and goes on.
fn resumed(others: &[Participant], now: Instant) -> Room {
    let mut room = entered(others, now);
    room.handle_lost();
    room.handle_back(now);
    says(&mut room, Said::Reconnect(Reconnect::default()), now).unwrap();
    room
}

#[test]
fn signalling_that_was_lost_goes_on_with_an_offer_for_another_path() {
    let now = Instant::now();
    let mut room = entered(&[ada(), bob()], now);
    says(&mut room, Said::Sections(Sections { audios: 1 }), now).unwrap();
    drain(&mut room);
    room.handle_offer("v=0".into());
    room.handle_lost();
    assert_eq!((room.poll_timeout(), room.sid()), (None, "PA_us"));
    room.handle_back(now);
    assert_eq!(room.poll_timeout(), Some(now + JOIN_DEADLINE));
    says(&mut room, update(&[bob()]), now).unwrap();
    assert_eq!(drain(&mut room), (vec![], vec![]), "nothing counts before we are known");
    says(&mut room, Said::Reconnect(Reconnect::default()), now).unwrap();
    let (asked, actions) = drain(&mut room);
    let [Ask::Sync(sync)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(sync.subscription.as_ref().unwrap().tracks, ["TR_1", "TR_2"]);
    assert_eq!(offered(&actions), Some((3, true)), "whether it was taken nobody knows");
}

#[test]
fn a_wish_for_sections_that_was_lost_is_made_good_once_signalling_is_back() {
    let now = Instant::now();
    let mut room = entered(&[], now);
    says(&mut room, update(&[ada(), bob()]), now).unwrap();
    drain(&mut room);
    // The server has asked for two more, and nobody heard it.
    room.handle_lost();
    room.handle_back(now);
    says(&mut room, Said::Reconnect(Reconnect::default()), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), Some((2, true)));
}

#[test]
fn whoever_is_not_named_for_a_while_after_signalling_is_back_is_gone() {
    let now = Instant::now();
    let mut room = resumed(&[ada(), bob()], now);
    drain(&mut room);
    let eve = person("PA_3", "eve", "", &[]);
    // A change that was under way, and then all who are there.
    says(&mut room, update(std::slice::from_ref(&eve)), now).unwrap();
    says(&mut room, update(&[bob(), eve]), now + SECOND).unwrap();
    let left = |room: &mut Room| drain(room).1.into_iter().filter(|a| matches!(a, Action::Person(Change::Left { .. })));
    assert_eq!(left(&mut room).count(), 0, "more may be named");
    assert_eq!(room.poll_timeout(), Some(now + 5 * SECOND));
    room.handle_timeout(now + ROLL_CALL).unwrap();
    assert_eq!(left(&mut room).collect::<Vec<_>>(), [Action::Person(Change::Left { id: id("ada") })]);
    room.handle_timeout(now + 2 * ROLL_CALL - SECOND).unwrap();
    assert_eq!(left(&mut room).count(), 0, "changes only from then on");
}

#[test]
fn a_server_is_pinged_after_it_was_lost_as_before() {
    let now = Instant::now();
    let mut room = resumed(&[ada()], now);
    says(&mut room, update(&[ada()]), now).unwrap();
    room.handle_offer("v=0".into());
    says(&mut room, answer(2, &[]), now).unwrap();
    drain(&mut room);
    room.handle_timeout(now + 5 * SECOND).unwrap();
    assert!(matches!(&drain(&mut room).0[..], [Ask::Ping(_)]));
    assert!(room.handle_timeout(now + 20 * SECOND).is_err(), "and left if it answers none");
}

#[test]
fn whoever_may_not_listen_is_told_so() {
    let now = Instant::now();
    let us = |can_subscribe| {
        let permission = Some(Permission { can_subscribe, ..Permission::default() });
        Participant { permission, ..person("PA_us", "nearfield", "", &[]) }
    };
    let join = |can_subscribe| Said::Join(Join { us: Some(us(can_subscribe)), ..Join::default() });
    let mut room = Room::new(Offers::Ours, now);
    let refused = says(&mut room, join(false), now).unwrap_err();
    assert_eq!((refused.cause(), refused.is_transient()), (Cause::AccessDenied, false));
    let mut room = Room::new(Offers::Ours, now);
    says(&mut room, join(true), now).unwrap();
    assert!(says(&mut room, update(&[us(false)]), now).is_err(), "any more");
}

#[test]
fn a_server_that_does_not_know_us_any_more_is_joined_anew() {
    let now = Instant::now();
    let mut room = entered(&[ada()], now);
    room.handle_lost();
    room.handle_back(now);
    let leave = Leave { action: Way::Reconnect as i32, reason: Reason::StateMismatch as i32, ..Leave::default() };
    let error = says(&mut room, Said::Leave(leave), now).unwrap_err();
    assert!(error.is_transient(), "{error}");
    room.handle_back(now);
    assert!(says(&mut room, join(&[]), now).unwrap_err().is_transient(), "another stay");
}

#[test]
fn why_we_are_out_says_whether_that_is_the_end() {
    let now = Instant::now();
    let leaves = |leave| {
        let mut room = entered(&[ada()], now);
        says(&mut room, Said::Leave(leave), now).map(|()| drain(&mut room).1)
    };
    let out = |reason: Reason| Leave { reason: reason as i32, ..Leave::default() };
    for reason in [Reason::RoomDeleted, Reason::RoomClosed, Reason::ParticipantRemoved] {
        assert_eq!(leaves(out(reason)), Ok(vec![Action::Ended]), "{reason:?}");
    }
    let error = leaves(out(Reason::DuplicateIdentity)).unwrap_err();
    assert_eq!((error.is_transient(), error.cause()), (false, Cause::RelayRefused));
    assert!(leaves(out(Reason::ServerShutdown)).unwrap_err().is_transient());
    let before = Leave { can_reconnect: true, ..out(Reason::DuplicateIdentity) };
    assert!(leaves(before).unwrap_err().is_transient(), "as old servers say it");
    let resume = Leave { action: Way::Resume as i32, ..Leave::default() };
    assert_eq!(leaves(resume), Ok(vec![Action::Resume]));
}

#[test]
fn another_room_has_other_people_and_is_listened_to_anew() {
    let now = Instant::now();
    let mut room = entered(&[ada()], now);
    let us = Some(person("PA_again", "nearfield", "", &[]));
    let room_info = Some(message::RoomInfo { name: "annex".into() });
    let moved = Moved { room: room_info, token: "another".into(), us, others: vec![bob()] };
    says(&mut room, Said::Moved(moved), now).unwrap();
    let (asked, actions) = drain(&mut room);
    assert_eq!((subscribed(&asked), room.sid()), (vec!["TR_2"], "PA_again"));
    assert!(actions.contains(&Action::Token(Secret("another".into()))));
    assert!(actions.contains(&Action::Moved));
    assert!(actions.contains(&Action::Person(Change::Left { id: id("ada") })));

    let us = Some(Participant { permission: Some(Permission::default()), ..person("PA_third", "nearfield", "", &[]) });
    let deaf = says(&mut room, Said::Moved(Moved { room: None, token: String::new(), us, others: vec![] }), now);
    assert!(matches!(deaf, Err(error) if !error.is_transient()), "where we may not listen");
}

#[test]
fn a_server_that_answers_no_ping_is_lost() {
    let now = Instant::now();
    let mut room = entered(&[], now);
    let at = |seconds: u32| now + seconds * SECOND;
    assert_eq!(room.poll_timeout(), Some(at(5)));
    room.handle_timeout(at(5)).unwrap();
    let (asked, _) = drain(&mut room);
    let [Ask::Ping(ping)] = &asked[..] else { panic!("{asked:?}") };
    says(&mut room, Said::Pong(Pong { last_ping: ping.timestamp }), at(6)).unwrap();
    for second in [10, 15, 20, 24] {
        room.handle_timeout(at(second)).unwrap();
    }
    let [Ask::Ping(ping), ..] = &drain(&mut room).0[..] else { panic!("no ping") };
    assert_eq!((ping.timestamp, ping.rtt), (10_000, 1000));
    let late = room.handle_timeout(at(25)).unwrap_err();
    assert_eq!(late, ConnectError::Timeout { what: "an answer to a ping", after: 15 * SECOND });
}

#[test]
fn silence_asks_for_another_path_after_the_exchange_under_way() {
    let now = Instant::now();
    let mut room = entered(&[ada()], now);
    room.handle_silence(now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), Some((1, true)));
    room.handle_offer("v=0".into());
    says(&mut room, Said::Sections(Sections { audios: 0 }), now).unwrap();
    says(&mut room, answer(2, &[]), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), Some((1, false)));
}

#[test]
fn what_never_comes_is_not_waited_for() {
    let now = Instant::now();
    let mut room = Room::new(Offers::Ours, now);
    assert!(room.handle_timeout(now + JOIN_DEADLINE).is_err());
    let mut room = Room::new(Offers::Ours, now);
    says(&mut room, join(&[]), now).unwrap();
    room.handle_offer("v=0".into());
    assert!(room.handle_timeout(now + ANSWER_DEADLINE).is_err());
    let mut room = Room::new(Offers::Theirs, now);
    says(&mut room, join(&[]), now).unwrap();
    let what = "an offer of LiveKit's";
    let never = room.handle_timeout(now + ANSWER_DEADLINE);
    assert_eq!(never, Err(ConnectError::Timeout { what, after: ANSWER_DEADLINE }), "not even for a quiet room");
}

#[test]
fn where_the_server_offers_it_is_answered_under_its_number_and_who_goes_on_for_ever_is_left() {
    let now = Instant::now();
    let mut room = Room::new(Offers::Theirs, now);
    says(&mut room, join(&[ada()]), now).unwrap();
    assert_eq!(offered(&drain(&mut room).1), None);
    let tracks_by_mid = [("0".to_owned(), "TR_1".to_owned())].into();
    let offer = Said::Offer(Description { kind: "offer".into(), sdp: "v=1".into(), id: 7, tracks_by_mid });
    says(&mut room, offer.clone(), now).unwrap();
    let (_, actions) = drain(&mut room);
    let [Action::Answer { offer: sdp, whose }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((sdp.as_str(), whose.section("0", None)), ("v=1", Some(&id("ada"))));
    room.handle_answer("v=2".into());
    assert!(matches!(&drain(&mut room).0[..], [Ask::Answer(answer)] if answer.id == 7));
    let error = (0..MAX_OFFERS).find_map(|_| says(&mut room, offer.clone(), now).err()).unwrap();
    assert!(matches!(error, ConnectError::BadMessage { what: "number of offers", .. }), "{error}");
}

#[test]
fn what_is_said_out_of_turn_or_of_nobody_changes_nothing() {
    let now = Instant::now();
    let mut room = Room::new(Offers::Ours, now);
    says(&mut room, update(&[ada()]), now).unwrap();
    assert_eq!(drain(&mut room), (vec![], vec![]), "before we are in");
    says(&mut room, join(&[]), now).unwrap();
    drain(&mut room);
    let gone = Participant { state: State::Disconnected as i32, ..ada() };
    says(&mut room, update(&[gone]), now).unwrap();
    says(&mut room, Said::Offer(Description::default()), now).unwrap();
    let trickle = |target, candidate: &str| Said::Trickle(message::Trickle { candidate: candidate.into(), target });
    says(&mut room, trickle(Target::Subscriber as i32, r#"{"candidate":"candidate:1"}"#), now).unwrap();
    says(&mut room, trickle(Target::Publisher as i32, "candidate:1"), now).unwrap();
    assert_eq!(drain(&mut room), (vec![], vec![]));
    says(&mut room, trickle(Target::Publisher as i32, r#"{"candidate":"candidate:1","sdpMid":"0"}"#), now).unwrap();
    assert_eq!(drain(&mut room).1, [Action::Candidate("candidate:1".into())]);
    for _ in 0..100 {
        says(&mut room, trickle(Target::Publisher as i32, r#"{"candidate":"candidate:1"}"#), now).unwrap();
    }
    assert_eq!(drain(&mut room).1.len(), MAX_CANDIDATES - 1);
    assert!(says(&mut room, join(&[]), now).is_err() && room.handle_message(&[0xFF; 9], now).is_err());
}
