//! The relay's HTTP side: WHEP, and what the demo asks it.

#![allow(clippy::disallowed_methods, reason = "a stand-in: no node goes on without its tasks")]

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    meeting::{Meeting, Start},
    subscriber::{Feed, Subscriber},
    voice::Voice,
};

/// The longest session description taken, in bytes.
const MAX_SDP: usize = 64 * 1024;

const SDP: &str = "application/sdp";

/// How the meeting's endpoint replies to a client's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// With an answer (201), for a meeting of one voice.
    Answer,
    /// With an offer of its own (406), one section for each voice.
    #[default]
    Offer,
}

/// What the handlers share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) meeting: Arc<Meeting>,
    pub(super) name: Arc<str>,
    pub(super) reply: Reply,
    pub(super) start: Start,
    pub(super) media: IpAddr,
}

/// A refusal, as RFC 9457 has it.
struct Problem(StatusCode, String);

pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/whep/{meeting}", post(subscribe))
        .route("/whep/{meeting}/{participant}", post(subscribe_to_one))
        .route("/session/{id}", patch(answered).delete(leave))
        .route("/start", post(|Shared(app): Shared<App>| async move { app.meeting.begin() }))
        .route("/state", get(|Shared(app): Shared<App>| async move { Json(app.meeting.state()) }))
        .route("/sent", get(|Shared(app): Shared<App>| async move { Json(app.meeting.packets(true)) }))
        .route("/said", get(|Shared(app): Shared<App>| async move { Json(app.meeting.packets(false)) }))
        .layer(DefaultBodyLimit::max(MAX_SDP))
        .with_state(app)
}

async fn subscribe(
    Shared(app): Shared<App>,
    Path(meeting): Path<String>,
    headers: HeaderMap,
    offer: String,
) -> Result<Response, Problem> {
    app.check(&meeting, &headers, &offer)?;
    match (app.reply, &app.meeting.voices[..]) {
        (Reply::Offer, voices) => app.send_offer(voices).await,
        (Reply::Answer, [voice]) => app.send_answer(voice, offer).await,
        (Reply::Answer, voices) => {
            let why = format!("the meeting has {} voices: ask for one, /whep/{meeting}/<participant>", voices.len());
            Err(Problem(StatusCode::UNPROCESSABLE_ENTITY, why))
        }
    }
}

async fn subscribe_to_one(
    Shared(app): Shared<App>,
    Path((meeting, participant)): Path<(String, String)>,
    headers: HeaderMap,
    offer: String,
) -> Result<Response, Problem> {
    app.check(&meeting, &headers, &offer)?;
    let voice = app.meeting.voices.iter().find(|voice| *voice.id == *participant);
    let voice = voice.ok_or_else(|| Problem(StatusCode::NOT_FOUND, "no such participant".into()))?;
    app.send_answer(voice, offer).await
}

async fn answered(
    Shared(app): Shared<App>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    answer: String,
) -> Result<StatusCode, Problem> {
    check_type(&headers)?;
    let subscriber = app.meeting.subscriber(id).ok_or_else(no_session)?;
    subscriber.accept(answer).await.map_err(|e| Problem(StatusCode::BAD_REQUEST, format!("answer: {e}")))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn leave(Shared(app): Shared<App>, Path(id): Path<Uuid>) -> Result<StatusCode, Problem> {
    app.meeting.remove(id).ok_or_else(no_session)?.close().await;
    Ok(StatusCode::OK)
}

impl App {
    fn check(&self, meeting: &str, headers: &HeaderMap, offer: &str) -> Result<(), Problem> {
        if *meeting != *self.name {
            return Err(Problem(StatusCode::NOT_FOUND, "no such meeting".into()));
        }
        check_type(headers)?;
        let sections: Vec<&str> = offer.lines().filter_map(|line| line.strip_prefix("m=")).collect();
        match sections[..] {
            [only] if only.starts_with("audio ") => {}
            [] => return Err(Problem(StatusCode::BAD_REQUEST, "the offer has no media section".into())),
            _ => {
                let why = format!("the offer has {} media sections: one of audio is answered", sections.len());
                return Err(Problem(StatusCode::UNPROCESSABLE_ENTITY, why));
            }
        }
        if self.meeting.is_full() {
            return Err(Problem(StatusCode::SERVICE_UNAVAILABLE, "too many subscribers".into()));
        }
        Ok(())
    }

    async fn send_offer(&self, voices: &[Arc<Voice>]) -> Result<Response, Problem> {
        let (mut subscriber, feed) = Subscriber::new(self.media, voices).await.map_err(broken)?;
        let offer = subscriber.offer().await.map_err(broken)?;
        Ok(description(StatusCode::NOT_ACCEPTABLE, self.keep(subscriber, feed), offer))
    }

    async fn send_answer(&self, voice: &Arc<Voice>, offer: String) -> Result<Response, Problem> {
        let (mut subscriber, feed) = Subscriber::new(self.media, std::slice::from_ref(voice)).await.map_err(broken)?;
        match subscriber.answer(offer).await {
            Ok(answer) => Ok(description(StatusCode::CREATED, self.keep(subscriber, feed), answer)),
            Err(error) => {
                subscriber.close().await;
                Err(Problem(StatusCode::BAD_REQUEST, format!("offer: {error}")))
            }
        }
    }

    /// Serves a subscriber until its connection ends.
    fn keep(&self, subscriber: Subscriber, mut feed: Feed) -> Uuid {
        let id = Uuid::new_v4();
        self.meeting.add(id, subscriber);
        let (meeting, start) = (self.meeting.clone(), self.start);
        tokio::spawn(async move {
            match feed.connected().await {
                Ok(()) => {
                    tracing::info!(%id, "a subscriber is connected");
                    meeting.note_joined();
                    if start == Start::FirstSubscriber {
                        meeting.begin();
                    }
                    feed.run().await;
                    meeting.note_left();
                }
                Err(why) => tracing::info!(%id, why, "a subscriber did not connect"),
            }
            if let Some(subscriber) = meeting.remove(id) {
                subscriber.close().await;
            }
            tracing::info!(%id, "a subscriber has gone");
        });
        id
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some(kind) if kind.split(';').next().is_some_and(|kind| kind.trim() == SDP) => Ok(()),
        _ => Err(Problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the body must be {SDP}"))),
    }
}

fn description(status: StatusCode, id: Uuid, sdp: String) -> Response {
    let headers = [(header::CONTENT_TYPE, SDP.to_owned()), (header::LOCATION, format!("/session/{id}"))];
    (status, headers, sdp).into_response()
}

fn no_session() -> Problem {
    Problem(StatusCode::NOT_FOUND, "no such session".into())
}

fn broken(error: webrtc::error::Error) -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(status, detail) = self;
        let title = status.canonical_reason().unwrap_or("error");
        let body = serde_json::json!({ "title": title, "status": status.as_u16(), "detail": detail }).to_string();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
