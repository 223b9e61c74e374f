//! The faults that are tried, and what each must show: the rows of the promise.

use std::time::Duration;

use clap::ValueEnum;

use super::{
    findings::Findings,
    stage::{self, Regions},
};

/// A fault. In the order in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// `kill -9` of the core that serves the meeting, in the middle of a word.
    CoreKilled,
    /// The same where the cores keep in NATS which of them serves.
    CoreKilledNats,
    /// `kill -9` of the edge in the meeting; one edge captures.
    EdgeKilled,
    /// The same where two edges capture.
    EdgeKilledRedundant,
    /// The edge reaches no core for a moment, shorter than it takes for the meeting to move.
    LinkCut,
    /// The only edge and the only core do not reach each other for six seconds: longer than a lease.
    #[value(name = "cut-6s")]
    CutSixSeconds,
    /// The edge reaches the other edges, and not the only core; then it does again.
    PartialPartition,
    /// The only edge and the only core do not reach each other, until the edge's disk for speech is full; then they do again.
    SpillFull,
    /// Hundreds of meetings are made within two seconds, on two edges.
    Burst,
    /// The logs of all nodes are on a full disk; `kill -9` of the edge in the meeting.
    LogFull,
    /// Each task of each node that is started again when it breaks breaks.
    TaskPanics,
    /// The meeting is ended while its edge reaches no core; then it does again.
    EndedInCut,
    /// The meeting's region is cut off for two minutes, then healed.
    RegionIsolated,
    /// The edge stalls for eight seconds (SIGSTOP, SIGCONT).
    Stall,
    /// A fifth of the edge's packets to the cores is lost in bursts for half a minute.
    BurstyLoss,
    /// The edge's links to the cores let 24 kb/s pass, less than is said.
    ThinUplink,
    /// SIGTERM of every node in turn, each started again.
    RollingRestart,
    /// New certificates, then a new authority, while a meeting runs.
    CertificateRotation,
    /// The core is killed and comes back with a backup of its store; another meeting has ended since that was made.
    RestoreOldBackup,
    /// SIGTERM of the edge of a meeting at Janus, and of one at a WHEP relay, in the middle of a word, again and again.
    HandOverTalking,
}

/// How long things last in one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// The meeting.
    pub(super) meeting: Duration,
    /// From the script's start to the fault.
    pub(super) fault: Duration,
    /// The fault; zero where it is a moment.
    pub(super) outage: Duration,
}

/// What a scenario must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// In words, for the table.
    pub(super) promise: &'static str,
    /// The most that words may take to resume.
    resume: Option<Duration>,
    /// Whether somebody else must have joined, and within what time.
    rejoin: Option<Duration>,
    /// Whether a gap is there, is named, and holds all that was lost.
    gap: bool,
    /// The least delay that segments must own up to.
    delay: Duration,
    /// Whether only one edge may capture at a time.
    one_owner: bool,
    /// Whether finals may come in another order than they were said: the newest speech is sent first.
    any_order: bool,
}

impl Scenario {
    /// Its name, as it is given on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How long things last; `short` for tests.
    pub(super) fn times(self, short: bool) -> Times {
        let s = Duration::from_secs;
        let pick = |long: u64, brief: u64| s(if short { brief } else { long });
        let lasting = |outage: Duration| Times { meeting: s(8) + outage + s(14), fault: s(8), outage };
        match self {
            Self::CoreKilled | Self::CoreKilledNats | Self::EdgeKilled | Self::EdgeKilledRedundant => {
                Times { meeting: pick(32, 22), fault: pick(10, 7), outage: s(0) }
            }
            Self::LinkCut => lasting(s(5)),
            Self::CutSixSeconds => lasting(s(6)),
            Self::PartialPartition => lasting(pick(60, 25)),
            Self::SpillFull => lasting(s(25)),
            Self::Burst => lasting(s(60)),
            Self::LogFull => Times { meeting: pick(32, 22), fault: pick(10, 7), outage: s(0) },
            Self::TaskPanics => lasting(s(45)),
            Self::EndedInCut => Times { meeting: s(20), fault: s(8), outage: pick(60, 30) },
            Self::RegionIsolated => lasting(pick(120, 20)),
            Self::Stall => lasting(s(8)),
            Self::BurstyLoss => lasting(pick(30, 10)),
            Self::ThinUplink => lasting(pick(60, 30)),
            Self::RollingRestart => lasting(pick(75, 60)),
            Self::CertificateRotation => lasting(pick(40, 30)),
            Self::RestoreOldBackup => Times { meeting: pick(60, 45), fault: s(8), outage: s(0) },
            Self::HandOverTalking => lasting(pick(130, 65)),
        }
    }

    /// How many edges capture the meeting.
    pub(super) fn redundancy(self) -> u8 {
        if self == Self::EdgeKilledRedundant { 2 } else { 1 }
    }

    /// Whether a Janus is needed.
    pub(super) fn has_janus(self) -> bool {
        self == Self::HandOverTalking
    }

