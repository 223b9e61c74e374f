//! What a meeting's relay says, in batches.

use tokio::sync::mpsc;

use super::Event;

/// Events of one meeting's relay that wait; the connector drops packets and counts them when it is full (about half a
/// second of a large meeting).
const EVENTS: usize = 2048;
/// Of these, taken at a time.
const BATCH: usize = 64;

/// The receiving end.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Event>);

/// Both ends.
pub fn inbox() -> (mpsc::Sender<Event>, Inbox) {
    let (sender, events) = mpsc::channel(EVENTS);
    (sender, Inbox(events))
}

impl Inbox {
    /// Waits for events and puts them into `batch`; false if there will be none any more. Cancel-safe.
    pub async fn next(&mut self, batch: &mut Vec<Event>) -> bool {
        self.0.recv_many(batch, BATCH).await > 0
    }

    /// Takes no more in.
    pub fn close(&mut self) {
        self.0.close();
    }
}
