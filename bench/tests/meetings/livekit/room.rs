//! LiveKit's own server, who speaks in its room with its own client, and a way to it that can be cut.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bench::{
    speech::Prompt,
    world::{Host, World},
};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::super::peers;

/// Its API and its signalling, which have one port.
const PORT: u16 = 7880;
/// What it and users of its API know.
pub(super) const KEY: &str = "nearfield";
pub(super) const SECRET: &str = "a secret of thirty-two characters";
/// The client's own pace.
const PAUSE: usize = 16_000;
/// For a speaker to say farewell.
const FAREWELL: Duration = Duration::from_secs(10);

/// The server; dropped, it is killed.
pub(super) struct LiveKit {
    host: Host,
    _process: Child,
}

impl LiveKit {
    /// Where `./dev test` leaves it; none, with the reason, where it could not be built.
    pub(super) fn program() -> Option<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let cache = std::env::var_os("NEARFIELD_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
        let program = cache.join("livekit/livekit-server");
        let is_there = program.is_file();
        if !is_there {
            eprintln!("NOT TESTED: no {}: ./dev test builds it where Go's modules can be had", program.display());
        }
        is_there.then_some(program)
    }

    /// It makes no room unasked, and keeps to its host: no STUN server, no other address.
    pub(super) async fn start(world: &World, dir: &Path, program: &Path) -> Self {
        let host = peers::host(world, "livekit", 1);
        let config = format!(
            "port: {PORT}\nbind_addresses: [\"{ip}\"]\nkeys: {{{KEY}: \"{SECRET}\"}}\n\
             rtc: {{udp_port: 7882, tcp_port: 0, node_ip: {ip}, use_external_ip: false, stun_servers: [\"{ip}:3478\"]}}\n\
             room: {{auto_create: false, enable_remote_unmute: true}}\n",
            ip = host.ip()
        );
        let (file, log) = (dir.join("livekit.yaml"), dir.join("livekit.log"));
        fs::write(&file, config).unwrap();
        let mut command = host.command(program);
        command.arg("--config").arg(&file);
        let process = peers::spawn(command, &log);
        peers::wait_for(&host, SocketAddr::new(host.ip(), PORT), &log).await;
        Self { host, _process: process }
    }

    pub(super) fn at(&self) -> SocketAddr {
        SocketAddr::new(self.host.ip(), PORT)
    }

    /// Has its own library do this, on this host.
    fn client(&self, host: &Host, arguments: &[&str]) -> std::process::Command {
        let mut command = host.command("node");
        command.arg("livekit.mjs").args(arguments).current_dir(peers::peers());
        command.env("URL", format!("ws://{}", self.at())).env("KEY", KEY).env("SECRET", SECRET);
        command
    }

    /// Asks its API; what the library prints.
    pub(super) async fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::from(self.client(&self.host, arguments));
        let done = command.kill_on_drop(true).stdin(Stdio::null()).output().await.unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

/// Somebody in a room, who says one sentence over and over.
pub(super) struct Speaker {
    pub(super) name: &'static str,
    pub(super) says: Prompt,
    process: Child,
}

impl Speaker {
    pub(super) fn join(
        livekit: &LiveKit,
        room: &str,
        host: &Host,
        dir: &Path,
        name: &'static str,
        says: Prompt,
    ) -> Self {
        let wav = dir.join(format!("{name}.wav"));
        let pause = std::iter::repeat_n(0, PAUSE);
        let samples: Vec<i16> = pause.clone().chain(says.samples.iter().copied()).chain(pause).collect();
        peers::write_wav(&wav, &samples);
        let command = livekit.client(host, &["speak", room, name, &wav.display().to_string()]);
        let log = dir.join(format!("{name}.log"));
        let process = peers::spawn_with(command, &log, Stdio::piped());
        Self { name, says, process }
    }

    /// Leaves in good order.
    pub(super) async fn leave(mut self) {
        drop(self.process.stdin.take());
        let left = timeout(FAREWELL, self.process.wait()).await;
        assert!(left.is_ok(), "{} does not leave", self.name);
    }
}

/// The way of signalling, on a host of its own; media do not take it.
pub(super) struct Way {
    at: SocketAddr,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Way {
    pub(super) fn new(host: Host, to: SocketAddr) -> Self {
        let at = SocketAddr::new(host.ip(), PORT);
        let (open, is_open) = watch::channel(true);
        let pass = move || async move {
            let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await.unwrap();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        biased;
                        _ = is_open.wait_for(|open| !open) => {}
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    }
                });
            }
        };
        let task = tokio::spawn(async move { drop(host.run(pass).await) });
        Self { at, open, task }
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}", self.at)
    }

    /// Hangs up, and does so to whoever comes until it is mended.
    pub(super) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}
