//! What is asked of a simulated mesh: who knows what of whom.

use std::{collections::BTreeMap, time::Duration};

use super::{Node, World, id, index_of};
use crate::membership::{Event, Member, Membership};

impl World {
    /// Whom `index` holds to be alive.
    pub fn members(&self, index: usize) -> Vec<Member> {
        self.nodes[index].swim.as_ref().map_or_else(Vec::new, Membership::members)
    }

    /// The nodes that have not crashed.
    pub fn live(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.is_live(*index)).collect()
    }

    /// Whether `index` has not crashed.
    pub fn is_live(&self, index: usize) -> bool {
        self.nodes[index].swim.is_some()
    }

    /// Whether every live node's list is exactly the other live nodes.
    pub fn everyone_sees_everyone(&self) -> bool {
        self.view.is_complete(&self.live())
    }

    /// Whether every live node holds `index` to be alive.
    pub fn everyone_sees(&self, index: usize) -> bool {
        self.live().into_iter().all(|observer| observer == index || self.view.sees(observer, index))
    }

    /// How many nodes of `others` hold one of `far` to be alive.
    pub fn who_see(&self, others: &[usize], far: &[usize]) -> usize {
        others.iter().filter(|near| far.iter().any(|far| self.view.sees(**near, *far))).count()
    }

    /// When each observer was first told, from `since` on, that `index` is down or up: times after `since`.
    pub fn told(&self, index: usize, down: bool, since: Duration) -> Vec<Duration> {
        let mut first = BTreeMap::new();
        for (at, observer, event) in self.log.iter().filter(|(at, ..)| *at >= since) {
            let about = match event {
                Event::Down(node) => down && *node == id(index),
                Event::Up(member) => !down && member.identity.node == id(index),
                Event::Changed(_) | Event::ClockDiffers { .. } | Event::Twin { .. } => false,
            };
            if about {
                first.entry(*observer).or_insert(*at - since);
            }
        }
        first.into_values().collect()
    }

    /// Healthy nodes that some node was told are down: entries of the log about nodes that have not crashed.
    pub fn false_downs(&self) -> usize {
        let about =
            |event: &Event| matches!(event, Event::Down(node) if index_of(node).is_some_and(|i| self.is_live(i)));
        self.log.iter().filter(|(_, _, event)| about(event)).count()
    }

    /// Entries of the log that say that a healthy node other than `node` is down.
    pub fn others_held_down(&self, node: usize) -> usize {
        let other = |event: &Event| matches!(event, Event::Down(down) if index_of(down).is_some_and(|i| i != node && self.is_live(i)));
        self.log.iter().filter(|(_, _, event)| other(event)).count()
    }

    /// How many meetings `observer` believes `node` to serve, if it has heard of it.
    pub fn meetings(&self, observer: usize, node: usize) -> Option<u32> {
        self.nodes[observer].swim.as_ref()?.report(&id(node)).map(|report| report.meetings)
    }

    /// How often nodes have had to renew themselves since the world began.
    pub fn rejoins(&self) -> u64 {
        let of = |node: &Node| node.rejoins + node.swim.as_ref().map_or(0, Membership::rejoins);
        self.nodes.iter().map(of).sum()
    }
}
