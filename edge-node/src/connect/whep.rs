//! WHEP (draft-ietf-wish-whep): one HTTP endpoint that sends us WebRTC.
//!
//! Two forms are spoken. The endpoint answers our offer of one audio section (201): then it is one
//! voice. Or it refuses our offer and makes its own (406), which we answer by `PATCH`: then each audio
//! section it sends on is a participant.
//!
//! TURN servers that it names in `Link` headers are gone through too; what addresses they give is told by `PATCH`
//! (trickle ICE, RFC 8840). Where it falls silent in a connection that we offered, another path is asked for by `PATCH`
//! (ICE restart); what refuses that is left and entered anew.
//!
//! WHEP has no roster. A participant's id is the media stream id of its section (`a=msid`); of sections
//! that share one, or have none, the mid. An answer without a stream id is the participant
//! [`ONLY`]. Names come from the source's list. Nobody joins or leaves while connected, but that nobody is there while no
//! packet comes at all for a minute: a session may live on without a stream, and is left then as any meeting without people is.

pub(super) mod fuzzing;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use mesh::wire::{control::EdgeState, request::Secret};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH, LINK, LOCATION, RETRY_AFTER},
    redirect,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectError, Connector, Event, Settings,
    error::cut,
    fault,
    ice_server::{self, IceServer, MAX_SERVERS},
    peer::{self, Link, Peer, Voice, Voices},
    sdp::{self, Audio, Description, SdpError, Side},
    stay::{Attempt, Ended, Stay, keep},
    steps::Steps,
    tls,
    url::parse_url,
};
use crate::{
    egress::{Checked, Denied, Policy},
    media::ParticipantId,
};

/// As a label of metrics.
const VIA: &str = "whep";

/// Who an endpoint of one unnamed stream is.
const ONLY: &str = "whep";

/// For each HTTP exchange, its body included.
const HTTP_DEADLINE: Duration = Duration::from_secs(10);

/// To tell the relay we leave: it finds out by itself otherwise.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);

/// How long a relay may put us off with 503 or 429 before it counts as unreachable.
const BUSY_BUDGET: Duration = Duration::from_secs(30);

/// At most so much later than it says, at random.
const SPREAD: Duration = Duration::from_secs(1);

/// Where it names no time.
const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// Media type of a description (RFC 8866 section 8.1).
const SDP: HeaderValue = HeaderValue::from_static("application/sdp");

/// Media type of what is new in one (RFC 8840 section 9).
const FRAGMENT: HeaderValue = HeaderValue::from_static("application/trickle-ice-sdpfrag");

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;

/// The longest body read.
const MAX_BODY: usize = 64 * 1024;

/// A WHEP endpoint.
pub(super) struct Whep {
    endpoint: Url,
    token: Option<Secret>,
    names: BTreeMap<String, String>,
    settings: Settings,
    client: Client,
}

impl Whep {
    pub(super) fn new(
        url: &str,
        token: Option<Secret>,
        participants: &[(String, String)],
        settings: Settings,
    ) -> Result<Self, ConnectError> {
        let endpoint = parse_url(url, ["http", "https"], "http or https")?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls::config().as_ref().clone())
            .redirect(redirect::Policy::custom(follow(settings.egress.clone())))
            .dns_resolver(Checked(settings.egress.clone()))
            // One that the environment names would go where we do not.
            .no_proxy()
            .timeout(HTTP_DEADLINE)
            .build()
            .map_err(|e| ConnectError::Media(format!("no HTTP client: {e}")))?;
        Ok(Self { endpoint, token, names: participants.iter().cloned().collect(), settings, client })
    }
}

