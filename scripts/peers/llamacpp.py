"""Times llama.cpp on a GGUF file and writes the rows of `hashattn bench`, so
that `hashattn report` sets both side by side.

    pip install llama-cpp-python
    python scripts/peers/llamacpp.py FILE.gguf [--context 2048,4096] [--threads 2] [--out runs/llamacpp/bench.json]

Prefill is one evaluation of CONTEXT tokens from an empty cache; decode is the
median of single-token evaluations behind them.
"""
import argparse
import datetime
import hashlib
import json
import os
import statistics
import time

import llama_cpp
from llama_cpp import Llama


def row(part, name, context, seconds, per_run):
    us = sorted(s * 1e6 for s in seconds)
    pick = lambda share: us[int(share * (len(us) - 1) + 0.5)]
    return {"part": part, "device": "cpu", "shape": name, "batch": 1, "context": context, "selector": "dense",
            "median_us": pick(0.5), "p10_us": pick(0.1), "p90_us": pick(0.9), "runs": len(us), "density": 1,
            "tokens_per_second": per_run / (pick(0.5) / 1e6), "checked": True, "note": "llama.cpp"}


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("model")
    a.add_argument("--context", default="2048,4096")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--runs", type=int, default=3, help="prefills of each context")
    a.add_argument("--steps", type=int, default=32, help="decode steps behind each context")
    a.add_argument("--text", help="a text to prefill; tokens counted up if not given")
    a.add_argument("--out", default="runs/llamacpp/bench.json")
    a = a.parse_args()
    contexts = [int(c) for c in a.context.split(",")]
    llm = Llama(a.model, n_ctx=max(contexts) + a.steps + 1, n_threads=a.threads, n_threads_batch=a.threads, n_batch=512, verbose=False,
                logits_all=False)
    name = llm.metadata.get("general.name", os.path.basename(a.model))
    if a.text:
        with open(a.text, "rb") as f:
            ids = llm.tokenize(f.read(), add_bos=False)
    else:
        ids = [100 + i % 5000 for i in range(max(contexts) + a.steps)]
    rows = []
    for context in contexts:
        seconds = []
        for _ in range(a.runs):
            llm.reset()
            start = time.perf_counter()
            llm.eval(ids[:context])
            seconds.append(time.perf_counter() - start)
        rows.append(row("prefill", name, context, seconds, context))
        seconds = []
        for i in range(a.steps):
            start = time.perf_counter()
            llm.eval(ids[context + i:context + i + 1])
            seconds.append(time.perf_counter() - start)
        rows.append(row("decode", name, context, seconds[1:], 1))
    config = {"model": os.path.basename(a.model), "contexts": contexts, "threads": a.threads}
    raw = json.dumps(config, separators=(",", ":"))
    out = {"kind": "bench", "format": 1, "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
           "config": config, "configHash": hashlib.sha256(raw.encode()).hexdigest(), "model": {"name": name},
           "device": {"kind": "cpu", "name": f"llama.cpp (llama-cpp-python {llama_cpp.__version__}), {a.threads} threads", "threads": a.threads},
           "versions": {"llama-cpp-python": llama_cpp.__version__}, "rows": rows}
    os.makedirs(os.path.dirname(os.path.abspath(a.out)), exist_ok=True)
    with open(a.out, "w") as f:
        json.dump(out, f, indent=1)
    for r in rows:
        print(f"{r['part']:8} {r['context']:6} tokens  {r['tokens_per_second']:8.1f} tokens/s  (median of {r['runs']})")


if __name__ == "__main__":
    main()
