//! What a node says of itself by gossip: newest wins, about 60 to 300 bytes.
//!
//! Encoded it is a [`Report`] as 0.1.0 had it, and after it, for readers of 0.2.0 and later only, its
//! [`Extension`]. Nodes of 0.1.0 refuse bytes that they do not know, so they are never sent one. What follows
//! the extension is a later release's and is skipped.

use geo::RegionId;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Micros,
    codec::{self, DecodeError, EncodeError},
    coordinate::Coordinate,
    identity::NodeId,
};

/// The most regions a report names a round trip for.
pub const MAX_RTTS: usize = 12;

/// A node's state, on change and at least every 10 s, as a custom SWIM broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose.
    pub node: NodeId,
    /// When it was written, by its own clock; the newer of two wins.
    pub at: Micros,
    /// How busy it is, 0 idle to 1000 at its limit.
    pub stress_permille: u16,
    /// Meetings it serves now.
    pub meetings: u32,
    /// Meetings it can serve.
    pub capacity: u32,
    /// It takes no new work.
    pub draining: bool,
    /// Where its HTTP API is, for cores.
    pub api: Option<String>,
    /// Software version.
    pub software: String,
    /// Smoothed QUIC round trip to its nearest peer in each region, in microseconds; at most [`MAX_RTTS`].
    pub rtts: Vec<(RegionId, u32)>,
    /// What 0.2.0 added; `None` of a node that is older, or has not said it yet.
    #[serde(skip)]
    pub extension: Option<Extension>,
}

/// What a report says beyond its first shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Extension {
    /// The newest wire version that the node speaks, as the number in its ALPN id.
    pub wire: u8,
    /// Where it is in the space of round trips, once it knows.
    pub coordinate: Option<Coordinate>,
}

impl Report {
    /// Where the node is in the space of round trips, if it has said so.
    pub fn coordinate(&self) -> Option<Coordinate> {
        self.extension.and_then(|e| e.coordinate)
    }

    /// The newest wire version that the node is known to speak.
    pub fn wire(&self) -> u8 {
        self.extension.map_or(1, |e| e.wire)
    }

    /// Whether the node's release reads extensions: 0.2.0 or later, by its own word.
    pub fn reads_extension(&self) -> bool {
        reads_extension(&self.software)
    }

    /// The bytes for a broadcast, `extended` only for readers of whom [`Report::reads_extension`] holds.
    ///
    /// # Errors
    /// A text in it is longer than any message.
    pub fn encode(&self, extended: bool) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::with_capacity(96);
        codec::encode_body(self, &mut bytes)?;
        if let Some(extension) = self.extension.filter(|_| extended) {
            codec::encode_body(&extension, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// A report of either shape.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`]; arbitrary bytes never panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut report, used) = codec::decode_body::<Self>(bytes)?;
        let rest = bytes.get(used..).unwrap_or_default();
        if !rest.is_empty() {
            report.extension = Some(codec::decode_body(rest)?.0);
        }
        Ok(report)
    }
}

/// Whether a release, as reports name it (`0.2.0`, `nearfield 0.2.0-rc1`), reads extensions.
fn reads_extension(software: &str) -> bool {
    let version = software.rsplit(' ').next().unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(major), Some(minor)) if (major, minor) >= (0, 2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn report(extension: Option<Extension>) -> Report {
        Report {
            node: "core-1".parse().unwrap(),
            at: Micros(1_800_000_000_000_000),
            stress_permille: 250,
            meetings: 3,
            capacity: 40,
            draining: false,
            api: Some("http://192.0.2.1:8080".into()),
            software: "0.2.0".into(),
            rtts: vec![("eu-central".parse().unwrap(), 900)],
            extension,
        }
    }

    /// `Report` as 0.1.0 has it, which it reads to the last byte.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct First(NodeId, Micros, u16, u32, u32, bool, Option<String>, String, Vec<(RegionId, u32)>);

    #[test]
    fn the_first_shape_is_what_0_1_0_reads_and_the_extension_follows_it() {
        let coordinate = Coordinate::new([1.0, -2.5, 80.0], 3.0, 0.2).map(Coordinate::rounded);
        let new = report(Some(Extension { wire: 2, coordinate }));
        let first = new.encode(false).unwrap();
        let (old, used) = codec::decode_body::<First>(&first).unwrap();
        assert_eq!((old.0, old.7.as_str(), used), (new.node.clone(), "0.2.0", first.len()));
        assert_eq!(Report::decode(&first).unwrap(), report(None));
        let extended = new.encode(true).unwrap();
        assert_eq!(&extended[..first.len()], first);
        assert_eq!(Report::decode(&extended).unwrap(), new);
        assert_eq!(Report::decode(&[&extended[..], &[9, 9]].concat()).unwrap(), new, "a later release says more");
        assert_eq!((new.wire(), report(None).wire()), (2, 1));
    }

    #[test]
    fn releases_from_0_2_0_on_read_extensions() {
        for new in ["0.2.0", "0.2.1-rc1", "nearfield 0.10.0", "1.0.0"] {
            assert!(reads_extension(new), "{new}");
        }
        for old in ["0.1.0", "nearfield 0.1.9", "", "test", "0", "x.y"] {
            assert!(!reads_extension(old), "{old}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_report_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Report::decode(&bytes);
        }

        #[test]
        fn a_damaged_extension_is_an_extension_or_an_error(tail in prop::collection::vec(any::<u8>(), 1..30)) {
            let first = report(None).encode(true).unwrap();
            if let Ok(read) = Report::decode(&[first, tail].concat()) {
                prop_assert!(read.extension.is_some());
            }
        }
    }
}
