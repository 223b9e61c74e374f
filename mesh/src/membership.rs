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
//! | anybody may say anything of anybody | a node enters with its own signed `Card` alone; a Down needs a probe of our own without answer (`judge`) |
//! | the table grows with what peers claim | one entry for each certificate, [`MAX_MEMBERS_KNOWN`] in all |
//! | two that hold each other down renew themselves for ever | at the pace of `limits`, on both sides |
//! | a change of the list waits for the next gossip | it is passed on at once |
//! | downs, and joins, that news has missed stay unknown | lists are compared by digest with each probe (`sync`) |
//! | a suspect hears of it by chance, and its suspector of the answer | both are told directly, the suspect by everyone who probes it |
//! | a node that is itself slow suspects others | it waits longer (`health`); one that slept judges nobody for it |
//! | reports fill the packets | in full only when changed, or asked for; else a note of 14 bytes (`news`, `rumours`) |
//! | nobody happens to probe a node for seconds | each node watches the next one (`ring`) |
//! | one lost packet of a probe costs 16 others | up to two more direct attempts (`probing`) |

mod cards;
mod chain;
#[cfg(feature = "sim")]
pub mod forgery;
mod health;
mod hints;
mod judge;
mod keys;
mod limits;
mod news;
mod outbox;
mod own;
mod packet;
mod peer;
mod probing;
mod reports;
mod ring;
mod rumours;
mod settings;
mod sync;
mod tables;
mod timers;
mod twins;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foca::{Foca, Message, Timer};
use geo::address::told;
use rand::{SeedableRng, rngs::StdRng};

