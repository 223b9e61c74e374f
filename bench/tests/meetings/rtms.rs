//! A Zoom meeting by Realtime Media Streams, of a simulator that Zoom's own client has been served by.

mod zoom;

use std::{path::PathBuf, process::Stdio};

use jiff::Timestamp;

use self::zoom::{CLIENT, MEETING, SECRET, STREAM, Says, Which, Zoom};
use super::{
    livekit::{began, comes_to, hears, segments},
    *,
};

/// For a simulator's connections to be there again: the delays that Zoom recommends, and some.
const BACK: Duration = Duration::from_secs(30);

fn source(zoom: &Zoom) -> Value {
    json!({
        "kind": "zoom_rtms", "server_urls": zoom.url(), "meeting_uuid": MEETING, "rtms_stream_id": STREAM,
        "client_id": CLIENT, "client_secret": SECRET,
    })
}

fn meeting(source: Value) -> Value {
    json!({"source": source, "transcription": {"language": "en"}})
}

/// How often the relay was lost, each time for as long as Zoom would have us wait.
fn gaps(transcript: &Value) -> usize {
    let gaps = transcript["gaps"].as_array().unwrap();
    for gap in gaps {
        let length = gap["length_ms"].as_u64().unwrap();
        assert!(gap["reason"] == "relay_lost" && (3000..8000).contains(&length), "{gap}");
    }
    gaps.len()
}

