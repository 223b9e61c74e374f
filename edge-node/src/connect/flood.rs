//! Offers without end: who makes them is left.

use std::time::Duration;

use tokio::time::Instant;

use super::ConnectError;

/// Offers, either side's, in [`WINDOW`]. A full room that breaks up makes some 500.
pub(super) const MAX_OFFERS: u32 = 600;

/// See [`MAX_OFFERS`].
const WINDOW: Duration = Duration::from_secs(60);

/// Counts the offers of one stay.
#[derive(Debug)]
pub(super) struct Flood {
    count: u32,
    /// When the window began.
    since: Instant,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self { count: 0, since: now }
    }

    /// One more.
    ///
    /// # Errors
    /// It is one too many.
    pub(super) fn count(&mut self, now: Instant) -> Result<(), ConnectError> {
        if now - self.since >= WINDOW {
            *self = Self::new(now);
        }
        self.count += 1;
        if self.count <= MAX_OFFERS {
            return Ok(());
        }
        let why = format!("over {MAX_OFFERS} within {WINDOW:?}");
        Err(ConnectError::BadMessage { what: "number of offers", why })
    }
}
