//! Who may say what: every message between nodes, by the sender's role, its relation to the meeting, and residency.
//!
//! `TABLE` is the whole of it; what no row allows is refused. The role and region are those of the sender's certificate. What the
//! relation is only the receiver can say: a core by its record of the meeting, an edge by what it was asked to take, both by what
//! the sender proves ([`crate::mandate`]). Each handler calls [`check`] before it does anything; where the role alone
//! decides, [`check_role`] has decided before the message reaches the program (`node::inbound`).
//!
//! SWIM's datagrams are not in it: every node gossips, and what it says is `membership`'s to believe.

mod denials;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::denials::Denials;
use crate::{
    identity::Role,
    wire::{
        control::{ToCore, ToEdge},
        request::Request,
    },
};

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is named as in `wire`")]
pub enum Message {
    // Requests.
    Probe,
    Assign,
    Join,
    Release,
    /// To the core that it names.
    Renew,
    /// To any other node, which passes it on.
    RenewElsewhere,
    Replicate,
    Serving,
    Keys,
    Remove,
    Captures,
    // Answers that speak of a meeting.
    ServingAnswer,
    Renewed,
    // What is opened.
    ControlStream,
    SpurtStream,
    Copies,
    // From an edge, on its control stream.
    EdgeHello,
    EdgeBeat,
    Open,
    Serve,
    Late,
    Participant,
    Left,
    State,
    Stats,
    Close,
    Confirm,
    HandOver,
    Forget,
    GivenUp,
    // From a core, on the same.
    CoreHello,
    CoreBeat,
    Drain,
    Durable,
    Done,
    DoneTo,
    Refused,
    Leave,
    Standby,
    Moved,
}

/// What the sender is to the meeting that a message speaks of, as the receiver knows or the sender proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// The message is of no meeting: the sender speaks of itself, or asks for itself.
    Itself,
    /// It has no part in it.
    Nobody,
    /// The meeting is not known here, and the sender says that it serves it.
    New,
    /// It serves the meeting, or has proven that it was given the meeting by one that did.
    Core,
    /// The primary has named it as the one that would serve next.
    Standby,
    /// It captures the meeting.
    Owner,
    /// It captured the meeting under an epoch that is over.
    Former,
}

/// Where the sender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// Within the meeting's residency, or the message is of no meeting.
    Inside,
    /// Outside of it.
    Outside,
}

impl Residency {
    /// Inside, if `inside`.
    pub fn of(inside: bool) -> Self {
        if inside { Self::Inside } else { Self::Outside }
    }
}

/// One row: `from` may send `message` to `at` if it is one of `who` to the meeting and, where the row says so, within its residency.
struct Row {
    message: Message,
    at: Role,
    from: Role,
    who: &'static [Relation],
    anywhere: bool,
}

/// Wherever the sender is.
const fn any(message: Message, at: Role, from: Role, who: &'static [Relation]) -> Row {
    Row { message, at, from, who, anywhere: true }
}

/// Within the residency only.
const fn inside(message: Message, at: Role, from: Role, who: &'static [Relation]) -> Row {
    Row { message, at, from, who, anywhere: false }
}

