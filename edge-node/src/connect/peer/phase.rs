//! Where a connection stands.

use std::time::Instant;

/// See the module; its way is drawn in `session`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not connected yet.
    New,
    /// Media can flow, and none has.
    Up,
    /// Media flow.
    Flowing,
    /// Media could flow, and nobody has sent any for long.
    Idle,
    /// The relay is silent, since then.
    Silent(Instant),
    /// The relay has taken leave.
    Closed,
    /// It is over.
    Failed(&'static str),
}

impl Phase {
    /// Whether media can flow.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Up | Self::Flowing | Self::Idle)
    }

    /// Whether nothing comes of it any more.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Failed(_))
    }
}
