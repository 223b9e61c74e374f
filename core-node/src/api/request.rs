//! What may be asked of a new meeting.

use std::{collections::BTreeMap, sync::LazyLock};

use geo::RegionId;
use jiff::Timestamp;
use mesh::{
    clock::Micros,
    wire::request::{LiveKitAccess, Secret, Source, VadSettings},
};
use reqwest::Url;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    body::Body,
    problem::Problem,
    shape::{Fault, Shape},
};
use crate::{
    meeting::wall,
    store::{
        MAX_DEPTH, is_within,
        record::{LeaveRules, Spec},
    },
    transcript::timestamp,
};

const MAX_METADATA: usize = 16 * 1024;
const MAX_TEXT: usize = 2048;
const MAX_KEY: usize = 256;
const MAX_PLACES: usize = 32;
const MAX_NAMES: usize = 500;
/// In seconds.
const WEEK: i64 = 7 * 86_400;

/// A meeting to be captured.
#[derive(Deserialize, ToSchema)]
#[schema(examples(json!({"source": {"kind": "whep", "url": "https://relay.example/whep/standup"}})))]
#[serde(deny_unknown_fields)]
pub(super) struct CreateMeeting {
    /// The meeting's own address, for people; it is kept, not used.
    meeting_url: Option<String>,
    source: SourceBody,
    #[serde(default)]
    placement: PlacementBody,
    #[serde(default)]
    transcription: TranscriptionBody,
    #[serde(default)]
    vad: VadBody,
    /// Your own data, at most 16 KiB and 16 deep.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: serde_json::Map<String, serde_json::Value>,
    /// At most one live meeting has it: another is refused with 409.
    deduplication_key: Option<String>,
    /// How many edges capture it at a time: 2 for one that no failure of an edge may cost a word.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 2)]
    redundancy: u8,
    #[serde(default)]
    leave: LeaveBody,
}

/// When the meeting is left without being asked. It is `done` then, and `sub_code` says `alone` or `deadline`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct LeaveBody {
    /// Once no participant has been in it for so long, also if none ever came; `null`: never. A participant is whoever
    /// sends audio or may: of a VideoRoom its publishers, of a WHEP endpoint its streams.
    #[schema(minimum = 1, maximum = 86400)]
    alone_after_seconds: Option<u32>,
    /// At this time, RFC 3339, within a week; not together with `after_seconds`.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<Timestamp>,
    /// So long after this request.
    #[schema(minimum = 1, maximum = 604800)]
    after_seconds: Option<u32>,
}

impl Default for LeaveBody {
    fn default() -> Self {
        Self { alone_after_seconds: LeaveRules::default().alone_after_seconds, at: None, after_seconds: None }
    }
}

impl LeaveBody {
    /// The checked rules of a meeting asked for at `now`.
    fn checked(self, now: Timestamp, faults: &mut Faults) -> LeaveRules {
        let alone = self.alone_after_seconds;
        let both = self.at.is_some() && self.after_seconds.is_some();
        faults.ensure(!both, "leave.at", "absent where `after_seconds` is given");
        let after = self.after_seconds;
        let ahead = |at: Timestamp| (1..=WEEK * 1_000_000).contains(&(at.as_microsecond() - now.as_microsecond()));
        faults.ensure(self.at.is_none_or(ahead), "leave.at", "a time to come, within a week");
        let at = self.at.map(Timestamp::as_microsecond);
        let at = at.or(after.map(|s| now.as_microsecond() + i64::from(s) * 1_000_000));
        LeaveRules { alone_after_seconds: alone, at: at.map(|at| Micros(at.unsigned_abs())) }
    }
}

fn one() -> u8 {
    1
}

