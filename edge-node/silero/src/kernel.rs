//! The two loops that all the time goes to, compiled once for each kind of processor and chosen when first run.

use multiversion::{multiversion, target::target_cfg_f};

/// Outputs worked on at once: eight AVX registers of sums, enough to hide how long an addition takes.
const LANES: usize = 64;

/// The weights from one input to [`LANES`] outputs.
#[derive(Clone)]
#[repr(C, align(64))]
struct Row([f32; LANES]);

/// A matrix and a bias, laid out so that each weight is read once and in order: by panels of [`LANES`] outputs, in
/// each by input.
pub(crate) struct Matrix {
    rows: Vec<Row>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Matrix {
    /// The matrix whose entry from `input` to `output` is `weight(output, input)`; its bias has a multiple of
    /// [`LANES`] outputs.
    pub(crate) fn new(bias: Vec<f32>, inputs: usize, weight: impl Fn(usize, usize) -> f32) -> Self {
        debug_assert!(bias.len().is_multiple_of(LANES));
        let row = |panel: usize, input| Row(std::array::from_fn(|lane| weight(panel * LANES + lane, input)));
        let rows = (0..bias.len() / LANES).flat_map(|panel| (0..inputs).map(move |input| (panel, input)));
        Self { rows: rows.map(|(panel, input)| row(panel, input)).collect(), bias, inputs }
    }

    /// How many outputs it has.
    pub(crate) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// `out` = matrix x `input` + bias, where `input` stands for the inputs from `first` on and all others are zero.
    pub(crate) fn apply(&self, first: usize, input: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&self.bias);
        for (panel, out) in self.rows.chunks_exact(self.inputs).zip(out.as_chunks_mut().0) {
            add(&panel[first..first + input.len()], input, out);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn add(rows: &[Row], input: &[f32], out: &mut [f32; LANES]) {
    let mut sums = *out;
    for (row, x) in rows.iter().zip(input) {
        for (sum, weight) in sums.iter_mut().zip(&row.0) {
            // Without the instruction `mul_add` is a function call, and slow.
            *sum = if target_cfg_f!(target_feature = "fma") { weight.mul_add(*x, *sum) } else { *sum + weight * x };
        }
    }
    *out = sums;
}

/// One step of an LSTM from its `gates` (input, forget, cell, output) before their functions: new `cell` and `hidden`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
pub(crate) fn lstm<const N: usize>(gates: &[[f32; N]; 4], cell: &mut [f32; N], hidden: &mut [f32; N]) {
    for n in 0..N {
        let (input, forget, output) = (sigmoid(gates[0][n]), sigmoid(gates[1][n]), sigmoid(gates[3][n]));
        cell[n] = forget * cell[n] + input * tanh(gates[2][n]);
        hidden[n] = output * tanh(cell[n]);
    }
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// e to the `x` within 2e-7 of itself, in steps that a compiler turns into vectors (the C library's is a call each):
/// two to a whole number, times a polynomial over half an octave to either side (Cephes, `expf.c`).
#[inline(always)]
#[allow(clippy::excessive_precision, reason = "as published")]
fn exp(x: f32) -> f32 {
    /// Adding it leaves no room for a fraction.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let whole = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let rest = x - whole * 0.693_359_375 + whole * 2.121_944_40e-4;
    let mut sum = 1.987_569_15e-4;
    for factor in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 0.5] {
        sum = sum * rest + factor;
    }
    let power = f32::from_bits(((whole as i32 + 127) as u32) << 23);
    (sum * rest * rest + rest + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_its_last_bits() {
        for n in -8700..8800 {
            let x = n as f32 / 100.0;
            let truth = f64::from(x).exp();
            let error = (f64::from(exp(x)) - truth).abs() / truth;
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-37 && sigmoid(f32::INFINITY) == 1.0);
    }

    #[test]
    fn a_part_of_the_inputs_is_multiplied_with_its_own_weights() {
        let weight = |output: usize, input: usize| (output * 7 + input * 3) as f32 / 100.0;
        let matrix = Matrix::new((0..128).map(|n| n as f32).collect(), 5, weight);
        let mut out = [0.0; 128];
        matrix.apply(2, &[1.0, -2.0], &mut out);
        for (n, out) in out.iter().enumerate() {
            let truth = n as f32 + weight(n, 2) - 2.0 * weight(n, 3);
            assert!((out - truth).abs() < 1e-4, "output {n}: {out}, not {truth}");
        }
    }
}
