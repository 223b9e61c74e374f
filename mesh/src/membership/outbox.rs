//! What foca asks for during one call, kept until [`super::Membership`] has looked at it.

use std::time::Duration;

use bytes::Bytes;
use foca::{Notification, Runtime, Timer};

use super::peer::Peer;

/// Emptied after each call into foca, so it holds what one packet or one timer can cause.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) sends: Vec<(Peer, Bytes)>,
    pub(super) timers: Vec<(Timer<Peer>, Duration)>,
    pub(super) notes: Vec<Note>,
}

/// A change of the member list, or of our place in it.
#[derive(Debug)]
pub(super) enum Note {
    Up(Peer),
    Down(Peer),
    Renamed {
        before: Peer,
        after: Peer,
    },
    /// We were held down in error and have a new life.
    Rejoined,
    /// Whether anyone accepts us.
    Joined(bool),
}

impl Runtime<Peer> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        let note = match notification {
            Notification::MemberUp(peer) => Note::Up(peer.clone()),
            Notification::MemberDown(peer) => Note::Down(peer.clone()),
            Notification::Rename(before, after) => Note::Renamed { before: before.clone(), after: after.clone() },
            Notification::Rejoin(peer) => {
                tracing::info!(life = peer.life, "was declared down, joining again");
                Note::Rejoined
            }
            Notification::Active => Note::Joined(true),
            Notification::Idle | Notification::Defunct => Note::Joined(false),
        };
        self.notes.push(note);
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.sends.push((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, timer: Timer<Peer>, after: Duration) {
        self.timers.push((timer, after));
    }
}
