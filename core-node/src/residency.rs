//! Where a meeting's speech may be.

use std::collections::BTreeSet;

use geo::{RegionId, latency::LatencyModel, map::RegionMap};
use mesh::{identity::Role, node::Member};

/// A name that is neither a region nor a residency group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a region nor a residency group of this mesh")]
pub struct UnknownPlace(pub String);

/// The regions that `names` (regions or residency groups) allow; `None` allows all.
///
/// # Errors
/// A name that means nothing here.
pub fn allowed(map: &RegionMap, names: &[String]) -> Result<Option<BTreeSet<RegionId>>, UnknownPlace> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut regions = BTreeSet::new();
    for name in names {
        let before = regions.len();
        let named = map.iter().filter(|r| r.id.as_str() == name || &*r.residency == name.as_str());
        regions.extend(named.map(|r| r.id.clone()));
        let known = regions.len() > before || map.iter().any(|r| r.id.as_str() == name || &*r.residency == name);
        if !known {
            return Err(UnknownPlace(name.clone()));
        }
    }
    Ok(Some(regions))
}

/// The API of the nearest live core in `regions`, to which a request that this core may not serve is sent.
pub fn core_within<'a>(
    members: &'a [Member],
    regions: &BTreeSet<RegionId>,
    here: &RegionId,
    model: &LatencyModel,
) -> Option<&'a str> {
    let cores = members.iter().filter(|m| m.identity.role == Role::Core && regions.contains(&m.identity.region));
    let open = cores.filter_map(|m| {
        let report = m.report.as_ref().filter(|r| !r.draining && r.capacity > 0)?;
        Some((model.estimate(here, &m.identity.region).map(|l| l.rtt), report.api.as_deref()?))
    });
    open.min_by_key(|(rtt, _)| (rtt.is_none(), *rtt)).map(|(_, api)| api)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn groups_and_regions_can_be_mixed_and_unknown_names_are_told() {
        let map = RegionMap::built_in();
        assert_eq!(allowed(&map, &[]), Ok(None));
        let some = map.iter().next().unwrap();
        let group = allowed(&map, &[some.residency.to_string()]).unwrap().unwrap();
        assert!(group.contains(&some.id));
        assert_eq!(allowed(&map, &[some.id.to_string(), some.id.to_string()]), Ok(Some([some.id.clone()].into())));
        assert_eq!(allowed(&map, &["atlantis".into()]), Err(UnknownPlace("atlantis".into())));
    }
}
