//! A core that starts goes on with what its store says, which may be an older copy of it: meetings may be over, or elsewhere. So it says
//! to every other core that it meets in the first minute what it serves, and believes who knows better.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use mesh::{
    identity::{Identity, Role},
    wire::{
        MeetingId,
        request::{Replica, Request, Response},
    },
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Meetings;
use crate::{lock, replicate::sender::Replicator};

/// For so long after the start others are told.
const TELL_FOR: Duration = Duration::from_secs(60);
/// Between two looks at who is there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Told at a time.
const AT_A_TIME: usize = 16;
/// A core that is told answers within this, or is told again.
const TELL_WAIT: Duration = Duration::from_secs(2);

/// Tells the others which meetings this core has `resumed`.
pub(super) async fn tell(meetings: Weak<Meetings>, resumed: Vec<MeetingId>, stop: CancellationToken) {
    let until = Instant::now() + TELL_FOR;
    let mut told = BTreeSet::new();
    while !resumed.is_empty() && Instant::now() < until {
        let Some(this) = meetings.upgrade() else { return };
        let members = this.placer.mesh.members().borrow().clone();
        let cores = members.iter().map(|m| &m.identity).filter(|i| i.role == Role::Core && i.node != *this.me());
        let cores: Vec<Identity> = cores.cloned().collect();
        // Core by core within each meeting: one that does not answer is left for the next round, and holds nobody up.
        let pairs = resumed.iter().flat_map(|id| cores.iter().map(move |core| (core.clone(), *id)));
        let due: Vec<_> = pairs.filter(|(core, id)| !told.contains(&(core.node.clone(), *id))).collect();
        let silent = Mutex::new(BTreeSet::new());
        let telling = stream::iter(due).map(|(core, id)| {
            let (this, silent) = (this.clone(), &silent);
            async move {
                if lock(silent).contains(&core.node) {
                    return None;
                }
                if !this.tell_one(&core, id).await {
                    lock(silent).insert(core.node);
                    return None;
                }
                Some((core.node, id))
            }
        });
        let telling = telling.buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect::<Vec<_>>();
        let Some(heard) = stop.run_until_cancelled(telling).await else { return };
        told.extend(heard);
        drop(this);
        if stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

impl Meetings {
    /// Whether `core` has heard that this one serves a meeting, or need not.
    async fn tell_one(self: &Arc<Self>, core: &Identity, id: MeetingId) -> bool {
        let Some(meeting) = self.live(id) else { return true };
        let (record, term) = (meeting.record(), meeting.replication.see(Replicator::term));
        let proof = self.prove_serving(&record, &core.node, term);
        let word = Request::Replicate(Replica::word(id, term, proof));
        let Ok(Ok(answer)) = timeout(TELL_WAIT, self.placer.mesh.request(&core.node, &word)).await else {
            return false;
        };
        if let Response::Serving { core, term, .. } = self.believed(core, &record, answer) {
            meeting.replication.with(|m, _| m.handle_other(&core, term));
        }
        true
    }
}
