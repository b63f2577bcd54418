"""Times one layer's dense attention of a decode step in PyTorch and writes the
rows of `hashattn bench`, so that `hashattn report` sets both side by side.

    pip install torch
    python scripts/peers/attention.py [--context 8192,32768,131072] [--batch 1,8] [--out runs/torch/bench.json]

Three formulations on the same random bf16 data: cuDNN and FlashAttention-2
behind scaled_dot_product_attention, and gpt-fast's (keys and values repeated
for the group, masked, compiled). Each is compared with float32 before it is
timed; times are medians of CUDA graph replays, the L2 overwritten before each.
"""
import argparse
import datetime
import hashlib
import json
import os

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

trash = None  # overwrites the L2


def seconds(run, runs):
    """Sorted seconds of graph replays with a cold L2."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    out = []
    for i in range(runs + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        trash.fill_(i)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        out.append(start.elapsed_time(end) / 1e3)
    return sorted(out[3:])


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--context", default="8192,32768,131072")
    a.add_argument("--batch", default="1,8")
    a.add_argument("--heads", default="32,8,128", help="query heads, KV heads, head dimension")
    a.add_argument("--peers", default="cudnn,flash,gpt-fast")
    a.add_argument("--runs", type=int, default=31)
    a.add_argument("--out", default="runs/torch/bench.json")
    a = a.parse_args()
    global trash
    torch.manual_seed(0)
    trash = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    heads, kv, dim = (int(x) for x in a.heads.split(","))
    rows = []
    for batch in (int(b) for b in a.batch.split(",")):
        for context in (int(c) for c in a.context.split(",")):
            q = torch.randn(batch, heads, 1, dim, device="cuda", dtype=torch.bfloat16)
            k = torch.randn(batch, kv, context, dim, device="cuda", dtype=torch.bfloat16)
            v = torch.randn(batch, kv, context, dim, device="cuda", dtype=torch.bfloat16)
            mask = torch.ones(1, 1, 1, context, device="cuda", dtype=torch.bool)

            def sdpa(backend):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

            def gptfast(q, k, v, mask):
                k, v = k.repeat_interleave(heads // kv, dim=1), v.repeat_interleave(heads // kv, dim=1)
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0)

            peers = {"cudnn": lambda: sdpa(SDPBackend.CUDNN_ATTENTION), "flash": lambda: sdpa(SDPBackend.FLASH_ATTENTION)}
            # gpt-fast repeats K and V in memory: heads/kv times the cache
            repeated = 4 * batch * heads * context * dim
            if "gpt-fast" in a.peers.split(",") and repeated < torch.cuda.mem_get_info()[0] // 2:
                compiled = torch.compile(gptfast, dynamic=False)
                peers["gpt-fast"] = lambda: compiled(q, k, v, mask)
            one = torch.softmax(q[0, :, 0].float().view(kv, -1, dim) @ k[0].float().transpose(1, 2) * dim**-0.5, -1) @ v[0].float()
            for name in a.peers.split(","):
                if name not in peers:
                    print(f"{name}: left out at {batch} x {context}, its copies of K and V take {repeated >> 20} MiB")
                    continue
                out = peers[name]()
                error = ((out[0, :, 0].float().view(kv, -1, dim) - one).norm() / one.norm()).item()
                if not error < 1e-2:
                    raise SystemExit(f"{name} at {batch} x {context} differs from float32 by {error:.2g}")
                us = [s * 1e6 for s in seconds(peers[name], a.runs)]
                pick = lambda share: us[int(share * (len(us) - 1) + 0.5)]
                rows.append({
                    "part": "attention", "device": "cuda", "shape": f"{heads}q/{kv}kv d{dim} bf16", "batch": batch, "context": context,
                    "selector": "dense", "median_us": pick(0.5), "p10_us": pick(0.1), "p90_us": pick(0.9), "runs": len(us), "density": 1,
                    "bytes": 4 * batch * kv * context * dim, "checked": True, "note": f"torch {name}"})
                print(f"{name:9} {batch} x {context:6}: {pick(0.5):8.1f} us  ({pick(0.1):.1f} to {pick(0.9):.1f}), error {error:.1e}", flush=True)
            del q, k, v, mask, one
            torch.cuda.empty_cache()
    config = {"heads": a.heads, "contexts": a.context, "batches": a.batch, "runs": a.runs}
    raw = json.dumps(config, separators=(",", ":"))
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    result = {
        "kind": "bench", "format": 1, "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "config": config, "configHash": hashlib.sha256(raw.encode()).hexdigest(), "model": {"name": ""},
        "device": {"kind": "cuda", "name": torch.cuda.get_device_name()}, "versions": versions, "rows": rows}
    os.makedirs(os.path.dirname(os.path.abspath(a.out)), exist_ok=True)
    with open(a.out, "w") as f:
        json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
