//! `/v1/meetings`: ask for one, look at it, end it.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use mesh::{
    trace::TraceContext,
    wire::{Epoch, MeetingId},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{App, body::JsonBody, problem::Problem, request::CreateMeeting, view::MeetingView};
use crate::{
    meetings::list::Page,
    store::record::{MeetingRecord, Participant, Status},
};

const MAX_IDEMPOTENCY_KEY: usize = 255;
const MAX_LISTED: usize = 500;

/// Some meetings.
#[derive(Serialize, ToSchema)]
pub(super) struct MeetingList {
    meetings: Vec<MeetingView>,
}

/// Some participants.
#[derive(Serialize, ToSchema)]
pub(super) struct ParticipantList {
    participants: Vec<Participant>,
}

/// Why each of a meeting's edges was chosen, newest last.
#[derive(Serialize, ToSchema)]
pub(super) struct PlacementList {
    #[schema(value_type = Vec<Object>)]
    placements: Vec<serde_json::Value>,
}

/// Which meetings.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only those that stand there.
    status: Option<Status>,
    /// At most this many, 1 to 500; the newest come first.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// Only those older than this meeting: the last of the page before.
    before: Option<Uuid>,
}

/// What is to become of a meeting.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EndQuery {
    /// Of a meeting that is over: remove it for good, with its transcript and receipt.
    #[serde(default)]
    purge: bool,
}

/// Has a meeting captured.
///
/// Sent again with the same `Idempotency-Key` and body, it answers 200 with the same meeting.
#[utoipa::path(post, operation_id = "create_meeting", path = "/v1/meetings", tag = "meetings", request_body = CreateMeeting,
    params(("Idempotency-Key" = Option<String>, Header, description = "At most 255 characters"),
           ("traceparent" = Option<String>, Header, description = "W3C trace context")),
    responses((status = 201, body = MeetingView), (status = 200, body = MeetingView),
              (status = 307, body = Problem), (status = 400, body = Problem), (status = 409, body = Problem),
              (status = 408, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
              (status = 503, body = Problem), (status = 507, body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody { value, bytes }: JsonBody<CreateMeeting>,
) -> Result<Response, Problem> {
    let spec = value.into_spec()?;
    let idempotency = idempotency_key(&headers)?.map(|key| (key, format!("{:x}", HexDigest(&bytes))));
    let created = app.meetings.create(spec, trace(&headers), idempotency).await?;
    let location = format!("/v1/meetings/{}", created.record.id);
    let status = if created.existing { StatusCode::OK } else { StatusCode::CREATED };
    let view = show(&app, created.record).await?;
    Ok((status, [(header::LOCATION, location)], Json(view)).into_response())
}

/// The meetings this core knows.
#[utoipa::path(get, operation_id = "list_meetings", path = "/v1/meetings", tag = "meetings", params(ListQuery),
    responses((status = 200, body = MeetingList), (status = 422, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<MeetingList>, Problem> {
    let query = parsed(query)?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MAX_LISTED).contains(&limit) {
        return Err(Problem::field("invalid_field", "limit", "`limit` must be 1 to 500."));
    }
    let rows = app.meetings.page(Page { status: query.status, before: query.before, limit }).await?;
    let show = |(record, known)| MeetingView::new(record, known, app.mesh.identity());
    Ok(Json(MeetingList { meetings: rows.into_iter().map(show).collect() }))
}

/// One meeting.
#[utoipa::path(get, operation_id = "get_meeting", path = "/v1/meetings/{id}", tag = "meetings", params(("id" = Uuid, Path)),
    responses((status = 200, body = MeetingView), (status = 404, body = Problem)))]
pub(super) async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<MeetingView>, Problem> {
    Ok(Json(show(&app, record(&app, &id).await?).await?))
}

/// Ends a meeting: the edge leaves; the words still on their way come out.
///
/// One that is over already stays as it is, unless `purge=true` says that it is to be removed for good.
#[utoipa::path(delete, operation_id = "end_meeting", path = "/v1/meetings/{id}", tag = "meetings", params(("id" = Uuid, Path), EndQuery),
    responses((status = 202, body = MeetingView), (status = 204, description = "Nothing of it is kept any more"),
              (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn end(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<EndQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let purge = parsed(query)?.purge;
    let found = record(&app, &id).await?;
    let id = found.id;
    if purge {
        app.meetings.remove(id).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if found.status.ended() {
        let detail = "The meeting is over, and kept with its transcript; `?purge=true` removes it for good.";
        return Err(Problem::new(StatusCode::CONFLICT, "meeting_ended", detail));
    }
    app.meetings.stop(id).await;
    let now = app.meetings.look(id).await?.ok_or_else(Problem::no_meeting)?;
    Ok((StatusCode::ACCEPTED, Json(show(&app, now).await?)).into_response())
}

/// Why each edge was chosen, candidate by candidate.
#[utoipa::path(get, operation_id = "get_placement", path = "/v1/meetings/{id}/placement", tag = "meetings", params(("id" = Uuid, Path)),
    responses((status = 200, body = PlacementList), (status = 404, body = Problem)))]
pub(super) async fn placement(State(app): State<App>, Path(id): Path<String>) -> Result<Json<PlacementList>, Problem> {
    let record = record(&app, &id).await?;
    let with_slot = |(epoch, mut decision): (Epoch, serde_json::Value)| {
        if let (Some(owner), Some(row)) = (record.owners.get(epoch), decision.as_object_mut()) {
            row.insert("slot".into(), owner.slot.into());
        }
        decision
    };
    let id = record.id;
    let decisions = app.meetings.reads().run(move |store| store.decisions(id)).await?;
    Ok(Json(PlacementList { placements: decisions.into_iter().map(with_slot).collect() }))
}

/// Who is or was in the meeting.
#[utoipa::path(get, operation_id = "list_participants", path = "/v1/meetings/{id}/participants", tag = "meetings", params(("id" = Uuid, Path)),
    responses((status = 200, body = ParticipantList), (status = 404, body = Problem)))]
