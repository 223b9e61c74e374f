//! Debian's Janus on a host of a world, and publishers in its rooms whose packets are ours.
#![allow(clippy::disallowed_methods, reason = "a shell: it waits by the clock")]

mod room;

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

pub use self::room::{LEVEL_ID, Room, Rtp, ssrc};
use crate::world::Host;

/// Its WebSocket.
pub const PORT: u16 = 8188;
/// Where its mountpoint takes plain RTP.
pub const MOUNTPOINT: u16 = 5004;
/// What installs it.
pub const HOW: &str = "./dev test installs it, or apt-get install janus";

/// Deadline for it to open its port.
const UP: Duration = Duration::from_secs(30);

/// Its files, with places for what differs.
const CONFIG: [(&str, &str); 4] = [
    ("janus.jcfg", include_str!("janus/config/janus.jcfg")),
    ("janus.plugin.streaming.jcfg", include_str!("janus/config/janus.plugin.streaming.jcfg")),
    ("janus.plugin.videoroom.jcfg", include_str!("janus/config/janus.plugin.videoroom.jcfg")),
    ("janus.transport.websockets.jcfg", include_str!("janus/config/janus.transport.websockets.jcfg")),
];

/// How a Janus differs from the usual.
#[derive(Debug, Default)]
pub struct Manner {
    /// Rooms and feeds are called by texts.
    pub string_ids: bool,
    /// Every request has to name it.
    pub api_secret: Option<&'static str>,
    /// Another address of its host's.
    pub ip6: Option<Ipv6Addr>,
}

/// A Janus at work; dropped, it is killed.
#[derive(Debug)]
pub struct Janus {
    host: Host,
    process: Child,
    dir: PathBuf,
    api_secret: Option<&'static str>,
}

impl Janus {
    /// Starts one, with the rooms 1234 and 77 (PIN 1234) and mountpoint 1; its files and its log are in `dir`.
    ///
    /// # Errors
    /// It is not installed, or does not answer within 30 s.
    pub async fn start(host: Host, dir: &Path, manner: Manner) -> Result<Self> {
        let config = dir.join("janus");
        fs::create_dir_all(&config)?;
        let library = plugins().with_context(|| format!("Janus's plugins are not installed: {HOW}"))?;
        let ip6 = manner.ip6.map(|ip| format!(",{ip}")).unwrap_or_default();
        for (name, text) in CONFIG {
            let text = text.replace("@IP@", &host.ip().to_string()).replace("@DIR@", &config.display().to_string());
            let text = text.replace("@LIB@", &library.display().to_string()).replace("@IP6@", &ip6);
            fs::write(config.join(name), text.replace("@STRING_IDS@", &manner.string_ids.to_string()))?;
        }
        let process = launch(&host, dir, manner.api_secret).await?;
        Ok(Self { host, process, dir: dir.to_owned(), api_secret: manner.api_secret })
    }

    /// Kills it, and starts it anew: it knows nobody then.
    ///
    /// # Errors
    /// As [`Janus::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = launch(&self.host, &self.dir, self.api_secret).await?;
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// The system does not let us.
    pub async fn stop(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its URL, as a meeting's source has it.
    pub fn url(&self) -> String {
        url(self.host.ip())
    }

    /// Where its mountpoint takes plain RTP.
    pub fn rtp(&self) -> SocketAddr {
        SocketAddr::new(self.host.ip(), MOUNTPOINT)
    }
}

/// The URL of one at `ip`.
pub fn url(ip: IpAddr) -> String {
    format!("ws://{}", SocketAddr::new(ip, PORT))
}

/// Whether there is one on this machine.
pub fn is_installed() -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("janus").is_file()));
    found && plugins().is_some()
}

/// The folder above its plugins' folder.
fn plugins() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    libraries.into_iter().find(|path| path.join("janus/plugins").is_dir())
}

async fn launch(host: &Host, dir: &Path, api_secret: Option<&str>) -> Result<Child> {
    let mut command = Command::from(host.command("janus"));
    command.arg("-F").arg(dir.join("janus")).arg("-o");
    command.args(api_secret.map(|secret| format!("--apisecret={secret}")));
    let log = dir.join("janus.log");
    let file = File::create(&log)?;
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let process = command.spawn().with_context(|| format!("janus cannot be started: {HOW}"))?;
    let (begun, address) = (Instant::now(), SocketAddr::new(host.ip(), PORT));
    while host.run(move || TcpStream::connect(address)).await?.is_err() {
        if begun.elapsed() > UP {
            bail!("Janus did not open {address}: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(process)
}
