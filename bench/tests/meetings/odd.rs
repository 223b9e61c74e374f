//! Publishers that do things their own way, clocks that step and firewalls, with the real Janus.

use bench::{
    janus::{Room, Rtp, ssrc},
    world::{Place, path::Quality},
};
use tokio::net::UdpSocket;

use super::{peers::monologue, *};

/// How a publisher differs from a browser.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odd {
    /// So many streams; the last of them has the voice, and the others are silent.
    streams: u32,
    /// By so much its clock goes on for 20 ms.
    step: u32,
    /// How loud it always says that it is, in -dBov.
    level: Option<u8>,
    /// The right ear hears the opposite of the left.
    opposed: bool,
    /// Its room has a placeholder of Janus' own that is no participant.
    dummy: bool,
}

pub(super) const USUAL: Odd = Odd { streams: 1, step: 960, level: None, opposed: false, dummy: false };

impl Odd {
    /// Lets Ada into a room of her own; the ports to send her packets to.
    pub(super) async fn enter(self, host: &Host, janus: &peers::Janus, room: u64, name: &'static str) -> SocketAddr {
        let (url, ip) = (janus.url(), janus.host().ip());
        let enter = move || async move {
            let mut at = Room::open(&url).await?;
            // Who is not the first finds it there.
            let made = at.create(room, json!({"dummy_publisher": self.dummy})).await;
            println!("room {room}: {made:?}");
            at.publish(&json!(room), &json!(u64::from(name.as_bytes()[0])), name, self.streams).await
        };
        SocketAddr::new(ip, host.run(enter).await.unwrap().unwrap())
    }

    /// Says `said` over and over.
    pub(super) async fn speak(self, host: Host, to: SocketAddr, said: Arc<Vec<Prompt>>) {
        let speak = move || async move {
            let (voice, silence) = (self.encode(&monologue(&said)), self.encode(&[0; 16_000]));
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            for n in 0.. {
                ticks.tick().await;
                for stream in 0..self.streams {
                    let packets = if stream + 1 == self.streams { &voice } else { &silence };
                    let rtp = Rtp {
                        ssrc: ssrc(stream),
                        sequence: n as u16,
                        timestamp: (n as u32).wrapping_mul(self.step),
                        marker: false,
                        level: self.level,
                        payload: &packets[n % packets.len()],
                    };
                    let _ = socket.send_to(&rtp.bytes(), to).await;
                }
            }
        };
        let _ended_by_abort = host.run(speak).await;
    }

    /// At 48 kHz, as browsers do.
    fn encode(self, samples: &[i16]) -> Vec<Vec<u8>> {
        let channels = if self.opposed { opus::Channels::Stereo } else { opus::Channels::Mono };
        let mut encoder = opus::Encoder::new(48_000, channels, opus::Application::Audio).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(64_000)).unwrap();
        let ears = |sample: i16| if self.opposed { vec![sample, sample.saturating_neg()] } else { vec![sample] };
        let pcm: Vec<i16> =
            samples.iter().flat_map(|sample| [ears(*sample), ears(*sample), ears(*sample)].concat()).collect();
        pcm.chunks_exact(960 * ears(0).len()).map(|frame| encoder.encode_vec(frame, 1275).unwrap()).collect()
    }
}

async fn join(user: &User, janus: &peers::Janus, room: u64) -> String {
    let source = json!({"kind": "janus", "url": janus.url(), "room": room});
    user.post(json!({"source": source, "transcription": {"language": "en"}})).await
}

