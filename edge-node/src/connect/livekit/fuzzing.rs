//! What a LiveKit may say: see `crate::fuzzing`.

use std::{collections::BTreeSet, time::Duration};

use prost::Message;
use tokio::time::Instant;

use super::{
    message::{
        Description, IceServer, Join, Leave, Moved, Participant, Pong, Reconnect, Said, Sections, SignalResponse,
        State, Track, Trickle, Unsubscribed, Update,
    },
    people::Change,
    room::{Action, Offers, Room},
};

/// Messages of a LiveKit behind two bytes of length; the first byte says who offers. Of those with the longest bit set the time is a
/// second later, and of those of no length signalling is lost and comes back. No participant leaves who has not joined, and of all
/// there are no more than a room may have.
pub(crate) fn messages(data: &[u8]) {
    let Some((kind, mut data)) = data.split_first() else { return };
    let mut now = Instant::now();
    let mut room = Room::new(if kind % 2 == 0 { Offers::Ours } else { Offers::Theirs }, now);
    let mut here = BTreeSet::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = u16::from_le_bytes(*length);
        let (message, rest) = rest.split_at(usize::from(length & 0x7FFF).min(rest.len()));
        data = rest;
        now += Duration::from_millis(if length & 0x8000 == 0 { 10 } else { 1000 });
        if message.is_empty() {
            room.handle_lost();
            room.handle_back(now);
        } else if room.handle_message(message, now).is_err() {
            break;
        }
        if room.handle_timeout(now).is_err() {
            break;
        }
        while let Some(action) = room.poll_action() {
            match action {
                Action::Person(Change::Joined { id, .. }) => drop(here.insert(id)),
                Action::Person(Change::Left { id }) => assert!(here.remove(&id), "{id} left without having joined"),
                Action::Offer { sections, .. } => {
                    assert!((1..=500).contains(&sections));
                    room.handle_offer("sdp".into());
                }
                Action::Answer { .. } => room.handle_answer("sdp".into()),
                _ => {}
            }
        }
        assert!(here.len() <= 1000);
    }
    room.leave();
}

/// What a LiveKit says in a usual meeting, as [`messages`] takes it: of one where we offer, or where it does.
pub(crate) fn session(ours: bool) -> Vec<u8> {
    let person = |sid: &str, identity: &str, name: &str, track: &str| Participant {
        sid: sid.into(),
        identity: identity.into(),
        name: name.into(),
        tracks: vec![Track { sid: track.into(), mime_type: "audio/opus".into(), ..Track::default() }],
        ..Participant::default()
    };
    let description = |id, mid: &str, track: &str| Description {
        sdp: "v=0".into(),
        id,
        tracks_by_mid: [(mid.into(), track.into())].into(),
        ..Description::default()
    };
    let update = |who: Participant| Said::Update(Update { participants: vec![who] });
    let (ada, bob) = (person("PA_1", "ada", "Ada", "TR_1"), person("PA_2", "bob", "Bob", "TR_2"));
    let us = Some(Participant { sid: "PA_us".into(), ..Participant::default() });
    let ice_servers = vec![IceServer { urls: vec!["turn:10.0.0.1:3478".into()], ..IceServer::default() }];
    let join =
        Join { us, others: vec![ada.clone()], ice_servers, ping_timeout: 15, ping_interval: 5, ..Join::default() };
    let candidate = r#"{"candidate":"candidate:1 1 udp 1 10.0.0.1 9 typ host","sdpMid":"0"}"#.into();
    let trickle = Said::Trickle(Trickle { candidate, target: i32::from(!ours) });
    let describe = |id, mid: &str, track: &str| match ours {
        true => Said::Answer(description(id, mid, track)),
        false => Said::Offer(description(id, mid, track)),
    };
    let gone = |who: &Participant| Participant { state: State::Disconnected as i32, ..who.clone() };
    let said = [
        Some(Said::Join(join)),
        Some(describe(1, "0", "TR_1")),
        Some(trickle),
        Some(update(bob.clone())),
        Some(Said::Sections(Sections { audios: 1 })),
        Some(describe(2, "1", "TR_2")),
        Some(update(Participant { name: "Ada L.".into(), version: 1, ..ada.clone() })),
        Some(Said::Token("another".into())),
        Some(Said::Unsubscribed(Unsubscribed { track: "TR_2".into() })),
        None,
        Some(Said::Reconnect(Reconnect::default())),
        Some(update(ada.clone())),
        Some(Said::Pong(Pong { last_ping: 5000 })),
        Some(Said::Moved(Moved { others: vec![bob.clone()], ..Moved::default() })),
        Some(update(gone(&bob))),
        Some(Said::Leave(Leave::default())),
    ];
    let framed = said.into_iter().flat_map(|said| {
        let message = said.map(|said| SignalResponse { message: Some(said) }.encode_to_vec()).unwrap_or_default();
        [&(message.len() as u16).to_le_bytes()[..], &message].concat()
    });
    std::iter::once(u8::from(!ours)).chain(framed).collect()
}
