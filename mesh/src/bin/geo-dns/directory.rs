//! The live nodes as DNS answers name them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use geo::answer::{Directory, LiveNode};
use mesh::{
    identity::Identity,
    node::{Member, Node},
    wire::report::Report,
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

/// Why a node that is cut off is not ready.
pub(crate) const CUT_OFF: &str = "no other node is known, though there are seeds or have been members";

/// For how long the zone's only name server names those whom it knew last, once it is cut off: as a secondary does until its copy
/// expires (RFC 1035 section 3.3.13), since nobody else would answer. Most of them still run, or all callers are cut off as well. Long
/// enough for a link or a firewall that comes back, or certificates that are put in place; far longer than gossip takes to lose them.
const STALE: Duration = Duration::from_secs(120);

/// Whom gossip knows, and whom it knew until it was cut off. Pure.
pub(crate) struct Known {
    /// There are seeds. Who has none and never had a member begins the mesh.
    seeds: bool,
    keep: Duration,
    members: Vec<LiveNode>,
    /// Those that are gone since, and when they went: within `keep`, or within that before it was cut off.
    lost: Vec<(LiveNode, Instant)>,
    /// Since when, if it is so.
    cut_off: Option<Instant>,
}

impl Known {
    /// Nobody yet. `servers` is how many name servers the zone has: where there is another, resolvers ask that one.
    pub(crate) fn new(seeds: bool, servers: usize, now: Instant) -> Self {
        let keep = if servers > 1 { Duration::ZERO } else { STALE };
        Self { seeds, keep, members: vec![], lost: vec![], cut_off: seeds.then_some(now) }
    }

    /// These are the members `now`, without this node itself.
    pub(crate) fn handle_members(&mut self, members: Vec<LiveNode>, now: Instant) {
        let same = |a: &LiveNode, b: &LiveNode| a.name == b.name && a.region == b.region;
        let before = std::mem::replace(&mut self.members, members);
        let had = !before.is_empty();
        // Who drains has said goodbye.
        self.lost.extend(before.into_iter().filter(|node| !node.draining).map(|node| (node, now)));
        if self.cut_off.is_none() {
            self.lost.retain(|(_, since)| now.duration_since(*since) < self.keep);
        }
        self.lost.retain(|(node, _)| !self.members.iter().any(|member| same(member, node)));
        self.cut_off = match self.cut_off {
            _ if !self.members.is_empty() => None,
            None if self.seeds || had => Some(now),
            since => since,
        };
    }

    /// What is to be answered `now`; `own` is this node itself, so that even the first to join finds somebody.
    pub(crate) fn directory(&self, own: LiveNode, now: Instant) -> Directory {
        let stale = self.poll_timeout().is_some_and(|until| now < until);
        let remembered = self.lost.iter().filter(|_| stale).map(|(node, _)| node);
        let nodes = self.members.iter().chain(remembered).cloned().chain([own]).collect();
        Directory { nodes, cut_off: self.cut_off.is_some() }
    }

    /// When those whom it knew last are named no more.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.cut_off.map(|since| since + self.keep)
    }
}

/// Keeps `directory` as the members are, until nobody reads it or the node is gone.
pub(crate) async fn follow(node: Node, known: Arc<Mutex<Known>>, directory: watch::Sender<Arc<Directory>>) {
    // There is one of this at a time.
    let mut known = known.lock().await;
    let mut members = node.members();
    loop {
        let now = Instant::now();
        known.handle_members(members.borrow_and_update().iter().map(live).collect(), now);
        let next = known.directory(own(&node), now);
        let before = directory.borrow().cut_off;
        if next.cut_off != before {
            match next.cut_off {
                true => tracing::warn!("{CUT_OFF}"),
                false => tracing::info!("other nodes are known"),
            }
        }
        if directory.send(Arc::new(next)).is_err() {
            return;
        }
        let expires = known.poll_timeout().filter(|until| *until > now);
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            () = sleep_until(expires.unwrap_or(now)), if expires.is_some() => {}
        }
    }
}

/// This node as its own directory names it.
pub(crate) fn own(node: &Node) -> LiveNode {
    live(&Member {
        identity: node.identity().clone(),
        addr: node.address(),
        report: Some(Arc::new(node.report())),
        heard: None,
    })
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

    fn nodes(names: &[&str]) -> Vec<LiveNode> {
        let node = |name: &&str| LiveNode { name: (*name).to_owned(), draining: false, ..live(&member(None)) };
        names.iter().map(node).collect()
    }

    /// Whom it names after each of these, and whether it says that it is cut off.
    fn named(known: &Known, now: Instant) -> (Vec<String>, bool) {
        let Directory { nodes, cut_off } = known.directory(live(&member(None)), now);
        (nodes.into_iter().map(|node| node.name).filter(|name| name != "core-1").collect(), cut_off)
    }

    #[test]
    fn who_has_seeds_or_has_had_members_and_knows_nobody_is_cut_off() {
        let now = Instant::now();
        let cut_off = |seeds, servers, members: &[usize]| {
            let mut known = Known::new(seeds, servers, now);
            for count in members {
                known.handle_members(nodes(&["a", "b"][..*count]), now);
            }
            named(&known, now).1
        };
        for servers in [1, 2] {
            assert!(!cut_off(false, servers, &[]) && !cut_off(false, servers, &[0, 0]), "the first of its mesh");
            assert!(cut_off(true, servers, &[]) && cut_off(true, servers, &[0, 0]), "it has not joined yet");
            for seeds in [false, true] {
                assert!(!cut_off(seeds, servers, &[0, 2]), "it knows somebody");
                assert!(cut_off(seeds, servers, &[0, 2, 0]) && cut_off(seeds, servers, &[0, 1, 0, 0]));
                assert!(!cut_off(seeds, servers, &[0, 1, 0, 1]), "and back");
            }
        }
    }

    #[test]
    fn the_only_name_server_names_whom_it_knew_last_for_a_while_and_one_of_several_nobody() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for (servers, kept) in [(1, vec!["b", "c"]), (2, vec![])] {
            let mut known = Known::new(true, servers, start);
            let draining = LiveNode { draining: true, ..nodes(&["d"])[0].clone() };
            known.handle_members([nodes(&["a", "b", "c"]), vec![draining]].concat(), start);
            known.handle_members(nodes(&["b", "c"]), start + second);
            assert_eq!(named(&known, start + second).0, ["b", "c"], "the dead are not named while there are others");
            // Long after: whoever went so long ago is not meant.
            let gone = start + STALE + 2 * second;
            known.handle_members(nodes(&["c"]), gone);
            let cut = gone + second;
            known.handle_members(vec![], cut);
            known.handle_members(vec![], cut + second);
            assert_eq!(named(&known, cut + second), (kept.iter().map(ToString::to_string).collect(), true));
            let over = known.poll_timeout().expect("an end");
            assert_eq!(over, cut + if servers == 1 { STALE } else { Duration::ZERO });
            assert_eq!(named(&known, over), (vec![], true), "nobody knows any more");
            known.handle_members(nodes(&["c"]), over);
            assert_eq!((named(&known, over), known.poll_timeout()), ((vec!["c".to_owned()], false), None));
        }
    }

    #[test]
    fn an_api_that_is_no_address_is_left_out() {
        for api in [None, Some("https://core.example.net/"), Some("192.0.2.1"), Some("")] {
            assert_eq!(live(&member(api)).api, None, "{api:?}");
        }
        assert_eq!(live(&Member { report: None, ..member(None) }).api, None);
    }
}
