//! One stay in a meeting, across losses of its relay.
//!
//! It tells one story all the while: a participant who is still there after a reconnect has neither left nor joined.

use std::time::Duration;

use async_trait::async_trait;
use mesh::wire::control::EdgeState;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{ConnectError, Event, retries::Retries, roster::Roster};

/// A relay that was live for less is the same loss as the one before.
pub(super) const STEADY: Duration = Duration::from_secs(10);

/// How a stay in a meeting ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// We were told to leave, and have.
    Stopped,
    /// The relay has ended it.
    ByRelay,
}

/// One stay in a meeting at a time, from the first request to the last.
#[async_trait]
pub(super) trait Attempt: Send {
    /// Joins and stays. Whatever it held open at the relay is closed, or gone with it, on return.
    async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError>;
}

/// What outlives a single attempt.
pub(super) struct Stay {
    pub(super) events: mpsc::Sender<Event>,
    stop: CancellationToken,
    pub(super) roster: Roster,
    /// Media could flow in this attempt: the next loss starts a new count.
    live: bool,
    /// It could in this or an earlier one.
    pub(super) was_live: bool,
    /// Since when it can, and for how long it could in this attempt before.
    since: Option<Instant>,
    lasted: Duration,
    /// The relay took leave of us when we were last live.
    farewell: bool,
    /// The relay is lost, since then.
    lost_since: Option<Instant>,
    /// The state last told.
    told: Option<EdgeState>,
}

impl Stay {
    pub(super) fn new(events: mpsc::Sender<Event>, stop: CancellationToken) -> Self {
        Self {
            events,
            stop,
            roster: Roster::default(),
            live: false,
            was_live: false,
            since: None,
            lasted: Duration::ZERO,
            farewell: false,
            lost_since: None,
            told: None,
        }
    }

    pub(super) async fn state(&mut self, state: EdgeState, detail: Option<String>) {
        let now = Instant::now();
        self.lasted += self.since.take().map_or(Duration::ZERO, |since| now - since);
        self.since = (state == EdgeState::Live).then_some(now);
        self.live |= state == EdgeState::Live;
        self.was_live |= self.live;
        if state == EdgeState::Live {
            self.lost_since = None;
        }
        if self.told.replace(state) == Some(state) && detail.is_none() {
            return;
        }
        self.tell(Event::State { state, detail }).await;
    }

    /// The relay is lost, since then if it was not before.
    pub(super) async fn lost(&mut self, since: Instant, why: String) {
        let since = *self.lost_since.get_or_insert(since);
        self.state(EdgeState::silent(since.elapsed()), Some(why)).await;
    }

    /// An attempt begins.
    fn begin(&mut self) {
        (self.live, self.since, self.lasted) = (false, None, Duration::ZERO);
    }

    /// An attempt has ended. True if it was live for long enough to be forgiven: the next loss is another one.
    fn end(&mut self, error: &ConnectError) -> bool {
        self.lasted += self.since.take().map_or(Duration::ZERO, |since| Instant::now() - since);
        if self.live {
            self.farewell = *error == ConnectError::Closed;
        }
        self.lasted >= STEADY
    }

    /// Whether the relay has ended the meeting, whatever it says now that we try to come back: it took leave of us, and lets
    /// us in no more.
    fn is_over(&self, error: &ConnectError) -> bool {
        self.was_live && self.farewell && error.is_no()
    }

    /// Brings the listener's view of who is there up to date.
    pub(super) async fn tell_roster(&mut self) {
        while let Some(event) = self.roster.poll_event() {
            self.tell(event).await;
        }
    }

    async fn tell(&self, event: Event) {
        // A closed queue is seen by `stopped`, where every loop waits.
        let _ = self.events.send(event).await;
    }

    /// Ready when there is no reason to stay.
    pub(super) async fn stopped(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.events.closed() => {}
        }
    }
}

