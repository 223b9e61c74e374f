//! Where a node finds its first peers: a list, a file, or DNS.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};

/// Seeds are looked up again after this long where DNS says nothing of it.
pub const REFRESH: Duration = Duration::from_secs(30);

/// A record's TTL is kept to within these, so that neither 0 nor a day is taken at its word.
const REFRESH_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// More addresses than this are not tried: any one live member leads to all.
const MAX_ADDRESSES: usize = 64;

/// Where to look. All that is set is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, the host being an address or a name.
    pub addresses: Vec<String>,
    /// A file with one `host:port` a line, `#` begins a comment. Read anew each time.
    pub file: Option<PathBuf>,
    /// DNS SRV records.
    pub dns: Option<Dns>,
}

/// Seeds in DNS: SRV records at `_nearfield._udp.<domain>` (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The domain.
    pub domain: String,
    /// Which servers to ask; none: those of the system.
    pub servers: Vec<SocketAddr>,
}

/// Looks seeds up.
pub struct Seeds {
    settings: Settings,
    resolver: TokioResolver,
}

/// What a look-up brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Addresses to announce to, sorted.
    pub addresses: BTreeSet<SocketAddr>,
    /// How long they are good for.
    pub refresh: Duration,
    /// What could not be looked up, and why.
    pub problems: Vec<String>,
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
        let servers = settings.dns.as_ref().map_or(&[][..], |dns| &dns.servers);
        Ok(Self { resolver: resolver(servers)?, settings })
    }

    /// Whether there is anywhere to look at all.
    pub fn is_empty(&self) -> bool {
        self.settings == Settings::default()
    }

    /// Looks everywhere once. Never fails as a whole: what failed is in [`Found::problems`].
    pub async fn resolve(&self) -> Found {
        let mut found = Found { addresses: BTreeSet::new(), refresh: REFRESH, problems: vec![] };
        for seed in &self.settings.addresses {
            self.host(seed, &mut found).await;
        }
        if let Some(path) = &self.settings.file {
            match read(path) {
                Ok(lines) => {
                    for line in &lines {
                        self.host(line, &mut found).await;
                    }
                }
                Err(e) => found.problems.push(format!("{}: {e}", path.display())),
            }
        }
        if let Some(dns) = &self.settings.dns {
            self.service(&dns.domain, &mut found).await;
        }
        found
    }

    /// `host:port` to addresses.
    async fn host(&self, seed: &str, found: &mut Found) {
        if let Ok(addr) = seed.parse::<SocketAddr>() {
            return found.insert(addr.ip(), addr.port());
        }
        let Some((host, port)) = split(seed) else {
            return found.problems.push(format!("seed `{seed}` is not host:port"));
        };
        self.addresses(host, port, found).await;
    }

    /// SRV records to addresses.
    async fn service(&self, domain: &str, found: &mut Found) {
        let name = format!("_nearfield._udp.{}.", domain.trim_end_matches('.'));
        let records = match self.resolver.srv_lookup(name.as_str()).await {
            Ok(records) => records,
            Err(e) => return found.problems.push(format!("SRV {name}: {e}")),
        };
        found.refresh = refresh(records.valid_until(), Instant::now());
        for record in records.answers().iter().take(MAX_ADDRESSES) {
            if let RData::SRV(srv) = &record.data {
                self.addresses(&srv.target.to_string(), srv.port, found).await;
            }
        }
    }

    async fn addresses(&self, host: &str, port: u16, found: &mut Found) {
        match self.resolver.lookup_ip(host).await {
            Ok(addresses) => addresses.iter().for_each(|ip| found.insert(ip, port)),
            Err(e) => found.problems.push(format!("{host}: {e}")),
        }
    }
}

impl Found {
    fn insert(&mut self, ip: std::net::IpAddr, port: u16) {
        if self.addresses.len() < MAX_ADDRESSES {
            self.addresses.insert(SocketAddr::new(ip, port));
        }
    }
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

fn read(path: &Path) -> std::io::Result<Vec<String>> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).take(MAX_ADDRESSES).map(str::to_owned).collect())
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
        std::fs::write(file.path(), "# the first two\n192.0.2.1:7000\n\n[2001:db8::1]:7000 # v6\n").unwrap();
        let addresses = vec!["192.0.2.1:7000".into(), "192.0.2.2:7000".into()];
        let found = resolve(Settings { addresses, file: Some(file.path().into()), dns: None }).await;
        let texts: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.1:7000", "192.0.2.2:7000", "[2001:db8::1]:7000"]);
        assert_eq!((found.refresh, found.problems), (REFRESH, vec![]));
    }

    #[tokio::test]
    async fn what_cannot_be_looked_up_is_named_and_the_rest_is_found() {
        let addresses = vec!["nonsense".into(), "192.0.2.2:7000".into(), ":7".into(), "a:b:7".into()];
        let found = resolve(Settings { addresses, file: Some("/nonexistent/seeds".into()), dns: None }).await;
        assert_eq!(found.addresses.len(), 1);
        assert_eq!(found.problems.len(), 4, "{:?}", found.problems);
        assert!(found.problems[0].contains("`nonsense` is not host:port"));
        assert!(found.problems[3].starts_with("/nonexistent/seeds: "));
    }

    #[test]
    fn ttl_is_honoured_within_reason() {
        let now = Instant::now();
        assert_eq!(refresh(now, now), Duration::from_secs(5));
        assert_eq!(refresh(now + Duration::from_secs(60), now), Duration::from_secs(60));
        assert_eq!(refresh(now + Duration::from_secs(86_400), now), Duration::from_secs(300));
    }
}
