//! A room of LiveKit's own server, whose people speak with its own client.

mod room;

use jiff::Timestamp;

use self::room::{KEY, LiveKit, SECRET, Speaker, Way};
use super::*;

/// Where people speak,
const ROOM: &str = "standup";
/// and where nobody does.
const QUIET: &str = "corridor";

fn key(way: &Way, room: &str, secret: &str) -> Value {
    let source = json!({"kind": "livekit", "url": way.url(), "key": KEY, "secret": secret, "room": room});
    json!({"source": source, "transcription": {"language": "en"}})
}

async fn hears_each(user: &User, id: &str, speakers: &[&Speaker]) {
    let speakers: Vec<_> = speakers.iter().map(|speaker| (speaker.name, &speaker.says)).collect();
    let transcript = hears(user, id, &speakers).await;
    assert_eq!(transcript["gaps"], json!([]), "{transcript}");
}

/// Waits until each of `speakers` has said their sentence once more and is heard whole, under their own name; nobody else speaks.
/// The transcript.
pub(super) async fn hears(user: &User, id: &str, speakers: &[(&str, &Prompt)]) -> Value {
    let (since, begun) = (Timestamp::now(), Instant::now());
    loop {
        let transcript = user.get(format!("/v1/meetings/{id}/transcript?format=json")).await;
        let new: Vec<&Value> = segments(&transcript).filter(|segment| began(segment) > since).collect();
        for segment in &new {
            let who = speakers.iter().find(|(name, _)| segment["participant"]["name"] == *name);
            let (name, _) = who.unwrap_or_else(|| panic!("nobody's who is to speak: {segment}"));
            let mut others = speakers.iter().filter(|(other, _)| other != name);
            assert!(others.all(|(_, other)| !is(segment, other)), "another said it: {segment}");
            check(std::slice::from_ref(segment), name);
        }
        let unheard: Vec<&str> = speakers
            .iter()
            .filter(|(_, says)| !new.iter().any(|segment| is(segment, says)))
            .map(|(name, _)| *name)
            .collect();
        if unheard.is_empty() {
            return transcript;
        }
        assert!(begun.elapsed() < WORDS, "not heard: {unheard:?}; {transcript}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

pub(super) fn segments(transcript: &Value) -> impl Iterator<Item = &Value> {
    transcript["segments"].as_array().unwrap().iter()
}

pub(super) fn began(segment: &Value) -> Timestamp {
    segment["start_at"].as_str().unwrap().parse().unwrap()
}

/// Those who are there by id and name, and whether they have left.
async fn people(user: &User, id: &str) -> Vec<(String, String, bool)> {
    let all = user.get(format!("/v1/meetings/{id}/participants")).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |person: &Value| (text(&person["id"]), text(&person["name"]), !person["left_at"].is_null());
    let mut people: Vec<_> = all["participants"].as_array().unwrap().iter().map(one).collect();
    people.sort();
    people
}

/// Waits until these are told.
pub(super) async fn comes_to(user: &User, id: &str, wanted: &[(&str, &str, bool)]) {
    let wanted: Vec<_> = wanted.iter().map(|(id, name, left)| ((*id).to_owned(), (*name).to_owned(), *left)).collect();
    let begun = Instant::now();
    loop {
        let found = people(user, id).await;
        if found == wanted {
            return;
        }
        assert!(begun.elapsed() < WORDS, "{found:?} and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether signalling was lost, and whether a stay was begun anew, by an edge's metrics.
async fn losses(user: &User, edge: SocketAddr) -> (bool, bool) {
    let text = user.host.run(move || async move { Client::new(edge)?.text("/metrics").await }).await.unwrap().unwrap();
    let counts = |name: &str| text.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0"));
    (counts("nearfield_edge_connect_resumes_total"), counts("nearfield_edge_connect_reconnects_total"))
}

/// A key that is not the server's, and a room that it does not have.
async fn closed_doors_say_why(user: &User, way: &Way) {
    let guessed = user.post(key(way, ROOM, "another secret of thirty-two characters")).await;
    let nowhere = user.post(key(way, "nowhere", SECRET)).await;
    for (id, sub_code) in [(guessed, "access_denied"), (nowhere, "no_such_room")] {
        assert_eq!(user.ends(&id, "failed").await["sub_code"], sub_code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_in_a_livekit_room_are_heard_by_name_whoever_comes_mutes_or_leaves_and_where_signalling_is_cut() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(program) = LiveKit::program() else { return };
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let (core, edge) = (bed.node(Role::Core, "eu-central").api, bed.node(Role::Edge, "eu-central").api);
    let user = User { host: peers::host(&world, "user", 9), api: core };
    let livekit = LiveKit::start(&world, dir.path(), &program).await;
    let way = Way::new(peers::host(&world, "way", 2), livekit.at());
    for room in [ROOM, QUIET] {
        livekit.ask(&["create", room]).await;
    }
    let [password, leader, alone] = prompts(["agent-pass", "conf-waitforleader", "conf-onlyperson"]);
    let speaks =
        |number, name, says| Speaker::join(&livekit, ROOM, &peers::host(&world, name, number), dir.path(), name, says);

    let ada = speaks(3, "Ada", password);
    let id = user.post(key(&way, ROOM, SECRET)).await;
    closed_doors_say_why(&user, &way).await;
    // A token, and nobody to hear.
    let token = livekit.ask(&["token", QUIET, "Ears"]).await;
    let quiet = user.post(json!({"source": {"kind": "livekit", "url": way.url(), "token": token}})).await;
    hears_each(&user, &id, &[&ada]).await;
    user.ends(&quiet, "active").await;

    let bob = speaks(4, "Bob", leader);
    hears_each(&user, &id, &[&ada, &bob]).await;

    livekit.ask(&["mute", ROOM, "Ada"]).await;
    let muted = Timestamp::now();
    // Long enough for her to have begun her sentence.
    hears_each(&user, &id, &[&bob]).await;
    hears_each(&user, &id, &[&bob]).await;
    let until = Timestamp::now();
    livekit.ask(&["unmute", ROOM, "Ada"]).await;
    hears_each(&user, &id, &[&ada, &bob]).await;

    // Eve comes meanwhile.
    assert_eq!(losses(&user, edge).await, (false, false));
    way.cut();
    let eve = speaks(5, "Eve", alone);
    hears_each(&user, &id, &[&ada, &bob]).await;
    way.mend();
    hears_each(&user, &id, &[&ada, &bob, &eve]).await;
    assert_eq!(losses(&user, edge).await, (true, false), "signalling was lost, and no stay begun anew");
    let here = [("ada", "Ada", false), ("bob", "Bob", false), ("eve", "Eve", false)];
    comes_to(&user, &id, &here).await;

    bob.leave().await;
    comes_to(&user, &id, &[here[0], ("bob", "Bob", true), here[2]]).await;
    hears_each(&user, &id, &[&ada, &eve]).await;

    for (room, id) in [(ROOM, &id), (QUIET, &quiet)] {
        livekit.ask(&["delete", room]).await;
        let meeting = user.ends(id, "done").await;
        assert_eq!(meeting["sub_code"], "relay_ended", "{meeting}");
    }
    let transcript = user.get(format!("/v1/meetings/{id}/transcript?format=json")).await;
    let mut meanwhile = segments(&transcript).filter(|segment| (muted..until).contains(&began(segment)));
    assert!(meanwhile.all(|segment| segment["participant"]["name"] == "Bob"), "Ada was muted: {transcript}");
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}
