//! One meeting's children, one after the other, told as if they were one: spurts are numbered on, what a dead child left
//! open ends, and totals add up.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh::wire::{
    SpurtNo,
    control::EdgeTotals,
    spurt::{Item, SpurtEnd},
};
use smallvec::SmallVec;

use super::FromChild;
use crate::{connect::Event, media::ParticipantId, paths::MAX_PATHS, spurt::Output};

/// Participants one meeting's children may name at a time; who has left makes room.
const MAX_PARTICIPANTS: usize = 500;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Translator {
    participants: BTreeMap<ParticipantId, Participant>,
    /// The first spurt of whoever comes next: later than any of those who are forgotten.
    first: u32,
}

#[derive(Debug, Default)]
struct Participant {
    present: bool,
    /// The next number of a spurt.
    next: u32,
    /// One for each of the participant's sources.
    open: SmallVec<[Open; 1]>,
    /// What goes on after a cut: its number in the child, and here.
    promised: SmallVec<[(SpurtNo, SpurtNo); 1]>,
    /// Of children that are gone, and of the one there is.
    before: EdgeTotals,
    totals: EdgeTotals,
}

impl Participant {
    fn position(&self, theirs: SpurtNo) -> Option<usize> {
        self.open.iter().position(|open| open.theirs == theirs)
    }

    /// The number of a spurt that begins.
    fn number(&mut self, theirs: SpurtNo) -> SpurtNo {
        match self.promised.iter().position(|(promised, _)| *promised == theirs) {
            Some(n) => self.promised.remove(n).1,
            None => {
                self.next += 1;
                SpurtNo(self.next - 1)
            }
        }
    }

    /// What goes on with `ended` has the next number, whoever else begins in between; false if another has it already.
    fn promise(&mut self, ended: &Open) -> bool {
        let (theirs, ours) = (SpurtNo(ended.theirs.0.wrapping_add(1)), SpurtNo(ended.ours.0 + 1));
        if self.next != ours.0 {
            return false;
        }
        if self.promised.len() >= MAX_PATHS {
            self.promised.remove(0);
        }
        self.promised.push((theirs, ours));
        self.next += 1;
        true
    }
}

#[derive(Debug)]
struct Open {
    /// Its number in the child.
    theirs: SpurtNo,
    ours: SpurtNo,
    items: u32,
}

impl Translator {
    /// What the child's word means; `None` if it makes no sense.
    pub(crate) fn translate(&mut self, said: FromChild) -> Option<Event> {
        match said {
            FromChild::State { state, detail } => Some(Event::State { state, detail }),
            FromChild::Joined { id, name, unheard } => {
                let (id, participant) = self.participant(id)?;
                participant.present = true;
                Some(Event::Joined { id, name, unheard })
            }
            FromChild::Left { id } => {
                let (id, participant) = self.participant(id)?;
                participant.present = false;
                Some(Event::Left { id })
            }
            FromChild::Start { id, spurt, captured } => {
                let (id, participant) = self.participant(id)?;
                if participant.open.len() >= MAX_PATHS || participant.position(spurt).is_some() {
                    return None;
                }
                let ours = participant.number(spurt);
                participant.open.push(Open { theirs: spurt, ours, items: 0 });
                Some(Event::Speech { id, output: Output::Start { spurt: ours, captured } })
            }
            FromChild::Item { id, spurt, offset, packet, stages } => {
                let (id, participant) = self.participant(id)?;
                let n = participant.position(spurt)?;
                let open = Some(&mut participant.open[n]).filter(|open| open.items == offset)?;
                open.items += 1;
                let item = packet.map_or(Item::Gap, |p| Item::Frame(Bytes::from(p)));
                Some(Event::Speech { id, output: Output::Item { spurt: open.ours, offset, item, stages } })
            }
            FromChild::End { id, spurt, mut end } => {
                let (id, participant) = self.participant(id)?;
                let n = participant.position(spurt).filter(|n| participant.open[*n].items == end.items)?;
                let open = participant.open.remove(n);
                end.continues = end.continues && participant.promise(&open);
                Some(Event::Speech { id, output: Output::End { spurt: open.ours, end } })
            }
            FromChild::Tally { id, totals } => {
                let (id, participant) = self.participant(id)?;
                participant.totals = totals;
                Some(Event::Tally { id, totals: participant.before.plus(totals) })
            }
            FromChild::Ended { .. } => None,
        }
    }

    /// The child is gone: what it left open ends where it is, and nobody is there until the next one says so.
    pub(crate) fn handle_gone(&mut self) -> Vec<Event> {
        let mut events = vec![];
        for (id, participant) in &mut self.participants {
            participant.promised.clear();
            for Open { ours, items, .. } in participant.open.drain(..) {
                let end = SpurtEnd::of(items);
                events.push(Event::Speech { id: id.clone(), output: Output::End { spurt: ours, end } });
            }
            if std::mem::take(&mut participant.present) {
                events.push(Event::Left { id: id.clone() });
            }
            participant.before = participant.before.plus(std::mem::take(&mut participant.totals));
        }
        events
    }