    /// In what mesh it plays.
    pub(super) fn regions(self) -> Regions {
        match self {
            Self::CutSixSeconds | Self::SpillFull => stage::PAIR,
            Self::PartialPartition | Self::Burst => stage::ONE_CORE,
            _ => stage::WIDE,
        }
    }

    /// Whether the cores share an authority.
    pub(super) fn has_nats(self) -> bool {
        self == Self::CoreKilledNats
    }

    /// Whether a short second meeting beside it has ended before the fault.
    pub(super) fn has_short_company(self) -> bool {
        self == Self::RestoreOldBackup
    }

    /// Whether a second meeting elsewhere shows that others are not disturbed.
    pub(super) fn has_company(self) -> bool {
        matches!(self, Self::RegionIsolated | Self::BurstyLoss)
    }

    pub(super) fn row(self, short: bool) -> Row {
        let s = Duration::from_secs;
        let nothing = Row {
            promise: "",
            resume: None,
            rejoin: None,
            gap: false,
            delay: s(0),
            one_owner: false,
            any_order: false,
        };
        match self {
            Self::CoreKilled | Self::CoreKilledNats => Row {
                promise: "0 lost, 0 doubled, words resume within 2 s",
                resume: Some(s(2)),
                one_owner: true,
                ..nothing
            },
            Self::EdgeKilled => Row {
                promise: "another edge has joined within 3 s; the gap is named",
                rejoin: Some(s(3)),
                gap: true,
                one_owner: true,
                ..nothing
            },
            Self::EdgeKilledRedundant => Row { promise: "0 lost, 0 doubled, no gap", ..nothing },
            // What was said first waited longest; a packet of it may have gone out before the cut.
            Self::LinkCut => Row {
                promise: "0 lost, in order, the delay is told",
                delay: self.times(short).outage.mul_f64(0.8),
                one_owner: true,
                ..nothing
            },
            Self::CutSixSeconds => Row {
                promise: "0 lost, no gap; the meeting is active again",
                resume: Some(s(12)),
                one_owner: true,
                ..nothing
            },
            Self::PartialPartition => Row {
                promise: "0 lost; the meeting moves within 15 s, and says why",
                resume: Some(s(15)),
                any_order: true,
                delay: self.times(short).outage.mul_f64(0.5),
                ..nothing
            },
            Self::SpillFull => Row {
                promise: "0 lost: a full disk keeps what it has, memory the rest",
                delay: self.times(short).outage.mul_f64(0.8),
                any_order: true,
                one_owner: true,
                ..nothing
            },
            Self::Burst => {
                Row { promise: "0 lost; all are active within 30 s, and so after a minute", one_owner: true, ..nothing }
            }
            Self::LogFull => Row {
                promise: "as with a log: another edge joins, the gap is named; the loss of lines is counted",
                rejoin: Some(s(3)),
                gap: true,
                one_owner: true,
                ..nothing
            },
            Self::TaskPanics => Row { promise: "0 lost, no process ended; all are ready again", ..nothing },
            Self::EndedInCut => Row {
                promise: "0 lost: what was said is brought home",
                delay: self.times(short).outage.mul_f64(0.5),
                // The meeting moves before it ends.
                any_order: true,
                ..nothing
            },
            Self::RegionIsolated => Row {
                promise: "meetings go on; all see all within 30 s of healing",
                resume: Some(s(15)),
                one_owner: true,
                ..nothing
            },
            Self::Stall => Row {
                promise: "no two owners; the edge is fenced when it wakes",
                gap: true,
                one_owner: true,
                ..nothing
            },
            Self::BurstyLoss => Row { promise: "0 lost; nothing else is disturbed", one_owner: true, ..nothing },
            Self::ThinUplink => Row {
                promise: "0 lost; speech is encoded anew, and says so",
                any_order: true,
                one_owner: true,
                ..nothing
            },
            Self::RollingRestart => Row { promise: "0 lost, no meeting dropped", ..nothing },
            Self::RestoreOldBackup => Row {
                promise: "0 lost, 0 doubled; what was published stays, and what has ended stays so",
                resume: Some(s(2)),
                one_owner: true,
                ..nothing
            },
            Self::HandOverTalking => Row { promise: "0 lost, 0 doubled, no gap, at Janus and WHEP", ..nothing },
            Self::CertificateRotation => {
                Row { promise: "0 lost, no restart; expired and revoked are refused", one_owner: true, ..nothing }
            }
        }
    }
}

impl Row {
    /// As on a machine so many times as slow.
    pub(super) fn patient(self, factor: u32) -> Self {
        let longer = |limit: Option<Duration>| limit.map(|limit| limit * factor);
        Self { resume: longer(self.resume), rejoin: longer(self.rejoin), ..self }
    }