/// Stays in a meeting across losses of the relay.
pub(super) async fn keep(
    mut attempt: impl Attempt,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> Result<(), ConnectError> {
    let mut stay = Stay::new(events, stop);
    stay.state(EdgeState::Connecting, None).await;
    let mut retries = Retries::new(Instant::now(), rand::random());
    loop {
        stay.begin();
        let error = match attempt.stay(&mut stay).await {
            Ok(ended) => {
                tracing::debug!(?ended, "left the meeting");
                return Ok(());
            }
            Err(error) => error,
        };
        if stay.end(&error) {
            retries = Retries::new(Instant::now(), rand::random());
        }
        let delay = match retries.after(error.clone(), Instant::now()) {
            Ok(delay) => delay,
            Err(last) if stay.is_over(&last) => {
                tracing::debug!(error = %last, "the relay has ended the meeting");
                return Ok(());
            }
            Err(last) => {
                stay.state(EdgeState::Failed(last.cause()), Some(last.to_string())).await;
                return Err(last);
            }
        };
        tracing::info!(%error, ?delay, "the relay is lost; trying again");
        metrics::counter!("nearfield_edge_connect_reconnects_total").increment(1);
        stay.lost(Instant::now(), error.to_string()).await;
        tokio::select! {
            () = stay.stopped() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh::wire::cause::Cause;

    use super::{super::retries::MAX_TRIES, *};

    fn lost() -> ConnectError {
        ConnectError::MediaLost("test".into())
    }

    /// A relay that is live for so long, ends thus, and so on.
    struct Scripted {
        lives: Duration,
        ends: Vec<ConnectError>,
        attempts: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    }

    #[async_trait]
    impl Attempt for Scripted {
        async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
            let n = self.attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let end = self.ends[n.min(self.ends.len() - 1)].clone();
            let was_in = matches!(end, ConnectError::Closed | ConnectError::MediaLost(_));
            if n < 20 && was_in {
                stay.state(EdgeState::Live, None).await;
                tokio::time::sleep(self.lives).await;
            }
            if end == unreached() {
                tokio::time::sleep(Duration::from_secs(15)).await;
            }
            Err(end)
        }
    }

    fn unreached() -> ConnectError {
        ConnectError::MediaUnreachable { after: Duration::from_secs(15), denied: 0 }
    }

    /// How many attempts are made, what comes of them, and the last state told.
    async fn kept(lives: Duration, ends: Vec<ConnectError>) -> (usize, Result<(), Cause>, EdgeState) {
        let attempts = std::sync::Arc::default();
        let (events, mut told) = mpsc::channel(1024);
        let scripted = Scripted { lives, ends, attempts: std::sync::Arc::clone(&attempts) };
        let ended = keep(scripted, events, CancellationToken::new()).await.map_err(|e| e.cause());
        let mut last = EdgeState::Connecting;
        while let Some(Event::State { state, .. }) = told.recv().await {
            last = state;
        }
        (attempts.load(std::sync::atomic::Ordering::Relaxed), ended, last)
    }

    #[tokio::test(start_paused = true)]
    async fn media_that_never_connects_fails_after_five_tries_with_its_reason() {
        let failed = kept(Duration::ZERO, vec![unreached()]).await;
        let cause = Cause::MediaUnreachable;
        assert_eq!(failed, (MAX_TRIES, Err(cause), EdgeState::Failed(cause)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_lost_as_soon_as_it_is_live_is_given_up_and_one_that_lasts_is_not() {
        let brief = kept(Duration::from_secs(3), vec![lost()]).await;
        assert_eq!((brief.0, brief.1), (MAX_TRIES, Err(Cause::MediaLost)));
        // Twenty losses an hour apart, and then it does not come back.
        let lasting = kept(Duration::from_secs(3600), vec![lost()]).await;
        assert_eq!((lasting.0, lasting.1), (20 + MAX_TRIES - 1, Err(Cause::MediaLost)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ended_has_one_outcome_however_its_relay_refuses_us_then() {
        let refused = |status| ConnectError::Refused { request: "our offer", status, problem: "" };
        let live = Duration::from_secs(60);
        for status in [403, 404, 409, 500, 502] {
            let (_, ended, _) = kept(live, vec![ConnectError::Closed, refused(status)]).await;
            assert_eq!(ended, Ok(()), "{status}");
        }
        assert_eq!(kept(live, vec![ConnectError::Closed]).await.1, Ok(()), "it hangs up each time");
        // What broke was not ended, and a relay that is gone has not said so.
        assert_eq!(kept(live, vec![lost(), refused(403)]).await.1, Err(Cause::AccessDenied));
        let gone = ConnectError::Unreachable { cause: Cause::ConnectionRefused, why: "refused".into() };
        assert_eq!(kept(live, vec![ConnectError::Closed, gone]).await.1, Err(Cause::ConnectionRefused));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_told_with_how_long_nothing_has_come_until_the_relay_is_live_again() {
        let (events, mut told) = mpsc::channel(8);
        let mut stay = Stay::new(events, CancellationToken::new());
        let begun = Instant::now();
        let mut silent = async |stay: &mut Stay, since| {
            stay.lost(since, "gone".into()).await;
            match told.recv().await {
                Some(Event::State { state: EdgeState::Reconnecting { silent_ms }, .. }) => silent_ms,
                other => panic!("{other:?}"),
            }
        };
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(silent(&mut stay, begun).await, 5000);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(silent(&mut stay, Instant::now()).await, 15_000, "it has not come back in between");
        stay.told = Some(EdgeState::Live);
        stay.state(EdgeState::Live, None).await;
        assert_eq!(silent(&mut stay, Instant::now()).await, 0);
    }
}
