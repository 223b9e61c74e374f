//! The edge's settings, as `edge.example.toml` documents them.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use mesh::{
    config::{
        Checks,
        sections::{Common, HttpSection, LogSection, MeshSection, NodeSection, TlsSection},
    },
    identity::Role,
    program::Configuration,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    assignments, budget, connect,
    egress::{self, Policy},
    meeting,
    uplink::{self, spill},
};

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
    /// Health and metrics.
    pub http: HttpSection,
    /// How much it takes on.
    #[serde(default)]
    pub capacity: CapacitySection,
    /// How it receives media.
    #[serde(default)]
    pub media: MediaSection,
    /// Where meetings and relays may send it.
    #[serde(default)]
    pub egress: EgressSection,
    /// What it keeps until it is done.
    #[serde(default)]
    pub uplink: UplinkSection,
    /// What keeps meetings apart.
    #[serde(default)]
    pub isolation: IsolationSection,
}

/// How meetings are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Each is a task of its own.
    #[default]
    Task,
    /// The relay and media path of each are in a process of its own.
    Process,
}

/// `[isolation]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IsolationSection {
    /// How.
    pub mode: Isolation,
    /// Megabytes of memory one meeting's process may take, 64 to 65,536.
    pub process_megabytes: u64,
    /// Packets a second one meeting may send, 100 to 1,000,000.
    pub packets_per_second: u32,
    /// Kilobytes a second one meeting may send, 10 to 1,000,000.
    pub kilobytes_per_second: u32,
    /// Seconds of more than that after which it is ended, 1 to 3600.
    pub flood_seconds: u64,
}

/// `[capacity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacitySection {
    /// Meetings at once, 1 to 10,000.
    pub meetings: u32,
    /// Seconds to bring the last words home, 1 to 600.
    pub drain_seconds: u64,
    /// Seconds of these for another edge to take a meeting over, 0 to 60.
    pub hand_over_seconds: u64,
}

/// `[media]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaSection {
    /// Local addresses for WebRTC; empty: the one that leads to the relay.
    pub bind: Vec<IpAddr>,
    /// TURN servers, at most [`connect::MAX_SERVERS`].
    pub ice_servers: Vec<connect::IceServer>,
    /// Go through TURN servers only.
    pub relay_only: bool,
}

/// `[egress]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSection {
    /// Ranges that are not public and may be gone to all the same, at most [`egress::MAX_ALLOWED`].
    #[serde(deserialize_with = "ranges")]
    pub allow: Vec<IpNet>,
}

/// Each a range or an address.
fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let range = |text: String| {
        let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        parsed.map_err(|_| D::Error::custom(format!("{text:?} is no range of addresses, such as \"10.0.0.0/8\"")))
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().map(range).collect()
}

/// `[uplink]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UplinkSection {
    /// Megabytes of speech per meeting in memory, 1 to 1024.
    pub ring_megabytes: usize,
    /// The folder that speech is spilled to, of this node alone; none if absent.
    pub spill_dir: Option<PathBuf>,
    /// Megabytes of speech per meeting there, 1 to 65,536.
    pub spill_megabytes: u64,
    /// Minutes that speech is kept, in memory and there, 1 to 10,080.
    pub spill_minutes: u64,
    /// Seconds to go on listening while no core can be reached by any way, 0 to 3600.
    pub orphan_seconds: u64,
    /// Whether speech is encoded anew where the link to the core lets too little pass.
    pub ladder: bool,
}

impl Default for CapacitySection {
    fn default() -> Self {
        Self { meetings: 200, drain_seconds: 40, hand_over_seconds: 8 }
    }
}

impl Default for IsolationSection {
    fn default() -> Self {
        let budget::Settings { packets_per_second, bytes_per_second, patience } = budget::Settings::default();
        Self {
            mode: Isolation::default(),
            process_megabytes: 512,
            packets_per_second,
            kilobytes_per_second: bytes_per_second / 1000,
            flood_seconds: patience.as_secs(),
        }
    }
}

impl IsolationSection {
    fn budget(&self) -> budget::Settings {
        budget::Settings {
            packets_per_second: self.packets_per_second,
            bytes_per_second: self.kilobytes_per_second * 1000,
            patience: Duration::from_secs(self.flood_seconds),
        }
    }
}

