//! What SWIM leaves undone: finding the mesh, healing partitions, spreading changes for certain,
//! acting on lost connections, and telling updates that do not wait.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use foca::{Member, Message, State, Timer};
use rand::{rngs::StdRng, seq::SliceRandom};

use super::{Membership, health::LATE, hints::Hint, packet, peer::Peer};
use crate::identity::NodeId;

/// The most seeds remembered; the oldest makes room.
const MAX_SEEDS: usize = 64;
/// How many nodes that are down are announced to at a time.
const REJOIN_FANOUT: usize = 3;
/// How many members a repair goes to at a time.
const REPAIR_FANOUT: usize = 2;
/// How long a change is repeated: at two members each second from everyone who knows, about thirty
/// receipts are to be expected. Longer would carry the downs of a partition into its healing.
const REPAIR_FOR: Duration = Duration::from_secs(15);
/// The longest wait between two announcements while nobody accepts us.
const LONGEST_JOIN: Duration = Duration::from_secs(2);
/// News of a change waits this long for more, then goes out.
const GATHER: Duration = Duration::from_millis(20);
/// So many updates that nobody waits for are still told with probes alone: two packets each second.
const CROWD: usize = 60;
/// Probe number of our own probes: their answers are seen by us, not by foca's probe in progress.
pub(super) const HINT_PROBE: foca::ProbeNumber = 0;

/// When each kind of upkeep is due; `None` while there is no reason for it.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// When to try the seeds again.
    seeds: Option<Instant>,
    /// When to announce to nodes that are down.
    rejoin: Option<Instant>,
    /// When to look for changes, repeat the recent ones and forget.
    repair: Option<Instant>,
    /// When to send the own report again.
    pub(super) report: Option<Instant>,
    /// When to send updates that do not wait for a packet to travel with.
    pub(super) tell: Option<Instant>,
    /// When to ask again for cards that have not come.
    pub(super) cards: Option<Instant>,
}

impl Deadlines {
    pub(super) fn next(&self) -> Option<Instant> {
        [self.seeds, self.rejoin, self.repair, self.report, self.tell, self.cards].into_iter().flatten().min()
    }
}

/// Whether `deadline` has come; if so it is taken.
pub(super) fn due(deadline: &mut Option<Instant>, now: Instant) -> bool {
    deadline.take_if(|at| *at <= now).is_some()
}

pub(super) fn sooner(deadline: &mut Option<Instant>, at: Instant) {
    *deadline = Some(deadline.map_or(at, |old| old.min(at)));
}

fn is_down(member: &Member<Peer>) -> bool {
    member.state() == State::Down
}

fn is_same(one: &Member<Peer>, other: &Member<Peer>) -> bool {
    one.id() == other.id() && is_down(one) == is_down(other)
}

fn some_of<T>(mut all: Vec<T>, count: usize, rng: &mut StdRng) -> Vec<T> {
    all.shuffle(rng);
    all.truncate(count);
    all
}

impl Membership {
    /// Sets what is due from now on; called after everything that may have changed the member list.
    pub(super) fn arm(&mut self, now: Instant) {
        self.deadlines.rejoin.get_or_insert(now + self.settings.rejoin_period);
        self.deadlines.repair.get_or_insert(now + self.settings.repair_period);
        if !self.joined {
            let at = now + self.join_wait();
            sooner(&mut self.deadlines.seeds, at);
        }
    }

    /// Does what is due, in a fixed order.
    pub(super) fn upkeep(&mut self, now: Instant) {
        if due(&mut self.deadlines.seeds, now) {
            self.try_seeds(now);
        }
        if due(&mut self.deadlines.rejoin, now) {
            self.announce_to_down(now);
        }
        if due(&mut self.deadlines.repair, now) {
            self.repair(now);
        }
        if due(&mut self.deadlines.report, now) {
            self.send_report(now);
        }
        if due(&mut self.deadlines.tell, now) {
            self.tell(now);
        }
        if due(&mut self.deadlines.cards, now) {
            self.ask_again(now);
        }
        self.probe_again(now);
        self.watch_successor(now);
        while let Some(hint) = self.hints.pop(now) {
            self.suspect(&hint, now);
        }
        self.arm(now);
    }

    pub(super) fn remember_seed(&mut self, seed: SocketAddr, now: Instant) {
        if !self.seeds.contains(&seed) {
            self.seeds.push_back(seed);
        }
        if self.seeds.len() > MAX_SEEDS {
            self.seeds.pop_front();
        }
        self.deadlines.seeds.get_or_insert(now + self.settings.join_period);
    }

