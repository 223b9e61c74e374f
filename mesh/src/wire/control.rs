//! The control stream between one edge and one core. The edge opens it and speaks first.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo, Term, cause::Cause};
use crate::{clock::Micros, identity::NodeId, trace::TraceContext};

/// What an edge tells a core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToCore {
    /// First message. The peer's identity comes from its certificate, not from here.
    Hello {
        /// The software version, for operators.
        software: String,
    },
    /// From here on `alias` means `meeting`. Sent again after every reconnect, before its spurts.
    Open {
        /// What the edge will call it.
        alias: MeetingAlias,
        /// The meeting.
        meeting: MeetingId,
        /// The epoch under which this edge owns it.
        epoch: Epoch,
        /// The request that created it.
        trace: TraceContext,
    },
    /// A row of the participant table: new, or renamed.
    Participant {
        /// In this meeting,
        alias: MeetingAlias,
        /// this number
        participant: ParticipantAlias,
        /// is the platform's own participant id, at most 256 bytes,
        id: String,
        /// with the display name the platform gave, at most 256 bytes.
        name: Option<String>,
        /// What they publish, where none of it can be heard: names of codecs, at most 64 bytes.
        unheard: Option<String>,
    },
    /// A participant has left; its speech so far stays.
    Left {
        /// The meeting.
        alias: MeetingAlias,
        /// Who.
        participant: ParticipantAlias,
    },
    /// Where the edge stands with a meeting.
    State {
        /// The meeting.
        alias: MeetingAlias,
        /// Where it stands.
        state: EdgeState,
        /// Why in words, for `Failed` and where useful; never a secret.
        detail: Option<String>,
    },
    /// Running totals since the edge joined, about once a second while they change.
    Stats {
        /// The meeting.
        alias: MeetingAlias,
        /// The totals.
        totals: EdgeTotals,
    },
    /// The edge has left the meeting and every spurt of it has been sent.
    Close {
        /// The meeting.
        alias: MeetingAlias,
        /// Why it left.
        reason: CloseReason,
    },
    /// As `Open`, to a core that speaks version 2. A core that holds the meeting as standby takes it over
    /// if `term` is newer than the one it knows.
    Serve {
        /// What the edge will call it.
        alias: MeetingAlias,
        /// The meeting.
        meeting: MeetingId,
        /// The epoch under which this edge owns it.
        epoch: Epoch,
        /// The turn in which this core serves it.
        term: Term,
        /// The request that created it.
        trace: TraceContext,
    },
    /// The edge is alive: renews the leases of every meeting opened on this stream.
    Beat {
        /// Rises by one with each.
        seq: u64,
    },
    /// Answer to the core's `Standby`: from here on the edge would turn to that core, and to no other.
    Standby {
        /// The meeting.
        alias: MeetingAlias,
        /// The core; none if absent.
        core: Option<NodeId>,
        /// Of what it answers.
        number: u64,
    },
    /// As `Serve`, of an epoch that is over for this edge (its lease ran out, or the edge was restarted): the edge is
    /// not in the meeting and has only speech that it captured while the epoch was its own. Renews no lease; if the epoch
    /// is still the newest, the edge has released it. Spurts and, when all are sent, `Close` follow.
    Late {
        /// What the edge will call it.
        alias: MeetingAlias,
        /// The meeting.
        meeting: MeetingId,
        /// The epoch under which the speech was captured.
        epoch: Epoch,
        /// The request that created it.
        trace: TraceContext,
    },
    /// The edge is going away: have another edge take this meeting. It captures until `Leave` comes, or a while at
    /// most, and says `Close` with [`CloseReason::Drain`] then.
    HandOver {
        /// The meeting.
        alias: MeetingAlias,
    },
    /// A row of the participant table is free: they have left, and the words of all they said are done. Their names stay where
    /// they are; the number is not used again soon.
    Forget {
        /// In this meeting,
        alias: MeetingAlias,
        /// this number.
        participant: ParticipantAlias,
    },
    /// Speech captured in these spans of time has been given up, for want of room or because it was too old: it never comes.
    /// All of them, at most [`MAX_GIVEN_UP`]; sent again when there are more, and on each new stream.
    GivenUp {
        /// The meeting.
        alias: MeetingAlias,
        /// From and to, capture time.
        spans: Vec<(Micros, Micros)>,
    },
}

impl ToCore {
    /// The alias of the meeting that it is about, and where it says so itself the meeting; `None` if it is about none.
    pub fn about(&self) -> Option<(MeetingAlias, Option<MeetingId>)> {
        match self {
            Self::Hello { .. } | Self::Beat { .. } => None,
            Self::Open { alias, meeting, .. }
            | Self::Serve { alias, meeting, .. }
            | Self::Late { alias, meeting, .. } => Some((*alias, Some(*meeting))),
            Self::Participant { alias, .. }
            | Self::Left { alias, .. }
            | Self::State { alias, .. }
            | Self::Stats { alias, .. }
            | Self::Close { alias, .. }
            | Self::Standby { alias, .. }
            | Self::HandOver { alias }
            | Self::Forget { alias, .. }
            | Self::GivenUp { alias, .. } => Some((*alias, None)),
        }
    }
}

/// Spans in [`ToCore::GivenUp`].
pub const MAX_GIVEN_UP: usize = 32;

