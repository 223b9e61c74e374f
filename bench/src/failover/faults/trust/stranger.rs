//! Somebody at the door: dials each node with a certificate, and sees whether it may stay.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;
use geo::RegionId;
use mesh::{
    identity::{
        Identity, Role,
        certs::{Authority, Credentials},
    },
    transport::Transport,
};

use super::{READ, SECOND, Stage};
use crate::{bed::TRUST_DOMAIN, failover::stage::HOME, world::Host};

/// Whoever is still connected after so long is accepted: in TLS 1.3 the client is done before the server has looked
/// at its certificate (RFC 8446 section 2).
const STAYS: Duration = Duration::from_secs(1);

/// A node that belongs to nobody.
pub(super) struct Stranger {
    host: Host,
    identity: Identity,
    trusted: String,
}

impl Stranger {
    pub(super) fn new(stage: &Stage) -> Result<Self> {
        let region: RegionId = HOME.parse()?;
        let host = stage.world.host("stranger", &region, Ipv4Addr::new(10, 77, 4, 1))?;
        Ok(Self {
            host,
            identity: Identity { node: "stranger".parse()?, role: Role::Edge, region },
            trusted: String::new(),
        })
    }

    /// From here on it trusts these authorities.
    pub(super) fn trusts(&mut self, authorities: &str) {
        authorities.clone_into(&mut self.trusted);
    }

    /// A certificate for it, looked at while it is still good; and its PEM.
    pub(super) fn pass(&self, authority: &Authority, validity: Duration) -> Result<(Credentials, String)> {
        let (cert, key) = authority.issue(&self.identity, validity)?;
        Ok((Credentials::from_pem(&self.trusted, &cert, &key, TRUST_DOMAIN)?, cert))
    }

    /// Whether any node takes it with a certificate of `authority`.
    pub(super) async fn welcome_anywhere(&self, stage: &Stage, authority: &Authority) -> Result<bool> {
        let (pass, _) = self.pass(authority, SECOND)?;
        Ok(!self.all(stage, &pass, false).await)
    }

    /// Until all nodes, or none, take it with a certificate of `authority`.
    pub(super) async fn until(&self, stage: &Stage, authority: &Authority, welcome: bool) -> Result<Option<Duration>> {
        Ok(self.until_all(stage, &self.pass(authority, SECOND)?.0, welcome).await)
    }

    /// Until all nodes, or none, take it with this certificate.
    pub(super) async fn until_all(&self, stage: &Stage, pass: &Credentials, welcome: bool) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < READ {
            if self.all(stage, pass, welcome).await {
                return Some(begun.elapsed());
            }
        }
        None
    }

    /// Whether all nodes take it, or none does.
    pub(super) async fn all(&self, stage: &Stage, pass: &Credentials, welcome: bool) -> bool {
        let doors: Vec<SocketAddr> = stage.bed.nodes.iter().map(|node| node.mesh).collect();
        let (pass, ip) = (pass.clone(), self.host.ip());
        let knock = self.host.run(move || async move {
            let knocks = doors.into_iter().map(|door| stays(SocketAddr::new(ip, 0), door, pass.clone()));
            futures_util::future::join_all(knocks).await
        });
        knock.await.is_ok_and(|taken| taken.into_iter().all(|taken| taken == welcome))
    }
}

async fn stays(from: SocketAddr, door: SocketAddr, credentials: Credentials) -> bool {
    let Ok(transport) = Transport::bind(from, credentials) else { return false };
    let Ok((_, connection)) = transport.dial(door).await else { return false };
    let stays = tokio::time::timeout(STAYS, connection.closed()).await.is_err();
    transport.shutdown(Duration::from_millis(100)).await;
    stays
}
