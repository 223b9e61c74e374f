#!/usr/bin/env python3
"""Silero VAD v6 (16 kHz) from its ONNX file: the weights as this crate reads them, and what ONNX Runtime makes of a test sound.

    pip download --no-deps silero-vad==6.2.3 && unzip silero_vad-6.2.3-py3-none-any.whl
    python3 export.py silero_vad/data/silero_vad_16k_op15.onnx .

Writes `silero-v6-16k.f32` (974,340 bytes: little-endian f32 in the order of TENSORS), `golden.s16` (16 kHz mono) and
`golden.f32` (a probability for each 512 samples of it). Needs numpy, onnx and onnxruntime.
"""

import hashlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
TENSORS = [f"encoder.{i}.reparam_conv.{what}" for i in range(4) for what in ("weight", "bias")]
TENSORS += [f"decoder.rnn.{what}" for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
TENSORS += ["decoder.decoder.2.weight", "decoder.decoder.2.bias"]
RATE, BLOCK, CONTEXT = 16_000, 512, 64


def weights(model):
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    basis = tensors["model.stft.forward_basis_buffer"][:, 0]
    angle = 2 * np.pi * np.outer(np.arange(129), np.arange(256)) / 256
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    # The crate has an FFT in its place.
    assert np.abs(basis - np.concatenate([np.cos(angle), -np.sin(angle)]) * hann).max() < 1e-4
    return b"".join(tensors[f"model.{name}"].astype("<f4").tobytes() for name in TENSORS)


def voice(seconds, pitch, loudness):
    """Glottal pulses through resonances that glide from vowel to vowel."""
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240)]
    out, state, phase, glottis = [], np.zeros((3, 2)), 0.0, 0.0
    for n in range(int(seconds * RATE)):
        t = n / RATE
        phase += pitch * (1 + 0.12 * np.sin(4.4 * t) + 0.04 * np.sin(31 * t)) / RATE
        glottis = 0.95 * glottis + (0.05 if phase >= 1 else 0)
        phase %= 1
        way, sample = t * 6, 0.0
        for i, gain in enumerate((1.0, 0.6, 0.3)):
            start, stop = vowels[int(way) % 5][i], vowels[(int(way) + 1) % 5][i]
            radius = np.exp(-np.pi * 80 / RATE)
            turn = 2 * np.pi * (start + (stop - start) * (way % 1)) / RATE
            y = glottis + 2 * radius * np.cos(turn) * state[i][0] - radius * radius * state[i][1]
            state[i] = (y, state[i][0])
            sample += gain * y
        out.append(sample * (0.01 + 0.99 * np.sin(15.7 * t) ** 2))
    out = np.array(out)
    return out / np.abs(out).max() * loudness


def sound():
    rng = np.random.default_rng(7)
    parts = [np.zeros(RATE // 4), voice(0.9, 200, 0.3), np.zeros(RATE // 4), voice(0.8, 110, 0.02)]
    parts += [0.1 * rng.standard_normal(RATE // 4), voice(0.6, 150, 1.0)]
    pcm = np.concatenate(parts) + 0.0005 * rng.standard_normal(sum(map(len, parts)))
    pcm = np.clip(pcm * 32767, -32768, 32767).astype("<i2")
    return pcm[: len(pcm) // BLOCK * BLOCK]


def listen(path, pcm):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    state, context, out = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32), []
    for block in (pcm.astype(np.float32) / 32768).reshape(-1, BLOCK):
        feed = {"input": np.concatenate([context, block])[None], "state": state, "sr": np.array(RATE, np.int64)}
        probability, state = session.run(None, feed)
        context = block[-CONTEXT:]
        out.append(probability[0, 0])
    return np.array(out, "<f4")


def main():
    path, folder = sys.argv[1:]
    found = hashlib.sha256(open(path, "rb").read()).hexdigest()
    if found != SHA256:
        sys.exit(f"{path}: SHA-256 {found}, not {SHA256}")
    pcm = sound()
    files = {"silero-v6-16k.f32": weights(onnx.load(path)), "golden.s16": pcm.tobytes()}
    files["golden.f32"] = listen(path, pcm).tobytes()
    for name, data in files.items():
        with open(f"{folder}/{name}", "wb") as out:
            out.write(data)


main()
