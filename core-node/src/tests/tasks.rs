//! Tasks of a core that break.

#![allow(clippy::unwrap_used)]

use axum::{body::Body, http::Request};
use mesh::wire::{SpurtNo, control::ToEdge};
use tower::ServiceExt;

use super::fakes::{ALIAS, ALICE, Core, next};

async fn readyz(core: &Core) -> u16 {
    let asked = Request::get("/readyz").body(Body::empty()).unwrap();
    core.router().oneshot(asked).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn whichever_of_a_core_s_tasks_breaks_it_makes_meetings_and_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let tasks = core.app.tasks.clone();
    assert_eq!(tasks.kept(), ["claims", "doubts", "removals", "scrubbing", "settling", "takeovers"]);
    let running = ["claims", "settling", "takeovers"];
    running.iter().for_each(|name| tasks.break_now(name));
    core.until("all have broken and run again", |_| {
        running.iter().all(|name| tasks.breaks(name) == 1) && tasks.ailing().is_empty()
    })
    .await;
    assert_eq!(readyz(&core).await, 200);
    let id = core.create().await;
    let (name, assignment) = core.assigned().await;
    let mut edge = core.connect(&name).await;
    core.open(&edge, id, assignment.epoch).await;
    core.spurt(&edge, 0, 50, 0, false).await;
    assert_eq!(next(&mut edge).await, ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0) });
}

#[tokio::test]
async fn a_core_whose_task_breaks_again_and_again_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let core = Core::start(&dir.path().join("core.redb"), false);
    let tasks = core.app.tasks.clone();
    tasks.keep("weak", || async { panic!("again") });
    core.until("it has broken three times", |_| tasks.breaks("weak") >= 3).await;
    assert_eq!(readyz(&core).await, 503);
    tasks.need("strong", async { panic!("once") });
    assert_eq!(tasks.failed().await, "the task `strong` broke: it panicked");
}

#[tokio::test]
async fn an_engine_that_makes_words_of_nothing_is_named_where_operators_look() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    core.refuses.store(true, std::sync::atomic::Ordering::Relaxed);
    let id = core.create().await;
    let (name, assignment) = core.assigned().await;
    let edge = core.connect(&name).await;
    core.open(&edge, id, assignment.epoch).await;
    for spurt in 0..4 {
        core.spurt(&edge, spurt, 50, 0, false).await;
    }
    core.until("it is named", |c| c.meetings.shortcomings().iter().any(|line| line.contains("401"))).await;
    let asked = Request::get("/readyz").body(Body::empty()).unwrap();
    let answer = core.router().oneshot(asked).await.unwrap().into_body();
    let text = axum::body::to_bytes(answer, 4096).await.unwrap();
    let line = "degraded: the engine makes words of nothing: fake answered 401: the key is wrong";
    assert!(String::from_utf8_lossy(&text).lines().any(|found| found == line), "{text:?}");
}
