"""Writes kernels/dtype/testdata/goldens.json: what the Python gguf package and
numpy make of random numbers in every format.

    pip install gguf==0.19.0 numpy
    python scripts/goldens/dtype.py
"""

import base64
import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

OUT = pathlib.Path(__file__).parents[2] / "kernels/dtype/testdata/goldens.json"
rng = np.random.default_rng(20241218)


def b64(a):
    return base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()


# Where the float16 scales lie in a block, so that most blocks get sane ones.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
golden = {"toF32": {}, "quantize": {}, "fromF32": {}}
np.seterr(all="ignore")

for name, scales in SCALES.items():
    length, size = gguf.GGML_QUANT_SIZES[Q[name]]
    raw = rng.integers(0, 256, (4 if length == 256 else 16, size), dtype=np.uint8)
    for row in raw[:-1]:  # the last block keeps random bits for a scale
        for at in scales:
            row[at:at + 2] = np.frombuffer(np.float16(rng.normal() * 0.02).tobytes(), np.uint8)
    golden["toF32"][name] = {"src": b64(raw), "want": b64(gguf.quants.dequantize(raw, Q[name]).astype("<f4"))}

edge16 = np.array([0, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7FFF], np.uint16)
words = np.concatenate([edge16, edge16 | 0x8000, rng.integers(0, 65536, 100).astype(np.uint16)])
golden["toF32"]["F16"] = {"src": b64(words), "want": b64(gguf.quants.dequantize(words.view(np.float16), Q.F16).astype("<f4"))}
golden["toF32"]["BF16"] = {"src": b64(words), "want": b64(gguf.quants.dequantize(words.view(np.uint8).reshape(1, -1), Q.BF16).astype("<f4"))}
raw = rng.integers(0, 256, 8 * 64, dtype=np.uint8)
for name, kind in {"F32": "f4", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8", "U8": "u1", "U16": "u2", "U32": "u4",
                   "U64": "u8", "BOOL": "b1"}.items():
    values = raw.view("<" + kind) if name != "BOOL" else raw % 3 > 0
    if name == "F64":
        values = np.concatenate([values, rng.normal(size=64)])
    golden["toF32"][name] = {"src": b64(values), "want": b64(values.astype("<f4"))}

x = np.concatenate([rng.normal(size=480), rng.normal(size=32) * 1e-7, np.zeros(32), np.round(rng.normal(size=64) * 4) / 8,
                    rng.normal(size=32) * 1e4, np.tile([3.0, -3.0], 16), np.tile([-3.0, 3.0], 16)]).astype("<f4")
for name in ["Q8_0", "Q4_0"]:
    golden["quantize"][name] = {"src": b64(x), "want": b64(gguf.quants.quantize(x, Q[name]))}

bits = np.concatenate([rng.integers(0, 2**32, 200), np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FFFFFFF, 0x7F7FFFFF,
                      0x3F808000, 0x3F818000, 0x3F808001, 0x33000000, 0x33000001, 0x477FEFFF, 0x477FF000, 0x387FFFFF, 0x38800000])])
values = np.concatenate([bits.astype("<u4").view("<f4"), rng.normal(size=100).astype("<f4"), (rng.normal(size=100) * 1e-6).astype("<f4"),
                         (rng.integers(0, 2048, 100) + 0.5).astype("<f4") * np.float32(2.0**-24)])
golden["fromF32"]["F16"] = {"src": b64(values), "want": b64(values.astype("<f2"))}
golden["fromF32"]["BF16"] = {"src": b64(values), "want": b64(gguf.quants.quantize(values, Q.BF16))}

OUT.parent.mkdir(exist_ok=True)
OUT.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