    pub(super) fn announce_to(&mut self, peer: Peer, now: Instant) {
        if let Err(error) = self.foca.announce(peer, &mut self.outbox) {
            tracing::debug!(%error, "announcement not made");
        }
        self.settle(now);
    }

    fn join_wait(&self) -> Duration {
        let longest = LONGEST_JOIN.max(self.settings.join_period);
        self.settings.join_period.saturating_mul(1 << self.join_tries.min(8)).min(longest)
    }

    fn try_seeds(&mut self, now: Instant) {
        let mut known: BTreeSet<SocketAddr> = self.foca.iter_members().map(|m| m.id().addr).collect();
        known.insert(self.foca.identity().addr);
        let strangers: Vec<SocketAddr> = self.seeds.iter().copied().filter(|seed| !known.contains(seed)).collect();
        let mut targets: Vec<Peer> = strangers.into_iter().map(Peer::anyone).collect();
        if !self.joined {
            let members = self.foca.iter_members().map(|m| m.id().clone()).collect();
            targets.extend(some_of(members, REJOIN_FANOUT, &mut self.rng));
        }
        targets.into_iter().for_each(|peer| self.announce_to(peer, now));
        self.join_tries = if self.joined { 0 } else { self.join_tries.saturating_add(1) };
        let period = if self.joined { self.settings.seed_period } else { self.join_wait() };
        self.deadlines.seeds = Some(now + period);
    }

    fn announce_to_down(&mut self, now: Instant) {
        let down = self.others().into_iter().filter(is_down).map(|member| member.id().clone()).collect();
        for peer in some_of(down, REJOIN_FANOUT, &mut self.rng) {
            self.announce_to(peer, now);
        }
        self.deadlines.rejoin = Some(now + self.settings.rejoin_period);
    }

    /// All nodes known, up or down, but this one (foca keeps its former lives).
    fn others(&self) -> Vec<Member<Peer>> {
        let me = &self.foca.identity().node;
        self.foca.iter_membership_state().filter(|member| member.id().node != *me).cloned().collect()
    }

    /// Keeps book of who is up or down since when; tells of recent changes, forgets those long down.
    fn repair(&mut self, now: Instant) {
        let mut before = std::mem::take(&mut self.history);
        for member in self.others() {
            let old = before.remove(&member.id().node).filter(|(old, _)| is_same(old, &member));
            let since = old.map_or(now, |(_, since)| since);
            if is_down(&member) && since + self.settings.forget_after <= now {
                let forgotten = self.foca.handle_timer(Timer::RemoveDown(member.id().clone()), &mut self.outbox);
                debug_assert!(forgotten.is_ok(), "removing sends nothing, so nothing can fail");
            } else {
                self.history.insert(member.id().node.clone(), (member, since));
            }
        }
        self.tell_of_changes(now);
        self.ask_around(now);
        let (me, history) = (&self.foca.identity().node, &self.history);
        let known = |node: &NodeId| node == me || history.contains_key(node);
        self.reports.retain(known);
        self.updates.retain(known);
        self.shown_to.retain(known);
        self.cards.tidy(now, known);
        self.twins.tidy(known);
        self.accusers.tidy(now);
        self.limits.tidy(now);
        self.rtts.retain(|node, _| known(node));
        self.sync.tidy(now, self.settings.repair_period);
        self.ask_for_reports(now);
        self.deadlines.repair = Some(now + self.settings.repair_period);
    }

    /// A suspicion is not passed on here: it has a timer where it was raised. Nor are downs from before
    /// this node lost its own place: then it was the one cut off, and the others may be well.
    fn tell_of_changes(&mut self, now: Instant) {
        let told = |(member, since): &&(Member<Peer>, Instant)| match member.state() {
            State::Alive => *since + REPAIR_FOR > now,
            State::Suspect => false,
            State::Down => *since + REPAIR_FOR > now && self.doubtful_until.is_none_or(|until| *since > until),
        };
        let told_of: Vec<Member<Peer>> = self.history.values().filter(told).map(|(member, _)| member.clone()).collect();
        if told_of.is_empty() {
            return;
        }
        let members = self.foca.iter_members().map(|m| m.id().clone()).collect();
        for peer in some_of(members, REPAIR_FANOUT, &mut self.rng) {
            let fitting = some_of(told_of.clone(), packet::MAX_MEMBERS, &mut self.rng);
            self.send(peer, Message::Gossip, &fitting);
        }
    }

