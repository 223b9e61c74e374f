#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::{
    super::requests::{MAX_PENDING, REQUEST_DEADLINE},
    *,
};
use crate::connect::flood::MAX_OFFERS;

const SESSION: u64 = 1;
const ROSTER: u64 = 2;
const MEDIA: u64 = 3;

/// A room and its clock.
struct Bench {
    room: Room,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let access = Access { pin: Some(Secret("p1n".into())), ..Access::default() };
        Self { room: Room::new(Id::Number(1234), "ears".into(), access, now), now }
    }

    /// With a session and both handles; the last request is to join.
    fn attached(mut self) -> Self {
        self.answer(json!({ "janus": "success", "data": { "id": SESSION } }));
        let attaches = self.sent();
        assert_eq!(attaches.len(), 2, "one does not wait for the other");
        // The join goes out with the answer to the first.
        for (attach, id) in attaches.iter().zip([ROSTER, MEDIA]) {
            let transaction = &attach["transaction"];
            self.hear(json!({ "janus": "success", "transaction": transaction, "data": { "id": id } })).unwrap();
        }
        self
    }

    /// In the room, with `publishers` there already.
    fn entered(publishers: Value) -> Self {
        let mut bench = Self::new().attached();
        let joined = json!({ "videoroom": "joined", "id": 99, "publishers": publishers });
        bench.answer(plugin(ROSTER, joined));
        bench
    }

    fn hear(&mut self, message: Value) -> Result<(), ConnectError> {
        self.room.handle_text(&message.to_string(), self.now)
    }

    /// Answers the request last sent.
    fn answer(&mut self, mut message: Value) {
        let sent = self.sent().pop().unwrap();
        message["transaction"] = sent["transaction"].clone();
        self.hear(message).unwrap();
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.room.poll_action()).collect()
    }

    fn sent(&mut self) -> Vec<Value> {
        let text = |action| match action {
            Action::Send(text) => serde_json::from_str(&text).ok(),
            _ => None,
        };
        self.actions().into_iter().filter_map(text).collect()
    }
}

fn plugin(sender: u64, data: Value) -> Value {
    json!({ "janus": "event", "sender": sender, "plugindata": { "plugin": "p", "data": data } })
}

fn publisher(id: u64, name: &str) -> Value {
    let audio = json!({ "type": "audio", "mid": "0", "codec": "opus" });
    let video = json!({ "type": "video", "mid": "1", "codec": "vp8" });
    json!({ "id": id, "display": name, "streams": [audio, video] })
}

/// An offer of Janus's with one section per feed.
fn offer(kind: &str, feeds: &[u64]) -> Value {
    let stream = |(mid, feed)| json!({ "mid": format!("{mid}"), "feed_id": feed, "feed_mid": "0", "type": "audio" });
    let streams: Vec<_> = feeds.iter().enumerate().map(stream).collect();
    let mut message = plugin(MEDIA, json!({ "videoroom": kind, "streams": streams }));
    message["jsep"] = json!({ "type": "offer", "sdp": "sdp" });
    message
}

/// Subscribed to `feeds`, nothing under way.
fn subscribed(feeds: &[u64]) -> Bench {
    let publishers: Vec<_> = feeds.iter().map(|id| publisher(*id, "x")).collect();
    let mut bench = Bench::entered(json!(publishers));
    bench.answer(offer("attached", feeds));
    bench.room.handle_answer("answer", bench.now);
    bench.answer(plugin(MEDIA, json!({ "videoroom": "event", "started": "ok" })));
    assert_eq!(bench.actions(), []);
    bench
}

#[test]
fn an_empty_room_is_waited_in_without_a_media_connection() {
    let mut bench = Bench::entered(json!([]));
    assert_eq!(bench.actions(), [Action::Entered]);
}