    /// What is wrong with a meeting, by this row; `main` for the one to which it happened.
    pub(super) fn complaints(&self, found: &Findings, main: bool) -> Vec<String> {
        let mut wrong = vec![];
        let mut must = |holds: bool, what: String| {
            if !holds {
                wrong.push(what)
            }
        };
        let gap = self.gap && main;
        let lost = if gap { found.frames_lost_outside_gaps } else { found.frames_lost };
        must(!found.dropped, "the meeting did not end well".into());
        must(found.frames_said > 0, "nothing was said".into());
        must(lost == 0, format!("{lost} of {} frames lost", found.frames_said));
        must(found.words_doubled == 0, format!("{} words doubled", found.words_doubled));
        must(found.frames_overflowed == 0, format!("{} frames overflowed at the edge", found.frames_overflowed));
        let (missing, lines) = (found.words_missing, &found.lines_missing);
        must(gap || missing == 0, format!("{missing} words of whole lines missing: {lines:?} (ms, speaker, line)"));
        must(gap || found.wer < 0.25, format!("word error rate {:.2}", found.wer));
        must(found.unread == 0, format!("{} finals never reached the reader as they are stored", found.unread));
        must(self.any_order || found.out_of_order == 0, format!("{} finals out of order", found.out_of_order));
        let (forwarded, durable) = (found.frames_forwarded, found.frames_durable);
        must(gap || forwarded <= durable, format!("{forwarded} frames sent, {durable} counted by the last core"));
        let two = found.spurts_of_two_owners;
        must(!self.one_owner || two == 0, format!("{two} spurts under two owners"));
        if main {
            wrong.extend(self.of_the_fault(found));
        }
        wrong
    }

    fn of_the_fault(&self, found: &Findings) -> Vec<String> {
        let mut wrong = vec![];
        let mut within = |what: &str, measured: Option<u64>, most: Option<Duration>| match (measured, most) {
            (_, None) => {}
            (None, Some(_)) => wrong.push(format!("{what}: never")),
            (Some(ms), Some(most)) if u128::from(ms) > most.as_millis() => wrong.push(format!("{what}: {ms} ms")),
            (Some(_), Some(_)) => {}
        };
        within("words resumed", found.resume_ms, self.resume);
        within("another edge joined", found.rejoin_ms, self.rejoin);
        let told = found.gaps_told;
        if self.gap && told.contains(&0) {
            wrong.push(format!("gaps named by meeting, transcript, stream: {told:?}"));
        }
        let most = found.rejoin_ms.unwrap_or(0) + 1000;
        if self.gap && self.rejoin.is_some() && found.gap_ms > most {
            wrong.push(format!("the gap is said to be {} ms, more than the {most} ms it can be", found.gap_ms));
        }
        if !self.gap && told != [0; 3] {
            wrong.push(format!("a gap of {} ms is named: {told:?}", found.gap_ms));
        }
        if u128::from(found.delay_ms) < self.delay.as_millis() {
            wrong.push(format!("segments own up to {} ms of delay only", found.delay_ms));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        Findings { frames_said: 100, frames_forwarded: 90, frames_durable: 90, ..Findings::default() }
    }

    fn complaints(scenario: Scenario, found: &Findings) -> Vec<String> {
        scenario.row(false).complaints(found, true)
    }

    #[test]
    fn a_core_may_die_but_words_must_resume_within_two_seconds() {
        let found = |resume_ms| Findings { resume_ms, ..good() };
        assert_eq!(complaints(Scenario::CoreKilled, &found(Some(2000))), Vec::<String>::new());
        assert_eq!(complaints(Scenario::CoreKilled, &found(Some(2001))), ["words resumed: 2001 ms"]);
        assert_eq!(complaints(Scenario::CoreKilled, &found(None)), ["words resumed: never"]);
        let patient = Scenario::CoreKilled.row(true).patient(3);
        assert_eq!(patient.complaints(&found(Some(6000)), true), Vec::<String>::new());
        assert_eq!(patient.complaints(&found(None), true), ["words resumed: never"]);
    }

    #[test]
    fn one_frame_one_word_or_one_meeting_is_enough_to_fail() {
        for scenario in Scenario::value_variants() {
            let base = complaints(*scenario, &good()).len();
            let fails = |found: Findings| complaints(*scenario, &found).len() > base;
            assert!(fails(Findings { frames_lost: 1, frames_lost_outside_gaps: 1, ..good() }), "{scenario:?}");
            assert!(fails(Findings { words_doubled: 1, ..good() }), "{scenario:?}");
            assert!(fails(Findings { dropped: true, ..good() }), "{scenario:?}");
            assert!(fails(Findings { unread: 1, ..good() }), "{scenario:?}");
        }
    }

    #[test]
    fn a_killed_edge_may_lose_only_what_lies_in_a_gap_that_is_named_everywhere() {
        let found = Findings {
            frames_lost: 80,
            rejoin_ms: Some(2500),
            gap_ms: 2600,
            gaps_told: [1, 1, 1],
            words_missing: 4,
            ..good()
        };
        assert_eq!(complaints(Scenario::EdgeKilled, &found), Vec::<String>::new());
        assert_eq!(complaints(Scenario::EdgeKilledRedundant, &found).len(), 3, "with two edges nothing may be lost");
        let unnamed = Findings { gaps_told: [1, 0, 1], ..found.clone() };
        assert_eq!(complaints(Scenario::EdgeKilled, &unnamed).len(), 1);
        let outside = Findings { frames_lost_outside_gaps: 1, ..found };
        assert_eq!(complaints(Scenario::EdgeKilled, &outside), ["1 of 100 frames lost"]);
    }
}
