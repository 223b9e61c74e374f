//! Meetings in processes of their own: the edge's program as a child, joined to the stand-in relay, on the loopback device.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "../../edge-node/tests/signals/mod.rs"]
mod signals;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bench::relay::{Relay, Reply, Settings, Start, Timeline, serve, voice::Encoding};
use edge_node::{
    connect::{ConnectError, Connector, Event},
    isolate::{self, parent::Isolated},
    pipeline::Output,
};
use mesh::wire::{
    control::EdgeState,
    request::{Source, VadSettings},
    spurt::Item,
};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(40);

fn children() -> isolate::Settings {
    let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let program = folder.join("edge-node");
    assert!(program.exists(), "{} is missing: cargo build -p edge-node", program.display());
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edge-node/edge.example.toml");
    let args = vec![
        "--config".into(),
        config.into_os_string(),
        "--set".into(),
        r#"egress.allow=["127.0.0.0/8"]"#.into(),
        isolate::FLAG.into(),
    ];
    isolate::Settings { program, args, memory: 512 << 20 }
}

/// A relay where somebody talks for `seconds`.
async fn talk(seconds: usize) -> (Relay, SocketAddr) {
    let settings = Settings {
        meeting: "standup".into(),
        reply: Reply::Offer,
        start: Start::FirstSubscriber,
        settle: Duration::from_millis(300),
        encoding: Encoding::wideband(24_000, false),
        janus: None,
    };
    // A voice that never draws breath is none for long.
    let sentence = [signals::talk(2000, 12_000.0), signals::silence(300)].concat();
    let samples = sentence.into_iter().cycle().take(seconds * 16_000).collect();
    let timeline = Timeline { id: "ada".into(), name: "Ada".into(), samples };
    let relay = serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), settings, vec![timeline]).await.unwrap();
    let at = relay.address();
    (relay, at)
}

/// One meeting as its driver would hear it.
struct Listening {
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ConnectError>>,
    heard: Heard,
}

fn is_lost(state: EdgeState) -> bool {
    matches!(state, EdgeState::Reconnecting { .. })
}

#[derive(Default)]
struct Heard {
    /// By participant: the spurt under way, and its items.
    open: BTreeMap<String, Option<(u32, u32)>>,
    next: BTreeMap<String, u32>,
    frames: u64,
    ends: usize,
    there: Vec<(String, bool)>,
    states: Vec<(EdgeState, Option<String>)>,
    tallied: u64,
}

impl Heard {
    /// Every spurt begins, goes on without a hole and ends, and numbers rise by one: the ring takes nothing else.
    fn take(&mut self, event: Event) {
        match event {
            Event::Speech { id, output } => self.speech(id.to_string(), output),
            Event::Joined { id, .. } => self.there.push((id.to_string(), true)),
            Event::Left { id } => self.there.push((id.to_string(), false)),
            Event::State { state, detail } => self.states.push((state, detail)),
            Event::Tally { totals, .. } => self.tallied = totals.packets_in,
            Event::Apart => {}
            Event::Packet(_) => panic!("a packet crossed the border"),
        }
    }

    fn speech(&mut self, id: String, output: Output) {
        let (open, next) = (self.open.entry(id.clone()).or_default(), self.next.entry(id).or_default());
        match output {
            Output::Start { spurt, .. } => {
                assert_eq!((spurt.0, open.is_none()), (*next, true));
                (*open, *next) = (Some((spurt.0, 0)), *next + 1);
            }
            Output::Item { spurt, offset, item, .. } => {
                assert_eq!(*open, Some((spurt.0, offset)));
                *open = Some((spurt.0, offset + 1));
                self.frames += u64::from(matches!(item, Item::Frame(_)));
            }
            Output::End { spurt, end } => {
                assert_eq!(*open, Some((spurt.0, end.items)));
                (*open, self.ends) = (None, self.ends + 1);
            }
        }
    }
}

