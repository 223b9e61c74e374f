//! Which edges capture a meeting: the only holder of its epochs, their edges, leases and links, and of who may request a takeover.
//!
//! A row for each epoch says who was assigned it, and in which slot; a slot has one lease. From both follows the row's *phase*:
//!
//! | phase | a beat | its lease ends | it hands over | it leaves | it declines | another is sought | and its lease is over | the next is assigned | it is stopped |
//! |---|---|---|---|---|---|---|---|---|---|
//! | assigned | refused | | leaving | | | | | stopped | stopped |
//! | offered | leased | | leaving | left | left | left | left | stopped | stopped |
//! | leased | kept | silent | leaving | left | left | ending | left | stopped | stopped |
//! | silent | leased | | leaving | left | left | left | left | stopped | stopped |
//! | ending | refused | | leaving | left | left | | left | stopped | stopped |
//! | left | refused | | leaving | | | | | stopped | stopped |
//! | leaving | kept | | | | | | | | stopped |
//! | stopped | refused | | | | | | | | |
//!
//! * *assigned*: on its way to the disk and to the standby. The edge does not know yet.
//! * *offered*: the edge may be asked, and holds no lease before it has opened the meeting.
//! * *leased*: it renews its lease with each beat. *silent*: that ran out, and nobody else was granted the slot: it may come back.
//! * *ending*: another is sought. It renews in vain, and its lease may still run.
//! * *leaving*: it hands over, and captures without a lease until it is told to stop.
//! * *left*: it captures no more.
//! * *stopped*: what it captures from then on is nobody's. What it captured before may still come.
//!
//! Beside these an epoch may be [fenced](Captures::fence): no spurt of it is begun any more.
//!
//! Calling contract. A row that is changed is to be written; what depends on the write waits for it: an epoch is [assigned](Captures::assign),
//! written, acknowledged by the standby, [offered](Captures::offer), and only then told to its edge. After whatever may change what
//! the witnesses have said, ask for [`Captures::tally`]. The product's links are queues, a simulation's what it likes.

mod links;
mod relayed;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    identity::NodeId,
    lease::{self, Grantor, LEASE_MAX, Lapsed, NotYet, margin},
    wire::{Epoch, Term, control::EdgeTotals},
};

use self::{links::Links, relayed::Relayed};
use super::role;
use crate::{
    replicate::witnesses::{Tally, Witnesses},
    store::record::{MeetingRecord, Owner, Owners, SLOTS},
};

/// Both clocks at one moment: deadlines go by the monotonic one, what is written down by the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// This process's own clock.
    pub at: Instant,
    /// The time of day.
    pub wall: Micros,
}

/// What a capture has come to; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not granted yet.
    Assigned,
    /// Granted, and not heard.
    Offered,
    /// Its lease runs.
    Leased,
    /// Its lease ran out.
    Silent,
    /// Renewed no more.
    Ending,
    /// It hands over.
    Leaving,
    /// It captures no more.
    Left,
    /// It is to capture no more.
    Stopped,
}

/// What a beat has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The edge owns the epoch.
    pub kept: bool,
    /// Something has begun or ended by it: whoever decides on the meeting is to look.
    pub news: bool,
}

/// What is known of an edge that hands over: its slot's lease is for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// When it was last heard.
    pub at: Micros,
    /// It may be held to capture until then.
    pub until: Instant,
}

impl Heard {
    fn new(lease: Duration, now: Now) -> Self {
        let lease = lease.min(LEASE_MAX);
        Self { at: now.wall, until: now.at + lease + margin(lease) }
    }
}

/// See the module. `L` is a link to an edge.
#[derive(Debug)]
pub struct Captures<L> {
    owners: Owners,
    leases: [Grantor; SLOTS],
    /// The edges that hand over and are not stopped.
    leaving: BTreeMap<Epoch, Heard>,
    witnesses: Witnesses,
    relayed: Relayed,
    links: Links<L>,
    /// When an owner was last heard of.
    heard_at: Micros,
    /// Epochs below this are over, ...
    fenced_below: Epoch,
    /// ... but these.
    unfenced: BTreeSet<Epoch>,
}

