//! Who is in the meeting: a participant is called by Zoom's `user_id`, and named as Zoom says or not at all.

use std::collections::BTreeMap;

use super::message::User;
use crate::media::ParticipantId;

/// Participants of one meeting; more are not taken in, and counted.
const MAX_PRESENT: usize = 1000;

/// What is new of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// They are there, or under a new name.
    Joined { id: ParticipantId, name: Option<String> },
    /// They are gone.
    Left { id: ParticipantId },
}

/// Everybody who was told of and is there still. Reconnects change nothing of it: Zoom tells of changes.
#[derive(Debug, Default)]
pub(super) struct People {
    here: BTreeMap<ParticipantId, Option<String>>,
    /// Until when those who were there and are gone said something, in milliseconds of Unix time: what was kept of them comes
    /// later.
    gone: BTreeMap<ParticipantId, u64>,
}

impl People {
    /// They are there, or speak.
    pub(super) fn handle_here(&mut self, user: User) -> Option<Change> {
        let id = ParticipantId::new(&user.id).ok()?;
        self.gone.remove(&id);
        let name = user.name.filter(|name| !name.is_empty());
        match self.here.get(&id) {
            Some(known) if name.is_none() || *known == name => return None,
            None if self.here.len() >= MAX_PRESENT => {
                metrics::counter!("nearfield_edge_connect_participants_refused_total").increment(1);
                return None;
            }
            _ => {}
        }
        self.here.insert(id.clone(), name.clone());
        Some(Change::Joined { id, name })
    }

    /// They said something then.
    pub(super) fn handle_heard(&mut self, user: &User, time: u64) -> Option<Change> {
        let id = ParticipantId::new(&user.id).ok()?;
        if self.gone.get(&id).is_some_and(|left| time <= *left) {
            return None;
        }
        self.handle_here(user.clone())
    }

    /// They are gone since then.
    pub(super) fn handle_gone(&mut self, user: &User, time: u64) -> Option<Change> {
        let id = ParticipantId::new(&user.id).ok()?;
        self.here.remove(&id)?;
        if self.gone.len() < MAX_PRESENT {
            self.gone.insert(id.clone(), time);
        }
        Some(Change::Left { id })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(id: &str, name: Option<&str>) -> User {
        User { id: id.into(), name: name.map(Into::into) }
    }

    fn joined(id: &str, name: Option<&str>) -> Option<Change> {
        Some(Change::Joined { id: ParticipantId::new(id).unwrap(), name: name.map(Into::into) })
    }

    #[test]
    fn a_name_is_told_when_it_is_known_and_not_lost_again() {
        let mut people = People::default();
        assert_eq!(people.handle_heard(&user("1", None), 5), joined("1", None));
        assert_eq!(people.handle_here(user("1", Some("Ada"))), joined("1", Some("Ada")));
        assert_eq!(people.handle_heard(&user("1", Some("")), 6), None);
        assert_eq!(people.handle_heard(&user("1", Some("Ada L.")), 7), joined("1", Some("Ada L.")));
    }

    #[test]
    fn what_was_kept_of_one_who_has_left_does_not_bring_them_back_and_what_they_say_later_does() {
        let mut people = People::default();
        people.handle_here(user("1", Some("Ada")));
        let left = Change::Left { id: ParticipantId::new("1").unwrap() };
        assert_eq!(people.handle_gone(&user("1", None), 1000), Some(left));
        assert_eq!(people.handle_gone(&user("1", None), 1001), None);
        assert_eq!(people.handle_heard(&user("1", Some("Ada")), 999), None);
        assert_eq!(people.handle_heard(&user("1", Some("Ada")), 1001), joined("1", Some("Ada")));
    }

    #[test]
    fn there_are_no_more_than_a_meeting_has() {
        let mut people = People::default();
        let told = (0..1200).filter_map(|n| people.handle_here(user(&n.to_string(), None))).count();
        assert_eq!(told, MAX_PRESENT);
    }
}
