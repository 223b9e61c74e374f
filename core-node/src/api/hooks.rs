//! `/v1/hooks/zoom`: what Zoom tells of its streams, by webhook.
//!
//! Zoom signs (<https://developers.zoom.us/docs/api/webhooks/#verify-webhook-events>), and waits three seconds for an answer: it is
//! given before anything is done. What comes twice makes one meeting.

mod signature;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use mesh::{tasks::once, trace::TraceContext, wire::request::Secret};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use self::signature::{Key, Signed};
use super::{App, body, problem::Problem, request::CreateMeeting};
use crate::{meeting::wall, meetings::CreateError};

/// Of what Zoom told, worked on at a time; it tells again what is not taken.
const MAX_WORK: usize = 64;
static AT_WORK: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_WORK)));

/// Zoom waits for three seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest token that is answered.
const MAX_TOKEN: usize = 256;

/// Whose streams are taken, and what becomes of them.
#[derive(Debug, Clone)]
pub struct Zoom {
    /// The app's id.
    pub client_id: String,
    /// The app's secret: it signs towards Zoom's servers.
    pub client_secret: Secret,
    /// Zoom's webhooks are signed with it.
    pub secret_token: Secret,
    /// Residency groups or regions that may touch the meetings; empty: all.
    pub residency: Vec<String>,
    /// What is spoken, ISO 639; absent: detected.
    pub language: Option<String>,
}

/// What Zoom tells.
#[derive(Deserialize)]
struct Told {
    event: String,
    #[serde(default)]
    event_ts: u64,
    #[serde(default)]
    payload: Value,
}

/// A stream, of which Zoom tells in two ways.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Stream {
    meeting_uuid: String,
    rtms_stream_id: String,
    #[serde(default)]
    server_urls: String,
    #[serde(default)]
    stop_reason: Value,
}

/// Takes what Zoom tells of its streams.
///
/// Zoom's own webhook: `endpoint.url_validation`, `meeting.rtms_started` and `meeting.rtms_stopped`, and the same of webinars. Off
/// unless `[hooks.zoom]` is set.
#[utoipa::path(post, operation_id = "zoom_hook", path = "/v1/hooks/zoom", tag = "hooks", request_body = Object,
    params(("x-zm-signature" = String, Header, description = "`v0=` and HMAC-SHA256 by the app's secret token, in hexadecimal digits"),
           ("x-zm-request-timestamp" = String, Header, description = "Unix time in seconds, five minutes off at most")),
    security(()),
    responses((status = 200, description = "It is taken, or nothing to us", body = Object), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 404, body = Problem), (status = 408, body = Problem),
              (status = 413, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn zoom(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let off = || Problem::new(StatusCode::NOT_FOUND, "not_found", "This core takes no webhooks of Zoom's.");
    let zoom = app.zoom.clone().ok_or_else(off)?;
    let signed = Signed::of(request.headers());
    let bytes = body::whole(request.into_body(), PATIENCE).await?;
    if !signed.is_by(&Key::new(&zoom.secret_token), &bytes, wall().as_millis() / 1000) {
        metrics::counter!("nearfield_core_hooks_refused_total").increment(1);
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Zoom's signature is needed, and a recent one.",
        ));
    }
    let told: Told = serde_json::from_slice(&bytes)
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "bad_json", "The body is no event of Zoom's."))?;
    match told.event.as_str() {
        "endpoint.url_validation" => validate(&zoom, &told.payload),
        "meeting.rtms_started" | "webinar.rtms_started" => {
            let stream = Stream::of(&told.payload)?;
            work(started(app, zoom, stream, told.event_ts))
        }
        "meeting.rtms_stopped" | "webinar.rtms_stopped" => work(stopped(app, Stream::of(&told.payload)?)),
        _ => Ok(taken()),
    }
}

/// Proves that we know the token.
fn validate(zoom: &Zoom, payload: &Value) -> Result<Response, Problem> {
    let plain = payload["plainToken"].as_str().filter(|token| (1..=MAX_TOKEN).contains(&token.len()));
    let bad = || {
        Problem::new(StatusCode::BAD_REQUEST, "bad_json", "`payload.plainToken` must be a text of at most 256 bytes.")
    };
    let plain = plain.ok_or_else(bad)?;
    let encrypted = Key::new(&zoom.secret_token).sign(plain.as_bytes());
    Ok(Json(json!({"plainToken": plain, "encryptedToken": encrypted})).into_response())
}

