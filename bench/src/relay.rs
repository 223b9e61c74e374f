//! The stand-in meeting relay: real WebRTC over WHEP, with voices known to the sample.
//!
//! *Follow one packet:* a participant's samples are encoded once (`voice`); one clock sends every
//! voice to every subscriber and notes when (`meeting`); each subscriber is a connection of its own
//! (`subscriber`), made over HTTP (`whep`). Or all voices go to a Janus as publishers of one of its rooms (`room`).
//!
//! | request | reply |
//! |---|---|
//! | `POST /whep/{meeting}` | 406 with an offer of one section per voice, or 201 with an answer ([`Reply`]) |
//! | `POST /whep/{meeting}/{participant}` | 201 with an answer: that voice alone |
//! | `PATCH`, `DELETE /session/{id}` | the answer to an offer; the end |
//! | `POST /start` | the script begins |
//! | `GET /state` | [`State`] |
//! | `GET /sent`, `GET /said` | every packet sent to somebody, or due at all, by participant: lists of [`Sent`] |

#![allow(clippy::disallowed_methods, reason = "a stand-in: no node goes on without its tasks")]

mod meeting;
pub mod room;
mod subscriber;
pub mod voice;
mod whep;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};

use self::{
    meeting::Meeting,
    voice::{Encoding, Voice},
    whep::App,
};
pub use self::{
    meeting::{ParticipantState, Sent, Start, State},
    whep::Reply,
};

/// The quiet sent after the longest voice has ended.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Options of `bench relay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plan: a JSON file
    #[arg(long)]
    plan: PathBuf,
}

/// What a relay process is to do: a JSON file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where HTTP is served, and the address from which media is sent.
    pub listen: SocketAddr,
    /// The meeting's name in its URL.
    pub meeting: String,
    /// How the meeting's endpoint replies.
    #[serde(default)]
    pub reply: Reply,
    /// When the script begins.
    #[serde(default)]
    pub start: Start,
    /// Milliseconds between that moment and the first sample, for connections to settle.
    #[serde(default = "settle_ms")]
    pub settle_ms: u64,
    /// Bits per second of each voice, 6000 to 128000.
    #[serde(default = "bitrate")]
    pub bitrate: u32,
    /// Whether voices stop sending in silence.
    #[serde(default)]
    pub dtx: bool,
    /// The room of a Janus that the voices go into once the script begins, rather than to subscribers.
    #[serde(default)]
    pub janus: Option<room::Plan>,
    /// Who speaks; at least one.
    pub participants: Vec<Participant>,
}

/// A participant of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participant {
    /// The platform's id, which is the media stream id of the participant's section: 1 to 64
    /// letters, digits, `-` or `_`.
    pub id: String,
    /// What the platform shows.
    pub name: String,
    /// The samples, in a file of their own.
    pub pcm: PathBuf,
}

/// What a participant says, from the script's first moment: 16 kHz, mono.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The platform's id.
    pub id: String,
    /// What the platform shows.
    pub name: String,
    /// The samples.
    pub samples: Vec<i16>,
}

/// How the relay behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The meeting's name in its URL.
    pub meeting: String,
    /// How the meeting's endpoint replies.
    pub reply: Reply,
    /// When the script begins.
    pub start: Start,
    /// Time between that moment and the first sample.
    pub settle: Duration,
    /// How voices are encoded.
    pub encoding: Encoding,
    /// A Janus' room they go into.
    pub janus: Option<room::Plan>,
}

/// A relay at work, which ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    at: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

fn settle_ms() -> u64 {
    1000
}

fn bitrate() -> u32 {
    24_000
}

/// Serves a plan until the process is stopped.
///
/// # Errors
/// The plan or one of its files cannot be read or makes no sense, or the address cannot be had.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let plan = Plan::load(&args.plan)?;
    let listen = plan.listen;
    let (settings, timelines) = plan.read()?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let relay = serve(listener, settings, timelines).await?;
    tracing::info!(at = %relay.at, "the relay is open");
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Opens a relay: encodes the voices, then answers on `listener`, and sends media from its address.
///
/// # Errors
/// The listener has no address, or the voices cannot be encoded.
pub async fn serve(listener: TcpListener, settings: Settings, timelines: Vec<Timeline>) -> anyhow::Result<Relay> {
    let at = listener.local_addr()?;
    let encoding = settings.encoding;
    let voices = tokio::task::spawn_blocking(move || encode(timelines, encoding)).await??;
    let meeting = Arc::new(Meeting::new(voices));
    let app = App {
        meeting: meeting.clone(),
        name: settings.meeting.into(),
        reply: settings.reply,
        start: settings.start,
        media: at.ip(),
    };
    let http = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, whep::router(app)).await {
            tracing::error!(%error, "the relay answers no more");
        }
    });
    let clock = tokio::spawn(async move {
        if let Err(error) = meeting.play(settings.settle, settings.janus.as_ref()).await {
            tracing::error!(%error, "the script cannot begin");
        }
    });
    Ok(Relay { at, tasks: vec![http, clock] })
}