/// Only what keeps method and body (RFC 9110 sections 15.4.8 and 15.4.9), does not leave TLS, and leads to where this edge
/// goes; the client itself withholds the token from another host.
fn follow(egress: Policy) -> impl Fn(redirect::Attempt<'_>) -> redirect::Action + Send + Sync + 'static {
    move |attempt| {
        let keeps = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        let was_tls = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
        if !keeps || attempt.previous().len() > MAX_REDIRECTS || (was_tls && attempt.url().scheme() != "https") {
            return attempt.stop();
        }
        match admit(&egress, attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(denied) => attempt.error(denied),
        }
    }
}

/// Of a URL whose host is an address: names are judged when they are resolved.
fn admit(egress: &Policy, url: &Url) -> Result<(), Denied> {
    match url.host_str().unwrap_or_default().trim_matches(['[', ']']).parse() {
        Ok(ip) => egress.admit(url.host_str().unwrap_or_default(), ip),
        Err(_) => Ok(()),
    }
}

#[async_trait]
impl Connector for Whep {
    async fn run(self: Box<Self>, events: mpsc::Sender<Event>, stop: CancellationToken) -> Result<(), ConnectError> {
        keep(*self, events, stop).await
    }
}

#[async_trait]
impl Attempt for Whep {
    async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
        let mut resource = None;
        let result = self.session(stay, &mut resource).await;
        if let Some(resource) = resource {
            self.leave(resource).await;
        }
        match result {
            // Where we once were, there is nothing any more: the meeting is over.
            Err(ConnectError::Refused { status: 404 | 410, .. }) if stay.was_live => Ok(Ended::ByRelay),
            other => other,
        }
    }
}

/// Somebody who is there, and what they send if it cannot be heard.
type Present = (ParticipantId, Option<String>);

/// What the relay holds open for us.
#[derive(Debug, Clone)]
struct Resource {
    url: Url,
    /// Which state of it we know.
    etag: Option<HeaderValue>,
    /// TURN servers that it named.
    servers: Vec<IceServer>,
}

/// What the endpoint made of our offer.
enum Reply {
    Answer(String),
    Offer(String),
}

impl Whep {
    /// One session; its resource at the relay is noted in `resource` as soon as there is one.
    async fn session(&self, stay: &mut Stay, resource: &mut Option<Resource>) -> Result<Ended, ConnectError> {
        let (mut peer, audio, offered) = {
            let mut negotiate = std::pin::pin!(self.negotiate(stay.events.clone(), resource));
            tokio::select! {
                done = &mut negotiate => done?,
                () = stay.stopped() => {
                    // An answer on its way names what has to be deleted.
                    let _ = timeout(LEAVE_DEADLINE, negotiate).await;
                    return Ok(Ended::Stopped);
                }
            }
        };
        self.introduce(stay, &audio).await;
        // From here on the resource is only spoken to.
        let mut known = resource.clone();
        loop {
            let change = tokio::select! {
                change = peer.changed() => change?,
                () = stay.stopped() => break,
            };
            match change {
                Link::Up => {
                    self.introduce(stay, &audio).await;
                    stay.state(EdgeState::Live, None).await;
                }
                Link::Idle => {
                    tracing::info!("nobody sends anything: nobody is there");
                    self.introduce(stay, &[]).await;
                }
                Link::Silent(since) => {
                    stay.lost(since.into(), "the relay is silent".into()).await;
                    if offered {
                        tokio::select! {
                            restarted = self.restart(&mut peer, known.as_mut()) => restarted?,
                            () = stay.stopped() => break,
                        }
                    }
                }
                Link::Candidate(candidate) => tokio::select! {
                    () = self.trickle(&peer, candidate, known.as_mut()) => {}
                    () = stay.stopped() => break,
                },
            }
        }
        peer.close().await;
        Ok(Ended::Stopped)
    }

