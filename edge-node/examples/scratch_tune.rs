//! scratch
#![allow(clippy::all, clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use std::time::{Duration, Instant};
use bytes::Bytes;
use edge_node::{media::*, pipeline::*};
use mesh::{clock::Micros, wire::{request::VadSettings, spurt::Item}};
use opus::{Application, Bitrate, Channels, Encoder};

fn rnd(s: &mut u64) -> u64 { *s ^= *s << 13; *s ^= *s >> 7; *s ^= *s << 17; *s >> 11 }
fn db(pcm: &[i16]) -> f64 { let p = pcm.iter().map(|s| (*s as f64 / 32768.).powi(2)).sum::<f64>() / pcm.len() as f64; 10. * (p + 1e-13).log10() }

fn main() {
    let dir = "/tmp/deb/s/usr/share/asterisk/sounds/en_US_f_Allison";
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "g722")).collect();
    files.sort();
    let prompts: Vec<Vec<i16>> = files.iter().step_by(3).map(|f| {
        let mut d = ezk_g722::libg722::decoder::Decoder::new(ezk_g722::libg722::Bitrate::Mode1_64000, false, false);
        d.decode(&std::fs::read(f).unwrap())
    }).filter(|p| p.len() > 8000).take(100).collect();
    println!("{} prompts", prompts.len());
    for (noise, gain, level, rate, dtx) in [
        (0.0, 1.0, true, 24000, false), (0.0, 0.1, true, 24000, false), (0.0, 1.0, false, 24000, false), (0.0, 0.1, false, 24000, false),
        (20.0, 1.0, true, 24000, false), (20.0, 0.1, true, 24000, false), (20.0, 0.1, false, 24000, false), (20.0, 0.1, false, 32000, false), (20.0, 0.1, false, 16000, false),
        (100.0, 1.0, true, 24000, false), (100.0, 1.0, false, 24000, false), (100.0, 0.1, true, 24000, false), (20.0, 0.1, false, 24000, true), (20., 0.1, true, 64000, false), (20., 0.1, true, 96000, false),
    ].into_iter().filter(|c: &(f64, f64, bool, i32, bool)| std::env::var("FEW").is_err() || (c.3 == 24000 && c.2 && c.0 >= 20.)) {
        run(&prompts, noise, gain, level, rate, dtx);
    }
}

