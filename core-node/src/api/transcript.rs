//! `/v1/meetings/{id}/transcript`: what was said, whole or as it is said.

use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use mesh::{http::Client, wire::MeetingId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    meetings::{parsed, record},
    problem::Problem,
    streams::Seat,
    view::GapView,
};
use crate::{
    publish::{Event, Finals, Listener, NotYet, StatusChange, What},
    store::{reads::ReadError, record::MeetingRecord},
    transcript::{
        Segment,
        format::{srt, txt, vtt},
        in_spoken_order,
    },
};

/// How often a silent stream says that it is alive: below what proxies wait.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A transcript, in the order in which it was spoken.
#[derive(Serialize, ToSchema)]
pub(super) struct TranscriptView {
    segments: Vec<Segment>,
    /// When nobody captured the meeting.
    gaps: Vec<GapView>,
}

impl TranscriptView {
    /// `segments` in the order in which they were spoken.
    pub(super) fn new(record: &MeetingRecord, segments: Vec<Segment>) -> Self {
        Self { segments, gaps: record.gaps.iter().map(|gap| GapView::new(record.id, gap)).collect() }
    }
}

/// How a transcript is wanted.
#[derive(Deserialize, Default, Clone, Copy, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Everything.
    #[default]
    Json,
    /// WebVTT.
    Vtt,
    /// SubRip.
    Srt,
    /// Plain text.
    Txt,
}

/// Which part of a transcript, and how.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WholeQuery {
    /// `json` (the default), `vtt`, `srt` or `txt`.
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Only segments with a greater `seq`.
    #[serde(default)]
    since: u64,
}

/// What is final so far.
#[utoipa::path(get, operation_id = "get_transcript", path = "/v1/meetings/{id}/transcript", tag = "transcript",
    params(("id" = Uuid, Path), WholeQuery),
    responses((status = 200, content((TranscriptView = "application/json"), (String = "text/vtt"),
                                     (String = "application/x-subrip"), (String = "text/plain"))),
              (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn whole(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Result<Query<WholeQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = parsed(query)?;
    let found = record(&app, &id).await?;
    let segments = match app.meetings.live(found.id) {
        Some(live) => out(live.publisher.finals(query.since).await?)?,
        None => finals(&app, found.id, query.since).await?,
    };
    let segments = in_spoken_order(segments);
    let text = |kind: &'static str, body: String| ([(header::CONTENT_TYPE, kind)], body).into_response();
    Ok(match query.format {
        Format::Json => Json(TranscriptView::new(&found, segments)).into_response(),
        Format::Vtt => text("text/vtt; charset=utf-8", vtt(&segments)),
        Format::Srt => text("application/x-subrip; charset=utf-8", srt(&segments)),
        Format::Txt => text("text/plain; charset=utf-8", txt(&segments)),
    })
}

/// The transcript as it is made, as server-sent events.
///
/// `transcript.partial` and `transcript.final` carry a segment, `meeting.status_changed` and the closing
/// `done` where the meeting stands, `meeting.gap` a time in which nobody captured it. `moved` closes the stream
/// when another core serves the meeting: it goes on there. `closed` ends a stream whose client does not read (`slow`) or whose
/// address has more than its share of all streams while others wait (`replaced`). `Last-Event-ID` resumes: no final is missed.
#[utoipa::path(get, operation_id = "stream_transcript", path = "/v1/meetings/{id}/transcript/stream", tag = "transcript",
    params(("id" = Uuid, Path), ("Last-Event-ID" = Option<u64>, Header, description = "The last `seq` seen")),
    responses((status = 200, content_type = "text/event-stream", body = String),
              (status = 204, description = "Nothing will follow that number"),
              (status = 404, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem),
              (status = 503, body = Problem)))]
