//! What breaks in one meeting ends that one: a panic in any of its tasks, or one that takes in nothing any more.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use mesh::tasks::Panic;

use super::Meetings;
use crate::meeting::Meeting;

impl Meetings {
    /// Runs `work`, which is of `meeting`. Should it panic the meeting fails, and no other notices; then there is no result.
    pub async fn guarded<T>(
        self: Arc<Self>,
        meeting: Arc<Meeting>,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(done) => Some(done),
            Err(payload) => {
                meeting.handle_broken(format!("{what} broke: {}", Panic::caught(payload)));
                None
            }
        }
    }
}
