//! Names that others gave, to addresses that this edge may go to, and connections to those and no others.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mesh::tasks::once;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::timeout,
};

use super::{Denied, Policy};

/// Addresses of one name that are tried; more are passed over.
const MAX_ADDRESSES: usize = 8;

/// A name that leads nowhere this edge goes.
#[derive(Debug, thiserror::Error)]
pub enum NoAddress {
    /// It has none.
    #[error("{host} is not found: {why}")]
    Unknown {
        /// The name.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// Every one that it has is inside.
    #[error(transparent)]
    Denied(#[from] Denied),
}

/// Look-ups at once. The system's resolver holds a thread for each, for as long as it takes.
static LOOK_UPS: Semaphore = Semaphore::const_new(64);

/// A look-up waits so long for its turn and its answer.
const LOOK_UP: Duration = Duration::from_secs(10);

/// The resolver of an HTTP client: it learns of no other addresses than those it may go to. Addresses in a URL do not pass it.
#[derive(Debug, Clone)]
pub struct Checked(pub Policy);

impl Policy {
    /// Where `host` is, of its addresses those that this edge may be sent to. It may be an address, in brackets too.
    ///
    /// # Errors
    /// It has none, or none of those.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, NoAddress> {
        let host = host.trim_matches(['[', ']']);
        let unknown = |why: String| NoAddress::Unknown { host: host.to_owned(), why };
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![(ip, port).into()],
            Err(_) => look_up(host.to_owned(), port).await.map_err(unknown)?,
        };
        let (mut allowed, mut denied) = (vec![], None);
        for at in found {
            match self.admit(host, at.ip()) {
                Ok(()) if allowed.len() < MAX_ADDRESSES => allowed.push(at),
                Ok(()) => {}
                Err(error) => denied = Some(error),
            }
        }
        match denied {
            Some(denied) if allowed.is_empty() => Err(denied.into()),
            None if allowed.is_empty() => Err(unknown("it has no address".into())),
            _ => Ok(allowed),
        }
    }

    /// A connection to the first of these that takes one.
    ///
    /// # Errors
    /// None does: what the last one said.
    pub async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

/// Gives up after [`LOOK_UP`]; its place is free when the resolver has given up, too.
async fn look_up(host: String, port: u16) -> Result<Vec<SocketAddr>, String> {
    let looking = async move {
        let place = LOOK_UPS.acquire().await.map_err(|e| e.to_string())?;
        let found = once("a look-up", async move {
            let _place = place;
            lookup_host((host, port)).await.map(|found| found.collect())
        });
        found.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    };
    timeout(LOOK_UP, looking).await.unwrap_or_else(|_| Err(format!("no answer within {LOOK_UP:?}")))
}

impl reqwest::dns::Resolve for Checked {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found = policy.resolve(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_leads_to() {
        let (denied, allowed) = (Policy::default(), Policy::with_loopback());
        for host in ["localhost", "127.0.0.1", "[::1]", "127.1", "0x7f000001"] {
            let error = denied.resolve(host, 80).await.unwrap_err();
            assert!(matches!(error, NoAddress::Denied(_)), "{host}: {error}");
        }
        let found = allowed.resolve("localhost", 80).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|at| at.ip().is_loopback() && at.port() == 80));
        assert_eq!(denied.resolve("1.1.1.1", 9).await.unwrap(), [SocketAddr::from(([1, 1, 1, 1], 9))]);
    }

    #[tokio::test]
    async fn what_cannot_be_found_is_not_what_is_denied() {
        let error = Policy::default().resolve("no such host", 80).await.unwrap_err();
        assert!(matches!(error, NoAddress::Unknown { .. }), "{error}");
    }
}
