//! The settings of `geo-dns`, as `dns.example.toml` documents them. The program is in `bin/geo-dns`.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use geo::{
    RegionId,
    answer::{self, BadSettings, Zone},
    server,
};
use serde::Deserialize;

use crate::{
    config::{
        Checks,
        sections::{Common, HttpSection, LogSection, MeshSection, NodeSection, TlsSection},
    },
    identity::Role,
    program::Configuration,
    telemetry::metric::{Metric, counter, gauge},
};

/// What this program's own metrics count.
pub const METRICS: &[Metric] = &[
    counter("nearfield_geo_dns_questions_total", "DNS questions answered, by type and response code."),
    gauge("nearfield_geo_dns_tcp_connections", "Open DNS connections over TCP."),
    counter("nearfield_geo_dns_tcp_replaced_total", "DNS connections over TCP closed to make room."),
];

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
    /// What it answers.
    pub dns: DnsSection,
}

/// `[dns]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsSection {
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

impl Configuration for Config {
    const PROGRAM: &'static str = "geo-dns";
    const ROLE: Role = Role::Dns;
    const SOFTWARE: &'static str = env!("CARGO_PKG_VERSION");
    const ENV_PREFIX: &'static str = "NEARFIELD_DNS";
    const EXAMPLE: &'static str = include_str!("../dns.example.toml");

    /// What the DNS server needs.
    type Parts = server::Settings;

    fn common(&self) -> Common<'_> {
        Common { node: &self.node, mesh: &self.mesh, tls: &self.tls, log: &self.log, http: &self.http }
    }

    fn check(&self, checks: &mut Checks<'_>) -> Option<server::Settings> {
        let dns = &self.dns;
        checks.range("dns.tcp_idle", dns.tcp_idle, 1..=120);
        checks.range("dns.tcp_connections", dns.tcp_connections, 1..=10_000);
        let name_servers = each(checks, "dns.name_servers", &dns.name_servers);
        let client_networks = each(checks, "dns.client_networks", &dns.client_networks);
        let regions = checks.regions("dns.regions_file", dns.regions_file.as_deref());
        let zone = answer::Settings {
            domain: dns.domain.clone(),
            name_servers: name_servers?,
            edges_ttl: Duration::from_secs(dns.edges_ttl),
            seeds_ttl: Duration::from_secs(dns.seeds_ttl),
            edges_per_answer: dns.edges_per_answer,
            default_region: dns.default_region.clone().unwrap_or_else(|| self.node.region.clone()),
            client_networks: client_networks?,
            regions: regions?,
        };
        if let Err(error) = Zone::new(zone.clone()) {
            checks.refuse(key_of(&error), error);
            return None;
        }
        Some(server::Settings {
            listen: dns.listen,
            tcp_idle: Duration::from_secs(dns.tcp_idle),
            tcp_connections: dns.tcp_connections,
            zone,
        })
    }

    fn try_opening(&self, checks: &mut Checks<'_>) {
        checks.try_udp("dns.listen", self.dns.listen);
        checks.try_tcp("dns.listen", self.dns.listen);
    }
}

/// Every text of a list as a `T`; an error names which one is none.
fn each<T: FromStr<Err: Display>>(checks: &mut Checks<'_>, key: &str, texts: &[String]) -> Option<Vec<T>> {
    let parse = |(n, text): (usize, &String)| checks.accept(&format!("{key}[{n}]"), text.parse());
    // All of them are looked at.
    let parsed: Vec<Option<T>> = texts.iter().enumerate().map(parse).collect();
    parsed.into_iter().collect()
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
    use crate::config::{Reach, Source};

    fn settings(sets: &[&str]) -> Result<server::Settings, String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let source =
            Source::of_text("dns.toml", Config::EXAMPLE, "NEARFIELD_DNS_TEST", &sets).map_err(|e| e.to_string())?;
        let config: Config = source.parse().map_err(|e| e.to_string())?;
        let mut checks = Checks::new(&source, Reach::Machine);
        let settings = config.check(&mut checks);
        checks.finish().map(|()| settings.expect("all parts")).map_err(|e| e.to_string())
    }

    #[test]
    fn every_metric_is_described() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../geo/src");
        assert!(crate::telemetry::lint::sources(sources.as_ref(), METRICS).expect("sources").is_empty());
        assert_eq!(crate::telemetry::lint::promtool(METRICS).expect("promtool, of Debian's package prometheus"), "");
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
        let text =
            settings(&[r#"dns.client_networks=["192.0.2.0/24=eu-central", "here", "there"]"#]).expect_err("refused");
        assert!(text.starts_with("--set: dns.client_networks[1] = \"here\": "), "{text}");
        assert!(text.contains("\n--set: dns.client_networks[2] = \"there\": "), "each is named: {text}");
    }
}
