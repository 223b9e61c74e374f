//! Errors as RFC 9457 problem details, with a stable `code`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{shape::Fault, streams::TooManyStreams};
use crate::{
    meetings::{CreateError, keep::NotRemoved},
    store::{StoreError, log::LogClosed, reads::ReadError},
};

/// How long a client should wait when it is told to.
const RETRY_AFTER_SECONDS: u32 = 5;

/// A problem (RFC 9457 section 3). Boxed: it is the rare way out of every handler.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem(Box<Details>);

/// The members of a problem.
#[derive(Debug, Serialize, ToSchema)]
struct Details {
    /// `urn:nearfield:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request; never a secret.
    detail: String,
    /// Stable, for programs.
    code: &'static str,
    /// The field that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// All that is wrong with the body, where it is the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    /// The meeting that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    meeting_id: Option<Uuid>,
    #[serde(skip)]
    location: Option<String>,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind: format!("urn:nearfield:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            field: None,
            errors: vec![],
            meeting_id: None,
            location: None,
        }))
    }

    /// A body with these faults, one at least; told as the first of them, with all in `errors`.
    pub(super) fn of_body(faults: Vec<Fault>) -> Self {
        let Some(first) = faults.first() else {
            return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", "The body is not allowed.");
        };
        let mut detail = first.detail().to_owned();
        if faults.len() > 1 {
            detail += &format!(" {} more: see `errors`.", faults.len() - 1);
        }
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, first.code(), detail);
        problem.0.field = Some(first.field().to_owned()).filter(|field| !field.is_empty());
        problem.0.errors = faults;
        problem
    }

    /// A field with a value that is not allowed.
    pub fn field(code: &'static str, field: &str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
        problem.0.field = Some(field.into());
        problem
    }

    /// Another core is to be asked, at `location`.
    pub fn elsewhere(detail: impl Into<String>, location: String) -> Self {
        let mut problem = Self::new(StatusCode::TEMPORARY_REDIRECT, "other_core", detail);
        problem.0.location = Some(location);
        problem
    }

    /// What is wrong, in words.
    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// No meeting has this id.
    pub fn no_meeting() -> Self {
        Self::new(StatusCode::NOT_FOUND, "meeting_not_found", "No meeting has this id here.")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        metrics::counter!("nearfield_core_api_problems_total", "code" => self.0.code).increment(1);
        let location = self.0.location.as_deref().and_then(|l| HeaderValue::from_str(l).ok());
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if let Some(location) = location {
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

impl From<CreateError> for Problem {
    fn from(error: CreateError) -> Self {
        let detail = error.to_string();
        match error {
            CreateError::Place(_) => Self::field("unknown_place", "placement.residency", detail),
            CreateError::Prefer(_) => Self::field("unknown_place", "placement.prefer", detail),
            CreateError::Language { .. } => Self::field("unknown_language", "transcription.language", detail),
            CreateError::Unreachable(id) => {
                let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "core_unreachable", detail);
                problem.0.meeting_id = Some(id);
                problem
            }
            CreateError::KeyBusy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "key_busy", detail),
            CreateError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail),
            CreateError::Elsewhere { api } | CreateError::Made { api, .. } => {
                let location = if api.contains("://") { api } else { format!("http://{api}") };
                Self::elsewhere(detail, format!("{}/v1/meetings", location.trim_end_matches('/')))
            }
            CreateError::Residency => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "residency_unsatisfiable", detail),
            CreateError::Duplicate(id) => {
                let mut problem = Self::new(StatusCode::CONFLICT, "meeting_active", detail);
                problem.0.meeting_id = Some(id);
                problem
            }
            CreateError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail),
            CreateError::Full(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "core_full", detail),
            CreateError::StoreFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, "store_full", detail),
            CreateError::Draining => Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail),
            CreateError::Authority(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable", detail),
            CreateError::Log(error) => error.into(),
            CreateError::Broken => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail),
        }
    }
}

impl From<LogClosed> for Problem {
    fn from(error: LogClosed) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_failed", error.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()),
            ReadError::Store(error) => error.into(),
        }
    }
}

impl From<NotRemoved> for Problem {
    fn from(error: NotRemoved) -> Self {
        match error {
            NotRemoved::Unknown => Self::no_meeting(),
            NotRemoved::NotEnded(_) => Self::new(StatusCode::CONFLICT, "meeting_not_ended", error.to_string()),
            NotRemoved::Read(error) => error.into(),
            NotRemoved::Log(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Record { .. }) {
            let detail = "What is stored of it cannot be read; the rest is served. `/readyz` names it.";
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "record_unreadable", detail);
        }
        if matches!(error, StoreError::Copying) {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Another copy of the store is being made.");
        }
        if matches!(error, StoreError::NoRoomForCopy { .. }) {
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_copy", error.to_string());
        }
        tracing::error!(%error, "store failed under a request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", "The store could not be read.")
    }
}

impl From<TooManyStreams> for Problem {
    fn from(error: TooManyStreams) -> Self {
        let status = match error {
            TooManyStreams::OfAddress(_) => StatusCode::TOO_MANY_REQUESTS,
            TooManyStreams::OfMeeting(_) | TooManyStreams::OfCore(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, "too_many_listeners", error.to_string())
    }
}