const TABLE: &[Row] = {
    use Message::*;
    use Relation::{Core as Serves, Former, Itself, New, Nobody, Owner, Standby as Next};
    use Role::{Core, Edge};
    &[
        any(Probe, Edge, Core, &[Itself]),
        inside(Assign, Edge, Core, &[New, Serves]),
        inside(Join, Edge, Core, &[New, Serves]),
        any(Release, Edge, Core, &[Serves]),
        // Whoever carries it: the edge proves that it is its own.
        any(Renew, Core, Edge, &[Owner, Former]),
        any(Renew, Core, Core, &[Owner, Former]),
        any(RenewElsewhere, Core, Edge, &[Itself]),
        any(RenewElsewhere, Edge, Edge, &[Itself]),
        inside(Replicate, Core, Core, &[New, Serves]),
        // Where a meeting is served is no secret among cores: their clients are sent there.
        any(Serving, Core, Core, &[Nobody, Serves, Next]),
        any(Serving, Core, Edge, &[Owner, Former]),
        // Keys are asked for by their digests.
        any(Keys, Core, Core, &[Itself]),
        any(Remove, Core, Core, &[Serves]),
        any(Captures, Edge, Core, &[New, Serves]),
        any(ServingAnswer, Core, Core, &[Serves]),
        any(ServingAnswer, Edge, Core, &[Serves]),
        any(Renewed, Edge, Core, &[Serves]),
        any(Renewed, Edge, Edge, &[Serves]),
        any(ControlStream, Core, Edge, &[Itself]),
        inside(SpurtStream, Core, Edge, &[Owner, Former]),
        inside(Copies, Core, Edge, &[Owner, Former]),
        any(EdgeHello, Core, Edge, &[Itself]),
        any(EdgeBeat, Core, Edge, &[Itself]),
        inside(Open, Core, Edge, &[Owner]),
        inside(Serve, Core, Edge, &[Owner]),
        inside(Late, Core, Edge, &[Owner, Former]),
        inside(Participant, Core, Edge, &[Owner, Former]),
        inside(Left, Core, Edge, &[Owner, Former]),
        inside(State, Core, Edge, &[Owner, Former]),
        inside(Stats, Core, Edge, &[Owner, Former]),
        inside(Close, Core, Edge, &[Owner, Former]),
        inside(Confirm, Core, Edge, &[Owner, Former]),
        inside(HandOver, Core, Edge, &[Owner, Former]),
        inside(Forget, Core, Edge, &[Owner, Former]),
        inside(GivenUp, Core, Edge, &[Owner, Former]),
        any(CoreHello, Edge, Core, &[Itself]),
        any(CoreBeat, Edge, Core, &[Itself]),
        any(Drain, Edge, Core, &[Itself]),
        inside(Durable, Edge, Core, &[Serves]),
        inside(Done, Edge, Core, &[Serves]),
        inside(DoneTo, Edge, Core, &[Serves]),
        inside(Leave, Edge, Core, &[Serves]),
        inside(Standby, Edge, Core, &[Serves]),
        inside(Refused, Edge, Core, &[Serves, Next]),
        inside(Moved, Edge, Core, &[Serves, Next]),
    ]
};

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{message}` refused: {why}")]
pub struct Denied {
    /// What was sent.
    pub message: Message,
    /// What speaks against it.
    pub why: Why,
}

/// What speaks against a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Why {
    /// No node of the sender's role may send it to one of this role.
    #[error("a node of role {from} may not send it to a node of role {at}")]
    Role {
        /// The sender's.
        from: Role,
        /// The receiver's.
        at: Role,
    },
    /// The sender is not what it must be to the meeting.
    #[error("the sender {0}")]
    Relation(Relation),
    /// The sender's region is none of those that the meeting may touch.
    #[error("the sender's region is outside the meeting's residency")]
    Residency,
}

impl Why {
    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Role { .. } => "role",
            Self::Relation(_) => "relation",
            Self::Residency => "residency",
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itself => "names no meeting of its own",
            Self::Nobody => "has not shown that it has a part in the meeting",
            Self::New => "says that it serves a meeting that is not known here",
            Self::Core => "is a core of the meeting",
            Self::Standby => "only stands by for the meeting",
            Self::Owner => "captures the meeting",
            Self::Former => "does not capture the meeting any more",
        })
    }
}

/// Whether `message` is taken by a node of role `at` from one of role `from` that is `who` to the meeting, and is where `residency` says.
///
/// # Errors
/// What speaks against it.
pub fn check(message: Message, at: Role, from: Role, who: Relation, residency: Residency) -> Result<(), Denied> {
    check_role(message, at, from)?;
    let denied = |why| Err(Denied { message, why });
    match rows(message, at, from).find(|row| row.who.contains(&who)) {
        None => denied(Why::Relation(who)),
        Some(row) if row.anywhere || residency == Residency::Inside => Ok(()),
        Some(_) => denied(Why::Residency),
    }
}

/// Whether any node of role `from` may send `message` to one of role `at`.
///
/// # Errors
/// None may.
pub fn check_role(message: Message, at: Role, from: Role) -> Result<(), Denied> {
    let any = rows(message, at, from).next().is_some();
    if any { Ok(()) } else { Err(Denied { message, why: Why::Role { from, at } }) }
}

fn rows(message: Message, at: Role, from: Role) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |row| (row.message, row.at, row.from) == (message, at, from))
}

impl Message {
    /// The kind of a request that reaches the node called `me`.
    pub fn of_request(request: &Request, me: &crate::identity::NodeId) -> Self {
        match request {
            Request::Probe { .. } => Self::Probe,
            Request::Assign(_) => Self::Assign,
            Request::Join(_) => Self::Join,
            Request::Release { .. } => Self::Release,
            Request::Renew { core, .. } if core == me => Self::Renew,
            Request::Renew { .. } => Self::RenewElsewhere,
            Request::Replicate(_) => Self::Replicate,
            Request::Serving { .. } => Self::Serving,
            Request::Keys(_) => Self::Keys,
            Request::Remove { .. } => Self::Remove,
            Request::Captures { .. } => Self::Captures,
        }
    }

    /// The kind of what an edge says on a control stream.
    pub fn of_edge(message: &ToCore) -> Self {
        match message {
            ToCore::Hello { .. } => Self::EdgeHello,
            ToCore::Open { .. } => Self::Open,
            ToCore::Participant { .. } => Self::Participant,
            ToCore::Left { .. } => Self::Left,
            ToCore::State { .. } => Self::State,
            ToCore::Stats { .. } => Self::Stats,
            ToCore::Close { .. } => Self::Close,
            ToCore::Serve { .. } => Self::Serve,
            ToCore::Beat { .. } => Self::EdgeBeat,
            ToCore::Standby { .. } => Self::Confirm,
            ToCore::Late { .. } => Self::Late,
            ToCore::HandOver { .. } => Self::HandOver,
            ToCore::Forget { .. } => Self::Forget,
            ToCore::GivenUp { .. } => Self::GivenUp,
        }
    }

    /// The kind of what a core says on a control stream.
    pub fn of_core(message: &ToEdge) -> Self {
        match message {
            ToEdge::Hello { .. } => Self::CoreHello,
            ToEdge::Durable { .. } => Self::Durable,
            ToEdge::Done { .. } => Self::Done,
            ToEdge::Refused { .. } => Self::Refused,
            ToEdge::Leave { .. } => Self::Leave,
            ToEdge::Drain => Self::Drain,
            ToEdge::Beat { .. } => Self::CoreBeat,
            ToEdge::Standby { .. } => Self::Standby,
            ToEdge::Moved { .. } => Self::Moved,
            ToEdge::DoneTo { .. } => Self::DoneTo,
        }
    }

    /// As logs, metrics and refusals name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Assign => "assign",
            Self::Join => "join",
            Self::Release => "release",
            Self::Renew => "renew",
            Self::RenewElsewhere => "renew_elsewhere",
            Self::Replicate => "replicate",
            Self::Serving => "serving",
            Self::Keys => "keys",
            Self::Remove => "remove",
            Self::Captures => "captures",
            Self::ServingAnswer => "serving_answer",
            Self::Renewed => "renewed",
            Self::ControlStream => "control_stream",
            Self::SpurtStream => "spurt_stream",
            Self::Copies => "copies",
            Self::EdgeHello => "edge_hello",
            Self::EdgeBeat => "edge_beat",
            Self::Open => "open",
            Self::Serve => "serve",
            Self::Late => "late",
            Self::Participant => "participant",
            Self::Left => "left",
            Self::State => "state",
            Self::Stats => "stats",
            Self::Close => "close",
            Self::Confirm => "confirm",
            Self::HandOver => "hand_over",
            Self::Forget => "forget",
            Self::GivenUp => "given_up",
            Self::CoreHello => "core_hello",
            Self::CoreBeat => "core_beat",
            Self::Drain => "drain",
            Self::Durable => "durable",
            Self::Done => "done",
            Self::DoneTo => "done_to",
            Self::Refused => "refused",
            Self::Leave => "leave",
            Self::Standby => "standby",
            Self::Moved => "moved",
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
