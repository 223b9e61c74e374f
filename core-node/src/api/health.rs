//! For operators: is it up, does it take work, what are its numbers.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{App, problem::Problem};

/// Answers as long as the process runs.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Whether it takes new meetings.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503, body = Problem)))]
pub(super) async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    if app.meetings.draining() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "This core takes no new meetings."));
    }
    if !app.meetings.has_authority() {
        let detail = "The authority cannot be reached: live meetings go on, none is made or changes hands.";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable", detail));
    }
    Ok("ready\n")
}

/// All metrics, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (app.metrics)())
}
