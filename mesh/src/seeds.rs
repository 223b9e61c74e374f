//! Where a node finds its first peers: a list, a file, or DNS.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, Record},
};
use tokio::time::timeout;

/// Seeds are looked up again after this long where DNS says nothing of it.
pub const REFRESH: Duration = Duration::from_secs(30);

/// A record's TTL is kept to within these, so that neither 0 nor a day is taken at its word.
const REFRESH_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Deadline of one DNS question, all its repetitions included.
const SEARCH: Duration = Duration::from_secs(8);

/// More addresses than this are not tried: any one live member leads to all.
const MAX_ADDRESSES: usize = 64;

/// Where to look. All that is set is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, the host being an address or a name.
    pub addresses: Vec<String>,
    /// A file with one `host:port` a line, `#` begins a comment. Read anew each time.
    pub file: Option<PathBuf>,
    /// The domain whose SRV records `_nearfield._udp.<domain>` (RFC 2782) name seeds.
    pub domain: Option<String>,
    /// Which DNS servers to ask, for names of all kinds; none: those of the system.
    pub dns_servers: Vec<SocketAddr>,
}

impl Settings {
    /// Whether there is anybody to look for: who has no seeds is the first of its mesh.
    pub fn names_any(&self) -> bool {
        !self.addresses.is_empty() || self.file.is_some() || self.domain.is_some()
    }
}

/// Looks seeds up.
pub struct Seeds {
    settings: Settings,
    resolver: TokioResolver,
}

/// What a look-up brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Addresses to announce to, and the seed that led to each, as it is written where it is set.
    pub addresses: BTreeMap<SocketAddr, String>,
    /// How long they are good for.
    pub refresh: Duration,
    /// Seeds that could not be looked up, and why.
    pub problems: BTreeMap<String, String>,
}

/// Something to be looked up: for the seed `seed`.
enum Search {
    /// SRV records.
    Service { domain: String },
    /// A name's addresses.
    Host { seed: String, host: String, port: u16 },
}

