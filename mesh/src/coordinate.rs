//! Where a node is in the space of round trips.
//!
//! Vivaldi (Dabek, Cox, Kaashoek, Morris, "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM 2004):
//! each node moves its own coordinate by the round trips it measures to others ([`Vivaldi`]) and tells it in
//! its report; whoever has two of them knows about how far apart those nodes are, though nobody ever measured
//! that pair. On Azure's matrix the median estimate is about 7 % off, where the fit by distance is 17 % off.

mod vivaldi;

use geo::region::Place;
use serde::{Deserialize, Serialize};

/// A place in a three-dimensional Euclidean space of milliseconds, with a height above it for the access
/// link (Dabek et al., *Vivaldi*, SIGCOMM 2004, section 5.4).
///
/// On the wire it is 5 to 13 bytes of fixed point, which no bytes can make infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Quantised", into = "Quantised")]
pub struct Coordinate {
    /// Milliseconds along each axis; on the wire -4096 to 4096 in eighths.
    pub position: [f32; 3],
    /// Milliseconds that every path to this node has in common; on the wire 0 to 8192 in eighths.
    pub height: f32,
    /// How far off predictions from it are, as a share of what they predict: 0 exact to 1 no idea.
    pub error: f32,
}

pub use self::vivaldi::{Refused, Settings, Vivaldi};

/// Nothing on Earth is further away, in milliseconds: a round trip beyond it is an error or a lie.
pub const FARTHEST_MS: f64 = 4_000.0;

/// The radius of a globe on which chords are about as long as round trips are (14.3 ms for 1000 km, see `geo::latency`).
const GLOBE_MS: f64 = 100.0;

/// Half of what a round trip has beyond its distance.
const ACCESS_MS: f32 = 6.0;

/// Steps of a millisecond on the wire.
const STEPS: f32 = 8.0;

#[derive(Serialize, Deserialize)]
struct Quantised {
    position: [i16; 3],
    height: u16,
    error: u8,
}

impl Coordinate {
    /// A coordinate of these parts.
    ///
    /// `None` if a part is not a number, infinite or out of its range.
    pub fn new(position: [f32; 3], height: f32, error: f32) -> Option<Self> {
        let limit = f32::from(i16::MAX) / STEPS;
        let sound = position.iter().all(|part| (-limit..=limit).contains(part))
            && (0.0..=f32::from(u16::MAX) / STEPS).contains(&height)
            && (0.0..=1.0).contains(&error);
        sound.then_some(Self { position, height, error })
    }

    /// Of a node that has measured nothing yet.
    pub fn unknown() -> Self {
        Self { position: [0.0; 3], height: 0.0, error: 1.0 }
    }

    /// How far a node has moved that is at `other` by now, in milliseconds.
    pub fn moved_ms(&self, other: &Self) -> f64 {
        let position = euclidean(&self.position.map(f64::from), &other.position.map(f64::from));
        position + f64::from((self.height - other.height).abs())
    }

    /// A stand-in for the coordinate of a node of which only its place on the globe is known. It compares with its like
    /// alone, never with what [`Vivaldi`] has learnt.
    pub fn on_map(place: Place) -> Self {
        let (lat, lon) = (place.lat().to_radians(), place.lon().to_radians());
        let direction = [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()];
        Self { position: direction.map(|x| (x * GLOBE_MS) as f32), height: ACCESS_MS, error: 0.5 }
    }

    /// Whether it can be one: what has not come off the wire is to be checked before it is used.
    pub fn is_sane(&self) -> bool {
        Self::new(self.position, self.height, self.error).is_some()
    }

    /// The round trip to `other` by the two coordinates, in milliseconds.
    pub fn rtt_ms(&self, other: &Self) -> f64 {
        euclidean(&self.position.map(f64::from), &other.position.map(f64::from))
            + f64::from(self.height)
            + f64::from(other.height)
    }

    /// The coordinate as others will read it.
    pub fn rounded(self) -> Self {
        Quantised::from(self).into()
    }
}

// `as` from a float saturates, and makes 0 of what is not a number.
impl From<Coordinate> for Quantised {
    fn from(c: Coordinate) -> Self {
        Self {
            position: c.position.map(|part| (part * STEPS).round() as i16),
            height: (c.height * STEPS).round() as u16,
            error: (c.error * f32::from(u8::MAX)).round() as u8,
        }
    }
}

impl From<Quantised> for Coordinate {
    fn from(q: Quantised) -> Self {
        Self {
            position: q.position.map(|part| f32::from(part) / STEPS),
            height: f32::from(q.height) / STEPS,
            error: f32::from(q.error) / f32::from(u8::MAX),
        }
    }
}

fn euclidean(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod learning;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    #[test]
    fn what_is_no_place_is_refused_and_cannot_be_sent() {
        for part in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 5000.0] {
            assert_eq!(Coordinate::new([0.0, part, 0.0], 1.0, 0.5), None);
            let sent = Coordinate { position: [part; 3], height: part, error: part }.rounded();
            assert!(sent.position[0].abs() <= 4096.0 && sent.height >= 0.0 && sent.error <= 1.0, "{sent:?}");
        }
        assert_eq!(Coordinate::new([0.0; 3], -1.0, 0.5), None);
        assert_eq!(Coordinate::new([0.0; 3], 1.0, 1.5), None);
    }

    #[test]
    fn a_place_on_the_map_is_nearer_to_what_is_near() {
        let at = |lat, lon| Coordinate::on_map(Place::new(lat, lon).unwrap());
        let (frankfurt, london, new_york, tokyo) = (at(50.1, 8.7), at(51.5, -0.1), at(40.7, -74.0), at(35.7, 139.7));
        let ms = [london, new_york, tokyo].map(|other| frankfurt.rtt_ms(&other).round());
        assert_eq!(ms, [22.0, 106.0, 146.0]);
        assert!(tokyo.is_sane());
    }

    proptest! {
        #[test]
        fn a_coordinate_is_read_as_it_was_written_to_an_eighth_of_a_millisecond(
            position in prop::array::uniform3(-4000f32..4000.0), height in 0f32..8000.0, error in 0f32..1.0,
        ) {
            let sent = Coordinate::new(position, height, error).unwrap();
            let mut bytes = vec![];
            codec::encode_body(&sent, &mut bytes).unwrap();
            prop_assert!(bytes.len() <= 13);
            let (read, _) = codec::decode_body::<Coordinate>(&bytes).unwrap();
            prop_assert_eq!(read, sent.rounded());
            prop_assert!((read.height - height).abs() <= 0.0625 && (read.error - error).abs() <= 0.002);
            prop_assert!(position.iter().zip(read.position).all(|(a, b)| (a - b).abs() <= 0.0625));
        }

        #[test]
        fn arbitrary_bytes_are_a_place_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok((c, _)) = codec::decode_body::<Coordinate>(&bytes) {
                prop_assert!(c.position.iter().all(|part| part.abs() <= 4096.0));
                prop_assert!((0.0..=8192.0).contains(&c.height) && (0.0..=1.0).contains(&c.error));
            }
        }
    }
}