    /// The connection, who is on it, and whether it was us who offered.
    async fn negotiate(
        &self,
        events: mpsc::Sender<Event>,
        resource: &mut Option<Resource>,
    ) -> Result<(Peer, Vec<Present>, bool), ConnectError> {
        let mut steps = Steps::new(VIA, Instant::now().into_std());
        let bind = peer::local_addresses(&self.settings, &self.endpoint).await?;
        let mut peer = Peer::new(VIA, &self.settings, &bind, events.clone())?;
        let offer = peer.offer(1, false).await?;
        match self.post(offer, resource).await? {
            Reply::Answer(answer) => {
                steps.reach("offer", Instant::now().into_std());
                let answer = read(&answer, Side::Answer)?;
                let (ids, voices) = voices(&answer, Side::Answer)?;
                peer.accept(&answer, voices).await?;
                peer.add_servers(resource.as_ref().map_or(&[][..], |resource| &resource.servers)).await?;
                Ok((peer, ids, true))
            }
            Reply::Offer(offer) => {
                peer.close().await;
                let named = resource.iter().flat_map(|resource| resource.servers.clone()).collect();
                let mut peer = Peer::new(VIA, &self.settings, &bind, events)?.through(named);
                let offer = read(&offer, Side::Offer)?;
                let (ids, voices) = voices(&offer, Side::Offer)?;
                let answer = peer.answer(&offer, voices).await?;
                self.patch(answer, resource.clone()).await?;
                steps.reach("offer", Instant::now().into_std());
                Ok((peer, ids, false))
            }
        }
    }

    /// Tells who is there: known from signalling, before anyone has spoken.
    async fn introduce(&self, stay: &mut Stay, people: &[Present]) {
        for (id, unheard) in people {
            stay.roster.join(id.clone(), self.names.get(id.as_str()).cloned(), unheard.clone());
        }
        stay.roster.retain(&people.iter().map(|(id, _)| id.clone()).collect::<BTreeSet<_>>());
        stay.tell_roster().await;
    }