fn run(prompts: &[Vec<i16>], noise: f64, gain: f64, with_level: bool, rate: i32, dtx: bool) {
    let mut seed = 88172645463325252u64;
    let mut enc = Encoder::new(16000, Channels::Mono, Application::Voip).unwrap();
    enc.set_bitrate(Bitrate::Bits(rate)).unwrap();
    enc.set_dtx(dtx).unwrap();
    let mut pcm: Vec<i16> = vec![];
    let mut marks = vec![];
    for p in prompts {
        let gap = 2000 + rnd(&mut seed) % 58000;
        pcm.extend(std::iter::repeat_n(0i16, gap as usize * 16 / 4)); // a quarter, to save time
        let start = pcm.len();
        pcm.extend(p.iter().map(|s| (*s as f64 * gain) as i16));
        marks.push(start..pcm.len());
    }
    pcm.extend(vec![0; 16000 * 3]);
    let (mut b0, mut b1, mut b2) = (0f64, 0f64, 0f64);
    let clean = pcm.clone();
    if noise > 0. {
        for s in pcm.iter_mut() {
            let w = (rnd(&mut seed) as f64 / (1u64 << 53) as f64) * 2. - 1.;
            b0 = 0.99765 * b0 + w * 0.0990460; b1 = 0.96300 * b1 + w * 0.2965164; b2 = 0.57000 * b2 + w * 1.0526913;
            let pink = (b0 + b1 + b2 + w * 0.1848) * noise * 0.6;
            *s = (*s as f64 + pink).clamp(-32768., 32767.) as i16;
        }
    }
    println!("floor {:.1} dBov", db(&pcm[pcm.len() - 32000..]));
    let start = Instant::now();
    let mut pipe = Pipeline::new(VadSettings::default(), { let mut s = Settings::default(); if let Ok(v) = std::env::var("ONSET") { s.vad.onset = v.parse().unwrap() } if let Ok(v) = std::env::var("OFFSET") { s.vad.offset = v.parse().unwrap() } if let Ok(v) = std::env::var("RUN") { s.vad.onset_frames = v.parse().unwrap() } if let Ok(v) = std::env::var("MARGIN") { s.gate.margin_db = v.parse().unwrap() } s });
    let mut sent = vec![false; pcm.len() / 320 + 2];
    let mut came = vec![false; sent.len()];
    let mut base = 0u64; let mut spurts = 0; let mut cpu = Duration::ZERO; let mut seq = 0u16; let mut bytes_out = 0; let mut conts = 0;
    let id = ParticipantId::new("p").unwrap();
    for (n, c) in pcm.chunks_exact(320).enumerate() {
        let payload = enc.encode_vec(c, 1275).unwrap();
        if payload.len() <= 2 && dtx { continue; }
        let level = with_level.then(|| AudioLevel { dbov: (-db(c)).clamp(0., 127.).round() as u8, voice: false });
        let at = Duration::from_millis(n as u64 * 20);
        let t = Instant::now();
        while let Some(due) = pipe.poll_timeout() { if due > start + at { break } pipe.handle_timeout(due, Micros((due - start).as_micros() as u64)); }
        pipe.handle_packet(RtpPacket { participant: id.clone(), sequence: seq, timestamp: n as u32 * 960, level, payload: Bytes::from(payload), arrived: start + at, arrived_at: Micros(at.as_micros() as u64) }, start + at);
        seq = seq.wrapping_add(1); came[n] = true;
        let mut outs = vec![];
        while let Some(o) = pipe.poll_output() { outs.push(o) }
        cpu += t.elapsed();
        for o in outs { match o {
            Output::Start { captured, .. } => { base = captured.0 / 20000; spurts += 1; }
            Output::Item { offset, item: Item::Frame(b), .. } => { sent[(base + offset as u64) as usize] = true; bytes_out += b.len(); }
            Output::End { end, .. } => conts += end.continues as u32,
            _ => {}
        } }
    }
    let (mut onsets, mut missed, mut energetic, mut speech_frames) = (0, 0, 0, 0);
    for m in &marks {
        let frames: Vec<f64> = clean[m.clone()].chunks(160).map(db).collect();
        let peak = frames.iter().cloned().fold(-200., f64::max);
        let on: Vec<usize> = frames.iter().enumerate().filter(|(_, d)| **d > peak - 35. && **d > -75.).map(|(i, _)| (m.start + i * 160) / 320).collect();
        let first = (m.start + frames.iter().position(|d| *d > peak - 40. && *d > -75.).unwrap() * 160) / 320;
        if !(first..first + 5).all(|f| sent[f] || !came[f]) { onsets += 1; }
        let miss = on.iter().filter(|f| !sent[**f] && came[**f]).count();
        if miss > 0 && std::env::var("V").is_ok() { println!("  prompt at frame {} missed {} of {}", m.start / 320, miss, on.len()); }
        missed += miss; energetic += on.len();
        speech_frames += (m.end - m.start) / 320;
    }
    let t = pipe.totals();
    println!("noise {noise:>5} gain {gain:>4} level {with_level:>5} {rate} dtx {dtx:>5}: onsets lost {onsets}, loud 10 ms lost {missed}/{energetic}; in {} decoded {:.1}% forwarded {:.1}% (prompts {:.1}%) bytes out {:.1}%, spurts {spurts} continued {conts}, {:.1} us/packet", t.packets_in,
        100. * t.packets_decoded as f64 / t.packets_in as f64, 100. * t.packets_forwarded as f64 / t.packets_in as f64, 100. * speech_frames as f64 / (pcm.len() / 320) as f64, 100. * bytes_out as f64 / t.opus_bytes_in as f64, cpu.as_secs_f64() * 1e6 / t.packets_in as f64);
}
