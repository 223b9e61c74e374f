//! What edges are asked to measure their way to.

use mesh::wire::request::{Request, Source};
use reqwest::Url;

/// A relay, and how its distance is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    /// `host:port`.
    address: String,
    /// The port answers STUN (RFC 8489) over UDP.
    stun: bool,
}

impl Target {
    /// The relay that `source` names: its STUN address where that is known, else its signalling. `None` if there is no host.
    pub(crate) fn of(source: &Source, stun: Option<&str>) -> Option<Self> {
        if let Some(stun) = stun {
            return Some(Self { address: stun.to_owned(), stun: true });
        }
        let url = source.url();
        let url = Url::parse(url).ok()?;
        // Ports of `ws` and `wss` are known to the parser as well.
        Some(Self { address: format!("{}:{}", url.host_str()?, url.port_or_known_default()?), stun: false })
    }

    #[cfg(test)]
    pub(crate) fn plain(address: String) -> Self {
        Self { address, stun: false }
    }

    /// The question to an edge.
    pub(crate) fn request(&self) -> Request {
        Request::Probe { relay: self.address.clone(), stun: self.stun }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_measured_by_stun_where_that_is_known_else_by_its_signalling() {
        let janus = Source::Janus {
            url: "wss://relay.example/janus".into(),
            room: 1,
            pin: None,
            token: None,
            api_secret: None,
            display: "n".into(),
        };
        let ask = |stun| Target::of(&janus, stun).unwrap().request();
        assert_eq!(ask(None), Request::Probe { relay: "relay.example:443".into(), stun: false });
        assert_eq!(ask(Some("turn.example:3478")), Request::Probe { relay: "turn.example:3478".into(), stun: true });
        let nowhere = Source::Whep { url: "data:,x".into(), token: None, participants: vec![] };
        assert_eq!(Target::of(&nowhere, None), None);
    }
}
