//! Which core would serve a meeting next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use geo::RegionId;
use mesh::{
    identity::{Identity, NodeId, Role},
    node::Member,
};

/// How long a core that was no good as a standby is passed over.
pub const AVOID: Duration = Duration::from_secs(20);

/// Cores that were no good, and until when they are passed over.
#[derive(Debug, Default)]
pub struct Avoided(BTreeMap<NodeId, Instant>);

impl Avoided {
    /// `core` was no good.
    pub fn add(&mut self, core: NodeId, now: Instant) {
        self.0.insert(core, now + AVOID);
    }

    /// A core that is not among `members` is another when it comes back: it may be chosen at once.
    pub fn forget_absent(&mut self, members: &[Member]) {
        self.0.retain(|core, _| members.iter().any(|m| m.identity.node == *core));
    }

    /// Returns when a core may be chosen again that may not be now; never, if there is none.
    pub async fn wait(&self) {
        match self.0.values().min() {
            Some(until) => tokio::time::sleep_until((*until).into()).await,
            None => std::future::pending().await,
        }
    }

    /// Whether `core` is passed over now.
    pub fn contains(&mut self, core: &NodeId, now: Instant) -> bool {
        self.0.retain(|_, until| *until > now);
        self.0.contains_key(core)
    }
}

/// Whether `member` may hold the meeting: a live core in `regions` (`None` allows all) that is not going away, and whose
/// store takes more (else it says that it has no capacity).
pub fn fit(member: &Member, regions: Option<&BTreeSet<RegionId>>) -> bool {
    let here = regions.is_none_or(|r| r.contains(&member.identity.region));
    let open = member.report.as_ref().is_some_and(|r| !r.draining && r.capacity > 0 && r.api.is_some());
    member.identity.role == Role::Core && here && open
}

/// The fit cores, best first: those of this core's own region, then the nearest by `rtt`.
pub fn ranked(
    members: &[Member],
    me: &Identity,
    regions: Option<&BTreeSet<RegionId>>,
    rtt: impl Fn(&Identity) -> Option<Duration>,
) -> Vec<NodeId> {
    let mut fit: Vec<_> = members.iter().filter(|m| m.identity.node != me.node && fit(m, regions)).collect();
    fit.sort_by_cached_key(|m| {
        let rtt = rtt(&m.identity);
        (m.identity.region != me.region, rtt.is_none(), rtt, m.identity.node.clone())
    });
    fit.into_iter().map(|m| m.identity.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use mesh::{clock::Micros, wire::report::Report};

    use super::*;

    #[test]
    fn a_core_whose_store_takes_nothing_more_is_no_standby() {
        let identity = Identity::from_spiffe("spiffe://a.test/region/eu/role/core/node/core-2", "a.test").unwrap();
        let with = |capacity| Report {
            node: identity.node.clone(),
            at: Micros(1),
            stress_permille: 0,
            meetings: 0,
            capacity,
            draining: false,
            api: Some("192.0.2.1:8080".into()),
            software: String::new(),
            rtts: vec![],
            extension: None,
        };
        let addr = "192.0.2.1:4433".parse().unwrap();
        let member =
            |capacity| Member { identity: identity.clone(), addr, report: Some(Arc::new(with(capacity))), heard: None };
        assert!(fit(&member(600), None));
        assert!(!fit(&member(0), None));
    }
}
