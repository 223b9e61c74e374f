//! An edge that does not get into a meeting, or not stay in it, though the relay has not said no: it may be the edge's own trouble, and
//! another is tried, until a second one has the same.

use std::time::{Duration, Instant};

use mesh::wire::{Epoch, cause::Cause};

/// A second edge that has the same trouble so much later makes it the relay's no more. Longer than the two minutes and more that an
/// edge tries to get back; so that a meeting whose edges are live and fail by turns ends.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// What is the same trouble, though two edges may name it otherwise: a firewall refuses, drops or answers "unreachable".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Way,
    Trust,
    Address,
    Media,
    Edge,
}

/// The kind of what may be the edge's own trouble; `None` where the relay, or what it sends, is no better for another edge.
fn kind(cause: Cause) -> Option<Kind> {
    match cause {
        Cause::DnsFailed => Some(Kind::Name),
        Cause::ConnectionRefused | Cause::RelayTimeout | Cause::RelayUnreachable => Some(Kind::Way),
        Cause::TlsFailed => Some(Kind::Trust),
        Cause::AddressDenied => Some(Kind::Address),
        Cause::MediaUnreachable | Cause::MediaLost => Some(Kind::Media),
        Cause::EdgeFailed => Some(Kind::Edge),
        Cause::SourceInvalid
        | Cause::NoSuchRoom
        | Cause::AccessDenied
        | Cause::RoomFull
        | Cause::RelayRefused
        | Cause::RelayProtocol
        | Cause::CodecUnsupported
        | Cause::Flooded => None,
    }
}

/// Whether another edge may fare better.
pub fn may_be_its_own(cause: Cause) -> bool {
    kind(cause).is_some()
}

/// What an edge says, and in words.
pub(super) type Trouble = (Cause, Option<String>);

/// The troubles of one meeting's edges.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// The first one of each kind, in their order.
    first: Vec<(Kind, Trouble)>,
    newest: Option<(Epoch, Instant)>,
    /// The first one since an edge was live.
    open: Option<Trouble>,
}

impl Troubles {
    /// The edge of `epoch` says so, once or again: another is to be tried.
    ///
    /// # Errors
    /// None would fare better: what the meeting fails with.
    pub(super) fn handle_failed(&mut self, epoch: Epoch, trouble: Trouble, now: Instant) -> Result<(), Trouble> {
        let Some(kind) = kind(trouble.0) else { return Err(trouble) };
        if self.is_of(epoch) {
            return Ok(());
        }
        if self.newest.is_some_and(|(_, at)| at + REMEMBERED <= now) {
            *self = Self::default();
        }
        self.newest = Some((epoch, now));
        self.open.get_or_insert_with(|| trouble.clone());
        if let Some((_, first)) = self.first.iter().find(|(of, _)| *of == kind) {
            return Err(first.clone());
        }
        self.first.push((kind, trouble));
        Ok(())
    }

    /// An edge is live.
    pub(super) fn handle_live(&mut self) {
        self.open = None;
    }

    /// Whether the edge of `epoch` was the last to have any.
    pub(super) fn is_of(&self, epoch: Epoch) -> bool {
        self.newest.is_some_and(|(of, _)| of == epoch)
    }

    /// The first one since an edge was live.
    pub(super) fn open(&self) -> Option<&Trouble> {
        self.open.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn what_the_relay_says_is_final_and_what_may_be_the_edge_s_own_is_until_a_second_edge_has_the_same() {
        let now = Instant::now();
        for cause in Cause::ALL {
            let mut troubles = Troubles::default();
            let first = troubles.handle_failed(Epoch(1), (cause, None), now);
            assert_eq!(first.is_ok(), may_be_its_own(cause), "{cause}");
            assert_eq!(troubles.handle_failed(Epoch(2), (cause, None), now), Err((cause, None)));
        }
        let mut troubles = Troubles::default();
        let mut says = |epoch, cause| troubles.handle_failed(Epoch(epoch), (cause, None), now);
        assert_eq!(says(1, Cause::TlsFailed), Ok(()));
        assert_eq!(says(1, Cause::TlsFailed), Ok(()), "said again");
        assert_eq!(says(2, Cause::RelayTimeout), Ok(()), "another");
        assert_eq!(says(3, Cause::ConnectionRefused), Err((Cause::RelayTimeout, None)), "the same by another name");
        assert_eq!(troubles.open(), Some(&(Cause::TlsFailed, None)));
    }

    #[test]
    fn a_trouble_of_long_ago_is_forgotten_though_not_because_an_edge_was_live_since() {
        let now = Instant::now();
        let again = |after| {
            let mut troubles = Troubles::default();
            assert_eq!(troubles.handle_failed(Epoch(1), (Cause::MediaLost, None), now), Ok(()));
            assert!(troubles.open().is_some());
            troubles.handle_live();
            assert!(troubles.open().is_none());
            troubles.handle_failed(Epoch(2), (Cause::MediaUnreachable, None), now + after).is_ok()
        };
        assert!(!again(REMEMBERED - Duration::from_secs(1)) && again(REMEMBERED));
    }
}
