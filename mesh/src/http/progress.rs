//! What one connection waits for, and until when.
//!
//! ```text
//!            bytes             head                body read            answer written
//!   Head <---------- Idle  ----------> Body ------------------> Work -------------------> Idle
//!   (also a new one) 60 s   10 s       15 s                     no deadline of ours
//! ```
//!
//! Beside it, at any stage: what was written is not taken. After 30 s that is told to whoever answers, and 5 s later it is the end.

use std::time::Duration;

use tokio::time::Instant;

/// Deadline "head": for a request's head, from its first byte; of the first request, from the beginning.
pub(super) const HEAD: Duration = Duration::from_secs(10);

/// Deadline "body": for a request's body.
pub(super) const BODY: Duration = Duration::from_secs(15);

/// Deadline "idle": for another request.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// Deadline "stall": for the client to read any of what was written to it.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// How long after "stall" the connection is closed: the time for a last word.
pub(super) const LAST_WORD: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Between requests.
    Idle,
    /// Within the head of a request, or before the first.
    Head,
    /// Within its body.
    Body,
    /// The answer is being made or written.
    Work,
}

/// A deadline that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// The client does not read; told once.
    Stalled,
    /// The connection is to be closed, for this reason.
    Closed(&'static str),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Progress {
    stage: Stage,
    since: Instant,
    blocked: Option<Instant>,
    told: bool,
}

impl Progress {
    /// A connection that begins.
    pub(super) fn new(now: Instant) -> Self {
        Self { stage: Stage::Head, since: now, blocked: None, told: false }
    }

    /// Bytes came.
    pub(super) fn handle_read(&mut self, now: Instant) {
        if self.stage == Stage::Idle {
            self.enter(Stage::Head, now);
        }
    }

    /// A head came; `body` follows or not.
    pub(super) fn handle_request(&mut self, body: bool, now: Instant) {
        self.enter(if body { Stage::Body } else { Stage::Work }, now);
    }

    /// The body is read, or nobody wants it.
    pub(super) fn handle_body_end(&mut self, now: Instant) {
        if self.stage == Stage::Body {
            self.enter(Stage::Work, now);
        }
    }

    /// The answer is on its way.
    pub(super) fn handle_answered(&mut self, now: Instant) {
        self.enter(Stage::Idle, now);
    }

    /// A write would block.
    pub(super) fn handle_blocked(&mut self, now: Instant) {
        self.blocked.get_or_insert(now);
    }

    /// A write did not block.
    pub(super) fn handle_written(&mut self, now: Instant) {
        (self.blocked, self.told) = (None, false);
        if self.stage == Stage::Idle {
            // The rest of an answer; idle is counted from its end.
            self.since = now;
        }
    }

    /// What is over at `now`. [`Over::Stalled`] is said once.
    pub(super) fn over(&mut self, now: Instant) -> Option<Over> {
        let blocked = self.blocked.map(|since| now.saturating_duration_since(since));
        if blocked.is_some_and(|for_| for_ >= STALL + LAST_WORD) {
            return Some(Over::Closed("stalled"));
        }
        if blocked.is_some_and(|for_| for_ >= STALL) && !self.told {
            self.told = true;
            return Some(Over::Stalled);
        }
        let (deadline, why) = match self.stage {
            // What is still being written has the deadline of its own.
            Stage::Idle if self.blocked.is_some() => return None,
            Stage::Idle => (IDLE, "idle"),
            Stage::Head => (HEAD, "head"),
            Stage::Body => (BODY, "body"),
            Stage::Work => return None,
        };
        (now.saturating_duration_since(self.since) >= deadline).then_some(Over::Closed(why))
    }

    /// Since when it waits for its client, if it does: then it may be closed for another.
    pub(super) fn waiting(&self) -> Option<Instant> {
        match self.stage {
            Stage::Work => self.blocked,
            Stage::Idle | Stage::Head | Stage::Body => Some(self.since),
        }
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        (self.stage, self.since) = (stage, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn closed_at(progress: &mut Progress, from: Instant) -> (u64, &'static str) {
        let ended = (0..200).find_map(|s| match progress.over(from + s * SECOND) {
            Some(Over::Closed(why)) => Some((u64::from(s), why)),
            _ => None,
        });
        ended.unwrap_or((u64::MAX, "never"))
    }

    #[test]
    fn each_stage_has_its_deadline_and_work_has_none() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        assert_eq!(closed_at(&mut progress, now), (10, "head"));
        progress.handle_request(true, now);
        assert_eq!(closed_at(&mut progress, now), (15, "body"));
        progress.handle_body_end(now);
        assert_eq!(closed_at(&mut progress, now), (u64::MAX, "never"));
        progress.handle_answered(now);
        assert_eq!(closed_at(&mut progress, now), (60, "idle"));
        progress.handle_read(now + SECOND);
        assert_eq!(closed_at(&mut progress, now), (11, "head"));
        progress.handle_read(now + 5 * SECOND);
        assert_eq!(closed_at(&mut progress, now), (11, "head"), "a byte now and then buys no time");
    }

    #[test]
    fn who_does_not_read_is_told_of_once_and_closed_after_that() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        progress.handle_request(false, now);
        progress.handle_blocked(now);
        progress.handle_blocked(now + 20 * SECOND);
        assert_eq!(progress.over(now + 29 * SECOND), None);
        assert_eq!(progress.over(now + 30 * SECOND), Some(Over::Stalled));
        assert_eq!(progress.over(now + 31 * SECOND), None);
        assert_eq!(progress.over(now + 35 * SECOND), Some(Over::Closed("stalled")));
        progress.handle_written(now + 35 * SECOND);
        assert_eq!(closed_at(&mut progress, now + 35 * SECOND), (u64::MAX, "never"), "it reads again");
    }

    #[test]
    fn an_answer_that_is_still_being_written_is_not_idle() {
        let now = Instant::now();
        let mut progress = Progress::new(now);
        progress.handle_request(false, now);
        progress.handle_answered(now);
        progress.handle_blocked(now + 50 * SECOND);
        assert_eq!(progress.over(now + 61 * SECOND), None);
        progress.handle_written(now + 70 * SECOND);
        assert_eq!(closed_at(&mut progress, now + 70 * SECOND), (60, "idle"));
    }
}
