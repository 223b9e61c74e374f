//! `/v1/backup`: a copy of the store, for `core-node backup`.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use mesh::tasks::{Broken, blocking};
use utoipa::ToSchema;

use super::{App, problem::Problem};
use crate::store::{CopyPlace, Store, StoreError, new_file};

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;

/// A store's file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "for the document alone")]
pub(super) struct StoreFile(Vec<u8>);

/// A copy of all that this core's store holds, as of one moment: what `core-node restore` takes. It holds words and secrets, so it
/// needs `api.token`. One is made at a time, on the store's disk if that has room, and is gone when it has been sent.
#[utoipa::path(get, operation_id = "backup", path = "/v1/backup", tag = "health",
    responses((status = 200, content_type = "application/octet-stream", body = StoreFile), (status = 403, body = Problem),
              (status = 503, body = Problem), (status = 507, body = Problem)))]
pub(super) async fn get(State(app): State<App>) -> Result<Response, Problem> {
    if app.token.is_none() {
        // Not even to this machine: a reverse proxy on it speaks for everybody.
        let detail = "A copy of the store holds secrets: set `api.token`, or make the copy while the core is stopped.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "token_needed", detail));
    }
    let store = app.meetings.store().clone();
    let copied = blocking("copy", move || copy(&store)).await;
    let broken = |error: String| {
        tracing::error!(error, "no copy of the store");
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "no_copy", format!("The copy could not be made: {error}"))
    };
    let (file, length, place) = match copied.map_err(|e| broken(Broken::from(e).to_string()))? {
        Ok(copied) => copied,
        Err(error @ (StoreError::Copying | StoreError::NoRoomForCopy { .. })) => return Err(error.into()),
        Err(error) => return Err(broken(error.to_string())),
    };
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, Body::from_stream(pieces(file, place))).into_response())
}

/// A copy in a file without a name, its length, and the place that it has until it is sent.
fn copy(store: &Store) -> Result<(File, u64, CopyPlace), StoreError> {
    let place = store.place_for_copy()?;
    static COPIES: AtomicU64 = AtomicU64::new(0);
    let n = COPIES.fetch_add(1, Ordering::Relaxed);
    let path = store.path().with_extension(format!("copy-{}-{n}", std::process::id()));
    let mut file = new_file(&path).map_err(StoreError::io)?;
    fs::remove_file(&path).map_err(StoreError::io)?;
    store.copy_to(file.try_clone().map_err(StoreError::io)?)?;
    file.rewind().map_err(StoreError::io)?;
    let length = file.metadata().map_err(StoreError::io)?.len();
    Ok((file, length, place))
}

fn pieces(file: File, place: CopyPlace) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold((file, place), async |(mut file, place)| {
        let read = blocking("copy", move || {
            let mut piece = vec![0; PIECE];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            Ok::<_, std::io::Error>((piece, file))
        });
        let (piece, file) = read.await.map_err(|e| std::io::Error::other(Broken::from(e)))??;
        Ok((!piece.is_empty()).then(|| (Bytes::from(piece), (file, place))))
    })
}