pub(super) async fn stream(
    State(app): State<App>,
    Path(id): Path<String>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let since = last_event_id(&headers)?;
    let mut record = record(&app, &id).await?;
    if let Some(live) = app.meetings.live(record.id) {
        let listener = live.publisher.listen(app.meetings.store().clone(), since).map_err(not_yet)?;
        let (ip, stalled) = client
            .map_or((Ipv4Addr::UNSPECIFIED.into(), CancellationToken::new()), |Extension(c)| (c.addr.ip(), c.stalled));
        let seat = app.streams.admit(record.id, ip)?;
        return Ok(sse(events(Running { meeting: record.id, listener, seat, stalled })));
    }
    if record.last_seq == 0 {
        // Its core died after it had ended the meeting and before it wrote this. All its numbers are below the next one.
        let id = record.id;
        record.last_seq = app.meetings.reads().run(move |store| store.sequence(id)).await?;
    }
    if since > record.last_seq {
        return Err(not_yet(NotYet(record.last_seq)));
    }
    if since == record.last_seq {
        // A 204 ends an EventSource's reconnections (HTML, section 9.2).
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let finals = finals(&app, record.id, since).await?.into_iter();
    let finals = finals.map(|s| Event { seq: s.seq, what: What::Final(s.into()) });
    let gaps = record.gaps.iter().filter(|g| g.seq > since).map(|g| Event { seq: g.seq, what: What::Gap(g.clone()) });
    let mut all: Vec<Event> = finals.chain(gaps).collect();
    all.sort_by_key(|e| e.seq);
    all.push(end_of(&record));
    let all: Vec<_> = all.iter().map(|e| Ok(event(record.id, e))).collect();
    Ok(sse(stream::iter(all)))
}

/// What is out. If that is nothing, for all that is known, the meeting's other nodes must be asked first.
fn out(finals: Finals) -> Result<Vec<Segment>, Problem> {
    if finals.out.is_empty() && finals.unsure {
        let detail = "It is not known yet which of these words were published: this core was started anew, and waits for the \
                      meeting's other nodes.";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "transcript_unsure", detail));
    }
    Ok(finals.out)
}

/// What is final of a meeting that is over.
async fn finals(app: &App, id: MeetingId, since: u64) -> Result<Vec<Segment>, ReadError> {
    app.meetings.reads().run(move |store| store.segments(id, since)).await
}

fn last_event_id(headers: &HeaderMap) -> Result<u64, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(0) };
    let detail = "`Last-Event-ID` must be the id of an event of this stream.";
    let number = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    number.ok_or_else(|| Problem::field("invalid_field", "Last-Event-ID", detail))
}

fn sse<S>(events: S) -> Response
where
    S: Stream<Item = Result<SseEvent, Infallible>> + Send + 'static,
{
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// A number that was never given out: by another meeting, or misread. Waiting for it would say nothing, for ever.
fn not_yet(error: NotYet) -> Problem {
    let detail =
        format!("`Last-Event-ID` is beyond the stream's newest event: {error}. Without it, the stream begins anew.");
    Problem::field("unknown_event_id", "Last-Event-ID", detail)
}

/// A stream, and what may end it early.
struct Running {
    meeting: MeetingId,
    listener: Listener,
    seat: Seat,
    /// The client does not read.
    stalled: CancellationToken,
}

impl Running {
    /// The next event, and whether others may follow.
    async fn next(&mut self) -> Option<(SseEvent, bool)> {
        tokio::select! {
            biased;
            () = self.seat.replaced() => Some((closed(self.meeting, "replaced"), false)),
            () = self.stalled.cancelled() => Some((closed(self.meeting, "slow"), false)),
            next = self.listener.next() => match next {
                Ok(next) => next.map(|e| (event(self.meeting, &e), true)),
                Err(error) => {
                    // The client comes back with the last id it saw.
                    tracing::error!(%error, "a transcript stream ended early");
                    None
                }
            },
        }
    }
}

fn events(running: Running) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    stream::unfold(Some(running), async |running| {
        let mut running = running?;
        let (event, more) = running.next().await?;
        Some((Ok(event), more.then_some(running)))
    })
}

/// The last event of a stream that is ended before its meeting; without a number, so that the client resumes after the one before.
fn closed(meeting: MeetingId, reason: &'static str) -> SseEvent {
    metrics::counter!("nearfield_core_streams_closed_total", "reason" => reason).increment(1);
    SseEvent::default().event("closed").data(serde_json::json!({ "meeting_id": meeting, "reason": reason }).to_string())
}

fn event(meeting: MeetingId, event: &Event) -> SseEvent {
    let (name, data) = match &event.what {
        What::Partial(segment) => ("transcript.partial", serde_json::to_string(&**segment)),
        What::Final(segment) => ("transcript.final", serde_json::to_string(&**segment)),
        What::Status(change) => ("meeting.status_changed", serde_json::to_string(change)),
        What::Done(change) => ("done", serde_json::to_string(change)),
        What::Gap(gap) => ("meeting.gap", serde_json::to_string(&GapView::new(meeting, gap))),
        What::Moved(moved) => ("moved", serde_json::to_string(moved)),
    };
    let data = data.expect("texts, numbers and lists of them always become JSON");
    let sse = SseEvent::default().event(name).data(data);
    // The other core goes on after the event before this one.
    if matches!(event.what, What::Moved(_)) { sse } else { sse.id(event.seq.to_string()) }
}

fn end_of(record: &MeetingRecord) -> Event {
    let change = StatusChange { meeting_id: record.id, status: record.status, sub_code: record.sub_code.clone() };
    Event { seq: record.last_seq, what: What::Done(change) }
}