    /// Fills the table after joining: an announcement is answered with whom the other knows.
    fn ask_around(&mut self, now: Instant) {
        if self.to_ask > 0 {
            self.to_ask -= 1;
            let members = self.foca.iter_members().map(|m| m.id().clone()).collect();
            some_of(members, 1, &mut self.rng).into_iter().for_each(|peer| self.announce_to(peer, now));
        }
    }

    /// Probes `peer` directly and through others, at once, and tells it `what`. Returns who the others are.
    pub(super) fn probe(&mut self, peer: &Peer, what: &[Member<Peer>]) -> Vec<NodeId> {
        self.send(peer.clone(), Message::Ping(HINT_PROBE), what);
        let others = self.foca.iter_members().map(|m| m.id().clone()).filter(|id| id != peer).collect();
        let helpers = some_of(others, self.settings.indirect_probes.get(), &mut self.rng);
        for helper in helpers.iter().cloned() {
            self.send(helper, Message::PingReq { target: peer.clone(), probe_number: HINT_PROBE }, &[]);
        }
        helpers.into_iter().map(|helper| helper.node).collect()
    }

    /// Suspects a member that has not answered, which can refute it as it can any suspicion. It is down if others say so.
    fn suspect(&mut self, hint: &Hint, now: Instant) {
        let Some(member) = self.active(hint.node()).filter(|member| hint.is_of(member)).cloned() else { return };
        let (member_id, incarnation) = (member.id().clone(), member.incarnation());
        if self.accusers.are_enough(hint.node(), now) {
            // Others have suspected it, and it has not refuted that to them either.
            self.apply(vec![Member::down(member_id)]);
            return self.settle(now);
        }
        let suspicion = Member::new(member_id.clone(), incarnation, State::Suspect);
        if let Err(error) = self.foca.apply_many([suspicion].into_iter(), true, &mut self.outbox) {
            tracing::debug!(%error, "suspicion not raised");
        }
        let peer = member_id.clone();
        let timer = Timer::ChangeSuspectToDown { member_id, incarnation, token: self.timers.token() };
        let had = if hint.told { self.settings.probe_period } else { Duration::ZERO };
        let time = self.health.suspicion(self.settings.suspicion).saturating_sub(had).max(self.settings.probe_rtt);
        self.timers.set(timer, time, now);
        self.accuse(peer, incarnation);
        self.settle(now);
    }

    /// Updates are to go out soon, or as soon as the last ones have had their time.
    pub(super) fn tell_soon(&mut self, now: Instant) {
        if self.updates.len() > CROWD || self.is_brisk() {
            let next = self.told_at.map_or(now, |at| at + self.settings.gossip_period);
            sooner(&mut self.deadlines.tell, next.max(now + GATHER));
        }
    }

    fn is_brisk(&self) -> bool {
        self.cards.are_new() || self.updates.are_brisk()
    }

    /// Tells updates to random members: of changes to several, of a mere crowd to one.
    fn tell(&mut self, now: Instant) {
        self.told_at = Some(now);
        let fanout = if self.is_brisk() { self.settings.gossip_fanout.get() } else { 1 };
        for peer in self.some_members(fanout) {
            let room = self.room(&peer);
            let mut tail = self.cards.fill(&peer.node, room);
            tail.extend(self.updates.fill(&peer.node, room - tail.len(), &self.reports));
            if !tail.is_empty() {
                self.send_with(peer, &tail);
            }
        }
        self.tell_soon(now);
    }

    /// Random members.
    pub(super) fn some_members(&mut self, count: usize) -> Vec<Peer> {
        let Self { foca, rng, .. } = self;
        // Picked by reference: a mesh of a thousand would else be copied for each packet.
        some_of(foca.iter_members().map(Member::id).collect(), count, rng).into_iter().cloned().collect()
    }

    /// All of a stretched process's waits begin anew where they were: it has heard nobody meanwhile, and what was
    /// sent to it waits in its socket.
    pub(super) fn notice_sleep(&mut self, now: Instant) {
        let late = self.timers.next().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late < LATE {
            return;
        }
        tracing::info!(?late, "woke late");
        self.health.slept(late);
        let by = late + self.settings.probe_rtt;
        self.timers.postpone(by);
        self.hints.postpone(by);
        self.ring.postpone(by);
    }
}
