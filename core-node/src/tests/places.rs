//! Places at a standby: whose they are, and when they are given back.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use mesh::wire::MeetingId;

use super::fakes::Core;
use crate::store::record::CoreRole;

/// Meetings that a core of these tests may be the standby of.
const ROOM: usize = 4;

fn start(name: &str, dir: &Path) -> Core {
    Core::named(name, &dir.join(name), false, |settings| settings.meetings = ROOM)
}

fn standby(core: &Core, id: MeetingId) -> Option<String> {
    core.meetings.live(id).unwrap().record().serving.standby.map(|core| core.to_string())
}

async fn create_with_standby(core: &Core, at: &str) -> MeetingId {
    let id = core.create().await;
    core.until("it has a standby", |core| standby(core, id).as_deref() == Some(at)).await;
    id
}

#[tokio::test]
async fn a_core_with_many_meetings_does_not_keep_others_from_a_standby() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, three] = ["core-1", "core-2", "core-3"].map(|name| start(name, dir.path()));
    one.introduce(&two);
    three.introduce(&two);
    let mut many = vec![];
    for _ in 0..ROOM {
        many.push(create_with_standby(&one, "core-2").await);
    }
    for _ in 0..ROOM / 2 {
        create_with_standby(&three, "core-2").await;
    }
    // Who has given way hears so with the next word that it ships.
    for id in &many {
        one.meetings.live(*id).unwrap().update(|record| record.last_seq += 1).await.unwrap();
    }
    one.until("it knows", |one| many.iter().filter(|id| standby(one, **id).is_some()).count() == ROOM / 2).await;
    two.until("what gave way is no place any more", |two| {
        let tables = two.meetings.tables();
        (tables["standby_streams"], tables["standby_meetings"]) == (ROOM, ROOM)
    })
    .await;
}

#[tokio::test]
async fn a_standby_that_could_not_be_reached_hears_later_that_it_is_none_and_keeps_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, three] = ["core-1", "core-2", "core-3"].map(|name| start(name, dir.path()));
    one.introduce(&two);
    let id = create_with_standby(&one, "core-2").await;
    one.introduce(&three);
    let reached = std::mem::take(&mut *one.mesh.cores.lock().unwrap());
    let (cut, left): (Vec<_>, Vec<_>) = reached.into_iter().partition(|(core, _)| core.node.as_str() == "core-2");
    *one.mesh.cores.lock().unwrap() = left;
    one.meetings.live(id).unwrap().update(|record| record.last_seq += 1).await.unwrap();
    one.until("another is its standby", |one| standby(one, id).as_deref() == Some("core-3")).await;
    let role = |two: &Core| two.meetings.store().meeting(id).unwrap().unwrap().serving.role;
    assert_eq!(role(&two), CoreRole::Standby, "it could not be told");

    one.mesh.cores.lock().unwrap().extend(cut);
    two.until("it has heard so", |two| role(two) == CoreRole::Moved && two.meetings.tables()["standby_meetings"] == 0)
        .await;
    let record = two.meetings.store().meeting(id).unwrap().unwrap();
    let mut bare = record.clone();
    bare.erase_secrets();
    assert_eq!(serde_json::to_value(&record).unwrap(), serde_json::to_value(&bare).unwrap());
}