#[test]
fn a_placeholder_of_janus_own_is_nobody() {
    // As Janus 1.1 tells it.
    let audio = json!({ "type": "audio", "mindex": 0, "mid": "0", "codec": "opus" });
    let dummy =
        json!({ "id": 5, "display": "Dummy publisher", "dummy": true, "audio_codec": "opus", "streams": [audio] });
    let mut bench = Bench::entered(json!([dummy, publisher(7, "Ada")]));
    let joined: Vec<_> = bench.actions().into_iter().filter(|a| matches!(a, Action::Joined { .. })).collect();
    assert_eq!(joined, [Action::Joined { feed: Id::Number(7), name: Some("Ada".into()), unheard: None }]);
    let mut bench = Bench::entered(json!([]));
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [dummy] }))).unwrap();
    assert_eq!(bench.actions(), [Action::Entered], "nothing is subscribed to");
}

#[test]
fn a_room_that_asks_for_our_private_id_gets_it() {
    let mut bench = Bench::new().attached();
    let joined = json!({ "videoroom": "joined", "id": 99, "private_id": 5, "publishers": [publisher(7, "Ada")] });
    bench.answer(plugin(ROSTER, joined));
    assert_eq!(bench.sent().pop().unwrap()["body"]["private_id"], 5);
}

#[test]
fn a_janus_of_before_1_0_is_named_not_waited_for() {
    let mut bench = Bench::entered(json!([]));
    let old = json!({ "id": 7, "display": "Ada", "audio_codec": "opus", "video_codec": "vp8" });
    let told = bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [old] }))).unwrap_err();
    assert!(told.to_string().contains("Janus 1.0"), "{told}");
}

#[test]
fn the_first_voice_is_subscribed_to_with_its_audio_only() {
    let mut bench = Bench::entered(json!([]));
    bench.actions();
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [publisher(7, "Ada")] }))).unwrap();
    let actions = bench.actions();
    assert_eq!(actions[0], Action::Joined { feed: Id::Number(7), name: Some("Ada".into()), unheard: None });
    let Action::Send(subscribe) = &actions[1] else { panic!("{actions:?}") };
    let subscribe: Value = serde_json::from_str(subscribe).unwrap();
    let body = &subscribe["body"];
    assert_eq!(body["streams"], json!([{ "feed": 7, "mid": "0" }]));
    assert_eq!((&body["ptype"], &body["use_msid"], &body["pin"]), (&json!("subscriber"), &json!(true), &json!("p1n")));
}

#[test]
fn an_offers_sections_are_mapped_to_feeds_and_our_answer_starts_them() {
    let mut bench = Bench::entered(json!([publisher(7, "Ada"), publisher(8, "Bob")]));
    bench.answer(offer("attached", &[7, 8]));
    let feeds = BTreeMap::from([("0".into(), Id::Number(7)), ("1".into(), Id::Number(8))]);
    assert_eq!(bench.actions(), [Action::Answer { offer: "sdp".into(), feeds }]);
    bench.room.handle_answer("ours", bench.now);
    let start = bench.sent().pop().unwrap();
    assert_eq!((&start["body"]["request"], &start["jsep"]["sdp"]), (&json!("start"), &json!("ours")));
    assert_eq!(start["handle_id"], json!(MEDIA));
}

#[test]
fn changes_during_an_exchange_wait_for_its_end_and_go_as_one() {
    let mut bench = subscribed(&[7]);
    let join = |id| plugin(ROSTER, json!({ "videoroom": "event", "publishers": [publisher(id, "x")] }));
    bench.hear(join(8)).unwrap();
    let update = bench.sent().pop().unwrap();
    assert_eq!(update["body"], json!({ "request": "update", "subscribe": [{ "feed": 8, "mid": "0" }] }));

    bench.hear(join(9)).unwrap();
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "leaving": 7 }))).unwrap();
    assert_eq!(bench.sent(), Vec::<Value>::new(), "an exchange is under way");

    bench.hear(offer("updated", &[7, 8])).unwrap();
    bench.room.handle_answer("ours", bench.now);
    bench.answer(plugin(MEDIA, json!({ "videoroom": "event", "started": "ok" })));
    let body = bench.sent().pop().unwrap()["body"].clone();
    assert_eq!(body["subscribe"], json!([{ "feed": 9, "mid": "0" }]));
    assert_eq!(body["unsubscribe"], json!([{ "feed": 7, "mid": "0" }]));
}

