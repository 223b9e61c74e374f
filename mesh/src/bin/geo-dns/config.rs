//! The DNS node's settings, as `dns.example.toml` documents them.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use geo::{
    RegionId,
    answer::{self, BadSettings, Zone},
    map::RegionMap,
    server,
};
use mesh::{
    config::{
        ConfigError, Source,
        sections::{HttpSection, LogSection, MeshSection, NodeSection, TlsSection},
    },
    telemetry::metric::{Metric, counter, gauge},
};
use serde::Deserialize;

/// Prefix of environment variables that override the file.
pub(crate) const ENV_PREFIX: &str = "NEARFIELD_DNS";

/// What this program's own metrics count.
pub(crate) const METRICS: &[Metric] = &[
    counter("nearfield_geo_dns_questions_total", "DNS questions answered, by type and response code."),
    gauge("nearfield_geo_dns_tcp_connections", "Open DNS connections over TCP."),
    counter("nearfield_geo_dns_tcp_replaced_total", "DNS connections over TCP closed to make room."),
];

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Who this node is.
    pub(crate) node: NodeSection,
    /// Its mesh endpoint.
    pub(crate) mesh: MeshSection,
    /// Its certificate.
    pub(crate) tls: TlsSection,
    /// What it logs.
    #[serde(default)]
    pub(crate) log: LogSection,
    /// Health and metrics.
    pub(crate) http: HttpSection,
    /// What it answers.
    pub(crate) dns: DnsSection,
}

/// `[dns]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsSection {
    /// UDP and TCP address to listen on.
    listen: SocketAddr,
    /// The domain that the parent zone delegates to this server.
    domain: String,
    /// The zone's name servers, `label=address`; the first is the primary.
    name_servers: Vec<String>,
    /// TTL of the nearest edges, in seconds.
    #[serde(default = "edges_ttl")]
    edges_ttl: u64,
    /// TTL of seeds and single nodes, in seconds.
    #[serde(default = "seeds_ttl")]
    seeds_ttl: u64,
    /// Edges in one answer.
    #[serde(default = "edges_per_answer")]
    edges_per_answer: usize,
    /// Where callers of no listed network are taken to be; if absent, this node's region.
    default_region: Option<RegionId>,
    /// `network=region`.
    #[serde(default)]
    client_networks: Vec<String>,
    /// Regions of one's own, laid over the built-in table.
    regions_file: Option<PathBuf>,
    /// Seconds after which an idle TCP connection is closed.
    #[serde(default = "tcp_idle")]
    tcp_idle: u64,
    /// TCP connections at a time.
    #[serde(default = "tcp_connections")]
    tcp_connections: usize,
}

fn edges_ttl() -> u64 {
    answer::Settings::default().edges_ttl.as_secs()
}

fn seeds_ttl() -> u64 {
    answer::Settings::default().seeds_ttl.as_secs()
}

fn edges_per_answer() -> usize {
    answer::Settings::default().edges_per_answer
}

fn tcp_idle() -> u64 {
    server::Settings::default().tcp_idle.as_secs()
}

fn tcp_connections() -> usize {
    server::Settings::default().tcp_connections
}

impl Config {
    /// What the DNS server needs of it, checked.
    ///
    /// # Errors
    /// A value is malformed or out of its range: where it came from, its key and what is allowed.
    pub(crate) fn dns_settings(&self, source: &Source) -> Result<server::Settings, ConfigError> {
        let dns = &self.dns;
        source.range("dns.tcp_idle", dns.tcp_idle, 1..=120)?;
        source.range("dns.tcp_connections", dns.tcp_connections, 1..=10_000)?;
        let zone = answer::Settings {
            domain: dns.domain.clone(),
            name_servers: each(source, "dns.name_servers", &dns.name_servers)?,
            edges_ttl: Duration::from_secs(dns.edges_ttl),
            seeds_ttl: Duration::from_secs(dns.seeds_ttl),
            edges_per_answer: dns.edges_per_answer,
            default_region: dns.default_region.clone().unwrap_or_else(|| self.node.region.clone()),
            client_networks: each(source, "dns.client_networks", &dns.client_networks)?,
            regions: self.regions(source)?,
        };
        Zone::new(zone.clone()).map_err(|e| source.refuse(key_of(&e), e))?;
        Ok(server::Settings {
            listen: dns.listen,
            tcp_idle: Duration::from_secs(dns.tcp_idle),
            tcp_connections: dns.tcp_connections,
            zone,
        })
    }

