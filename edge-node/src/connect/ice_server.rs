//! TURN servers: what a configuration or a relay names (RFC 7065, draft-ietf-wish-whep section 4.6).

use std::net::SocketAddr;

use mesh::wire::request::Secret;
use rtc::ice::url::{ProtoType, SchemeType, Url};
use serde::{Deserialize, Serialize};

use crate::egress::Policy;

/// Servers used for one connection; more are passed over.
pub const MAX_SERVERS: usize = 4;
/// The longest URL, user name or credential, in bytes.
const MAX_TEXT: usize = 512;

/// A server that a connection may go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `turn:HOST[:PORT][?transport=udp|tcp]`.
    pub url: String,
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub credential: Secret,
}

/// A server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) address: SocketAddr,
    /// Spoken to over TCP.
    pub(super) tcp: bool,
}

/// Why a server cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadServer {
    /// No URL of the kind.
    #[error("it is no URL like turn:HOST[:PORT][?transport=udp|tcp]")]
    Url,
    /// `stun:` finds addresses behind a NAT, and relays need none of them; `turns:` is not spoken.
    #[error("only turn: is spoken")]
    Scheme,
    /// Something is over the length.
    #[error("its URL, user name or credential is longer than {MAX_TEXT} bytes")]
    TooLong,
}

impl IceServer {
    /// Host, port and whether it is spoken to over TCP.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn parse(&self) -> Result<(String, u16, bool), BadServer> {
        if [&self.url, &self.username, &self.credential.0].iter().any(|text| text.len() > MAX_TEXT) {
            return Err(BadServer::TooLong);
        }
        let url = Url::parse_url(&self.url).map_err(|_| BadServer::Url)?;
        match (url.scheme, url.proto) {
            (SchemeType::Turn, ProtoType::Udp) => Ok((url.host, url.port, false)),
            (SchemeType::Turn, ProtoType::Tcp) => Ok((url.host, url.port, true)),
            _ => Err(BadServer::Scheme),
        }
    }

    /// Its first address that is of use, if it can be used and found; of a server that a relay named, one that `egress` admits.
    pub(super) async fn resolve(&self, usable: impl Fn(&SocketAddr) -> bool, egress: Option<&Policy>) -> Option<At> {
        let (host, port, tcp) = match self.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::debug!(%error, "an ICE server is passed over");
                return None;
            }
        };
        let found: Result<Vec<SocketAddr>, String> = match egress {
            Some(egress) => egress.resolve(&host, port).await.map_err(|e| e.to_string()),
            None => {
                tokio::net::lookup_host((host.as_str(), port)).await.map_err(|e| e.to_string()).map(Iterator::collect)
            }
        };
        match found {
            Ok(all) => all.into_iter().find(|at| tcp || usable(at)).map(|address| At { address, tcp }),
            Err(error) => {
                tracing::debug!(error, "an ICE server is not to be found");
                None
            }
        }
    }
}

/// The servers of one `Link` header (RFC 8288 section 3): those of its links whose `rel` is `ice-server`.
pub(super) fn linked(header: &str) -> Vec<IceServer> {
    let mut servers = vec![];
    let mut rest = header;
    while servers.len() < MAX_SERVERS
        && let Some((_, after)) = rest.split_once('<')
        && let Some((url, after)) = after.split_once('>')
    {
        let (parameters, after) = parameters(after);
        rest = after;
        let find = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        if find("rel").is_some_and(|rel| rel.split_ascii_whitespace().any(|r| r.eq_ignore_ascii_case("ice-server"))) {
            servers.push(IceServer {
                url: url.trim().to_owned(),
                username: find("username").cloned().unwrap_or_default(),
                credential: Secret(find("credential").cloned().unwrap_or_default()),
            });
        }
    }
    servers
}

/// `; name=value` and `; name="value"` up to the comma that ends the link, and what follows that.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = vec![];
    loop {
        text = text.trim_start_matches([' ', '\t', ';']);
        if text.is_empty() || text.starts_with(',') {
            return (found, text.strip_prefix(',').unwrap_or(text));
        }
        let end = text.find([';', ',', '=']).unwrap_or(text.len());
        let (name, after) = text.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => value(after.trim_start()),
            None => (String::new(), after),
        };
        found.push((name.trim().to_owned(), value));
        text = after;
    }
}

/// A token or a quoted string (RFC 9110 section 5.6), and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => {
                value.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn server(url: &str, username: &str, credential: &str) -> IceServer {
        IceServer { url: url.into(), username: username.into(), credential: Secret(credential.into()) }
    }

    #[test]
    fn a_header_may_name_several_servers_and_other_things() {
        let header = r#"<stun:stun.example.net>; rel="ice-server", <https://example.net/more>; rel="next","#.to_owned()
            + r#"<turn:turn.example.net?transport=udp>; rel="ice-server"; username="user; \"a\", b"; credential="p,w";"#
            + r#" credential-type="password" , <turn:[::1]:9>;REL=Ice-Server;username=u;credential=p"#;
        let expected = [
            server("stun:stun.example.net", "", ""),
            server("turn:turn.example.net?transport=udp", "user; \"a\", b", "p,w"),
            server("turn:[::1]:9", "u", "p"),
        ];
        assert_eq!(linked(&header), expected);
        assert_eq!(linked(&header.repeat(100)).len(), MAX_SERVERS);
        for bad in ["", "<", "<>", "<turn:x", "<turn:x>", "<turn:x>; rel=\"ice-server", ">;rel=ice-server"] {
            assert!(linked(bad).len() <= 1, "{bad}");
        }
    }

    #[test]
    fn a_server_is_spoken_to_over_udp_or_tcp() {
        let parsed = |url: &str| server(url, "u", "p").parse();
        assert_eq!(parsed("turn:a.example"), Ok(("a.example".into(), 3478, false)));
        assert_eq!(parsed("turn:[::1]:9?transport=tcp"), Ok(("::1".into(), 9, true)));
        for bad in ["turns:a.example", "stun:a.example", "stuns:a.example"] {
            assert_eq!(parsed(bad), Err(BadServer::Scheme), "{bad}");
        }
        for bad in ["", "turn", "turn:", "http://a", "turn://a", "turn:a?transport=x"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert_eq!(parsed(&format!("turn:{}", "a".repeat(MAX_TEXT))), Err(BadServer::TooLong));
    }

    #[test]
    fn its_credential_is_not_shown() {
        assert!(!format!("{:?}", server("turn:a", "u", "s3cret")).contains("s3cret"));
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in "[<>;,=\" a-z:\\\\-]{0,200}") {
            prop_assert!(linked(&header).len() <= MAX_SERVERS);
        }
    }
}