    async fn post(&self, offer: String, resource: &mut Option<Resource>) -> Result<Reply, ConnectError> {
        admit(&self.settings.egress, &self.endpoint)?;
        let give_up = Instant::now() + BUSY_BUDGET;
        loop {
            let request = self.request(Method::POST, &self.endpoint, SDP).body(offer.clone());
            let response = request.send().await.map_err(|e| unreachable("our offer", e))?;
            if matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
                #[allow(clippy::disallowed_methods, reason = "I/O shell: a date is as far off as our clock says")]
                let pause = retry_after(response.headers(), std::time::SystemTime::now());
                // All whom it puts off are not to come back at once.
                let pause = pause.saturating_add(SPREAD.mul_f64(rand::random()));
                if pause < give_up.saturating_duration_since(Instant::now()) {
                    tracing::debug!(?pause, "the relay is busy");
                    sleep(pause).await;
                    continue;
                }
            }
            return self.reply(response, resource).await;
        }
    }

    async fn reply(&self, response: Response, resource: &mut Option<Resource>) -> Result<Reply, ConnectError> {
        let status = response.status();
        let is_sdp = response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/sdp"));
        let etag = response.headers().get(ETAG).cloned();
        let servers = servers(response.headers());
        let named = location(&response).map(|url| Resource { url, etag, servers });
        match status {
            StatusCode::CREATED => {
                *resource = named;
                Ok(Reply::Answer(body(response).await?))
            }
            StatusCode::NOT_ACCEPTABLE if is_sdp => {
                *resource = named;
                Ok(Reply::Offer(body(response).await?))
            }
            _ => Err(refused("our offer", status)),
        }
    }

    async fn patch(&self, answer: String, resource: Option<Resource>) -> Result<(), ConnectError> {
        let to = resource.ok_or_else(|| ConnectError::BadMessage {
            what: "406 answer",
            why: "its offer came without a Location to answer to".into(),
        })?;
        let mut request = self.request(Method::PATCH, &to.url, SDP).body(answer);
        if let Some(etag) = to.etag {
            request = request.header(IF_MATCH, etag);
        }
        let response = request.send().await.map_err(|e| unreachable("our answer", e))?;
        match response.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(()),
            status => Err(refused("our answer", status)),
        }
    }

    /// Tells the relay of a candidate. It may well do without: it sees where our checks come from.
    async fn trickle(&self, peer: &Peer, candidate: String, to: Option<&mut Resource>) {
        let (Some(fragment), Some(to)) = (peer.fragment(candidate), to) else { return };
        let matching = to.etag.clone();
        match self.patch_fragment(fragment, to, matching).await {
            Ok(response) => tracing::debug!(status = response.status().as_u16(), "told of a candidate"),
            Err(error) => tracing::debug!(%error, "a candidate could not be told"),
        }
    }

    /// Asks for another path. Every refusal is a reason to come anew, whatever its status: 405 of one that knows no
    /// such request, 412 and 422 of one whose state is another than ours, 404 of one that has forgotten us.
    async fn restart(&self, peer: &mut Peer, to: Option<&mut Resource>) -> Result<(), ConnectError> {
        let to = to.ok_or_else(|| ConnectError::MediaLost("the relay is silent".into()))?;
        let restart = peer.restart()?;
        let any = Some(HeaderValue::from_static("*"));
        let response = self.patch_fragment(restart.fragment.clone(), to, any).await?;
        let status = response.status();
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            // The session is no more: its farewell has got lost.
            return Err(ConnectError::Closed);
        }
        if status != StatusCode::OK {
            return Err(ConnectError::MediaLost(format!(
                "the relay is silent, and answers {} to an ICE restart",
                status.as_u16()
            )));
        }
        peer.restarted(restart, &body(response).await?).await
    }

    async fn patch_fragment(
        &self,
        fragment: String,
        to: &mut Resource,
        matching: Option<HeaderValue>,
    ) -> Result<Response, ConnectError> {
        let mut request = self.request(Method::PATCH, &to.url, FRAGMENT).body(fragment);
        if let Some(etag) = matching {
            request = request.header(IF_MATCH, etag);
        }
        let response = request.send().await.map_err(|e| unreachable("a change of ours", e))?;
        if let Some(etag) = response.headers().get(ETAG).filter(|_| response.status().is_success()) {
            to.etag = Some(etag.clone());
        }
        Ok(response)
    }

    /// The token goes where the meeting's request said and nowhere else, whatever a relay's `Location` names.
    fn request(&self, method: Method, to: &Url, content: HeaderValue) -> RequestBuilder {
        let request = self.client.request(method, to.clone()).header(CONTENT_TYPE, content);
        match self.token.as_ref().filter(|_| to.origin() == self.endpoint.origin()) {
            Some(token) => request.bearer_auth(&token.0),
            None => request,
        }
    }

    /// `DELETE`s our resource; a relay that does not take it notices our silence instead.
    async fn leave(&self, resource: Resource) {
        match timeout(LEAVE_DEADLINE, self.request(Method::DELETE, &resource.url, SDP).send()).await {
            Ok(Ok(response)) => tracing::debug!(status = response.status().as_u16(), "left the relay"),
            Ok(Err(error)) => tracing::debug!(error = %error.without_url(), "leaving the relay"),
            Err(_) => tracing::debug!("the relay took no leave in {LEAVE_DEADLINE:?}"),
        }
    }
}

/// The relay's refusal. Its body is not for whoever asked for the meeting: what answered may be no relay.
fn refused(request: &'static str, status: StatusCode) -> ConnectError {
    let problem = status.canonical_reason().unwrap_or("no known status");
    ConnectError::Refused { request, status: status.as_u16(), problem }
}