async fn comes_back(zoom: &Zoom) {
    let begun = Instant::now();
    while !zoom.is_ready() {
        assert!(begun.elapsed() < BACK, "not there: {:?}; {:?}", zoom.handshakes(), zoom.wrongs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What another secret and another stream come to, while the right one is served.
async fn closed_doors_say_why(user: &User, zoom: &Zoom) {
    for (field, other, sub_code) in
        [("client_secret", "another", "access_denied"), ("rtms_stream_id", "another", "no_such_room")]
    {
        let mut source = source(zoom);
        source[field] = other.into();
        let id = user.post(meeting(source)).await;
        assert_eq!(user.ends(&id, "failed").await["sub_code"], sub_code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_in_a_zoom_meeting_are_heard_by_name_from_before_we_came_and_whatever_connection_is_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let user = User { host: peers::host(&world, "user", 9), api: bed.node(Role::Core, "eu-central").api };
    let zoom = Zoom::start(&peers::host(&world, "zoom", 1)).await;
    let [password, leader, alone] = prompts(["agent-pass", "conf-waitforleader", "conf-onlyperson"]);
    let says = |user, name, prompt: &Prompt| Says { user, name, prompt: prompt.clone() };
    zoom.joins(says(16_778_240, "Ada", &password));
    zoom.joins(says(16_778_241, "Bob", &leader));
    // Nobody is there to hear them, and Zoom keeps it.
    tokio::time::sleep(Duration::from_secs(20)).await;

    let came = Timestamp::now();
    let id = user.post(meeting(source(&zoom))).await;
    user.hears(&id, &[password.clone(), leader.clone()]).await;
    let transcript = hears(&user, &id, &[("Ada", &password), ("Bob", &leader)]).await;
    for (name, prompt) in [("Ada", &password), ("Bob", &leader)] {
        let before = |segment: &&Value| began(segment) < came && segment["participant"]["name"] == name;
        let early: Vec<&Value> = segments(&transcript).filter(before).collect();
        assert!(early.iter().any(|segment| is(segment, prompt)), "{name} was not heard from before: {transcript}");
    }
    closed_doors_say_why(&user, &zoom).await;

    zoom.joins(says(16_778_242, "Eve", &alone));
    let all = [("Ada", &password), ("Bob", &leader), ("Eve", &alone)];
    assert_eq!(gaps(&hears(&user, &id, &all).await), 0);
    assert_eq!(zoom.handshakes(), [1, 1]);

    // Mid-word: somebody speaks at any time.
    zoom.drops(Which::Media);
    comes_back(&zoom).await;
    assert_eq!(gaps(&hears(&user, &id, &all).await), 1);
    assert_eq!(zoom.handshakes(), [1, 2], "the signalling stays");
    zoom.drops(Which::Signalling);
    comes_back(&zoom).await;
    assert_eq!(gaps(&hears(&user, &id, &all).await), 2);
    assert_eq!(zoom.handshakes(), [2, 3], "both are opened anew");

    let here = [("16778240", "Ada", false), ("16778241", "Bob", false), ("16778242", "Eve", false)];
    comes_to(&user, &id, &here).await;
    zoom.leaves(16_778_241);
    comes_to(&user, &id, &[here[0], ("16778241", "Bob", true), here[2]]).await;

    zoom.stops(6);
    let meeting = user.ends(&id, "done").await;
    assert_eq!(meeting["sub_code"], "relay_ended", "{meeting}");
    assert!(zoom.answered().iter().all(|count| *count > 2), "{:?}", zoom.answered());
    assert_eq!(zoom.wrongs(), Vec::<String>::new());
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_opus_is_not_granted_linear_samples_are_heard() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let user = User { host: peers::host(&world, "user", 9), api: bed.node(Role::Core, "eu-central").api };
    let zoom = Zoom::start(&peers::host(&world, "zoom", 1)).await;
    zoom.refuse_opus();
    let [password] = prompts(["agent-pass"]);
    zoom.joins(Says { user: 7, name: "Ada", prompt: password.clone() });
    let id = user.post(meeting(source(&zoom))).await;
    hears(&user, &id, &[("Ada", &password)]).await;
    assert_eq!((zoom.handshakes(), zoom.wrongs()), ([1, 1], vec![]));
    user.delete(&id).await;
    user.ends(&id, "done").await;
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}

/// Where `./dev test` leaves Zoom's client; none, with the reason, where it could not be had.
fn zooms_client() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cache = std::env::var_os("NEARFIELD_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
    let python = cache.join("venv-rtms/bin/python");
    let is_there = python.exists();
    if !is_there {
        eprintln!("NOT TESTED: no {}: ./dev test fetches Zoom's client", python.display());
    }
    is_there.then_some(python)
}

/// What the simulator sends is what Zoom's own client understands, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn zooms_own_client_is_served_by_the_simulator() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(python) = zooms_client() else { return };
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let host = peers::host(&world, "zoom", 1);
    let zoom = Zoom::start(&host).await;
    let [password, leader] = prompts(["agent-pass", "conf-waitforleader"]);
    zoom.joins(Says { user: 16_778_240, name: "Ada", prompt: password });
    let log = dir.path().join("rtms.log");
    let mut command = peers::host(&world, "client", 2).command(&python);
    let url = zoom.url();
    command.arg(peers::peers().join("zoom.py")).args([&url, MEETING, STREAM, CLIENT, SECRET]);
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    command.current_dir(dir.path());
    let mut client = peers::spawn_with(command, &log, Stdio::piped());
    let heard = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let waits = async |what: &str, found: &dyn Fn(&[Value]) -> bool| {
        let begun = Instant::now();
        while !found(&heard()) {
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(begun.elapsed() < BACK, "{what}: {said}; {:?}; {:?}", zoom.wrongs(), zoom.handshakes());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    waits("joins", &|all| all.iter().any(|said| said["joined"] == 0)).await;
    let speaks = |all: &[Value], name: &str, user: u32| {
        all.iter()
            .filter(|said| said["name"] == name && said["user"] == user && said["audio"].as_u64() > Some(0))
            .count()
    };
    waits("hears Ada", &|all| speaks(all, "Ada", 16_778_240) > 100).await;
    zoom.joins(Says { user: 16_778_241, name: "Bob", prompt: leader });
    waits("hears Bob", &|all| speaks(all, "Bob", 16_778_241) > 100).await;
    let there = |all: &[Value]| all.iter().any(|said| said["people"].to_string().contains("Bob"));
    waits("is told of Bob", &there).await;
    waits("answers keep-alives", &|_| zoom.answered().iter().all(|count| *count > 0)).await;
    zoom.stops(6);
    waits("leaves", &|all| all.iter().any(|said| !said["left"].is_null())).await;
    assert_eq!((zoom.wrongs(), zoom.handshakes()), (vec![], [1, 1]));
    // It is known to abort at its exit.
    drop(client.stdin.take());
    let _ = tokio::time::timeout(BACK, client.wait()).await;
}
