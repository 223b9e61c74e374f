//! Who is in a LiveKit room, and which of their tracks are heard.
//!
//! A participant is whoever may publish, but for what only listens (recordings, streams out of the room); its id is its identity,
//! which a reconnect does not change. Hidden participants, as we are one, are told to nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::sdp::codec_name,
    message::{Kind, Medium, Participant, State, Track},
};
use crate::media::ParticipantId;

/// Participants of one room; more are not taken in, and counted.
const MAX_PRESENT: usize = 1000;

/// Tracks subscribed to on one connection; more are not, and counted.
pub(super) const MAX_TRACKS: usize = 500;

/// Audio tracks of one participant that are looked at: four of them are heard at a time.
const MAX_OF_ONE: usize = 16;

/// The longest id of a track that is one, in bytes: LiveKit's are of 15.
const MAX_SID: usize = 64;

/// What is not heard because its key is not ours.
const ENCRYPTED: &str = "encrypted end to end";

/// What the server does not send us, whatever it is in.
const REFUSED: &str = "refused by LiveKit";

/// What is new of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// They are there, or under a new name, or heard otherwise than before.
    Joined {
        id: ParticipantId,
        name: Option<String>,
        /// What they publish, if none of it can be heard.
        unheard: Option<String>,
    },
    /// They are gone.
    Left { id: ParticipantId },
}

#[derive(Debug)]
struct Person {
    sid: String,
    version: u32,
    name: Option<String>,
    /// Tracks that can be heard,
    voices: BTreeSet<String>,
    /// and what those are that cannot.
    others: BTreeSet<String>,
}

/// Everybody but us.
#[derive(Debug, Default)]
pub(super) struct People {
    us: String,
    here: BTreeMap<ParticipantId, Person>,
    /// Tracks over [`MAX_TRACKS`].
    refused: usize,
    /// Those who were there when a roll call began, and were not named since.
    unnamed: BTreeSet<ParticipantId>,
}

/// Whose voice a section of a description carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Whose {
    by_mid: BTreeMap<String, ParticipantId>,
    by_sid: BTreeMap<String, ParticipantId>,
}

impl Whose {
    /// By the server's word on the section, or else by its stream, which LiveKit calls by the participant: `SID|TRACK`.
    pub(super) fn section(&self, mid: &str, stream: Option<&str>) -> Option<&ParticipantId> {
        let by_stream = || self.by_sid.get(stream?.split('|').next()?);
        self.by_mid.get(mid).or_else(by_stream)
    }
}

impl People {
    /// Takes in all that are there: whoever else was is gone.
    pub(super) fn replace(&mut self, all: Vec<Participant>) -> Vec<Change> {
        let sids: BTreeSet<String> = all.iter().map(|info| info.sid.clone()).collect();
        let mut changes: Vec<Change> = all.into_iter().filter_map(|info| self.handle(info)).collect();
        let gone: Vec<_> =
            self.here.iter().filter(|(_, who)| !sids.contains(&who.sid)).map(|(id, _)| id.clone()).collect();
        changes.extend(gone.into_iter().filter_map(|id| self.remove(&id)));
        self.unnamed.clear();
        changes
    }

    /// A roll call begins: the server names all that are there, with who comes and goes meanwhile.
    pub(super) fn begin_roll(&mut self) {
        self.unnamed = self.here.keys().cloned().collect();
    }

    /// It is over: whoever was not named is gone.
    pub(super) fn end_roll(&mut self) -> Vec<Change> {
        let gone = std::mem::take(&mut self.unnamed);
        gone.into_iter().filter_map(|id| self.remove(&id)).collect()
    }

    /// Whoever is called so in this stay is us.
    pub(super) fn set_us(&mut self, sid: String) {
        // A longer one is not asked to be gone on with.
        self.us = Some(sid).filter(|sid| sid.len() <= MAX_SID).unwrap_or_default();
    }

    /// What we are called in this stay.
    pub(super) fn us(&self) -> &str {
        &self.us
    }

    /// Takes the server's word on somebody.
    pub(super) fn handle(&mut self, info: Participant) -> Option<Change> {
        if info.sid == self.us {
            return None;
        }
        let Ok(id) = ParticipantId::new(&info.identity) else {
            metrics::counter!("nearfield_edge_connect_participants_refused_total").increment(1);
            return None;
        };
        let known = self.here.get(&id).map(|known| (known.sid == info.sid, known.version));
        if info.state() == State::Disconnected {
            // Under its identity another may have joined meanwhile.
            return if matches!(known, Some((true, _))) { self.remove(&id) } else { None };
        }
        self.unnamed.remove(&id);
        if matches!(known, Some((true, version)) if version > info.version) {
            return None;
        }
        if !may_speak(&info) {
            return self.remove(&id);
        }
        if known.is_none() && self.here.len() >= MAX_PRESENT {
            metrics::counter!("nearfield_edge_connect_participants_refused_total").increment(1);
            return None;
        }
        let person = Person::read(info);
        let change = person.joined(&id);
        self.here.insert(id, person);
        self.count_refused();
        Some(change)
    }