impl<L: Clone> Captures<L> {
    /// Takes the owners out of `record`: of a new meeting, or of one that is taken up, whose leases another process may have renewed until
    /// this moment.
    pub fn of(record: &mut MeetingRecord, now: Now) -> Self {
        let term = record.serving.term;
        let witnesses = Witnesses::of(record);
        let owners = std::mem::take(&mut record.owners);
        let leases = std::array::from_fn(|slot| resumed(&owners, slot as u8, term, now.at));
        let leaving = owners.capturing().filter(|(_, owner)| owner.leaving);
        let leaving = leaving.map(|(epoch, _)| (epoch, Heard::new(LEASE_MAX, now))).collect();
        let (relayed, links) = (Relayed::default(), Links::default());
        let (heard_at, fenced_below, unfenced) = (now.wall, Epoch(0), BTreeSet::new());
        Self { owners, leases, leaving, witnesses, relayed, links, heard_at, fenced_below, unfenced }
    }

    /// The rows, to be written.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Who captures, or captured, under `epoch`.
    pub fn owner(&self, epoch: Epoch) -> Option<&Owner> {
        self.owners.get(epoch)
    }

    /// The epochs under which edges capture now, or may.
    pub fn capturing(&self) -> BTreeSet<Epoch> {
        self.owners.capturing().map(|(epoch, _)| epoch).collect()
    }

    /// Whether speech that was captured then under `epoch` is taken: not what an edge captured after its end.
    pub fn takes(&self, epoch: Epoch, captured: Micros) -> bool {
        self.owners.get(epoch).is_none_or(|owner| role::is_in_time(owner, captured))
    }

    /// What `epoch` has come to; `None` if it has no row.
    pub fn phase(&self, epoch: Epoch, now: Instant) -> Option<Phase> {
        let owner = self.owners.get(epoch)?;
        let lease = &self.leases[index(owner.slot)];
        let leased = lease.owner().is_some_and(|owner| owner.epoch == epoch);
        Some(match owner {
            Owner { until: Some(_), .. } => Phase::Stopped,
            Owner { leaving: true, .. } => Phase::Leaving,
            _ if lease.newest() < epoch => Phase::Assigned,
            _ if !leased => Phase::Left,
            _ if !lease.is_open(epoch) => Phase::Ending,
            _ if lease.is_leased(now) => Phase::Leased,
            _ if lease.renewable().is_some() => Phase::Silent,
            _ => Phase::Offered,
        })
    }

    // Assigning.

    /// Whatever is granted next is later than this, and of this core's term.
    pub fn newest(&self) -> Epoch {
        let next = self.leases[0].next_epoch().unwrap_or_default();
        self.owners.epoch.max(Epoch(next.0.saturating_sub(1)))
    }

    /// Another edge is sought for `slot`: what was granted in it is renewed no more.
    ///
    /// # Errors
    /// Its lease may still run, and until when. Ask again then.
    pub fn vacate(&mut self, slot: u8, now: Instant) -> Result<(), Instant> {
        let lease = &mut self.leases[index(slot)];
        lease.close();
        match lease.revoke(now) {
            Err(NotYet::Leased(until)) => Err(until),
            _ => Ok(()),
        }
    }

    /// `owner` is to capture in its slot under `epoch`. Whoever captures in it is not to any more, but for one that hands over.
    pub fn assign(&mut self, epoch: Epoch, owner: Owner, wall: Micros) {
        self.owners.grant(epoch, Owner { since: Some(wall), ..owner }, wall);
    }

    /// What was assigned is on disk, and at the standby: its edge may be told.
    ///
    /// # Errors
    /// The lease before it may still be held, or the epoch is none of this term that is new.
    pub fn offer(&mut self, epoch: Epoch, now: Instant) -> Result<(), NotYet> {
        let owner = self.owners.get(epoch).ok_or(NotYet::Stale)?;
        self.leases[index(owner.slot)].grant(owner.edge.clone(), epoch, now)?;
        self.witnesses.handle_granted(owner.slot, owner.leased.then_some(epoch));
        Ok(())
    }

    /// The edge does not want `epoch`, and requests no takeover.
    pub fn handle_declined(&mut self, epoch: Epoch) {
        if let Some(owner) = self.owners.get(epoch) {
            self.leases[index(owner.slot)].release(&owner.edge, epoch);
        }
        self.witnesses.handle_declined(epoch);
    }

    /// Whether the edge of `epoch` has opened the meeting, and its lease runs: what it has opened it has taken.
    pub fn is_taken(&self, epoch: Epoch, now: Instant) -> bool {
        self.owners.get(epoch).is_some_and(|owner| self.held(owner.slot, now) == Some(epoch))
    }