    fn participant(&mut self, id: String) -> Option<(ParticipantId, &mut Participant)> {
        let id = ParticipantId::new(id).ok()?;
        if self.participants.len() >= MAX_PARTICIPANTS && !self.participants.contains_key(&id) {
            let gone = self.participants.iter().find(|(_, p)| !p.present && p.open.is_empty());
            let gone = gone.map(|(id, _)| id.clone())?;
            self.first = self.first.max(self.participants.remove(&gone)?.next);
        }
        let new = Participant { next: self.first, ..Participant::default() };
        Some((id.clone(), self.participants.entry(id).or_insert(new)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::clock::Micros;

    use super::*;

    fn start(spurt: u32) -> FromChild {
        FromChild::Start { id: "a".into(), spurt: SpurtNo(spurt), captured: Micros(5) }
    }

    fn item(spurt: u32, offset: u32) -> FromChild {
        let packet = Some(vec![offset as u8]);
        FromChild::Item { id: "a".into(), spurt: SpurtNo(spurt), offset, packet, stages: Default::default() }
    }

    fn number(event: Option<Event>) -> Option<u32> {
        match event? {
            Event::Speech { output: Output::Start { spurt, .. }, .. }
            | Event::Speech { output: Output::Item { spurt, .. }, .. }
            | Event::Speech { output: Output::End { spurt, .. }, .. } => Some(spurt.0),
            _ => None,
        }
    }

    #[test]
    fn a_second_child_s_spurts_are_numbered_on_and_what_the_first_left_open_ends() {
        let mut told = Translator::default();
        told.translate(FromChild::Joined { id: "a".into(), name: None, unheard: None });
        assert_eq!(number(told.translate(start(0))), Some(0));
        assert_eq!(number(told.translate(item(0, 0))), Some(0));
        assert_eq!(number(told.translate(item(0, 1))), Some(0));
        let gone = told.handle_gone();
        let [Event::Speech { output: Output::End { spurt, end }, .. }, Event::Left { .. }] = &gone[..] else {
            panic!("{gone:?}")
        };
        assert_eq!((spurt.0, end.items), (0, 2));
        assert_eq!(number(told.translate(start(0))), Some(1), "the second child begins at 0 again");
        assert_eq!(number(told.translate(item(0, 0))), Some(1));
    }

    #[test]
    fn a_child_that_talks_nonsense_is_not_repeated() {
        let mut told = Translator::default();
        assert_eq!(told.translate(item(0, 0)), None, "never begun");
        told.translate(start(3));
        assert_eq!(told.translate(start(3)), None, "it is open");
        assert_eq!(told.translate(item(3, 1)), None, "a hole");
        let end = SpurtEnd::of(7);
        assert_eq!(told.translate(FromChild::End { id: "a".into(), spurt: SpurtNo(3), end }), None);
        assert_eq!(told.translate(FromChild::Left { id: String::new() }), None);
        for n in 0..2 * MAX_PARTICIPANTS {
            told.translate(FromChild::Joined { id: format!("p{n}"), name: None, unheard: None });
        }
        assert_eq!(told.participants.len(), MAX_PARTICIPANTS);
    }

    #[test]
    fn two_sources_of_one_participant_may_speak_at_once() {
        let mut told = Translator::default();
        assert_eq!([told.translate(start(0)), told.translate(start(1))].map(number), [Some(0), Some(1)]);
        assert_eq!([told.translate(item(1, 0)), told.translate(item(0, 0))].map(number), [Some(1), Some(0)]);
        let end = FromChild::End { id: "a".into(), spurt: SpurtNo(0), end: SpurtEnd::of(1) };
        assert_eq!(number(told.translate(end)), Some(0));
        let more = (2..99).filter(|n| told.translate(start(*n)).is_some()).count();
        assert_eq!(more, MAX_PATHS - 1, "so many and no more");
        assert_eq!(told.handle_gone().len(), MAX_PATHS);
    }

    #[test]
    fn what_goes_on_after_a_cut_has_the_next_number_though_another_source_begins_first() {
        let mut told = Translator::default();
        told.translate(start(0));
        let end =
            FromChild::End { id: "a".into(), spurt: SpurtNo(0), end: SpurtEnd { continues: true, ..SpurtEnd::of(0) } };
        let Some(Event::Speech { output: Output::End { end, .. }, .. }) = told.translate(end) else { panic!() };
        assert!(end.continues);
        assert_eq!([told.translate(start(2)), told.translate(start(1))].map(number), [Some(2), Some(1)]);
    }

    #[test]
    fn those_who_left_make_room_and_no_number_of_theirs_is_used_again() {
        let mut told = Translator::default();
        told.translate(start(0));
        let end = SpurtEnd::of(0);
        told.translate(FromChild::End { id: "a".into(), spurt: SpurtNo(0), end });
        told.translate(FromChild::Left { id: "a".into() });
        for n in 0..2 * MAX_PARTICIPANTS {
            assert!(
                told.translate(FromChild::Joined { id: format!("p{n}"), name: None, unheard: None }).is_some(),
                "{n}"
            );
            told.translate(FromChild::Left { id: format!("p{n}") });
        }
        assert_eq!(told.participants.len(), MAX_PARTICIPANTS);
        assert_eq!(number(told.translate(start(0))), Some(1), "back again");
    }

    #[test]
    fn totals_add_up_over_children() {
        let mut told = Translator::default();
        let totals = |packets_in| EdgeTotals { packets_in, ..EdgeTotals::default() };
        let tally = |n| FromChild::Tally { id: "a".into(), totals: totals(n) };
        told.translate(tally(10));
        told.handle_gone();
        let Some(Event::Tally { totals: both, .. }) = told.translate(tally(4)) else { panic!() };
        assert_eq!(both, totals(14));
        assert!(told.translate(tally(u64::MAX)).is_some(), "a child that counts wrong stops nobody");
    }
}