fn read(text: &str, side: Side) -> Result<Description, ConnectError> {
    let what = if side == Side::Answer { "SDP answer" } else { "SDP offer" };
    let description = sdp::read(text, side).map_err(|e| match e {
        SdpError::AudioRefused => ConnectError::Codec { codecs: "nothing that we offered".into() },
        e => ConnectError::BadMessage { what, why: e.to_string() },
    })?;
    let mut unheard = description.audio.iter().map(|audio| audio.unheard.clone());
    match unheard.clone().next().flatten() {
        Some(codecs) if unheard.all(|unheard| unheard.is_some()) => Err(ConnectError::Codec { codecs }),
        _ => Ok(description),
    }
}

/// Who is heard on which section, in the relay's order.
fn voices(description: &Description, side: Side) -> Result<(Vec<Present>, Voices), ConnectError> {
    let mut ids = vec![];
    let mut voices = Voices::new();
    for audio in &description.audio {
        let participant = participant(audio, &description.audio, side)
            .map_err(|e| ConnectError::BadMessage { what: "a=msid", why: e.to_string() })?;
        ids.push((participant.clone(), audio.unheard.clone()));
        voices.insert(audio.mid.clone(), Voice { participant, level: audio.level, takes_unnamed: true });
    }
    Ok((ids, voices))
}

fn participant(audio: &Audio, all: &[Audio], side: Side) -> Result<ParticipantId, crate::media::BadParticipantId> {
    let shared = |stream: &String| all.iter().filter(|a| a.stream.as_ref() == Some(stream)).count() > 1;
    let stream = audio.stream.as_ref().filter(|stream| !shared(stream));
    ParticipantId::new(match (stream, side) {
        (Some(stream), _) => stream,
        (None, Side::Answer) => ONLY,
        (None, Side::Offer | Side::OfferAhead) => &audio.mid,
    })
}

/// `Location`, which may be relative to where the request ended up.
fn location(response: &Response) -> Option<Url> {
    resolve(response.url(), response.headers().get(LOCATION)?)
}

/// A session is where it was made: a relay that names another origin would have us change and delete what is not its own.
fn resolve(base: &Url, location: &HeaderValue) -> Option<Url> {
    let url = base.join(location.to_str().ok()?).ok()?;
    if url.origin() != base.origin() {
        metrics::counter!("nearfield_edge_connect_foreign_sessions_total").increment(1);
        tracing::warn!("a relay names a session URL of another origin than its endpoint's: it is not spoken to");
        return None;
    }
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: std::time::SystemTime) -> Duration {
    let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim).unwrap_or_default();
    let seconds = || text.parse().ok().map(Duration::from_secs);
    let until = || httpdate::parse_http_date(text).ok().map(|at| at.duration_since(now).unwrap_or_default());
    seconds().or_else(until).unwrap_or(BUSY_PAUSE)
}

/// The TURN servers that are named.
fn servers(headers: &HeaderMap) -> Vec<IceServer> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(ice_server::linked).take(MAX_SERVERS).collect()
}

/// The body as text, if it is not too long.
async fn body(mut response: Response) -> Result<String, ConnectError> {
    let mut bytes = vec![];
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable("an answer's body", e))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BODY {
            return Err(ConnectError::BadMessage { what: "HTTP body", why: format!("over {MAX_BODY} bytes") });
        }
    }
    String::from_utf8(bytes).map_err(|_| ConnectError::BadMessage { what: "HTTP body", why: "not UTF-8".into() })
}

fn unreachable(what: &'static str, error: reqwest::Error) -> ConnectError {
    if error.is_timeout() {
        return ConnectError::Timeout { what: "an answer over HTTP", after: HTTP_DEADLINE };
    }
    // The innermost cause says what happened; the URL may hold a secret.
    let error = error.without_url();
    let causes = || std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    if let Some(denied) = causes().find_map(fault::denied) {
        return denied.clone().into();
    }
    let causes = causes();
    let last = causes.last().map(ToString::to_string).unwrap_or_default();
    ConnectError::Unreachable { cause: fault::of(&error), why: cut(&format!("{what}: {last}"), 200) }
}

#[cfg(test)]
mod tests;
