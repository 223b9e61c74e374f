//! What a meeting's edges do and are told, by way of [`Captures`].

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::{Epoch, control::EdgeTotals},
};

use super::{Link, Meeting, captures::Beat, link::ToLink, now};
use crate::{
    key::SpurtKey,
    lock,
    replicate::{sender::Settled, witnesses::Tally},
    speech::utterance::IntakeEvent,
    store::{
        log::LogClosed,
        record::{Owner, Status},
    },
};

impl Meeting {
    // What edges do.

    /// The edge of `epoch` has opened the meeting, by the link of this number. Who may request a takeover is told of the standby anew.
    pub fn attach(&self, epoch: Epoch, number: u64, link: Link) {
        if self.captures(|captures| captures.handle_opened(epoch, number, link)) {
            self.replication.with(|m, _| m.handle_attached());
        }
    }

    /// A beat of the edge: its lease runs for `lease` from now. False if it has none.
    pub fn renew(&self, edge: &NodeId, epoch: Epoch, lease: Duration) -> bool {
        self.note_news(self.captures(|captures| captures.handle_beat(edge, epoch, lease, now())))
    }

    /// As [`Meeting::renew`], by way of another node: sent when the edge's own clock stood at `sent_ms`. `None` if that has come before,
    /// or was held back on its way.
    pub fn renew_by_detour(&self, edge: &NodeId, epoch: Epoch, sent_ms: u64, lease: Duration) -> Option<bool> {
        let beat = self.captures(|captures| captures.handle_relayed(edge, epoch, sent_ms, lease, now()))?;
        Some(self.note_news(beat))
    }

    fn note_news(&self, beat: Beat) -> bool {
        if beat.news {
            self.progress.notify_one();
        }
        beat.kept
    }

    /// The edge's totals so far under `epoch`. Kept in memory until the record is next written.
    pub fn handle_totals(&self, epoch: Epoch, totals: EdgeTotals) {
        self.captures(|captures| captures.handle_totals(epoch, totals));
    }

    /// The edge has left the relay.
    pub fn release(&self, edge: &NodeId, epoch: Epoch) {
        self.captures(|captures| captures.handle_left(edge, epoch));
    }

    /// The edge of `epoch` answers announcement `number` of a standby.
    pub fn handle_standby(&self, epoch: Epoch, number: u64, core: Option<NodeId>) {
        self.captures(|captures| captures.handle_answer(epoch, number, core));
        self.tally();
    }

    /// The edge of `epoch` is stopped: that is written, who may request a takeover is looked at anew, and whoever merges is told.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn handle_stopped(&self, epoch: Epoch) -> Result<(), LogClosed> {
        let number = self.update_here(|_| {}).await?;
        self.captures(|captures| captures.handle_stopped(epoch, number));
        self.settle_witnesses();
        self.tell_capturing().await;
        Ok(())
    }

    // Who may request a takeover.

    /// The standby may have been told of more by now: whom it obeys no more need not be asked.
    pub fn settle_witnesses(&self) {
        let settled = |number| self.replication.see(|m| m.settled(number)) == Settled::Yes;
        if self.captures(|captures| captures.handle_settled(settled)) {
            self.tally();
        }
    }

    /// Looks what those who may request a takeover have said.
    pub fn tally(&self) {
        let tally = self.captures(|captures| captures.tally());
        if tally != Tally::Open {
            self.replication.with(|m, _| m.handle_tally(&tally));
        }
    }

    // What is known.

    /// Who captured under `epoch`.
    pub fn owner(&self, epoch: Epoch) -> Option<Owner> {
        self.captures(|captures| captures.owner(epoch).cloned())
    }

    /// Whether a spurt was captured when its epoch was over: another edge has it.
    pub fn is_nobodys(&self, key: &SpurtKey, captured: Micros) -> bool {
        !self.captures(|captures| captures.takes(key.epoch, captured))
    }

    /// When an owner of it was last heard of.
    pub fn heard_at(&self) -> Micros {
        self.captures(|captures| captures.heard_at())
    }

    /// Since when the edge of `epoch` has been heard by way of other nodes only, so that its speech does not come; and when it was
    /// last heard itself.
    pub fn detoured(&self, epoch: Epoch) -> Option<(Instant, Micros)> {
        self.captures(|captures| captures.relayed_since(epoch))
    }

    /// The epochs under which edges capture now, or may.
    pub fn capturing(&self) -> BTreeSet<Epoch> {
        self.captures(|captures| captures.capturing())
    }

    /// The same, for who puts together what they bring: when the meeting ends, nobody goes on with what the last of them leaves
    /// in the middle.
    pub fn capturing_going_on(&self) -> BTreeSet<Epoch> {
        let rest = lock(&self.rest);
        let capturing = self.capturing();
        if rest.status == Status::Finishing && capturing.len() == 1 { BTreeSet::new() } else { capturing }
    }

    /// The transcription task is to know who captures now, or may: by the next speech it may be others already.
    pub async fn tell_capturing(&self) {
        self.hear(IntakeEvent::Capturing(self.capturing())).await;
    }

    // What edges are told.

    /// Sends to the edge of `epoch`, if it is connected; whether it is.
    pub async fn tell_edge(&self, epoch: Epoch, what: ToLink) -> bool {
        match self.captures(|captures| captures.link(epoch)) {
            // An error means that the link has gone; the edge will open the meeting again and ask.
            Some(link) => link.send(what).await.is_ok(),
            None => false,
        }
    }

    /// Sends to every edge that is connected.
    pub async fn tell_all(&self, what: impl Fn() -> ToLink) {
        for (_, link) in self.captures(|captures| captures.links()) {
            let _ = link.send(what()).await;
        }
    }
}