    /// The server does not send us this track.
    pub(super) fn refuse(&mut self, track: &str) -> Option<Change> {
        let (id, person) = self.here.iter_mut().find(|(_, person)| person.voices.contains(track))?;
        person.voices.remove(track);
        person.others.insert(REFUSED.into());
        Some(person.joined(id))
    }

    /// All tracks that can be heard.
    pub(super) fn voices(&self) -> BTreeSet<&str> {
        self.here.values().flat_map(|person| &person.voices).take(MAX_TRACKS).map(String::as_str).collect()
    }

    /// Counts the tracks over [`MAX_TRACKS`], each once.
    fn count_refused(&mut self) {
        let over = self.here.values().map(|person| person.voices.len()).sum::<usize>().saturating_sub(MAX_TRACKS);
        let fresh = over.saturating_sub(std::mem::replace(&mut self.refused, over));
        metrics::counter!("nearfield_edge_connect_feeds_refused_total").increment(fresh as u64);
    }

    /// Whose voices the sections carry of which the server says this.
    pub(super) fn whose(&self, tracks_by_mid: &BTreeMap<String, String>) -> Whose {
        let voices = self.here.iter().flat_map(|(id, person)| person.voices.iter().map(move |track| (track, id)));
        let owners: BTreeMap<&String, &ParticipantId> = voices.collect();
        let owner = |(mid, track): (&String, &String)| Some((mid.clone(), (*owners.get(track)?).clone()));
        let by_mid = tracks_by_mid.iter().filter_map(owner);
        let by_sid = self.here.iter().map(|(id, person)| (person.sid.clone(), id.clone()));
        Whose { by_mid: by_mid.collect(), by_sid: by_sid.collect() }
    }

    fn remove(&mut self, id: &ParticipantId) -> Option<Change> {
        let left = self.here.remove(id).map(|_| Change::Left { id: id.clone() });
        self.count_refused();
        left
    }
}

impl Person {
    fn read(info: Participant) -> Self {
        let name = Some(info.name).filter(|name| !name.is_empty());
        let mut person =
            Self { sid: info.sid, version: info.version, name, voices: BTreeSet::new(), others: BTreeSet::new() };
        let audio = |track: &Track| track.medium() == Medium::Audio && (1..=MAX_SID).contains(&track.sid.len());
        for track in info.tracks.into_iter().filter(audio).take(MAX_OF_ONE) {
            match unheard(&track) {
                Some(why) => drop(person.others.insert(why)),
                None => drop(person.voices.insert(track.sid)),
            }
        }
        person
    }

    fn joined(&self, id: &ParticipantId) -> Change {
        let others = || self.others.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let unheard = (self.voices.is_empty() && !self.others.is_empty()).then(others);
        Change::Joined { id: id.clone(), name: self.name.clone(), unheard }
    }
}

/// Whether somebody is there to be heard, now or later.
fn may_speak(info: &Participant) -> bool {
    let publishes = info.tracks.iter().any(|track| track.medium() == Medium::Audio);
    let may = info.permission.as_ref().is_none_or(|permission| permission.can_publish);
    info.kind() != Kind::Egress && (may || publishes)
}

