//! A message of an edge on which this core breaks costs the meeting that it is about; the edge's others go on.

use std::sync::Arc;

use mesh::{
    tasks,
    wire::{
        MeetingAlias, MeetingId,
        control::{RefusedReason, ToCore, ToEdge},
    },
};

use super::{Acceptor, ControlError, Link};
use crate::{lock, meeting::Meeting};

impl Acceptor {
    /// Takes one message of an edge. Should that panic, the meeting fails that it is about, if the edge captures it: the edge would say
    /// the same again on each new stream.
    ///
    /// # Errors
    /// It makes no sense here, or the store has failed.
    pub async fn handle(&self, link: &Arc<Link>, message: ToCore) -> Result<(), ControlError> {
        self.contain(link, message.about(), self.heed(link, message)).await
    }

    /// Does `work`, which a message asks for that is `about` a meeting.
    pub(crate) async fn contain(
        &self,
        link: &Link,
        about: Option<(MeetingAlias, Option<MeetingId>)>,
        work: impl Future<Output = Result<(), ControlError>>,
    ) -> Result<(), ControlError> {
        let broken = match tasks::contained("control message", work).await {
            Ok(taken) => return taken,
            Err(panic) => format!("a message of its edge broke: {panic}"),
        };
        let Some((alias, opens)) = about else { return Ok(()) };
        let meeting = opens.or_else(|| Some(lock(&link.aliases).meeting(alias).ok()?.0));
        let meeting = meeting.and_then(|id| self.meetings.live(id)).filter(|meeting| captures(link, meeting));
        match meeting {
            Some(meeting) => {
                meeting.handle_broken(broken);
                meeting.gone().await;
            }
            // Whoever opens a meeting waits for an answer.
            None if opens.is_some() => {
                link.tell(ToEdge::Refused { alias, reason: RefusedReason::UnknownMeeting }).await;
            }
            None => {}
        }
        Ok(())
    }
}

fn captures(link: &Link, meeting: &Meeting) -> bool {
    meeting.record().owners.capturing().any(|(_, owner)| owner.edge == link.edge.node)
}
