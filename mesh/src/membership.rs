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
//! | news is gossiped a fixed number of times and may miss a node | recent changes are repeated to random members |
//! | after a partition, foca waits for minutes | nodes that are down are announced to every few seconds |
//! | a node that is alone, or held down, stops announcing | seeds and members are tried from here |
//! | joining needs the seed's name | an announcement to anyone, which the receiver takes for itself |
//! | the table grows with what peers claim | [`MAX_MEMBERS_KNOWN`] |
//! | a change of the list waits for the next gossip | it is passed on at once |
//! | downs, and joins, that news has missed stay unknown | lists are compared by digest with each probe (`sync`) |
//! | a suspect hears of it by chance, and its suspector of the answer | both are told directly, the suspect by everyone who probes it |
//! | a node that is itself slow suspects others | it waits longer (`health`); one that slept judges nobody for it |
//! | reports fill the packets | in full only when changed, or asked for; else a note of 14 bytes (`news`, `rumours`) |
//! | one lost packet of a probe costs 16 others | up to two more direct attempts (`probing`) |

mod health;
mod news;
mod outbox;
mod own;
mod packet;
mod peer;
mod probing;
mod reports;
mod rumours;
mod settings;
mod sync;
mod timers;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foca::{Foca, Message, Timer};
use rand::{SeedableRng, rngs::StdRng};

use self::{
    health::Health,
    news::Item,
    outbox::{Note, Outbox},
    own::Own,
    packet::PacketCodec,
    peer::Peer,
    probing::Probing,
    reports::Reports,
    rumours::Rumours,
    sync::Sync,
    timers::Timers,
    upkeep::Deadlines,
};
pub use self::{
    packet::{MAX_PACKET, PacketError, inspect},
    settings::Settings,
};
use crate::{
    identity::{Identity, NodeId},
    version::Version,
    wire::report::Report,
};

/// The most nodes the table holds, up or down. A packet that names more is refused.
pub const MAX_MEMBERS_KNOWN: usize = 4096;

/// How many members are asked whom they know after joining, beside the first.
const ASK_AFTER_JOIN: u8 = 10;

/// A change of the list is passed on at once, but not more often than this.
const SPREAD_GAP: Duration = Duration::from_millis(50);

/// The most members that are told directly when this node leaves; gossip tells the rest.
const MAX_FAREWELLS: usize = 128;

/// A live node other than this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// Where its QUIC endpoint is.
    pub addr: SocketAddr,
    /// What it last said of itself, if that has come through.
    pub report: Option<Arc<Report>>,
}

/// A packet to be sent as one datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Whom to; `None` for an announcement to whoever is at that address.
    pub node: Option<NodeId>,
    /// At most [`MAX_PACKET`] bytes.
    pub packet: Bytes,
}

/// A change that a user of the member list should know of.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A node joined, or came back.
    Up(Member),
    /// A node left or is held to be dead.
    Down(NodeId),
    /// A live node has a new report, address, role or region.
    Changed(NodeId),
}

