//! What a meeting's relay says, in batches.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::Event;

/// Events of one meeting's relay that wait; the connector drops packets and counts them when it is full (about half a
/// second of a large meeting).
const EVENTS: usize = 2048;
/// Of these, taken at a time.
const BATCH: usize = 64;
/// Between two batches: to wake a meeting, and to find all of it in colder caches again, costs more than a packet does.
/// A packet that comes when all is quiet is taken at once.
const REST: Duration = Duration::from_millis(10);

/// The receiving end.
#[derive(Debug)]
pub struct Inbox {
    events: mpsc::Receiver<Event>,
    rest: Option<Instant>,
}

/// Both ends.
pub fn inbox() -> (mpsc::Sender<Event>, Inbox) {
    let (sender, events) = mpsc::channel(EVENTS);
    (sender, Inbox { events, rest: None })
}

impl Inbox {
    /// Waits for events and puts them into `batch`; false if there will be none any more. Cancel-safe.
    pub async fn next(&mut self, batch: &mut Vec<Event>) -> bool {
        if let Some(until) = self.rest {
            sleep_until(until).await;
            self.rest = None;
        }
        let any = self.events.recv_many(batch, BATCH).await > 0;
        self.rest = any.then(|| Instant::now() + REST);
        any
    }

    /// Takes no more in.
    pub fn close(&mut self) {
        self.events.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_a_rest_is_taken_together_and_none_of_it_is_lost() {
        let event = || Event::State { state: mesh::wire::control::EdgeState::Live, detail: None };
        let (events, mut inbox) = inbox();
        let (mut batch, begun) = (vec![], Instant::now());
        assert!(events.try_send(event()).is_ok() && inbox.next(&mut batch).await);
        assert_eq!((batch.len(), begun.elapsed()), (1, Duration::ZERO), "all was quiet");
        assert!(events.try_send(event()).is_ok() && events.try_send(event()).is_ok());
        assert!(tokio::time::timeout(REST / 2, inbox.next(&mut batch)).await.is_err(), "it rests");
        assert!(inbox.next(&mut batch).await);
        assert_eq!(batch.len(), 3);
        drop(events);
        assert!(!inbox.next(&mut batch).await);
    }
}
