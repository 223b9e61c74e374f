//! `[authority]`: where it is kept which core serves a meeting.

use std::{path::PathBuf, time::Duration};

use async_nats::ServerAddr;
use mesh::config::{Checks, Reach};
use serde::Deserialize;

/// Which authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthorityKind {
    /// This core's own store.
    #[default]
    Embedded,
    /// A bucket of NATS JetStream.
    Nats,
}

/// `[authority]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthoritySection {
    /// Which.
    pub kind: AuthorityKind,
    /// NATS servers, `nats://host:port` or `tls://host:port` each.
    pub servers: Vec<String>,
    /// The bucket's name.
    pub bucket: String,
    /// How many servers keep the bucket, if this core makes it.
    pub replicas: usize,
    /// A NATS credentials file; absent: none are needed.
    pub credentials_file: Option<PathBuf>,
    /// Who vouches for the servers, PEM; absent: the system's authorities, if the servers want TLS.
    pub ca_file: Option<PathBuf>,
    /// How long it is asked for one answer.
    pub timeout_ms: u64,
}

impl Default for AuthoritySection {
    fn default() -> Self {
        Self {
            kind: AuthorityKind::Embedded,
            servers: vec![],
            bucket: "nearfield_leases".into(),
            replicas: 1,
            credentials_file: None,
            ca_file: None,
            timeout_ms: 3000,
        }
    }
}

impl AuthoritySection {
    /// How long it is asked for one answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        checks.range("authority.replicas", self.replicas, 1..=5);
        checks.range("authority.timeout_ms", self.timeout_ms, 200..=60_000);
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let bucket = (1..=64).contains(&self.bucket.len()) && self.bucket.bytes().all(name);
        checks.ensure("authority.bucket", bucket, "1 to 64 letters, digits, `-` or `_`");
        let named = self.kind != AuthorityKind::Nats || !self.servers.is_empty();
        checks.ensure("authority.servers", named, "one server or more when authority.kind is `nats`");
        for (n, server) in self.servers.iter().enumerate() {
            let key = format!("authority.servers[{n}]");
            if server.contains('@') {
                // An error repeats the value.
                checks.refuse("authority", "must be without passwords in `servers`: `credentials_file` is for them");
                continue;
            }
            let known = server.parse::<ServerAddr>().is_ok_and(|s| !s.host().is_empty());
            checks.ensure(&key, known, "a server such as `nats://host:4222` or `tls://host:4222`");
        }
        for (key, path) in [("credentials_file", &self.credentials_file), ("ca_file", &self.ca_file)] {
            let there = checks.reach() == Reach::Values || path.as_ref().is_none_or(|path| path.is_file());
            checks.ensure(&format!("authority.{key}"), there, "a file that is there, or absent");
        }
    }
}
