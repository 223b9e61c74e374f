//! The parts nobody here wrote: Janus, Chromium, the WHEP server; and plain RTP.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, response::Html, routing::get};
pub(crate) use bench::janus::{Janus, Manner};
use bench::{
    janus::Rtp,
    speech::Prompt,
    world::{Host, World},
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command},
    task::JoinHandle,
};

/// Deadline for a peer to open its port.
const UP: Duration = Duration::from_secs(30);
/// Silence around the sentences, so that nothing is said before everybody is there.
const QUIET: usize = 3 * 16_000;

pub(crate) fn host(world: &World, name: &str, number: u8) -> Host {
    world.host(name, &"eu-central".parse().unwrap(), Ipv4Addr::new(10, 77, 4, number)).unwrap()
}

/// Gives `host` another address, of IPv6.
pub(crate) fn add_address(host: &Host, ip: Ipv6Addr) {
    let shell = "device=$(ip -o link show type tun | cut -d: -f2) && ip -6 address add $0/128 dev $device nodad";
    let added = host.command("sh").args(["-c", shell]).arg(ip.to_string()).output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
}

/// A Janus as usual.
pub(crate) async fn janus(world: &World, dir: &Path) -> Janus {
    Janus::start(host(world, "janus", 1), dir, Manner::default()).await.unwrap()
}

pub(crate) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

pub(crate) fn spawn(command: std::process::Command, log: &Path) -> Child {
    spawn_with(command, log, Stdio::null())
}

pub(crate) fn spawn_with(command: std::process::Command, log: &Path, stdin: Stdio) -> Child {
    let mut command = Command::from(command);
    let file = fs::File::create(log).unwrap();
    command.kill_on_drop(true).stdin(stdin).stdout(file.try_clone().unwrap()).stderr(file);
    let program = command.as_std().get_program().to_owned();
    command.spawn().unwrap_or_else(|error| panic!("{program:?} cannot be started ({error}): ./dev test installs it"))
}

