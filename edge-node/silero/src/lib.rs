//! Silero VAD v6 (16 kHz) in plain Rust: how likely it is that somebody speaks, for each 32 ms.
//!
//! A network of 0.24 million weights by the Silero team (MIT, `model/LICENSE`; PyPI `silero-vad` 6.2.3; `model/export.py`
//! says how the files here were made and proves that the first layer is a Fourier transform). It differs from ONNX Runtime
//! by less than 2e-5, which a test shows, and needs none of it.
//!
//! ```
//! let mut ear = silero::Ear::new();
//! let probability = ear.hear(&[0; silero::BLOCK]);
//! assert!(probability < 0.1);
//! ```

mod kernel;

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use self::kernel::{Matrix, lstm, sigmoid};

/// Samples at 16 kHz that one probability is about: 32 ms.
pub const BLOCK: usize = 512;

/// Samples of the block before that stand in front of a block.
const CONTEXT: usize = 64;
/// Of a block with its context so much is mirrored at its end.
const MIRROR: usize = 64;
/// The spectrum's window, its step, and how many of them a block has.
const WINDOW: usize = 256;
const STEP: usize = 128;
const SPECTRA: usize = (CONTEXT + BLOCK + MIRROR - WINDOW) / STEP + 1;
/// Frequencies from 0 to 8 kHz.
const BINS: usize = WINDOW / 2 + 1;
/// Width of the memory.
const HIDDEN: usize = 128;
/// Each layer looks at three moments.
const TAPS: usize = 3;

static WEIGHTS: &[u8] = include_bytes!("../model/silero-v6-16k.f32");
static NETWORK: LazyLock<Network> = LazyLock::new(Network::load);

/// Blocks of silence, half a second, after which more change little.
const REST: usize = 16;
static RESTED: LazyLock<Ear> = LazyLock::new(|| {
    let mut ear = Ear::new();
    for _ in 0..REST {
        ear.hear(&[0; BLOCK]);
    }
    ear
});

/// One listener: 1.3 KiB of memory of what it heard. The network itself (1 MB) is there once for all.
#[derive(Clone)]
pub struct Ear {
    hidden: [f32; HIDDEN],
    cell: [f32; HIDDEN],
    context: [f32; CONTEXT],
}

impl Ear {
    /// An ear that has heard nothing, as Silero's own code begins. It may take a voice that speaks at once for the
    /// room's noise, and go on so for seconds.
    pub fn new() -> Self {
        Self { hidden: [0.0; HIDDEN], cell: [0.0; HIDDEN], context: [0.0; CONTEXT] }
    }

    /// An ear that has heard half a second of silence: for sound that may begin in the middle of a word.
    pub fn rested() -> Self {
        RESTED.clone()
    }

    /// The probability, 0 to 1, that somebody speaks in `block`, which follows the one before it.
    pub fn hear(&mut self, block: &[i16; BLOCK]) -> f32 {
        let mut sound = [0.0; CONTEXT + BLOCK + MIRROR];
        sound[..CONTEXT].copy_from_slice(&self.context);
        for (out, sample) in sound[CONTEXT..].iter_mut().zip(block) {
            *out = f32::from(*sample) / 32768.0;
        }
        let end = CONTEXT + BLOCK;
        self.context.copy_from_slice(&sound[end - CONTEXT..end]);
        for n in 0..MIRROR {
            sound[end + n] = sound[end - 2 - n];
        }
        self.remember(&NETWORK.encode(&sound));
        let output: f32 = NETWORK.output.iter().zip(&self.hidden).map(|(w, h)| w * h.max(0.0)).sum();
        sigmoid(output + NETWORK.output_bias)
    }

    fn remember(&mut self, heard: &[f32; HIDDEN]) {
        let mut input = [0.0; 2 * HIDDEN];
        input[..HIDDEN].copy_from_slice(heard);
        input[HIDDEN..].copy_from_slice(&self.hidden);
        let mut gates = [[0.0; HIDDEN]; 4];
        NETWORK.gates.apply(0, &input, gates.as_flattened_mut());
        lstm(&gates, &mut self.cell, &mut self.hidden);
    }
}

impl Default for Ear {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear").finish_non_exhaustive()
    }
}

struct Network {
    window: [f32; WINDOW],
    fourier: Arc<dyn RealToComplex<f32>>,
    layers: [Layer; 4],
    /// From what is heard and what is remembered to the four gates of the memory.
    gates: Matrix,
    output: Vec<f32>,
    output_bias: f32,
}

/// A convolution over three moments, followed by a rectifier.
struct Layer {
    matrix: Matrix,
    channels: usize,
    stride: usize,
}

impl Network {
    fn load() -> Self {
        let mut weights = WEIGHTS.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let mut take = |count: usize| weights.by_ref().take(count).collect::<Vec<f32>>();
        let layers = [(BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, HIDDEN, 1)].map(|(channels, outputs, stride)| {
            let (w, bias) = (take(outputs * channels * TAPS), take(outputs));
            let weight = |output, n| w[(output * channels + n % channels) * TAPS + n / channels];
            Layer { matrix: Matrix::new(bias, TAPS * channels, weight), channels, stride }
        });
        let (heard, remembered) = (take(4 * HIDDEN * HIDDEN), take(4 * HIDDEN * HIDDEN));
        let bias = take(4 * HIDDEN).iter().zip(take(4 * HIDDEN)).map(|(a, b)| a + b).collect();
        let gates = Matrix::new(bias, 2 * HIDDEN, |output, input| match input.checked_sub(HIDDEN) {
            None => heard[output * HIDDEN + input],
            Some(input) => remembered[output * HIDDEN + input],
        });
        let turn = std::f64::consts::TAU / WINDOW as f64;
        Self {
            window: std::array::from_fn(|n| (0.5 - 0.5 * (turn * n as f64).cos()) as f32),
            fourier: RealFftPlanner::new().plan_fft_forward(WINDOW),
            layers,
            gates,
            output: take(HIDDEN),
            output_bias: take(1)[0],
        }
    }

