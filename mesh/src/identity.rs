//! Who a node is: a stable id, a role and a region, as its certificate says them.

pub mod certs;
pub mod rotation;

use std::{fmt, str::FromStr, sync::Arc};

use geo::RegionId;
use serde::{Deserialize, Serialize};

/// A node's name, stable over restarts: 1 to 63 of `a-z`, `0-9` and `-` (one DNS label).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// What a node does. Part of its certificate, so a stolen edge key cannot serve as a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Joins meetings and sends their speech.
    Edge,
    /// Receives speech and makes words of it.
    Core,
    /// Answers DNS from what gossip says.
    Dns,
}

/// A node as its certificate names it.
///
/// In X.509 it is a SPIFFE id in a URI subject alternative name (SPIFFE X.509-SVID, section 2):
/// `spiffe://<trust domain>/region/<region>/role/<role>/node/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The stable name.
    pub node: NodeId,
    /// What it does.
    pub role: Role,
    /// Where it runs.
    pub region: RegionId,
}

/// Why a text does not name a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// Not a node id.
    #[error("`{0}` is not a node id: 1 to 63 of a-z, 0-9 and `-`")]
    Node(String),
    /// Not a role.
    #[error("`{0}` is not a role: edge, core or dns")]
    Role(String),
    /// Not a region id.
    #[error(transparent)]
    Region(#[from] geo::region::BadRegionId),
    /// Not a SPIFFE id of the shape above.
    #[error("`{0}` is not spiffe://<trust domain>/region/<region>/role/<role>/node/<id>")]
    Spiffe(String),
    /// A SPIFFE id of somebody else's mesh.
    #[error("trust domain `{found}`, this mesh is `{expected}`")]
    TrustDomain {
        /// What the certificate says.
        found: String,
        /// What this node is configured with.
        expected: String,
    },
}

impl NodeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Identity {
    /// The SPIFFE id in `trust_domain`.
    pub fn spiffe(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/region/{}/role/{}/node/{}", self.region, self.role, self.node)
    }

    /// The identity that `uri` names.
    ///
    /// # Errors
    /// The URI has another shape, another trust domain, or a part that is not valid.
    pub fn from_spiffe(uri: &str, trust_domain: &str) -> Result<Self, BadIdentity> {
        let bad = || BadIdentity::Spiffe(uri.chars().take(256).collect());
        let (domain, path) = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        if domain != trust_domain {
            return Err(BadIdentity::TrustDomain {
                found: domain.chars().take(128).collect(),
                expected: trust_domain.into(),
            });
        }
        let parts: Vec<&str> = path.split('/').collect();
        let ["region", region, "role", role, "node", node] = parts[..] else { return Err(bad()) };
        Ok(Self { node: node.parse()?, role: role.parse()?, region: region.parse()? })
    }
}

impl Role {
    /// The role as it is written in certificates and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Core => "core",
            Self::Dns => "dns",
        }
    }
}

impl FromStr for NodeId {
    type Err = BadIdentity;

    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if (1..=63).contains(&text.len()) && plain {
            Ok(Self(text.into()))
        } else {
            Err(BadIdentity::Node(text.chars().take(64).collect()))
        }
    }
}

impl FromStr for Role {
    type Err = BadIdentity;

    fn from_str(text: &str) -> Result<Self, BadIdentity> {
        match text {
            "edge" => Ok(Self::Edge),
            "core" => Ok(Self::Core),
            "dns" => Ok(Self::Dns),
            other => Err(BadIdentity::Role(other.chars().take(64).collect())),
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = BadIdentity;

    fn try_from(text: String) -> Result<Self, BadIdentity> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_survives_a_round_trip() {
        let uri = "spiffe://nearfield.example/region/eu-central/role/edge/node/edge-1";
        let identity = Identity::from_spiffe(uri, "nearfield.example").expect("valid");
        assert_eq!(identity.spiffe("nearfield.example"), uri);
        assert_eq!((identity.role, identity.region.as_str()), (Role::Edge, "eu-central"));
    }

    #[test]
    fn other_domains_roles_and_shapes_are_refused_with_their_reason() {
        let parse = |uri: &str| Identity::from_spiffe(uri, "a.example").expect_err("refused");
        assert!(matches!(parse("spiffe://b.example/region/eu/role/edge/node/n"), BadIdentity::TrustDomain { .. }));
        assert!(matches!(parse("spiffe://a.example/region/eu/role/king/node/n"), BadIdentity::Role(_)));
        assert!(matches!(parse("spiffe://a.example/region/EU/role/edge/node/n"), BadIdentity::Region(_)));
        assert!(matches!(parse("spiffe://a.example/region/eu/role/edge/node/n/x"), BadIdentity::Spiffe(_)));
        assert!(matches!(parse("https://a.example/"), BadIdentity::Spiffe(_)));
    }
}