impl Listening {
    fn to(url: String) -> Self {
        let source = Source::Whep { url, token: None, participants: vec![] };
        let connector = Box::new(Isolated::new(children(), source, VadSettings::default()));
        let (events_in, events) = mpsc::channel(256);
        let stop = CancellationToken::new();
        let ended = tokio::spawn(connector.run(events_in, stop.clone()));
        Self { events, stop, ended, heard: Heard::default() }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Heard) -> bool) {
        let wait = async {
            while !holds(&self.heard) {
                let event = self.events.recv().await.unwrap_or_else(|| panic!("ended before: {what}"));
                self.heard.take(event);
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
    }

    /// Leaves, and hears the rest.
    async fn leave(mut self) -> (Heard, Result<(), ConnectError>) {
        self.stop.cancel();
        let rest = async {
            while let Some(event) = self.events.recv().await {
                self.heard.take(event);
            }
        };
        timeout(PATIENCE, rest).await.expect("it leaves");
        (self.heard, self.ended.await.unwrap())
    }
}

/// The processes this one has started and not yet buried.
fn my_children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().path().join("children"));
    let lists = tasks.filter_map(|path: PathBuf| fs::read_to_string(path).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_s_process_that_is_killed_is_replaced_and_the_meeting_beside_it_goes_on() {
    let ((_one, at_one), (_two, at_two)) = (talk(14).await, talk(14).await);
    let before = my_children();
    let mut killed = Listening::to(format!("http://{at_one}/whep/standup"));
    killed.until("speech, counted", |h| h.frames >= 50 && h.tallied > 0).await;
    let victim = my_children().into_iter().find(|pid| !before.contains(pid)).expect("it has a process of its own");
    let mut sound = Listening::to(format!("http://{at_two}/whep/standup"));
    sound.until("speech beside it", |h| h.frames >= 20).await;

    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
    let ends = killed.heard.ends;
    killed.until("what was open ends", |h| h.ends > ends && h.open.values().all(Option::is_none)).await;
    killed.until("its end is told", |h| h.states.iter().any(|s| is_lost(s.0))).await;
    let why = killed.heard.states.iter().find_map(|(state, d)| d.clone().filter(|_| is_lost(*state)));
    assert!(why.as_ref().is_some_and(|w| w.contains("signal: 9")), "{why:?}");
    let (frames, counted) = (killed.heard.frames, killed.heard.tallied);
    killed.until("speech again", |h| h.frames >= frames + 50).await;
    assert_eq!(killed.heard.there, [("ada".into(), true), ("ada".into(), false), ("ada".into(), true)]);

    let mark = sound.heard.frames;
    sound.until("speech beside it, still", |h| h.frames >= mark + 50).await;
    let (heard, ended) = sound.leave().await;
    assert!(ended.is_ok() && heard.open.values().all(Option::is_none), "its last spurt ended: {:?}", heard.open);
    assert!(heard.states.iter().all(|(state, _)| !is_lost(*state)), "{:?}", heard.states);
    let (heard, ended) = killed.leave().await;
    assert!(ended.is_ok() && heard.open.values().all(Option::is_none));
    let of_both = counted + heard.frames - frames;
    assert!(heard.tallied >= of_both, "both children's packets are counted: {} of {of_both}", heard.tallied);
    sleep(Duration::from_millis(200)).await;
    let left: Vec<u32> = my_children().into_iter().filter(|pid| !before.contains(pid)).collect();
    assert!(left.is_empty(), "processes left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_relay_says_no_with_comes_out_of_the_process_as_the_meeting_s_reason() {
    let (_relay, at) = talk(1).await;
    let mut refused = Listening::to(format!("http://{at}/whep/another"));
    refused.until("failed", |h| h.states.iter().any(|s| matches!(s.0, EdgeState::Failed(_)))).await;
    let ended = timeout(PATIENCE, refused.ended).await.unwrap().unwrap();
    assert!(matches!(&ended, Err(ConnectError::Apart(failure)) if failure.why.contains("404")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_child_ends_the_meeting_after_a_few_tries() {
    let settings = isolate::Settings { program: "/bin/false".into(), args: vec![], memory: 512 << 20 };
    let source = Source::Whep { url: "http://127.0.0.1:9/whep".into(), token: None, participants: vec![] };
    let (events, mut heard) = mpsc::channel(256);
    let run = Box::new(Isolated::new(settings, source, VadSettings::default())).run(events, CancellationToken::new());
    let ended = timeout(PATIENCE, run).await.expect("it gives up");
    assert!(matches!(ended, Err(ConnectError::ProcessGone { deaths: 4, .. })), "{ended:?}");
    let mut failed = false;
    while let Ok(event) = heard.try_recv() {
        failed |= matches!(event, Event::State { state: EdgeState::Failed(_), .. });
    }
    assert!(failed);
}
