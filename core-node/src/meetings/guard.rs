//! What breaks in one meeting ends that one: a panic in any of its tasks, or one that takes in nothing any more.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use mesh::{
    tasks::{self, Panic},
    wire::request::Request,
};
use tokio::time::timeout;

use super::{Meetings, forget_live};
use crate::{
    meeting::{Meeting, link::ToLink, wall},
    store::record::Status,
};

/// How long the end of a broken meeting may wait for its standby, and for whoever holds its parts.
const PATIENCE: Duration = Duration::from_secs(2);

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
                self.fail(&meeting, format!("{what} broke: {}", Panic::caught(payload))).await;
                None
            }
        }
    }

    /// Fails the meeting if its supervisor takes in no more of what is said to it.
    pub(super) async fn watch_queue(self: Arc<Self>, meeting: Arc<Meeting>) {
        tokio::select! {
            () = meeting.stop.cancelled() => {}
            () = meeting.stuck() => self.fail(&meeting, "its supervisor stands still".into()).await,
        }
    }

    /// Ends a meeting that cannot go on: its tasks stop, its edges leave, and its status says why. What is stored of it stays.
    pub(crate) async fn fail(&self, meeting: &Arc<Meeting>, why: String) {
        if meeting.record().status.ended() {
            return;
        }
        metrics::counter!("nearfield_core_meetings_broken_total").increment(1);
        tracing::error!(meeting = %meeting.id, why, "a meeting is given up; the others go on");
        let end = async {
            // The standby hears of it before the task that tells it is stopped.
            let failed = meeting.update(|record| {
                record.status = Status::Failed;
                record.sub_code = Some("internal_error".into());
                record.detail = Some(why.clone());
                record.ended_at = Some(wall());
            });
            // Errors: another core serves it, or the store has ended and the node ends with it.
            let _ = timeout(PATIENCE, failed).await;
            let code = Some("internal_error".into());
            if let Ok(Ok(seq)) = timeout(PATIENCE, meeting.publisher.status(Status::Failed, code)).await {
                let _ = meeting.update_here(|record| record.last_seq = seq).await;
            }
        };
        end.await;
        meeting.stop.cancel();
        let id = meeting.id;
        let _ = timeout(PATIENCE, meeting.tell_all(|| ToLink::Leave { meeting: id })).await;
        for (_, owner) in meeting.record().owners.capturing() {
            let (mesh, edge) = (self.placer.mesh.clone(), owner.edge.clone());
            let release = Request::Release { meeting: id, key: meeting.key().for_edge(&edge) };
            tasks::once("release", async move { mesh.request(&edge, &release).await });
        }
        forget_live(&self.live, id);
        self.release(meeting.clone());
        self.sign_receipt(id).await;
    }
}
