//! Why we are out of a room, or not let in.

use mesh::wire::cause::Cause;

use super::{
    super::{
        super::{ConnectError, Meaning},
        message::Reason,
        people::MAX_TRACKS,
    },
    Room,
};

/// The server has us out of the room, for good or to come back.
pub(super) fn out(reason: Reason, is_transient: bool) -> ConnectError {
    let cause = if is_transient { Cause::RelayUnreachable } else { Cause::RelayRefused };
    let meaning = Meaning { words: "", cause, is_transient };
    let (code, reason) = (i64::from(reason as i32), words(reason).into());
    ConnectError::Signalling { relay: "LiveKit", request: "our stay", code, meaning, reason }
}

/// We are in, and may not listen: nothing would ever be heard.
pub(super) fn deaf() -> ConnectError {
    let meaning = Meaning { words: "", cause: Cause::AccessDenied, is_transient: false };
    let reason = "the token does not let us subscribe (canSubscribe)".into();
    ConnectError::Signalling { relay: "LiveKit", request: "our listening", code: 0, meaning, reason }
}

impl Room {
    /// Whether there is a section for who comes next. Servers that keep streams apart use none twice; a new connection begins
    /// without those of who left. Many sections without as many voices are a flood, and told as such.
    pub(super) fn check_sections(&self) -> Result<(), ConnectError> {
        let helps = self.held.len() <= MAX_TRACKS / 2 && self.asked >= MAX_TRACKS / 2;
        if self.more == 0 || self.sections < MAX_TRACKS || !helps {
            return Ok(());
        }
        let why = format!("all {MAX_TRACKS} sections of the connection were used; joining anew");
        Err(ConnectError::Unreachable { cause: Cause::RelayUnreachable, why })
    }
}

/// Why we are out, for whoever asked for the meeting.
fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::DuplicateIdentity => "another has joined under our identity",
        Reason::ServerShutdown => "the server goes down",
        Reason::ParticipantRemoved => "we were removed",
        Reason::RoomDeleted | Reason::RoomClosed => "the room is closed",
        Reason::StateMismatch => "the server knows nothing of our stay",
        Reason::JoinFailure => "no connection for us came about, or the room is full",
        Reason::Migration => "another server is to be joined",
        Reason::ConnectionTimeout => "our connection was lost to the server",
        Reason::SignalClose => "the server has lost its signalling",
        _ => "it gives no reason",
    }
}
