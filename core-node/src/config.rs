//! The core's settings, as `core.example.toml` documents them.

mod authority;
mod hooks;
mod transcribe;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use geo::map::RegionMap;
use mesh::{
    config::{
        Checks,
        sections::{Common, HttpSection, LogSection, MeshSection, NodeSection, TlsSection},
    },
    identity::Role,
    program::Configuration,
    wire::request::Secret,
};
use serde::Deserialize;

pub use self::authority::{AuthorityKind, AuthoritySection};
use crate::{
    SOFTWARE,
    authority::nats,
    edges::aliases::{Caps, ROW_WAIT},
    meetings,
    replicate::sender,
    speech::ingest::Limits,
    store::{LOCK_WAIT, Opening, Store, backup::Kept},
};

pub use self::hooks::{HooksSection, ZoomSection};
pub use self::transcribe::{Chosen, Engine, OpenAiSection, SherpaSection, TranscribeSection};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this node is.
    pub node: NodeSection,
    /// Its mesh endpoint.
    pub mesh: MeshSection,
    /// Its certificate.
    pub tls: TlsSection,
    /// What it logs.
    #[serde(default)]
    pub log: LogSection,
    /// The API, health and metrics.
    pub http: HttpSection,
    /// Who may use the API.
    #[serde(default)]
    pub api: ApiSection,
    /// What it keeps on disk.
    pub store: StoreSection,
    /// How words are made.
    #[serde(default)]
    pub transcribe: TranscribeSection,
    /// How much it takes on.
    #[serde(default)]
    pub limits: LimitsSection,
    /// How meetings survive this core.
    #[serde(default)]
    pub failover: FailoverSection,
    /// Where it is kept which core serves a meeting.
    #[serde(default)]
    pub authority: AuthoritySection,
    /// What platforms may tell it.
    #[serde(default)]
    pub hooks: HooksSection,
    /// Where regions are.
    #[serde(default)]
    pub geo: GeoSection,
}

/// `[failover]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailoverSection {
    /// Whether another core holds a replica of each meeting and takes it over.
    pub standby: bool,
    /// How long a standby may acknowledge nothing before words go on without it.
    pub stall_ms: u64,
    /// How long a core must be gone before its standby takes meetings over that no edge asked it to.
    pub takeover_seconds: u64,
}

impl Default for FailoverSection {
    fn default() -> Self {
        Self { standby: true, stall_ms: 1500, takeover_seconds: 300 }
    }
}

/// `[api]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSection {
    /// Where clients and other cores reach it; if absent, `http.listen`.
    pub advertise: Option<String>,
    /// Bearer token of `/v1`; if absent, `/v1` is open.
    pub token: Option<Secret>,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// The file; in a directory, `core.redb` there.
    pub path: PathBuf,
    /// No new meeting while the file is longer, in bytes.
    #[serde(default = "max_bytes")]
    pub max_bytes: u64,
    /// The most memory that pages of the file are kept in, in bytes.
    #[serde(default = "cache_bytes")]
    pub cache_bytes: usize,
}

fn cache_bytes() -> usize {
    64 << 20
}

fn max_bytes() -> u64 {
    20 << 30
}

impl ApiSection {
    fn check(&self, checks: &mut Checks<'_>, listen: SocketAddr) {
        let token = self.token.as_ref().is_none_or(|t| t.0.len() >= 16);
        checks.ensure("api.token", token, "at least 16 characters long, or absent");
        let guarded = self.token.is_some() || !is_public(listen.ip());
        let allowed = "set where http.listen is a public address: without it anybody may use the API";
        checks.ensure("api.token", guarded, allowed);
        let reachable = self.advertise.is_some() || !listen.ip().is_unspecified();
        checks.ensure("api.advertise", reachable, "set when http.listen is a wildcard");
        // A name, or the URL of a proxy, is the operator's word.
        if let Some(api) = self.advertise.as_ref().and_then(|api| api.parse::<SocketAddr>().ok()) {
            checks.accept("api.advertise", geo::address::told(api));
        }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Meetings at a time.
    pub meetings: usize,
    /// Participants in one meeting.
    pub participants_per_meeting: usize,
    /// Talk spurts of one meeting that wait for their words before its edge is held back.
    pub undone_spurts_per_meeting: usize,
    /// Seconds to make the last words after SIGTERM.
    pub drain_seconds: u64,
}

/// `[geo]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeoSection {
    /// Your own regions, laid over the built-in table.
    pub regions_file: Option<PathBuf>,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { meetings: 200, participants_per_meeting: 500, undone_spurts_per_meeting: 4096, drain_seconds: 20 }
    }
}

impl Configuration for Config {
    const PROGRAM: &'static str = "core-node";
    const ROLE: Role = Role::Core;
    const SOFTWARE: &'static str = SOFTWARE;
    const ENV_PREFIX: &'static str = "NEARFIELD_CORE";
    const EXAMPLE: &'static str = include_str!("../core.example.toml");

    /// Where regions are.
    type Parts = RegionMap;