    /// Tries what the program opens beyond what it reads.
    ///
    /// # Errors
    /// The first that cannot be opened, by its key.
    pub(crate) fn try_all(&self, source: &Source) -> Result<(), ConfigError> {
        source.try_common(&self.log, &self.mesh, &self.http)?;
        source.try_udp("dns.listen", self.dns.listen)?;
        source.try_tcp("dns.listen", self.dns.listen)
    }

    fn regions(&self, source: &Source) -> Result<RegionMap, ConfigError> {
        let Some(path) = &self.dns.regions_file else { return Ok(RegionMap::built_in()) };
        let refuse = |e: &dyn Display| source.refuse("dns.regions_file", e);
        let text = std::fs::read_to_string(path).map_err(|e| refuse(&e))?;
        RegionMap::built_in().overlaid(&text).map_err(|e| refuse(&e))
    }
}

/// Every text of a list as a `T`; an error names which one is none.
fn each<T: FromStr<Err: Display>>(source: &Source, key: &str, texts: &[String]) -> Result<Vec<T>, ConfigError> {
    let parse = |(n, text): (usize, &String)| text.parse().map_err(|e| source.refuse(&format!("{key}[{n}]"), e));
    texts.iter().enumerate().map(parse).collect()
}

fn key_of(error: &BadSettings) -> &'static str {
    match error {
        BadSettings::Domain { .. } => "dns.domain",
        BadSettings::NameServer(_) | BadSettings::NameServerAddress(..) | BadSettings::NameServers(_) => {
            "dns.name_servers"
        }
        BadSettings::Ttl { name: "edges_ttl", .. } => "dns.edges_ttl",
        BadSettings::Ttl { .. } => "dns.seeds_ttl",
        BadSettings::EdgesPerAnswer(_) => "dns.edges_per_answer",
        BadSettings::DefaultRegion(_) => "dns.default_region",
        BadSettings::Networks(_) => "dns.client_networks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dns.example.toml");

    fn settings(sets: &[&str]) -> Result<server::Settings, String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let source = Source::read(Some(EXAMPLE.as_ref()), "NEARFIELD_DNS_TEST", &sets).map_err(|e| e.to_string())?;
        let config: Config = source.parse().map_err(|e| e.to_string())?;
        config.dns_settings(&source).map_err(|e| e.to_string())
    }

    #[test]
    fn every_metric_is_described() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../geo/src");
        assert!(mesh::telemetry::lint::sources(sources.as_ref(), METRICS).expect("sources").is_empty());
        assert_eq!(mesh::telemetry::lint::promtool(METRICS).expect("promtool, of Debian's package prometheus"), "");
    }

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let example = settings(&[]).expect("valid");
        let default = answer::Settings::default();
        assert_eq!((example.zone.edges_ttl, example.zone.seeds_ttl), (default.edges_ttl, default.seeds_ttl));
        assert_eq!(example.zone.edges_per_answer, default.edges_per_answer);
        assert_eq!(example.tcp_connections, server::Settings::default().tcp_connections);
        assert_eq!(example.tcp_idle, server::Settings::default().tcp_idle);
        assert_eq!(example.zone.default_region.as_str(), "eu-central");
    }

    #[test]
    fn every_value_out_of_range_is_named_by_its_key() {
        for (set, key) in [
            ("dns.edges_ttl=0", "dns.edges_ttl"),
            ("dns.seeds_ttl=4000", "dns.seeds_ttl"),
            ("dns.edges_per_answer=1", "dns.edges_per_answer"),
            ("dns.domain=not..a.name", "dns.domain"),
            ("dns.default_region=nowhere", "dns.default_region"),
            ("dns.tcp_idle=0", "dns.tcp_idle"),
            ("dns.tcp_connections=0", "dns.tcp_connections"),
            ("dns.name_servers=[]", "dns.name_servers"),
            (r#"dns.name_servers=["ns1=0.0.0.0"]"#, "dns.name_servers[0]"),
            ("dns.regions_file=/nonexistent", "dns.regions_file"),
        ] {
            let text = settings(&[set]).expect_err("refused");
            assert!(text.starts_with(&format!("--set: {key} = ")), "{set}: {text}");
        }
        let text = settings(&[r#"dns.client_networks=["192.0.2.0/24=eu-central", "here"]"#]).expect_err("refused");
        assert!(text.starts_with("--set: dns.client_networks[1] = \"here\": "), "{text}");
    }
}
