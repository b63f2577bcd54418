#!/usr/bin/env python3
"""Write longbench/jieba/tables.bin.zst from the pip package jieba 0.42.1 (MIT).

    pip install jieba==0.42.1 zstandard
    python scripts/goldens/jieba_tables.py longbench/jieba/tables.bin.zst

Little-endian layout, read by longbench/jieba/tables.go:

    8 bytes   magic "jieba\\0\\0\\1"
    float64   weight of a character that is no word: log(1) - log(total)
    uint32    W, then W float64: the distinct word weights log(freq) - log(total)
    uint32    N, then N words in byte order: shared prefix length (1 byte, in
              bytes, with the word before), suffix length (1 byte), suffix,
              weight index (uint16)
    float64   4 start probabilities (states B E M S), 16 transitions [from][to]
    4 times   uint32 n, n uint16 code points ascending, n float64: emissions

Weights are stored, not frequencies: a word path is decided by comparing sums of
math.log values, and only the very same doubles break ties as Python does.
"""
import math
import struct
import sys

import zstandard
from jieba import finalseg, get_module_res

MIN_FLOAT = -3.14e100
STATES = "BEMS"


def main(path):
    freq = {}
    total = 0
    for line in get_module_res("dict.txt"):
        word, n = line.strip().decode("utf-8").split(" ")[:2]
        freq[word] = int(n)
        total += int(n)
    log_total = math.log(total)
    if min(freq.values()) <= 0:
        raise SystemExit("dict.txt has a word of frequency 0: the format has no room for it")

    out = [b"jieba\0\0\1", struct.pack("<d", math.log(1) - log_total)]
    distinct = sorted(set(freq.values()))
    index = {f: i for i, f in enumerate(distinct)}
    out.append(struct.pack("<I", len(distinct)))
    out += [struct.pack("<d", math.log(f) - log_total) for f in distinct]

    words = sorted((w.encode("utf-8"), f) for w, f in freq.items())
    out.append(struct.pack("<I", len(words)))
    before = b""
    for w, f in words:
        shared = 0
        while shared < min(len(before), len(w), 255) and before[shared] == w[shared]:
            shared += 1
        suffix = w[shared:]
        out.append(struct.pack("<BB", shared, len(suffix)) + suffix + struct.pack("<H", index[f]))
        before = w

    out += [struct.pack("<d", finalseg.start_P[s]) for s in STATES]
    for a in STATES:
        out += [struct.pack("<d", finalseg.trans_P[a].get(b, MIN_FLOAT)) for b in STATES]
    for s in STATES:
        # Only these characters ever reach the HMM (finalseg.re_han).
        emit = sorted((ord(c), p) for c, p in finalseg.emit_P[s].items() if "\u4e00" <= c <= "\u9fd5")
        out.append(struct.pack("<I", len(emit)))
        out.append(struct.pack("<%dH" % len(emit), *(c for c, _ in emit)))
        out.append(struct.pack("<%dd" % len(emit), *(p for _, p in emit)))

    raw = b"".join(out)
    packed = zstandard.ZstdCompressor(level=19).compress(raw)
    with open(path, "wb") as f:
        f.write(packed)
    print("%d words, %d weights, %d bytes raw, %d packed" % (len(words), len(distinct), len(raw), len(packed)))


if __name__ == "__main__":
    main(sys.argv[1])
