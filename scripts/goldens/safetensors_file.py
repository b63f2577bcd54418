"""Goldens for model/safetensors/testdata from the Python safetensors package:

python.safetensors  a file that it wrote, for the Go reader
python.json         what it reads back from that file
go.json             what it reads from go.safetensors, which the Go writer made
                    (go test ./model/safetensors -run PythonReads -update)

    pip install safetensors==0.8.0 numpy
    python scripts/goldens/safetensors_file.py
"""

import hashlib
import json
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parents[2] / "model/safetensors/testdata"
OUT.mkdir(exist_ok=True)
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
         "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL"}
rng = np.random.default_rng(11)


def describe(path):
    with safe_open(path, "np") as f:
        tensors = []
        for name in sorted(f.keys()):
            x = f.get_tensor(name)
            tensors.append({"name": name, "type": NAMES[x.dtype.name], "shape": list(x.shape),
                            "sha256": hashlib.sha256(x.tobytes()).hexdigest()})
        return {"metadata": f.metadata() or {}, "tensors": tensors}


tensors = {f"of.{kind}": rng.integers(0, 2, (2, 3)).astype(kind) for kind in NAMES}
tensors |= {"weight": rng.normal(size=(4, 8)).astype(np.float32), "scalar": np.array(2.5, np.float32), "none": np.zeros((0, 4), np.float16),
            "naïve \"name\"": np.arange(3, dtype=np.uint8)}
save_file(tensors, OUT / "python.safetensors", {"format": "np", "note": "línea\n<1>"})
(OUT / "python.json").write_text(json.dumps(describe(OUT / "python.safetensors"), indent=1) + "\n")
if (OUT / "go.safetensors").exists():
    (OUT / "go.json").write_text(json.dumps(describe(OUT / "go.safetensors"), indent=1) + "\n")
