//! The probe under way: more direct attempts beside those through others, and what its outcome says of this node.

use std::time::{Duration, Instant};

use foca::{Member, Message, ProbeNumber, State, Timer};

use super::{Membership, items, peer::Peer};
use crate::identity::NodeId;

/// Never sooner than this after the attempt before.
const SOONEST: Duration = Duration::from_millis(60);
/// Nor later than this after the first: an answer must come within the probe's period.
const LATEST: Duration = Duration::from_millis(650);
/// Direct attempts in all.
const ATTEMPTS: u8 = 3;

/// The probe that foca has begun last.
#[derive(Debug)]
pub(super) struct Probing {
    target: Peer,
    number: ProbeNumber,
    sent: Instant,
    answered: bool,
    /// Direct attempts so far.
    attempts: u8,
    /// When to try directly once more, if at all.
    again: Option<Instant>,
    /// How long an answer takes mostly.
    usual: Duration,
    /// Whether anybody was heard since.
    heard: bool,
}

impl Membership {
    /// foca pings `target`; so the probe before it is over.
    pub(super) fn begin_probe(&mut self, target: &Peer, number: ProbeNumber, now: Instant) {
        match self.probing.take() {
            Some(before) if before.answered => self.health.answered(),
            Some(before) if !before.heard => self.health.deaf(),
            _ => {}
        }
        let usual = self.usual_answer(&target.node);
        self.probing = Some(Probing {
            target: target.clone(),
            number,
            sent: now,
            answered: false,
            attempts: 1,
            again: Some(now + usual),
            usual,
            heard: false,
        });
        // Whoever probes a suspect tells it so: what was told when the suspicion arose may be lost (Lifeguard's
        // "buddy system", section 4.3 of the paper that [`super::health`] names).
        if let Some(suspicion) = self.suspicion_of(target) {
            self.send(target.clone(), Message::Gossip, &[suspicion]);
        }
        // And whoever is about to hold one down, who may have been cut off when the suspicion arose.
        for suspect in self.timers.all_suspects() {
            if let Some(suspicion) = self.suspicion_of(&suspect) {
                self.send(suspect, Message::Gossip, &[suspicion]);
            }
        }
    }

    /// How long an answer of `node` takes mostly: a seventh more than the round trip and a little.
    pub(super) fn usual_answer(&self, node: &NodeId) -> Duration {
        let usual = self.rtts.get(node).map_or(self.settings.probe_rtt, |rtt| *rtt + *rtt / 7 + SOONEST / 3);
        usual.clamp(SOONEST, self.settings.probe_rtt)
    }

    /// That `node` is suspected, if it is.
    fn suspicion_of(&self, node: &Peer) -> Option<Member<Peer>> {
        let member =
            self.active(&node.node).filter(|member| member.id() == node && member.state() == State::Suspect)?;
        Some(member.clone())
    }

    /// Somebody sent `message`: perhaps the answer.
    pub(super) fn note_answer(&mut self, from: &NodeId, message: &Message<Peer>, now: Instant) {
        let Some(probing) = &mut self.probing else { return };
        probing.heard = true;
        match message {
            Message::Ack(number) if *number == probing.number && *from == probing.target.node => {
                if !probing.answered && probing.attempts == 1 {
                    let sample = now.saturating_duration_since(probing.sent);
                    let smoothed = self.rtts.get(from).map_or(sample, |rtt| (*rtt * 7 + sample) / 8);
                    self.rtts.insert(from.clone(), smoothed);
                }
                probing.answered = true;
            }
            Message::ForwardedAck { origin, probe_number } if *probe_number == probing.number => {
                probing.answered |= origin.node == probing.target.node;
            }
            _ => {}
        }
    }

    /// When the next attempt is due.
    pub(super) fn probe_again_at(&self) -> Option<Instant> {
        self.probing.as_ref().filter(|probing| !probing.answered).and_then(|probing| probing.again)
    }

    pub(super) fn probe_again(&mut self, now: Instant) {
        if self.probe_again_at().is_none_or(|at| at > now) {
            return;
        }
        let Some(probing) = &mut self.probing else { return };
        probing.attempts += 1;
        let next = (now + probing.usual).min(probing.sent + LATEST);
        probing.again = (probing.attempts < ATTEMPTS && next >= now + SOONEST).then_some(next);
        let (target, number) = (probing.target.clone(), probing.number);
        if self.active(&target.node).is_some_and(|member| *member.id() == target) {
            let suspicion = self.suspicion_of(&target);
            self.send(target, Message::Ping(number), suspicion.as_slice());
        }
    }

    /// How long a timer is to be, by this node's health.
    pub(super) fn stretched(&self, timer: &Timer<Peer>, after: Duration) -> Duration {
        match timer {
            Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => self.health.probe(after),
            Timer::ChangeSuspectToDown { .. } => self.health.suspicion(after),
            _ => after,
        }
    }

    /// Tells a suspect at once, and others who may reach it if we do not: it has little time to answer.
    pub(super) fn accuse(&mut self, suspect: Peer, incarnation: foca::Incarnation) {
        let suspicion = Member::new(suspect.clone(), incarnation, State::Suspect);
        self.send(suspect, Message::Gossip, &[suspicion]);
        if let Err(error) = self.foca.gossip(&mut self.outbox) {
            tracing::debug!(%error, "suspicion not passed on");
        }
    }

    /// What foca's packets say of our incarnation. It grows when somebody suspected us, and we have refuted it.
    pub(super) fn note_incarnation(&mut self, incarnation: foca::Incarnation) {
        if incarnation > self.incarnation() {
            self.health.suspected();
        }
        self.incarnation = (self.foca.identity().life, incarnation);
    }

    /// Of the present life: foca begins each with 0, and says so with its next packet only.
    pub(super) fn incarnation(&self) -> foca::Incarnation {
        let (life, incarnation) = self.incarnation;
        if life == self.foca.identity().life { incarnation } else { 0 }
    }

    /// The key of this node.
    pub(super) fn own_key(&self) -> items::Key {
        items::Key::of(&self.foca.identity().node)
    }
}
