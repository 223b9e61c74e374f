//! Where a meeting's secondary edge goes: not where the first one is, if elsewhere is nearly as near.

use geo::RegionId;
use mesh::placement::{Row, Verdict};

/// How much worse than the best, in milliseconds of score, an edge in another region may be and yet be preferred: what
/// takes one region down should not take both edges.
const WORTH_MS: f64 = 15.0;

/// The rows that may be asked, the first one first.
pub(super) fn order<'a>(rows: &'a [Row], first: Option<&RegionId>) -> Vec<&'a Row> {
    let mut fit: Vec<&Row> = rows.iter().filter(|r| !matches!(r.verdict, Verdict::Excluded(_))).collect();
    let Some(first) = first else { return fit };
    let best = fit.iter().find_map(|r| r.score_ms).unwrap_or(0.0);
    let far = |row: &Row| row.region == *first || row.score_ms.is_none_or(|score| score > best + WORTH_MS);
    // Stable: within either kind the ranking stands.
    fit.sort_by_key(|row| far(row));
    fit
}

#[cfg(test)]
mod tests {
    use mesh::placement::Reason;

    use super::*;

    fn row(node: &str, region: &str, score: f64, verdict: Verdict) -> Row {
        Row {
            node: node.parse().unwrap(),
            region: region.parse().unwrap(),
            verdict,
            score_ms: Some(score),
            rtt_relay_ms: None,
            rtt_relay_source: None,
            rtt_relay_age_ms: None,
            rtt_core_ms: None,
            rtt_core_source: None,
            stress: None,
            pending: 0,
            why: String::new(),
        }
    }

    #[test]
    fn another_region_is_preferred_where_it_is_nearly_as_near() {
        let next = || Verdict::Ranked { place: 2 };
        let rows = [
            row("a", "eu-central", 2.0, next()),
            row("b", "eu-central", 3.0, next()),
            row("c", "eu-west", 12.0, next()),
            row("d", "us-east", 90.0, next()),
            row("e", "eu-north", 5.0, Verdict::Excluded(Reason::Draining)),
        ];
        let names = |first: Option<&str>| -> Vec<String> {
            let first = first.map(|r| r.parse().unwrap());
            order(&rows, first.as_ref()).iter().map(|r| r.node.to_string()).collect()
        };
        assert_eq!(names(None), ["a", "b", "c", "d"]);
        assert_eq!(names(Some("eu-central")), ["c", "a", "b", "d"]);
        assert_eq!(names(Some("eu-west")), ["a", "b", "c", "d"]);
    }
}