/// The way into the meeting.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum SourceBody {
    /// A WHEP endpoint (draft-ietf-wish-whep).
    #[schema(title = "WhepSource")]
    Whep {
        /// `http://` or `https://`.
        url: String,
        /// Bearer token.
        token: Option<String>,
        /// Display names by the stream id in `a=msid`.
        #[serde(default)]
        participants: Names,
        /// The endpoint takes one receiver at a time: two edges cannot capture it.
        #[serde(default)]
        single_receiver: bool,
    },
    /// A Janus VideoRoom.
    #[schema(title = "JanusSource")]
    Janus {
        /// `ws://` or `wss://`.
        url: String,
        /// Room number; its name where Janus is run with `string_ids`.
        room: RoomBody,
        /// The room's PIN.
        pin: Option<String>,
        /// A signed token of Janus's own.
        token: Option<String>,
        /// Janus's API secret.
        api_secret: Option<String>,
        /// The name to join under.
        #[serde(default = "display")]
        display: String,
    },
    /// A LiveKit room. Give `token`, or `key`, `secret` and `room`.
    #[serde(rename = "livekit")]
    #[schema(title = "LiveKitSource")]
    LiveKit {
        /// `ws://` or `wss://`.
        url: String,
        /// A token that lets one participant join one room and subscribe.
        token: Option<String>,
        /// An API key of the server's: each time the room is joined a token is made of it that is good for ten minutes, hidden, and
        /// lets nobody do more than listen.
        key: Option<String>,
        /// The key's secret.
        secret: Option<String>,
        /// The room's name.
        room: Option<String>,
    },
    /// A stream of Zoom's Realtime Media Streams, as `meeting.rtms_started` tells of it.
    #[schema(title = "ZoomRtmsSource")]
    ZoomRtms {
        /// Of the signalling, as Zoom calls it: a `wss://` URL, or several with commas between them, of which the first is used.
        /// `ws://` where the edge's operator allows it.
        server_urls: String,
        /// Zoom's id of the meeting's instance.
        meeting_uuid: String,
        /// The stream's id.
        rtms_stream_id: String,
        /// The app's id.
        client_id: String,
        /// The app's secret.
        client_secret: String,
    },
}

/// Display names by the stream id in `a=msid`.
// With a name of its own in the document: some generators of clients make two of what is written out within a variant.
#[derive(Deserialize, Default, ToSchema)]
struct Names(BTreeMap<String, String>);

/// What a VideoRoom is called.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum RoomBody {
    /// As is usual.
    Number(u64),
    /// With `string_ids`.
    Name(String),
}

fn display() -> String {
    "Nearfield".into()
}

/// Where the edge may be.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields, default)]
struct PlacementBody {
    /// Residency groups (`eu`) or regions (`eu-central`) that may touch the meeting; empty for all.
    residency: Vec<String>,
    /// Regions to prefer, the dearest first.
    #[schema(value_type = Vec<String>)]
    prefer: Vec<RegionId>,
    /// No edge farther from the relay than this.
    #[schema(minimum = 1, maximum = 1000)]
    max_rtt_ms: Option<u32>,
    /// `host:port` at which the relay's media server answers STUN (RFC 8489) over UDP: edges then measure the way that
    /// the media takes, and not the one to the signalling.
    stun: Option<String>,
}

/// How words are made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct TranscriptionBody {
    /// Spoken language, ISO 639; absent: detected.
    language: Option<String>,
    /// Whether partial results are wanted.
    interim: bool,
    /// Whether noise is taken out of what the engine hears; never of what is stored. Absent: as the core is set, which is not
    /// to, unless its configuration says so.
    noise_suppression: Option<bool>,
}

impl Default for TranscriptionBody {
    fn default() -> Self {
        Self { language: None, interim: true, noise_suppression: None }
    }
}

/// How speech is told from silence.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct VadBody {
    /// Audio kept from before the onset.
    #[schema(minimum = 0, maximum = 2000)]
    preroll_ms: u16,
    /// Quiet that ends a talk spurt.
    #[schema(minimum = 100, maximum = 3000)]
    hangover_ms: u16,
}

impl Default for VadBody {
    fn default() -> Self {
        let VadSettings { preroll_ms, hangover_ms } = VadSettings::default();
        Self { preroll_ms, hangover_ms }
    }
}

impl Body for CreateMeeting {
    fn shape() -> &'static Shape {
        static SHAPE: LazyLock<Shape> = LazyLock::new(Shape::of::<CreateMeeting>);
        &SHAPE
    }
}

