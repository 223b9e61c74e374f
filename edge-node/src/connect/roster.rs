//! Who is in the meeting, as last told to the listener.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Event;
use crate::media::ParticipantId;

/// Most participants of one meeting; more are not taken in, and counted.
const MAX_PARTICIPANTS: usize = 1000;

/// The longest display name, in bytes, as on the wire.
const MAX_NAME: usize = 256;

/// A name, and what is published if none of it can be heard.
type Known = (Option<String>, Option<String>);

/// The roster: says only what changed, also across reconnects.
#[derive(Debug, Default)]
pub(super) struct Roster {
    here: BTreeMap<ParticipantId, Known>,
    events: VecDeque<Event>,
}

impl Roster {
    /// `id` is there under this name; `unheard` is what they publish, if none of it can be heard.
    pub(super) fn join(&mut self, id: ParticipantId, name: Option<String>, unheard: Option<String>) {
        let name = name.map(short).filter(|name| !name.is_empty());
        let known = (name.clone(), unheard.clone());
        if self.here.get(&id) == Some(&known) {
            return;
        }
        if self.here.len() >= MAX_PARTICIPANTS && !self.here.contains_key(&id) {
            metrics::counter!("nearfield_edge_connect_participants_refused_total").increment(1);
            return;
        }
        if unheard.is_some() {
            metrics::counter!("nearfield_edge_connect_participants_unheard_total").increment(1);
        }
        self.here.insert(id.clone(), known);
        self.events.push_back(Event::Joined { id, name, unheard });
    }

    /// `id` is gone.
    pub(super) fn leave(&mut self, id: &ParticipantId) {
        if self.here.remove(id).is_some() {
            self.events.push_back(Event::Left { id: id.clone() });
        }
    }

    /// Of those known, only `present` are there still.
    pub(super) fn retain(&mut self, present: &BTreeSet<ParticipantId>) {
        let gone: Vec<_> = self.here.keys().filter(|id| !present.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.leave(id));
    }

    /// What the listener has not been told yet.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// A name is for showing, so it may be cut; at a character, not inside one.
fn short(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(MAX_NAME));
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(text: &str) -> ParticipantId {
        ParticipantId::new(text).unwrap()
    }

    fn drain(roster: &mut Roster) -> Vec<Event> {
        std::iter::from_fn(|| roster.poll_event()).collect()
    }

    #[test]
    fn one_who_is_still_there_after_a_reconnect_has_not_joined_twice() {
        let mut roster = Roster::default();
        roster.join(id("1"), Some("Ada".into()), None);
        roster.join(id("2"), None, None);
        drain(&mut roster);

        roster.retain(&[id("1"), id("3")].into());
        roster.join(id("1"), Some("Ada".into()), None);
        roster.join(id("3"), None, None);
        let told = drain(&mut roster);
        assert_eq!(told, [Event::Left { id: id("2") }, Event::Joined { id: id("3"), name: None, unheard: None }]);
    }

    #[test]
    fn a_new_name_is_told_and_an_empty_one_is_no_name() {
        let mut roster = Roster::default();
        roster.join(id("1"), Some(String::new()), None);
        roster.join(id("1"), Some("Ada".into()), None);
        let told = drain(&mut roster);
        assert_eq!(told[0], Event::Joined { id: id("1"), name: None, unheard: None });
        assert_eq!(told[1], Event::Joined { id: id("1"), name: Some("Ada".into()), unheard: None });
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(short("é".repeat(200)).len(), 256);
        assert_eq!(short("a".to_owned() + &"é".repeat(200)).len(), 255);
    }
}
