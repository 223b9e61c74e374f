//! Who was asked to capture a meeting: one row for each epoch, and how many rows a record keeps. A meeting that is placed again and again
//! must not make it grow.

use std::{collections::BTreeMap, ops::Bound};

use geo::RegionId;
use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::{Epoch, control::EdgeTotals},
};
use serde::{Deserialize, Serialize};

/// The most epochs of which owner and totals are kept each by itself. Speech of an epoch beyond is not taken any more, however long an
/// edge was away: this is hours of a meeting that loses its edge every minute.
pub const MAX_EPOCHS: usize = 128;

/// The most epochs that one entry stands for.
const MAX_JOINED: usize = 1024;

/// The most edges that capture a meeting at once, and the newest entries that are not joined.
const MAX_CAPTURING: usize = 8;

/// Who was asked to capture a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owners {
    /// The epoch of the newest assignment; 0 before the first.
    pub epoch: Epoch,
    /// By epoch.
    pub rows: BTreeMap<u64, Owner>,
    /// What the edges have done, by epoch.
    pub totals: BTreeMap<u64, EdgeTotals>,
}

/// The edge that captures a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Which node.
    pub edge: NodeId,
    /// Where it is.
    pub region: RegionId,
    /// Which of the meeting's capturing edges it is; 0 for the first.
    #[serde(default)]
    pub slot: u8,
    /// It renews leases: its silence is its end. Of an older edge membership decides.
    #[serde(default)]
    pub leased: bool,
    /// A successor is joining; it captures until it is told to leave.
    #[serde(default)]
    pub leaving: bool,
    /// When it was asked to join.
    #[serde(default)]
    pub since: Option<Micros>,
    /// Speech captured under its epoch later than this is not taken; `None` while it owns the meeting.
    #[serde(default)]
    pub until: Option<Micros>,
    /// It was relieved because it had no way here: what it has captured since this time has not come, and is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owes: Option<Micros>,
    /// Earlier epochs of its own that this entry stands for as well, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<u64>,
}

impl Owner {
    /// An owner of the meeting's first slot, until further notice.
    pub fn new(edge: NodeId, region: RegionId) -> Self {
        let (slot, since, until, owes) = (0, None, None, None);
        Self { edge, region, slot, leased: false, leaving: false, since, until, owes, joined: vec![] }
    }
}

impl Owners {
    /// The owner of `epoch`.
    pub fn get(&self, epoch: Epoch) -> Option<&Owner> {
        self.rows.get(&epoch.0)
    }

    pub(crate) fn get_mut(&mut self, epoch: Epoch) -> Option<&mut Owner> {
        self.rows.get_mut(&epoch.0)
    }

    /// `owner` is to capture in its slot under `epoch`, which is newer than all before it, from `now` on.
    pub fn grant(&mut self, epoch: Epoch, owner: Owner, now: Micros) {
        // What an owner captures after its lease is nobody's; in a hand-over the end is set later.
        let former = |o: &&mut Owner| o.slot == owner.slot && o.until.is_none() && !o.leaving;
        self.rows.values_mut().filter(former).for_each(|o| o.until = Some(now));
        self.epoch = epoch;
        self.rows.insert(epoch.0, owner);
        self.join();
    }

    /// The newest owner of `slot`.
    pub fn newest_in(&self, slot: u8) -> Option<(Epoch, &Owner)> {
        let newest = self.rows.iter().rev().find(|(_, owner)| owner.slot == slot);
        newest.map(|(epoch, owner)| (Epoch(*epoch), owner))
    }

    /// Who captures the meeting now; of two the one that came last.
    pub fn owner(&self) -> Option<&Owner> {
        self.capturing().next().map(|(_, owner)| owner).or_else(|| self.get(self.epoch))
    }

    /// All who capture it now, or may, the newest first. However many were tried since one of them began, it is among them.
    pub fn capturing(&self) -> impl Iterator<Item = (Epoch, &Owner)> {
        let capturing = self.rows.iter().rev().filter(|(_, owner)| owner.until.is_none());
        capturing.take(MAX_CAPTURING).map(|(epoch, owner)| (Epoch(*epoch), owner))
    }

    /// Whether `epoch` is its owner's still.
    pub fn captures(&self, epoch: Epoch) -> bool {
        self.get(epoch).is_some_and(|owner| owner.until.is_none())
    }

    /// Whether the owner of `epoch` stays only until the next of its slot has joined: that one is the witness.
    pub fn is_relieved(&self, epoch: Epoch) -> bool {
        let Some(owner) = self.get(epoch) else { return false };
        let later = (Bound::Excluded(epoch.0), Bound::Unbounded);
        owner.leaving && self.rows.range(later).any(|(_, next)| next.slot == owner.slot)
    }

    /// Those who were relieved and have not brought all that they captured.
    pub fn owing(&self) -> impl Iterator<Item = (Epoch, &Owner)> {
        let owing = self.rows.iter().filter(|(_, owner)| owner.owes.is_some());
        owing.map(|(epoch, owner)| (Epoch(*epoch), owner))
    }

    /// The edges' totals over all epochs.
    pub fn sum(&self) -> EdgeTotals {
        self.totals.values().fold(EdgeTotals::default(), |sum, totals| sum.plus(*totals))
    }

    /// What an edge has done under `epoch` so far. Of an epoch without an entry of its own that is in the sum of another.
    pub fn note_totals(&mut self, epoch: Epoch, totals: EdgeTotals) {
        let joined = self.rows.len() >= MAX_EPOCHS && !self.rows.contains_key(&epoch.0);
        if !joined {
            self.totals.insert(epoch.0, totals);
        }
    }

