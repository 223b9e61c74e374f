//! What one core is to a meeting, and whom it believes: the rules, without I/O.
//!
//! ```text
//!                       a replica of another core's
//!   (nothing), Moved ─────────────────────────────────▶ Standby ──────────┐ the edge calls, for the next term; or
//!         ▲                                              │                │ alone: every other core is long gone
//!         └──────────────── dropped ─────────────────────┘                ▼
//!   Standby, Moved ◀──────── another core serves in a later term ────── Serving
//! ```
//!
//! A standby may be called once it knows that it may: from then on the primary says nothing that it lacks.
//! Every change is on disk before it is acted on. The rules that make it safe:
//!
//! * Only the newest owner of a capture slot calls, and only for the very next term ([`called`]). The primary has had every
//!   new owner acknowledged by its standby before that owner heard of it; so nobody calls whose time is over. It goes
//!   on without its standby when all who may call have said that they do not (`replicate::witnesses`), or the standby itself.
//! * Of two that serve, the one in the later term is believed, and the other steps down ([`outranked`]).
//! * What a standby holds of a turn, the core that serves in it has on disk, or had: if it says less, its store is an older copy, and the
//!   standby's stands, in the next term ([`outlasts`]). So what has ended stays so.
//! * A core that was dropped takes nothing of the streams that were begun before that, however late it arrives.
//! * What is captured after its epoch's end is nobody's ([`is_in_time`]).

use std::{cmp::Ordering, time::Duration};

use mesh::{
    clock::Micros,
    identity::{Identity, NodeId},
    wire::{
        Epoch, Term,
        control::RefusedReason,
        request::{Held, Resumed},
    },
};

use crate::store::record::{CoreRole, MeetingRecord, Owner, Serving};

/// How far an edge's clock may be from this core's where speech is judged by its capture time.
pub const CLOCK_MARGIN: Duration = Duration::from_secs(2);

/// What an edge that opens a meeting is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotHere {
    /// No.
    Refused(RefusedReason),
    /// Elsewhere.
    Moved(NodeId, Term),
}

impl From<RefusedReason> for NotHere {
    fn from(reason: RefusedReason) -> Self {
        Self::Refused(reason)
    }
}

impl Serving {
    /// The core itself serves, in `term`.
    pub fn here(term: Term) -> Self {
        Self { term, ..Self::default() }
    }

    /// `by` serves in `term`, and this core holds its replica, of that `stream`.
    pub fn held(by: NodeId, term: Term, stream: u64) -> Self {
        Self { term, role: CoreRole::Standby, by: Some(by), standby: None, stream }
    }

    /// `by` serves in `term`, and this core has no part in it; not after any stream up to that one.
    pub fn moved(by: NodeId, term: Term, stream: u64) -> Self {
        Self { role: CoreRole::Moved, ..Self::held(by, term, stream) }
    }

    /// Who serves, as far as this core, `me`, knows.
    pub fn core(&self, me: &NodeId) -> Option<NodeId> {
        match self.role {
            CoreRole::Serving => Some(me.clone()),
            CoreRole::Standby | CoreRole::Moved => self.by.clone(),
        }
    }
}

/// An edge opens a meeting that `me` serves in `mine`, as if it did in `term`.
///
/// # Errors
/// The edge's term is of the past, or of a future that this core knows nothing of.
pub fn opened(me: &NodeId, mine: Term, term: Term) -> Result<(), NotHere> {
    match term.cmp(&mine) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(NotHere::Moved(me.clone(), mine)),
        // Another core has served it since, of whose words this one knows nothing.
        Ordering::Greater => Err(RefusedReason::UnknownMeeting.into()),
    }
}

/// An edge wants a meeting that is not live here to be served by this core, `me`, in `term`. Nothing, if it is to be.
///
/// # Errors
/// This core is not the one to call, or the edge is not the one to call it.
pub fn called(record: &MeetingRecord, me: &NodeId, edge: &Identity, epoch: Epoch, term: Term) -> Result<(), NotHere> {
    let known = &record.serving;
    match known.role {
        CoreRole::Serving => return Err(RefusedReason::Ended.into()),
        // One that is still to become the standby lacks what was said meanwhile.
        CoreRole::Standby if known.term.called() == Some(term) && known.standby.as_ref() == Some(me) => {}
        CoreRole::Standby | CoreRole::Moved => {
            let elsewhere = known.by.clone().filter(|_| known.term >= term);
            return Err(elsewhere.map_or(RefusedReason::UnknownMeeting.into(), |core| NotHere::Moved(core, known.term)));
        }
    }
    owns(record, edge, epoch)?;
    if record.owners.is_relieved(epoch) {
        return Err(RefusedReason::StaleEpoch.into());
    }
    if record.status.ended() { Err(RefusedReason::Ended.into()) } else { Ok(()) }
}