/// What came of it.
enum Answer {
    Targets { service: String, targets: Vec<(String, u16)>, refresh: Duration },
    Addresses { seed: String, addresses: Vec<SocketAddr> },
    Nothing { seed: String, why: String },
}

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("DNS resolver: {0}")]
pub struct ResolverError(#[from] NetError);

impl Seeds {
    /// A look-up over `settings`.
    ///
    /// # Errors
    /// The system's resolver configuration is unreadable, and no servers are set.
    pub fn new(settings: Settings) -> Result<Self, ResolverError> {
        Ok(Self { resolver: resolver(&settings.dns_servers)?, settings })
    }

    /// Whether there is anywhere to look at all.
    pub fn is_empty(&self) -> bool {
        !self.settings.names_any()
    }

    /// Looks everywhere once. Never fails as a whole: what failed is in [`Found::problems`].
    pub async fn resolve(&self) -> Found {
        self.resolve_each(|_| {}).await
    }

    /// The same; `each` has every address as soon as it is there. All names are looked up side by side, so that one that
    /// nobody answers for keeps no other waiting; it takes 16 s at most.
    pub async fn resolve_each(&self, mut each: impl FnMut(SocketAddr)) -> Found {
        let mut found = Found { addresses: BTreeMap::new(), refresh: REFRESH, problems: BTreeMap::new() };
        let mut searches = FuturesUnordered::new();
        for seed in self.listed(&mut found).await {
            match (seed.parse::<SocketAddr>(), split(&seed)) {
                (Ok(addr), _) => found.insert(&seed, addr, &mut each),
                (_, Some((host, port))) => {
                    let host = host.to_owned();
                    searches.push(self.search(Search::Host { seed, host, port }));
                }
                (_, None) => found.fail(seed, "it is not host:port".into()),
            }
        }
        let service = self.settings.domain.clone().map(|domain| Search::Service { domain });
        searches.extend(service.map(|service| self.search(service)));
        while let Some(answer) = searches.next().await {
            match answer {
                Answer::Targets { service, targets, refresh } => {
                    found.refresh = refresh;
                    for (host, port) in targets {
                        let seed = format!("{service} {}:{port}", host.trim_end_matches('.'));
                        searches.push(self.search(Search::Host { seed, host, port }));
                    }
                }
                Answer::Addresses { seed, addresses } => {
                    addresses.into_iter().for_each(|addr| found.insert(&seed, addr, &mut each));
                }
                Answer::Nothing { seed, why } => found.fail(seed, why),
            }
        }
        found
    }

    /// The seeds that are named one by one.
    async fn listed(&self, found: &mut Found) -> Vec<String> {
        let mut seeds = self.settings.addresses.clone();
        if let Some(path) = &self.settings.file {
            match read(path).await {
                Ok(lines) => seeds.extend(lines),
                Err(error) => found.fail(path.display().to_string(), error.to_string()),
            }
        }
        seeds.truncate(MAX_ADDRESSES);
        seeds
    }

    async fn search(&self, search: Search) -> Answer {
        let seed = match &search {
            Search::Service { domain } => service(domain),
            Search::Host { seed, .. } => seed.clone(),
        };
        let answer = match search {
            Search::Service { domain } => timeout(SEARCH, self.service(&domain)).await,
            Search::Host { host, port, .. } => timeout(SEARCH, self.host(&seed, &host, port)).await,
        };
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Nothing { seed, why: error.to_string() },
            Err(_) => Answer::Nothing { seed, why: format!("no DNS server answered in {SEARCH:?}") },
        }
    }

    async fn service(&self, domain: &str) -> Result<Answer, NetError> {
        let service = service(domain);
        let records = self.resolver.srv_lookup(format!("{service}.")).await?;
        let refresh = refresh(records.valid_until(), Instant::now());
        let target = |record: &Record| match &record.data {
            RData::SRV(srv) => Some((srv.target.to_string(), srv.port)),
            _ => None,
        };
        let targets = records.answers().iter().filter_map(target).take(MAX_ADDRESSES).collect();
        Ok(Answer::Targets { service, targets, refresh })
    }

    async fn host(&self, seed: &str, host: &str, port: u16) -> Result<Answer, NetError> {
        let found = self.resolver.lookup_ip(host).await?;
        let addresses = found.iter().map(|ip| SocketAddr::new(ip, port)).take(MAX_ADDRESSES).collect();
        Ok(Answer::Addresses { seed: seed.to_owned(), addresses })
    }
}

impl Found {
    fn insert(&mut self, seed: &str, addr: SocketAddr, each: &mut impl FnMut(SocketAddr)) {
        if self.addresses.len() < MAX_ADDRESSES && !self.addresses.contains_key(&addr) {
            self.addresses.insert(addr, seed.to_owned());
            each(addr);
        }
    }

    fn fail(&mut self, seed: String, why: String) {
        self.problems.insert(seed, why);
    }
}

/// The name of the SRV records of `domain`.
fn service(domain: &str) -> String {
    format!("_nearfield._udp.{}", domain.trim_end_matches('.'))
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_secs(2);
    options.positive_max_ttl = Some(REFRESH_RANGE.1);
    // The name may come into being any moment: the first node of a mesh waits for its own DNS server.
    options.negative_max_ttl = Some(Duration::from_secs(1));
    let provider = TokioRuntimeProvider::default();
    if servers.is_empty() {
        let mut builder = TokioResolver::builder(provider)?;
        options.ndots = builder.options_mut().ndots;
        return builder.with_options(options).build();
    }
    let servers = servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|c| c.port = server.port());
        NameServerConfig::new(server.ip(), true, connections)
    });
    let config = ResolverConfig::from_parts(None, vec![], servers.collect());
    TokioResolver::builder_with_config(config, provider).with_options(options).build()
}