impl CreateMeeting {
    /// The checked request; of one that is not allowed, all that is wrong. What its shape says is checked already.
    pub(super) fn into_spec(self) -> Result<Spec, Problem> {
        let mut faults = Faults::default();
        check_lengths(&self, &mut faults);
        let language = self.transcription.language;
        let code = |l: &String| (2..=3).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_lowercase());
        faults.ensure(language.as_ref().is_none_or(code), "transcription.language", "an ISO 639 code such as `en`");
        if let Some(why) = self.source.single_receiver().filter(|_| self.redundancy > 1) {
            let detail = format!("`redundancy` must be 1 for this source: {why}.");
            faults.0.push(Fault::new("single_receiver", "redundancy", detail));
        }
        faults.ensure(self.placement.stun.as_deref().is_none_or(is_address), "placement.stun", "`host:port`");
        let spec = Spec {
            source: self.source.checked(&mut faults),
            meeting_url: self.meeting_url,
            residency: self.placement.residency,
            prefer: self.placement.prefer,
            max_rtt_ms: self.placement.max_rtt_ms,
            stun: self.placement.stun,
            language,
            interim: self.transcription.interim,
            noise_suppression: self.transcription.noise_suppression,
            vad: VadSettings { preroll_ms: self.vad.preroll_ms, hangover_ms: self.vad.hangover_ms },
            metadata: self.metadata,
            deduplication_key: self.deduplication_key,
            redundancy: self.redundancy,
            leave: self.leave.checked(timestamp(wall()), &mut faults),
        };
        if faults.0.is_empty() { Ok(spec) } else { Err(Problem::of_body(faults.0)) }
    }
}

/// Whether what is written of it can be read again.
fn readable(metadata: &serde_json::Map<String, serde_json::Value>) -> bool {
    let written = serde_json::to_vec(metadata);
    written.is_ok_and(|w| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&w).is_ok())
}

fn check_lengths(body: &CreateMeeting, faults: &mut Faults) {
    let metadata = serde_json::to_vec(&body.metadata).map_or(usize::MAX, |m| m.len());
    faults.ensure(metadata <= MAX_METADATA, "metadata", "an object of at most 16384 bytes");
    let shallow = body.metadata.values().all(|value| is_within(value, MAX_DEPTH - 1));
    faults.ensure(shallow, "metadata", "an object nested at most 16 deep, itself included");
    faults.ensure(readable(&body.metadata), "metadata", "made of values that can be read back: a number is too great");
    let url = body.meeting_url.as_ref();
    faults.ensure(url.is_none_or(|u| u.len() <= MAX_TEXT), "meeting_url", "at most 2048 bytes long");
    let key = body.deduplication_key.as_ref();
    faults.ensure(key.is_none_or(|k| (1..=MAX_KEY).contains(&k.len())), "deduplication_key", "1 to 256 bytes long");
    faults.ensure(body.placement.residency.len() <= MAX_PLACES, "placement.residency", "at most 32 names");
    faults.ensure(body.placement.prefer.len() <= MAX_PLACES, "placement.prefer", "at most 32 regions");
}