    /// Makes room: what one edge did under its oldest epochs becomes one entry, under the later one. An edge that captured once is not
    /// forgotten before there are four times as many.
    fn join(&mut self) {
        while self.rows.len() > MAX_EPOCHS {
            let Some((earlier, later)) = self.oldest_pair() else { break };
            let Some(before) = self.rows.remove(&earlier) else { break };
            if let Some(owner) = self.rows.get_mut(&later) {
                owner.since = before.since.or(owner.since);
                owner.joined.splice(..0, before.joined.into_iter().chain([earlier]));
                let excess = owner.joined.len().saturating_sub(MAX_JOINED);
                owner.joined.drain(..excess);
            }
            let totals = self.totals.remove(&earlier).unwrap_or_default();
            let sum = self.totals.entry(later).or_default();
            *sum = sum.plus(totals);
        }
        while self.rows.len() > 4 * MAX_EPOCHS {
            let ended = self.rows.iter().find(|(_, owner)| owner.until.is_some() && owner.owes.is_none());
            let Some((&epoch, _)) = ended.or_else(|| self.rows.first_key_value()) else { break };
            self.rows.remove(&epoch);
            self.totals.remove(&epoch);
        }
    }

    /// The oldest two epochs of one edge in one slot that are long over.
    fn oldest_pair(&self) -> Option<(u64, u64)> {
        let over: Vec<(u64, &Owner)> = self.rows.iter().map(|(epoch, owner)| (*epoch, owner)).collect();
        let over = &over[..over.len().saturating_sub(MAX_CAPTURING)];
        let like = |a: &Owner, b: &Owner| a.edge == b.edge && a.region == b.region && a.slot == b.slot;
        let ended: Vec<&(u64, &Owner)> = over.iter().filter(|(_, o)| o.until.is_some() && o.owes.is_none()).collect();
        ended.iter().enumerate().find_map(|(at, (later, owner))| {
            let earlier = ended[..at].iter().find(|(_, before)| like(before, owner))?;
            Some((earlier.0, *later))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    #[test]
    fn edges_may_say_any_totals() {
        let mut owners = Owners::default();
        let greatest = EdgeTotals { packets_in: u64::MAX, media_cpu_us: u64::MAX, ..EdgeTotals::default() };
        (1..=2).for_each(|epoch| owners.note_totals(Epoch(epoch), greatest));
        assert_eq!(owners.sum(), greatest);
    }

    #[test]
    fn a_meeting_that_is_placed_again_and_again_keeps_its_sums_its_newest_owners_and_every_edge_in_a_record_that_does_not_grow()
     {
        let mut owners = Owners::default();
        let region: geo::RegionId = "eu-central".parse().unwrap();
        for epoch in 1..=10_000 {
            let edge = if epoch == 1 { "once".into() } else { format!("edge-{}", epoch % 5) };
            let owner = Owner { since: Some(Micros(epoch)), ..Owner::new(edge.parse().unwrap(), region.clone()) };
            owners.grant(Epoch(epoch), owner, Micros(epoch));
            owners.note_totals(Epoch(epoch), EdgeTotals { packets_in: 1, ..EdgeTotals::default() });
        }
        assert_eq!((owners.rows.len(), owners.totals.len()), (MAX_EPOCHS, MAX_EPOCHS));
        assert_eq!(owners.sum().packets_in, 10_000);
        assert_eq!(owners.capturing().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [10_000]);
        assert_eq!((owners.rows[&1].edge.as_str(), owners.rows[&1].since), ("once", Some(Micros(1))));
        let stood_for: usize = owners.rows.values().map(|owner| 1 + owner.joined.len()).sum();
        assert!(stood_for > 5 * 1000, "{stood_for} epochs have an entry");
        assert!(serde_json::to_vec(&owners).unwrap().len() < 128 * 1024);
        // What an edge says of an epoch that has no entry of its own any more is in the sum already.
        owners.note_totals(Epoch(3), EdgeTotals { packets_in: 9, ..EdgeTotals::default() });
        assert_eq!(owners.sum().packets_in, 10_000);
    }

    #[test]
    fn an_edge_captures_however_many_have_failed_in_the_other_slot_since_and_keeps_its_entry() {
        let mut owners = Owners::default();
        let region: geo::RegionId = "eu-central".parse().unwrap();
        let edge = |n: u64| Owner::new(format!("edge-{n}").parse().unwrap(), region.clone());
        let capturing = |owners: &Owners| owners.capturing().map(|(epoch, _)| epoch.0).collect::<Vec<_>>();
        owners.grant(Epoch(1), edge(1), Micros(1));
        for epoch in 2..=1000 {
            owners.grant(Epoch(epoch), Owner { slot: 1, ..edge(epoch) }, Micros(epoch));
            assert_eq!(capturing(&owners), [epoch, 1]);
            owners.get_mut(Epoch(epoch)).unwrap().until = Some(Micros(epoch));
            assert_eq!((capturing(&owners), owners.owner()), (vec![1], owners.get(Epoch(1))));
        }
        assert_eq!(owners.rows.len(), 4 * MAX_EPOCHS);
    }

    #[test]
    fn an_edge_that_owes_speech_keeps_its_entry() {
        let mut owners = Owners::default();
        let edge = || Owner::new("edge-1".parse().unwrap(), "eu-central".parse().unwrap());
        owners.grant(Epoch(1), Owner { owes: Some(Micros(5)), ..edge() }, Micros(1));
        (2..1000).for_each(|epoch| owners.grant(Epoch(epoch), edge(), Micros(epoch)));
        assert_eq!(
            owners.owing().map(|(epoch, owner)| (epoch, owner.owes)).collect::<Vec<_>>(),
            [(Epoch(1), Some(Micros(5)))]
        );
    }
}