/// What a track is that cannot be heard. Redundant Opus (RED) is Opus: the server sends us what is within.
fn unheard(track: &Track) -> Option<String> {
    if track.encryption != 0 {
        return Some(ENCRYPTED.into());
    }
    let codec = track.mime_type.split(['/', ';']).nth(1).unwrap_or_default();
    match codec.to_ascii_lowercase().as_str() {
        "" | "opus" | "red" => None,
        _ => Some(codec_name(codec).unwrap_or_else(|| "of no known codec".into())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::{super::message::Permission, *};

    pub(in super::super) fn track(sid: &str, mime_type: &str) -> Track {
        Track { sid: sid.into(), medium: Medium::Audio as i32, mime_type: mime_type.into(), encryption: 0 }
    }

    pub(in super::super) fn person(sid: &str, identity: &str, name: &str, tracks: &[Track]) -> Participant {
        Participant {
            sid: sid.into(),
            identity: identity.into(),
            state: State::Active as i32,
            tracks: tracks.to_vec(),
            name: name.into(),
            version: 1,
            permission: None,
            kind: Kind::Standard as i32,
        }
    }

    pub(in super::super) fn id(text: &str) -> ParticipantId {
        ParticipantId::new(text).unwrap()
    }

    fn joined(who: &str, name: &str, unheard: Option<&str>) -> Option<Change> {
        let name = Some(name.to_owned()).filter(|name| !name.is_empty());
        Some(Change::Joined { id: id(who), name, unheard: unheard.map(str::to_owned) })
    }

    fn left(who: &str) -> Option<Change> {
        Some(Change::Left { id: id(who) })
    }

    fn gone(mut info: Participant) -> Participant {
        info.state = State::Disconnected as i32;
        info
    }

    #[test]
    fn people_are_called_by_identity_and_named_as_the_server_says() {
        let mut people = People::default();
        people.set_us("PA_us".into());
        assert_eq!(people.handle(person("PA_us", "nearfield", "", &[])), None, "us");
        assert_eq!(people.handle(person("PA_1", "ada", "Ada", &[])), joined("ada", "Ada", None));
        let renamed = Participant { version: 2, ..person("PA_1", "ada", "Ada L.", &[]) };
        assert_eq!(people.handle(renamed), joined("ada", "Ada L.", None));
        assert_eq!(people.handle(person("PA_1", "ada", "Ada", &[])), None, "old news");
        assert_eq!(people.handle(person("PA_2", "bob", "", &[])), joined("bob", "", None));
        assert_eq!(people.handle(person("PA_3", "", "Nobody", &[])), None);
    }

    #[test]
    fn who_comes_back_under_an_identity_is_not_thrown_out_by_the_end_of_the_stay_before() {
        let mut people = People::default();
        let before = person("PA_1", "ada", "Ada", &[track("TR_1", "audio/opus")]);
        people.handle(before.clone());
        people.handle(person("PA_2", "ada", "Ada", &[track("TR_2", "audio/opus")]));
        assert_eq!(people.handle(gone(before)), None);
        assert_eq!(people.voices(), BTreeSet::from(["TR_2"]));
        assert_eq!(people.handle(gone(person("PA_2", "ada", "Ada", &[]))), left("ada"));
        assert_eq!(people.voices(), BTreeSet::new());
    }

    #[test]
    fn what_is_encrypted_or_in_another_codec_is_told_and_not_asked_for() {
        let mut people = People::default();
        let sealed = Track { encryption: 1, ..track("TR_1", "audio/opus") };
        assert_eq!(
            people.handle(person("PA_1", "a", "", std::slice::from_ref(&sealed))),
            joined("a", "", Some(ENCRYPTED))
        );
        let g711 = [sealed, track("TR_2", "audio/PCMU")];
        assert_eq!(people.handle(person("PA_1", "a", "", &g711)), joined("a", "", Some("PCMU, encrypted end to end")));
        assert_eq!(people.voices(), BTreeSet::new());
        let red = [g711[0].clone(), track("TR_3", "audio/red")];
        assert_eq!(people.handle(person("PA_1", "a", "", &red)), joined("a", "", None));
        assert_eq!(people.voices(), BTreeSet::from(["TR_3"]));
        assert_eq!(people.refuse("TR_3"), joined("a", "", Some("encrypted end to end, refused by LiveKit")));
        assert_eq!(people.refuse("TR_3"), None);
    }

    #[test]
    fn whoever_only_listens_is_no_participant_and_agents_and_telephones_are() {
        let mut people = People::default();
        let of = |kind: Kind| Participant { kind: kind as i32, ..person("PA_1", "it", "", &[]) };
        assert_eq!(people.handle(of(Kind::Egress)), None);
        for kind in [Kind::Agent, Kind::Sip, Kind::Ingress, Kind::Connector] {
            assert!(people.handle(of(kind)).is_some(), "{kind:?}");
        }
        let viewer = |tracks: &[Track]| Participant {
            permission: Some(Permission::default()),
            ..person("PA_2", "viewer", "", tracks)
        };
        assert_eq!(people.handle(viewer(&[])), None);
        let talks = [track("TR_1", "")];
        assert_eq!(people.handle(viewer(&talks)), joined("viewer", "", None));
        assert_eq!(people.handle(viewer(&[])), left("viewer"), "no more");
    }

    #[test]
    fn a_whole_roster_ends_the_stay_of_those_who_are_not_in_it() {
        let mut people = People::default();
        people.handle(person("PA_1", "ada", "Ada", &[]));
        people.handle(person("PA_2", "bob", "Bob", &[]));
        let changes = people.replace(vec![person("PA_2", "bob", "Bob", &[]), person("PA_3", "eve", "Eve", &[])]);
        assert_eq!(changes.last(), left("ada").as_ref());
        assert!(changes.contains(&joined("eve", "Eve", None).unwrap()));
    }

    #[test]
    fn a_section_is_whose_the_server_says_or_its_stream() {
        let mut people = People::default();
        people.handle(person("PA_1", "ada", "", &[track("TR_1", "")]));
        people.handle(person("PA_2", "bob", "", &[track("TR_2", "")]));
        let whose = people.whose(&[("0".into(), "TR_2".into()), ("1".into(), "TR_9".into())].into());
        assert_eq!(whose.section("0", Some("PA_1|camera")), Some(&id("bob")));
        assert_eq!(whose.section("7", Some("PA_1|camera")), Some(&id("ada")));
        assert_eq!(whose.section("1", Some("PA_9|x")).or(whose.section("1", None)), None, "nobody's");
    }

    #[test]
    fn a_room_is_taken_in_up_to_its_bounds() {
        let mut people = People::default();
        for n in 0..=MAX_PRESENT {
            people.handle(person(&format!("PA_{n}"), &format!("p{n}"), "", &[track(&format!("TR_{n}"), "")]));
        }
        assert_eq!((people.here.len(), people.voices().len()), (MAX_PRESENT, MAX_TRACKS));
    }
}