pub(super) async fn participants(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ParticipantList>, Problem> {
    let id = record(&app, &id).await?.id;
    Ok(Json(ParticipantList { participants: app.meetings.people(id).await? }))
}

/// How a meeting stands, live or ended.
pub(super) async fn record(app: &App, id: &str) -> Result<MeetingRecord, Problem> {
    let id: MeetingId = id.parse().map_err(|_| Problem::no_meeting())?;
    app.meetings.look(id).await?.ok_or_else(Problem::no_meeting)
}

/// A query that could be read.
pub(super) fn parsed<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    let Query(query) = query.map_err(|e| Problem::field("invalid_query", "query", e.body_text()))?;
    Ok(query)
}

async fn show(app: &App, record: MeetingRecord) -> Result<MeetingView, Problem> {
    let participants = app.meetings.count_people(record.id).await?;
    let unmet = app.meetings.live(record.id).map(|meeting| meeting.wishes.unmet()).unwrap_or_default();
    Ok(MeetingView::new(record, participants, app.mesh.identity()).lacking(unmet))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|k| (1..=MAX_IDEMPOTENCY_KEY).contains(&k.len()));
    let detail = "`Idempotency-Key` must be 1 to 255 visible ASCII characters.";
    key.map(|k| Some(k.to_owned())).ok_or_else(|| Problem::field("invalid_field", "Idempotency-Key", detail))
}

/// The caller's trace, or a new one where there is none or it is malformed (W3C trace context section 3.2.1).
fn trace(headers: &HeaderMap) -> TraceContext {
    let given = headers.get("traceparent").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    given.unwrap_or_else(|| TraceContext::new(uuid::Uuid::new_v4().as_u128()))
}

struct HexDigest<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexDigest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Sha256::digest(self.0).iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
