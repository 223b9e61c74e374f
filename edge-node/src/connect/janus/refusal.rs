//! What Janus's error codes mean: of its core (<https://janus.conf.meetecho.com/docs/rest.html>) and of the VideoRoom.

use mesh::wire::cause::Cause;

use super::super::{ConnectError, Meaning};

/// There is no such room.
pub(super) const NO_SUCH_ROOM: i64 = 426;

/// There is no such feed: the publisher went away between the roster's word and our subscription.
pub(super) const NO_SUCH_FEED: i64 = 428;

/// Janus refuses `request`, for this `reason` of its own, cut and without our secrets.
pub(super) fn refused(request: &'static str, code: i64, reason: String) -> ConnectError {
    ConnectError::Signalling { relay: "Janus", request, code, meaning: meaning(code), reason }
}

fn meaning(code: i64) -> Meaning {
    let words = match code {
        403 => "the API secret or the token is wrong: ",
        405 => "the token does not allow this: ",
        NO_SUCH_ROOM => "there is no such room: ",
        NO_SUCH_FEED => "whoever was to be heard is gone: ",
        429 => "something is missing that the room wants: ",
        430 => "the room takes nothing of this kind, as of a number where it wants a text: ",
        432 => "the room is full: ",
        433 => "the room's PIN or the token is wrong: ",
        436 => "somebody is there under this id already: ",
        460 => "it has no VideoRoom: ",
        _ => "",
    };
    let cause = match code {
        403 | 405 | 433 => Cause::AccessDenied,
        NO_SUCH_ROOM => Cause::NoSuchRoom,
        432 => Cause::RoomFull,
        _ => Cause::RelayRefused,
    };
    // A feed or session that has just vanished, and faults of Janus's own.
    let is_transient = matches!(code, NO_SUCH_FEED | 458 | 459 | 490 | 499);
    Meaning { words, cause, is_transient }
}
