//! What the machine asks of its driver, and what it waits for.

use std::collections::BTreeSet;

use mesh::{identity::NodeId, wire::Epoch};

use super::{
    ending::Ending,
    seek::{DeclinedBy, Step},
};
use crate::{
    meeting::wishes::Wish,
    store::record::{Gap, Status},
};

/// Which of a meeting's edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that the meeting's status follows.
    First,
    /// The other.
    Secondary,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Go on to find an edge and have it join; [`super::Machine::handle_found`] follows.
    Seek(Step),
    /// What is being done to find one is not wanted any more.
    DropSeek,
    /// This edge did not take it.
    Declined(DeclinedBy),
    /// An edge that declined requests no takeover: look what those who may have said.
    Tally,
    /// Tell the edge of this epoch to leave.
    Leave(Epoch),
    /// Rows of [`crate::meeting::captures::Captures`] have changed: write them.
    Write,
    /// The same: the edge of this epoch is stopped. Then [`crate::meeting::captures::Captures::handle_stopped`], and whoever merges is told.
    Stopped(Epoch),
    /// Whoever merges is to know who captures.
    Capturing,
    /// What is open of epochs below this one ends where it is.
    EndOpen {
        /// Which.
        below: Epoch,
        /// But of these not.
        but: BTreeSet<Epoch>,
    },
    /// The same, and no spurt of theirs is begun any more.
    Fence {
        /// Which.
        below: Epoch,
        /// But of these not.
        but: BTreeSet<Epoch>,
    },
    /// A time in which nobody captured is over.
    Gap(Gap),
    /// It was none: no gap that is open is to stay written.
    NoGap,
    /// What the edge of this epoch owed never came: that is a gap. It owes no more ([`crate::meeting::captures::Captures::note_owed`]) as soon as that is written.
    Owed(Epoch, Gap),
    /// It stands there: to be written.
    Tell(StatusChange),
    /// The same, to be published.
    Publish(Status),
    /// No edge has anything left to bring.
    NoWitness,
    /// The edge is not to be asked until it is heard of again.
    Silent(NodeId),
    /// This is wished for and not had, for that reason.
    Unmet(Wish, String),
    /// It is had, or wished for no more.
    Met(Wish),
    /// The meeting has ended here: its tasks stop, and nobody finds it live any more. The last action.
    End(Ending),
}

/// Where a meeting stands, for the record.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusChange {
    /// Where.
    pub status: Status,
    /// Why it has failed: a stable word, and words.
    pub failure: Option<(String, Option<String>)>,
    /// Why it was left; a stable word.
    pub left: Option<&'static str>,
    /// Nobody captures it since then.
    pub gap: Option<Gap>,
}

/// What [`super::Machine::poll_timeout`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A lease runs out.
    Lease,
    /// The life-cycle waits for something: an edge, words.
    Lifecycle,
    /// The secondary edge is to be live, or to be sought again.
    Secondary,
    /// Nobody is in it, or its time is up.
    Leave,
    /// An edge that came back is believed.
    Back,
    /// An edge whose speech has no way here is to be relieved.
    Relief,
    /// A slot is free for the next edge.
    Vacant,
    /// What a former owner left open ends.
    LateGrace,
}