pub(crate) async fn wait_for(host: &Host, address: SocketAddr, log: &Path) {
    let begun = Instant::now();
    while host.run(move || TcpStream::connect(address)).await.unwrap().is_err() {
        assert!(begun.elapsed() < UP, "{address} did not open: {}", fs::read_to_string(log).unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// npm's janus-whep-server beside Janus.
pub(crate) struct WhepServer {
    at: SocketAddr,
    _process: Child,
}

impl WhepServer {
    pub(crate) async fn start(janus: &Janus, dir: &Path, feed: Option<&str>) -> Self {
        Self::start_with(janus, dir, feed, None).await
    }

    /// It names `turn` to receivers.
    pub(crate) async fn start_with(janus: &Janus, dir: &Path, feed: Option<&str>, turn: Option<&str>) -> Self {
        assert!(
            peers().join("node_modules").is_dir(),
            "bench/tests/peers/node_modules is not there: ./dev test fetches it"
        );
        let mut command = janus.host().command("node");
        command.arg("whep-server.mjs").current_dir(peers()).env("IP", janus.host().ip().to_string());
        if let Some(feed) = feed {
            command.env("FEED", feed);
        }
        if let Some(turn) = turn {
            command.env("TURN", turn);
        }
        let log = dir.join("whep.log");
        let process = spawn(command, &log);
        let at = SocketAddr::new(janus.host().ip(), 7090);
        wait_for(janus.host(), at, &log).await;
        Self { at, _process: process }
    }

    pub(crate) fn endpoint(&self, id: &str) -> String {
        format!("http://{}/whep/endpoint/{id}", self.at)
    }
}

/// Debian's coturn on a host of its own, for the user `ears` with the password `s3cret`.
pub(crate) struct Turn {
    host: Host,
    _process: Child,
}

impl Turn {
    pub(crate) async fn start(world: &World, dir: &Path) -> Self {
        Self::start_with(world, dir, &[]).await
    }

    /// With these flags besides.
    pub(crate) async fn start_with(world: &World, dir: &Path, more: &[&str]) -> Self {
        let host = host(world, "turn", 3);
        let ip = host.ip();
        let mut command = host.command("turnserver");
        let flags = ["-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech", "--log-file=stdout", "--simple-log"];
        command.args(flags).args(more).arg(format!("--listening-ip={ip}")).arg(format!("--relay-ip={ip}"));
        command.args(["--user=ears:s3cret", "--realm=nearfield.test"]);
        command.arg(format!("--pidfile={}", dir.join("turn.pid").display()));
        command.arg(format!("--userdb={}", dir.join("turn.db").display()));
        let log = dir.join("turn.log");
        let process = spawn(command, &log);
        wait_for(&host, SocketAddr::new(ip, 3478), &log).await;
        Self { host, _process: process }
    }

    /// Its URL over this transport.
    pub(crate) fn url(&self, transport: &str) -> String {
        format!("turn:{}:3478?transport={transport}", self.host.ip())
    }
}

/// A headless Chromium that speaks `said` over and over into its microphone and a Janus room.
pub(crate) struct Browser {
    page: JoinHandle<()>,
    _process: Child,
}

impl Browser {
    /// After `name` there may be more of the page's parameters.
    pub(crate) fn publish(world: &World, dir: &Path, janus: &Janus, name: &str, said: &[Prompt]) -> Self {
        let host = host(world, "browser", 2);
        let wav = dir.join("microphone.wav");
        write_wav(&wav, &monologue(said));
        let page = tokio::spawn(serve_page(host.clone()));
        let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|program| installed(program));
        let mut command = host.command(chromium.expect("no Chromium: ./dev test installs it"));
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            "--autoplay-policy=no-user-gesture-required",
        ]);
        command.arg(format!("--use-file-for-fake-audio-capture={}", wav.display()));
        command.arg(format!("--user-data-dir={}", dir.join("chromium").display()));
        command.arg(format!("http://127.0.0.1:8000/?ws={}&room=1234&display={name}", janus.url()));
        Self { page, _process: spawn(command, &dir.join("chromium.log")) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.page.abort();
    }
}

fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// The browser's microphone needs a secure context, which its own loopback is.
async fn serve_page(host: Host) {
    let page = fs::read_to_string(peers().join("publish.html")).unwrap();
    let serve = move || async move {
        let listener = TcpListener::bind("127.0.0.1:8000").await.unwrap();
        axum::serve(listener, Router::new().route("/", get(move || async move { Html(page) }))).await.unwrap();
    };
    let _ended_by_abort = host.run(serve).await;
}

pub(crate) fn monologue(said: &[Prompt]) -> Vec<i16> {
    let mut samples = vec![0; QUIET];
    for prompt in said {
        samples.extend_from_slice(&prompt.samples);
        samples.extend(std::iter::repeat_n(0, QUIET));
    }
    samples
}

/// 16 kHz mono PCM in a RIFF file.
pub(crate) fn write_wav(path: &Path, samples: &[i16]) {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000u32.to_le_bytes());
    file.extend(32_000u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    fs::write(path, file).unwrap();
}

/// Speaks `said` over and over as plain RTP (RFC 3550, RFC 7587) from `host` to `to`.
pub(crate) async fn speak_rtp(host: Host, to: SocketAddr, said: Arc<Vec<Prompt>>) {
    let speak = move || async move {
        let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
        let packets: Vec<Vec<u8>> =
            monologue(&said).chunks_exact(320).map(|frame| encoder.encode_vec(frame, 1275).unwrap()).collect();
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)).await.unwrap();
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for (n, packet) in packets.iter().cycle().enumerate() {
            ticks.tick().await;
            let (sequence, timestamp) = (n as u16, (n as u32).wrapping_mul(960));
            let rtp = Rtp { ssrc: 0x6e66_0001, sequence, timestamp, marker: false, level: None, payload: packet };
            // Nobody listens before Janus does.
            let _ = socket.send_to(&rtp.bytes(), to).await;
        }
    };
    let _ended_by_abort = host.run(speak).await;
}
