#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use mesh::clock::Micros;
use opus::Decoder as Reference;
use proptest::prelude::*;

use super::*;
use crate::{signals, toc::packet_duration};

const MS: Duration = Duration::from_millis(1);

/// Speech of 20 ms packets at 32 kb/s.
fn packets(ms: usize) -> Vec<Bytes> {
    let mut encoder = Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(32_000)).unwrap();
    let pcm = signals::talk(ms, 8000.0);
    pcm.chunks_exact(320).map(|c| encoder.encode_vec(c, 1275).unwrap().into()).collect()
}

/// A spurt of these; those that are `lost` are gaps.
fn spurt(packets: &[Bytes], lost: &[usize]) -> Vec<Output> {
    let (spurt, stages) = (SpurtNo(3), EdgeStages::default());
    let item = |(n, packet): (usize, &Bytes)| {
        let item = if lost.contains(&n) { Item::Gap } else { Item::Frame(packet.clone()) };
        Output::Item { spurt, offset: n as u32, item, stages }
    };
    let end = Output::End { spurt, end: SpurtEnd::of(packets.len() as u32) };
    let items = packets.iter().enumerate().map(item);
    std::iter::once(Output::Start { spurt, captured: Micros(5) }).chain(items).chain([end]).collect()
}

/// What comes out where the step before each item is what `step` says; the transcoder's own count is checked.
fn run(outputs: &[Output], step: impl Fn(usize) -> Step) -> Vec<Output> {
    let (mut transcoder, mut out) = (Transcoder::default(), vec![]);
    for (n, output) in outputs.iter().enumerate() {
        transcoder.push(output.clone(), step(n), &mut |output| out.push(output));
    }
    assert_eq!(transcoder.frames(), frames(&out).len() as u64);
    out
}

fn frames(outputs: &[Output]) -> Vec<Bytes> {
    let frame = |output: &Output| match output {
        Output::Item { item: Item::Frame(packet), .. } => Some(packet.clone()),
        _ => None,
    };
    outputs.iter().filter_map(frame).collect()
}

fn end(outputs: &[Output]) -> SpurtEnd {
    let Some(Output::End { end, .. }) = outputs.last() else { panic!("no end") };
    *end
}

/// How long it plays: a gap as long as the packet before it.
fn length(outputs: &[Output]) -> Duration {
    let (mut slot, mut sum) = (Duration::ZERO, Duration::ZERO);
    for output in outputs {
        let Output::Item { item, .. } = output else { continue };
        if let Item::Frame(packet) = item {
            slot = packet_duration(packet).unwrap();
        }
        sum += slot;
    }
    sum
}

/// As the core hears it.
fn hear(outputs: &[Output]) -> Vec<i16> {
    let mut decoder = Reference::new(SAMPLE_RATE, Channels::Mono).unwrap();
    let (mut heard, mut pcm, mut slot) = (vec![], [0i16; 1920], 320);
    for output in outputs {
        let Output::Item { item, .. } = output else { continue };
        slot = match item {
            Item::Frame(packet) => decoder.decode(packet, &mut pcm, false).unwrap(),
            _ => decoder.decode(&[], &mut pcm[..slot], false).unwrap(),
        };
        heard.extend_from_slice(&pcm[..slot]);
    }
    heard
}

/// How alike two sounds are in how loud they are from 20 ms to 20 ms, from -1 to 1, at the best shift of up to 40 ms.
fn alike(a: &[i16], b: &[i16]) -> f64 {
    let loud = |pcm: &[i16]| -> Vec<f64> {
        pcm.chunks_exact(320).map(|c| c.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt()).collect()
    };
    let shifted = |by: usize| correlation(&loud(a), &loud(&b[by.min(b.len())..]));
    (0..640).step_by(40).map(shifted).fold(-1.0, f64::max)
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n as f64;
    let (ma, mb) = (mean(a), mean(b));
    let dot = |x: &[f64], mx: f64, y: &[f64], my: f64| x.iter().zip(y).map(|(p, q)| (p - mx) * (q - my)).sum::<f64>();
    dot(a, ma, b, mb) / (dot(a, ma, a, ma) * dot(b, mb, b, mb)).sqrt()
}

