//! Which cores have had a meeting's words, and when: what its receipt says of them.

use geo::RegionId;
use mesh::{
    clock::Micros,
    identity::{Identity, NodeId},
    wire::Term,
};
use serde::{Deserialize, Serialize};

use super::{CoreRole, MeetingRecord};

/// Turns remembered of one meeting. Beyond it turns of the same core are told as one, from the first to the last.
pub const MAX_TURNS: usize = 1000;

/// The time in which one core served a meeting, or held a copy of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreTurn {
    /// Which core.
    pub core: NodeId,
    /// Where it is, by its certificate.
    pub region: RegionId,
    /// Serving or standby.
    pub role: CoreRole,
    /// In which term.
    pub term: Term,
    /// Since when, by the primary's clock.
    pub from: Micros,
    /// Until when; `None` while it lasts.
    pub to: Option<Micros>,
    /// What it ran.
    pub software: String,
}

impl MeetingRecord {
    /// The cores but `me` that have part in it, as far as this record knows.
    pub fn other_cores(&self, me: &NodeId) -> impl Iterator<Item = NodeId> {
        let turns = self.cores.iter().filter(|turn| turn.to.is_none()).map(|turn| &turn.core);
        turns.chain(&self.serving.standby).filter(move |core| *core != me).cloned()
    }

    /// From now on `core` has part in the meeting. Told again, the turn goes on.
    pub fn begin_turn(&mut self, core: &Identity, role: CoreRole, term: Term, software: &str, at: Micros) {
        let same = |t: &&mut CoreTurn| t.core == core.node && t.role == role && t.term == term;
        if let Some(turn) = self.cores.iter_mut().find(same) {
            turn.to = None;
            return;
        }
        self.cores.push(CoreTurn {
            core: core.node.clone(),
            region: core.region.clone(),
            role,
            term,
            from: at,
            to: None,
            software: software.into(),
        });
        if self.cores.len() > MAX_TURNS {
            self.join_oldest();
        }
    }

    /// `core` has no part in it any more, in that role.
    pub fn end_turn(&mut self, core: &NodeId, role: CoreRole, at: Micros) {
        let open = self.cores.iter_mut().filter(|t| t.core == *core && t.role == role && t.to.is_none());
        open.for_each(|turn| turn.to = Some(at));
    }

    /// Makes one of the two oldest turns that differ in their time alone.
    fn join_oldest(&mut self) {
        let like = |a: &CoreTurn, b: &CoreTurn| a.core == b.core && a.region == b.region && a.role == b.role;
        let pair = (0..self.cores.len()).find_map(|later| {
            let earlier = self.cores[..later].iter().position(|t| like(t, &self.cores[later]))?;
            Some((earlier, later))
        });
        if let Some((earlier, later)) = pair {
            let CoreTurn { to, term, software, .. } = self.cores.remove(later);
            let turn = &mut self.cores[earlier];
            (turn.to, turn.term, turn.software) = (to, term, software);
        }
    }
}
