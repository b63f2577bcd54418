"""Writes model/gguf/testdata/python.gguf with the Python gguf package, and
python.json with what that package reads back from it. The keys are added in
alphabetical order, so that the Go writer must give the same bytes.

    pip install gguf==0.19.0 numpy
    python scripts/goldens/gguf_file.py
"""

import json
import pathlib

import gguf
import numpy as np
from gguf import GGUFValueType as V

OUT = pathlib.Path(__file__).parents[2] / "model/gguf/testdata"
OUT.mkdir(exist_ok=True)
rng = np.random.default_rng(7)

w = gguf.GGUFWriter(OUT / "python.gguf", "llama")  # adds general.architecture
w.add_string("general.name", "tiny “golden” ✓")
w.add_array("test.arrays", [[1, 2], [3]])
w.add_bool("test.bool", True)
w.add_array("test.bools", [True, False, True])
for kind, value in {"float32": 1.5, "float64": 0.1, "int16": -300, "int32": -70000, "int64": -2**40, "int8": -5,
                    "uint16": 65535, "uint32": 4294967295, "uint64": 2**64 - 1, "uint8": 255}.items():
    w.add_key_value("test." + kind, value, V[kind.upper()])
w.add_array("tokenizer.ggml.scores", [0.0, -1.5, float(np.float32(-1000.1)), 3.0])
w.add_array("tokenizer.ggml.token_type", [1, 2, 3, -1])
w.add_array("tokenizer.ggml.tokens", ["<s>", "", "Ġa", "日本"])

w.add_tensor("vector", rng.normal(size=5).astype(np.float32))
w.add_tensor("matrix.f16", rng.normal(size=(3, 7)).astype(np.float16))
w.add_tensor("cube", rng.integers(-9, 9, (2, 3, 4)).astype(np.int32))
for name, kind in {"matrix.q8_0": "Q8_0", "matrix.q4_0": "Q4_0", "matrix.bf16": "BF16"}.items():
    kind = gguf.GGMLQuantizationType[kind]
    w.add_tensor(name, gguf.quants.quantize(rng.normal(size=(2, 64)).astype(np.float32), kind), raw_dtype=kind)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

tensors = []
for t in gguf.GGUFReader(OUT / "python.gguf").tensors:
    data = t.data if t.tensor_type.name == "I32" else gguf.quants.dequantize(t.data, t.tensor_type)
    tensors.append({"name": t.name, "type": t.tensor_type.name, "shape": [int(d) for d in reversed(t.shape)],
                    "values": [float(x) for x in np.asarray(data, np.float32).ravel()]})
(OUT / "python.json").write_text(json.dumps(tensors, indent=1) + "\n")