impl Default for UplinkSection {
    fn default() -> Self {
        Self {
            ring_megabytes: 32,
            spill_dir: None,
            spill_megabytes: 256,
            spill_minutes: 60,
            orphan_seconds: 30,
            ladder: true,
        }
    }
}

impl Configuration for Config {
    const PROGRAM: &'static str = "edge-node";
    const ROLE: Role = Role::Edge;
    const SOFTWARE: &'static str = env!("CARGO_PKG_VERSION");
    const ENV_PREFIX: &'static str = "NEARFIELD_EDGE";
    const EXAMPLE: &'static str = include_str!("../edge.example.toml");

    type Parts = ();

    fn common(&self) -> Common<'_> {
        Common { node: &self.node, mesh: &self.mesh, tls: &self.tls, log: &self.log, http: &self.http }
    }

    fn check(&self, checks: &mut Checks<'_>) -> Option<()> {
        checks.range("capacity.meetings", self.capacity.meetings, 1..=10_000);
        checks.range("capacity.drain_seconds", self.capacity.drain_seconds, 1..=600);
        checks.range("capacity.hand_over_seconds", self.capacity.hand_over_seconds, 0..=60);
        checks.range("uplink.ring_megabytes", self.uplink.ring_megabytes, 1..=1024);
        checks.range("uplink.spill_megabytes", self.uplink.spill_megabytes, 1..=65_536);
        checks.range("uplink.spill_minutes", self.uplink.spill_minutes, 1..=10_080);
        checks.range("uplink.orphan_seconds", self.uplink.orphan_seconds, 0..=3600);
        self.media.check(checks);
        checks.range("egress.allow", self.egress.allow.len(), 0..=egress::MAX_ALLOWED);
        let isolation = &self.isolation;
        checks.range("isolation.process_megabytes", isolation.process_megabytes, 64..=65_536);
        checks.range("isolation.packets_per_second", isolation.packets_per_second, 100..=1_000_000);
        checks.range("isolation.kilobytes_per_second", isolation.kilobytes_per_second, 10..=1_000_000);
        checks.range("isolation.flood_seconds", isolation.flood_seconds, 1..=3600);
        Some(())
    }

    fn try_opening(&self, checks: &mut Checks<'_>) {
        for ip in &self.media.bind {
            checks.try_udp("media.bind", (*ip, 0).into());
        }
        if let Some(folder) = &self.uplink.spill_dir {
            checks.try_folder("uplink.spill_dir", folder);
        }
    }
}

impl MediaSection {
    fn check(&self, checks: &mut Checks<'_>) {
        let servers = &self.ice_servers;
        for (n, server) in servers.iter().enumerate() {
            // Of one that is refused, not more than its place is told: it has a password.
            let parsed = server.parse().map_err(|error| format!("ice_servers[{n}]: {error}"));
            checks.accept("media", parsed);
        }
        checks.range("media", servers.len(), 0..=connect::MAX_SERVERS);
    }
}