/// What a core tells an edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToEdge {
    /// Answer to the edge's hello.
    Hello {
        /// The software version, for operators.
        software: String,
    },
    /// Items before `upto` of this spurt are on the core's disk.
    Durable {
        /// The meeting.
        alias: MeetingAlias,
        /// Whose.
        participant: ParticipantAlias,
        /// Which spurt.
        spurt: SpurtNo,
        /// One past the last item held.
        upto: u32,
    },
    /// The words made of this spurt are published and stored: the edge may forget it.
    Done {
        /// The meeting.
        alias: MeetingAlias,
        /// Whose.
        participant: ParticipantAlias,
        /// Which spurt, whole.
        spurt: SpurtNo,
    },
    /// The core will not take this meeting from this edge; the edge leaves it.
    Refused {
        /// The meeting.
        alias: MeetingAlias,
        /// Why.
        reason: RefusedReason,
    },
    /// Leave this meeting: flush its spurts, then `Close`.
    Leave {
        /// The meeting.
        alias: MeetingAlias,
    },
    /// The core is going away: send what you have; new spurts should go elsewhere.
    Drain,
    /// Answer to the edge's `Beat`: the leases run for `lease_ms` from when that beat was *sent*.
    Beat {
        /// Of the beat answered.
        seq: u64,
        /// How long the leases run.
        lease_ms: u32,
    },
    /// Which core would serve the meeting next: it holds all of the meeting that is done.
    Standby {
        /// The meeting.
        alias: MeetingAlias,
        /// The core; none for now if absent.
        core: Option<NodeId>,
        /// Rises from one to the next that this core says of the meeting; its answer repeats it.
        number: u64,
    },
    /// Another core serves the meeting by now, or this one in another term: open it there, in that term.
    Moved {
        /// The meeting.
        alias: MeetingAlias,
        /// Who serves it.
        core: NodeId,
        /// In which turn.
        term: Term,
    },
    /// As `Done`, of a spurt that the core ended where it was when its edge had fallen silent: the words are made of that
    /// much. What the edge has beyond it is brought home as another spurt, [`SpurtNo::next_part`].
    DoneTo {
        /// The meeting.
        alias: MeetingAlias,
        /// Whose.
        participant: ParticipantAlias,
        /// Which spurt.
        spurt: SpurtNo,
        /// How many of its items the words are made of.
        items: u32,
    },
}

/// Where an edge stands with a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeState {
    /// Signalling or ICE under way.
    Connecting,
    /// Media may flow.
    Live,
    /// The relay was lost; the edge is trying again.
    Reconnecting {
        /// Since when nothing has come from it, in milliseconds before this is said: a loss is noticed late.
        silent_ms: u32,
    },
    /// Given up, and why.
    Failed(Cause),
}

impl EdgeState {
    /// The relay has been silent for so long.
    pub fn silent(silence: Duration) -> Self {
        Self::Reconnecting { silent_ms: u32::try_from(silence.as_millis()).unwrap_or(u32::MAX) }
    }

    /// The same, said so much later.
    pub fn after(self, by: Duration) -> Self {
        match self {
            Self::Reconnecting { silent_ms } => {
                Self::silent(by.saturating_add(Duration::from_millis(silent_ms.into())))
            }
            other => other,
        }
    }
}

/// Why an edge left a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// Told to, by the API.
    Asked,
    /// The relay ended it.
    Ended,
    /// The edge is shutting down.
    Drain,
    /// It could not go on; the last `State` says why.
    Failed,
    /// Its lease ran out (version 2).
    LeaseOver,
}

/// Why a core refuses a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedReason {
    /// It was not created here.
    UnknownMeeting,
    /// Another edge owns it by now.
    StaleEpoch,
    /// The meeting has ended.
    Ended,
    /// The edge's region or role may not serve it.
    NotAllowed,
    /// The core holds as many as it can.
    Full,
    /// The core is in no region that the meeting allows.
    Residency,
}

/// What an edge has done for one meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EdgeTotals {
    /// RTP packets received.
    pub packets_in: u64,
    /// Opus payload bytes received: what forwarding all Opus would send.
    pub opus_bytes_in: u64,
    /// Media time received, in milliseconds, summed over participants.
    pub media_ms_in: u64,
    /// Packets run through the decoder.
    pub packets_decoded: u64,
    /// Packets sent to the core.
    pub packets_forwarded: u64,
    /// Packets that never arrived, by RTP sequence number.
    pub packets_lost: u64,
    /// Bytes written to spurt streams, headers and all.
    pub uplink_bytes: u64,
    /// CPU time of the media path, in microseconds.
    pub media_cpu_us: u64,
    /// Speech dropped because the ring of what is not yet done was full, in packets.
    pub packets_overflowed: u64,
}

impl EdgeTotals {
    /// The sum of both, as far as numbers go: a peer may say any.
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets_in: self.packets_in.saturating_add(other.packets_in),
            opus_bytes_in: self.opus_bytes_in.saturating_add(other.opus_bytes_in),
            media_ms_in: self.media_ms_in.saturating_add(other.media_ms_in),
            packets_decoded: self.packets_decoded.saturating_add(other.packets_decoded),
            packets_forwarded: self.packets_forwarded.saturating_add(other.packets_forwarded),
            packets_lost: self.packets_lost.saturating_add(other.packets_lost),
            uplink_bytes: self.uplink_bytes.saturating_add(other.uplink_bytes),
            media_cpu_us: self.media_cpu_us.saturating_add(other.media_cpu_us),
            packets_overflowed: self.packets_overflowed.saturating_add(other.packets_overflowed),
        }
    }
}
