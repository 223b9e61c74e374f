//! What is said in the meetings: a few scripts, encoded once, from which every meeting takes its packets.

use std::{path::Path, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use clap::ValueEnum;

use crate::{
    relay::voice::{Encoding, Voice},
    speech::{self, Manner, Prompt, Script},
};

/// How long a script is before it begins anew.
const LENGTH: Duration = Duration::from_secs(20);
/// Packets in it.
pub(super) const PACKETS: usize = LENGTH.as_millis() as usize / 20;
/// Different scripts.
const SCRIPTS: usize = 3;

/// Who talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Talking {
    /// One at a time, nearly always one.
    One,
    /// Everybody, all the time.
    All,
}

/// One packet, ready but for its RTP header.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    /// The RFC 6464 byte: level and voice bit.
    pub(super) level: u8,
    /// The Opus packet.
    pub(super) payload: Bytes,
}

/// The scripts: by script, participant and 20 ms.
#[derive(Debug, Clone)]
pub(super) struct Voices {
    scripts: Vec<Vec<Vec<Packet>>>,
}

impl Voices {
    /// Encodes them; the same arguments give the same packets in every process.
    pub(super) fn encode(folder: &Path, people: usize, talking: Talking) -> Result<Self> {
        let prompts = speech::load(&folder.join("en"))?;
        let script = |n: usize| (0..people).map(|who| track(&prompts, n as u64, people, who, talking)).collect();
        Ok(Self { scripts: (0..SCRIPTS).map(script).collect::<Result<_>>()? })
    }

    /// The packet of `tick` that participant `who` of a meeting sends.
    pub(super) fn packet(&self, meeting: usize, who: usize, tick: u64) -> &Packet {
        let packets = &self.scripts[meeting % SCRIPTS][who];
        // Meetings with the same script are at different places in it.
        &packets[(tick as usize + meeting * 137) % packets.len()]
    }
}

fn track(prompts: &[Prompt], seed: u64, people: usize, who: usize, talking: Talking) -> Result<Vec<Packet>> {
    let ms = Duration::from_millis;
    let manner = Manner { overlap: 0.0, over: ms(0)..ms(1), pause: ms(50)..ms(250), breath: ms(0) };
    let samples = match talking {
        Talking::One => Script::generate(seed, people, LENGTH, prompts, &manner).track(who),
        Talking::All => Script::generate(seed * 1000 + who as u64, 1, LENGTH, prompts, &manner).track(0),
    };
    let voice = Voice::encode("", "", samples, PACKETS, Encoding::BROWSER)?;
    let packets = voice.packets.into_iter().flatten();
    Ok(packets.map(|p| Packet { level: u8::from(p.voice) << 7 | p.level, payload: p.payload }).collect())
}
