//! Reads a meeting's transcript as it is made, and shows it.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    net::SocketAddr,
    time::SystemTime,
};

use anyhow::Result;
use futures_util::{StreamExt, pin_mut};
use mesh::clock::Micros;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;

/// A segment, as far as the bench reads it.
#[derive(Debug, Clone, Deserialize)]
pub struct Segment {
    /// The same for all revisions.
    pub id: String,
    /// Who spoke.
    pub participant: Option<Speaker>,
    /// What.
    pub text: String,
    /// Whether it is the last word on the matter.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// From the meeting's first frame, in milliseconds.
    pub start_ms: u64,
    /// As above.
    pub end_ms: u64,
    /// Capture time of its first frame, RFC 3339.
    pub start_at: String,
    /// Capture time of the end of its last frame, RFC 3339.
    pub end_at: String,
    /// Its words.
    #[serde(default)]
    pub words: Vec<Word>,
    /// The edge that captured it.
    #[serde(default)]
    pub edge: Option<String>,
    /// On which step of the uplink's ladder it came.
    #[serde(default)]
    pub uplink: Option<String>,
    /// Unix microseconds at which its last frame passed each stage.
    pub timing: Timing,
}

/// A participant.
#[derive(Debug, Clone, Deserialize)]
pub struct Speaker {
    /// The platform's id.
    pub id: String,
    /// The display name.
    pub name: Option<String>,
}

/// A word with its place in the meeting.
#[derive(Debug, Clone, Deserialize)]
pub struct Word {
    /// As written.
    pub text: String,
    /// From the meeting's first frame, in milliseconds.
    pub start_ms: u64,
    /// As above.
    pub end_ms: u64,
}

/// When a segment's last frame passed each stage; zero where the core does not know yet.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Timing {
    /// Came off the edge's socket.
    pub captured: Micros,
    /// Decoded, or found not to need it.
    #[serde(deserialize_with = "or_zero")]
    pub decoded: Micros,
    /// The VAD had decided.
    #[serde(deserialize_with = "or_zero")]
    pub vad: Micros,
    /// Handed to QUIC.
    #[serde(deserialize_with = "or_zero")]
    pub sent: Micros,
    /// Reached the core.
    pub received: Micros,
    /// On the core's disk.
    pub durable: Micros,
    /// The words were there.
    pub words: Micros,
}

fn or_zero<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Micros, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// A segment and when it reached the reader.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// By the reader's clock.
    pub at: Micros,
    /// What came.
    pub segment: Segment,
}

/// Follows the transcript of `meeting` until it is done, showing it on standard output.
///
/// # Errors
/// The stream is refused or breaks.
#[allow(clippy::disallowed_methods, reason = "the reader's clock is what is measured")]
pub async fn follow(api: SocketAddr, meeting: String) -> Result<Vec<Delivery>> {
    let events = Client::new(api)?.events(&format!("/v1/meetings/{meeting}/transcript/stream")).await?;
    pin_mut!(events);
    let mut screen = Screen::new();
    let mut deliveries = vec![];
    while let Some(event) = events.next().await {
        let at = Micros::from_system(SystemTime::now());
        match event.name.as_str() {
            "transcript.partial" | "transcript.final" => {
                let delivery = Delivery { at, segment: serde_json::from_value(event.data)? };
                screen.show(&delivery);
                deliveries.push(delivery);
            }
            "done" => break,
            "meeting.status_changed" => screen.status(&event.data),
            _ => {}
        }
    }
    screen.clear();
    Ok(deliveries)
}

/// Finals get a line each; on a terminal the partials of the moment stand below them and are
/// overwritten.
struct Screen {
    live: bool,
    partials: BTreeMap<String, String>,
}

impl Screen {
    fn new() -> Self {
        Self { live: std::io::stdout().is_terminal(), partials: BTreeMap::new() }
    }

    fn show(&mut self, delivery: &Delivery) {
        let Delivery { at, segment } = delivery;
        let speaker = segment.participant.as_ref().map_or("(unknown)", |p| p.name.as_deref().unwrap_or(&p.id));
        let stamp = format!("{:7.1} s  {speaker:<7}", segment.start_ms as f64 / 1000.0);
        if segment.is_final {
            self.partials.remove(&segment.id);
            self.clear();
            let delay = at.since(segment.timing.captured).as_secs_f64();
            println!("  {stamp} {}  [{delay:.2} s after the last sound]", segment.text);
        } else {
            self.partials.insert(segment.id.clone(), format!("{stamp} {} …", segment.text));
        }
        self.draw();
    }

    fn status(&mut self, data: &Value) {
        if let Some(status) = data["status"].as_str() {
            self.clear();
            println!("  meeting is {status}");
            self.draw();
        }
    }

    fn draw(&self) {
        if self.live
            && let Some(text) = self.partials.values().next_back()
        {
            let shown: String = text.chars().take(110).collect();
            print!("\r\x1b[K\x1b[2m  {shown}\x1b[0m");
            let _ = std::io::stdout().flush();
        }
    }

    fn clear(&self) {
        if self.live {
            print!("\r\x1b[K");
            let _ = std::io::stdout().flush();
        }
    }
}
