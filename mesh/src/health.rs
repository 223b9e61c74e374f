//! Health and metrics of a program over HTTP.

use axum::{Router, http::StatusCode, routing::get};

use crate::{tasks::Tasks, telemetry::Metrics};

/// `/healthz` (the process runs), `/readyz` (503 until `ready` says so, and while one of `tasks` is ailing) and `/metrics`, to
/// be served or merged.
pub fn router(metrics: Metrics, tasks: Tasks, ready: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Router {
    let ready = move || {
        let not = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        let answer = match tasks.ailing() {
            ailing if !ailing.is_empty() => not(format!("not ready: broken tasks: {}", ailing.join(", "))),
            _ if ready() => (StatusCode::OK, "ready".into()),
            _ => not("not ready".into()),
        };
        async move { answer }
    };
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metrics.render() }))
}
