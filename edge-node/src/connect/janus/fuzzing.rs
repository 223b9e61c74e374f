//! What a Janus may say: see `crate::fuzzing`.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{
    access::Access,
    room::{Action, Room},
};

/// Texts of a Janus behind two bytes of length; of those with the longest bit set the time is a second later. No
/// participant leaves who has not joined, and of all there are no more than a room may have.
pub(crate) fn messages(mut data: &[u8]) {
    let mut now = Instant::now();
    let mut room = Room::new(1234.into(), "ears".into(), Access::default(), now);
    let mut here = BTreeSet::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = u16::from_le_bytes(*length);
        let (text, rest) = rest.split_at(usize::from(length & 0x7FFF).min(rest.len()));
        data = rest;
        now += std::time::Duration::from_millis(if length & 0x8000 == 0 { 10 } else { 1000 });
        let told = String::from_utf8_lossy(text);
        if room.handle_text(&told, now).is_err() || room.handle_timeout(now).is_err() {
            break;
        }
        while let Some(action) = room.poll_action() {
            match action {
                Action::Joined { feed, .. } => drop(here.insert(feed)),
                Action::Left { feed } => assert!(here.remove(&feed), "{feed} left without having joined"),
                Action::Answer { .. } => room.handle_answer("sdp", now),
                _ => {}
            }
        }
        assert!(here.len() <= 1000);
    }
    room.leave(now);
}
