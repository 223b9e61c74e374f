//! Who speaks in the simulator's meeting.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use bench::speech::Prompt;
use opus::{Application, Channels, Encoder};
use serde_json::{Value, json};

/// What a piece of audio holds.
pub(super) const FRAME: Duration = Duration::from_millis(20);
/// Samples in it.
const SAMPLES: usize = 320;
/// After each sentence: so long of silence that is sent,
const QUIET: usize = 40;
/// and so long of nothing, as when somebody is muted; in pieces.
const MUTED: usize = 110;

/// Somebody, and what they say over and over.
pub(in super::super) struct Says {
    pub(in super::super) user: u32,
    pub(in super::super) name: &'static str,
    pub(in super::super) prompt: Prompt,
}

pub(super) struct Voice {
    pub(super) says: Says,
    at: usize,
    encoder: Encoder,
}

/// 20 ms of somebody.
pub(super) struct Piece {
    user: u32,
    name: &'static str,
    pub(super) time: u64,
    samples: Vec<i16>,
}

impl Voice {
    pub(super) fn new(says: Says) -> Self {
        Self { says, at: 0, encoder: Encoder::new(16_000, Channels::Mono, Application::Voip).unwrap() }
    }

    pub(super) fn next(&mut self, time: u64) -> Option<Piece> {
        let spoken = self.says.prompt.samples.len().div_ceil(SAMPLES);
        let at = self.at;
        self.at = (at + 1) % (spoken + QUIET + MUTED);
        if at >= spoken + QUIET {
            return None;
        }
        let mut samples: Vec<i16> = self.says.prompt.samples.iter().skip(at * SAMPLES).take(SAMPLES).copied().collect();
        samples.resize(SAMPLES, 0);
        Some(Piece { user: self.says.user, name: self.says.name, time, samples })
    }
}

/// As it is sent.
pub(super) fn message(piece: &Piece, opus: bool, voices: &mut [Voice]) -> Value {
    let voice = voices.iter_mut().find(|voice| voice.says.user == piece.user);
    let data = match voice.filter(|_| opus) {
        Some(voice) => voice.encoder.encode_vec(&piece.samples, 1000).unwrap(),
        None => piece.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
    };
    let data = BASE64_STANDARD.encode(data);
    let content = json!({"user_id": piece.user, "user_name": piece.name, "data": data, "timestamp": piece.time});
    json!({"msg_type": 14, "content": content})
}