/// Whether `text` is `host:port`.
pub fn is_host_port(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok() || split(text).is_some()
}

fn refresh(valid_until: Instant, now: Instant) -> Duration {
    valid_until.saturating_duration_since(now).clamp(REFRESH_RANGE.0, REFRESH_RANGE.1)
}

fn split(seed: &str) -> Option<(&str, u16)> {
    let (host, port) = seed.rsplit_once(':')?;
    let port = port.parse().ok()?;
    (!host.is_empty() && !host.contains(':')).then_some((host, port))
}

async fn read(path: &Path) -> std::io::Result<Vec<String>> {
    let text = tokio::fs::read_to_string(path).await?;
    // Some editors begin a text with a byte order mark.
    let lines = text.trim_start_matches('\u{feff}').lines();
    let seeds = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(seeds.filter(|seed| !seed.is_empty()).take(MAX_ADDRESSES).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn resolve(settings: Settings) -> Found {
        Seeds::new(settings).unwrap().resolve().await
    }

    #[tokio::test]
    async fn addresses_of_list_and_file_come_together_once_each() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "\u{feff}192.0.2.1:7000 # with a mark before it\r\n\r\n[2001:db8::1]:7000 # v6\r\n",
        )
        .unwrap();
        let addresses = vec!["192.0.2.1:7000".into(), "192.0.2.2:7000".into()];
        let found = resolve(Settings { addresses, file: Some(file.path().into()), ..Settings::default() }).await;
        let texts: Vec<String> = found.addresses.keys().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.1:7000", "192.0.2.2:7000", "[2001:db8::1]:7000"]);
        assert_eq!((found.refresh, found.problems), (REFRESH, BTreeMap::new()));
    }

    #[tokio::test]
    async fn what_cannot_be_looked_up_is_named_and_the_rest_is_found() {
        let addresses = vec!["nonsense".into(), "192.0.2.2:7000".into(), ":7".into(), "a:b:7".into()];
        let file = Some("/nonexistent/seeds".into());
        let found = resolve(Settings { addresses, file, ..Settings::default() }).await;
        assert_eq!(found.addresses.len(), 1);
        let problems: Vec<_> = found.problems.iter().map(|(seed, why)| format!("{seed}: {why}")).collect();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.contains(&"nonsense: it is not host:port".to_owned()), "{problems:?}");
        assert!(problems[0].starts_with("/nonexistent/seeds: No such file"), "{problems:?}");
    }

    /// A DNS server that never answers; keep it.
    fn silent_server() -> (std::net::UdpSocket, SocketAddr) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        (socket, addr)
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_nobody_answers_for_are_waited_for_side_by_side_and_keep_no_other_waiting() {
        let (_kept, server) = silent_server();
        let names = (0..20).map(|n| format!("seed-{n}.test:7000"));
        let addresses = ["192.0.2.9:7000".into()].into_iter().chain(names).collect();
        let domain = Some("mesh.test".into());
        let settings = Settings { addresses, domain, dns_servers: vec![server], ..Settings::default() };
        let (seeds, begun) = (Seeds::new(settings).unwrap(), tokio::time::Instant::now());
        let mut at = vec![];
        let found = seeds.resolve_each(|addr| at.push((addr.to_string(), begun.elapsed()))).await;
        assert_eq!(at, [("192.0.2.9:7000".to_owned(), Duration::ZERO)], "at once");
        assert!(begun.elapsed() <= SEARCH, "{:?}", begun.elapsed());
        assert_eq!((found.addresses.len(), found.problems.len()), (1, 21), "{:?}", found.problems);
    }

    #[test]
    fn ttl_is_honoured_within_reason() {
        let now = Instant::now();
        assert_eq!(refresh(now, now), Duration::from_secs(5));
        assert_eq!(refresh(now + Duration::from_secs(60), now), Duration::from_secs(60));
        assert_eq!(refresh(now + Duration::from_secs(86_400), now), Duration::from_secs(300));
    }
}
