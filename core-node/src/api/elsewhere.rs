//! Requests about a meeting that another core serves: sent there (307), with method, path and query as they are.

use axum::{
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use mesh::wire::MeetingId;

use super::{App, problem::Problem};
use crate::store::record::CoreRole;

/// Lets requests pass that this core can answer.
pub(super) async fn redirect(
    State(app): State<App>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let id = match params {
        // As the handlers see it, whatever the spelling in the path.
        Ok(params) => params.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.parse::<MeetingId>()),
        Err(RawPathParamsRejection::InvalidUtf8InPathParam(_)) => return Problem::no_meeting().into_response(),
        Err(_) => None,
    };
    let id = match id {
        Some(Ok(id)) => id,
        Some(Err(_)) => return Problem::no_meeting().into_response(),
        None => return next.run(request).await,
    };
    let record = match app.meetings.look(id).await {
        Ok(record) => record,
        Err(error) => return Problem::from(error).into_response(),
    };
    if record.as_ref().is_some_and(|r| r.serving.role == CoreRole::Serving) {
        return next.run(request).await;
    }
    let there = app.meetings.find(id).await.and_then(|core| Some((app.meetings.api_of(&core)?, core)));
    if let Some((api, core)) = there {
        let path = request.uri().path_and_query().map_or("", |p| p.as_str());
        let detail = format!("The meeting is served by {core}.");
        return Problem::elsewhere(detail, format!("{api}{path}")).into_response();
    }
    match record {
        // All there will be is here as well: that core is gone, and the meeting over.
        Some(record) if record.serving.role == CoreRole::Standby && record.status.ended() => next.run(request).await,
        Some(_) => {
            let detail = "The core that serves the meeting cannot be reached; another may take it over soon.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "core_unreachable", detail).into_response()
        }
        None => Problem::no_meeting().into_response(),
    }
}