/// Whether `edge` may bring what it captures under `epoch`.
///
/// # Errors
/// The epoch is over, or is not that edge's.
pub fn owns(record: &MeetingRecord, edge: &Identity, epoch: Epoch) -> Result<(), RefusedReason> {
    match record.owners.get(epoch).filter(|_| record.owners.captures(epoch)) {
        // Two capture in a meeting of redundancy 2; in a hand-over the predecessor stays until it is told to leave.
        Some(owner) if owner.edge == edge.node && owner.region == edge.region => Ok(()),
        None if epoch <= record.owners.epoch => Err(RefusedReason::StaleEpoch),
        _ => Err(RefusedReason::NotAllowed),
    }
}

/// Whether speech that was captured then may still come in under `owner`'s epoch.
pub fn is_in_time(owner: &Owner, captured: Micros) -> bool {
    owner.until.is_none_or(|until| captured <= until.plus(CLOCK_MARGIN))
}

/// `from` sends part of a stream of a meeting that is not live here, in `term`. Whoever is known to serve later than
/// that, if somebody is; then nothing of it is taken.
pub fn outranked(known: &Serving, me: &NodeId, from: &NodeId, term: Term, stream: u64) -> Option<(NodeId, Term)> {
    let later = match known.role {
        CoreRole::Serving => known.term >= term,
        CoreRole::Standby | CoreRole::Moved => match known.term.cmp(&term) {
            Ordering::Greater => true,
            Ordering::Equal if known.by.as_ref() == Some(from) => stream < known.stream,
            Ordering::Equal => known.by.as_ref() > Some(from),
            Ordering::Less => false,
        },
    };
    later.then(|| (known.by.clone().unwrap_or_else(|| me.clone()), known.term))
}

/// Whether this core's replica, `known`, with finals up to `newest`, is what remains of `from`'s turn in `term`: that core serves the
/// meeting still, as it says, and has `theirs` of it.
pub fn outlasts(known: &MeetingRecord, newest: u64, from: &NodeId, term: Term, theirs: Held) -> bool {
    let serving = &known.serving;
    let of_it = serving.role == CoreRole::Standby && serving.by.as_ref() == Some(from) && serving.term == term;
    of_it && (known.status.ended() && !theirs.ended || newest > theirs.newest)
}

/// The same of a core that has only started, and says how it has `resumed` the meeting. Not of what it has sent since: its word and that
/// may come in any order.
pub fn outlasts_start(known: &MeetingRecord, newest: u64, from: &NodeId, term: Term, resumed: &Resumed) -> bool {
    known.serving.stream < resumed.since && outlasts(known, newest, from, term, resumed.held)
}

/// Whether this core, `me`, which is not live in the meeting yet, leaves it to `core`, which serves it in `term`.
pub fn yields(known: &MeetingRecord, me: &NodeId, core: &NodeId, term: Term) -> bool {
    known.serving.role == CoreRole::Serving && core != me && (term, core) > (known.serving.term, me)
}

