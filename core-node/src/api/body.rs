//! A JSON body, or the problem with it.

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::problem::Problem;

/// The longest body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// A body and the bytes it came from.
pub(super) struct JsonBody<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" {
            let detail = "The body must be application/json.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let bytes = to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| {
            let detail = format!("The body must come whole and have at most {MAX_BODY} bytes.");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
        })?;
        Ok(Self { value: read(&bytes)?, bytes })
    }
}

/// What a body says.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| problem(&e))?;
    json.end().map_err(|e| bad_json(&e))?;
    Ok(value)
}

fn problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, inner) = (error.path().to_string(), error.inner());
    if inner.classify() != Category::Data {
        return bad_json(inner);
    }
    let message = inner.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let named = |prefix: &str| message.strip_prefix(prefix)?.split('`').next().map(str::to_owned);
    if let Some(unknown) = named("unknown field `") {
        let parent = path.strip_suffix(&unknown).unwrap_or(&path).trim_end_matches('.');
        let field = if parent.is_empty() { unknown } else { format!("{parent}.{unknown}") };
        return Problem::field("unknown_field", &field, format!("`{field}` is no field of this request."));
    }
    if let Some(missing) = named("missing field `") {
        let field = if path == "." { missing } else { format!("{path}.{missing}") };
        return Problem::field("missing_field", &field, format!("`{field}` is needed."));
    }
    // What was sent may be a secret: only what was expected is repeated.
    let expected = message.rsplit_once("expected ").map_or("another value", |(_, expected)| expected);
    Problem::field("invalid_field", &path, format!("`{path}` must be {expected}."))
}

fn bad_json(error: &serde_json::Error) -> Problem {
    // The reader has no kind of its own for it.
    if error.to_string().starts_with("recursion limit exceeded") {
        return Problem::new(StatusCode::BAD_REQUEST, "too_deep", "The body is nested too deep.");
    }
    let detail = format!("The body is not JSON: line {}, column {}.", error.line(), error.column());
    Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail)
}
