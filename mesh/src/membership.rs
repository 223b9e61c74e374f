//! Who is in the mesh, alive and with which load: SWIM around foca, without I/O.
//!
//! The caller owns one [`Membership`] and, after **every** call that changes it, drains
//! [`Membership::poll_transmit`] and [`Membership::poll_event`] and waits for no longer than
//! [`Membership::poll_timeout`]. A late [`Membership::handle_timeout`] does no harm beyond the delay.
//!
//! SWIM says who is alive, never who owns a meeting. What foca leaves open is repaired here:
//!
//! | gap | repair |
//! |---|---|
//! | a refuted suspicion still tells the healthy node that it is down | [`Message::TurnUndead`] to a member held active is dropped |
//! | updates are gossiped a fixed number of times and may miss a node | recent changes are repeated to random members |
//! | after a partition, foca waits for minutes | nodes that are down are announced to every few seconds |
//! | a node that is alone, or held down, stops announcing | seeds and members are tried from here |
//! | joining needs the seed's name | an announcement to anyone, which the receiver takes for itself |
//! | anybody may say anything of anybody | a node enters with its own signed `Card` alone; a Down needs a probe of our own without answer (`judge`) |
//! | the table grows with what peers claim | one entry for each certificate, [`MAX_MEMBERS_KNOWN`] in all |
//! | two that hold each other down renew themselves for ever | at the pace of `limits`, on both sides |
//! | a change of the list waits for the next gossip | it is passed on at once |
//! | downs, and joins, that updates have missed stay unknown | lists are compared by digest with each probe (`sync`) |
//! | a suspect hears of it by chance, and its suspector of the answer | both are told directly, the suspect by everyone who probes it |
//! | a node that is itself slow suspects others | it waits longer (`health`); one that slept judges nobody for it |
//! | reports fill the packets | in full only when changed, or asked for; else a note of 14 bytes (`items`, `updates`) |
//! | nobody happens to probe a node for seconds | each node watches the next one (`ring`) |
//! | one lost packet of a probe costs 16 others | up to two more direct attempts (`probing`) |

mod cards;
mod chain;
mod event;
#[cfg(feature = "sim")]
pub mod forgery;
mod health;
mod hints;
mod items;
mod judge;
mod keys;
mod limits;
mod noting;
mod outbox;
mod own;
mod packet;
mod peer;
mod probing;
mod receiving;
mod reports;
mod ring;
mod sending;
mod settings;
mod sync;
mod tables;
mod timers;
mod twins;
mod updates;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use foca::{Foca, Message, Timer};
use rand::{SeedableRng, rngs::StdRng};

use self::{
    cards::{Card, Cards},
    health::Health,
    hints::Hints,
    judge::Accusers,
    limits::Limits,
    outbox::Outbox,
    own::Own,
    packet::PacketCodec,
    peer::Peer,
    probing::Probing,
    reports::Reports,
    ring::Ring,
    sync::Sync,
    timers::Timers,
    twins::Twins,
    updates::Updates,
    upkeep::Deadlines,
};
pub use self::{
    event::{Event, Member, Transmit},
    keys::{Fetch, Fingerprint, Keys},
    packet::{MAX_PACKET, PacketError, inspect},
    settings::Settings,
};
use crate::{
    identity::{Identity, NodeId},
    wire::report::Report,
};

/// The most nodes the table holds, up or down. More are not believed to exist.
pub const MAX_MEMBERS_KNOWN: usize = 4096;

/// The most members that are told directly when this node leaves; gossip tells the rest.
const MAX_FAREWELLS: usize = 128;

