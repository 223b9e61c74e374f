//! Where named sites are on the globe: Azure's regions, or an operator's own.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::region::Place;

/// Azure's list of its regions; see `data/README.md`.
const AZURE: &str = include_str!("../data/azure_regions.csv");

/// Why a text is no list of places. Lines count from 1, comments included.
#[derive(Debug, thiserror::Error)]
pub enum BadPlaces {
    /// A row is not of the form `region,lat,lon`.
    #[error("places: {0}; expected a header and rows `region,lat,lon`")]
    Row(#[from] csv::Error),
    /// A latitude or longitude is outside the globe.
    #[error("places: `{name}`: latitude {lat}, longitude {lon}: allowed are -90 to 90 and -180 to 180")]
    Place {
        /// Whose.
        name: String,
        /// Degrees north.
        lat: f64,
        /// Degrees east.
        lon: f64,
    },
}

#[derive(Deserialize)]
struct Row {
    region: String,
    lat: f64,
    lon: f64,
}

/// Azure's public regions, by name.
pub fn azure() -> BTreeMap<String, Place> {
    parse(AZURE).expect("the built-in list is valid: a test reads it")
}

/// Reads rows `region,lat,lon` below that header; lines that begin with `#` are comments.
///
/// # Errors
/// See [`BadPlaces`].
pub fn parse(text: &str) -> Result<BTreeMap<String, Place>, BadPlaces> {
    let place = |row: Result<Row, csv::Error>| {
        let Row { region, lat, lon } = row?;
        let name = || region.chars().take(64).collect();
        let place = Place::new(lat, lon).ok_or_else(|| BadPlaces::Place { name: name(), lat, lon })?;
        Ok((region, place))
    };
    crate::table(text).deserialize().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_regions_are_where_they_are() {
        let tokyo = azure()["Japan East"];
        assert!((35.0..36.5).contains(&tokyo.lat()) && azure().len() >= 50);
    }

    #[test]
    fn what_is_no_place_is_refused_with_its_reason() {
        let refuse = |text: &str| parse(text).unwrap_err().to_string();
        assert!(refuse("region,lat,lon\nx,91,0\n").contains("`x`: latitude 91"));
        assert!(refuse("region,lat,lon\nx,north,0\n").contains("line: 2"));
        assert!(refuse("name,lat,lon\nx,1,0\n").contains("expected a header"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_is_read_or_refused(text in ".{0,300}") {
            let _ = parse(&text);
        }
    }
}
