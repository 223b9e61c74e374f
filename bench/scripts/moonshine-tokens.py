#!/usr/bin/env python3
"""moonshine-tokens.py TOKENIZER TOKENS: what Moonshine's tokenizer.bin holds, as sherpa-onnx reads it: `base64 number` a line.

The file is one token after the other, each a length and so many bytes. A length below 128 takes one byte, else two: the first
less 128, plus 128 times the second.
"""

import base64
import sys


def tokens(data):
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = length - 128 + 128 * data[at], at + 1
        if at + length > len(data):
            sys.exit(f"token {length} bytes long at {at}: the file ends before")
        yield data[at : at + length]
        at += length


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file, open(sys.argv[2], "w", encoding="ascii") as out:
        for number, token in enumerate(tokens(file.read())):
            out.write(f"{base64.b64encode(token).decode('ascii')} {number}\n")


main()
