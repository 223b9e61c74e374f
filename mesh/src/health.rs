//! Health and metrics of a program over HTTP.

use axum::{Router, http::StatusCode, routing::get};

use crate::{tasks::Tasks, telemetry::Metrics};

/// `/healthz` (the process runs), `/readyz` (503 as long as `unready` says why, and while one of `tasks` is ailing) and `/metrics`, to
/// be served or merged.
pub fn router(
    metrics: Metrics,
    tasks: Tasks,
    unready: impl Fn() -> Option<&'static str> + Clone + Send + Sync + 'static,
) -> Router {
    let ready = move || {
        let not = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        let answer = match (tasks.ailing(), unready()) {
            (ailing, _) if !ailing.is_empty() => not(format!("not ready: broken tasks: {}", ailing.join(", "))),
            (_, Some(why)) => not(format!("not ready: {why}")),
            (_, None) => (StatusCode::OK, "ready".into()),
        };
        async move { answer }
    };
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metrics.render() }))
}
