//! Recorded voices through the edge's media path: of long turns only a part is listened to, and all of it goes out.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bench::{
    relay::voice::{self, Encoding, Packet, Voice},
    speech::{self, Manner, Prompt, Script},
};
use edge_node::{
    media::{AudioLevel, ParticipantId, RtpPacket},
    pipeline::{Output, Pipeline, Settings},
};
use mesh::{
    clock::Micros,
    wire::{request::VadSettings, spurt::Item},
};

const PACKET: Duration = Duration::from_millis(20);
const TURN: Duration = Duration::from_secs(20);

/// Two long turns of several sentences with short pauses, and a quiet room before, between and after.
fn packets(seed: u64, prompts: &[Prompt], encoding: Encoding) -> Vec<Packet> {
    let ms = Duration::from_millis;
    let manner = Manner { overlap: 0.0, over: ms(0)..ms(1), pause: ms(100)..ms(400), breath: ms(0) };
    let script = |n| Script::generate(seed * 10 + n, 1, TURN, prompts, &manner);
    // Nobody is called 1.
    let (turn, quiet) = (|n| script(n).track(0), |n| script(n).track(1));
    let samples = [quiet(1), turn(1), quiet(2), turn(2), quiet(3)].concat();
    let count = voice::packets(samples.len());
    Voice::encode("ada", "Ada", samples, count, encoding).unwrap().packets.into_iter().flatten().collect()
}

/// Which packets came out, and how many were decoded.
fn forwarded(packets: &[Packet], settings: Settings) -> (BTreeSet<usize>, u64) {
    let mut pipeline = Pipeline::new(VadSettings::default(), settings);
    let (start, id) = (Instant::now(), ParticipantId::new("ada").unwrap());
    let (mut begun, mut out) = (0, BTreeSet::new());
    let mut collect = |pipeline: &mut Pipeline| {
        while let Some(output) = pipeline.poll_output() {
            match output {
                Output::Start { captured: at, .. } => begun = at.0,
                Output::Item { offset, item: Item::Frame(_), .. } => {
                    out.insert(((begun + u64::from(offset) * 20_000) / 20_000) as usize);
                }
                _ => {}
            }
        }
    };
    for (n, packet) in packets.iter().enumerate() {
        let (now, wall) = (start + PACKET * n as u32, Micros(20_000 * n as u64));
        let level = AudioLevel { dbov: packet.level, voice: packet.voice };
        let packet = RtpPacket {
            participant: id.clone(),
            source: 1,
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            level: Some(level),
            payload: packet.payload.clone(),
            arrived: now,
            arrived_at: wall,
        };
        pipeline.handle_packet(packet, now);
        collect(&mut pipeline);
    }
    pipeline.finish(start + PACKET * packets.len() as u32, Micros(20_000 * packets.len() as u64));
    collect(&mut pipeline);
    (out, pipeline.totals().packets_decoded)
}

#[test]
fn all_that_is_said_goes_out_though_a_third_is_not_listened_to() {
    let cached = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/speech/en");
    let folder = std::env::var_os("NEARFIELD_SPEECH").map_or_else(cached, PathBuf::from);
    let prompts = speech::load(&folder).unwrap();
    let mut all = Settings::default();
    all.gate.encoder_vad.longest = Duration::ZERO;
    for encoding in [Encoding::BROWSER, Encoding::wideband(24_000, false)] {
        let (mut whole, mut part) = (0, 0);
        for seed in 1..5 {
            let packets = packets(seed, &prompts, encoding);
            let (out, decoded) = forwarded(&packets, Settings::default());
            let missing: Vec<usize> = (0..packets.len()).filter(|n| packets[*n].voice && !out.contains(n)).collect();
            assert!(missing.is_empty(), "seed {seed}: packets of speech are missing: {missing:?}");
            part += decoded;
            whole += forwarded(&packets, all.clone()).1;
        }
        println!("{encoding:?}: {part} of {whole} decoded");
        assert!(part * 4 < whole * 3, "{encoding:?}: {part} of {whole} decoded");
    }
}
