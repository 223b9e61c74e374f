//! How many owners a record names: a meeting that is placed again and again must not make it grow.

use mesh::wire::control::EdgeTotals;

use super::{MAX_CAPTORS, MeetingRecord, Owner};

/// The most epochs of which owner and totals are kept each by itself. Speech of an epoch beyond is not taken any more, however long an
/// edge was away: this is hours of a meeting that loses its edge every minute.
pub const MAX_EPOCHS: usize = 128;

/// The most epochs that one entry stands for.
const MAX_JOINED: usize = 1024;

impl MeetingRecord {
    /// Makes room: what one edge did under its oldest epochs becomes one entry, under the later one. An edge that captured once is not
    /// forgotten before there are four times as many.
    pub fn join_owners(&mut self) {
        while self.owners.len() > MAX_EPOCHS {
            let Some((earlier, later)) = self.oldest_pair() else { break };
            let Some(before) = self.owners.remove(&earlier) else { break };
            if let Some(owner) = self.owners.get_mut(&later) {
                owner.since = before.since.or(owner.since);
                owner.joined.splice(..0, before.joined.into_iter().chain([earlier]));
                let excess = owner.joined.len().saturating_sub(MAX_JOINED);
                owner.joined.drain(..excess);
            }
            let totals = self.totals.remove(&earlier).unwrap_or_default();
            let sum = self.totals.entry(later).or_default();
            *sum = plus(*sum, totals);
        }
        while self.owners.len() > 4 * MAX_EPOCHS {
            let Some((epoch, _)) = self.owners.pop_first() else { break };
            self.totals.remove(&epoch);
        }
    }

    /// The oldest two epochs of one edge in one slot that are long over.
    fn oldest_pair(&self) -> Option<(u64, u64)> {
        let over: Vec<(u64, &Owner)> = self.owners.iter().map(|(epoch, owner)| (*epoch, owner)).collect();
        let over = &over[..over.len().saturating_sub(MAX_CAPTORS)];
        let like = |a: &Owner, b: &Owner| a.edge == b.edge && a.region == b.region && a.slot == b.slot;
        let ended: Vec<&(u64, &Owner)> = over.iter().filter(|(_, o)| o.until.is_some() && o.owes.is_none()).collect();
        ended.iter().enumerate().find_map(|(at, (later, owner))| {
            let earlier = ended[..at].iter().find(|(_, before)| like(before, owner))?;
            Some((earlier.0, *later))
        })
    }
}

pub(super) fn plus(sum: EdgeTotals, t: EdgeTotals) -> EdgeTotals {
    EdgeTotals {
        packets_in: sum.packets_in + t.packets_in,
        opus_bytes_in: sum.opus_bytes_in + t.opus_bytes_in,
        media_ms_in: sum.media_ms_in + t.media_ms_in,
        packets_decoded: sum.packets_decoded + t.packets_decoded,
        packets_forwarded: sum.packets_forwarded + t.packets_forwarded,
        packets_lost: sum.packets_lost + t.packets_lost,
        uplink_bytes: sum.uplink_bytes + t.uplink_bytes,
        media_cpu_us: sum.media_cpu_us + t.media_cpu_us,
        packets_overflowed: sum.packets_overflowed + t.packets_overflowed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::{clock::Micros, wire::Epoch};

    use super::*;
    use crate::{fakes, seat::grant};

    #[test]
    fn a_meeting_that_is_placed_again_and_again_keeps_its_sums_its_newest_owners_and_every_edge_in_a_record_that_does_not_grow()
     {
        let mut record = fakes::record();
        let region: geo::RegionId = "eu-central".parse().unwrap();
        for epoch in 1..=10_000 {
            let edge = if epoch == 1 { "once".into() } else { format!("edge-{}", epoch % 5) };
            let owner = Owner { since: Some(Micros(epoch)), ..Owner::new(edge.parse().unwrap(), region.clone()) };
            grant(&mut record, Epoch(epoch), owner, Micros(epoch));
            record.note_totals(epoch, EdgeTotals { packets_in: 1, ..EdgeTotals::default() });
        }
        assert_eq!((record.owners.len(), record.totals.len()), (MAX_EPOCHS, MAX_EPOCHS));
        assert_eq!(record.edge_totals().packets_in, 10_000);
        assert_eq!(record.captors().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [10_000]);
        assert_eq!((record.owners[&1].edge.as_str(), record.owners[&1].since), ("once", Some(Micros(1))));
        let stood_for: usize = record.owners.values().map(|owner| 1 + owner.joined.len()).sum();
        assert!(stood_for > 5 * 1000, "{stood_for} epochs have an entry");
        assert!(serde_json::to_vec(&record).unwrap().len() < 128 * 1024);
        // What an edge says of an epoch that has no entry of its own any more is in the sum already.
        record.note_totals(3, EdgeTotals { packets_in: 9, ..EdgeTotals::default() });
        assert_eq!(record.edge_totals().packets_in, 10_000);
    }

    #[test]
    fn an_edge_that_owes_speech_keeps_its_entry() {
        let mut record = fakes::record();
        let edge = || Owner::new("edge-1".parse().unwrap(), "eu-central".parse().unwrap());
        grant(&mut record, Epoch(1), Owner { owes: Some(Micros(5)), ..edge() }, Micros(1));
        (2..1000).for_each(|epoch| grant(&mut record, Epoch(epoch), edge(), Micros(epoch)));
        assert_eq!(
            record.owing().map(|(epoch, owner)| (epoch, owner.owes)).collect::<Vec<_>>(),
            [(Epoch(1), Some(Micros(5)))]
        );
    }
}