/// SWIM's state on one node.
///
/// Its queues are bounded by the contract above: what one call can cause is one packet to each member.
pub struct Membership {
    settings: Settings,
    foca: Foca<Peer, PacketCodec, StdRng, Reports>,
    reports: Reports,
    rumours: Rumours,
    /// What each node is known to speak; a node that is not here is sent no news.
    versions: BTreeMap<NodeId, Version>,
    sync: Sync,
    health: Health,
    probing: Option<Probing>,
    /// Smoothed time to the answer of a probe, where one came.
    rtts: BTreeMap<NodeId, Duration>,
    /// foca's, as its packets say it.
    incarnation: foca::Incarnation,
    outbox: Outbox,
    timers: Timers,
    deadlines: Deadlines,
    rng: StdRng,
    /// Members whose connection was lost and who have until then to be heard of.
    hints: BTreeMap<NodeId, Instant>,
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
    /// When rumours and changes of the list were sent out last.
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
    /// A node that knows nobody yet.
    ///
    /// `incarnation` is the Unix time of the start in milliseconds, so that a restarted node wins over
    /// its former self; a clock that went back in between costs a few more exchanges. `seed` feeds every
    /// random choice: equal inputs in equal order give equal outputs.
    pub fn new(me: Identity, addr: SocketAddr, incarnation: u64, settings: Settings, seed: u64) -> Self {
        let settings = settings.sane();
        let reports = Reports::new(settings.wire);
        let foca = Foca::with_custom_broadcast(
            Peer::new(me, addr, incarnation),
            settings.foca(1),
            StdRng::seed_from_u64(seed),
            PacketCodec,
            reports.clone(),
        );
        Self {
            settings,
            foca,
            reports,
            rumours: Rumours::default(),
            versions: BTreeMap::new(),
            sync: Sync::default(),
            health: Health::default(),
            probing: None,
            rtts: BTreeMap::new(),
            incarnation: 0,
            outbox: Outbox::default(),
            timers: Timers::default(),
            deadlines: Deadlines::default(),
            rng: StdRng::seed_from_u64(seed.wrapping_add(1)),
            hints: BTreeMap::new(),
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
        self.remember_seed(to, now);
        self.announce_to(Peer::anyone(to), now);
    }

    /// The connection to `node` speaks `wire`: what of ours it reads is decided by that.
    pub fn handle_version(&mut self, node: &NodeId, wire: Version) {
        if self.versions.get(node) != Some(&wire) {
            self.versions.insert(node.clone(), wire);
        }
    }

    /// Takes in a packet that came on a connection whose certificate says `from`.
    ///
    /// # Errors
    /// The packet is not one, is not from `from`, or names more nodes than fit. Arbitrary bytes never
    /// panic.
    pub fn handle_packet(&mut self, from: &Identity, packet: &[u8], now: Instant) -> Result<(), PacketError> {
        if self.left {
            return Ok(());
        }
        let (header, length) = packet::header(packet)?;
        if !header.src.is(from) {
            return Err(PacketError::Impostor { claimed: header.src.node, certified: from.node.clone() });
        }
        self.check_room(&header, &packet[length..])?;
        self.hints.remove(&from.node);
        if let Message::ForwardedAck { origin, .. } = &header.message {
            self.hints.remove(&origin.node);
        }
        self.note_answer(&from.node, &header.message, now);
        let (sender, rejoins, incarnation) = (header.src.clone(), self.rejoins, self.incarnation);
        let taken = if header.dst.is_anyone() && header.message == Message::Announce {
            let mut readdressed = packet::readdress(header, self.foca.identity().clone())?;
            readdressed.extend_from_slice(&packet[length..]);
            self.foca.handle_data(&readdressed, &mut self.outbox)
        } else {
            self.foca.handle_data(packet, &mut self.outbox)
        };
        self.read_items(now);
        self.settle(now);
        if self.rejoins > rejoins {
            // Whoever tells us that we are down should be the first to hear of our new life.
            self.announce_to(sender, now);
        } else if self.incarnation > incarnation {
            // Whoever suspects us, or has heard of it, should be the first to hear that we are well.
            self.send(sender, Message::Gossip, &[]);
        }
        Ok(taken?)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.notice_sleep(now);
        while let Some(timer) = self.timers.pop(now) {
            if let Err(error) = self.foca.handle_timer(timer, &mut self.outbox) {
                tracing::debug!(%error, "SWIM timer");
            }
            self.settle(now);
        }
        self.upkeep(now);
    }

    /// When [`Membership::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        let hint = self.hints.values().min().copied();
        [self.timers.next(), self.deadlines.next(), hint, self.probe_again_at()].into_iter().flatten().min()
    }

    /// The connection to `node` was lost: probe it now rather than when its turn comes.
    ///
    /// If neither it nor anyone who could reach it answers within a probe period, it is suspected, and
    /// has [`Settings::suspicion`] to refute that as always.
    pub fn hint_lost(&mut self, node: &NodeId, now: Instant) {
        if self.left || self.hints.contains_key(node) {
            return;
        }
        let Some(peer) = self.active(node).map(|member| member.id().clone()) else { return };
        self.probe(&peer);
        self.hints.insert(peer.node, now + self.settings.probe_period);
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
        self.take_report(report, now);
        self.settle(now);
    }

    /// Says goodbye. Nothing is taken in or sent after it, but what it has queued is to be sent.
    pub fn leave(&mut self, now: Instant) {
        if self.left {
            return;
        }
        if let Err(error) = self.foca.leave_cluster(&mut self.outbox) {
            tracing::debug!(%error, "goodbye not gossiped");
        }
        self.settle(now);
        let gone = foca::Member::down(self.foca.identity().clone());
        let members: Vec<Peer> = self.foca.iter_members().take(MAX_FAREWELLS).map(|m| m.id().clone()).collect();
        for peer in members {
            self.send(peer, Message::Gossip, std::slice::from_ref(&gone));
        }
        self.left = true;
    }