impl Config {
    /// What [`assignments::Assignments`] needs of it.
    pub fn serving(&self) -> assignments::Settings {
        let UplinkSection { ring_megabytes, spill_dir, spill_megabytes, spill_minutes, orphan_seconds, ladder } =
            &self.uplink;
        let max_age = Duration::from_secs(spill_minutes * 60);
        let uplink = uplink::Settings { max_bytes: ring_megabytes * 1_000_000, max_age, spill: spill_dir.is_some() };
        let spill = spill_dir.clone();
        let spill = spill.map(|dir| spill::Settings { dir, max_bytes: spill_megabytes * 1_000_000, max_age });
        assignments::Settings {
            capacity: self.capacity.meetings,
            meeting: meeting::Settings {
                uplink,
                ladder: *ladder,
                orphan: Duration::from_secs(*orphan_seconds),
                hand_over: Duration::from_secs(self.capacity.hand_over_seconds),
                budget: self.isolation.budget(),
                ..meeting::Settings::default()
            },
            spill,
            connect: connect::Settings {
                bind: self.media.bind.clone(),
                ice_servers: self.media.ice_servers.clone(),
                relay_only: self.media.relay_only,
                egress: Policy::new(&self.egress.allow),
                ..connect::Settings::default()
            },
            isolate: None,
            drain: Duration::from_secs(self.capacity.drain_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh::{
        config::{ConfigError, Reach, Source},
        program,
    };

    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/edge.example.toml");

    fn read(sets: &[&str]) -> (Source, Result<Config, ConfigError>) {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let source = Source::read(Some(EXAMPLE.as_ref()), "NEARFIELD_EDGE_TEST", &sets).unwrap();
        let config = source.parse();
        (source, config)
    }

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let (source, config) = read(&[]);
        let config = config.unwrap();
        assert!(program::check::<Config>(&source, Reach::Values).errors.is_empty());
        assert_eq!(config.capacity.meetings, CapacitySection::default().meetings);
        assert_eq!(config.capacity.drain_seconds, CapacitySection::default().drain_seconds);
        assert_eq!(config.capacity.hand_over_seconds, CapacitySection::default().hand_over_seconds);
        let (uplink, default) = (config.uplink, UplinkSection::default());
        assert_eq!(uplink.ring_megabytes, default.ring_megabytes);
        assert_eq!(uplink.spill_dir, None);
        assert_eq!(uplink.spill_megabytes, default.spill_megabytes);
        assert_eq!(uplink.spill_minutes, default.spill_minutes);
        assert_eq!(uplink.orphan_seconds, default.orphan_seconds);
        assert_eq!(uplink.ladder, default.ladder);
        assert_eq!(config.egress.allow, EgressSection::default().allow);
        let (isolation, default) = (config.isolation, IsolationSection::default());
        assert_eq!((isolation.mode, isolation.budget()), (Isolation::Task, budget::Settings::default()));
        assert_eq!(isolation.process_megabytes, default.process_megabytes);
    }

    #[test]
    fn a_value_out_of_range_is_named_with_what_is_allowed() {
        let source = read(&["capacity.meetings=0", "uplink.spill_minutes=0"]).0;
        let told: Vec<_> =
            program::check::<Config>(&source, Reach::Values).errors.iter().map(|e| e.to_string()).collect();
        let wanted =
            ["--set: capacity.meetings = 0: must be 1 to 10000", "--set: uplink.spill_minutes = 0: must be 1 to 10080"];
        assert_eq!(told, wanted);
    }

    #[test]
    fn ranges_that_may_be_gone_to_are_read_and_what_is_none_is_named() {
        let config = read(&["egress.allow=[\"10.0.0.0/8\", \"fd00::1\"]"]).1.unwrap();
        let egress = config.serving().connect.egress;
        assert_eq!(egress.check("10.9.0.1".parse().unwrap()), Ok(()));
        assert_eq!(egress.check("fd00::1".parse().unwrap()), Ok(()));
        assert!(egress.check("fd00::2".parse().unwrap()).is_err());
        let error = read(&["egress.allow=[\"10.0.0.0/33\"]"]).1.unwrap_err().to_string();
        assert!(error.contains("egress.allow") && error.contains("10.0.0.0/33"), "{error}");
    }

    #[test]
    fn a_check_tries_what_would_be_opened() {
        let tried = |set: &str| {
            let source = read(&["http.listen=127.0.0.1:0", "mesh.listen=127.0.0.1:0", set]).0;
            let errors = program::check::<Config>(&source, Reach::Machine).errors;
            let told = errors.iter().map(ToString::to_string);
            // Where the example's certificates are, there are none.
            told.filter(|text| !text.contains("tls.")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(tried("uplink.spill_dir=/tmp/not/there/yet"), "");
        for (set, key) in [
            ("log.filter=mesh=loud", "log.filter"),
            ("http.listen=192.0.2.1:80", "http.listen"),
            ("mesh.listen=192.0.2.1:80", "mesh.listen"),
            (r#"media.bind=["192.0.2.1"]"#, "media.bind"),
            ("uplink.spill_dir=/dev/null/x", "uplink.spill_dir"),
            ("mesh.seeds_file=/no/such/file", "mesh.seeds_file"),
        ] {
            assert!(tried(set).starts_with(&format!("--set: {key} = ")), "{set}: {}", tried(set));
        }
    }

    #[test]
    fn every_metric_is_described_and_named_as_prometheus_wants() {
        use crate::measures::METRICS;
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        assert_eq!(mesh::telemetry::lint::sources(sources.as_ref(), METRICS).unwrap(), Vec::<String>::new());
        assert_eq!(mesh::telemetry::lint::promtool(METRICS).expect("promtool, of Debian's package prometheus"), "");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = read(&["capacity.meeting=3"]).1.unwrap_err().to_string();
        assert!(error.contains("capacity") && error.contains("`meeting`") && error.contains("meetings"), "{error}");
    }
}