    fn common(&self) -> Common<'_> {
        Common { node: &self.node, mesh: &self.mesh, tls: &self.tls, log: &self.log, http: &self.http }
    }

    fn check(&self, checks: &mut Checks<'_>) -> Option<RegionMap> {
        let (limits, failover) = (&self.limits, &self.failover);
        checks.range("store.max_bytes", self.store.max_bytes, 1 << 20..=1 << 50);
        checks.range("store.cache_bytes", self.store.cache_bytes, 1 << 20..=64 << 30);
        checks.range("limits.meetings", limits.meetings, 1..=100_000);
        checks.range("limits.participants_per_meeting", limits.participants_per_meeting, 1..=10_000);
        checks.range("limits.undone_spurts_per_meeting", limits.undone_spurts_per_meeting, 16..=100_000);
        checks.range("limits.drain_seconds", limits.drain_seconds, 1..=600);
        checks.range("failover.stall_ms", failover.stall_ms, 200..=60_000);
        checks.range("failover.takeover_seconds", failover.takeover_seconds, 10..=86_400);
        self.transcribe.check(checks);
        self.api.check(checks, self.http.listen);
        self.authority.check(checks);
        self.hooks.check(checks);
        checks.regions("geo.regions_file", self.geo.regions_file.as_deref())
    }

    fn try_opening(&self, checks: &mut Checks<'_>) {
        self.try_store(checks);
        self.transcribe.try_opening(checks);
    }

    fn warnings(&self) -> Vec<String> {
        self.exposed().into_iter().collect()
    }
}

impl Config {
    /// A warning where anybody who reaches the machine may use the API.
    fn exposed(&self) -> Option<String> {
        let open = self.api.token.is_none() && self.http.listen.ip().is_unspecified();
        let listen = self.http.listen;
        open.then(|| {
            format!("the API listens on every address of this machine ({listen}) and needs no token: set api.token")
        })
    }

    /// Where the store's file is.
    pub fn store_file(&self) -> PathBuf {
        let path = &self.store.path;
        let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if is_folder { path.join("core.redb") } else { path.clone() }
    }

    fn try_store(&self, checks: &mut Checks<'_>) {
        let (key, file) = ("store.path", self.store_file());
        if file.file_name().is_none() {
            checks.refuse(key, "must be a file, or a folder for one");
            return;
        }
        if let Some(folder) = file.parent().filter(|_| !file.exists()) {
            checks.try_folder(key, folder);
            return;
        }
        if checks.accept(key, Store::check(&file)).is_none() {
            return;
        }
        let node = &self.node.id;
        if let Some(other) = Store::owner_of(&file).filter(|of| of != node.as_str()) {
            checks.refuse(key, format!("must be {node}'s own store: it is that of {other}"));
        }
    }

    /// The store, for a copy of it.
    pub fn kept(&self) -> Kept<'_> {
        let token = self.api.token.as_ref().map(|token| token.0.as_str());
        let (file, node, opening) = (self.store_file(), &self.node.id, self.opening());
        Kept { file, node, opening, listen: self.http.listen, token }
    }

    /// How the store is opened.
    pub fn opening(&self) -> Opening {
        Opening { cache_bytes: self.store.cache_bytes, lock_wait: LOCK_WAIT }
    }

    /// Where this core's API is for others.
    pub fn api_address(&self, bound: SocketAddr) -> String {
        let given = self.api.advertise.clone().unwrap_or_else(|| bound.to_string());
        let told = given.parse().ok().and_then(|addr| geo::address::told(addr).ok());
        told.map_or(given, |addr: SocketAddr| addr.to_string())
    }

    /// How meetings are served.
    pub fn meetings(&self) -> meetings::Settings {
        let intake = Limits {
            participants: self.limits.participants_per_meeting,
            undone_spurts: self.limits.undone_spurts_per_meeting,
            ..Limits::default()
        };
        let takeover = Duration::from_secs(self.failover.takeover_seconds);
        let stall = Duration::from_millis(self.failover.stall_ms);
        meetings::Settings {
            failover: meetings::Failover {
                standby: self.failover.standby,
                pair: sender::Settings { stall, isolated_after: takeover },
                takeover,
            },
            meetings: self.limits.meetings,
            intake,
            max_store_bytes: self.store.max_bytes,
            interim: self.transcribe.interim.then(|| Duration::from_millis(self.transcribe.interim_every_ms)),
            language: self.transcribe.language.clone(),
            noise_suppression: self.transcribe.noise_suppression,
            parallel: self.transcribe.workers,
            bounds: Default::default(),
        }
    }

    /// The NATS servers that keep claims, if they do.
    pub fn nats(&self) -> Option<nats::Settings> {
        let authority = self.authority.clone();
        // What `check` has refused is none.
        let servers = authority.servers.iter().filter_map(|server| server.parse().ok()).collect();
        (authority.kind == AuthorityKind::Nats).then(|| nats::Settings {
            servers,
            bucket: authority.bucket.clone(),
            replicas: authority.replicas,
            credentials: authority.credentials_file.clone(),
            ca: authority.ca_file.clone(),
            // Twice within its patience.
            attempt: authority.timeout() / 2,
        })
    }

    /// How many rows one edge may fill.
    pub fn link_caps(&self) -> Caps {
        let limits = &self.limits;
        Caps { meetings: limits.meetings, participants: limits.participants_per_meeting, row_wait: ROW_WAIT }
    }
}

/// Whether an address is one that the Internet may reach: of none of the blocks that RFC 6890 keeps from it, for one machine,
/// one link or one organisation.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests;
