//! `/v1/meetings/{id}/receipt`: who had part in a meeting, signed.

use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use utoipa::ToSchema;

use super::{App, meetings::record, problem::Problem};
use crate::meetings::receipts::NoReceipt;

/// A JSON Web Signature.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone: it is sent as it was signed")]
pub(super) struct SignedReceipt {
    /// The receipt: base64url of JSON.
    payload: String,
    /// The signature's header: base64url of JSON.
    protected: String,
    /// Of both, base64url.
    signature: String,
}

/// Every node and region that had part in a meeting, signed by a core of them.
///
/// A JSON Web Signature (RFC 7515, flattened JSON) with the signer's certificates in `x5c`; `nearfield verify-receipt`
/// checks it offline. There is none before the meeting has ended.
#[utoipa::path(get, operation_id = "get_receipt", path = "/v1/meetings/{id}/receipt", tag = "meetings", params(("id" = Uuid, Path)),
    responses((status = 200, content_type = "application/jose+json", body = SignedReceipt), (status = 404, body = Problem),
              (status = 409, body = Problem, description = "The meeting has not ended"), (status = 503, body = Problem)))]
pub(super) async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = record(&app, &id).await?.id;
    let receipt = app.meetings.receipt(id).await?;
    // RFC 7515 section 9.2.2.
    Ok(([(header::CONTENT_TYPE, "application/jose+json")], receipt).into_response())
}

impl From<NoReceipt> for Problem {
    fn from(error: NoReceipt) -> Self {
        match error {
            NoReceipt::Unknown => Self::no_meeting(),
            NoReceipt::NotEnded(_) => Self::new(StatusCode::CONFLICT, "meeting_not_ended", error.to_string()),
            NoReceipt::Sign(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "receipt_unsigned", error.to_string()),
            NoReceipt::Store(error) => error.into(),
            NoReceipt::Read(error) => error.into(),
            NoReceipt::Log(error) => error.into(),
        }
    }
}
