//! The live nodes as DNS answers name them.

use std::{net::SocketAddr, sync::Arc};

use geo::answer::{Directory, LiveNode};
use mesh::{
    identity::Identity,
    node::{Member, Node},
    wire::report::Report,
};
use tokio::sync::watch;

/// The directory as it is now: the members and this node itself, so that even the first to join finds somebody.
pub(crate) fn of(node: &Node) -> Directory {
    let own = Member {
        identity: node.identity().clone(),
        addr: node.address(),
        report: Some(Arc::new(node.report())),
        heard: None,
    };
    let members = node.members().borrow().clone();
    Directory { nodes: members.iter().chain([&own]).map(live).collect() }
}

/// Keeps `directory` as the members are, until nobody reads it or the node is gone.
pub(crate) async fn follow(node: Node, directory: watch::Sender<Arc<Directory>>) {
    let mut members = node.members();
    while directory.send(Arc::new(of(&node))).is_ok() && members.changed().await.is_ok() {
        members.mark_unchanged();
    }
}

fn live(member: &Member) -> LiveNode {
    let Identity { node, role, region } = &member.identity;
    let report = member.report.as_deref();
    LiveNode {
        name: node.to_string(),
        role: role.to_string(),
        region: region.clone(),
        addr: member.addr,
        api: report.and_then(api),
        draining: report.is_some_and(|report| report.draining),
    }
}

/// The API's address out of its URL, if it is given as an address.
fn api(report: &Report) -> Option<SocketAddr> {
    let url = report.api.as_deref()?;
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    authority.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use mesh::clock::Micros;

    use super::*;

    fn member(api: Option<&str>) -> Member {
        let uri = "spiffe://a.test/region/eu-central/role/core/node/core-1";
        let identity = Identity::from_spiffe(uri, "a.test").expect("valid");
        let report = Report {
            node: identity.node.clone(),
            at: Micros(1),
            stress_permille: 0,
            meetings: 0,
            capacity: 0,
            draining: true,
            api: api.map(str::to_owned),
            software: String::new(),
            rtts: vec![],
            extension: None,
        };
        Member { identity, addr: SocketAddr::from(([192, 0, 2, 1], 4433)), report: Some(Arc::new(report)), heard: None }
    }

    #[test]
    fn a_member_becomes_a_node_of_the_directory() {
        let node = live(&member(Some("http://192.0.2.1:8080/v1")));
        assert_eq!((node.name.as_str(), node.role.as_str(), node.region.as_str()), ("core-1", "core", "eu-central"));
        assert_eq!(node.api, Some(SocketAddr::from(([192, 0, 2, 1], 8080))));
        assert!(node.draining);
    }

    #[test]
    fn an_api_that_is_no_address_is_left_out() {
        for api in [None, Some("https://core.example.net/"), Some("192.0.2.1"), Some("")] {
            assert_eq!(live(&member(api)).api, None, "{api:?}");
        }
        assert_eq!(live(&Member { report: None, ..member(None) }).api, None);
    }
}
