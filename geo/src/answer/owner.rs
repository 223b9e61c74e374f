//! What a name in the zone stands for.

use hickory_proto::rr::Name;

use crate::region::RegionId;

/// A name below the zone's domain, understood. Whether it exists is for the directory to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// The domain itself.
    Apex,
    /// `_nearfield._udp`: where to join the mesh.
    Seeds,
    /// `edge` or `<region>.edge`: the edges nearest to the caller, or to that region.
    Edges(Option<RegionId>),
    /// `<node>.<region>.node`.
    Node {
        /// The node's name.
        name: String,
        /// Its region.
        region: RegionId,
    },
    /// `<region>.node`: has no records, only nodes below it.
    NodesOf(RegionId),
    /// `node` or `_udp`: has no records, only names below it (RFC 8020 calls for NODATA).
    Branch,
    /// Some other single label: a name server of the zone, perhaps.
    Host,
    /// No name of ours.
    Unknown,
}

impl Owner {
    /// Reads `name`; `None` if it is not at or below `domain`. Case does not matter.
    pub(super) fn of(name: &Name, domain: &Name) -> Option<Self> {
        if !domain.zone_of(name) {
            return None;
        }
        let own = usize::from(name.num_labels()).saturating_sub(usize::from(domain.num_labels()));
        let labels: Option<Vec<String>> = name.iter().take(own).map(text).collect();
        Some(labels.map_or(Self::Unknown, |labels| Self::of_labels(&labels)))
    }

    fn of_labels(labels: &[String]) -> Self {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let region = |label: &str, owner: fn(RegionId) -> Self| label.parse().map_or(Self::Unknown, owner);
        match labels[..] {
            [] => Self::Apex,
            ["_nearfield", "_udp"] => Self::Seeds,
            ["edge"] => Self::Edges(None),
            [of, "edge"] => region(of, |id| Self::Edges(Some(id))),
            [name, of, "node"] => {
                of.parse().map_or(Self::Unknown, |region| Self::Node { name: name.to_owned(), region })
            }
            [of, "node"] => region(of, Self::NodesOf),
            ["node" | "_udp"] => Self::Branch,
            [_] => Self::Host,
            _ => Self::Unknown,
        }
    }
}

/// A label as lower-case text; `None` for bytes that none of our names has.
fn text(label: &[u8]) -> Option<String> {
    label.is_ascii().then(|| String::from_utf8_lossy(label).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Option<Owner> {
        let domain = Name::from_ascii("mesh.example.").unwrap();
        Owner::of(&Name::from_ascii(name).unwrap(), &domain)
    }

    #[test]
    fn names_are_understood_in_any_case() {
        let eu: RegionId = "eu-central".parse().unwrap();
        assert_eq!(owner("mesh.EXAMPLE."), Some(Owner::Apex));
        assert_eq!(owner("_Nearfield._UDP.mesh.example."), Some(Owner::Seeds));
        assert_eq!(owner("EU-central.Edge.mesh.example."), Some(Owner::Edges(Some(eu.clone()))));
        let node = Owner::Node { name: "edge-1".into(), region: eu };
        assert_eq!(owner("Edge-1.eu-central.node.mesh.example."), Some(node));
        assert_eq!(owner("ns1.mesh.example."), Some(Owner::Host));
        assert_eq!(owner("_udp.mesh.example."), Some(Owner::Branch));
    }

    #[test]
    fn other_names_are_unknown_and_other_zones_are_not_ours() {
        assert_eq!(owner("a.b.c.d.mesh.example."), Some(Owner::Unknown));
        assert_eq!(owner("_tcp._udp.mesh.example."), Some(Owner::Unknown));
        let bytes = Name::from_labels([&b"\x80"[..], b"edge", b"mesh", b"example"]).unwrap();
        assert_eq!(Owner::of(&bytes, &Name::from_ascii("mesh.example.").unwrap()), Some(Owner::Unknown));
        assert_eq!(owner("other.example."), None);
        assert_eq!(owner("notmesh.example."), None);
        assert_eq!(owner("."), None);
    }
}
