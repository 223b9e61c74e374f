//! What two nodes may agree to speak.

/// What two nodes have agreed to speak, by ALPN (RFC 7301): the newest that both know.
///
/// Messages of an older version keep their shape for ever; a newer one only adds variants at the end of
/// the enums, which nobody sends to a peer that does not know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `nearfield/1`: one core for each meeting, ownership by membership alone.
    V1,
    /// `nearfield/2`: leases, terms and standby cores, replication, redundant copies of frames.
    V2,
}

impl Version {
    /// The newest this build speaks.
    pub const NEWEST: Self = Self::V2;

    /// The number of the version, as reports have it.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// Its ALPN protocol id.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::V1 => b"nearfield/1",
            Self::V2 => b"nearfield/2",
        }
    }

    /// The version an ALPN protocol id names.
    pub fn from_alpn(id: &[u8]) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|v| v.alpn() == id)
    }

    /// What to offer, newest first, for a node that speaks nothing newer than `self`.
    pub fn offer(self) -> Vec<Vec<u8>> {
        [Self::V2, Self::V1].into_iter().filter(|v| *v <= self).map(|v| v.alpn().to_vec()).collect()
    }
}

impl Default for Version {
    fn default() -> Self {
        Self::NEWEST
    }
}