    // What edges do.

    /// The edge of `epoch` has opened the meeting by the link of this number. What is said about its speech goes there from now on,
    /// unless a newer one, of a higher number, has come already. Whether those who may request a takeover are to be told anew of the
    /// standby: one that has left requests none, but may still be asked whether it has.
    pub fn handle_opened(&mut self, epoch: Epoch, number: u64, link: L) -> bool {
        self.links.attach(epoch, number, link);
        self.witnesses.contains(epoch)
    }

    /// A beat of the edge: its lease runs for `lease` from now.
    pub fn handle_beat(&mut self, edge: &NodeId, epoch: Epoch, lease: Duration, now: Now) -> Beat {
        let direct = self.relayed.handle_direct(epoch);
        let beat = self.renew(edge, epoch, lease, now);
        Beat { news: beat.news || direct, ..beat }
    }

    /// The same by way of another node: sent when the edge's own clock stood at `sent_ms`. `None` if that has come before, or was held
    /// back on its way.
    pub fn handle_relayed(
        &mut self,
        edge: &NodeId,
        epoch: Epoch,
        sent_ms: u64,
        lease: Duration,
        now: Now,
    ) -> Option<Beat> {
        let heard = self.heard_at;
        if !self.relayed.is_fresh(epoch, sent_ms, now.at) {
            return None;
        }
        let beat = self.renew(edge, epoch, lease, now);
        let first = beat.kept && self.relayed.handle_relayed(epoch, heard, now.at);
        Some(Beat { news: beat.news || first, ..beat })
    }

    fn renew(&mut self, edge: &NodeId, epoch: Epoch, lease: Duration, now: Now) -> Beat {
        let Some(owner) = self.owners.get(epoch).filter(|o| o.until.is_none()) else {
            return Beat { kept: false, news: false };
        };
        // In a hand-over the predecessor's lease is over for the next owner's sake, but it captures until it is told.
        if owner.leaving && owner.edge == *edge {
            self.leaving.insert(epoch, Heard::new(lease, now));
            self.heard_at = now.wall;
            return Beat { kept: true, news: false };
        }
        let grantor = &mut self.leases[index(owner.slot)];
        let news = grantor.poll_timeout().is_none();
        let kept = grantor.renew(edge, epoch, lease, now.at).is_ok();
        self.heard_at = now.wall;
        Beat { kept, news }
    }

    /// Since when the edge of `epoch` has been heard by way of other nodes only, so that its speech does not come; and when it was
    /// last heard itself.
    pub fn relayed_since(&self, epoch: Epoch) -> Option<(Instant, Micros)> {
        self.relayed.only_since(epoch)
    }

    /// The edge hands over: it needs no lease any more to capture until it is told to leave.
    pub fn hand_over(&mut self, epoch: Epoch) {
        let Some(owner) = self.owners.get_mut(epoch) else { return };
        owner.leaving = true;
        let lease = &mut self.leases[index(owner.slot)];
        let until = lease.poll_timeout();
        let was_leased = lease.release(&owner.edge, epoch) && owner.until.is_none();
        if let Some(until) = until.filter(|_| was_leased) {
            self.leaving.insert(epoch, Heard { at: self.heard_at, until });
        }
    }

    /// When the edge of `epoch`, which hands over, was last heard; `None` if it has left, or was stopped.
    pub fn heard_leaving(&self, epoch: Epoch) -> Option<Heard> {
        self.leaving.get(&epoch).copied()
    }

    /// `edge` has left the relay.
    pub fn handle_left(&mut self, edge: &NodeId, epoch: Epoch) {
        let Some(owner) = self.owners.get(epoch) else { return };
        self.leases[index(owner.slot)].release(edge, epoch);
        if owner.edge == *edge {
            self.leaving.remove(&epoch);
        }
    }

    /// What the edge has done so far under `epoch`.
    pub fn handle_totals(&mut self, epoch: Epoch, totals: EdgeTotals) {
        self.owners.note_totals(epoch, totals);
    }

    // Ending.

    /// The edge of `epoch` captures no more: what it captures from now on is not wanted. Whether that is new.
    pub fn stop(&mut self, epoch: Epoch, wall: Micros) -> bool {
        self.leaving.remove(&epoch);
        let owner = self.owners.get_mut(epoch).filter(|owner| owner.until.is_none());
        owner.map(|owner| owner.until = Some(wall)).is_some()
    }