impl Stream {
    /// Out of the payload itself, or of its `object`.
    fn of(payload: &Value) -> Result<Self, Problem> {
        let flat = payload.get("rtms_stream_id").is_some();
        let stream = if flat { payload } else { &payload["object"] };
        let bad = |_| Problem::new(StatusCode::BAD_REQUEST, "bad_json", "The payload names no stream of a meeting.");
        serde_json::from_value(stream.clone()).map_err(bad)
    }

    /// It ended by a fault, and the edge tries to come back.
    fn comes_back(&self) -> bool {
        matches!(self.stop_reason.as_u64(), Some(10..=19 | 24))
    }

    /// Under which at most one meeting is live.
    fn key(&self) -> String {
        format!("zoom_rtms {}", self.rtms_stream_id)
    }
}

/// Answers now, and does the work after.
fn work(work: impl Future<Output = ()> + Send + 'static) -> Result<Response, Problem> {
    let Ok(permit) = Arc::clone(&AT_WORK).try_acquire_owned() else {
        let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too much is told at once; tell it again.");
        return Ok(([(header::RETRY_AFTER, "5")], busy).into_response());
    };
    once("a webhook of Zoom's", async move {
        work.await;
        drop(permit);
    });
    Ok(taken())
}

fn taken() -> Response {
    Json(json!({})).into_response()
}

/// Makes the stream's meeting, unless it is there.
async fn started(app: App, zoom: Arc<Zoom>, stream: Stream, told_at: u64) {
    let request = request(&zoom, &stream).to_string();
    let spec = body::read::<CreateMeeting>(request.as_bytes()).and_then(CreateMeeting::into_spec);
    let spec = match spec {
        Ok(spec) => spec,
        Err(problem) => return refused(problem.detail()),
    };
    // Zoom tells a second time what was not answered in time; that is one request, even when its meeting is over.
    let once = (format!("{} {told_at}", stream.key()), stream.rtms_stream_id.clone());
    let trace = TraceContext::new(Uuid::new_v4().as_u128());
    match app.meetings.create(spec, trace, Some(once)).await {
        Ok(made) if made.existing => tracing::debug!(meeting = %made.record.id, "Zoom has told of it again"),
        Ok(made) => tracing::info!(meeting = %made.record.id, "Zoom has begun a stream"),
        Err(CreateError::Duplicate(meeting)) => tracing::debug!(%meeting, "its stream is captured already"),
        Err(error) => refused(&error.to_string()),
    }
}

fn refused(why: &str) {
    metrics::counter!("nearfield_core_hooks_failed_total").increment(1);
    tracing::warn!(why, "a stream of Zoom's is not captured");
}

/// As anybody would ask for it.
fn request(zoom: &Zoom, stream: &Stream) -> Value {
    json!({
        "source": {
            "kind": "zoom_rtms",
            "server_urls": stream.server_urls,
            "meeting_uuid": stream.meeting_uuid,
            "rtms_stream_id": stream.rtms_stream_id,
            "client_id": zoom.client_id,
            "client_secret": zoom.client_secret.0,
        },
        "placement": {"residency": zoom.residency},
        "transcription": {"language": zoom.language},
        "metadata": {"zoom": {"meeting_uuid": stream.meeting_uuid, "rtms_stream_id": stream.rtms_stream_id}},
        "deduplication_key": stream.key(),
    })
}

/// Ends its meeting, if this core serves it; its edge is told by Zoom itself. A fault is none of Zoom's last words: the edge tries
/// to come back.
async fn stopped(app: App, stream: Stream) {
    if stream.comes_back() {
        return;
    }
    if let Some(meeting) = app.meetings.live_under(&stream.key()) {
        tracing::info!(%meeting, "Zoom has ended the stream");
        app.meetings.stop(meeting).await;
    }
}

#[cfg(test)]
mod tests;