#[test]
fn a_feed_that_vanished_before_we_subscribed_is_retried_after_a_pause_then_given_up() {
    let mut bench = subscribed(&[7]);
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [publisher(8, "x")] }))).unwrap();
    let gone = || plugin(MEDIA, json!({ "videoroom": "event", "error_code": 428, "error": "No such feed" }));
    for _ in 0..MAX_RETRIES {
        bench.answer(gone());
        assert_eq!(bench.sent(), Vec::<Value>::new());
        bench.now += RETRY_PAUSE;
        bench.room.handle_timeout(bench.now).unwrap();
    }
    let mut last = gone();
    last["transaction"] = bench.sent().pop().unwrap()["transaction"].clone();
    let error = bench.hear(last).unwrap_err();
    assert!(matches!(error, ConnectError::Signalling { code: 428, request: "subscribe", .. }) && error.is_transient());
}

#[test]
fn a_silent_media_path_is_restarted_once_and_every_voice_keeps_its_speaker() {
    let mut bench = subscribed(&[7, 8]);
    bench.room.handle_silence(bench.now).unwrap();
    let restart = bench.sent().pop().unwrap();
    assert_eq!(
        (&restart["body"], &restart["handle_id"]),
        (&json!({ "request": "configure", "restart": true }), &json!(MEDIA))
    );
    let mut offered = plugin(MEDIA, json!({ "videoroom": "event", "configured": "ok" }));
    offered["jsep"] = json!({ "type": "offer", "sdp": "anew", "restart": true });
    offered["transaction"] = restart["transaction"].clone();
    bench.hear(offered).unwrap();
    let feeds = BTreeMap::from([("0".into(), Id::Number(7)), ("1".into(), Id::Number(8))]);
    assert_eq!(bench.actions(), [Action::Answer { offer: "anew".into(), feeds }]);
    bench.room.handle_answer("ours", bench.now);
    bench.answer(plugin(MEDIA, json!({ "videoroom": "event", "started": "ok" })));
    assert_eq!(bench.sent(), Vec::<Value>::new(), "once");
}

#[test]
fn a_restart_waits_for_the_exchange_under_way_and_may_be_refused() {
    let mut bench = subscribed(&[7]);
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [publisher(8, "x")] }))).unwrap();
    assert_eq!(bench.sent().pop().unwrap()["body"]["request"], "update");
    bench.room.handle_silence(bench.now).unwrap();
    assert_eq!(bench.sent(), Vec::<Value>::new());
    bench.hear(offer("updated", &[7, 8])).unwrap();
    bench.room.handle_answer("ours", bench.now);
    bench.answer(plugin(MEDIA, json!({ "videoroom": "event", "started": "ok" })));
    let mut refused = plugin(MEDIA, json!({ "videoroom": "event", "error_code": 499, "error": "no" }));
    refused["transaction"] = bench.sent().pop().unwrap()["transaction"].clone();
    bench.hear(refused).unwrap();
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "leaving": 8 }))).unwrap();
    assert_eq!(bench.sent().pop().unwrap()["body"]["unsubscribe"], json!([{ "feed": 8, "mid": "0" }]));
}

#[test]
fn one_who_publishes_no_opus_is_told_of_with_the_codec_and_leaves_the_room_silent() {
    let mut bench = Bench::entered(json!([]));
    bench.actions();
    assert!(bench.room.is_silent(), "nobody is there");
    let pcmu = json!({ "id": 7, "display": "Ada", "streams": [
        { "type": "audio", "mid": "0", "codec": "pcmu" }, { "type": "video", "mid": "1", "codec": "vp8" }] });
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [pcmu] }))).unwrap();
    let joined =
        |name: &str| Action::Joined { feed: Id::Number(7), name: Some(name.into()), unheard: Some("PCMU".into()) };
    assert_eq!(bench.actions(), [joined("Ada")]);
    assert!(bench.room.is_silent(), "there is nothing to wait for");
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "id": 7, "display": "Ada L." }))).unwrap();
    assert_eq!(bench.actions(), [joined("Ada L.")]);
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "publishers": [publisher(7, "Ada")] }))).unwrap();
    assert!(!bench.room.is_silent());
    let actions = bench.actions();
    assert_eq!(actions[0], Action::Joined { feed: Id::Number(7), name: Some("Ada".into()), unheard: None });
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "unpublished": 7 }))).unwrap();
    assert!(bench.room.is_silent());
}

