//! How far apart two regions are in time: measured where somebody measured it, else by distance.

use std::time::Duration;

use crate::{
    map::{Region, RegionMap},
    matrix::RttMatrix,
    region::RegionId,
};

/// Two hosts of one region. The published matrix has no cell for it; its smallest cells, between regions of
/// one city, say 2 to 4 ms, and clouds promise under 2 ms between zones of one region.
const SAME_REGION: Duration = Duration::from_millis(1);

/// Fit of the matrix against great-circle distance: 25.8 ms + 14.3 ms per 1000 km (r = 0.88, median error
/// 17 %, ninth decile 60 %). The constant is what detours, last miles and routers cost on average.
const FIT_BASE_MS: f64 = 25.8;
const FIT_MS_PER_KM: f64 = 14.3 / 1000.0;

/// Where an estimate comes from; the earlier is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Somebody measured this pair of regions.
    Measured,
    /// Nobody did: the great-circle fit.
    Distance,
}

/// A round trip, and how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// The round trip.
    pub rtt: Duration,
    /// How it is known.
    pub source: Source,
}

/// Round trips between the regions of a map.
#[derive(Debug, Clone)]
pub struct LatencyModel {
    map: RegionMap,
    /// Between Azure's regions, as published.
    measured: RttMatrix,
}

impl LatencyModel {
    /// A model of the regions in `map`, with the measurements compiled into the program.
    pub fn new(map: RegionMap) -> Self {
        Self { map, measured: RttMatrix::azure() }
    }

    /// The regions it knows.
    pub fn map(&self) -> &RegionMap {
        &self.map
    }

    /// The round trip between two regions: the same both ways. `None` if either is not in the map, and they
    /// are not one and the same.
    pub fn estimate(&self, a: &RegionId, b: &RegionId) -> Option<Latency> {
        if a == b {
            return Some(Latency { rtt: SAME_REGION, source: Source::Measured });
        }
        let (a, b) = (self.map.region(a)?, self.map.region(b)?);
        let measured = self.measured(a, b).map(|rtt| Latency { rtt, source: Source::Measured });
        measured.or_else(|| Some(Latency { rtt: by_distance(a, b), source: Source::Distance }))
    }

    /// The published figure.
    fn measured(&self, a: &Region, b: &Region) -> Option<Duration> {
        let (a, b) = (a.azure.as_deref()?, b.azure.as_deref()?);
        if a == b {
            return Some(SAME_REGION);
        }
        let ms = self.measured.rtt_ms(self.measured.position(a)?, self.measured.position(b)?)?;
        Some(Duration::from_secs_f64(ms / 1000.0))
    }
}

impl Default for LatencyModel {
    fn default() -> Self {
        Self::new(RegionMap::built_in())
    }
}

fn by_distance(a: &Region, b: &Region) -> Duration {
    fit(a.place.distance_km(b.place))
}

/// The round trip over `km` kilometres of great circle, by the fit to what Azure publishes.
pub fn fit(km: f64) -> Duration {
    Duration::from_secs_f64((FIT_BASE_MS + FIT_MS_PER_KM * km.clamp(0.0, 20_100.0)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(model: &LatencyModel, a: &str, b: &str) -> Option<(f64, Source)> {
        let id = |text: &str| text.parse().expect("a region id");
        model.estimate(&id(a), &id(b)).map(|found| (found.rtt.as_secs_f64() * 1000.0, found.source))
    }

    #[test]
    fn a_published_pair_is_measured_and_the_same_both_ways() {
        let model = LatencyModel::default();
        let there = estimate(&model, "eu-central", "ap-northeast").unwrap();
        assert_eq!(there.1, Source::Measured);
        assert!((150.0..300.0).contains(&there.0), "{there:?}");
        assert_eq!(estimate(&model, "ap-northeast", "eu-central"), Some(there));
    }

    #[test]
    fn one_region_is_a_millisecond_wide_even_if_nobody_knows_where_it_is() {
        let model = LatencyModel::default();
        assert_eq!(estimate(&model, "eu-central", "eu-central"), Some((1.0, Source::Measured)));
        assert_eq!(estimate(&model, "atlantis", "atlantis"), Some((1.0, Source::Measured)));
        assert_eq!(estimate(&model, "atlantis", "eu-central"), None);
    }

    #[test]
    fn an_unmeasured_pair_falls_back_to_distance_and_says_so() {
        let file = "id,lat,lon,residency,azure\nmunich,48.1351,11.5820,eu,\n";
        let model = LatencyModel::new(RegionMap::built_in().overlaid(file).unwrap());
        let (rtt, source) = estimate(&model, "munich", "ap-northeast").unwrap();
        assert_eq!(source, Source::Distance);
        // Munich to Tokyo is about 9370 km: 25.8 + 134 ms.
        assert!((158.0..162.0).contains(&rtt), "{rtt}");
    }

    #[test]
    fn every_built_in_region_has_measurements() {
        let model = LatencyModel::default();
        let here: RegionId = "eu-west".parse().unwrap();
        let unmeasured: Vec<_> = model
            .map()
            .iter()
            .filter(|region| model.estimate(&here, &region.id).unwrap().source == Source::Distance)
            .map(|region| region.id.as_str())
            .collect();
        assert!(unmeasured.is_empty(), "misspelt Azure names? {unmeasured:?}");
    }

    #[test]
    fn the_fit_is_as_good_as_it_claims() {
        let model = LatencyModel::default();
        let regions: Vec<_> = model.map().iter().collect();
        let mut errors: Vec<f64> = Vec::new();
        for (i, a) in regions.iter().enumerate() {
            for b in &regions[..i] {
                let Some(truth) = model.measured(a, b) else { continue };
                errors.push((by_distance(a, b).as_secs_f64() / truth.as_secs_f64() - 1.0).abs());
            }
        }
        errors.sort_by(f64::total_cmp);
        let median = errors[errors.len() / 2];
        assert!(errors.len() > 700 && median < 0.20, "median error {median} over {} pairs", errors.len());
    }
}