/// Two streams of one publisher, clocks of another rate, a level that always says silence, opposite phase, a placeholder:
/// all are heard. And where no UDP passes, the meeting ends and says so.
#[tokio::test(flavor = "multi_thread")]
async fn odd_publishers_are_heard_and_a_janus_that_no_udp_reaches_is_told() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let user = User { host: peers::host(&world, "user", 9), api: bed.node(Role::Core, "eu-central").api };
    let (speaker, said) = (peers::host(&world, "speaker", 8), Arc::new(sentences()));
    let janus = peers::janus(&world, dir.path()).await;

    let walled = dir.path().join("walled");
    std::fs::create_dir_all(&walled).unwrap();
    let walled =
        peers::Janus::start(peers::host(&world, "walled", 4), &walled, peers::Manner::default()).await.unwrap();
    let edge = Place::host(bed.node(Role::Edge, "eu-central").identity.node.as_str());
    world.set_paths(
        Place::host("walled"),
        edge,
        Quality { no_udp: true, ..Quality::delayed(Duration::from_millis(1)) },
    );
    USUAL.enter(&speaker, &walled, 4000, "Ada").await;
    let unheard = join(&user, &walled, 4000).await;

    let odd = [
        Odd { streams: 2, ..USUAL },
        Odd { step: 1920, ..USUAL },
        Odd { step: 160, ..USUAL },
        Odd { level: Some(127), ..USUAL },
        Odd { opposed: true, ..USUAL },
        Odd { dummy: true, ..USUAL },
    ];
    let (mut meetings, mut speakers) = (vec![], vec![]);
    for (n, odd) in odd.into_iter().enumerate() {
        let room = 3000 + n as u64;
        let to = odd.enter(&speaker, &janus, room, "Ada").await;
        meetings.push((odd, join(&user, &janus, room).await));
        speakers.push(tokio::spawn(odd.speak(speaker.clone(), to, said.clone())));
    }
    for (odd, id) in &meetings {
        check(&user.hears(id, &said).await, "Ada");
        let all = user.get(format!("/v1/meetings/{id}/participants")).await;
        assert_eq!(all["participants"].as_array().unwrap().len(), 1, "{odd:?}: {all}");
        println!("heard: {odd:?}");
    }
    speakers.iter().for_each(|speaker| speaker.abort());
    for (_, id) in &meetings {
        user.delete(id).await;
        user.ends(id, "done").await;
    }
    let meeting = user.ends(&unheard, "failed").await;
    assert_eq!(meeting["sub_code"], "media_unreachable", "{meeting}");
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}

/// What lets a process believe in another time.
fn faketime() -> std::path::PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let found = libraries.map(|path| path.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("libfaketime is not installed: ./dev test installs it")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_s_clock_that_is_put_forward_by_an_hour_moves_no_word() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let clock = dir.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let set = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
    let mut env = vec![set("LD_PRELOAD", &faketime()), set("FAKETIME_TIMESTAMP_FILE", &clock)];
    env.extend([set("FAKETIME_NO_CACHE", Path::new("1")), set("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1"))]);
    let manner = bed::Manner { env, ..bed::Manner::default() };
    let mut bed = mesh_of(&world, dir.path(), BTreeMap::from([("edge-eu-central-1".to_owned(), manner)])).await;
    let user = User { host: peers::host(&world, "user", 9), api: bed.node(Role::Core, "eu-central").api };
    let (speaker, said) = (peers::host(&world, "speaker", 8), Arc::new(sentences()));
    let janus = peers::janus(&world, dir.path()).await;

    let ada = USUAL.enter(&speaker, &janus, 3000, "Ada").await;
    let bob = USUAL.enter(&speaker, &janus, 3000, "Bob").await;
    let id = join(&user, &janus, 3000).await;
    let ada = tokio::spawn(USUAL.speak(speaker.clone(), ada, said.clone()));
    user.hears(&id, &said).await;
    std::fs::write(&clock, "+3600").unwrap();
    user.hears_after(&id, &said, user.newest(&id).await).await;
    ada.abort();
    // One who first speaks after that is placed by the same clock.
    let bob = tokio::spawn(USUAL.speak(speaker.clone(), bob, said.clone()));
    let transcript = user.hears_after(&id, &said, user.newest(&id).await).await;
    bob.abort();
    let segments = transcript["segments"].as_array().unwrap();
    let starts = |name: &str| -> Vec<u64> {
        let of = segments.iter().filter(|segment| segment["participant"]["name"] == name);
        of.map(|segment| segment["start_ms"].as_u64().unwrap()).collect()
    };
    let (ada, bob) = (starts("Ada"), starts("Bob"));
    println!("{ada:?} {bob:?}");
    assert!(ada.is_sorted() && bob.is_sorted() && ada.iter().chain(&bob).all(|start| *start < 1_800_000));
    assert!(ada.len() >= 4 && bob.last() > ada.last(), "Ada spoke before and after, and Bob then");
    user.delete(&id).await;
    user.ends(&id, "done").await;
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}