fn encode(timelines: Vec<Timeline>, encoding: Encoding) -> Result<Vec<Voice>, opus::Error> {
    let longest = timelines.iter().map(|timeline| timeline.samples.len()).max().unwrap_or(0);
    let packets = voice::packets(longest + AFTERWARDS.as_secs() as usize * voice::SAMPLE_RATE as usize);
    let encode = |line: Timeline| Voice::encode(&line.id, &line.name, line.samples, packets, encoding);
    timelines.into_iter().map(encode).collect()
}

impl Relay {
    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Plan {
    /// The plan in a file.
    ///
    /// # Errors
    /// The file cannot be read, is no plan, or has a value that is not allowed; the error names it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let plan: Self = serde_json::from_str(&text).with_context(|| format!("{} is not a plan", path.display()))?;
        plan.check().with_context(|| path.display().to_string())?;
        Ok(plan)
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.listen.ip().is_unspecified(), "listen: {} is no host's own address", self.listen);
        anyhow::ensure!((6000..=128_000).contains(&self.bitrate), "bitrate: {} is not 6000 to 128000", self.bitrate);
        anyhow::ensure!(!self.participants.is_empty(), "participants: nobody speaks");
        for Participant { id, .. } in &self.participants {
            let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let fits = plain && (1..=64).contains(&id.len());
            anyhow::ensure!(fits, "participants: `{id}` is not 1 to 64 letters, digits, `-` or `_`");
            let times = self.participants.iter().filter(|other| other.id == *id).count();
            anyhow::ensure!(times == 1, "participants: `{id}` is there {times} times");
        }
        Ok(())
    }

    fn read(self) -> anyhow::Result<(Settings, Vec<Timeline>)> {
        let timeline = |Participant { id, name, pcm }| {
            let samples = read_pcm(&pcm).with_context(|| format!("cannot read {}", pcm.display()))?;
            Ok(Timeline { id, name, samples })
        };
        let timelines = self.participants.into_iter().map(timeline).collect::<anyhow::Result<_>>()?;
        let settings = Settings {
            meeting: self.meeting,
            reply: self.reply,
            start: self.start,
            settle: Duration::from_millis(self.settle_ms),
            encoding: Encoding::wideband(self.bitrate, self.dtx),
            janus: self.janus,
        };
        Ok((settings, timelines))
    }
}

/// Writes samples as a [`Participant`]'s file has them: 16 bit little endian, nothing else.
///
/// # Errors
/// The file cannot be written.
pub fn write_pcm(path: &Path, samples: &[i16]) -> io::Result<()> {
    fs::write(path, samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>())
}

fn read_pcm(path: &Path) -> io::Result<Vec<i16>> {
    let bytes = fs::read(path)?;
    Ok(bytes.as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> anyhow::Result<Plan> {
        let plan: Plan = serde_json::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    const ADA: &str = r#"{"id": "ada", "name": "Ada", "pcm": "ada.pcm"}"#;

    #[test]
    fn a_short_plan_has_the_usual_settings() {
        let text = format!(r#"{{"listen": "10.77.0.9:8080", "meeting": "m", "participants": [{ADA}]}}"#);
        let plan = plan(&text).expect("a plan");
        assert_eq!((plan.reply, plan.start, plan.settle_ms), (Reply::Offer, Start::FirstSubscriber, 1000));
        assert_eq!((plan.bitrate, plan.dtx), (24_000, false));
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_with_the_reason() {
        let refuse = |fields: &str, participants: &str| {
            let text = format!(r#"{{"meeting": "m", {fields}, "participants": [{participants}]}}"#);
            plan(&text).expect_err("refused").to_string()
        };
        let here = r#""listen": "127.0.0.1:0""#;
        assert!(refuse(here, "").contains("nobody speaks"));
        assert!(refuse(here, &format!("{ADA}, {ADA}")).contains("2 times"));
        assert!(refuse(here, &ADA.replace(r#""ada""#, r#""a b""#)).contains("`a b`"));
        assert!(refuse(r#""listen": "0.0.0.0:80""#, ADA).contains("listen"));
        assert!(refuse(&format!(r#"{here}, "bitrate": 1"#), ADA).contains("bitrate"));
        assert!(refuse(&format!(r#"{here}, "colour": 1"#), ADA).contains("colour"));
    }

    #[test]
    fn samples_survive_their_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.pcm");
        let samples = vec![0, 1, -1, i16::MAX, i16::MIN];
        write_pcm(&path, &samples).expect("written");
        assert_eq!(read_pcm(&path).expect("read"), samples);
    }
}
