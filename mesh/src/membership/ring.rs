//! Each node watches the one after it, so that a crash is noticed within a bounded time.
//!
//! SWIM probes at random: with one probe for each node and second, nobody has looked at a given node for `k` seconds in
//! a share of `e^-k` of all cases, which is 1 % for 4.6 s. In the order of the keys of their names (a hash) each
//! node has one successor and is itself watched by one, as nodes on a ring do it (Stoica et al., "Chord", SIGCOMM
//! 2001, section 4.4). Nobody is held down for it: who does not answer is looked at as if its connection were lost.

use std::time::{Duration, Instant};

use foca::Message;

use super::{Membership, items::Key, peer::Peer, upkeep::HINT_PROBE};
use crate::identity::NodeId;

/// Direct attempts before others are asked.
const ATTEMPTS: u8 = 2;

/// The watch over the successor.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// When it is pinged next; `None` while there is none.
    round: Option<Instant>,
    ping: Option<Ping>,
}

/// What it has not answered yet.
#[derive(Debug)]
struct Ping {
    to: Peer,
    attempts: u8,
    until: Instant,
}

impl Ring {
    /// `node` was heard: it lives.
    pub(super) fn clear(&mut self, node: &NodeId) {
        self.ping.take_if(|ping| ping.to.node == *node);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.ping.as_ref().map(|ping| ping.until).or(self.round)
    }

    /// The process slept: nobody could be heard.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.ping.iter_mut().for_each(|ping| ping.until += by);
        self.round.iter_mut().for_each(|round| *round += by);
    }
}

impl Membership {
    /// Pings the successor when its time has come, again if it does not answer, and has it looked at then.
    pub(super) fn watch_successor(&mut self, now: Instant) {
        if self.ring.next().is_some_and(|at| at > now) {
            return;
        }
        match self.ring.ping.take() {
            Some(ping) if ping.attempts < ATTEMPTS => self.ping_successor(ping.to, ping.attempts + 1, now),
            Some(ping) => self.hint_lost(&ping.to.node, now),
            None => {
                self.ring.round = Some(now + self.health.probe(self.settings.probe_period * 3 / 2));
                if let Some(peer) = self.successor() {
                    self.ping_successor(peer, 1, now);
                }
            }
        }
    }

    fn ping_successor(&mut self, to: Peer, attempts: u8, now: Instant) {
        self.send(to.clone(), Message::Ping(HINT_PROBE), &[]);
        self.ring.ping = Some(Ping { until: now + self.usual_answer(&to.node), to, attempts });
    }

    fn successor(&self) -> Option<Peer> {
        let me = self.own_key();
        let distance = |peer: &&Peer| {
            let key = Key::of(&peer.node);
            (key < me, key)
        };
        self.foca.iter_members().map(foca::Member::id).min_by_key(distance).cloned()
    }
}
