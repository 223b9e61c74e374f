//! For operators: is it up, does it take work, what are its numbers.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{App, problem::Problem};

/// Answers as long as the process runs.
#[utoipa::path(get, operation_id = "healthz", path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// The most records of the store that are named.
const MAX_SHOWN: usize = 10;

/// Whether it takes new meetings: `ready`, and below it a line `degraded: …` for each thing that somebody should look at.
#[utoipa::path(get, operation_id = "readyz", path = "/readyz", tag = "health",
    responses((status = 200, body = String), (status = 503, body = Problem)))]
pub(super) async fn ready(State(app): State<App>) -> Result<String, Problem> {
    let unready = |code, detail: &str| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail));
    if let Some(why) = app.meetings.store_failure() {
        return unready("store_failed", &format!("The store failed, and this core ends: {why}"));
    }
    if app.meetings.draining() {
        return unready("draining", "This core takes no new meetings.");
    }
    let ailing = app.tasks.ailing();
    if !ailing.is_empty() {
        let detail = format!("Tasks of this core have broken and are being started again: {}.", ailing.join(", "));
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "broken", detail));
    }
    if !app.meetings.has_authority() {
        let detail = "The authority cannot be reached: live meetings go on, none is made or changes hands.";
        return unready("authority_unavailable", detail);
    }
    if let Some(shortage) = app.meetings.store_shortage() {
        return unready("store_full", shortage.advice());
    }
    let lacking = app.meetings.shortcomings().into_iter().map(|line| format!("degraded: {line}\n"));
    Ok(["ready\n".into()].into_iter().chain(damaged(&app)).chain(lacking).collect())
}

/// What of the store cannot be read.
fn damaged(app: &App) -> Option<String> {
    let (rows, more) = app.meetings.damaged();
    let shown: Vec<String> = rows.iter().take(MAX_SHOWN).map(ToString::to_string).collect();
    let (count, or_more) = (rows.len(), if more { " or more" } else { "" });
    let names = shown.join(", ");
    (count > 0).then(|| format!("degraded: {count}{or_more} records of the store cannot be read: {names}\n"))
}

/// All metrics, in Prometheus' text format.
#[utoipa::path(get, operation_id = "metrics", path = "/metrics", tag = "health", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (app.metrics)())
}
