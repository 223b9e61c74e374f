//! One live meeting's rankings, one after the other, and when they call for a move.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Decision, History, Hysteresis, Move, Verdict, should_move};
use crate::identity::NodeId;

/// For how long a move makes the next less likely.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Moves remembered; more than this in an hour are as many.
const MAX_MOVES: usize = 16;

/// What was found of one meeting since its edge took it.
#[derive(Debug)]
pub struct Watch {
    hysteresis: Hysteresis,
    /// Who serves it, and since when.
    owner: Option<(NodeId, Instant)>,
    /// Since when every ranking has found another better by the gain.
    worse: Option<Instant>,
    moves: VecDeque<Instant>,
}

impl Watch {
    /// Over a meeting of which nothing is known yet.
    pub fn new(hysteresis: Hysteresis) -> Self {
        Self { hysteresis, owner: None, worse: None, moves: VecDeque::new() }
    }

    /// A ranking in which the meeting's own edge, `owner`, has its row. What [`Move::Go`] says is to be done by the caller,
    /// who is not told again before the owner has changed or the rest is over.
    pub fn handle_ranking(&mut self, owner: &NodeId, decision: &Decision, now: Instant) -> Move {
        if self.owner.as_ref().is_none_or(|(known, _)| known != owner) {
            self.owner = Some((owner.clone(), now));
            self.worse = None;
        }
        let current = decision.rows.iter().find(|row| row.node == *owner);
        let best = decision.rows.iter().find(|row| row.verdict == Verdict::Chosen);
        let (Some(current), Some(best)) = (current, best) else { return self.well() };
        let verdict = should_move(current, best, &self.hysteresis, &self.history(now));
        match verdict {
            Move::Stay => self.well(),
            Move::Watch => {
                self.worse.get_or_insert(now);
                Move::Watch
            }
            Move::Go { why } => {
                self.note_move(now);
                Move::Go { why }
            }
        }
    }

    fn well(&mut self) -> Move {
        self.worse = None;
        Move::Stay
    }

    fn note_move(&mut self, now: Instant) {
        self.moves.push_back(now);
        if self.moves.len() > MAX_MOVES {
            self.moves.pop_front();
        }
        self.worse = None;
        // Should nothing come of it, the meeting rests all the same.
        self.owner = self.owner.take().map(|(owner, _)| (owner, now));
    }

    fn history(&self, now: Instant) -> History {
        let since = |at: Instant| now.saturating_duration_since(at);
        History {
            placed: self.owner.as_ref().map(|(_, at)| since(*at)).unwrap_or_default(),
            moves: self.moves.iter().filter(|at| since(**at) < REMEMBERED).count() as u32,
            worse: self.worse.map(since).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::placement::{Row, moving::tests::row};

    fn ranking(here: f64, there: f64) -> Decision {
        let rows: Vec<Row> = vec![row("b", Verdict::Chosen, there), row("a", Verdict::Ranked { place: 2 }, here)];
        Decision { chosen: Some(rows[0].node.clone()), rows }
    }

    /// The seconds, counted from the first ranking, at which it says go; a ranking every 45 s.
    fn goes(rankings: impl IntoIterator<Item = (f64, f64)>) -> Vec<u64> {
        let (start, owner) = (Instant::now(), "a".parse().unwrap());
        let mut watch = Watch::new(Hysteresis::default());
        let at = |i: usize| i as u64 * 45;
        let said = rankings.into_iter().enumerate().filter(|(i, (here, there))| {
            let now = start + Duration::from_secs(at(*i));
            matches!(watch.handle_ranking(&owner, &ranking(*here, *there), now), Move::Go { .. })
        });
        said.map(|(i, _)| at(i)).collect()
    }

    #[test]
    fn a_much_better_edge_is_gone_to_after_the_rest_and_then_twice_as_seldom() {
        assert_eq!(goes(std::iter::repeat_n((150.0, 10.0), 60)), [315, 945, 2160], "300, 600 and 1200 s of rest");
    }

    #[test]
    fn one_ranking_that_is_well_begins_the_count_again() {
        let well_once = (0..12).map(|i| if i == 5 { (150.0, 140.0) } else { (150.0, 10.0) });
        assert_eq!(goes(well_once), [405], "counted from 270 s on");
        let good_then_bad = (0..20).map(|i| if i < 10 { (12.0, 10.0) } else { (150.0, 10.0) });
        assert_eq!(goes(good_then_bad), [585], "10 * 45 s, and 120 s held at the next ranking");
        assert_eq!(goes((0..20).map(|i| if i % 3 == 0 { (12.0, 10.0) } else { (150.0, 10.0) })), Vec::<u64>::new());
    }

    #[test]
    fn another_owner_begins_its_own_rest() {
        let (start, mut watch) = (Instant::now(), Watch::new(Hysteresis::default()));
        let at = |secs| start + Duration::from_secs(secs);
        let bad = ranking(150.0, 10.0);
        assert_eq!(watch.handle_ranking(&"a".parse().unwrap(), &bad, at(0)), Move::Watch);
        assert_eq!(watch.handle_ranking(&"b".parse().unwrap(), &bad, at(200)), Move::Stay, "it is the best itself");
        assert_eq!(watch.handle_ranking(&"a".parse().unwrap(), &bad, at(400)), Move::Watch);
        assert_eq!(watch.handle_ranking(&"a".parse().unwrap(), &bad, at(650)), Move::Watch, "250 s here");
        assert!(matches!(watch.handle_ranking(&"a".parse().unwrap(), &bad, at(701)), Move::Go { .. }));
    }
}