/// Whether this core, where the meeting is over, leaves it to the one that holds it in the later `term`.
pub fn cedes(known: &MeetingRecord, term: Term) -> bool {
    known.serving.role == CoreRole::Serving && known.status.ended() && term > known.serving.term
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::identity::Role;
    use proptest::prelude::*;

    use super::*;
    use crate::tests::fakes;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn edge(name: &str) -> Identity {
        fakes::identity(name, Role::Edge, "eu-central")
    }

    fn standby() -> MeetingRecord {
        let mut record = fakes::record();
        record.serving = Serving { standby: Some(node("c2")), ..Serving::held(node("c1"), Term(1), 5) };
        record.owners.epoch = Epoch(4);
        let leaving = Owner { leaving: true, ..Owner::new(node("old"), "eu-central".parse().unwrap()) };
        record.owners.rows.insert(3, leaving);
        record.owners.rows.insert(4, Owner::new(node("a"), "eu-central".parse().unwrap()));
        record
    }

    #[test]
    fn each_slot_has_a_witness_and_its_next_owner_is_no_end_of_the_other_slot() {
        let mut record = standby();
        let second = Owner { slot: 1, ..Owner::new(node("b"), "eu-central".parse().unwrap()) };
        record.owners.grant(Epoch(5), second, Micros(7));
        assert_eq!(called(&record, &node("c2"), &edge("a"), Epoch(4), Term(2)), Ok(()));
        assert_eq!(called(&record, &node("c2"), &edge("b"), Epoch(5), Term(2)), Ok(()));
        record.owners.grant(Epoch(6), Owner::new(node("c"), "eu-central".parse().unwrap()), Micros(8));
        assert_eq!(called(&record, &node("c2"), &edge("a"), Epoch(4), Term(2)), Err(RefusedReason::StaleEpoch.into()));
        assert_eq!(called(&record, &node("c2"), &edge("b"), Epoch(5), Term(2)), Ok(()));
        assert_eq!(record.owners.rows[&4].until, Some(Micros(8)));
    }

    #[test]
    fn only_the_newest_owner_calls_and_only_for_the_next_term() {
        let record = standby();
        assert_eq!(called(&record, &node("c2"), &edge("a"), Epoch(4), Term(2)), Ok(()));
        assert_eq!(called(&record, &node("c2"), &edge("b"), Epoch(4), Term(2)), Err(RefusedReason::NotAllowed.into()));
        assert_eq!(called(&record, &node("c2"), &edge("a"), Epoch(5), Term(2)), Err(RefusedReason::NotAllowed.into()));
        assert_eq!(
            called(&record, &node("c2"), &edge("a"), Epoch(4), Term(3)),
            Err(RefusedReason::UnknownMeeting.into())
        );
        assert_eq!(
            called(&record, &node("c2"), &edge("a"), Epoch(4), Term(1)),
            Err(NotHere::Moved(node("c1"), Term(1)))
        );
        assert_eq!(owns(&record, &edge("old"), Epoch(3)), Ok(()), "it stays for its successor");
        assert_eq!(
            called(&record, &node("c2"), &edge("old"), Epoch(3), Term(2)),
            Err(RefusedReason::StaleEpoch.into())
        );
    }

    #[test]
    fn one_that_is_still_to_become_the_standby_is_not_called() {
        let mut record = standby();
        for standby in [None, Some(node("c3"))] {
            record.serving.standby = standby;
            let refused = called(&record, &node("c2"), &edge("a"), Epoch(4), Term(2));
            assert_eq!(refused, Err(RefusedReason::UnknownMeeting.into()));
        }
    }

    #[test]
    fn a_core_that_was_dropped_is_not_called_and_takes_nothing_of_an_older_stream() {
        let mut record = standby();
        record.serving = Serving::moved(node("c1"), Term(1), 6);
        assert_eq!(
            called(&record, &node("c2"), &edge("a"), Epoch(4), Term(2)),
            Err(RefusedReason::UnknownMeeting.into())
        );
        let me = node("c2");
        assert_eq!(outranked(&record.serving, &me, &node("c1"), Term(1), 5), Some((node("c1"), Term(1))));
        assert_eq!(outranked(&record.serving, &me, &node("c1"), Term(1), 7), None);
        assert_eq!(outranked(&record.serving, &me, &node("c3"), Term(2), 0), None, "a later term");
        assert_eq!(outranked(&Serving::here(Term(2)), &me, &node("c1"), Term(2), 9), Some((me.clone(), Term(2))));
    }

    #[test]
    fn speech_captured_after_the_end_of_its_epoch_is_nobodys() {
        let until = Micros(10_000_000);
        let mut owner = Owner::new(node("a"), "eu-central".parse().unwrap());
        assert!(is_in_time(&owner, Micros(u64::MAX)));
        owner.until = Some(until);
        assert!(is_in_time(&owner, until.plus(CLOCK_MARGIN)) && !is_in_time(&owner, Micros(12_000_001)));
    }

    #[test]
    fn a_replica_outlasts_its_core_s_turn_only_where_it_holds_more_of_that_turn() {
        let mut known = standby();
        let (c1, full) = (node("c1"), Held { ended: false, newest: 7 });
        assert!(!outlasts(&known, 7, &c1, Term(1), full), "as much");
        assert!(outlasts(&known, 8, &c1, Term(1), full), "a final more");
        assert!(!outlasts(&known, 8, &c1, Term(2), full) && !outlasts(&known, 8, &node("c3"), Term(1), full));
        known.status = crate::store::record::Status::Done;
        assert!(outlasts(&known, 0, &c1, Term(1), full), "it is over");
        assert!(!outlasts(&known, 7, &c1, Term(1), Held { ended: true, ..full }));
        known.serving.role = CoreRole::Moved;
        assert!(!outlasts(&known, 9, &c1, Term(1), full), "it is not the standby");
    }

    #[test]
    fn what_a_core_has_sent_since_its_start_outlasts_nothing_whenever_its_first_word_arrives() {
        let (mut known, c1) = (standby(), node("c1"));
        let started = |since| Resumed { held: Held { ended: false, newest: 7 }, since };
        assert!(outlasts_start(&known, 8, &c1, Term(1), &started(6)), "its stream 5 was before that");
        assert!(
            !outlasts_start(&known, 8, &c1, Term(1), &started(5))
                && !outlasts_start(&known, 7, &c1, Term(1), &started(6))
        );
        known.status = crate::store::record::Status::Done;
        assert!(
            outlasts_start(&known, 0, &c1, Term(1), &started(6))
                && !outlasts_start(&known, 0, &c1, Term(1), &started(5))
        );
    }

    #[test]
    fn of_two_that_hold_a_meeting_that_is_over_the_one_of_the_later_term_does() {
        let mut known = standby();
        known.serving = Serving::here(Term(1));
        assert!(!cedes(&known, Term(2)), "it is not over here");
        known.status = crate::store::record::Status::Done;
        assert!(cedes(&known, Term(2)) && !cedes(&known, Term(1)));
        known.serving.role = CoreRole::Standby;
        assert!(!cedes(&known, Term(2)));
    }

    fn any_serving() -> impl Strategy<Value = Serving> {
        let role = prop_oneof![Just(CoreRole::Serving), Just(CoreRole::Standby), Just(CoreRole::Moved)];
        let by = proptest::option::of((1u8..4).prop_map(|n| node(&format!("c{n}"))));
        (role, any::<u32>(), by.clone(), by, any::<u64>()).prop_map(|(role, term, by, standby, stream)| Serving {
            term: Term(term),
            role,
            by,
            standby,
            stream,
        })
    }

    proptest! {
        #[test]
        fn whatever_a_record_says_only_the_newest_owners_of_its_slots_are_obeyed(
            serving in any_serving(),
            newest in 0u64..6,
            owners in proptest::collection::btree_map(0u64..6, (0u8..3, 0u8..2, any::<bool>(), any::<bool>()), 0..6),
            caller in 0u8..3,
            epoch in 0u64..6,
            term: u32,
        ) {
            let mut record = fakes::record();
            (record.serving, record.owners.epoch) = (serving, Epoch(newest));
            for (epoch, (name, slot, leaving, over)) in &owners {
                let owner = Owner::new(node(&format!("e{name}")), "eu-central".parse().unwrap());
                let until = over.then_some(Micros(1));
                record.owners.rows.insert(*epoch, Owner { slot: *slot, leaving: *leaving, until, ..owner });
            }
            let allowed = called(&record, &node("c2"), &edge(&format!("e{caller}")), Epoch(epoch), Term(term)).is_ok();
            let newer = |slot| owners.range(epoch + 1..).any(|(_, (_, other, ..))| *other == slot);
            let owned = owners.get(&epoch).is_some_and(|(name, slot, leaving, over)| {
                *name == caller && !over && !(*leaving && newer(*slot))
            });
            let bound = record.serving.standby == Some(node("c2")) && record.serving.role == CoreRole::Standby;
            let next = bound && record.serving.term.called() == Some(Term(term));
            prop_assert_eq!(allowed, owned && next);
        }

        #[test]
        fn of_two_that_serve_at_most_one_is_believed(one in any_serving(), term: u32, stream: u64) {
            let (me, from) = (node("c9"), node("c2"));
            if let Some((_, later)) = outranked(&one, &me, &from, Term(term), stream) {
                prop_assert!(later >= Term(term));
            } else {
                prop_assert!(one.term <= Term(term));
            }
        }
    }
}
