"""Makes model/testdata/capture/NAME.safetensors: rows of a trace that
scripts/capture_transformers.py wrote from a real model, for the tests of
package model.

    python scripts/capture_transformers.py --model DIR --gguf smollm2-135m.gguf --context 1024 --positions tail \\
        --out TRACE configs/texts/calibration/prose-innocence.txt.zst
    python scripts/goldens/capture.py TRACE smollm2-135m

Tensors: tokens i32 [n], positions i32 [r], and for every layer l the rows of
those positions: layers.l.q bf16 [queryHeads, r, headDim], layers.l.k and .v
bf16 [kvHeads, r, headDim]. The metadata has the model's fingerprint.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

ROWS = 3


def main(trace, name):
    index = json.loads((pathlib.Path(trace) / "index.json").read_text())
    shard = load_file(pathlib.Path(trace) / index["shards"][0]["file"])
    kept = shard["positions"]
    rows = torch.linspace(0, len(kept) - 1, ROWS).long()  # of the queries
    at = kept[rows]
    out = {"tokens": shard["tokens"], "positions": at}
    for layer in index["captured"]:
        out[f"layers.{layer}.q"] = shard[f"layers.{layer}.q"][:, rows].contiguous()
        for part in "kv":
            out[f"layers.{layer}.{part}"] = shard[f"layers.{layer}.{part}"][:, at.long()].contiguous()
    target = pathlib.Path(__file__).parent.parent.parent / "model" / "testdata" / "capture"
    target.mkdir(exist_ok=True)
    save_file(out, target / f"{name}.safetensors", metadata={"fingerprint": index["model"]["fingerprint"]})


if __name__ == "__main__":
    main(*sys.argv[1:])
