//! Health and metrics of a program over HTTP.

use axum::{Router, http::StatusCode, routing::get};

use crate::telemetry::Metrics;

/// `/healthz` (the process runs), `/readyz` (503 until `ready` says so) and `/metrics`, to be served or merged.
pub fn router(metrics: Metrics, ready: impl Fn() -> bool + Clone + Send + Sync + 'static) -> Router {
    let ready = move || {
        let answer = if ready() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
        async move { answer }
    };
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metrics.render() }))
}
