//! A world on one machine: hosts with addresses of their own, and the Internet between them.
//!
//! Each host is a network namespace ([`host`](Host)) whose only link is a TUN device (`tun`). One
//! thread reads and writes all links (`emulator`); which path a packet takes is decided in `route`,
//! what the path does to it in [`path`]. Unmodified programs live on the hosts. When the process
//! ends, however it ends, the kernel takes all of it away.
//!
//! Where that is not allowed, [`World::loopback`] gives the same hosts on 127.0.0.1, without
//! distances.

mod emulator;
mod enter;
mod host;
pub mod path;
mod route;
mod tun;

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use edge_node::{connect, egress::Policy};
use geo::RegionId;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use self::{
    emulator::Strays,
    enter::{NotAllowed, respawn_unless_root},
    host::{Host, with_disk},
    route::{PathReport, Place},
};
use self::{
    emulator::{Command, Emulator},
    host::{MARK, Namespace},
    path::Quality,
    route::{Location, Routes},
};

/// One-way delay between hosts with no path of their own: two machines of one region.
pub const WITHIN_A_REGION: Duration = Duration::from_micros(250);

/// Where hosts are: what an edge among them is to be allowed to go to.
pub const ADDRESSES: [&str; 3] = ["127.0.0.0/8", "10.77.0.0/16", "fd77::/16"];

/// How long the emulator may take to answer a question.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);

/// How an edge of a world joins meetings.
pub fn connecting() -> connect::Settings {
    let allow = ADDRESSES.map(|range| range.parse().expect("a range"));
    connect::Settings { egress: Policy::new(&allow), ..connect::Settings::default() }
}

/// Why a world or one of its hosts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// This process may not make networks.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// The emulator could not start.
    #[error("the emulated Internet cannot start: {0}")]
    Emulator(io::Error),
    /// Two hosts with one name or address.
    #[error("there is already a host with the name `{name}` or the address {ip}")]
    Duplicate {
        /// The second host's name.
        name: String,
        /// Its address.
        ip: Ipv4Addr,
    },
    /// An address outside the hosts' network.
    #[error("{0} is not an address for a host: they have 10.77.0.1 to 10.77.255.253")]
    Address(Ipv4Addr),
    /// The kernel refused something about a host.
    #[error("host `{name}`: {error}")]
    Host {
        /// The host.
        name: Arc<str>,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Hosts and the Internet between them. Dropping it kills every process of its hosts.
#[derive(Debug)]
pub struct World {
    /// Absent in a world on the loopback device.
    emulator: Option<Emulator>,
    taken: Mutex<BTreeSet<String>>,
    mark: Arc<str>,
}

impl World {
    /// A world with distances; all its chances follow from `seed`.
    ///
    /// As root it may be called anywhere. As anyone else it moves the process into a user namespace,
    /// in which it is root: call it in `main` before any thread (and any async runtime) is started.
    ///
    /// # Errors
    /// [`WorldError::NotAllowed`] says what is not allowed here and what would help.
    pub fn enter(seed: u64) -> Result<Self, WorldError> {
        enter::enter()?;
        let routes = Routes::new(seed, Quality::delayed(WITHIN_A_REGION));
        Ok(Self::over(Some(Emulator::start(routes).map_err(WorldError::Emulator)?)))
    }

    /// A world without distances: every host is 127.0.0.1, and programs must differ by port.
    pub fn loopback() -> Self {
        Self::over(None)
    }

    fn over(emulator: Option<Emulator>) -> Self {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id()).into();
        Self { emulator, taken: Mutex::default(), mark }
    }

    /// Whether packets take paths, or only the loopback device.
    pub fn has_distances(&self) -> bool {
        self.emulator.is_some()
    }

    /// A new host in a region. In a world without distances `ip` is not used.
    ///
    /// # Errors
    /// The name or address is taken, the address is not in the hosts' network, or the kernel refused.
    pub fn host(&self, name: &str, site: &RegionId, ip: Ipv4Addr) -> Result<Host, WorldError> {
        self.claim(name, ip)?;
        let name: Arc<str> = name.into();
        let mut host = Host {
            name: name.clone(),
            site: site.clone(),
            ip: Ipv4Addr::LOCALHOST,
            mark: self.mark.clone(),
            namespace: None,
        };
        if let Some(emulator) = &self.emulator {
            let made = Namespace::new(ip).map_err(|error| WorldError::Host { name: name.clone(), error })?;
            emulator.send(Command::Attach { location: Location { name, site: site.clone() }, ip, tun: made.tun });
            (host.ip, host.namespace) = (ip, Some(Arc::new(made.file)));
        }
        Ok(host)
    }

    fn claim(&self, name: &str, ip: Ipv4Addr) -> Result<(), WorldError> {
        let [a, b, c, d] = ip.octets();
        if (a, b) != (10, 77) || (c, d) == (0, 0) || (c, d) >= (255, 254) {
            return Err(WorldError::Address(ip));
        }
        let mut taken = self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if taken.contains(name) || taken.contains(&ip.to_string()) {
            return Err(WorldError::Duplicate { name: name.to_owned(), ip });
        }
        taken.extend([name.to_owned(), ip.to_string()]);
        Ok(())
    }

    /// Sets one direction between two places. Of several paths that fit a packet, the one whose ends
    /// are named most particularly is taken.
    pub fn set_path(&self, from: impl Into<Place>, to: impl Into<Place>, quality: Quality) {
        self.tell(Command::SetPath { from: from.into(), to: to.into(), quality });
    }

    /// Sets both directions to the same quality.
    pub fn set_paths(&self, a: impl Into<Place>, b: impl Into<Place>, quality: Quality) {
        let (a, b) = (a.into(), b.into());
        self.set_path(a.clone(), b.clone(), quality.clone());
        self.set_path(b, a, quality);
    }

    /// Lets nothing pass between two places, either way, until they are healed. Packets already on
    /// their way still arrive.
    pub fn partition(&self, a: impl Into<Place>, b: impl Into<Place>) {
        self.tell(Command::Cut { a: a.into(), b: b.into() });
    }

    /// Undoes a [`partition`](Self::partition) between the same two places.
    pub fn heal(&self, a: impl Into<Place>, b: impl Into<Place>) {
        self.tell(Command::Heal { a: a.into(), b: b.into() });
    }

    /// What every path has done so far, and what never took one. Empty without distances.
    pub fn report(&self) -> (Vec<PathReport>, Strays) {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::Report { reply });
        answer.recv_timeout(REPORT_DEADLINE).unwrap_or_default()
    }

    fn tell(&self, command: Command) {
        if let Some(emulator) = &self.emulator {
            emulator.send(command);
        }
    }

    /// The processes that hosts of this world have started and that still run, their children included.
    pub fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| carries(*pid, mark.as_bytes())).collect()
    }

    /// Kills what [`processes`](Self::processes) lists.
    pub fn kill_processes(&self) {
        for pid in self.processes() {
            // One that has just ended by itself is as good.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_processes();
    }
}

/// Whether a process was started with this variable; one that has ended has no environment.
fn carries(pid: u32, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == variable))
}