#[test]
fn a_new_name_is_told_of_those_who_publish() {
    let mut bench = subscribed(&[7]);
    let renamed = |id, name| plugin(ROSTER, json!({ "videoroom": "event", "room": 1234, "id": id, "display": name }));
    bench.hear(renamed(7, "Ada L.")).unwrap();
    bench.hear(renamed(70, "Eve")).unwrap();
    assert_eq!(bench.actions(), [Action::Joined { feed: Id::Number(7), name: Some("Ada L.".into()), unheard: None }]);
}

#[test]
fn a_relay_that_negotiates_without_end_is_left() {
    let mut bench = subscribed(&[7]);
    let error = (0..=MAX_OFFERS).find_map(|_| {
        bench.actions();
        bench.hear(offer("updated", &[7])).err()
    });
    let error = error.expect("left");
    assert!(matches!(error, ConnectError::BadMessage { what: "number of offers", .. }) && !error.is_transient());
}

#[test]
fn a_busy_day_of_offers_is_no_flood() {
    let mut bench = subscribed(&[7]);
    for _ in 0..3 * MAX_OFFERS {
        bench.now += Duration::from_secs(1);
        bench.actions();
        bench.hear(offer("updated", &[7])).unwrap();
    }
}

#[test]
fn a_room_of_more_publishers_than_can_be_is_taken_in_part() {
    let many: Vec<_> = (0..2 * MAX_PRESENT as u64).map(|id| publisher(id, "x")).collect();
    let mut bench = Bench::entered(json!(many));
    let joined = bench.actions().iter().filter(|action| matches!(action, Action::Joined { .. })).count();
    assert_eq!((joined, bench.room.wanted.len()), (MAX_PRESENT, MAX_FEEDS));
}

#[test]
fn one_who_leaves_is_told_once() {
    let mut bench = subscribed(&[7]);
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "unpublished": 7 }))).unwrap();
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "leaving": 7 }))).unwrap();
    let left = bench.actions().into_iter().filter(|action| matches!(action, Action::Left { .. })).count();
    assert_eq!(left, 1);
}

#[test]
fn a_refused_join_names_the_code_and_what_was_asked() {
    let mut bench = Bench::new().attached();
    let mut refusal = plugin(ROSTER, json!({ "videoroom": "event", "error_code": 433, "error": "Wrong pin" }));
    refusal["transaction"] = bench.sent().pop().unwrap()["transaction"].clone();
    let error = bench.hear(refusal).unwrap_err();
    assert_eq!(error, refusal::refused("join", 433, "Wrong pin".into()));
    assert!(!error.is_transient());
}

#[test]
fn an_unanswered_request_is_named() {
    let mut bench = Bench::new();
    assert_eq!(bench.room.poll_timeout(), Some(bench.now + REQUEST_DEADLINE));
    let error = bench.room.handle_timeout(bench.now + REQUEST_DEADLINE).unwrap_err();
    assert_eq!(error, ConnectError::Timeout { what: "create", after: REQUEST_DEADLINE });
}

#[test]
fn a_session_is_kept_alive() {
    let mut bench = Bench::entered(json!([]));
    bench.actions();
    bench.now += KEEPALIVE;
    assert_eq!(bench.room.poll_timeout(), Some(bench.now));
    bench.room.handle_timeout(bench.now).unwrap();
    bench.answer(json!({ "janus": "ack" }));
    assert_eq!(bench.room.poll_timeout(), Some(bench.now + KEEPALIVE), "the keepalive itself is answered");
}

#[test]
fn a_destroyed_room_has_ended_and_a_hangup_is_a_loss() {
    let mut bench = subscribed(&[7]);
    bench.hear(plugin(ROSTER, json!({ "videoroom": "destroyed" }))).unwrap();
    assert_eq!(bench.actions(), [Action::Ended]);
    let hangup = json!({ "janus": "hangup", "sender": MEDIA, "reason": "ICE failed" });
    assert!(matches!(bench.hear(hangup), Err(ConnectError::MediaLost(why)) if why.contains("ICE failed")));
}