/// SWIM's state on one node.
///
/// Its queues are bounded by the contract above: what one call can cause is one packet to each member.
pub struct Membership {
    settings: Settings,
    foca: Foca<Peer, PacketCodec, StdRng, foca::NoCustomBroadcast>,
    keys: Arc<dyn Keys>,
    cards: Cards,
    /// The own card, and who was shown it.
    card: Option<Card>,
    shown_to: BTreeSet<NodeId>,
    accusers: Accusers,
    twins: Twins,
    limits: Limits,
    disbelieved: BTreeMap<&'static str, u64>,
    /// What the clock said, in Unix milliseconds, and when.
    clock: (u64, Instant),
    last_now: Instant,
    reports: Reports,
    updates: Updates,
    sync: Sync,
    health: Health,
    probing: Option<Probing>,
    /// Smoothed time to the answer of a probe, where one came.
    rtts: BTreeMap<NodeId, Duration>,
    /// foca's, as its packets say it, and of which life.
    incarnation: (u64, foca::Incarnation),
    outbox: Outbox,
    timers: Timers,
    deadlines: Deadlines,
    rng: StdRng,
    /// Members whose connection was lost and who have until then to be heard of.
    hints: Hints,
    ring: Ring,
    /// Everyone known, and since when they are up or down.
    history: BTreeMap<NodeId, (foca::Member<Peer>, Instant)>,
    seeds: VecDeque<SocketAddr>,
    own: Option<Own>,
    configured_for: usize,
    /// Whether some member has accepted this life of ours.
    joined: bool,
    /// Until when what this node held down was doubtful, since it was itself held down or alone.
    doubtful_until: Option<Instant>,
    /// How often nobody has answered our announcements.
    join_tries: u32,
    /// When updates and changes of the list were sent out last.
    told_at: Option<Instant>,
    spread_at: Option<Instant>,
    /// How many more members to ask whom they know, one each repair period: an answer holds about 25.
    to_ask: u8,
    left: bool,
    rejoins: u64,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Membership {
    /// A node that knows nobody yet, `clock` being the Unix time in milliseconds at `now`.
    ///
    /// It is also its first life: a restarted node wins over its former self. A clock that went back in between costs
    /// an exchange more. `seed` feeds every random choice: equal inputs in equal order give equal outputs.
    pub fn new(
        me: Identity,
        addr: SocketAddr,
        keys: Arc<dyn Keys>,
        (clock, now): (u64, Instant),
        settings: Settings,
        seed: u64,
    ) -> Self {
        let settings = settings.sane();
        let foca = Foca::new(Peer::new(me, addr, clock), settings.foca(1), StdRng::seed_from_u64(seed), PacketCodec);
        Self {
            settings,
            foca,
            keys,
            cards: Cards::default(),
            card: None,
            shown_to: BTreeSet::new(),
            accusers: Accusers::default(),
            twins: Twins::default(),
            limits: Limits::default(),
            disbelieved: BTreeMap::new(),
            clock: (clock, now),
            last_now: now,
            reports: Reports::default(),
            updates: Updates::default(),
            sync: Sync::default(),
            health: Health::default(),
            probing: None,
            rtts: BTreeMap::new(),
            incarnation: (clock, 0),
            outbox: Outbox::default(),
            timers: Timers::default(),
            deadlines: Deadlines::default(),
            rng: StdRng::seed_from_u64(seed.wrapping_add(1)),
            hints: Hints::default(),
            ring: Ring::default(),
            history: BTreeMap::new(),
            seeds: VecDeque::new(),
            own: None,
            configured_for: 1,
            joined: false,
            doubtful_until: None,
            join_tries: 0,
            told_at: None,
            spread_at: None,
            to_ask: 0,
            left: false,
            rejoins: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Joins the mesh through whoever is at `to`.
    ///
    /// The address is remembered as a seed: it is tried again every [`Settings::join_period`] while no
    /// member is known and every [`Settings::seed_period`] while it is not itself a member's. The own
    /// address is ignored, so a list of seeds may name every node.
    pub fn announce(&mut self, to: SocketAddr, now: Instant) {
        if self.left || to == self.foca.identity().addr {
            return;
        }
        self.last_now = now;
        self.remember_seed(to, now);
        self.announce_to(Peer::anyone(to), now);
    }

    /// What the clock says at `now`, in Unix milliseconds: it may be set while the node runs.
    pub fn handle_clock(&mut self, millis: u64, now: Instant) {
        self.clock = (millis, now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.last_now = now;
        self.notice_sleep(now);
        while let Some(timer) = self.timers.pop(now) {
            if let Err(error) = self.foca.handle_timer(timer, &mut self.outbox) {
                tracing::debug!(%error, "SWIM timer");
            }
            self.settle(now);
        }
        self.settle_twins(now);
        self.upkeep(now);
    }

    /// When [`Membership::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        let own = [self.timers.next(), self.deadlines.next(), self.hints.next(), self.ring.next()];
        own.into_iter().chain([self.probe_again_at(), self.twins.next()]).flatten().min()
    }

    /// The connection to `node` was lost: probe it now rather than when its turn comes.
    ///
    /// If neither it nor anyone who could reach it answers within a probe period, it is suspected, and
    /// has [`Settings::suspicion`] to refute that as always.
    pub fn hint_lost(&mut self, node: &NodeId, now: Instant) {
        if self.left || self.hints.contains(node) {
            return;
        }
        let Some(member) = self.active(node).cloned() else { return };
        let helpers = self.probe(member.id(), &[]);
        self.hints.add(&member, helpers, false, now + self.settings.probe_period);
    }

    /// Says of this node what `report` says; its `node` is set to this one.
    ///
    /// Goes out at once, but not more often than every [`Settings::report_gap`] (the newest then goes
    /// out), and again every [`Settings::report_period`]. A report that does not fit a packet loses
    /// its last round trips.
    pub fn publish(&mut self, report: Report, now: Instant) {
        if self.left {
            return;
        }
        self.last_now = now;
        self.take_report(report, now);
        self.settle(now);
    }

    /// Says goodbye. Nothing is taken in or sent after it, but what it has queued is to be sent.
    pub fn leave(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.last_now = now;
        let members: Vec<Peer> = self.foca.iter_members().take(MAX_FAREWELLS).map(|m| m.id().clone()).collect();
        self.left = true;
        self.show_card();
        if let Err(error) = self.foca.leave_cluster(&mut self.outbox) {
            tracing::debug!(%error, "goodbye not gossiped");
        }
        self.settle(now);
        let gone = foca::Member::down(self.foca.identity().clone());
        for peer in members {
            self.send(peer, Message::Gossip, std::slice::from_ref(&gone));
        }
    }

    /// The next packet to send, until there is none.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event, until there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next certificate to fetch, until there is none. When it is there, or is not to be had, the fetching is
    /// over: [`Membership::handle_certificate`] takes it up.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        self.cards.next_fetch()
    }

    /// The live nodes, without this one, by node id.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.foca.iter_members().map(|m| self.view(m.id())).collect();
        members.sort_by(|a, b| a.identity.node.cmp(&b.identity.node));
        members
    }

    /// What `node` last said of itself, if that has come through.
    pub fn report(&self, node: &NodeId) -> Option<Arc<Report>> {
        self.reports.get(node)
    }

    /// How far this node trusts its own judgement: 0 in full, to 8 hardly.
    pub fn doubt_of_itself(&self) -> u8 {
        self.health.score()
    }

    /// How often this node was held down in error and has had to renew itself.
    pub fn rejoins(&self) -> u64 {
        self.rejoins
    }

    fn view(&self, peer: &Peer) -> Member {
        Member {
            identity: peer.identity(),
            addr: peer.addr,
            report: self.reports.get(&peer.node),
            heard: self.reports.heard(&peer.node),
        }
    }

    fn active(&self, node: &NodeId) -> Option<&foca::Member<Peer>> {
        self.foca.iter_members().find(|member| member.id().node == *node)
    }

    /// Turns what foca asked for in its last call into timers, events and packets.
    fn settle(&mut self, now: Instant) {
        for (timer, after) in std::mem::take(&mut self.outbox.timers) {
            let after = self.stretched(&timer, after);
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
                self.accuse(member_id.clone(), *incarnation);
            }
            self.timers.set(timer, after, now);
        }
        self.settle_notes(now);
        for (to, packet) in std::mem::take(&mut self.outbox.sends) {
            self.settle_send(to, packet, now);
        }
        self.reconfigure();
        self.arm(now);
    }

    /// News has to be passed on more often in a larger mesh.
    fn reconfigure(&mut self) {
        let nodes = self.foca.num_members() + 1;
        if nodes != self.configured_for {
            let replaced = self.foca.set_config(self.settings.foca(nodes));
            debug_assert!(replaced.is_ok(), "only the number of transmissions differs");
            self.configured_for = nodes;
        }
    }
}

#[cfg(test)]
mod tests;