    /// That it captures no more is written, by the change of that number: it may request a takeover until the standby knows.
    pub fn handle_stopped(&mut self, epoch: Epoch, number: u64) {
        self.witnesses.handle_retired(epoch, number);
    }

    /// Epochs below `epoch` are over, except `but`.
    pub fn fence(&mut self, epoch: Epoch, but: BTreeSet<Epoch>) {
        self.fenced_below = self.fenced_below.max(epoch);
        self.unfenced = but;
    }

    /// Whether no spurt of `epoch` is begun any more.
    pub fn is_fenced(&self, epoch: Epoch) -> bool {
        epoch < self.fenced_below && !self.unfenced.contains(&epoch)
    }

    /// Of the edge of `epoch` is waited for what it has captured since then; or for nothing more.
    pub fn note_owed(&mut self, epoch: Epoch, since: Option<Micros>) {
        if let Some(owner) = self.owners.get_mut(epoch) {
            owner.owes = since;
        }
    }

    // Leases.

    /// Whose lease of `slot` runs or has lapsed, and may be renewed.
    pub fn renewable(&self, slot: u8) -> Option<&lease::Owner> {
        self.leases[index(slot)].renewable()
    }

    /// Whose lease of `slot` runs and may be renewed; nobody's, while it is only assumed that it runs, or of one that is stopped.
    pub fn held(&self, slot: u8, now: Instant) -> Option<Epoch> {
        self.leases[index(slot)].held(now).filter(|epoch| self.owners.captures(*epoch))
    }

    /// Whether a lease of `slot` may be held now.
    pub fn is_leased(&self, slot: u8, now: Instant) -> bool {
        self.leases[index(slot)].is_leased(now)
    }

    /// When an owner was last heard of.
    pub fn heard_at(&self) -> Micros {
        self.heard_at
    }

    /// This core serves in a later term from here on.
    pub fn handle_term(&mut self, term: Term) {
        self.leases.iter_mut().for_each(|lease| lease.handle_term(term));
    }

    /// A lease that has run out, each once.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Lapsed> {
        self.leases.iter_mut().find_map(|lease| lease.handle_timeout(now))
    }

    /// When [`Captures::handle_timeout`] is next needed: a lease runs out.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.iter().filter_map(Grantor::poll_timeout).min()
    }

    // Who may request a takeover.

    /// The edge of `epoch` answers announcement `number` of a standby: it would turn to `core`, or may have called it.
    pub fn handle_answer(&mut self, epoch: Epoch, number: u64, core: Option<NodeId>) {
        self.witnesses.handle_answer(epoch, number, core);
    }

    /// The standby may have been told of more by now: whom it obeys no more need not be asked. Whether that makes a difference.
    pub fn handle_settled(&mut self, settled: impl Fn(u64) -> bool) -> bool {
        self.witnesses.handle_settled(settled)
    }

    /// What those who may request a takeover have said of it.
    pub fn tally(&self) -> Tally {
        self.witnesses.tally()
    }

    /// The links to those who may request a takeover.
    pub fn witnesses(&self) -> Vec<(Epoch, L)> {
        self.witnesses.iter().filter_map(|epoch| Some((epoch, self.links.get(epoch)?))).collect()
    }

    // Links.

    /// The way to the edge of `epoch`, if it is connected.
    pub fn link(&self, epoch: Epoch) -> Option<L> {
        self.links.get(epoch)
    }

    /// The ways to all edges that are connected.
    pub fn links(&self) -> Vec<(Epoch, L)> {
        self.links.all()
    }

    /// Rows of the table of links.
    pub fn connected(&self) -> usize {
        self.links.len()
    }
}

/// The leases of a slot as they may be after a restart.
fn resumed(owners: &Owners, slot: u8, term: Term, now: Instant) -> Grantor {
    let newest = owners.newest_in(slot);
    let owner = newest.map(|(epoch, o)| lease::Owner { edge: o.edge.clone(), epoch });
    // An edge that knows no leases renews none.
    let longest = if newest.is_some_and(|(_, o)| o.leased) { LEASE_MAX } else { Duration::ZERO };
    Grantor::resumed(term, owner, longest, now)
}

fn index(slot: u8) -> usize {
    usize::from(slot).min(SLOTS - 1)
}