#[test]
fn each_step_takes_the_bytes_it_says_and_sounds_like_what_came() {
    let outputs = spurt(&packets(6000), &[]);
    let came = hear(&outputs);
    for step in [Step::Opus24, Step::Opus16, Step::Opus12, Step::FinalOnly] {
        let out = run(&outputs, |_| step);
        let (bits, most) = (frames(&out).iter().map(Bytes::len).sum::<usize>() * 8 / 6, step.bitrate().unwrap());
        let alike = alike(&came, &hear(&out));
        println!("{}: {bits} b/s, alike {alike:.3}", step.name());
        assert!(bits < most as usize * 11 / 10, "{} at {bits} b/s", step.name());
        assert!(alike > 0.95, "{}: {alike}", step.name());
        assert!(frames(&out).iter().all(|p| packet_duration(p) == Some(MS * 60)));
        assert_eq!((frames(&out).len(), end(&out).items, end(&out).step), (100, 100, step));
    }
}

#[test]
fn what_is_left_at_the_end_goes_out_as_a_shorter_frame() {
    for (count, last) in [(1, 20), (2, 40), (3, 60), (4, 20), (149, 40)] {
        let out = run(&spurt(&packets(count * 20), &[]), |_| Step::Opus16);
        assert_eq!(length(&out), MS * 20 * count as u32);
        assert_eq!(packet_duration(frames(&out).last().unwrap()), Some(MS * last), "{count} packets");
    }
}

#[test]
fn a_lost_packet_is_concealed_and_leaves_no_hole() {
    let packets = packets(3000);
    let lost: Vec<usize> = (10..150).step_by(13).chain(60..75).chain(145..150).collect();
    let out = run(&spurt(&packets, &lost), |_| Step::Opus24);
    assert!(out.iter().all(|o| !matches!(o, Output::Item { item: Item::Gap, .. })));
    assert_eq!(length(&out), MS * 3000);
}

#[test]
fn in_the_middle_of_a_word_the_voice_goes_on_as_it_did() {
    let outputs = spurt(&packets(6000), &[]);
    let out = run(&outputs, |n| Step::ALL[n / 50 % 5]);
    assert_eq!((length(&out), end(&out).step), (length(&outputs), Step::FinalOnly));
    let alike = alike(&hear(&outputs), &hear(&out));
    assert!(alike > 0.95, "{alike}");
}

#[test]
fn packets_of_sixty_and_of_two_and_a_half_milliseconds_keep_their_time() {
    for (samples, count) in [(40, 101), (160, 31), (960, 33)] {
        let mut encoder = Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Audio).unwrap();
        let pcm = signals::talk(2000, 8000.0);
        let chunks = pcm.chunks_exact(samples).take(count);
        let packets: Vec<Bytes> = chunks.map(|c| encoder.encode_vec(c, 1275).unwrap().into()).collect();
        let outputs = spurt(&packets, &[]);
        let out = run(&outputs, |_| Step::Opus24);
        let (came, left) = (length(&outputs), length(&out));
        assert!(left >= came && left - came < MS * 20, "{came:?} became {left:?}");
    }
}

#[test]
fn what_is_no_opus_is_silence_and_no_panic() {
    let noise: Vec<Bytes> = (0..60u8).map(|n| vec![n.wrapping_mul(37); usize::from(n)].into()).collect();
    let out = run(&spurt(&noise, &[]), |n| Step::ALL[n % 5]);
    assert_eq!(end(&out).items as usize, out.len() - 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn at_the_top_everything_stays_as_it_is(count in 1usize..80, lost in proptest::collection::vec(1usize..80, 0..10)) {
        let outputs = spurt(&packets(count * 20), &lost);
        prop_assert_eq!(run(&outputs, |_| Step::PassThrough), outputs);
    }

    #[test]
    fn however_the_steps_change_time_is_kept_and_items_are_counted(
        count in 1usize..150,
        lost in proptest::collection::vec(1usize..150, 0..20),
        changes in proptest::collection::vec(0usize..5, 8),
        every in 1usize..40,
    ) {
        let outputs = spurt(&packets(count * 20), &lost);
        let out = run(&outputs, |n| Step::ALL[changes[n / every % changes.len()]]);
        prop_assert_eq!(length(&out), length(&outputs));
        prop_assert_eq!(end(&out).items as usize, out.len() - 2);
        let offsets: Vec<u32> = out.iter().filter_map(|o| match o {
            Output::Item { offset, .. } => Some(*offset),
            _ => None,
        }).collect();
        prop_assert_eq!(offsets, (0..end(&out).items).collect::<Vec<_>>());
    }
}
