//! How a history is run.

/// Rules that can be broken, to see that it is noticed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Broken {
    /// The core takes a lease to be no longer than the edge does.
    pub(crate) margin: bool,
    /// A core serves whoever calls.
    pub(crate) fence: bool,
    /// Words go out before the standby has them.
    pub(crate) acknowledgement: bool,
    /// A standby is dropped without a word of the edge or of itself.
    pub(crate) confirmation: bool,
    /// The edge is told of a standby before that is on disk.
    pub(crate) persistence: bool,
    /// Old streams of entries are taken.
    pub(crate) streams: bool,
    /// A core does what it asks the authority for, whatever that says.
    pub(crate) claim: bool,
    /// Words go out without a standby that the authority still lets take over.
    pub(crate) unbound: bool,
    /// What an edge says before its answer is read is not kept.
    pub(crate) early: bool,
}

/// How one history is run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) broken: Broken,
    pub(crate) kind: Kind,
    /// Whether the cores share an authority.
    pub(crate) authority: bool,
    pub(crate) trace: bool,
}

/// What a history is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// Anything may go wrong.
    #[default]
    Any,
    /// The same, and edges drain.
    Drain,
    /// The same, and the meeting is to have two edges.
    Two,
    /// Anything may go wrong, and the meeting is left: somebody asks for it, nobody is in it, or its time is up.
    Left,
    /// Cores are well and are reached: edges crash, drain, and lose the relay.
    Gaps,
}

impl Kind {
    /// How many edges the meeting is to have.
    pub(crate) fn redundancy(self) -> u8 {
        if self == Self::Two { 2 } else { 1 }
    }

    pub(crate) fn drains(self) -> bool {
        matches!(self, Self::Drain | Self::Two | Self::Gaps)
    }
}
