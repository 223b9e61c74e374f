//! How fast SWIM looks, suspects and talks.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use super::MAX_PACKET;

/// What foca leaves free in each packet: a card with an ECDSA or Ed25519 signature and long names.
const CARD_ROOM: usize = 256;

/// SWIM's timing.
///
/// The defaults were found by simulation with 100 nodes over ten regions' real round trips at 5 %
/// loss: see `bench gossip`. foca's own presets do worse here: its WAN one takes 38 to 100 s, its LAN one suspects
/// tens of healthy nodes each hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How often one other node is probed (1 s). A crash is first seen about 1.6 periods after it, plus
    /// [`Settings::suspicion`]. Shorter: more traffic. Must leave room for an indirect probe after
    /// [`Settings::probe_rtt`], so at least twice that.
    pub probe_period: Duration,
    /// How long a probe waits for the direct answer before others are asked to try (500 ms: two attempts at most
    /// distances between regions, one at the longest, about 330 ms). Shorter than the real round trip: every
    /// probe of a far node costs indirect ones.
    pub probe_rtt: Duration,
    /// How long a suspect has to answer before it is declared down (2 s; it is told directly, so its answer comes
    /// within two round trips mostly). Shorter: loss and pauses take healthy nodes out. Longer: meetings wait longer
    /// for a new edge. Of 100 crashes one waits 4.6 s for its first probe, and 1 s until that has failed: with 2 s the
    /// mesh knows within 8 s. A node that stalls for longer than this may be declared down, and comes back by itself.
    pub suspicion: Duration,
    /// How many others are asked to probe for us (4). One alone would make every lossy path a suspicion.
    pub indirect_probes: NonZeroUsize,
    /// How often waiting updates are sent on (200 ms). Slower: reports and departures spread by seconds.
    pub gossip_period: Duration,
    /// To how many nodes at a time (3).
    pub gossip_fanout: NonZeroUsize,
    /// How often one random member is asked whom it knows (60 s); its answer holds about 25 members. Lists are
    /// compared every second, so it is needed where that has found nothing.
    pub announce_period: Duration,
    /// How often seeds and members are announced to while none of them accepts us (250 ms, twice as long after
    /// each time up to 2 s): at 5 % loss one first announcement in twenty is lost.
    pub join_period: Duration,
    /// How often seeds that are not members are tried while some member is known (30 s): what joins two
    /// meshes that have forgotten each other.
    pub seed_period: Duration,
    /// How often three of the nodes held down are announced to (3 s; foca's own value is 65 to 125 s).
    /// It bounds how long a partition outlasts its cause, and costs a dial each while nodes are dead.
    pub rejoin_period: Duration,
    /// How often those that came or went within the last 15 s are named to two random members (1 s).
    /// SWIM passes updates on a fixed number of times and may miss a node; this finds it.
    pub repair_period: Duration,
    /// How long a node that is down is remembered, and announced to (1 h).
    pub forget_after: Duration,
    /// The longest time between two broadcasts of the own report (10 s).
    pub report_period: Duration,
    /// The shortest (1 s): reports published faster are merged, the newest goes out.
    pub report_gap: Duration,
    /// The shortest while only stress, round trips or the coordinate have changed, and not by much (2 s).
    pub load_gap: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        const fn count(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).expect("written above zero")
        }
        Self {
            probe_period: Duration::from_secs(1),
            probe_rtt: Duration::from_millis(500),
            suspicion: Duration::from_secs(2),
            indirect_probes: count(4),
            gossip_period: Duration::from_millis(200),
            gossip_fanout: count(3),
            announce_period: Duration::from_secs(60),
            join_period: Duration::from_millis(250),
            seed_period: Duration::from_secs(30),
            rejoin_period: Duration::from_secs(3),
            repair_period: Duration::from_secs(1),
            forget_after: Duration::from_secs(3600),
            report_period: Duration::from_secs(10),
            report_gap: Duration::from_secs(1),
            load_gap: Duration::from_secs(2),
        }
    }
}

impl Settings {
    /// The same with every period above zero and the probe's parts in their order, as foca needs them.
    pub(super) fn sane(mut self) -> Self {
        const LEAST: Duration = Duration::from_millis(10);
        let periods = [
            &mut self.probe_rtt,
            &mut self.suspicion,
            &mut self.gossip_period,
            &mut self.announce_period,
            &mut self.join_period,
            &mut self.seed_period,
            &mut self.rejoin_period,
            &mut self.repair_period,
            &mut self.report_period,
        ];
        periods.into_iter().for_each(|period| *period = LEAST.max(*period));
        self.probe_period = self.probe_period.max(self.probe_rtt * 2);
        self
    }

    /// foca's configuration for a mesh of `nodes`.
    ///
    /// Announcing to members that are down and forgetting them is done by [`super::Membership`]: foca
    /// stops both when the last member goes down, which is just when they are needed.
    pub(super) fn foca(&self, nodes: usize) -> foca::Config {
        let periodic = |frequency, num_members| Some(foca::PeriodicParams { frequency, num_members });
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: self.indirect_probes,
            max_transmissions: transmissions(nodes),
            suspect_to_down_after: self.suspicion,
            remove_down_after: None,
            // The rest is for the own card, and for updates.
            max_packet_size: NonZeroUsize::new(MAX_PACKET - CARD_ROOM).expect("a constant above zero"),
            notify_down_members: true,
            periodic_announce: periodic(self.announce_period, NonZeroUsize::MIN),
            periodic_announce_to_down_members: None,
            periodic_gossip: periodic(self.gossip_period, self.gossip_fanout),
        }
    }
}

/// How often an update is passed on by each node that hears it: `7 * log10(nodes + 1)`.
///
/// memberlist takes 4 as the factor, which at 5 % loss leaves one of 30 nodes without it one time
/// in ten; with 7 it is one time in some hundreds, and repair finds it.
fn transmissions(nodes: usize) -> NonZeroU8 {
    let wanted = 7.0 * ((nodes + 1) as f64).log10();
    NonZeroU8::new(wanted.clamp(4.0, 20.0) as u8).expect("clamped to 4 and above")
}
