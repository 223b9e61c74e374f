//! How a meeting's end is asked for from beside its driver, and waited for.

use mesh::{identity::NodeId, wire::Term};
use tokio_util::sync::DropGuard;

use super::{Meeting, now};

impl Meeting {
    /// A part of the meeting broke, or stands still: the meeting fails.
    pub fn handle_broken(&self, why: String) {
        let _span = tracing::info_span!("meeting", id = %self.id).entered();
        self.machine(|machine| machine.handle_broken(why, now()));
        self.cut_short.notify_one();
    }

    /// Another core serves the meeting, in a later term.
    pub fn handle_superseded(&self, core: NodeId, term: Term) {
        self.machine(|machine| machine.handle_superseded(core, term));
        self.cut_short.notify_one();
    }

    /// Returns when what is under way is not to be waited for.
    pub async fn cut_short(&self) {
        self.cut_short.notified().await;
    }

    /// Returns when it has ended here.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Its driver's: it has ended here when this is dropped, or its core ends.
    pub(crate) fn gone_with_this(&self) -> DropGuard {
        self.gone.clone().drop_guard()
    }
}
