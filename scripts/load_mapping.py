#!/usr/bin/env python3
"""Read a learned mapping and compute codes, query weights and scores with torch.

    from load_mapping import Mapping
    m = Mapping("mapping.safetensors")
    codes = m.codes(layer, keys)              # int32 words [key heads, n, words]
    weights, scales = m.weights(layer, q)     # int8 [T, query maps, bits]
    scores = m.scores(layer, weights, codes)  # int32 [T, selection heads, n]

The bits equal those of the Go reference device: z is summed in float64 in the
same order (products of a row in ascending order, then the bias; MLP, then the
linear path; then the feedback of earlier bits).

    load_mapping.py mapping.safetensors                  # what it holds
    load_mapping.py mapping.safetensors --check FILE     # compare with codes, weights and scores in FILE
"""
import argparse
import json
import sys

import torch
from safetensors import safe_open


class Mapping:
    def __init__(self, path):
        with safe_open(path, framework="pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != "hashattn-mapping" or meta.get("version") not in ("1", "2"):
                raise ValueError(f"{path}: format {meta.get('format')!r} version {meta.get('version')!r}, want hashattn-mapping 1 or 2")
            self.config = json.loads(meta["config"])
            self.tensors = {name: f.get_tensor(name) for name in f.keys()}
        model = self.config["model"]
        self.query_heads, self.kv_heads, self.head_dim = model["queryHeads"], model["kvHeads"], model["headDim"]
        self.bits = self.config["bits"]

    def selection_heads(self, layer):
        per_head = self.config["selection"] == "query-head" or layer in self.config.get("perHeadLayers", [])
        return self.query_heads if per_head else self.kv_heads

    def _affine(self, name, x):
        """x [rows, heads, in] -> [rows, heads, out], products in ascending order."""
        w, b = self.tensors[name + ".weight"].double(), self.tensors[name + ".bias"].double()
        y = torch.zeros(x.shape[0], *b.shape, dtype=torch.float64)
        for i in range(w.shape[2]):
            y += x[:, :, i, None] * w[None, :, :, i]
        return y + b

    def _map(self, name, x):
        """The map phi of x [rows, heads, in] -> z [rows, heads, bits]."""
        z = torch.zeros(x.shape[0], x.shape[1], self.bits, dtype=torch.float64)
        y, i = x, 0
        while f"{name}.{i}.weight" in self.tensors:
            if i > 0:
                y = y / (1 + torch.exp(-y))
            y = self._affine(f"{name}.{i}", y)
            i += 1
        if i > 0:
            z = y.clone()
        if name + ".skip.weight" in self.tensors:
            z += self._affine(name + ".skip", x)
        feedback = self.tensors.get(name + ".feedback")
        if feedback is not None:
            block = self.config["blockBits"]
            for b in range(self.bits):
                for j in range(b // block * block):
                    f = feedback[:, b, j].double()
                    z[:, :, b] += torch.where(z[:, :, j] > 0, f, -f)
        return z

    def codes(self, layer, keys):
        """Codes of keys [kv heads, n, head dim] as int32 words, bit 0 first."""
        heads = self.tensors[f"layers.{layer}.key.{self._first(layer, 'key')}.bias"].shape[0]
        x = keys.double().repeat_interleave(heads // self.kv_heads, 0).transpose(0, 1)
        bit = (self._map(f"layers.{layer}.key", x) > 0).transpose(0, 1).long()
        words = torch.zeros(heads, bit.shape[1], (self.bits + 31) // 32, dtype=torch.int64)
        for i in range(self.bits):
            words[:, :, i // 32] |= bit[:, :, i] << (i % 32)
        return torch.where(words >= 1 << 31, words - (1 << 32), words).int()

    def _first(self, layer, part):
        return "0" if f"layers.{layer}.{part}.0.weight" in self.tensors else "skip"

    def weights(self, layer, q):
        """Integer weights of queries [T, query heads, head dim] and what a weight of 1 stands for."""
        heads = self.tensors[f"layers.{layer}.query.{self._first(layer, 'query')}.bias"].shape[0]
        z = self._map(f"layers.{layer}.query", q.double().reshape(q.shape[0], heads, -1))
        if self.config["queryBits"] == 1:
            return torch.where(z > 0, 1, -1).to(torch.int8), torch.ones(z.shape[:2])
        limit = 2 ** (self.config["queryBits"] - 1) - 1
        top = z.abs().amax(-1, keepdim=True)
        w = torch.where(top > 0, torch.round(z / top * limit), torch.zeros_like(z))
        return w.to(torch.int8), (top[..., 0] / limit).float()

    def scores(self, layer, weights, codes):
        """Sum over bits of weight * bit (bit in +-1), summed over the maps of a selection head."""
        bit = torch.stack([(codes[:, :, i // 32] >> (i % 32)) & 1 for i in range(self.bits)], -1) * 2 - 1
        maps = weights.shape[1]
        key = torch.arange(maps) * codes.shape[0] // maps
        s = torch.einsum("tmb,mnb->tmn", weights.double(), bit[key].double()).int()
        return s.view(s.shape[0], self.selection_heads(layer), -1, s.shape[2]).sum(2, dtype=torch.int32)


def check(path, golden):
    """Compare with what another implementation computed; returns the number of differing values."""
    m, different = Mapping(path), 0
    with safe_open(golden, framework="pt") as f:
        for name in sorted(f.keys()):
            if not name.endswith(".keys"):
                continue
            layer = int(name.split(".")[1])
            get = lambda part: f.get_tensor(f"layers.{layer}.{part}")
            codes = m.codes(layer, get("keys"))
            weights, scales = m.weights(layer, get("queries"))
            found = {"codes": codes, "weights": weights, "scales": scales, "scores": m.scores(layer, weights, codes)}
            for part, ours in found.items():
                want = get(part)
                bad = int((ours != want).sum()) if ours.shape == want.shape else want.numel()
                different += bad
                print(f"layer {layer} {part}: {want.numel()} values, {bad} differ")
    return different


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("mapping")
    ap.add_argument("--check", metavar="FILE", help="safetensors file with keys, queries, codes, weights, scales and scores")
    args = ap.parse_args()
    if args.check:
        sys.exit(1 if check(args.mapping, args.check) else 0)
    m = Mapping(args.mapping)
    print(json.dumps(m.config, indent=1))
    for name, t in sorted(m.tensors.items()):
        print(name, list(t.shape))


if __name__ == "__main__":
    main()