use self::{
    cards::{Card, Cards},
    health::Health,
    hints::Hints,
    judge::Accusers,
    limits::Limits,
    news::Item,
    outbox::{Note, Outbox},
    own::Own,
    packet::PacketCodec,
    peer::Peer,
    probing::Probing,
    reports::Reports,
    ring::Ring,
    rumours::Rumours,
    sync::Sync,
    timers::Timers,
    twins::Twins,
    upkeep::Deadlines,
};
pub use self::{
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
    /// When that came, by this node's monotonic clock: the clock that wrote the report may be wrong.
    pub heard: Option<Instant>,
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
    /// Two nodes have one id. The one that came first answers, and the other is refused.
    Twin {
        /// Their id.
        node: NodeId,
        /// Where the first is.
        known: SocketAddr,
        /// Where the other is.
        other: SocketAddr,
    },
    /// By another node's clock ours is wrong, or its own is.
    ClockDiffers {
        /// Whose.
        by: NodeId,
        /// How far ours is ahead of it, in milliseconds.
        ahead: i64,
    },
}

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
    rumours: Rumours,
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
            rumours: Rumours::default(),
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

    /// Takes in a packet that came on a connection whose certificate says `from`.
    ///
    /// # Errors
    /// The packet is not one, is not from `from`, or names more nodes than fit. Arbitrary bytes never
    /// panic.
    pub fn handle_packet(&mut self, from: &Identity, packet: &[u8], now: Instant) -> Result<(), PacketError> {
        if self.left {
            return Ok(());
        }
        self.last_now = now;
        let packet::Packet { mut header, members, items } = packet::read(packet)?;
        let src = header.src.clone();
        if !src.is(from) {
            return Err(PacketError::Impostor { claimed: src.node, certified: from.node.clone() });
        }
        if src.node == self.foca.identity().node {
            return Err(PacketError::Ourselves);
        }
        let (rejoins, incarnation) = (self.rejoins, self.incarnation());
        let ours = header.dst == *self.foca.identity() || header.dst.is_anyone();
        // Its card alone makes it a member, so that is to be asked first.
        let newcomer = header.message == Message::Announce && self.active(&src.node).is_none_or(|m| *m.id() != src);
        let items = self.take_cards(&src, items, ours, now);
        let taken = if self.is_introduced(&src, now) {
            let certain = self.cards.get(&src.node).map_or(0, |card| card.incarnation);
            header.src_incarnation = header.src_incarnation.min(certain);
            if newcomer {
                self.tell_all(&src, now);
            }
            self.take_in(header, members, items, now)
        } else {
            Ok(())
        };
        self.ask_for_cards(&src, now);
        self.settle(now);
        if self.rejoins > rejoins {
            // Whoever tells us that we are down should be the first to hear of our new life.
            self.announce_to(src, now);
        } else if self.incarnation() > incarnation {
            // Whoever suspects us, or has heard of it, should be the first to hear that we are well.
            self.send(src, Message::Gossip, &[]);
        }
        taken
    }

    /// Takes in the cards among `items`; the rest is given back. What was meant for another life of ours tells of us
    /// alone: else we would hold ourselves accepted in this one.
    fn take_cards(&mut self, from: &Peer, items: Vec<Item>, ours: bool, now: Instant) -> Vec<Item> {
        let mut rest = vec![];
        for item in items {
            match item {
                Item::Card(card) if !ours && card.peer.node != self.foca.identity().node => {}
                Item::Card(card) if told(card.peer.addr) != Ok(card.peer.addr) => self.disbelieve("address"),
                Item::Card(card) => self.hear_card(*card, from, now),
                Item::Cards(keys) => self.give_cards(from, &keys, now),
                Item::Clock(millis) => self.hear_clock(from, millis, now),
                other => rest.push(other),
            }
        }
        rest
    }

    /// Takes in what a node says that we know by its card.
    fn take_in(
        &mut self,
        mut header: foca::Header<Peer>,
        members: Vec<foca::Member<Peer>>,
        items: Vec<Item>,
        now: Instant,
    ) -> Result<(), PacketError> {
        let src = header.src.clone();
        if !self.names_the_known(&header.message) {
            self.disbelieve("stranger");
            return Ok(());
        }
        if header.message == Message::TurnUndead && header.dst == *self.foca.identity() && !self.may_renew(&src, now) {
            return Ok(());
        }
        self.hints.clear(&src.node);
        self.ring.clear(&src.node);
        self.accusers.clear(&src.node);
        if let Message::ForwardedAck { origin, probe_number: upkeep::HINT_PROBE } = &header.message {
            self.hints.vouch(&origin.node, &src.node);
        }
        self.note_answer(&src.node, &header.message, now);
        self.note_alive(&src, &header.message, now);
        if header.dst.is_anyone() && header.message == Message::Announce {
            // How an announcement to anyone becomes one to us.
            header.dst = self.foca.identity().clone();
        }
        let ours = header.dst == *self.foca.identity();
        let taken = self.foca.handle_data(&packet::bare(&header)?, &mut self.outbox);
        if ours && self.active(&src.node).is_some_and(|member| *member.id() == src) {
            let believed = self.judge(&src, members, now);
            if !believed.is_empty() {
                self.apply(believed);
            }
            self.read_items(&src, items, now);
        }
        Ok(taken?)
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

    fn settle_send(&mut self, to: Peer, packet: Bytes, now: Instant) {
        let Ok((header, _)) = packet::header(&packet) else { return };
        if self.is_needless(&to, &header) {
            return;
        }
        self.note_incarnation(header.src_incarnation);
        if let Message::Ping(number) = header.message {
            self.begin_probe(&to, number, now);
            let room = MAX_PACKET - packet.len();
            let digest = Item::Digest(self.digest(now)).encode(room).unwrap_or_default();
            return self.queue_with_news(to, packet, &digest);
        }
        self.queue_with_news(to, packet, &[]);
    }

    /// Adds to a packet what its receiver should hear, as far as it fits.
    fn queue_with_news(&mut self, to: Peer, packet: Bytes, tail: &[u8]) {
        let room = |items: &[u8]| MAX_PACKET.saturating_sub(packet.len() + items.len());
        let mut items = tail.to_vec();
        items.extend(self.introduction(&to, room(&items)));
        if !to.is_anyone() {
            items.extend(self.cards.fill(&to.node, room(&items)));
            items.extend(self.rumours.fill(&to.node, room(&items), &self.reports));
        }
        let packet = if items.is_empty() { packet } else { [&packet[..], &items].concat().into() };
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
                    self.spread(now);
                }
                Note::Down(peer) => {
                    tracing::debug!(node = %peer.node, "down");
                    self.hints.clear(&peer.node);
                    self.accusers.clear(&peer.node);
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
        (self.foca.identity().clone(), self.incarnation())
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

#[cfg(test)]
mod tests;
