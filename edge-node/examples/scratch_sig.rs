//! scratch
#![allow(clippy::all, clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use std::f64::consts::TAU;
const V: [[f64; 3]; 5] = [[730., 1090., 2440.], [270., 2290., 3010.], [530., 1840., 2480.], [570., 840., 2410.], [300., 870., 2240.]];
fn talk(ms: usize, peak: f64, tilt: f64, rate: f64, f0: f64, pow: i32, vr: f64) -> Vec<i16> {
    let mut r = [[0f64; 2]; 3]; let (mut ph, mut lp) = (0f64, 0f64); let mut v = vec![]; let mut seed = 1u64;
    for n in 0..ms * 16 {
        let t = n as f64 / 16000.;
        ph += (f0 * (1. + 0.12 * (TAU * 0.7 * t).sin() + 0.04 * (TAU * 5. * t).sin())) / 16000.;
        let p = if ph >= 1. { 1. } else { 0. }; ph %= 1.;
        seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17;
        let breath = ((seed >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * 0.02;
        lp = tilt * lp + (1. - tilt) * (p + breath);
        let syl = 0.01 + 0.99 * (TAU * rate * t).sin().abs().powi(pow);
        let k = t * vr; let (a, b, w) = (V[k as usize % 5], V[(k as usize + 1) % 5], k.fract());
        let mut s = 0.;
        for i in 0..3 { let f = a[i] * (1. - w) + b[i] * w; let rad = (-TAU / 2. * (60. + 30. * i as f64) / 16000f64).exp();
            let o = lp + 2. * rad * (TAU * f / 16000.).cos() * r[i][0] - rad * rad * r[i][1]; r[i] = [o, r[i][0]]; s += [1., 0.6, 0.3][i] * o; }
        v.push(s * syl);
    }
    let m = v.iter().fold(1e-9f64, |m, s| m.max(s.abs())); v.iter().map(|s| (s / m * peak) as i16).collect()
}
fn main() {
    for tilt in [0.0, 0.8, 0.95] { for rate in [1.5, 2.0, 2.5] { for f0 in [120., 200.] { for pow in [1, 2] { for vr in [2., 4., 6.] {
        let (mut on, mut min, mut flag) = (vec![], vec![], vec![]);
        for peak in [8000., 800.] {
            let pcm = [vec![0; 16000], talk(5000, peak, tilt, rate, f0, pow, vr)].concat();
            let mut d = Box::new(earshot::Detector::default());
            let s: Vec<f32> = pcm.chunks_exact(256).map(|c| d.predict_i16(c)).collect();
            let sp = &s[62..];
            on.push(sp.windows(2).position(|w| w[0] >= 0.5 && w[1] >= 0.5).unwrap_or(999) * 16);
            let mut q = 0; let mut worst = 0; for x in sp { if *x < 0.4 { q += 1; worst = worst.max(q) } else { q = 0 } } min.push(worst * 16);
            let mut e = opus::Encoder::new(16000, opus::Channels::Mono, opus::Application::Voip).unwrap(); e.set_bitrate(opus::Bitrate::Bits(24000)).unwrap();
            let f: Vec<bool> = pcm.chunks_exact(320).map(|c| edge_node::toc::OpusPacket::parse(&e.encode_vec(c, 1275).unwrap()).unwrap().voice() == Some(true)).collect();
            flag.push(f[50..].iter().filter(|x| **x).count() * 100 / (f.len() - 50));
        }
        println!("tilt {tilt} rate {rate} f0 {f0} pow {pow} vr {vr}: onset {on:?} longest quiet {min:?} flag% {flag:?}");
    }}}}}
}