impl SourceBody {
    /// Why no more than one edge can receive from it at a time; `None` if several can. To be answered for each way in:
    /// Zoom's, for one, has one receiver.
    fn single_receiver(&self) -> Option<&'static str> {
        match self {
            Self::Whep { single_receiver: true, .. } => Some("its endpoint takes one receiver at a time"),
            Self::LiveKit { token: Some(_), .. } => Some("its token is for one participant, who is in the room once"),
            Self::ZoomRtms { .. } => Some("Zoom sends a stream to one receiver at a time"),
            // Each subscriber of a VideoRoom, each WHEP resource and each token made of a key is a session of its own.
            Self::Whep { .. } | Self::Janus { .. } | Self::LiveKit { .. } => None,
        }
    }

    fn checked(self, faults: &mut Faults) -> Source {
        match self {
            Self::Whep { url, token, participants: Names(participants), .. } => {
                faults.url("source.url", &url, &["http", "https"]);
                faults.ensure(participants.len() <= MAX_NAMES, "source.participants", "at most 500 names");
                let short = participants.iter().all(|(id, name)| id.len() <= MAX_KEY && name.len() <= MAX_KEY);
                faults.ensure(short, "source.participants", "ids and names of at most 256 bytes");
                let participants = participants.into_iter().collect();
                Source::Whep { url, token: faults.secret(token, "source.token"), participants }
            }
            Self::Janus { url, room, pin, token, api_secret, display } => {
                faults.url("source.url", &url, &["ws", "wss"]);
                faults.ensure((1..=MAX_KEY).contains(&display.len()), "source.display", "1 to 256 bytes long");
                let (pin, token) = (faults.secret(pin, "source.pin"), faults.secret(token, "source.token"));
                let api_secret = faults.secret(api_secret, "source.api_secret");
                match room {
                    RoomBody::Number(room) => Source::Janus { url, room, pin, token, api_secret, display },
                    RoomBody::Name(room) => {
                        let length = (1..=MAX_KEY).contains(&room.len());
                        faults.ensure(length, "source.room", "a number, or 1 to 256 bytes long");
                        Source::JanusNamed { url, room, pin, token, api_secret, display }
                    }
                }
            }
            Self::LiveKit { url, token, key, secret, room } => {
                faults.url("source.url", &url, &["ws", "wss"]);
                let (key, secret) = (faults.secret(key, "source.key"), faults.secret(secret, "source.secret"));
                let token = faults.secret(token, "source.token");
                Source::LiveKit { url, access: faults.livekit(token, (key, secret, room)) }
            }
            Self::ZoomRtms { server_urls, meeting_uuid, rtms_stream_id: stream_id, client_id, client_secret } => {
                let url = server_urls.split(',').next().unwrap_or_default().trim().to_owned();
                faults.url("source.server_urls", &url, &["wss", "ws"]);
                for (field, id) in [
                    ("source.meeting_uuid", &meeting_uuid),
                    ("source.rtms_stream_id", &stream_id),
                    ("source.client_id", &client_id),
                    ("source.client_secret", &client_secret),
                ] {
                    faults.ensure((1..=MAX_KEY).contains(&id.len()), field, "1 to 256 bytes long");
                }
                let client_secret = Some(Secret(client_secret));
                Source::ZoomRtms { url, meeting_uuid, stream_id, client_id, client_secret }
            }
        }
    }
}

/// What is wrong with a request, so far.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn ensure(&mut self, holds: bool, field: &str, allowed: &str) {
        if !holds {
            self.0.push(Fault::new("invalid_field", field, format!("`{field}` must be {allowed}.")));
        }
    }

    fn secret(&mut self, text: Option<String>, field: &str) -> Option<Secret> {
        self.ensure(text.as_ref().is_none_or(|t| t.len() <= MAX_TEXT), field, "at most 2048 bytes long");
        text.map(Secret)
    }

    /// A token, or what one is made of; not both, and not a part of it.
    fn livekit(
        &mut self,
        token: Option<Secret>,
        parts: (Option<Secret>, Option<Secret>, Option<String>),
    ) -> Option<LiveKitAccess> {
        match (token, parts) {
            (Some(token), (None, None, None)) => Some(LiveKitAccess::Token(token)),
            (None, (Some(key), Some(secret), Some(room))) => {
                self.ensure((1..=MAX_KEY).contains(&room.len()), "source.room", "1 to 256 bytes long");
                Some(LiveKitAccess::Key { key, secret, room })
            }
            _ => {
                self.ensure(false, "source.token", "given, or else `key`, `secret` and `room`, all three");
                None
            }
        }
    }

    fn url(&mut self, field: &str, url: &str, schemes: &[&str]) {
        let parsed = Url::parse(url).ok().filter(|_| url.len() <= MAX_TEXT);
        let fits = parsed.is_some_and(|u| schemes.contains(&u.scheme()) && u.has_host());
        let allowed = format!("a {} URL with a host, at most 2048 bytes long", schemes.join(" or "));
        self.ensure(fits, field, &allowed);
    }
}

/// `host:port`; an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let whole = Url::parse(&format!("stun://{text}/")).ok().filter(|_| text.len() <= MAX_KEY);
    whole.is_some_and(|url| url.has_host() && url.port().is_some_and(|port| port > 0) && is_only_authority(&url))
}

fn is_only_authority(url: &Url) -> bool {
    url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
}