    fn encode(&self, sound: &[f32; CONTEXT + BLOCK + MIRROR]) -> [f32; HIDDEN] {
        let mut spectra = [0.0; SPECTRA * BINS];
        for (n, spectrum) in spectra.as_chunks_mut().0.iter_mut().enumerate() {
            self.spectrum(&sound[n * STEP..n * STEP + WINDOW], spectrum);
        }
        let (mut from, mut to) = ([0.0; SPECTRA * 128], [0.0; SPECTRA * 128]);
        let mut moments = self.layers[0].apply(&spectra, SPECTRA, &mut to);
        for layer in &self.layers[1..] {
            std::mem::swap(&mut from, &mut to);
            moments = layer.apply(&from, moments, &mut to);
        }
        std::array::from_fn(|n| to[n])
    }

    /// The amplitude at each frequency of one window of sound.
    fn spectrum(&self, sound: &[f32], out: &mut [f32; BINS]) {
        let mut windowed = [0.0; WINDOW];
        for ((out, sample), weight) in windowed.iter_mut().zip(sound).zip(&self.window) {
            *out = sample * weight;
        }
        let mut bins = [Complex::default(); BINS];
        let mut scratch = [Complex::default(); 2 * WINDOW];
        let scratch = &mut scratch[..self.fourier.get_scratch_len()];
        // It fails only where a length does not match its plan.
        let done = self.fourier.process_with_scratch(&mut windowed, &mut bins, scratch);
        debug_assert!(done.is_ok());
        for (out, bin) in out.iter_mut().zip(&bins) {
            *out = bin.norm_sqr().sqrt();
        }
    }
}

impl Layer {
    /// From `moments` moments of `input` to those returned, in `out`. Before the first and after the last is silence.
    fn apply(&self, input: &[f32], moments: usize, out: &mut [f32]) -> usize {
        let outputs = self.matrix.outputs();
        let count = (moments - 1) / self.stride + 1;
        for (n, out) in out.chunks_exact_mut(outputs).take(count).enumerate() {
            let centre = n * self.stride;
            let (first, end) = (centre.saturating_sub(1), (centre + 2).min(moments));
            let skipped = (first + 1 - centre) * self.channels;
            self.matrix.apply(skipped, &input[first * self.channels..end * self.channels], out);
            out.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> (Vec<[i16; BLOCK]>, Vec<f32>) {
        let (sound, probabilities) = (include_bytes!("../model/golden.s16"), include_bytes!("../model/golden.f32"));
        let samples: Vec<i16> = sound.as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
        let probabilities = probabilities.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (samples.as_chunks().0.to_vec(), probabilities)
    }

    #[test]
    fn every_weight_is_read() {
        let layers: usize = NETWORK.layers.iter().map(|l| l.matrix.outputs() * (l.channels * TAPS + 1)).sum();
        // Each gate has two biases, which are added up at once.
        let gates = 4 * HIDDEN * (2 * HIDDEN + 2);
        assert_eq!(WEIGHTS.len(), 4 * (layers + gates + HIDDEN + 1));
        assert_eq!(NETWORK.output.len(), HIDDEN);
    }

    #[test]
    fn it_hears_what_onnx_runtime_hears() {
        let (blocks, probabilities) = golden();
        assert_eq!(blocks.len(), probabilities.len());
        assert!(probabilities.iter().any(|p| *p > 0.9) && probabilities.iter().any(|p| *p < 0.1));
        let mut ear = Ear::new();
        for (n, (block, truth)) in blocks.iter().zip(&probabilities).enumerate() {
            let found = ear.hear(block);
            assert!((found - truth).abs() < 2e-5, "block {n}: {found}, not {truth}");
        }
    }

    #[test]
    fn a_rested_ear_knows_a_voice_that_speaks_at_once() {
        let voice = &golden().0[8..36];
        let mean = |mut ear: Ear| voice.iter().map(|block| ear.hear(block)).sum::<f32>() / voice.len() as f32;
        let (rested, new) = (mean(Ear::rested()), mean(Ear::new()));
        assert!(rested > 0.8 && new < 0.6, "{rested} {new}");
    }

    #[test]
    fn ears_do_not_share_what_they_heard() {
        let (blocks, probabilities) = golden();
        let (mut one, mut other) = (Ear::new(), Ear::default());
        for (n, block) in blocks.iter().enumerate() {
            other.hear(&blocks[blocks.len() - 1 - n]);
            assert!((one.hear(block) - probabilities[n]).abs() < 2e-5, "block {n}");
        }
    }

    #[test]
    fn the_loudest_and_the_strangest_sound_has_a_probability() {
        let mut ear = Ear::new();
        for n in 0..200usize {
            let block = std::array::from_fn(|i| if (i / (n % 7 + 1)) % 2 == 0 { i16::MAX } else { i16::MIN });
            assert!((0.0..=1.0).contains(&ear.hear(&block)));
        }
    }
}
