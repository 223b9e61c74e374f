//! What a meeting waits for, and how long.

use std::time::Duration;

/// What a meeting may wait for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// When an assigned edge has not opened the meeting here: assign another.
    Open,
    /// When no edge could be had: try again.
    Retry,
    /// When the edge was told to leave and has not closed: go on without it, unless it is known to live. Also when the meeting
    /// was to end while an edge was sought: it is told as soon as it has been found.
    Leave,
    /// When the edge has closed and spurts are still on their streams: end them where they are.
    Flush,
    /// When words are still being made: give up on them.
    Words,
}

impl Wait {
    pub(super) fn length(self) -> Duration {
        match self {
            Self::Open => Duration::from_secs(15),
            Self::Retry => Duration::from_secs(3),
            Self::Leave => Duration::from_secs(10),
            Self::Flush => Duration::from_secs(5),
            Self::Words => Duration::from_secs(600),
        }
    }
}

/// How long an edge that hands over is waited for, and as long again while it is known to capture.
pub(super) const LEAVING: Duration = Duration::from_secs(20);

/// How long an edge that is known to live is waited for once it was told to leave: it may be cut off from its cores, and
/// upload late all that was said meanwhile.
pub(super) const LATE_UPLOAD: Duration = Duration::from_secs(150);

/// How long an edge is sought for a meeting that was live, if none can be had: its own may be cut off, and listen on.
pub(super) const SEEK: Duration = Duration::from_secs(150);