#[test]
fn being_kicked_ends_the_stay() {
    let mut bench = subscribed(&[7]);
    bench.hear(plugin(ROSTER, json!({ "videoroom": "event", "leaving": "ok", "reason": "kicked" }))).unwrap();
    assert_eq!(bench.actions(), [Action::Ended]);
}

#[test]
fn rooms_and_feeds_may_be_called_by_texts_even_by_ours() {
    let now = Instant::now();
    let room = Room::new(Id::Text("stand-up".into()), "ears".into(), Access::default(), now);
    let mut bench = Bench { room, now }.attached();
    let audio = json!([{ "type": "audio", "mid": "0", "codec": "opus" }]);
    let publishers = json!([{ "id": "ok", "display": "Ada", "streams": audio }]);
    let join = bench.sent().pop().unwrap();
    assert_eq!(join["body"]["room"], "stand-up");
    let mut joined = plugin(ROSTER, json!({ "videoroom": "joined", "id": "us", "publishers": publishers }));
    joined["transaction"] = join["transaction"].clone();
    bench.hear(joined).unwrap();
    assert_eq!(bench.sent().pop().unwrap()["body"]["streams"], json!([{ "feed": "ok", "mid": "0" }]));
    let left = || plugin(ROSTER, json!({ "videoroom": "event", "leaving": "ok" }));
    bench.hear(left()).unwrap();
    assert_eq!(bench.actions(), [Action::Left { feed: Id::Text("ok".into()) }]);
    bench.hear(left()).unwrap();
    assert_eq!(bench.actions(), [Action::Ended], "it is us");
}

#[test]
fn leaving_waits_for_the_word_of_janus_only_if_it_knows_us() {
    let mut stranger = Bench::new();
    assert!(!stranger.room.leave(stranger.now));
    let mut bench = subscribed(&[7]);
    assert!(bench.room.leave(bench.now) && !bench.room.has_left());
    bench.answer(json!({ "janus": "success" }));
    assert!(bench.room.has_left());
}

/// What a Janus gone mad might say.
fn message() -> impl Strategy<Value = Value> {
    let feed = 0u64..4;
    let kind = prop_oneof![Just("joined"), Just("attached"), Just("updated"), Just("updating"), Just("event")];
    prop_oneof![
        feed.clone().prop_map(|id| plugin(ROSTER, json!({ "publishers": [publisher(id, "x")] }))),
        feed.clone().prop_map(|id| plugin(ROSTER, json!({ "leaving": id }))),
        (kind.clone(), proptest::collection::vec(feed, 0..4)).prop_map(|(kind, feeds)| offer(kind, &feeds)),
        (kind, 1u64..4).prop_map(|(kind, sender)| plugin(sender, json!({ "videoroom": kind, "started": "ok" }))),
        (0u64..12, 1u64..9)
            .prop_map(|(t, id)| { json!({ "janus": "success", "transaction": t.to_string(), "data": { "id": id } }) }),
        (0u64..12).prop_map(|t| json!({ "janus": "ack", "transaction": t.to_string() })),
    ]
}

proptest! {
    #[test]
    fn no_order_of_messages_breaks_the_room(messages in proptest::collection::vec(message(), 0..60)) {
        let mut bench = Bench::new();
        let mut here = BTreeSet::new();
        for message in messages {
            bench.now += Duration::from_millis(200);
            if bench.hear(message).is_err() || bench.room.handle_timeout(bench.now).is_err() {
                return Ok(());
            }
            prop_assert!(bench.room.requests.len() <= MAX_PENDING);
            for action in bench.actions() {
                match action {
                    Action::Joined { feed, .. } => drop(here.insert(feed)),
                    Action::Left { feed } => prop_assert!(here.remove(&feed), "{feed} left without having joined"),
                    Action::Answer { .. } => bench.room.handle_answer("sdp", bench.now),
                    _ => {}
                }
            }
        }
        prop_assert!(here.iter().eq(bench.room.present.keys()));
    }
}
