//! A JSON body, or the problem with it.

use std::time::Duration;

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    problem::Problem,
    shape::{Fault, Shape},
};

/// The longest body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that has a shape.
pub(super) trait Body: DeserializeOwned {
    /// What it looks like.
    fn shape() -> &'static Shape;
}

/// A body and the bytes it came from.
pub(super) struct JsonBody<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

impl<T: Body, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" {
            let detail = "The body must be application/json.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let bytes = whole(request.into_body(), BODY_TIMEOUT).await?;
        Ok(Self { value: read(&bytes)?, bytes })
    }
}

/// All of a body, if it comes in time.
pub(super) async fn whole(body: axum::body::Body, patience: Duration) -> Result<Bytes, Problem> {
    let whole = tokio::time::timeout(patience, to_bytes(body, MAX_BODY)).await.map_err(|_| {
        let detail = format!("The body must come within {} seconds.", patience.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail)
    })?;
    whole.map_err(|_| {
        let detail = format!("The body must come whole and have at most {MAX_BODY} bytes.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })
}

/// What a body says, or all that is wrong with its shape.
pub(super) fn read<T: Body>(bytes: &[u8]) -> Result<T, Problem> {
    let body: Value = serde_json::from_slice(bytes).map_err(|e| bad_json(&e))?;
    let faults = T::shape().check(&body);
    if !faults.is_empty() {
        return Err(Problem::of_body(faults));
    }
    // From the bytes, so that a field given twice is seen.
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)).map_err(|e| problem(&e))
}

/// What the shape does not say: a field given twice, a value with rules of its own.
fn problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, inner) = (error.path().to_string(), error.inner().to_string());
    let why = inner.split(" at line ").next().unwrap_or_default();
    if let Some(name) = why.strip_prefix("duplicate field `").and_then(|rest| rest.split('`').next()) {
        let parent = path.trim_end_matches(name).trim_end_matches('.');
        let field = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        let detail = format!("`{field}` is given twice.");
        return Problem::of_body(vec![Fault::new("duplicate_field", &field, detail)]);
    }
    // serde's own words name our types, and what was sent may be a secret.
    let serdes = ["invalid ", "unknown ", "missing ", "data did not match", "EOF", "expected "];
    let detail = if serdes.iter().any(|words| why.starts_with(words)) {
        format!("`{path}` has a value that is not allowed.")
    } else {
        format!("`{path}`: {why}.")
    };
    Problem::of_body(vec![Fault::new("invalid_field", &path, detail)])
}

fn bad_json(error: &serde_json::Error) -> Problem {
    // The reader has no kind of its own for it.
    if error.to_string().starts_with("recursion limit exceeded") {
        return Problem::new(StatusCode::BAD_REQUEST, "too_deep", "The body is nested too deep.");
    }
    let detail = format!("The body is not JSON: line {}, column {}.", error.line(), error.column());
    Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail)
}
