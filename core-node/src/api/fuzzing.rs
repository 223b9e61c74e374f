//! Bodies of fuzz targets for what is private here: see `crate::fuzzing`.

use axum::{extract::Query, http::Uri};
use mesh::identity::Identity;

use super::{
    body,
    meetings::{EndQuery, ListQuery},
    request::CreateMeeting,
    transcript::{TranscriptView, WholeQuery},
    view::MeetingView,
};
use crate::{
    store::record::{MeetingRecord, Spec},
    transcript::Segment,
};

/// What is asked for by a body of `POST /v1/meetings` that is accepted.
pub(crate) fn accepted(body: &[u8]) -> Option<Spec> {
    body::read::<CreateMeeting>(body).ok()?.into_spec().ok()
}

/// Every query string that is read.
pub(crate) fn queries(text: &str) {
    let Ok(uri) = format!("/?{text}").parse::<Uri>() else { return };
    let _ = (Query::<ListQuery>::try_from_uri(&uri), Query::<EndQuery>::try_from_uri(&uri));
    let _ = Query::<WholeQuery>::try_from_uri(&uri);
}

/// A meeting and its transcript as they are answered.
pub(crate) fn shown(
    record: MeetingRecord,
    segments: &[Segment],
    core: &Identity,
) -> serde_json::Result<(Vec<u8>, Vec<u8>)> {
    let transcript = TranscriptView::new(&record, segments.to_vec());
    let view = MeetingView::new(record, 1, core);
    Ok((serde_json::to_vec(&view)?, serde_json::to_vec(&transcript)?))
}
