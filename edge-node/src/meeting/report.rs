//! What the serving core is told of the meeting, besides its speech.

use std::time::Instant;

use mesh::wire::control::ToCore;

use super::{Meeting, Phase};
use crate::transcode::Transcoder;

impl Meeting {
    pub(super) fn close_when_sent(&mut self) {
        if let Phase::Flushing { reason, said: said @ false, .. } = &mut self.phase {
            *said = true;
            let reason = *reason;
            self.say_totals();
            self.say_given_up(false);
            if let Some(alias) = self.opened {
                self.say(ToCore::Close { alias, reason });
            }
        }
    }

    pub(super) fn say_state(&mut self, now: Instant) {
        if self.late {
            // It is not in the meeting any more.
            return;
        }
        let (state, detail, since) = self.state.clone();
        let state = state.after(now.saturating_duration_since(since));
        if let Some(alias) = self.opened {
            self.say(ToCore::State { alias, state, detail });
        }
    }

    pub(super) fn say_hand_over(&mut self) {
        if let Some(alias) = self.opened.filter(|_| self.hand_over.is_some() && self.beats) {
            self.say(ToCore::HandOver { alias });
        }
    }

    pub(super) fn say_totals(&mut self) {
        let Some(alias) = self.opened else { return };
        if self.recovered {
            // Its own are not known, and these would take the place of those told before.
            return;
        }
        let here = self.participants.values().flat_map(|p| p.paths.totals());
        let pipelines = here.chain(self.participants.values().map(|p| p.tally));
        let frames = self.participants.values().flat_map(|p| p.transcoders.iter().map(Transcoder::frames));
        let forwarded: u64 = frames.sum();
        let mut totals = self.totals.sum(pipelines, self.uplink.overflowed());
        totals.packets_forwarded += forwarded;
        if let Some(totals) = self.totals.report(totals) {
            self.say(ToCore::Stats { alias, totals });
        }
    }

    /// When speech was said that never comes: what is new of it, or all of it on a new stream.
    pub(super) fn say_given_up(&mut self, new_stream: bool) {
        let Some(alias) = self.opened else { return };
        if let Some(spans) = self.uplink.take_given_up(new_stream) {
            self.say(ToCore::GivenUp { alias, spans });
        }
    }

    /// While there is no stream nothing is kept: the next one starts from the tables.
    pub(super) fn say(&mut self, message: ToCore) {
        if self.opened.is_some() {
            self.control.push_back(message);
        }
    }
}
