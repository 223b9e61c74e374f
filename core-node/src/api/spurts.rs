//! `/v1/meetings/{id}/spurts`: what speech this core took in, for those who want to count it themselves.

use axum::{
    Json,
    extract::{Path, State},
};
use mesh::clock::Micros;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, meetings::record, problem::Problem};
use crate::speech::ingest::Restored;

/// The talk spurts of a meeting.
#[derive(Serialize, ToSchema)]
pub(super) struct SpurtList {
    spurts: Vec<SpurtView>,
}

/// A talk spurt.
#[derive(Serialize, ToSchema)]
struct SpurtView {
    /// The platform's own participant id.
    participant: String,
    /// Under which ownership it was captured.
    epoch: u64,
    /// Its number, from 0 for each participant and epoch.
    spurt: u32,
    /// Capture time of its first item, in Unix microseconds.
    captured: u64,
    /// Items (packets, and slots without one) that this core's disk holds, or held until it was done.
    durable: u32,
    /// Of those, packets.
    frames: u64,
    /// Whether its words are out.
    done: bool,
}

/// The talk spurts of a meeting, by participant and number.
#[utoipa::path(get, operation_id = "list_spurts", path = "/v1/meetings/{id}/spurts", tag = "meetings", params(("id" = Uuid, Path)),
    responses((status = 200, body = SpurtList), (status = 404, body = Problem)))]
pub(super) async fn list(State(app): State<App>, Path(id): Path<String>) -> Result<Json<SpurtList>, Problem> {
    let id = record(&app, &id).await?.id;
    let spurts = app.meetings.reads().run(move |store| store.held(id)).await?;
    Ok(Json(SpurtList { spurts: spurts.into_iter().map(view).collect() }))
}

fn view((captured, spurt): (Micros, Restored)) -> SpurtView {
    SpurtView {
        participant: spurt.key.participant.to_string(),
        epoch: spurt.key.epoch.0,
        spurt: spurt.key.spurt.0,
        captured: captured.0,
        durable: spurt.items,
        frames: spurt.frames,
        done: spurt.done,
    }
}
