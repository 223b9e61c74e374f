//! Health and metrics of a program over HTTP.

use std::{io, net::SocketAddr};

use axum::{Router, http::StatusCode, routing::get};
use tokio::net::TcpListener;

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

/// Listens on `listen` and serves `router` in a task of its own. Returns where it listens.
///
/// # Errors
/// The address is taken or not this machine's; the error names it.
pub async fn serve(listen: SocketAddr, router: Router) -> io::Result<SocketAddr> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {listen} (TCP): {e}"));
    let listener = TcpListener::bind(listen).await.map_err(named)?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    });
    Ok(addr)
}
