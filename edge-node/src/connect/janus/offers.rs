//! How many descriptions a relay has us answer.

use std::time::Duration;

use tokio::time::Instant;

use super::super::ConnectError;

/// Offers of the relay's in [`WINDOW`]; one that goes on for ever is left. A full room that breaks up makes some 500.
pub(super) const MAX_OFFERS: u32 = 600;

/// See [`MAX_OFFERS`].
const WINDOW: Duration = Duration::from_secs(60);

/// Those in the window that began then.
#[derive(Debug)]
pub(super) struct Offers {
    count: u32,
    since: Instant,
}

impl Offers {
    pub(super) fn new(now: Instant) -> Self {
        Self { count: 0, since: now }
    }

    /// One more has come.
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
