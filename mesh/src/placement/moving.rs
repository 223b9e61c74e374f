//! Whether a live meeting is better served by another edge: seldom, since each move costs a moment of it.

use std::time::Duration;

use super::{Reason, Row, RttSource, Verdict};

/// When a move is worth its cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hysteresis {
    /// The other must be better by this in score (40 ms): less is not heard by anyone.
    pub gain: Duration,
    /// And by this share of the current score (0.3): far from everything, 40 ms are little.
    pub share: f64,
    /// For so long without a break (120 s): congestion passes.
    pub held: Duration,
    /// After joining, a meeting stays at least so long (300 s), and with each move of the last hour twice as long.
    pub rest: Duration,
}

impl Default for Hysteresis {
    fn default() -> Self {
        Self {
            gain: Duration::from_millis(40),
            share: 0.3,
            held: Duration::from_secs(120),
            rest: Duration::from_secs(300),
        }
    }
}

/// What has been with a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Since its edge took it.
    pub placed: Duration,
    /// Moves within the last hour that nobody's death made necessary.
    pub moves: u32,
    /// For how long every ranking has found another edge better by the gain.
    pub worse: Duration,
}

/// What to do with a live meeting.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    /// Nothing: it is well where it is, or nowhere better.
    Stay,
    /// Nothing yet, but count on from here how long the other has been better.
    Watch,
    /// Let the best take it, for this reason.
    Go {
        /// In one sentence, for the log and the API.
        why: String,
    },
}

/// Whether the meeting that `current` serves should go to `best`: rows of one ranking, in which `current` may be excluded.
///
/// It goes at once from an edge that may not have it any more (drain, residency, role, version), and from one that is far
/// worse only by what both have measured, for long enough, and not again soon. A busy or full edge keeps what it has.
pub fn should_move(current: &Row, best: &Row, hysteresis: &Hysteresis, history: &History) -> Move {
    if current.node == best.node || matches!(best.verdict, Verdict::Excluded(_)) {
        return Move::Stay;
    }
    if let Verdict::Excluded(reason) = current.verdict {
        let must = matches!(reason, Reason::Draining | Reason::Residency | Reason::Role | Reason::Version);
        return if must { Move::Go { why: current.why.clone() } } else { Move::Stay };
    }
    let measured = |row: &Row| row.score_ms.filter(|_| row.rtt_relay_source == Some(RttSource::Probe));
    let (Some(here), Some(there)) = (measured(current), measured(best)) else { return Move::Stay };
    let gain = here - there;
    if gain < hysteresis.gain.as_secs_f64() * 1000.0 || gain < hysteresis.share * here {
        return Move::Stay;
    }
    let rest = hysteresis.rest.saturating_mul(1 << history.moves.min(16));
    if history.placed < rest || history.worse < hysteresis.held {
        return Move::Watch;
    }
    Move::Go { why: format!("{} has been {gain:.1} ms better for {} s.", best.node, history.worse.as_secs()) }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn row(node: &str, verdict: Verdict, score: f64) -> Row {
        Row {
            node: node.parse().unwrap(),
            region: "eu".parse().unwrap(),
            verdict,
            score_ms: Some(score),
            rtt_relay_ms: Some(score),
            rtt_relay_source: Some(RttSource::Probe),
            rtt_relay_age_ms: Some(0),
            rtt_core_ms: None,
            rtt_core_source: None,
            stress: Some(0.1),
            pending: 0,
            why: "It is draining and takes no new meetings.".into(),
        }
    }

    const LONG: History = History { placed: Duration::from_secs(4000), moves: 0, worse: Duration::from_secs(130) };

    fn judge(here: f64, there: f64, history: &History) -> Move {
        let ranked = Verdict::Ranked { place: 2 };
        should_move(&row("a", ranked, here), &row("b", Verdict::Chosen, there), &Hysteresis::default(), history)
    }

    #[test]
    fn a_far_worse_edge_is_left_after_a_while_and_not_twice_soon() {
        assert!(matches!(judge(120.0, 10.0, &LONG), Move::Go { .. }));
        assert_eq!(judge(120.0, 10.0, &History { worse: Duration::from_secs(60), ..LONG }), Move::Watch);
        assert_eq!(judge(120.0, 10.0, &History { placed: Duration::from_secs(200), ..LONG }), Move::Watch);
        assert_eq!(judge(120.0, 10.0, &History { moves: 4, ..LONG }), Move::Watch, "4800 s of rest by then");
        assert_eq!(judge(45.0, 10.0, &LONG), Move::Stay, "35 ms are not worth it");
        assert_eq!(judge(200.0, 150.0, &LONG), Move::Stay, "a quarter is not worth it");
    }

    #[test]
    fn guesses_move_nobody() {
        let mut best = row("b", Verdict::Chosen, 1.0);
        best.rtt_relay_source = Some(RttSource::Coordinate);
        let current = row("a", Verdict::Ranked { place: 2 }, 300.0);
        assert_eq!(should_move(&current, &best, &Hysteresis::default(), &LONG), Move::Stay);
    }

    #[test]
    fn a_draining_edge_is_left_at_once_and_a_busy_one_keeps_what_it_has() {
        let out = |reason| row("a", Verdict::Excluded(reason), 1.0);
        let best = row("b", Verdict::Chosen, 90.0);
        let now = |reason| should_move(&out(reason), &best, &Hysteresis::default(), &History::default());
        assert!(matches!(now(Reason::Draining), Move::Go { why } if why.contains("draining")));
        assert!(matches!(now(Reason::Residency), Move::Go { .. }));
        assert_eq!(
            (now(Reason::Stress), now(Reason::Capacity), now(Reason::Health)),
            (Move::Stay, Move::Stay, Move::Stay)
        );
        let none = row("b", Verdict::Excluded(Reason::Capacity), 1.0);
        assert_eq!(should_move(&out(Reason::Draining), &none, &Hysteresis::default(), &LONG), Move::Stay);
    }

    proptest! {
        #[test]
        fn two_edges_never_swap_a_meeting_back_and_forth(a in 0.0..500.0f64, b in 0.0..500.0f64) {
            let goes = |here, there| matches!(judge(here, there, &LONG), Move::Go { .. });
            prop_assert!(!(goes(a, b) && goes(b, a)));
        }
    }
}
