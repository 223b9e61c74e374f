//! Verdicts in words, for the API and for whoever asks why a meeting is where it is.

use std::time::Duration;

use super::{Candidate, MAX_STRESS_PERMILLE, Policy, Reason, RttSource, Scored, ms};

/// Why an eligible candidate stands at `index`, the chosen one being at 0; `near` were equal to the best.
pub(super) fn eligible(scored: &Scored<'_>, index: usize, near: usize, best: Option<f64>, policy: &Policy) -> String {
    let distance = distance(scored);
    let preferred = if scored.preference < policy.prefer.len() { ", in a preferred region" } else { "" };
    let place = match (index, scored.score_ms.zip(best)) {
        (0, _) if near > 1 => {
            let limit = ms(policy.near_equal);
            format!("one of {near} within {limit:.1} ms of the best, the less stressed of two drawn")
        }
        (0, _) => "the best that meets every condition".to_owned(),
        (_, _) if index < near => "as good as the chosen one, but not drawn or more stressed".to_owned(),
        (_, Some((score, best))) if score >= best => format!("{:.1} ms behind the best", score - best),
        _ => "a better measured or preferred one goes first".to_owned(),
    };
    format!("{distance}{preferred}: {place}.")
}

fn distance(scored: &Scored<'_>) -> String {
    let Some(relay) = scored.candidate.rtt_relay else {
        return "Its distance to the relay is unknown, so it comes last".to_owned();
    };
    let how = match relay.source {
        RttSource::Probe if relay.age >= Duration::from_secs(1) => {
            return format!("{:.1} ms measured to the relay {} s ago", ms(relay.rtt), relay.age.as_secs());
        }
        RttSource::Probe => "measured to the relay",
        RttSource::Remembered => {
            return format!("{:.1} ms to the relay {} s ago, not probed since", ms(relay.rtt), relay.age.as_secs());
        }
        RttSource::Coordinate => "to the relay by coordinates, not probed",
        RttSource::Gossip => "to the relay's region by its report, not probed",
        RttSource::Model => "to the relay by the latency model, not probed",
    };
    format!("{:.1} ms {how}", ms(relay.rtt))
}

/// The ramp-up allowance, where there is one.
fn since(candidate: &Candidate) -> String {
    match candidate.pending {
        0 => String::new(),
        pending => format!(", with {pending} more assigned since it said so"),
    }
}

/// Why a candidate is out.
pub(super) fn excluded(candidate: &Candidate, reason: Reason, policy: &Policy) -> String {
    let report = candidate.report.as_deref();
    match reason {
        Reason::Role => format!("It is a {} node, and only edges join meetings.", candidate.role),
        Reason::Residency => format!("The meeting's speech may not be in {}.", candidate.region),
        Reason::Health if report.is_some() => "Its last report is too old to rely on.".to_owned(),
        Reason::Health => "It has not reported its state yet.".to_owned(),
        Reason::Silent => "It has stopped answering.".to_owned(),
        Reason::Draining => "It is draining and takes no new meetings.".to_owned(),
        Reason::Taken => {
            "It captures the meeting already, is the one to be replaced, or could not get in or stay in it.".to_owned()
        }
        Reason::Version => {
            let (speaks, needed) = (report.map_or(1, |report| report.wire()), policy.wire);
            format!("It speaks wire version {speaks}; the meeting needs {needed}.")
        }
        Reason::Stress => {
            let stress = candidate.stress_permille().unwrap_or(0);
            let since = since(candidate);
            format!("Its stress is {stress} per mille{since}; new meetings stop at {MAX_STRESS_PERMILLE}.")
        }
        Reason::Capacity => {
            let (meetings, capacity) = report.map_or((0, 0), |report| (report.meetings, report.capacity));
            format!("It serves {meetings} meetings{} and has room for {capacity}.", since(candidate))
        }
        Reason::MaxRtt => match (candidate.rtt_relay, policy.max_rtt) {
            (Some(relay), Some(limit)) => {
                format!("The relay is {:.1} ms away; the policy allows {:.1} ms.", ms(relay.rtt), ms(limit))
            }
            _ => "Its distance to the relay is unknown, and the policy sets a limit.".to_owned(),
        },
    }
}
