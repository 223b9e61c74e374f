//! The region table: where each region is and under whose law.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use crate::region::{Place, RegionId};

/// The table compiled into the program.
const BUILT_IN: &str = include_str!("../data/regions.csv");

/// The most regions a map may hold: far above any cloud's count, low enough that ranking all of them is cheap.
pub const MAX_REGIONS: usize = 1024;

/// A region and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// Its id.
    pub id: RegionId,
    /// Where it is.
    pub place: Place,
    /// The jurisdiction that speech stays under, such as `eu`, `jp` or `us`. Two regions of one group may
    /// serve the same meeting whose policy names that group.
    pub residency: Arc<str>,
    /// The Azure region whose published round trips hold for it, such as `Germany West Central`.
    pub azure: Option<Arc<str>>,
}

/// All regions that this deployment knows, by id.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionMap {
    regions: BTreeMap<RegionId, Region>,
}

/// Why a region file is refused. Lines count from 1, comments included.
#[derive(Debug, thiserror::Error)]
pub enum BadMap {
    /// A row is not of the form `id,lat,lon,residency,azure`.
    #[error("region file: {0}; expected a header and rows `id,lat,lon,residency,azure`")]
    Row(#[from] csv::Error),
    /// A latitude or longitude is outside the globe.
    #[error("region `{id}`: latitude {lat}, longitude {lon}: allowed are -90 to 90 and -180 to 180")]
    Place {
        /// Whose.
        id: RegionId,
        /// Degrees north.
        lat: f64,
        /// Degrees east.
        lon: f64,
    },
    /// A residency group is not a short plain word.
    #[error("region `{id}`: residency group `{group}`: allowed are 1 to 32 of a-z, 0-9 and `-`, such as `eu`")]
    Residency {
        /// Whose.
        id: RegionId,
        /// What was given.
        group: String,
    },
    /// The file names one region twice.
    #[error("region `{0}` is there twice")]
    Twice(RegionId),
    /// More than [`MAX_REGIONS`].
    #[error("more than {MAX_REGIONS} regions")]
    TooMany,
}

/// One row as it is written.
#[derive(Deserialize)]
struct Row {
    id: RegionId,
    lat: f64,
    lon: f64,
    residency: String,
    azure: Option<String>,
}

impl RegionMap {
    /// The table compiled into the program: one region for each useful Azure region.
    pub fn built_in() -> Self {
        Self { regions: parse(BUILT_IN).expect("the built-in table is valid: a test reads it") }
    }

    /// This map with the rows of an operator's file laid over it: a known id is replaced, a new one added.
    ///
    /// # Errors
    /// The text is not a region file, names a region twice, or the map would hold more than [`MAX_REGIONS`].
    pub fn overlaid(mut self, text: &str) -> Result<Self, BadMap> {
        self.regions.extend(parse(text)?);
        if self.regions.len() > MAX_REGIONS { Err(BadMap::TooMany) } else { Ok(self) }
    }

    /// What is known of a region.
    pub fn region(&self, id: &RegionId) -> Option<&Region> {
        self.regions.get(id)
    }

    /// The jurisdiction a region is under.
    pub fn residency(&self, id: &RegionId) -> Option<&str> {
        self.region(id).map(|region| &*region.residency)
    }

    /// Every region, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}

impl Default for RegionMap {
    fn default() -> Self {
        Self::built_in()
    }
}

fn parse(text: &str) -> Result<BTreeMap<RegionId, Region>, BadMap> {
    let mut regions = BTreeMap::new();
    for row in crate::table(text).deserialize::<Row>() {
        let region = Region::try_from(row?)?;
        if regions.len() == MAX_REGIONS {
            return Err(BadMap::TooMany);
        }
        if let Some(first) = regions.insert(region.id.clone(), region) {
            return Err(BadMap::Twice(first.id));
        }
    }
    Ok(regions)
}

impl TryFrom<Row> for Region {
    type Error = BadMap;

    fn try_from(Row { id, lat, lon, residency, azure }: Row) -> Result<Self, BadMap> {
        let Some(place) = Place::new(lat, lon) else { return Err(BadMap::Place { id, lat, lon }) };
        // A residency group obeys the rules of a region id: both end up in certificates and policies.
        if residency.parse::<RegionId>().is_err() {
            return Err(BadMap::Residency { id, group: residency.chars().take(64).collect() });
        }
        Ok(Self { id, place, residency: residency.into(), azure: azure.map(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> RegionId {
        text.parse().expect("a region id")
    }

    #[test]
    fn the_built_in_table_is_valid_and_names_the_demos_regions() {
        let map = RegionMap::built_in();
        assert_eq!(map.region(&id("eu-central")).unwrap().azure.as_deref(), Some("Germany West Central"));
        assert_eq!(map.residency(&id("ap-northeast")), Some("jp"));
        assert!(map.iter().count() >= 40);
    }

    #[test]
    fn each_built_in_region_lies_where_azures_list_says() {
        let places = crate::places::azure();
        for region in RegionMap::built_in().iter() {
            let azure = region.azure.as_deref().unwrap();
            assert_eq!(places.get(azure), Some(&region.place), "{}", region.id);
        }
    }

    #[test]
    fn an_operators_row_replaces_or_adds_a_region() {
        let file = "# ours\nid,lat,lon,residency,azure\neu-central,50.0,8.5,eu,\nbasement,48.1,11.6,eu,\n";
        let map = RegionMap::built_in().overlaid(file).unwrap();
        assert_eq!(map.region(&id("eu-central")).unwrap().azure, None);
        assert_eq!(map.residency(&id("basement")), Some("eu"));
    }

    #[test]
    fn a_bad_row_is_refused_with_its_reason() {
        let refuse = |rows: &str| {
            let file = format!("id,lat,lon,residency,azure\n{rows}\n");
            RegionMap::built_in().overlaid(&file).unwrap_err().to_string()
        };
        assert!(refuse("x,95,0,eu,").contains("latitude 95"));
        assert!(refuse("x,NaN,0,eu,").contains("latitude NaN"));
        assert!(refuse("x,1,1,Europe Union,").contains("residency group"));
        assert!(refuse("x,1,1,eu,\nx,2,2,eu,").contains("twice"));
        assert!(refuse("X!,1,1,eu,").contains("not a region id"));
        assert!(refuse("x,1").contains("id,lat,lon,residency,azure"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_is_read_or_refused(text in ".{0,400}") {
            let _ = RegionMap::built_in().overlaid(&text);
        }
    }
}
