//! Health and metrics over HTTP.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{Router, http::StatusCode, routing::get};
use mesh::telemetry::Metrics;
use tokio::net::TcpListener;

/// The socket of `http.listen`.
///
/// # Errors
/// The address is taken or not this machine's.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))
}

/// Serves `/healthz` (the process runs), `/readyz` (`ready` says so) and `/metrics` for ever.
///
/// # Errors
/// The listener breaks.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> std::io::Result<()> {
    let ready = move || {
        let answer = if ready() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "alone in the mesh") };
        async move { answer }
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metrics.render() }));
    axum::serve(listener, router).await
}
