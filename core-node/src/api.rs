//! The HTTP API: one file for each resource; errors are RFC 9457 problems everywhere.

mod backup;
mod body;
mod document;
mod elsewhere;
pub(crate) mod fuzzing;
pub mod health;
pub mod hooks;
pub mod meetings;
pub mod nodes;
pub mod problem;
pub mod receipt;
mod request;
mod shape;
pub mod spurts;
pub mod streams;
pub mod transcript;
mod view;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use mesh::{tasks::Tasks, wire::request::Secret};
use sha2::{Digest, Sha256};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{problem::Problem, streams::Streams};
use crate::{meetings::Meetings, peers::Mesh};

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    /// The meetings.
    pub meetings: Arc<Meetings>,
    /// The other nodes.
    pub mesh: Arc<dyn Mesh>,
    /// What this node says of itself.
    pub report: Arc<dyn Fn() -> mesh::wire::report::Report + Send + Sync>,
    /// All metrics as Prometheus' text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The node's tasks.
    pub tasks: Tasks,
    /// What `/v1` requests must bear; `None` leaves it open.
    pub token: Option<Secret>,
    /// Who listens.
    pub streams: Streams,
    /// Whose streams Zoom may tell of; `None`: it is not heard.
    pub zoom: Option<Arc<hooks::Zoom>>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Nearfield", description = "Meetings captured near their relay, transcribed where they may be."),
    tags(
        (name = "meetings", description = "What is captured"),
        (name = "transcript", description = "What was said"),
        (name = "hooks", description = "What platforms tell of their meetings"),
        (name = "nodes", description = "The mesh as this core sees it"),
        (name = "health", description = "For operators"),
    )
)]
struct Document;

/// All routes.
pub fn router(app: App) -> Router {
    let (v1, v1_document) = OpenApiRouter::new()
        .routes(routes!(meetings::create, meetings::list))
        .routes(routes!(meetings::one, meetings::end))
        .routes(routes!(meetings::placement))
        .routes(routes!(meetings::participants))
        .routes(routes!(spurts::list))
        .routes(routes!(receipt::one))
        .routes(routes!(transcript::whole))
        .routes(routes!(transcript::stream))
        .routes(routes!(nodes::list))
        .routes(routes!(backup::get))
        .route_layer(middleware::from_fn_with_state(app.clone(), elsewhere::redirect))
        .route_layer(middleware::from_fn_with_state(app.clone(), authorise))
        .split_for_parts();
    let (open, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(hooks::zoom))
        .split_for_parts();
    document.merge(v1_document);
    let document = document::finish(&document);
    // Made once: a route is cloned for every request, with all that it holds.
    let document = Bytes::from(document.to_string());
    let document = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    v1.merge(open)
        .route("/openapi.json", get(document))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "There is no such resource."))
        .method_not_allowed_fallback(async || {
            let detail = "The resource does not know this method; see `Allow`.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .with_state(app)
}

/// Lets requests with the right bearer token (RFC 6750) pass.
async fn authorise(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(token) = &app.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Digests are compared, so that the time it takes says nothing about the token.
    if given.is_some_and(|(_, given)| Sha256::digest(given.trim()) == Sha256::digest(&token.0)) {
        return next.run(request).await;
    }
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid bearer token is needed.");
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

#[cfg(test)]
mod tests;