    /// The next packet to send, until there is none.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event, until there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
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
        Member { identity: peer.identity(), addr: peer.addr, report: self.reports.get(&peer.node) }
    }

    fn active(&self, node: &NodeId) -> Option<&foca::Member<Peer>> {
        self.foca.iter_members().find(|member| member.id().node == *node)
    }

    /// Whether the table has room for every node that a packet names; only counted when it may not.
    fn check_room(&self, header: &foca::Header<Peer>, body: &[u8]) -> Result<(), PacketError> {
        let known = self.foca.iter_membership_state();
        if known.len() + packet::MAX_MEMBERS < MAX_MEMBERS_KNOWN {
            return Ok(());
        }
        let mut nodes: BTreeSet<NodeId> = known.map(|member| member.id().node.clone()).collect();
        nodes.insert(header.src.node.clone());
        if header.message != Message::Broadcast {
            nodes.extend(packet::members(body)?.into_iter().map(|member| member.id().node.clone()));
        }
        if nodes.len() <= MAX_MEMBERS_KNOWN { Ok(()) } else { Err(PacketError::Full) }
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

    fn settle_send(&mut self, to: Peer, packet: Bytes, now: Instant) {
        let Ok((header, _)) = packet::header(&packet) else { return };
        if self.is_needless(&to, &header) {
            return;
        }
        self.note_incarnation(header.src_incarnation);
        if let Message::Ping(number) = header.message {
            self.begin_probe(&to, number, now);
            let digest =
                self.reads_news(&to.node).then(|| Item::Digest(self.digest(now)).encode(MAX_PACKET - packet.len()));
            return self.queue_with_news(to, packet, digest.flatten().as_deref().unwrap_or_default());
        }
        match header.message {
            Message::Announce | Message::TurnUndead => self.queue(to, packet),
            _ => self.queue_with_news(to, packet, &[]),
        }
    }

    fn reads_news(&self, node: &NodeId) -> bool {
        reads_news(self.settings.wire, self.versions.get(node).copied())
    }

    /// Adds to a packet what its receiver should hear, as far as it fits.
    fn queue_with_news(&mut self, to: Peer, packet: Bytes, tail: &[u8]) {
        let length = packet.len() + tail.len();
        let rumours = if self.reads_news(&to.node) {
            self.rumours.fill(&to.node, MAX_PACKET.saturating_sub(length), &self.reports)
        } else {
            vec![]
        };
        let packet =
            if length + rumours.len() == packet.len() { packet } else { [&packet, tail, &rumours].concat().into() };
        self.queue(to, packet);
    }

    fn settle_notes(&mut self, now: Instant) {
        let mut moved = BTreeSet::new();
        for note in std::mem::take(&mut self.outbox.notes) {
            match note {
                Note::Up(peer) => {
                    tracing::debug!(node = %peer.node, addr = %peer.addr, "up");
                    moved.remove(&peer.node);
                    self.events.push_back(Event::Up(self.view(&peer)));
                    self.repeat_report(now);
                    self.spread(now);
                }
                Note::Down(peer) => {
                    tracing::debug!(node = %peer.node, "down");
                    self.hints.remove(&peer.node);
                    moved.remove(&peer.node);
                    self.events.push_back(Event::Down(peer.node));
                    self.spread(now);
                }
                // A node that only renewed itself is the same node: no event.
                Note::Renamed { before, after } => {
                    self.sync.changed(now);
                    if before.moved(&after) {
                        moved.insert(after.node);
                    }
                }
                Note::Rejoined => {
                    self.rejoins += 1;
                    self.note_joined(false, now);
                }
                Note::Joined(joined) => self.note_joined(joined, now),
            }
        }
        moved.extend(self.reports.take_changed());
        for node in moved {
            if self.active(&node).is_some() {
                self.events.push_back(Event::Changed(node));
            }
        }
    }

    /// Passes a change of the list on at once rather than with the next gossip.
    fn spread(&mut self, now: Instant) {
        self.sync.changed(now);
        if self.spread_at.is_some_and(|at| at + SPREAD_GAP > now) {
            return;
        }
        self.spread_at = Some(now);
        if let Err(error) = self.foca.gossip(&mut self.outbox) {
            tracing::debug!(%error, "change not passed on");
        }
    }

    fn note_joined(&mut self, joined: bool, now: Instant) {
        self.joined = joined;
        if !joined {
            self.doubtful_until = Some(now + self.settings.repair_period);
        }
        self.sync.changed(now);
        self.join_tries = 0;
        self.to_ask = if joined { ASK_AFTER_JOIN } else { 0 };
    }

    /// foca tells a suspect that it is down even when it has refuted; it would renew itself for nothing.
    fn is_needless(&self, to: &Peer, header: &foca::Header<Peer>) -> bool {
        header.message == Message::TurnUndead && self.foca.iter_members().any(|member| member.id() == to)
    }

    fn send(&mut self, to: Peer, message: Message<Peer>, updates: &[foca::Member<Peer>]) {
        if let Some(packet) = packet::craft(self.source(), to.clone(), message, updates) {
            self.queue_with_news(to, packet, &[]);
        }
    }

    fn source(&self) -> (Peer, foca::Incarnation) {
        (self.foca.identity().clone(), self.incarnation)
    }

    /// Sends items, which must fit.
    fn send_with(&mut self, to: Peer, items: &[u8]) {
        let packet = packet::craft(self.source(), to.clone(), Message::Gossip, &[]);
        if let Some(packet) = packet.filter(|packet| packet.len() + items.len() <= MAX_PACKET) {
            self.queue_with_news(to, packet, items);
        }
    }

    /// How many bytes of items fit into a packet to `to`.
    fn room(&self, to: &Peer) -> usize {
        let packet = packet::craft(self.source(), to.clone(), Message::Gossip, &[]);
        packet.map_or(0, |packet| MAX_PACKET.saturating_sub(packet.len()))
    }

    fn queue(&mut self, to: Peer, packet: Bytes) {
        let node = if to.is_anyone() { None } else { Some(to.node) };
        self.transmits.push_back(Transmit { to: to.addr, node, packet });
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

/// Whether news passes between a node of version `ours` and one known to speak `theirs`.
fn reads_news(ours: Version, theirs: Option<Version>) -> bool {
    ours >= Version::V2 && theirs.is_some_and(|wire| wire >= Version::V2)
}

#[cfg(test)]
mod tests;
