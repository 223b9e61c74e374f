//! What a malicious node tries, and what it would have if it worked.

use clap::ValueEnum;
use mesh::identity::Role;

/// An attack. In the order in which they are tried: those that would change what all others believe come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Attack {
    /// An edge asks and says what only cores may.
    EdgeAsCore,
    /// An edge renews another edge's lease.
    Renew,
    /// An edge opens, serves, and closes a meeting that another captures.
    Steal,
    /// An edge begins spurts, over many connections, and ends none.
    HalfOpen,
    /// An edge sends bytes that mean nothing.
    Garbage,
    /// A core takes a meeting over that it never had.
    Usurp,
    /// A core tells the edge of another core's meeting to leave it, or to bring it its speech.
    Dismiss,
    /// A core says that it is idle and near, to be chosen as a standby outside the residency.
    Lure,
    /// A name server asks and says what cores and edges may.
    DnsAsCore,
    /// A name server says in gossip that it is a core of the meetings' region.
    DnsClaims,
    /// An edge says the same.
    EdgeClaims,
    /// A core says that it is an edge of the meetings' region.
    CoreClaims,
    /// An edge tells of nodes that are not.
    Ghosts,
    /// An edge reports for a core that it drains, and has its API elsewhere.
    Report,
    /// An edge declares another edge down, in its last possible life.
    Evict,
}

impl Attack {
    /// As the command line and the table name it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Where those that it goes to count what they turned away of it, each way that it takes. None: nothing is turned away, and
    /// what came of it shows.
    pub(super) fn counted(self) -> &'static [&'static str] {
        const NOT_ALLOWED: &str = "nearfield_mesh_denied_total";
        const FALSE_CARD: &str = "nearfield_mesh_gossip_disbelieved_total{reason=\"certificate\"}";
        const FORGED_CARD: &str = "nearfield_mesh_gossip_disbelieved_total{reason=\"signature\"}";
        const FORGED_REPORT: &str = "nearfield_mesh_gossip_disbelieved_total{reason=\"report\"}";
        const UNSEEN: &str = "nearfield_mesh_gossip_disbelieved_total{reason=\"unseen\"}";
        const OTHER_NAME: &str = "nearfield_mesh_gossip_refused_total";
        const LATER_THAN_NOW: &str = "nearfield_mesh_gossip_disbelieved_total{reason=\"future\"}";
        match self {
            Self::EdgeAsCore | Self::DnsAsCore | Self::Renew | Self::Usurp | Self::Dismiss => &[NOT_ALLOWED],
            Self::Steal => &[NOT_ALLOWED, "nearfield_core_opens_refused_total"],
            Self::HalfOpen => &["nearfield_core_spurt_errors_total"],
            Self::Garbage => &[
                "nearfield_mesh_gossip_refused_total",
                "nearfield_mesh_requests_refused_total",
                "nearfield_mesh_unknown_total",
                "nearfield_core_control_errors_total",
            ],
            Self::Lure => &[],
            Self::DnsClaims | Self::EdgeClaims | Self::CoreClaims => &[FALSE_CARD, OTHER_NAME],
            Self::Ghosts => &[FALSE_CARD],
            Self::Report => &[FORGED_REPORT],
            Self::Evict => &[FALSE_CARD, FORGED_CARD, LATER_THAN_NOW, UNSEEN],
        }
    }

    /// Whether it is after meetings that are to come.
    pub(super) fn is_for_others_to_come(self) -> bool {
        matches!(self, Self::Lure | Self::DnsClaims | Self::EdgeClaims | Self::CoreClaims | Self::Ghosts)
    }

    /// Whether it is gossip that every node is told.
    pub(super) fn is_told_to_all(self) -> bool {
        matches!(
            self,
            Self::DnsClaims | Self::EdgeClaims | Self::CoreClaims | Self::Ghosts | Self::Report | Self::Evict
        )
    }

    /// Whose certificate it takes.
    pub(super) fn role(self) -> Role {
        match self {
            Self::Usurp | Self::Dismiss | Self::Lure | Self::CoreClaims => Role::Core,
            Self::DnsAsCore | Self::DnsClaims => Role::Dns,
            _ => Role::Edge,
        }
    }
}
