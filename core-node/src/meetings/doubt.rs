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
        request::{Held, Replica, Request, Response, Resumed},
    },
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Meetings;
use crate::{lock, record::CoreRole, replicate::sender::Replicator, seat};

/// So soon after the start most others are there, and are looked for often.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at who is there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same later on: a core may be back after hours.
const LOOK_EVERY_LATER: Duration = Duration::from_secs(5);
/// Told at a time.
const AT_A_TIME: usize = 16;
/// A core that is told answers within this, or is told again.
const TELL_WAIT: Duration = Duration::from_secs(2);

/// Tells the others which meetings this core goes on with that are older than its start, for as long as it does.
pub(super) async fn tell(meetings: Weak<Meetings>, stop: CancellationToken) {
    let soon = Instant::now() + SOON;
    let (mut told, mut resumed) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let Some(this) = meetings.upgrade() else { return };
        let is_soon = Instant::now() < soon;
        if is_soon {
            // Also those that it takes over by what its store says. What ends meanwhile is told of once more.
            resumed.extend(this.older_than_start());
        } else {
            resumed.retain(|id| this.live(*id).is_some());
        }
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
        let pause = if is_soon { LOOK_EVERY } else { LOOK_EVERY_LATER };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

impl Meetings {
    fn older_than_start(&self) -> Vec<MeetingId> {
        let live = lock(&self.live);
        live.values().filter(|meeting| meeting.record().created_at < self.started).map(|meeting| meeting.id).collect()
    }

    /// Whether `core` has heard that this one serves a meeting, or need not.
    async fn tell_one(self: &Arc<Self>, core: &Identity, id: MeetingId) -> bool {
        let record = self.record(id).ok().flatten().filter(|record| record.serving.role == CoreRole::Serving);
        let Some(record) = record else { return true };
        let term = self.live(id).map_or(record.serving.term, |meeting| meeting.replication.see(Replicator::term));
        let held = Held { ended: record.status.ended(), newest: self.store.newest_final(id).unwrap_or(0) };
        let resumed = Resumed { held, since: self.started.0 };
        let proof = self.prove_serving(&record, &core.node, term);
        let word = Request::Replicate(Replica::word(id, term, Some(resumed), proof));
        let Ok(Ok(answer)) = timeout(TELL_WAIT, self.placer.mesh.request(&core.node, &word)).await else {
            return false;
        };
        let Response::Serving { core: by, term, .. } = self.believed(core, &record, answer) else { return true };
        if let Some(meeting) = self.live(id) {
            meeting.replication.with(|m, _| m.handle_other(&by, term));
        } else if by == core.node {
            let _hands = self.hands.lock().await;
            if let Some(record) = self.store.meeting(id).ok().flatten().filter(|record| seat::cedes(record, term)) {
                self.cede(core, record, term).await;
            }
        }
        true
    }
}
